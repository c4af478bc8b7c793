"""NDCG@10 of the items that members went on to want, beside popularity in the week before."""

import itertools
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.fitting.validation import (
    SHARES,
    ValidationDay,
    ValidationQueries,
)
from activity_embeddings.training.metrics import mean_by_member
from activity_embeddings.transformations.errors import InvalidInput
from support.reference import US_PER_DAY
from support.training_cases import (
    ACTIONS,
    LENGTH,
    MOMENTS,
    PERIODS,
    SPEC,
    WINDOW_US,
    event,
    histories,
    history_of,
    period,
    sequence_lists,
)
from support.training_data import VALIDATION, turns
from support.training_reference import gain, mean_of_members, ranking_queries

DAY = US_PER_DAY
FACTS = {"window_us": WINDOW_US, "length": LENGTH}


def by_hand():
    """Member 1 acts on item 0, then wants item 1, among items 2, 3, 4 of that day."""
    events = [
        event(1, 0, "SAVE", 9 * DAY),
        event(1, 1, "APPLY", 10 * DAY + 5),
        event(2, 2, "DISMISS", 10 * DAY + 1),
        event(2, 3, "DISMISS", 10 * DAY + 9),
        event(3, 4, "DISMISS", 10 * DAY + 3),
        event(3, 0, "DISMISS", 10 * DAY + 7),
        # Popularity of the week before: item 2 twice, item 1 once.
        event(8, 2, "SAVE", 3 * DAY),
        event(9, 2, "APPLY", 10 * DAY - 1),
        event(9, 1, "SAVE", 5 * DAY),
        # Too old, on the day itself, or dismissed: not counted.
        event(8, 3, "SAVE", 3 * DAY - 1),
        event(7, 3, "SAVE", 10 * DAY),
        event(6, 4, "DISMISS", 9 * DAY),
    ]
    vectors = [(0, -1, [0.0, 9.0]), (1, -1, [2.0, 0.0]), (2, -1, [3.0, 0.0])]
    vectors += [(3, -1, [2.0, 0.0]), (4, -1, [2.0, 5.0])]
    return history_of(events, vectors)


def only(queries):
    """Return the one query, its day and its candidates as item ids."""
    (day,) = queries.days
    (low,), (high,) = queries.history.items_of_days.slices(np.array([10]), 11 * DAY)
    items = np.sort(queries.history.items_of_days.items[low:high])
    assert day.query.tolist() == [0]
    return day, items


def test_candidates_are_the_items_of_the_day_without_the_wanted_one_and_the_members_own():
    queries = ValidationQueries.of(by_hand(), period(10 * DAY, 11 * DAY))
    assert len(queries) == 1
    assert sequence_lists(queries.sequences) == [[(0, "SAVE", 9 * DAY)]]
    day, items = only(queries)
    assert items[day.wanted[0]] == 1
    assert items[day.candidate[0]].tolist() == [2, 3, 4]


def test_popularity_counts_positive_activity_of_the_seven_days_before_alone():
    day, items = only(ValidationQueries.of(by_hand(), period(10 * DAY, 11 * DAY)))
    popularity = dict(zip(items.tolist(), day.popularity.tolist(), strict=True))
    assert popularity == pytest.approx(
        {0: math.log(2), 1: math.log(2), 2: math.log(3), 3: 0.0, 4: 0.0}
    )


@pytest.mark.parametrize(
    ("embedding", "rank"),
    [
        # Items of one score share the mean of their places, rounded down.
        ([1.0, 0.0], 3),
        ([-1.0, 0.0], 2),
        ([1.0, -1.0], 2),
        ([0.0, 1.0], 3),
        ([0.0, 0.0], 2),
    ],
)
def test_the_place_of_the_wanted_item_decides_the_gain(embedding, rank):
    queries = ValidationQueries.of(by_hand(), period(10 * DAY, 11 * DAY))
    gains = queries.ndcg_of_members(np.array([embedding], np.float32))
    assert gains.tolist() == pytest.approx([1 / math.log2(rank + 1)])


def test_popularity_alone_puts_the_wanted_item_second():
    queries = ValidationQueries.of(by_hand(), period(10 * DAY, 11 * DAY))
    assert queries.popularity() == pytest.approx(1 / math.log2(3))


