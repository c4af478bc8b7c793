"""With sessions, what was done in one counts and in which order does not, however it is run."""

from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.models import (
    CNN,
    GRU,
    LSTM,
    InterleavedDecay,
    Network,
    SessionDecay,
    Transformer,
)
from activity_embeddings.training.models.layers import (
    SessionMeans,
    SessionTimes,
    newer_sessions,
    newer_than_sessions,
    newest_ages,
)
from activity_embeddings.training.packaging import package_model
from activity_embeddings.training.testing import check_activity_model
from activity_embeddings.transformations.contract.saved_model import SIGNATURE
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.inference.litert import LiteRTModel
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

pytestmark = pytest.mark.slow

SPEC = ActivitySpec(length=6)
VECTOR_SPEC = ItemVectorSpec("test", "1", 5)
GAP = 30
MINUTES_PER_DAY = 1440
MODELS = (
    SessionDecay(r=0.6, session_gap_minutes=GAP),
    CNN(session_gap_minutes=GAP),
    GRU(session_gap_minutes=GAP, ages=True),
    LSTM(session_gap_minutes=GAP, residual=False),
    Transformer(session_gap_minutes=GAP, ages=True),
)


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory):
    """From a model to its exported SavedModel and to its LiteRT file, each as a function."""

    @cache
    def of(model):
        built = model.build(SPEC, VECTOR_SPEC)
        generator = np.random.default_rng(0)
        for weight in built.trainable_variables:
            weight.assign(generator.normal(0.0, 0.5, weight.shape))
        described = package_model(
            built,
            tmp_path_factory.mktemp("sessions") / model.name,
            name=model.name,
            version="1",
            spec=SPEC,
            vector_spec=VECTOR_SPEC,
        )
        loaded = tf.saved_model.load(str(described.path))
        assert described.converted is not None, described.summary()
        litert = LiteRTModel(described.converted.path.read_bytes())

        def saved_model(inputs):
            tensors = {name: tf.constant(values) for name, values in inputs.items()}
            return loaded.signatures[SIGNATURE](**tensors)["activity_embedding"].numpy()

        return saved_model, lambda inputs: litert(inputs)["activity_embedding"]

    return of


@st.composite
def sessions_of_members(draw):
    """Sessions of one member, oldest first: lists of (minutes to the next one, action, vector).

    At most 6 activities in all. The last of a session is further than the gap from what follows.
    """
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4).filter(lambda s: sum(s) <= 6))
    vectors = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(6, 5))
    sessions, place = [], 0
    for size in sizes:
        waits = draw(st.lists(st.integers(0, GAP), min_size=size - 1, max_size=size - 1))
        waits.append(draw(st.integers(GAP + 1, 6 * MINUTES_PER_DAY)))
        actions = draw(st.lists(st.integers(1, 3), min_size=size, max_size=size))
        sessions.append(list(zip(waits, actions, vectors[place : place + size], strict=True)))
        place += size
    return sessions


