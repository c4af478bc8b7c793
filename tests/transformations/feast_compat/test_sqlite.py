"""Feast's sqlite store, with a connection for each thread."""

import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.types import Int64
from feast.value_type import ValueType

from activity_embeddings.transformations.online.protobuf import entity_keys

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
MEMBER = Entity(name="member", join_keys=["member_id"], value_type=ValueType.INT64)
VIEW = FeatureView(
    name="view",
    entities=[MEMBER],
    schema=[Field(name="member_id", dtype=Int64), Field(name="value", dtype=Int64)],
    source=FileSource(path="unused.parquet", timestamp_field="event_timestamp"),
    ttl=timedelta(0),
)
KEYS = entity_keys(VIEW, pa.array(range(100)))


@pytest.fixture
def online(tmp_path):
    """(config, store) that holds i for key i."""
    config = RepoConfig(
        project="test",
        provider="local",
        registry="unused.db",
        online_store={
            "type": "activity_embeddings.ThreadedSqliteOnlineStore",
            "path": "online.db",
        },
        repo_path=tmp_path,
        entity_key_serialization_version=3,
    )
    store = get_online_store_from_config(config.online_store)
    store.update(config, [], [VIEW], [], [], partial=True)
    rows = [(key, {"value": Value(int64_val=i)}, NOON, None) for i, key in enumerate(KEYS)]
    store.online_write_batch(config, VIEW, rows, None)
    return config, store


def read(online, *which):
    config, store = online
    rows = store.online_read(config, VIEW, [KEYS[i] for i in which])
    return [values["value"].int64_val for _, values in rows]


def test_a_thread_has_a_connection_of_its_own_and_keeps_it(online):
    config, store = online
    both_have_asked = threading.Barrier(2)

    def connections(_):
        first = store._get_conn(config)
        both_have_asked.wait()
        return first, store._get_conn(config)

    with ThreadPoolExecutor(2) as threads:
        (one, again), (other, other_again) = threads.map(connections, range(2))
    assert one is again and other is other_again
    assert len({id(each) for each in (one, other, store._get_conn(config))}) == 3


def test_threads_that_ask_at_once_each_get_what_they_asked_for(online):
    def ask(seed):
        return [read(online, i, seed) == [i, seed] for _ in range(3) for i in range(8, 100)]

    with ThreadPoolExecutor(8) as threads:
        assert all(all(right) for right in threads.map(ask, range(8)))


def test_a_thread_reads_what_another_has_written(online):
    config, store = online
    written = [(KEYS[1], {"value": Value(int64_val=-1)}, NOON, None)]
    writer = threading.Thread(target=store.online_write_batch, args=(config, VIEW, written, None))
    assert read(online, 1) == [1]
    writer.start()
    writer.join()
    assert read(online, 1, 2) == [-1, 2]


def test_after_teardown_the_store_begins_anew(online):
    config, store = online
    store.teardown(config, [VIEW], [])
    assert not (config.repo_path / "online.db").exists()
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        read(online, 1)
    store.update(config, [], [VIEW], [], [], partial=True)
    assert store.online_read(config, VIEW, KEYS[:1]) == [(None, None)]


def test_a_first_read_imports_no_other_store(online, tmp_path, monkeypatch):
    config, _ = online
    monkeypatch.chdir(tmp_path)
    other = "feast.infra.online_stores.dynamodb"
    monkeypatch.delitem(sys.modules, other, raising=False)
    store = FeatureStore(config=config)
    store.apply([MEMBER, VIEW])

    read = store.get_online_features(["view:value"], [{"member_id": 3}]).to_dict()

    assert read["value"] == [3]
    assert other not in sys.modules
