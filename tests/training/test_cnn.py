"""The CNN keeps the model contract, ignores PAD wherever it is, and learns in every weight."""

import json
from datetime import UTC, datetime, timedelta

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from reference import US_PER_DAY, decayed_of

from training.cnn import INITIAL_DECAY, build_cnn, train_cnn
from training.package import package_model
from transformations.events import ActivityEvents
from transformations.item_vectors import ItemVectors
from transformations.model import read_manifest
from transformations.spec import ActivitySpec, ItemEmbedding

SPEC = ActivitySpec(length=8)
ITEMS = ItemEmbedding("test", "1", 6)


def awake(spec=SPEC, seed=0, **options):
    """A model whose every weight is random: what an untrained one leaves near zero shows too."""
    model = build_cnn(spec, ITEMS, filters=7, **options)
    generator = np.random.default_rng(seed)
    model.set_weights(
        [generator.normal(0.0, 0.5, w.shape).astype(np.float32) for w in model.get_weights()]
    )
    return model


def sequences(n, length=SPEC.length, seed=0):
    """Random sequences of 0, 1, … activities in turn, padded on the left."""
    generator = np.random.default_rng(seed)
    kept = np.arange(length)[::-1] < (np.arange(n) % (length + 1))[:, None]
    actions = np.where(kept, generator.integers(1, 4, (n, length)), 0).astype(np.int32)
    embeddings = generator.normal(size=(n, length, 6)).astype(np.float32) * kept[:, :, None]
    return {"job_embeddings": embeddings, "actions": actions}


def embed(model, inputs):
    return model(inputs, training=False)["activity_embedding"].numpy()


def test_inputs_and_output_are_those_of_the_contract():
    model = build_cnn(ActivitySpec(), ItemEmbedding("test", "1", 64))
    assert {name: (x.dtype, x.shape) for name, x in model.input.items()} == {
        "job_embeddings": ("float32", (None, 32, 64)),
        "actions": ("int32", (None, 32)),
    }
    assert {name: (x.dtype, x.shape) for name, x in model.output.items()} == {
        "activity_embedding": ("float32", (None, 64))
    }
    assert 25_000 < model.count_params() < 35_000


def test_all_pad_gives_the_zero_vector():
    inputs = {
        "job_embeddings": np.zeros((2, 8, 6), np.float32),
        "actions": np.zeros((2, 8), np.int32),
    }
    assert (embed(awake(), inputs) == 0.0).all()


def test_more_pad_to_the_left_changes_nothing():
    short, long = awake(SPEC), awake(ActivitySpec(length=13))
    inputs = sequences(50)
    padded = {
        "job_embeddings": np.pad(inputs["job_embeddings"], ((0, 0), (5, 0), (0, 0))),
        "actions": np.pad(inputs["actions"], ((0, 0), (5, 0))),
    }
    expected = embed(short, inputs)
    np.testing.assert_allclose(embed(long, padded), expected, rtol=0, atol=2e-6)
    assert np.abs(expected[1:9]).mean() > 0.1


def test_what_lies_at_a_padded_position_is_not_read():
    model, inputs = awake(), sequences(50)
    noise = np.random.default_rng(1).normal(size=inputs["job_embeddings"].shape)
    is_pad = (inputs["actions"] == 0)[:, :, None]
    noisy = np.where(is_pad, noise, inputs["job_embeddings"]).astype(np.float32)
    np.testing.assert_array_equal(
        embed(model, {**inputs, "job_embeddings": noisy}), embed(model, inputs)
    )


def test_a_row_does_not_depend_on_its_batch():
    model, inputs = awake(), sequences(40)
    together = embed(model, inputs)
    alone = np.concatenate(
        [embed(model, {k: v[i : i + 1] for k, v in inputs.items()}) for i in range(40)]
    )
    np.testing.assert_allclose(alone, together, rtol=0, atol=2e-6)


def test_order_and_action_of_each_activity_are_read():
    model, inputs = awake(), sequences(9)
    full = {k: v[8:] for k, v in inputs.items()}
    expected = embed(model, full)
    for i in range(SPEC.length):
        actions = full["actions"].copy()
        actions[0, i] = actions[0, i] % 3 + 1
        assert np.abs(embed(model, {**full, "actions": actions}) - expected).max() > 1e-3
    backwards = {k: np.ascontiguousarray(v[:, ::-1]) for k, v in full.items()}
    assert np.abs(embed(model, backwards) - expected).max() > 1e-3


def test_before_training_it_points_where_the_decayed_average_of_positives_does():
    model = build_cnn(SPEC, ITEMS, filters=7)
    model.get_layer("correction").kernel.assign(np.zeros((14, 6), np.float32))
    inputs = sequences(36)
    got = embed(model, inputs)
    for embedding, vectors, actions in zip(
        got, inputs["job_embeddings"], inputs["actions"], strict=True
    ):
        # The decay counts every activity, so a DISMISS takes up a power and gives no vector.
        n = int((actions > 0).sum())
        kept = [
            v if a != 3 else np.zeros(6)
            for v, a in zip(vectors[8 - n :], actions[8 - n :], strict=True)
        ]
        average = np.array(decayed_of(kept, 6, INITIAL_DECAY))
        expected = average / np.sqrt(average @ average + 0.1**2)
        np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-6)


