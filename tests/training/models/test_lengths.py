"""A batch read row by row at the length that it needs gives what it gives read as a whole."""

from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.models import CNN, GRU, Network, architecture, known_models
from activity_embeddings.training.models import lengths as lengths_module
from activity_embeddings.training.models.lengths import ByLength, halves
from activity_embeddings.training.objectives import NextPositive
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support import training_data
from support.networks import awake
from support.training_data import TRAIN, turns

pytestmark = pytest.mark.slow

LENGTH, DIMENSION = 9, 5
SPEC, VECTOR_SPEC = ActivitySpec(length=LENGTH), ItemVectorSpec("test", "1", DIMENSION)
LENGTHS = (2, 5, 9)
NETWORKS = {
    name: architecture(name)(ages=True)
    for name in known_models()
    if issubclass(architecture(name), Network)
}
NETWORKS["cnn-of-sessions"] = CNN(session_gap_minutes=30.0)
NETWORKS["gru-of-numbered-sessions"] = GRU(sessions=True)
NETWORKS["gru-alone"] = GRU(residual=False)


def batch(histories):
    """Histories of (action, minutes to the next), oldest first, as a batch padded on the left."""
    random = np.random.default_rng(len(histories))
    inputs = {
        "item_embeddings": np.zeros((len(histories), LENGTH, DIMENSION), np.float32),
        "actions": np.zeros((len(histories), LENGTH), np.int32),
        "ages": np.zeros((len(histories), LENGTH), np.float32),
        "sessions": np.zeros((len(histories), LENGTH), np.int32),
    }
    for row, history in enumerate(histories):
        age, session = 0.0, 1
        for place, (action, minutes) in enumerate(reversed(history), start=1):
            age += minutes / 1440
            session += minutes > 30 and place > 1
            inputs["sessions"][row, -place] = session
            inputs["item_embeddings"][row, -place] = random.normal(size=DIMENSION)
            inputs["actions"][row, -place], inputs["ages"][row, -place] = action, age
    return {name: tf.constant(values) for name, values in inputs.items()}


def read(by_length, inputs, training=False):
    def inputs_of(rows, length):
        return {name: tf.gather(values, rows)[:, -length:] for name, values in inputs.items()}

    return by_length(inputs["actions"], inputs_of, training)["activity_embedding"]


@cache
def both(name):
    """A network read by length, and as a whole: each as one function of any batch."""
    built = awake(NETWORKS[name], SPEC, VECTOR_SPEC)
    by_length = ByLength(built, LENGTHS)
    assert by_length.lengths == LENGTHS
    signature = [
        {
            "item_embeddings": tf.TensorSpec([None, LENGTH, DIMENSION]),
            "actions": tf.TensorSpec([None, LENGTH], tf.int32),
            "ages": tf.TensorSpec([None, LENGTH]),
            "sessions": tf.TensorSpec([None, LENGTH], tf.int32),
        }
    ]

    def whole(inputs):
        return built({key: inputs[key] for key in built.input}, training=False)[
            "activity_embedding"
        ]

    def gradients(function):
        @tf.function(autograph=False, input_signature=signature)
        def of(inputs):
            with tf.GradientTape() as tape:
                output = function(inputs)
                loss = tf.reduce_sum(output * tf.cos(tf.cast(tf.range(DIMENSION), tf.float32)))
            return output, tape.gradient(loss, built.trainable_variables)

        return of

    return gradients(lambda inputs: read(by_length, inputs)), gradients(whole)


