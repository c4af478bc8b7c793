"""What is online is remembered for one store; rows go there by parts, in the order of keys."""

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
from feast import Entity, FeatureView, Field, FileSource
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.types import Array, Float32, Int64
from feast.value_type import ValueType

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

    def __init__(self, folder):
        self.config, _ = feast_store(folder, type=THREADED, path="online.db")
        self.parts = []

    def publish(self, view, batch, keep):
        self.parts.append(batch)


def test_rows_are_put_in_order_by_slices_and_published_by_parts(tmp_path, monkeypatch):
    """However many members there are, a slice of them is in memory."""
    view = FeatureView(
        name="view",
        entities=[Entity(name="member", join_keys=["member_id"], value_type=ValueType.INT64)],
        schema=[Field(name="member_id", dtype=Int64), Field(name="v", dtype=Array(Float32))],
        source=FileSource(path="unused.parquet", timestamp_field="event_timestamp"),
        ttl=timedelta(0),
    )
    count, as_of = 3_000, 10**15
    batch = pa.RecordBatch.from_pydict(
        {
            "member_id": pa.array(np.arange(count)),
            "v": pa.array([[float(i)] * 8 for i in range(count)], pa.list_(pa.float32())),
            "event_timestamp": pa.array([as_of] * count, pa.timestamp("us", "UTC")),
        }
    )
    sink = FolderSink(tmp_path / "view" / "v1")
    writer = sink.staging.writer(as_of, {})
    writer.write(batch)
    writer.close()
    sink.commit(as_of)
    monkeypatch.setattr(publish, "WRITE_BATCH", 250)
    monkeypatch.setattr(publish, "SLICE_BYTES", batch.nbytes // 3)
    rows = Seen(tmp_path)
    assert push_snapshots(rows, view, sink, changed=[]).rows == count

    found = pa.Table.from_batches(rows.parts)
    assert found.sort_by("member_id").equals(pa.Table.from_batches([batch]))
    assert {len(part) for part in rows.parts} == {250}
    keys = [
        serialize_entity_key(key, 3)
        for key in entity_keys(view, found.column("member_id").combine_chunks())
    ]
    turns = [i for i, (one, other) in enumerate(pairwise(keys)) if one > other]
    assert turns == [999, 1999]

    # Rows of long vectors: fewer at once, unless the repo says how many.
    monkeypatch.setattr(publish, "CALL_BYTES", batch.nbytes // 30)
    for asked, longest in ((None, 100), (400, 400)):
        rows = Seen(tmp_path)
        rows.config.materialization_config.online_write_batch_size = asked
        push_snapshots(rows, view, sink, changed=[as_of])
        assert max(map(len, rows.parts)) == longest
