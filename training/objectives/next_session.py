"""Rank the items of the member's next session from everything before it, as one list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from activity_embeddings.training.examples.held_out import HeldOut, hold_out
from activity_embeddings.training.examples.history import ActivityHistory, is_own
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.examples.sessions import sessions_of
from activity_embeddings.training.objectives.future_positives import FuturePositives
from activity_embeddings.transformations.activity.sessions import last_of_session
from activity_embeddings.transformations.errors import InvalidInput

_MINUTE_US = 60_000_000


@dataclass(frozen=True, kw_only=True)
class NextSession(FuturePositives):
    """`FuturePositives` with the moments at the starts of sessions, and each session as a list.

    What a member does in one session has no order of importance: all positive items of it are
    targets, against each other's scores, the items dismissed in it, other items of its day and the
    targets of other sessions in the batch. An item counts once, as a target if any of its
    activities was positive. The input is all activity before the session, and nothing is learnt of
    how a session goes on. Left out are sessions of members without activity before, and those that
    begin with an item without vector. Settings that are not named here are those of
    `FuturePositives`; by default 32 negatives are of the day, no others are drawn, and losses are
    `listwise`, without `log_q`.

    Parameters
    ----------
    session_gap_minutes
        The longest time between neighbouring activities of one session, where events have no
        session ids; see `first_of_session`.
    windows
        Of sessions: `minimum` is that of activities before one, and `per_member` counts sessions.
    horizon_days
        0: a session is as long as it is.
    """

    name: ClassVar[str] = "next_session"
    session_gap_minutes: float = 30.0
    horizon_days: float = 0.0
    uniform_negatives: int = 0
    popular_negatives: int = 0
    day_negatives: int = 32
    log_q: bool = False
    listwise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.session_gap_minutes < np.inf:
            raise InvalidInput(
                f"{self.name}: `session_gap_minutes` should be above 0. Received: "
                f"{self.session_gap_minutes}"
            )
        if self.horizon_days:
            raise InvalidInput(
                f"{self.name}: `horizon_days` should be 0, since the targets are those of a "
                f"session. Received: {self.horizon_days}"
            )

    def moments(
        self, history: ActivityHistory, period: Period, random: np.random.Generator
    ) -> tuple[HeldOut, np.ndarray]:
        """Return the starts of sessions, and what is just after their ends; see `FuturePositives`.

        Of several kinds of activity a session is of all kinds, and starts with the first activity
        of the domain's own: a search before it is part of the input. A session that began before
        the period is none of it.
        """
        events, session = history.events, self.groups(history)
        own = np.flatnonzero(is_own(events.action, history.spec))
        _, first = np.unique(session[own], return_index=True)
        among = np.zeros(len(events), dtype=bool)
        among[own[first]] = True
        held_out = hold_out(history, period, windows=self.windows, among=among, random=random)
        return held_out, events.time[last_of_session(session)[held_out.event]] + 1

    def groups(self, history: ActivityHistory) -> np.ndarray:
        """Return the session of each event, by its first event; int64 [E]."""
        return sessions_of(history.events, round(self.session_gap_minutes * _MINUTE_US))

    def counted(self, history: ActivityHistory, period: Period) -> np.ndarray:
        """Return one event of each item of a session, bool [E]: the first positive one, if any.

        Items without a vector when the session starts are left out, and what follows the period.
        """
        events, session = history.events, self.groups(history)
        inside = is_own(events.action, history.spec) & (events.time < period.end_us)
        own = np.flatnonzero(inside)
        _, first, position = np.unique(session[own], return_index=True, return_inverse=True)
        start = events.time[own[first]][position]
        own = own[history.vectors.known_at(events.item_ids)[events.item[own]] <= start]
        positive = np.isin(events.action[own], history.spec.positive_ids)
        own = own[np.argsort(~positive, kind="stable")]
        pair = session[own].astype(np.int64) * len(events.item_ids) + events.item[own]
        _, first = np.unique(pair, return_index=True)
        counted = np.zeros(len(events), dtype=bool)
        counted[own[first]] = True
        return counted
