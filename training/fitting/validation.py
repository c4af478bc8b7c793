"""The validation figure: NDCG@10 of the items that members went on to want.

Each positive activity of a period is a query: among all items that anyone acted on during that UTC
day, in which place does the activity embedding put the item that the member wanted? Popularity in
the week before, which any recommender knows, is counted beside it, so that a model gains by what
it adds. The list is whole, since metrics on sampled candidates can order models wrongly (Krichene
and Rendle, KDD 2020). Every model and every objective is measured in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from activity_embeddings.training.examples.candidates import candidates_among
from activity_embeddings.training.examples.held_out import HeldOut, Windows, hold_out
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.figure import FIGURE, TOP
from activity_embeddings.training.metrics import ndcg_at, places
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

ALONE = f"{FIGURE}_alone"
"""The figure of an embedding without popularity beside it."""
POPULARITY_DAYS = 7
ITEMS_AT_ONCE = 64
"""Items with several vectors on a day whose scores are computed at once; bounds the memory."""
MOST_MEMBERS = 20_000
"""Members who are asked to choose an epoch: more tell no better which is best, and take longer."""
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""How much an embedding counts beside popularity; the best is taken."""

Embed = Callable[[Sequences, ActivityHistory], np.ndarray]
"""Makes activity embeddings, float32 [n, D], of sequences and the history with their vectors."""


