"""Columns of bytes, made of others by numpy and Arrow: no Python object a row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def joined(*parts: bytes | pa.BinaryArray) -> pa.BinaryArray:
    """Return the parts of each row one after the other; plain bytes are in every row."""
    made = [pa.scalar(each, pa.binary()) if isinstance(each, bytes) else each for each in parts]
    return pc.binary_join_element_wise(*made, pa.scalar(b"", pa.binary()))


def fixed_width(values: np.ndarray) -> pa.BinaryArray:
    """Return each row of an array, [n] or [n, m], as the bytes that it has in memory."""
    width = values.dtype.itemsize * int(np.prod(values.shape[1:]))
    return of_offsets(np.arange(len(values) + 1) * width, np.ascontiguousarray(values))


def of_offsets(offsets: np.ndarray, data: np.ndarray | pa.Buffer) -> pa.BinaryArray:
    """Return the bytes of `data` between n + 1 offsets as n rows; an error past 2 GB."""
    _, checked = pa.array(offsets, pa.int32()).buffers()
    buffers = [None, checked, pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)


def offsets_of(column: pa.BinaryArray) -> np.ndarray:
    """Return where rows begin and end in the data of a column: int32 [n + 1]."""
    offsets = np.frombuffer(column.buffers()[1], np.int32)
    return offsets[column.offset : column.offset + len(column) + 1]


def data_of(column: pa.BinaryArray) -> memoryview:
    """Return the bytes of all rows of a column that `joined` has made, by its `offsets_of`."""
    return memoryview(column.buffers()[2] or b"")[: offsets_of(column)[-1]]


def lengths(column: pa.BinaryArray) -> np.ndarray:
    """Return the number of bytes of each row, of which none is null: int32 [n]."""
    return np.diff(offsets_of(column))


def written(numbers: np.ndarray, write: Callable[[int], bytes]) -> pa.BinaryArray:
    """Return what `write` makes of each number, of which few are distinct."""
    distinct, which = np.unique(numbers, return_inverse=True)
    made = [write(number) for number in distinct.tolist()]
    return pa.array(made, pa.binary()).take(pa.array(which))


def grouped(column: pa.BinaryArray, offsets: np.ndarray) -> pa.BinaryArray:
    """Return rows of a column put together to n rows, by n + 1 offsets into it."""
    return of_offsets(offsets_of(column)[offsets], column.buffers()[2] or pa.py_buffer(b""))


def varints(numbers: np.ndarray) -> pa.BinaryArray:
    """Return integers as protobuf writes them: 7 bits a byte, negative ones as of 64 bits."""
    left = numbers.astype(np.int64).view(np.uint64)
    size = np.ones(len(left), np.int32)
    for bits in range(7, 64, 7):
        longer = left >= np.uint64(1 << bits)
        if not longer.any():
            break
        size += longer
    offsets = np.concatenate([[0], np.cumsum(size)])
    data = np.empty(offsets[-1], np.uint8)
    for position in range(size.max(initial=0)):
        there = slice(None) if size.min() > position else size > position
        more = (size[there] > position + 1).astype(np.uint8) << 7
        seven = (left[there] >> np.uint64(7 * position)).astype(np.uint8) & 127
        data[offsets[:-1][there] + position] = seven | more
    return of_offsets(offsets, data)
