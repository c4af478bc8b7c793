"""A packaged model computes what it did, says what it is, and never replaces a good one in vain."""

import json
import signal
import stat
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from activity_embeddings.training.models import CNN, GeometricDecay, UnweightedAverage
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.contract.activity_model import (
    ActivityModel,
    describe_model,
    read_manifest,
)
from activity_embeddings.transformations.contract.item_encoder import describe_item_encoder
from activity_embeddings.transformations.contract.kept_versions import kept_versions
from activity_embeddings.transformations.contract.saved_model import SIGNATURE
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support import processes
from support.item_encoders import SmallEncoder, package_encoder, vector_of

pytestmark = pytest.mark.slow

SPEC = ActivitySpec(length=6)
VECTOR_SPEC = ItemVectorSpec("test", "1", 5)


def package(model, path, **changes):
    facts = {"name": "some", "version": "1", "spec": SPEC, "vector_spec": VECTOR_SPEC}
    return package_model(model, path, **{**facts, "litert": False, **changes})


def inputs(n=20, seed=0):
    generator = np.random.default_rng(seed)
    kept = np.arange(6)[::-1] < (np.arange(n) % 7)[:, None]
    actions = np.where(kept, generator.integers(1, 4, (n, 6)), 0).astype(np.int32)
    embeddings = (generator.normal(size=(n, 6, 5)) * kept[:, :, None]).astype(np.float32)
    return {"item_embeddings": tf.constant(embeddings), "actions": tf.constant(actions)}


def reload(path):
    return tf.saved_model.load(str(path)).signatures[SIGNATURE]


def cnn():
    """A CNN whose every weight is random, so that each one matters to the outputs."""
    model = CNN(filters=8).build(SPEC, VECTOR_SPEC)
    generator = np.random.default_rng(3)
    model.set_weights(
        [generator.normal(0.0, 0.5, w.shape).astype(np.float32) for w in model.get_weights()]
    )
    return model


def test_a_packaged_keras_model_gives_what_keras_gives(tmp_path):
    model = cnn()
    described = package(model, tmp_path / "cnn")
    expected = model(inputs(), training=False)["activity_embedding"].numpy()
    got = reload(tmp_path / "cnn")(**inputs())
    assert set(got) == set(described.outputs) == {"activity_embedding"}
    np.testing.assert_allclose(got["activity_embedding"], expected, rtol=0, atol=1e-6)
    assert np.abs(expected[1:7]).mean() > 0.1
    assert described.outputs == {"activity_embedding": 5}
    assert not described.uses_ages


def test_a_keras_model_is_traced_for_its_signature_alone(tmp_path, monkeypatch):
    model, calls = cnn(), []
    call = type(model).call

    def counted(self, *args, **kwargs):
        calls.append(self)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "call", counted)
    package(model, tmp_path / "cnn")
    assert len(calls) == 1
    assert list(tf.saved_model.load(tmp_path / "cnn").signatures) == [SIGNATURE]


@pytest.mark.parametrize(
    "model",
    [UnweightedAverage().build(SPEC, VECTOR_SPEC), GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC)],
)
def test_a_packaged_formula_gives_what_its_module_gives(model, tmp_path):
    described = package(model, tmp_path / "formula")
    got = reload(tmp_path / "formula")(**inputs())
    assert described.outputs == {
        "apply_embedding": 5,
        "save_embedding": 5,
        "dismiss_embedding": 5,
    }
    for name, expected in model.serve(**inputs()).items():
        np.testing.assert_allclose(got[name], expected, rtol=0, atol=1e-6)


def test_the_manifest_says_what_was_given_and_what_was_written(tmp_path):
    facts = {
        "description": "for a test",
        "owner": "someone",
        "training": {"start": "2013-05-01", "examples": 3},
        "metrics": {"auc": 0.7},
        "parameters": {"r": 0.8},
    }
    described = package(GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC), tmp_path / "model", **facts)
    manifest = read_manifest(tmp_path / "model")
    assert manifest == {
        "format": 1,
        "name": "some",
        "version": "1",
        "spec": SPEC.to_dict(),
        "vector_spec": VECTOR_SPEC.to_dict(),
        "fingerprint": described.fingerprint,
        **facts,
    }
    assert (described.description, described.owner) == ("for a test", "someone")


def visible(folder):
    """Files of a folder, but for the versions that were replaced, which are kept."""
    return [file for file in folder.iterdir() if file.name != ".versions"]


def test_packaging_again_replaces_the_model_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "models" / "model"
    first = package(GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC), path)
    second = package(GeometricDecay(r=0.5).build(SPEC, VECTOR_SPEC), path, version="2")
    assert first.fingerprint != second.fingerprint
    assert describe_model(ActivityModel(path), spec=SPEC, vector_spec=VECTOR_SPEC) == second
    assert visible(path.parent) == [path]
    assert list(kept_versions(path)) == ["1"]


