"""Vectors become Arrow lists as long as int32 can count them, and are refused or split beyond."""

import numpy as np
import pyarrow as pa
import pytest

from activity_embeddings.transformations.definitions.schemas import (
    MOST_VALUES,
    list_offsets,
    vector_chunks,
    vector_column,
)
from activity_embeddings.transformations.errors import InvalidInput


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (3, 2)])
def test_vectors_become_lists(shape):
    vectors = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    assert vector_column(vectors).to_pylist() == vectors.tolist()
    assert vector_column(vectors).type == pa.list_(pa.float32())
    assert vector_chunks(vectors).to_pylist() == vectors.tolist()
    assert vector_chunks(vectors).type == pa.list_(pa.float32())


def test_as_many_values_as_int32_counts_are_taken_and_no_more():
    # The same two offsets, whatever the length of a list.
    assert list_offsets(1, MOST_VALUES).to_pylist() == [0, 2**31 - 1]
    assert list_offsets(2, MOST_VALUES // 2)[2].as_py() == 2**31 - 2
    with pytest.raises(InvalidInput, match=r"at most 2,147,483,647 values.*1 vectors|2 vectors"):
        list_offsets(2, MOST_VALUES // 2 + 1)


def test_more_values_are_split():
    vectors = np.arange(15, dtype=np.float32).reshape(5, 3)
    chunks = vector_chunks(vectors, most=7)
    assert chunks.to_pylist() == vectors.tolist()
    assert [len(chunk) for chunk in chunks.chunks] == [2, 2, 1]
