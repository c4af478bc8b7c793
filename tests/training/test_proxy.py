"""The proxy task trains what it is given, keeps its best epoch, and measures without flattery."""

import keras
import numpy as np
import pyarrow as pa
import pytest
from reference import decayed_of, mean_of
from sklearn.metrics import roc_auc_score

from training.cnn import build_cnn
from training.examples import ProxyExamples
from training.proxy import ProxyTask, measure, measure_rivals, train_on_proxy
from transformations.errors import InvalidInput
from transformations.item_vectors import ItemVectors
from transformations.sequences import Sequences
from transformations.spec import ActivitySpec, ItemEmbedding

SPEC = ActivitySpec(length=6)
ITEMS = ItemEmbedding("test", "1", 5)
JOBS = 30


def job_vectors(seed=0):
    values = np.random.default_rng(seed).normal(size=(JOBS, 5))
    return ItemVectors.from_arrow(
        pa.table(
            {
                "job_id": np.arange(JOBS),
                "embedding": pa.array(values.tolist(), pa.list_(pa.float32())),
                "event_timestamp": pa.array([0] * JOBS, pa.timestamp("us", "UTC")),
            }
        ),
        ITEMS,
    )


def examples(n, seed=0, sampled_share=0.3):
    """Random inputs of 1 to 6 activities, random held-out jobs, random labels."""
    generator = np.random.default_rng(seed)
    count = generator.integers(1, 7, n).astype(np.int32)
    kept = np.arange(6)[::-1] < count[:, None]
    positive = generator.random(n) < 0.5
    return ProxyExamples(
        sequences=Sequences(
            job=np.where(kept, generator.integers(0, JOBS, (n, 6)), -1).astype(np.int32),
            action=np.where(kept, generator.integers(1, 4, (n, 6)), 0).astype(np.int32),
            time=np.where(kept, 1 + np.arange(6), 0),
            as_of=np.full(n, 10),
            count=count,
            unknown=np.zeros(n, dtype=np.int32),
            job_ids=pa.array(np.arange(JOBS)),
        ),
        held_out_rows=generator.integers(0, JOBS, n).astype(np.int32),
        positive=positive,
        sampled=~positive & (generator.random(n) < sampled_share),
        event=np.arange(n),
    )


def small_cnn(seed=0, **options):
    keras.utils.set_random_seed(seed)
    return build_cnn(SPEC, ITEMS, **{"filters": 16, "dropout": 0.0, **options})


