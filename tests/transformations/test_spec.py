"""The shared facts survive JSON, and wrong ones are refused by name."""

import json
from datetime import timedelta

import pytest

from transformations.errors import InvalidInput
from transformations.spec import ActivitySpec, ItemEmbedding, describe_mismatch


def test_pad_is_id_0_and_actions_follow_in_order():
    spec = ActivitySpec()
    assert spec.vocabulary == ("PAD", "APPLY", "SAVE", "DISMISS")
    assert spec.positive_ids == (1, 2)
    assert spec.window_us == 28 * 86_400_000_000


def test_a_spec_survives_json():
    spec = ActivitySpec(timedelta(hours=36), 5, ("CLICK", "HIRE"), ("HIRE",))
    assert ActivitySpec.from_dict(json.loads(spec.to_json())) == spec


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"length": 0}, "positive"),
        ({"window": timedelta(0)}, "positive"),
        ({"actions": ("PAD", "APPLY")}, "leave out PAD"),
        ({"actions": ("SAVE", "SAVE")}, "distinct"),
        ({"positive_actions": ("HIRE",)}, "among `actions`"),
    ],
)
def test_impossible_specs_are_refused(wrong, message):
    with pytest.raises(InvalidInput, match=message):
        ActivitySpec(**wrong)


def test_a_mismatch_is_named_with_both_values():
    ours, theirs = ItemEmbedding("a", "1", 64), ItemEmbedding("a", "2", 64)
    assert describe_mismatch(ours.to_dict(), ours.to_dict()) is None
    assert describe_mismatch(ours.to_dict(), theirs.to_dict()) == (
        "`version` should be '1'. Received: '2'"
    )


def test_an_encoder_is_told_from_one_retrained_under_its_version():
    ours, theirs = ItemEmbedding("a", "1", 64, "one"), ItemEmbedding("a", "1", 64, "two")
    assert describe_mismatch(ours.to_dict(), theirs.to_dict()) == (
        "`fingerprint` should be 'one'. Received: 'two'"
    )
    assert ItemEmbedding.from_dict(ours.to_dict()) == ours


def test_an_item_embedding_from_before_there_were_fingerprints_has_none():
    before = {"name": "a", "version": "1", "dimension": 64}
    assert ItemEmbedding.from_dict(before) == ItemEmbedding("a", "1", 64, fingerprint="")
