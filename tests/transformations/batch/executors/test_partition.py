"""A partition's rows are those of its members, however it is divided."""

import pickle
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings import ActivitySpec
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.member_range import EVERYBODY
from activity_embeddings.transformations.batch.executors import partition as module
from activity_embeddings.transformations.batch.executors.partition import (
    Computation,
    CutOff,
    Partition,
    Worker,
)
from activity_embeddings.transformations.errors import InvalidData
from activity_embeddings.transformations.names import JOBS

NOBODY = pa.array([], pa.int64())
WINDOW = 10
SPEC = ActivitySpec(window=timedelta(microseconds=WINDOW), length=3)
KNOWN = [1, 2, 3]


def ids(values, text):
    return pa.array(
        [str(v) for v in values] if text else values, pa.string() if text else pa.int64()
    )


def events_of(rows, text, event_ids):
    """Return (member, item, time) as events."""
    members, items, times = zip(*rows, strict=True) if rows else ((), (), ())
    table = pa.table(
        {
            "member_id": ids(members, text),
            "job_id": ids(items, text),
            "action": pa.array(["SAVE"] * len(rows), pa.string()),
            "event_timestamp": pa.array(times, pa.int64()).cast(pa.timestamp("us", "UTC")),
            **({"event_id": pa.array(range(len(rows)), pa.int64())} if event_ids else {}),
        }
    )
    return ActivityEvents.from_arrow(table, SPEC)


def worker(text=False):
    known = ItemVectors.always_known(ids(KNOWN, text))
    return Worker(Computation(SPEC, known, {}, 5, 8, JOBS))


def table_of(rows):
    """Return the sequence rows, None where nobody has one."""
    batches = [r.sequences for r in rows if r.sequences is not None]
    return pa.Table.from_batches(batches).combine_chunks() if batches else None


@st.composite
def partitions(draw):
    text = draw(st.booleans())
    member = st.integers(0, 9)
    rows = draw(st.lists(st.tuples(member, st.integers(1, 5), st.integers(0, 40)), max_size=40))
    as_of = draw(st.integers(5, 45))
    after_events = tuple(draw(st.sets(st.integers(0, as_of - 1), max_size=1)))
    were_active = ids(sorted(draw(st.sets(st.integers(0, 15)))), text)
    were_active = were_active.take(pc.sort_indices(were_active))
    events = events_of(rows, text, draw(st.booleans()))
    asked = CutOff(as_of, (), True, after_events)
    return rows, text, Partition(EVERYBODY, events, asked, were_active)


@given(partitions(), st.integers(1, 9), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_divided_it_is_the_whole(case, rows_a_task, at_once):
    rows, text, whole = case
    kept = module.MEMBERS_AT_ONCE
    module.MEMBERS_AT_ONCE = at_once
    try:
        expected = list(worker(text).rows(whole))
        # As they are after they were sent to another process.
        parts = [pickle.loads(pickle.dumps(part)) for part in whole.divided(rows_a_task)]
        answers = [list(worker(text).rows(part)) for part in parts]
    finally:
        module.MEMBERS_AT_ONCE = kept
    together = [rows for answer in answers for rows in answer]
    one, other = table_of(expected), table_of(together)
    assert (one is None and other is None) or one.equals(other)
    for count in ("members", "silent", "positions", "unknown"):
        assert sum(getattr(r, count) for r in expected) == sum(getattr(r, count) for r in together)
    for part, answer in zip(parts, answers, strict=True):
        assert sum(r.members for r in answer) <= rows_a_task
        assert set(part.events.item_ids.to_pylist()) <= {
            i if not text else str(i) for _, i, _ in rows
        }


@given(partitions())
@settings(max_examples=60, deadline=None)
def test_who_has_a_row_and_who_is_silent(case):
    rows, text, partition = case
    computed = list(worker(text).rows(partition))
    as_of = partition.asked.as_of

    def in_window(at, known=False):
        return {
            str(m) if text else m
            for m, i, t in rows
            if at - WINDOW <= t < at and (i in KNOWN or not known)
        }

    active, before = in_window(as_of), set(partition.were_active.to_pylist())
    before.update(*(in_window(t) for t in partition.asked.after_events))
    table = table_of(computed)
    received = [] if table is None else table.column("member_id").to_pylist()
    assert received == sorted(active | before)
    assert sum(r.silent for r in computed) == len(before - active)
    if table is not None:
        filled = table.filter(pc.greater(table.column("activity_count"), 0))
        assert set(filled.column("member_id").to_pylist()) == in_window(as_of, known=True)


def test_what_is_sent_is_as_small_as_its_events():
    events = events_of([(m, 1 + m % 5, m % 9) for m in range(4_000)], False, True)
    whole = Partition(EVERYBODY, events, CutOff(10, (), True, ()), NOBODY)
    first, *_ = whole.divided(10)
    assert first.events.event_ids.to_pylist() == list(range(10))
    assert len(pickle.dumps(first)) < 20_000
    for name in ("time", "action", "item", "member_start", "event"):
        assert not np.shares_memory(getattr(first.events, name), getattr(events, name))


def test_ids_of_two_types_are_refused():
    events = events_of([(1, 1, 5)], False, False)
    with pytest.raises(InvalidData, match="member_id should have one type everywhere"):
        Partition(EVERYBODY, events, CutOff(10, (), True, ()), pa.array(["1"]))
