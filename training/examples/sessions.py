"""Sessions of all that members did, by the rule by which sequences have theirs."""

from __future__ import annotations

import numpy as np

from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.sessions import first_of_session


def sessions_of(events: ActivityEvents, gap_us: int) -> np.ndarray:
    """Return the first event of the session of each event, int64 [E]; see `first_of_session`."""
    return first_of_session(events.member, events.time, events.session, gap_us=gap_us)


def session_starts(events: ActivityEvents, gap_us: int) -> np.ndarray:
    """Return the first event of each session, ascending, int64 [sessions].

    Sessions that ids say may overlap. Of events without ids a session is a member's events of which
    each follows the one before by `gap_us` microseconds or less; it ends before the next one's
    start.
    """
    return np.unique(sessions_of(events, gap_us))
