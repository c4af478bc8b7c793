"""SessionDecay: a decaying average in which all of a session counts alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import tensorflow as tf

from activity_embeddings.training.models.averages import DECAYS, require_decay
from activity_embeddings.training.models.base import Architecture
from activity_embeddings.training.models.layers import newer_sessions, newer_than_sessions
from activity_embeddings.training.models.registry import register
from activity_embeddings.training.outputs import ACTIVITY_EMBEDDING
from activity_embeddings.transformations import names
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec


@register("session_decay")
@dataclass(frozen=True, kw_only=True)
class SessionDecay(Architecture):
    """Average of the positive activities that decays from session to session.

    One output `activity_embedding`. A positive activity with k sessions after its own weighs
    `r**k`, divided by the sum of these weights, so that the order within a session does not count;
    `InterleavedDecay` where each activity is a session and all are positive.

    Attributes
    ----------
    r
        float in (0, 1). Factor from one session to the next older one.
    session_gap_minutes
        float, above 0. The longest gap within a session; see `newer_sessions`.
    sessions
        Whether sessions are those of the input `sessions`: of one id where the source has a column
        of them, else by a gap of 30 minutes. `session_gap_minutes` then says nothing.
    """

    trainable: ClassVar[bool] = False

    r: float = 0.9
    session_gap_minutes: float = 30.0
    sessions: bool = False

    def __post_init__(self) -> None:
        require_decay("session_decay", self.r)
        if not self.session_gap_minutes > 0:
            raise InvalidInput(
                "session_decay: `session_gap_minutes` should be above 0. Received: "
                f"{self.session_gap_minutes}"
            )

    def build(self, spec: ActivitySpec, vector_spec: ItemVectorSpec) -> SessionAverage:
        """Return the module."""
        return SessionAverage(spec, vector_spec, self)

    @classmethod
    def suggest(cls, trial: Any) -> Self:
        """Choose r from a grid."""
        return cls(r=trial.suggest_categorical("r", list(DECAYS)))


class SessionAverage(tf.Module):
    """The average of `SessionDecay`.

    Its function `serve` takes `item_embeddings` float32 [batch, L, D], `actions` int32 [batch, L]
    and `ages` float32 [batch, L] in days, or `sessions` int32 [batch, L], and gives float32
    [batch, D]; the zero vector for no positive activity.
    """

    def __init__(
        self, spec: ActivitySpec, vector_spec: ItemVectorSpec, settings: SessionDecay
    ) -> None:
        super().__init__()
        self._positive_ids = spec.positive_ids
        self._gap_seconds = 60 * settings.session_gap_minutes
        self.r = tf.Variable(settings.r, trainable=False, dtype=tf.float32, name="r")
        shape = [None, spec.length]
        self.serve = tf.function(
            self._by_sessions if settings.sessions else self._by_ages,
            autograph=False,
            input_signature=[
                tf.TensorSpec(
                    [*shape, vector_spec.dimension], tf.float32, names.INPUT_ITEM_EMBEDDINGS
                ),
                tf.TensorSpec(shape, tf.int32, names.INPUT_ACTIONS),
                tf.TensorSpec(shape, tf.int32, names.INPUT_SESSIONS)
                if settings.sessions
                else tf.TensorSpec(shape, tf.float32, names.INPUT_AGES),
            ],
        )

    def _by_ages(self, item_embeddings: Any, actions: Any, ages: Any) -> dict[str, Any]:
        return self._average(item_embeddings, actions, newer_sessions(ages, self._gap_seconds))

    def _by_sessions(self, item_embeddings: Any, actions: Any, sessions: Any) -> dict[str, Any]:
        known = tf.cast(actions > 0, tf.float32)
        return self._average(item_embeddings, actions, newer_than_sessions(sessions, known))

    def _average(self, item_embeddings: Any, actions: Any, k: Any) -> dict[str, Any]:
        """Return the average, with `k` sessions newer than that of each position."""
        chosen = tf.reduce_any(actions[:, :, None] == list(self._positive_ids), axis=2)
        # The newest positive session weighs 1: a power of a small r must not make all weights 0.
        k -= tf.reduce_min(tf.where(chosen, k, float(actions.shape[1])), axis=1, keepdims=True)
        weights = tf.where(chosen, self.r**k, 0.0)
        weights /= tf.maximum(tf.reduce_sum(weights, axis=1, keepdims=True), 1.0)
        return {ACTIVITY_EMBEDDING: tf.einsum("nl,nld->nd", weights, item_embeddings)}
