"""The evaluation's own feature store: what was published before a query, delay included."""

import numpy as np
import pyarrow as pa
import pytest

from activity_embeddings.training.evaluation.arms import ArmRole
from activity_embeddings.training.evaluation.base_features import BaseFeatures
from activity_embeddings.training.evaluation.contenders import EvaluatedModel
from activity_embeddings.training.evaluation.member_vectors import MemberVectors
from activity_embeddings.training.evaluation.plan import AsOf
from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.evaluation.store import (
    EvaluationStore,
    Table,
)
from activity_embeddings.training.models import InterleavedDecay
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.times import Schedule
from support.reference import US_PER_DAY, decayed_of, sequence, vector_as_of
from support.training_cases import event, history_of

DAY = US_PER_DAY
SPEC = ActivitySpec()
VECTOR_SPEC = ItemVectorSpec("test", "1", 2)
DELAY = 30 * 60_000_000
SCHEDULE = Schedule(DAY, DELAY)
FACTS = {"window_us": SPEC.window_us, "length": SPEC.length}
ITEMS = 12
VECTORS = [(item, (item % 4) * DAY, [1.0 + item, -float(item)]) for item in range(ITEMS)]
R = 0.7


def events(seed=0):
    random = np.random.default_rng(seed)
    return [
        event(
            int(random.integers(5)),
            int(random.integers(ITEMS)),
            str(random.choice(["APPLY", "SAVE", "DISMISS"])),
            int(random.integers(10 * DAY)),
        )
        for _ in range(120)
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    package_model(
        InterleavedDecay(r=R).build(SPEC, VECTOR_SPEC),
        folder / "decay",
        name="decay",
        version="1",
        spec=SPEC,
        vector_spec=VECTOR_SPEC,
        litert=False,
    )
    table = Table(
        "member_statistics",
        "member",
        pa.array([1, 1, 2]),
        np.array([2 * DAY, 3 * DAY, 2 * DAY]),
        {"activities": np.array([5.0, 6.0, 7.0]), "profile": np.array([[1, 2], [3, 4], [5, 6]])},
    )
    made = EvaluationStore(
        folder / "feast",
        history_of(events(), VECTORS, SPEC),
        vector_spec=VECTOR_SPEC,
        schedule=SCHEDULE,
        models={"decay": folder / "decay"},
        tables=[table],
    )
    made.publish(2 * DAY, 9 * DAY)
    return made


def test_a_query_gets_the_newest_value_that_was_there(store):
    random = np.random.default_rng(1)
    # Also just before and after a value is there.
    times = np.concatenate(
        [random.integers(3 * DAY, 9 * DAY, 60), 5 * DAY + DELAY + np.array([-1, 0, 1])]
    )
    member = random.integers(0, 5, len(times))
    joined = store.join("decay", pa.array(member), times)
    matched = 0
    for i, (m, time) in enumerate(zip(member, times, strict=True)):
        as_of = (int(time) - DELAY) // DAY * DAY
        before, _ = sequence(events(), VECTORS, int(m), as_of, **FACTS)
        wanted = [vector_as_of(VECTORS, j, as_of) for j, action, _ in before if action != "DISMISS"]
        np.testing.assert_allclose(
            joined["activity_embedding"][i], decayed_of(wanted, 2, R), atol=1e-4
        )
        assert joined["activity_count"][i] == len(before)
        newest = before[-1][2] if before else 0
        assert joined["last_activity_at"][i] == newest
        assert newest < time
        matched += bool(wanted)
    assert matched > 40


def test_a_value_that_is_not_of_the_activity_before_the_daily_run_is_noticed(store):
    """As seen by a history in which one member had done something else before one run."""
    times = np.arange(3 * DAY, 9 * DAY, DAY) + DELAY + 1
    changed, late = 3, 5 * DAY
    other = event(changed, 11, "APPLY", late)
    for more, expected in (([], 0), ([other], 3)):
        history = history_of([*events(), *more], VECTORS, SPEC)
        (member,) = np.flatnonzero(history.events.member_ids.to_numpy() == changed)
        queries = Queries(
            sequences=history.sequences(np.full(len(times), member), times),
            member=np.full(len(times), member),
            start=np.arange(len(times) + 1),
            item=np.zeros(len(times), np.int32),
            vector_row=np.zeros(len(times), np.int32),
            target=np.ones(len(times), np.int8),
        )
        vectors = MemberVectors(
            store,
            BaseFeatures(history, np.zeros(ITEMS), None),
            queries=[queries],
            vector_spec=VECTOR_SPEC,
            models={
                "decay": EvaluatedModel(
                    "decay", "", ArmRole.REFERENCE, (store.model_path("decay"),)
                )
            },
            scoring={},
            item_truth=None,
            as_of=AsOf.PUBLISHED,
        )
        assert vectors.differing("decay", queries) == expected


def test_the_newest_cut_off_that_is_there_is_the_one_that_is_joined():
    times = np.array([5 * DAY + DELAY - 1, 5 * DAY + DELAY, 6 * DAY - 1])
    assert SCHEDULE.newest(times).tolist() == [4 * DAY, 5 * DAY, 5 * DAY]


def test_tables_are_joined_as_of_their_time_plus_the_delay(store):
    times = np.array([2 * DAY + DELAY - 1, 2 * DAY + DELAY, 3 * DAY + DELAY, 4 * DAY])
    joined = store.join("member_statistics", pa.array([1, 1, 1, 2]), times)
    assert joined["activities"].tolist() == [0, 5, 6, 7]
    assert joined["profile"].tolist() == [[0, 0], [1, 2], [3, 4], [5, 6]]


def test_a_member_that_is_unknown_has_zeros(store):
    joined = store.join("decay", pa.array([77]), np.array([6 * DAY]))
    assert not joined["activity_embedding"].any()
    assert joined["last_activity_at"].tolist() == [0]


def test_it_says_what_a_member_takes_on_disk(store):
    assert 8 < store.bytes_on_disk("decay") < 5000
    assert store.outputs("decay") == ["activity_embedding"]