def test_gradients_reach_every_weight_and_stay_finite_beside_an_empty_sequence():
    model = build_cnn(SPEC, ITEMS)
    inputs = sequences(36)
    assert (inputs["actions"][0] == 0).all()
    target = np.random.default_rng(2).normal(size=(36, 6)).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(inputs, training=False)["activity_embedding"] - target) ** 2)
    for weight, gradient in zip(
        model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
    ):
        assert gradient is not None, weight.path
        assert np.isfinite(gradient).all(), weight.path
        assert np.abs(gradient).max() > 0, weight.path


def test_saved_and_loaded_it_is_the_same_model(tmp_path):
    model, inputs = awake(), sequences(20)
    model.save(tmp_path / "cnn.keras")
    loaded = keras.models.load_model(tmp_path / "cnn.keras")
    np.testing.assert_array_equal(embed(loaded, inputs), embed(model, inputs))


def turns(members=150, per_member=16, seed=0):
    """Members who want a job of the other kind than that of their newest activity.

    What they wanted before misleads, the more the newer it is; the newest position tells.
    """
    generator = np.random.default_rng(seed)
    jobs = 40
    job = generator.integers(0, jobs, (members, per_member))
    wanted = np.ones(job.shape, dtype=bool)
    wanted[:, 1:] = job[:, 1:] % 2 != job[:, :-1] % 2
    action = np.where(wanted, generator.choice(["APPLY", "SAVE"], job.shape), "DISMISS").ravel()
    member, job = np.repeat(np.arange(members), per_member), job.ravel()
    times = np.sort(generator.integers(0, 30 * US_PER_DAY, (members, per_member))).ravel()
    vectors = generator.normal(size=(jobs, 6)) * 0.3
    vectors[:, 0] += np.where(np.arange(jobs) % 2, 1.0, -1.0)
    events = pa.table(
        {
            "member_id": member,
            "job_id": job,
            "action": action,
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )
    items = pa.table(
        {
            "job_id": np.arange(jobs),
            "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32())),
            "event_timestamp": pa.array([-1] * jobs, pa.timestamp("us", "UTC")),
        }
    )
    return ActivityEvents.from_arrow(events, SPEC), ItemVectors.from_arrow(items, ITEMS)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def train(seed=0, **options):
    events, vectors = turns()
    return train_cnn(
        events,
        vectors,
        spec=SPEC,
        item_embedding=ITEMS,
        start=EPOCH,
        validation_start=EPOCH + timedelta(days=20),
        end=EPOCH + timedelta(days=30),
        seed=seed,
        **{"epochs": 4, "batch_size": 64, "learning_rate": 1e-2, **options},
    )


@pytest.fixture(scope="module")
def trained():
    return train()


def test_it_learns_an_order_that_averages_see_in_part_and_the_job_alone_not_at_all(trained):
    _, facts = trained
    rivals = facts["metrics"]["validation_rivals"]
    assert facts["metrics"]["validation"]["auc_dismissed"] > 0.99
    assert rivals["decayed_mean_and_job"]["auc_dismissed"] < 0.9
    assert rivals["job_alone"]["auc_dismissed"] < 0.6


def test_facts_are_json_and_reach_the_manifest(trained, tmp_path):
    model, facts = trained
    assert json.loads(json.dumps(facts)) == facts
    assert set(facts) == {"training", "metrics", "parameters"}
    assert facts["training"]["start"] == "1970-01-01T00:00:00+00:00"
    assert facts["training"]["validation_start"] == "1970-01-21T00:00:00+00:00"
    assert facts["training"]["end"] == "1970-01-31T00:00:00+00:00"
    for part in ("train", "validation"):
        counts = facts["training"]["examples"][part]
        before, after = counts["before_negatives"], counts["after_negatives"]
        assert before["examples"] == before["positive"] + before["negative"]
        assert after["examples"] == before["examples"] + after["sampled_negative"]
        assert 0 < after["positive_share"] < before["positive_share"]
    assert facts["parameters"]["weights"] == model.count_params()

    package_model(
        model, tmp_path / "cnn", name="cnn", version="1", spec=SPEC, item_embedding=ITEMS, **facts
    )
    manifest = read_manifest(tmp_path / "cnn")
    assert {key: manifest[key] for key in facts} == facts


def test_the_seed_decides_the_weights_to_the_bit(trained):
    model, facts = trained
    again, same_facts = train()
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert facts == same_facts
    other_seed, _ = train(seed=1, epochs=1)
    assert any(
        (one != other).any()
        for one, other in zip(model.get_weights(), other_seed.get_weights(), strict=True)
    )
