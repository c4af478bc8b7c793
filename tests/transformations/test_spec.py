"""The shared facts survive JSON, and wrong ones are refused by name."""

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from activity_embeddings.transformations.arrow import MOST_IN_ARRAY
from activity_embeddings.transformations.batch.executors.partition import MEMBERS_AT_ONCE
from activity_embeddings.transformations.batch.vector_run import POSTINGS_AT_ONCE
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.names import DomainNames
from activity_embeddings.transformations.spec import (
    LONGEST_SEQUENCE,
    LONGEST_VECTOR,
    LONGEST_WINDOW,
    MOST_ACTIONS,
    ActivityKind,
    ActivitySpec,
    ItemVectorSpec,
    describe_mismatch,
    vector_spec_of_kinds,
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
        ({"kinds": timedelta(1)}, r"`kinds` should be of type tuple or list"),
        ({"other_actions": pd.NA}, r"'refuse' or 'ignore'. Received: "),
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


JOBS = ActivitySpec(timedelta(days=28), 32)
SEARCHES = ActivitySpec(timedelta(days=28), 32, ("SEARCH",), ())


def test_kinds_make_one_spec_whose_own_kind_comes_first():
    spec = ActivitySpec.of_kinds({"job": JOBS, "search": SEARCHES}, {"job": 16})
    assert spec.actions == (*JOBS.actions, "SEARCH")
    assert spec.own_actions == JOBS.actions and spec.own_action_ids == (1, 2, 3)
    assert spec.positive_actions == JOBS.positive_actions
    assert (spec.shared_places, spec.keeps_places, spec.first_action_id("search")) == (16, True, 4)
    assert ActivitySpec.from_dict(json.loads(spec.to_json())) == spec
    assert describe_mismatch(spec.to_dict(), JOBS.to_dict()).startswith("`actions`")


def test_a_spec_of_one_kind_is_written_as_before_there_were_kinds():
    assert JOBS.to_json() == (
        '{"actions": ["APPLY", "SAVE", "DISMISS"], "length": 32, "other_actions": "refuse", '
        '"positive_actions": ["APPLY", "SAVE"], "window_seconds": 2419200.0}'
    )
    assert JOBS.own_action_ids == (1, 2, 3) and not JOBS.keeps_places


@pytest.mark.parametrize(
    ("search", "keep", "message"),
    [
        (("SAVE",), {}, "an action in common.*'SAVE' of job and of search"),
        ({"length": 8}, {}, "search should have the window and length of job.*28 days and 8"),
        ({"window": timedelta(days=7)}, {}, "Received: 7 days and 32"),
        ((), {}, "at least one action"),
        (("SEARCH",), {"post": 1}, "`keep` should be of job, search. Received: 'post'"),
        (("SEARCH",), {"job": -1}, "'job': `keep` should not be negative"),
        (("SEARCH",), {"job": 32, "search": 1}, "at most `length` together, 32"),
    ],
)
def test_kinds_that_do_not_go_together_are_refused(search, keep, message):
    said = {"actions": search} if isinstance(search, tuple) else {"actions": ("S",), **search}
    other = replace(SEARCHES, **said)
    with pytest.raises(InvalidInput, match=message):
        ActivitySpec.of_kinds({"job": JOBS, "search": other}, keep)


@pytest.mark.parametrize("name", ["\ufb01sh", "e\u0301tude", "\uff43lass", "two words", ""])
def test_a_name_that_python_would_write_in_another_way_is_refused(name):
    """Functions are found by it, and Python normalizes the names of functions."""
    for made in (lambda: ActivityKind(name, ("SEARCH",)), lambda: DomainNames(item=name)):
        with pytest.raises(InvalidInput, match=r"as Python writes them \(in NFKC\)"):
            made()
    assert DomainNames(item="\u00e9tude").item == ActivityKind("\u00e9tude", ("SEARCH",)).name


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"positive_actions": ("SEARCH",)}, "should be actions of job, the domain's own kind"),
        ({"actions": ("SEARCH", *JOBS.actions)}, "should be those of all kinds in turn"),
        ({"kinds": (ActivityKind("job", JOBS.actions),)}, "two or more of different names"),
        ({"kinds": ({"name": "job"},)}, "kinds"),
    ],
)
def test_a_spec_that_contradicts_its_kinds_is_refused(said, message):
    spec = ActivitySpec.of_kinds({"job": JOBS, "search": SEARCHES})
    with pytest.raises(InvalidInput, match=message):
        replace(spec, **said)


def test_vectors_of_kinds_are_one_kind_of_vectors():
    words, titles = ItemVectorSpec("words", "1", 64, "ab"), ItemVectorSpec("titles", "2", 64)
    assert vector_spec_of_kinds({"job": words, "search": words}) == words
    both = vector_spec_of_kinds({"job": words, "search": titles})
    assert both == ItemVectorSpec("words+titles", "1_2", 64, "ab+")
    with pytest.raises(InvalidInput, match=r"one dimension. Received: job 64, search 8"):
        vector_spec_of_kinds({"job": words, "search": replace(titles, dimension=8)})
