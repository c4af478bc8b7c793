"""The proxy task: an activity embedding is learnt by telling which held-out jobs were wanted."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from training.examples import INPUT_HELD_OUT_ROW, INPUT_JOB_ROWS, ProxyExamples
from transformations import names
from transformations.errors import InvalidInput
from transformations.item_vectors import ItemVectors
from transformations.spec import ActivitySpec

ACTIVITY_EMBEDDING = "activity_embedding"
"""The output of a model that the task trains."""

SAMPLED_WEIGHT = 0.5
"""Sample weight of a drawn negative; an activity of the member's own weighs 1."""

PREDICT_BATCH = 1024


class ProxyTask(keras.Model):
    """Softmax over (not wanted, wanted) of an activity embedding times the held-out job's.

    `softmax(W (activity_embedding * job_embedding) + b)`, with the element-wise (Hadamard)
    product. The job vectors are frozen. `W` starts as a scaled dot product, so that training
    starts at what the sub-model's own average can tell.

    Parameters
    ----------
    sub_model : the activity model; an output `activity_embedding` of the vectors' length.
    vectors : the job vectors that example rows point into.

    Raises
    ------
    InvalidInput
        The sub-model has no such output.
    """

    INITIAL_SCALE = 3.0
    """Logits are this times the dot product, before training."""

    def __init__(self, sub_model: keras.Model, vectors: ItemVectors) -> None:
        super().__init__(name="proxy_task")
        outputs = sub_model.output if isinstance(sub_model.output, dict) else {}
        shapes = {name: tensor.shape for name, tensor in outputs.items()}
        if shapes.get(ACTIVITY_EMBEDDING) != (None, vectors.dimension):
            raise InvalidInput(
                f"model {sub_model.name!r}: the proxy task expects an output "
                f"{ACTIVITY_EMBEDDING!r} of length {vectors.dimension}, that of a job embedding. "
                f"Received: {shapes or 'no dict of outputs'}"
            )
        self.sub_model = sub_model
        self.matrix = self.add_weight(
            shape=vectors.matrix.shape, initializer="zeros", trainable=False, name="job_embeddings"
        )
        self.matrix.assign(vectors.matrix)
        half = np.full((vectors.dimension, 1), self.INITIAL_SCALE / 2, dtype=np.float32)
        self.head = keras.layers.Dense(2, activation="softmax", name="wanted")
        self.head.build((None, vectors.dimension))
        self.head.kernel.assign(np.hstack([-half, half]))

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Return float32 [batch, 2]: the probabilities of not wanted and wanted.

        Parameters
        ----------
        inputs : a batch of `ProxyExamples.inputs`.
        training : bool. Whether dropout is on.
        """
        known = {
            **inputs,
            names.INPUT_JOB_EMBEDDINGS: ops.take(self.matrix, inputs[INPUT_JOB_ROWS], axis=0),
        }
        wanted = self.sub_model(
            {name: known[name] for name in self.sub_model.input}, training=training
        )
        held_out = ops.take(self.matrix, inputs[INPUT_HELD_OUT_ROW], axis=0)
        return self.head(wanted[ACTIVITY_EMBEDDING] * held_out)


def train_on_proxy(
    sub_model: keras.Model,
    train: ProxyExamples,
    validation: ProxyExamples,
    vectors: ItemVectors,
    *,
    epochs: int = 30,
    batch_size: int = 256,
    seed: int = 0,
    learning_rate: float = 1e-3,
    patience: int = 4,
    sampled_weight: float = SAMPLED_WEIGHT,
    verbose: int = 0,
) -> dict[str, Any]:
    """Train `sub_model` in place, and keep the weights of its best epoch on `validation`.

    Parameters
    ----------
    sub_model : the activity model; see `ProxyTask`.
    train, validation : examples, with drawn negatives or without.
    vectors : what the examples were made from.
    epochs, batch_size, learning_rate : of Adam on the weighted cross-entropy.
    seed : int. Of shuffling and dropout. The sub-model's own weights were drawn when it was
        built: build it under the same seed to get the same model on the same machine.
    patience : int. Epochs without a better validation loss before stopping.
    sampled_weight : float. Sample weight of a drawn negative.
    verbose : int. As in Keras: 1 shows a progress bar for each epoch.

    Returns
    -------
    dict
        JSON values: `epochs`, `best_epoch` (from 1), `history` of the weighted losses an
        example, and `validation` as of `measure`, whose log loss is a unit of weight.

    Raises
    ------
    InvalidInput
        There are no examples to train on or to validate with, or of one label only.
    """
    for name, examples in (("train", train), ("validation", validation)):
        if not examples.positive.any() or examples.positive.all():
            raise InvalidInput(
                f"proxy task: `{name}` should hold examples of both labels. "
                f"Received: {examples.balance()}"
            )
    keras.utils.set_random_seed(seed)
    if tf.config.list_physical_devices("GPU"):
        # On CPUs runs repeat to the bit as they are.
        tf.config.experimental.enable_op_determinism()
    task = ProxyTask(sub_model, vectors)
    task.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(),
    )
    fitted = task.fit(
        train.inputs(vectors),
        train.positive.astype(np.int32),
        sample_weight=_weights(train, sampled_weight),
        validation_data=(
            validation.inputs(vectors),
            validation.positive.astype(np.int32),
            _weights(validation, sampled_weight),
        ),
        epochs=epochs,
        batch_size=batch_size,
        verbose=verbose,
        callbacks=[
            keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True)
        ],
    ).history
    scores = task.predict(validation.inputs(vectors), batch_size=PREDICT_BATCH, verbose=0)[:, 1]
    return {
        "epochs": len(fitted["loss"]),
        "best_epoch": int(np.argmin(fitted["val_loss"])) + 1,
        "history": {key: [round(x, 6) for x in values] for key, values in fitted.items()},
        "validation": measure(validation, scores, sampled_weight=sampled_weight),
    }


def measure(
    examples: ProxyExamples, scores: np.ndarray, *, sampled_weight: float | None = None
) -> dict[str, float]:
    """Return how well scores tell wanted from not wanted.

    Parameters
    ----------
    examples : n examples of both labels.
    scores : float [n]; larger for jobs that are rather wanted.
    sampled_weight : float. Where given, scores are probabilities, and their log loss is given
        under the weights of training.

    Returns
    -------
    dict
        `auc` against all negatives, `auc_dismissed` against those that the member dismissed,
        `auc_sampled` against drawn ones; each is left out where there are none.
    """
    kinds = {
        "auc": ~examples.positive,
        "auc_dismissed": ~examples.positive & ~examples.sampled,
        "auc_sampled": examples.sampled,
    }
    measured = {}
    if sampled_weight is not None:
        weights = _weights(examples, sampled_weight)
        scores = scores.astype(np.float64)
        measured["log_loss"] = log_loss(examples.positive, scores, sample_weight=weights)
    for name, negative in kinds.items():
        if negative.any():
            chosen = examples.positive | negative
            measured[name] = roc_auc_score(examples.positive[chosen], scores[chosen])
    return {name: round(float(value), 4) for name, value in measured.items()}


def measure_rivals(
    train: ProxyExamples,
    validation: ProxyExamples,
    vectors: ItemVectors,
    *,
    spec: ActivitySpec,
    decay: float = 0.9,
    sampled_weight: float = SAMPLED_WEIGHT,
) -> dict[str, dict[str, float]]:
    """Return `measure` on `validation` for what needs no activity model.

    Returns
    -------
    dict
        `mean` and `decayed_mean` are the cosine of the held-out job with the plain and the
        geometrically decaying mean of the positive activities. `job_alone` is a logistic
        regression on the held-out job's vector, fitted on `train`: it knows nothing about the
        member, so it shows how much of a figure is the popularity or quality of jobs.
        `decayed_mean_and_job` is one on that vector and the cosine: the strongest of them.
    """
    mean = _cosines(validation, vectors, spec, 1.0)
    features = {
        name: (
            vectors.matrix[examples.held_out_rows],
            _cosines(examples, vectors, spec, decay)[:, None],
        )
        for name, examples in (("train", train), ("validation", validation))
    }
    rivals = {
        "mean": measure(validation, mean),
        "decayed_mean": measure(validation, features["validation"][1][:, 0]),
    }
    for name, parts in (("job_alone", 1), ("decayed_mean_and_job", 2)):
        fitted = LogisticRegression(C=0.1, max_iter=1000).fit(
            np.hstack(features["train"][:parts]),
            train.positive,
            sample_weight=_weights(train, sampled_weight),
        )
        scores = fitted.predict_proba(np.hstack(features["validation"][:parts]))[:, 1]
        rivals[name] = measure(validation, scores, sampled_weight=sampled_weight)
    return rivals


def _cosines(
    examples: ProxyExamples, vectors: ItemVectors, spec: ActivitySpec, r: float
) -> np.ndarray:
    """Return the cosine of each held-out job with the decayed sum of positive activities.

    The i-th of n positive activities, oldest first, weighs `r**(n - i)`; without any the cosine
    is 0.
    """
    positive = np.isin(examples.sequences.action, spec.positive_ids)
    newer = positive[:, ::-1].cumsum(axis=1)[:, ::-1] - 1
    embedded = vectors.matrix[examples.sequences.rows(vectors)]
    held_out = vectors.matrix[examples.held_out_rows]
    average = np.einsum("nl,nld->nd", np.where(positive, r**newer, 0.0), embedded)
    lengths = np.linalg.norm(average, axis=1) * np.linalg.norm(held_out, axis=1)
    return (average * held_out).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)


def _weights(examples: ProxyExamples, sampled_weight: float) -> np.ndarray:
    """Return the sample weights, float32 [n]."""
    return np.where(examples.sampled, sampled_weight, 1.0).astype(np.float32)
