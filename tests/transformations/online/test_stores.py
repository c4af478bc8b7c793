"""Every row store reads, replaces and merges rows alike, also when others write in between."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, FileSource
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.protos.feast.types.Value_pb2 import Int64List, Value
from feast.types import Array, Int64
from feast.value_type import ValueType

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.online import redis
from activity_embeddings.transformations.online.any_store import AnyRows
from activity_embeddings.transformations.online.protobuf import entity_keys
from activity_embeddings.transformations.online.redis import RedisRows
from activity_embeddings.transformations.online.sqlite import SqliteRows
from activity_embeddings.transformations.online.stores import row_store
from support.online_stores import THREADED, emptied, feast_store

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
VIEW = FeatureView(
    name="view",
    entities=[Entity(name="member", join_keys=["member_id"], value_type=ValueType.INT64)],
    schema=[
        Field(name="member_id", dtype=Int64),
        Field(name="items", dtype=Array(Int64)),
        Field(name="count", dtype=Int64),
    ],
    source=FileSource(path="unused.parquet", timestamp_field="event_timestamp"),
    ttl=timedelta(0),
)
KEYS = entity_keys(VIEW, pa.array([1, 2, 3]))
POSITIONS = range(3)


class SqliteOfAnotherPackage(SqliteOnlineStore):
    """A user's own kind of a store that Feast has."""


def _sqlite(folder, kind="sqlite"):
    return feast_store(folder, type=kind, path="online.db")


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("redis_cluster", marks=pytest.mark.redis),
        pytest.param("postgres", marks=pytest.mark.postgres),
        THREADED,
        "sqlite",
        "any",
    ]
)
def online(request, tmp_path):
    """Each kind of row store; `AnyRows` too is shown with sqlite."""
    if request.param in (THREADED, "sqlite", "any"):
        of_kind = _sqlite(tmp_path, "sqlite" if request.param == "any" else request.param)
        rows = row_store(*of_kind)
        rows.prepare([VIEW])
        yield AnyRows(*of_kind) if request.param == "any" else rows
        return
    if request.param == "postgres":
        config, store = feast_store(tmp_path, **request.getfixturevalue("in_postgres"))
        store.update(config, [], [VIEW], [], [], partial=True)
        yield row_store(config, store)
        return
    server = "cluster" if request.param == "redis_cluster" else "one_server"
    address = emptied(request.getfixturevalue(server))
    settings = {"redis_type": request.param, "connection_string": address}
    yield row_store(*feast_store(tmp_path, type="redis", **settings))


@pytest.fixture
def one_redis(tmp_path, one_server):
    settings = {"type": "redis", "connection_string": emptied(one_server)}
    return row_store(*feast_store(tmp_path, **settings))


def row(position, items, moment=NOON):
    values = {"items": Value(int64_list_val=Int64List(val=items)), "count": Value()}
    if items:
        values["count"] = Value(int64_val=len(items))
    return KEYS[position], values, moment, None


def items_of(stored):
    return [
        None if values is None else list(values["items"].int64_list_val.val) for _, values in stored
    ]


def read(rows):
    return items_of(rows.read(VIEW, KEYS))


@dataclass
class Appending:
    """Adds one item to every row; keeps what it was called with."""

    item: int
    seen: list = field(default_factory=list)

    def merge(self, given, stored):
        found = items_of(stored)
        self.seen.append((list(given), found))
        return [row(i, [*(old or []), self.item]) for i, old in zip(given, found, strict=True)]


@dataclass
class Making:
    """Makes rows by a function, whatever is stored."""

    make: object

    def merge(self, given, stored):
        return self.make(given)


@dataclass
class Interrupted:
    """Lets somebody else write between the first read and the first write."""

    append: Appending
    other: object

    def merge(self, given, stored):
        rows = self.append.merge(given, stored)
        if len(self.append.seen) == 1:
            self.other()
        return rows


