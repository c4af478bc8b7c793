"""Merging keeps the total order of events, counts duplicates once and loses nothing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.merge import (
    activities_in,
    as_events,
    merge_activities,
    total_order,
)
from activity_embeddings.transformations.activity.sequences import make_sequences
from activity_embeddings.transformations.arrow import codes_of
from activity_embeddings.transformations.spec import ActivitySpec
from support import reference

activity = st.tuples(st.integers(0, 6), st.integers(1, 4), st.integers(1, 3))
activities = st.lists(activity, max_size=12)
ACTIONS = ["PAD", "APPLY", "SAVE", "DISMISS"]


def ordered(events):
    """Return the distinct activities as the reference implementation orders them."""
    rows = [
        {"member_id": 1, "job_id": item, "action": ACTIONS[action], "time": time}
        for time, item, action in events
    ]
    vectors = [(item, -1, None) for item in range(5)]
    known = [(item, time, [0.0]) for item, time, _ in vectors]
    kept, _ = reference.sequence(rows, known, 1, 100, window_us=100, length=99)
    return [(time, item, ACTIONS.index(action)) for item, action, time in kept]


@given(activities, activities)
def test_merging_equals_ordering_everything_at_once(stored, recent):
    stored = ordered(stored)
    merged, new = merge_activities(stored, recent)
    assert merged == ordered(stored + recent)
    assert sorted(new) == sorted(set(recent) - set(stored))


@given(activities, activities, st.randoms())
def test_neither_order_nor_repetition_of_the_new_ones_matters(stored, recent, random):
    stored = ordered(stored)
    again = recent * 2
    random.shuffle(again)
    assert merge_activities(stored, again) == merge_activities(stored, recent)
    once, _ = merge_activities(stored, recent[:3])
    assert merge_activities(once, again)[0] == merge_activities(stored, recent)[0]


@given(st.lists(activity, max_size=12))
def test_stored_events_of_one_time_keep_their_order(stored):
    # Event ids may order them otherwise than by item and action, and repeat one.
    stored = sorted(stored, key=lambda a: (a[0], -a[1]))
    assert merge_activities(stored, [])[0] == stored
    merged, new = merge_activities(stored, [(3, 2, 1)])
    assert [a for a in merged if a not in new] == stored
    times = [time for time, _, _ in merged]
    assert times == sorted(times)


def test_a_time_cut_to_the_second_meets_its_stored_event():
    stored = [(5_400_000, 1, 1), (7_000_000, 2, 2)]
    cut = [(5_000_000, 1, 1), (5_000_000, 1, 2), (7_000_000, 2, 2), (6_000_000, 1, 1)]
    merged, new = merge_activities(stored, cut, cut)
    assert new == [(5_000_000, 1, 2), (6_000_000, 1, 1)]
    assert merged == [(5_000_000, 1, 2), stored[0], (6_000_000, 1, 1), stored[1]]
    # Exact times are taken at their word.
    assert merge_activities(stored, cut)[1] == [
        (5_000_000, 1, 1),
        (5_000_000, 1, 2),
        (6_000_000, 1, 1),
    ]


@given(st.lists(activities.map(sorted), max_size=4), st.booleans())
def test_as_an_event_table_nothing_changes(members, strings):
    def name(item):
        return f"item {item}" if strings else item

    named = [[(time, name(item), action) for time, item, action in one] for one in members]
    events = as_events(named)
    ids = events.item_ids.to_pylist()
    assert ids == sorted(set(ids))
    assert events.member_ids.to_pylist() == list(range(len(members)))
    for member, expected in enumerate(named):
        part = slice(*events.member_start[member : member + 2])
        items = [ids[item] for item in events.item[part]]
        times, actions = events.time[part].tolist(), events.action[part].tolist()
        assert list(zip(times, items, actions, strict=True)) == expected


def test_looking_ids_up_in_themselves_gives_their_positions():
    ids = as_events([[(1, 7, 1), (2, 3, 1)]]).item_ids
    assert codes_of(ids, ids).tolist() == [0, 1]


@given(
    st.lists(st.tuples(activity, st.integers(-3, 12)), max_size=12, unique_by=lambda e: e[1]),
    st.integers(0, 12),
    st.booleans(),
)
def test_events_with_ids_are_merged_in_the_order_of_their_ids(drawn, cut, strings):
    """Integers as numbers, text as text; whichever part was stored before."""
    events = [(*event, f"{number:03}" if strings else number) for event, number in drawn]
    everything = sorted(events, key=lambda e: (e[0], e[3], e[1], e[2]))
    stored = sorted(events[:cut], key=total_order)
    merged, new = merge_activities(stored, events)
    assert merged == everything
    assert sorted(new) == sorted(events[cut:])
    assert merge_activities(merged, events) == (merged, [])


def test_an_event_without_its_id_equals_the_stored_one_and_stands_by_item_among_others():
    stored = [(5, 3, 1, 10), (5, 2, 1, 11)]
    assert merge_activities(stored, [(5, 2, 1)]) == (stored, [])
    merged, new = merge_activities(stored, [(5, 9, 1), (4, 9, 1)])
    assert new == [(4, 9, 1), (5, 9, 1)]
    assert merged == [(4, 9, 1), *stored, (5, 9, 1)]
    # Stored before the source had ids.
    assert merge_activities([(5, 3, 1)], [(5, 3, 1, 10)]) == ([(5, 3, 1)], [])


@given(
    st.lists(st.lists(st.tuples(activity, st.none() | st.integers(0, 9)), max_size=5), max_size=4)
)
def test_event_ids_go_through_sequences(members):
    spec = ActivitySpec(length=5)
    named = [
        sorted(
            (event if number is None else (*event, number) for event, number in one),
            key=lambda e: e[0],
        )
        for one in members
    ]
    events = as_events(named)
    known = ItemVectors(
        item_ids=events.item_ids,
        start=np.arange(len(events.item_ids) + 1),
        time=np.full(len(events.item_ids), -1),
        matrix=np.zeros((len(events.item_ids) + 1, 1), np.float32),
    )
    moments = np.full(len(named), 100)
    sequences = make_sequences(events, events.member_ids, moments, spec=spec, vectors=known)
    assert activities_in(sequences) == named
