"""The one function that makes activity sequences.

A query is a member and an as-of time. All members at one time are a snapshot, all members at
many times a backfill, each label at its own time a training join: all are the same call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.sessions import (
    SESSION_GAP_US,
    first_of_session,
    last_of_session,
)
from activity_embeddings.transformations.arrow import codes_of
from activity_embeddings.transformations.ragged import bisect, ranges, with_last
from activity_embeddings.transformations.spec import ActivitySpec
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

QUERIES_AT_ONCE = 32_768
"""Queries worked on together: bounds the memory of intermediate [queries, length] arrays."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """n sequences of L positions, oldest first, padded on the left: the last is the newest.

    Attributes
    ----------
    item
        int32 [n, L]; position in `item_ids`, -1 for PAD.
    action
        int32 [n, L]; action id, 0 for PAD.
    time
        int64 [n, L]; microseconds since the epoch, 0 for PAD.
    as_of
        int64 [n]; microseconds since the epoch.
    count
        int32 [n]; positions that are not PAD.
    unknown
        int32 [n]; events in the window left out because their item has no vector.
    item_ids
        The ids that `item` counts in.
    event
        int32 [n, L]; position in `event_ids`, -1 for PAD; None where events have no ids.
    event_ids
        The ids that `event` counts in, or None.
    session
        int32 [n, L]; position in `session_ids`, -1 for PAD and events without one; None where
        events have no session ids.
    session_ids
        The ids that `session` counts in, or None.
    """

    item: np.ndarray
    action: np.ndarray
    time: np.ndarray
    as_of: np.ndarray
    count: np.ndarray
    unknown: np.ndarray
    item_ids: pa.Array
    event: np.ndarray | None = None
    event_ids: pa.Array | None = None
    session: np.ndarray | None = None
    session_ids: pa.Array | None = None

    def __len__(self) -> int:
        return len(self.count)

    def take(self, index: np.ndarray) -> Sequences:
        """Return the sequences at the positions `index`, or where it is True, in that order."""
        return Sequences(
            item=self.item[index],
            action=self.action[index],
            time=self.time[index],
            as_of=self.as_of[index],
            count=self.count[index],
            unknown=self.unknown[index],
            item_ids=self.item_ids,
            event=None if self.event is None else self.event[index],
            event_ids=self.event_ids,
            session=None if self.session is None else self.session[index],
            session_ids=self.session_ids,
        )

    @property
    def sessions(self) -> np.ndarray:
        """Number of the session of each event, int32 [n, L]; 1 for the newest, 0 for PAD.

        `first_of_session` says which events are one session, here with a gap of `SESSION_GAP_US`.
        Of two sessions that overlap, the newer is the one whose newest event is newer.
        """
        row, column = np.nonzero(self.action > 0)
        first = first_of_session(
            row,
            self.time[row, column],
            None if self.session is None else self.session[row, column],
            gap_us=SESSION_GAP_US,
        )
        last = last_of_session(first)
        ends = np.zeros(self.action.shape, dtype=np.int32)
        ends[row, column] = last == np.arange(len(last))
        newer = ends[:, ::-1].cumsum(axis=1, dtype=np.int32)[:, ::-1]
        numbers = np.zeros(self.action.shape, dtype=np.int32)
        numbers[row, column] = newer[row, column[last]]
        return numbers

    @property
    def ages(self) -> np.ndarray:
        """Days from each event to the as-of time, float32 [n, L]; 0 for PAD."""
        days = (self.as_of[:, None] - self.time) / MICROSECONDS_PER_DAY
        return np.where(self.action > 0, days, 0.0).astype(np.float32)

    def rows(self, vectors: ItemVectors) -> np.ndarray:
        """Row of each position in `vectors.matrix` as of each query's time, int32 [n, L]."""
        return vectors.rows(self.item_ids, self.item, self.as_of)


