"""What is published as bytes is what Feast would have written, and keeps what live rows hold."""

import json
import signal
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, FileSource
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Int64List, Value
from feast.type_map import python_values_to_proto_values
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
    Uuid,
)
from feast.value_type import ValueType
from redis.connection import Connection
from redis.exceptions import ResponseError

from activity_embeddings.transformations.online import redis
from activity_embeddings.transformations.online.any_store import AnyRows
from activity_embeddings.transformations.online.protobuf import entity_keys
from activity_embeddings.transformations.online.sqlite import SqliteRows
from activity_embeddings.transformations.online.stores import row_store
from support import killed_push, processes
from support.online_stores import PLAIN, THREADED, bytes_of, emptied, feast_store, redis_client
from support.redis_server import redis_sentinel

STAMPS = pa.timestamp("us", "UTC")
NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
VECTORS = pa.list_(pa.float32())
FEATURES = {
    "vector": (Array(Float32), VECTORS, [[1.5] * 64, [0.0] * 64, [-2.0] * 64]),
    'o\'dd "näme"': (Array(Float32), VECTORS, [[1.0], None, []]),
    "doubles": (Array(Float64), pa.list_(pa.float64()), [[0.1], [], [1e300, float("inf")]]),
    "items": (Array(Int64), pa.list_(pa.int64()), [[1, 2**40, -1], [], None]),
    "actions": (Array(Int32), pa.list_(pa.int32()), [[1, -2], [3], []]),
    "tags": (Array(String), pa.list_(pa.string()), [["né", ""], [], None]),
    "flags": (Array(Bool), pa.list_(pa.bool_()), [[True, False], [], None]),
    "seen": (Array(UnixTimestamp), pa.list_(STAMPS), [[NOON, NOON + SECOND], [], None]),
    "count": (Int64, pa.int64(), [0, None, -(2**63)]),
    "level": (Int32, pa.int32(), [0, 5, None]),
    "score": (Float64, pa.float64(), [0.1, float("nan"), None]),
    "ratio": (Float32, pa.float32(), [0.1, 0.0, None]),
    "open": (Bool, pa.bool_(), [True, False, None]),
    "title": (String, pa.string(), ["é'x", "", None]),
    "blob": (Bytes, pa.binary(), [b"\0\xff", None, b""]),
    "id": (Uuid, pa.string(), ["f81d4fae-7dec-11d0-a765-00a0c91e6bf6", None, None]),
    "last": (UnixTimestamp, STAMPS, [NOON + SECOND / 2, None, NOON]),
}


def view_of(key=Int64, name="view", created=True):
    kind = ValueType.INT64 if key == Int64 else ValueType.STRING
    return FeatureView(
        name=name,
        entities=[Entity(name="member", join_keys=["member_id"], value_type=kind)],
        schema=[
            Field(name="member_id", dtype=key),
            *(Field(name=name, dtype=dtype) for name, (dtype, *_) in FEATURES.items()),
        ],
        source=FileSource(path="unused.parquet", timestamp_field="event_timestamp"),
        ttl=timedelta(0),
    )


def batch_of(ids, *, turned=0, day=0, created=True, without=()):
    """Three rows with every type of value and times of their own; others if `turned`."""
    columns = {"member_id": pa.array(ids)}
    for name, (_, arrow, values) in FEATURES.items():
        if name not in without:
            columns[name] = pa.array(values[turned:] + values[:turned], arrow)
    times = [NOON + timedelta(days=day, microseconds=i) for i in (0, 1, 1_500_000)]
    columns["event_timestamp"] = pa.array(times, STAMPS)
    if created:
        columns["created_timestamp"] = pa.array([each + SECOND for each in times], STAMPS)
    return pa.RecordBatch.from_pydict(columns)


