"""What a recommender knows without an embedding, strictly before a moment."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.evaluation.base_features import (
    MOST_DAYS,
    PROFILE,
    BaseFeatures,
    Categories,
    content_match,
)
from support.reference import US_PER_DAY, sequence
from support.training_cases import LENGTH, MOMENTS, SPEC, WINDOW_US, histories, history_of
from support.training_reference import POSITIVE, distinct

DAY = US_PER_DAY
KINDS = {item: [k for k in "abc" if (item + ord(k)) % (2 + item % 2) == 0] for item in range(9)}
PRIOR = 10


def postings(rows):
    """Return (item_id, time, kinds, place) as a table."""
    items, times, kinds, places = zip(*rows, strict=True)
    return pa.table(
        {
            "job_id": pa.array(items, pa.int64()),
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            "kinds": pa.array(kinds, pa.list_(pa.string())),
            "place": pa.array(places, pa.string()),
        }
    )


def categories_of(item_ids):
    table = postings([(item, 0, kinds, None) for item, kinds in KINDS.items()])
    return Categories.from_arrow(table, ["kinds"], item_ids, until=0)


def days_since(moment, times):
    return min(max((moment - max(times)) / DAY, 0), MOST_DAYS) if times else MOST_DAYS


@settings(max_examples=75, deadline=None)
@given(histories(), MOMENTS)
def test_items_are_counted_strictly_before_the_moment(case, moment):
    events, vectors = case
    history = history_of(events, vectors, SPEC)
    posted = np.arange(len(history.vectors.item_ids)) * DAY
    features = BaseFeatures(history, posted, categories_of(history.vectors.item_ids))
    found = features.of_items(moment)
    known = {item for item, _, _ in vectors}
    before = [e for e in distinct(events) if e["time"] < moment and e["job_id"] in known]
    liked = [e for e in before if e["action"] in POSITIVE]
    share = len(liked) / len(before) if before else 0.0
    for j, item in enumerate(history.vectors.item_ids.to_pylist()):
        own = [e["time"] for e in before if e["job_id"] == item]
        own_liked = [e["time"] for e in liked if e["job_id"] == item]
        expected = {
            f"positives_{days}d": sum(t >= moment - days * DAY for t in own_liked)
            for days in (1, 7, 28)
        }
        expected["positives"] = len(own_liked)
        expected["positive_share"] = (len(own_liked) + PRIOR * share) / (len(own) + PRIOR)
        expected["days_since_activity"] = days_since(moment, own)
        expected["days_since_first_activity"] = days_since(moment, own and [min(own)])
        expected["days_since_posted"] = days_since(moment, [int(posted[j])])
        assert {name: float(column[j]) for name, column in found.items()} == pytest.approx(
            expected, rel=1e-5
        )


@settings(max_examples=100, deadline=None)
@given(histories(), st.lists(MOMENTS, min_size=1, max_size=4))
def test_members_are_told_by_what_they_did_before_their_own_moment(case, moments):
    events, vectors = case
    history = history_of(events, vectors, SPEC)
    categories = categories_of(history.vectors.item_ids)
    features = BaseFeatures(history, np.zeros(len(history.vectors.item_ids)), categories)
    known = {item for item, _, _ in vectors}
    rows = [e for e in distinct(events) if e["job_id"] in known]
    members = history.events.member_ids.to_pylist()
    member = np.repeat(np.arange(len(members)), len(moments))
    moment = np.tile(np.array(moments), len(members))
    found = features.of_members(member, moment)
    sums = features.recent_categories(member, moment)
    for i, (m, now) in enumerate(zip(member, moment, strict=True)):
        own = [e for e in rows if e["member_id"] == members[m] and e["time"] < now]
        liked = [e["job_id"] for e in own if e["action"] in POSITIVE]
        everyone = [e["action"] in POSITIVE for e in rows if e["time"] < now]
        share = sum(everyone) / len(everyone) if everyone else 0.0
        assert found["activities"][i] == len(own)
        expected = (len(liked) + PRIOR * share) / (len(own) + PRIOR)
        assert found["positive_share"][i] == pytest.approx(expected, rel=1e-5)
        wanted = [f"kinds={k}" for item in liked for k in KINDS[item]]
        assert found[PROFILE][i].tolist() == [wanted.count(name) for name in categories.names]
        recent, _ = sequence(
            events, vectors, members[m], int(now), window_us=WINDOW_US, length=LENGTH
        )
        for action in ("APPLY", "SAVE", "DISMISS"):
            items = [item for item, done, _ in recent if done == action]
            counted = [f"kinds={k}" for item in items for k in KINDS[item]]
            assert sums[f"{action.lower()}_categories"][i].tolist() == [
                counted.count(name) for name in categories.names
            ]


def test_categories_are_of_text_and_of_lists_and_a_rare_one_weighs_more():
    table = postings(
        [(1, 0, ["x", "y"], "here"), (2, 0, ["x"], "there"), (3, 0, None, None), (9, 0, ["z"], "q")]
    )
    found = Categories.from_arrow(table, ["kinds", "place"], pa.array([1, 2, 3, 4]), until=0)
    assert found.names == ("kinds=x", "kinds=y", "place=here", "place=there")
    assert found.of_items.tolist() == [[1, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    # Of the three items with a posting; nothing is known of the fourth.
    assert found.weights.tolist() == pytest.approx([math.log(3 / 2), *[math.log(3)] * 3])


@pytest.mark.parametrize(("until", "kind"), [(5, "old"), (10, "new"), (1, "old"), (15, "new")])
def test_a_later_version_of_a_posting_is_not_known_before(until, kind):
    rows = [(1, 20, ["newest"], None), (1, 3, ["old"], None), (1, 10, ["new"], None)]
    for order in (rows, rows[::-1]):
        found = Categories.from_arrow(postings(order), ["kinds"], pa.array([1]), until=until)
        assert found.names == (f"kinds={kind}",)


@settings(max_examples=75, deadline=None)
@given(
    histories(),
    MOMENTS,
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 3), st.sets(st.sampled_from("abcd")))),
)
def test_postings_after_a_moment_change_no_feature_before_it(case, moment, later):
    """Neither new versions of known items, nor items that become known, with new categories."""
    history = history_of(*case, SPEC)
    known, members = len(history.vectors.item_ids), len(history.events.member_ids)
    # Items 9 to 12 are posted later, if at all.
    item_ids = pa.concat_arrays([history.vectors.item_ids, pa.array([9, 10, 11, 12], pa.int64())])
    early = [(item, moment, kinds, None) for item, kinds in KINDS.items()]
    more = [(item, moment + after, sorted(kinds), None) for item, after, kinds in later]
    query, item = np.repeat(np.arange(members), known), np.tile(np.arange(known), members)

    def features(rows):
        categories = Categories.from_arrow(postings(rows), ["kinds"], item_ids, until=moment)
        base = BaseFeatures(history, np.zeros(known), categories)
        moments = np.full(members, moment)
        profile = base.of_members(np.arange(members), moments)[PROFILE]
        sums = base.recent_categories(np.arange(members), moments)
        weighted = {name: values * categories.weights for name, values in sums.items()}
        match = {"match": content_match(profile, categories, query, item).tolist()}
        return match | {
            f"{name} {category}": values[:, i].tolist()
            for name, values in (weighted | {PROFILE: profile}).items()
            for i, category in enumerate(categories.names)
            if values[:, i].any()
        }

    found, expected = features(early + more), features(early)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-5), name


def test_where_nothing_was_posted_before_a_moment_all_postings_weigh():
    table = postings([(1, 5, ["x", "y"], None), (2, 9, ["x"], None), (3, 9, ["x"], None)])
    found = Categories.from_arrow(table, ["kinds"], pa.array([1, 2, 3]), until=4)
    assert found.weights.tolist() == pytest.approx([0, math.log(3)])


def test_content_match_is_the_cosine_of_weighted_categories():
    table = postings([(1, 0, ["x", "y"], None), (2, 0, ["x"], None), (3, 0, [], None)])
    categories = Categories.from_arrow(table, ["kinds"], pa.array([1, 2, 3]), until=0)
    profile = np.array([[2, 1], [0, 0]], np.float32)
    x, y = math.log(3 / 2), math.log(3)
    match = content_match(profile, categories, np.array([0, 0, 0, 1]), np.array([0, 1, 2, 0]))
    both = (2 * x * x + y * y) / math.hypot(2 * x, y) / math.hypot(x, y)
    assert match.tolist() == pytest.approx([both, 2 * x / math.hypot(2 * x, y), 0, 0], rel=1e-5)
