"""Fit a task: epochs, early stopping, checkpoints, and going on after a kill.

What is random in an epoch depends on the seed and the epoch's number alone, and what is decided
is decided from the recorded figures alone. So a run that was killed and goes on ends with the
same weights, to the bit, as one that was not.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.objectives.base import Task
from training.stream import ExampleStream
from transformations.errors import InvalidInput

CHECKPOINT = "checkpoint.npz"
TENSORBOARD = "tensorboard"
VALIDATION = "ndcg_at_10"
"""The figure that early stopping looks at, among the figures of each epoch; larger is better."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a task is fitted.

    Parameters
    ----------
    epochs : int. At most so many passes over the examples.
    patience : int. Epochs without a better validation figure before stopping.
    batch_size : int. Rows a step.
    learning_rate, weight_decay : float. Of AdamW.
    clip_norm : float. Gradients are scaled down to this global norm.
    seed : int. Of weights, examples, their order and dropout: the same seed gives the same weights
        on the same machine.
    """

    epochs: int = 30
    patience: int = 4
    batch_size: int = 256
    learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise InvalidInput(
                    f"fit: `{name}` should be 1 or more. Received: {name}={getattr(self, name)}"
                )
        if not self.learning_rate > 0:
            raise InvalidInput(
                f"fit: `learning_rate` should be positive. Received: {self.learning_rate}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)


def fit_task(
    task: Task,
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
    task : what to train; its sub-model was built under `keras.utils.set_random_seed(fit.seed)`.
    stream : the examples.
    validate : returns figures of the task as it is, `ndcg_at_10` among them, which decides; larger
        is better. None: all epochs are
        trained, and the last is kept.
    fit : how.
    run : folder for the checkpoint and TensorBoard's logs. Where it holds a checkpoint of the same
        run, training goes on from there. None: nothing is written.
    identity : JSON values that say which run this is, kept in the checkpoint.
    verbose : as in Keras; 1 shows a progress bar for each epoch.

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
    watch = _Watch(task, validate, fit, run, identity or {})
    data = stream.dataset(lambda: watch.epoch)
    task(next(iter(data)), training=False)
    task.compile(
        optimizer=keras.optimizers.AdamW(
            fit.learning_rate, weight_decay=fit.weight_decay, global_clipnorm=fit.clip_norm
        ),
        # Batches differ in shape, and compiling each costs more than it saves.
        jit_compile=False,
    )
    task.optimizer.build(task.trainable_variables)
    watch.resume()
    if not watch.done():
        callbacks: list[keras.callbacks.Callback] = [watch]
        if run is not None:
            callbacks.append(keras.callbacks.TensorBoard(str(run / TENSORBOARD), write_graph=False))
        with warnings.catch_warnings():
            # A stream does not know its length before its first epoch has ended.
            warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)
            task.fit(
                data,
                epochs=fit.epochs,
                initial_epoch=watch.epoch,
                callbacks=callbacks,
                shuffle=False,
                verbose=verbose,
            )
    watch.restore_best()
    return watch.history


class _Watch(keras.callbacks.Callback):
    """Seeds each epoch, validates it, records it, and says when to stop."""

    def __init__(
        self,
        task: Task,
        validate: Callable[[], dict[str, float]] | None,
        fit: Fit,
        run: Path | None,
        identity: dict[str, Any],
    ) -> None:
        super().__init__()
        self.task, self.validate, self.fit = task, validate, fit
        self.file = None if run is None else run / CHECKPOINT
        self.identity = json.dumps(identity, sort_keys=True)
        self.history: list[dict[str, float]] = []
        self.best: list[np.ndarray] = []
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch = epoch
        generators = [
            layer.seed_generator
            for layer in self.task._flatten_layers()
            if getattr(layer, "seed_generator", None) is not None
        ]
        for number, generator in enumerate(generators):
            seed = np.random.SeedSequence([self.fit.seed, epoch, number])
            generator.state.assign(seed.generate_state(2))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        if not np.isfinite(logs["loss"]):
            raise InvalidInput(
                f"fit: expected a finite loss in epoch {epoch + 1}. Received: {logs['loss']}. "
                f"Try a smaller learning rate than {self.fit.learning_rate}"
            )
        # TensorBoard, which comes next, logs it too.
        if self.validate is not None:
            logs.update(self.validate())
        self.history.append({name: float(value) for name, value in logs.items()})
        self.epoch = epoch + 1
        if self.best_epoch() == len(self.history):
            self.best = [keras.ops.convert_to_numpy(v) for v in self.task.trainable_variables]
        self.save()
        self.model.stop_training = self.done()

    def best_epoch(self) -> int:
        """Return the number of the best epoch, from 1; the first of equals."""
        if self.validate is None:
            return len(self.history)
        return 1 + int(np.argmax([figures[VALIDATION] for figures in self.history]))

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
        self.file.parent.mkdir(parents=True, exist_ok=True)
        aside = self.file.with_suffix(".writing")
        groups = {
            "weight": self.task.trainable_variables,
            "optimizer": self.task.optimizer.variables,
            "best": self.best,
        }
        arrays = {
            f"{group}_{i}": keras.ops.convert_to_numpy(value)
            for group, values in groups.items()
            for i, value in enumerate(values)
        }
        with aside.open("wb") as file:
            arrays["history"] = np.array(json.dumps(self.history))
            arrays["identity"] = np.array(self.identity)
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(aside, self.file)

    def resume(self) -> None:
        """Take up the state that a run of the same kind left."""
        if self.file is None or not self.file.is_file():
            return
        with np.load(self.file, allow_pickle=False) as state:
            if str(state["identity"]) != self.identity:
                raise InvalidInput(
                    f"{self.file}: expected a checkpoint of this run, {self.identity}. "
                    f"Received: one of {state['identity']}. Name another folder or remove this one"
                )
            self.history = json.loads(str(state["history"]))
            for group, variables in (
                ("weight", self.task.trainable_variables),
                ("optimizer", self.task.optimizer.variables),
            ):
                for i, variable in enumerate(variables):
                    variable.assign(state[f"{group}_{i}"])
            self.best = [state[f"best_{i}"] for i in range(len(self.task.trainable_variables))]
        self.epoch = len(self.history)
