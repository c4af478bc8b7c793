"""What training reads: activity and vectors that fit each other, and the items of each day."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ActivitySpec
from support.reference import US_PER_DAY, sequence, vector_as_of
from support.training_cases import (
    LENGTH,
    MOMENTS,
    SPEC,
    WINDOW_US,
    event,
    events_of,
    histories,
    history_of,
    sequence_lists,
    vectors_of,
)
from support.training_reference import distinct

DAY = US_PER_DAY


def test_events_on_items_that_never_get_a_vector_are_left_out():
    events = [event(1, 10, "SAVE", 5), event(1, 99, "SAVE", 6), event(2, 99, "SAVE", 7)]
    history = history_of(events, [(10, 8, [1.0, 0.0]), (11, 0, [0.0, 1.0])])
    assert history.events.item_ids is history.vectors.item_ids
    assert history.events.time.tolist() == [5]
    assert history.events.member_ids.to_pylist() == [1, 2]


def test_no_event_on_a_known_item_is_refused():
    with pytest.raises(InvalidInput, match=r"Received: 1 event on 1 item, none.*the 1 with a"):
        history_of([event(1, 99, "SAVE", 5)], [(10, 0, [1.0, 0.0])])


def test_vectors_that_are_not_finite_are_refused_and_large_ones_are_not():
    events = events_of([event(1, 10, "SAVE", 5)])
    vectors = vectors_of([(10, 0, [3e38, 3e38]), (11, 0, [3e38, 0.0])])
    assert len(ActivityHistory.of(events, vectors, ActivitySpec()).events) == 1
    for wrong in (np.nan, np.inf):
        matrix = vectors.matrix.copy()
        matrix[1, 0] = wrong
        with pytest.raises(InvalidInput, match=r"should be finite.*in 1 of 2 vectors"):
            ActivityHistory.of(events, replace(vectors, matrix=matrix), ActivitySpec())


def test_model_inputs_are_rows_actions_and_ages_by_name():
    events = [event(7, item, "DISMISS", item * DAY) for item in range(3)]
    history = history_of(events, [(item, -1, [1.0, item]) for item in range(3)])
    inputs = history.model_inputs(history.sequences(np.array([0]), np.array([3 * DAY])))
    assert {name: (x.dtype.name, x.shape) for name, x in inputs.items()} == {
        "item_rows": ("int32", (1, 32)),
        "actions": ("int32", (1, 32)),
        "ages": ("float32", (1, 32)),
    }
    assert inputs["item_rows"][0, -4:].tolist() == [history.vectors.pad_row, 0, 1, 2]
    assert inputs["actions"][0, -4:].tolist() == [0, 3, 3, 3]
    assert inputs["ages"][0, -4:].tolist() == [0.0, 3.0, 2.0, 1.0]


def test_rows_of_items_are_those_of_each_time_in_the_shape_that_was_asked():
    vectors = [(10, 0, [1.0, 0.0]), (10, 5, [2.0, 0.0]), (11, 7, [3.0, 0.0])]
    history = history_of([event(1, 10, "SAVE", 5)], vectors)
    pad = history.vectors.pad_row
    as_of = np.array([4, 5, 7])
    assert history.rows(np.array([0, 0, 1]), as_of).tolist() == [0, 1, 2]
    table = np.array([[0, 1], [-1, 1], [1, 0]])
    assert history.rows(table, as_of).tolist() == [[0, pad], [pad, pad], [2, 1]]


def test_rows_of_no_items_are_none():
    history = history_of([event(1, 10, "SAVE", 5)], [(10, 0, [1.0, 0.0])])
    nothing = np.empty(0, dtype=np.int64)
    assert history.rows(np.empty(0, dtype=np.int32), nothing).shape == (0,)
    assert history.rows(np.empty((0, 3), dtype=np.int32), nothing).shape == (0, 3)
    assert len(history.sequences(nothing, nothing)) == 0


def test_items_of_a_day_are_distinct_and_in_the_order_in_which_they_became_known():
    events = [
        event(1, 11, "SAVE", 9),
        event(2, 11, "DISMISS", 3),
        event(1, 10, "SAVE", 5),
        event(1, 12, "SAVE", 4),
        event(1, 13, "SAVE", 4),
        event(2, 10, "SAVE", DAY),
    ]
    # Item 12 gets its vector later on the same day, item 13 on the next day.
    since = {10: -1, 11: -1, 12: 7, 13: DAY}
    history = history_of(events, [(item, time, [1.0, 0.0]) for item, time in since.items()])
    days = history.items_of_days
    ids = history.vectors.item_ids.to_numpy()

    assert days.days.tolist() == [0, 1]
    assert ids[days.items].tolist() == [11, 10, 12, 10]
    assert days.since.tolist() == [3, 5, 7, DAY]
    assert ids[days.events].tolist() == [11, 10, 12, 11, 10]
    assert days.event_since.tolist() == [3, 5, 7, 9, DAY]

    def slices(of, before):
        low, high = of(np.array([-1, 0, 1, 2]), before)
        return (high - low).tolist()

    assert slices(days.slices, 2 * DAY) == [0, 3, 1, 0]
    assert slices(days.slices, 7) == [0, 2, 0, 0]
    assert slices(days.slices, 3) == [0, 0, 0, 0]
    assert slices(days.event_slices, 2 * DAY) == [0, 4, 1, 0]
    assert slices(days.event_slices, 9) == [0, 3, 0, 0]


def test_the_history_of_some_members_keeps_the_items_of_all():
    events = [event(m, 10 + m, "SAVE", 5) for m in range(3)]
    history = history_of(events, [(10 + m, 0, [1.0, 0.0]) for m in range(3)])
    part = history.of_members(np.array([1]))
    assert part.events.member_ids.to_pylist() == [1]
    assert part.items_of_days is history.items_of_days
    assert part.vectors is history.vectors
    assert part.events.item_ids is history.vectors.item_ids


@settings(max_examples=75, deadline=None)
@given(histories(), MOMENTS, MOMENTS)
def test_items_of_days_equal_the_reference(case, moment, before):
    events, vectors = case
    history = history_of(events, vectors, SPEC)
    ids = history.vectors.item_ids.to_numpy()
    day = moment // DAY
    expected = [
        e["job_id"]
        for e in distinct(events)
        if e["time"] // DAY == day
        and e["time"] < before
        and vector_as_of(vectors, e["job_id"], min(before, (day + 1) * DAY) - 1) is not None
    ]
    days = history.items_of_days
    (low,), (high,) = days.event_slices(np.array([day]), before)
    assert sorted(ids[days.events[low:high]].tolist()) == sorted(expected)
    (low,), (high,) = days.slices(np.array([day]), before)
    assert sorted(ids[days.items[low:high]].tolist()) == sorted(set(expected))


@settings(max_examples=75, deadline=None)
@given(histories(), st.lists(st.tuples(st.integers(0, 2), MOMENTS), max_size=8))
def test_sequences_are_those_of_serving(case, queries):
    events, vectors = case
    history = history_of(events, vectors, SPEC)
    ids = history.events.member_ids.to_pylist()
    queries = [(member, time) for member, time in queries if member in ids]
    member = np.array([ids.index(member) for member, _ in queries], dtype=np.int64)
    as_of = np.array([time for _, time in queries], dtype=np.int64)
    assert sequence_lists(history.sequences(member, as_of)) == [
        sequence(events, vectors, member, time, window_us=WINDOW_US, length=LENGTH)[0]
        for member, time in queries
    ]
