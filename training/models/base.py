"""What every activity model is: an `Architecture` that can be built, stored and searched.

`Network` is the base of the learned ones. It makes the inputs, masks PAD, and turns what a
subclass reads in the sequence into a correction of the decaying average.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, ClassVar, Self

import keras
import tensorflow as tf
from keras import ops

from activity_embeddings.training.models.ensemble import Ensemble
from activity_embeddings.training.models.layers import (
    AgeFeatures,
    LearnedDecay,
    NewestAges,
    NumberedSessions,
    OneHotAction,
    SessionMeans,
    SessionTimes,
)
from activity_embeddings.training.outputs import ACTIVITY_EMBEDDING
from activity_embeddings.transformations import names
from activity_embeddings.transformations.errors import InvalidInput, require_at_least
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

MOST_MAPS = 32
"""With more actions, a linear map for each would outgrow the network."""


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """A kind of activity model; its fields are its hyperparameters, all of them JSON values.

    Attributes
    ----------
    name
        As it is registered; set by `activity_embeddings.training.models.register`.
    trainable
        Whether what `build` returns is a `keras.Model` to be trained.
    """

    name: ClassVar[str]
    trainable: ClassVar[bool]

    @abstractmethod
    def build(self, spec: ActivitySpec, vector_spec: ItemVectorSpec) -> keras.Model | tf.Module:
        """Return the untrained model, which `package_model` takes.

        Parameters
        ----------
        spec
            Length and actions. The shapes of weights do not depend on the length, so weights learnt
            at one length work at another.
        vector_spec
            The length D of an item embedding.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return the hyperparameters as JSON values; `type(self)(**them)` equals `self`."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def suggest(cls, trial: Any) -> Self:
        """Return an instance with hyperparameters that an Optuna trial chooses.

        Parameters
        ----------
        trial
            An `optuna.Trial`, or anything with its `suggest_int`, `suggest_float` and
            `suggest_categorical`. By default nothing is searched.
        """
        return cls()


