"""Package a model or an item encoder as a SavedModel with its manifest, for the feature repo."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from activity_embeddings.transformations.contract.activity_model import (
    ActivityModel,
    ModelDescription,
    describe_model,
    write_manifest,
)
from activity_embeddings.transformations.contract.item_encoder import (
    ItemEncoderDescription,
    describe_item_encoder,
    write_encoder_manifest,
)
from activity_embeddings.transformations.contract.kept_versions import (
    finish_replacing,
    kept_versions,
    put_into_place,
    version_in_place,
)
from activity_embeddings.transformations.contract.litert_file import FACT, FILE
from activity_embeddings.transformations.contract.saved_model import SIGNATURE, fingerprint
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import make_folder, real_path
from activity_embeddings.transformations.inference.conversion import TOLERANCE, convert, made_up
from activity_embeddings.transformations.inference.tensorflow import load_saved_model
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.times import Time

Described = TypeVar("Described")


def package_model(
    model: tf.Module | keras.Model,
    path: str | Path,
    *,
    name: str,
    version: str,
    spec: ActivitySpec,
    vector_spec: ItemVectorSpec,
    litert: bool = True,
    sequences: Mapping[str, np.ndarray] | None = None,
    **facts: Any,
) -> ModelDescription:
    """Write `model` to the folder `path`, check it against the contract, and describe it.

    A LiteRT file is put beside the SavedModel where LiteRT gives the same values on made-up
    sequences and on the real ones that are given: processes that publish and serve then need no
    TensorFlow. The manifest says, under `litert`, what became of it, what was compared, and what a
    batch took by each.

    A model that was packaged before keeps its files, and so its fingerprint; facts may be new.
    TensorFlow writes the same model in another order each time.

    Parameters
    ----------
    model
        A `tf.Module` with a function `serve`, or a Keras Functional model with dict inputs
        `item_embeddings`, `actions` (and `ages`) and dict outputs.
    path
        The folder, or a symbolic link to it; replaced if it exists. The new model is written and
        checked aside, so `path` never holds a half-written one. A model of another version that
        was there is kept, for `activity-embeddings rollback`.
    name
        Of the model; its view and features are named after it.
    version
        Each has a history of its own.
    spec
        Length, window and actions that it was trained with.
    vector_spec
        Which item vectors it reads.
    litert
        Whether to convert it. Without a LiteRT file TensorFlow computes its batches.
    sequences
        Real ones, as the inputs of the model: arrays [n, L] and [n, L, D] by name. A run of
        `train` has those of some members.
    **facts
        JSON values for the manifest: description, training, metrics, parameters, …; `gpu` is the
        share of a GPU, 0 to 1, that a worker of a Ray cluster takes to run the model by TensorFlow.

    Raises
    ------
    InvalidInput
        The model does not keep the contract, sequences are not its inputs, or another model of this
        version is there. `path` is left as it was.
    """

    def describe(folder: Path) -> ModelDescription:
        return describe_model(ActivityModel(folder), spec=spec, vector_spec=vector_spec)

    def state(folder: Path, **more: Any) -> None:
        write_manifest(
            folder, name=name, version=version, spec=spec, vector_spec=vector_spec, **facts, **more
        )

    def write(folder: Path) -> None:
        state(folder)
        there = _of_version(Path(path), version)
        if there is not None:
            _require_same(describe(folder), there)
            shutil.rmtree(folder)
            shutil.copytree(there, folder)
            (folder / FILE).unlink(missing_ok=True)
            state(folder)
        if litert:
            conversion = convert(describe(folder), sequences=sequences)
            if conversion.content is not None:
                (folder / FILE).write_bytes(conversion.content)
            state(folder, **{FACT: conversion.facts()})

    finish_replacing(Path(path))
    before = version_in_place(Path(path))
    return _package(model, Path(path), write, describe, keep=None if before == version else before)


def package_item_encoder(
    model: tf.Module | keras.Model,
    path: str | Path,
    *,
    name: str,
    version: str,
    valid_from: Time,
    **facts: Any,
) -> ItemEncoderDescription:
    """Write an item encoder to the folder `path`, check it against the contract, and describe it.

    Parameters
    ----------
    model
        A `tf.Module` with a function `serve`, or a Keras Functional model with dict inputs named
        like columns of the postings, and the dict output `embedding`.
    path
        As in `package_model`.
    name, version
        Name and version of the vectors that it makes.
    valid_from
        The end of the data that it was fitted on, a time with a zone; see
        `activity_embeddings.transformations.times.Time`. No vector of it is known earlier.
    **facts
        JSON values for the manifest: description, training, metrics, parameters, …

    Raises
    ------
    InvalidInput
        The encoder does not keep the contract, `valid_from` is no time or has no zone, or another
        encoder of this name and version is there. `path` is left as it was.
    """

    def state(folder: Path) -> None:
        write_encoder_manifest(folder, name=name, version=version, valid_from=valid_from, **facts)

    def write(folder: Path) -> None:
        state(folder)
        try:
            there = describe_item_encoder(path)
        except InvalidInput:  # none
            return
        new = describe_item_encoder(folder)
        if (there.name, there.version) != (new.name, new.version):
            return
        same = (new.inputs, new.dimension) == (there.inputs, there.dimension)
        if not (same and _computes_same(new.path, there.path, _made_up_postings(new))):
            raise _another(f"item encoder {name!r}", version, there.path)
        shutil.rmtree(folder)
        shutil.copytree(there.path, folder)
        state(folder)

    return _package(model, Path(path), write, describe_item_encoder)


def _package(
    model: tf.Module | keras.Model,
    path: Path,
    write: Callable[[Path], None],
    describe: Callable[[Path], Described],
    keep: str | None = None,
) -> Described:
    """Save a model, write its manifest and check both aside; then put it into place.

    The model that was there is kept beside it as the version `keep`, or dropped.
    """
    place = real_path(path)
    make_folder(place.parent)
    aside = place.with_name(f".{place.name}.packaging")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        if isinstance(model, keras.Model):
            _export(model, aside)
        else:
            tf.saved_model.save(model, str(aside), signatures={SIGNATURE: model.serve})
        write(aside)
        describe(aside)
        put_into_place(path, aside, keep)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return describe(path)


def _export(model: keras.Model, folder: Path) -> None:
    """Save what `model.export` does, in one trace instead of three, with one signature and not two.

    A module has the layers and the weights, which is all that is to be saved: to track a whole
    model, TensorFlow looks at all of its attributes, and one of them traces it again.
    """
    inputs = getattr(model, "input", None)
    if not isinstance(inputs, dict):  # which the contract will refuse
        model.export(str(folder), format="tf_saved_model", verbose=False)
        return
    module = tf.Module()
    module.layers, module.weights = model.layers, [weight.value for weight in model.weights]
    signature = {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name) for name, tensor in inputs.items()
    }
    module.serve = tf.function(model.__call__, input_signature=[signature], autograph=False)
    tf.saved_model.save(module, str(folder), signatures={SIGNATURE: module.serve})


def _of_version(path: Path, version: str) -> Path | None:
    """Return the folder of a version that was packaged before, in place or kept beside it."""
    folders = (path, kept_versions(path).get(version))
    return next((f for f in folders if f is not None and version_in_place(f) == version), None)


def _require_same(model: ModelDescription, there: Path) -> None:
    """Raise `InvalidInput` unless the model in a folder has the same name, weights and outputs."""
    try:
        other = describe_model(ActivityModel(there), spec=model.spec, vector_spec=model.vector_spec)
        same = (model.name, model.outputs) == (other.name, other.outputs) and _computes_same(
            model.path, other.path, made_up(model, [0, 1, model.spec.length])
        )
    except InvalidInput:  # made for another spec or other item vectors, or changed
        same = False
    if not same:
        raise _another(f"model {model.name!r}", model.version, there)


def _another(what: str, version: str, there: Path) -> InvalidInput:
    return InvalidInput(
        f"{what}: expected a new version, since version {version} at {there} is another model. "
        f"Received: version {version}. Give this one another with --version, or remove that "
        "folder if it was never published"
    )


def _computes_same(new: Path, there: Path, inputs: Mapping[str, np.ndarray]) -> bool:
    """Return whether SavedModels have equal weights, and outputs that are as good as equal."""

    def outputs(folder: Path) -> dict[str, np.ndarray]:
        serve = load_saved_model(folder, "model", fingerprint(folder)).signatures[SIGNATURE]
        taken = {name: tf.constant(inputs[name]) for name in serve.structured_input_signature[1]}
        return {name: values.numpy() for name, values in serve(**taken).items()}

    if _weights(new) != _weights(there):
        return False
    ours, theirs = outputs(new), outputs(there)
    return all(
        np.allclose(ours[name], theirs[name], rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        for name in ours
    )


def _made_up_postings(encoder: ItemEncoderDescription) -> dict[str, np.ndarray]:
    """Return inputs of an item encoder, whatever they mean."""
    values = {"string": np.array([b"", b"a", b"nurse", b"7"]), "int64": np.array([0, 1, 7, 2024])}
    made = {}
    for name, tensor in encoder.inputs.items():
        column = values.get(tensor.dtype, np.linspace(-1, 1, 4, dtype=np.float32))
        two = tensor.shape is not None and len(tensor.shape) == 2
        made[name] = np.stack([column, column[::-1]], axis=1) if two else column
    return made


def _weights(folder: Path) -> list[tuple[str, tuple[int, ...], bytes]]:
    """Return type, shape and bytes of what a SavedModel has learned, in an order of its own.

    Variables that are no floats are states of random generators, which only training uses.
    """
    saved = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    arrays = map(np.asarray, map(saved.get_tensor, saved.get_variable_to_shape_map()))
    return sorted((str(a.dtype), a.shape, a.tobytes()) for a in arrays if a.dtype.kind == "f")
