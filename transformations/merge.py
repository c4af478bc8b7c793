"""Merge a stored sequence with newer activity: at request time, and when events are pushed.

The result is an `ActivityEvents`, so that the one function that makes sequences goes on from here:
window, newest `length`, unknown jobs. Written for few members at a time and little work for each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import itemgetter
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from transformations.events import ActivityEvents
from transformations.sequences import Sequences

Activity: TypeAlias = tuple[int, int | str, int]
"""One event of a member: time in microseconds since the epoch, job id, action id of the spec.
Tuples compare in the total order of events that have no event id."""

_SECOND = 1_000_000


def merge_activities(
    stored: Sequence[Activity],
    recent: Collection[Activity],
    whole_seconds: Collection[Activity] = (),
) -> tuple[list[Activity], list[Activity]]:
    """Merge a member's stored sequence with other events of the member, in any order.

    Stored events keep their order, which may come from event ids that the sequence does not hold.
    A recent event that equals a stored or another recent one counts once.

    Parameters
    ----------
    stored : in total order.
    recent : in any order.
    whole_seconds : those of `recent` whose time was cut to the second. Such a one equals a stored
        event on that job, by that action, anywhere in that second.

    Returns
    -------
    (activities, new) : all of them in total order, and those that were not among the stored.
    """
    if not recent:
        return list(stored), []
    fresh = set(recent).difference(stored)
    if whole_seconds and fresh:
        seconds = {(time // _SECOND, job, action) for time, job, action in stored}
        fresh -= {
            activity
            for activity in fresh.intersection(whole_seconds)
            if (activity[0] // _SECOND, *activity[1:]) in seconds
        }
    new = sorted(fresh)
    merged = list(stored)
    if merged and new and new[0] < merged[-1]:
        for activity in new:
            merged.insert(_position(merged, activity), activity)
    else:
        merged += new
    return merged, new


def _position(activities: list[Activity], new: Activity) -> int:
    """Return where an event belongs among events ordered by time, ties as they stand."""
    position = bisect_left(activities, new[0], key=itemgetter(0))
    while (
        position < len(activities)
        and activities[position][0] == new[0]
        and activities[position] < new
    ):
        position += 1
    return position


def as_events(members: Sequence[Sequence[Activity]]) -> ActivityEvents:
    """Return n members' activities, each in total order, as an event table.

    Members are numbered 0 to n - 1.
    """
    flat = [activity for activities in members for activity in activities]
    times, jobs, actions = zip(*flat, strict=True) if flat else ((), (), ())
    distinct = sorted(set(jobs))
    position = {job: i for i, job in enumerate(distinct)}
    ends = accumulate(map(len, members), initial=0)
    return ActivityEvents(
        member_ids=_numbers(len(members)),
        job_ids=pa.array(
            distinct, pa.string() if jobs and isinstance(jobs[0], str) else pa.int64()
        ),
        member_start=np.array(list(ends), dtype=np.int64),
        job=np.array([position[job] for job in jobs], dtype=np.int32),
        action=np.array(actions, dtype=np.int16),
        time=np.array(times, dtype=np.int64),
        duplicates=0,
    )


def activities_in(sequences: Sequences) -> list[list[Activity]]:
    """Invert `as_events` for sequences."""
    jobs = sequences.job_ids.to_pylist()
    return [
        [(t, jobs[j], a) for t, j, a in zip(times, positions, actions, strict=True) if a]
        for times, positions, actions in zip(
            sequences.time.tolist(),
            sequences.job.tolist(),
            sequences.action.tolist(),
            strict=True,
        )
    ]


@lru_cache(maxsize=64)
def _numbers(count: int) -> pa.Array:
    """Return 0 to count - 1; requests are of few different sizes."""
    return pa.array(np.arange(count))
