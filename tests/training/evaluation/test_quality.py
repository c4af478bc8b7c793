"""Figures of embeddings alone: recall, diversity of interests, coverage of items, length."""

import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.evaluation import quality
from activity_embeddings.training.evaluation.arms import ArmRole
from activity_embeddings.training.evaluation.base_features import Categories
from activity_embeddings.training.evaluation.contenders import EvaluatedModel
from activity_embeddings.training.evaluation.data import Data
from activity_embeddings.training.evaluation.plan import Timeline
from activity_embeddings.training.evaluation.quality import (
    measure_quality,
    quality_of,
    wanted_within,
)
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ItemVectorSpec
from activity_embeddings.transformations.times import Schedule
from support.reference import US_PER_DAY
from support.training_cases import PERIODS, SPEC, at, event, histories, history_of, period
from support.training_reference import POSITIVE, distinct

pytestmark = pytest.mark.slow


def csr(lists):
    start = np.cumsum([0, *map(len, lists)])
    return start, np.array([x for each in lists for x in each], int)


def cosine(a, b):
    lengths = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def entropy(found):
    counts = Counter(found).values()
    return sum(-c / sum(counts) * math.log(c / sum(counts)) for c in counts)


def reference(embeddings, vectors, wanted, categories):
    """Member by member, item by item."""
    recalls, entropies, shown = [], [], Counter()
    for embedding, items in zip(embeddings, wanted, strict=True):
        nearest = []
        if any(embedding):
            order = sorted(
                range(len(vectors)), key=lambda j: (-round(cosine(embedding, vectors[j]), 5), j)
            )
            nearest = order[:10]
            shown.update(nearest)
            entropies.append(entropy([c for j in order[:50] for c in set(categories[j] or ())]))
        if items:
            recalls.append(len(set(items) & set(nearest)) / min(10, len(set(items))))
    left, covered = 0.9 * shown.total() - 1e-9, 0
    for _, count in shown.most_common():
        if left > 0:
            left -= count
            covered += 1
    norms = sorted(math.hypot(*e) for e in embeddings if any(e))

    def percentile(p):
        if not norms:
            return None
        at = p / 100 * (len(norms) - 1)
        low = math.floor(at)
        return norms[low] + (at - low) * (norms[min(low + 1, len(norms) - 1)] - norms[low])

    return {
        "recall_at_10": sum(recalls) / len(recalls) if recalls else None,
        "interest_entropy_at_50": (
            sum(entropies) / len(entropies) if entropies and any(categories) else None
        ),
        "p90_coverage_at_10": covered / len(vectors) if norms else None,
        "norm_p10": percentile(10),
        "norm_p50": percentile(50),
        "norm_p90": percentile(90),
        "empty_share": 1 - len(norms) / len(embeddings),
    }


@st.composite
def cases(draw):
    # Whole numbers of few values: many ties, zero vectors among them.
    vector = st.lists(st.integers(-2, 2), min_size=3, max_size=3)
    n, items = draw(st.integers(1, 8)), draw(st.integers(1, 70))
    one_category = st.one_of(st.none(), st.lists(st.sampled_from("abcd"), max_size=3))
    return (
        draw(st.lists(vector, min_size=n, max_size=n)),
        draw(st.lists(vector, min_size=items, max_size=items)),
        draw(st.lists(st.lists(st.integers(0, items - 1), max_size=15), min_size=n, max_size=n)),
        draw(st.lists(one_category, min_size=items, max_size=items)),
    )


def measured(embeddings, vectors, wanted, categories):
    as_floats = np.array(embeddings, np.float32), np.array(vectors, np.float32)
    return measure_quality(*as_floats, *csr(wanted), categories)


@settings(max_examples=200, deadline=None)
@given(cases(), st.sampled_from([1, 150, quality.BLOCK]))
def test_all_figures_equal_the_reference_whatever_the_block(case, block):
    before = quality.BLOCK
    quality.BLOCK = block
    try:
        assert measured(*case) == pytest.approx(reference(*case))
    finally:
        quality.BLOCK = before


def test_figures_of_many_members_equal_the_reference():
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(120, 8)).astype(np.float32)
    embeddings[::7] = 0
    vectors = generator.normal(size=(300, 8)).astype(np.float32)
    wanted = [generator.integers(0, 300, k % 14).tolist() for k in range(120)]
    categories = [generator.integers(0, 20, k % 4) for k in range(300)]
    expected = reference(
        embeddings.tolist(), vectors.tolist(), wanted, [c.tolist() for c in categories]
    )
    assert measured(embeddings, vectors, wanted, categories) == pytest.approx(expected)


