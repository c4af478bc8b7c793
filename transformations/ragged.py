"""Arrays of slices: many lists of different lengths that lie one after the other in one array."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np


def with_last(values: np.ndarray, last: float) -> np.ndarray:
    """Return `values` with `last` appended, which index -1 (PAD) then selects."""
    longer = np.empty(len(values) + 1, dtype=values.dtype)
    longer[:-1] = values
    longer[-1] = last
    return longer


def ranges(first: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the concatenated ranges `first[i] : first[i] + sizes[i]`, int64."""
    starts = np.cumsum(sizes) - sizes
    return np.arange(int(sizes.sum())) + np.repeat(first - starts, sizes)


FEW_QUERIES = 8
"""Up to this number, queries are faster one by one than together."""


def bisect(
    sorted_times: np.ndarray, low: np.ndarray, high: np.ndarray, value: np.ndarray, *, right: bool
) -> np.ndarray:
    """Binary search of many values, each within its own slice of one array.

    Parameters
    ----------
    sorted_times
        int64 [E]; ascending within every slice that is searched.
    low, high
        int [n]; slice `sorted_times[low:high]` belongs to query n.
    value
        int64 [n]; what is searched.
    right
        As in `numpy.searchsorted`: False gives the first position whose time is `>= value`, True
        the first whose time is `> value`.

    Returns
    -------
    np.ndarray
        int64 [n]; positions in `sorted_times`.
    """
    if len(low) <= FEW_QUERIES:
        search = bisect_right if right else bisect_left
        queries = zip(value.tolist(), low.tolist(), high.tolist(), strict=True)
        return np.array([search(sorted_times, *query) for query in queries], dtype=np.int64)
    low = low.astype(np.int64, copy=True)
    high = high.astype(np.int64, copy=True)
    last = len(sorted_times) - 1
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) >> 1
        times = sorted_times[np.minimum(middle, last)]
        goes_right = (times <= value) if right else (times < value)
        goes_right &= low < high
        low = np.where(goes_right, middle + 1, low)
        high = np.where(goes_right, high, middle)
    return low
