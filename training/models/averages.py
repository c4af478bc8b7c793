"""The base of formula models: decaying averages of item embeddings, one an output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from activity_embeddings.training.models.base import Architecture
from activity_embeddings.training.outputs import output_name
from activity_embeddings.transformations import names
from activity_embeddings.transformations.errors import InvalidInput, require_texts
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

DECAYS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
"""The values of r that a search tries."""


class Average(NamedTuple):
    """One output: which activities are averaged, and by what factor they decay.

    Attributes
    ----------
    action_ids
        Ids of the actions whose activities are averaged, interleaved.
    r
        float in (0, 1]. Factor from one such activity to the next older one; 1 is the plain mean.
    """

    action_ids: tuple[int, ...]
    r: float


class Averages(tf.Module):
    """Weighted sums of item embeddings, one an output; the zero vector for no activity.

    The i-th of n chosen activities, oldest first, weighs `(1 - r) / (1 - r**n) * r**(n - i)`; the
    weights sum to 1 and the newest weighs most. From LinkedIn's description of its activity
    features (2022). At r = 1 each weighs `1 / n`.

    Its function `serve` takes `item_embeddings` float32 [batch, L, D] and `actions` int32
    [batch, L], and gives float32 [batch, D] for each output.

    Parameters
    ----------
    spec
        Length and actions.
    vector_spec
        The length D of an item embedding.
    outputs
        The averages by the name of their output.
    """

    def __init__(
        self,
        spec: ActivitySpec,
        vector_spec: ItemVectorSpec,
        outputs: Mapping[str, Average],
    ) -> None:
        super().__init__()
        self._names = tuple(outputs)
        # [outputs, most ids]; no action has id -1.
        most = max(len(average.action_ids) for average in outputs.values())
        self._ids = np.array(
            [[*a.action_ids, *[-1] * (most - len(a.action_ids))] for a in outputs.values()],
            dtype=np.int32,
        )
        r = np.array([[average.r] for average in outputs.values()], dtype=np.float64)
        self.r = tf.Variable(r[:, 0], trainable=False, dtype=tf.float64, name="r")
        # Tables in double precision: float32 powers would cost the last digit of the weights.
        # One row an output, flattened; row i starts at i * (length + 1).
        n = np.arange(spec.length + 1)
        at_least_one = np.maximum(n, 1)
        decays = r < 1
        self._any_decays = bool(decays.any())
        safe = np.where(decays, r, 0.5)
        scale = np.where(decays, (1 - safe) / (1 - safe**at_least_one), 1 / at_least_one)
        self._powers = tf.constant((r**n).ravel(), tf.float32)
        self._scale = tf.constant(scale.ravel(), tf.float32)
        self._first = tf.constant(np.arange(len(r))[:, None] * len(n), tf.int32)
        # Multiplying by it counts the positions to the right, three times as fast as a cumsum.
        self._newer = tf.constant(np.tri(spec.length, k=-1), tf.float32)
        self.serve = tf.function(
            self._serve,
            autograph=False,
            input_signature=[
                tf.TensorSpec(
                    [None, spec.length, vector_spec.dimension],
                    tf.float32,
                    names.INPUT_ITEM_EMBEDDINGS,
                ),
                tf.TensorSpec([None, spec.length], tf.int32, names.INPUT_ACTIONS),
            ],
        )

    def _serve(self, item_embeddings: Any, actions: Any) -> dict[str, Any]:
        is_one = actions[:, None, None, :] == self._ids[None, :, :, None]
        chosen = tf.reduce_sum(tf.cast(is_one, tf.float32), axis=2)
        averages = tf.matmul(self._weights(chosen), item_embeddings)
        return {name: averages[:, i] for i, name in enumerate(self._names)}

    def _weights(self, chosen: Any) -> Any:
        """Return the weights, zero where not chosen; both float32 [batch, outputs, length]."""
        counts = tf.cast(tf.reduce_sum(chosen, axis=2, keepdims=True), tf.int32)
        scaled = chosen * tf.gather(self._scale, counts + self._first)
        if not self._any_decays:  # half the time of plain means is saved
            return scaled
        newer = tf.cast(tf.matmul(chosen, self._newer), tf.int32)
        return scaled * tf.gather(self._powers, newer + self._first)


@dataclass(frozen=True, kw_only=True)
class Formula(Architecture):
    """Base of the formula models, which average item embeddings.

    Attributes
    ----------
    kinds
        tuple of str. Of a domain with several kinds of activity, the names of those that are
        averaged; the domain's own alone unless said. Of another kind than the own every action is
        positive.
    """

    trainable: ClassVar[bool] = False

    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A list, as JSON has it, would make equal instances differ.
        (kinds,) = require_texts(type(self).__name__, kinds=self.kinds)
        object.__setattr__(self, "kinds", kinds)

    def to_dict(self) -> dict[str, Any]:
        """Return the hyperparameters as JSON values; without kinds, none."""
        said = super().to_dict()
        return said if self.kinds else {key: said[key] for key in said if key != "kinds"}

    def actions(self, spec: ActivitySpec) -> tuple[str, ...]:
        """Return the actions that are averaged.

        Raises
        ------
        InvalidInput
            The spec has no kind of a name.
        """
        if not self.kinds:
            return spec.own_actions
        there = {kind.name: kind.actions for kind in spec.kinds}
        unknown = [name for name in self.kinds if name not in there]
        if unknown:
            raise InvalidInput(
                f"{self.name}: `kinds` should be among the kinds of activity of the spec: "
                f"{', '.join(there) or 'none'}. Received: {', '.join(unknown)}"
            )
        return tuple(action for name in there if name in self.kinds for action in there[name])

    def positive_ids(self, spec: ActivitySpec) -> tuple[int, ...]:
        """Return the ids of the actions that one average of what a member wanted takes."""
        if not self.kinds:
            return spec.positive_ids
        unwanted = set(spec.own_actions) - set(spec.positive_actions)
        return tuple(spec.vocabulary.index(a) for a in self.actions(spec) if a not in unwanted)

    def by_action(self, spec: ActivitySpec, r: float) -> dict[str, Average]:
        """Return an average for each action, by the name of its output."""
        return {output_name(a): Average((spec.vocabulary.index(a),), r) for a in self.actions(spec)}


def require_decay(model: str, r: float) -> None:
    """Raise `InvalidInput` unless r is in (0, 1)."""
    if not 0.0 < r < 1.0:
        raise InvalidInput(
            f"{model}: `r` should be in (0, 1); the limit 1 is the unweighted average. "
            f"Received: r={r}"
        )
