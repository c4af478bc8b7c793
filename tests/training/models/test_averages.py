"""Formula models equal the formulas in plain Python, each over its own activities."""

from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.models import (
    GeometricDecay,
    InterleavedDecay,
    SeveralRatesDecay,
    UnweightedAverage,
)
from activity_embeddings.training.outputs import output_name
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support.reference import decayed_of, mean_of

SPEC = ActivitySpec(length=7)
VECTOR_SPEC = ItemVectorSpec("test", "1", 3)
DECAYS = (1e-6, 0.1, 0.5, 0.9, 0.999)
POSITIVE = (1, 2)

EACH_ACTION = {output_name(a): (i,) for i, a in enumerate(SPEC.actions, start=1)}
FORMULAS = [
    (UnweightedAverage(), {name: (ids, None) for name, ids in EACH_ACTION.items()}),
    *((GeometricDecay(r=r), {name: (ids, r) for name, ids in EACH_ACTION.items()}) for r in DECAYS),
    *((InterleavedDecay(r=r), {"activity_embedding": (POSITIVE, r)}) for r in DECAYS),
    (
        SeveralRatesDecay(rates=(0.5, 0.8, 0.95)),
        {
            "decay_0_5_embedding": (POSITIVE, 0.5),
            "decay_0_8_embedding": (POSITIVE, 0.8),
            "decay_0_95_embedding": (POSITIVE, 0.95),
        },
    ),
    (SeveralRatesDecay(rates=(1e-6,)), {"decay_0_000001_embedding": (POSITIVE, 1e-6)}),
]
EXPECTED = dict(FORMULAS)


@cache
def built(model):
    return model.build(SPEC, VECTOR_SPEC)


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


@settings(max_examples=200, deadline=None)
@given(histories, st.sampled_from(list(EXPECTED)))
def test_outputs_equal_the_reference(histories, model):
    got = built(model).serve(*batch(histories))
    assert set(got) == set(EXPECTED[model])
    for name, (ids, r) in EXPECTED[model].items():
        expected = []
        for history in histories:
            chosen = [vector for action, vector in history if action in ids]
            expected.append(mean_of(chosen, 3) if r is None else decayed_of(chosen, 3, r))
        np.testing.assert_allclose(got[name].numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", EXPECTED)
def test_nothing_gives_the_zero_vector(model):
    for embedding in built(model).serve(*batch([[], []])).values():
        np.testing.assert_array_equal(embedding, np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(
    ("model", "output"),
    [(GeometricDecay, "apply_embedding"), (InterleavedDecay, "activity_embedding")],
)
@pytest.mark.parametrize("r", DECAYS)
def test_decaying_weights_sum_to_one_and_the_newest_weighs_most(model, output, r):
    ones = [(1, (1.0, 0.0, 0.0))] * 6 + [(1, (1.0, 1.0, 0.0))]
    embedding = built(model(r=r)).serve(*batch([ones]))[output].numpy()[0]
    assert embedding[0] == pytest.approx(1.0, abs=1e-6)
    assert embedding[1] > 1 / 7


def test_by_hand_two_saves_around_a_dismiss_at_r_one_half():
    history = [(2, (3.0, 0.0, 0.0)), (3, (0.0, 5.0, 0.0)), (2, (0.0, 0.0, 6.0))]
    got = built(GeometricDecay(r=0.5)).serve(*batch([history]))
    assert got["save_embedding"].numpy().tolist() == [[1.0, 0.0, 4.0]]
    assert got["dismiss_embedding"].numpy().tolist() == [[0.0, 5.0, 0.0]]
    assert got["apply_embedding"].numpy().tolist() == [[0.0, 0.0, 0.0]]


def test_by_hand_a_save_a_dismiss_and_an_apply_interleave_at_r_one_half():
    history = [(2, (3.0, 0.0, 0.0)), (3, (0.0, 5.0, 0.0)), (1, (0.0, 0.0, 6.0))]
    got = built(InterleavedDecay(r=0.5)).serve(*batch([history]))
    assert got["activity_embedding"].numpy().tolist() == [[1.0, 0.0, 4.0]]


def test_an_action_that_is_not_in_the_vocabulary_is_left_out():
    embeddings, actions = batch([[(1, (1.0, 2.0, 3.0)), (1, (3.0, 2.0, 1.0))]])
    unknown = tf.where(tf.range(7) == 6, 9, actions)
    got = built(UnweightedAverage()).serve(embeddings, unknown)
    assert got["apply_embedding"].numpy().tolist() == [[1.0, 2.0, 3.0]]
    assert got["save_embedding"].numpy().tolist() == [[0.0, 0.0, 0.0]]


def test_swapping_two_activities_changes_a_decaying_average_and_not_a_plain_one():
    history = [(1, (1.0, 0.0, 0.0)), (1, (0.0, 1.0, 0.0))]
    for model, changes in ((UnweightedAverage(), False), (GeometricDecay(r=0.5), True)):
        first, second = (
            built(model).serve(*batch([h]))["apply_embedding"].numpy()
            for h in (history, history[::-1])
        )
        assert (first != second).any() == changes


@pytest.mark.parametrize("r", [0.0, 1.0, -0.5, 2.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("geometric_decay", lambda r: GeometricDecay(r=r)),
        ("interleaved_decay", lambda r: InterleavedDecay(r=r)),
        ("several_rates_decay", lambda r: SeveralRatesDecay(rates=(0.5, r))),
    ],
)
def test_a_decay_outside_0_and_1_is_refused(name, make, r):
    with pytest.raises(InvalidInput, match=rf"^{name}: `r` should be in \(0, 1\).*: r={r}"):
        make(r)


@pytest.mark.parametrize("rates", [(), (0.5, 0.5)])
def test_rates_that_cannot_name_outputs_are_refused(rates):
    with pytest.raises(InvalidInput, match=r"`rates` should be distinct, and at least one"):
        SeveralRatesDecay(rates=rates)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InterleavedDecay(kinds="post"), "InterleavedDecay: `kinds` .* tuple or list"),
        (lambda: SeveralRatesDecay(rates=0.5), "several_rates_decay: `rates` .* tuple or list"),
    ],
)
def test_one_value_for_several_is_refused(make, message):
    with pytest.raises(InvalidInput, match=message):
        make()


