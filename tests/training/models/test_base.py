"""What every registered model promises, and what every network does on top of it."""

import json
from dataclasses import replace
from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.models import (
    CNN,
    InterleavedDecay,
    Network,
    UnweightedAverage,
    architecture,
    known_models,
)
from activity_embeddings.training.packaging import package_model
from activity_embeddings.training.testing import ACTIVITY_MODEL_CHECKS, check_activity_model
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support.networks import awake
from support.reference import decayed_of

pytestmark = pytest.mark.slow

SPEC = ActivitySpec(length=6)
VECTOR_SPEC = ItemVectorSpec("test", "1", 5)
PUBLISHED = (ActivitySpec(), ItemVectorSpec("test", "1", 64))

NETWORKS = [name for name in known_models() if issubclass(architecture(name), Network)]
VARIANTS = [
    pytest.param(architecture(name)(residual=residual, ages=ages), id=f"{name}{suffix}")
    for name in NETWORKS
    for residual, ages, suffix in ((True, False, ""), (False, True, "-alone-with-ages"))
]
# What sessions add is the same for all: see `test_sessions`.
VARIANTS.append(pytest.param(CNN(session_gap_minutes=30.0, ages=True), id="cnn-of-sessions"))


def sequences(n, length=SPEC.length, dimension=VECTOR_SPEC.dimension, seed=0):
    """Random sequences of 0, 1, … activities in turn, padded on the left."""
    generator = np.random.default_rng(seed)
    kept = np.arange(length)[::-1] < (np.arange(n) % (length + 1))[:, None]
    actions = np.where(kept, generator.integers(1, 4, (n, length)), 0).astype(np.int32)
    vectors = generator.normal(size=(n, length, dimension)).astype(np.float32) * kept[:, :, None]
    ages = np.where(kept, np.sort(generator.uniform(0, 28, (n, length)))[:, ::-1], 0)
    return {"item_embeddings": vectors, "actions": actions, "ages": ages.astype(np.float32)}


def embed(built, inputs):
    taken = {name: inputs[name] for name in built.input}
    return built(taken, training=False)["activity_embedding"].numpy()


@cache
def awake_function(model):
    """One function of a model that is awake, for any batch."""
    built = awake(model, SPEC, VECTOR_SPEC)
    signature = {name: tf.TensorSpec(x.shape, x.dtype) for name, x in built.input.items()}
    call = tf.function(lambda inputs: built(inputs, training=False), input_signature=[signature])

    def embed_by_graph(inputs):
        return call({name: inputs[name] for name in signature})["activity_embedding"].numpy()

    return embed_by_graph


# ---- every registered model


@pytest.mark.parametrize("name", known_models())
def test_every_registered_model_keeps_the_contract(name):
    check_activity_model(name, spec=SPEC, vector_spec=VECTOR_SPEC)


@pytest.mark.parametrize("model", [v for v in VARIANTS if "-" in v.id])
def test_every_network_keeps_the_contract_standing_alone_and_with_ages(model):
    check_activity_model(model, spec=SPEC, vector_spec=VECTOR_SPEC)


def test_no_check_is_left_out():
    assert len(ACTIVITY_MODEL_CHECKS) == 6


@pytest.mark.parametrize("name", known_models())
def test_hyperparameters_survive_json(name):
    cls = architecture(name)
    for model in (cls(), cls.suggest(Trial("last"))):
        assert cls(**json.loads(json.dumps(model.to_dict()))) == model
        assert hash(model) is not None


class Trial:
    """An Optuna trial that takes the first or the last of what may be chosen."""

    def __init__(self, which):
        self.index = {"first": 0, "last": -1}[which]
        self.asked = {}

    def suggest_categorical(self, name, choices):
        assert all(isinstance(c, bool | int | float | str) for c in choices)
        return self._answer(name, choices)

    def suggest_int(self, name, low, high, step=1):
        return self._answer(name, range(low, high + 1, step))

    def suggest_float(self, name, low, high, *, step=None, log=False):
        return self._answer(name, [low, high])

    def _answer(self, name, choices):
        assert name not in self.asked
        self.asked[name] = choices[self.index]
        return choices[self.index]


@pytest.mark.parametrize("which", ["first", "last"])
@pytest.mark.parametrize("name", known_models())
def test_the_search_space_holds_models_that_can_be_built(name, which):
    trial = Trial(which)
    model = architecture(name).suggest(trial)
    model.build(SPEC, VECTOR_SPEC)
    assert {key: getattr(model, key) for key in trial.asked if key != "rates"} == {
        key: value for key, value in trial.asked.items() if key != "rates"
    }
    assert trial.asked or not model.to_dict()


