"""Models as functions of sequences."""

from datetime import timedelta

import keras
import numpy as np

from activity_embeddings.training.fitting.embed import decayed_average, embed_with, outputs_with
from activity_embeddings.training.models import SeveralRatesDecay
from activity_embeddings.training.outputs import ACTIVITY_EMBEDDING
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support.reference import US_PER_DAY, decayed_of, mean_of
from support.training_cases import event, history_of

DAY = US_PER_DAY


def test_an_average_without_a_model_equals_the_formulas():
    events = [event(1, j, ("SAVE", "DISMISS", "APPLY")[j % 3], j) for j in range(5)]
    vectors = [(j, -1, [float(j), 1.0]) for j in range(5)]
    history = history_of(events, vectors, ActivitySpec(length=8))
    sequences = history.sequences(np.array([0, 0]), np.array([10, 0]))
    positive = [vectors[j][2] for j in (0, 2, 3)]
    got = decayed_average(0.5)(sequences, history)
    np.testing.assert_allclose(got, [decayed_of(positive, 2, 0.5), [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(
        decayed_average(1.0)(sequences, history), [mean_of(positive, 2), [0, 0]], rtol=1e-6
    )


def test_a_model_embeds_sequences_in_their_order(monkeypatch):
    monkeypatch.setattr("activity_embeddings.training.fitting.embed.BATCH", 3)
    spec = ActivitySpec(window=timedelta(days=2), length=4)
    items = keras.Input((spec.length, 2), name="item_embeddings")
    ages = keras.Input((spec.length,), name="ages")
    summed = keras.ops.sum(items, axis=1) + keras.ops.sum(ages, axis=1, keepdims=True)
    model = keras.Model({"item_embeddings": items, "ages": ages}, {ACTIVITY_EMBEDDING: summed})
    events = [event(1, j, "SAVE", j * DAY) for j in range(8)]
    history = history_of(events, [(j, -1, [float(j), 1.0]) for j in range(8)], spec)
    as_of = np.arange(8)[::-1] * DAY
    sequences = history.sequences(np.zeros(8, dtype=int), as_of)
    # Within 2 days before day i lie the activities of the days i - 2 and i - 1.
    expected = [
        [sum(before) + ages, len(before) + ages]
        for before, ages in (
            (range(max(i - 2, 0), i), sum(i - j for j in range(max(i - 2, 0), i)))
            for i in range(7, -1, -1)
        )
    ]
    got = embed_with(model, history.spec)(sequences, history)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_outputs_have_their_names_and_shapes_also_for_no_sequence():
    history = history_of([event(1, 0, "SAVE", 0)], [(0, -1, [1.0, 2.0])], ActivitySpec(length=4))
    model = SeveralRatesDecay(rates=(0.5, 0.8)).build(history.spec, ItemVectorSpec("t", "1", 2))
    for as_of in ([DAY, 0], []):
        sequences = history.sequences(np.zeros(len(as_of), dtype=int), np.array(as_of, np.int64))
        outputs = outputs_with(model)(sequences, history)
        assert list(outputs) == ["decay_0_5_embedding", "decay_0_8_embedding"]
        for values in outputs.values():
            expected = np.array([[1.0, 2.0], [0.0, 0.0]][: len(as_of)]).reshape(-1, 2)
            np.testing.assert_allclose(values, expected)
