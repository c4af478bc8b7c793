"""Whatever the order and number of pushes, the stored row is the row of a batch."""

from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activity_embeddings.transformations.online.push import PushReport, SequenceWriter
from support.feast_repo import DIMENSION, US_PER_DAY, at, events_table, make_repo, us, vectors_table
from support.reference import sequence

LENGTH = 4
SEQUENCE = "job_activity_sequence"
ACTIONS = ("APPLY", "SAVE", "DISMISS")
MEMBERS = 400
# More than the length, with two at one time, one about to leave the window, one on an item that has
# no vector.
BASE = [(1, "SAVE", -28), (2, "APPLY", -20), (3, "APPLY", -3), (1, "SAVE", -3), (2, "SAVE", -2)]
VECTORS = [(item, at(-90), np.ones(DIMENSION)) for item in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def materialized(tmp_path_factory):
    """Members with the same history, materialized as of day 0; every example takes a new one."""
    folder = tmp_path_factory.mktemp("live")
    (folder / "no_models").mkdir()
    history = [(m, item, what, at(day)) for m in range(MEMBERS) for item, what, day in BASE]
    repo = make_repo(
        folder / "repo", folder / "no_models", events_table(history), vectors_table(VECTORS)
    )
    (repo.path / "activity_models.py").write_text("ACTIVITY_MODELS = []\n")
    (repo.path / "services.py").unlink()
    repo.edit("sources.py", "length=32", f"length={LENGTH}")
    repo.publish(at(-1), at(0))
    store = repo.store
    return store, SequenceWriter(store, offline=False), count()


EVENTS = st.lists(
    st.tuples(
        st.sampled_from((1, 2, 3, 4, 99)),
        st.sampled_from(ACTIONS),
        st.sampled_from((-29, -28, -27.5, -20, -3, -2.5, -2, 0, 0.25, 0.5, 8, 8.25, 30)),
    ),
    min_size=1,
    max_size=8,
)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=EVENTS, data=st.data(), known_member=st.booleans())
def test_any_order_and_number_of_pushes_gives_the_row_of_a_batch(
    materialized, events, data, known_member
):
    store, writer, members = materialized
    number = next(members)
    member = number if known_member and number < MEMBERS else 10_000 + number
    order = data.draw(st.permutations(events + events[:2]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(order)), max_size=3)))
    total = 0
    for start, stop in zip([0, *cuts], [*cuts, len(order)], strict=True):
        part = [(member, item, what, at(day)) for item, what, day in order[start:stop]]
        report = writer.push(events_table(part))
        total += report.new
        left_out = report.duplicates + report.unknown + report.already_there + report.older
        assert report.new + left_out == report.events == len(part)

    history = BASE if member < MEMBERS else []
    rows = [
        {"member_id": member, "job_id": item, "action": what, "time": us(at(day))}
        for item, what, day in [*history, *events]
    ]
    known = [row["time"] for row in rows if row["job_id"] != 99]
    as_of = max([*([us(at(0))] if history else []), *(time + 1 for time in known)], default=0)
    expected, _ = sequence(
        rows,
        [(item, us(time), vector) for item, time, vector in VECTORS],
        member,
        as_of,
        window_us=28 * US_PER_DAY,
        length=LENGTH,
    )
    online = store.get_online_features(
        [
            f"{SEQUENCE}:activity_job_ids",
            f"{SEQUENCE}:activity_actions",
            f"{SEQUENCE}:activity_times",
        ],
        [{"member_id": member}],
    ).to_dict()
    items, actions, times = (
        online[name][0] or [] for name in ("activity_job_ids", "activity_actions", "activity_times")
    )
    stored = [
        (item, ACTIONS[action - 1], time)
        for item, action, time in zip(items, actions, times, strict=True)
    ]
    assert stored == expected
    assert (total == 0) == (not set(expected) - {(j, a, us(at(d))) for j, a, d in history})


def test_a_push_report_reads_right_for_one_and_for_none():
    one = str(PushReport(events=1, duplicates=1, members=1, new=1))
    assert "1 of 1 event is new in the sequences of 1 member\n" in one
    assert "0 already there, 1 duplicate, 0 on unknown items" in one
    none = str(PushReport(events=1_000, members=2_000, already_there=1_000))
    assert "none of 1,000 events are new in the sequences of 2,000 members\n" in none
    assert "no events are new" in str(PushReport())
    assert "none of 1 event is new" in str(PushReport(events=1, members=1, unknown=1))