def as_feast_takes_them(view, batch):
    """The rows of a batch, converted by Feast one by one."""
    columns = {
        feature.name: python_values_to_proto_values(
            batch.column(feature.name).to_pylist(), feature.dtype.to_value_type()
        )
        for feature in view.features
    }
    rows = []
    for i, member in enumerate(batch.column("member_id").to_pylist()):
        value = Value(int64_val=member) if isinstance(member, int) else Value(string_val=member)
        key = EntityKey(join_keys=["member_id"], entity_values=[value])
        values = {name: column[i] for name, column in columns.items()}
        event = batch.column("event_timestamp")[i].as_py()
        created = None
        if "created_timestamp" in batch.schema.names:
            created = batch.column("created_timestamp")[i].as_py()
        rows.append((key, values, event, created))
    return rows


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("redis_cluster", marks=pytest.mark.redis),
        pytest.param("postgres", marks=pytest.mark.postgres),
        "sqlite",
    ]
)
def make_store(request, tmp_path):
    """Makes an empty store of a kind, of a view: (config, store)."""
    made = 0

    def make(view, **more):
        nonlocal made
        made += 1
        folder = tmp_path / str(made)
        folder.mkdir()
        if request.param == "sqlite":
            settings = {"type": THREADED, "path": "online.db"}
        elif request.param == "postgres":
            settings = request.getfixturevalue("in_postgres")
        else:
            server = "cluster" if request.param == "redis_cluster" else "one_server"
            address = emptied(request.getfixturevalue(server))
            settings = {
                "type": "redis",
                "redis_type": request.param,
                "connection_string": address,
                "skip_dedup": True,
            }
        config, store = feast_store(folder, **settings, **more)
        if request.param == "postgres":
            store.update(config, [view], [], [], [], partial=True)
        store.update(config, [], [view], [], [], partial=True)
        return config, store

    return make


@pytest.fixture
def one_redis(tmp_path, one_server):
    """Makes an empty store in Redis."""

    def make(**more):
        settings = {"type": "redis", "connection_string": emptied(one_server)}
        return feast_store(tmp_path, **settings, **more)

    return make


@pytest.mark.parametrize(("key", "ids"), [(Int64, [300, -1, 2]), (String, ["é", "bb", ""])])
@pytest.mark.parametrize("created", [True, False])
def test_all_bytes_are_those_that_feast_writes(make_store, key, ids, created):
    view = view_of(key)
    first, other = batch_of(ids, created=created), batch_of(ids, turned=1, day=1, created=created)
    expected = []
    config, store = make_store(view)
    for batch in (first, other, first):
        store.online_write_batch(config, view, as_feast_takes_them(view, batch), None)
        expected.append(bytes_of(config, store, view))
    config, store = make_store(view)
    rows = row_store(config, store)
    for batch, written in zip((first, other, first), expected, strict=True):
        rows.publish(view, batch)
        assert bytes_of(config, store, view) == written
    # Into the place of what Feast has written; what is read by Feast.
    keys = entity_keys(view, pa.array(ids))
    for (_, values, moment, _), (read_at, read) in zip(
        as_feast_takes_them(view, first),
        store.online_read(config, view, keys, [*FEATURES]),
        strict=True,
    ):
        assert {name: value.WhichOneof("val") for name, value in read.items()} == {
            name: value.WhichOneof("val") for name, value in values.items()
        }
        assert read_at.replace(microsecond=0) == moment.replace(microsecond=0)


def plain_batch(ids, moment, items):
    return pa.RecordBatch.from_pydict(
        {
            "member_id": pa.array(ids),
            "items": pa.array([items] * len(ids), pa.list_(pa.int64())),
            "newest": pa.array([None] * len(ids), STAMPS),
            "event_timestamp": pa.array([moment] * len(ids), STAMPS),
        }
    )


def plain_row(member, moment, items):
    (key,) = entity_keys(PLAIN, pa.array([member]))
    newest = Value(unix_timestamp_val=int(moment.timestamp())) if items else Value()
    values = {"items": Value(int64_list_val=Int64List(val=items)), "newest": newest}
    return key, values, moment, None


def members(config, store, ids):
    keys = entity_keys(PLAIN, pa.array(ids))
    found = store.online_read(config, PLAIN, keys, ["items", "newest"])
    return [list(values["items"].int64_list_val.val) for _, values in found]


@dataclass
class KeepLater:
    """Adds the items of stored rows of later times to the published ones, in their order."""

    called: list = field(default_factory=list)
    decided_by = "newest"

    def needs(self, as_of, value):
        return value.unix_timestamp_val >= as_of // 1_000_000

    def merge(self, given, stored):
        merged = []
        for (key, values, moment, _), (later, old) in zip(given, stored, strict=True):
            member, items = key.entity_values[0].int64_val, list(values["items"].int64_list_val.val)
            self.called.append(member)
            moment = moment.replace(tzinfo=UTC)
            if old is not None and later > moment:
                more = set(old["items"].int64_list_val.val) - set(items)
                merged.append(plain_row(member, later, sorted([*items, *more])))
            else:
                merged.append((key, values, moment, None))
        return merged


