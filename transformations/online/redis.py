"""Rows of Feast's Redis store (one server, Sentinel or cluster), merged optimistically.

Rows are read, the new ones merged, and a script in the server writes each only if it still is what
was read; the others are merged again. The rows of a batch need not be read: another script refuses
to replace one of a later event time, and only these go that way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.feast_compat.redis import (
    client_of,
    row_fields,
    row_key,
    row_key_suffix,
)
from activity_embeddings.transformations.online.base import Given, KeepMerge, Row, RowMerge, Stored
from activity_embeddings.transformations.online.bulk_store import BulkRows
from activity_embeddings.transformations.online.byte_columns import (
    data_of,
    joined,
    lengths,
    offsets_of,
    written,
)
from activity_embeddings.transformations.online.encoding import row_bytes
from activity_embeddings.transformations.times import to_us
from activity_embeddings.transformations.wording import counted

COMMANDS_AT_ONCE = 500
"""Commands of a block; one block is sent while the server works on another."""
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


_WRITE_UNLESS_LATER = """
local function time_of(stamp)
    local numbers, at = {0, 0}, 1
    while at <= #stamp do
        local field, number, unit = math.floor(stamp:byte(at) / 8), 0, 1
        repeat
            at = at + 1
            number = number + stamp:byte(at) % 128 * unit
            unit = unit * 128
        until stamp:byte(at) < 128
        numbers[field] = number
        at = at + 1
    end
    return numbers[1], numbers[2]
end
local stored = redis.call('HGET', KEYS[1], ARGV[2])
if stored and stored ~= ARGV[3] then
    local seconds, nanos = time_of(stored)
    local new_seconds, new_nanos = time_of(ARGV[3])
    if seconds > new_seconds or (seconds == new_seconds and nanos > new_nanos)
            or new_seconds >= 2^53 then
        return 0
    end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
if ARGV[1] ~= '' then
    redis.call('EXPIRE', KEYS[1], ARGV[1])
end
return 1
"""
"""KEYS: the row. ARGV: seconds to live or '', the field of the event time and that time, then each
other field and what to write to it. A time is a protobuf `Timestamp`: its fields 1 and 2 are
varints, of 64 bits where a time is before 1970, which a number of Lua does not hold exactly."""


class RedisRows(BulkRows):
    """A `RowStore` of Feast's Redis store."""

    remote = True
    feast_store = "feast.infra.online_stores.redis.RedisOnlineStore"
    at_once = 1_000  # fewer rows between read and write are fewer to merge again

    def write(self, view: FeatureView, rows: Sequence[Row]) -> None:
        """See `RowStore.write`.

        Unless `skip_dedup` is set, Feast's own write passes over rows that are not newer than the
        stored ones. A snapshot that was made again, or a model that was taken back to an earlier
        version, would then not show.
        """
        fields, ttl = row_fields(self.config, view), self.config.online_store.key_ttl_seconds
        with client_of(self.config, self._store).pipeline(transaction=False) as pipe:
            for row in rows:
                key = row_key(self.config, row[0])
                pipe.hset(key, mapping=dict(zip(fields, _contents(view, row), strict=True)))
                if ttl:
                    pipe.expire(key, ttl)
            pipe.execute()

    def delete(self, rows: Sequence[tuple[FeatureView, Sequence[EntityKey]]]) -> int:
        """See `RowStore.delete`; other views' features of the same members stay."""
        client = client_of(self.config, self._store)
        with client.pipeline(transaction=False) as pipe:
            for view, keys in rows:
                fields = row_fields(self.config, view)
                for key in keys:
                    pipe.hdel(row_key(self.config, key), *fields)
            return sum(bool(count) for count in pipe.execute())

    def _merge(
        self,
        view: FeatureView,
        keys: Sequence[EntityKey],
        given: Sequence[Given],
        merge: RowMerge[Given],
    ) -> None:
        rows = _ViewRows(self.config, client_of(self.config, self._store), view)
        rows.update(keys, given, merge)

    def _knows_layout(self, view: FeatureView) -> bool:
        # In a cluster, redis-py's pipeline finds the node of each row.
        return self.config.online_store.redis_type != "redis_cluster"

    def _put(self, view: FeatureView, batch: pa.RecordBatch, keep: KeepMerge | None) -> np.ndarray:
        client, rows = client_of(self.config, self._store), row_bytes(view, batch)
        *fields, time_field = row_fields(self.config, view)
        key = joined(rows.keys, row_key_suffix(self.config))
        cells: list[bytes | pa.BinaryArray] = [time_field, _stamps(rows.event_times)]
        for field, feature in zip(fields, rows.features.values(), strict=True):
            cells += [field, feature.values]
        ttl = b"%d" % self.config.online_store.key_ttl_seconds if self._expires else b""
        if keep is None:
            commands = _commands(b"HSET", key, *cells)
            if self._expires:
                commands = joined(commands, _commands(b"EXPIRE", key, ttl))
            _sent(client, commands, 1 + self._expires)
            return np.zeros(batch.num_rows, bool)
        script = client.script_load(_WRITE_UNLESS_LATER).encode()
        replies = _sent(client, _commands(b"EVALSHA", script, b"1", key, ttl, *cells), 1)
        # A server that took another's place, or was told to, may have forgotten the script.
        return np.array([reply != 1 for reply in replies])

    @property
    def _expires(self) -> bool:
        return bool(self.config.online_store.key_ttl_seconds)


