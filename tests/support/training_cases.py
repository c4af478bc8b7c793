"""Small histories for the tests of training: from lists, and drawn by hypothesis."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
from hypothesis import strategies as st

from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.names import JOBS, DomainNames
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support.reference import US_PER_DAY

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ACTIONS = ("APPLY", "SAVE", "DISMISS")
WINDOW_US = 3 * US_PER_DAY // 4
LENGTH = 4
SPEC = ActivitySpec(window=timedelta(microseconds=WINDOW_US), length=LENGTH)
"""18 hours and 4 positions, so that few events overflow both, and a day is longer."""
WIDE = ActivitySpec()


def at(us):
    return EPOCH + timedelta(microseconds=us)


def period(start, end):
    return Period(at(start), at(end))


def event(member, item, action, time):
    return {"member_id": member, "job_id": item, "action": action, "time": time}


def events_of(events, spec=SPEC):
    columns = {
        "member_id": pa.array([e["member_id"] for e in events], pa.int64()),
        "job_id": pa.array([e["job_id"] for e in events], pa.int64()),
        "action": pa.array([e["action"] for e in events], pa.string()),
        "event_timestamp": pa.array([e["time"] for e in events], pa.timestamp("us", "UTC")),
    }
    if events and "event_id" in events[0]:
        columns["event_id"] = pa.array([e["event_id"] for e in events], pa.int64())
    domain = JOBS
    if events and "visit" in events[0]:
        columns["visit"] = pa.array([e["visit"] for e in events], pa.string())
        domain = DomainNames(session_id="visit")
    return ActivityEvents.from_arrow(pa.table(columns), spec, domain=domain)


def vectors_of(vectors, dimension=2):
    columns = {
        "job_id": pa.array([item for item, _, _ in vectors], pa.int64()),
        "embedding": pa.array([v for _, _, v in vectors], pa.list_(pa.float32())),
        "event_timestamp": pa.array([t for _, t, _ in vectors], pa.timestamp("us", "UTC")),
    }
    return ItemVectors.from_arrow(pa.table(columns), ItemVectorSpec("test", "1", dimension))


def history_of(events, vectors, spec=WIDE):
    return ActivityHistory.of(events_of(events, spec), vectors_of(vectors), spec)


def sequence_lists(sequences, spec=SPEC):
    """Return each sequence as the reference does: [(item_id, action, time)], oldest first."""
    lists = []
    for item, action, time in zip(sequences.item, sequences.action, sequences.time, strict=True):
        kept = action > 0
        assert (item[~kept] == -1).all()
        ids = [sequences.item_ids[int(j)].as_py() for j in item[kept]]
        names = [spec.vocabulary[a] for a in action[kept]]
        lists.append(list(zip(ids, names, time[kept].tolist(), strict=True)))
    return lists


def held_out_dicts(held_out, history, labels):
    """Return examples as dicts by ids and vectors, whatever positions they have."""
    member_ids, item_ids = history.events.member_ids, history.vectors.item_ids
    return [
        {
            "member": member_ids[int(held_out.member[i])].as_py(),
            "item": item_ids[int(held_out.item[i])].as_py(),
            "vector": history.vectors.matrix[held_out.item_rows[i]].tolist(),
            "label": labels[held_out.label[i]],
            "time": int(held_out.sequences.as_of[i]),
            "before": before,
            "before_vectors": history.vectors.matrix[rows].tolist(),
        }
        for i, (before, rows) in enumerate(
            zip(
                sequence_lists(held_out.sequences, history.spec),
                held_out.sequences.rows(history.vectors),
                strict=True,
            )
        )
    ]


# Quarters of three days, on the edge or a little beside it.
MOMENTS = st.integers(0, 64).map(lambda i: i // 5 * (US_PER_DAY // 4) + i % 5 - 2)
# A week earlier, now and then.
EVENT_TIMES = st.tuples(MOMENTS, st.sampled_from([0] * 9 + [7])).map(
    lambda drawn: drawn[0] - drawn[1] * US_PER_DAY
)
PERIODS = st.tuples(st.one_of(st.just(-US_PER_DAY), MOMENTS), MOMENTS).filter(
    lambda of: of[0] < of[1]
)


@st.composite
def histories(draw):
    """Return (events, vectors) of few members, items and moments: ties and edges are common.

    Dense enough that most cases have examples and negatives.
    """
    one = {
        "member_id": st.integers(0, 2),
        "job_id": st.integers(0, 8),
        "action": st.sampled_from(ACTIONS),
        "time": EVENT_TIMES,
    }
    if draw(st.booleans()):
        one["event_id"] = st.integers(0, 2)
    size = draw(st.integers(8, 30))
    events = draw(st.lists(st.fixed_dictionaries(one), min_size=size, max_size=size))
    events += events[: draw(st.integers(0, 2))]
    stamps = draw(st.lists(st.tuples(st.integers(0, 8), MOMENTS), max_size=6, unique=True))
    # Items 0 to 5 are known all along, items 6 to 8 late or never.
    stamps += [(item, -30 * US_PER_DAY) for item in range(6)]
    vectors = [(item, time, [item + 1.0, float(i)]) for i, (item, time) in enumerate(stamps)]
    if not any(e["job_id"] < 6 for e in events):
        events[0]["job_id"] = 0
    return draw(st.permutations(events)), vectors