def test_embeddings_of_the_wanted_items_themselves_find_each_of_them():
    items = np.eye(40, dtype=np.float32)
    found = measured(items * 3, items, [[i] for i in range(40)], [["x"]] * 40)
    assert found["recall_at_10"] == 1.0
    # The items at a right angle tie, so that the first ones are taken.
    others = measured(items, items, [[9] if i != 9 else [8] for i in range(40)], [["x"]] * 40)
    assert others["recall_at_10"] == pytest.approx(10 / 40)
    assert (found["norm_p10"], found["norm_p50"], found["norm_p90"]) == (3.0, 3.0, 3.0)
    assert found["empty_share"] == 0.0


def test_a_collapsed_embedding_covers_9_items_and_a_diverse_one_9_in_10():
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(200, 16)).astype(np.float32)
    collapsed = np.tile(vectors[:1], (500, 1))
    nothing_wanted, one_category = [[]] * 500, [["x"]] * 200
    found = measured(collapsed, vectors, nothing_wanted, one_category)
    assert found["p90_coverage_at_10"] == 9 / 200
    assert found["recall_at_10"] is None
    # Twenty groups of ten items, a member each: every item is shown once.
    groups = np.repeat(np.eye(20, dtype=np.float32), 10, axis=0)
    diverse = measured(np.eye(20), groups, [[]] * 20, one_category)
    assert diverse["p90_coverage_at_10"] == 0.9


def test_the_length_of_an_embedding_changes_nothing_but_its_norm():
    generator = np.random.default_rng(2)
    embeddings, vectors = generator.normal(size=(30, 4)), generator.normal(size=(100, 4))
    wanted, categories = [[i, i + 1] for i in range(30)], [[i % 7] for i in range(100)]
    usual = measured(embeddings, vectors, wanted, categories)
    for factor in (1e-25, 1e6):
        scaled = measured(embeddings * factor, vectors, wanted, categories)
        for name, value in usual.items():
            expected = value * factor if name.startswith("norm") else value
            assert scaled[name] == pytest.approx(expected, rel=1e-6)


def test_interests_count_over_the_50_nearest_items():
    vectors = np.array([[1, 0]] * 50 + [[0, 1]] * 50, np.float32)
    even = [["a"], ["b"]] * 25 + [["c"]] * 50
    assert measured([[1, 0]], vectors, [[]], even)["interest_entropy_at_50"] == pytest.approx(
        math.log(2)
    )
    assert measured([[0, 1]], vectors, [[]], even)["interest_entropy_at_50"] == 0.0
    # A mean over members: the empty one does not count.
    mean = measured([[1, 0], [0, 0], [0, 1]], vectors, [[]] * 3, even)
    assert mean["interest_entropy_at_50"] == pytest.approx(math.log(2) / 2)
    # Without any category nobody's interests have collapsed: there is nothing to measure.
    assert measured([[1, 0]], vectors, [[]], [None] * 100)["interest_entropy_at_50"] is None


def test_an_empty_member_who_wanted_a_item_found_nothing():
    vectors = np.eye(2, dtype=np.float32)
    found = measured([[0, 0], [1, 0], [0, 0]], vectors, [[0], [0], []], [[], []])
    assert found["recall_at_10"] == 0.5
    assert found["empty_share"] == pytest.approx(2 / 3)


def test_embeddings_that_are_all_empty_have_no_figures_but_that():
    found = measured([[0, 0], [0, 0]], np.eye(2), [[0], []], [["a"], ["b"]])
    assert found.pop("empty_share") == 1.0
    assert found.pop("recall_at_10") == 0.0
    assert set(found.values()) == {None}


def test_at_most_ten_wanted_items_count_and_each_once():
    generator = np.random.default_rng(3)
    vectors = generator.normal(size=(60, 5)).astype(np.float32)
    everything = measured(vectors[:1], vectors, [list(range(60))], [[]] * 60)
    assert everything["recall_at_10"] == 1.0
    assert measured(vectors[:1], vectors, [[0, 0, 0]], [[]] * 60)["recall_at_10"] == 1.0