activity = st.tuples(st.integers(1, 3), st.sampled_from([1.0, 29.0, 31.0, 2000.0]))


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=25, deadline=None)
@given(histories=st.lists(st.lists(activity, max_size=LENGTH), min_size=1, max_size=12))
def test_outputs_and_gradients_are_those_of_the_whole_batch(name, histories):
    by_length, whole = both(name)
    inputs = batch(histories)
    (received, ours), (expected, theirs) = by_length(inputs), whole(inputs)
    for one, other in zip([received, *ours], [expected, *theirs], strict=True):
        scale = max(1.0, float(np.abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * scale)


def test_a_gap_in_the_activity_counts_by_its_oldest_place():
    by_length, whole = both("cnn")
    inputs = batch([[(1, 5.0)] * 7])
    actions = inputs["actions"].numpy()
    actions[0, -5:-1] = 0
    inputs["actions"] = tf.constant(actions)
    np.testing.assert_allclose(by_length(inputs)[0], whole(inputs)[0], rtol=1e-5, atol=1e-4)


def test_each_length_is_read_once_with_the_rows_that_need_it():
    built = awake(CNN(), SPEC, VECTOR_SPEC)
    inputs = batch([[(1, 5.0)] * count for count in (0, 9, 1, 2, 3, 9, 5, 6)])
    by_length, seen = ByLength(built, LENGTHS), []

    def inputs_of(rows, length):
        seen.append((length, rows.numpy().tolist()))
        return {name: tf.gather(values, rows)[:, -length:] for name, values in inputs.items()}

    by_length(inputs["actions"], inputs_of)
    assert seen == [(2, [0, 2, 3]), (5, [4, 6]), (9, [1, 5, 7])]


@pytest.mark.parametrize("count", [0, 2, 5, 9])
def test_lengths_that_no_row_needs_are_left_out_where_that_is_known(count):
    """As in the first batch of a fit, which is no graph."""
    built, inputs = awake(CNN(), SPEC, VECTOR_SPEC), batch([[(1, 5.0)] * count] * 3)
    expected = built({name: inputs[name] for name in built.input})["activity_embedding"]
    received = read(ByLength(built, LENGTHS), inputs)
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-3)
    assert np.abs(expected).max() > 1 or not count


def places(kind):
    """A model whose output depends on the number of PAD positions."""
    vectors = keras.Input((LENGTH, DIMENSION), name="item_embeddings")
    actions = keras.Input((LENGTH,), dtype="int32", name="actions")
    if kind in ("a vector for each place", "vectors that only fit"):

        @keras.saving.register_keras_serializable(package="test")
        class Places(keras.layers.Layer):
            def build(self, shape):
                self.places = self.add_weight(shape=(LENGTH, DIMENSION), initializer="zeros")

            def call(self, inputs):
                if kind == "vectors that only fit":
                    if inputs.shape[1] != LENGTH:
                        raise RuntimeError("another length")
                    return inputs + self.places
                return inputs + self.places[: inputs.shape[1]]

        read = keras.ops.mean(Places()(vectors), axis=1)
    else:
        read = keras.layers.Dense(DIMENSION)(keras.layers.Flatten()(vectors))
    inputs = {"item_embeddings": vectors, "actions": actions}
    return keras.Model(inputs, {"activity_embedding": read + 0.0})


@pytest.mark.parametrize(
    "kind", ["a vector for each place", "vectors that only fit", "weights for each place"]
)
def test_a_model_that_is_of_one_length_is_read_at_that_alone_and_keeps_its_weights(kind):
    model = places(kind)
    before = model.get_weights()
    by_length = ByLength(model, LENGTHS)
    assert by_length.lengths == (LENGTH,)
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    inputs = batch([[(1, 5.0)] * 2, [(2, 5.0)] * 9])
    expected = model({name: inputs[name] for name in model.input})["activity_embedding"]
    np.testing.assert_array_equal(read(by_length, inputs), expected)


def test_a_task_has_the_same_losses_at_any_lengths():
    """Also where rows of item vectors are cut, and with ages."""
    history = turns(members=30)
    built = CNN(ages=True).build(training_data.SPEC, training_data.VECTOR_SPEC)
    random = np.random.default_rng(0)
    for weight in built.trainable_variables:
        weight.assign(random.normal(0.0, 0.3, weight.shape))
    objective = NextPositive()
    batch = next(objective.stream(history, TRAIN).batches())
    count = (batch["actions"] != 0).sum(axis=1)
    assert {1, 2, 3, 4, 5, 8} <= set(count.tolist())
    losses = []
    for lengths in ((8,), (2, 4, 8)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lengths_module, "halves", lambda _, own=lengths: own)
            task = objective.task(built, history, TRAIN)
        losses.append(task({name: tf.constant(v) for name, v in batch.items()}, training=False))
    assert np.std(losses[0]) > 0.1
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4, atol=1e-4)


def test_lengths_are_halves():
    assert halves(32) == (8, 16, 32)
    assert halves(20) == (10, 20)
    assert halves(17) == (9, 17)
    assert halves(15) == (15,)
    assert halves(1) == (1,)
