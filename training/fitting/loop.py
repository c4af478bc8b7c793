"""Fit a task: epochs, early stopping, checkpoints, and resuming after a kill.

Randomness in an epoch depends on the seed and the epoch's number alone, and decisions depend on
the recorded figures alone. So a run that is resumed after a kill ends with the same weights, to the
bit, as one that was not killed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from activity_embeddings.training.examples.stream import Arrays, ExampleStream
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.training.objectives.base import TrainingTask
from activity_embeddings.transformations.errors import InvalidInput, require_at_least
from activity_embeddings.transformations.files import make_folder, replace_file

CHECKPOINT = "checkpoint.npz"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a task is fitted.

    Parameters
    ----------
    epochs
        Maximum number of passes over the examples.
    patience
        Epochs without a better validation figure before stopping.
    batch_size
        Rows a step.
    learning_rate
        Of AdamW.
    weight_decay
        Of AdamW.
    clip_norm
        Gradients are scaled down to this global norm.
    ema_momentum
        Share of the moving average of weights that a step keeps, between 0 and 1. The average is
        what is validated and kept (Polyak and Juditsky, 1992, with weights that decay). None: the
        weights of the last step are.
    seed
        Seed of weights, examples, their order and dropout: the same seed gives the same weights on
        the same machine.
    """

    epochs: int = 30
    patience: int = 4
    batch_size: int = 256
    learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    ema_momentum: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(
            "fit", 1, epochs=self.epochs, patience=self.patience, batch_size=self.batch_size
        )
        require_at_least("fit", 0, weight_decay=self.weight_decay, seed=self.seed)
        for name, value in (("learning_rate", self.learning_rate), ("clip_norm", self.clip_norm)):
            if not 0 < value < math.inf:
                raise InvalidInput(f"fit: `{name}` should be positive. Received: {value}")
        if self.ema_momentum is not None and not 0 < self.ema_momentum < 1:
            raise InvalidInput(
                f"fit: `ema_momentum` should be between 0 and 1. Received: {self.ema_momentum}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)


def fit_task(
    task: TrainingTask,
    stream: ExampleStream,
    validate: Callable[[], dict[str, float]] | None,
    fit: Fit,
    *,
    run: Path | None = None,
    identity: dict[str, Any] | None = None,
    verbose: int = 0,
) -> list[dict[str, float]]:
    """Train `task` in place and leave it with the weights of its best epoch.

    Parameters
    ----------
    task
        What to train; its sub-model was built under `keras.utils.set_random_seed(fit.seed)`.
    stream
        The examples.
    validate
        Returns figures of the task as it is, `ndcg_at_10` among them, which decides; larger is
        better. None: all epochs are trained, and the last is kept.
    fit
        How.
    run
        Folder for the checkpoint and TensorBoard's logs. Where it holds a checkpoint of the same
        run, training is resumed from it. None: nothing is written.
    identity
        JSON values that say which run this is, kept in the checkpoint.
    verbose
        1 shows a progress bar for each epoch, which ends with its figures.

    Returns
    -------
    list of dict
        The figures of each epoch: `loss` and, with `validate`, those that it gave.

    Raises
    ------
    InvalidInput
        There are no examples, the checkpoint in `run` is of another run, or the loss is not a
        number.
    """
    if tf.config.list_physical_devices("GPU"):
        # On CPUs runs repeat to the bit as they are.
        tf.config.experimental.enable_op_determinism()
    state = _State(task, fit, run, identity or {}, validated=validate is not None)
    first = stream.first()
    task(as_tensors(first), training=False)
    state.resume()
    log = tf.summary.create_noop_writer()
    if run is not None and not state.done():
        log = tf.summary.create_file_writer(str(run / TENSORBOARD))
    step = training_step(task, state.optimizer, first)
    while not state.done():
        state.seed()
        # Not around the batches: after the last one it would be closed, and show no figures.
        with tqdm(
            desc=f"epoch {state.epoch + 1} of at most {fit.epochs}",
            unit=" batches",
            disable=not verbose,
        ) as bar:
            losses = []
            for batch in map(as_tensors, stream.batches(state.epoch)):
                losses.append(step(batch))
                bar.update()
            figures = {"loss": _mean(losses)}
            if not np.isfinite(figures["loss"]):
                raise InvalidInput(
                    f"fit: expected a finite loss in epoch {state.epoch + 1}. Received: "
                    f"{figures['loss']}. Try a smaller learning rate than {fit.learning_rate}"
                )
            if validate is not None:
                with state.averaged():
                    figures |= validate()
            bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()})
        with log.as_default(step=state.epoch):
            for name, value in figures.items():
                tf.summary.scalar(name, value)
        log.flush()
        state.record(figures)
    state.restore_best()
    return state.history


