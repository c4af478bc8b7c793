"""The convolutional activity model: short runs of activity, read beside what they were about.

A Keras Functional model with dict inputs and outputs, so that `model.export` keeps the names and
types of the model contract. PAD is carried explicitly, since Conv1D drops Keras masks.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import keras
import numpy as np
from keras import ops

from training.examples import make_examples, with_same_day_negatives
from training.proxy import ACTIVITY_EMBEDDING, SAMPLED_WEIGHT, measure_rivals, train_on_proxy
from transformations import names
from transformations.events import ActivityEvents
from transformations.item_vectors import ItemVectors
from transformations.spec import PAD, ActivitySpec, ItemEmbedding

INITIAL_DECAY = 0.95
"""Factor from one position to the next older one, before training."""

SOFTENING = 0.1
"""Averages much shorter than this stay short when lengths are made equal."""


@keras.saving.register_keras_serializable(package="activity_embeddings")
class DecayedAverage(keras.layers.Layer):
    """Direction of the decayed average of job embeddings, with a gain for each action.

    With k newer activities in the sequence, a position weighs `r**k`, normalised over the
    positions that are not PAD, times the gain of its action. The average a becomes
    `a / sqrt(|a|**2 + 0.1**2)`: nearly a unit vector for any member with some agreement among
    the activities, and zero where there is nothing to average. Decay and gains are learnt. It
    starts as the geometrically decaying average of the positive activities.

    Parameters
    ----------
    actions : int. Number of actions, PAD left out.
    positive_ids : ids of the actions whose gain starts at 1; the others start at 0.
    """

    def __init__(self, actions: int, positive_ids: list[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.actions = actions
        self.positive_ids = list(positive_ids)

    def build(self, *_: Any) -> None:
        """Create the decay (as a logit) and the gains."""
        gains = np.isin(np.arange(1, self.actions + 1), self.positive_ids).astype(np.float32)
        self.decay_logit = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(np.log(INITIAL_DECAY / (1 - INITIAL_DECAY))),
            name="decay_logit",
        )
        self.gains = self.add_weight(
            shape=(self.actions, 1),
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(gains[:, None], dtype),
            name="gains",
        )

    def call(self, job_embeddings: Any, chosen: Any) -> Any:
        """Average over the positions.

        Parameters
        ----------
        job_embeddings : float32 [batch, length, D].
        chosen : float32 [batch, length, actions]; one-hot actions, all zero for PAD.

        Returns
        -------
        float32 [batch, D]; zero where every position is PAD.
        """
        length = chosen.shape[1]
        newer = ops.convert_to_tensor(np.arange(length - 1, -1, -1, dtype=np.float32)[:, None])
        # log r = log sigmoid(logit): a power of r without its rounding for old positions.
        decay = ops.exp(newer * ops.log_sigmoid(self.decay_logit))
        weights = decay * ops.sum(chosen, axis=2, keepdims=True)
        total = ops.sum(weights, axis=1, keepdims=True)
        # A sum is 0 only if all is PAD: the newest activity, if there is one, weighs 1.
        weights = weights / ops.where(total > 0, total, ops.ones_like(total))
        average = ops.sum(weights * ops.matmul(chosen, self.gains) * job_embeddings, axis=1)
        squared = ops.sum(ops.square(average), axis=1, keepdims=True)
        return average * ops.rsqrt(squared + SOFTENING**2)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "actions": self.actions,
            "positive_ids": self.positive_ids,
        }


@keras.saving.register_keras_serializable(package="activity_embeddings")
class OneHotAction(keras.layers.Layer):
    """Actions as one-hot vectors over the non-PAD ids; PAD and ids out of range are all zero."""

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


def build_cnn(
    spec: ActivitySpec,
    item_embedding: ItemEmbedding,
    *,
    filters: int = 48,
    kernel_size: int = 3,
    convolutions: int = 3,
    dropout: float = 0.5,
) -> keras.Model:
    """Return an untrained model: about 30,000 parameters at 64-d job embeddings.

    Each position is [job embedding ; one-hot action]. A stack of convolutions, PAD set back to
    zero after each, is pooled into the mean over the activities and the newest position; a dense
    layer turns that into a correction of the `DecayedAverage`. A sequence of nothing but PAD
    gives the zero vector, and PAD to the left changes nothing.

    Parameters
    ----------
    spec : length and actions.
    item_embedding : the length D of a job embedding, and of the activity embedding.
    filters, kernel_size, convolutions : int. Of the convolution stack.
    dropout : float. Share of pooled features dropped in training.

    Returns
    -------
    keras.Model
        Inputs `job_embeddings` float32 [L, D] and `actions` int32 [L]; output
        `activity_embedding` [D].
    """
    job_embeddings = keras.Input(
        (spec.length, item_embedding.dimension),
        dtype="float32",
        name=names.INPUT_JOB_EMBEDDINGS,
    )
    actions = keras.Input((spec.length,), dtype="int32", name=names.INPUT_ACTIONS)

    chosen = OneHotAction(len(spec.actions), name="one_hot_action")(actions)
    mask = ops.sum(chosen, axis=2, keepdims=True)
    average = DecayedAverage(len(spec.actions), list(spec.positive_ids), name="decayed_average")(
        job_embeddings, chosen
    )

    features = ops.concatenate([job_embeddings * mask, chosen], axis=2)
    for i in range(convolutions):
        convolved = keras.layers.Conv1D(
            filters, kernel_size, padding="same", activation="relu", name=f"convolution_{i}"
        )(features)
        convolved = convolved * mask
        features = convolved if i == 0 else features + convolved
    mean = ops.sum(features, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)
    pooled = ops.concatenate([mean, features[:, -1, :]], axis=1)
    pooled = keras.layers.Dropout(dropout, name="dropout")(pooled)
    # Without a bias, all-PAD stays zero; small at first, so training starts at the average.
    correction = keras.layers.Dense(
        item_embedding.dimension,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(0.01),
        name="correction",
    )(pooled)
    return keras.Model(
        {names.INPUT_JOB_EMBEDDINGS: job_embeddings, names.INPUT_ACTIONS: actions},
        {ACTIVITY_EMBEDDING: keras.layers.Add(name=ACTIVITY_EMBEDDING)([average, correction])},
        name="cnn",
    )


def train_cnn(
    events: ActivityEvents,
    vectors: ItemVectors,
    *,
    spec: ActivitySpec,
    item_embedding: ItemEmbedding,
    start: datetime,
    validation_start: datetime,
    end: datetime,
    seed: int = 0,
    epochs: int = 30,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    verbose: int = 0,
) -> tuple[keras.Model, dict[str, Any]]:
    """Build a CNN and train it on the proxy task.

    Parameters
    ----------
    events, vectors, spec, item_embedding : the data, and what it is.
    start, validation_start, end : aware datetimes. Activities with `start <= t <
        validation_start` are held out to train on, those from there to before `end` to validate.
    seed : int. Of weights, negatives, shuffling and dropout; the same seed gives the same weights
        on the same machine.
    epochs, batch_size, learning_rate, verbose : see `train_on_proxy`.

    Returns
    -------
    (model, facts)
        The model to package, and `training`, `metrics` and `parameters` for its manifest: JSON
        values, so `package_model(model, path, ..., **facts)`.

    Raises
    ------
    InvalidInput
        A range is empty or holds examples of one label only, or a time has no zone.
    """
    own, examples = {}, {}
    ranges = {"train": (start, validation_start), "validation": (validation_start, end)}
    for part, (name, (first, last)) in enumerate(ranges.items()):
        own[name] = make_examples(events, vectors, spec=spec, start=first, end=last)
        examples[name] = with_same_day_negatives(own[name], events, vectors, seed=2 * seed + part)

    keras.utils.set_random_seed(seed)
    model = build_cnn(spec, item_embedding)
    fitted = train_on_proxy(
        model,
        examples["train"],
        examples["validation"],
        vectors,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        learning_rate=learning_rate,
        verbose=verbose,
    )
    facts = {
        "training": {
            "task": "held-out activity wanted or not, with same-day random negatives",
            "start": start.isoformat(),
            "validation_start": validation_start.isoformat(),
            "end": end.isoformat(),
            "examples": {
                name: {
                    "before_negatives": own[name].balance(),
                    "after_negatives": examples[name].balance(),
                }
                for name in ranges
            },
            "epochs": fitted["epochs"],
            "best_epoch": fitted["best_epoch"],
            "history": fitted["history"],
        },
        "metrics": {
            "validation": fitted["validation"],
            "validation_rivals": measure_rivals(
                examples["train"], examples["validation"], vectors, spec=spec
            ),
        },
        "parameters": {
            "seed": seed,
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "sampled_weight": SAMPLED_WEIGHT,
            "weights": model.count_params(),
        },
    }
    return model, facts