def test_rows_are_merged_with_what_is_stored(online):
    first, second = Appending(1), Appending(2)
    assert read(online) == [None, None, None]
    online.update(VIEW, KEYS, POSITIONS, first)
    # At the same time, which Feast's Redis store would pass over.
    online.update(VIEW, KEYS[:2], POSITIONS[:2], second)
    assert first.seen == [([0, 1, 2], [None, None, None])]
    assert second.seen == [([0, 1], [[1], [1]])]
    assert read(online) == [[1, 2], [1, 2], [1]]
    assert [moment for moment, _ in online.read(VIEW, KEYS)] == [NOON] * 3


def test_rows_replace_newer_ones(online):
    online.write(VIEW, [row(0, [1]), row(1, [2], NOON + timedelta(days=1))])
    online.write(VIEW, [row(0, [3]), row(1, [4]), row(2, [])])
    assert read(online) == [[3], [4], []]
    assert [moment for moment, _ in online.read(VIEW, KEYS)] == [NOON] * 3


def test_some_features_are_read(online):
    online.write(VIEW, [row(1, [5, 6])])
    wanted = ["count"]
    (missing, (_, values)) = online.read(VIEW, KEYS[:2], wanted)
    assert missing == (None, None)
    assert values["count"] == Value(int64_val=2)
    assert wanted == ["count"]


def test_a_row_may_stay_as_it_is(online):
    online.update(VIEW, KEYS, POSITIONS, Making(lambda given: [row(0, [1]), None, None]))
    online.update(VIEW, KEYS, POSITIONS, Making(lambda given: [None] * 3))
    assert read(online) == [[1], None, None]


def test_more_rows_than_are_handled_at_once(online, monkeypatch):
    monkeypatch.setattr(AnyRows, "at_once", 2)
    monkeypatch.setattr(RedisRows, "at_once", 2)
    append = Appending(1)
    online.update(VIEW, KEYS, POSITIONS, append)
    assert [given for given, _ in append.seen] == [[0, 1], [2]]
    assert read(online) == [[1], [1], [1]]


@pytest.mark.redis
def test_a_row_that_changed_in_between_is_merged_again_and_no_other(one_redis):
    one_redis.write(VIEW, [row(0, [0]), row(2, [0])])
    append = Appending(1)
    # One row changes, and a missing one appears.
    others = Interrupted(append, lambda: one_redis.write(VIEW, [row(0, [7]), row(1, [8])]))
    one_redis.update(VIEW, KEYS, POSITIONS, others)
    assert append.seen == [([0, 1, 2], [[0], None, [0]]), ([0, 1], [[7], [8]])]
    assert read(one_redis) == [[7, 1], [8, 1], [0, 1]]


@pytest.mark.redis
def test_an_empty_value_is_told_from_a_missing_one(one_redis):
    """An unset value is zero bytes in Redis."""
    append = Appending(1)
    others = Interrupted(append, lambda: one_redis.write(VIEW, [row(0, [])]))
    one_redis.update(VIEW, KEYS[:1], POSITIONS[:1], others)
    assert append.seen == [([0], [None]), ([0], [[]])]


@pytest.mark.redis
def test_a_row_that_never_stands_still_is_given_up(one_redis, monkeypatch):
    monkeypatch.setattr(redis, "ROUNDS", 3)
    count = iter(range(100))

    def make(given):
        one_redis.write(VIEW, [row(0, [next(count)])])
        return [row(i, [-1]) for i in given]

    with pytest.raises(InvalidInput, match="write a row within 3 attempts"):
        one_redis.update(VIEW, KEYS, POSITIONS, Making(make))
    assert read(one_redis) == [[2], [-1], [-1]]


def test_a_store_of_a_class_that_feast_has_is_known_by_it(tmp_path):
    config, store = _sqlite(tmp_path)
    assert type(row_store(config, store)) is SqliteRows
    assert type(row_store(config, SqliteOfAnotherPackage())) is SqliteRows
    settings = {"type": "redis", "connection_string": "localhost:1"}
    assert type(row_store(*feast_store(tmp_path, **settings))) is RedisRows
    settings = {"type": "remote", "path": "http://localhost:1"}
    assert type(row_store(*feast_store(tmp_path, **settings))) is AnyRows
