"""What any item recommender knows without an activity embedding, as of any moment.

Popularity and age of items, the share of a member's activity that was positive, the categories of
the items that a member ever wanted, and, as an older baseline, sums of the categories of recent
items. The moment is that of the newest daily run whose values were available at the time of the
query, or, of members, the time of the query; what counts lies strictly before it, so that no query
sees itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import codes_of, single_chunk, time_column
from activity_embeddings.transformations.ragged import bisect
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

ITEM_STATISTICS = (
    "positives_1d",
    "positives_7d",
    "positives_28d",
    "positives",
    "positive_share",
    "days_since_activity",
    "days_since_first_activity",
    "days_since_posted",
)
MEMBER_STATISTICS = ("activities", "positive_share")
PROFILE = "wanted_categories"
"""Feature of a member: how often each category was among the items wanted, to date."""
_DAYS = (1, 7, 28)
_PRIOR = 10
"""Activities at the mean share that every share of positives starts with: few say little."""
MOST_DAYS = 365.0
"""Cap, in days; also used when there was no such event."""


@dataclass(frozen=True, eq=False)
class Categories:
    """Which categories each of J items has, and how much each of C counts.

    Attributes
    ----------
    names
        Names of the categories, ascending.
    of_items
        float32 [J, C]; 1 where an item has a category.
    weights
        float32 [C]; log(items / items with the category), the inverse document frequency, of the
        items that were posted by a time.
    """

    names: tuple[str, ...]
    of_items: np.ndarray
    weights: np.ndarray

    @classmethod
    def from_arrow(
        cls, postings: pa.Table, columns: Sequence[str], item_ids: pa.Array, *, until: int
    ) -> Categories:
        """Read categories from columns of text or lists of text.

        An item has those of its newest posting up to a time, or else of its first one: a later
        change of a posting is not known before. What a category counts is told by the items posted
        by then, or else by all.

        Parameters
        ----------
        postings
            `job_id`, `event_timestamp` and the columns.
        columns
            Names of columns; a category is named `column=value`.
        item_ids
            The J items.
        until
            Microseconds since the epoch.
        """
        item = codes_of(single_chunk(postings, names.ITEM_ID).cast(item_ids.type), item_ids)
        time = time_column(postings, names.EVENT_TIMESTAMP, names.JOBS.postings_view)
        # The row that counts comes last: later ones, newest first, then those up to the time.
        order = np.lexsort((np.where(time <= until, time, -time), time <= until))
        order = order[item[order] >= 0]
        chosen = np.full(len(item_ids), -1)
        chosen[item[order]] = order
        rows = pa.array(chosen[chosen >= 0])
        owner = np.flatnonzero(chosen >= 0)
        items, values = [], []
        for column in columns:
            cells = single_chunk(postings, column).take(rows)
            if pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type):
                of_cell = owner[pc.list_parent_indices(cells).to_numpy(zero_copy_only=False)]
                cells = cells.flatten()
            else:
                of_cell = owner
            present = cells.is_valid()
            items.append(of_cell[present.to_numpy(zero_copy_only=False)])
            texts = cells.filter(present).cast(pa.string()).to_pylist()
            values += [f"{column}={text}" for text in texts]
        known = tuple(sorted(set(values)))
        place = {value: i for i, value in enumerate(known)}
        of_items = np.zeros((len(item_ids), len(known)), np.float32)
        if known:
            of_items[np.concatenate(items), [place[value] for value in values]] = 1
        early = owner[time[chosen[owner]] <= until]
        counted = of_items[early if len(early) else owner]
        having = np.maximum(counted.sum(axis=0), 1)
        return cls(known, of_items, np.log(max(len(counted), 1) / having).astype(np.float32))


class BaseFeatures:
    """Computes the features of items and members as of any moment.

    Parameters
    ----------
    history
        All events; those later than a moment do not count for it. Of several kinds of activity
        those on the domain's own items count.
    posted
        int64 [J]; when each item was posted, microseconds since the epoch.
    categories
        Categories of the items.
    """

    def __init__(
        self, history: ActivityHistory, posted: np.ndarray, categories: Categories
    ) -> None:
        events, spec = history.own_events, history.spec
        self.history, self.posted, self.categories = history, posted, categories
        self._events = events
        positive = np.isin(events.action, spec.positive_ids)
        order = np.argsort(events.time, kind="stable")
        self._time, self._item = events.time[order], events.item[order]
        self._positive = positive[order]
        # Positives up to each event of a member, for counts within a member's own slice.
        self._positives_before = np.concatenate([[0], np.cumsum(positive)])

    def of_items(self, moment: int) -> dict[str, np.ndarray]:
        """Return `ITEM_STATISTICS` of each item as of a moment, float32 [J]; strictly before it."""
        items = len(self.history.vectors.item_ids)
        end = int(np.searchsorted(self._time, moment))
        item, positive = self._item[:end], self._positive[:end]
        columns: dict[str, np.ndarray] = {}
        for days in _DAYS:
            first = int(np.searchsorted(self._time, moment - days * MICROSECONDS_PER_DAY))
            recent = item[first:][positive[first:]]
            columns[f"positives_{days}d"] = np.bincount(recent, minlength=items)
        columns["positives"] = np.bincount(item[positive], minlength=items)
        share = positive.mean() if end else 0.0
        activities = np.bincount(item, minlength=items)
        columns["positive_share"] = (columns["positives"] + _PRIOR * share) / (activities + _PRIOR)
        last = np.full(items, -1, np.int64)
        last[item] = np.arange(end)  # in order of time: the newest stays
        first_of = np.full(items, -1, np.int64)
        first_of[item[::-1]] = np.arange(end)[::-1]
        for name, place in (("activity", last), ("first_activity", first_of)):
            since = (moment - self._time[np.maximum(place, 0)]) if end else np.zeros(items)
            columns[f"days_since_{name}"] = _days(np.where(place >= 0, since, np.inf))
        columns["days_since_posted"] = _days(moment - self.posted)
        return {name: columns[name].astype(np.float32) for name in ITEM_STATISTICS}

    def of_members(self, member: np.ndarray, moments: np.ndarray) -> dict[str, np.ndarray]:
        """Return what is known of members, each as of a moment of its own; strictly before it.

        Parameters
        ----------
        member
            int [n]; positions in `history.events.member_ids`.
        moments
            int64 [n]; microseconds since the epoch.

        Returns
        -------
        dict[str, np.ndarray]
            dict of `MEMBER_STATISTICS` float32 [n], and of `PROFILE` float32 [n, C].
        """
        events = self._events
        first, last = events.member_start[member], events.member_start[member + 1]
        end = bisect(events.time, first, last, moments, right=False)
        activities = end - first
        positives = self._positives_before[end] - self._positives_before[first]
        # The mean share of everyone as of the same moment.
        order = np.searchsorted(self._time, moments)
        all_before = np.concatenate([[0], np.cumsum(self._positive)])[order]
        share = all_before / np.maximum(order, 1)
        profile = np.zeros((len(member), len(self.categories.names)), np.float32)
        positive = np.isin(events.action, self.history.spec.positive_ids)
        for i, (a, b) in enumerate(zip(first, end, strict=True)):
            profile[i] = self.categories.of_items[events.item[a:b][positive[a:b]]].sum(axis=0)
        return {
            "activities": activities.astype(np.float32),
            "positive_share": ((positives + _PRIOR * share) / (activities + _PRIOR)).astype(
                np.float32
            ),
            PROFILE: profile,
        }

    def recent_categories(self, member: np.ndarray, moments: np.ndarray) -> dict[str, np.ndarray]:
        """Return the categories of the items in each member's sequence, summed for each action.

        Returns
        -------
        dict[str, np.ndarray]
            dict of `apply_categories` and so on, an entry for each own action, float32 [n, C].
        """
        sequences = self.history.sequences(member, moments)
        spec = self.history.spec
        # The last row, for PAD, has no category.
        of_items = np.vstack(
            [self.categories.of_items, np.zeros_like(self.categories.of_items[:1])]
        )
        return {
            f"{action.lower()}_categories": _sums(sequences.item, sequences.action == i, of_items)
            for i, action in enumerate(spec.own_actions, start=1)
        }


def _sums(item: np.ndarray, chosen: np.ndarray, of_items: np.ndarray) -> np.ndarray:
    """Sum the rows of the chosen items, position by position: float32 [n, C] from [n, L]."""
    total = np.zeros((len(item), of_items.shape[1]), np.float32)
    for position in range(item.shape[1]):
        total += of_items[np.where(chosen[:, position], item[:, position], -1)]
    return total


def _days(microseconds: np.ndarray) -> np.ndarray:
    return np.clip(microseconds / MICROSECONDS_PER_DAY, 0.0, MOST_DAYS)


def content_match(
    profile: np.ndarray, categories: Categories, query: np.ndarray, item: np.ndarray
) -> np.ndarray:
    """Return the cosine of members' wanted categories with those of items, float32 [R].

    Both are weighted by inverse document frequency; 0 where either has none.

    Parameters
    ----------
    profile
        float32 [n, C].
    categories
        Categories of the items.
    query
        int [R], ascending; row of `profile`.
    item
        int [R].
    """
    own = _unit(profile * categories.weights)
    items = _unit(categories.of_items * categories.weights)
    match = np.empty(len(query), np.float32)
    start = np.searchsorted(query, np.arange(len(profile) + 1))
    for i, (a, b) in enumerate(itertools.pairwise(start)):
        match[a:b] = items[item[a:b]] @ own[i]
    return match


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
