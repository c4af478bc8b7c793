"""Slices of one array are listed one after the other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activity_embeddings.transformations.ragged import ranges


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
