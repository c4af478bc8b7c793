"""What training reads: activity events and item vectors, matched once.

Everything that is trained or measured asks this one object, and it asks `make_sequences`: there
is no second sequence builder.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.kinds import is_of_kind
from activity_embeddings.transformations.activity.sequences import Sequences, make_sequences
from activity_embeddings.transformations.errors import InvalidData
from activity_embeddings.transformations.spec import ActivitySpec
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY
from activity_embeddings.transformations.wording import counted, out_of

INPUT_ITEM_ROWS = "item_rows"
"""Rows of the item vectors at each position: 128 bytes a sequence instead of 8 KB of vectors."""


def is_own(action: np.ndarray, spec: ActivitySpec) -> np.ndarray:
    """Return whether action ids are of the domain's own kind of activity, bool [n].

    Events of other kinds are input alone: what is held out, wanted, a candidate or a negative is
    one of the domain's own items.
    """
    return action <= len(spec.own_actions)


@dataclass(frozen=True, eq=False)
class ItemsOfDays:
    """The own items that were acted on, for each UTC day, in the order in which they became known.

    An event counts from its own time on or, where its item got a vector later on the same day, from
    then on; where the vector came on a later day, the event is left out. So what counts before a
    moment is the same whatever comes after it.

    Attributes
    ----------
    days
        int64 [n]; days since the epoch, ascending.
    start
        int64 [n + 1]; the distinct items of day i are `items[start[i]:start[i + 1]]`.
    items
        int32; positions in the item ids.
    since
        int64; when each of `items` counts first, microseconds since the epoch, ascending.
    event_start
        int64 [n + 1]; those of day i are `events[event_start[i]:event_start[i + 1]]`.
    events
        int32; the item of each event, as often as it was acted on.
    event_since
        int64; when each of `events` counts, ascending.
    """

    days: np.ndarray
    start: np.ndarray
    items: np.ndarray
    since: np.ndarray
    event_start: np.ndarray
    events: np.ndarray
    event_since: np.ndarray

    @classmethod
    def of(cls, events: ActivityEvents, known_at: np.ndarray) -> ItemsOfDays:
        """Collect the items of each day.

        Parameters
        ----------
        events
            The events.
        known_at
            int64 [J]; when each item first has a vector.
        """
        since = np.maximum(events.time, known_at[events.item])
        same_day = since // MICROSECONDS_PER_DAY == events.time // MICROSECONDS_PER_DAY
        order = np.argsort(since, kind="stable")
        order = order[same_day[order]]
        since, item = since[order], events.item[order]
        day = since // MICROSECONDS_PER_DAY
        days, event_start = np.unique(day, return_index=True)
        # The first of equal pairs is the earliest.
        _, first = np.unique(day * max(len(events.item_ids), 1) + item, return_index=True)
        first.sort()
        return cls(
            days=days,
            start=np.append(np.searchsorted(first, event_start), len(first)),
            items=item[first],
            since=since[first],
            event_start=np.append(event_start, len(day)),
            events=item,
            event_since=since,
        )

    def slices(self, days: np.ndarray, before: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the slice [low, high) of `items` of each day, those that count before a moment."""
        return self._slices(days, self.start, np.searchsorted(self.since, before))

    def event_slices(self, days: np.ndarray, before: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the slice [low, high) of `events` of each day that count before a moment."""
        return self._slices(days, self.event_start, np.searchsorted(self.event_since, before))

    def _slices(
        self, days: np.ndarray, start: np.ndarray, end: np.integer
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the slice of each day, of what lies before position `end`."""
        low = start[np.searchsorted(self.days, days, side="left")]
        high = start[np.searchsorted(self.days, days, side="right")]
        return np.minimum(low, end), np.minimum(high, end)


@dataclass(frozen=True, eq=False)
class ActivityHistory:
    """Events on items that have a vector, and these vectors.

    Attributes
    ----------
    events
        Items are counted in `vectors.item_ids`.
    vectors
        Vectors of all items.
    spec
        Window, length and actions.
    items_of_days
        Items of days of all members, also where `events` are those of a few.
    with_sessions
        Whether model inputs have `sessions`; see `reading`.
    """

    events: ActivityEvents
    vectors: ItemVectors
    spec: ActivitySpec
    items_of_days: ItemsOfDays
    with_sessions: bool = False

    @classmethod
    def of(
        cls, events: ActivityEvents, vectors: ItemVectors, spec: ActivitySpec
    ) -> ActivityHistory:
        """Match events with vectors; events on items that never get one are left out.

        Raises
        ------
        InvalidInput
            There is no event on an item with a vector, or a vector is not finite.
        """
        bad = int((~np.isfinite(vectors.matrix).all(axis=1)).sum())
        if bad:
            raise InvalidData(
                "item vectors: vectors should be finite to train on. Received: NaN or "
                f"infinity in {out_of(bad, len(vectors.matrix) - 1, 'vector')}"
            )
        known = events.on_items(vectors.item_ids)
        if not len(known):
            raise InvalidData(
                "events: expected events on items that have a vector to train on. "
                f"Received: {counted(len(events), 'event')} on "
                f"{counted(len(events.item_ids), 'item')}, none of them among the "
                f"{len(vectors.item_ids):,} with a vector"
            )
        own = known.where(is_own(known.action, spec)) if spec.kinds else known
        return cls(known, vectors, spec, ItemsOfDays.of(own, vectors.known_at(own.item_ids)))

    @classmethod
    def from_arrow(
        cls, events: pa.Table, vectors: ItemVectors, spec: ActivitySpec
    ) -> ActivityHistory:
        """Check an event table and match it with vectors; see `ActivityEvents.from_arrow`."""
        return cls.of(ActivityEvents.from_arrow(events, spec), vectors, spec)

    @cached_property
    def own_events(self) -> ActivityEvents:
        """The activity on the domain's own items, of the same members."""
        if not self.spec.kinds:
            return self.events
        return self.events.where(is_own(self.events.action, self.spec))

    @cached_property
    def own_items(self) -> np.ndarray:
        """The domain's own items, which are what is predicted: positions in `vectors.item_ids`."""
        item_ids = self.vectors.item_ids
        if not self.spec.kinds:
            return np.arange(len(item_ids), dtype=np.int32)
        return np.flatnonzero(is_of_kind(item_ids, self.spec.kinds[0].name)).astype(np.int32)

    def of_members(self, members: np.ndarray) -> ActivityHistory:
        """Return the history of some members: ascending positions in `events.member_ids`."""
        return replace(self, events=self.events.of_members(members))

    def without_kind(self, kind: str) -> ActivityHistory:
        """Return the history of the same members and items without activity of a kind."""
        (actions,) = [each.actions for each in self.spec.kinds if each.name == kind]
        first = self.spec.first_action_id(kind)
        others = ~np.isin(self.events.action, np.arange(first, first + len(actions)))
        return replace(self, events=self.events.where(others))

    def reading(self, inputs: Collection[str]) -> ActivityHistory:
        """Return the same history, for a model with some inputs, by name."""
        return replace(self, with_sessions=names.INPUT_SESSIONS in inputs)

    def sequences(self, member: np.ndarray, as_of: np.ndarray) -> Sequences:
        """Return what serving would have seen of each member at a time.

        Parameters
        ----------
        member
            int [n]; positions in `events.member_ids`.
        as_of
            int64 [n]; microseconds since the epoch.
        """
        ids = self.events.member_ids.take(pa.array(member))
        return make_sequences(self.events, ids, as_of, spec=self.spec, vectors=self.vectors)

    def rows(self, item: np.ndarray, as_of: np.ndarray) -> np.ndarray:
        """Return the row of each item's vector as of a time, int32; see `ItemVectors.rows`.

        Parameters
        ----------
        item
            int [n] or [n, m]; positions in `vectors.item_ids`, -1 for none.
        as_of
            int64 [n].
        """
        table = item[:, None] if item.ndim == 1 else item
        return self.vectors.rows(self.vectors.item_ids, table, as_of).reshape(item.shape)

    def model_inputs(self, sequences: Sequences) -> dict[str, np.ndarray]:
        """Return what an activity model reads, with item vectors as rows to be gathered.

        Returns
        -------
        dict[str, np.ndarray]
            dict with `item_rows` int32 [n, L], `actions` int32 [n, L] and `ages` float32 [n, L]
            (days); and, for a model that reads them, `sessions` int32 [n, L].
        """
        inputs = {
            INPUT_ITEM_ROWS: sequences.rows(self.vectors),
            names.INPUT_ACTIONS: sequences.action,
            names.INPUT_AGES: sequences.ages,
        }
        if self.with_sessions:
            inputs[names.INPUT_SESSIONS] = sequences.sessions
        return inputs
