"""Package a model as a SavedModel with its manifest, ready for one line in ACTIVITY_MODELS."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from transformations.model import ActivityModel, ModelDescription, describe_model, write_manifest
from transformations.saved_model import SIGNATURE
from transformations.spec import ActivitySpec, ItemEmbedding


def package_model(
    model: tf.Module | keras.Model,
    path: str | Path,
    *,
    name: str,
    version: str,
    spec: ActivitySpec,
    item_embedding: ItemEmbedding,
    **facts: Any,
) -> ModelDescription:
    """Write `model` to the folder `path`, check it against the contract, and describe it.

    Parameters
    ----------
    model : a `tf.Module` with a function `serve`, or a Keras Functional model with dict inputs
        `job_embeddings`, `actions` (and `ages`) and dict outputs.
    path : the folder; replaced if it is there. The new model is written and checked aside, so
        `path` never holds a half-written one.
    name, version, spec, item_embedding : what the manifest says; see `transformations.model`.
    **facts : JSON values for the manifest: description, training, metrics, parameters, …

    Raises
    ------
    InvalidInput
        The model does not keep the contract. Nothing is left at `path` that was not there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}.packaging"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        if isinstance(model, keras.Model):
            model.export(str(aside), format="tf_saved_model", verbose=False)
        else:
            tf.saved_model.save(model, str(aside), signatures={SIGNATURE: model.serve})
        write_manifest(
            aside, name=name, version=version, spec=spec, item_embedding=item_embedding, **facts
        )
        describe_model(ActivityModel(aside), spec=spec, item_embedding=item_embedding)
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return describe_model(ActivityModel(path), spec=spec, item_embedding=item_embedding)
