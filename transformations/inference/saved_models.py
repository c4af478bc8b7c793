"""Models run by TensorFlow: one function gathers the item vectors once and calls every model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.contract.saved_model import SIGNATURE
from activity_embeddings.transformations.inference.inputs import Inputs
from activity_embeddings.transformations.inference.tensorflow import load_saved_model, tensorflow


class SavedModels:
    """SavedModels that are loaded.

    Raises
    ------
    InvalidInput
        One cannot be loaded; the message names the model.
    """

    def __init__(self, models: Sequence[ModelDescription]) -> None:
        # The loaded objects own the variables that the signatures read: they must stay alive.
        self._loaded = [
            load_saved_model(model.path, f"model {model.name!r}", model.fingerprint)
            for model in models
        ]
        signatures = [loaded.signatures[SIGNATURE] for loaded in self._loaded]
        self._step = _build_step(list(zip(models, signatures, strict=True)))
        self._matrix: tuple[ItemVectors | None, Any] = (None, None)

    def __call__(
        self, vectors: ItemVectors, rows: np.ndarray, inputs: Inputs
    ) -> list[dict[str, np.ndarray]]:
        """Return the outputs of every model, float32 [n, d]."""
        outputs = self._step(self._constant(vectors), rows, *inputs)
        return [{name: value.numpy() for name, value in one.items()} for one in outputs]

    def _constant(self, vectors: ItemVectors) -> Any:
        """Return the matrix as a tensor; the same vectors are handed over once."""
        known, matrix = self._matrix
        if known is not vectors:
            matrix = tensorflow().constant(vectors.matrix)
            # Both at once: another thread may be calling with other vectors.
            self._matrix = (vectors, matrix)
        return matrix


def _call_all(
    loaded: Sequence[tuple[ModelDescription, Any]], item_embeddings: Any, given: Inputs
) -> list[dict[str, Any]]:
    """Call every model on the same tensors."""
    outputs = []
    for model, signature in loaded:
        inputs = {names.INPUT_ITEM_EMBEDDINGS: item_embeddings, names.INPUT_ACTIONS: given.actions}
        if model.uses_ages:
            inputs[names.INPUT_AGES] = given.ages
        if model.uses_sessions:
            inputs[names.INPUT_SESSIONS] = given.sessions
        outputs.append(signature(**inputs))
    return outputs


def _build_step(loaded: list[tuple[ModelDescription, Any]]) -> Any:
    """Return the function of one batch: gather once, call every model."""
    tf = tensorflow()
    spec, vector_spec = loaded[0][0].spec, loaded[0][0].vector_spec

    # Nothing here branches on a tensor; to look for that takes as long as loading a model.
    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None, None], tf.float32),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.float32),
            tf.TensorSpec([None, None], tf.int32),
        ],
    )
    def step(matrix: Any, rows: Any, *inputs: Any) -> list[dict[str, Any]]:
        return _call_all(
            loaded,
            tf.ensure_shape(tf.gather(matrix, rows), [None, spec.length, vector_spec.dimension]),
            Inputs(*(tf.ensure_shape(given, [None, spec.length]) for given in inputs)),
        )

    # One function for all shapes: TensorFlow's guard against tracing again and again, which warns
    # of many such objects, is left out.
    return step.get_concrete_function()
