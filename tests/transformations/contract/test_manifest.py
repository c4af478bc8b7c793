"""A manifest is written with the fingerprint of what lies beside it, and read back whole."""

import json

import pytest

from activity_embeddings.transformations.contract.manifest import ManifestKind
from activity_embeddings.transformations.contract.saved_model import fingerprint
from activity_embeddings.transformations.errors import InvalidInput

KIND = ManifestKind("thing", "thing.json", {"name": str}, {"owner": str})


@pytest.fixture
def saved(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    return tmp_path


def test_what_is_written_is_read_with_format_and_fingerprint(saved):
    written = KIND.write(saved, {"name": "a", "metrics": {"auc": 0.5}})
    assert (
        KIND.read(saved)
        == written
        == {
            "format": 1,
            "name": "a",
            "metrics": {"auc": 0.5},
            "fingerprint": fingerprint(saved),
        }
    )
    assert (saved / "assets.extra" / "thing.json").is_file()
    KIND.require_unchanged(written, saved, fingerprint(saved))


def test_no_manifest_is_an_empty_one(saved):
    assert KIND.read(saved) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "should be a JSON object"),
        ("[]", "should be a JSON object"),
        ("[" * 100_000, "should be a JSON object"),
        (json.dumps({"format": 1, "fingerprint": ""}), "Received: format 1, without name"),
        (json.dumps({"format": 9, "name": "a", "fingerprint": ""}), "Received: format 9"),
        (
            json.dumps({"format": 1, "name": ["a"], "fingerprint": ""}),
            "`name` should be of type str",
        ),
        (
            json.dumps({"format": 1, "name": "a", "fingerprint": "", "owner": 7}),
            "`owner` should be of type str. Received: 7",
        ),
    ],
)
def test_a_malformed_manifest_is_refused_by_kind_and_place(text, message, saved):
    (saved / "assets.extra").mkdir()
    (saved / KIND.file).write_text(text)
    with pytest.raises(InvalidInput, match=rf"thing .*thing\.json:? .*{message}"):
        KIND.read(saved)


def test_changed_content_and_names_that_are_none_are_refused(saved):
    manifest = KIND.write(saved, {"name": "a"})
    with pytest.raises(InvalidInput, match=r"thing 'a': .*Received: other \(changed"):
        KIND.require_unchanged(manifest, saved, "other")
    for name in (None, "", "A", "1a", "a-b", 7):
        with pytest.raises(InvalidInput, match="`name` should be lower-case"):
            KIND.require_name(name, saved, origin="the manifest")
    assert KIND.require_name("a_1", saved, origin="the manifest") == "a_1"
