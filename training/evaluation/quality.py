"""Figures of activity embeddings on their own, without a ranker.

Those by which PinnerFormer (Pancha et al., KDD 2022) was judged: do the items nearest to a member's
embedding hold those wanted later, do they span interests, and do members get different items? They
are cheap and say what went wrong, but the ranker says what helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from activity_embeddings.training.evaluation.base_features import Categories
from activity_embeddings.training.evaluation.contenders import EvaluatedModel
from activity_embeddings.training.evaluation.data import Data
from activity_embeddings.training.evaluation.member_vectors import MemberVectors
from activity_embeddings.training.evaluation.plan import Timeline
from activity_embeddings.training.evaluation.result import COVERAGE
from activity_embeddings.training.examples.history import ActivityHistory, is_own
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.outputs import negative_outputs
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.wording import counted, out_of

FUTURE_DAYS = 7
"""Days from T2 on, until T3 at most, whose positives the nearest items should hold."""
NEAREST = 10
NEAREST_OF_ENTROPY = 50
COVERED = 90
"""Percent of all nearest items that the coverage accounts for."""
DECIMALS = 5
"""Of a cosine. Float32 is not surer, so that items this close are tied, on any machine."""
BLOCK = 16_000_000
"""Cosines computed at once; bounds the memory to some 200 MB, whatever the number of members."""


def measure_quality(
    embeddings: np.ndarray,
    item_vectors: np.ndarray,
    wanted_start: np.ndarray,
    wanted_items: np.ndarray,
    categories: Sequence[Sequence[Any] | np.ndarray | None],
) -> dict[str, float | None]:
    """Measure embeddings of n members against J items.

    The nearest items are those of the largest cosine; of tied ones, the first. A zero vector has
    the cosine 0 with everything.

    Parameters
    ----------
    embeddings
        float32 [n, D]; a row of zeros is an empty member, whose nearest items are none.
    item_vectors
        float32 [J, D].
    wanted_start
        int [n + 1].
    wanted_items
        int [total]; the items that member i wanted in the days after are
        `wanted_items[wanted_start[i]:wanted_start[i + 1]]`, positions among the J.
    categories
        The categories of interest of each of the J items, names or numbers; None is an item
        without.

    Returns
    -------
    dict
        recall_at_10 : mean over members who wanted an item later, of the share of their items, of
            which at most 10 count, among the 10 nearest; an empty member has 0.
        interest_entropy_at_50 : mean over members who are not empty, of the entropy, in nats, of
            the categories of the 50 nearest items, each category of each item counted once. None
            where no item has a category.
        p90_coverage_at_10 : the smallest share of the J items that makes up 90 % of all members'
            10 nearest. If all members get the same items, this is about 9 / J: the alarm for a
            collapsed embedding.
        norm_p10, norm_p50, norm_p90 : percentiles of the length of embeddings that are not empty.
        empty_share : share of members who are empty.

        A mean of nothing is None.

    Raises
    ------
    InvalidInput
        Shapes do not fit, a value is not finite, or a wanted item is not among the J.
    """
    embeddings, item_vectors = np.asarray(embeddings), np.asarray(item_vectors)
    wanted_start, wanted_items = np.asarray(wanted_start), np.asarray(wanted_items)
    _check(embeddings, item_vectors, wanted_start, wanted_items, categories)
    items = len(item_vectors)
    is_wanted = _Pairs(wanted_start, wanted_items, items)
    category_start, category = _numbered(categories)
    kinds = int(category.max(initial=-1)) + 1
    filled = np.flatnonzero(embeddings.any(axis=1))

    hits = np.zeros(len(embeddings), np.int64)
    entropy_sum = 0.0
    shown = np.zeros(items, np.int64)
    for member, nearest in _nearest(embeddings, filled, item_vectors, NEAREST_OF_ENTROPY):
        top = nearest[:, :NEAREST]
        hits[member] = is_wanted(member[:, None], top).sum(axis=1)
        shown += np.bincount(top.ravel(), minlength=items)
        entropy_sum += _entropies(nearest, category_start, category, kinds).sum()

    wanting = is_wanted.count > 0
    recall = hits[wanting] / np.minimum(is_wanted.count[wanting], NEAREST)
    norms = np.linalg.norm(embeddings[filled].astype(np.float64), axis=1)
    percentiles = np.percentile(norms, [10, 50, 90]) if len(filled) else [None] * 3
    norm_p10, norm_p50, norm_p90 = (None if p is None else float(p) for p in percentiles)
    return {
        "recall_at_10": float(recall.mean()) if wanting.any() else None,
        "interest_entropy_at_50": (
            float(entropy_sum / len(filled)) if len(filled) and kinds else None
        ),
        COVERAGE: _coverage(shown) if len(filled) else None,
        "norm_p10": norm_p10,
        "norm_p50": norm_p50,
        "norm_p90": norm_p90,
        "empty_share": 1 - len(filled) / len(embeddings),
    }


def _check(
    embeddings: np.ndarray,
    item_vectors: np.ndarray,
    wanted_start: np.ndarray,
    wanted_items: np.ndarray,
    categories: Sequence[Any],
) -> None:
    """Refuse what cannot be measured."""
    if (
        embeddings.ndim != 2
        or item_vectors.ndim != 2
        or embeddings.shape[1] != item_vectors.shape[1]
        or not (len(embeddings) and len(item_vectors))
    ):
        raise InvalidInput(
            "quality: `embeddings` should be [n, D] and `item_vectors` [J, D], neither without "
            f"rows. Received: {list(embeddings.shape)} and {list(item_vectors.shape)}"
        )
    for name, values in (("embeddings", embeddings), ("item_vectors", item_vectors)):
        if not np.isfinite(values).all():
            raise InvalidInput(
                f"quality: `{name}` should be finite. Received: NaN or infinity in "
                f"{out_of(int((~np.isfinite(values)).any(axis=1).sum()), len(values), 'row')}"
            )
    n, items = len(embeddings), len(item_vectors)
    if (
        wanted_start.shape != (n + 1,)
        or wanted_start[0] != 0
        or wanted_start[-1] != len(wanted_items)
        or (np.diff(wanted_start) < 0).any()
    ):
        raise InvalidInput(
            f"quality: `wanted_start` should be {n + 1} ascending positions from 0 to "
            f"{len(wanted_items)}. Received: {len(wanted_start)}, from {wanted_start[:1].tolist()} "
            f"to {wanted_start[-1:].tolist()}"
        )
    if len(wanted_items) and not 0 <= wanted_items.min() <= wanted_items.max() < items:
        raise InvalidInput(
            f"quality: `wanted_items` should be positions among {counted(items, 'item')}. "
            f"Received: from {wanted_items.min()} to {wanted_items.max()}"
        )
    if len(categories) != items:
        raise InvalidInput(
            f"quality: `categories` should have a list for each of {counted(items, 'item')}. "
            f"Received: {len(categories)}"
        )


class _Pairs:
    """Which items each member wanted, each once: asked by member and item."""

    def __init__(self, start: np.ndarray, items: np.ndarray, total: int):
        member = np.repeat(np.arange(len(start) - 1), np.diff(start))
        # Never empty, so that a search ends at something: no pair is as large.
        none = (len(start) - 1) * total
        self.sorted = np.append(np.unique(member * total + items.astype(np.int64)), none)
        self.total = total
        self.count = np.bincount(self.sorted[:-1] // total, minlength=len(start) - 1)

    def __call__(self, member: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Return whether each member wanted each item, bool of their shape."""
        pair = member * self.total + item
        return self.sorted[np.searchsorted(self.sorted, pair)] == pair


