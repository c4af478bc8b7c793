"""What is online is remembered for one store; rows go there by parts, in the order of keys."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from feast import Entity, FeatureView, Field, FileSource
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.types import Array, Float32, Int64, String
from feast.value_type import ValueType

from activity_embeddings.transformations.offline import spill
from activity_embeddings.transformations.offline.sinks.folder import FolderSink
from activity_embeddings.transformations.online import publish
from activity_embeddings.transformations.online.protobuf import entity_keys
from activity_embeddings.transformations.online.publish import push_snapshots, store_identity
from support.online_stores import THREADED, feast_store


def test_a_store_is_told_from_another_by_its_configuration(repo):
    config = repo.store.config
    same = repo.store.config
    assert store_identity(config) == store_identity(same)
    repo.edit("feature_store.yaml", "path: data/online.db", "path: data/other.db")
    assert store_identity(repo.store.config) != store_identity(config)


class Seen:
    """A row store that keeps what it is given."""

    def __init__(self, folder, *, ordered=True):
        self.config, _ = feast_store(folder, type=THREADED, path="online.db")
        self.ordered = ordered
        self.parts = []

    def publish(self, view, batch, keep):
        self.parts.append(batch)

    def keys(self, view):
        """The keys of what it was given, in that order."""
        ids = pa.Table.from_batches(self.parts).column("member_id").combine_chunks()
        return [serialize_entity_key(key, 3) for key in entity_keys(view, ids)]


AS_OF = 10**15


def view_of(key=Int64):
    kind = ValueType.INT64 if key == Int64 else ValueType.STRING
    return FeatureView(
        name="view",
        entities=[Entity(name="member", join_keys=["member_id"], value_type=kind)],
        schema=[Field(name="member_id", dtype=key), Field(name="v", dtype=Array(Float32))],
        source=FileSource(path="unused.parquet", timestamp_field="event_timestamp"),
        ttl=timedelta(0),
    )


def committed(folder, ids, as_of=AS_OF):
    """A sink with a snapshot of vectors of these members, and its rows."""
    batch = pa.RecordBatch.from_pydict(
        {
            "member_id": ids,
            "v": pa.array([[float(i)] * 8 for i in range(len(ids))], pa.list_(pa.float32())),
            "event_timestamp": pa.array([as_of] * len(ids), pa.timestamp("us", "UTC")),
        }
    )
    sink = FolderSink(folder / "view" / "v1")
    writer = sink.staging.writer(as_of, {})
    writer.write(batch)
    writer.close()
    sink.commit(as_of)
    return sink, batch


@pytest.mark.parametrize("slices", [0.5, 7])
@pytest.mark.parametrize("key", [Int64, String])
def test_rows_go_to_a_store_of_ordered_keys_in_one_order(tmp_path, monkeypatch, key, slices):
    """However many members there are, a slice of them is in memory."""
    view = view_of(key)
    ids = pa.array(np.arange(-1_000, 2_000))
    if key == String:
        ids = pc.binary_join_element_wise("é", ids.cast(pa.string()), "")
    sink, batch = committed(tmp_path, ids)
    monkeypatch.setattr(publish, "WRITE_BATCH", 100)
    monkeypatch.setattr(publish, "SLICE_BYTES", batch.nbytes / slices)
    monkeypatch.setattr(spill, "SAMPLE_ROWS", 200)
    rows = Seen(tmp_path)
    assert push_snapshots(rows, view, sink, changed=[]).rows == len(ids)
    found = pa.Table.from_batches(rows.parts)
    assert found.sort_by("member_id").equals(pa.Table.from_batches([batch]).sort_by("member_id"))
    assert max(map(len, rows.parts)) <= 100
    assert rows.keys(view) == sorted(rows.keys(view))
    assert not list(sink.staging.folder.glob("*"))


def test_any_other_store_gets_rows_as_they_lie(tmp_path, monkeypatch):
    sink, batch = committed(tmp_path, pa.array(np.arange(3_000)))
    monkeypatch.setattr(publish, "WRITE_BATCH", 250)
    monkeypatch.setattr(publish, "SLICE_BYTES", batch.nbytes // 3)
    rows = Seen(tmp_path, ordered=False)
    push_snapshots(rows, view_of(), sink, changed=[])
    assert pa.Table.from_batches(rows.parts).equals(pa.Table.from_batches([batch]))
    assert {len(part) for part in rows.parts} == {250}


def test_members_who_fell_silent_come_after_the_newest_snapshot(tmp_path, monkeypatch):
    """Each snapshot in an order of its own, of the rows that no newer one replaces."""
    committed(tmp_path, pa.array(np.arange(3_000)))
    sink, batch = committed(tmp_path, pa.array(np.arange(1_000, 4_000)), AS_OF + 10**9)
    monkeypatch.setattr(publish, "WRITE_BATCH", 100)
    monkeypatch.setattr(publish, "SLICE_BYTES", batch.nbytes // 9)
    rows, view = Seen(tmp_path), view_of()
    assert push_snapshots(rows, view, sink, changed=[]).rows == 4_000
    keys = rows.keys(view)
    assert keys == sorted(keys[:3_000]) + sorted(keys[3_000:])
    found = pa.Table.from_batches(rows.parts).column("member_id").to_pylist()
    assert sorted(found[3_000:]) == [*range(1_000)]


def test_long_rows_are_fewer_at_once_unless_the_repo_says_how_many(tmp_path, monkeypatch):
    sink, batch = committed(tmp_path, pa.array(np.arange(3_000)))
    monkeypatch.setattr(publish, "CALL_BYTES", batch.nbytes // 30)
    for asked, longest in ((None, 100), (400, 400)):
        rows = Seen(tmp_path)
        rows.config.materialization_config.online_write_batch_size = asked
        push_snapshots(rows, view_of(), sink, changed=[AS_OF])
        assert max(map(len, rows.parts)) == longest
