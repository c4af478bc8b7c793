"""Rank the items that the member will want before others: sampled softmax.

All of the positive activities of the following days are targets, as in PinnerFormer (Pancha et
al., KDD 2022, "dense all action loss"), each against the other targets of the batch and drawn
negatives. An item that is among the candidates more often is no better for that, so logits are
corrected by the log of how often an item is expected there (logQ; Yi et al., RecSys 2019; for the
mixture of in-batch and uniform candidates Yang et al., WWW 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from activity_embeddings.training.examples.held_out import HeldOut, Windows, hold_out
from activity_embeddings.training.examples.history import ActivityHistory, is_own
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.examples.stream import Arrays
from activity_embeddings.training.objectives.base import (
    WEIGHT,
    Finish,
    Lookup,
    Objective,
    TrainingTask,
    member_weights,
)
from activity_embeddings.transformations.errors import InvalidInput, require_at_least
from activity_embeddings.transformations.ragged import ranges
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

TARGET_ROWS = "target_rows"
TARGET_WEIGHTS = "target_weights"
DISMISSED_ROWS = "dismissed_rows"
NEGATIVE_ROWS = "negative_rows"
DAY_ROWS = "day_rows"


@dataclass(frozen=True, kw_only=True)
class FuturePositives(Objective):
    """Sampled softmax over the positive activities that follow.

    Parameters
    ----------
    windows
        Which activities mark a moment; the targets are the positives from it on.
    horizon_days
        Days from the moment within which targets lie. 0 means those at the moment itself: the next
        activity, if positive.
    targets
        Maximum number of targets of a moment; the first ones count.
    uniform_negatives, popular_negatives
        Items drawn for each batch, uniformly and by how often they are wanted.
    day_negatives
        Items drawn for each moment from the activity of its UTC day, as often as members acted on
        them: what else the member could want. Their logits are not corrected, so that popularity on
        the day is not learnt, which a ranker knows better from fresh counts.
    in_batch
        Whether the other targets of the batch are candidates too.
    log_q
        Whether logits are corrected for how often an item is a candidate.
    other_weight
        Weight of a target whose action is not positive, beside the 1 of a positive one. Such items
        too say where a member goes from here, and there are often more of them. 0 leaves them out.
    dismiss_weight
        Weight of a pairwise term that ranks targets before the items that the member dismisses
        within the same time; 0 leaves it out. It contradicts `other_weight`.
    listwise
        Whether the other targets of a moment and what the member dismisses within the same time are
        among the items that a target is ranked against, as one list: see `FuturePositivesTask`. It
        contradicts `other_weight`.
    member_weight
        A moment of a member with n moments weighs `n**-member_weight`.
    """

    name: ClassVar[str] = "future_positives"
    windows: Windows = field(default_factory=lambda: Windows(minimum=1, prefixes=True))
    horizon_days: float = 14.0
    targets: int = 8
    uniform_negatives: int = 50
    popular_negatives: int = 50
    day_negatives: int = 0
    in_batch: bool = True
    log_q: bool = True
    other_weight: float = 0.0
    dismiss_weight: float = 0.0
    listwise: bool = False
    member_weight: float = 0.0

    def __post_init__(self) -> None:
        require_at_least(
            self.name,
            0,
            horizon_days=self.horizon_days,
            uniform_negatives=self.uniform_negatives,
            popular_negatives=self.popular_negatives,
            day_negatives=self.day_negatives,
            other_weight=self.other_weight,
            dismiss_weight=self.dismiss_weight,
            member_weight=self.member_weight,
        )
        require_at_least(self.name, 1, targets=self.targets)
        drawn = self.uniform_negatives or self.popular_negatives or self.day_negatives
        if not (drawn or self.in_batch or self.listwise):
            raise InvalidInput(
                f"{self.name}: expected items that a target is ranked against: `in_batch`, "
                "`listwise` or negatives of some kind. Received: none"
            )
        if self.other_weight and (self.dismiss_weight or self.listwise):
            raise InvalidInput(
                f"{self.name}: `other_weight` should be 0 beside a `dismiss_weight` or `listwise`. "
                f"Received: other_weight={self.other_weight}, "
                f"dismiss_weight={self.dismiss_weight}, listwise={self.listwise}"
            )

    def examples(
        self, history: ActivityHistory, period: Period, random: np.random.Generator
    ) -> Arrays:
        """Return moments and their targets; moments without any are left out."""
        held_out, until = self.moments(history, period, random)
        events, spec = history.events, history.spec
        as_of = held_out.sequences.as_of
        until = np.minimum(until, period.end_us)
        positive = np.isin(events.action, spec.positive_ids)
        other = ~positive & is_own(events.action, spec)
        weights = np.append(np.where(positive, 1.0, self.other_weight * other), 0.0)
        weights = weights.astype(np.float32)
        of, counted = self.groups(history), self.counted(history, period)
        wanted = (weights[:-1] > 0) & counted
        targets = _following(history, held_out.event, until, wanted, self.targets, of)
        dismissed = _following(history, held_out.event, until, other & counted, self.targets, of)
        rows = _rows(history, targets, as_of)
        known = rows != history.vectors.pad_row
        arrays = {
            **history.model_inputs(held_out.sequences),
            TARGET_ROWS: rows,
            # The zero vector of an item without one at the moment cannot be ranked.
            TARGET_WEIGHTS: np.where(known, weights[targets], np.float32(0.0)),
            DISMISSED_ROWS: _rows(history, dismissed, as_of),
        }
        if self.day_negatives:
            arrays[DAY_ROWS] = _of_the_day(
                history, as_of, period.end_us, self.day_negatives, random
            )
        kept = known.any(axis=1)
        arrays = {name: values[kept] for name, values in arrays.items()}
        arrays[WEIGHT] = member_weights(held_out.member[kept], self.member_weight)
        return arrays

    def moments(
        self, history: ActivityHistory, period: Period, random: np.random.Generator
    ) -> tuple[HeldOut, np.ndarray]:
        """Return the moments, and before when their targets lie, int64 [n] (microseconds)."""
        held_out = hold_out(history, period, windows=self.windows, random=random)
        horizon = round(self.horizon_days * MICROSECONDS_PER_DAY)
        return held_out, held_out.sequences.as_of + horizon + 1

    def groups(self, history: ActivityHistory) -> np.ndarray:
        """Return the group of each event, int [E]; a moment's targets are of its event's group."""
        return history.events.member

    def counted(self, history: ActivityHistory, period: Period) -> np.ndarray:
        """Return which events can be targets or dismissed ones of a moment, bool [E]."""
        return np.ones(len(history.events), dtype=bool)

    def finisher(self, history: ActivityHistory, period: Period) -> Finish:
        """Return the function that adds drawn negatives: vectors as of the period's end."""
        rows = history.rows(np.arange(len(history.vectors.item_ids)), _ends(history, period))
        own = rows[history.own_items]
        known = own[own != history.vectors.pad_row]
        wanted = rows[self.target_items(history, period)]
        wanted = wanted[wanted != history.vectors.pad_row]

        def finish(batch: Arrays, random: np.random.Generator) -> Arrays:
            uniform = known[random.integers(0, len(known), self.uniform_negatives)]
            popular = wanted[random.integers(0, len(wanted), self.popular_negatives)]
            return {**batch, NEGATIVE_ROWS: np.concatenate([uniform, popular])}

        return finish

    def task(
        self, sub_model: keras.Model, history: ActivityHistory, period: Period
    ) -> TrainingTask:
        """Return the task."""
        return FuturePositivesTask(sub_model, history, period, self)

    def target_items(self, history: ActivityHistory, period: Period) -> np.ndarray:
        """Return the item of each event before the period's end that can be a target, int32."""
        events = history.events
        chosen = events.time < period.end_us
        if self.other_weight:
            chosen &= is_own(events.action, history.spec)
        else:
            chosen &= np.isin(events.action, history.spec.positive_ids)
        return events.item[chosen]


