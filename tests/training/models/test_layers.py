"""The shared layers give the values that their docstrings promise."""

import numpy as np
import pytest
import tensorflow as tf

from activity_embeddings.training.models.layers import (
    AgeFeatures,
    LearnedDecay,
    OneHotAction,
    newer,
)
from support.reference import decayed_of, mean_of

ACTIONS, POSITIVE = 3, [1, 2]


def one_hot(actions):
    return OneHotAction(ACTIONS)(tf.constant(actions, tf.int32))


def random_sequences(n=60, length=9, dimension=4, seed=0):
    """Sequences of 0, 1, … activities in turn, padded on the left."""
    generator = np.random.default_rng(seed)
    kept = np.arange(length)[::-1] < (np.arange(n) % (length + 1))[:, None]
    actions = np.where(kept, generator.integers(1, 4, (n, length)), 0)
    return generator.normal(size=(n, length, dimension)).astype(np.float32), actions


def test_pad_and_unknown_actions_are_all_zero():
    assert one_hot([[0, 1, 2, 3, 4, -1]]).numpy().tolist() == [
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    ]


def test_newer_counts_the_chosen_positions_to_the_right():
    assert newer(tf.constant([[1.0, 0.0, 1.0, 1.0]])).numpy().tolist() == [[2, 2, 1, 0]]


def test_age_features_by_hand():
    features = AgeFeatures(28.0)(tf.constant([[0.0, 1 / 24, 7.0, 28.0]])).numpy()[0]
    assert features[0].tolist() == [0, 1, 1, 1]
    assert features[1, 1] == pytest.approx(np.exp(-1), abs=1e-6)
    assert features[2, 3] == pytest.approx(np.exp(-1), abs=1e-6)
    assert features[2, 0] == pytest.approx(np.log(8) / np.log(29), abs=1e-6)
    assert features[3, 0] == pytest.approx(1.0, abs=1e-6)


def test_age_features_stay_in_bounds_and_tell_ages_apart():
    ages = np.array([[-1.0, 0.001, 0.1, 1.0, 3.0, 10.0, 28.0, 1e6]], np.float32)
    features = AgeFeatures(28.0)(tf.constant(ages)).numpy()[0]
    assert (features >= 0).all() and (features <= 1).all()
    assert (np.abs(np.diff(features[1:7], axis=0)).max(axis=1) > 1e-2).all()
    np.testing.assert_array_equal(features[7], features[6])


@pytest.mark.parametrize("decay", [1e-6, 0.5, 0.9, 0.999])
def test_at_first_it_is_the_decayed_average_of_the_positives(decay):
    vectors, actions = random_sequences()
    got = LearnedDecay(ACTIONS, POSITIVE, decay)(vectors, one_hot(actions)).numpy()
    expected = [
        decayed_of([v for v, a in zip(vs, acts, strict=True) if a in POSITIVE], 4, decay)
        for vs, acts in zip(vectors, actions, strict=True)
    ]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert (got[0] == 0.0).all()


def test_gains_weigh_each_action_and_dismissed_items_are_averaged_among_themselves():
    layer = LearnedDecay(ACTIONS, POSITIVE, 0.5)
    vectors = np.eye(5, dtype=np.float32)[None]
    # Oldest first: DISMISS, APPLY, DISMISS, SAVE, DISMISS have 2, 1, 1, 0, 0 newer positives.
    chosen = one_hot([[3, 1, 3, 2, 3]])
    layer(vectors, chosen)
    layer.gains.assign([[2.0], [3.0], [-1.0]])
    got = layer(vectors, chosen).numpy()[0]
    dismissed = np.array([0.25, 0.5, 1.0]) / 1.75
    expected = [-dismissed[0], 2 * (1 / 3), -dismissed[1], 3 * (2 / 3), -dismissed[2]]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_without_positives_the_dismissed_ones_give_their_mean():
    layer = LearnedDecay(ACTIONS, POSITIVE)
    vectors, _ = random_sequences(n=1)
    chosen = one_hot([[0, 0, 0, 3, 3, 3, 3, 3, 3]])
    assert (layer(vectors, chosen).numpy() == 0.0).all()
    layer.gains.assign([[1.0], [1.0], [1.0]])
    np.testing.assert_allclose(
        layer(vectors, chosen).numpy()[0], mean_of(list(vectors[0, 3:]), 4), rtol=0, atol=1e-6
    )


def test_a_decay_of_nearly_zero_gives_finite_values_and_gradients():
    layer = LearnedDecay(ACTIONS, POSITIVE)
    vectors, actions = random_sequences(length=40)
    chosen = one_hot(actions)
    layer(vectors, chosen)
    layer.decay_logit.assign(-80.0)
    layer.gains.assign([[1.0], [1.0], [-1.0]])
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(layer(vectors, chosen) ** 2)
    assert np.isfinite(value)
    for gradient in tape.gradient(value, layer.trainable_variables):
        assert np.isfinite(gradient).all()
