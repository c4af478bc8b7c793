"""Arrow columns as the bytes that Feast's online stores hold, a column at a time.

A feature's bytes are those of its protobuf `Value`, a key's those of `serialize_entity_key`. A
Python object for each, the usual way, is where the time of publishing goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, Field
from feast.protos.feast.types.Value_pb2 import Value, ValueType
from feast.types import (
    Array,
    Bool,
    Bytes,
    FeastType,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
)

from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import TIMESTAMP, require_utf8
from activity_embeddings.transformations.feast_compat.values import (
    NULL_TIMESTAMP,
    python_values_to_proto_values,
    searched_text,
)
from activity_embeddings.transformations.online.byte_columns import (
    fixed_width,
    grouped,
    joined,
    lengths,
    of_offsets,
    varints,
    written,
)
from activity_embeddings.transformations.times import SECOND


class FeatureBytes(NamedTuple):
    """A feature of n rows.

    Attributes
    ----------
    values
        binary [n]; serialised `Value`s, empty where there is none.
    texts
        string [n]; what Feast's SQL stores keep beside a value, to be searched. None: nothing.
    """

    values: pa.BinaryArray
    texts: pa.StringArray | None = None


@dataclass(frozen=True)
class RowBytes:
    """n rows of a view.

    Attributes
    ----------
    keys
        binary [n].
    features
        One of n rows for each feature, in the view's order.
    event_times
        int64 [n]; microseconds since the epoch.
    created_times
        The same; None where the rows have none.
    """

    keys: pa.BinaryArray
    features: dict[str, FeatureBytes]
    event_times: np.ndarray
    created_times: np.ndarray | None


def row_bytes(view: FeatureView, batch: pa.RecordBatch) -> RowBytes:
    """Return a record batch as the bytes of rows."""
    created = None
    if names.CREATED_TIMESTAMP in batch.schema.names:
        created = _microseconds(batch.column(names.CREATED_TIMESTAMP))
    return RowBytes(
        keys=row_keys(view, batch),
        features={
            field.name: feature_bytes(batch.column(field.name), field) for field in view.features
        },
        event_times=event_times(batch),
        created_times=created,
    )


def event_times(batch: pa.RecordBatch) -> np.ndarray:
    """Return the event times of rows, microseconds since the epoch: int64 [n]."""
    return _microseconds(batch.column(names.EVENT_TIMESTAMP))


def join_key_of(view: FeatureView) -> str:
    """Return the one join key of a view."""
    (join_key,) = view.join_keys
    return join_key


def row_keys(view: FeatureView, batch: pa.RecordBatch) -> pa.BinaryArray:
    """Return the keys of rows, in version 3 of Feast's serialisation."""
    join_key = join_key_of(view)
    ids, name = batch.column(join_key), join_key.encode()
    head = _numbers(1, ValueType.STRING, len(name)) + name
    if pa.types.is_integer(ids.type):
        numbers = ids.cast(pa.int64()).to_numpy().astype("<i8", copy=False)
        return joined(head + _numbers(ValueType.INT64, 8), fixed_width(numbers))
    text = ids.cast(pa.string()).cast(pa.binary())
    size = fixed_width(lengths(text).astype("<u4"))
    return joined(head + _numbers(ValueType.STRING), size, text)


def feature_bytes(column: pa.Array, field: Field) -> FeatureBytes:
    """Return a column as a feature, of the type that the view declares.

    Raises
    ------
    InvalidData
        Text is not UTF-8: no reader could take it.
    """
    require_utf8(column, field.name, "rows for the online store")
    kind, encode = _ENCODERS.get(str(field.dtype), (None, None))
    if encode is not None and column.type == kind:
        return encode(column)
    # Types of Feast that are rare, and columns of another type, which Feast converts.
    values = python_values_to_proto_values(column.to_pylist(), field.dtype.to_value_type())
    return FeatureBytes(
        pa.array([value.SerializeToString() for value in values], pa.binary()),
        pa.array([searched_text(value) for value in values], pa.string()),
    )


def _integers(kind: str, column: pa.Array) -> FeatureBytes:
    values = joined(_tag(kind, _VARINT), varints(column.fill_null(0).to_numpy()))
    return FeatureBytes(_where(column.is_valid(), values), column.cast(pa.string()))


def _times(kind: str, column: pa.Array) -> FeatureBytes:
    seconds = _microseconds(column.fill_null(0)) // SECOND
    values = joined(_tag(kind, _VARINT), varints(seconds))
    return FeatureBytes(_where(column.is_valid(), values))


def _truths(kind: str, column: pa.Array) -> FeatureBytes:
    tag = _tag(kind, _VARINT)
    values = pc.if_else(column.fill_null(False), tag + b"\1", tag + b"\0")
    return FeatureBytes(_where(column.is_valid(), values), pc.if_else(column, "True", "False"))


def _floats(kind: str, wire: int, column: pa.Array) -> FeatureBytes:
    # Feast takes NaN for a missing number.
    there = pc.fill_null(pc.invert(pc.is_nan(column)), False)
    values = joined(_tag(kind, wire), fixed_width(_little_endian(column.fill_null(0))))
    numbers = pc.if_else(there, column, None).to_pylist()
    texts = [None if number is None else str(number) for number in numbers]
    return FeatureBytes(_where(there, values), pa.array(texts, pa.string()))


