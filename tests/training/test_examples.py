"""Examples are what serving would have seen before each held-out activity, and nothing later."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import US_PER_DAY, sequence, vector_as_of

from training.examples import make_examples, with_same_day_negatives
from transformations.errors import InvalidInput
from transformations.events import ActivityEvents
from transformations.item_vectors import ItemVectors
from transformations.spec import ActivitySpec, ItemEmbedding

ITEMS = ItemEmbedding("test", "1", 2)
ACTIONS = ("APPLY", "SAVE", "DISMISS")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def at(us):
    return EPOCH + timedelta(microseconds=us)


def load(events, vectors, spec):
    columns = {
        "member_id": pa.array([e["member_id"] for e in events], pa.int64()),
        "job_id": pa.array([e["job_id"] for e in events], pa.int64()),
        "action": pa.array([e["action"] for e in events], pa.string()),
        "event_timestamp": pa.array([e["time"] for e in events], pa.timestamp("us", "UTC")),
    }
    items = {
        "job_id": pa.array([job for job, _, _ in vectors], pa.int64()),
        "embedding": pa.array([v for _, _, v in vectors], pa.list_(pa.float32())),
        "event_timestamp": pa.array([t for _, t, _ in vectors], pa.timestamp("us", "UTC")),
    }
    return (
        ActivityEvents.from_arrow(pa.table(columns), spec),
        ItemVectors.from_arrow(pa.table(items), ITEMS),
    )


def cases(unit):
    """Few members, jobs and moments `unit` apart, so that ties and edges are common."""
    moment = st.integers(0, 40).map(lambda i: i * unit)
    event = st.fixed_dictionaries(
        {
            "member_id": st.integers(0, 2),
            "job_id": st.integers(0, 3),
            "action": st.sampled_from(ACTIONS),
            "time": moment,
        }
    )
    vector = st.tuples(st.integers(0, 3), moment).map(lambda p: (*p, [p[0] + 1.0, p[1] / unit]))
    return st.tuples(
        st.lists(event, min_size=1, max_size=50),
        st.lists(vector, max_size=6, unique_by=lambda v: v[:2]).map(
            # Some jobs are known all along, so that there is something to find.
            lambda drawn: [*drawn, *((j, -unit, [j + 1.0, -1.0]) for j in (0, 1, 2))]
        ),
    )


@settings(max_examples=250, deadline=None)
@given(cases(1), st.integers(0, 40), st.integers(1, 40), st.integers(1, 4))
def test_examples_equal_the_reference(case, start, width, minimum):
    events, vectors = case
    spec = ActivitySpec(window=timedelta(microseconds=15), length=5)
    table, items = load(events, vectors, spec)

    got = make_examples(
        table, items, spec=spec, start=at(start), end=at(start + width), minimum=minimum
    )

    distinct = {
        (e["member_id"], e["time"], e["job_id"], spec.vocabulary.index(e["action"])): e
        for e in events
    }
    expected = []
    for key in sorted(distinct):
        event = distinct[key]
        held_out = vector_as_of(vectors, event["job_id"], event["time"])
        before, _ = sequence(
            events, vectors, event["member_id"], event["time"], window_us=15, length=5
        )
        if start <= event["time"] < start + width and held_out and len(before) >= minimum:
            expected.append((before, held_out, event["action"] != "DISMISS"))

    received = []
    for i in range(len(got)):
        kept = got.sequences.action[i] > 0
        received.append(
            (
                [
                    (got.sequences.job_ids[int(j)].as_py(), spec.vocabulary[a], t)
                    for j, a, t in zip(
                        got.sequences.job[i, kept],
                        got.sequences.action[i, kept],
                        got.sequences.time[i, kept],
                        strict=True,
                    )
                ],
                items.matrix[got.held_out_rows[i]].tolist(),
                bool(got.positive[i]),
            )
        )
    assert received == expected
    assert not got.sampled.any()


@settings(max_examples=200, deadline=None)
@given(cases(1), st.integers(1, 40))
def test_what_happens_later_changes_no_earlier_example(case, moment):
    events, vectors = case
    spec = ActivitySpec(window=timedelta(microseconds=15), length=5)

    def examples_before(moment, events, vectors):
        table, items = load(events, vectors, spec)
        got = make_examples(table, items, spec=spec, start=at(0), end=at(moment), minimum=1)
        kept = got.sequences.action > 0
        assert (got.sequences.time < got.sequences.as_of[:, None])[kept].all()
        np.testing.assert_array_equal(got.sequences.as_of, table.time[got.event])
        return (
            items.matrix[got.sequences.rows(items)].tolist(),
            got.sequences.action.tolist(),
            got.sequences.time.tolist(),
            items.matrix[got.held_out_rows].tolist(),
            got.positive.tolist(),
        )

    past = [e for e in events if e["time"] < moment]
    known = [v for v in vectors if v[1] < moment]
    assert examples_before(moment, events, vectors) == examples_before(moment, past, known)


@settings(max_examples=200, deadline=None)
@given(cases(US_PER_DAY // 4), st.integers(0, 2**31))
def test_a_drawn_negative_is_a_job_of_that_day_which_the_member_left_alone(case, seed):
    events, vectors = case
    spec = ActivitySpec(length=5)
    table, items = load(events, vectors, spec)
    own = make_examples(table, items, spec=spec, start=at(0), end=at(41 * US_PER_DAY), minimum=1)
    got = with_same_day_negatives(own, table, items, seed=seed)

    assert not (got.positive & got.sampled).any()
    np.testing.assert_array_equal(got.held_out_rows[: len(own)], own.held_out_rows)
    drawn = {int(got.event[i]): i for i in np.flatnonzero(got.sampled)}
    assert len(drawn) == got.sampled.sum()
    assert len(got) == len(own) + len(drawn)
    of_event = {int(event): i for i, event in enumerate(own.event)}
    assert set(drawn) <= {int(e) for e in own.event[own.positive]}

    for event in own.event[own.positive].tolist():
        member = table.member_ids[
            int(np.searchsorted(table.member_start, event, side="right")) - 1
        ].as_py()
        moment = int(table.time[event])
        day = moment // US_PER_DAY
        acted_on = {
            e["job_id"]
            for e in events
            if e["member_id"] == member and e["time"] // US_PER_DAY <= day
        }
        allowed = {
            e["job_id"]
            for e in events
            if e["time"] // US_PER_DAY == day
            and e["job_id"] not in acted_on
            and vector_as_of(vectors, e["job_id"], moment)
        }
        assert (event in drawn) == bool(allowed)
        if allowed:
            i = drawn[event]
            assert items.matrix[got.held_out_rows[i]].tolist() in [
                vector_as_of(vectors, job, moment) for job in allowed
            ]
            source = of_event[event]
            np.testing.assert_array_equal(got.sequences.job[i], own.sequences.job[source])
            np.testing.assert_array_equal(got.sequences.action[i], own.sequences.action[source])
            assert got.sequences.as_of[i] == moment


def day_of_many(jobs=5, positives=4000):
    """Member 0 with many positives on one day; members 1 and up, one job each on that day."""
    step = US_PER_DAY // (positives + 1)
    mine = [
        {"member_id": 0, "job_id": 100, "action": "APPLY", "time": i * step}
        for i in range(positives)
    ]
    others = [
        # Popularity: job j is acted on by j + 1 members.
        {"member_id": 1 + 10 * j + k, "job_id": j, "action": "SAVE", "time": 7}
        for j in range(jobs)
        for k in range(j + 1)
    ]
    vectors = [(j, -1, [float(j), 1.0]) for j in (*range(jobs), 100)]
    return load(mine + others, vectors, ActivitySpec())


def test_drawn_jobs_are_uniform_over_the_distinct_jobs_of_the_day():
    table, items = day_of_many()
    own = make_examples(table, items, spec=ActivitySpec(), start=at(0), end=at(US_PER_DAY))
    got = with_same_day_negatives(own, table, items, seed=0)
    counts = np.bincount(got.held_out_rows[got.sampled], minlength=5)
    assert counts.sum() == own.positive.sum() == 3997
    # Four standard deviations of a binomial with p = 1/5.
    np.testing.assert_allclose(counts[:5], 3997 / 5, atol=4 * (3997 * 0.16) ** 0.5)


def test_the_seed_decides_the_negatives():
    table, items = day_of_many(positives=50)
    own = make_examples(table, items, spec=ActivitySpec(), start=at(0), end=at(US_PER_DAY))
    rows = [
        with_same_day_negatives(own, table, items, seed=seed).held_out_rows.tolist()
        for seed in (3, 3, 4)
    ]
    assert rows[0] == rows[1] != rows[2]


def simple(times, action="APPLY"):
    events = [
        {"member_id": 7, "job_id": i, "action": action, "time": t} for i, t in enumerate(times)
    ]
    return load(events, [(i, -1, [1.0, i]) for i in range(len(times))], ActivitySpec())


def test_four_activities_make_one_example_and_three_make_none():
    table, items = simple([10, 20, 30, 40])
    got = make_examples(table, items, spec=ActivitySpec(), start=at(0), end=at(100))
    assert got.event.tolist() == [3]
    assert got.sequences.time[0, -3:].tolist() == [10, 20, 30]
    assert got.sequences.count.tolist() == [3]
    assert make_examples(table, items, spec=ActivitySpec(), start=at(0), end=at(40)).event.size == 0


def test_events_tied_with_the_held_out_one_are_not_its_input():
    table, items = simple([10, 20, 30, 40, 40])
    got = make_examples(table, items, spec=ActivitySpec(), start=at(0), end=at(100))
    assert got.event.tolist() == [3, 4]
    assert got.sequences.count.tolist() == [3, 3]


def test_a_held_out_job_without_a_vector_at_its_time_is_no_example():
    events = [{"member_id": 7, "job_id": i, "action": "SAVE", "time": 10 * i} for i in range(6)]
    vectors = [*((i, -1, [1.0, 0.0]) for i in range(4)), (4, 41, [1.0, 0.0]), (5, 50, [1.0, 0.0])]
    table, items = load(events, vectors, ActivitySpec())
    got = make_examples(table, items, spec=ActivitySpec(), start=at(0), end=at(100))
    assert [table.job_ids[int(table.job[e])].as_py() for e in got.event] == [3, 5]


def test_inputs_are_rows_actions_and_ages_by_name():
    table, items = simple([0, US_PER_DAY, 2 * US_PER_DAY, 3 * US_PER_DAY], action="DISMISS")
    got = make_examples(table, items, spec=ActivitySpec(), start=at(0), end=at(4 * US_PER_DAY))
    inputs = got.inputs(items)
    assert {name: (x.dtype.name, x.shape) for name, x in inputs.items()} == {
        "job_rows": ("int32", (1, 32)),
        "actions": ("int32", (1, 32)),
        "ages": ("float32", (1, 32)),
        "held_out_row": ("int32", (1,)),
    }
    assert inputs["job_rows"][0, -4:].tolist() == [items.pad_row, 0, 1, 2]
    assert inputs["actions"][0, -4:].tolist() == [0, 3, 3, 3]
    assert inputs["ages"][0, -4:].tolist() == [0.0, 3.0, 2.0, 1.0]
    assert inputs["held_out_row"].tolist() == [3]
    assert got.balance() == {
        "examples": 1,
        "positive": 0,
        "negative": 1,
        "sampled_negative": 0,
        "positive_share": 0.0,
    }


def test_positive_actions_are_those_of_the_spec():
    table, items = simple([10, 20, 30, 40], action="SAVE")
    strict = ActivitySpec(positive_actions=("APPLY",))
    assert not make_examples(table, items, spec=strict, start=at(0), end=at(99)).positive.any()
    assert make_examples(table, items, spec=ActivitySpec(), start=at(0), end=at(99)).positive.all()


def test_times_without_a_zone_and_empty_ranges_are_refused():
    table, items = simple([10])
    call = {"spec": ActivitySpec()}
    with pytest.raises(InvalidInput, match=r"`start` should have a time zone.*naive"):
        make_examples(table, items, start=datetime(2013, 5, 1), end=at(9), **call)
    with pytest.raises(InvalidInput, match=r"`start` should be before `end`"):
        make_examples(table, items, start=at(9), end=at(9), **call)
    with pytest.raises(InvalidInput, match=r"`minimum` should be 1 or more. Received: 0"):
        make_examples(table, items, start=at(0), end=at(9), minimum=0, **call)


def test_no_events_and_no_positives_give_no_examples():
    table, items = simple([])
    got = make_examples(table, items, spec=ActivitySpec(), start=at(0), end=at(9))
    assert len(got) == len(with_same_day_negatives(got, table, items, seed=0)) == 0
