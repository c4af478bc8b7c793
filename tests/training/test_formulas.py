"""Formula models equal the formulas in plain Python, for each action on its own."""

from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import decayed_of, mean_of

from training.formulas import GeometricDecay, UnweightedAverage, output_name
from transformations.errors import InvalidInput
from transformations.spec import ActivitySpec, ItemEmbedding

SPEC = ActivitySpec(length=7)
ITEMS = ItemEmbedding("test", "1", 3)
DECAYS = (1e-6, 0.1, 0.5, 0.9, 0.999)


@cache
def formula(name, r=None):
    if name == "unweighted_average":
        return UnweightedAverage(SPEC, ITEMS)
    return GeometricDecay(SPEC, ITEMS, r)


def batch(histories):
    """Pad lists of (action id, vector) on the left."""
    embeddings = np.zeros((len(histories), SPEC.length, 3), np.float32)
    actions = np.zeros((len(histories), SPEC.length), np.int32)
    for row, history in enumerate(histories):
        for i, (action, vector) in enumerate(history, start=SPEC.length - len(history)):
            embeddings[row, i], actions[row, i] = vector, action
    return tf.constant(embeddings), tf.constant(actions)


value = st.floats(-1.0, 1.0, width=32)
histories = st.lists(
    st.lists(st.tuples(st.integers(1, 3), st.tuples(value, value, value)), max_size=SPEC.length),
    min_size=1,
    max_size=5,
)


@settings(max_examples=300, deadline=None)
@given(histories, st.sampled_from([("unweighted_average", None), *(("decay", r) for r in DECAYS)]))
def test_outputs_equal_the_reference(histories, model):
    name, r = model
    got = formula(name, r).serve(*batch(histories))
    assert set(got) == {"apply_embedding", "save_embedding", "dismiss_embedding"}
    for action, action_name in enumerate(SPEC.actions, start=1):
        expected = []
        for history in histories:
            chosen = [vector for a, vector in history if a == action]
            expected.append(mean_of(chosen, 3) if r is None else decayed_of(chosen, 3, r))
        np.testing.assert_allclose(
            got[output_name(action_name)].numpy(), expected, rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("model", [("unweighted_average", None), ("decay", 0.9)])
def test_nothing_gives_the_zero_vector(model):
    for embedding in formula(*model).serve(*batch([[], []])).values():
        np.testing.assert_array_equal(embedding, np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("r", DECAYS)
def test_decaying_weights_sum_to_one_and_the_newest_weighs_most(r):
    ones = [(1, (1.0, 0.0, 0.0))] * 6 + [(1, (1.0, 1.0, 0.0))]
    embedding = formula("decay", r).serve(*batch([ones]))["apply_embedding"].numpy()[0]
    assert embedding[0] == pytest.approx(1.0, abs=1e-6)
    assert embedding[1] > 1 / 7


def test_by_hand_two_saves_around_a_dismiss_at_r_one_half():
    history = [(2, (3.0, 0.0, 0.0)), (3, (0.0, 5.0, 0.0)), (2, (0.0, 0.0, 6.0))]
    got = formula("decay", 0.5).serve(*batch([history]))
    assert got["save_embedding"].numpy().tolist() == [[1.0, 0.0, 4.0]]
    assert got["dismiss_embedding"].numpy().tolist() == [[0.0, 5.0, 0.0]]
    assert got["apply_embedding"].numpy().tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("r", [0.0, 1.0, -0.5, 2.0, float("nan"), float("inf")])
def test_a_decay_outside_0_and_1_is_refused(r):
    with pytest.raises(InvalidInput, match=rf"`r` should be in \(0, 1\).*Received: r={r}"):
        GeometricDecay(SPEC, ITEMS, r)
