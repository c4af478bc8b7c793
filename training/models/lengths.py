"""A network at several lengths, so that a short sequence is not read as a long one.

Most sequences are short, and a position of PAD costs a network as much as one of activity. PAD on
the left changes nothing of what it gives (see `Network.encode`), so each sequence is read at the
shortest of a few lengths that holds its activity. The rows of a batch stay together whatever their
lengths: a step learns what it would learn without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from activity_embeddings.transformations import names
from activity_embeddings.transformations.spec import PAD

SHORTEST = 8
"""A still shorter length takes longer to trace, and saves no more in a step."""
TOLERANCE = 1e-4
"""How far apart the outputs at two lengths may be; relative where values are above 1."""

InputsOf = Callable[[Any, int], dict[str, Any]]
"""From the places of m rows of a batch, int32 [m], and a length to their inputs, by name."""


class ByLength:
    """A network that reads each row of a batch at the shortest of its lengths.

    A model that does not give the same at all of them, as one with a vector for each place, is read
    at its own length L alone.

    Parameters
    ----------
    model
        A Functional model with dict outputs, and a dict of inputs [n, L, ...].
    lengths
        Ascending, the last is L. Default: L, half of it and so on down to `SHORTEST`.
    """

    def __init__(self, model: keras.Model, lengths: Sequence[int] | None = None) -> None:
        self.lengths = tuple(lengths or halves(_length(model)))
        try:
            self._models = [at_length(model, length) for length in self.lengths]
            agree = _agree(self._models)
        except Exception:  # whatever a layer raises that is of one length
            agree = False
        if not agree:
            self.lengths, self._models = (_length(model),), [model]

    def __call__(
        self, actions: Any, inputs_of: InputsOf, training: bool | None = None
    ) -> dict[str, Any]:
        """Return the outputs of all rows, by name, float32 [n, d] each.

        Parameters
        ----------
        actions
            int32 [n, L]; PAD on the left.
        inputs_of
            Makes inputs of some rows; those that the model does not take are left out.
        training
            As of a Keras model.
        """
        place = np.arange(self.lengths[-1], 0, -1, dtype=np.int32)
        needed = tf.reduce_max(tf.where(actions == PAD, 0, place), axis=1)
        which = tf.searchsorted(np.array(self.lengths, np.int32), needed)
        rows = tf.dynamic_partition(tf.range(tf.size(needed)), which, len(self.lengths))
        read = list(zip(rows, self.lengths, self._models, strict=True))
        # Where Keras knows that there is no row, it takes an addition for that of a bias.
        read = [each for each in read if each[0].shape[0] != 0] or read[-1:]
        parts = []
        for of_length, length, model in read:
            inputs = inputs_of(_some(of_length, tf.size(needed)), length)
            outputs = model({name: inputs[name] for name in model.input}, training=training)
            parts.append({name: o[: tf.size(of_length)] for name, o in outputs.items()})
        places = [of_length for of_length, *_ in read]
        return {name: tf.dynamic_stitch(places, [p[name] for p in parts]) for name in parts[0]}


def halves(longest: int) -> tuple[int, ...]:
    """Return a length, half of it and so on, none below `SHORTEST`; ascending.

    >>> halves(32)
    (8, 16, 32)
    """
    lengths = [longest]
    while lengths[0] >= 2 * SHORTEST:
        lengths.insert(0, -(-lengths[0] // 2))
    return tuple(lengths)


def at_length(model: keras.Model, length: int) -> keras.Model:
    """Return a Functional model of the same layers for sequences of another length.

    A layer that is of the model's own length raises, mostly a `ValueError`.
    """
    if length == _length(model):
        return model
    inputs = {
        name: keras.Input((length, *tensor.shape[2:]), dtype=tensor.dtype, name=name)
        for name, tensor in model.input.items()
    }
    return keras.models.clone_model(model, input_tensors=inputs, clone_function=lambda layer: layer)


def _some(rows: Any, count: Any) -> Any:
    """Return rows of a batch of `count`, the first where there are none.

    A convolution by oneDNN, which TensorFlow takes on processors that it suits, gives no rows
    another shape than it gives rows.
    """
    spare = tf.cast((tf.size(rows) == 0) & (count > 0), tf.int32)
    return tf.concat([rows, tf.zeros([spare], tf.int32)], axis=0)


def _length(model: keras.Model) -> int:
    return next(iter(model.input.values())).shape[1]


def _agree(models: Sequence[keras.Model]) -> bool:
    """Return whether models of the same layers give the same at all of their lengths.

    They are asked with random weights: a difference may start at zero.
    """
    random = np.random.default_rng(0)
    weights = models[0].trainable_variables
    values = [keras.ops.convert_to_numpy(weight) for weight in weights]
    for weight in weights:
        weight.assign(random.normal(0.0, 0.3, weight.shape))
    try:
        return all(
            _same(models[-1], model, _made_up(models[-1], _length(model), random))
            for model in models[:-1]
        )
    finally:
        for weight, value in zip(weights, values, strict=True):
            weight.assign(value)


def _made_up(model: keras.Model, most: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return sequences of 0, 1, … up to `most` activities, as a model takes them."""
    length = _length(model)
    kept = np.arange(length) >= length - np.arange(most + 1)[:, None]
    made_up = {}
    for name, tensor in model.input.items():
        shape = (*kept.shape, *tensor.shape[2:])
        values = random.normal(size=shape)
        if name == names.INPUT_ACTIONS:
            values = np.ones(shape)
        if name == names.INPUT_AGES:
            values = np.arange(length, 0.0, -1.0) ** 2 / length
        if name == names.INPUT_SESSIONS:
            values = np.arange(length + 1.0, 1.0, -1.0) // 2
        own = kept.reshape(*kept.shape, *[1] * (len(shape) - 2))
        made_up[name] = np.where(own, values, 0).astype(tensor.dtype)
    return made_up


def _same(whole: keras.Model, part: keras.Model, inputs: dict[str, np.ndarray]) -> bool:
    """Return whether a model gives the same for sequences whose PAD is cut off."""
    cut = {name: values[:, -_length(part) :] for name, values in inputs.items()}
    received = part(cut, training=False)
    for name, values in whole(inputs, training=False).items():
        expected = keras.ops.convert_to_numpy(values)
        apart = np.abs(expected - keras.ops.convert_to_numpy(received[name])).max()
        # Written so that NaN is no agreement.
        if not apart <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            return False
    return True
