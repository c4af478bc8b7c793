"""Places of the wanted item in whole lists, their figures, and the AUC within members."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from activity_embeddings.training.fitting.validation import ValidationDay
from activity_embeddings.training.metrics import (
    mean_by_member,
    ndcg_at,
    places,
    places_of_groups,
    recall_at,
    reciprocal_rank,
    within_member_auc,
)
from activity_embeddings.transformations.errors import InvalidInput

SCORE = st.sampled_from([-math.inf, -1.0, 0.0, 0.25, 0.5, 3.0, math.inf])


def place(own, others):
    """Sort, and take the mean place of all that share the wanted one's score, rounded down."""
    ordered = sorted([own, *others], reverse=True)
    shared = [i for i, score in enumerate(ordered) if score == own]
    return math.floor(sum(shared) / len(shared))


@st.composite
def tables(draw):
    n, m = draw(st.integers(0, 5)), draw(st.integers(1, 7))

    def table(values):
        row = st.lists(values, min_size=m, max_size=m)
        return draw(st.lists(row, min_size=n, max_size=n))

    wanted = draw(st.lists(st.integers(0, m - 1), min_size=n, max_size=n))
    return (
        np.array(table(SCORE), float).reshape(n, m),
        np.array(wanted, int),
        np.array(table(st.booleans()), bool).reshape(n, m),
    )


@settings(deadline=None)
@given(tables())
def test_places_equal_those_in_a_sorted_list(case):
    scores, wanted, candidate = case
    before = candidate.copy()
    expected = [
        place(row[w], [s for j, s in enumerate(row) if keep[j] and j != w])
        for row, w, keep in zip(scores.tolist(), wanted, candidate.tolist(), strict=True)
    ]
    assert places(scores, wanted, candidate).tolist() == expected
    np.testing.assert_array_equal(candidate, before)


@settings(deadline=None)
@given(tables())
def test_gains_are_those_of_training(case):
    scores, wanted, candidate = case
    candidate[np.arange(len(wanted)), wanted] = False
    day = ValidationDay(
        np.arange(len(wanted)), np.empty((0, 0)), candidate, wanted, np.empty(0), np.empty(0)
    )
    expected = day.gains(scores)
    np.testing.assert_array_equal(ndcg_at(places(scores, wanted, candidate), 10), expected)


@settings(deadline=None)
@given(st.lists(st.lists(SCORE, min_size=1, max_size=7), max_size=6), st.data())
def test_places_of_lists_end_to_end_equal_those_in_sorted_lists(lists, data):
    wanted = [data.draw(st.integers(0, len(scores) - 1)) for scores in lists]
    start = np.cumsum([0, *map(len, lists)])
    got = places_of_groups(
        np.array([s for scores in lists for s in scores], float),
        start,
        start[:-1] + np.array(wanted, int),
    )
    assert got.tolist() == [
        place(scores[w], scores[:w] + scores[w + 1 :])
        for scores, w in zip(lists, wanted, strict=True)
    ]
    assert np.issubdtype(got.dtype, np.integer)


def test_scores_that_are_all_equal_rank_nothing_high():
    assert places(np.zeros((1, 400)), np.array([0]), np.ones((1, 400), bool)).tolist() == [199]
    assert places_of_groups(np.zeros(400), np.array([0, 400]), np.array([0])).tolist() == [199]
    # Nor does a list that is all at the end of the numbers.
    endless = np.full((1, 400), -np.inf)
    assert places(endless, np.array([7]), np.ones((1, 400), bool)).tolist() == [199]


def test_places_by_hand():
    scores = np.array([[0.9, 0.5, 0.7, 0.5], [0.1, 0.2, 0.3, 0.4]])
    candidate = np.array([[True, True, True, True], [True, True, False, True]])
    assert places(scores, np.array([1, 0]), candidate).tolist() == [2, 2]
    flat = np.array([0.9, 0.5, 0.7, 0.5, 0.1, 0.2, 0.4])
    got = places_of_groups(flat, np.array([0, 4, 7]), np.array([1, 4]))
    assert got.tolist() == [2, 2]
    assert places_of_groups(flat, np.array([0, 4, 7]), np.array([0, 6])).tolist() == [0, 0]


def test_scores_that_are_no_numbers_are_refused():
    bad = np.array([[0.0, np.nan, 1.0]])
    every = np.ones((1, 3), bool)
    for wanted in (0, 1):
        with pytest.raises(InvalidInput, match=r"`scores` should be numbers. Received: NaN"):
            places(bad, np.array([wanted]), every)
        with pytest.raises(InvalidInput, match=r"`scores` should be numbers. Received: NaN"):
            places_of_groups(bad[0], np.array([0, 3]), np.array([wanted]))
    # What is not a candidate has no score to compare.
    assert places(bad, np.array([0]), np.array([[True, False, True]])).tolist() == [1]
    with pytest.raises(InvalidInput, match="`scores` should be numbers"):
        places(bad, np.array([1]), np.array([[True, False, True]]))