def test_embedding_and_popularity_are_mixed_in_units_of_their_standard_deviation():
    queries = ValidationQueries.of(by_hand(), period(10 * DAY, 11 * DAY))
    embedding = np.array([[1.0, 0.0]], np.float32)
    # Over candidates 2, 3, 4: scores 3, 2, 2 and popularity log 3, 0, 0; the wanted item has 2
    # and log 2. In these units, item 2 is ahead by 2.12 in scores and by 0.78 in popularity, items
    # 3 and 4 are behind by 1.34 in popularity: the wanted item is second whatever the share below
    # 1.
    for share in (0.0, 0.2, 0.8):
        assert queries.ndcg_of_members(embedding, share) == pytest.approx(1 / math.log2(3))
    # Turned round, item 2 is behind by 2.12 in scores: ahead of the wanted item as long as
    # 0.78 (1 - share) > 2.12 share, that is up to a share of 0.27.
    for share, rank in ((0.26, 2), (0.28, 1)):
        gains = queries.ndcg_of_members(-embedding, share)
        assert gains == pytest.approx(1 / math.log2(rank + 1))


def test_measure_takes_the_best_share_and_gives_the_embedding_alone_too():
    queries = ValidationQueries.of(by_hand(), period(10 * DAY, 11 * DAY))
    constant = np.full((len(queries), 2), [-1, 0], np.float32)
    figures = queries.measure(lambda sequences, history: constant)
    # Items 1, 3 and 4 tie by the embedding alone; with some popularity the wanted item is first.
    assert figures == pytest.approx(
        {"ndcg_at_10": 1.0, "share": 0.3, "ndcg_at_10_alone": 1 / math.log2(3)}
    )
    assert figures["share"] in SHARES


def test_the_eleventh_place_gains_nothing():
    events = [event(1, 0, "SAVE", 0), event(1, 1, "SAVE", DAY)]
    events += [event(2, 2 + i, "DISMISS", DAY + i) for i in range(10)]
    vectors = [(0, -1, [0.0, 0.0]), (1, -1, [1.0, 0.0])]
    vectors += [(2 + i, -1, [2.0, float(i == 0)]) for i in range(10)]
    queries = ValidationQueries.of(history_of(events, vectors), period(DAY, 2 * DAY))
    assert queries.ndcg_of_members(np.array([[1, 0]], np.float32)).tolist() == [0.0]
    tenth = queries.ndcg_of_members(np.array([[1, -2]], np.float32))
    assert tenth.tolist() == pytest.approx([1 / math.log2(11)])


def test_each_member_counts_once_however_many_queries():
    events = [event(1, 0, "SAVE", 0), event(2, 0, "SAVE", 0)]
    events += [event(1, 1, "SAVE", DAY), event(1, 2, "SAVE", DAY + 1), event(2, 3, "SAVE", DAY)]
    vectors = [(j, -1, [float(j), 0.0]) for j in range(4)]
    queries = ValidationQueries.of(history_of(events, vectors), period(DAY, 2 * DAY))
    assert queries.member.tolist() == [0, 0, 1]
    gains = queries.ndcg_of_members(np.array([[1, 0]] * 3, np.float32))
    # Item 1 is third of 1, 2, 3; item 2 second of 2, 3; item 3 first.
    assert gains.tolist() == pytest.approx([(1 / math.log2(4) + 1 / math.log2(3)) / 2, 1.0])


def test_a_wanted_item_without_rivals_is_first_at_every_share():
    events = [event(1, 0, "SAVE", 0), event(1, 1, "SAVE", DAY)]
    queries = ValidationQueries.of(
        history_of(events, [(j, -1, [1.0, 0.0]) for j in (0, 1)]), period(DAY, 2 * DAY)
    )
    for share in SHARES:
        assert queries.ndcg_of_members(np.ones((1, 2), np.float32), share).tolist() == [1.0]


def test_vectors_are_those_of_the_time_of_each_query():
    events = [event(m, 0, "SAVE", 0) for m in (1, 2)]
    events += [event(1, 1, "SAVE", DAY), event(2, 1, "SAVE", DAY + 9), event(3, 2, "SAVE", DAY)]
    vectors = [(0, -1, [1.0, 0.0]), (1, -1, [1.0, 0.0]), (2, -1, [0.0, 0.0]), (2, DAY + 5, [5, 0])]
    history = history_of(events, vectors)
    queries = ValidationQueries.of(history, period(DAY, 2 * DAY))
    gains = queries.ndcg_of_members(np.array([[1, 0], [1, 0]], np.float32))
    assert gains.tolist() == pytest.approx([1.0, 1 / math.log2(3)])


