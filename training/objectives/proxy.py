"""The proxy task: which held-out items did the member want?

`softmax(W (activity_embedding * item_embedding) + b)` over (not wanted, wanted), with the
element-wise (Hadamard) product, cross-entropy and sample weights; as LinkedIn described its
training of activity embeddings (2022).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from activity_embeddings.training.examples.held_out import HeldOut, Windows, hold_out
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.examples.stream import Arrays, ExampleStream
from activity_embeddings.training.objectives.base import (
    WEIGHT,
    Lookup,
    Objective,
    TrainingTask,
    member_weights,
)
from activity_embeddings.training.objectives.negatives import (
    concatenate,
    draw_negatives,
    label_counts,
)
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.errors import InvalidInput, require_at_least
from activity_embeddings.transformations.spec import ActivitySpec

CANDIDATE_ROW = "candidate_row"
WANTED = "wanted"


@dataclass(frozen=True, kw_only=True)
class Proxy(Objective):
    """Tell wanted from unwanted items, with same-day random negatives.

    Parameters
    ----------
    windows
        Which activities are held out.
    negative_weight
        Sample weight of a drawn negative: nobody said that the member does not want that item, so
        it weighs less than a real DISMISS.
    dismiss_weight, positive_weight
        Sample weights of real activities.
    member_weight
        An example of a member with n examples weighs `n**-member_weight` times as much. 0 by
        default, since `Windows.per_member` keeps heavy members from dominating.
    shift_minutes
        Largest shift of a negative's time.
    """

    name: ClassVar[str] = "proxy"
    windows: Windows = field(default_factory=Windows)
    negative_weight: float = 0.5
    dismiss_weight: float = 1.0
    positive_weight: float = 1.0
    member_weight: float = 0.0
    shift_minutes: float = 60.0

    def __post_init__(self) -> None:
        require_at_least(
            self.name,
            0,
            negative_weight=self.negative_weight,
            dismiss_weight=self.dismiss_weight,
            positive_weight=self.positive_weight,
            member_weight=self.member_weight,
            shift_minutes=self.shift_minutes,
        )

    def held_out(
        self, history: ActivityHistory, period: Period, random: np.random.Generator
    ) -> tuple[HeldOut, HeldOut]:
        """Return real examples and drawn negatives."""
        real = hold_out(history, period, windows=self.windows, random=random)
        shift = timedelta(minutes=self.shift_minutes)
        return real, draw_negatives(real, history, period, shift=shift, random=random)

    def examples(
        self, history: ActivityHistory, period: Period, random: np.random.Generator
    ) -> Arrays:
        """Return real examples and drawn negatives as arrays."""
        held_out = concatenate(*self.held_out(history, period, random))
        spec = history.spec
        return {
            **history.model_inputs(held_out.sequences),
            CANDIDATE_ROW: held_out.item_rows,
            WANTED: np.isin(held_out.label, spec.positive_ids).astype(np.int32),
            WEIGHT: self._weights(spec)[held_out.label]
            * member_weights(held_out.member, self.member_weight),
        }

    def _weights(self, spec: ActivitySpec) -> np.ndarray:
        """Return the weight of each label, float32."""
        actions = len(spec.actions)
        weights = np.full(1 + 2 * actions, self.dismiss_weight, dtype=np.float32)
        weights[list(spec.positive_ids)] = self.positive_weight
        weights[1 + actions :] = self.negative_weight
        return weights

    def task(
        self, sub_model: keras.Model, history: ActivityHistory, period: Period
    ) -> TrainingTask:
        """Return the task."""
        return ProxyTask(sub_model, history.vectors)

    def balance(
        self, history: ActivityHistory, period: Period, *, seed: int = 0
    ) -> dict[str, dict[str, int]]:
        """Return how many examples each label has, before and after drawing negatives.

        Raises
        ------
        InvalidInput
            There are no examples, or none of one class.
        """
        counts: dict[str, dict[str, int]] = {"before_negatives": {}, "after_negatives": {}}

        def count(part: ActivityHistory, random: np.random.Generator) -> Arrays:
            real, drawn = self.held_out(part, period, random)
            for key, examples in (
                ("before_negatives", [real]),
                ("after_negatives", [real, drawn]),
            ):
                for held_out in examples:
                    for label, number in label_counts(held_out, part.spec).items():
                        counts[key][label] = counts[key].get(label, 0) + number
            return {WEIGHT: np.empty(0, np.float32)}

        for _ in ExampleStream(history, period, count, seed=seed).groups():
            pass
        wanted = sum(counts["before_negatives"].get(a, 0) for a in history.spec.positive_actions)
        if not 0 < wanted < sum(counts["after_negatives"].values()):
            raise InvalidInput(
                f"proxy task: expected examples of wanted and of other items from {period.start} "
                f"to before {period.end}. Received: {counts['after_negatives'] or 'none'}"
            )
        return counts


class ProxyTask(TrainingTask):
    """Softmax over (not wanted, wanted) of an activity embedding times the held-out item's.

    `W` starts as a scaled dot product, so that training starts at what the sub-model's own
    average can tell.
    """

    INITIAL_SCALE = 3.0
    """Logits are this times the dot product, before training."""

    def __init__(self, sub_model: keras.Model, vectors: ItemVectors) -> None:
        super().__init__(sub_model, vectors, name="proxy_task")
        half = np.full((vectors.dimension, 1), self.INITIAL_SCALE / 2, dtype=np.float32)
        self.head = keras.layers.Dense(2, activation="softmax", name="wanted")
        self.head.build((None, vectors.dimension))
        self.head.kernel.assign(np.hstack([-half, half]))

    def probabilities(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Return float32 [n, 2]: the probabilities of not wanted and wanted."""
        inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)
        vectors_of = self.lookup(inputs, training)
        return self._head(self.embed(inputs, vectors_of, training), inputs, vectors_of)

    def _head(self, embedding: Any, inputs: dict[str, Any], vectors_of: Lookup) -> Any:
        return self.head(embedding * vectors_of(inputs[CANDIDATE_ROW]))

    def losses_of(self, embedding: Any, inputs: dict[str, Any], vectors_of: Lookup) -> Any:
        """Return the cross-entropy of each row; see `TrainingTask.losses_of`."""
        return keras.losses.sparse_categorical_crossentropy(
            ops.expand_dims(inputs[WANTED], 1), self._head(embedding, inputs, vectors_of)
        )
