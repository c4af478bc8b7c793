"""Arrow columns as the protobuf values that Feast's online stores take, made in bulk.

A value at a time, the usual way, is where the time of publishing goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureView, Field
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Int32List, Int64List, StringList, Value
from feast.types import Array, Float32, Int32, Int64, String, UnixTimestamp

from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import TIMESTAMP
from activity_embeddings.transformations.feast_compat.values import python_values_to_proto_values
from activity_embeddings.transformations.online.base import Row
from activity_embeddings.transformations.times import to_datetime


def join_key_of(view: FeatureView) -> str:
    """Return the one join key of a view."""
    (join_key,) = view.join_keys
    return join_key


def entity_keys(view: FeatureView, ids: pa.Array) -> list[EntityKey]:
    """Return ids, int64 or string, as the keys of rows of a view."""
    join_key = join_key_of(view)
    if pa.types.is_integer(ids.type):
        values = [Value(int64_val=each) for each in ids.to_pylist()]
    else:
        values = [Value(string_val=each) for each in ids.to_pylist()]
    return [EntityKey(join_keys=[join_key], entity_values=[value]) for value in values]


def id_of(key: EntityKey) -> int | str:
    """Invert `entity_keys` for one key."""
    (value,) = key.entity_values
    return value.string_val if value.HasField("string_val") else value.int64_val


def feast_rows(view: FeatureView, batch: pa.RecordBatch) -> list[Row]:
    """Return a record batch as the rows that Feast's online stores take."""
    keys = entity_keys(view, batch.column(join_key_of(view)))
    features = [field.name for field in view.features]
    columns = [_values(batch.column(field.name), field) for field in view.features]
    event_times = _datetimes(batch.column(names.EVENT_TIMESTAMP))
    created_times: Sequence[datetime | None] = [None] * batch.num_rows
    if names.CREATED_TIMESTAMP in batch.schema.names:
        created_times = _datetimes(batch.column(names.CREATED_TIMESTAMP))
    return [
        (key, dict(zip(features, row, strict=True)), event_time, created_time)
        for key, event_time, created_time, row in zip(
            keys, event_times, created_times, zip(*columns, strict=True), strict=True
        )
    ]


def _values(column: pa.Array, field: Field) -> Sequence[Value]:
    """Return one feature's column as protobuf values, of the type that the view declares."""
    if field.dtype == UnixTimestamp and column.type == TIMESTAMP:
        # As whole numbers: floats hold microseconds of 285 years alone.
        seconds = column.cast(pa.int64()).fill_null(0).to_numpy() // 1_000_000
        return [
            Value(unix_timestamp_val=second) if filled else Value()
            for second, filled in zip(seconds.tolist(), column.is_valid().to_pylist(), strict=True)
        ]
    if not column.null_count:
        if field.dtype == Array(Float32) and _of_one_length(column):
            return _float_lists(column)
        kind, make = _IN_BULK.get(str(field.dtype), (None, None))
        if make is not None and column.type == kind:
            return [make(value) for value in column.to_pylist()]
    return python_values_to_proto_values(column.to_pylist(), field.dtype.to_value_type())


_IN_BULK: dict[str, tuple[pa.DataType, Callable[[Any], Value]]] = {
    str(Int64): (pa.int64(), lambda value: Value(int64_val=value)),
    str(Array(Int32)): (
        pa.list_(pa.int32()),
        lambda items: Value(int32_list_val=Int32List(val=items)),
    ),
    str(Array(Int64)): (
        pa.list_(pa.int64()),
        lambda items: Value(int64_list_val=Int64List(val=items)),
    ),
    str(Array(String)): (
        pa.list_(pa.string()),
        lambda items: Value(string_list_val=StringList(val=items)),
    ),
}
"""Types of features whose values are made without Feast's checks of each, by their name."""


def _of_one_length(column: pa.Array) -> bool:
    """Return whether a column is of lists of float32 that all have one length."""
    if not pa.types.is_list(column.type) or not pa.types.is_float32(column.type.value_type):
        return False
    lengths = np.diff(column.offsets.to_numpy())
    return not len(lengths) or bool((lengths == lengths[0]).all())


def _float_lists(column: pa.ListArray) -> list[Value]:
    """Return vectors as values by writing the protobuf bytes of a whole column at once.

    All vectors of a column have one length, so that all values have the same header:
    `Value.float_list_val`, its size, `FloatList.val` packed, its size; then the floats in little
    endian as they lie in memory.
    """
    count = len(column)
    if not count:
        return []
    flat = np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False), dtype="<f4")
    width = flat.nbytes // count
    template = Value()
    template.float_list_val.val.extend([1.0] * (width // 4))
    header = template.SerializeToString()[: -width or None]
    data = flat.tobytes()
    parse = Value.FromString
    return [parse(header + data[i : i + width]) for i in range(0, count * width, width)]


def _datetimes(column: pa.Array) -> list[datetime]:
    """Return times as naive UTC datetimes, as Feast hands them to stores; few are distinct."""
    microseconds = column.cast(pa.int64()).to_pylist()
    distinct = {us: to_datetime(us).replace(tzinfo=None) for us in set(microseconds)}
    return [distinct[us] for us in microseconds]
