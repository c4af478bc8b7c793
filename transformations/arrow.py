"""Checks and conversions shared by every Arrow table that enters from outside."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from activity_embeddings.transformations import names
from activity_embeddings.transformations.errors import InvalidData, first_line, quote
from activity_embeddings.transformations.times import to_us
from activity_embeddings.transformations.wording import are, out_of

TIMESTAMP = pa.timestamp("us", "UTC")
"""The type of the times that this package writes."""
EARLIEST, LATEST = to_us(datetime(2, 1, 1)), to_us(datetime(9999, 1, 1))
"""Feast hands times to its stores as datetimes, and some move these to another zone."""
MOST_IN_ARRAY = 2**31 - 1
"""Arrow counts the bytes of text, and the elements of lists, of one array in int32."""


NAMES_AS_THEY_ARE: Mapping[str, str] = MappingProxyType({})
"""What errors call columns whose names are those of the user."""


def require_columns(names: Iterable[str], expected: Iterable[str], source: str) -> None:
    """Raise `InvalidData` unless every column in `expected` is among `names`, once."""
    names, expected = list(names), list(expected)
    missing = [name for name in expected if name not in names]
    if missing:
        raise InvalidData(
            f"{source}: {'column' if len(missing) == 1 else 'columns'} "
            f"{', '.join(map(repr, missing))} {are(len(missing))} missing. "
            f"Received columns: {', '.join(names)}"
        )
    twice = [name for name in expected if names.count(name) > 1]
    if twice:
        raise InvalidData(
            f"{source}: column {twice[0]!r} should be there once. Received: "
            f"{names.count(twice[0])} columns of this name"
        )


def single_chunk(table: pa.Table, column: str) -> pa.Array:
    """Return one column as one Arrow array.

    Text and lists that int32 offsets cannot count, as long ids of 60 million events, get int64
    ones: their type is then `large_string` or `large_list`.
    """
    values = table.column(column)
    try:
        values = values.combine_chunks()
    except pa.ArrowInvalid:  # of too many bytes or elements; nothing else can fail
        values = values.cast(_with_int64_offsets(values.type)).combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    return values


def take_rows(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Return some rows of a table, in the order of `rows`, whatever the size of its columns.

    `pyarrow.Table.take` puts each column together first; see `single_chunk`.
    """
    columns = [single_chunk(table, name).take(pa.array(rows)) for name in table.column_names]
    return pa.table(columns, names=table.column_names)


def _with_int64_offsets(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.large_list(_with_int64_offsets(kind.value_type))
    return {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}.get(kind, kind)


def require_no_nulls(values: pa.Array, column: str, source: str) -> None:
    """Raise `InvalidData` where a column that must be filled holds nulls."""
    if values.null_count:
        raise InvalidData(
            f"{source}: column {column!r} should hold no nulls. "
            f"Received: {out_of(values.null_count, len(values), 'row')} "
            f"{are(values.null_count)} null"
        )


def id_column(
    table: pa.Table, column: str, source: str, called: Mapping[str, str] = NAMES_AS_THEY_ARE
) -> pa.Array:
    """Return an id column as int64 or string, without nulls; `large_string` if it is too large.

    Errors say what `called` calls the column, where it does.

    Raises
    ------
    InvalidData
        The column is neither integer nor string, holds nulls, or an id that cannot be kept apart
        from others everywhere: an integer outside int64, text that is not UTF-8 or holds NUL.
    """
    values, column = single_chunk(table, column), called.get(column, column)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not (pa.types.is_integer(values.type) or is_text(values.type)):
        raise InvalidData(
            f"{source}: column {column!r} should be int64 or string. Received: {values.type}"
        )
    require_no_nulls(values, column, source)
    try:
        if pa.types.is_integer(values.type):
            return values.cast(pa.int64())
        too_long = pa.types.is_large_string(values.type) and values.nbytes >= MOST_IN_ARRAY
        return _checked_text(values if too_long else values.cast(pa.string()))
    except pa.ArrowInvalid as error:
        raise InvalidData(
            f"{source}: column {column!r} should hold ids of int64, or text in UTF-8 without NUL. "
            f"Received: {first_line(error)}"
        ) from error


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds text."""
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def require_utf8(values: pa.Array, column: str, source: str) -> None:
    """Raise `InvalidData` where text is not UTF-8, whatever the file says of it."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InvalidData(
            f"{source}: column {column!r} should hold text in UTF-8. Received: {first_line(error)}"
        ) from error


def _checked_text(values: pa.Array) -> pa.Array:
    """Return text ids, after checking what they hold.

    C strings and numpy's byte strings end at a NUL, and PostgreSQL stores none: with one, two ids
    would be one somewhere.
    """
    values.validate(full=True)
    if pc.any(pc.match_substring(values, "\0")).as_py():
        bad = values.filter(pc.match_substring(values, "\0"))
        raise pa.ArrowInvalid(
            f"{quote(bad[0].as_py())} with a NUL, in {out_of(len(bad), len(values), 'row')}"
        )
    return values


