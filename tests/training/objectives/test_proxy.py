"""The proxy task: labels, weights and balance, and a loss that plain numpy confirms."""

import keras
import numpy as np
import pytest

from activity_embeddings.training.examples.held_out import Windows
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.models import CNN
from activity_embeddings.training.objectives import Proxy
from activity_embeddings.training.objectives.negatives import label_counts, label_names
from activity_embeddings.training.objectives.proxy import CANDIDATE_ROW, WANTED
from activity_embeddings.transformations.errors import InvalidInput
from support.training_data import SPEC, TRAIN, VALIDATION, VECTOR_SPEC, day, turns

HISTORY = turns()
EVERY = Proxy(windows=Windows(prefixes=True, per_member=None))


def numbers():
    return np.random.default_rng(0)


def arrays(objective=EVERY):
    return objective.examples(HISTORY, TRAIN, numbers())


def test_what_is_wanted_and_how_much_it_weighs():
    objective = Proxy(
        windows=EVERY.windows, negative_weight=0.25, dismiss_weight=2.0, positive_weight=1.5
    )
    real, drawn = objective.held_out(HISTORY, TRAIN, numbers())
    labels = np.array(label_names(SPEC))[np.concatenate([real.label, drawn.label])]
    expected = {
        "APPLY": (1, 1.5),
        "SAVE": (1, 1.5),
        "DISMISS": (0, 2.0),
        "RAND_NEG_FOR_APPLY": (0, 0.25),
        "RAND_NEG_FOR_SAVE": (0, 0.25),
    }
    made = arrays(objective)
    assert set(labels) == set(expected)
    assert [(int(w), float(x)) for w, x in zip(made[WANTED], made["weight"], strict=True)] == [
        expected[label] for label in labels
    ]


def test_a_drawn_negative_weighs_less_than_a_real_dismiss_by_default():
    assert Proxy().negative_weight < Proxy().dismiss_weight


def test_the_balance_is_printed_as_counted():
    balance = EVERY.balance(HISTORY, TRAIN, seed=0)
    real, drawn = EVERY.held_out(HISTORY, TRAIN, numbers())
    assert balance["before_negatives"] == label_counts(real, SPEC)
    positives = label_counts(real, SPEC)["APPLY"] + label_counts(real, SPEC)["SAVE"]
    assert len(drawn) == positives
    after = balance["after_negatives"]
    assert after["RAND_NEG_FOR_APPLY"] == label_counts(real, SPEC)["APPLY"]
    assert after["RAND_NEG_FOR_SAVE"] == label_counts(real, SPEC)["SAVE"]
    assert sum(after.values()) == len(real) + positives


def test_losses_are_the_cross_entropy_of_the_formula():
    keras.utils.set_random_seed(0)
    model = CNN(filters=4).build(SPEC, VECTOR_SPEC)
    task = EVERY.task(model, HISTORY, TRAIN)
    batch = {name: values[:50] for name, values in arrays().items()}
    embedding = model.predict(
        {
            "item_embeddings": HISTORY.vectors.matrix[batch["item_rows"]],
            "actions": batch["actions"],
        },
        verbose=0,
    )["activity_embedding"]
    product = embedding * HISTORY.vectors.matrix[batch[CANDIDATE_ROW]]
    logits = product @ task.head.kernel.numpy() + task.head.bias.numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(probabilities[np.arange(50), batch[WANTED]])
    np.testing.assert_allclose(task(batch).numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(task.probabilities(batch).numpy(), probabilities, rtol=1e-4)
    weights = batch["weight"]
    loss = float(task.compute_loss(batch, y_pred=task(batch)))
    assert loss == pytest.approx((expected * weights).sum() / weights.sum(), rel=1e-4)


def test_it_starts_as_a_scaled_dot_product():
    task = EVERY.task(CNN(filters=4).build(SPEC, VECTOR_SPEC), HISTORY, TRAIN)
    difference = task.head.kernel.numpy() @ [-1, 1]
    np.testing.assert_allclose(difference, np.full(VECTOR_SPEC.dimension, task.INITIAL_SCALE))


def test_one_class_only_is_one_clear_error():
    history = turns()
    events = history.events
    only = events.where(np.isin(events.action, SPEC.positive_ids, invert=True))
    with pytest.raises(
        InvalidInput, match=r"wanted and of other items.*Received: {'DISMISS': \d+}"
    ):
        EVERY.balance(type(history).of(only, history.vectors, SPEC), TRAIN)


def test_no_examples_is_one_clear_error():
    later = Period(day(50), day(60))
    with pytest.raises(InvalidInput, match=r"wanted and of other items.*Received: none"):
        EVERY.balance(HISTORY, later)
    with pytest.raises(InvalidInput, match=r"enough activity.*no example of 100 members"):
        EVERY.stream(HISTORY, later).first()


def test_train_and_validation_examples_are_of_their_periods():
    for period in (TRAIN, VALIDATION):
        real, drawn = EVERY.held_out(HISTORY, period, numbers())
        for examples in (real, drawn):
            as_of = examples.sequences.as_of
            assert (as_of >= period.start_us).all() and (as_of < period.end_us).all()


def test_a_model_without_the_output_is_refused():
    inputs = keras.Input((8, 6), name="item_embeddings")
    model = keras.Model({"item_embeddings": inputs}, {"other": inputs[:, 0]})
    with pytest.raises(InvalidInput, match=r"output 'activity_embedding' of length 6.*'other'"):
        EVERY.task(model, HISTORY, TRAIN)


def test_every_member_can_weigh_the_same():
    objective = Proxy(windows=EVERY.windows, member_weight=1.0, negative_weight=1.0)
    real, drawn = objective.held_out(HISTORY, TRAIN, numbers())
    members = np.concatenate([real.member, drawn.member])
    totals = np.bincount(members, objective.examples(HISTORY, TRAIN, numbers())["weight"])
    np.testing.assert_allclose(totals[np.unique(members)], 1.0, rtol=1e-5)