def test_rates_from_json_are_the_same_rates():
    assert SeveralRatesDecay(rates=[0.5, 0.8]) == SeveralRatesDecay(rates=(0.5, 0.8))


OF_KINDS = ActivitySpec.of_kinds(
    {
        "job": SPEC,
        "search": ActivitySpec(length=7, actions=("SEARCH", "REFINE"), positive_actions=()),
    }
)


def of_kinds(model):
    """Return (action ids, r) by output of a model that is built for searches beside jobs."""
    made = model.build(OF_KINDS, VECTOR_SPEC)
    outputs = made.serve(tf.zeros((1, 7, 3)), tf.zeros((1, 7), tf.int32))
    # Of seven activities of one action, an output that takes it gives their vector.
    return {
        name: tuple(
            action
            for action in range(1, 6)
            if made.serve(tf.ones((1, 7, 3)), tf.fill((1, 7), action))[name].numpy().any()
        )
        for name in outputs
    }


def test_averages_are_of_the_own_kind_unless_others_are_said():
    own = {output_name(a): (i,) for i, a in enumerate(SPEC.actions, start=1)}
    searches = {"search_embedding": (4,), "refine_embedding": (5,)}
    assert of_kinds(UnweightedAverage()) == own
    assert of_kinds(GeometricDecay(kinds=("search",))) == searches
    assert of_kinds(GeometricDecay(kinds=("job", "search"))) == {**own, **searches}
    assert of_kinds(InterleavedDecay()) == {"activity_embedding": (1, 2)}
    assert of_kinds(InterleavedDecay(kinds=["search"])) == {"activity_embedding": (4, 5)}
    both = SeveralRatesDecay(rates=(0.5,), kinds=("job", "search"))
    assert of_kinds(both) == {"decay_0_5_embedding": (1, 2, 4, 5)}


def test_kinds_are_among_the_hyperparameters_only_where_there_are_some():
    assert InterleavedDecay().to_dict() == {"r": 0.9}
    chosen = InterleavedDecay(kinds=("search",))
    assert InterleavedDecay(**chosen.to_dict()) == chosen


@pytest.mark.parametrize(("spec", "there"), [(OF_KINDS, "job, search"), (SPEC, "none")])
def test_a_kind_that_the_spec_lacks_is_refused(spec, there):
    with pytest.raises(InvalidInput, match=f"interleaved_decay: `kinds` .*: {there}. .*: post"):
        InterleavedDecay(kinds=("post",)).build(spec, VECTOR_SPEC)
