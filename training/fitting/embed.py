"""Models as functions of sequences: what is measured on the way, before a model is packaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from activity_embeddings.training.examples.history import INPUT_ITEM_ROWS, ActivityHistory
from activity_embeddings.training.fitting.validation import Embed
from activity_embeddings.training.models.averages import Average, Averages
from activity_embeddings.training.outputs import ACTIVITY_EMBEDDING, negative_outputs
from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

BATCH = 1024
"""Sequences a model call."""
MEMBERS_KEPT = 128
"""Of whom a run keeps the sequences."""

Outputs = Callable[[Sequences, ActivityHistory], dict[str, np.ndarray]]
"""Makes a model's outputs by name, float32 [n, d] each, of sequences and their history."""


def embed_with(model: keras.Model | tf.Module, spec: ActivitySpec) -> Embed:
    """Return a model as a function of sequences, float32 [n, D].

    Several outputs count as their mean, without those of actions that are not positive.

    Parameters
    ----------
    model
        A Keras model with dict inputs and outputs, or a module with a function `serve`.
    spec
        Says which actions are positive.
    """
    outputs_of, left_out = outputs_with(model), negative_outputs(spec)

    def embed(sequences: Sequences, history: ActivityHistory) -> np.ndarray:
        outputs = outputs_of(sequences, history)
        counted = [values for name, values in outputs.items() if name not in left_out]
        return np.mean(counted, axis=0)

    return embed


def outputs_with(model: keras.Model | tf.Module) -> Outputs:
    """Return a model as a function of sequences to its outputs.

    Parameters
    ----------
    model
        A Keras model with dict inputs and outputs, or a module with a function `serve`.
    """
    inputs_of, call = _function(model)

    def outputs(sequences: Sequences, history: ActivityHistory) -> dict[str, np.ndarray]:
        history = history.reading(inputs_of)
        parts = []
        # At least one call, which says the names and shapes where there is no sequence.
        for first in range(0, max(len(sequences), 1), BATCH):
            part = np.arange(first, min(first + BATCH, len(sequences)))
            inputs = _inputs(sequences.take(part), history)
            tensors = {name: tf.convert_to_tensor(inputs[name]) for name in inputs_of}
            parts.append({name: value.numpy() for name, value in call(tensors).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return outputs


def sequences_of_members(
    model: keras.Model | tf.Module, history: ActivityHistory, as_of: int
) -> dict[str, np.ndarray]:
    """Return a model's inputs of some members, as of the last activity before a time.

    Parameters
    ----------
    model
        A Keras model with dict inputs, or a module with a function `serve`.
    history
        Of the members.
    as_of
        Microseconds since the epoch.

    Returns
    -------
    dict[str, numpy.ndarray]
        Arrays [n, L] and [n, L, D] by name, of `MEMBERS_KEPT` members at most.
    """
    events = history.events
    before = events.time < as_of
    as_of = int(events.time[before].max()) + 1
    active = np.unique(events.member[before & (events.time >= as_of - history.spec.window_us)])
    drawn = np.linspace(0, len(active) - 1, min(MEMBERS_KEPT, len(active))).astype(np.int64)
    inputs_of = _inputs_of(model)
    history = history.reading(inputs_of)
    sequences = history.sequences(active[drawn], np.full(len(drawn), as_of))
    inputs = _inputs(sequences, history)
    return {name: inputs[name] for name in inputs_of}


def _inputs(sequences: Sequences, history: ActivityHistory) -> dict[str, np.ndarray]:
    """Return what a model reads of sequences, by name."""
    inputs = history.model_inputs(sequences)
    inputs[names.INPUT_ITEM_EMBEDDINGS] = history.vectors.matrix[inputs.pop(INPUT_ITEM_ROWS)]
    return inputs


def _inputs_of(model: keras.Model | tf.Module) -> dict[str, tf.TensorSpec]:
    """Return what a model takes, by name."""
    if not isinstance(model, keras.Model):
        positional, named = model.serve.get_concrete_function().structured_input_signature
        return {**{spec.name: spec for spec in positional}, **named}
    return {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name)
        for name, tensor in model.input.items()
    }


def _function(
    model: keras.Model | tf.Module,
) -> tuple[dict[str, tf.TensorSpec], Callable[[dict[str, Any]], dict[str, Any]]]:
    """Return what a model takes, by name, and its one trace as a function of that."""
    inputs_of = _inputs_of(model)
    if not isinstance(model, keras.Model):
        return inputs_of, lambda inputs: model.serve(**inputs)
    function = tf.function(
        lambda inputs: model(inputs, training=False),
        autograph=False,
        input_signature=[inputs_of],
    )
    # Traced here: TensorFlow would warn of functions that are traced for many models.
    return inputs_of, function.get_concrete_function()


def decayed_average(r: float) -> Embed:
    """Return the interleaved decay as a function of sequences, a rival of every model.

    Parameters
    ----------
    r
        Factor from one positive activity to the next older one; 1 gives the plain mean.
    """

    def embed(sequences: Sequences, history: ActivityHistory) -> np.ndarray:
        spec = history.spec
        vector_spec = ItemVectorSpec("of the history", "1", history.vectors.dimension)
        average = Average(spec.positive_ids, r)
        model = Averages(spec, vector_spec, {ACTIVITY_EMBEDDING: average})
        return embed_with(model, spec)(sequences, history)

    return embed
