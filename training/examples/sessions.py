"""Sessions: a member's activity close in time."""

from __future__ import annotations

import numpy as np

from activity_embeddings.transformations.activity.events import ActivityEvents


def session_starts(events: ActivityEvents, gap_us: int) -> np.ndarray:
    """Return the first event of each session, ascending, int64 [sessions].

    A session is a member's events of which each follows the one before by `gap_us` microseconds or
    less. It ends before the next session's start.
    """
    new = np.ones(len(events), dtype=bool)
    new[1:] = np.diff(events.time) > gap_us
    new[events.member_start[:-1][np.diff(events.member_start) > 0]] = True
    return np.flatnonzero(new)
