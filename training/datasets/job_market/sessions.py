"""What members do in a simulated market, session by session, all sessions of a day at once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from activity_embeddings.training.datasets.job_market.jobs import Jobs
from activity_embeddings.training.datasets.job_market.members import (
    BLOCK,
    RECENT_CHANGE_DAYS,
    Directions,
)
from activity_embeddings.training.datasets.job_market.occupations import Occupations
from activity_embeddings.training.datasets.job_market.settings import MarketSettings
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

APPLY, SAVE, DISMISS = 0, 1, 2
ACTIONS = ("APPLY", "SAVE", "DISMISS")
MOST_ACTIONS = 8
"""Most actions of one session."""
# Sessions start between these hours and last less than one, so that none crosses midnight.
FIRST_HOUR, LAST_HOUR = 6, 23
PAUSE_SECONDS = 90
"""Mean time between the actions of a session, exponential; at most four times as long."""

_HOUR_US = MICROSECONDS_PER_DAY // 24
_EXPOSURE_STEPS = 1 << 16


@dataclass(frozen=True)
class Sessions:
    """s sessions, by day, also those in which nothing is acted on.

    Attributes
    ----------
    member
        int64 [s]; positions in the block.
    time
        int64 [s]; when they start, microseconds since the market's start.
    want
        float32 [s, K]; what the members want in them, as `Directions.preference` is.
    row
        int64 [s]; the rows of the directions of that time.
    strayed
        bool [s]; whether they do not follow the member's own interest.
    most
        int64 [s]; how many actions at most.
    """

    member: np.ndarray
    time: np.ndarray
    want: np.ndarray
    row: np.ndarray
    strayed: np.ndarray
    most: np.ndarray


@dataclass(frozen=True)
class Actions:
    """n actions, by time.

    Attributes
    ----------
    member, job
        int64 [n]; positions in the block and in `Jobs`.
    action
        int8 [n]; position in `ACTIONS`.
    time
        int64 [n]; microseconds since the market's start.
    strayed
        bool [n]; of a session that did not follow the member's own interest.
    """

    member: np.ndarray
    job: np.ndarray
    action: np.ndarray
    time: np.ndarray
    strayed: np.ndarray

    def take(self, rows: np.ndarray) -> Actions:
        """Return some of the actions, by position or mask."""
        return Actions(*(getattr(self, field.name)[rows] for field in fields(self)))


def draw_sessions(
    settings: MarketSettings,
    occupations: Occupations,
    directions: Directions,
    visits: tuple[np.ndarray, np.ndarray],
    random: np.random.Generator,
) -> Sessions:
    """Draw when in the day the members of a block come, and what for.

    Parameters
    ----------
    visits
        int64 [s] each; member and day, by day.
    """
    member, day = visits
    hour_us = random.uniform(FIRST_HOUR, LAST_HOUR, len(member)) * _HOUR_US
    time = day * MICROSECONDS_PER_DAY + hour_us.astype(np.int64)
    row = directions.rows(member, time)
    strayed = random.random(len(member)) < settings.stray
    elsewhere = occupations.draw(random, len(member))
    want = directions.preference[row]
    focus = np.linalg.norm(want[strayed], axis=1, keepdims=True)
    want[strayed] = focus * occupations.vectors[elsewhere[strayed]]
    most = np.minimum(random.geometric(1 / settings.actions, len(member)), MOST_ACTIONS)
    return Sessions(member, time, want, row, strayed, most)


def draw_actions(
    settings: MarketSettings,
    jobs: Jobs,
    directions: Directions,
    sessions: Sessions,
    random: np.random.Generator,
) -> Actions:
    """Let the members of a block act in their sessions."""
    member, time, strays = sessions.member, sessions.time, sessions.strayed
    day = time // MICROSECONDS_PER_DAY
    lag = int(settings.recommender_lag_days * MICROSECONDS_PER_DAY)
    row_recommender_knows = directions.rows(member, time - lag)
    done = np.zeros((BLOCK, settings.jobs), bool)
    parts = []
    bounds = np.searchsorted(day, np.arange(settings.days + 1))
    for today in range(settings.days):
        part = slice(bounds[today], bounds[today + 1])
        known = directions.preference[row_recommender_knows[part]]
        want, most = sessions.want[part], sessions.most[part]
        found = _act(settings, jobs, random, today, member[part], want, known, most, done)
        done[member[part][found.session], found.job] = True
        parts.append(replace(found, session=found.session + part.start))
    session, slot, job, dismissed = (
        np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(_Found)
    )
    pauses = random.standard_exponential((len(member), MOST_ACTIONS), dtype=np.float32)
    pauses = (np.minimum(pauses, 4) * (PAUSE_SECONDS * 1_000_000)).astype(np.int64)
    changed_ago = time - directions.changed[sessions.row]
    lately = changed_ago < RECENT_CHANGE_DAYS * MICROSECONDS_PER_DAY
    save = np.where(
        strays, settings.save_stray, np.where(lately, settings.save_changed, settings.save)
    )
    saved = random.random(len(session)) < save[session]
    result = Actions(
        member=member[session],
        job=job,
        action=np.where(dismissed, DISMISS, np.where(saved, SAVE, APPLY)).astype(np.int8),
        time=time[session] + pauses.cumsum(axis=1)[session, slot],
        strayed=strays[session],
    )
    result = result.take(np.lexsort((result.member, result.time)))
    # Two sessions of one day do not know of each other: the earlier action on a job counts.
    _, first = np.unique(result.member * settings.jobs + result.job, return_index=True)
    return result.take(np.sort(first))


def _act(
    settings: MarketSettings,
    jobs: Jobs,
    random: np.random.Generator,
    day: int,
    member: np.ndarray,
    want: np.ndarray,
    known: np.ndarray,
    actions: np.ndarray,
    done: np.ndarray,
) -> _Found:
    """Let s sessions of one day see postings and act on some.

    Parameters
    ----------
    member
        int64 [s].
    want, known
        float32 [s, K]; what the members want, and what the recommender knows of it.
    actions
        int64 [s]; how many at most.
    done
        bool [BLOCK, jobs]; what each member acted on before, not to be shown again.
    """
    shown, exposure = jobs.shown_on(day)
    if not len(shown):
        return _Found.nothing()
    vectors = jobs.vectors[shown].T
    slate, recommended = _slate(settings, random, exposure, known @ vectors)
    utility = np.take_along_axis(want @ vectors + jobs.attractiveness[shown], slate, axis=1)
    slate = shown[slate]
    new = ~done.ravel().take(member[:, None] * done.shape[1] + slate)
    new[:, 1:] &= slate[:, 1:] != slate[:, :-1]

    # One after the other, the best by utility plus Gumbel noise until doing nothing is better: a
    # multinomial logit without replacement.
    score = np.where(new, utility + gumbel(random, utility.shape), -np.inf)
    nothing = settings.reluctance + gumbel(random, (len(member), 1))
    live = np.flatnonzero(score.max(axis=1) > nothing[:, 0])
    score, nothing, actions = score[live], nothing[live], actions[live]
    slate, utility, new, recommended = slate[live], utility[live], new[live], recommended[live]
    best = np.argsort(-score, axis=1)[:, :MOST_ACTIONS]
    slot = np.arange(best.shape[1])
    reached = np.take_along_axis(score, best, axis=1)
    acts = (slot < actions[:, None]) & (reached > nothing)
    dismisses = acts & (random.random(acts.shape, dtype=np.float32) < settings.dismiss)
    wants = acts & ~dismisses
    wanted = _places(wants, best, new)

    # Few sessions dismiss: what was recommended, is not wanted, and is of low utility.
    some = np.flatnonzero(dismisses.any(axis=1))
    left = new[some] & recommended[some]
    taken, place = np.nonzero(slot < wants[some].sum(axis=1)[:, None])
    left[taken, best[some][taken, place]] = False
    noise = gumbel(random, left.shape)
    worst = np.argsort(-np.where(left, noise - utility[some], -np.inf), axis=1)
    unwanted = _places(dismisses[some], worst[:, :MOST_ACTIONS], left)

    session = np.concatenate([wanted[0], some[unwanted[0]]])
    slots, places = (np.concatenate(pair) for pair in zip(wanted[1:], unwanted[1:], strict=True))
    is_dismissed = np.arange(len(session)) >= len(wanted[0])
    return _Found(live[session], slots, slate[session, places], is_dismissed)


def _slate(
    settings: MarketSettings, random: np.random.Generator, exposure: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw what s sessions are shown of m postings.

    Parameters
    ----------
    exposure
        float64 [m], of sum 1.
    known
        float32 [s, m]; how well each posting suits the member, for the recommender.

    Returns
    -------
    tuple[np.ndarray, np.ndarray]
        Slate : int64 [s, n], ascending positions among the m, some more than once. recommended :
        bool [s, n]; of a posting that occurs more than once, the first place tells.
    """
    sessions = len(known)
    # A table in which postings take places by exposure turns a draw into one look-up.
    ends = np.rint(np.cumsum(exposure) * _EXPOSURE_STEPS).astype(np.int64)
    table = np.repeat(np.arange(len(exposure), dtype=np.int32), np.diff(ends, prepend=0))
    size = (sessions, settings.browsed + settings.recommended * settings.recommender_choice)
    drawn = table.take(random.integers(0, _EXPOSURE_STEPS, size, np.uint16))
    pool = drawn[:, settings.browsed :]
    suits = known.ravel().take(pool + np.arange(sessions)[:, None] * known.shape[1])
    shape = (sessions, settings.recommended, settings.recommender_choice)
    best = suits.reshape(shape).argmax(axis=2)[..., None]
    picked = np.take_along_axis(pool.reshape(shape), best, axis=2)[..., 0]
    marked = np.concatenate([2 * drawn[:, : settings.browsed] + 1, 2 * picked], axis=1)
    marked.sort(axis=1)
    return marked >> 1, marked % 2 == 0


