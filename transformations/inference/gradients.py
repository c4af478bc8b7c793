"""Integrated gradients of an activity model: parts of its outputs, one an activity, that sum up."""

from __future__ import annotations

import numpy as np

from activity_embeddings.transformations import names
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.contract.saved_model import SIGNATURE
from activity_embeddings.transformations.errors import InvalidInput, first_line
from activity_embeddings.transformations.inference.tensorflow import load_saved_model, tensorflow

NODES = 32
"""Points at which gradients are taken, by Gauss and Legendre: nearer than as many equal steps
for smooth models, and exact for polynomials."""


def integrated_gradients(
    model: ModelDescription,
    item_embeddings: np.ndarray,
    actions: np.ndarray,
    ages: np.ndarray,
    sessions: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return how much of each output comes from each position of one sequence.

    The integral of the gradient while the item vectors grow from zero to what they are, times the
    vectors (Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks"). The other
    inputs stay as they are. Over all positions the parts sum to the output less its value for
    zero vectors; for a model that is linear in the item vectors each part is a position's own term.

    Parameters
    ----------
    model
        The model; it is run by TensorFlow, wherever else it runs by LiteRT.
    item_embeddings
        float32 [L, D]; zero for PAD.
    actions
        int32 [L].
    ages
        float32 [L] days.
    sessions
        int32 [L]; numbers, 1 for the newest.

    Returns
    -------
    dict[str, np.ndarray]
        float32 [L, d] by the name of the output.

    Raises
    ------
    InvalidInput
        TensorFlow cannot load the model, or an output has no gradient by its item vectors.
    """
    tf = tensorflow()
    # Stays alive as long as its signature is called: it owns the variables.
    loaded = load_saved_model(model.path, f"model {model.name!r}", model.fingerprint)
    signature = loaded.signatures[SIGNATURE]
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    along = ((nodes[:, None, None] + 1) / 2 * item_embeddings).astype(np.float32)
    vectors = tf.constant(along)
    inputs = {
        names.INPUT_ITEM_EMBEDDINGS: vectors,
        names.INPUT_ACTIONS: tf.constant(np.tile(actions, (NODES, 1)), tf.int32),
    }
    if model.uses_ages:
        inputs[names.INPUT_AGES] = tf.constant(np.tile(ages, (NODES, 1)), tf.float32)
    if model.uses_sessions:
        inputs[names.INPUT_SESSIONS] = tf.constant(np.tile(sessions, (NODES, 1)), tf.int32)
    weight = tf.constant(weights[:, None] / 2, tf.float32)
    parts = {}
    try:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(vectors)
            outputs = signature(**inputs)
            means = {
                name: tf.unstack(tf.reduce_sum(outputs[name] * weight, axis=0), size)
                for name, size in model.outputs.items()
            }
        for name, values in means.items():
            # One pass back for each of the d values; each covers all nodes.
            gradients = [tape.gradient(value, vectors) for value in values]
            if any(gradient is None for gradient in gradients):
                raise _no_gradient(model, f"output {name!r} without a gradient")
            columns = [
                np.einsum("sld,ld->l", gradient.numpy(), item_embeddings) for gradient in gradients
            ]
            parts[name] = np.stack(columns, axis=1).astype(np.float32)
    except (LookupError, tf.errors.OpError) as error:  # of an operation that has none
        raise _no_gradient(model, first_line(error)) from error
    return parts


def _no_gradient(model: ModelDescription, what: str) -> InvalidInput:
    return InvalidInput(
        f"model {model.name!r} (version {model.version}): expected a SavedModel that TensorFlow "
        f"can differentiate by its item vectors. Received: {what}. Leave activities out one by "
        "one instead"
    )
