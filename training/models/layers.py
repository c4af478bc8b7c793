"""The layers that the learned models share: what they read, and what they start from."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from activity_embeddings.transformations.spec import PAD

AGE_SCALES = (1 / 24, 1.0, 7.0)
"""An hour, a day and a week, in days: activity of one visit, of today, of this week."""
_DAY = 86_400.0
"""Seconds."""


@keras.saving.register_keras_serializable(package="activity_embeddings")
class OneHotAction(keras.layers.Layer):
    """Actions as one-hot vectors over the non-PAD ids; PAD and ids out of range are all zero.

    Parameters
    ----------
    actions
        Number of actions, PAD left out.
    """

    def __init__(self, actions: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.actions = actions

    def call(self, actions: Any) -> Any:
        """Turn int32 [batch, length] into float32 [batch, length, actions]."""
        ids = ops.arange(PAD + 1, PAD + 1 + self.actions, dtype="int32")
        return ops.cast(ops.expand_dims(actions, 2) == ids, "float32")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "actions": self.actions}


@keras.saving.register_keras_serializable(package="activity_embeddings")
class AgeFeatures(keras.layers.Layer):
    """Time since an activity as four numbers from 0 to 1, of which each tells other ages apart.

    `log(1 + age) / log(1 + window)`, and `exp(-age / s)` for an hour, a day and a week.

    Parameters
    ----------
    window
        The greatest age, in days; older ones count as this old.
    """

    def __init__(self, window: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window = window

    def call(self, ages: Any) -> Any:
        """Turn ages in days, float32 [batch, length], into float32 [batch, length, 4]."""
        ages = ops.clip(ages, 0.0, self.window)
        logarithm = ops.log(1.0 + ages) / float(np.log(1.0 + self.window))
        return ops.stack([logarithm, *(ops.exp(-ages / scale) for scale in AGE_SCALES)], axis=2)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "window": self.window}


def newer(chosen: Any) -> Any:
    """Count, at each position, the chosen positions that are newer.

    Parameters
    ----------
    chosen
        float32 [batch, length]; 1 where a position counts, else 0.

    Returns
    -------
    Any
        float32 [batch, length].
    """
    # A product with a triangle of ones: three times as fast as a cumulative sum.
    return ops.matmul(chosen, np.tri(chosen.shape[1], k=-1, dtype=np.float32))


def newer_sessions(ages: Any, gap_seconds: float) -> Any:
    """Count, at each position, the sessions that are newer than its own.

    A session ends where the next newer activity is more than the gap younger. Half a second more
    is allowed, since ages are float32: within a window of 28 days, activities whose times lie
    exactly the gap apart are of one session whatever the as-of time.

    Parameters
    ----------
    ages
        float32 [batch, length]; days, oldest first. What PAD on the left has does not count.
    gap_seconds
        The longest time between neighbouring activities of one session.

    Returns
    -------
    Any
        float32 [batch, length]; 0 in the newest session.
    """
    ages = ops.convert_to_tensor(ages)
    ends = ages[:, :-1] - ages[:, 1:] > (gap_seconds + 0.5) / _DAY
    return newer(ops.pad(ops.cast(ends, "float32"), [[0, 0], [1, 0]]))


@keras.saving.register_keras_serializable(package="activity_embeddings")
class SessionTimes(keras.layers.Layer):
    """Sessions in the place of single activities: which one each is of, and that one's age.

    Parameters
    ----------
    gap_seconds
        See `newer_sessions`.
    """

    def __init__(self, gap_seconds: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gap_seconds = gap_seconds

    def call(self, ages: Any) -> tuple[Any, Any]:
        """Return `newer_sessions` and the age of each session's newest activity.

        Both float32 [batch, length], as `ages` is, with one value for all of a session.
        """
        newer_than = newer_sessions(ages, self.gap_seconds)
        # The last position is the newest of its session; so is one before another session. Computed
        # in floats, since padded booleans gave wrong values in some conversions to LiteRT.
        ends = ops.pad(newer_than[:, :-1] - newer_than[:, 1:], [[0, 0], [0, 1]])
        newest = ends + np.eye(1, ages.shape[1], ages.shape[1] - 1, dtype=np.float32)
        same = ops.cast(newer_than[:, :, None] == newer_than[:, None, :], "float32")
        return newer_than, ops.sum(same * (newest * ages)[:, None, :], axis=2)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "gap_seconds": self.gap_seconds}


def newer_than_sessions(sessions: Any, mask: Any) -> Any:
    """Count, at each position, the sessions that are newer than its own, as they are numbered.

    Parameters
    ----------
    sessions
        int32 [batch, length]; 1 for the newest session. What PAD has does not count.
    mask
        float32 [batch, length]; 1 for activities, 0 for PAD.

    Returns
    -------
    Any
        float32 [batch, length]; 0 in the newest session and for PAD.
    """
    return ops.relu((ops.cast(sessions, "float32") - 1.0) * mask)


def newest_ages(ages: Any, newer_than: Any, mask: Any) -> Any:
    """Return the age of the newest activity of each one's session, whose events may lie apart.

    Parameters
    ----------
    ages
        float32 [batch, length]; days, oldest first.
    newer_than, mask
        float32 [batch, length]; see `newer_than_sessions`.

    Returns
    -------
    Any
        float32 [batch, length].
    """
    same = ops.cast(ops.equal(newer_than[:, :, None], newer_than[:, None, :]), "float32")
    same = same * mask[:, None, :]
    later = np.triu(np.ones((ages.shape[1], ages.shape[1]), np.float32), k=1)
    newest = ops.relu(1.0 - ops.sum(same * later, axis=2))
    # Of one activity of each session alone. As a minimum over all of them it gave wrong values in
    # some conversions to LiteRT.
    return ops.sum(same * (newest * ages)[:, None, :], axis=2)


@keras.saving.register_keras_serializable(package="activity_embeddings")
class NumberedSessions(keras.layers.Layer):
    """Which session each activity is of, where sessions are numbered; see `newer_than_sessions`."""

    def call(self, sessions: Any, mask_in: Any) -> Any:
        """Return float32 [batch, length]; `mask_in` is float32 [batch, length, 1]."""
        return newer_than_sessions(sessions, mask_in[:, :, 0])


@keras.saving.register_keras_serializable(package="activity_embeddings")
class NewestAges(keras.layers.Layer):
    """The age of each activity's session; see `newest_ages`."""

    def call(self, ages: Any, newer_than: Any, mask_in: Any) -> Any:
        """Return float32 [batch, length]; `mask_in` is float32 [batch, length, 1]."""
        return newest_ages(ages, newer_than, mask_in[:, :, 0])