def test_rows_of_a_later_time_are_merged_and_no_others(make_store):
    config, store = make_store(PLAIN)
    rows = row_store(config, store)
    stored = [(1, -SECOND), (2, timedelta(0)), (3, SECOND), (4, timedelta(days=400))]
    rows.write(PLAIN, [plain_row(member, NOON + after, [member]) for member, after in stored])
    keep = KeepLater()
    rows.publish(PLAIN, plain_batch([5, 4, 3, 2, 1], NOON, [9]), keep)
    assert members(config, store, [1, 2, 3, 4, 5]) == [[9], [9], [3, 9], [4, 9], [9]]
    # sqlite looks at what a row holds, to the second; a cluster reads all rows.
    assert {3, 4} <= set(keep.called)
    if config.online_store.type != THREADED and "redis_cluster" not in str(config.online_store):
        assert sorted(keep.called) == [3, 4]


@pytest.mark.redis
def test_the_script_of_redis_refuses_what_is_later(one_redis):
    """And, rather than to be wrong, what is before 1970."""
    config, store = one_redis()
    rows = row_store(config, store)
    now, second = 1_709_294_400_000_000, 1_000_000
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for before, given, refused in [
        (0, 0, False),
        (1, 0, True),
        (0, 1, False),
        (second - 1, second, False),
        (second, second - 1, True),
        (now, now, False),
        (now + 1, now, True),
        (now - 1, now, False),
        (now + 127 * second, now + 128 * second, False),
        (now + 128 * second, now + 127 * second, True),
        (now, 20 * now, False),
        (-1, 0, True),
        (-5 * second, -3 * second, True),
        (-3 * second, -5 * second, True),
        (now, -1, True),
    ]:
        stored, moment = (epoch + timedelta(microseconds=us) for us in (before, given))
        rows.write(PLAIN, [plain_row(1, stored, [1])])
        keep = KeepLater()
        rows.publish(PLAIN, plain_batch([1], moment, [9]), keep)
        assert members(config, store, [1]) == [[1, 9] if before > given else [9]]
        assert bool(keep.called) == refused


@pytest.mark.redis
@pytest.mark.parametrize("keep", [None, KeepLater()])
def test_rows_live_as_long_as_the_settings_of_redis_say(one_redis, one_server, keep):
    config, store = one_redis(key_ttl_seconds=1000)
    rows = row_store(config, store)
    rows.publish(PLAIN, plain_batch([1, 2], NOON, [9]), keep)
    rows.write(PLAIN, [plain_row(3, NOON, [9])])
    with redis_client(one_server) as client:
        assert [990 < client.ttl(key) <= 1000 for key in client.scan_iter()] == [True] * 3


@pytest.mark.redis
def test_a_sentinel_says_where_redis_is(one_server, tmp_path):
    with redis_sentinel(emptied(one_server)) as sentinel:
        settings = {"redis_type": "redis_sentinel", "connection_string": sentinel}
        config, store = feast_store(tmp_path, type="redis", **settings)
        rows = row_store(config, store)
        rows.write(PLAIN, [plain_row(1, NOON + SECOND, [1])])
        rows.publish(PLAIN, plain_batch([1, 2], NOON, [9]), KeepLater())
        rows.publish(PLAIN, plain_batch([3], NOON, [9]))
        assert members(config, store, [1, 2, 3]) == [[1, 9], [9], [9]]


@pytest.mark.redis
def test_a_redis_that_forgets_the_script_gets_all_rows(one_redis, monkeypatch):
    config, store = one_redis()
    rows = row_store(config, store)
    client = store._get_client(config.online_store)
    load = client.script_load

    def load_and_forget(script):
        digest = load(script)
        client.script_flush()
        return digest

    monkeypatch.setattr(client, "script_load", load_and_forget)
    rows.write(PLAIN, [plain_row(1, NOON + SECOND, [1])])
    rows.publish(PLAIN, plain_batch([1, 2], NOON, [9]), KeepLater())
    assert members(config, store, [1, 2]) == [[1, 9], [9]]


