"""Which items a held-out activity is ranked against."""

from __future__ import annotations

import numpy as np

from activity_embeddings.training.examples.held_out import HeldOut
from activity_embeddings.training.examples.history import ActivityHistory


def candidates_among(
    history: ActivityHistory, held_out: HeldOut, query: np.ndarray, items: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which items are candidates of each of n held-out activities.

    Parameters
    ----------
    history, held_out
        The events, and the activities held out of them.
    query
        int [n]; positions in `held_out`.
    items
        int32 [m]; ascending positions in `vectors.item_ids`; each held-out item is among them.

    Returns
    -------
    tuple[np.ndarray, np.ndarray, np.ndarray]
        Rows : int32 [n, m]; rows of item vectors as of each query. candidate : bool [n, m]; items
        with a vector as of the query, without those in the member's sequence and the one held out.
        wanted : int [n]; which of the m items was held out.
    """
    as_of = held_out.sequences.as_of[query]
    rows = history.rows(np.broadcast_to(items, (len(query), len(items))), as_of)
    wanted = np.searchsorted(items, held_out.item[query])
    candidate = rows != history.vectors.pad_row
    seen = held_out.sequences.item[query]
    places = np.minimum(np.searchsorted(items, seen), len(items) - 1)
    query_of, position = np.nonzero(items[places] == seen)
    candidate[query_of, places[query_of, position]] = False
    candidate[np.arange(len(query)), wanted] = False
    return rows, candidate, wanted
