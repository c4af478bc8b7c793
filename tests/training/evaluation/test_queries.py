"""Queries and their whole candidate lists, the same for every arm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.evaluation.queries import like_queries, members_drawn
from activity_embeddings.training.evaluation.queries import ranking_queries as fast_queries
from activity_embeddings.transformations.errors import InvalidInput
from support.reference import US_PER_DAY, vector_as_of
from support.training_cases import (
    LENGTH,
    PERIODS,
    SPEC,
    WINDOW_US,
    event,
    histories,
    history_of,
    period,
    sequence_lists,
)
from support.training_reference import POSITIVE, held_out, ranking_queries

DAY = US_PER_DAY
FACTS = {"window_us": WINDOW_US, "length": LENGTH}
MONDAY = 4
"""1970-01-05."""


def as_dicts(queries, history):
    item_ids = history.vectors.item_ids.to_pylist()
    rows = [
        {
            "member": history.events.member_ids[int(queries.member[i])].as_py(),
            "time": int(queries.time[i]),
            "before": before,
            "candidates": {item_ids[j] for j in queries.item[a:b]},
            "vectors": [history.vectors.matrix[r].tolist() for r in queries.vector_row[a:b]],
            "items": [item_ids[j] for j in queries.item[a:b]],
            "wanted": [
                item_ids[j]
                for j, t in zip(queries.item[a:b], queries.target[a:b], strict=True)
                if t
            ],
        }
        for i, (a, b, before) in enumerate(
            zip(
                queries.start[:-1],
                queries.start[1:],
                sequence_lists(queries.sequences, history.spec),
                strict=True,
            )
        )
    ]
    return rows


def items_of_week(events, vectors, time, end):
    """Items acted on during the week from Monday, that had a vector by the end of the act's day."""
    monday = (time // DAY - MONDAY) // 7 * 7 + MONDAY
    return {
        e["job_id"]
        for e in events
        if monday <= e["time"] // DAY < monday + 7
        and e["time"] < end
        and any(
            item == e["job_id"] and max(known, e["time"]) < min((e["time"] // DAY + 1) * DAY, end)
            for item, known, _ in vectors
        )
    }


@settings(max_examples=75, deadline=None)
@given(histories(), PERIODS, st.sampled_from([1, 7]))
def test_queries_are_those_of_the_slow_implementation(case, bounds, days):
    events, vectors = case
    start, end = bounds
    expected = ranking_queries(events, vectors, start=start, end=end, **FACTS)
    history = history_of(events, vectors, SPEC)
    if not expected:
        with pytest.raises(InvalidInput, match="members with activity before a positive one"):
            fast_queries(history, period(start, end), days=days)
        return
    found = as_dicts(fast_queries(history, period(start, end), days=days), history)
    assert [q["member"] for q in found] == [q["member"] for q in expected]
    for got, query in zip(found, expected, strict=True):
        assert got["time"] == query["time"]
        assert got["before"] == query["before"]
        assert got["wanted"] == [query["wanted"]]
        candidates = query["candidates"]
        if days == 7:
            candidates = {
                item
                for item in items_of_week(events, vectors, query["time"], end)
                if item not in {j for j, _, _ in query["before"]}
                and vector_as_of(vectors, item, query["time"]) is not None
            }
        assert got["candidates"] == candidates | {query["wanted"]}
        assert len(got["items"]) == len(got["candidates"]), "no item twice"
        for item, vector in zip(got["items"], got["vectors"], strict=True):
            assert vector == vector_as_of(vectors, item, query["time"])


@settings(max_examples=100, deadline=None)
@given(histories(), PERIODS)
def test_of_liking_every_activity_with_one_before_it_is_asked_about(case, bounds):
    events, vectors = case
    start, end = bounds
    expected = held_out(events, vectors, start=start, end=end, minimum=1, prefixes=True, **FACTS)
    history = history_of(events, vectors, SPEC)
    kinds = {e["action"] in POSITIVE for e, _ in expected}
    if kinds != {True, False}:
        with pytest.raises(InvalidInput, match="both positive and negative"):
            like_queries(history, period(start, end))
        return
    queries = like_queries(history, period(start, end))
    found = as_dicts(queries, history)
    assert [(q["member"], q["time"], q["items"]) for q in found] == [
        (e["member_id"], e["time"], [e["job_id"]]) for e, _ in expected
    ]
    assert queries.target.tolist() == [int(e["action"] in POSITIVE) for e, _ in expected]


def many():
    """Thirty activities of two members, on items 0 to 9."""
    events = [
        event(m, (i * m) % 10, "SAVE", (4 * DAY) + i * DAY // 8) for i in range(30) for m in (1, 3)
    ]
    return history_of(events, [(item, -1, [1.0, item]) for item in range(10)])


def test_no_member_has_more_queries_than_allowed_and_the_draw_is_of_the_seed():
    history, when = many(), period(4 * DAY, 8 * DAY)
    everything = fast_queries(history, when)
    few = fast_queries(history, when, per_member=3, seed=1)
    assert np.bincount(few.member).max() == 3
    assert set(few.time) <= set(everything.time)
    again = fast_queries(history, when, per_member=3, seed=1)
    assert few.time.tolist() == again.time.tolist()
    others = [fast_queries(history, when, per_member=3, seed=s).time.tolist() for s in range(2, 6)]
    assert any(times != few.time.tolist() for times in others)
    assert len(fast_queries(history, when, most=5)) == 5


def test_a_query_that_is_drawn_has_the_list_it_has_among_all():
    history, when = many(), period(4 * DAY, 8 * DAY)
    everything = {
        (q["member"], q["time"]): q for q in as_dicts(fast_queries(history, when), history)
    }
    for query in as_dicts(fast_queries(history, when, per_member=2, most=3), history):
        assert query == everything[query["member"], query["time"]]


@pytest.mark.parametrize("ask", [fast_queries, like_queries])
def test_those_who_are_asked_get_the_queries_that_they_get_among_all(ask):
    events = [
        event(m, (i * m) % 10, "SAVE", (4 * DAY) + i * DAY // 8)
        for i in range(30)
        for m in (1, 2, 3)
    ]
    events += [event(m, 10 + m, "DISMISS", 6 * DAY + 1) for m in (1, 2, 3)]
    history = history_of(events, [(item, -1, [1.0, item]) for item in range(20)])
    when, among = period(4 * DAY, 8 * DAY), np.array([True, False, True])
    of_all = as_dicts(ask(history, when), history)
    found = as_dicts(ask(history, when, among=among), history)
    assert found == [query for query in of_all if query["member"] != 2]
    assert {query["member"] for query in found} == {1, 3}


def test_members_are_drawn_of_those_with_activity_in_the_period():
    events = [event(m, m, "SAVE", (2 + m % 2) * DAY) for m in range(1, 21)]
    history = history_of(events, [(item, -1, [1.0, item]) for item in range(21)])
    active = history.events.member_ids.to_numpy() % 2 == 1
    drawn = members_drawn(history, period(3 * DAY, 4 * DAY), 4)
    assert drawn.sum() == 4 and not (drawn & ~active).any()
    assert members_drawn(history, period(3 * DAY, 4 * DAY), 4).tolist() == drawn.tolist()
    assert members_drawn(history, period(3 * DAY, 4 * DAY), 50).tolist() == active.tolist()


def test_a_week_is_from_monday_to_sunday():
    """1970-01-05, day 4, is a Monday."""
    days = (2, 3, 4, 7, 10, 11)
    events = [event(1, day, "SAVE", day * DAY + DAY // 2) for day in days]
    events += [event(2, 20, "SAVE", 5 * DAY - 1), event(2, 21, "SAVE", 5 * DAY)]
    history = history_of(events, [(item, -1, [1.0, item]) for item in range(30)])
    queries = as_dicts(fast_queries(history, period(5 * DAY, 12 * DAY), days=7), history)
    (query,) = [q for q in queries if q["wanted"] == [21]]
    assert query["candidates"] == {4, 7, 10, 21}


def test_lists_are_of_days_or_weeks():
    with pytest.raises(InvalidInput, match="1 or 7"):
        fast_queries(many(), period(4 * DAY, 8 * DAY), days=3)
