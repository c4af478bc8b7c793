"""The shared facts survive JSON, and wrong ones are refused by name."""

import json
from datetime import timedelta

import numpy as np
import pytest

from activity_embeddings.transformations.arrow import MOST_IN_ARRAY
from activity_embeddings.transformations.batch.executors.partition import MEMBERS_AT_ONCE
from activity_embeddings.transformations.batch.vector_run import POSTINGS_AT_ONCE
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import (
    LONGEST_SEQUENCE,
    LONGEST_VECTOR,
    LONGEST_WINDOW,
    MOST_ACTIONS,
    ActivitySpec,
    ItemVectorSpec,
    describe_mismatch,
)


def test_pad_is_id_0_and_actions_follow_in_order():
    spec = ActivitySpec()
    assert spec.vocabulary == ("PAD", "APPLY", "SAVE", "DISMISS")
    assert spec.positive_ids == (1, 2)
    assert spec.window_us == 28 * 86_400_000_000


def test_a_spec_survives_json():
    spec = ActivitySpec(timedelta(hours=36), 5, ("CLICK", "HIRE"), ("HIRE",))
    assert ActivitySpec.from_dict(json.loads(spec.to_json())) == spec


def many(count):
    return ("APPLY", "SAVE", *(f"A{i}" for i in range(2, count)))


def test_the_limits_are_those_of_the_types_behind_them():
    at_most = ActivitySpec(LONGEST_WINDOW, LONGEST_SEQUENCE, many(MOST_ACTIONS))
    assert ActivitySpec.from_dict(json.loads(at_most.to_json())) == at_most
    # Ids of actions, and labels of training, one more for each positive action.
    assert np.iinfo(np.int16).max >= 2 * MOST_ACTIONS
    # Elements of the lists of one Arrow array, for the largest batches.
    assert MEMBERS_AT_ONCE * LONGEST_SEQUENCE <= MOST_IN_ARRAY
    assert max(MEMBERS_AT_ONCE, POSTINGS_AT_ONCE) * LONGEST_VECTOR <= MOST_IN_ARRAY
    assert ItemVectorSpec("a", "1", LONGEST_VECTOR).dimension == LONGEST_VECTOR
    with pytest.raises(InvalidInput, match=r"at most 32,767. Received: 32768"):
        ItemVectorSpec("a", "1", LONGEST_VECTOR + 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"length": 0}, "positive"),
        ({"window": timedelta(0)}, "positive"),
        ({"actions": ("PAD", "APPLY")}, "leave out PAD"),
        ({"actions": ("SAVE", "SAVE")}, "distinct"),
        ({"positive_actions": ("HIRE",)}, "among `actions`"),
        ({"actions": many(MOST_ACTIONS + 1)}, r"`actions` should be at most 16,000.*16,001"),
        ({"length": LONGEST_SEQUENCE + 1}, r"`length` should be an int of at most 32,767.*32768"),
        ({"length": 32.0}, r"`length` should be of type int. Received: 32.0"),
        ({"length": True}, r"`length` should be of type int"),
        ({"window": 28}, r"`window` should be of type timedelta. Received: 28 of type int"),
        ({"actions": "APPLY"}, r"`actions` should be of type tuple or list. Received: 'APPLY'"),
        ({"actions": ("APPLY", 7)}, r"`actions\[1\]` should be of type str"),
        ({"positive_actions": ({},)}, r"`positive_actions\[0\]` should be of type str"),
        ({"other_actions": []}, r"'refuse' or 'ignore'. Received: \[\]"),
        (
            {"window": LONGEST_WINDOW + timedelta(hours=1)},
            r"at most 36,525 days. Received: 36,525 days and 1 hour",
        ),
    ],
)
def test_impossible_specs_are_refused(wrong, message):
    with pytest.raises(InvalidInput, match=message):
        ActivitySpec(**wrong)


def test_actions_may_be_a_list():
    spec = ActivitySpec(actions=["CLICK", "HIRE"], positive_actions=["HIRE"])
    assert spec == ActivitySpec(actions=("CLICK", "HIRE"), positive_actions=("HIRE",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": "32"}, "`length` should be of type int"),
        ({"window_seconds": [1]}, "`window_seconds` should be of type float or int"),
        ({"window_seconds": 1e300}, "`window_seconds` should be at most that of 36,525 days"),
        ({"actions": 7}, "`actions` should be of type tuple or list"),
    ],
)
def test_facts_that_are_none_are_refused(change, message):
    with pytest.raises(InvalidInput, match=message):
        ActivitySpec.from_dict({**ActivitySpec().to_dict(), **change})


@pytest.mark.parametrize("kind", [ActivitySpec, ItemVectorSpec])
@pytest.mark.parametrize("facts", [{}, [], 7])
def test_facts_that_are_missing_are_refused(kind, facts):
    with pytest.raises(InvalidInput, match="expected an object with "):
        kind.from_dict(facts)


def test_a_mismatch_is_named_with_both_values():
    ours, theirs = ItemVectorSpec("a", "1", 64), ItemVectorSpec("a", "2", 64)
    assert describe_mismatch(ours.to_dict(), ours.to_dict()) is None
    assert describe_mismatch(ours.to_dict(), theirs.to_dict()) == (
        "`version` should be '1'. Received: '2'"
    )


def test_an_encoder_is_told_from_one_retrained_under_its_version():
    ours, theirs = ItemVectorSpec("a", "1", 64, "one"), ItemVectorSpec("a", "1", 64, "two")
    assert describe_mismatch(ours.to_dict(), theirs.to_dict()) == (
        "`fingerprint` should be 'one'. Received: 'two'"
    )
    assert ItemVectorSpec.from_dict(ours.to_dict()) == ours


def test_an_item_embedding_from_before_there_were_fingerprints_has_none():
    before = {"name": "a", "version": "1", "dimension": 64}
    assert ItemVectorSpec.from_dict(before) == ItemVectorSpec("a", "1", 64, fingerprint="")
