"""Values made in bulk equal those that Feast's own conversion makes."""

from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, FileSource
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp
from feast.utils import _convert_arrow_to_proto
from feast.value_type import ValueType

from activity_embeddings.transformations.online.protobuf import feast_rows

STAMPS = pa.timestamp("us", "UTC")


@pytest.mark.parametrize("key", [Int64, String])
def test_rows_are_what_feast_makes_of_the_same_table(key):
    as_id = (lambda i: i) if key == Int64 else (lambda i: f"né{i}")
    batch = pa.RecordBatch.from_pydict(
        {
            "member_id": pa.array([as_id(i) for i in (3, -1, 2**40)]),
            "vector": pa.array(
                np.random.default_rng(0).normal(size=(3, 64)).tolist(), pa.list_(pa.float32())
            ),
            "short": pa.array([[0.0], [1.5], [-2.0]], pa.list_(pa.float32())),
            "items": pa.array([[as_id(1), as_id(2)], [as_id(5)], [as_id(6)]]),
            "actions": pa.array([[1, 2], [3], [1]], pa.list_(pa.int32())),
            "count": pa.array([2, 1, 0], pa.int64()),
            "last": pa.array([1_700_000_000_999_999, -1_500_000, -(2**55) - 1], STAMPS),
            "event_timestamp": pa.array([10**15, 10**15, 10**15 + 1], STAMPS),
            "created_timestamp": pa.array([10**15 + 60_000_000] * 3, STAMPS),
        }
    )
    value_type = ValueType.INT64 if key == Int64 else ValueType.STRING
    view = FeatureView(
        name="view",
        entities=[Entity(name="member", join_keys=["member_id"], value_type=value_type)],
        schema=[
            Field(name="member_id", dtype=key),
            Field(name="vector", dtype=Array(Float32)),
            Field(name="short", dtype=Array(Float32)),
            Field(name="items", dtype=Array(key)),
            Field(name="actions", dtype=Array(Int32)),
            Field(name="count", dtype=Int64),
            Field(name="last", dtype=UnixTimestamp),
        ],
        source=FileSource(
            path="unused.parquet",
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
        ttl=timedelta(days=1),
    )
    ours = feast_rows(view, batch)
    theirs = _convert_arrow_to_proto(
        pa.Table.from_batches([batch]), view, {"member_id": value_type}
    )
    assert len(ours) == len(theirs) == 3
    for (key_a, values_a, event_a, created_a), (key_b, values_b, event_b, created_b) in zip(
        ours, theirs, strict=True
    ):
        assert serialize_entity_key(key_a) == serialize_entity_key(key_b)
        assert values_a == values_b
        assert (event_a, created_a) == (event_b, created_b)


def test_columns_of_a_users_own_are_what_feast_makes_of_them():
    """Beside the vector, a view of item vectors may have features of any type, and nulls."""
    features = {
        "title": (String, pa.array(["a", None, "c"])),
        "tags": (Array(String), pa.array([["x"], None, []], pa.list_(pa.string()))),
        "weights": (Array(Float32), pa.array([[1.0], [2.0, 3.0], []], pa.list_(pa.float32()))),
        "level": (Int32, pa.array([1, 2, 3], pa.int32())),
        "wide": (Int32, pa.array([1, 2, 3], pa.int64())),
        "score": (Float64, pa.array([0.5, None, 1.0])),
        "open": (Bool, pa.array([True, False, None])),
        "seen": (UnixTimestamp, pa.array([5_000_000, 6_500_000, 7_000_000], STAMPS)),
    }
    batch = pa.RecordBatch.from_pydict(
        {
            "job_id": pa.array([3, 1, 2]),
            **{name: column for name, (_, column) in features.items()},
            "event_timestamp": pa.array([10**15] * 3, STAMPS),
        }
    )
    view = FeatureView(
        name="view",
        entities=[Entity(name="item", join_keys=["job_id"], value_type=ValueType.INT64)],
        schema=[
            Field(name="job_id", dtype=Int64),
            *(Field(name=name, dtype=kind) for name, (kind, _) in features.items()),
        ],
        source=FileSource(path="unused.parquet", timestamp_field="event_timestamp"),
    )
    ours = feast_rows(view, batch)
    table = pa.Table.from_batches([batch])
    theirs = _convert_arrow_to_proto(table, view, {"job_id": ValueType.INT64})
    for (_, values_a, *times_a), (_, values_b, *times_b) in zip(ours, theirs, strict=True):
        assert values_a == values_b
        assert times_a == times_b


def test_a_missing_time_and_an_empty_list_are_written_as_such():
    batch = pa.RecordBatch.from_pydict(
        {
            "member_id": pa.array([1]),
            "items": pa.array([[]], pa.list_(pa.int64())),
            "last": pa.array([None], STAMPS),
            "event_timestamp": pa.array([0], STAMPS),
            "created_timestamp": pa.array([0], STAMPS),
        }
    )
    view = SimpleNamespace(
        join_keys=["member_id"],
        features=[
            Field(name="items", dtype=Array(Int64)),
            Field(name="last", dtype=UnixTimestamp),
        ],
    )
    ((_, values, _, _),) = feast_rows(view, batch)
    assert values["items"].WhichOneof("val") == "int64_list_val"
    assert list(values["items"].int64_list_val.val) == []
    assert values["last"].WhichOneof("val") is None
