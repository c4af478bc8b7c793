"""Models converted for the few sequences of a request, by LiteRT."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from activity_embeddings.transformations import names
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.contract.saved_model import SIGNATURE
from activity_embeddings.transformations.errors import first_line
from activity_embeddings.transformations.inference.tensorflow import held_back_stderr, tensorflow
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

_log = logging.getLogger(__name__)

SMALL_BATCH = 64
"""Up to this number of members a converted model is faster than the SavedModel."""
CONVERTED_TOLERANCE = 1e-5
"""How far a converted model may be from the SavedModel; relative where values are above 1."""


class ConvertedModel:
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


def converted_models(
    models: Sequence[ModelDescription], signatures: Sequence[Any]
) -> list[ConvertedModel] | None:
    """Return models converted for small batches; None where one would not be the same."""
    converted = []
    for model, signature in zip(models, signatures, strict=True):
        try:
            with held_back_stderr():
                candidate = ConvertedModel(model)
                same = _agree(model, candidate, signature)
        except Exception as error:  # of many kinds, for operations that LiteRT does not know
            _log.info("model %r stays a SavedModel: %s", model.name, first_line(error))
            return None
        if not same:
            _log.info("model %r stays a SavedModel: converted, it differs", model.name)
            return None
        converted.append(candidate)
    return converted


def _agree(model: ModelDescription, converted: ConvertedModel, signature: Any) -> bool:
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
    """Return the inputs of made-up sequences; `filled` says how many activities each has."""
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