def test_packaging_to_a_link_replaces_the_model_that_it_points_to(tmp_path):
    real, link = tmp_path / "disk" / "model-2024", tmp_path / "models" / "model"
    package(GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC), real)
    real.chmod(0o750)
    link.parent.mkdir()
    link.symlink_to(real)
    second = package(GeometricDecay(r=0.5).build(SPEC, VECTOR_SPEC), link, version="2")
    assert second.path == link and link.is_symlink()
    assert describe_model(ActivityModel(real), spec=SPEC, vector_spec=VECTOR_SPEC).version == "2"
    assert visible(real.parent) == [real] and list(link.parent.iterdir()) == [link]
    assert stat.S_IMODE(real.stat().st_mode) == 0o750


def test_packaging_to_a_broken_link_is_refused(tmp_path):
    (tmp_path / "model").symlink_to(tmp_path / "gone")
    with pytest.raises(InvalidInput, match="gone, which is not there"):
        package(GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


class Broken(tf.Module):
    """A module whose signature is whatever a test wants."""

    def __init__(self, outputs=None, **shapes):
        super().__init__()
        outputs = outputs or (lambda x: {"embedding": tf.reduce_sum(x, axis=1)})
        self.serve = tf.function(
            lambda **tensors: outputs(tensors["item_embeddings"])
        ).get_concrete_function(
            **{
                name: tf.TensorSpec(shape, tf.float32 if name != "actions" else tf.int32, name)
                for name, shape in shapes.items()
            }
        )


GOOD = {"item_embeddings": [None, 6, 5], "actions": [None, 6]}
BROKEN = {
    "item embeddings of another length": (
        {**GOOD, "item_embeddings": [None, 6, 4]},
        None,
        r"input 'item_embeddings' should be float32 \[\?, 6, 5\]. "
        r"Received: float32 \[\?, 6, 4\]",
    ),
    "another number of positions": (
        {"item_embeddings": [None, 7, 5], "actions": [None, 7]},
        None,
        r"should be (float32 \[\?, 6, 5\]|int32 \[\?, 6\]). Received: (float32|int32) \[\?, 7",
    ),
    "a fixed batch": (
        {"item_embeddings": [4, 6, 5], "actions": [4, 6]},
        None,
        r"Received: (float32|int32) \[4, 6",
    ),
    "an unknown input": (
        {**GOOD, "member_age": [None, 6]},
        None,
        r"inputs should be named item_embeddings, actions .*Received: .*member_age",
    ),
    "no actions": (
        {"item_embeddings": [None, 6, 5]},
        None,
        r"inputs should be named .*Received: item_embeddings$",
    ),
    "an output a position": (
        GOOD,
        lambda x: {"embedding": x},
        r"output 'embedding' should be float32 \[\?, d\].*Received: float32 \[\?, 6, 5\]",
    ),
    "an output of integers": (
        GOOD,
        lambda x: {"embedding": tf.cast(tf.reduce_sum(x, axis=1), tf.int32)},
        r"output 'embedding' should be float32 \[\?, d\].*Received: int32",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_model_is_refused_by_name_and_the_old_one_stays(fault, tmp_path):
    shapes, outputs, message = BROKEN[fault]
    path = tmp_path / "model"
    good = package(UnweightedAverage().build(SPEC, VECTOR_SPEC), path)
    expected = reload(path)(**inputs())["apply_embedding"].numpy()

    with pytest.raises(InvalidInput, match=rf"(?s)model 'some': .*{message}"):
        package(Broken(outputs, **shapes), path)

    assert describe_model(ActivityModel(path), spec=SPEC, vector_spec=VECTOR_SPEC) == good
    np.testing.assert_array_equal(reload(path)(**inputs())["apply_embedding"], expected)
    assert list(tmp_path.iterdir()) == [path]


def test_a_broken_model_leaves_nothing_where_nothing_was(tmp_path):
    with pytest.raises(InvalidInput):
        package(Broken(item_embeddings=[None, 6, 5]), tmp_path / "models" / "model")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_name_that_cannot_name_a_view_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"`name` should be lower-case.*Received: 'Not-A-Name'"):
        package(UnweightedAverage().build(SPEC, VECTOR_SPEC), tmp_path / "model", name="Not-A-Name")
    assert list(tmp_path.iterdir()) == []


def test_a_keras_model_without_names_is_refused_by_name(tmp_path):
    embeddings = keras.Input((6, 5), name="first")
    actions = keras.Input((6,), dtype="int32", name="second")
    pooled = keras.layers.GlobalAveragePooling1D()(embeddings)
    model = keras.Model([embeddings, actions], pooled)
    with pytest.raises(InvalidInput, match=r"model 'some': inputs should be named"):
        package(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vector_spec": ItemVectorSpec("test", "1", 4)}, "`dimension` should be 4"),
        ({"vector_spec": ItemVectorSpec("test", "2", 5)}, "`version` should be '2'"),
        ({"vector_spec": ItemVectorSpec("other", "1", 5)}, "`name` should be 'other'"),
        (
            {"vector_spec": ItemVectorSpec("test", "1", 5, "retrained")},
            "`fingerprint` should be 'retrained'. Received: ''",
        ),
        ({"spec": ActivitySpec(length=7)}, "`length` should be 7"),
    ],
)
def test_a_model_made_for_other_facts_is_refused_by_name(change, message, tmp_path):
    package(UnweightedAverage().build(SPEC, VECTOR_SPEC), tmp_path / "model")
    facts = {"spec": SPEC, "vector_spec": VECTOR_SPEC, **change}
    with pytest.raises(InvalidInput, match=rf"model 'some' \(version 1\).*{message}"):
        describe_model(ActivityModel(tmp_path / "model"), **facts)


def test_a_changed_file_is_refused_by_name(tmp_path):
    package(GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC), tmp_path / "model")
    data = next(Path(tmp_path / "model" / "variables").glob("*.data-*"))
    data.write_bytes(data.read_bytes() + b"x")
    with pytest.raises(InvalidInput, match=r"model 'some': .*changed or corrupt file"):
        describe_model(ActivityModel(tmp_path / "model"), spec=SPEC, vector_spec=VECTOR_SPEC)