def _text(kind: str, column: pa.Array) -> FeatureBytes:
    text = column.cast(pa.binary()).fill_null(b"")
    values = joined(_tag(kind, _BYTES), varints(lengths(text)), text)
    return FeatureBytes(_where(column.is_valid(), values), column)


def _lists(
    kind: str,
    make: Callable[[pa.Array, np.ndarray], pa.BinaryArray],
    packed: bool,
    column: pa.Array,
) -> FeatureBytes:
    """Return lists; `make` makes the bytes of each out of all items and n + 1 offsets."""
    offsets = column.offsets.to_numpy()
    items = column.values.slice(offsets[0], offsets[-1] - offsets[0])
    lists = make(items, offsets - offsets[0])
    tag = _tag(kind, _BYTES)

    def head(size: int) -> bytes:
        """Return the head of a list whose items take some bytes."""
        inner = _ITEM + _varint(size) if packed and size else b""
        return tag + _varint(len(inner) + size) + inner

    return FeatureBytes(_where(column.is_valid(), joined(written(lengths(lists), head), lists)))


def _integer_items(items: pa.Array, offsets: np.ndarray) -> pa.BinaryArray:
    return grouped(varints(items.fill_null(0).to_numpy()), offsets)


def _time_items(items: pa.Array, offsets: np.ndarray) -> pa.BinaryArray:
    # Towards 1970, where one time alone is cut towards the past: as Feast does either.
    seconds = pc.divide(items.cast(pa.int64()), SECOND).fill_null(NULL_TIMESTAMP)
    return grouped(varints(seconds.to_numpy()), offsets)


def _truth_items(items: pa.Array, offsets: np.ndarray) -> pa.BinaryArray:
    return of_offsets(offsets, items.fill_null(False).cast(pa.uint8()).to_numpy())


def _float_items(items: pa.Array, offsets: np.ndarray) -> pa.BinaryArray:
    numbers = _little_endian(items.fill_null(0))
    return of_offsets(offsets * numbers.itemsize, numbers)


def _text_items(items: pa.Array, offsets: np.ndarray) -> pa.BinaryArray:
    text = items.cast(pa.binary()).fill_null(b"")
    return grouped(joined(_ITEM, varints(lengths(text)), text), offsets)


_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
"""How protobuf tells what follows: a varint, 8 bytes, bytes that say how many, 4 bytes."""
_ITEM = bytes([1 << 3 | _BYTES])
"""The tag of the items of a list: its first field."""


def _tag(kind: str, wire: int) -> bytes:
    return _varint(Value.DESCRIPTOR.fields_by_name[kind].number << 3 | wire)


def _varint(number: int) -> bytes:
    """Return one small number as `varints` does many."""
    seven = [number >> bits & 127 for bits in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(each | 128 for each in seven[:-1]), seven[-1]])


def _where(there: pa.BooleanArray, values: pa.BinaryArray) -> pa.BinaryArray:
    """Return values, and no bytes where there is none."""
    return values if there.true_count == len(there) else pc.if_else(there, values, b"")


def _numbers(*numbers: int) -> bytes:
    return np.array(numbers, "<u4").tobytes()


def _little_endian(column: pa.Array) -> np.ndarray:
    numbers = column.to_numpy()
    return numbers.astype(numbers.dtype.newbyteorder("<"), copy=False)


def _microseconds(column: pa.Array) -> np.ndarray:
    return column.cast(pa.int64()).to_numpy()


_Encoder: TypeAlias = Callable[[pa.Array], FeatureBytes]
_SCALARS: list[tuple[FeastType, pa.DataType, _Encoder]] = [
    (Int32, pa.int32(), partial(_integers, "int32_val")),
    (Int64, pa.int64(), partial(_integers, "int64_val")),
    (UnixTimestamp, TIMESTAMP, partial(_times, "unix_timestamp_val")),
    (Bool, pa.bool_(), partial(_truths, "bool_val")),
    (Float32, pa.float32(), partial(_floats, "float_val", _FOUR)),
    (Float64, pa.float64(), partial(_floats, "double_val", _EIGHT)),
    (String, pa.string(), partial(_text, "string_val")),
]
_LISTS: list[tuple[FeastType, pa.DataType, _Encoder]] = [
    (Int32, pa.int32(), partial(_lists, "int32_list_val", _integer_items, True)),
    (Int64, pa.int64(), partial(_lists, "int64_list_val", _integer_items, True)),
    (UnixTimestamp, TIMESTAMP, partial(_lists, "unix_timestamp_list_val", _time_items, True)),
    (Bool, pa.bool_(), partial(_lists, "bool_list_val", _truth_items, True)),
    (Float32, pa.float32(), partial(_lists, "float_list_val", _float_items, True)),
    (Float64, pa.float64(), partial(_lists, "double_list_val", _float_items, True)),
    (String, pa.string(), partial(_lists, "string_list_val", _text_items, False)),
    (Bytes, pa.binary(), partial(_lists, "bytes_list_val", _text_items, False)),
]
_ENCODERS: dict[str, tuple[pa.DataType, _Encoder]] = {
    **{str(kind): (arrow, encode) for kind, arrow, encode in _SCALARS},
    **{str(Array(item)): (pa.list_(arrow), encode) for item, arrow, encode in _LISTS},
}
"""How columns of some types become features, by the type of the feature: the type of such columns,
and the function. Of bytes alone Feast makes what depends on the other rows of a batch."""