@dataclass(frozen=True, kw_only=True)
class Network(Architecture):
    """Base of the learned models: one vector `activity_embedding` of the item embedding's length.

    A subclass gives `encode`. Its width, through a dense layer without bias, becomes the
    embedding; with `residual` it becomes a correction of `LearnedDecay` that starts at zero, so
    that an untrained model is exactly `InterleavedDecay(r=decay)`, of all kinds of activity where
    there are several.

    What comes next often depends on the newest item and on what was done with it. So beside the
    encoding there is a way around it: the newest item's embedding through a linear map of its
    action's own. Its weights are actions x D x D.

    With `sessions` or `session_gap_minutes` a position is a session, in which order has no meaning:
    of one session id, or activity with no longer gap in it. A dense layer reads each activity, the
    subclass reads the mean of each session, the average decays from session to session, and around
    the encoding go the means of the newest session's items by action. So the output is the same for
    any order within a session.

    Attributes
    ----------
    newest
        Whether there is that way; with more than `MOST_MAPS` actions there is none.
    residual
        Whether the model corrects the decaying average or stands alone.
    ages
        Whether it reads the time since each activity.
    dropout
        Float in [0, 1). Share of the encoding dropped in training.
    decay
        float in (0, 1). Factor r that the decaying average starts at.
    session_gap_minutes
        float, 0 or more. The longest gap within a session, see `newer_sessions`, told from ages
        alone; 0: without `sessions` the order of all activity counts.
    sessions
        Whether sessions are those of the input `sessions`: of one id where the source has a column
        of them, else by a gap of 30 minutes. Beside it `session_gap_minutes` is 0.
    ensemble
        How many networks there are; the embedding is the mean of theirs. They start apart and are
        trained side by side, each by a loss of its own (Lakshminarayanan et al., "Simple and
        Scalable Predictive Uncertainty Estimation using Deep Ensembles", NeurIPS 2017). Training
        and inference take longer accordingly; the vector is as long as that of one.
    """

    trainable: ClassVar[bool] = True

    newest: bool = True
    residual: bool = True
    ages: bool = False
    dropout: float = 0.3
    decay: float = 0.9
    session_gap_minutes: float = 0.0
    sessions: bool = False
    ensemble: int = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.dropout < 1.0:
            raise InvalidInput(
                f"{type(self).__name__}: `dropout` should be in [0, 1). Received: {self.dropout}"
            )
        if not 0.0 < self.decay < 1.0:
            raise InvalidInput(
                f"{type(self).__name__}: `decay` should be in (0, 1). Received: {self.decay}"
            )
        require_at_least(type(self).__name__, 1, ensemble=self.ensemble)
        require_at_least(type(self).__name__, 0, session_gap_minutes=self.session_gap_minutes)
        if self.sessions and self.session_gap_minutes:
            raise InvalidInput(
                f"{type(self).__name__}: `session_gap_minutes` should be 0 beside `sessions`. "
                f"Received: {self.session_gap_minutes}"
            )

    @abstractmethod
    def encode(self, features: Any, mask: Any) -> Any:
        """Read a sequence.

        Parameters
        ----------
        features
            float32 [batch, length, F]: [item embedding ; one-hot action ; features of the age if
            wanted], zero for PAD. With sessions, one position is what was read in a session.
        mask
            float32 [batch, length, 1]; 1 for activities or sessions, 0 for PAD.

        Returns
        -------
        Any
            float32 [batch, width]; zero where every position is PAD, and the same whatever number
            of PAD positions are on the left.
        """

    def build(self, spec: ActivitySpec, vector_spec: ItemVectorSpec) -> keras.Model:
        """Return an untrained Functional model.

        Inputs `item_embeddings` float32 [L, D], `actions` int32 [L], with `ages` or a gap `ages`
        float32 [L] in days, and with `sessions` `sessions` int32 [L]; output `activity_embedding`
        float32 [D]. A sequence of nothing but PAD gives the zero vector; what lies at a PAD
        position is not read.
        """
        # A class need not be registered to be built.
        name = getattr(self, "name", None)
        if self.ensemble > 1:
            alone = replace(self, ensemble=1)
            networks = [alone.build(spec, vector_spec) for _ in range(self.ensemble)]
            return Ensemble(networks, name=name)
        item_embeddings = keras.Input(
            (spec.length, vector_spec.dimension),
            dtype="float32",
            name=names.INPUT_ITEM_EMBEDDINGS,
        )
        actions = keras.Input((spec.length,), dtype="int32", name=names.INPUT_ACTIONS)
        # Dicts in and out: Keras then exports with these names and types.
        inputs = {names.INPUT_ITEM_EMBEDDINGS: item_embeddings, names.INPUT_ACTIONS: actions}

        chosen = OneHotAction(len(spec.actions), name="one_hot_action")(actions)
        mask = ops.sum(chosen, axis=2, keepdims=True)
        parts = [item_embeddings * mask, chosen]
        newer_than = None
        if self.ages or self.session_gap_minutes:
            ages = keras.Input((spec.length,), dtype="float32", name=names.INPUT_AGES)
            inputs[names.INPUT_AGES] = ages
        if self.sessions:
            sessions = keras.Input((spec.length,), dtype="int32", name=names.INPUT_SESSIONS)
            inputs[names.INPUT_SESSIONS] = sessions
            newer_than = NumberedSessions(name="sessions_by_number")(sessions, mask)
            if self.ages:
                ages = NewestAges(name="newest_ages")(ages, newer_than, mask)
        if self.session_gap_minutes:
            newer_than, ages = SessionTimes(60 * self.session_gap_minutes, name="sessions")(ages)
        if self.ages:
            window = spec.window / timedelta(days=1)
            parts.append(AgeFeatures(window, name="age_features")(ages) * mask)
        features, mask_of_features = ops.concatenate(parts, axis=2), mask
        if newer_than is not None:
            read = keras.layers.Dense(features.shape[2], activation="relu", name="activity")
            features, mask_of_features = SessionMeans(name="session_means")(
                features + read(features), mask, newer_than
            )
        encoding = self.encode(features, mask_of_features)
        if self.newest and len(spec.actions) <= MOST_MAPS:
            by_action = newest_by_action(item_embeddings, chosen, newer_than)
            encoding = ops.concatenate([encoding, by_action], axis=1)
        encoding = keras.layers.Dropout(self.dropout, name="dropout")(encoding)

        # Without a bias, all-PAD stays zero.
        correction = keras.layers.Dense(
            vector_spec.dimension,
            use_bias=False,
            kernel_initializer="zeros" if self.residual else "glorot_uniform",
            name="correction" if self.residual else ACTIVITY_EMBEDDING,
        )(encoding)
        if self.residual:
            of_other_kinds = range(len(spec.own_actions) + 1, len(spec.actions) + 1)
            averaged = [*spec.positive_ids, *of_other_kinds]
            average = LearnedDecay(len(spec.actions), averaged, self.decay, name="learned_decay")(
                item_embeddings, chosen, newer_than
            )
            correction = keras.layers.Add(name=ACTIVITY_EMBEDDING)([average, correction])
        return keras.Model(inputs, {ACTIVITY_EMBEDDING: correction}, name=name)

    @classmethod
    def suggest(cls, trial: Any) -> Self:
        """Choose what all networks have, then what `suggest_own` gives; see `Architecture`.

        The decay is learnt from where it starts, so it is not searched.
        """
        return cls(
            newest=trial.suggest_categorical("newest", [True, False]),
            residual=trial.suggest_categorical("residual", [True, False]),
            ages=trial.suggest_categorical("ages", [True, False]),
            dropout=trial.suggest_float("dropout", 0.0, 0.6, step=0.1),
            **cls.suggest_own(trial),
        )

    @classmethod
    def suggest_own(cls, trial: Any) -> dict[str, Any]:
        """Return hyperparameters of this architecture alone, chosen by the trial."""
        return {}