def inputs_of(sessions):
    """Return one row of model inputs: the wait after the newest is its age."""
    activity = [one for session in sessions for one in session]
    first = SPEC.length - len(activity)
    inputs = {
        "item_embeddings": np.zeros((1, SPEC.length, 5), np.float32),
        "actions": np.zeros((1, SPEC.length), np.int32),
        "ages": np.zeros((1, SPEC.length), np.float32),
    }
    for i, (_, action, vector) in enumerate(activity):
        inputs["item_embeddings"][0, first + i] = vector
        inputs["actions"][0, first + i] = action
        minutes = sum(wait for wait, _, _ in activity[i:])
        inputs["ages"][0, first + i] = minutes / MINUTES_PER_DAY
    return inputs


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@settings(max_examples=40, deadline=None)
@given(sessions_of_members(), st.data())
def test_the_order_inside_a_session_changes_nothing(runtimes, model, sessions, data):
    other = []
    for session in sessions:
        done = data.draw(st.permutations([(action, vector) for _, action, vector in session]))
        # When in the session each was done changes too, but not when the session began and ended.
        waits = [wait for wait, _, _ in session]
        waits[:-1] = data.draw(st.permutations(waits[:-1]))
        other.append([(wait, *one) for wait, one in zip(waits, done, strict=True)])
    for run in runtimes(model):
        expected = run(inputs_of(sessions))
        atol = 1e-5 * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(run(inputs_of(other)), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@settings(max_examples=40, deadline=None)
@given(sessions_of_members().filter(lambda sessions: len(sessions) > 1))
def test_the_order_of_sessions_counts(runtimes, model, sessions):
    wanted = [[(wait, 1, vector) for wait, _, vector in session] for session in sessions]
    for run in runtimes(model):
        turned = run(inputs_of(wanted[::-1]))
        assert np.abs(turned - run(inputs_of(wanted))).max() > 1e-3


def numbered(sessions):
    """Return one row of model inputs with the numbers of sessions beside the ages."""
    inputs = inputs_of(sessions)
    numbers = [len(sessions) - place for place, session in enumerate(sessions) for _ in session]
    inputs["sessions"] = np.zeros((1, SPEC.length), np.int32)
    inputs["sessions"][0, SPEC.length - len(numbers) :] = numbers
    return inputs


NUMBERED = (
    SessionDecay(r=0.6, sessions=True),
    CNN(sessions=True),
    GRU(sessions=True, ages=True),
)


def taken(model, inputs):
    """Return the inputs that a model of `NUMBERED` takes."""
    without = () if getattr(model, "ages", False) else ("ages",)
    return {name: values for name, values in inputs.items() if name not in without}


@pytest.mark.parametrize("model", NUMBERED, ids=lambda model: model.name)
@settings(max_examples=30, deadline=None)
@given(sessions_of_members(), st.data())
def test_the_order_inside_a_numbered_session_changes_nothing_although_others_lie_between(
    runtimes, model, sessions, data
):
    inputs = numbered(sessions)
    (filled,) = np.nonzero(inputs["actions"][0])
    numbers = data.draw(st.permutations(inputs["sessions"][0, filled].tolist()))
    inputs["sessions"][0, filled] = numbers
    places = np.arange(SPEC.length)
    for number in set(numbers):
        own = filled[np.array(numbers) == number]
        places[own] = data.draw(st.permutations(own.tolist()))
    mixed = {**inputs, **{name: inputs[name][:, places] for name in ("item_embeddings", "actions")}}
    # Nor what lies at a padded position.
    pad = inputs["actions"] == 0
    mixed["ages"] = np.where(pad, np.float32(0.01), inputs["ages"])
    mixed["sessions"] = np.where(pad, np.int32(1), inputs["sessions"])
    for run in runtimes(model):
        expected = run(taken(model, inputs))
        atol = 1e-5 * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(run(taken(model, mixed)), expected, rtol=0, atol=atol)


def test_a_session_is_as_old_as_its_newest_activity_although_others_lie_between():
    # PAD, then sessions 2, 1, 2, 3, 1.
    sessions = np.array([[1, 2, 1, 2, 3, 1]], np.int32)
    mask = np.array([[0, 1, 1, 1, 1, 1]], np.float32)
    ages = np.array([[0.0, 5.0, 4.0, 3.0, 2.0, 1.0]], np.float32)
    newer = newer_than_sessions(sessions, mask)
    assert newer.numpy().tolist() == [[0, 1, 0, 1, 2, 0]]
    assert newest_ages(ages, newer, mask).numpy()[0, 1:].tolist() == [3, 1, 3, 2, 1]


@pytest.mark.parametrize("ages", [False, True])
def test_numbered_sessions_give_what_the_same_sessions_by_a_gap_give(ages):
    by_gap = CNN(session_gap_minutes=GAP, ages=ages).build(SPEC, VECTOR_SPEC)
    by_number = CNN(sessions=True, ages=ages).build(SPEC, VECTOR_SPEC)
    generator = np.random.default_rng(0)
    weights = [generator.normal(0.0, 0.5, weight.shape) for weight in by_gap.get_weights()]
    by_gap.set_weights(weights)
    by_number.set_weights(weights)
    for sizes in ((1, 2, 3), (6,), (1, 1, 1, 1), (2, 1)):
        sessions = [
            [(5, int(generator.integers(1, 4)), generator.normal(size=5)) for _ in range(size - 1)]
            + [(90, 1, generator.normal(size=5))]
            for size in sizes
        ]
        inputs = numbered(sessions)
        expected, got = (
            model({name: inputs[name] for name in model.input})["activity_embedding"].numpy()
            for model in (by_gap, by_number)
        )
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(sessions_of_members())
def test_a_decay_by_numbers_is_its_formula(sessions):
    inputs = taken(NUMBERED[0], numbered(sessions))
    got = NUMBERED_DECAY.serve(**inputs)["activity_embedding"].numpy()[0]
    np.testing.assert_allclose(got, slow_session_decay(sessions, 0.6), atol=1e-5)


NUMBERED_DECAY = SessionDecay(r=0.6, sessions=True).build(SPEC, VECTOR_SPEC)


def test_numbers_and_a_gap_together_are_refused():
    with pytest.raises(InvalidInput, match="CNN: `session_gap_minutes` should be 0 beside"):
        CNN(sessions=True, session_gap_minutes=GAP)


def slow_newer_sessions(times, gap):
    """Return how many sessions are newer than that of each time, by a loop from the newest."""
    counts = [0]
    for older, later in zip(times[-2::-1], times[:0:-1], strict=True):
        counts.insert(0, counts[0] + (later - older > gap))
    return counts


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 1799, 1800, 1801, 3600, 200_000]), min_size=1, max_size=9),
    st.integers(1, 600_000_000),
)
def test_sessions_are_those_of_the_times_whatever_the_as_of_time(waits, since_us):
    times = np.cumsum(waits) * 1_000_000
    as_of = times[-1] + since_us
    ages = ((as_of - times) / 86_400_000_000).astype(np.float32)[None]
    got = newer_sessions(ages, 1800.0).numpy()[0].tolist()
    assert got == slow_newer_sessions(times.tolist(), 1800 * 1_000_000)


