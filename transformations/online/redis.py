"""Rows of Feast's Redis store (one server, Sentinel or cluster), merged optimistically.

Rows are read, the new ones merged, and a script in the server writes each only if it still is what
was read; the others are merged again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from typing import Any

from feast import FeatureView, RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.feast_compat.redis import client_of, row_fields, row_key
from activity_embeddings.transformations.online.any_store import AnyRows
from activity_embeddings.transformations.online.base import Given, Row, RowMerge, Stored
from activity_embeddings.transformations.times import to_us
from activity_embeddings.transformations.wording import counted

ROWS_AT_ONCE = 1_000
"""Rows read and written together: fewer rows between read and write are fewer to merge again."""
ROUNDS = 100
"""How often a row is merged again before giving up. Every round that one writer loses, another
one has won, so that only a broken store or clock gets here."""

_WRITE_IF_UNCHANGED = """
local count = tonumber(ARGV[1])
local fields, pairs_to_set = {}, {}
for i = 1, count do
    fields[i] = ARGV[2 + i]
    pairs_to_set[2 * i - 1] = ARGV[2 + i]
    pairs_to_set[2 * i] = ARGV[2 + 2 * count + i]
end
local stored = redis.call('HMGET', KEYS[1], unpack(fields))
for i = 1, count do
    local seen = stored[i] and ('=' .. stored[i]) or ''
    if seen ~= ARGV[2 + count + i] then
        return 0
    end
end
redis.call('HSET', KEYS[1], unpack(pairs_to_set))
if ARGV[2] ~= '' then
    redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return 1
"""
"""KEYS: the row. ARGV: number of fields, seconds to live or '', the fields, what was read of each
('' where it was missing, '=' and its bytes otherwise), what to write to each."""


class RedisRows(AnyRows):
    """A `RowStore` of Feast's Redis store."""

    def write(self, view: FeatureView, rows: Sequence[Row]) -> None:
        """See `RowStore.write`.

        Unless `skip_dedup` is set, Feast's own write passes over rows that are not newer than the
        stored ones. A snapshot that was made again, or a model that was taken back to an earlier
        version, would then not show.
        """
        if getattr(self.config.online_store, "skip_dedup", False):
            super().write(view, rows)
        else:
            self.update(view, [key for key, *_ in rows], rows, _Replace())

    def delete(self, rows: Sequence[tuple[FeatureView, Sequence[EntityKey]]]) -> int:
        """See `RowStore.delete`; other views' features of the same members stay."""
        client = client_of(self.config, self._store)
        with client.pipeline(transaction=False) as pipe:
            for view, keys in rows:
                fields = row_fields(self.config, view)
                for key in keys:
                    pipe.hdel(row_key(self.config, key), *fields)
            return sum(bool(count) for count in pipe.execute())

    def update(
        self,
        view: FeatureView,
        keys: Sequence[EntityKey],
        given: Sequence[Given],
        merge: RowMerge[Given],
    ) -> None:
        """See `RowStore.update`."""
        rows = _ViewRows(self.config, client_of(self.config, self._store), view)
        for start in range(0, len(keys), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            rows.update(keys[part], given[part], merge)


class _Replace:
    """A `RowMerge` of rows that replace the stored ones."""

    decided_by = None

    def needs(self, given: Row, value: Value) -> bool:
        return True

    def merge(self, given: Sequence[Row], stored: Sequence[Stored]) -> Sequence[Row]:
        return given


class _Values(Mapping[str, Value]):
    """Values of a row as they lie in Redis; parsed when asked for, which most never are."""

    def __init__(self, fields: Mapping[str, bytes | None]) -> None:
        self._fields = fields

    def __getitem__(self, feature: str) -> Value:
        return Value.FromString(self._fields[feature] or b"")

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


class _ViewRows:
    """The rows of one view; `fields` are its features' and, last, the event time's."""

    def __init__(self, config: RepoConfig, client: Any, view: FeatureView) -> None:
        self._config, self._client, self._view = config, client, view
        self._features = [feature.name for feature in view.features]
        self._fields = row_fields(config, view)
        self._ttl = config.online_store.key_ttl_seconds or ""

    def update(
        self, keys: Sequence[EntityKey], given: Sequence[Given], merge: RowMerge[Given]
    ) -> None:
        """Merge rows until each was written as it was read."""
        row_keys = [row_key(self._config, key) for key in keys]
        left = list(range(len(keys)))
        for attempt in range(ROUNDS):
            read = self._read([row_keys[i] for i in left])
            rows = merge.merge([given[i] for i in left], [self._stored(fields) for fields in read])
            changes = [
                (i, fields, row)
                for i, fields, row in zip(left, read, rows, strict=True)
                if row is not None
            ]
            won = self._write([(row_keys[i], fields, row) for i, fields, row in changes])
            left = [i for (i, _, _), done in zip(changes, won, strict=True) if not done]
            if not left:
                return
            # Writers who met should not meet again in step.
            time.sleep(random.uniform(0, 0.001 * min(attempt, 20)))
        raise InvalidInput(
            f"{self._view.name} (Redis): expected to write a row within {ROUNDS} attempts. "
            f"Received: {counted(len(left), 'row')} that others change all the time. Everything "
            "else is written; do the same again for the rest, which counts nothing twice"
        )

    def _read(self, keys: Sequence[bytes]) -> list[list[bytes | None]]:
        with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(key, self._fields)
            return pipe.execute()

    def _stored(self, fields: Sequence[bytes | None]) -> Stored:
        moment = fields[-1]
        if moment is None:
            return None, None
        time_of = Timestamp.FromString(moment).ToDatetime(UTC)
        return time_of, _Values(dict(zip(self._features, fields[:-1], strict=True)))

    def _write(self, changes: Sequence[tuple[bytes, Sequence[bytes | None], Row]]) -> list[bool]:
        """Write each row that still holds the fields that were read; return which did."""
        if not changes:
            return []
        with self._client.pipeline(transaction=False) as pipe:
            for key, fields, (_, values, moment, _) in changes:
                stamp = Timestamp()
                stamp.FromMicroseconds(to_us(moment))
                read = [b"" if field is None else b"=" + field for field in fields]
                new = [values[feature].SerializeToString() for feature in self._features]
                arguments = [len(fields), self._ttl, *self._fields, *read, *new]
                # By its text and name: redis-py's pipelines for clusters know no other way.
                arguments.append(stamp.SerializeToString())
                pipe.execute_command("EVAL", _WRITE_IF_UNCHANGED, 1, key, *arguments)
            return [bool(done) for done in pipe.execute()]
