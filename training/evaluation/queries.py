"""What a ranker is asked: queries with their whole candidate lists, the same for every arm.

Two tasks. In the first a member wants an item, and the question is in which place a ranker puts it
among all items that anyone acted on during the same day, or the same week; lists are whole, since
metrics on sampled candidates can order models wrongly (Krichene and Rendle, KDD 2020). In the
second a member acts on an item, and the question is whether that was wanted or dismissed. Lists are
made in one way, whatever they are for: those that a ranker learns from are drawn as those that it
is tested on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from activity_embeddings.training.examples.candidates import candidates_among
from activity_embeddings.training.examples.held_out import (
    HeldOut,
    Windows,
    hold_out,
    sample_per_group,
)
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

DAYS_A_WEEK = 7
_FIRST_MONDAY = 4
"""Days from the epoch, a Thursday, to a Monday."""


@dataclass(frozen=True, eq=False)
class Queries:
    """n queries over R rows, a row for each candidate, those of a query side by side.

    Attributes
    ----------
    sequences
        The activity of each member strictly before the query, at most 32.
    member
        int [n]; position in `history.events.member_ids`.
    start
        int64 [n + 1]; the rows of query i are `start[i]:start[i + 1]`.
    item
        int32 [R]; position in `history.vectors.item_ids`.
    vector_row
        int32 [R]; row of the item's vector as of the query.
    target
        int8 [R]; 1 for what the member wanted, else 0.
    ranked
        Whether a query is a list with one wanted item, and not a single row.
    """

    sequences: Sequences
    member: np.ndarray
    start: np.ndarray
    item: np.ndarray
    vector_row: np.ndarray
    target: np.ndarray
    ranked: bool = True

    def __len__(self) -> int:
        return len(self.member)

    @property
    def time(self) -> np.ndarray:
        """When each query is asked, int64 [n], microseconds since the epoch."""
        return self.sequences.as_of

    @property
    def sizes(self) -> np.ndarray:
        """Candidates of each query, int64 [n]."""
        return np.diff(self.start)

    @property
    def query(self) -> np.ndarray:
        """The query of each row, int64 [R]."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @property
    def wanted(self) -> np.ndarray:
        """The row of the wanted item of each query, int64 [n], where each has exactly one."""
        return np.flatnonzero(self.target)


def ranking_queries(
    history: ActivityHistory,
    period: Period,
    *,
    days: int = 1,
    per_member: int | None = None,
    most: int | None = None,
    among: np.ndarray | None = None,
    seed: int = 0,
) -> Queries:
    """Make a query of each positive activity in a period that has activity before it.

    Candidates are the distinct items that anyone acted on during the same UTC day, or the same
    week from Monday on, before the period's end: those with a vector as of the query, without
    those in the member's sequence. No query is made of an item that is in the sequence itself, as
    when a saved item is applied to: the only known one among new ones would be found by its
    likeness to itself.

    Parameters
    ----------
    history
        Events and vectors.
    period
        Period of the queries.
    days
        1, or 7 for weeks.
    per_member
        Maximum number of queries of one member, drawn at random; None for all.
    most
        Maximum number of queries in all, drawn at random; None for all.
    among
        bool [members]; who is asked, None for all. Candidates are those of all members.
    seed
        Seed of what is drawn.

    Raises
    ------
    InvalidInput
        There is no such activity, or `days` is neither 1 nor 7.
    """
    if days not in (1, DAYS_A_WEEK):
        raise InvalidInput(f"candidate lists: `days` should be 1 or 7. Received: {days}")
    random = np.random.default_rng(seed)
    held_out = _held_out(history, period, among, random).wanted_new(history.spec)
    if per_member is not None:
        held_out = held_out.take(sample_per_group(per_member, held_out.member, random))
    if most is not None and len(held_out) > most:
        held_out = held_out.take(np.sort(random.permutation(len(held_out))[:most]))
    if not len(held_out):
        raise InvalidInput(
            f"evaluation: expected members with activity before a positive one on a new item from "
            f"{period.start} to before {period.end}. Received: none"
        )
    day = held_out.sequences.as_of // MICROSECONDS_PER_DAY
    first_day = (
        day if days == 1 else (day - _FIRST_MONDAY) // DAYS_A_WEEK * DAYS_A_WEEK + _FIRST_MONDAY
    )
    parts = []
    for first in np.unique(first_day):
        of_span = np.flatnonzero(first_day == first)
        parts.append(_lists(history, held_out, of_span, int(first), days, period.end_us))
    query, item, row, target = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(query, kind="stable")
    sizes = np.bincount(query, minlength=len(held_out))
    return Queries(
        sequences=held_out.sequences,
        member=held_out.member,
        start=np.concatenate([[0], np.cumsum(sizes)]),
        item=item[order].astype(np.int32),
        vector_row=row[order],
        target=target[order].astype(np.int8),
    )


def like_queries(
    history: ActivityHistory, period: Period, *, among: np.ndarray | None = None
) -> Queries:
    """Make a query with one row of each activity in a period that has activity before it.

    The target is 1 if the member wanted the item, 0 if it was dismissed.

    Parameters
    ----------
    history
        Events and vectors.
    period
        Period of the queries.
    among
        bool [members]; who is asked, None for all.

    Raises
    ------
    InvalidInput
        There are not both kinds.
    """
    held_out = _held_out(history, period, among, np.random.default_rng(0))
    positive = np.isin(held_out.label, history.spec.positive_ids)
    if positive.all() or not positive.any():
        raise InvalidInput(
            f"evaluation: expected both positive and negative activities from {period.start} to "
            f"before {period.end}. Received: {int(positive.sum())} positive of {len(held_out)}"
        )
    return Queries(
        sequences=held_out.sequences,
        member=held_out.member,
        start=np.arange(len(held_out) + 1),
        item=held_out.item.astype(np.int32),
        vector_row=held_out.item_rows,
        target=positive.astype(np.int8),
        ranked=False,
    )


def members_drawn(history: ActivityHistory, period: Period, most: int) -> np.ndarray:
    """Draw members with activity in a period, always the same: bool [members], at most `most`."""
    events = history.own_events
    inside = (events.time >= period.start_us) & (events.time < period.end_us)
    active = np.unique(events.member[inside])
    drawn = np.random.default_rng(0).permutation(active)[:most]
    return np.isin(np.arange(len(events.member_ids)), drawn)


def _held_out(
    history: ActivityHistory,
    period: Period,
    among: np.ndarray | None,
    random: np.random.Generator,
) -> HeldOut:
    """Hold out every activity of some members that has one before it."""
    windows = Windows(minimum=1, prefixes=True, per_member=None)
    events = None if among is None else among[history.events.member]
    return hold_out(history, period, windows=windows, among=events, random=random)


def _lists(
    history: ActivityHistory,
    held_out: HeldOut,
    query: np.ndarray,
    first_day: int,
    days: int,
    before: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return query, item, vector row and target of each candidate of the queries of one span."""
    of_days = history.items_of_days
    low, high = of_days.slices(np.arange(first_day, first_day + days), before)
    items = np.unique(np.concatenate([of_days.items[a:b] for a, b in zip(low, high, strict=True)]))
    rows, candidate, wanted = candidates_among(history, held_out, query, items)
    candidate[np.arange(len(query)), wanted] = True
    row, column = np.nonzero(candidate)
    return query[row], items[column], rows[row, column], wanted[row] == column