@pytest.mark.parametrize("name", known_models())
def test_it_is_published_and_served_by_litert(name, tmp_path):
    built = architecture(name)().build(SPEC, VECTOR_SPEC)
    described = package_model(
        built, tmp_path / name, name=name, version="1", spec=SPEC, vector_spec=VECTOR_SPEC
    )
    assert described.converted is not None


EXTRA = (1, 4)


@cache
def compiled(name, length):
    """One function of a model with fixed random weights, for sequences of a length."""
    model = architecture(name)()
    spec = replace(SPEC, length=length)
    if not model.trainable:
        module = model.build(spec, VECTOR_SPEC)
        taken = [spec.name for spec in module.serve.input_signature]
        return lambda inputs: module.serve(*(inputs[key] for key in taken))
    built = awake(model, spec, VECTOR_SPEC)
    signature = {key: tf.TensorSpec(x.shape, x.dtype) for key, x in built.input.items()}
    call = tf.function(lambda inputs: built(inputs, training=False), input_signature=[signature])
    return lambda inputs: call({key: inputs[key] for key in signature})


value = st.floats(-2.0, 2.0, width=32)
activity = st.tuples(st.integers(1, 3), st.lists(value, min_size=5, max_size=5))


@pytest.mark.parametrize("name", known_models())
@settings(max_examples=40, deadline=None)
@given(history=st.lists(activity, max_size=SPEC.length), extra=st.sampled_from(EXTRA))
def test_more_pad_to_the_left_changes_nothing(name, history, extra):
    outputs = []
    for length in (SPEC.length, SPEC.length + extra):
        vectors = np.zeros((1, length, VECTOR_SPEC.dimension), np.float32)
        actions, ages = np.zeros((1, length), np.int32), np.zeros((1, length), np.float32)
        for i, (action, vector) in enumerate(history, start=length - len(history)):
            # The newest two within an hour, the others hours apart.
            vectors[0, i], actions[0, i], ages[0, i] = vector, action, (length - i) ** 2 / 150
        inputs = {"item_embeddings": vectors, "actions": actions, "ages": ages}
        outputs.append(compiled(name, length)({k: tf.constant(v) for k, v in inputs.items()}))
    for output, expected in outputs[0].items():
        atol = 2e-6 * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(outputs[1][output], expected, rtol=0, atol=atol)


# ---- networks


@pytest.mark.parametrize("name", NETWORKS)
def test_inputs_output_and_size(name):
    for ages in (False, True):
        built = architecture(name)(ages=ages).build(*PUBLISHED)
        assert {key: (x.dtype, x.shape) for key, x in built.input.items()} == {
            "item_embeddings": ("float32", (None, 32, 64)),
            "actions": ("int32", (None, 32)),
            **({"ages": ("float32", (None, 32))} if ages else {}),
        }
        assert {key: (x.dtype, x.shape) for key, x in built.output.items()} == {
            "activity_embedding": ("float32", (None, 64))
        }
        assert 30_000 < built.count_params() < 60_000
        assert built.name == name


