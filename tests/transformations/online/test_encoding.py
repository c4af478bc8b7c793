"""Bytes made of whole columns equal those of the values that Feast makes one by one."""

from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from feast import Field
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    Json,
    String,
    UnixTimestamp,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from activity_embeddings.transformations.errors import InvalidData
from activity_embeddings.transformations.online.byte_columns import varints
from activity_embeddings.transformations.online.encoding import feature_bytes, row_keys

STAMPS = pa.timestamp("us", "UTC")
# Feast makes seconds of doubles, which later are rounded to the next one.
TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
ITEMS = {
    Int32: (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    Int64: (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    Float32: (pa.float32(), st.floats(width=32)),
    Float64: (pa.float64(), st.floats()),
    Bool: (pa.bool_(), st.booleans()),
    String: (pa.string(), st.text()),
    Bytes: (pa.binary(), st.binary()),
    UnixTimestamp: (STAMPS, TIMES),
}
TYPES = {
    **{str(kind): (kind, *made) for kind, made in ITEMS.items() if kind != UnixTimestamp},
    **{
        str(Array(kind)): (
            Array(kind),
            pa.list_(arrow),
            st.lists(st.none() | items, max_size=5) | st.lists(items, max_size=40),
        )
        for kind, (arrow, items) in ITEMS.items()
    },
    # Not made in bulk: a column of another type, and a type that is rare.
    "narrow": (Int64, pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "large": (String, pa.large_string(), st.text()),
    "json": (Json, pa.string(), st.sampled_from(["{}", '{"a": [1]}'])),
}


def expected(column, kind):
    """What Feast makes of the Python values of a column."""
    values = python_values_to_proto_values(column.to_pylist(), kind.to_value_type())
    return (
        [value.SerializeToString() for value in values],
        [extract_text_and_num(value, False)[0] for value in values],
    )


def found(column, kind):
    made = feature_bytes(column, Field(name="feature", dtype=kind))
    none = [None] * len(column)
    return made.values.to_pylist(), none if made.texts is None else made.texts.to_pylist()


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_values_are_those_that_feast_makes(name, data):
    kind, arrow, items = TYPES[name]
    rows = data.draw(st.lists(st.none() | items, max_size=20))
    column = pa.array(rows, arrow)
    assert found(column, kind) == expected(column, kind)
    # A part of a column lies in the same buffers.
    start = data.draw(st.integers(0, len(rows)))
    part = column.slice(start, data.draw(st.integers(0, len(rows))))
    assert found(part, kind) == expected(part, kind)


def test_vectors_of_one_length_are_those_that_feast_makes():
    vectors = np.random.default_rng(0).normal(size=(3, 600)).astype(np.float32)
    column = pa.array(vectors.tolist(), pa.list_(pa.float32()))
    assert found(column, Array(Float32)) == expected(column, Array(Float32))


def test_a_null_that_hides_items_has_no_value():
    """Arrow lets a null of a list column have items."""
    items = pa.array([1, 2, 3], pa.int64())
    column = pa.ListArray.from_arrays(
        pa.array([0, 2, 3], pa.int32()), items, mask=pa.array([True, False])
    )
    assert found(column, Array(Int64)) == expected(column, Array(Int64))


@given(times=st.lists(st.none() | TIMES, max_size=20))
@example(times=[datetime(1969, 12, 31, 23, 59, 58, 500_000, UTC), datetime(2024, 3, 1, tzinfo=UTC)])
def test_a_time_is_cut_to_its_second(times):
    values, texts = found(pa.array(times, STAMPS), UnixTimestamp)
    assert values == [
        b""
        if time is None
        else Value(
            unix_timestamp_val=int(time.replace(microsecond=0).timestamp())
        ).SerializeToString()
        for time in times
    ]
    assert texts == [None] * len(times)


@settings(max_examples=20, deadline=None)
@given(
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20) | st.lists(st.text(), max_size=20)
)
def test_keys_are_those_that_feast_makes(ids):
    text = any(isinstance(each, str) for each in ids)
    view = SimpleNamespace(join_keys=["mémber_id"])
    column = pa.array([*ids, *ids], pa.string() if text else pa.int64()).slice(len(ids))
    values = [Value(string_val=each) if text else Value(int64_val=each) for each in ids]
    assert row_keys(view, pa.record_batch({"mémber_id": column})).to_pylist() == [
        serialize_entity_key(EntityKey(join_keys=["mémber_id"], entity_values=[value]), 3)
        for value in values
    ]


@pytest.mark.parametrize("kind", [String, Array(String)])
def test_text_that_no_reader_could_take_is_refused(kind):
    bad = pa.array([b"good", b"\xff"]).view(pa.string())
    column = bad if kind == String else pa.ListArray.from_arrays([0, 2], bad)
    with pytest.raises(InvalidData, match="'feature' should hold text in UTF-8"):
        found(column, kind)


def test_varints_of_every_length():
    numbers = [0, 127, 128, *(2**bits - 1 for bits in range(14, 64, 7)), 2**62, -1, -(2**63)]
    assert varints(np.array(numbers)).to_pylist() == [
        Value(int64_val=number).SerializeToString()[1:] for number in numbers
    ]
    assert varints(np.array([], np.int64)).to_pylist() == []