def test_figures_are_plain_floats():
    found = measured([[1, 0]], np.eye(2), [[0]], [["a"], ["b"]])
    assert {type(value) for value in found.values()} == {float}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": np.ones((2, 3))}, r"`embeddings` should be \[n, D\].*\[2, 3\] and \[3, 2"),
        ({"embeddings": np.ones((0, 2))}, r"neither without rows. Received: \[0, 2\]"),
        ({"item_vectors": np.ones(2)}, r"Received: \[2, 2\] and \[2\]"),
        ({"embeddings": [[1, np.nan], [1, 1]]}, r"`embeddings` should be finite.* 1 of 2 rows"),
        ({"item_vectors": [[np.inf, 1]] * 3}, r"`item_vectors` should be finite.* 3 of 3 rows"),
        ({"wanted_start": [0, 1]}, r"`wanted_start` should be 3 ascending positions from 0 to 2"),
        ({"wanted_start": [0, 1, 3]}, r"Received: 3, from \[0\] to \[3\]"),
        ({"wanted_start": [0, 3, 2]}, r"ascending positions"),
        ({"wanted_start": [1, 1, 2]}, r"Received: 3, from \[1\] to \[2\]"),
        ({"wanted_items": [0, 3]}, r"positions among 3 items. Received: from 0 to 3"),
        ({"wanted_items": [-1, 1]}, r"Received: from -1 to 1"),
        ({"categories": [["a"]] * 2}, r"`categories` should have a list for each of 3 items.*: 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, message):
    case = {
        "embeddings": np.ones((2, 2)),
        "item_vectors": np.ones((3, 2)),
        "wanted_start": np.array([0, 1, 2]),
        "wanted_items": np.array([0, 2]),
        "categories": [["a"]] * 3,
    }
    assert measure_quality(**case)["recall_at_10"] == 1.0
    with pytest.raises(InvalidInput, match=message):
        measure_quality(**{**case, **change})


@settings(max_examples=75, deadline=None)
@given(histories(), PERIODS, st.data())
def test_what_is_wanted_is_that_of_a_loop(case, bounds, data):
    events, vectors = case
    start, end = bounds
    history = history_of(events, vectors, SPEC)
    member_ids = history.events.member_ids.to_pylist()
    item_ids = history.vectors.item_ids.to_pylist()
    every = list(range(len(member_ids)))
    members = sorted(data.draw(st.sets(st.sampled_from(every), min_size=1)))
    items = sorted(data.draw(st.sets(st.integers(0, len(item_ids) - 1))))
    first, wanted = wanted_within(history, period(start, end), members, items)
    assert first[0] == 0
    assert first[-1] == len(wanted)
    for i, member in enumerate(members):
        expected = sorted(
            e["job_id"]
            for e in distinct(events)
            if e["member_id"] == member_ids[member]
            and start <= e["time"] < end
            and e["action"] in POSITIVE
            and e["job_id"] in {item_ids[j] for j in items}
        )
        found = sorted(item_ids[items[j]] for j in wanted[first[i] : first[i + 1]])
        assert found == expected


@pytest.mark.parametrize(("days", "recall"), [(2, 0 / 1), (5, 1 / 2), (9, 1 / 2)])
def test_what_is_wanted_later_counts_for_a_week_and_within_the_test(days, recall):
    """On the days 1, 4 and 8 of the test; of the three items the second is among the nearest."""
    day = US_PER_DAY
    known = [event(2, item, "SAVE", 9 * day + item) for item in range(1, 13)]
    later = [event(1, item, "SAVE", (10 + on) * day) for item, on in ((1, 1), (12, 4), (2, 8))]
    vectors = [(0, -1, [1.0, 0.0])]
    vectors += [(item, -1, [math.cos(item / 9), math.sin(item / 9)]) for item in range(1, 13)]
    history = history_of([event(1, 0, "SAVE", 9 * day), *known, *later], vectors)
    data = Data(history, ItemVectorSpec("test", "1", 2), None, (), Schedule(day, 0), "")
    items = len(history.vectors.item_ids)
    found = quality_of(
        SimpleNamespace(embed=lambda view, member, as_of: {"own": np.ones((len(member), 2))}),
        {"mine": EvaluatedModel("mine", "", ArmRole.LEARNED, (Path("mine"),))},
        data,
        Timeline(at(0), at(10 * day), at((10 + days) * day)),
        Categories((), np.zeros((items, 0), np.float32), np.zeros(0, np.float32)),
    )
    assert found["mine"]["recall_at_10"] == recall
