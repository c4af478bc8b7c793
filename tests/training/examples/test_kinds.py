"""Activity of other kinds is input: none of it is held out, a candidate, target or negative."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.examples.held_out import Windows, hold_out
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.objectives import FuturePositives, Proxy
from activity_embeddings.transformations.activity.events import ActivityEvents, check_events
from activity_embeddings.transformations.activity.kinds import events_of_kinds, vectors_of_kinds
from activity_embeddings.transformations.spec import ActivitySpec
from support.reference import US_PER_DAY
from support.training_cases import events_of, history_of, period, vectors_of

WINDOW = timedelta(days=3)
JOBS = ActivitySpec(WINDOW, 6)
SEARCHES = ActivitySpec(WINDOW, 6, ("SEARCH",), ())
ITEMS = range(1, 7)
SEARCHED = range(1, 5)
PERIOD = period(0, 4 * US_PER_DAY)
EVERY = Windows(minimum=1, prefixes=True, per_member=None)


def vectors(count):
    return vectors_of([(i, -US_PER_DAY, [float(i), 1.0]) for i in count])


def both(rows):
    """Return (member, item, action, time) of both kinds as a history."""
    spec = ActivitySpec.of_kinds({"job": JOBS, "search": SEARCHES})
    parts = {}
    for name, of in (("job", JOBS), ("search", SEARCHES)):
        mine = [row for row in rows if row[2] in of.actions]
        members, items, actions, times = zip(*mine, strict=True) if mine else ((), (), (), ())
        table = pa.table(
            {
                "member_id": pa.array(members, pa.int64()),
                "job_id": pa.array(items, pa.int64()),
                "action": pa.array(actions, pa.string()),
                "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            }
        )
        parts[name] = check_events(table, of)
    events = ActivityEvents.of(events_of_kinds(parts, spec))
    known = vectors_of_kinds({"job": vectors(ITEMS), "search": vectors(SEARCHED)})
    return ActivityHistory.of(events, known, spec)


def alone(rows):
    """Return the events on jobs alone as a history."""
    events = [
        {"member_id": m, "job_id": i, "action": a, "time": t}
        for m, i, a, t in rows
        if a != "SEARCH"
    ]
    return ActivityHistory.of(events_of(events, JOBS), vectors(ITEMS), JOBS)


moment = st.integers(0, 4 * 24).map(lambda hour: hour * US_PER_DAY // 24)
on_jobs = st.tuples(
    st.integers(1, 3), st.sampled_from(ITEMS), st.sampled_from(JOBS.actions), moment
)
searching = st.tuples(st.integers(1, 3), st.sampled_from(SEARCHED), st.just("SEARCH"), moment)
histories = st.lists(on_jobs, min_size=2, max_size=20).flatmap(
    lambda rows: st.lists(searching, max_size=20).map(lambda more: rows + more)
)


@settings(deadline=None, max_examples=60)
@given(histories)
def test_what_is_predicted_is_as_without_the_other_kinds(rows):
    with_searches, without = both(rows), alone(rows)

    def held(history):
        made = hold_out(history, PERIOD, windows=EVERY, random=np.random.default_rng(0))
        items = history.vectors.item_ids
        members = history.events.member_ids
        return {
            (
                members[int(m)].as_py(),
                str(items[int(i)].as_py()).removeprefix("job:"),
                int(label),
                int(time),
            )
            for m, i, label, time in zip(
                made.member, made.item, made.label, made.sequences.as_of, strict=True
            )
        }

    # Members without any activity on jobs before may have searched.
    assert held(without) <= held(with_searches)
    days, plain = with_searches.items_of_days, without.items_of_days
    ids = with_searches.vectors.item_ids
    assert [ids[int(i)].as_py() for i in days.events] == [
        f"job:{without.vectors.item_ids[int(i)].as_py()}" for i in plain.events
    ]
    assert [ids[int(i)].as_py() for i in with_searches.own_items] == [f"job:{i}" for i in ITEMS]


@settings(deadline=None, max_examples=30)
@given(histories)
@pytest.mark.parametrize(
    "objective",
    [
        Proxy(windows=EVERY),
        FuturePositives(windows=EVERY, other_weight=0.5, day_negatives=3, uniform_negatives=9),
    ],
    ids=["proxy", "future_positives"],
)
def test_targets_and_negatives_are_own_items(objective, rows):
    history = both(rows)
    own = set(history.own_items.tolist())
    counts = np.diff([*history.vectors.start, len(history.vectors.matrix)])
    item_of_row = np.repeat(np.arange(len(counts)), counts)
    for batch in objective.stream(history, PERIOD).batches():
        for name, values in batch.items():
            if name.endswith(("_row", "_rows")) and name != "item_rows":
                there = values[values != history.vectors.pad_row]
                assert set(item_of_row[there].tolist()) <= own, name


def test_histories_of_one_kind_have_only_own_items():
    history = history_of(
        [{"member_id": 1, "job_id": 2, "action": "SAVE", "time": 5}], [(2, 0, [1.0, 0.0])]
    )
    assert history.own_items.tolist() == [0]