def _commands(*words: bytes | pa.BinaryArray) -> pa.BinaryArray:
    """Return a command a row, of these words, as they are sent to Redis."""
    parts: list[bytes | pa.BinaryArray] = [b"*%d\r\n" % len(words)]
    for word in words:
        if isinstance(word, bytes):
            parts.append(b"$%d\r\n%b\r\n" % (len(word), word))
        else:
            parts += [written(lengths(word), lambda size: b"$%d\r\n" % size), word, b"\r\n"]
    return joined(*parts)


def _stamps(times: np.ndarray) -> pa.BinaryArray:
    """Return microseconds as serialised `Timestamp`s."""

    def stamp(microseconds: int) -> bytes:
        made = Timestamp()
        made.FromMicroseconds(microseconds)
        return made.SerializeToString()

    return written(times, stamp)


def _sent(client: Any, commands: pa.BinaryArray, replies: int) -> list[Any]:
    """Send commands, each with some replies, and return all of these.

    On a connection of the client, which has logged in and knows its server, and again on the next
    where it breaks, as redis-py's own pipelines.

    Raises
    ------
    ResponseError
        The server refuses a command, for another reason than that it does not know a script.
    """
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        return connection.retry.call_with_retry(
            lambda: _stream(connection, commands, replies), lambda _: connection.disconnect()
        )
    except BaseException:
        connection.disconnect()  # replies may be under way, which nobody would read
        raise
    finally:
        pool.release(connection)


def _stream(connection: Any, commands: pa.BinaryArray, replies: int) -> list[Any]:
    """Send blocks of commands, each while the server works on the one before."""
    from redis.exceptions import NoScriptError, ResponseError  # of an extra

    offsets, data = offsets_of(commands), data_of(commands)
    found: list[Any] = []
    refused: list[Exception] = []

    def read(count: int) -> None:
        for _ in range(count):
            try:
                found.append(connection.read_response())
            except NoScriptError:
                found.append(None)
            except ResponseError as error:
                refused.append(error)

    awaited = 0
    for start in range(0, len(commands), COMMANDS_AT_ONCE):
        stop = min(start + COMMANDS_AT_ONCE, len(commands))
        connection.send_packed_command([data[offsets[start] : offsets[stop]]])
        read(awaited)
        awaited = (stop - start) * replies
    read(awaited)
    if refused:
        raise refused[0]
    return found


def _contents(view: FeatureView, row: Row) -> list[bytes]:
    """Return what a row holds in its `row_fields`."""
    _, values, moment, _ = row
    stamp = Timestamp()
    stamp.FromMicroseconds(to_us(moment))
    features = [values[feature.name].SerializeToString() for feature in view.features]
    return [*features, stamp.SerializeToString()]


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
            for key, fields, row in changes:
                read = [b"" if field is None else b"=" + field for field in fields]
                new = _contents(self._view, row)
                arguments = [len(fields), self._ttl, *self._fields, *read, *new]
                # By its text and name: redis-py's pipelines for clusters know no other way.
                pipe.execute_command("EVAL", _WRITE_IF_UNCHANGED, 1, key, *arguments)
            return [bool(done) for done in pipe.execute()]