@pytest.mark.redis
def test_what_redis_refuses_is_an_error_and_the_connection_is_as_good_as_new(
    one_redis, one_server, monkeypatch
):
    monkeypatch.setattr(redis, "COMMANDS_AT_ONCE", 2)
    config, store = one_redis()
    rows = row_store(config, store)
    batch = plain_batch(range(9), NOON, [9])
    with redis_client(one_server) as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(ResponseError, match="maxmemory"):
                rows.publish(PLAIN, batch)
        finally:
            client.config_set("maxmemory", 0)
    rows.publish(PLAIN, batch)
    assert members(config, store, range(9)) == [[9]] * 9


@pytest.mark.redis
def test_a_connection_that_breaks_is_made_again(one_redis, one_server, monkeypatch):
    monkeypatch.setattr(redis, "COMMANDS_AT_ONCE", 2)
    config, store = one_redis()
    rows = row_store(config, store)
    send, sent = Connection.send_packed_command, []

    def send_or_break(self, command, **how):
        if isinstance(command[0], memoryview):
            sent.append(1)
            if len(sent) == 3:
                with redis_client(one_server) as other:
                    other.client_kill_filter(_type="normal", skipme=True)
        return send(self, command, **how)

    monkeypatch.setattr(Connection, "send_packed_command", send_or_break)
    rows.publish(PLAIN, plain_batch(range(9), NOON, [9]), KeepLater())
    assert len(sent) > 5
    assert members(config, store, range(9)) == [[9]] * 9


@pytest.mark.parametrize("kind", [pytest.param("redis", marks=pytest.mark.redis), "sqlite"])
def test_two_writers_at_once_lose_nothing(kind, tmp_path, request):
    """One pushes items one by one, as of later times; the other publishes all the while."""
    if kind == "sqlite":
        settings = {"type": THREADED, "path": "online.db"}
    else:
        settings = {
            "type": "redis",
            "connection_string": emptied(request.getfixturevalue("one_server")),
        }
    ids, pushes = list(range(40)), 15

    class Push:
        def __init__(self, number):
            self.number = number

        def merge(self, given, stored):
            return [
                plain_row(
                    member,
                    NOON + self.number * SECOND,
                    [*([] if old is None else old["items"].int64_list_val.val), self.number],
                )
                for member, (_, old) in zip(given, stored, strict=True)
            ]

    def push():
        rows = row_store(*feast_store(tmp_path, **settings))
        for number in range(1, pushes + 1):
            rows.update(PLAIN, entity_keys(PLAIN, pa.array(ids)), ids, Push(number))

    config, store = feast_store(tmp_path, **settings)
    rows = row_store(config, store)
    rows.prepare([PLAIN])
    other = threading.Thread(target=push)
    other.start()
    published = 0
    while other.is_alive() or not published:
        rows.publish(PLAIN, plain_batch(ids, NOON, [0]), KeepLater())
        published += 1
    other.join()
    rows.publish(PLAIN, plain_batch(ids, NOON, [0]), KeepLater())
    assert [sorted(each) for each in members(config, store, ids)] == [
        list(range(pushes + 1))
    ] * len(ids)


PUSH = "import sys; from support.killed_push import main; main(*sys.argv[1:])"


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("postgres", marks=pytest.mark.postgres),
        "sqlite",
    ],
)
def test_what_is_killed_in_the_middle_is_finished_by_the_next(kind, tmp_path, request):
    settings = {"type": THREADED, "path": "online.db"}
    if kind == "redis":
        address = emptied(request.getfixturevalue("one_server"))
        settings = {"type": "redis", "connection_string": address}
    elif kind == "postgres":
        settings = request.getfixturevalue("in_postgres")
    view = killed_push.VIEW
    config, store = feast_store(tmp_path, **settings)
    store.update(config, [], [view], [], [], partial=True)
    rows = row_store(config, store)
    rows.publish(view, killed_push.batch_of(2))
    expected = bytes_of(config, store, view)
    rows.publish(view, killed_push.batch_of(1))
    before = bytes_of(config, store, view)

    process = processes.run(PUSH, json.dumps(settings), tmp_path, "2", "kill")
    assert process.returncode == -signal.SIGKILL, process.stderr
    between = bytes_of(config, store, view)
    if kind == "redis":
        # Row by row: some are new.
        changed = sum(between[key] != row for key, row in before.items())
        assert 0 < changed < len(before)
    else:
        assert between == before
    rows.publish(view, killed_push.batch_of(2))
    assert bytes_of(config, store, view) == expected


