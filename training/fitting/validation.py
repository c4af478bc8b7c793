"""The validation figure: NDCG@10 of the items that members went on to want.

Each positive activity of a period is a query: among all items that anyone acted on during that UTC
day, in which place does the activity embedding put the item that the member wanted? Popularity in
the week before, which any recommender knows, is counted beside it, so that a model gains by what
it adds. The list is whole, since metrics on sampled candidates can order models wrongly (Krichene
and Rendle, KDD 2020). Every model and every objective is measured in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from activity_embeddings.training.examples.held_out import HeldOut, Windows, hold_out
from activity_embeddings.training.examples.history import INPUT_ITEM_ROWS, ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.models.averages import negative_outputs
from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.sequences import MICROSECONDS_PER_DAY, Sequences
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ActivitySpec

TOP = 10
POPULARITY_DAYS = 7
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""How much an embedding counts beside popularity; the best is taken."""
BATCH = 1024
"""Sequences a model call."""

Embed = Callable[[Sequences, ActivityHistory], np.ndarray]
"""Makes activity embeddings, float32 [n, D], of sequences and the history with their vectors."""


@dataclass(frozen=True, eq=False)
class Day:
    """The queries of one UTC day: n of them, over m candidates.

    Attributes
    ----------
    query : int [n]; positions among all queries.
    rows : int32 [n, m] or, where all queries see the same vectors, [1, m]; rows of item vectors.
    candidate : bool [n, m]; items to be ranked against the wanted one.
    wanted : int [n]; position of the wanted item among the m.
    popularity : float [m]; log of 1 + the positive activities on each item in the week before.
    """

    query: np.ndarray
    rows: np.ndarray
    candidate: np.ndarray
    wanted: np.ndarray
    popularity: np.ndarray

    def scores(self, embeddings: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Return the dot product of each query with each item, float32 [n, m]."""
        if len(self.rows) == 1:
            return embeddings[self.query] @ vectors[self.rows[0]].T
        return np.einsum("nd,nmd->nm", embeddings[self.query], vectors[self.rows])

    def gains(self, scores: np.ndarray) -> np.ndarray:
        """Return `1 / log2(rank + 1)` of each wanted item in the best ten places, else 0.

        Items of one score share the mean of their places, rounded down, so that scores that are all
        equal rank nothing.
        """
        own = np.take_along_axis(scores, self.wanted[:, None], axis=1)
        before = ((scores > own) & self.candidate).sum(axis=1)
        before += ((scores == own) & self.candidate).sum(axis=1) // 2
        return np.where(before < TOP, 1 / np.log2(before + 2), 0.0)


@dataclass(frozen=True, eq=False)
class RankingQueries:
    """n queries: what a member had done, the item wanted next, and the candidates.

    Candidates are the items that anyone acted on during the day, before the period's end: those
    with a vector as of the query's time, without those in the member's sequence. Nothing is asked
    about an item in the sequence itself, as when a saved item is applied to: the only known one
    among new ones would be found by its likeness to itself.

    Attributes
    ----------
    history : what they were made from.
    sequences : the n inputs.
    member : int [n]; position in `history.events.member_ids`.
    days : the candidates, day by day.
    """

    history: ActivityHistory
    sequences: Sequences
    member: np.ndarray
    days: list[Day]

    def __len__(self) -> int:
        return len(self.member)

    @classmethod
    def of(cls, history: ActivityHistory, period: Period) -> RankingQueries:
        """Make a query of every positive activity on a new item in a period, with activity before.

        Raises
        ------
        InvalidInput
            There is none.
        """
        windows = Windows(minimum=1, prefixes=True, per_member=None)
        held_out = hold_out(history, period, windows=windows, random=np.random.default_rng(0))
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

    def ndcg_of_members(self, embeddings: np.ndarray, share: float = 1.0) -> np.ndarray:
        """Return the mean NDCG@10 of the queries of each member that has any, float [members].

        Parameters
        ----------
        embeddings : float32 [n, D], of `sequences`.
        share : float in [0, 1]. How much the dot product of embedding and item counts; the rest is
            the item's popularity. Both are divided by their standard deviation over all candidates.
        """
        vectors = self.history.vectors.matrix
        scores = [day.scores(embeddings, vectors) for day in self.days]
        own = [s[day.candidate] for s, day in zip(scores, self.days, strict=True)]
        popular = [day.popularity[np.nonzero(day.candidate)[1]] for day in self.days]
        spread, popular_spread = _spread(own), _spread(popular)
        gains = np.empty(len(self))
        for day, own_scores in zip(self.days, scores, strict=True):
            mixed = own_scores * (share / spread)
            mixed = mixed + day.popularity * ((1 - share) / popular_spread)
            gains[day.query] = day.gains(mixed)
        _, member = np.unique(self.member, return_inverse=True)
        return np.bincount(member, gains) / np.bincount(member)

    def measure(self, embed: Embed) -> dict[str, float]:
        """Return the figures of a model, means over members of their NDCG@10.

        Returns
        -------
        dict
            `ndcg_at_10` beside popularity, at the best of `SHARES`, the one parameter that every
            model gets; `share`, that one; `ndcg_at_10_alone` by the embedding alone.
        """
        embeddings = embed(self.sequences, self.history)
        figures = {share: float(self.ndcg_of_members(embeddings, share).mean()) for share in SHARES}
        best = max(figures, key=lambda share: figures[share])
        return {"ndcg_at_10": figures[best], "share": best, "ndcg_at_10_alone": figures[1.0]}

    def popularity(self) -> float:
        """Return the NDCG@10 of popularity alone."""
        nothing = np.zeros((len(self), self.history.vectors.dimension), np.float32)
        return float(self.ndcg_of_members(nothing, 0.0).mean())


def _day(
    history: ActivityHistory, held_out: HeldOut, query: np.ndarray, day: int, before: int
) -> Day:
    """Collect what is ranked on one day, by events before a moment."""
    days, vectors = history.items_of_days, history.vectors
    (low,), (high,) = days.slices(np.array([day]), before)
    items = np.sort(days.items[low:high])
    rows, candidate, wanted = among(history, held_out, query, items)
    if (rows == rows[:1]).all():
        rows = rows[:1]
    events, end = history.events, day * MICROSECONDS_PER_DAY
    lately = (events.time < end) & (events.time >= end - POPULARITY_DAYS * MICROSECONDS_PER_DAY)
    lately &= np.isin(events.action, history.spec.positive_ids)
    counts = np.bincount(events.item[lately], minlength=len(vectors.item_ids))
    return Day(query, rows, candidate, wanted, np.log1p(counts[items]))


def among(
    history: ActivityHistory, held_out: HeldOut, query: np.ndarray, items: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Say which items are candidates of n of the held-out activities.

    Parameters
    ----------
    history, held_out : the events, and the activities held out of them.
    query : int [n]; positions in `held_out`.
    items : int32 [m]; ascending positions in `vectors.item_ids`, with each item held out among them.

    Returns
    -------
    rows : int32 [n, m]; rows of item vectors as of each query.
    candidate : bool [n, m]; items with a vector as of the query, without those in the member's
        sequence and the one held out.
    wanted : int [n]; which of the m items was held out.
    """
    as_of = held_out.sequences.as_of[query]
    rows = history.rows(np.broadcast_to(items, (len(query), len(items))), as_of)
    wanted = np.searchsorted(items, held_out.item[query])
    candidate = rows != history.vectors.pad_row
    seen = held_out.sequences.item[query]
    places = np.minimum(np.searchsorted(items, seen), len(items) - 1)
    query_of, position = np.nonzero(items[places] == seen)
    candidate[query_of, places[query_of, position]] = False
    candidate[np.arange(len(query)), wanted] = False
    return rows, candidate, wanted


def _spread(scores: list[np.ndarray]) -> float:
    """Return the standard deviation of all scores, never 0, so that it can be divided by."""
    together = np.concatenate(scores)
    return max(float(together.std()), 1e-9) if len(together) else 1.0


def embed_with(model: keras.Model | tf.Module, spec: ActivitySpec) -> Embed:
    """Return a model as a function of sequences, float32 [n, D].

    Several outputs count as their mean, without those of actions that are not positive.

    Parameters
    ----------
    model : a Keras model with dict inputs and outputs, or a module with a function `serve`.
    spec : says which actions are positive.
    """
    is_keras = isinstance(model, keras.Model)
    inputs_of = _inputs(model)
    left_out = negative_outputs(spec)

    @tf.function(input_signature=[inputs_of])
    def mean_output(inputs: dict[str, Any]) -> Any:
        outputs = model(inputs, training=False) if is_keras else model.serve(**inputs)
        counted = [values for name, values in outputs.items() if name not in left_out]
        return tf.add_n(counted) / len(counted)

    # One trace: TensorFlow's guard against tracing again and again, which warns of many models, is
    # left out.
    call = mean_output.get_concrete_function()

    def embed(sequences: Sequences, history: ActivityHistory) -> np.ndarray:
        matrix = history.vectors.matrix
        parts = [np.empty((0, history.vectors.dimension), np.float32)]
        for first in range(0, len(sequences), BATCH):
            part = np.arange(first, min(first + BATCH, len(sequences)))
            inputs = history.model_inputs(sequences.take(part))
            inputs[names.INPUT_ITEM_EMBEDDINGS] = matrix[inputs.pop(INPUT_ITEM_ROWS)]
            tensors = {name: tf.convert_to_tensor(inputs[name]) for name in inputs_of}
            parts.append(call(tensors).numpy())
        return np.concatenate(parts)

    return embed


def _inputs(model: keras.Model | tf.Module) -> dict[str, tf.TensorSpec]:
    """Return what a model takes, by name."""
    if isinstance(model, keras.Model):
        return {
            name: tf.TensorSpec(tensor.shape, tensor.dtype, name)
            for name, tensor in model.input.items()
        }
    positional, named = model.serve.get_concrete_function().structured_input_signature
    return {**{spec.name: spec for spec in positional}, **named}


def decayed_average(r: float) -> Embed:
    """Return the interleaved decay as a function of sequences, for comparison without a model.

    The i-th of n positive activities, oldest first, weighs `r**(n - i)`, normalised to sum to 1;
    1 gives the plain mean.
    """

    def embed(sequences: Sequences, history: ActivityHistory) -> np.ndarray:
        positive = np.isin(sequences.action, history.spec.positive_ids)
        newer = positive[:, ::-1].cumsum(axis=1)[:, ::-1] - 1
        weights = np.where(positive, r ** np.maximum(newer, 0), 0.0)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
        vectors = history.vectors.matrix[sequences.rows(history.vectors)]
        return np.einsum("nl,nld->nd", weights, vectors)

    return embed
