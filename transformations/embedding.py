"""Sequences to embeddings: every registered model in one pass over one preparation of the data."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from transformations import names
from transformations.errors import InvalidInput
from transformations.item_vectors import ItemVectors
from transformations.model import ModelDescription
from transformations.saved_model import SIGNATURE
from transformations.sequences import Sequences

_log = logging.getLogger(__name__)

BATCH_SIZE = 1024
"""Members a model call; larger batches are not faster and need more memory."""
COMPILED_TOLERANCE = 1e-5
"""How far a compiled model may be from the SavedModel, relative to the largest value of a probe."""


class Embedder:
    """Runs loaded models over sequences.

    One TensorFlow function gathers the job vectors of a batch once and calls every model on
    them: a member's data is prepared once, whatever the number of models.

    Parameters
    ----------
    models : the models, as checked by `describe_models`.
    batch_size : int. Members a call.
    single : bool. Whether to compile, in addition, a function for one sequence alone, as requests
        bring them: calling it costs a fraction of a call of the SavedModel. Models that XLA
        refuses, or gives other values for, are left to the general function.

    Raises
    ------
    InvalidInput
        A SavedModel cannot be loaded; the message names the model.
    """

    def __init__(
        self,
        models: Sequence[ModelDescription],
        *,
        batch_size: int = BATCH_SIZE,
        single: bool = False,
    ) -> None:
        self.models = list(models)
        self.batch_size = batch_size
        # The loaded objects own the variables that the signatures read: they must stay alive.
        self._loaded = [load_model(model) for model in models]
        signatures = [loaded.signatures[SIGNATURE] for loaded in self._loaded]
        self._step = _build_step(list(zip(self.models, signatures, strict=True)))
        self._matrix: tuple[ItemVectors | None, Any] = (None, None)
        self._single = _compile_single(self.models, signatures, self._step) if single else None

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
        rows, actions, ages = sequences.rows(vectors), sequences.action, self._ages(sequences)
        active: np.ndarray | None = None
        if not sequences.count.all():
            active = np.flatnonzero(sequences.count)
            rows, actions, ages = rows[active], actions[active], ages[active]
        for start in range(0, len(rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            target = part if active is None else active[part]
            outputs = self._embed(vectors, rows[part], actions[part], ages[part])
            for model, embedded in zip(self.models, outputs, strict=True):
                for output, values in embedded.items():
                    results[model.name][output][target] = values
        for model in self.models:
            for output, values in results[model.name].items():
                _require_finite(model, output, values)
        return results

    def _embed(
        self, vectors: ItemVectors, rows: np.ndarray, actions: np.ndarray, ages: np.ndarray
    ) -> Any:
        """Call every model on one batch."""
        if self._single is not None and len(rows) == 1:
            return self._single(vectors.matrix[rows], actions, ages)
        known, matrix = self._matrix
        if known is not vectors:
            matrix = tensorflow().constant(vectors.matrix)
            # Both at once: another thread may be calling with other vectors.
            self._matrix = (vectors, matrix)
        return self._step(matrix, rows, actions, ages)

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


def _call_all(
    loaded: Sequence[tuple[ModelDescription, Any]], job_embeddings: Any, actions: Any, ages: Any
) -> list[dict[str, Any]]:
    """Call every model on the same tensors."""
    outputs = []
    for model, signature in loaded:
        inputs = {names.INPUT_JOB_EMBEDDINGS: job_embeddings, names.INPUT_ACTIONS: actions}
        if model.uses_ages:
            inputs[names.INPUT_AGES] = ages
        outputs.append(signature(**inputs))
    return outputs


SingleFunction = Callable[[np.ndarray, np.ndarray, np.ndarray], list[dict[str, Any]]]


def _compile_single(
    models: Sequence[ModelDescription], signatures: Sequence[Any], step: Any
) -> SingleFunction | None:
    """Return a compiled function of one sequence, or None where it would not give the same.

    Most of the time of a call for one sequence goes into handing tensors over, not into
    computing. So there is one tensor in, which holds embeddings, actions and ages side by side,
    and one tensor out, and the compiled function is called without the checks of its arguments.
    """
    if not models:
        return None
    tf = tensorflow()
    length, dimension = models[0].spec.length, models[0].item_embedding.dimension
    loaded = list(zip(models, signatures, strict=True))
    outputs = [(i, output) for i, model in enumerate(models) for output in model.outputs]

    @tf.function(
        jit_compile=True,
        input_signature=[tf.TensorSpec([1, length, dimension + 2], tf.float32)],
    )
    def packed_single(packed: Any) -> Any:
        embedded = _call_all(
            loaded,
            packed[:, :, :dimension],
            tf.cast(packed[:, :, dimension], tf.int32),
            packed[:, :, dimension + 1],
        )
        return tf.concat([embedded[i][output] for i, output in outputs], axis=1)

    sizes = np.cumsum([models[i].outputs[output] for i, output in outputs])[:-1]

    def single(
        job_embeddings: np.ndarray, actions: np.ndarray, ages: np.ndarray
    ) -> list[dict[str, Any]]:
        packed = np.empty((1, length, dimension + 2), dtype=np.float32)
        packed[:, :, :dimension] = job_embeddings
        packed[:, :, dimension] = actions
        packed[:, :, dimension + 1] = ages
        values = call([tf.constant(packed), *captured]).numpy()
        results: list[dict[str, Any]] = [{} for _ in models]
        for (i, output), part in zip(outputs, np.split(values, sizes, axis=1), strict=True):
            results[i][output] = part
        return results

    matrix, rows, actions, ages = _probe(length, dimension, len(models[0].spec.actions))
    expected = step(matrix, rows, actions, ages)
    try:
        concrete = packed_single.get_concrete_function()
        captured = concrete.captured_inputs
        call = concrete.inference_fn.call_preflattened
        received = single(matrix[rows], actions, ages)
    except tf.errors.OpError as error:
        _log.info("not compiled, %s", str(error).splitlines()[0])
        return None
    for model, wanted, got in zip(models, expected, received, strict=True):
        for output, values in wanted.items():
            scale = max(1.0, float(np.abs(values).max()))
            if not np.allclose(values, got[output], rtol=0, atol=COMPILED_TOLERANCE * scale):
                _log.info("model %r gives other values when compiled; not compiled", model.name)
                return None
    return single


def _probe(
    length: int, dimension: int, actions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return (matrix, rows, actions, ages) of one made-up sequence, half of it PAD."""
    random = np.random.default_rng(0)
    count = max(1, length // 2)
    matrix = np.zeros((count + 1, dimension), dtype=np.float32)
    matrix[:-1] = random.normal(size=(count, dimension)) / np.sqrt(dimension)
    rows = np.full((1, length), count, dtype=np.int32)
    rows[0, -count:] = np.arange(count)
    action = np.zeros((1, length), dtype=np.int32)
    action[0, -count:] = random.integers(1, actions + 1, count)
    ages = np.zeros((1, length), dtype=np.float32)
    ages[0, -count:] = np.sort(random.uniform(0, 28, count))[::-1]
    return matrix, rows, action, ages


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
        if not loaded:
            return []
        spec, items = loaded[0][0].spec, loaded[0][0].item_embedding
        return _call_all(
            loaded,
            tf.ensure_shape(tf.gather(matrix, rows), [None, spec.length, items.dimension]),
            tf.ensure_shape(actions, [None, spec.length]),
            tf.ensure_shape(ages, [None, spec.length]),
        )

    return step