def as_tensors(batch: Arrays) -> dict[str, tf.Tensor]:
    """Return a copy of a batch as a task reads it."""
    return {name: tf.convert_to_tensor(values) for name, values in batch.items()}


def training_step(task: TrainingTask, optimizer: keras.Optimizer, first: Arrays) -> Any:
    """Return the function of one training step: from a batch to its loss and number of rows.

    Keras' own `fit` is not for streams whose length changes from epoch to epoch: it ends later
    epochs where the first one ended, and counts the look for one more batch as a step. Nor is
    `tf.data.Dataset.from_generator`: from its first batch on the whole process returns freed memory
    to the system at once (it sets glibc's `M_TRIM_THRESHOLD`, which fixes the size from which
    allocations are mapped, too), and each step spends up to as long on page faults as it computes.

    Parameters
    ----------
    task, optimizer
        What is trained, and by which rule.
    first
        A batch: all have its names and types, with any number of rows.
    """
    batch_spec = {
        name: tf.TensorSpec([None, *values.shape[1:]], values.dtype)
        for name, values in first.items()
    }

    # One trace for batches of all sizes, and no XLA: compiling each would cost more than it saves.
    @tf.function(autograph=False, input_signature=[batch_spec])
    def step(batch: dict[str, Any]) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            losses = task(batch, training=True)
            loss = task.compute_loss(batch, y_pred=losses)
        weights = task.trainable_variables
        # Those of embeddings as whole tables: of parts, one for each look at a row, Keras takes the
        # norm as if they were not added up.
        gradients = [
            gradient if gradient is None else tf.convert_to_tensor(gradient)
            for gradient in tape.gradient(loss, weights)
        ]
        optimizer.apply(gradients, weights)
        return loss, tf.size(losses)

    return step


def _mean(losses: list[tuple[Any, Any]]) -> float:
    """Return the mean loss of an epoch; batches count by their rows."""
    values = np.array([float(loss) for loss, _ in losses])
    return float(np.average(values, weights=[int(rows) for _, rows in losses]))


