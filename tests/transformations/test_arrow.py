"""What the tables of ids and positions are built from."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activity_embeddings.transformations.arrow import (
    id_column,
    ranges,
    rank_encode,
    single_chunk,
    take_rows,
)


def test_ranges_lie_one_after_the_other():
    first, sizes = np.array([10, 3, 7, 0]), np.array([2, 0, 3, 1])
    assert ranges(first, sizes).tolist() == [10, 11, 7, 8, 9, 0]
    assert (first.tolist(), sizes.tolist()) == ([10, 3, 7, 0], [2, 0, 3, 1])


@pytest.mark.parametrize("sizes", [[], [0], [0, 0, 0]])
def test_ranges_of_nothing_are_empty_positions(sizes):
    sizes = np.array(sizes, dtype=np.int64)
    found = ranges(np.full(len(sizes), 5), sizes)
    assert found.tolist() == []
    assert found.dtype == np.int64


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 6)), max_size=20))
def test_ranges_equal_the_obvious_loop(pairs):
    first = np.array([start for start, _ in pairs], dtype=np.int64)
    sizes = np.array([size for _, size in pairs], dtype=np.int64)
    expected = [start + i for start, size in pairs for i in range(size)]
    assert ranges(first, sizes).tolist() == expected


def test_a_column_that_one_array_of_int32_offsets_cannot_hold_gets_int64_ones():
    # Lists of nulls take no memory, however long they are.
    chunk = pa.ListArray.from_arrays(pa.array([0, 2**28], pa.int32()), pa.nulls(2**28))
    fits = pa.table({"x": pa.chunked_array([chunk] * 7)})
    large = pa.table({"x": pa.chunked_array([chunk] * 9), "y": range(9)})
    assert single_chunk(fits, "x").type == pa.list_(pa.null())
    column = single_chunk(large, "x")
    assert column.type == pa.large_list(pa.null())
    assert column.value_lengths().to_pylist() == [2**28] * 9
    taken = take_rows(large, np.array([8, 0]))
    assert taken["y"].to_pylist() == [8, 0]
    assert taken["x"].type == pa.large_list(pa.null())


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.int64()])
def test_ids_are_of_one_type_whatever_they_were_read_as(kind):
    values = pa.array(["3", "1", "2", "1"]).cast(kind)
    ids, codes = rank_encode(id_column(pa.table({"x": values}), "x", "source"))
    assert ids.type == (pa.int64() if kind == pa.int64() else pa.string())
    assert ids.cast(pa.string()).to_pylist() == ["1", "2", "3"]
    assert codes.tolist() == [2, 0, 1, 0]
    # As for ids too large to be read as anything else.
    ids, codes = rank_encode(values)
    assert ids.type != pa.large_string()
    assert codes.tolist() == [2, 0, 1, 0]
