"""Counts of what members acted on next: the look-up that a learned vector has to beat.

How often was item j the next one that a member acted on, after item i? A second table asks the same
after (item i, what was done with it). Whatever was done with j counts: counts of wanted items alone
know less, since most of what is seen may be declined. Neither table has a parameter, and both are
asked the same queries as the models. They count all activity before a date, also that which the
item vectors were learnt from. Item-to-item counts go back to Linden, Smith and York, "Amazon.com
Recommendations" (IEEE Internet Computing, 2003).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.examples.held_out import Windows, hold_out
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.validation import ValidationQueries
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.sequences import Sequences

MEMBERS_AT_ONCE = 2048
"""Bounds the memory: a sequence is made for each activity of these members."""
_ALWAYS = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, eq=False)
class NextItemCounts:
    """How often each item came next, by the last item, or by the last item and action.

    Attributes
    ----------
    pair
        int64 [P], ascending; key times J plus item, of each pair that was seen.
    count
        int64 [P]; how often.
    items
        J, the number of items.
    actions
        How many keys an item has: one, or one for each action.
    """

    pair: np.ndarray
    count: np.ndarray
    items: int
    actions: int

    @classmethod
    def of(cls, history: ActivityHistory, until: datetime, *, by_action: bool) -> NextItemCounts:
        """Count what came next before a time: each activity with another in the window before it.

        Whether an item had a vector by then does not matter: a table needs none.

        Parameters
        ----------
        history
            Events and vectors.
        until
            Activity from then on is not counted.
        by_action
            Whether the last action is part of the key.
        """
        ids = history.vectors.item_ids
        history = replace(history, vectors=ItemVectors.always_known(ids))
        items = len(ids)
        table = cls(
            np.empty(0, np.int64),
            np.empty(0, np.int64),
            items,
            len(history.spec.vocabulary) if by_action else 1,
        )
        windows = Windows(minimum=1, prefixes=True, per_member=None)
        period, random = Period(_ALWAYS, until), np.random.default_rng(0)
        members = np.arange(len(history.events.member_ids))
        seen = [table.pair]
        for first in range(0, len(members), MEMBERS_AT_ONCE):
            part = history.of_members(members[first : first + MEMBERS_AT_ONCE])
            held_out = hold_out(part, period, windows=windows, random=random)
            seen.append(table.keys(held_out.sequences) * items + held_out.item)
        pair, count = np.unique(np.concatenate(seen), return_counts=True)
        return cls(pair, count, items, table.actions)

    def columns(self, sequences: Sequences, queries: Queries) -> np.ndarray:
        """Return what the table says of each row of the queries.

        Parameters
        ----------
        sequences
            What is known of the member of each query.
        queries
            Whose rows these are.

        Returns
        -------
        float32 [R, 2]
            The share that the row's item has in what came after the key, and its count.
            Zeros where the key was never seen, or the member has no activity.
        """
        share, count = self._share(self.keys(sequences)[queries.query], queries.item)
        return np.stack([share, count], axis=1).astype(np.float32)

    def scores(self, queries: ValidationQueries) -> list[np.ndarray]:
        """Return the share of each item of each day of the queries, float [n, m] for each day."""
        keys = self.keys(queries.sequences)
        return [self._share(keys[day.query, None], day.items)[0] for day in queries.days]

    def _share(self, key: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which share items have in what came after keys, and their counts."""
        pair = key * self.items + item
        count = self._counted(pair, pair + 1)
        total = self._counted(key * self.items, (key + 1) * self.items)
        return count / np.maximum(total, 1), count

    def _counted(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return the sum of the counts of pairs from `low` to before `high`, int64 like `low`."""
        sums = np.concatenate([[0], np.cumsum(self.count)])
        return sums[np.searchsorted(self.pair, high)] - sums[np.searchsorted(self.pair, low)]

    def keys(self, sequences: Sequences) -> np.ndarray:
        """Return the key of the newest activity of each sequence, int64 [n]; -1 for none."""
        item, action = sequences.item[:, -1].astype(np.int64), sequences.action[:, -1]
        key = item * self.actions + (action if self.actions > 1 else 0)
        return np.where(item >= 0, key, -1)
