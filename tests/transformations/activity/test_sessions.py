"""Which events are one session: of one id, whatever lies between, or close in time."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.merge import (
    activities_in,
    as_events,
    merge_activities,
    merge_sessions,
    sessions_in,
)
from activity_embeddings.transformations.activity.sequences import make_sequences
from activity_embeddings.transformations.activity.sessions import (
    first_of_session,
    last_of_session,
)
from activity_embeddings.transformations.errors import InvalidData, InvalidInput
from activity_embeddings.transformations.names import DomainNames
from activity_embeddings.transformations.spec import ActivitySpec
from support.reference import sessions_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = 60_000_000
DOMAIN = DomainNames(session_id="visit")
SPEC = ActivitySpec(window=timedelta(days=1), length=5)

EVENTS = st.lists(
    # Member, minute, item, session: ties, equal events and sessions that overlap are common.
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 9).map(lambda n: n * 15),
        st.integers(0, 2),
        st.sampled_from([None, None, "a", "b", "c"]),
    ),
    max_size=20,
)


def events_of(rows, *, kind=None):
    members, minutes, items, sessions = zip(*rows, strict=True) if rows else ((),) * 4
    table = pa.table(
        {
            "member_id": pa.array(members, pa.int64()),
            "job_id": pa.array(items, pa.int64()),
            "action": pa.array(["APPLY"] * len(rows), pa.string()),
            "event_timestamp": pa.array([m * MINUTE for m in minutes], pa.int64()).cast(
                pa.timestamp("us", "UTC")
            ),
            "visit": pa.array(sessions, kind or pa.string()),
        }
    )
    return ActivityEvents.from_arrow(table, SPEC, domain=DOMAIN)


def listed(events):
    """Return events as (member, minute, item, session) in their order."""
    ids = [] if events.session_ids is None else events.session_ids.to_pylist()
    return [
        (
            events.member_ids[int(member)].as_py(),
            time // MINUTE,
            events.item_ids[int(item)].as_py(),
            None if session < 0 else ids[session],
        )
        for member, time, item, session in zip(
            events.member, events.time.tolist(), events.item, events.session, strict=True
        )
    ]


def distinct(rows):
    """Return the events of rows, each of the first session that it has, in total order."""
    found = {}
    for member, minute, item, session in rows:
        of_event = found.setdefault((member, minute, item), set())
        if session:
            of_event.add(session)
    return [(*key, min(found[key]) if found[key] else None) for key in sorted(found)]


@given(EVENTS.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))))
def test_an_event_has_the_first_of_its_sessions_whatever_the_order_of_rows(rows):
    given_rows, shuffled = rows
    assert listed(events_of(given_rows)) == listed(events_of(shuffled)) == distinct(given_rows)


@given(EVENTS, st.integers(1, 40))
def test_sessions_are_those_of_the_rule(rows, gap):
    events = events_of(rows)
    first = first_of_session(events.member, events.time, events.session, gap_us=gap * MINUTE)
    plain = [(m, t, s) for m, t, _, s in listed(events)]
    expected = sessions_of(plain, gap)
    assert first.tolist() == [min(session) for session in expected]
    assert last_of_session(first).tolist() == [max(session) for session in expected]


@given(EVENTS, st.integers(0, 200))
def test_a_sequence_numbers_its_sessions_from_the_newest(rows, as_of):
    events = events_of(rows)
    members = pa.array([0, 1, 2, 9])
    known = ItemVectors.always_known(events.item_ids)
    moments = np.full(4, as_of * MINUTE)
    sequences = make_sequences(events, members, moments, spec=SPEC, vectors=known)
    every = distinct(rows)
    for member, got in zip([0, 1, 2, 9], sequences.sessions.tolist(), strict=True):
        newest = [e for e in every if e[0] == member and e[1] < as_of][-SPEC.length :]
        sessions = sessions_of([(0, minute, session) for _, minute, _, session in newest], 30)
        in_turn = sorted({max(session) for session in sessions}, reverse=True)
        numbers = [1 + in_turn.index(max(session)) for session in sessions]
        assert got == [0] * (SPEC.length - len(numbers)) + numbers


def test_two_sessions_that_overlap_by_hand():
    rows = [(1, 0, 0, "a"), (1, 1, 1, "b"), (1, 2, 2, "a"), (1, 300, 0, "b"), (1, 301, 0, None)]
    events = events_of(rows)
    known = ItemVectors.always_known(events.item_ids)
    at = np.array([400 * MINUTE])
    sequence = make_sequences(events, pa.array([1]), at, spec=SPEC, vectors=known)
    assert sequence.sessions.tolist() == [[2, 1, 2, 1, 1]]


def test_without_ids_a_gap_of_more_than_half_an_hour_ends_a_session():
    events = events_of([(1, m, 0, None) for m in (0, 30, 61, 200)])
    known = ItemVectors.always_known(events.item_ids)
    at = np.array([400 * MINUTE])
    sequence = make_sequences(events, pa.array([1]), at, spec=SPEC, vectors=known)
    assert sequence.sessions.tolist() == [[0, 3, 3, 2, 1]]


def test_integers_are_ids_as_text_and_a_column_of_nulls_has_none():
    assert listed(events_of([(1, 0, 0, 7), (1, 1, 0, None)], kind=pa.int64())) == [
        (1, 0, 0, "7"),
        (1, 1, 0, None),
    ]
    assert listed(events_of([(1, 0, 0, None)], kind=pa.null())) == [(1, 0, 0, None)]
    assert listed(events_of([(1, 0, 0, "")])) == [(1, 0, 0, None)]


def test_ids_of_another_type_and_a_missing_column_are_refused():
    with pytest.raises(InvalidData, match=r"'visit' should be int64 or string\. Received: double"):
        events_of([(1, 0, 0, 0.5)], kind=pa.float64())
    table = pa.table({name: pa.array([], pa.int64()) for name in ("member_id", "job_id", "action")})
    with pytest.raises(InvalidInput, match="visit"):
        ActivityEvents.from_arrow(table, SPEC, domain=DOMAIN)


@given(EVENTS)
def test_parts_of_events_keep_their_sessions(rows):
    events = events_of(rows)
    expected = listed(events)
    assert listed(events.compact()) == expected
    first, last = pa.scalar(1), pa.scalar(2)
    assert listed(events.within(first, last)) == [e for e in expected if e[0] in (1, 2)]
    late = events.where(events.time >= 60 * MINUTE).compact()
    assert listed(late) == [e for e in expected if e[1] >= 60]
    assert set(late.session_ids.to_pylist()) == {e[3] for e in expected if e[1] >= 60 and e[3]}


@given(EVENTS, EVENTS)
def test_merging_in_any_order_gives_one_event_one_session(some, others):
    def of_member_0(rows):
        own = [(minute, item, session) for m, minute, item, session in rows if m == 0]
        activities = [(minute * MINUTE, item, 1) for minute, item, _ in own]
        made = {}
        for activity, (*_, session) in zip(activities, own, strict=True):
            if session:
                made = merge_sessions(made, {activity: session})
        return activities, made

    def merged(*parts):
        activities, sessions = [], {}
        for new, of_new in map(of_member_0, parts):
            activities, _ = merge_activities(activities, new)
            sessions = merge_sessions(sessions, of_new)
        events = as_events([activities], [sessions])
        known = ItemVectors.always_known(events.item_ids)
        at = np.array([400 * MINUTE])
        sequence = make_sequences(events, events.member_ids, at, spec=SPEC, vectors=known)
        (after,) = activities_in(sequence)
        (of_after,) = sessions_in(sequence, [after])
        return [(0, time // MINUTE, item, of_after.get((time, item, 1))) for time, item, _ in after]

    expected = [e for e in distinct(some + others) if e[0] == 0][-SPEC.length :]
    assert merged(some, others) == merged(others, some) == expected
