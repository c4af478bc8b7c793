"""An ensemble is the mean of networks that are trained side by side, each by its own loss."""

from itertools import chain

import numpy as np
import pytest
import tensorflow as tf

from activity_embeddings.training.fitting.embed import embed_with
from activity_embeddings.training.fitting.loop import Fit
from activity_embeddings.training.fitting.plan import TrainingPlan
from activity_embeddings.training.fitting.train import load_run, train
from activity_embeddings.training.models import CNN
from activity_embeddings.training.models.ensemble import networks_of
from activity_embeddings.training.objectives import NextPositive, Proxy
from activity_embeddings.training.testing import check_activity_model
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.inference.embedder import Embedder
from support.networks import awake
from support.training_data import SPEC, TRAIN, VALIDATION, VECTOR_SPEC, turns

pytestmark = pytest.mark.slow

HISTORY = turns(members=40)
ENSEMBLE = CNN(filters=5, convolutions=1, dropout=0.0, ensemble=3)


def batch_of(objective):
    """The first batch of an objective's examples."""
    return next(objective.stream(HISTORY, TRAIN, batch_size=64).batches())


def test_it_keeps_the_contract():
    model = CNN(ensemble=2, ages=True)
    check_activity_model(model, spec=SPEC, vector_spec=VECTOR_SPEC)


def test_its_embedding_is_the_mean_of_those_of_its_networks():
    built, random = awake(ENSEMBLE, SPEC, VECTOR_SPEC), np.random.default_rng(1)
    inputs = {
        "item_embeddings": random.normal(size=(7, SPEC.length, VECTOR_SPEC.dimension)),
        "actions": random.integers(0, 4, (7, SPEC.length)),
    }
    inputs = {name: values.astype(built.input[name].dtype) for name, values in inputs.items()}
    received = built(inputs)["activity_embedding"].numpy()
    alone = [network(inputs)["activity_embedding"].numpy() for network in networks_of(built)]
    assert len(alone) == 3
    np.testing.assert_allclose(received, sum(alone) / 3, rtol=1e-5, atol=1e-6)
    assert not np.allclose(alone[0], alone[1])


@pytest.mark.parametrize("objective", [NextPositive(), Proxy()], ids=lambda o: o.name)
def test_each_network_is_trained_by_a_loss_of_its_own(objective):
    """Its gradients are those that it has alone, by the number of networks."""
    built, batch = awake(ENSEMBLE, SPEC, VECTOR_SPEC), batch_of(objective)

    def losses_and_gradients(model, weights):
        task = objective.task(model, HISTORY, TRAIN)
        with tf.GradientTape() as tape:
            losses = task(batch, training=True)
            loss = tf.reduce_sum(losses)
        gradients = tape.gradient(loss, weights)
        return losses.numpy(), [tf.convert_to_tensor(g).numpy() for g in gradients]

    weights = [network.trainable_variables for network in networks_of(built)]
    together, gradients = losses_and_gradients(built, [*chain.from_iterable(weights)])
    alone = [
        losses_and_gradients(network, own)
        for network, own in zip(networks_of(built), weights, strict=True)
    ]
    np.testing.assert_allclose(together, sum(losses for losses, _ in alone) / 3, rtol=1e-4)
    expected = [g / 3 for _, of_network in alone for g in of_network]
    for one, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and its folder."""
    run = tmp_path_factory.mktemp("ensemble") / "run"
    fit = Fit(epochs=2, batch_size=64, learning_rate=5e-3)
    plan = TrainingPlan(
        history=HISTORY,
        vector_spec=VECTOR_SPEC,
        period=TRAIN,
        validation=VALIDATION,
        fit=fit,
    )
    return train(ENSEMBLE, plan, run=run), run


def embedded(model):
    """What a model gives members at the end of validation."""
    members = np.arange(20)
    sequences = HISTORY.sequences(members, np.full(len(members), VALIDATION.end_us))
    return embed_with(model, SPEC)(sequences, HISTORY)


def test_its_networks_are_trained_and_stay_apart(trained):
    run, _ = trained
    first, *others = [embedded(network) for network in networks_of(run.model)]
    assert all(np.abs(first - other).max() > 1e-3 for other in others)
    untrained = embedded(ENSEMBLE.build(SPEC, VECTOR_SPEC))
    assert np.abs(embedded(run.model) - untrained).max() > 1e-3


def test_a_run_is_read_back_and_packaged_as_it_was_trained(trained, tmp_path):
    run, folder = trained
    np.testing.assert_array_equal(embedded(load_run(folder).model), embedded(run.model))
    described = run.package(tmp_path / "cnn", name="cnn", version="1")
    assert described.manifest["parameters"]["ensemble"] == 3
    members = np.arange(20)
    sequences = HISTORY.sequences(members, np.full(len(members), VALIDATION.end_us))
    for served in (Embedder([described]), Embedder([described], for_requests=True)):
        (outputs,) = served(sequences, HISTORY.vectors).values()
        np.testing.assert_allclose(
            outputs["activity_embedding"], embedded(run.model), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("number", [0, -1])
def test_no_network_at_all_is_refused(number):
    with pytest.raises(InvalidInput, match=rf"CNN: `ensemble` should be 1 or more.*: {number}"):
        CNN(ensemble=number)