def test_lists_that_do_not_fit_are_refused():
    scores, every = np.zeros((2, 3)), np.ones((2, 3), bool)
    for arguments in (
        (scores[0], np.array([0]), every[0]),
        (scores, np.array([0, 1]), every[:1]),
        (scores, np.array([0]), every),
    ):
        with pytest.raises(InvalidInput, match=r"`scores` and `candidate` should be \[n, m\]"):
            places(*arguments)
    for wanted in ([0, 3], [-1, 0]):
        with pytest.raises(InvalidInput, match=r"`wanted` should be columns of 3. Received: from"):
            places(scores, np.array(wanted), every)
    for start in ([0, 2, 5], [1, 2, 6], [0, 6], []):
        with pytest.raises(InvalidInput, match="`group_start` should be 3 positions from 0 to 6"):
            places_of_groups(np.zeros(6), np.array(start, int), np.array([0, 5]))
    for start, wanted in (([0, 2, 6], [0, 1]), ([0, 2, 6], [2, 2]), ([0, 0, 6], [0, 0])):
        with pytest.raises(InvalidInput, match=r"`wanted` should be in its own list. Received:"):
            places_of_groups(np.zeros(6), np.array(start), np.array(wanted))


def test_the_figures_of_a_place():
    at = np.array([0, 1, 2, 9, 10, 500])
    log2 = [1.0, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0.0, 0.0]
    assert ndcg_at(at, 10).tolist() == pytest.approx(log2)
    assert ndcg_at(at, 2).tolist() == pytest.approx([*log2[:2], 0, 0, 0, 0])
    assert recall_at(at, 10).tolist() == [1, 1, 1, 1, 0, 0]
    assert recall_at(at, 1).tolist() == [1, 0, 0, 0, 0, 0]
    assert reciprocal_rank(at).tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 10, 1 / 11, 1 / 501])
    for figure in (ndcg_at(at[:0], 10), recall_at(at[:0], 10), reciprocal_rank(at[:0])):
        assert figure.tolist() == []


@settings(deadline=None)
@given(st.permutations(range(12)), st.integers(0, 11))
def test_ndcg_is_that_of_scikit_learn(order, wanted):
    scores = np.array([order], float)
    relevance = np.zeros((1, 12))
    relevance[0, wanted] = 1
    at = places(scores, np.array([wanted]), np.ones((1, 12), bool))
    assert ndcg_at(at, 10)[0] == pytest.approx(ndcg_score(relevance, scores, k=10))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["m9", "m10", "a"]), st.integers(0, 9)), max_size=12))
def test_every_member_gets_the_mean_of_its_values(rows):
    members, means = mean_by_member(np.array([v for _, v in rows], float), [m for m, _ in rows])
    expected = {}
    for member, value in rows:
        expected.setdefault(member, []).append(value)
    assert list(members) == sorted(expected)
    assert means.tolist() == pytest.approx([sum(v) / len(v) for _, v in sorted(expected.items())])


ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.sampled_from([-math.inf, 0.0, 0.5, 1.0])),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(ROWS)
def test_the_auc_within_members_counts_pairs_of_a_members_own_rows(rows):
    expected = {}
    for member in sorted({m for m, _, _ in rows}):
        ones = [s for m, liked, s in rows if m == member and liked]
        zeros = [s for m, liked, s in rows if m == member and not liked]
        if ones and zeros:
            won = sum((one > zero) + (one == zero) / 2 for one in ones for zero in zeros)
            expected[member] = won / (len(ones) * len(zeros))
    member, label, score = np.array(rows, float).reshape(-1, 3).T
    members, auc = within_member_auc(label, score, member)
    assert members.tolist() == list(expected)
    assert auc.tolist() == pytest.approx(list(expected.values()))


def test_the_auc_within_members_is_that_of_scikit_learn_for_each():
    generator = np.random.default_rng(0)
    n = 5000
    member = np.array([f"member {i}" for i in generator.integers(0, 300, n)], dtype=object)
    label = generator.random(n) < 0.3
    score = np.round(generator.normal(size=n) + label, 1)
    members, auc = within_member_auc(label, score, member)
    expected = {}
    for m in sorted(set(member)):
        own = member == m
        if 0 < label[own].sum() < own.sum():
            expected[m] = roc_auc_score(label[own], score[own])
    assert len(expected) > 280
    assert members.tolist() == list(expected)
    assert auc.tolist() == pytest.approx(list(expected.values()))


def test_knowing_who_likes_everything_is_worth_nothing_within_members():
    member = np.repeat([1, 2], 10)
    label = np.r_[np.arange(10) < 9, np.arange(10) < 1]
    score = np.where(member == 1, 1.0, 0.0)
    assert roc_auc_score(label, score) == pytest.approx(0.9)
    assert within_member_auc(label, score, member)[1].tolist() == [0.5, 0.5]


def test_labels_and_scores_that_cannot_be_ranked_are_refused():
    with pytest.raises(InvalidInput, match=r"`label` should be 0 or 1. Received: 2"):
        within_member_auc(np.array([0, 2]), np.zeros(2), np.zeros(2))
    with pytest.raises(InvalidInput, match=r"`score` should be numbers. Received: NaN"):
        within_member_auc(np.array([0, 1]), np.array([0, np.nan]), np.zeros(2))
