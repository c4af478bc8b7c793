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
    read_manifest,
    write_manifest,
)
from activity_embeddings.transformations.contract.item_encoder import (
    ItemEncoderDescription,
    describe_item_encoder,
    write_encoder_manifest,
)
from activity_embeddings.transformations.contract.kept_versions import (
    finish_replacing,
    put_into_place,
)
from activity_embeddings.transformations.contract.litert_file import FACT, FILE
from activity_embeddings.transformations.contract.saved_model import SIGNATURE
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import make_folder, real_path
from activity_embeddings.transformations.inference.conversion import convert
from activity_embeddings.transformations.spec import (
    ActivitySpec,
    ItemVectorSpec,
    require_version,
)
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
        The model does not keep the contract, or sequences are not its inputs. `path` is left as it
        was.
    """

    def describe(folder: Path) -> ModelDescription:
        return describe_model(ActivityModel(folder), spec=spec, vector_spec=vector_spec)

    def state(folder: Path, **more: Any) -> None:
        write_manifest(
            folder, name=name, version=version, spec=spec, vector_spec=vector_spec, **facts, **more
        )

    def write(folder: Path) -> None:
        state(folder)
        if litert:
            conversion = convert(describe(folder), sequences=sequences)
            if conversion.content is not None:
                (folder / FILE).write_bytes(conversion.content)
            state(folder, **{FACT: conversion.facts()})

    finish_replacing(Path(path))
    return _package(model, Path(path), write, describe, _other_version(Path(path), version))


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
        The encoder does not keep the contract, or `valid_from` is no time or has no zone. `path`
        is left as it was.
    """

    def write(folder: Path) -> None:
        write_encoder_manifest(folder, name=name, version=version, valid_from=valid_from, **facts)

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
    """Do what `model.export` does, in two traces instead of three.

    To track a whole model, Keras looks at all of its attributes, and one of them traces it again.
    Its layers have all that is to be saved.
    """
    inputs = getattr(model, "input", None)
    if not isinstance(inputs, dict):  # which the contract will refuse
        model.export(str(folder), format="tf_saved_model", verbose=False)
        return
    archive = keras.export.ExportArchive()
    for layer in model.layers:
        archive.track(layer)
    signature = {
        name: keras.InputSpec(shape=tensor.shape, dtype=tensor.dtype, name=name)
        for name, tensor in inputs.items()
    }
    archive.add_endpoint("serve", model.__call__, [signature])
    archive.write_out(str(folder), verbose=False)


def _other_version(path: Path, new: str) -> str | None:
    """Return the version of the model that is in place, None if it is that of the new one."""
    try:
        there = require_version(read_manifest(path).get("version", new), "model")
    except InvalidInput:  # whatever lies there, nobody can go back to it
        return None
    return None if there == new else there