@pytest.mark.parametrize("ages", [False, True])
@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_residual_starts_at_exactly_the_decayed_average_of_the_positives(name, decay, ages):
    inputs = sequences(40)
    model = architecture(name)(decay=decay, ages=ages)
    got = embed(model.build(SPEC, VECTOR_SPEC), inputs)
    expected = [
        decayed_of([v for v, a in zip(vectors, actions, strict=True) if a in (1, 2)], 5, decay)
        for vectors, actions in zip(inputs["item_embeddings"], inputs["actions"], strict=True)
    ]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    formula = InterleavedDecay(r=decay).build(SPEC, VECTOR_SPEC)
    same = formula.serve(inputs["item_embeddings"], inputs["actions"])["activity_embedding"]
    np.testing.assert_allclose(got, same, rtol=0, atol=1e-6)
    assert np.abs(got).mean() > 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_a_residual_starts_at_the_decayed_average_of_all_kinds_of_activity(name):
    own = replace(SPEC, actions=SPEC.actions[:2], positive_actions=SPEC.actions[:1])
    others = replace(SPEC, actions=SPEC.actions[2:], positive_actions=())
    spec = ActivitySpec.of_kinds({"job": own, "search": others})
    inputs = sequences(40)
    got = embed(architecture(name)(decay=0.8).build(spec, VECTOR_SPEC), inputs)
    # The second action is of the own kind and not positive.
    expected = [
        decayed_of([v for v, a in zip(vectors, actions, strict=True) if a in (1, 3)], 5, 0.8)
        for vectors, actions in zip(inputs["item_embeddings"], inputs["actions"], strict=True)
    ]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    formula = InterleavedDecay(r=0.8, kinds=("job", "search")).build(spec, VECTOR_SPEC)
    same = formula.serve(inputs["item_embeddings"], inputs["actions"])["activity_embedding"]
    np.testing.assert_allclose(got, same, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", VARIANTS)
def test_gradients_reach_every_weight_and_stay_finite_beside_an_empty_sequence(model):
    # Every weight random: while the correction's kernel is zero, as at first, nothing flows
    # through it to what is before it.
    built, inputs = awake(model, SPEC, VECTOR_SPEC), sequences(36)
    assert (inputs["actions"][0] == 0).all()
    taken = {name: inputs[name] for name in built.input}
    target = np.random.default_rng(2).normal(size=(36, 5)).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((built(taken, training=False)["activity_embedding"] - target) ** 2)
    gradients = tape.gradient(loss, built.trainable_variables)
    for weight, gradient in zip(built.trainable_variables, gradients, strict=True):
        assert gradient is not None, weight.path
        assert np.isfinite(gradient).all(), weight.path
        assert np.abs(gradient).max() > 1e-6, weight.path


@pytest.mark.parametrize("name", NETWORKS)
def test_one_step_from_the_start_wakes_everything(name):
    # The kernel of the correction gets a gradient at once, and then lets it through.
    built, inputs = architecture(name)(dropout=0.0).build(SPEC, VECTOR_SPEC), sequences(36)
    taken = {key: inputs[key] for key in built.input}
    target = np.random.default_rng(2).normal(size=(36, 5)).astype(np.float32)
    reached = set()
    for _ in range(2):
        with tf.GradientTape() as tape:
            output = built(taken, training=True)["activity_embedding"]
            loss = tf.reduce_mean((output - target) ** 2)
        gradients = tape.gradient(loss, built.trainable_variables)
        for weight, gradient in zip(built.trainable_variables, gradients, strict=True):
            if (gradient.numpy() != 0).any():
                reached.add(weight.path)
                weight.assign_sub(gradient)
    assert reached == {weight.path for weight in built.trainable_variables}


@pytest.mark.parametrize("model", VARIANTS)
def test_what_lies_at_a_padded_position_is_not_read_to_the_bit(model):
    embed, inputs = awake_function(model), sequences(50)
    generator = np.random.default_rng(1)
    pad = inputs["actions"] == 0
    noisy = {
        **inputs,
        "item_embeddings": np.where(
            pad[:, :, None], generator.normal(size=(50, 6, 5)), inputs["item_embeddings"]
        ).astype(np.float32),
        "ages": np.where(pad, generator.uniform(0, 28, pad.shape), inputs["ages"]).astype("f4"),
    }
    np.testing.assert_array_equal(embed(noisy), embed(inputs))
    assert (embed(noisy)[0] == 0.0).all()


@pytest.mark.parametrize("model", VARIANTS)
def test_a_row_does_not_depend_on_its_batch(model):
    embed, inputs = awake_function(model), sequences(21)
    together = embed(inputs)
    alone = [embed({k: v[i : i + 1] for k, v in inputs.items()}) for i in range(21)]
    atol = 2e-6 * max(1.0, np.abs(together).max())
    np.testing.assert_allclose(np.concatenate(alone), together, rtol=0, atol=atol)
    assert np.abs(together[1:7]).mean() > 0.1


@pytest.mark.parametrize("model", VARIANTS)
def test_order_and_action_of_each_activity_are_read(model):
    embed, inputs = awake_function(model), sequences(SPEC.length + 1)
    full = {name: values[SPEC.length :] for name, values in inputs.items()}
    assert (full["actions"] > 0).all()
    expected = embed(full)
    for i in range(SPEC.length):
        actions = full["actions"].copy()
        actions[0, i] = actions[0, i] % 3 + 1
        assert np.abs(embed({**full, "actions": actions}) - expected).max() > 1e-3
    for i in range(SPEC.length - 1):
        order = np.arange(SPEC.length)
        order[[i, i + 1]] = order[[i + 1, i]]
        # Ages stay, so that only the order of what was done has changed.
        swapped = {
            "item_embeddings": full["item_embeddings"][:, order],
            "actions": full["actions"][:, order],
            "ages": full["ages"],
        }
        assert np.abs(embed(swapped) - expected).max() > 1e-3


def test_the_order_of_activities_does_not_change_an_unweighted_average():
    serve = UnweightedAverage().build(SPEC, VECTOR_SPEC).serve
    inputs = sequences(SPEC.length + 1)
    vectors, actions = (inputs[name][SPEC.length :] for name in ("item_embeddings", "actions"))
    order = np.random.default_rng(0).permutation(SPEC.length)
    expected = serve(vectors, actions)
    for name, values in serve(vectors[:, order], actions[:, order]).items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_ages_are_read_where_asked_for(name):
    embed, inputs = awake_function(architecture(name)(ages=True)), sequences(SPEC.length + 1)
    full = {key: values[SPEC.length :] for key, values in inputs.items()}
    expected = embed(full)
    for i in range(SPEC.length):
        ages = full["ages"].copy()
        ages[0, i] += 3.0
        assert np.abs(embed({**full, "ages": ages}) - expected).max() > 1e-5


@pytest.mark.parametrize("model", VARIANTS)
def test_a_tiny_set_is_learnt_by_heart(model):
    # 16 members, and for each one item of 16 that it should be told from the others.
    spec, vector_spec = ActivitySpec(length=5), ItemVectorSpec("test", "1", 8)
    keras.utils.set_random_seed(0)
    built = replace(model, dropout=0.0).build(spec, vector_spec)
    inputs = sequences(20, length=5, dimension=8)
    # Not the empty ones: they all have the same embedding, zero.
    some = inputs["actions"][:, -1] > 0
    taken = {name: tf.constant(inputs[name][some]) for name in built.input}
    generator = np.random.default_rng(1)
    items = tf.constant(generator.normal(size=(16, 8)), tf.float32)
    wanted = tf.constant(generator.permutation(16))
    optimizer = keras.optimizers.Adam(1e-2)
    optimizer.build(built.trainable_variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            embedding = built(taken, training=True)["activity_embedding"]
            logits = tf.matmul(embedding, items, transpose_b=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits))
        optimizer.apply(tape.gradient(loss, built.trainable_variables))
        return loss

    first = float(step())
    losses = (float(step()) for _ in range(300))
    assert first > 1.0
    assert any(loss < 0.05 for loss in losses)


@pytest.mark.parametrize("model", VARIANTS)
def test_saved_and_loaded_it_is_the_same_model(model, tmp_path):
    built, inputs = awake(model, SPEC, VECTOR_SPEC), sequences(20)
    built.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(embed(loaded, inputs), embed(built, inputs))


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_is_of_training_alone_and_the_seed_decides_the_weights(name):
    inputs = sequences(20)
    built = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        built.append(architecture(name)(dropout=0.5, residual=False).build(SPEC, VECTOR_SPEC))
    one, same, other = (embed(b, inputs) for b in built)
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    taken = {key: inputs[key] for key in built[0].input}
    dropped = built[0](taken, training=True)["activity_embedding"].numpy()
    assert np.abs(dropped - one).max() > 1e-3


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("dropout", 1.0), ("dropout", -0.1), ("decay", 0.0), ("decay", 1.0), ("decay", float("nan"))],
)
def test_hyperparameters_out_of_range_are_refused(field, wrong):
    with pytest.raises(InvalidInput, match=rf"CNN: `{field}` should be in .*Received: {wrong}"):
        CNN(**{field: wrong})


