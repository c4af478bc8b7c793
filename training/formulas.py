"""Formula models: averages that need no training, packaged like every other model.

Both give one vector an action, so three outputs, each the zero vector where the member has no
such action. They are `tf.Module`s with one serving function.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from transformations import names
from transformations.errors import InvalidInput
from transformations.spec import ActivitySpec, ItemEmbedding


def output_name(action: str) -> str:
    """Return the output of one action: APPLY gives `apply_embedding`."""
    return f"{action.lower()}_embedding"


class ActionAverages(tf.Module):
    """Base: for each action, a weighted sum of its job embeddings.

    Subclasses give `weights(chosen, counts)`.

    Parameters
    ----------
    spec : length and actions.
    item_embedding : the length of a job embedding.
    """

    def __init__(self, spec: ActivitySpec, item_embedding: ItemEmbedding) -> None:
        super().__init__()
        self._spec = spec
        self.serve = tf.function(
            self._serve,
            input_signature=[
                tf.TensorSpec(
                    [None, spec.length, item_embedding.dimension],
                    tf.float32,
                    names.INPUT_JOB_EMBEDDINGS,
                ),
                tf.TensorSpec([None, spec.length], tf.int32, names.INPUT_ACTIONS),
            ],
        )

    def weights(self, chosen: Any, counts: Any) -> Any:
        """Return float32 [batch, actions, length], zero where not `chosen`.

        Parameters
        ----------
        chosen : float32 [batch, actions, length]; 1 where the position has the action.
        counts : float32 [batch, actions, 1]; how many have it.
        """
        raise NotImplementedError

    def _serve(self, job_embeddings: Any, actions: Any) -> dict[str, Any]:
        ids = tf.range(1, len(self._spec.actions) + 1, dtype=tf.int32)
        chosen = tf.cast(actions[:, None, :] == ids[None, :, None], tf.float32)
        counts = tf.reduce_sum(chosen, axis=2, keepdims=True)
        averages = tf.matmul(self.weights(chosen, counts), job_embeddings)
        return {output_name(a): averages[:, i] for i, a in enumerate(self._spec.actions)}


class UnweightedAverage(ActionAverages):
    """Plain mean of the job embeddings of each action."""

    def weights(self, chosen: Any, counts: Any) -> Any:
        """Return 1/n at each of the n positions of an action."""
        return chosen / tf.maximum(counts, 1.0)


class GeometricDecay(ActionAverages):
    """Geometrically decaying average of the job embeddings of each action.

    The i-th of n, oldest first, weighs `(1 - r) / (1 - r**n) * r**(n - i)`; the weights sum to 1
    and the newest weighs most. From LinkedIn's description of its activity features (2022).

    Parameters
    ----------
    r : float in (0, 1). The factor from one activity to the next older one.
    """

    def __init__(self, spec: ActivitySpec, item_embedding: ItemEmbedding, r: float) -> None:
        if not 0.0 < r < 1.0:
            raise InvalidInput(
                f"geometric_decay: `r` should be in (0, 1); the limit 1 is the unweighted "
                f"average. Received: r={r}"
            )
        super().__init__(spec, item_embedding)
        self.r = tf.Variable(r, trainable=False, dtype=tf.float64, name="r")
        # Tables in double precision: float32 powers would cost the last digit of the weights.
        n = np.arange(spec.length + 1)
        self._powers = tf.constant(r**n, tf.float32)
        self._scale = tf.constant((1 - r) / (1 - r ** np.maximum(n, 1)), tf.float32)
        # Multiplying by it counts the positions to the right, three times as fast as a cumsum.
        self._newer = tf.constant(np.tri(spec.length, k=-1), tf.float32)

    def weights(self, chosen: Any, counts: Any) -> Any:
        """Return the formula above at each position of an action."""
        newer = tf.matmul(chosen, self._newer)
        power = tf.gather(self._powers, tf.cast(newer, tf.int32))
        return chosen * power * tf.gather(self._scale, tf.cast(counts, tf.int32))
