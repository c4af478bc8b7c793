"""The signature reader agrees with TensorFlow and does not need it."""

import shutil
import subprocess
import sys

import tensorflow as tf

from transformations.saved_model import TensorSpec, fingerprint, read_signature

MODEL_NAMES = ("unweighted_average", "geometric_decay", "cnn")


def as_tensor_specs(specs):
    return {
        name: TensorSpec(spec.dtype.name, tuple(spec.shape.as_list()))
        for name, spec in specs.items()
    }


def test_signatures_are_read_as_tensorflow_reads_them(models):
    for name in MODEL_NAMES:
        theirs = tf.saved_model.load(str(models / name)).signatures["serving_default"]
        ours = read_signature(models / name)
        assert ours.inputs == as_tensor_specs(theirs.structured_input_signature[1])
        assert ours.outputs == as_tensor_specs(theirs.structured_outputs)


def test_the_fingerprint_follows_content_and_not_the_place(models, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(models / "cnn", copy)
    assert fingerprint(copy) == fingerprint(models / "cnn")
    manifest = copy / "assets.extra" / "activity_model.json"
    manifest.write_text("{}")
    assert fingerprint(copy) == fingerprint(models / "cnn")
    variables = copy / "variables" / "variables.data-00000-of-00001"
    data = bytearray(variables.read_bytes())
    data[100] ^= 1
    variables.write_bytes(data)
    assert fingerprint(copy) != fingerprint(models / "cnn")


def test_reading_the_definitions_does_not_import_tensorflow(repo):
    script = "import services, sys; sys.exit('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=repo.path, check=False
    )
    assert done.returncode == 0
