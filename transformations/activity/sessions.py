"""Sessions: a member's activity of one session id, or close in time.

The one rule for sequences, requests and training.
"""

from __future__ import annotations

import numpy as np

SESSION_GAP_US = 30 * 60 * 1_000_000
"""The longest time between neighbouring activities of one session that has no id: 30 minutes."""


def first_of_session(
    member: np.ndarray, time: np.ndarray, session: np.ndarray | None, *, gap_us: int
) -> np.ndarray:
    """Return the first event of the session of each event, int64 [E], as a position.

    Events of one member and session id are one session, whatever lies between them. An event
    without session id is of the session of the member's event before it, where that is `gap_us`
    microseconds older at most; else it begins a session.

    Parameters
    ----------
    member
        int [E], ascending.
    time
        int64 [E]; microseconds, ascending within each member.
    session
        int [E]; which id, -1 for none. None: no event has one.
    gap_us
        The longest time between neighbouring activities of one session without id.
    """
    position = np.arange(len(time))
    begins = np.ones(len(time), dtype=bool)
    begins[1:] = (np.diff(member) != 0) | (np.diff(time) > gap_us)
    if session is None:
        return np.maximum.accumulate(np.where(begins, position, 0))
    # The event that says which session it is: itself, or one that it follows closely.
    said_by = np.maximum.accumulate(np.where(begins | (session >= 0), position, 0))
    said = session[said_by].astype(np.int64)
    ids = int(said.max(initial=0)) + 1
    key = np.where(said >= 0, member.astype(np.int64) * ids + said, -1 - said_by)
    _, first, same = np.unique(key, return_index=True, return_inverse=True)
    return first[same]


def last_of_session(first: np.ndarray) -> np.ndarray:
    """Return the last event of the session of each event, int64 [E], from the first ones."""
    last = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(last, first, np.arange(len(first)))
    return last[first]
