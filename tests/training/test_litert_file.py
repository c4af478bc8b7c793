"""The LiteRT file that packaging keeps beside a SavedModel, and who runs what."""

import json

import numpy as np
import pytest
import tensorflow as tf

from activity_embeddings.training.models import GeometricDecay
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.contract.activity_model import (
    ActivityModel,
    describe_model,
    read_manifest,
)
from activity_embeddings.transformations.contract.litert_file import FILE
from activity_embeddings.transformations.errors import InvalidInput, ModelMismatch
from activity_embeddings.transformations.inference import conversion
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support.feast_repo import at

pytestmark = pytest.mark.slow

SPEC = ActivitySpec(length=6)
VECTOR_SPEC = ItemVectorSpec("test", "1", 5)


def package(model, path, **more):
    return package_model(
        model, path, name="some", version="1", spec=SPEC, vector_spec=VECTOR_SPEC, **more
    )


def describe(path):
    return describe_model(ActivityModel(path), spec=SPEC, vector_spec=VECTOR_SPEC)


@pytest.fixture
def packaged(tmp_path):
    return package(GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC), tmp_path / "model")


def test_a_packaged_model_has_one_that_is_not_part_of_its_fingerprint(packaged, tmp_path):
    assert packaged.runtime == "litert"
    assert packaged.converted.path == packaged.path / FILE
    assert "TensorFlow" not in packaged.summary()
    left_out = package(
        GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC), tmp_path / "other", litert=False, gpu=0.5
    )
    assert left_out.runtime == "tensorflow" and left_out.converted is None
    assert "in TensorFlow: it was packaged without a LiteRT file" in left_out.summary()
    assert left_out.gpu == 0.5


def test_a_gpu_is_asked_for_by_no_model_that_litert_runs_and_is_one_at_most(packaged):
    file = packaged.path / "assets.extra" / "activity_model.json"
    stated = json.loads(file.read_text())
    file.write_text(json.dumps(stated | {"gpu": 1}))
    assert describe(packaged.path).gpu == 0
    for received in ("2", "-0.5"):
        file.write_text(json.dumps(stated | {"gpu": float(received)}))
        expected = f"`gpu` in the manifest should be .* from 0 to 1. Received: {received}"
        with pytest.raises(InvalidInput, match=expected):
            describe(packaged.path)