@keras.saving.register_keras_serializable(package="activity_embeddings")
class SessionMeans(keras.layers.Layer):
    """The mean of each session's activities, the newest session at the last position."""

    def call(self, features: Any, mask_in: Any, newer_than: Any) -> tuple[Any, Any]:
        """Pool activities into sessions.

        Parameters
        ----------
        features
            float32 [batch, length, F].
        mask_in
            float32 [batch, length, 1]; 1 for activities, 0 for PAD.
        newer_than
            float32 [batch, length]; see `newer_sessions`.

        Returns
        -------
        tuple
            float32 [batch, length, F], padded on the left with zeros, and its mask as `mask_in`.
        """
        places = np.arange(features.shape[1], dtype=np.float32)[::-1, None]
        within = ops.cast(newer_than[:, None, :] == places, "float32")
        within = within * ops.transpose(mask_in, (0, 2, 1))
        count = ops.sum(within, axis=2, keepdims=True)
        means = ops.matmul(within, features) / ops.maximum(count, 1.0)
        return means, ops.minimum(count, 1.0)


@keras.saving.register_keras_serializable(package="activity_embeddings")
class LearnedDecay(keras.layers.Layer):
    """The interleaved decaying average, with its decay and a gain for each action to be learnt.

    With k newer positive activities in the sequence a position weighs `r**k`, divided by the sum
    of these weights, so that the i-th of n positives, oldest first, weighs
    `(1 - r) / (1 - r**n) * r**(n - i)` as in `InterleavedDecay`; then it is multiplied by the gain
    of its action. Gains start at 1 for positive actions and at 0 for the others, where the layer
    is exactly that formula. Activities that are not positive (DISMISS) are averaged among
    themselves, with the same powers, so that their number does not blow the vector up. By sessions,
    k is the number of newer sessions, as in `SessionDecay`.

    Parameters
    ----------
    actions
        Number of actions, PAD left out.
    positive_ids
        Ids of the actions whose gain starts at 1; the others start at 0.
    decay
        float in (0, 1). What r starts at; it is kept in there by a logit.
    """

    def __init__(
        self, actions: int, positive_ids: list[int], decay: float = 0.9, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.actions = actions
        self.positive_ids = list(positive_ids)
        self.decay = decay

    def build(self, *_: Any) -> None:
        """Create the decay (as a logit) and the gains."""
        self.decay_logit = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(np.log(self.decay / (1 - self.decay))),
            name="decay_logit",
        )
        gains = self._positive[:, None]
        self.gains = self.add_weight(
            shape=gains.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(gains, dtype),
            name="gains",
        )

    @property
    def _positive(self) -> np.ndarray:
        """Return float32 [actions], 1 for positive ones."""
        return np.isin(np.arange(1, self.actions + 1), self.positive_ids).astype(np.float32)

    def call(self, item_embeddings: Any, chosen: Any, newer_than: Any = None) -> Any:
        """Average over the positions.

        Parameters
        ----------
        item_embeddings
            float32 [batch, length, D].
        chosen
            float32 [batch, length, actions]; one-hot actions, all zero for PAD.
        newer_than
            float32 [batch, length]; see `newer_sessions`. None: positions decay one by one.

        Returns
        -------
        Any
            float32 [batch, D]; zero where every position is PAD.
        """
        # [batch, length, 2]: whether positive, and whether another action.
        group = ops.matmul(chosen, np.stack([self._positive, 1 - self._positive], axis=1))
        # log r = log sigmoid(logit): a power of r without its rounding for old positions.
        if newer_than is None:
            newer_than = newer(group[:, :, 0])
        power = ops.exp(newer_than * ops.log_sigmoid(self.decay_logit))
        weights = ops.expand_dims(power, 2) * group
        total = ops.sum(weights, axis=1, keepdims=True)
        # A sum is 0 where there is no such activity, or where r is so small that the powers of all
        # are 0, which only activities that are not positive can have.
        share = ops.sum(weights / ops.where(total > 0, total, ops.ones_like(total)), axis=2)
        gained = ops.expand_dims(share, 2) * ops.matmul(chosen, self.gains)
        return ops.sum(gained * item_embeddings, axis=1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "actions": self.actions,
            "positive_ids": self.positive_ids,
            "decay": self.decay,
        }
