"""What can be set in a simulated market."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time

import numpy as np

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.times import parse_datetime

# Each use of random numbers has a stream of its own.
DEMAND_STREAM, JOBS_STREAM, BLOCK_STREAM = 0, 1, 2
PASSIVE_STREAM, POSTS_STREAM, SEARCH_STREAM, STATUS_STREAM, READ_STREAM = 3, 4, 5, 6, 7

RANGES: dict[str, tuple[type[int] | type[float], float, float]] = {
    "members": (int, 1, 1_000_000_000),
    "jobs": (int, 1, 20_000),
    "days": (int, 1, 3_000),
    "seed": (int, 0, 1 << 62),
    "dimension": (int, 2, 200),
    "demand_spread": (float, 0, 3),
    "job_own": (float, 0, 10),
    "attractiveness": (float, 0, 10),
    "exposure_spread": (float, 0, 3),
    "fading_days": (float, 1, 1_000),
    "open_days": (float, 7, 365),
    "sessions": (float, 0.01, 100),
    "sessions_spread": (float, 0, 3),
    "searching": (float, 1, 100),
    "actions": (float, 1, 8),
    "member_own": (float, 0, 10),
    "focus": (float, 0, 100),
    "reluctance": (float, -100, 100),
    "changing": (float, 0, 1),
    "direction_days": (float, 7, 10_000),
    "related": (float, 0, 1),
    "gradual": (float, 0, 1),
    "gradual_days": (float, 1, 365),
    "stray": (float, 0, 1),
    "browsed": (int, 0, 1_000),
    "recommended": (int, 1, 1_000),
    "recommender_choice": (int, 1, 1_000),
    "recommender_lag_days": (float, 0, 365),
    "save": (float, 0, 1),
    "save_changed": (float, 0, 1),
    "save_stray": (float, 0, 1),
    "dismiss": (float, 0, 1),
    "passive": (int, 0, 1_000_000_000),
    "searched": (float, 0, 1),
    "searches": (float, 1, 4),
    "announced": (float, 0, 1),
    "announcements": (float, 0, 28),
    "posts": (int, 1, 20_000),
    "reads": (float, 0, 100),
    "reads_spread": (float, 0, 3),
    "read_focus": (float, 0, 1),
}
"""Of each number among the settings: its type, the least and the most."""


@dataclass(frozen=True, kw_only=True)
class MarketSettings:
    """Settings of a simulated market. The same settings give the same bytes.

    A member depends on their number and on the other settings, not on how many there are: a run of
    more members begins with the same ones.

    Parameters
    ----------
    members
        Numbered from 1; those without any activity have true preferences only.
    jobs
        Postings, some of them posted before `start` and still open then.
    days
        Simulated, from `start` on.
    start
        The first midnight, UTC, a time with a zone; see
        `activity_embeddings.transformations.times.Time`.
    seed
        int, at least 0.
    dimension
        K, the length of true vectors without the coordinate of attractiveness.
    demand_spread
        Standard deviation of the log of an occupation's share of postings and of interests.
    job_own
        Length of the part of a job's vector that is not from its text, whose own part has length 1.
    attractiveness
        Standard deviation of what a posting adds to everyone's utility.
    exposure_spread
        Standard deviation of the log of a posting's exposure.
    fading_days
        Number of days in which exposure falls to 1/e.
    open_days
        Median days that a posting is open.
    sessions
        Median over members of the sessions expected in 28 days, if none of these were of a weekend,
        when there are fewer.
    sessions_spread
        Standard deviation of the log of that: the heavy tail.
    searching
        So many times as many sessions in the 28 days after a change of direction.
    actions
        Mean of the most actions that a session has: geometric, up to 8.
    member_own
        Length of the part of an interest that is not the occupation's, whose own part has length 1.
    focus
        Median utility of a job exactly as wanted over that of an unrelated one, in units of the
        logit's scale.
    reluctance
        Utility of doing nothing, and so the end of a session: with 8 and a focus of 16, a posting
        of about half the way to what is wanted is as likely to be acted on as not.
    changing
        Share of members that change direction, again and again.
    direction_days
        Mean days that these keep one: a week and an exponential time.
    related
        Share of changes to an occupation related to the one before; others lead to any occupation,
        by demand.
    gradual
        Share of changes that take `gradual_days`, in four steps; others are at once.
    gradual_days
        See `gradual`.
    stray
        Share of sessions that follow an interest in any occupation, by demand.
    browsed
        Postings that a session shows by exposure alone.
    recommended
        Postings that a recommender adds.
    recommender_choice
        Number of items drawn by exposure, of which each is the best.
    recommender_lag_days
        How old the interest is by which the recommender judges.
    save
        Share of SAVE among positive actions.
    save_changed
        The same in the 28 days after a change of direction began.
    save_stray
        The same in a session that strays.
    dismiss
        Share of DISMISS among all actions.
    passive
        Members beside the others who are no active seekers: they come to the jobs in one session.
        Numbered from 1,000,000,001.
    searched
        Share of sessions that begin with searches.
    searches
        Mean number of searches that such a session begins with: geometric, up to 4.
    announced
        Share of changes of direction that a change of status announces.
    announcements
        Mean number of changes of status in 28 days that say where a member is going already.
    posts
        Posts to be read.
    reads
        Median over members of the posts read in 28 days.
    reads_spread
        Standard deviation of the log of that.
    read_focus
        How much the choice of a post follows the direction, relative to the choice of a job.

    Raises
    ------
    InvalidInput
        A setting is not a number in its range, or `start` not a midnight UTC.
    """

    members: int = 6_000
    jobs: int = 1_500
    days: int = 120
    start: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    seed: int = 0
    dimension: int = 32
    demand_spread: float = 1.8
    job_own: float = 0.35
    attractiveness: float = 0.5
    exposure_spread: float = 1.0
    fading_days: float = 21.0
    open_days: float = 35.0
    sessions: float = 1.0
    sessions_spread: float = 1.1
    searching: float = 3.0
    actions: float = 2.2
    member_own: float = 0.3
    focus: float = 16.0
    reluctance: float = 8.0
    changing: float = 0.35
    direction_days: float = 30.0
    related: float = 0.4
    gradual: float = 0.25
    gradual_days: float = 28.0
    stray: float = 0.15
    browsed: int = 24
    recommended: int = 24
    recommender_choice: int = 8
    recommender_lag_days: float = 7.0
    save: float = 0.3
    save_changed: float = 0.4
    save_stray: float = 0.6
    dismiss: float = 0.03
    passive: int = 0
    searched: float = 0.5
    searches: float = 1.5
    announced: float = 0.4
    announcements: float = 0.05
    posts: int = 2_000
    reads: float = 4.0
    reads_spread: float = 1.0
    read_focus: float = 0.4

    def __post_init__(self) -> None:
        for name, (kind, low, high) in RANGES.items():
            value = getattr(self, name)
            number = isinstance(value, int if kind is int else (int, float))
            if not number or isinstance(value, bool) or not low <= value <= high:
                expected = "a whole number" if kind is int else "a number"
                raise InvalidInput(
                    f"job market: `{name}` is expected to be {expected} from {low:,} to {high:,}, "
                    f"received {value!r}"
                )
        start = parse_datetime(self.start, "job market: `start`", zone=True)
        if start.time() != time.min:
            raise InvalidInput(
                f"job market: `start` is expected to be a midnight, UTC, received {start}"
            )
        object.__setattr__(self, "start", start)

    def random(self, *stream: int) -> np.random.Generator:
        """Return the random numbers of one use."""
        return np.random.default_rng([self.seed, *stream])
