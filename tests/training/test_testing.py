"""The contract suite passes good models in every form, and each check can fail."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from activity_embeddings.training.models import CNN, InterleavedDecay, Network
from activity_embeddings.training.packaging import package_model
from activity_embeddings.training.testing import (
    ACTIVITY_MODEL_CHECKS,
    ActivityModelCheckFailed,
    check_activity_model,
)
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

pytestmark = pytest.mark.slow

SPEC = ActivitySpec(length=4)
VECTOR_SPEC = ItemVectorSpec("test", "1", 3)
FACTS = {"spec": SPEC, "vector_spec": VECTOR_SPEC}


def packaged(model, path):
    package_model(model, path, name="some", version="1", litert=False, **FACTS)
    return path


# ---- good models


def test_a_name_an_architecture_a_built_model_and_a_saved_model_pass(tmp_path):
    built = CNN(filters=4, residual=False, ages=True).build(SPEC, VECTOR_SPEC)
    formula = InterleavedDecay().build(SPEC, VECTOR_SPEC)
    with_manifest = packaged(formula, tmp_path / "formula")
    without = tmp_path / "plain"
    tf.saved_model.save(formula, str(without), signatures={"serving_default": formula.serve})
    for model in (
        "interleaved_decay",
        InterleavedDecay(r=0.5),
        formula,
        built,
        with_manifest,
        str(with_manifest),
        without,
    ):
        check_activity_model(model, **FACTS)


def test_what_is_checked_is_left_as_it_was(tmp_path):
    built = CNN(filters=4).build(SPEC, VECTOR_SPEC)
    before = built.get_weights()
    check_activity_model(built, **FACTS)
    for one, other in zip(built.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    path = packaged(built, tmp_path / "model")
    files = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    check_activity_model(path, **FACTS)
    assert {f: f.read_bytes() for f in path.rglob("*") if f.is_file()} == files
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("check", ACTIVITY_MODEL_CHECKS)
def test_checks_run_one_by_one(check):
    check_activity_model(InterleavedDecay(), checks=[check], **FACTS)


# ---- bad models, one for each way in which a check can fail


def summed(item_embeddings, actions):
    """Good: the sum of the vectors at positions that are not PAD."""
    return tf.reduce_sum(item_embeddings * tf.cast(actions > 0, tf.float32)[..., None], axis=1)


class Module(tf.Module):
    """A module that computes what a test wants."""

    def __init__(self, compute=summed, *, length=4, dimension=3):
        super().__init__(name="bad")
        self.serve = tf.function(
            lambda item_embeddings, actions: {"x": compute(item_embeddings, actions)},
            input_signature=[
                tf.TensorSpec([None, length, dimension], tf.float32, "item_embeddings"),
                tf.TensorSpec([None, length], tf.int32, "actions"),
            ],
        )


def mean_of_batch(item_embeddings, actions):
    total = summed(item_embeddings, actions)
    return total - tf.reduce_mean(total, axis=0)


@dataclass(frozen=True, kw_only=True)
class Bad(Network):
    """Base of networks that break something."""

    name = "bad"
    residual: bool = False
    dropout: float = 0.0


class Biased(Bad):
    """Gives a constant for nothing."""

    def encode(self, features, mask):
        return keras.layers.Dense(5, name="dense", bias_initializer="ones")(features[:, -1])


class CountsPad(Bad):
    """Averages over all positions, PAD included."""

    def encode(self, features, mask):
        return ops.mean(features, axis=1)


class WeightPerPosition(Bad):
    """Has a weight for each position, so works at one length only."""

    def encode(self, features, mask):
        flat = keras.layers.Flatten()(features)
        return keras.layers.Dense(5, use_bias=False)(flat)


@keras.saving.register_keras_serializable(package="tests")
class EagerOnly(keras.layers.Layer):
    """Computes something else once it is in a graph."""

    def call(self, inputs):
        return inputs * 2.0 if tf.executing_eagerly() else inputs


class Unlike(Bad):
    """What is packaged is not what was trained."""

    def encode(self, features, mask):
        return EagerOnly()(ops.sum(features, axis=1))


def keras_model(compute, *, actions="actions", kind=keras.Model):
    """A Keras model of item embeddings, actions and ages that computes what a test wants."""
    inputs = {
        "item_embeddings": keras.Input((4, 3), name="item_embeddings"),
        actions: keras.Input((4,), dtype="int32", name=actions),
        "ages": keras.Input((4,), name="ages"),
    }
    active = ops.cast(inputs[actions] > 0, "float32")
    vectors = inputs["item_embeddings"] * ops.expand_dims(active, 2)
    return kind(inputs, {"x": compute(vectors, inputs["ages"])}, name="bad")


def sum_beside_ages(vectors, ages):
    """Good where ages are not read at PAD positions, which they are."""
    return ops.expand_dims(ops.sum(ages, axis=1), 1) * ops.sum(vectors, axis=1)


class Crops(keras.Model):
    """Takes longer sequences, and leaves out a part of them."""

    def __call__(self, inputs, **options):
        return super().__call__({name: x[:, -4:] for name, x in inputs.items()}, **options)


BAD = [
    (
        "signature",
        lambda: keras_model(sum_beside_ages, actions="kinds"),
        r"inputs should be named item_embeddings, act",
    ),
    ("signature", lambda: Module(dimension=2), r"should be float32 \[\?, 4, 3\]. Received: .* 2\]"),
    (
        "signature",
        lambda: keras_model(lambda vectors, _: vectors),
        r"output 'x' should be float32 \[\?, d\] .*Received: .*\[\?, 4, 3\]",
    ),
    (
        "wrong_inputs",
        lambda: Module(length=None),
        r"expected input '\w+' to be declared with its length.*Received: \(None, None",
    ),
    (
        "wrong_inputs",
        lambda: keras_model(sum_beside_ages, kind=Crops),
        r"expected sequences of 5 positions to be refused .*Received: outputs of shapes",
    ),
    (
        "all_pad",
        lambda: Module(lambda x, a: summed(x, a) / tf.norm(summed(x, a), axis=1, keepdims=True)),
        r"output 'x' to be finite for .*PAD. Received: NaN",
    ),
    ("all_pad", Biased, r"output 'activity_embedding' to be the zero vector .*Received: values up"),
    (
        "batch_invariance",
        lambda: Module(mean_of_batch),
        r"expected a row alone to give .*batch \(row 0\), to 1e-05. Received: output 'x' diff",
    ),
    (
        "padding_invariance",
        lambda: Module(lambda x, a: tf.reduce_sum(x, axis=1)),
        r"expected what 'item_embeddings' holds at PAD positions not to be read.*differs by",
    ),
    (
        "padding_invariance",
        lambda: keras_model(sum_beside_ages),
        r"expected what 'ages' holds at PAD",
    ),
    ("padding_invariance", CountsPad, r"expected the model, built for 5 positions more, .*differs"),
    (
        "padding_invariance",
        WeightPerPosition,
        r"shapes of weights not to depend on the .*\(24, 5\).*Received: .*\(54, 5\)",
    ),
    (
        "export_equality",
        Unlike,
        r"the same after it was packaged and loaded.*'activity_embedding' differs by",
    ),
]


def test_every_check_is_seen_to_fail():
    assert {check for check, _, _ in BAD} == set(ACTIVITY_MODEL_CHECKS)


@pytest.mark.parametrize(
    ("check", "make", "message"),
    [pytest.param(*row, id=f"{row[0]}-{i}") for i, row in enumerate(BAD)],
)
def test_a_bad_model_fails_the_check_and_the_suite_with_its_name(check, make, message):
    expected = rf"(?s)^activity model 'bad': check '{check}' failed: .*{message}"
    for checks in ([check], None):
        with pytest.raises(ActivityModelCheckFailed, match=expected):
            check_activity_model(make(), checks=checks, **FACTS)


def test_an_error_inside_a_model_is_reported_as_one_of_the_check():
    class Raises(Bad):
        def encode(self, features, mask):
            raise ZeroDivisionError("no such layer")

    with pytest.raises(
        AssertionError, match=r"'all_pad' failed: expected no error. Received: Zero"
    ):
        check_activity_model(Raises(), checks=["all_pad"], **FACTS)


def test_a_saved_model_made_for_something_else_fails(tmp_path):
    path = packaged(InterleavedDecay().build(SPEC, VECTOR_SPEC), tmp_path / "model")
    with pytest.raises(
        ActivityModelCheckFailed, match=r"'signature' failed: .*`length` should be 32"
    ):
        check_activity_model(path, vector_spec=VECTOR_SPEC)
    with pytest.raises(ActivityModelCheckFailed, match=r"`name` should be 'check'"):
        check_activity_model(path, spec=SPEC)
    with pytest.raises(ActivityModelCheckFailed, match=r"Received: no file saved_model.pb"):
        check_activity_model(tmp_path / "nowhere", **FACTS)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no_such_model", r"expected the name of a model, one of cnn, .*'no_such_model'"),
        (7, r"`model` should be an Architecture.*Received: 7"),
        (CNN, r"`model` should be an Architecture.*Received: <class"),
    ],
)
def test_what_is_no_model_is_refused(model, message):
    with pytest.raises(InvalidInput, match=message):
        check_activity_model(model, **FACTS)


def test_a_check_that_is_not_there_is_refused():
    with pytest.raises(InvalidInput, match=r"`checks` should be among signature, .*'speed'"):
        check_activity_model("cnn", checks=["signature", "speed"])
