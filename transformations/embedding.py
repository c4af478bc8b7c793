"""Sequences to embeddings: every registered model in one pass over one preparation of the data."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from transformations import names
from transformations.errors import InvalidInput
from transformations.item_vectors import ItemVectors
from transformations.model import ModelDescription
from transformations.saved_model import SIGNATURE
from transformations.sequences import Sequences

BATCH_SIZE = 1024
"""Members a model call; larger batches are not faster and need more memory."""


class Embedder:
    """Runs loaded models over sequences.

    One TensorFlow function gathers the job vectors of a batch once and calls every model on
    them: a member's data is prepared once, whatever the number of models.

    Parameters
    ----------
    models : the models, as checked by `describe_models`.
    batch_size : int. Members a call.

    Raises
    ------
    InvalidInput
        A SavedModel cannot be loaded; the message names the model.
    """

    def __init__(self, models: Sequence[ModelDescription], *, batch_size: int = BATCH_SIZE) -> None:
        self.models = list(models)
        self.batch_size = batch_size
        # The loaded objects own the variables that the signatures read: they must stay alive.
        self._loaded = [load_model(model) for model in models]
        signatures = [loaded.signatures[SIGNATURE] for loaded in self._loaded]
        self._step = _build_step(list(zip(self.models, signatures, strict=True)))
        self._vectors: ItemVectors | None = None
        self._matrix: Any = None

    def __call__(
        self, sequences: Sequences, vectors: ItemVectors
    ) -> dict[str, dict[str, np.ndarray]]:
        """Embed n sequences.

        Returns
        -------
        dict of model name to dict of output name to float32 [n, d]. A sequence without any
        activity gives zero vectors, from every model.

        Raises
        ------
        InvalidInput
            A model gave a value that is not finite.
        """
        results = {
            model.name: {
                output: np.zeros((len(sequences), size), dtype=np.float32)
                for output, size in model.outputs.items()
            }
            for model in self.models
        }
        if not sequences.count.any() or not self.models:
            return results
        if self._vectors is not vectors:
            self._vectors, self._matrix = vectors, tensorflow().constant(vectors.matrix)
        rows, actions, ages = sequences.rows(vectors), sequences.action, self._ages(sequences)
        active: np.ndarray | None = None
        if not sequences.count.all():
            active = np.flatnonzero(sequences.count)
            rows, actions, ages = rows[active], actions[active], ages[active]
        for start in range(0, len(rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            target = part if active is None else active[part]
            outputs = self._step(self._matrix, rows[part], actions[part], ages[part])
            for model, embedded in zip(self.models, outputs, strict=True):
                for output, values in embedded.items():
                    results[model.name][output][target] = values.numpy()
        for model in self.models:
            for output, values in results[model.name].items():
                _require_finite(model, output, values)
        return results

    def _ages(self, sequences: Sequences) -> np.ndarray:
        """Return the ages, or zeros that cost nothing where no model asks for them."""
        if any(model.uses_ages for model in self.models):
            return sequences.ages
        return np.broadcast_to(np.float32(0), sequences.action.shape)


def _require_finite(model: ModelDescription, output: str, values: np.ndarray) -> None:
    """Raise `InvalidInput` where a model gave NaN or infinity."""
    # A sum is not finite if a part of it is not; only then is it worth looking at each.
    if np.isfinite(values.sum()):
        return
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise InvalidInput(
            f"model {model.name!r} (version {model.version}): output {output!r} should be finite. "
            f"Received: NaN or infinity for {len(bad)} of {len(values)} members"
        )


def tensorflow() -> Any:
    """Import TensorFlow only when a model is to be run, since the import takes seconds.

    TensorFlow's native code writes a page of notes about the machine to stderr before any setting
    of its can stop it. They are held back, unless the import fails or the user has set
    `TF_CPP_MIN_LOG_LEVEL`.
    """
    if "tensorflow" not in sys.modules and "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
        with _held_back_stderr():
            import tensorflow as tf

            tf.config.list_logical_devices()
    import tensorflow as tf

    return tf


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Hold back what native code writes to stderr; show it if the body fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(kept, log.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def load_model(model: ModelDescription) -> Any:
    """Return the loaded SavedModel; its function is `.signatures["serving_default"]`.

    Raises
    ------
    InvalidInput
        TensorFlow cannot load the SavedModel.
    """
    tf = tensorflow()
    try:
        return tf.saved_model.load(str(model.path))
    except Exception as error:  # TensorFlow raises many kinds for a broken SavedModel
        raise InvalidInput(
            f"model {model.name!r}: expected a loadable SavedModel at {model.path}. "
            f"Received: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error


def _build_step(loaded: list[tuple[ModelDescription, Any]]) -> Any:
    """Return the function of one batch: gather once, call every model."""
    tf = tensorflow()

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.float32),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.float32),
        ]
    )
    def step(matrix: Any, rows: Any, actions: Any, ages: Any) -> list[dict[str, Any]]:
        job_embeddings = tf.gather(matrix, rows)
        outputs = []
        for model, signature in loaded:
            inputs = {
                names.INPUT_JOB_EMBEDDINGS: tf.ensure_shape(
                    job_embeddings,
                    [None, model.spec.length, model.item_embedding.dimension],
                ),
                names.INPUT_ACTIONS: tf.ensure_shape(actions, [None, model.spec.length]),
            }
            if model.uses_ages:
                inputs[names.INPUT_AGES] = tf.ensure_shape(ages, [None, model.spec.length])
            outputs.append(signature(**inputs))
        return outputs

    return step