def _following(
    history: ActivityHistory,
    event: np.ndarray,
    until: np.ndarray,
    wanted: np.ndarray,
    most: int,
    group: np.ndarray,
) -> np.ndarray:
    """Return the first events from each event on, before a time; -1 for none; int [n, most].

    `wanted`, bool [E], says which events count, of those of an event's `group`, int [E], which has
    events of one member alone.
    """
    events = history.events
    key = group.astype(np.int64) * len(events) + np.arange(len(events))
    order = np.flatnonzero(wanted)
    order = order[np.argsort(key[order])]
    first = _first_of_time(history, event)
    low = np.searchsorted(key[order], key[event] - event + first)
    high = np.searchsorted(key[order], (group[event].astype(np.int64) + 1) * len(events))
    sizes = np.minimum(high - low, most)
    found = order[ranges(low, sizes)]
    row = np.repeat(np.arange(len(event)), sizes)
    column = ranges(np.zeros_like(sizes), sizes)
    inside = events.time[found] < until[row]
    following = np.full((len(event), most), -1)
    following[row[inside], column[inside]] = found[inside]
    return following


def _rows(history: ActivityHistory, event: np.ndarray, as_of: np.ndarray) -> np.ndarray:
    """Return rows of the vectors of events' items as of times, -1 for no event, int32 [n, m]."""
    item = np.where(event < 0, np.int32(-1), history.events.item[event])
    return history.rows(item, as_of)