def _numbered(categories: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return categories as (start [J + 1], numbers [total])."""
    lists = [[] if of_item is None else list(of_item) for of_item in categories]
    number: dict[Any, int] = {}
    flat = [number.setdefault(c, len(number)) for of_item in lists for c in dict.fromkeys(of_item)]
    start = np.cumsum([0, *(len(set(of_item)) for of_item in lists)])
    return start, np.array(flat, np.int64)


def _nearest(
    embeddings: np.ndarray, rows: np.ndarray, item_vectors: np.ndarray, most: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows of embeddings, and positions of the items nearest to each, nearest first."""
    items = _normalised(item_vectors)
    most = min(most, len(items))
    size = max(1, BLOCK // len(items))
    for first in range(0, len(rows), size):
        block = rows[first : first + size]
        cosine = _normalised(embeddings[block]) @ items.T
        np.round(cosine, DECIMALS, out=cosine)
        least = np.partition(cosine, len(items) - most, axis=1)[:, len(items) - most]
        # At least `most` a row, more where some are tied; then the first of those.
        row, item = np.nonzero(cosine >= least[:, None])
        order = np.lexsort((item, -cosine[row, item], row))
        counts = np.bincount(row, minlength=len(block))
        start = np.cumsum(counts) - counts
        yield block, item[order][start[:, None] + np.arange(most)]


def _normalised(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length 1, float32; zeros stay zeros."""
    # In float64, since the square of a small float32 is 0.
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def _entropies(
    nearest: np.ndarray, start: np.ndarray, category: np.ndarray, kinds: int
) -> np.ndarray:
    """Return the entropy of the categories of each row of items, nats, float64 [rows]."""
    items = nearest.ravel()
    sizes = start[items + 1] - start[items]
    ends = np.cumsum(sizes)
    within = np.arange(sizes.sum()) - np.repeat(ends - sizes, sizes)
    found = category[np.repeat(start[items], sizes) + within]
    row = np.repeat(np.repeat(np.arange(len(nearest)), nearest.shape[1]), sizes)
    pair, counts = np.unique(row * kinds + found, return_counts=True)
    row = pair // max(kinds, 1)
    totals = np.bincount(row, counts, minlength=len(nearest))
    share = counts / totals[row]
    return np.bincount(row, -share * np.log(share), minlength=len(nearest))


def _coverage(shown: np.ndarray) -> float:
    """Return the smallest share of items that makes up `COVERED` percent of those shown."""
    most_first = np.cumsum(np.sort(shown)[::-1])
    enough = most_first * 100 >= COVERED * most_first[-1]
    return float((np.argmax(enough) + 1) / len(shown))


def quality_of(
    vectors: MemberVectors,
    models: Mapping[str, EvaluatedModel],
    data: Data,
    timeline: Timeline,
    categories: Categories,
) -> dict[str, dict[str, Any]]:
    """Measure each model's embeddings alone, of the members active before T2, as of T2."""
    history, events = data.history, data.history.events
    now = timeline.test.start_us
    as_of = int(data.schedule.newest(np.array([now]))[0])
    recent = (events.time >= as_of - history.spec.window_us) & (events.time < as_of)
    member = np.unique(events.member[recent])
    # Items that can be recommended: with a vector, and acted on by anyone within the window.
    known = history.vectors.known_at(history.vectors.item_ids) <= now
    acted_on = events.item[recent & is_own(events.action, history.spec)]
    items = np.flatnonzero(known & np.isin(np.arange(len(known)), acted_on))
    rows = history.rows(items, np.full(len(items), now))
    end = min(timeline.test_from + timedelta(days=FUTURE_DAYS), timeline.until)
    week = Period(timeline.test_from, end)
    start, wanted = wanted_within(history, week, member, items)
    kinds = [np.flatnonzero(categories.of_items[item]) for item in items]
    negative = negative_outputs(history.spec)
    quality = {}
    for name, model in models.items():
        outputs = vectors.embed(model.view(0), member, np.full(len(member), as_of))
        counted = [values for output, values in outputs.items() if output not in negative]
        quality[name] = measure_quality(
            np.mean(counted, axis=0), history.vectors.matrix[rows], start, wanted, kinds
        )
    return quality


def wanted_within(
    history: ActivityHistory, period: Period, member: np.ndarray, items: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the items that each member acted on positively in a period.

    Parameters
    ----------
    history, period
        The events, and when they count.
    member
        int [n], ascending; the members, positions in `history.events.member_ids`.
    items
        int [J]; the items that count, positions in `history.vectors.item_ids`.

    Returns
    -------
    tuple[np.ndarray, np.ndarray]
        Start : int [n + 1], and wanted : int [W]; those of member i are `wanted[start[i]:start[i +
        1]]`, positions in `items`.
    """
    events = history.events
    place = np.full(len(history.vectors.item_ids), -1)
    place[items] = np.arange(len(items))
    kept = (events.time >= period.start_us) & (events.time < period.end_us)
    kept &= np.isin(events.action, history.spec.positive_ids) & (place[events.item] >= 0)
    kept &= np.isin(events.member, member)
    start = np.searchsorted(events.member[kept], [*member, len(events.member_ids)])
    return start, place[events.item[kept]]
