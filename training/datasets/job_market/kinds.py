"""What members of a simulated market do beside acting on jobs: search, change status, read posts.

Each comes from what the member wants at the time, as acting on jobs does, with random numbers of
its own: members act on the same jobs, whether the other kinds are made or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from activity_embeddings.training.datasets.job_market.kind_items import Posts, Searches
from activity_embeddings.training.datasets.job_market.members import (
    BLOCK,
    SESSIONS_DAYS,
    Directions,
)
from activity_embeddings.training.datasets.job_market.occupations import Occupations
from activity_embeddings.training.datasets.job_market.sessions import (
    FIRST_HOUR,
    LAST_HOUR,
    Sessions,
    gumbel,
)
from activity_embeddings.training.datasets.job_market.settings import MarketSettings
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

SEARCH, STATUS, POST = "search", "status", "post"
"""Kinds of activity, called after what they are on."""
KIND_ACTIONS = {SEARCH: ("SEARCH",), STATUS: ("OPEN_TO_WORK", "NEW_TITLE"), POST: ("READ",)}
"""Actions of each kind."""
DIRECTION, STRAY, CHANGE = 0, 1, 2
CAUSES = ("direction", "stray", "change")
MOST_SEARCHES = 4
"""Most searches that a session begins with."""
SEARCH_SECONDS = 20
"""Mean time from a search to the next one or to the session; at most four times as long."""
ANNOUNCED_WITHIN_DAYS = 7
"""Longest time from a change of direction to the change of status that announces it."""
POSTS_SEEN = 30
"""How many posts one is chosen from."""

_NEVER = 1 << 62
_ROWS = 4_096  # Rows of searches whose utility of every occupation is held at once.


@dataclass(frozen=True)
class KindActivity:
    """n events of one kind, by time, and what each came from.

    Attributes
    ----------
    member
        int64 [n]; positions in the block.
    item
        int64 [n]; positions among the items of the kind.
    action
        int64 [n]; positions in the kind's `KIND_ACTIONS`.
    time
        int64 [n]; microseconds since the market's start.
    occupation
        int64 [n]; what it was about.
    cause
        int64 [n]; positions in `CAUSES`.
    since
        int64 [n]; from when on what it came from was there: the direction, or its change; of a
        session that strays the time itself.
    before
        int64 [n]; the session that it came before, `_NEVER` for none.
    """

    member: np.ndarray
    item: np.ndarray
    action: np.ndarray
    time: np.ndarray
    occupation: np.ndarray
    cause: np.ndarray
    since: np.ndarray
    before: np.ndarray

    @property
    def followed(self) -> np.ndarray:
        """Whether there is a session that it came before, bool [n]."""
        return self.before != _NEVER

    def within(self, members: int, until: int) -> KindActivity:
        """Return the events of the first members before a time, by time."""
        kept = np.flatnonzero((self.member < members) & (self.time < until))
        order = kept[np.lexsort((self.member[kept], self.time[kept]))]
        return KindActivity(**{name: column[order] for name, column in vars(self).items()})


def draw_searches(
    settings: MarketSettings,
    occupations: Occupations,
    searches: Searches,
    directions: Directions,
    sessions: Sessions,
    random: np.random.Generator,
) -> KindActivity:
    """Let sessions begin with searches for what is wanted in them.

    The occupation is chosen by a multinomial logit on utility, as a job is, and one of its queries
    is typed. A search comes before its session's first action.
    """
    begins = np.flatnonzero(random.random(len(sessions.member)) < settings.searched)
    number = np.minimum(random.geometric(1 / settings.searches, len(begins)), MOST_SEARCHES)
    session = np.repeat(begins, number)
    occupation = np.empty(len(session), np.int64)
    for first in range(0, len(session), _ROWS):
        part = slice(first, first + _ROWS)
        utility = sessions.want[session[part]] @ occupations.vectors.T
        occupation[part] = (utility + gumbel(random, utility.shape)).argmax(axis=1)
    form = random.integers(0, searches.forms.shape[1], len(session))
    pauses = np.minimum(random.standard_exponential((len(begins), MOST_SEARCHES)), 4)
    # At least a microsecond before the session, whose first action may come at its very start.
    ahead = 1 + (pauses.cumsum(axis=1) * SEARCH_SECONDS * 1_000_000).astype(np.int64)
    which = np.repeat(np.cumsum(number) - number, number)
    ahead = ahead[np.repeat(np.arange(len(begins)), number), np.arange(len(session)) - which]
    strayed, start = sessions.strayed[session], sessions.time[session]
    time = start - ahead
    return KindActivity(
        member=sessions.member[session],
        item=searches.forms[occupation, form],
        action=np.zeros_like(session),
        time=time,
        occupation=occupation,
        cause=np.where(strayed, STRAY, DIRECTION),
        since=np.where(strayed, time, directions.since[sessions.row[session]]),
        before=start,
    )


def draw_status_changes(
    settings: MarketSettings,
    directions: Directions,
    sessions: Sessions,
    random: np.random.Generator,
) -> KindActivity:
    """Let members say where they are going.

    Some changes of direction are announced, before the next session and within a week, by the
    occupation that the member is going to. Beside these, any member may say where they are going
    already.
    """
    changes = np.flatnonzero(directions.changed == directions.since)
    changes = changes[random.random(len(changes)) < settings.announced]
    since, member = directions.since[changes], directions.member[changes]
    before = _next_session(sessions, member, since)
    last = np.minimum(before, since + ANNOUNCED_WITHIN_DAYS * MICROSECONDS_PER_DAY)
    announced = since + (random.random(len(changes)) * (last - since)).astype(np.int64)

    number = random.poisson(settings.announcements * settings.days / SESSIONS_DAYS, BLOCK)
    again = np.repeat(np.arange(BLOCK), number)
    time = random.integers(0, settings.days * MICROSECONDS_PER_DAY, len(again))
    row = np.concatenate([changes, directions.rows(again, time)])
    occupation = directions.occupation[row]
    return KindActivity(
        member=np.concatenate([member, again]),
        item=occupation,
        action=random.integers(0, len(KIND_ACTIONS[STATUS]), len(row)),
        time=np.concatenate([announced, time]),
        occupation=occupation,
        cause=np.where(np.arange(len(row)) < len(changes), CHANGE, DIRECTION),
        since=directions.since[row],
        before=np.concatenate([before, np.full(len(again), _NEVER)]),
    )


def draw_reading(
    settings: MarketSettings,
    posts: Posts,
    directions: Directions,
    random: np.random.Generator,
) -> KindActivity:
    """Let members read posts, day by day, each chosen among `POSTS_SEEN` that are new.

    The choice is a multinomial logit on how well the post suits the direction, times `read_focus`.
    """
    a_day = np.exp(settings.reads_spread * random.standard_normal(BLOCK))
    a_day *= settings.reads / SESSIONS_DAYS
    member = np.repeat(np.arange(BLOCK), random.poisson(a_day * settings.days))
    day = random.integers(0, settings.days, len(member))
    order = np.argsort(day, kind="stable")
    member, day = member[order], day[order]
    hour_us = random.uniform(FIRST_HOUR, LAST_HOUR, len(member)) * (MICROSECONDS_PER_DAY // 24)
    time = day * MICROSECONDS_PER_DAY + hour_us.astype(np.int64)
    row = directions.rows(member, time)
    post = np.full(len(member), -1)
    bounds = np.searchsorted(day, np.arange(settings.days + 1))
    for today in range(settings.days):
        part = slice(bounds[today], bounds[today + 1])
        shown = posts.shown_on(today)
        if not len(shown):
            continue
        seen = shown[random.integers(0, len(shown), (part.stop - part.start, POSTS_SEEN))]
        want = settings.read_focus * directions.preference[row[part]]
        utility = np.einsum("nk,nsk->ns", want, posts.vectors[seen])
        best = (utility + gumbel(random, utility.shape)).argmax(axis=1)
        post[part] = seen[np.arange(len(seen)), best]
    read = np.flatnonzero(post >= 0)
    return KindActivity(
        member=member[read],
        item=post[read],
        action=np.zeros_like(read),
        time=time[read],
        occupation=posts.occupation[post[read]],
        cause=np.full(len(read), DIRECTION),
        since=directions.since[row[read]],
        before=np.full(len(read), _NEVER),
    )


def _next_session(sessions: Sessions, member: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return when each member's next session after a time starts, int64 [n], `_NEVER` for none."""
    order = np.lexsort((sessions.time, sessions.member))
    starts, of_member = sessions.time[order], sessions.member[order]
    low, high = (np.searchsorted(of_member, member, side=side) for side in ("left", "right"))
    following = np.full(len(member), _NEVER)
    for i, (first, end) in enumerate(zip(low, high, strict=True)):
        later = first + np.searchsorted(starts[first:end], time[i], side="right")
        if later < end:
            following[i] = starts[later]
    return following