def scored_by_hand(embeddings, day, vectors):
    return [
        [float(embeddings[query].astype(float) @ vectors[row]) for row in rows]
        for query, rows in zip(
            day.query, np.broadcast_to(day.rows, day.candidate.shape), strict=True
        )
    ]


def day_of(rows, queries):
    """A day of queries in an order of their own, whose candidates are all items."""
    items = np.arange(rows.shape[1])
    candidate = np.ones((queries, len(items)), bool)
    zeros = np.zeros(queries, int)
    return ValidationDay(np.arange(queries)[::-1], rows, candidate, zeros, zeros, items)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 150), st.integers(1, 3))
def test_scores_are_dot_products_with_the_vector_that_each_query_sees(data, n, m, versions):
    """Items of one version, of several, and such as become known, of the last row, a zero."""
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    rows = np.arange(m) * versions + random.integers(0, versions, (n, m))
    rows[random.random((n, m)) < data.draw(st.sampled_from([0.0, 0.02, 0.5]))] = m * versions
    if data.draw(st.booleans()):
        rows = rows[:1]
    vectors = random.normal(size=(m * versions + 1, 3)).astype(np.float32)
    vectors[-1] = 0
    embeddings, day = random.normal(size=(n, 3)).astype(np.float32), day_of(rows, n)
    np.testing.assert_allclose(
        day.scores(embeddings, vectors), scored_by_hand(embeddings, day, vectors), atol=1e-6
    )


@pytest.mark.parametrize("versions", [1, 4])
def test_queries_that_see_other_vectors_take_no_copy_of_all_of_them(versions):
    """One item becomes known during the day; or all have new vectors during it."""
    n, m, dimension = 200, 300, 64
    random = np.random.default_rng(0)
    rows = np.arange(m) * versions + random.integers(0, versions, (n, m))
    rows[: n // 2, 0] = m * versions
    vectors = random.normal(size=(m * versions + 1, dimension)).astype(np.float32)
    embeddings, day = random.normal(size=(n, dimension)).astype(np.float32), day_of(rows, n)
    tracemalloc.start()
    day.scores(embeddings, vectors)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < n * m * dimension * 4 / 10


def test_a_period_without_a_query_is_refused():
    with pytest.raises(InvalidInput, match=r"expected members with activity.*of 0 held out"):
        ValidationQueries.of(by_hand(), period(0, 2 * DAY))
    # Held out, but not wanted.
    events = [event(1, 0, "SAVE", 0), event(1, 0, "DISMISS", DAY)]
    history = history_of(events, [(0, -1, [1.0, 0.0])])
    with pytest.raises(InvalidInput, match=r"Received: none, of 1 held out"):
        ValidationQueries.of(history, period(DAY, 2 * DAY))


@settings(max_examples=100, deadline=None)
@given(histories(), PERIODS, st.sampled_from([0.0, 1.0]))
def test_queries_and_ndcg_equal_the_reference(case, of, share):
    events, vectors = case
    start, end = of
    expected = ranking_queries(events, vectors, start=start, end=end, **FACTS)
    history = history_of(events, vectors, SPEC)
    if not expected:
        with pytest.raises(InvalidInput, match="validation: expected members"):
            ValidationQueries.of(history, period(*of))
        return
    queries = ValidationQueries.of(history, period(*of))
    member_ids = history.events.member_ids.to_pylist()
    assert [member_ids[m] for m in queries.member] == [q["member"] for q in expected]
    assert queries.sequences.as_of.tolist() == [q["time"] for q in expected]
    assert sequence_lists(queries.sequences) == [q["before"] for q in expected]

    # Whole numbers, so that sums are exact and ties are ties.
    embeddings = np.array([[q["time"] % 3 - 1, len(q["before"]) - 2] for q in expected], np.float32)

    def score(query, embedding, item):
        if share == 0.0:
            return query["popularity"][item]
        newest = max((time, v) for j, time, v in vectors if j == item and time <= query["time"])[1]
        return sum(a * b for a, b in zip(embedding, newest, strict=True))

    gains = [
        gain(
            score(query, embedding, query["wanted"]),
            [score(query, embedding, item) for item in query["candidates"]],
        )
        for query, embedding in zip(expected, embeddings.tolist(), strict=True)
    ]
    np.testing.assert_allclose(
        queries.ndcg_of_members(embeddings, share), mean_of_members(expected, gains), rtol=1e-6
    )


@settings(max_examples=100, deadline=None)
@given(histories(), PERIODS, st.data())
def test_some_queries_are_measured_as_they_are_among_all(case, of, data):
    history = history_of(*case, SPEC)
    try:
        queries = ValidationQueries.of(history, period(*of), minimum=0)
    except InvalidInput:
        return
    kept = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(queries), max_size=len(queries)))
    )
    some = queries.where(kept)
    embeddings = np.ones((len(queries), 2), np.float32)
    assert some.member.tolist() == queries.member[kept].tolist()
    assert sequence_lists(some.sequences) == list(
        itertools.compress(sequence_lists(queries.sequences), kept)
    )
    one_by_one = [
        queries.where(np.arange(len(queries)) == i).ndcg_of_members(embeddings[:1]).item()
        for i in np.flatnonzero(kept)
    ]
    if kept.any():
        _, means = mean_by_member(np.array(one_by_one), queries.member[kept])
        np.testing.assert_allclose(some.ndcg_of_members(embeddings[kept]), means)


