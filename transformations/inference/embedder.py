"""Sequences to embeddings: every registered model in one pass over one preparation of the data."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.contract.saved_model import SIGNATURE
from activity_embeddings.transformations.errors import InvalidInput, first_line
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY
from activity_embeddings.transformations.wording import out_of

_log = logging.getLogger(__name__)

BATCH_SIZE = 1024
"""Members a model call; larger batches are not faster and need more memory."""
SMALL_BATCH = 64
"""Up to so many members a converted model is faster than the SavedModel."""
CONVERTED_TOLERANCE = 1e-5
"""How far a converted model may be from the SavedModel; relative where values are above 1."""


class Embedder:
    """Runs loaded models over sequences.

    One TensorFlow function gathers the item vectors of a batch once and calls every model on
    them: a member's data is prepared once, whatever the number of models.

    Parameters
    ----------
    models : the models, as checked by `describe_models`.
    batch_size : int. Members a call.
    small_batches : bool. Whether to convert the models, in addition, for the few members that a
        request asks for: such a call costs a fraction of one of the SavedModel. Models that
        cannot be converted, or would give other values, stay as they are.

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
        small_batches: bool = False,
    ) -> None:
        self.models = list(models)
        self.batch_size = batch_size
        # The loaded objects own the variables that the signatures read: they must stay alive.
        self._loaded = [load_model(model) for model in models]
        signatures = [loaded.signatures[SIGNATURE] for loaded in self._loaded]
        self._step = _build_step(list(zip(self.models, signatures, strict=True)))
        self._matrix: tuple[ItemVectors | None, Any] = (None, None)
        self._converted = _convert(self.models, signatures) if small_batches else None

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
        count = int(np.count_nonzero(sequences.count))
        if count == len(sequences) <= self.batch_size and self.models and count:
            # As of most requests: one batch, and nobody without activity.
            parts = (sequences.rows(vectors), sequences.action, self._ages(sequences))
            embedded = self._call(vectors, *parts)
            results = dict(zip([m.name for m in self.models], embedded, strict=True))
        else:
            results = self._embed_active(sequences, vectors, count)
        for model in self.models:
            for output, values in results[model.name].items():
                _require_finite(model, output, values)
        return results

    def _embed_active(
        self, sequences: Sequences, vectors: ItemVectors, count: int
    ) -> dict[str, dict[str, np.ndarray]]:
        """Embed those of n sequences that have activity, `count` of them, batch by batch."""
        results = {
            model.name: {
                output: np.zeros((len(sequences), size), dtype=np.float32)
                for output, size in model.outputs.items()
            }
            for model in self.models
        }
        if not count or not self.models:
            return results
        rows, actions, ages = sequences.rows(vectors), sequences.action, self._ages(sequences)
        active: np.ndarray | None = None
        if count < len(sequences):
            active = np.flatnonzero(sequences.count)
            rows, actions, ages = rows[active], actions[active], ages[active]
        for start in range(0, len(rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            target = part if active is None else active[part]
            outputs = self._call(vectors, rows[part], actions[part], ages[part])
            for model, embedded in zip(self.models, outputs, strict=True):
                for output, values in embedded.items():
                    results[model.name][output][target] = values
        return results

    def _call(
        self, vectors: ItemVectors, rows: np.ndarray, actions: np.ndarray, ages: np.ndarray
    ) -> list[dict[str, np.ndarray]]:
        """Call every model on one batch."""
        if self._converted is not None and len(rows) <= SMALL_BATCH:
            inputs = {
                names.INPUT_ITEM_EMBEDDINGS: vectors.matrix[rows],
                names.INPUT_ACTIONS: actions,
                names.INPUT_AGES: ages,
            }
            called = [model(inputs) for model in self._converted]
        else:
            outputs = self._step(self._constant(vectors), rows, actions, ages)
            called = [{name: value.numpy() for name, value in one.items()} for one in outputs]
        # In the order of the model's outputs: TensorFlow gives them in one that changes from
        # process to process, and they become columns of files that should not change.
        return [
            {output: values[output] for output in model.outputs}
            for model, values in zip(self.models, called, strict=True)
        ]

    def _constant(self, vectors: ItemVectors) -> Any:
        """Return the matrix as a tensor; the same vectors are handed over once."""
        known, matrix = self._matrix
        if known is not vectors:
            matrix = tensorflow().constant(vectors.matrix)
            # Both at once: another thread may be calling with other vectors.
            self._matrix = (vectors, matrix)
        return matrix

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
            f"Received: NaN or infinity for {out_of(len(bad), len(values), 'member')}"
        )


def tensorflow() -> Any:
    """Import TensorFlow only when a model is to be run, since the import takes seconds.

    TensorFlow's native code writes a page of notes about the machine to stderr before any setting
    of its can stop it. They are held back, unless the import fails or the user has set
    `TF_CPP_MIN_LOG_LEVEL`.
    """
    if "tensorflow" not in sys.modules and "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
        with held_back_stderr():
            import tensorflow as tf

            tf.config.list_logical_devices()
    import tensorflow as tf

    return tf


_stderr_lock = threading.RLock()


@contextmanager
def held_back_stderr() -> Iterator[None]:
    """Hold back what native code writes to stderr; show it if the body fails."""
    with _stderr_lock:
        yield from _hold_back_stderr()


def _hold_back_stderr() -> Iterator[None]:
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
    return load_saved_model(model.path, f"model {model.name!r}")


def load_saved_model(path: Path, label: str) -> Any:
    """Return the loaded SavedModel in folder `path`; errors call it `label`.

    Raises
    ------
    InvalidInput
        TensorFlow cannot load it.
    """
    tf = tensorflow()
    try:
        return tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises many kinds for a broken SavedModel
        raise InvalidInput(
            f"{label}: expected a loadable SavedModel at {path}. "
            f"Received: {type(error).__name__}: {first_line(error)}"
        ) from error


def _call_all(
    loaded: Sequence[tuple[ModelDescription, Any]], item_embeddings: Any, actions: Any, ages: Any
) -> list[dict[str, Any]]:
    """Call every model on the same tensors."""
    outputs = []
    for model, signature in loaded:
        inputs = {names.INPUT_ITEM_EMBEDDINGS: item_embeddings, names.INPUT_ACTIONS: actions}
        if model.uses_ages:
            inputs[names.INPUT_AGES] = ages
        outputs.append(signature(**inputs))
    return outputs


class _ConvertedModel:
    """A model converted for few sequences at a time.

    Calling a SavedModel for one sequence takes many times longer than computing it, so a request
    would spend its time in TensorFlow's machinery. LiteRT runs the same graph without it. One
    caller at a time: the computation is short beside the rest of a request.
    """

    def __init__(self, model: ModelDescription) -> None:
        from ai_edge_litert.interpreter import Interpreter

        converter = tensorflow().lite.TFLiteConverter.from_saved_model(
            str(model.path), signature_keys=[SIGNATURE]
        )
        self._interpreter = Interpreter(model_content=converter.convert(), num_threads=1)
        # It knows which tensors these are, but calling it costs as much as a small model.
        runner = self._interpreter.get_signature_runner(SIGNATURE)
        self._inputs = {name: d["index"] for name, d in runner.get_input_details().items()}
        self._outputs = {name: d["index"] for name, d in runner.get_output_details().items()}
        self._count = 0
        self._lock = threading.Lock()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs, float32 [n, d]; inputs that the model does not take are ignored."""
        run = self._interpreter
        with self._lock:
            count = len(inputs[names.INPUT_ACTIONS])
            if count != self._count:
                # Unknown until all tensors are of the new size.
                self._count = -1
                for name, index in self._inputs.items():
                    run.resize_tensor_input(index, inputs[name].shape)
                run.allocate_tensors()
                self._count = count
            for name, index in self._inputs.items():
                run.set_tensor(index, inputs[name])
            run.invoke()
            return {name: run.get_tensor(index) for name, index in self._outputs.items()}


def _convert(
    models: Sequence[ModelDescription], signatures: Sequence[Any]
) -> list[_ConvertedModel] | None:
    """Return the models converted for small batches, or None where one would not be the same."""
    converted = []
    for model, signature in zip(models, signatures, strict=True):
        try:
            with held_back_stderr():
                candidate = _ConvertedModel(model)
                same = _agree(model, candidate, signature)
        except Exception as error:  # of many kinds, for operations that LiteRT does not know
            _log.info("model %r stays a SavedModel: %s", model.name, first_line(error))
            return None
        if not same:
            _log.info("model %r stays a SavedModel: converted, it differs", model.name)
            return None
        converted.append(candidate)
    return converted


def _agree(model: ModelDescription, converted: _ConvertedModel, signature: Any) -> bool:
    """Compare a converted model with its SavedModel on made-up sequences, alone and together."""
    length = model.spec.length
    probe = _probe(model, [0, 1, length // 2, length])
    for rows in ([0], [1], [2], [3], [0, 1, 2, 3]):
        inputs = {name: values[rows] for name, values in probe.items()}
        taken = {name: inputs[name] for name in signature.structured_input_signature[1]}
        received = converted(inputs)
        for output, values in signature(**_tensors(taken)).items():
            scale = max(1.0, float(np.abs(values).max()))
            tolerance = CONVERTED_TOLERANCE * scale
            if not np.allclose(values, received[output], rtol=0, atol=tolerance, equal_nan=True):
                return False
    return True


def _tensors(inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: tensorflow().constant(values) for name, values in inputs.items()}


def _probe(model: ModelDescription, filled: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the inputs of made-up sequences with so many activities each."""
    random = np.random.default_rng(0)
    shape = (len(filled), model.spec.length)
    dimension = model.vector_spec.dimension
    pad = np.arange(model.spec.length) < model.spec.length - np.array(filled)[:, None]
    vectors = random.normal(size=(*shape, dimension)) / np.sqrt(dimension)
    actions = random.integers(1, len(model.spec.vocabulary), shape)
    ages = np.sort(random.uniform(0, model.spec.window_us / MICROSECONDS_PER_DAY, shape))
    return {
        names.INPUT_ITEM_EMBEDDINGS: np.where(pad[..., None], 0, vectors).astype(np.float32),
        names.INPUT_ACTIONS: np.where(pad, 0, actions).astype(np.int32),
        names.INPUT_AGES: np.where(pad, 0, ages[:, ::-1]).astype(np.float32),
    }


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
        spec, vector_view = loaded[0][0].spec, loaded[0][0].vector_spec
        return _call_all(
            loaded,
            tf.ensure_shape(tf.gather(matrix, rows), [None, spec.length, vector_view.dimension]),
            tf.ensure_shape(actions, [None, spec.length]),
            tf.ensure_shape(ages, [None, spec.length]),
        )

    # One function for all shapes: TensorFlow's guard against tracing again and again, which warns
    # of many such objects, is left out.
    return step.get_concrete_function()
