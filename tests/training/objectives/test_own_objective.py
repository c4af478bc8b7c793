"""Another objective is one class: items shown together, of which the member wanted some."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from keras import ops

from activity_embeddings.training.examples.held_out import Windows, hold_out
from activity_embeddings.training.fitting.loop import Fit
from activity_embeddings.training.fitting.plan import TrainingPlan
from activity_embeddings.training.fitting.train import train
from activity_embeddings.training.models import CNN
from activity_embeddings.training.objectives import WEIGHT, Objective, TrainingTask
from support.training_data import TRAIN, VALIDATION, VECTOR_SPEC, turns

pytestmark = pytest.mark.slow

HISTORY = turns()
SHOWN = 6


class SessionTask(TrainingTask):
    """Softmax over the items of a session, in whatever order they were shown."""

    def losses_of(self, embedding, inputs, vectors_of):
        logits = 5.0 * ops.einsum("nd,nkd->nk", embedding, vectors_of(inputs["shown_rows"]))
        return -ops.sum(inputs["wanted"] * ops.log_softmax(logits), axis=1)


@dataclass(frozen=True, kw_only=True)
class Sessions(Objective):
    """The item wanted, among others that were shown with it."""

    name: ClassVar[str] = "sessions"

    def examples(self, history, period, random):
        windows = Windows(minimum=1, prefixes=True)
        held_out = hold_out(history, period, windows=windows, random=random)
        held_out = held_out.take(np.isin(held_out.label, history.spec.positive_ids))
        shown = random.integers(0, len(history.vectors.item_ids), (len(held_out), SHOWN))
        shown[:, 0] = held_out.item
        order = np.argsort(random.random(shown.shape), axis=1)
        return {
            **history.model_inputs(held_out.sequences),
            "shown_rows": np.take_along_axis(shown, order, axis=1).astype(np.int32),
            "wanted": (order == 0).astype(np.float32),
            WEIGHT: np.ones(len(held_out), np.float32),
        }

    def task(self, sub_model, history, period):
        return SessionTask(sub_model, history.vectors)


def test_it_trains_by_the_same_function_and_learns():
    trained = train(
        CNN(filters=8, convolutions=2, dropout=0.0),
        TrainingPlan(
            history=HISTORY,
            vector_spec=VECTOR_SPEC,
            period=TRAIN,
            validation=VALIDATION,
            objective=Sessions(),
            fit=Fit(epochs=8, batch_size=128, learning_rate=5e-3),
        ),
    )
    losses = [epoch["loss"] for epoch in trained.result["training"]["history"]]
    assert losses[-1] < 0.8 * losses[0]
    assert trained.result["training"]["objective"] == {"objective": "sessions"}


def test_the_order_in_which_items_were_shown_changes_nothing():
    objective = Sessions()
    task = objective.task(CNN(filters=4).build(HISTORY.spec, VECTOR_SPEC), HISTORY, TRAIN)
    batch = next(objective.stream(HISTORY, TRAIN, batch_size=32).batches())
    turned = {**batch, **{name: batch[name][:, ::-1].copy() for name in ("shown_rows", "wanted")}}
    assert task(turned).numpy() == pytest.approx(task(batch).numpy(), rel=1e-5)