class Counting(SqliteOnlineStore):
    """A user's store that writes in a way of its own."""

    def online_write_batch(self, config, table, data, progress):
        self.written = len(data)
        super().online_write_batch(config, table, data, progress)


def test_a_store_that_writes_in_a_way_of_its_own_is_left_to_it(tmp_path):
    config, _ = feast_store(tmp_path, type="sqlite", path="online.db")
    store = Counting()
    rows = row_store(config, store)
    assert type(rows) is SqliteRows
    rows.prepare([PLAIN])
    rows.publish(PLAIN, plain_batch([1, 2], NOON, [9]))
    assert store.written == 2
    assert members(config, store, [1, 2]) == [[9], [9]]


def test_a_column_that_only_settings_ask_for_is_written_too(tmp_path):
    settings = {"type": THREADED, "path": "online.db", "enable_openai_compatible_store": True}
    view, batch = view_of(), batch_of([1, 2, 3])
    written = []
    for name in ("ours", "theirs"):
        folder = tmp_path / name
        folder.mkdir()
        config, store = feast_store(folder, **settings)
        store.update(config, [], [view], [], [], partial=True)
        if name == "ours":
            row_store(config, store).publish(view, batch)
        else:
            store.online_write_batch(config, view, as_feast_takes_them(view, batch), None)
        written.append(bytes_of(config, store, view))
    assert written[0] == written[1]
    assert {0.0, 5.0} <= {row[4] for row in written[0]}  # value_num


@pytest.mark.postgres
@pytest.mark.parametrize("other", ["a column", "no temporary tables"])
def test_another_layout_of_postgres_is_left_to_feast(other, in_postgres, database, tmp_path):
    view, batch = view_of(), batch_of([1, 2, 3])
    config, store = feast_store(tmp_path, **in_postgres)
    store.update(config, [], [view], [], [], partial=True)
    rows = row_store(config, store)
    rows.publish(view, batch)
    expected = bytes_of(config, store, view)
    with database.connect() as connection:
        if other == "a column":
            connection.execute("ALTER TABLE test_view ADD COLUMN value_num float8")
            expected = [(*row, None) for row in expected]
        else:
            writer = database.new_user()
            connection.execute(f"GRANT ALL ON test_view TO {writer}")
            connection.execute(f"REVOKE TEMPORARY ON DATABASE {database.database} FROM PUBLIC")
    if other == "no temporary tables":
        user = {**in_postgres, "user": writer}
        config, store = feast_store(tmp_path, **user)
        rows = row_store(config, store)
    rows.publish(view, batch_of([1, 2, 3], turned=1))
    rows.publish(view, batch)
    found = bytes_of(config, store, view)
    if other == "a column":
        numbers = [row[-1] for row in found]
        assert 5.0 in numbers  # as Feast writes it where the column is there
        found = [(*row[:-1], None) for row in found]
    assert found == expected


def test_any_other_store_gets_the_rows_by_its_own_call(tmp_path):
    config, store = feast_store(tmp_path, type=THREADED, path="online.db")
    store.update(config, [], [PLAIN], [], [], partial=True)
    rows = AnyRows(config, store)
    rows.write(PLAIN, [plain_row(2, NOON + SECOND, [2])])
    keep = KeepLater()
    rows.publish(PLAIN, plain_batch([1, 2], NOON, [9]), keep)
    rows.publish(PLAIN, plain_batch([3], NOON, [9]))
    assert members(config, store, [1, 2, 3]) == [[9], [2, 9], [9]]


def test_more_rows_than_a_query_of_sqlite_takes(tmp_path):
    config, store = feast_store(tmp_path, type=THREADED, path="online.db")
    rows = row_store(config, store)
    rows.prepare([PLAIN])
    rows.write(PLAIN, [plain_row(33_000, NOON + SECOND, [1])])
    rows.publish(PLAIN, plain_batch(np.arange(40_000), NOON, [9]), KeepLater())
    assert members(config, store, [0, 33_000]) == [[9], [1, 9]]
