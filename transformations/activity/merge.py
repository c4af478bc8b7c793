"""Merge a stored sequence with newer activity: at request time, and when events are pushed.

The result is an `ActivityEvents`, so that the one function that makes sequences goes on from here:
window, newest `length`, unknown items. Written for few members at a time and little work for each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import accumulate, islice
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.times import SECOND

Id: TypeAlias = int | str
Activity: TypeAlias = tuple[int, Id, int] | tuple[int, Id, int, Id]
"""One event of a member: time in microseconds since the epoch, item id, action id of the spec and,
where the source has event ids, its event id."""
SessionOf: TypeAlias = dict[Activity, str]
"""The session ids of those of a member's events that have one."""


def total_order(activity: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return what a member's events are ordered by: time, event id if any, item id, action."""
    return activity[0], activity[3:], activity[1], activity[2]


def has_numbers(event_ids: pa.Array | None) -> bool:
    """Return whether event ids are integers, which are ordered otherwise than their text."""
    return event_ids is not None and pa.types.is_integer(event_ids.type)


def with_event_ids(
    activities: Sequence[tuple[int, Id, int]], texts: Sequence[str] | None, *, numbers: bool
) -> list[Activity]:
    """Return the events of a stored sequence with their ids.

    Parameters
    ----------
    activities
        N events.
    texts
        N ids as a stored sequence has them, "" for an event without one; or none at all.
    numbers
        Whether ids are integers.
    """
    if texts is None or len(texts) != len(activities):
        return list(activities)
    if not numbers:
        return [(*a, text) if text else a for a, text in zip(activities, texts, strict=True)]
    try:
        ids = [int(text) if text else None for text in texts]
    except ValueError:  # stored when the source had ids of another type
        return list(activities)
    return [a if i is None else (*a, i) for a, i in zip(activities, ids, strict=True)]


def with_session_ids(activities: Sequence[Activity], texts: Sequence[str] | None) -> SessionOf:
    """Return the sessions of the events of a stored sequence.

    Parameters
    ----------
    activities
        N events.
    texts
        N ids as a stored sequence has them, "" for an event without one; or none at all.
    """
    if texts is None or len(texts) != len(activities):
        return {}
    return {a: text for a, text in zip(activities, texts, strict=True) if text}


def merge_sessions(stored: SessionOf, recent: SessionOf) -> SessionOf:
    """Return the sessions of both; an event that has two is of the first, by text."""
    both = {a: min(text, recent[a]) for a, text in stored.items() if a in recent}
    return {**stored, **recent, **both}


def merge_activities(
    stored: Sequence[Activity],
    recent: Collection[Activity],
    whole_seconds: Collection[Activity] = (),
) -> tuple[list[Activity], list[Activity]]:
    """Merge a member's stored sequence with other events of the member, in any order.

    Stored events keep their order. A recent event that equals a stored or another recent one
    counts once; where one of the two has no event id, they are equal without it.

    Parameters
    ----------
    stored
        In total order.
    recent
        In any order.
    whole_seconds
        Those of `recent` whose time was cut to the second. Such a one equals a stored event on that
        item, by that action, anywhere in that second.

    Returns
    -------
    tuple[list[Activity], list[Activity]]
        (activities, new) : all of them in total order, and those that were not among the stored.
    """
    if not recent:
        return list(stored), []
    fresh = set(recent).difference(stored)
    if stored and fresh:
        fresh = {activity for activity in fresh if not _is_among(stored, activity)}
    if whole_seconds and fresh:
        seconds = {(time // SECOND, *what) for time, *what in (a[:3] for a in stored)}
        fresh -= {
            activity
            for activity in fresh.intersection(whole_seconds)
            if (activity[0] // SECOND, *activity[1:3]) in seconds
        }
    new = sorted(fresh, key=total_order)
    merged = list(stored)
    if merged and new and new[0][0] <= merged[-1][0]:
        for activity in new:
            merged.insert(_position(merged, activity), activity)
    else:
        merged += new
    return merged, new


def _is_among(stored: Sequence[Activity], new: Activity) -> bool:
    """Return whether an event, which equals no stored one, does so but for a missing event id."""
    position = bisect_left(stored, new[0], key=itemgetter(0))
    while position < len(stored) and stored[position][0] == new[0]:
        other = stored[position]
        if len(other) != len(new) and other[:3] == new[:3]:
            return True
        position += 1
    return False


def _position(activities: list[Activity], new: Activity) -> int:
    """Return where an event belongs among events ordered by time, ties as they stand."""
    position = bisect_left(activities, new[0], key=itemgetter(0))
    while position < len(activities) and activities[position][0] == new[0]:
        other = activities[position]
        # An event without an id cannot be placed by ids.
        width = min(len(other), len(new))
        if total_order(other[:width]) > total_order(new[:width]):
            break
        position += 1
    return position


def as_events(
    members: Sequence[Sequence[Activity]], sessions: Sequence[SessionOf] = ()
) -> ActivityEvents:
    """Return n members' activities, each in total order, as an event table.

    Members are numbered 0 to n - 1.

    Parameters
    ----------
    members
        Their activities.
    sessions
        The sessions of each one's; none at all where events have none.
    """
    flat = [activity for activities in members for activity in activities]
    # Some have an event id beside these, which is left to `_event_ids`.
    times, items, actions = islice(zip(*flat, strict=False), 3) if flat else ((), (), ())
    distinct = sorted(set(items))
    position = {item: i for i, item in enumerate(distinct)}
    ends = accumulate(map(len, members), initial=0)
    event_ids, event = _event_ids(flat)
    session_ids, session = _session_ids(members, sessions)
    nothing = np.array([], dtype=np.int64)
    return ActivityEvents(
        member_ids=_numbers(len(members)),
        item_ids=_id_array(distinct),
        member_start=np.array(list(ends), dtype=np.int64),
        item=np.array([position[item] for item in items], dtype=np.int32),
        action=np.array(actions, dtype=np.int16),
        time=np.array(times, dtype=np.int64),
        duplicates=nothing,
        other_actions=nothing,
        event_ids=event_ids,
        event=event,
        session_ids=session_ids,
        session=session,
    )


def _session_ids(
    members: Sequence[Sequence[Activity]], sessions: Sequence[SessionOf]
) -> tuple[pa.Array | None, np.ndarray | None]:
    """Return the distinct session ids of events, and each one's position, -1 for one without."""
    ids = sorted({text for session_of in sessions for text in session_of.values()})
    if not ids:
        return None, None
    position = {text: i for i, text in enumerate(ids)}
    codes = [
        position.get(session_of.get(activity, ""), -1)
        for activities, session_of in zip(members, sessions, strict=True)
        for activity in activities
    ]
    return pa.array(ids, pa.string()), np.array(codes, dtype=np.int32)


def _event_ids(flat: Sequence[Activity]) -> tuple[pa.Array | None, np.ndarray | None]:
    """Return the distinct event ids of events, and each one's position, -1 for one without."""
    ids = sorted({activity[3] for activity in flat if len(activity) == 4})
    if not ids:
        return None, None
    position = {event_id: i for i, event_id in enumerate(ids)}
    codes = [position[activity[3]] if len(activity) == 4 else -1 for activity in flat]
    return _id_array(ids), np.array(codes, dtype=np.int32)


def _id_array(ids: Sequence[Id]) -> pa.Array:
    return pa.array(ids, pa.string() if ids and isinstance(ids[0], str) else pa.int64())


def activities_in(sequences: Sequences) -> list[list[Activity]]:
    """Invert `as_events` for sequences."""
    items = sequences.item_ids.to_pylist()
    rows = zip(
        sequences.time.tolist(), sequences.item.tolist(), sequences.action.tolist(), strict=True
    )
    found: list[list[Activity]] = [
        [(t, items[j], a) for t, j, a in zip(*row, strict=True) if a] for row in rows
    ]
    if sequences.event is None or sequences.event_ids is None:
        return found
    ids = sequences.event_ids.to_pylist()
    return [
        [
            activity if event < 0 else (*activity[:3], ids[event])
            for activity, event in zip(activities, row[len(row) - len(activities) :], strict=True)
        ]
        for activities, row in zip(found, sequences.event.tolist(), strict=True)
    ]


def sessions_in(sequences: Sequences, activities: Sequence[Sequence[Activity]]) -> list[SessionOf]:
    """Return the sessions of the activities that `activities_in` returns."""
    if sequences.session is None or sequences.session_ids is None:
        return [{} for _ in activities]
    ids = sequences.session_ids.to_pylist()
    return [
        {
            activity: ids[session]
            for activity, session in zip(each, row[len(row) - len(each) :], strict=True)
            if session >= 0
        }
        for each, row in zip(activities, sequences.session.tolist(), strict=True)
    ]


@lru_cache(maxsize=64)
def _numbers(count: int) -> pa.Array:
    """Return 0 to count - 1; requests are of few different sizes."""
    return pa.array(np.arange(count))
