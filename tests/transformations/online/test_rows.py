"""Rows are replaced by what is computed from them, also when somebody else comes in between."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, FileSource
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.protos.feast.types.Value_pb2 import Int64List, Value
from feast.repo_config import RepoConfig
from feast.types import Array, Int64
from feast.value_type import ValueType
from redis_server import redis_server

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.online import rows as row_updates
from activity_embeddings.transformations.online.rows import entity_keys, read_rows, update_rows

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
VIEW = FeatureView(
    name="view",
    entities=[Entity(name="member", join_keys=["member_id"], value_type=ValueType.INT64)],
    schema=[
        Field(name="member_id", dtype=Int64),
        Field(name="vector_spec", dtype=Array(Int64)),
        Field(name="count", dtype=Int64),
    ],
    source=FileSource(path="unused.parquet", timestamp_field="event_timestamp"),
    ttl=timedelta(0),
)
KEYS = entity_keys(VIEW, pa.array([1, 2, 3]))


def _online(folder, **settings):
    """Return (config, store) of a store with nothing in it."""
    config = RepoConfig(
        project="test",
        provider="local",
        registry="unused.db",
        online_store=settings,
        repo_path=folder,
        entity_key_serialization_version=3,
    )
    store = get_online_store_from_config(config.online_store)
    store.update(config, [], [VIEW], [], [], partial=True)
    return config, store


@pytest.fixture(params=["redis", "redis_cluster", "sqlite"])
def online(request, tmp_path):
    if request.param == "sqlite":
        yield _online(tmp_path, type="sqlite", path="online.db")
        return
    with redis_server(cluster=request.param == "redis_cluster") as address:
        yield _online(tmp_path, type="redis", redis_type=request.param, connection_string=address)


@pytest.fixture
def redis(tmp_path):
    with redis_server() as address:
        yield _online(tmp_path, type="redis", connection_string=address)


def row(key, vector_spec, moment=NOON):
    values = {"vector_spec": Value(int64_list_val=Int64List(val=vector_spec)), "count": Value()}
    if vector_spec:
        values["count"] = Value(int64_val=len(vector_spec))
    return key, values, moment, None


def vectors_of(stored):
    return [
        None if values is None else list(values["vector_spec"].int64_list_val.val)
        for _, values in stored
    ]


def appending(item, seen=None):
    """Add one item to every row, and record what was found."""

    def compute(which, stored):
        found = vectors_of(stored)
        if seen is not None:
            seen.append((list(which), found))
        return [row(KEYS[i], [*(old or []), item]) for i, old in zip(which, found, strict=True)]

    return compute


def read(online):
    config, store = online
    return vectors_of(read_rows(config, store, VIEW, KEYS))


def test_rows_are_computed_from_what_is_stored(online):
    seen = []
    assert read(online) == [None, None, None]
    update_rows(*online, VIEW, KEYS, appending(1, seen))
    # At the same time, which Feast's Redis store would pass over.
    update_rows(*online, VIEW, KEYS[:2], appending(2, seen))
    assert seen == [([0, 1, 2], [None, None, None]), ([0, 1], [[1], [1]])]
    assert read(online) == [[1, 2], [1, 2], [1]]
    moments = [moment for moment, _ in read_rows(*online, VIEW, KEYS)]
    assert moments == [NOON] * 3


def test_a_row_may_stay_as_it_is(online):
    update_rows(*online, VIEW, KEYS, lambda which, stored: [row(KEYS[0], [1]), None, None])
    update_rows(*online, VIEW, KEYS, lambda which, stored: [None] * 3)
    assert read(online) == [[1], None, None]


def test_more_rows_than_are_handled_at_once(online, monkeypatch):
    monkeypatch.setattr(row_updates, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(row_updates, "REDIS_ROWS_AT_ONCE", 2)
    seen = []
    update_rows(*online, VIEW, KEYS, appending(1, seen))
    assert [which for which, _ in seen] == [[0, 1], [2]]
    assert read(online) == [[1], [1], [1]]


def test_a_row_that_changed_in_between_is_computed_again_and_no_other(redis):
    update_rows(
        *redis, VIEW, KEYS, lambda which, stored: [row(KEYS[0], [0]), None, row(KEYS[2], [0])]
    )
    seen = []
    append = appending(1, seen)

    def interrupted(which, stored):
        rows = append(which, stored)
        if len(seen) == 1:
            # One row changes, and one that was not there appears.
            update_rows(
                *redis, VIEW, KEYS[:2], lambda _, __: [row(KEYS[0], [7]), row(KEYS[1], [8])]
            )
        return rows

    update_rows(*redis, VIEW, KEYS, interrupted)
    assert seen == [([0, 1, 2], [[0], None, [0]]), ([0, 1], [[7], [8]])]
    assert read(redis) == [[7, 1], [8, 1], [0, 1]]


def test_an_empty_value_is_told_from_a_missing_one(redis):
    """An unset value is zero bytes in Redis."""
    seen = []
    append = appending(1, seen)

    def interrupted(which, stored):
        rows = append(which, stored)
        if len(seen) == 1:
            update_rows(*redis, VIEW, KEYS[:1], lambda _, __: [row(KEYS[0], [])])
        return rows

    update_rows(*redis, VIEW, KEYS[:1], interrupted)
    assert seen == [([0], [None]), ([0], [[]])]


def test_a_row_that_never_stands_still_is_given_up(redis, monkeypatch):
    monkeypatch.setattr(row_updates, "ROUNDS", 3)
    count = iter(range(100))

    def interrupted(which, stored):
        update_rows(*redis, VIEW, KEYS[:1], lambda _, __: [row(KEYS[0], [next(count)])])
        return [row(KEYS[i], [-1]) for i in which]

    with pytest.raises(InvalidInput, match="write a row within 3 attempts"):
        update_rows(*redis, VIEW, KEYS, interrupted)
    assert read(redis) == [[2], [-1], [-1]]