class _State:
    """The state of a run: the figures of each epoch, the best weights, the checkpoint."""

    def __init__(
        self,
        task: TrainingTask,
        fit: Fit,
        run: Path | None,
        identity: dict[str, Any],
        *,
        validated: bool,
    ) -> None:
        self.task, self.fit, self.validated = task, fit, validated
        self.optimizer = keras.optimizers.AdamW(
            fit.learning_rate,
            weight_decay=fit.weight_decay,
            global_clipnorm=fit.clip_norm,
            use_ema=fit.ema_momentum is not None,
            ema_momentum=fit.ema_momentum or 0.0,
        )
        self.optimizer.build(task.trainable_variables)
        self.file = None if run is None else run / CHECKPOINT
        self.identity = identity
        self.history: list[dict[str, float]] = []
        self.best: list[np.ndarray] = []

    @property
    def epoch(self) -> int:
        """Number of the next epoch, from 0."""
        return len(self.history)

    def seed(self) -> None:
        """Seed all that is random in the next epoch of the task by the epoch's number."""
        generators = [
            layer.seed_generator
            for layer in self.task._flatten_layers()
            if getattr(layer, "seed_generator", None) is not None
        ]
        for number, generator in enumerate(generators):
            seed = np.random.SeedSequence([self.fit.seed, self.epoch, number])
            generator.state.assign(seed.generate_state(2))

    def record(self, figures: dict[str, float]) -> None:
        """Add the figures of an epoch that has ended, and write the state."""
        self.history.append({name: float(value) for name, value in figures.items()})
        if self.best_epoch() == self.epoch:
            with self.averaged():
                self.best = self.weights()
        self.save()

    def weights(self) -> list[np.ndarray]:
        """Return the weights of the task as they are."""
        return [keras.ops.convert_to_numpy(v) for v in self.task.trainable_variables]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the task the moving average of its weights for a while, if there is one."""
        if self.fit.ema_momentum is None:
            yield
            return
        trained = self.weights()
        self.optimizer.finalize_variable_values(self.task.trainable_variables)
        yield
        for variable, value in zip(self.task.trainable_variables, trained, strict=True):
            variable.assign(value)

    def best_epoch(self) -> int:
        """Return the number of the best epoch, from 1; the first of equals."""
        if not self.validated:
            return self.epoch
        return 1 + int(np.argmax([figures[FIGURE] for figures in self.history]))

    def done(self) -> bool:
        """Return whether enough epochs have passed, in all or since the best."""
        count = len(self.history)
        return count >= self.fit.epochs or (
            count > 0 and count - self.best_epoch() >= self.fit.patience
        )

    def restore_best(self) -> None:
        """Give the task the weights of its best epoch."""
        for variable, value in zip(self.task.trainable_variables, self.best, strict=True):
            variable.assign(value)

    def save(self) -> None:
        """Write the state after an epoch, whole or not at all."""
        if self.file is None:
            return
        make_folder(self.file.parent)
        groups = {
            "weight": self.task.trainable_variables,
            "optimizer": self.optimizer.variables,
            "best": self.best,
        }
        arrays = {
            f"{group}_{i}": keras.ops.convert_to_numpy(value)
            for group, values in groups.items()
            for i, value in enumerate(values)
        }
        arrays["history"] = np.array(json.dumps(self.history))
        arrays["identity"] = np.array(json.dumps(self.identity))
        replace_file(self.file, lambda aside: save_arrays(aside, arrays))

    def resume(self) -> None:
        """Read the state from the checkpoint of the same run, if there is one."""
        if self.file is None or not self.file.is_file():
            return
        with np.load(self.file, allow_pickle=False) as state:
            differs = difference(json.loads(str(state["identity"])), self.identity)
            if differs is not None:
                raise InvalidInput(
                    f"{self.file}: expected a checkpoint of this run. Received: one with "
                    f"{differs}. Name another folder, or remove this one"
                )
            self.history = json.loads(str(state["history"]))
            for group, variables in (
                ("weight", self.task.trainable_variables),
                ("optimizer", self.optimizer.variables),
            ):
                for i, variable in enumerate(variables):
                    variable.assign(state[f"{group}_{i}"])
            self.best = [state[f"best_{i}"] for i in range(len(self.task.trainable_variables))]


def difference(known: Any, wanted: Mapping[str, Any]) -> str | None:
    """Return in which value one run differs first from the one that is wanted, None if in none.

    Parameters
    ----------
    known
        JSON values, as they were read.
    wanted
        JSON values, in the order in which they are compared.
    """
    ours = json.loads(json.dumps(wanted))
    path: list[str] = []
    while isinstance(known, dict) and isinstance(ours, dict):
        differing = (key for key in {**ours, **known} if known.get(key) != ours.get(key))
        key = next(differing, None)
        if key is None:
            return None
        path.append(key)
        known, ours = known.get(key), ours.get(key)
    return f"`{'.'.join(path)}` {known!r} instead of {ours!r}"


def save_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as `numpy.savez` does, to a file of just that name."""
    with file.open("wb") as opened:
        np.savez(opened, allow_pickle=False, **arrays)
