"""Parts of an event table hold the same events in the same order as the whole."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ActivitySpec
from support.training_cases import SPEC, event, events_of, histories
from support.training_reference import distinct


def rows(events):
    """Return (member id, item id, action, time) of each event, and check the slices of members."""
    assert events.member_start.tolist()[0] == 0
    assert events.member_start.tolist()[-1] == len(events)
    assert len(events.member_start) == len(events.member_ids) + 1
    member_ids, item_ids = events.member_ids.to_pylist(), events.item_ids.to_pylist()
    found = []
    for m, member_id in enumerate(member_ids):
        for e in range(events.member_start[m], events.member_start[m + 1]):
            action = SPEC.vocabulary[events.action[e]]
            found.append((member_id, item_ids[events.item[e]], action, int(events.time[e])))
    return found


def tuples(events):
    return [(e["member_id"], e["job_id"], e["action"], e["time"]) for e in events]


EVENTS = [
    event(3, 30, "SAVE", 5),
    event(1, 20, "APPLY", 9),
    event(1, 10, "DISMISS", 2),
    event(7, 20, "SAVE", 4),
    event(3, 10, "APPLY", 5),
]


def test_each_event_knows_its_member():
    assert events_of(EVENTS).member.tolist() == [0, 0, 1, 1, 2]
    assert events_of([]).member.tolist() == []


def test_events_of_some_members():
    whole = events_of(EVENTS)
    part = whole.of_members(np.array([0, 2]))
    assert part.member_ids.to_pylist() == [1, 7]
    assert rows(part) == [(1, 10, "DISMISS", 2), (1, 20, "APPLY", 9), (7, 20, "SAVE", 4)]
    assert part.item_ids is whole.item_ids
    assert len(whole) == 5
    assert rows(whole.of_members(np.array([], dtype=np.int64))) == []


def test_events_that_meet_a_condition_keep_all_members():
    whole = events_of(EVENTS)
    part = whole.where(whole.time == 5)
    assert part.member_ids.to_pylist() == [1, 3, 7]
    assert part.member_start.tolist() == [0, 0, 2, 2]
    assert rows(part) == [(3, 10, "APPLY", 5), (3, 30, "SAVE", 5)]
    assert rows(whole.where(np.zeros(5, dtype=bool))) == []
    assert rows(whole.where(np.ones(5, dtype=bool))) == rows(whole)


def test_events_on_some_items_count_in_the_ids_of_these():
    whole = events_of(EVENTS)
    ids = pa.array([5, 10, 30, 40], pa.int64())
    part = whole.on_items(ids)
    assert part.item_ids is ids
    assert part.item.tolist() == [1, 1, 2]
    assert rows(part) == [(1, 10, "DISMISS", 2), (3, 10, "APPLY", 5), (3, 30, "SAVE", 5)]
    assert whole.item_ids.to_pylist() == [10, 20, 30]
    assert rows(whole.on_items(pa.array([], pa.int64()))) == []
    assert rows(events_of([]).on_items(ids)) == []


def test_item_ids_of_another_type_are_refused():
    with pytest.raises(InvalidInput, match=r"item ids should have one type.*int64 and string"):
        events_of(EVENTS).on_items(pa.array(["10"]))


@settings(max_examples=200, deadline=None)
@given(histories(), st.data())
def test_parts_equal_the_obvious_filters(case, data):
    events, _ = case
    whole, expected = events_of(events), tuples(distinct(events))
    assert rows(whole) == expected
    left_out = Counter(e["time"] for e in events) - Counter(time for *_, time in expected)
    assert Counter(whole.duplicates.tolist()) == left_out
    member_ids = whole.member_ids.to_pylist()
    assert [member_ids[m] for m in whole.member] == [row[0] for row in expected]

    chosen = sorted(data.draw(st.sets(st.integers(0, len(member_ids) - 1))))
    part = whole.of_members(np.array(chosen, dtype=np.int64))
    ids = [member_ids[m] for m in chosen]
    assert part.member_ids.to_pylist() == ids
    assert rows(part) == [row for row in expected if row[0] in ids]

    first, last = sorted(data.draw(st.tuples(*[st.integers(-1, max(member_ids) + 1)] * 2)))
    part = whole.within(pa.scalar(first), pa.scalar(last))
    assert part.member_ids.to_pylist() == [m for m in member_ids if first <= m <= last]
    assert rows(part) == [row for row in expected if first <= row[0] <= last]

    kept = data.draw(st.lists(st.booleans(), min_size=len(whole), max_size=len(whole)))
    part = whole.where(np.array(kept, dtype=bool))
    assert part.member_ids.to_pylist() == member_ids
    assert rows(part) == [row for row, k in zip(expected, kept, strict=True) if k]

    items = sorted(data.draw(st.sets(st.integers(0, 7))))
    part = whole.on_items(pa.array(items, pa.int64()))
    assert part.member_ids.to_pylist() == member_ids
    assert rows(part) == [row for row in expected if row[1] in items]


def test_what_a_spec_ignores_is_told_by_its_times():
    spec = replace(SPEC, other_actions="ignore")
    events = [*EVENTS, event(1, 10, "LOOK", 3), event(9, 90, "SHARE", -4), event(9, 90, "LOOK", 3)]
    whole = events_of(events, spec)
    assert sorted(whole.other_actions.tolist()) == [-4, 3, 3]
    assert rows(whole) == rows(events_of(EVENTS))
    assert whole.member_ids.to_pylist() == [1, 3, 7]
    assert events_of(EVENTS, spec).other_actions.tolist() == []


def test_ids_of_many_actions_do_not_overflow():
    spec = ActivitySpec(actions=tuple(f"A{i}" for i in range(16_000)), positive_actions=("A3",))
    events = [event(1, 10, f"A{i}", i) for i in (0, 126, 127, 128, 150, 254, 255, 256, 15_999)]
    found = events_of(events, spec)
    assert found.action.tolist() == [1, 127, 128, 129, 151, 255, 256, 257, 16_000]


def test_of_many_unknown_actions_a_few_are_named():
    events = [event(1, 10, f"A{i}", i) for i in range(7)]
    with pytest.raises(InvalidInput, match=r"'A4' and 2 more in 7 of 7 rows"):
        events_of(events)
    with pytest.raises(InvalidInput, match=r"'A4' in 5 of 5 rows"):
        events_of(events[:5])


def test_an_action_that_is_no_text_is_refused():
    """As in a file that was written in another encoding."""
    table = pa.table(
        {
            "member_id": [1],
            "job_id": [1],
            "action": pa.array([b"caf\xe9"]).view(pa.string()),
            "event_timestamp": pa.array([5], pa.timestamp("us", "UTC")),
        }
    )
    with pytest.raises(InvalidInput, match="'action' should hold text in UTF-8"):
        ActivityEvents.from_arrow(table, SPEC)