def make_sequences(
    events: ActivityEvents,
    member_ids: pa.Array,
    as_of: np.ndarray,
    *,
    spec: ActivitySpec,
    vectors: ItemVectors,
) -> Sequences:
    """Answer n queries: each member's newest known activities before a time.

    An event is in the window of `T` if `T - spec.window <= t < T`. Events on items without a vector
    as of `T` are left out first; then the newest `spec.length` are kept. Of a spec that keeps
    places for kinds, the newest of each kind fill its places, and the newest of the rest those that
    are kept for none.

    Parameters
    ----------
    events
        The event table.
    member_ids
        N ids, of the type of `events.member_ids`; a member without events gives PAD.
    as_of
        int64 [n] microseconds since the epoch.
    spec
        Window, length and kinds.
    vectors
        Says since when each item is known.

    Returns
    -------
    Sequences
        In the order of the queries.
    """
    as_of = np.asarray(as_of, dtype=np.int64)
    first, last = _events_of(events, member_ids)
    known_at = vectors.known_at(events.item_ids)[events.item]
    late = np.flatnonzero(known_at > int(as_of.min(initial=np.iinfo(np.int64).max)))
    choose = (
        _NewestOfKinds.of(events, known_at, late, spec)
        if spec.keeps_places
        else _Newest(spec.length, known_at, late)
    )
    item_or_pad = with_last(events.item, -1)
    action_or_pad = with_last(events.action, 0).astype(np.int32)
    time_or_pad = with_last(events.time, 0)
    ids_or_pad = [
        None if ids is None else with_last(ids, -1) for ids in (events.event, events.session)
    ]

    parts: list[tuple[np.ndarray, ...]] = []
    for start in range(0, max(1, len(as_of)), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        low, high = _windows(events, first[part], last[part], as_of[part], spec)
        newest = choose(low, high, as_of[part])
        unknown = np.zeros(len(low), dtype=np.int32)
        if len(late):
            unknown[:] = _count_late(low, high, as_of[part], late, known_at[late], int(as_of.max()))
        count = (newest >= 0).sum(axis=1, dtype=np.int32)
        part_of = [item_or_pad[newest], action_or_pad[newest], time_or_pad[newest], count, unknown]
        part_of += [ids[newest] for ids in ids_or_pad if ids is not None]
        parts.append(tuple(part_of))
    item, action, time, count, unknown, *ids_of = (
        columns[0] if len(parts) == 1 else np.concatenate(columns)
        for columns in zip(*parts, strict=True)
    )
    event, session = (None if ids is None else ids_of.pop(0) for ids in ids_or_pad)
    return Sequences(
        item,
        action,
        time,
        as_of,
        count,
        unknown,
        events.item_ids,
        event=event,
        event_ids=events.event_ids,
        session=session,
        session_ids=events.session_ids,
    )


def members_active(events: ActivityEvents, as_of: int, spec: ActivitySpec) -> pa.Array:
    """Return the ids, ascending, of members with any event in the window of one as-of time."""
    moments = np.full(len(events.member_ids), as_of, dtype=np.int64)
    low, high = _windows(events, *_events_of(events, events.member_ids), moments, spec)
    return events.member_ids.filter(pa.array(high > low))


def _events_of(events: ActivityEvents, member_ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each member, the slice [first, last) of events."""
    if member_ids is events.member_ids:
        return events.member_start[:-1], events.member_start[1:]
    member = codes_of(member_ids, events.member_ids)
    present = member >= 0
    first = np.where(present, events.member_start[member], 0)
    return first, np.where(present, events.member_start[member + 1], 0)


def _windows(
    events: ActivityEvents,
    first: np.ndarray,
    last: np.ndarray,
    as_of: np.ndarray,
    spec: ActivitySpec,
) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each query, the slice [low, high) of its member's events in its window."""
    low = bisect(events.time, first, last, as_of - spec.window_us, right=False)
    high = bisect(events.time, low, last, as_of, right=False)
    return low, high


@dataclass(frozen=True)
class _Newest:
    """Chooses, of each query's slice of events, the newest ones on known items.

    Attributes
    ----------
    length
        Most events of a query.
    known_at
        int64 [E]; since when the item of each event has a vector.
    late
        Ascending positions of the events whose item is unknown at some query's time.
    """

    length: int
    known_at: np.ndarray
    late: np.ndarray

    def __call__(self, low: np.ndarray, high: np.ndarray, as_of: np.ndarray) -> np.ndarray:
        """Return positions [n, length] of the chosen events, oldest first, -1 for PAD."""
        newest = _newest(low, high, self.length)
        if len(self.late):
            meets_late = np.searchsorted(self.late, low) < np.searchsorted(self.late, high)
            newest[meets_late] = _newest_known(
                low[meets_late], high[meets_late], as_of[meets_late], self.known_at, self.length
            )
        return newest


@dataclass(frozen=True)
class _NewestOfKinds:
    """Chooses as `_Newest` does, by a spec that keeps places for kinds.

    Whether an event is chosen depends on the newer ones alone. So what was left out of a sequence
    stays out of every later one, whatever is merged into it and whatever leaves the window: were
    kept places that stay empty given to others, older events could hold them, and leave the window
    before what they had displaced.

    Attributes
    ----------
    kinds
        Of each kind the positions of its events [E_k], and what chooses among these the newest, as
        many as are kept for it and shared.
    shared
        Places that are kept for no kind.
    """

    kinds: tuple[tuple[np.ndarray, _Newest], ...]
    shared: int

    @classmethod
    def of(
        cls, events: ActivityEvents, known_at: np.ndarray, late: np.ndarray, spec: ActivitySpec
    ) -> _NewestOfKinds:
        kinds = []
        for kind in spec.kinds:
            if not kind.keep + spec.shared_places:
                continue
            first = spec.first_action_id(kind.name)
            of_kind = (events.action >= first) & (events.action < first + len(kind.actions))
            position = np.flatnonzero(of_kind)
            newest = _Newest(
                kind.keep + spec.shared_places,
                known_at[position],
                np.searchsorted(position, late[of_kind[late]]),
            )
            kinds.append((position, newest))
        return cls(tuple(kinds), spec.shared_places)

    def __call__(self, low: np.ndarray, high: np.ndarray, as_of: np.ndarray) -> np.ndarray:
        """Return positions [n, length] of the chosen events, oldest first, -1 for PAD."""
        kept, others = [], []
        for position, choose in self.kinds:
            chosen = choose(np.searchsorted(position, low), np.searchsorted(position, high), as_of)
            # Places of this kind's events alone become places of all events.
            chosen = with_last(position, -1)[chosen]
            others.append(chosen[:, : self.shared])
            kept.append(chosen[:, self.shared :])
        # Events are in total order, so that a greater position is a newer event.
        shared = np.sort(np.concatenate(others, axis=1), axis=1)
        shared = shared[:, shared.shape[1] - self.shared :]
        return np.sort(np.concatenate([*kept, shared], axis=1), axis=1)


def _newest(low: np.ndarray, high: np.ndarray, length: int) -> np.ndarray:
    """Return positions [n, length] of the newest events, oldest first, -1 for PAD."""
    positions = high[:, None] - np.arange(length, 0, -1)
    return np.where(positions >= low[:, None], positions, -1)


def _newest_known(
    low: np.ndarray, high: np.ndarray, as_of: np.ndarray, known_at: np.ndarray, length: int
) -> np.ndarray:
    """Return positions as `_newest`, leaving out events whose item is unknown as of the time.

    Looks at the newest `length` events of each query; those that met unknown items and have older
    events look at twice as many, and so on.
    """
    newest = np.full((len(low), length), -1, dtype=np.int64)
    open_queries = np.arange(len(low))
    width = length
    while len(open_queries):
        lows, highs = low[open_queries], high[open_queries]
        positions = highs[:, None] - np.arange(width, 0, -1)
        usable = positions >= lows[:, None]
        usable &= known_at[np.where(usable, positions, 0)] <= as_of[open_queries, None]
        # How many usable events are as new or newer: the newest has 1.
        rank = usable[:, ::-1].cumsum(axis=1)[:, ::-1]
        taken = usable & (rank <= length)
        row, column = np.nonzero(taken)
        newest[open_queries[row], length - rank[row, column]] = positions[row, column]
        unfinished = (rank[:, 0] < length) & (highs - lows > width)
        open_queries = open_queries[unfinished]
        width *= 2
    return newest


def _count_late(
    low: np.ndarray,
    high: np.ndarray,
    as_of: np.ndarray,
    late: np.ndarray,
    known_at: np.ndarray,
    latest: int,
) -> np.ndarray:
    """Count, for each query, the events of its window whose item is unknown as of its time.

    `late` are the few positions of events whose item is unknown at some query's time.
    """
    first, last = np.searchsorted(late, low), np.searchsorted(late, high)
    never = np.concatenate([[0], np.cumsum(known_at > latest)])
    counts = never[last] - never[first]
    sometimes = np.flatnonzero(known_at <= latest)
    first, last = np.searchsorted(sometimes, first), np.searchsorted(sometimes, last)
    sizes = last - first
    query = np.repeat(np.arange(len(low)), sizes)
    event = sometimes[ranges(first, sizes)]
    unknown_then = known_at[event] > as_of[query]
    return counts + np.bincount(query[unknown_then], minlength=len(low))
