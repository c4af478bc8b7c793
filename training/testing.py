"""The contract of activity models, as checks that you can run over your own.

    from activity_embeddings import check_activity_model
    check_activity_model(MyArchitecture())

or, one test a check:

    @pytest.mark.parametrize("check", ACTIVITY_MODEL_CHECKS)
    def test_my_model(check):
        check_activity_model(MyArchitecture(), checks=[check])
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from activity_embeddings.training.models import Architecture, architecture
from activity_embeddings.training.models.registry import is_name
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations import names
from activity_embeddings.transformations.contract.activity_model import (
    ActivityModel,
    ModelDescription,
    describe_model,
    read_manifest,
)
from activity_embeddings.transformations.contract.saved_model import SIGNATURE, read_signature
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import PAD, ActivitySpec, ItemVectorSpec

VECTOR_SPEC = ItemVectorSpec(name="check", version="1", dimension=8)
"""What a model is built for where a check may choose."""

TOLERANCE = 1e-5
"""How far apart equal outputs may be; relative where values are above 1."""

MORE_PAD = 5
"""Positions that a longer spec has more."""

Inputs = dict[str, np.ndarray]
Outputs = dict[str, np.ndarray]


class ActivityModelCheckFailed(AssertionError):
    """An activity model does not keep the contract; the message says which check, and how."""


def check_activity_model(
    model: Architecture | keras.Model | tf.Module | str | Path,
    *,
    spec: ActivitySpec | None = None,
    vector_spec: ItemVectorSpec = VECTOR_SPEC,
    seed: int = 0,
    checks: Iterable[str] | None = None,
) -> None:
    """Check that an activity model keeps the contract and behaves.

    The contract is that of `activity_embeddings.transformations.contract.activity_model`.

    Checks, in this order:

    - `signature`: it can be packaged, and takes and gives what the contract says.
    - `wrong_inputs`: inputs of another length, dimension or type, or a missing one, raise.
    - `all_pad`: a member without activity gets the zero vector, as it is published.
    - `batch_invariance`: a row does not depend on the rows beside it.
    - `padding_invariance`: what lies at a PAD position is not read; and an architecture, built
      for a longer sequence with the same weights, gives the same with more PAD to the left.
    - `export_equality`: packaged and loaded again, it gives the same.

    Parameters
    ----------
    model
        An architecture or the name of a registered one: it is built, and noise is added to its
        trainable weights, so that what starts at zero shows. Or a built `keras.Model` or
        `tf.Module` with a function `serve`, as it is. Or the folder of a SavedModel; one in the
        working directory as "./folder" or a `Path`, since a bare word is a name.
    spec
        What the model was built for, or is to be. Default: `ActivitySpec()`.
    vector_spec
        Likewise. A packaged model's own should be given.
    seed
        Seed of weights and made-up sequences.
    checks
        Names out of `ACTIVITY_MODEL_CHECKS`; default all.

    Raises
    ------
    ActivityModelCheckFailed
        An `AssertionError`: the name of the model and of the first check that failed, what was
        expected and what was received.
    InvalidInput
        `model` is none of the above, or a check has no such name.

    Examples
    --------
    >>> from activity_embeddings.training.models import InterleavedDecay
    >>> check_activity_model(InterleavedDecay(r=0.8))
    """
    chosen = ACTIVITY_MODEL_CHECKS if checks is None else tuple(checks)
    for name in chosen:
        if name not in _CHECKS:
            raise InvalidInput(
                f"`checks` should be among {', '.join(ACTIVITY_MODEL_CHECKS)}. Received: {name!r}"
            )
    with tempfile.TemporaryDirectory() as folder:
        subject = _Subject(model, spec or ActivitySpec(), vector_spec, seed, Path(folder))
        for name in chosen:
            try:
                _CHECKS[name](subject)
            except ActivityModelCheckFailed as failure:
                raise ActivityModelCheckFailed(
                    f"activity model {subject.name!r}: check {name!r} failed: {failure}"
                ) from failure.__cause__
            except Exception as error:
                raise ActivityModelCheckFailed(
                    f"activity model {subject.name!r}: check {name!r} failed: expected no error. "
                    f"Received: {_describe(error)}"
                ) from error


class _Subject:
    """The model under check: built if it is to be, called and packaged on demand."""

    def __init__(
        self,
        model: Architecture | keras.Model | tf.Module | str | Path,
        spec: ActivitySpec,
        vector_spec: ItemVectorSpec,
        seed: int,
        folder: Path,
    ) -> None:
        self.spec, self.vector_spec, self.seed, self.folder = spec, vector_spec, seed, folder
        self.path: Path | None = None
        self.architecture: Architecture | None = None
        if isinstance(model, Path) or (isinstance(model, str) and not is_name(model)):
            self.path = Path(model)
            self.name = str(model)
            return
        if isinstance(model, str):
            model = architecture(model)()
        if isinstance(model, Architecture):
            self.architecture = model
            self.name = getattr(model, "name", type(model).__name__)
            keras.utils.set_random_seed(seed)
            return
        if not isinstance(model, keras.Model) and not callable(getattr(model, "serve", None)):
            raise InvalidInput(
                "`model` should be an Architecture, the name of one, a keras.Model, a tf.Module "
                f"with a function `serve`, or the folder of a SavedModel. Received: {model!r}"
            )
        self._given = model
        self.name = getattr(model, "name", None) or type(model).__name__

    @cached_property
    def built(self) -> Any:
        """The Keras model or module, or for a SavedModel the loaded object."""
        if self.path is not None:
            return tf.saved_model.load(str(self.path))
        if self.architecture is None:
            return self._given
        built = self.architecture.build(self.spec, self.vector_spec)
        generator = np.random.default_rng(self.seed)
        for weight in built.trainable_variables:
            noise = generator.normal(0.0, 0.3, weight.shape)
            weight.assign(np.asarray(weight) + noise.astype(np.float32))
        return built

    def call(self, inputs: Mapping[str, np.ndarray]) -> Outputs:
        """Call the model itself."""
        if self.path is not None:
            return _call_signature(self.built, inputs)
        return _call(self.built, inputs)

    @cached_property
    def described(self) -> ModelDescription:
        """The SavedModel, packaged into the temporary folder if it is not one yet."""
        facts: dict[str, Any] = {"spec": self.spec, "vector_spec": self.vector_spec}
        if self.path is None:
            return package_model(
                self.built,
                self.folder / "packaged",
                name="checked",
                version="1",
                litert=False,
                **facts,
            )
        own = {} if read_manifest(self.path) else {"name": "checked", "version": "1", **facts}
        return describe_model(ActivityModel(self.path, **own), **facts)

    @cached_property
    def loaded(self) -> Any:
        """The SavedModel, loaded from another place: it must not need files beside it."""
        moved = self.folder / "moved"
        shutil.copytree(self.described.path, moved)
        return tf.saved_model.load(str(moved))

    @cached_property
    def input_names(self) -> set[str]:
        return set(read_signature(self.described.path).inputs)

    @cached_property
    def inputs(self) -> Inputs:
        """Made-up sequences of 0, 1, …, `length` activities, padded on the left with zeros."""
        generator = np.random.default_rng(self.seed)
        length, dimension = self.spec.length, self.vector_spec.dimension
        count = np.arange(length + 1)
        kept = np.arange(length) >= length - count[:, None]
        shape = kept.shape
        actions = generator.integers(1, len(self.spec.vocabulary), shape)
        vectors = generator.normal(size=(*shape, dimension)) / np.sqrt(dimension)
        days = self.spec.window / timedelta(days=1)
        ages = np.sort(generator.uniform(0, days, shape))[:, ::-1]
        sessions = np.arange(length, 0, -1) // 2 + 1
        made_up = {
            names.INPUT_ITEM_EMBEDDINGS: np.where(kept[..., None], vectors, 0).astype(np.float32),
            names.INPUT_ACTIONS: np.where(kept, actions, PAD).astype(np.int32),
            names.INPUT_AGES: np.where(kept, ages, 0).astype(np.float32),
            names.INPUT_SESSIONS: np.where(kept, sessions, 0).astype(np.int32),
        }
        return {name: value for name, value in made_up.items() if name in self.input_names}


def _check_signature(subject: _Subject) -> None:
    try:
        described = subject.described
    except InvalidInput as error:
        raise ActivityModelCheckFailed(str(error)) from error
    outputs = subject.call(subject.inputs)
    expected = {
        name: (len(subject.inputs[names.INPUT_ACTIONS]), size)
        for name, size in described.outputs.items()
    }
    received = {name: values.shape for name, values in outputs.items()}
    _require(received == expected, f"outputs of shapes {expected}", received)


def _check_wrong_inputs(subject: _Subject) -> None:
    spec, vector_spec, right = subject.spec, subject.vector_spec, subject.inputs
    fixed = {
        names.INPUT_ITEM_EMBEDDINGS: (None, spec.length, vector_spec.dimension),
        names.INPUT_ACTIONS: (None, spec.length),
        names.INPUT_AGES: (None, spec.length),
        names.INPUT_SESSIONS: (None, spec.length),
    }
    for name, tensor in read_signature(subject.described.path).inputs.items():
        _require(
            tensor.shape == fixed[name],
            f"input {name!r} to be declared with its length and dimension, {fixed[name]}, so that "
            "others are refused",
            tensor.shape,
        )
    # A SavedModel's function need not look at shapes: who calls it does, by what is declared.
    if subject.path is None:
        wrong = {
            f"sequences of {spec.length + 1} positions": {
                name: np.concatenate([value[:, :1], value], axis=1) for name, value in right.items()
            },
            f"item embeddings of length {vector_spec.dimension + 1}": {
                **right,
                names.INPUT_ITEM_EMBEDDINGS: np.pad(
                    right[names.INPUT_ITEM_EMBEDDINGS], ((0, 0), (0, 0), (0, 1))
                ),
            },
        }
        for what, inputs in wrong.items():
            _require_refused(what, partial(subject.call, inputs))
    for missing in right:
        left = {name: value for name, value in right.items() if name != missing}
        _require_refused(f"no {missing!r}", partial(subject.call, left))
    floats = {**right, names.INPUT_ACTIONS: right[names.INPUT_ACTIONS].astype(np.float32)}
    _require_refused("actions of type float32", partial(_call_signature, subject.loaded, floats))


def _require_refused(what: str, call: Callable[[], Any]) -> None:
    """Fail unless the call raises one of the errors by which input is refused."""
    expected = (
        f"{what} to be refused with a ValueError, a TypeError or TensorFlow's InvalidArgument"
    )
    try:
        outputs = call()
    except (ValueError, TypeError, tf.errors.InvalidArgumentError):
        return
    except Exception as error:
        raise ActivityModelCheckFailed(
            f"expected {expected}. Received: {_describe(error)}"
        ) from error
    shapes = {name: values.shape for name, values in outputs.items()}
    raise ActivityModelCheckFailed(f"expected {expected}. Received: outputs of shapes {shapes}")


def _check_all_pad(subject: _Subject) -> None:
    empty = {name: np.zeros_like(value[:2]) for name, value in subject.inputs.items()}
    for name, values in subject.call(empty).items():
        _require(
            bool(np.isfinite(values).all()),
            f"output {name!r} to be finite for a sequence of nothing but PAD",
            "NaN or infinity",
        )
        _require(
            not values.any(),
            f"output {name!r} to be the zero vector for a sequence of nothing but PAD, as it is "
            "published for a member without activity",
            f"values up to {np.abs(values).max():.3g}",
        )


def _check_batch_invariance(subject: _Subject) -> None:
    together = subject.call(subject.inputs)
    for row in range(len(subject.inputs[names.INPUT_ACTIONS])):
        alone = subject.call({name: v[row : row + 1] for name, v in subject.inputs.items()})
        _require_equal(
            f"a row alone to give what it gives in a batch (row {row})",
            {name: values[row : row + 1] for name, values in together.items()},
            alone,
        )


def _check_padding_invariance(subject: _Subject) -> None:
    inputs = subject.inputs
    expected = subject.call(inputs)
    generator = np.random.default_rng(subject.seed + 1)
    pad = inputs[names.INPUT_ACTIONS] == PAD
    for name in inputs.keys() - {names.INPUT_ACTIONS}:
        value = inputs[name]
        noise = generator.uniform(0.5, 1.5, value.shape).astype(np.float32)
        noisy = np.where(pad.reshape(*pad.shape, *[1] * (value.ndim - 2)), noise, value)
        _require_equal(
            f"what {name!r} holds at PAD positions not to be read",
            expected,
            subject.call({**inputs, name: noisy}),
        )
    if subject.architecture is None:
        return
    longer = subject.architecture.build(
        replace(subject.spec, length=subject.spec.length + MORE_PAD), subject.vector_spec
    )
    _copy_weights(subject.built, longer)
    padded = {
        name: np.pad(value, ((0, 0), (MORE_PAD, 0), *[(0, 0)] * (value.ndim - 2)))
        for name, value in inputs.items()
    }
    _require_equal(
        f"the model, built for {MORE_PAD} positions more, to give the same with so much more PAD "
        "to the left",
        expected,
        _call(longer, padded),
    )


def _copy_weights(source: Any, target: Any) -> None:
    """Copy what is learnt into a model of another length; the rest where shapes agree."""
    shapes = [
        [tuple(weight.shape) for weight in model.trainable_variables] for model in (source, target)
    ]
    _require(
        shapes[0] == shapes[1],
        f"shapes of weights not to depend on the sequence's length, {shapes[0]}",
        shapes[1],
    )
    for kind in ("trainable_variables", "non_trainable_variables"):
        for theirs, ours in zip(getattr(source, kind), getattr(target, kind), strict=False):
            if theirs.shape == ours.shape:
                ours.assign(theirs)


def _check_export_equality(subject: _Subject) -> None:
    for rows in (slice(None), slice(1, 2)):
        inputs = {name: value[rows] for name, value in subject.inputs.items()}
        _require_equal(
            "the model to give the same after it was packaged and loaded",
            subject.call(inputs),
            _call_signature(subject.loaded, inputs),
        )


_CHECKS: dict[str, Callable[[_Subject], None]] = {
    "signature": _check_signature,
    "wrong_inputs": _check_wrong_inputs,
    "all_pad": _check_all_pad,
    "batch_invariance": _check_batch_invariance,
    "padding_invariance": _check_padding_invariance,
    "export_equality": _check_export_equality,
}

ACTIVITY_MODEL_CHECKS = tuple(_CHECKS)
"""Names of the checks, in the order in which they run."""


def _call(model: Any, inputs: Mapping[str, np.ndarray]) -> Outputs:
    """Call a Keras model or a module."""
    if isinstance(model, keras.Model):
        outputs = model(dict(inputs), training=False)
    else:
        outputs = model.serve(**inputs)
    return {name: np.asarray(value) for name, value in outputs.items()}


def _call_signature(loaded: Any, inputs: Mapping[str, np.ndarray]) -> Outputs:
    """Call a loaded SavedModel."""
    tensors = {name: tf.constant(value) for name, value in inputs.items()}
    outputs = loaded.signatures[SIGNATURE](**tensors)
    return {name: np.asarray(value) for name, value in outputs.items()}


def _require(holds: bool, expected: str, received: Any) -> None:
    if not holds:
        raise ActivityModelCheckFailed(f"expected {expected}. Received: {received}")


def _require_equal(what: str, expected: Outputs, received: Outputs) -> None:
    """Fail unless two calls gave the same outputs, up to `TOLERANCE`."""
    _require(expected.keys() == received.keys(), f"outputs {list(expected)}", list(received))
    for name, values in expected.items():
        scale = max(1.0, float(np.abs(values).max(initial=0.0)))
        apart = float(np.abs(values - received[name]).max(initial=0.0))
        # Written so that NaN fails too.
        _require(
            apart <= TOLERANCE * scale,
            f"{what}, to {TOLERANCE * scale:.1g}",
            f"output {name!r} differs by {apart:.3g}",
        )


def _describe(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first[:300]}"
