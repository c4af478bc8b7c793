"""What counts as an item encoder, what its description says, and how malformed ones are refused."""

import json
from datetime import UTC, datetime

import pytest
import tensorflow as tf

from activity_embeddings.transformations.contract.item_encoder import describe_item_encoder
from activity_embeddings.transformations.contract.saved_model import SIGNATURE, TensorSpec
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ItemVectorSpec
from support.feast_repo import DIMENSION, us
from support.item_encoders import VALID_FROM, SmallEncoder, package_encoder


def test_a_description_says_what_the_encoder_takes_gives_and_is(tmp_path):
    described = package_encoder(tmp_path / "encoder", version="2.1", description="for a test")
    assert described == describe_item_encoder(str(tmp_path / "encoder"))
    assert described.inputs == {
        "genres": TensorSpec("string", (None, None)),
        "title": TensorSpec("string", (None,)),
        "year": TensorSpec("int64", (None,)),
    }
    assert (described.name, described.version) == ("content", "2.1")
    assert described.valid_from == us(VALID_FROM)
    assert described.manifest["description"] == "for a test"
    assert described.vector_spec == ItemVectorSpec(
        "content", "2.1", DIMENSION, described.fingerprint
    )
    assert len(described.fingerprint) == 16
    assert "content version 2.1" in described.summary() and "title" in described.summary()


def test_the_item_id_is_an_input_but_no_content(tmp_path):
    encoder = plain({"job_id": tf.TensorSpec([None], tf.string), "year": YEAR})
    described = package_encoder(tmp_path / "encoder", encoder)
    assert list(described.inputs) == ["job_id", "year"]
    assert described.content_columns() == ["year"]


YEAR = tf.TensorSpec([None], tf.int64)


def plain(inputs, outputs=lambda year: {"embedding": tf.zeros([tf.shape(year)[0], 5])}):
    """Return an encoder with a signature that a test wants."""
    module = tf.Module()
    module.serve = tf.function(lambda **tensors: outputs(tensors["year"])).get_concrete_function(
        **{name: tf.TensorSpec(s.shape, s.dtype, name) for name, s in inputs.items()}
    )
    return module


BROKEN = {
    "an input of a wrong type": (
        plain({"year": YEAR, "pay": tf.TensorSpec([None], tf.float64)}),
        r"input 'pay' should be string, int64, float32 \[\?\].*Received: float64 \[\?\]",
    ),
    "a list of numbers": (
        plain({"year": YEAR, "codes": tf.TensorSpec([None, None], tf.int64)}),
        r"input 'codes' should be .*string \[\?, \?\] for a list. Received: int64 \[\?, \?\]",
    ),
    "a fixed number of words": (
        plain({"year": YEAR, "words": tf.TensorSpec([None, 7], tf.string)}),
        r"input 'words' .*Received: string \[\?, 7\]",
    ),
    "a fixed batch": (
        plain({"year": YEAR, "size": tf.TensorSpec([4], tf.int64)}),
        r"input 'size' .*Received: int64 \[4\]",
    ),
    "another output": (
        plain({"year": YEAR}, lambda year: {"vector": tf.zeros([tf.shape(year)[0], 5])}),
        r"one output 'embedding', float32 \[\?, d\].*Received: vector float32 \[\?, 5\]",
    ),
    "two outputs": (
        plain(
            {"year": YEAR},
            lambda year: {
                "embedding": tf.zeros([tf.shape(year)[0], 5]),
                "more": tf.zeros([tf.shape(year)[0], 5]),
            },
        ),
        "one output 'embedding'.*more",
    ),
    "no fixed length": (
        plain(
            {"year": YEAR},
            lambda year: {"embedding": tf.zeros([tf.shape(year)[0], tf.cast(year[0], tf.int32)])},
        ),
        r"with a fixed length d. Received: embedding float32 \[\d|\?, \?\]",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_signature_that_breaks_the_contract_is_refused_by_name(fault, tmp_path):
    encoder, message = BROKEN[fault]
    with pytest.raises(InvalidInput, match=rf"(?s)item encoder 'content': .*{message}"):
        package_encoder(tmp_path / "encoder", encoder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("valid_from"), r"without valid_from"),
        (lambda m: m.pop("version"), r"without version"),
        (lambda m: m.update(format=2), r"Received: format 2"),
        (lambda m: m.update(valid_from="2024-03-01"), r"`valid_from` .*zone.*'2024-03-01'"),
        (lambda m: m.update(valid_from="soon"), r"`valid_from` .*Received: 'soon'"),
        (lambda m: m.update(valid_from=7), r"`valid_from` .*Received: 7"),
        (lambda m: m.update(version="../1"), r"'content': `version` .*Received: '../1'"),
        (lambda m: m.update(name="My Encoder"), r"`name` should be lower-case.*'My Encoder'"),
        (lambda m: m.update(fingerprint="0" * 16), r"'content': .*changed or corrupt file"),
    ],
)
def test_a_malformed_manifest_is_refused(change, message, tmp_path):
    package_encoder(tmp_path / "encoder")
    file = tmp_path / "encoder" / "assets.extra" / "item_encoder.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(InvalidInput, match=rf"(?s)^item encoder .*{message}"):
        describe_item_encoder(tmp_path / "encoder")


def test_a_saved_model_without_manifest_and_no_saved_model_are_refused(tmp_path):
    encoder = SmallEncoder()
    tf.saved_model.save(encoder, str(tmp_path / "plain"), signatures={SIGNATURE: encoder.serve})
    with pytest.raises(InvalidInput, match=r"item encoder .*plain: expected a manifest"):
        describe_item_encoder(tmp_path / "plain")
    with pytest.raises(
        InvalidInput, match=r"item encoder .*Package the item encoder first.*ITEM_ENC"
    ):
        describe_item_encoder(tmp_path / "nothing")


def test_times_are_written_in_utc_and_need_a_zone(tmp_path):
    described = package_encoder(
        tmp_path / "encoder", valid_from=datetime.fromisoformat("2024-03-01T02:00:00+02:00")
    )
    assert described.manifest["valid_from"] == "2024-03-01T00:00:00+00:00"
    assert described.valid_from == us(datetime(2024, 3, 1, tzinfo=UTC))
    with pytest.raises(InvalidInput, match="`valid_from` should have a time zone"):
        package_encoder(tmp_path / "other", valid_from=datetime(2024, 3, 1))
    for no_time in ("2024-02-30T00:00:00Z", None, 1_709_251_200_000):
        with pytest.raises(InvalidInput, match=r"`valid_from` should be a datetime.*Received"):
            package_encoder(tmp_path / "other", valid_from=no_time)
    for form in ("2024-03-01T00:00:00Z", 1_709_251_200):
        again = package_encoder(tmp_path / "form", valid_from=form)
        assert again.valid_from == described.valid_from