def test_a_model_packaged_before_there_were_fingerprints_takes_vectors_of_ones_own(tmp_path):
    described = package(UnweightedAverage().build(SPEC, VECTOR_SPEC), tmp_path / "model")
    file = tmp_path / "model" / "assets.extra" / "activity_model.json"
    manifest = json.loads(file.read_text())
    del manifest["vector_spec"]["fingerprint"]
    file.write_text(json.dumps(manifest))
    again = describe_model(ActivityModel(tmp_path / "model"), spec=SPEC, vector_spec=VECTOR_SPEC)
    assert again.vector_spec == described.vector_spec == VECTOR_SPEC


def test_a_packaged_item_encoder_gives_what_its_module_gives_and_replaces_the_one_before(tmp_path):
    path = tmp_path / "models" / "encoder"
    package_encoder(path, SmallEncoder(scale=2.0))
    described = package_encoder(path, version="2", training={"examples": 3})
    assert (described.version, described.manifest["training"]) == ("2", {"examples": 3})
    assert list(path.parent.iterdir()) == [path]
    got = reload(path)(
        title=tf.constant(["title"]),
        genres=tf.constant([["war", "", "short"]]),
        year=tf.constant([2010], tf.int64),
    )["embedding"]
    np.testing.assert_allclose(got[0], vector_of("title", ["war", "short"], 2010), atol=1e-6)


def test_a_keras_item_encoder_is_packaged_with_its_vocabulary(tmp_path):
    title = keras.Input((), dtype="string", name="title")
    words = keras.layers.TextVectorization(vocabulary=["nurse", "cook"], output_mode="multi_hot")
    vectors = keras.layers.Dense(5, name="dense")(words(title))
    model = keras.Model({"title": title}, {"embedding": vectors})
    described = package_encoder(tmp_path / "encoder", model)
    assert (list(described.inputs), described.dimension) == (["title"], 5)
    titles = tf.constant(["a cook", "Nurse"])
    np.testing.assert_allclose(
        reload(tmp_path / "encoder")(title=titles)["embedding"],
        model({"title": titles})["embedding"],
        atol=1e-6,
    )


def test_the_same_item_encoder_keeps_its_fingerprint_and_another_needs_a_new_version(tmp_path):
    path = tmp_path / "encoder"
    first = package_encoder(path, SmallEncoder(scale=2.0))
    # TensorFlow numbers functions as it goes, and would write other names.
    again = package_encoder(path, SmallEncoder(scale=2.0), training={"examples": 3})
    assert again.fingerprint == first.fingerprint
    assert again.manifest["training"] == {"examples": 3}
    with pytest.raises(InvalidInput, match=r"item encoder '.*': expected a new version, since"):
        package_encoder(path, SmallEncoder(scale=3.0))
    assert describe_item_encoder(path) == again


