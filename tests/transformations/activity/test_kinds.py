"""Several kinds of activity are one event table, whose ids never meet and whose places are kept."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.transformations.activity.events import ActivityEvents, check_events
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.kinds import (
    events_of_kinds,
    id_with_kind,
    kind_and_id,
    vectors_of_kinds,
)
from activity_embeddings.transformations.activity.merge import (
    activities_in,
    as_events,
    merge_activities,
)
from activity_embeddings.transformations.activity.sequences import make_sequences
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.names import DomainNames
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support import reference

WINDOW = timedelta(microseconds=28)
JOB = ActivitySpec(WINDOW, 6, ("APPLY", "SAVE"), ("APPLY",))
SEARCH = ActivitySpec(WINDOW, 6, ("SEARCH", "REFINE"), ())
STATUS = ActivitySpec(WINDOW, 6, ("ANNOUNCE",), ())
SPECS = {"job": JOB, "search": SEARCH, "status": STATUS}
COLUMNS = {"job": "job_id", "search": "query", "status": "status_id"}
VECTORS = ItemVectorSpec("texts", "1", 2)
UTC_US = pa.timestamp("us", "UTC")


def union(**keep):
    return ActivitySpec.of_kinds(SPECS, keep)


def table(kind, rows):
    """Return (member, item, action, time) as a source; items of jobs are int, others text."""
    members, items, actions, times = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table(
        {
            "member_id": pa.array(members, pa.int64()),
            COLUMNS[kind]: pa.array(items, pa.int64() if kind == "job" else pa.string()),
            "action": pa.array(actions, pa.string()),
            "event_timestamp": pa.array(times, UTC_US),
        }
    )


def checked(kind, rows, **more):
    names = DomainNames(item=kind, item_id=COLUMNS[kind])
    source = table(kind, rows)
    for name, values in more.items():
        source = source.append_column(name, values)
    return check_events(source, SPECS[kind], source=kind, domain=names)


def events_of(rows, spec):
    """Return (member, kind, item, action, time) as one event table."""
    of_kinds = {
        kind: checked(kind, [(m, i, a, t) for m, k, i, a, t in rows if k == kind]) for kind in SPECS
    }
    return ActivityEvents.of(events_of_kinds(of_kinds, spec))


def vectors_of(known):
    """Return (kind, item, time) as vectors; each is [position in `known`, time]."""
    found = {}
    for kind in SPECS:
        rows = [(i, item, t) for i, (k, item, t) in enumerate(known) if k == kind]
        source = pa.table(
            {
                "item": pa.array(
                    [item for _, item, _ in rows], pa.int64() if kind == "job" else pa.string()
                ),
                "embedding": pa.array(
                    [[float(i), float(t)] for i, _, t in rows], pa.list_(pa.float32())
                ),
                "event_timestamp": pa.array([t for _, _, t in rows], UTC_US),
            }
        )
        found[kind] = ItemVectors.from_arrow(source, VECTORS, source=kind, item_id="item")
    return vectors_of_kinds(found)


def item(kind, number):
    return number if kind == "job" else f"{number}:{kind[0]}"


kind_of_event = st.sampled_from(sorted(SPECS))
rows_of_events = st.lists(
    st.tuples(st.integers(1, 3), kind_of_event, st.integers(0, 4), st.integers(0, 1)).flatmap(
        lambda e: st.tuples(
            st.just(e[0]),
            st.just(e[1]),
            st.just(item(e[1], e[2])),
            st.just(SPECS[e[1]].actions[e[3] % len(SPECS[e[1]].actions)]),
            st.integers(0, 60),
        )
    ),
    max_size=50,
)
kept_places = st.sampled_from(
    [{}, {"job": 2}, {"job": 2, "search": 1}, {"search": 6}, {"job": 1, "search": 2, "status": 3}]
)


@settings(deadline=None)
@given(
    rows_of_events,
    st.lists(
        st.tuples(kind_of_event, st.integers(0, 4), st.integers(0, 60)), max_size=14, unique=True
    ),
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 60)), min_size=1, max_size=8),
    kept_places,
)
def test_sequences_of_kinds_equal_the_reference(rows, stamps, queries, keep):
    spec = union(**keep)
    known = [(kind, item(kind, number), time) for kind, number, time in stamps]
    vectors = vectors_of(known)
    events = events_of(rows, spec)
    members = pa.array([member for member, _ in queries], pa.int64())
    moments = np.array([moment for _, moment in queries], np.int64)

    got = make_sequences(events, members, moments, spec=spec, vectors=vectors)

    order = ["PAD", *spec.actions]
    plain = {(f"{kind}:{number}", time) for kind, number, time in known}
    for i, (member, moment) in enumerate(queries):
        seen = sorted(
            {
                (time, f"{kind}:{number}", order.index(action))
                for m, kind, number, action, time in rows
                if m == member and moment - 28 <= time < moment
            }
        )
        usable = [e for e in seen if any(name == e[1] and t <= moment for name, t in plain)]
        expected = reference.kept_of_kinds(
            usable, lambda event: event[1].partition(":")[0], keep, spec.length
        )
        assert activities_in(got.take(np.array([i]))) == [expected]
        assert got.unknown[i] == len(seen) - len(usable)
        newest = [max(t for name, t in plain if name == e[1] and t <= moment) for e in expected]
        matrix = vectors.matrix[got.rows(vectors)[i, spec.length - len(expected) :]]
        assert matrix[:, 1].tolist() == newest


@settings(deadline=None)
@given(rows_of_events, st.lists(st.integers(0, 50), max_size=6), kept_places, st.randoms())
def test_a_stored_sequence_holds_all_that_later_ones_need(rows, cuts, keep, random):
    """However events are cut into pushes, in any order, while the window moves on."""
    spec = union(**keep)
    order = ["PAD", *spec.actions]
    events = [(t, f"{kind}:{number}", order.index(a)) for _, kind, number, a, t in rows]
    random.shuffle(events)
    cuts = sorted(min(cut, len(events)) for cut in cuts)
    stored, as_of = [], 0

    def sequence(activities):
        table = as_events([activities])
        known = ItemVectors.always_known(table.item_ids)
        moments = np.array([as_of], np.int64)
        made = make_sequences(table, table.member_ids, moments, spec=spec, vectors=known)
        return activities_in(made)[0]

    for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
        stored, _ = merge_activities(stored, events[start:end])
        as_of = max([as_of, *(time + 1 for time, *_ in stored)])
        stored = sequence(stored)
    assert stored == sequence(sorted(set(events)))


@settings(deadline=None)
@given(rows_of_events, kept_places)
def test_an_event_has_a_place_or_none_by_the_newer_ones_that_have_one(rows, keep):
    spec = union(**keep)
    order = ["PAD", *spec.actions]
    events = sorted({(t, f"{kind}:{i}", order.index(a)) for _, kind, i, a, t in rows})
    kept = reference.kept_of_kinds(
        events, lambda event: event[1].partition(":")[0], keep, spec.length
    )
    for event in events:
        newer = [action for *when, action in kept if (*when, action) > event]
        assert spec.has_place(event[2], newer) == (event in kept)


def test_ids_of_kinds_never_meet_and_come_back():
    rows = [(1, "search", "7", "SEARCH", 5), (1, "job", 7, "APPLY", 5)]
    events = events_of(rows, union())
    assert events.item_ids.to_pylist() == ["job:7", "search:7"]
    assert events.action.tolist() == [1, 3]
    assert [kind_and_id(text) for text in events.item_ids.to_pylist()] == [
        ("job", "7"),
        ("search", "7"),
    ]
    assert kind_and_id(id_with_kind("search", "a:b")) == ("search", "a:b")


def test_vectors_of_kinds_should_have_one_length():
    known = ItemVectors.always_known(pa.array([1, 2]))
    wide = ItemVectors(known.item_ids, known.start, known.time, np.zeros((3, 4), np.float32))
    with pytest.raises(InvalidInput, match=r"one length. Received: job 0, search 4"):
        vectors_of_kinds({"job": known, "search": wide})


def test_event_ids_are_of_all_kinds_or_of_none():
    jobs = checked("job", [(1, 7, "APPLY", 5)], event_id=pa.array([3]))
    searches = checked("search", [(1, "q", "SEARCH", 5)])
    with pytest.raises(InvalidInput, match=r"expected all kinds.*Received: job of job, search"):
        events_of_kinds({"job": jobs, "search": searches}, union())
    searches = checked("search", [(1, "q", "SEARCH", 5)], event_id=pa.array(["a"]))
    with pytest.raises(InvalidInput, match=r"event ids of all kinds.* int64"):
        events_of_kinds({"job": jobs, "search": searches}, union())
    searches = checked("search", [(1, "q", "SEARCH", 5)], event_id=pa.array([2]))
    both = ActivityEvents.of(events_of_kinds({"job": jobs, "search": searches}, union()))
    assert both.action.tolist() == [3, 1]


def test_a_kind_without_events_has_no_part():
    events = events_of([(1, "job", 7, "SAVE", 5)], union())
    assert events.item_ids.to_pylist() == ["job:7"]
    assert len(events_of([], union())) == 0