def time_column(
    table: pa.Table, column: str, source: str, called: Mapping[str, str] = NAMES_AS_THEY_ARE
) -> np.ndarray:
    """Return a timestamp column with a zone as int64 microseconds since the epoch.

    What is finer than a microsecond is cut off, towards the past. Errors say what `called` calls
    the column, where it does.

    Raises
    ------
    InvalidData
        The column is not a timestamp, has no time zone, holds nulls, or a time that stores do not
        hold.
    """
    values, column = single_chunk(table, column), called.get(column, column)
    require_zoned_time(values.type, column, source)
    require_no_nulls(values, column, source)
    if values.type.unit == "ns":
        # Arrow's own cast cuts towards 1970, which is later for what was before.
        return values.view(pa.int64()).to_numpy(zero_copy_only=False) // 1_000
    try:
        in_us = values.cast(pa.timestamp("us", values.type.tz)).view(pa.int64())
        time = in_us.to_numpy(zero_copy_only=False)
        if len(time) and not EARLIEST <= time.min() <= time.max() < LATEST:
            far = time.min() if time.min() < EARLIEST else time.max()
            raise pa.ArrowInvalid(f"{far} microseconds since 1970")
    except pa.ArrowInvalid as error:
        raise InvalidData(
            f"{source}: column {column!r} should hold times of the years 2 to 9998. "
            f"Received: {first_line(error)}"
        ) from error
    return time


def require_zoned_time(kind: pa.DataType, column: str, source: str) -> None:
    """Raise `InvalidData` unless a type is a timestamp with a time zone, of any unit and zone."""
    if not pa.types.is_timestamp(kind):
        raise InvalidData(
            f"{source}: column {column!r} should be a timestamp in UTC. Received: {kind}"
        )
    if kind.tz is None:
        raise InvalidData(
            f"{source}: column {column!r} should be a timestamp with time zone UTC. "
            f"Received: {kind} without a time zone (naive)"
        )


def rank_encode(values: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Replace ids by their rank.

    Parameters
    ----------
    values
        int64 or string array of n ids.

    Returns
    -------
    (ids, codes) : the distinct ids in ascending order (strings by UTF-8 bytes), and int32 codes
        [n] with `ids[codes] == values`.

    Raises
    ------
    InvalidData
        The text of the distinct ids is longer than 2 GiB, or there are as many ids.
    """
    try:
        encoded = values.dictionary_encode()
        if pa.types.is_large_string(values.type):
            encoded = encoded.cast(pa.dictionary(pa.int32(), pa.string()))
    except pa.ArrowInvalid as error:
        raise InvalidData(
            f"ids: expected fewer than 2^31 distinct ones, of at most 2 GiB of text together. "
            f"Received: {len(values):,} ids; {error}. Use shorter ids, or int64"
        ) from error
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    ranks = np.empty(len(order), dtype=np.int32)
    ranks[order] = np.arange(len(order), dtype=np.int32)
    codes = ranks[encoded.indices.to_numpy(zero_copy_only=False)]
    return encoded.dictionary.take(pa.array(order)), codes


def codes_of(values: pa.Array, ids: pa.Array, *, what: str = names.MEMBER_ID) -> np.ndarray:
    """Look ids up: int32 positions of `values` in the distinct `ids`, -1 where absent.

    Raises
    ------
    InvalidData
        The two have different types; `what` names them.
    """
    if values is ids:
        return np.arange(len(ids), dtype=np.int32)
    if len(ids) == 0 or len(values) == 0:
        return np.full(len(values), -1, dtype=np.int32)
    require_one_type(values, ids, what=what)
    found = pc.index_in(values, value_set=ids)
    return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)


def require_one_type(values: pa.Array, ids: pa.Array, *, what: str = names.MEMBER_ID) -> None:
    """Raise `InvalidData` where ids are of another type than others; where there are none, never.

    `what` names them.
    """
    if len(values) and len(ids) and values.type != ids.type:
        raise InvalidData(
            f"{what} should have one type everywhere. Received: {values.type} and {ids.type}"
        )


class ArrayHash:
    """A hash of arrays and texts, in the order in which they are added."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, *values: pa.Array | np.ndarray | str | None) -> None:
        """Add values; nothing of None."""
        for value in values:
            if isinstance(value, str):
                self._hash.update(value.encode())
            elif isinstance(value, np.ndarray):
                self._hash.update(f"{value.dtype.str} {value.shape} ".encode())
                self._hash.update(np.ascontiguousarray(value).data)
            elif value is not None:
                self._hash.update(pa.record_batch([value], ["values"]).serialize())

    def __str__(self) -> str:
        """Return 32 hexadecimal digits."""
        return self._hash.hexdigest()[:32]


def sorted_union(*ids: pa.Array) -> pa.Array:
    """Return the distinct ids of all arrays, ascending."""
    filled = [part for part in ids if len(part)]
    if not filled:
        return ids[0]
    distinct = pc.unique(pa.concat_arrays(filled))
    return distinct.take(pc.sort_indices(distinct))


def vector_column(vectors: np.ndarray) -> pa.ListArray:
    """Return float32 [n, d] as n lists.

    Raises
    ------
    InvalidInput
        There are more than 2^31 - 1 values, which no Arrow list array holds; see `vector_chunks`.
    """
    return pa.ListArray.from_arrays(list_offsets(*vectors.shape), pa.array(vectors.ravel()))


def vector_chunks(vectors: np.ndarray, most: int = MOST_IN_ARRAY) -> pa.ChunkedArray:
    """Return float32 [n, d], however large, as n lists in chunks of at most `most` values."""
    at_once = max(1, most // max(1, vectors.shape[1]))
    starts = range(0, max(1, len(vectors)), at_once)
    return pa.chunked_array([vector_column(vectors[i : i + at_once]) for i in starts])


def list_offsets(count: int, length: int) -> pa.Array:
    """Return the offsets, int32 [count + 1], of lists of one length.

    Raises
    ------
    InvalidData
        The last one is not an int32.
    """
    if count * length > MOST_IN_ARRAY:
        raise InvalidData(
            f"vectors: expected at most {MOST_IN_ARRAY:,} values in one Arrow array. Received: "
            f"{count:,} vectors of length {length:,}"
        )
    return pa.array(np.arange(count + 1, dtype=np.int64) * length, pa.int32())
