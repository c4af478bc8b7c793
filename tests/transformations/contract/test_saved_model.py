"""The signature reader agrees with TensorFlow and does not need it."""

import shutil

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from activity_embeddings.transformations.contract.saved_model import (
    TensorSpec,
    fingerprint,
    read_signature,
)

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


def test_every_type_of_tensor_is_called_as_tensorflow_calls_it(tmp_path):
    saved = saved_model_pb2.SavedModel()
    signature = saved.meta_graphs.add().signature_def["serving_default"]
    expected = {}
    for number in range(300):
        try:
            expected[f"x{number}"] = tf.as_dtype(number).name
        except TypeError:
            expected[f"x{number}"] = f"unknown type {number}"
        # Not through the field's own type, which takes only the numbers that it knows.
        signature.inputs[f"x{number}"].ParseFromString(b"\x10" + _varint(number))
    assert {"bool", "float16", "bfloat16", "uint8", "float32_ref"} <= set(expected.values())
    (tmp_path / "saved_model.pb").write_bytes(saved.SerializeToString())
    inputs = read_signature(tmp_path).inputs
    assert {name: tensor.dtype for name, tensor in inputs.items()} == expected


def _varint(number):
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80, high]) if high else bytes([low])


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
