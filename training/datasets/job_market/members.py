"""The members of a simulated market: what they want, from when on, and when they come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from activity_embeddings.training.datasets.job_market.occupations import RELATED, Occupations, unit
from activity_embeddings.training.datasets.job_market.settings import MarketSettings
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

BLOCK = 10_000
"""Members that are made together: bounds the memory, and is the unit to spread over processes."""
FOCUS_SPREAD = 0.2
"""Standard deviation of the log of a member's focus."""
SHORTEST_KEPT_DAYS = 7
RECENT_CHANGE_DAYS = 28
"""How long a change of direction counts as recent, from when it began."""
GRADUAL_STEPS = (0.25, 0.5, 0.75, 1.0)
"""Share of the new direction in a gradual change, one step after the other."""
SESSIONS_DAYS = 28
"""Days to which the setting of the number of sessions refers."""
MOST_SESSIONS_A_DAY = 5
WEEKEND = 0.6
"""Sessions on a day of the weekend, relative to another day."""

_NEVER = -(1 << 62)
_TIME_BITS = 48  # Microseconds of eight years, more than a market lasts.


@dataclass(frozen=True)
class Directions:
    """What the members of a block want, from when on: r rows, by member, then time.

    Attributes
    ----------
    member
        int64 [r]; position in the block.
    since
        int64 [r]; microseconds since the market's start, 0 in a member's first row.
    preference
        float32 [r, K]; the interest, a unit vector, times the member's focus.
    occupation
        int64 [r]; the occupation that the interest is near, or becomes so step by step.
    changed
        int64 [r]; when the newest change of direction began, `_NEVER` without one.
    """

    member: np.ndarray
    since: np.ndarray
    preference: np.ndarray
    occupation: np.ndarray
    changed: np.ndarray

    def rows(self, member: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the newest row of each member at each time, int64 [n]; before 0 the first."""
        keys = (self.member << _TIME_BITS) + self.since
        wanted = (member << _TIME_BITS) + np.maximum(time, 0)
        return np.searchsorted(keys, wanted, side="right") - 1


def draw_directions(
    settings: MarketSettings, occupations: Occupations, random: np.random.Generator
) -> Directions:
    """Draw what the members of a block want, and when that changes."""
    occupation = occupations.draw(random, BLOCK)
    interest = occupations.near(occupation, settings.member_own, random)
    focus = settings.focus * np.exp(FOCUS_SPREAD * random.standard_normal(BLOCK))
    everyone = np.arange(BLOCK)
    never = np.full_like(everyone, _NEVER)
    parts = [(everyone, np.zeros_like(everyone), interest.copy(), occupation.copy(), never)]
    mover = np.flatnonzero(random.random(BLOCK) < settings.changing)
    # Members are at any moment of keeping a direction when the market starts.
    at = (random.random(len(mover)) * _days_kept(settings, random, len(mover))).astype(np.int64)
    while len(mover):
        within = at < settings.days * MICROSECONDS_PER_DAY
        mover, at = mover[within], at[within]
        nearby = occupations.related[occupation[mover], random.integers(0, RELATED, len(mover))]
        anywhere = occupations.draw(random, len(mover))
        is_related = random.random(len(mover)) < settings.related
        occupation[mover] = np.where(is_related, nearby, anywhere)
        near = occupation[mover]
        old, new = interest[mover], occupations.near(near, settings.member_own, random)
        gradual = random.random(len(mover)) < settings.gradual
        following = at + _days_kept(settings, random, len(mover))
        parts.append((mover[~gradual], at[~gradual], new[~gradual], near[~gradual], at[~gradual]))
        for step, share in enumerate(GRADUAL_STEPS):
            days = step * settings.gradual_days / (len(GRADUAL_STEPS) - 1)
            since = at + int(days * MICROSECONDS_PER_DAY)
            there = gradual & (since < following)
            between = unit((1 - share) * old[there] + share * new[there])
            parts.append((mover[there], since[there], between, near[there], at[there]))
        interest[mover], at = new, following
    member, since, vectors, near, changed = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    order = np.lexsort((since, member))
    order = order[since[order] < settings.days * MICROSECONDS_PER_DAY]
    preference = (vectors[order] * focus[member[order], None]).astype(np.float32)
    return Directions(member[order], since[order], preference, near[order], changed[order])


def draw_visits(
    settings: MarketSettings, directions: Directions, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the sessions of a block: member and day, both int64 [s], by day."""
    a_day = np.exp(settings.sessions_spread * random.standard_normal(BLOCK))
    a_day *= settings.sessions / SESSIONS_DAYS
    a_day = np.minimum(a_day, MOST_SESSIONS_A_DAY)
    count = random.poisson(a_day * settings.days)
    member = np.repeat(np.arange(BLOCK), count)
    time = random.uniform(0, settings.days, len(member))
    # Who changes direction searches: more sessions, for some weeks.
    changes = np.flatnonzero(directions.changed == directions.since)
    mover = directions.member[changes]
    more = random.poisson(a_day[mover] * (settings.searching - 1) * RECENT_CHANGE_DAYS)
    mover = np.repeat(mover, more)
    since = np.repeat(directions.since[changes] / MICROSECONDS_PER_DAY, more)
    since += random.uniform(0, RECENT_CHANGE_DAYS, len(mover))
    member, day = np.concatenate([member, mover]), np.concatenate([time, since]).astype(np.int64)
    weekend = (settings.start.weekday() + day) % 7 >= 5
    kept = (day < settings.days) & (~weekend | (random.random(len(day)) < WEEKEND))
    member, day = member[kept], day[kept]
    order = np.argsort(day, kind="stable")
    return member[order], day[order]


def draw_first_visits(
    settings: MarketSettings, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the one session of each passive member of a block, as `draw_visits` returns them."""
    day = random.integers(0, settings.days, BLOCK)
    member = np.argsort(day, kind="stable")
    return member, day[member]


def _days_kept(settings: MarketSettings, random: np.random.Generator, n: int) -> np.ndarray:
    """Draw for how long a direction is kept, int64 [n], microseconds."""
    more = random.exponential(settings.direction_days - SHORTEST_KEPT_DAYS, n)
    return ((SHORTEST_KEPT_DAYS + more) * MICROSECONDS_PER_DAY).astype(np.int64)