def test_a_class_that_is_not_registered_can_be_built():
    class Bag(Network):
        """The sum of what is read."""

        def encode(self, features, mask):
            return keras.ops.sum(features, axis=1)

    check_activity_model(Bag(), spec=SPEC, vector_spec=VECTOR_SPEC)


class Nothing(Network):
    """Reads nothing, so that all that is left is the way around the encoding."""

    def encode(self, features, mask):
        return keras.ops.sum(features, axis=1)[:, :1] * 0.0


def test_the_newest_item_goes_through_a_map_of_its_actions_own():
    built, inputs = awake(Nothing(residual=False), SPEC, VECTOR_SPEC), sequences(30)
    kernel = built.get_layer("activity_embedding").kernel.numpy()
    assert kernel.shape == (1 + 3 * 5, 5)
    expected = np.zeros((30, 5))
    for i in range(30):
        action = inputs["actions"][i, -1]
        if action:
            of_action = kernel[1 + (action - 1) * 5 : 1 + action * 5]
            expected[i] = inputs["item_embeddings"][i, -1] @ of_action
    np.testing.assert_allclose(embed(built, inputs), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("actions", "newest", "maps"), [(32, True, 32), (33, True, 0), (3, False, 0)]
)
def test_there_is_a_map_an_action_unless_there_are_many(actions, newest, maps):
    named = tuple(f"A{i}" for i in range(actions))
    spec = replace(SPEC, actions=named, positive_actions=named[:1])
    built = Nothing(newest=newest).build(spec, VECTOR_SPEC)
    assert built.get_layer("correction").kernel.shape == (1 + maps * 5, 5)