def test_a_broken_item_encoder_is_refused_and_the_old_one_stays(tmp_path):
    good = package_encoder(tmp_path / "encoder")
    with pytest.raises(InvalidInput, match="item encoder"):
        package_encoder(tmp_path / "encoder", GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC))
    with pytest.raises(InvalidInput, match=r"`version` should be letters"):
        package_encoder(tmp_path / "encoder", version="a/b")
    assert describe_item_encoder(tmp_path / "encoder") == good
    assert list(tmp_path.iterdir()) == [tmp_path / "encoder"]


@pytest.mark.process
def test_killed_while_it_writes_the_old_model_stays_and_the_next_run_succeeds(tmp_path):
    """SIGKILL in a process of its own, after the SavedModel and before its manifest."""
    path = tmp_path / "model"
    old = package(GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC), path)
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parent)]!r}
        from activity_embeddings.training import packaging
        from activity_embeddings.training.models import GeometricDecay
        from test_packaging import SPEC, VECTOR_SPEC, package
        packaging.write_manifest = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
        package(GeometricDecay(r=0.5).build(SPEC, VECTOR_SPEC), {str(path)!r}, version="2")
        """
    )
    done = processes.run(script)
    assert done.returncode == -signal.SIGKILL, done.stderr
    described = describe_model(ActivityModel(path), spec=SPEC, vector_spec=VECTOR_SPEC)
    assert described.fingerprint == old.fingerprint
    new = package(GeometricDecay(r=0.5).build(SPEC, VECTOR_SPEC), path, version="2")
    assert new.version == "2"
    assert visible(tmp_path) == [tmp_path / "model"]


@pytest.mark.process
def test_packaged_again_by_another_process_a_model_keeps_its_fingerprint(tmp_path):
    """TensorFlow writes its variables in an order of the process, and names of functions, too."""
    path = tmp_path / "cnn"
    first = package(cnn(), path)
    script = textwrap.dedent(
        f"""
        import sys
        sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parent)]!r}
        from test_packaging import cnn, package
        package(cnn(), {str(path.with_name("other"))!r})
        package(cnn(), {str(path)!r}, description="the same")
        """
    )
    done = processes.run(script)
    assert done.returncode == 0, done.stderr
    again = describe_model(ActivityModel(path), spec=SPEC, vector_spec=VECTOR_SPEC)
    assert again.fingerprint == first.fingerprint
    assert again.description == "the same"
    # As TensorFlow wrote it there, it is another.
    other = read_manifest(path.with_name("other"))
    assert other["fingerprint"] != first.fingerprint
    package(cnn(), path, version="2")
    assert package(cnn(), path).fingerprint == first.fingerprint  # which was kept


def slightly_other():
    """A CNN one of whose weights is another, by less than what LiteRT may be away."""
    model = cnn()
    first, *rest = model.get_weights()
    first.flat[0] += 1e-6
    model.set_weights([first, *rest])
    return model


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (slightly_other, {}),
        (lambda: GeometricDecay(r=0.8).build(SPEC, VECTOR_SPEC), {}),
        (cnn, {"vector_spec": ItemVectorSpec("test", "2", 5)}),
    ],
    ids=["weights", "architecture", "item vectors"],
)
def test_another_model_of_the_version_that_is_there_is_refused(model, changes, tmp_path):
    path = tmp_path / "some"
    first = package(cnn(), path)
    message = (
        rf"model 'some': expected a new version, since version 1 at {path} is another model. "
        "Received: version 1. Give this one another with --version"
    )
    with pytest.raises(InvalidInput, match=message):
        package(model(), path, **changes)
    assert describe_model(ActivityModel(path), spec=SPEC, vector_spec=VECTOR_SPEC) == first
    assert visible(tmp_path) == [path]


def test_another_model_of_a_version_that_is_kept_is_refused(tmp_path):
    path = tmp_path / "some"
    package(cnn(), path)
    package(slightly_other(), path, version="2")
    with pytest.raises(InvalidInput, match="expected a new version, since version 1 at"):
        package(slightly_other(), path)


def test_two_formulas_without_weights_are_not_taken_for_one_another(tmp_path):
    class Scaled(tf.Module):
        def __init__(self, scale):
            super().__init__()
            self.serve = tf.function(
                lambda item_embeddings, actions: {
                    "embedding": scale * tf.reduce_sum(item_embeddings, axis=1)
                }
            ).get_concrete_function(
                item_embeddings=tf.TensorSpec([None, 6, 5], tf.float32, "item_embeddings"),
                actions=tf.TensorSpec([None, 6], tf.int32, "actions"),
            )

    package(Scaled(1.0), tmp_path / "some")
    with pytest.raises(InvalidInput, match="expected a new version"):
        package(Scaled(2.0), tmp_path / "some")
