"""In which place a ranker puts the one item that was wanted, and the figures of those places.

Lists are whole: metrics on sampled candidates can order two rankers wrongly (Krichene and Rendle,
KDD 2020). AUC over all rows and log loss are scikit-learn's `roc_auc_score` and `log_loss`.
"""

from __future__ import annotations

import numpy as np

from activity_embeddings.transformations.errors import InvalidInput


def places(scores: np.ndarray, wanted: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Return how many candidates are ranked before the wanted one of each list.

    Candidates of one score share the mean of their places, rounded down, so that scores that are
    all equal rank nothing high.

    Parameters
    ----------
    scores
        float [n, m], higher is better.
    wanted
        int [n]; columns.
    candidate
        bool [n, m]; what the wanted one is ranked against; itself it does not count.

    Returns
    -------
    int64 [n]
        0 is the best place.

    Raises
    ------
    InvalidInput
        A score of a candidate or a wanted one is NaN, there is no such column, or shapes do not
        fit.
    """
    scores, wanted, candidate = np.asarray(scores), np.asarray(wanted), np.asarray(candidate)
    if scores.ndim != 2 or candidate.shape != scores.shape or wanted.shape != scores.shape[:1]:
        raise InvalidInput(
            "`scores` and `candidate` should be [n, m] and `wanted` [n]. Received: "
            f"{list(scores.shape)}, {list(candidate.shape)} and {list(wanted.shape)}"
        )
    if ((wanted < 0) | (wanted >= scores.shape[1])).any():
        raise InvalidInput(
            f"`wanted` should be columns of {scores.shape[1]}. Received: from {wanted.min()} to "
            f"{wanted.max()}"
        )
    own = np.take_along_axis(scores, wanted[:, None], axis=1)
    _refuse_nan(np.isnan(own).any() or (np.isnan(scores) & candidate).any())
    before = ((scores > own) & candidate).sum(axis=1)
    equal = ((scores == own) & candidate).sum(axis=1)
    equal -= np.take_along_axis(candidate, wanted[:, None], axis=1)[:, 0]
    return before + equal // 2


def places_of_groups(scores: np.ndarray, group_start: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return how many candidates are ranked before the wanted one of lists laid end to end.

    As `places`, of lists of any lengths.

    Parameters
    ----------
    scores
        float [total], higher is better.
    group_start
        int [n + 1]; list i is `scores[group_start[i]:group_start[i + 1]]`.
    wanted
        int [n]; position in `scores` of the wanted row of each list.

    Returns
    -------
    int64 [n]
        0 is the best place.

    Raises
    ------
    InvalidInput
        A score is NaN, the lists do not make up `scores`, or a wanted row is outside its list.
    """
    scores, start, wanted = np.asarray(scores), np.asarray(group_start), np.asarray(wanted)
    if len(start) != len(wanted) + 1 or start[0] != 0 or start[-1] != len(scores):
        raise InvalidInput(
            f"`group_start` should be {len(wanted) + 1} positions from 0 to {len(scores)}. "
            f"Received: {len(start)}, from {start[:1].tolist()} to {start[-1:].tolist()}"
        )
    outside = (wanted < start[:-1]) | (wanted >= start[1:])
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise InvalidInput(
            f"`wanted` should be in its own list. Received: {wanted[first]} for list {first}, "
            f"which is from {start[first]} to before {start[first + 1]}"
        )
    _refuse_nan(np.isnan(scores).any())
    # No list is empty, since its wanted row is in it, as `reduceat` needs.
    own = np.repeat(scores[wanted], np.diff(start))
    before = np.add.reduceat(scores > own, start[:-1], dtype=np.int64)
    equal = np.add.reduceat(scores == own, start[:-1], dtype=np.int64) - 1
    return before + equal // 2


def _refuse_nan(found: bool | np.bool_) -> None:
    # A NaN is before nothing and after nothing: a wanted item with one would be first.
    if found:
        raise InvalidInput("`scores` should be numbers. Received: NaN among them")


def ndcg_at(places: np.ndarray, k: int) -> np.ndarray:
    """Return NDCG@k of lists with one relevant item, float [n]: `1 / log2(place + 2)`, else 0."""
    places = np.asarray(places)
    return np.where(places < k, 1 / np.log2(places + 2), 0.0)


def recall_at(places: np.ndarray, k: int) -> np.ndarray:
    """Return whether the wanted item is among the best k, float [n]: 1 or 0."""
    return (np.asarray(places) < k).astype(np.float64)


def reciprocal_rank(places: np.ndarray) -> np.ndarray:
    """Return `1 / (place + 1)`, float [n]."""
    return 1 / (np.asarray(places) + 1)


def mean_by_member(values: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each member's values.

    Parameters
    ----------
    values
        float [n].
    member
        [n]; of any type that sorts.

    Returns
    -------
    tuple[np.ndarray, np.ndarray]
        Members : ascending, each once. means : float64, of each of them.
    """
    members, position = np.unique(member, return_inverse=True)
    counts = np.bincount(position, minlength=len(members))
    return members, np.bincount(position, values, minlength=len(members)) / counts


def within_member_auc(
    label: np.ndarray, score: np.ndarray, member: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the AUC among each member's own rows.

    Unlike the AUC over all rows, this does not reward knowing which members like everything. By
    the ranks of the rows that were liked, where rows of one score share their mean rank (Mann and
    Whitney 1947).

    Parameters
    ----------
    label
        bool or 0 and 1 [n].
    score
        float [n], higher means more likely 1.
    member
        [n]; of any type that sorts.

    Returns
    -------
    tuple[np.ndarray, np.ndarray]
        Members : those with rows of both labels, ascending. auc : float64, of each of them.

    Raises
    ------
    InvalidInput
        A label is not 0 or 1, or a score is NaN.
    """
    label, score = np.asarray(label), np.asarray(score)
    if not np.isin(label, (0, 1)).all():
        received = label[~np.isin(label, (0, 1))][0]
        raise InvalidInput(f"`label` should be 0 or 1. Received: {received}")
    if np.isnan(score).any():
        raise InvalidInput("`score` should be numbers. Received: NaN among them")
    members, position = np.unique(member, return_inverse=True)
    order = np.lexsort((score, position))
    position, score, label = position[order], score[order], label[order].astype(bool)
    # Runs of one member and one score: all rows of a run get the mean of its ranks.
    new = np.ones(len(order), bool)
    new[1:] = (position[1:] != position[:-1]) | (score[1:] != score[:-1])
    start = np.flatnonzero(new)
    end = np.append(start[1:], len(order))
    rank = ((start + 1 + end) / 2)[np.cumsum(new) - 1]
    rows = np.bincount(position, minlength=len(members))
    rank -= (np.cumsum(rows) - rows)[position]
    ones = np.bincount(position[label], minlength=len(members))
    pairs = ones * (rows - ones)
    summed = np.bincount(position[label], rank[label], minlength=len(members))
    mixed = pairs > 0
    return members[mixed], (summed - ones * (ones + 1) / 2)[mixed] / pairs[mixed]