def _first_of_time(history: ActivityHistory, event: np.ndarray) -> np.ndarray:
    """Return the first event of the same member and time."""
    events = history.events
    starts = np.ones(len(events), dtype=bool)
    starts[1:] = events.time[1:] != events.time[:-1]
    starts[events.member_start[:-1][np.diff(events.member_start) > 0]] = True
    return np.maximum.accumulate(np.where(starts, np.arange(len(events)), 0))[event]


def _ends(history: ActivityHistory, period: Period) -> np.ndarray:
    """Return the period's end for each item."""
    return np.full(len(history.vectors.item_ids), period.end_us)


def _of_the_day(
    history: ActivityHistory,
    as_of: np.ndarray,
    before: int,
    most: int,
    random: np.random.Generator,
) -> np.ndarray:
    """Return rows of items drawn from each moment's UTC day, of its activity before a time.

    int32 [n, most]. `before` is the end of the period: what follows it is not to be learnt.
    """
    days = history.items_of_days
    low, high = days.event_slices(as_of // MICROSECONDS_PER_DAY, before)
    drawn = days.events[random.integers(low[:, None], high[:, None], (len(as_of), most))]
    return history.rows(drawn, as_of)


class FuturePositivesTask(TrainingTask):
    """Softmax of `scale * dot(activity, item) - logQ(item)` over targets and negatives.

    An item that is one of a row's own targets, or the row's own dismissed ones, is no negative of
    that row. `scale`, one over the temperature, is learnt. With logits s, the loss of a row with
    targets P and negatives N is the mean over the targets p of

        -log(exp(s_p) / (exp(s_p) + sum of exp(s_j) over N))

    and, listwise, with the dismissed items among N, of

        -log(exp(s_p) / sum of exp(s_j) over P and N),

    the cross-entropy of ListNet with equal relevance of all targets (Cao et al., "Learning to
    Rank: From Pairwise Approach to Listwise Approach", ICML 2007), which bounds NDCG (Bruch et
    al., ICTIR 2019).
    """

    INITIAL_SCALE = 10.0
    NEVER = -1e9

    def __init__(
        self,
        sub_model: keras.Model,
        history: ActivityHistory,
        period: Period,
        settings: FuturePositives,
    ) -> None:
        super().__init__(sub_model, history.vectors, name=settings.name)
        self.settings = settings
        vectors = history.vectors
        self.pad_row = vectors.pad_row
        self.log_scale = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(math.log(self.INITIAL_SCALE)),
            name="log_scale",
        )
        items = len(vectors.item_ids)
        counts = np.bincount(settings.target_items(history, period), minlength=items)
        item_of_row = np.repeat(
            np.arange(items + 1), np.diff([*vectors.start, len(vectors.matrix)])
        )
        self.item_of_row = ops.convert_to_tensor(item_of_row.astype(np.int32))
        own = history.own_items
        known = vectors.known_at(vectors.item_ids)[own] <= period.end_us
        self.known_items = max(int(known.sum()), 1)
        # Add-one smoothing: an item that nobody wanted yet is expected somewhere.
        share = np.append((counts + 1) / (counts.sum() + len(own)), 1.0)
        self.popularity = ops.convert_to_tensor(share.astype(np.float32))

    def losses_of(self, embedding: Any, inputs: dict[str, Any], vectors_of: Lookup) -> Any:
        """Return the mean weighted cross-entropy of each row's targets; see `TrainingTask`."""
        targets = inputs[TARGET_ROWS]
        is_target = ops.cast(targets != self.pad_row, "float32")
        candidates = inputs[NEGATIVE_ROWS]
        if self.settings.in_batch:
            candidates = ops.concatenate([ops.reshape(targets, (-1,)), candidates], axis=0)
        target_items = ops.take(self.item_of_row, targets)
        candidate_items = ops.take(self.item_of_row, candidates)
        scale = ops.exp(self.log_scale)
        target_scores = scale * ops.einsum("nd,npd->np", embedding, vectors_of(targets))
        scores = scale * ops.matmul(embedding, ops.transpose(vectors_of(candidates)))
        target_logits = target_scores - self._log_q(target_items, is_target)
        logits = scores - self._log_q(candidate_items, is_target)

        dismissed = inputs[DISMISSED_ROWS]
        own = ops.concatenate([target_items, ops.take(self.item_of_row, dismissed)], axis=1)
        excluded = ops.any(own[:, :, None] == candidate_items[None, None, :], axis=1)
        excluded = ops.logical_or(excluded, (candidates == self.pad_row)[None, :])
        logits = ops.where(excluded, self.NEVER, logits)
        if self.settings.day_negatives:
            day = inputs[DAY_ROWS]
            day_scores = scale * ops.einsum("nd,nkd->nk", embedding, vectors_of(day))
            of_own = ops.any(own[:, :, None] == ops.take(self.item_of_row, day)[:, None, :], axis=1)
            of_own = ops.logical_or(of_own, day == self.pad_row)
            logits = ops.concatenate([logits, ops.where(of_own, self.NEVER, day_scores)], axis=1)
        if self.settings.listwise:
            scores = scale * ops.einsum("nd,nqd->nq", embedding, vectors_of(dismissed))
            dismissed_items = own[:, targets.shape[1] :]
            own_logits = ops.concatenate(
                [target_logits, scores - self._log_q(dismissed_items, is_target)], axis=1
            )
            own_rows = ops.concatenate([targets, dismissed], axis=1)
            own_logits = ops.where(own_rows == self.pad_row, self.NEVER, own_logits)
            everything = ops.concatenate([own_logits, logits], axis=1)
            losses = ops.logsumexp(everything, axis=1, keepdims=True) - target_logits
        else:
            others = ops.logsumexp(logits, axis=1, keepdims=True)
            losses = ops.logaddexp(others, target_logits) - target_logits
        if self.settings.dismiss_weight:
            gap = (
                scale * ops.einsum("nd,nqd->nq", embedding, vectors_of(dismissed))[:, None, :]
                - target_scores[:, :, None]
            )
            is_item = ops.cast(dismissed != self.pad_row, "float32")[:, None, :]
            losses += self.settings.dismiss_weight * ops.sum(ops.softplus(gap) * is_item, axis=2)
        weighted = ops.sum(losses * inputs[TARGET_WEIGHTS], axis=1)
        return weighted / ops.maximum(ops.sum(is_target, axis=1), 1.0)

    def _log_q(self, items: Any, is_target: Any) -> Any:
        """Return the log of how often each item is expected among the candidates."""
        if not self.settings.log_q:
            return ops.zeros_like(items, dtype="float32")
        popularity = ops.take(self.popularity, items)
        by_popularity = float(self.settings.popular_negatives)
        if self.settings.in_batch:
            by_popularity = by_popularity + ops.sum(is_target)
        uniform = self.settings.uniform_negatives / self.known_items
        return ops.log(by_popularity * popularity + uniform + 1e-9)