def _places(acts: np.ndarray, order: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, ...]:
    """Give the slots of s sessions that act their places in the slate, best first.

    Parameters
    ----------
    acts
        bool [s, slots].
    order
        int64 [s, slots or fewer]; places in the slate of n, best first.
    there
        bool [s, n]; places that can be acted on.

    Returns
    -------
    tuple of int64 [a]
        Session, slot and place of each action; slots beyond the session are left out.
    """
    session, slot = np.nonzero(acts)
    turn = acts.cumsum(axis=1)[session, slot] - 1
    enough = turn < order.shape[1]
    session, slot, turn = session[enough], slot[enough], turn[enough]
    place = order[session, turn]
    possible = there[session, place]
    return session[possible], slot[possible], place[possible]


def gumbel(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw standard Gumbel noise, float32."""
    waiting = random.standard_exponential(shape, dtype=np.float32)
    return -np.log(np.maximum(waiting, np.finfo(np.float32).tiny))


@dataclass(frozen=True)
class _Found:
    """Actions of one day: session and slot int64 [n], job int64 [n], dismissed bool [n]."""

    session: np.ndarray
    slot: np.ndarray
    job: np.ndarray
    dismissed: np.ndarray

    @classmethod
    def nothing(cls) -> _Found:
        none = np.zeros(0, np.int64)
        return cls(none, none, none, none.astype(bool))
