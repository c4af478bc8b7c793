"""From a SavedModel to a LiteRT file that gives the same values, with what it costs beside it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from activity_embeddings.transformations import names
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.contract.litert_file import SEQUENCES_TIMED, hash_of
from activity_embeddings.transformations.contract.saved_model import SIGNATURE
from activity_embeddings.transformations.errors import first_line
from activity_embeddings.transformations.inference.litert import (
    SEQUENCES_A_CALL,
    LiteRTModel,
    cores,
)
from activity_embeddings.transformations.inference.tensorflow import (
    held_back_stderr,
    load_saved_model,
    tensorflow,
)
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

TOLERANCE = 1e-5
"""How far a converted model may be from the SavedModel; relative where values are above 1."""
SLOWER = 2
"""A model that takes this many times as long by LiteRT keeps TensorFlow for batches.

Up to there, a run spares more by not importing TensorFlow.
"""
MOST_TURNS, SECONDS_OF_TURNS = 10, 0.5
"""How often a batch is timed by each: twice at least, then until some time has passed."""

_Call = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Conversion:
    """What became of a model.

    Attributes
    ----------
    content
        Of the LiteRT file; None where there is none.
    left_out
        Why there is none.
    seconds
        What a batch took, by runtime.
    """

    content: bytes | None
    left_out: str = ""
    seconds: Mapping[str, float] | None = None

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        if self.content is None or self.seconds is None:
            return {"left_out": self.left_out}
        return {
            "hash": hash_of(self.content),
            "runs_batches": self.seconds["litert"] < SLOWER * self.seconds["tensorflow"],
            "seconds_of_a_batch": {name: round(s, 6) for name, s in self.seconds.items()},
        }


def convert(model: ModelDescription, *, timed: bool = True) -> Conversion:
    """Convert a model, and compare the result with the SavedModel on made-up sequences.

    Parameters
    ----------
    model
        The model, as it was checked.
    timed
        Whether to time a batch by both.

    Raises
    ------
    InvalidInput
        The SavedModel cannot be loaded.
    """
    loaded = load_saved_model(model.path, f"model {model.name!r}")
    signature = loaded.signatures[SIGNATURE]

    def call_saved(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        taken = {name: inputs[name] for name in signature.structured_input_signature[1]}
        return {name: value.numpy() for name, value in signature(**_tensors(taken)).items()}

    try:
        with held_back_stderr(), _what_is_there_is_no_garbage():
            content = (
                tensorflow()
                .lite.TFLiteConverter.from_saved_model(str(model.path), signature_keys=[SIGNATURE])
                .convert()
            )
            converted = LiteRTModel(content, threads=cores())
            differs = _difference(model, converted, call_saved)
    except Exception as error:  # of many kinds, for operations that LiteRT does not know
        return Conversion(None, f"LiteRT cannot run it: {first_line(error)}")
    if differs:
        return Conversion(None, differs)
    return Conversion(content, seconds=_time(model, converted, call_saved) if timed else None)


@contextmanager
def _what_is_there_is_no_garbage() -> Iterator[None]:
    """Keep the garbage collector from what is there before the body.

    The converter calls it. With Feast and TensorFlow imported it takes as long as the conversion.
    """
    if gc.get_freeze_count():  # as the process wants it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _difference(model: ModelDescription, converted: LiteRTModel, call_saved: _Call) -> str:
    """Compare the two on made-up sequences, alone and together; return what differs, if it does."""
    length = model.spec.length
    probe = _probe(model, [0, 1, length // 2, length])
    for rows in ([0], [1], [2], [3], [0, 1, 2, 3]):
        inputs = {name: values[rows] for name, values in probe.items()}
        received = converted(inputs)
        for output, values in call_saved(inputs).items():
            tolerance = TOLERANCE * max(1.0, float(np.abs(values).max()))
            if not np.allclose(values, received[output], rtol=0, atol=tolerance, equal_nan=True):
                return (
                    f"LiteRT's {output!r} differs by {np.abs(values - received[output]).max():.2g}"
                )
    return ""


def _time(model: ModelDescription, converted: LiteRTModel, call_saved: _Call) -> dict[str, float]:
    """Return the seconds that a batch takes by each, the best of some.

    They take turns, so that another process that is busy for a while slows both.
    """
    probe = _probe(model, [1 + i % model.spec.length for i in range(SEQUENCES_TIMED)])
    parts = [
        {name: values[start : start + SEQUENCES_A_CALL] for name, values in probe.items()}
        for start in range(0, SEQUENCES_TIMED, SEQUENCES_A_CALL)
    ]
    calls: dict[str, tuple[_Call, Sequence[Mapping[str, np.ndarray]]]] = {
        "litert": (converted, parts),
        "tensorflow": (call_saved, [probe]),
    }
    for call, batches in calls.values():
        call(batches[0])  # the first call prepares what later ones use
    best = dict.fromkeys(calls, float("inf"))
    began = time.perf_counter()
    for turn in range(MOST_TURNS):
        if turn > 1 and time.perf_counter() - began > SECONDS_OF_TURNS:
            break
        for name, (call, batches) in calls.items():
            started = time.perf_counter()
            for batch in batches:
                call(batch)
            best[name] = min(best[name], time.perf_counter() - started)
    return best


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
    # Of two activities each, whatever their ages.
    sessions = np.arange(model.spec.length, 0, -1) // 2 + 1
    return {
        names.INPUT_ITEM_EMBEDDINGS: np.where(pad[..., None], 0, vectors).astype(np.float32),
        names.INPUT_ACTIONS: np.where(pad, 0, actions).astype(np.int32),
        names.INPUT_AGES: np.where(pad, 0, ages[:, ::-1]).astype(np.float32),
        names.INPUT_SESSIONS: np.where(pad, 0, sessions).astype(np.int32),
    }