def test_before_training_the_odds_are_a_scaled_dot_product():
    vectors, model, some = job_vectors(), small_cnn(), examples(20)
    task = ProxyTask(model, vectors)
    embedding = model(
        {
            "job_embeddings": vectors.matrix[some.sequences.rows(vectors)],
            "actions": some.sequences.action,
        }
    )["activity_embedding"].numpy()
    dot = (embedding * vectors.matrix[some.held_out_rows]).sum(axis=1)
    expected = 1 / (1 + np.exp(-ProxyTask.INITIAL_SCALE * dot))
    got = task(some.inputs(vectors)).numpy()
    np.testing.assert_allclose(got[:, 1], expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(got.sum(axis=1), 1.0, rtol=0, atol=1e-6)


def test_the_odds_depend_on_activity_and_job_by_their_product():
    vectors, some = job_vectors(), examples(8)
    task = ProxyTask(small_cnn(), vectors)
    generator = np.random.default_rng(1)
    kernel = generator.normal(size=(5, 2)).astype(np.float32)
    bias = generator.normal(size=2).astype(np.float32)
    task.head.set_weights([kernel, bias])
    inputs = some.inputs(vectors)
    embedding = task.sub_model(
        {"job_embeddings": vectors.matrix[inputs["job_rows"]], "actions": inputs["actions"]}
    )["activity_embedding"].numpy()
    logits = (embedding * vectors.matrix[some.held_out_rows]) @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(task(inputs).numpy(), expected, rtol=0, atol=2e-6)


def test_a_tiny_set_is_learnt_by_heart():
    tiny, model = examples(24, sampled_share=0.0), small_cnn()
    facts = train_on_proxy(
        model,
        tiny,
        tiny,
        job_vectors(),
        epochs=40,
        batch_size=24,
        learning_rate=0.01,
        patience=40,
    )
    assert facts["validation"]["log_loss"] < 0.01
    assert facts["validation"]["auc"] == 1.0


def test_the_sub_model_and_the_head_are_trained_and_the_job_vectors_are_not():
    vectors, model = job_vectors(), small_cnn()
    task = ProxyTask(model, vectors)
    trained = {id(v) for v in (*model.trainable_variables, *task.head.trainable_variables)}
    assert {id(v) for v in task.trainable_variables} == trained
    np.testing.assert_array_equal(task.matrix, vectors.matrix)


def test_the_best_epoch_is_kept():
    vectors, model = job_vectors(), small_cnn()
    train, validation = examples(200, seed=1), examples(60, seed=2)
    facts = train_on_proxy(
        model, train, validation, vectors, epochs=30, learning_rate=0.01, patience=3
    )
    losses = facts["history"]["val_loss"]
    assert facts["epochs"] == len(losses) == facts["best_epoch"] + 3 < 30
    # Random labels: what is learnt by heart does not carry over, so the best comes early.
    assert min(losses) == losses[facts["best_epoch"] - 1] < losses[-1]
    # The history is a mean over examples, the log loss one over weights.
    weights = np.where(validation.sampled, 0.5, 1.0)
    expected = min(losses) * len(validation) / weights.sum()
    assert facts["validation"]["log_loss"] == pytest.approx(expected, abs=1e-4)


def test_drawn_negatives_count_as_much_as_their_weight():
    vectors, some = job_vectors(), examples(100)
    assert some.sampled.any()
    without = some.take(~some.sampled)
    scores = np.linspace(0.05, 0.95, len(some))
    assert (
        measure(some, scores, sampled_weight=0.0)["log_loss"]
        == measure(without, scores[~some.sampled], sampled_weight=1.0)["log_loss"]
    )
    each = -np.log(np.where(some.positive, scores, 1 - scores))
    weights = np.where(some.sampled, 0.5, 1.0)
    assert measure(some, scores, sampled_weight=0.5)["log_loss"] == pytest.approx(
        (each * weights).sum() / weights.sum(), abs=1e-4
    )
    odds = ProxyTask(small_cnn(), vectors)(some.inputs(vectors)).numpy()
    each = -np.log(odds[np.arange(len(some)), some.positive.astype(int)])
    # One batch: the loss of the first epoch is that of the untrained model.
    facts = train_on_proxy(
        small_cnn(), some, some, vectors, epochs=1, batch_size=100, sampled_weight=0.25
    )
    expected = (each * np.where(some.sampled, 0.25, 1.0)).mean()
    assert facts["history"]["loss"] == [pytest.approx(expected, abs=2e-6)]


def test_measures_by_hand():
    four = examples(5)
    four = ProxyExamples(
        four.sequences,
        four.held_out_rows,
        positive=np.array([True, True, False, False, False]),
        sampled=np.array([False, False, False, True, True]),
        event=four.event,
    )
    assert measure(four, np.array([0.9, 0.3, 0.5, 0.1, 0.4])) == {
        "auc": 0.6667,
        "auc_dismissed": 0.5,
        "auc_sampled": 0.75,
    }
    assert set(measure(four.take(np.arange(3)), np.arange(3))) == {"auc", "auc_dismissed"}


def test_rivals_are_cosines_with_the_reference_averages():
    vectors, train, validation = job_vectors(), examples(100, seed=1), examples(80, seed=2)
    got = measure_rivals(train, validation, vectors, spec=SPEC, decay=0.7)
    formulas = {
        "mean": lambda chosen: mean_of(chosen, 5),
        "decayed_mean": lambda chosen: decayed_of(chosen, 5, 0.7),
    }
    rows = validation.sequences.rows(vectors)
    for name, formula in formulas.items():
        cosines = []
        for i in range(len(validation)):
            wanted = np.isin(validation.sequences.action[i], SPEC.positive_ids)
            average = np.array(formula(vectors.matrix[rows[i][wanted]].tolist()))
            job = vectors.matrix[validation.held_out_rows[i]]
            lengths = np.linalg.norm(average) * np.linalg.norm(job)
            cosines.append(average @ job / lengths if lengths else 0.0)
        assert got[name]["auc"] == round(roc_auc_score(validation.positive, cosines), 4)
    assert set(got) == {"mean", "decayed_mean", "job_alone", "decayed_mean_and_job"}


def test_a_model_without_the_output_or_of_another_length_is_refused_by_name():
    wrong_length = build_cnn(SPEC, ItemEmbedding("test", "1", 4))
    with pytest.raises(InvalidInput, match=r"model 'cnn'.*'activity_embedding' of length 5"):
        ProxyTask(wrong_length, job_vectors())
    inputs = keras.Input((6, 5), name="job_embeddings")
    bare = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(inputs), name="bare")
    with pytest.raises(InvalidInput, match=r"model 'bare'.*no dict of outputs"):
        ProxyTask(bare, job_vectors())


def test_examples_of_one_label_are_refused():
    some = examples(30)
    for train, validation, name in (
        (some.take(some.positive), some, "train"),
        (some, some.take(~some.positive), "validation"),
        (some.take(np.arange(0)), some, "train"),
    ):
        with pytest.raises(InvalidInput, match=f"`{name}` should hold examples of both labels"):
            train_on_proxy(small_cnn(), train, validation, job_vectors())