def test_a_session_is_as_old_as_its_newest_activity():
    ages = np.array([[5.0, 4.5, 3.0, 2.9, 0.1]], np.float32)
    newer, age = SessionTimes(3 * 86_400 / 4)(ages)
    assert newer.numpy().tolist() == [[2, 2, 1, 1, 0]]
    np.testing.assert_array_equal(age, np.array([[4.5, 4.5, 2.9, 2.9, 0.1]], np.float32))


def test_means_of_sessions_by_hand():
    # PAD, then two activities of an older session and one of the newest.
    features = np.array([[[0.0, 0.0], [1.0, 2.0], [3.0, 6.0], [5.0, 7.0]]], np.float32)
    mask = np.array([[[0.0], [1.0], [1.0], [1.0]]], np.float32)
    means, of_session = SessionMeans()(features, mask, np.array([[1.0, 1.0, 1.0, 0.0]], np.float32))
    assert means.numpy().tolist() == [[[0, 0], [0, 0], [2, 4], [5, 7]]]
    assert of_session.numpy().tolist() == [[[0], [0], [1], [1]]]


def slow_session_decay(sessions, r):
    """Return the mean of positive vectors, each weighing r for each newer session."""
    weighed = [
        (r ** (len(sessions) - 1 - place), vector)
        for place, session in enumerate(sessions)
        for _, action, vector in session
        if action in SPEC.positive_ids
    ]
    total = sum(weight for weight, _ in weighed)
    return sum(weight * vector for weight, vector in weighed) / total if weighed else np.zeros(5)


@cache
def at_first(decay):
    """The formula, and a network that is not trained yet, as functions."""
    formula = SessionDecay(r=decay, session_gap_minutes=GAP).build(SPEC, VECTOR_SPEC)
    network = CNN(decay=decay, session_gap_minutes=GAP, filters=2).build(SPEC, VECTOR_SPEC)
    return lambda inputs: formula.serve(**inputs), tf.function(network)


@settings(max_examples=40, deadline=None)
@given(sessions_of_members(), st.sampled_from([0.5, 0.9]))
def test_a_decay_by_sessions_is_its_formula_and_where_a_network_starts(sessions, decay):
    expected = slow_session_decay(sessions, decay)
    for run in at_first(decay):
        got = run({name: tf.constant(v) for name, v in inputs_of(sessions).items()})
        np.testing.assert_allclose(got["activity_embedding"].numpy()[0], expected, atol=1e-5)


def test_a_small_decay_does_not_lose_an_old_session():
    vector, other = np.ones(5), np.zeros(5)
    sessions = [[(99, 1, vector)], *[[(99, 3, other)]] * 5]
    model = SessionDecay(r=1e-12, session_gap_minutes=GAP).build(SPEC, VECTOR_SPEC)
    got = model.serve(**inputs_of(sessions))["activity_embedding"].numpy()
    np.testing.assert_allclose(got, [vector], rtol=1e-6)


def test_where_each_positive_activity_is_a_session_it_is_the_interleaved_decay():
    sessions = [[(60, 1, np.random.default_rng(i).normal(size=5))] for i in range(6)]
    inputs = inputs_of(sessions)
    by_session = SessionDecay(r=0.7, session_gap_minutes=GAP).build(SPEC, VECTOR_SPEC)
    one_by_one = InterleavedDecay(r=0.7).build(SPEC, VECTOR_SPEC)
    np.testing.assert_allclose(
        by_session.serve(**inputs)["activity_embedding"],
        one_by_one.serve(inputs["item_embeddings"], inputs["actions"])["activity_embedding"],
        atol=1e-6,
    )


def test_a_network_of_another_package_gets_sessions_too():
    class Bag(Network):
        """The sum of what is read."""

        def encode(self, features, mask):
            return tf.keras.ops.sum(features, axis=1)

    check_activity_model(Bag(session_gap_minutes=GAP), spec=SPEC, vector_spec=VECTOR_SPEC)
    check_activity_model(Bag(sessions=True), spec=SPEC, vector_spec=VECTOR_SPEC)


@pytest.mark.parametrize("minutes", [-1, float("nan"), float("inf")])
def test_a_gap_that_is_none_is_refused(minutes):
    with pytest.raises(InvalidInput, match=f"CNN: `session_gap_minutes` .*Received: {minutes}"):
        CNN(session_gap_minutes=minutes)


@pytest.mark.parametrize(
    ("options", "name"), [({"session_gap_minutes": 0}, "session_gap_minutes"), ({"r": 1.0}, "r")]
)
def test_settings_of_the_formula_out_of_range_are_refused(options, name):
    with pytest.raises(InvalidInput, match=f"session_decay: `{name}` should be"):
        SessionDecay(**options)