@dataclass(frozen=True, eq=False)
class ValidationDay:
    """The queries of one UTC day: n of them, over m candidates, scored by matrix products.

    Attributes
    ----------
    query
        int [n]; positions among all queries.
    rows
        int32 [n, m] or, where all queries see the same vectors, [1, m]; rows of item vectors.
    candidate
        bool [n, m]; items to be ranked against the wanted one.
    wanted
        int [n]; position of the wanted item among the m.
    popularity
        float [m]; log of 1 + the positive activities on each item in the week before.
    items
        int32 [m]; the items, as positions in `vectors.item_ids`.
    """

    query: np.ndarray
    rows: np.ndarray
    candidate: np.ndarray
    wanted: np.ndarray
    popularity: np.ndarray
    items: np.ndarray

    def scores(self, embeddings: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Return the dot product of each query with each item, float32 [n, m]."""
        own = embeddings[self.query]
        scores = own @ vectors[self.rows[0]].T
        # Of items that not all queries see alike, every version is scored for every query.
        differ = np.flatnonzero((self.rows != self.rows[0]).any(axis=0))
        for first in range(0, len(differ), ITEMS_AT_ONCE):
            items = differ[first : first + ITEMS_AT_ONCE]
            versions, place = np.unique(self.rows[:, items], return_inverse=True)
            of_versions = own @ vectors[versions].T
            scores[:, items] = np.take_along_axis(
                of_versions, place.reshape(-1, len(items)), axis=1
            )
        return scores

    def gains(self, scores: np.ndarray) -> np.ndarray:
        """Return the NDCG@10 of each query, float [n]; see `ndcg_at`."""
        return ndcg_at(places(scores, self.wanted, self.candidate), TOP)


@dataclass(frozen=True, eq=False)
class ValidationQueries:
    """n queries: what a member had done, the item wanted next, and the candidates.

    Candidates are the items that anyone acted on during the day, before the period's end: those
    with a vector as of the query's time, without those in the member's sequence. Nothing is asked
    about an item in the sequence itself, as when a saved item is applied to: the only known one
    among new ones would be found by its likeness to itself.

    Attributes
    ----------
    history
        What they were made from.
    sequences
        The n inputs.
    member
        int [n]; position in `history.events.member_ids`.
    days
        The candidates, day by day.
    """

    history: ActivityHistory
    sequences: Sequences
    member: np.ndarray
    days: list[ValidationDay]

    def __len__(self) -> int:
        return len(self.member)

    @classmethod
    def of(
        cls,
        history: ActivityHistory,
        period: Period,
        *,
        minimum: int = 1,
        most_members: int | None = None,
    ) -> ValidationQueries:
        """Make a query of every positive activity on a new item in a period.

        Parameters
        ----------
        history, period
            The events, and when the positive ones lie.
        minimum
            Queries with fewer activities before are left out.
        most_members
            Of more members with activity in the period, so many are drawn, the same every time.
            Memory and time grow with the queries. None: all are asked.

        Raises
        ------
        InvalidInput
            There is none.
        """
        windows = Windows(minimum=minimum, prefixes=True, per_member=None)
        random = np.random.default_rng(0)
        among = None
        if most_members is not None:
            events = history.events
            inside = (events.time >= period.start_us) & (events.time < period.end_us)
            active = np.unique(events.member[inside])
            if len(active) > most_members:
                drawn = random.choice(active, most_members, replace=False)
                among = np.isin(events.member, drawn)
        held_out = hold_out(history, period, windows=windows, among=among, random=random)
        return cls.of_held_out(history, held_out, period)

    @classmethod
    def of_held_out(
        cls, history: ActivityHistory, held_out: HeldOut, period: Period
    ) -> ValidationQueries:
        """Make a query of the positive ones on a new item among held-out activities of a period.

        Candidates are those of the UTC day of `sequences.as_of`, on which the activity lies.

        Raises
        ------
        InvalidInput
            There is none.
        """
        positive = held_out.wanted_new(history.spec)
        if not len(positive):
            raise InvalidInput(
                "validation: expected members with activity before a positive one on a new item "
                f"from {period.start} to before {period.end}. Received: none, of "
                f"{len(held_out):,} held out"
            )
        day_of = positive.sequences.as_of // MICROSECONDS_PER_DAY
        days = [
            _day(history, positive, np.flatnonzero(day_of == day), int(day), period.end_us)
            for day in np.unique(day_of)
        ]
        return cls(history, positive.sequences, positive.member, days)

    def where(self, kept: np.ndarray) -> ValidationQueries:
        """Return the queries where `kept`, bool [n], is True."""
        place = np.cumsum(kept) - 1
        days = []
        for day in self.days:
            of_day = kept[day.query]
            if of_day.any():
                rows = day.rows if len(day.rows) == 1 else day.rows[of_day]
                query, candidate = place[day.query[of_day]], day.candidate[of_day]
                wanted = day.wanted[of_day]
                days.append(
                    replace(day, query=query, rows=rows, candidate=candidate, wanted=wanted)
                )
        return replace(
            self, sequences=self.sequences.take(kept), member=self.member[kept], days=days
        )

    def asked_of(self, history: ActivityHistory) -> ValidationQueries:
        """Return the same queries with other activity as their input.

        Parameters
        ----------
        history
            Has the same members and item vectors, and some of the activity or more.
        """
        sequences = history.sequences(self.member, self.sequences.as_of)
        return replace(self, history=history, sequences=sequences)

    def ndcg_of_members(self, embeddings: np.ndarray, share: float = 1.0) -> np.ndarray:
        """Return the mean NDCG@10 of the queries of each member that has any, float [members].

        Parameters
        ----------
        embeddings
            float32 [n, D], of `sequences`.
        share
            Float in [0, 1]. How much the dot product of embedding and item counts; the rest is the
            item's popularity. Both are divided by their standard deviation over all candidates.
        """
        return self.ndcg_by_scores(self.products(embeddings), share)

    def ndcg_by_scores(self, scores: Sequence[np.ndarray], share: float) -> np.ndarray:
        """Return the same by scores of another kind, float32 [n, m] for each of `days`."""
        return self.scored(scores).ndcg_of_members(share)

    def scored(self, scores: Sequence[np.ndarray]) -> Scored:
        """Return scores, float32 [n, m] for each of `days`, to be asked at several shares."""
        own = [s[day.candidate] for s, day in zip(scores, self.days, strict=True)]
        return Scored(self, scores, _spread(own))

    def products(self, embeddings: np.ndarray) -> list[np.ndarray]:
        """Return the dot products of embeddings and items, float32 [n, m] for each of `days`."""
        return [day.scores(embeddings, self.history.vectors.matrix) for day in self.days]

    def measure(self, embed: Embed) -> dict[str, float]:
        """Return the figures of a model, means over members of their NDCG@10.

        Returns
        -------
        dict
            `ndcg_at_10` beside popularity, at the best of `SHARES`, the one parameter that every
            model gets; `share`, that one; `ndcg_at_10_alone` by the embedding alone.
        """
        return self.measure_scores(self.products(embed(self.sequences, self.history)))

    def measure_scores(self, scores: Sequence[np.ndarray]) -> dict[str, float]:
        """Return the same figures of scores of another kind, float32 [n, m] for each of `days`."""
        scored = self.scored(scores)
        figures = {share: float(scored.ndcg_of_members(share).mean()) for share in SHARES}
        best = max(figures, key=lambda share: figures[share])
        return {FIGURE: figures[best], "share": best, ALONE: figures[1.0]}

    def popularity(self) -> float:
        """Return the NDCG@10 of popularity alone."""
        nothing = np.zeros((len(self), self.history.vectors.dimension), np.float32)
        return float(self.ndcg_of_members(nothing, 0.0).mean())

    @cached_property
    def popular_spread(self) -> float:
        """The standard deviation of the popularity of all candidates of all queries."""
        return _spread([day.popularity[np.nonzero(day.candidate)[1]] for day in self.days])


@dataclass(frozen=True, eq=False)
class Scored:
    """The scores of queries, with what is the same at every share of popularity beside them.

    Attributes
    ----------
    queries
        What is scored.
    scores
        float32 [n, m] for each day of the queries.
    spread
        Standard deviation of the scores of all candidates.
    """

    queries: ValidationQueries
    scores: Sequence[np.ndarray]
    spread: float

    def ndcg_of_members(self, share: float) -> np.ndarray:
        """Return the mean NDCG@10 of each member; see `ValidationQueries.ndcg_of_members`."""
        queries = self.queries
        gains = np.empty(len(queries))
        for day, own_scores in zip(queries.days, self.scores, strict=True):
            mixed = own_scores * (share / self.spread)
            mixed = mixed + day.popularity * ((1 - share) / queries.popular_spread)
            gains[day.query] = day.gains(mixed)
        _, member = np.unique(queries.member, return_inverse=True)
        return np.bincount(member, gains) / np.bincount(member)


def _day(
    history: ActivityHistory, held_out: HeldOut, query: np.ndarray, day: int, before: int
) -> ValidationDay:
    """Collect what is ranked on one day, by events before a moment."""
    days, vectors = history.items_of_days, history.vectors
    (low,), (high,) = days.slices(np.array([day]), before)
    items = np.sort(days.items[low:high])
    rows, candidate, wanted = candidates_among(history, held_out, query, items)
    if (rows == rows[:1]).all():
        rows = rows[:1]
    events, end = history.events, day * MICROSECONDS_PER_DAY
    lately = (events.time < end) & (events.time >= end - POPULARITY_DAYS * MICROSECONDS_PER_DAY)
    lately &= np.isin(events.action, history.spec.positive_ids)
    counts = np.bincount(events.item[lately], minlength=len(vectors.item_ids))
    return ValidationDay(query, rows, candidate, wanted, np.log1p(counts[items]), items)


def _spread(scores: list[np.ndarray]) -> float:
    """Return the standard deviation of all scores, never 0, so that it can be divided by."""
    every = np.concatenate(scores)
    return max(float(every.std()), 1e-9) if len(every) else 1.0
