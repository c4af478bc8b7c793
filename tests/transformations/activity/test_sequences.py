"""Sequences agree with the slow reference on random cases, and say so by hand on a few."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.sequences import make_sequences, members_active
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support.reference import sequence, vector_as_of

SPEC = ActivitySpec(window=timedelta(microseconds=28), length=5)
VECTOR_SPEC = ItemVectorSpec("test", "1", 2)
ACTIONS = ("APPLY", "SAVE", "DISMISS")


def events_table(events, ids):
    columns = {
        "member_id": pa.array([e["member_id"] for e in events], ids),
        "job_id": pa.array([e["job_id"] for e in events], ids),
        "action": pa.array([e["action"] for e in events], pa.string()),
        "event_timestamp": pa.array([e["time"] for e in events], pa.timestamp("us", "UTC")),
    }
    if events and "event_id" in events[0]:
        columns["event_id"] = pa.array([e["event_id"] for e in events], pa.int64())
    return pa.table(columns)


def vectors_table(vectors, ids):
    return pa.table(
        {
            "job_id": pa.array([item for item, _, _ in vectors], ids),
            "embedding": pa.array([v for _, _, v in vectors], pa.list_(pa.float32())),
            "event_timestamp": pa.array([t for _, t, _ in vectors], pa.timestamp("us", "UTC")),
        }
    )


@st.composite
def cases(draw):
    """Few members, items and moments, so that ties, duplicates and edges are common."""
    as_strings = draw(st.booleans())
    name = (lambda kind, i: f"{kind}{i}é") if as_strings else (lambda kind, i: i * 7 - 3)
    with_event_id = draw(st.booleans())
    moment = st.integers(0, 60)
    event = st.fixed_dictionaries(
        {
            "member_id": st.integers(0, 3).map(lambda i: name("m", i)),
            "job_id": st.integers(0, 5).map(lambda i: name("j", i)),
            "action": st.sampled_from(ACTIONS),
            "time": moment,
            **({"event_id": st.integers(0, 4)} if with_event_id else {}),
        }
    )
    events = draw(st.lists(event, max_size=60))
    if events and draw(st.booleans()):
        events = events + events[: draw(st.integers(1, len(events)))]
    stamps = draw(st.lists(st.tuples(st.integers(0, 5), moment), max_size=9, unique=True))
    vectors = [(name("j", j), t, [float(j), float(t) + 1.0]) for j, t in stamps]
    queries = draw(
        st.lists(st.tuples(st.integers(0, 4).map(lambda i: name("m", i)), moment), max_size=12)
    )
    return as_strings, draw(st.permutations(events)), vectors, queries


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(cases())
def test_sequences_equal_the_reference(case):
    as_strings, events, vectors, queries = case
    ids = pa.string() if as_strings else pa.int64()
    table = ActivityEvents.from_arrow(events_table(events, ids), SPEC)
    vector_spec = ItemVectors.from_arrow(vectors_table(vectors, ids), VECTOR_SPEC)
    members = pa.array([member for member, _ in queries], ids)
    as_of = np.array([moment for _, moment in queries], dtype=np.int64)

    got = make_sequences(table, members, as_of, spec=SPEC, vectors=vector_spec)
    rows = got.rows(vector_spec)

    for i, (member, moment) in enumerate(queries):
        expected, unknown = sequence(
            events, vectors, member, moment, window_us=SPEC.window_us, length=SPEC.length
        )
        n = len(expected)
        assert got.count[i] == n
        assert got.unknown[i] == unknown
        assert (got.action[i, : SPEC.length - n] == 0).all()
        assert (got.item[i, : SPEC.length - n] == -1).all()
        assert (rows[i, : SPEC.length - n] == vector_spec.pad_row).all()
        kept = slice(SPEC.length - n, None)
        assert [
            (got.item_ids[int(j)].as_py(), SPEC.vocabulary[a], t)
            for j, a, t in zip(
                got.item[i, kept], got.action[i, kept], got.time[i, kept], strict=True
            )
        ] == expected
        assert vector_spec.matrix[rows[i, kept]].tolist() == [
            vector_as_of(vectors, item, moment) for item, _, _ in expected
        ]

    for moment in {moment for _, moment in queries}:
        assert members_active(table, moment, SPEC).to_pylist() == sorted(
            {e["member_id"] for e in events if moment - 28 <= e["time"] < moment},
            key=lambda m: m.encode() if as_strings else m,
        )


def day(n):
    return datetime(2013, 5, 1, tzinfo=UTC) + timedelta(days=n)


def us(moment):
    return int(moment.timestamp() * 1_000_000)


def single_member(times, *, known_from=-100):
    table = pa.table(
        {
            "member_id": [7] * len(times),
            "job_id": list(range(len(times))),
            "action": ["APPLY"] * len(times),
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )
    vectors = pa.table(
        {
            "job_id": list(range(len(times))),
            "embedding": pa.array([[1.0, 0.0]] * len(times), pa.list_(pa.float32())),
            "event_timestamp": pa.array([day(known_from)] * len(times), pa.timestamp("us", "UTC")),
        }
    )
    return table, ItemVectors.from_arrow(vectors, VECTOR_SPEC)


def items_at(table, vectors, moment, spec=None):
    spec = spec or ActivitySpec()
    events = ActivityEvents.from_arrow(table, spec)
    got = make_sequences(events, pa.array([7]), np.array([us(moment)]), spec=spec, vectors=vectors)
    return got.item[0][got.item[0] >= 0].tolist()


def test_an_event_at_the_as_of_time_is_left_out_and_one_28_days_before_is_kept():
    table, vectors = single_member(
        [day(0) - timedelta(microseconds=1), day(0), day(28) - timedelta(microseconds=1), day(28)]
    )
    assert items_at(table, vectors, day(28)) == [1, 2]


def test_of_40_events_the_newest_32_are_kept_oldest_first():
    table, vectors = single_member([day(0) + timedelta(minutes=i) for i in range(40)])
    assert items_at(table, vectors, day(1)) == list(range(8, 40))


def test_a_vector_published_at_the_as_of_time_is_known_and_a_later_one_is_not():
    table, vectors = single_member([day(0)], known_from=1)
    assert items_at(table, vectors, day(1)) == [0]
    assert items_at(table, vectors, day(1) - timedelta(microseconds=1)) == []


def test_ages_are_days_before_the_as_of_time_and_zero_for_pad():
    table, vectors = single_member([day(0)])
    events = ActivityEvents.from_arrow(table, ActivitySpec())
    got = make_sequences(
        events, pa.array([7]), np.array([us(day(3))]), spec=ActivitySpec(), vectors=vectors
    )
    assert got.ages[0, -1] == 3.0
    assert (got.ages[0, :-1] == 0.0).all()


def test_more_queries_than_are_worked_on_at_once_keep_their_order(monkeypatch):
    table, vectors = single_member([day(i) for i in range(10)])
    events = ActivityEvents.from_arrow(table, ActivitySpec())
    as_of = np.array([us(day(i % 12)) for i in range(50)])
    members = pa.array([7, 8] * 25)
    whole = make_sequences(events, members, as_of, spec=ActivitySpec(), vectors=vectors)
    monkeypatch.setattr("activity_embeddings.transformations.activity.sequences.QUERIES_AT_ONCE", 7)
    parts = make_sequences(events, members, as_of, spec=ActivitySpec(), vectors=vectors)
    np.testing.assert_array_equal(whole.item, parts.item)
    np.testing.assert_array_equal(whole.count, parts.count)
    assert whole.count[::2].tolist() == [min(i % 12, 10) for i in range(0, 50, 2)]
    assert (whole.count[1::2] == 0).all()


def test_the_input_table_is_not_changed():
    table, vectors = single_member([day(3), day(1)])
    before = table.to_pydict()
    items_at(table, vectors, day(5))
    assert table.to_pydict() == before


def test_members_of_another_id_type_are_refused():
    table, vectors = single_member([day(0)])
    events = ActivityEvents.from_arrow(table, ActivitySpec())
    with pytest.raises(ValueError, match="string and int64"):
        make_sequences(events, pa.array(["7"]), np.array([0]), spec=ActivitySpec(), vectors=vectors)
