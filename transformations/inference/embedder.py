"""Sequences to embeddings: every registered model in one pass over one preparation of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.contract.saved_model import SIGNATURE
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.inference.litert import SMALL_BATCH, converted_models
from activity_embeddings.transformations.inference.tensorflow import load_saved_model, tensorflow
from activity_embeddings.transformations.wording import out_of

BATCH_SIZE = 1024
"""Members a model call; larger batches are not faster and need more memory."""


class Embedder:
    """Runs loaded models over sequences.

    One TensorFlow function gathers the item vectors of a batch once and calls every model on
    them: a member's data is prepared once, whatever the number of models.

    Parameters
    ----------
    models
        The models, as checked by `describe_models`.
    batch_size
        Members a call.
    small_batches
        Whether to convert the models, in addition, for the few members that a request asks for:
        such a call costs a fraction of one of the SavedModel. Models that cannot be converted, or
        would give other values, stay as they are.

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
        self._loaded = [load_saved_model(model.path, f"model {model.name!r}") for model in models]
        signatures = [loaded.signatures[SIGNATURE] for loaded in self._loaded]
        self._step = _build_step(list(zip(self.models, signatures, strict=True)))
        self._matrix: tuple[ItemVectors | None, Any] = (None, None)
        self._converted = converted_models(self.models, signatures) if small_batches else None

    def __call__(
        self, sequences: Sequences, vectors: ItemVectors
    ) -> dict[str, dict[str, np.ndarray]]:
        """Embed n sequences.

        Returns
        -------
        dict[str, dict[str, np.ndarray]]
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