def test_of_many_members_some_are_drawn_and_asked_what_they_would_be_among_all():
    history, of = turns(members=40), VALIDATION
    every = ValidationQueries.of(history, of)
    some = ValidationQueries.of(history, of, most_members=7)
    drawn = np.unique(some.member)
    # Of seven members some may have no positive activity on a new item.
    assert 4 < len(drawn) <= 7 < len(np.unique(every.member))
    assert drawn.tolist() != np.unique(every.member)[:7].tolist()
    again = ValidationQueries.of(history, of, most_members=7)
    assert some.member.tolist() == again.member.tolist()
    kept = np.isin(every.member, drawn)
    assert some.sequences.as_of.tolist() == every.sequences.as_of[kept].tolist()
    embeddings = np.random.default_rng(0).normal(size=(len(every), 6)).astype(np.float32)
    for share in (0.0, 1.0):
        np.testing.assert_allclose(
            some.ndcg_of_members(embeddings[kept], share),
            every.where(kept).ndcg_of_members(embeddings[kept], share),
        )
    enough = ValidationQueries.of(history, of, most_members=40)
    assert enough.member.tolist() == every.member.tolist()


def test_members_without_activity_before_are_asked_about_where_none_is_demanded():
    history = by_hand()
    of = period(10 * DAY, 11 * DAY)
    assert len(ValidationQueries.of(history, of)) == 1
    queries = ValidationQueries.of(history, of, minimum=0)
    ids = history.events.member_ids.to_pylist()
    asked = zip([ids[m] for m in queries.member], sequence_lists(queries.sequences), strict=True)
    assert list(asked) == [(1, [(0, "SAVE", 9 * DAY)]), (7, [])]


def test_the_same_queries_may_have_other_activity_as_their_input():
    history = by_hand()
    queries = ValidationQueries.of(history, period(10 * DAY, 11 * DAY))
    fewer = replace(history, events=history.events.where(history.events.time >= 10 * DAY))
    again = queries.asked_of(fewer)
    assert sequence_lists(again.sequences) == [[]]
    assert again.days is queries.days
    assert sequence_lists(again.asked_of(history).sequences) == sequence_lists(queries.sequences)


@settings(max_examples=100, deadline=None)
@given(
    histories(),
    PERIODS,
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from(ACTIONS), MOMENTS),
        min_size=1,
        max_size=10,
    ),
)
def test_nothing_after_a_period_changes_its_queries(case, of, later):
    events, vectors = case
    _, end = of
    first = event(9, 0, "SAVE", -100 * DAY)
    if "event_id" in events[0]:
        first["event_id"] = 0
    events = [first, *(e for e in events if e["time"] < end)]
    more = [{**first, **event(m, j, a, end + t % DAY)} for m, j, a, t in later]

    def made(events):
        try:
            queries = ValidationQueries.of(history_of(events, vectors, SPEC), period(*of))
        except InvalidInput:
            return None
        embeddings = np.ones((len(queries), 2), np.float32)
        return [queries.ndcg_of_members(embeddings, share).tolist() for share in (0.0, 0.5, 1.0)]

    assert made(events + more) == made(events)