@pytest.mark.parametrize(
    ("change", "received"),
    [
        (lambda file: file.unlink(), "no file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), r"\w+ \(changed or corrupt file\)"),
    ],
)
def test_a_file_that_is_gone_or_another_is_refused(packaged, change, received):
    change(packaged.path / FILE)
    expected = rf"'some': .*model.tflite should be the file that was packaged.*Received: {received}"
    with pytest.raises(ModelMismatch, match=expected):
        describe(packaged.path)


served = tf.function(
    input_signature=[
        tf.TensorSpec([None, 6, 5], tf.float32, name="item_embeddings"),
        tf.TensorSpec([None, 6], tf.int32, name="actions"),
    ]
)


class Unconvertible(tf.Module):
    """Computes with an operation that LiteRT does not know."""

    @served
    def serve(self, item_embeddings, actions):
        return {"x": tf.math.bessel_i0e(tf.reduce_sum(item_embeddings, axis=1))}


class Stateful(tf.Module):
    """Gives other values at each call, so that no conversion can agree with it."""

    @served
    def serve(self, item_embeddings, actions):
        total = tf.reduce_sum(item_embeddings, axis=1)
        return {"x": total + tf.random.uniform(tf.shape(total))}


class StatefulOnLongVectors(tf.Module):
    """Gives other values at each call where vectors are longer than any that is made up."""

    @served
    def serve(self, item_embeddings, actions):
        total = tf.reduce_sum(item_embeddings, axis=1)
        noise = tf.random.uniform(tf.shape(total), minval=1.0, maxval=2.0)
        return {"x": total + tf.where(tf.abs(total) > 1000.0, noise, tf.zeros_like(total))}


def real(**changes):
    sequences = {
        "item_embeddings": np.random.default_rng(0).normal(size=(9, 6, 5)).astype(np.float32),
        "actions": np.full((9, 6), 1, np.int32),
    }
    return sequences | changes


def test_a_difference_that_only_real_sequences_show_is_found(tmp_path):
    module, usual = StatefulOnLongVectors(), real()
    assert package(module, tmp_path / "1").converted is not None
    alike = package(module, tmp_path / "2", sequences=usual)
    assert read_manifest(alike.path)["litert"]["compared"] == {"made up": 4, "real": 9}
    # The last of them, which is not compared alone.
    usual["item_embeddings"][-1] *= 1e4
    different = package(module, tmp_path / "3", sequences=usual)
    assert different.converted is None and different.runtime == "tensorflow"
    assert "LiteRT's 'x' differs by" in different.summary()
    assert "on sequences that are real" in different.summary()


@pytest.mark.parametrize(
    "sequences",
    [
        {},
        {"actions": real()["actions"]},
        real(actions=np.zeros((9, 5), np.int32)),
        real(actions=np.zeros((8, 6), np.int32)),
        real(item_embeddings=np.zeros((9, 6, 4), np.float32)),
        {name: values[:0] for name, values in real().items()},
    ],
)
def test_sequences_that_the_model_does_not_take_are_refused(packaged, sequences):
    before = (packaged.path / FILE).read_bytes()
    expected = r"'some': `sequences` should be its inputs .*\(\d, 6, 5\).*Received: {"
    with pytest.raises(InvalidInput, match=expected):
        package(GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC), packaged.path, sequences=sequences)
    assert (packaged.path / FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("model", "why"),
    [(Unconvertible(), "LiteRT cannot run it: "), (Stateful(), "LiteRT's 'x' differs by ")],
)
def test_a_model_without_one_says_why(model, why, tmp_path):
    described = package(model, tmp_path / "model")
    assert not (described.path / FILE).exists()
    assert described.runtime == "tensorflow"
    assert f"in TensorFlow: {why}" in described.summary()


def test_a_model_that_litert_slows_down_keeps_tensorflow_for_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "SLOWER", -1.0)
    described = package(GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC), tmp_path / "model")
    assert described.converted is not None and described.runtime == "tensorflow"
    assert "LiteRT was slower" in described.summary()
    seconds = read_manifest(described.path)["litert"]["seconds_of_a_batch"]
    assert 0 < min(seconds.values()) < max(seconds.values()) < 60


def without_litert(models):
    for file in models.glob("*/assets.extra/activity_model.json"):
        manifest = json.loads(file.read_text())
        del manifest["litert"]
        file.write_text(json.dumps(manifest))


def test_one_history_does_not_mix_runtimes_unless_it_is_told_to(repo):
    output = repo.publish(at(0), at(1)).output
    assert "TensorFlow" not in output
    before = repo.stores()
    without_litert(repo.path / "models")
    refused = repo.feast("materialize", *(f"{at(d):%Y-%m-%dT%H:%M:%S}" for d in (1, 2)))
    assert refused.code != 0
    assert "`runtime` should be 'litert'. Received: 'tensorflow'" in refused.output
    assert "`mix_runtimes: true` under `batch_engine`" in refused.output
    assert repo.stores() == before
    repo.edit("feature_store.yaml", "snapshot_interval_hours: 24", "mix_runtimes: true")
    output = repo.materialize(at(1), at(2)).output
    assert "models   cnn runs in TensorFlow: it was packaged without a LiteRT file" in output
    row = repo.store.get_online_features(
        ["job_activity_embedding_cnn:activity_embedding"], [{"member_id": 14}]
    ).to_dict()
    assert np.isfinite(row["activity_embedding"][0]).all()
