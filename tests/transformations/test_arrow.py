"""Columns that enter from outside are checked; vectors become lists as long as int32 counts."""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from activity_embeddings.transformations.arrow import (
    MOST_IN_ARRAY,
    id_column,
    list_offsets,
    rank_encode,
    require_columns,
    single_chunk,
    take_rows,
    time_column,
    vector_chunks,
    vector_column,
)
from activity_embeddings.transformations.errors import InvalidInput


def test_a_column_that_one_array_of_int32_offsets_cannot_hold_gets_int64_ones():
    def nulls(length):
        """A list of nulls takes no memory, however long it is."""
        return pa.ListArray.from_arrays(pa.array([0, length], pa.int32()), pa.nulls(length))

    fits = pa.table({"x": pa.chunked_array([nulls(2**28)] * 7)})
    lists = [nulls(3), *[nulls(2**28)] * 8, nulls(2)]
    large = pa.table({"x": pa.chunked_array(lists), "y": range(10)})
    assert single_chunk(fits, "x").type == pa.list_(pa.null())
    column = single_chunk(large, "x")
    assert column.type == pa.large_list(pa.null())
    assert column.value_lengths().to_pylist() == [3, *[2**28] * 8, 2]
    taken = take_rows(large, np.array([9, 0]))  # the short ones: what is taken is written out
    assert taken["y"].to_pylist() == [9, 0]
    assert taken["x"].type == pa.large_list(pa.null())
    assert taken["x"].to_pylist() == [[None] * 2, [None] * 3]


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


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (3, 2)])
def test_vectors_become_lists(shape):
    vectors = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    assert vector_column(vectors).to_pylist() == vectors.tolist()
    assert vector_column(vectors).type == pa.list_(pa.float32())
    assert vector_chunks(vectors).to_pylist() == vectors.tolist()
    assert vector_chunks(vectors).type == pa.list_(pa.float32())


def test_as_many_values_as_int32_counts_are_taken_and_no_more():
    # The same two offsets, whatever the length of a list.
    assert list_offsets(1, MOST_IN_ARRAY).to_pylist() == [0, 2**31 - 1]
    assert list_offsets(2, MOST_IN_ARRAY // 2)[2].as_py() == 2**31 - 2
    with pytest.raises(InvalidInput, match=r"at most 2,147,483,647 values.*1 vectors|2 vectors"):
        list_offsets(2, MOST_IN_ARRAY // 2 + 1)


def test_more_values_are_split():
    vectors = np.arange(15, dtype=np.float32).reshape(5, 3)
    chunks = vector_chunks(vectors, most=7)
    assert chunks.to_pylist() == vectors.tolist()
    assert [len(chunk) for chunk in chunks.chunks] == [2, 2, 1]


@pytest.mark.parametrize("unit", ["s", "us"])
def test_times_that_stores_do_not_hold_are_refused(unit):
    """Python's `datetime.timestamp` fails within a day of its first and last year."""
    kind = pa.timestamp(unit, "UTC")
    held = pa.array([datetime(2, 1, 1), datetime(9998, 12, 31, 23, 59, 59)], kind)
    assert len(time_column(pa.table({"t": held}), "t", "source")) == 2
    for moment in (datetime(1, 12, 31), datetime(9999, 1, 1)):
        table = pa.table({"t": pa.array([moment], kind)})
        with pytest.raises(InvalidInput, match="'t' should hold times of the years 2 to 9998"):
            time_column(table, "t", "source")
    table = pa.table({"t": pa.array([2**63 - 1], pa.int64()).cast(kind)})
    with pytest.raises(InvalidInput, match="'t' should hold times of the years 2 to 9998"):
        time_column(table, "t", "source")


def test_a_column_that_is_there_twice_is_refused():
    with pytest.raises(InvalidInput, match="'a' should be there once"):
        require_columns(["a", "b", "a"], ["b", "a"], "source")
    require_columns(["a", "b", "a"], ["b"], "source")
