"""Read, compute and write online rows so that writers who meet lose nothing of each other's.

Feast's online stores write a row whole, whatever was there. Whoever adds to a row must read it
first, and another writer may come in between. How that is kept out depends on the store:

- Redis (one server, Sentinel or cluster): optimistic. Rows are read, the new ones computed, and a
  script in the server writes each only if it still is what was read; the others are computed again.
- sqlite: a lock file beside the database, held from the read to the write. Any number of processes
  of one machine.
- any other store: read, compute, write. Of two writers who meet, the last one wins: have one
  writer a member, as by partitioning a stream by member.
"""

from __future__ import annotations

import fcntl
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import (
    _mmh3,
    _redis_key,
    compute_table_id,
    compute_versioned_name,
)
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.sqlite import (
    SqliteOnlineStore,
    SqliteOnlineStoreConfig,
    _quote_id,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import make_tzaware
from google.protobuf.timestamp_pb2 import Timestamp

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.wording import counted

Row: TypeAlias = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
"""Key, values by feature, event time and created time: what Feast's online stores write."""

Stored: TypeAlias = tuple[datetime | None, Mapping[str, Value] | None]
"""Event time and values of a row; None and None where there is none. Feast's sqlite store keeps
whole seconds of the time."""

Compute: TypeAlias = Callable[[Sequence[int], Sequence[Stored]], Sequence[Row | None]]
"""Takes positions in `keys` and what is stored there; returns the rows to write, None for one that
should stay as it is. Called again for rows that another writer changed in between."""


class Needs(NamedTuple):
    """Says which stored rows matter to a `Compute`, so that the others need not be read whole."""

    feature: str
    """A feature that every row has."""
    test: Callable[[int, Value], bool]
    """Takes a position in `keys` and the stored value of the feature."""


ROWS_AT_ONCE = 10_000
"""Rows read and written together: bounds how long others wait, and sqlite's query parameters."""
REDIS_ROWS_AT_ONCE = 1_000
"""The same for Redis, where fewer rows between read and write are fewer to compute again."""
ROUNDS = 100
"""How often a row is computed again before giving up. Every round that one writer loses, another
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
"""KEYS: the row. ARGV: how many fields, seconds to live or '', the fields, what was read of each
('' where it was missing, '=' and its bytes where it was there), what to write to each."""


def update_rows(
    config: RepoConfig,
    store: OnlineStore,
    view: FeatureView,
    keys: Sequence[EntityKey],
    compute: Compute,
    *,
    needs: Needs | None = None,
) -> None:
    """Replace online rows by what is computed from them.

    Parameters
    ----------
    config, store : as Feast hands them to an engine.
    view : whose rows. A row that `compute` returns should hold every feature of it.
    keys : distinct keys of the rows.
    compute : makes the new rows; see `Compute`. It should not depend on earlier calls.
    needs : a row that it does not pass may be given to `compute` as if there were none.

    Raises
    ------
    InvalidInput
        Other writers changed rows in each of many rounds (Redis). Those that did not keep changing
        are written.
    """
    if config.online_store.type == "redis":
        _RedisRows(config, store, view).update(keys, compute)
        return
    for start in range(0, len(keys), ROWS_AT_ONCE):
        part = range(start, min(start + ROWS_AT_ONCE, len(keys)))
        with _locked(config):
            stored = _read_needed(config, store, view, keys, part, needs)
            rows = [row for row in compute(part, stored) if row is not None]
            if rows:
                store.online_write_batch(config, view, rows, None)


def read_rows(
    config: RepoConfig,
    store: OnlineStore,
    view: FeatureView,
    keys: Sequence[EntityKey],
    features: Sequence[str] | None = None,
) -> list[Stored]:
    """Read rows; where there is none, say so for every store alike.

    Parameters
    ----------
    config, store, view, keys : as in `update_rows`.
    features : which, default all.
    """
    wanted = list(features or [feature.name for feature in view.features])
    found: list[Stored] = []
    for start in range(0, len(keys), ROWS_AT_ONCE):
        part = list(keys[start : start + ROWS_AT_ONCE])
        # A list of its own: Feast's Redis store adds to the one it is given.
        for moment, values in store.online_read(config, view, part, [*wanted]):
            # Feast's Redis store answers a missing row with values that are not set, as of 1970.
            there = values is not None and any(v.WhichOneof("val") for v in values.values())
            found.append((moment, values) if there else (None, None))
    return found


def _read_needed(
    config: RepoConfig,
    store: Any,
    view: FeatureView,
    keys: Sequence[EntityKey],
    part: range,
    needs: Needs | None,
) -> list[Stored]:
    """Read rows; of those that are not needed, in sqlite, only the one feature that says so.

    Feast reads and parses every feature of a row there, which takes half as long as writing it.
    """
    if needs is None or not isinstance(config.online_store, SqliteOnlineStoreConfig):
        return read_rows(config, store, view, [keys[i] for i in part])
    version = config.entity_key_serialization_version
    table = compute_table_id(
        config.project, view, config.registry.enable_online_feature_view_versioning
    )
    position = {serialize_entity_key(keys[i], version): i for i in part}
    found = store._get_conn(config).execute(
        f"SELECT entity_key, value FROM {_quote_id(table)} "
        f"WHERE feature_name = ? AND entity_key IN ({','.join('?' * len(position))})",
        [needs.feature, *position],
    )
    needed = [
        position[key] for key, value in found if needs.test(position[key], Value.FromString(value))
    ]
    stored: list[Stored] = [(None, None)] * len(part)
    for i, row in zip(
        needed, read_rows(config, store, view, [keys[i] for i in needed]), strict=True
    ):
        stored[i - part.start] = row
    return stored


def entity_keys(view: FeatureView, ids: pa.Array) -> list[EntityKey]:
    """Return ids, int64 or string, as the keys of rows of a view."""
    (join_key,) = view.join_keys
    if pa.types.is_integer(ids.type):
        values = [Value(int64_val=each) for each in ids.to_pylist()]
    else:
        values = [Value(string_val=each) for each in ids.to_pylist()]
    return [EntityKey(join_keys=[join_key], entity_values=[value]) for value in values]


@contextmanager
def _locked(config: RepoConfig) -> Iterator[None]:
    """Keep other writers of this machine out while the body runs; the lock dies with its process.

    For a store that is not sqlite, this does nothing.
    """
    if not isinstance(config.online_store, SqliteOnlineStoreConfig):
        yield
        return
    # The database itself: those who reach it by another name take the same lock.
    database = Path(SqliteOnlineStore._get_db_path(config)).resolve()
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f"{database.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _RedisValues(Mapping[str, Value]):
    """Values of a row as they lie in Redis; parsed when asked for, which most never are."""

    def __init__(self, fields: Mapping[str, bytes | None]) -> None:
        self._fields = fields

    def __getitem__(self, feature: str) -> Value:
        return Value.FromString(self._fields[feature] or b"")

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


class _RedisRows:
    """The rows of one view in Redis, in the layout that Feast documents.

    A key is a hash: `_ts:<view>` holds the event time, and a hash of `<view>:<feature>` the value
    of each feature.
    """

    def __init__(self, config: RepoConfig, store: Any, view: FeatureView) -> None:
        name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
        self._config, self._view = config, view
        self._client = store._get_client(config.online_store)
        self._features = [feature.name for feature in view.features]
        self._fields: list[bytes] = [_mmh3(f"{name}:{feature}") for feature in self._features]
        self._fields.append(f"_ts:{name}".encode())
        self._ttl = config.online_store.key_ttl_seconds or ""

    def update(self, keys: Sequence[EntityKey], compute: Compute) -> None:
        """See `update_rows`."""
        for start in range(0, len(keys), REDIS_ROWS_AT_ONCE):
            part = range(start, min(start + REDIS_ROWS_AT_ONCE, len(keys)))
            self._update(part, {i: self._key(keys[i]) for i in part}, compute)

    def _key(self, key: EntityKey) -> bytes:
        return _redis_key(self._config.project, key, self._config.entity_key_serialization_version)

    def _update(self, part: Sequence[int], keys: Mapping[int, bytes], compute: Compute) -> None:
        left = list(part)
        for attempt in range(ROUNDS):
            read = self._read([keys[i] for i in left])
            rows = compute(left, [self._stored(fields) for fields in read])
            changes = [
                (i, fields, row)
                for i, fields, row in zip(left, read, rows, strict=True)
                if row is not None
            ]
            won = self._write([(keys[i], fields, row) for i, fields, row in changes])
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
        time_of = make_tzaware(Timestamp.FromString(moment).ToDatetime())
        return time_of, _RedisValues(dict(zip(self._features, fields[:-1], strict=True)))

    def _write(self, changes: Sequence[tuple[bytes, Sequence[bytes | None], Row]]) -> list[bool]:
        """Write each row that still holds the fields that were read; return which did."""
        if not changes:
            return []
        with self._client.pipeline(transaction=False) as pipe:
            for key, fields, (_, values, moment, _) in changes:
                stamp = Timestamp()
                stamp.FromDatetime(make_tzaware(moment))
                read = [b"" if field is None else b"=" + field for field in fields]
                new = [values[feature].SerializeToString() for feature in self._features]
                arguments = [len(fields), self._ttl, *self._fields, *read, *new]
                # By its text and name: redis-py's pipelines for clusters know no other way.
                arguments.append(stamp.SerializeToString())
                pipe.execute_command("EVAL", _WRITE_IF_UNCHANGED, 1, key, *arguments)
            return [bool(done) for done in pipe.execute()]