def newest_by_action(item_embeddings: Any, chosen: Any, newer_than: Any = None) -> Any:
    """Return the newest item's embedding at the place of its action, zeros at those of others.

    A linear map of it is another map of the embedding for each action. With sessions, return the
    mean of the same over the newest session.

    Parameters
    ----------
    item_embeddings
        float32 [batch, length, D].
    chosen
        float32 [batch, length, actions]; one-hot actions, all zero for PAD.
    newer_than
        float32 [batch, length]; see `newer_sessions`. None: there are no sessions.

    Returns
    -------
    Any
        float32 [batch, actions * D].
    """
    if newer_than is None:
        placed = ops.expand_dims(chosen[:, -1], 2) * ops.expand_dims(item_embeddings[:, -1], 1)
    else:
        newest = chosen * ops.cast(ops.equal(newer_than, 0.0), "float32")[:, :, None]
        placed = ops.matmul(ops.transpose(newest, (0, 2, 1)), item_embeddings)
        placed = placed / ops.maximum(ops.sum(newest, axis=(1, 2)), 1.0)[:, None, None]
    return ops.reshape(placed, (-1, placed.shape[1] * placed.shape[2]))


def mean_and_newest(features: Any, mask: Any) -> Any:
    """Pool a sequence into the mean over its activities, and its newest position.

    Parameters
    ----------
    features
        float32 [batch, length, F], zero for PAD.
    mask
        float32 [batch, length, 1].

    Returns
    -------
    Any
        float32 [batch, 2 F]; zero where every position is PAD.
    """
    mean = ops.sum(features, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)
    return ops.concatenate([mean, features[:, -1, :]], axis=1)
