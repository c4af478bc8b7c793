"""Integrated gradients sum to the output, and for a formula they are its weights."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from activity_embeddings.training.models import CNN, LSTM, GeometricDecay, Transformer
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.contract.activity_model import (
    ActivityModel,
    describe_model,
)
from activity_embeddings.transformations.contract.saved_model import SIGNATURE
from activity_embeddings.transformations.errors import InvalidInput, ModelMismatch
from activity_embeddings.transformations.inference.gradients import integrated_gradients
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

pytestmark = pytest.mark.slow

SPEC, VECTOR_SPEC = ActivitySpec(length=6), ItemVectorSpec("test", "1", 5)
ACTIONS = np.array([0, 0, 1, 3, 1, 2], dtype=np.int32)
AGES = np.array([0, 0, 9, 4, 2.5, 0.5], dtype=np.float32)
SESSIONS = np.ones_like(ACTIONS)


def packaged(module, path):
    facts = {"name": "some", "version": "1", "spec": SPEC, "vector_spec": VECTOR_SPEC}
    package_model(module, path, litert=False, **facts)
    return describe_model(ActivityModel(path), spec=SPEC, vector_spec=VECTOR_SPEC)


def item_embeddings():
    vectors = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    return vectors * (ACTIONS > 0)[:, None]


def output_of(model, vectors):
    """Return the outputs for one sequence, by the SavedModel itself."""
    signature = tf.saved_model.load(str(model.path)).signatures[SIGNATURE]
    inputs = {"item_embeddings": tf.constant(vectors[None]), "actions": tf.constant(ACTIONS[None])}
    if model.uses_ages:
        inputs["ages"] = tf.constant(AGES[None])
    return {name: value.numpy()[0] for name, value in signature(**inputs).items()}


def test_a_model_that_was_replaced_since_it_was_checked_is_refused(tmp_path):
    model = packaged(GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC), tmp_path / "decay")
    shutil.rmtree(model.path)
    packaged(CNN().build(SPEC, VECTOR_SPEC), tmp_path / "decay")
    with pytest.raises(ModelMismatch, match=r"model 'some': .* should be the one that was checked"):
        integrated_gradients(model, item_embeddings(), ACTIONS, AGES, SESSIONS)


def test_of_a_decay_each_part_is_the_weight_of_the_formula_times_the_vector(tmp_path):
    model = packaged(GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC), tmp_path / "decay")
    vectors = item_embeddings()
    parts = integrated_gradients(model, vectors, ACTIONS, AGES, SESSIONS)
    # Two applications: (1 - r) / (1 - r^2) for the newer, times r for the older.
    newer = 0.2 / (1 - 0.8**2)
    expected = {
        "apply_embedding": {4: newer, 2: newer * 0.8},
        "save_embedding": {5: 1.0},
        "dismiss_embedding": {3: 1.0},
    }
    for output, weights in expected.items():
        by_hand = np.zeros((6, 5))
        for position, weight in weights.items():
            by_hand[position] = weight * vectors[position]
        np.testing.assert_allclose(parts[output], by_hand, atol=1e-6)


@pytest.mark.parametrize("architecture", [CNN, LSTM, Transformer])
def test_of_a_learned_model_the_parts_sum_to_the_output(architecture, tmp_path):
    module = architecture().build(SPEC, VECTOR_SPEC)
    random = np.random.default_rng(3)
    module.set_weights(
        [random.normal(0, 0.3, w.shape).astype(np.float32) for w in module.get_weights()]
    )
    model = packaged(module, tmp_path / "model")
    vectors = item_embeddings()
    parts = integrated_gradients(model, vectors, ACTIONS, AGES, SESSIONS)
    whole, nothing = output_of(model, vectors), output_of(model, np.zeros_like(vectors))
    assert parts.keys() == whole.keys()
    for output, part in parts.items():
        difference = whole[output] - nothing[output]
        assert np.linalg.norm(difference) > 0.01
        error = np.linalg.norm(part.sum(axis=0) - difference)
        assert error < 0.02 * np.linalg.norm(difference)
        assert not part[:2].any()  # PAD has no part


class Signs(tf.Module):
    """The signs of a sum: a step, which has no gradient."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 6, 5], tf.float32, "item_embeddings"),
            tf.TensorSpec([None, 6], tf.int32, "actions"),
        ]
    )
    def serve(self, item_embeddings, actions):
        known = tf.cast(actions > 0, tf.float32)[:, :, None]
        total = tf.reduce_sum(item_embeddings * known, axis=1)
        return {"signs": tf.cast(tf.cast(total > 0, tf.int32), tf.float32)}


def test_a_model_without_a_gradient_is_named(tmp_path):
    model = packaged(Signs(), tmp_path / "signs")
    with pytest.raises(
        InvalidInput, match=r"'some'.*can differentiate.*'signs' without a gradient"
    ):
        integrated_gradients(model, item_embeddings(), ACTIONS, AGES, SESSIONS)
