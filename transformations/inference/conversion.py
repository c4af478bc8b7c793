"""From a SavedModel to a LiteRT file that gives the same values, with what it costs beside it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from activity_embeddings.transformations import names
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.contract.litert_file import SEQUENCES_TIMED, hash_of
from activity_embeddings.transformations.contract.saved_model import SIGNATURE
from activity_embeddings.transformations.errors import InvalidInput, first_line
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
SLOWER = 3 / 100_000
"""A model that takes so many seconds a sequence longer by LiteRT keeps TensorFlow for batches.

To import TensorFlow takes 3 s, which a run of fewer than 100,000 members would not win back.
"""
MOST_TURNS, SECONDS_OF_TURNS = 10, 0.5
"""How often a batch is timed by each: twice at least, then until some time has passed."""

MOST_ALONE = 4
"""Sequences that are compared alone, too; all are compared together."""

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
    compared
        How many sequences it was compared on, by kind: made up, real.
    """

    content: bytes | None
    left_out: str = ""
    seconds: Mapping[str, float] | None = None
    compared: Mapping[str, int] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        if self.content is None or self.seconds is None:
            return {"left_out": self.left_out}
        longer = self.seconds["litert"] - self.seconds["tensorflow"]
        return {
            "hash": hash_of(self.content),
            "runs_batches": longer / SEQUENCES_TIMED < SLOWER,
            "seconds_of_a_batch": {name: round(s, 6) for name, s in self.seconds.items()},
            "compared": dict(self.compared),
        }


def convert(
    model: ModelDescription,
    *,
    sequences: Mapping[str, np.ndarray] | None = None,
    timed: bool = True,
) -> Conversion:
    """Convert a model, and compare the result with the SavedModel, sequence by sequence.

    Parameters
    ----------
    model
        The model, as it was checked.
    sequences
        Real ones: the model's inputs, [n, L] and [n, L, D], by name. Made-up ones are compared
        anyway.
    timed
        Whether to time a batch by both.

    Raises
    ------
    InvalidInput
        The SavedModel cannot be loaded, or real sequences are not what it takes.
    """
    loaded = load_saved_model(model.path, f"model {model.name!r}", model.fingerprint)
    signature = loaded.signatures[SIGNATURE]
    inputs_of = signature.structured_input_signature[1]
    length = model.spec.length
    compared = {"made up": made_up(model, [0, 1, length // 2, length])}
    if sequences is not None:
        compared["real"] = _required(model, sequences, inputs_of)

    def call_saved(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        taken = {name: inputs[name] for name in inputs_of}
        return {name: value.numpy() for name, value in signature(**_tensors(taken)).items()}

    try:
        with held_back_stderr(), _what_is_there_is_no_garbage():
            content = (
                tensorflow()
                .lite.TFLiteConverter.from_saved_model(str(model.path), signature_keys=[SIGNATURE])
                .convert()
            )
            converted = LiteRTModel(content, threads=cores())
            differs = _difference(compared, converted, call_saved)
    except Exception as error:  # of many kinds, for operations that LiteRT does not know
        return Conversion(None, f"LiteRT cannot run it: {first_line(error)}")
    if differs:
        return Conversion(None, differs)
    return Conversion(
        content,
        seconds=_time(model, converted, call_saved) if timed else None,
        compared={kind: len(inputs[names.INPUT_ACTIONS]) for kind, inputs in compared.items()},
    )


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


def _required(
    model: ModelDescription, sequences: Mapping[str, np.ndarray], inputs_of: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return what a model takes of real sequences, after checking that it is there."""
    taken = {name: np.asarray(sequences[name]) for name in inputs_of if name in sequences}
    received = {name: values.shape for name, values in taken.items()}
    count = max((shape[0] for shape in received.values() if shape), default=0)
    length = model.spec.length
    shapes: dict[str, tuple[int, ...]] = {name: (count, length) for name in inputs_of}
    shapes[names.INPUT_ITEM_EMBEDDINGS] = (count, length, model.vector_spec.dimension)
    if not count or received != shapes:
        raise InvalidInput(
            f"model {model.name!r}: `sequences` should be its inputs of one or more real ones, of "
            f"shapes {shapes}. Received: {received}"
        )
    return {
        name: values.astype(inputs_of[name].dtype.as_numpy_dtype) for name, values in taken.items()
    }


def _difference(
    compared: Mapping[str, Mapping[str, np.ndarray]], converted: LiteRTModel, call_saved: _Call
) -> str:
    """Compare the two on sequences, alone and together; return what differs, if it does."""
    for kind, sequences in compared.items():
        count = len(sequences[names.INPUT_ACTIONS])
        alone = [slice(row, row + 1) for row in range(min(count, MOST_ALONE))]
        for rows in (*alone, slice(count)):
            inputs = {name: values[rows] for name, values in sequences.items()}
            received = converted(inputs)
            for output, values in call_saved(inputs).items():
                tolerance = TOLERANCE * max(1.0, float(np.abs(values).max()))
                close = np.isclose(values, received[output], rtol=0, atol=tolerance, equal_nan=True)
                if not close.all():
                    by = np.abs(values - received[output]).max()
                    return f"LiteRT's {output!r} differs by {by:.2g} on sequences that are {kind}"
    return ""


def _time(model: ModelDescription, converted: LiteRTModel, call_saved: _Call) -> dict[str, float]:
    """Return the seconds that a batch takes by each, the best of some.

    They take turns, so that another process that is busy for a while slows both.
    """
    probe = made_up(model, [1 + i % model.spec.length for i in range(SEQUENCES_TIMED)])
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


def made_up(model: ModelDescription, filled: Sequence[int]) -> dict[str, np.ndarray]:
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
