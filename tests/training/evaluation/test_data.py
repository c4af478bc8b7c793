"""The base features of a row are those of the newest daily run that was there at its query."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from activity_embeddings.training.evaluation.base_features import (
    ITEM_STATISTICS,
    MEMBER_STATISTICS,
    PROFILE,
    BaseFeatures,
    Categories,
)
from activity_embeddings.training.evaluation.data import Data, posted_at, true_item_vectors
from activity_embeddings.training.evaluation.feature_tables import (
    base_columns,
    base_rows,
    feature_tables,
)
from activity_embeddings.training.evaluation.measure import RankingTask
from activity_embeddings.training.evaluation.member_vectors import TRUE_PREFERENCE
from activity_embeddings.training.evaluation.plan import AsOf
from activity_embeddings.training.evaluation.queries import ranking_queries
from activity_embeddings.training.evaluation.store import EvaluationStore
from activity_embeddings.transformations.names import DomainNames
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.times import Schedule
from support.reference import US_PER_DAY
from support.training_cases import event, history_of, period

DAY = US_PER_DAY
SPEC = ActivitySpec()
VECTOR_SPEC = ItemVectorSpec("test", "1", 2)
DELAY = 30 * 60_000_000
ITEMS = 12
VECTORS = [(item, (item % 4) * DAY, [1.0 + item, -float(item)]) for item in range(ITEMS)]
KINDS = [["a"], ["b"], ["a", "b"], []]
CHANGE = 5 * DAY + 12345
"""When the true preference of member 1 changes."""
UTC = pa.timestamp("us", "UTC")


def utc(times):
    return pa.array([int(time) for time in times], UTC)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    random = np.random.default_rng(0)
    events = [
        event(
            int(random.integers(5)),
            int(random.integers(ITEMS)),
            str(random.choice(["APPLY", "SAVE", "DISMISS"])),
            int(random.integers(10 * DAY)),
        )
        for _ in range(150)
    ]
    postings = pa.table(
        {
            "job_id": [*range(ITEMS), 3],
            "event_timestamp": utc([*[DAY * item // 3 for item in range(ITEMS)], 9 * DAY]),
            "kind": pa.array(
                [*(KINDS[item % 4] for item in range(ITEMS)), ["c"]], pa.list_(pa.string())
            ),
        }
    )
    truth = tmp_path_factory.mktemp("truth")
    pq.write_table(
        pa.table(
            {
                "learner_id": [1, 1, 2, 99],
                "event_timestamp": utc([0, CHANGE, 0, 0]),
                "preference": [[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [3.0, 3.0]],
            }
        ),
        truth / "members.parquet",
    )
    pq.write_table(
        pa.table({"course_id": [2, 99], "vector": [[0.5, 0.25], [9.0, 9.0]]}),
        truth / "items.parquet",
    )
    return Data(
        history_of(events, VECTORS, SPEC),
        VECTOR_SPEC,
        postings,
        ("kind",),
        Schedule(DAY, DELAY),
        "for tests",
        simulated=True,
        truth=truth,
        truth_names=DomainNames(item="course", member_id="learner_id", item_id="course_id"),
    )


@pytest.fixture(scope="module")
def queries(data):
    return ranking_queries(data.history, period(4 * DAY, 9 * DAY))


@pytest.fixture(scope="module")
def base(data):
    item_ids = data.history.vectors.item_ids
    categories = Categories.from_arrow(data.postings, ("kind",), item_ids, until=4 * DAY)
    return BaseFeatures(data.history, posted_at(data), categories)


@pytest.fixture(scope="module")
def store(data, base, queries, tmp_path_factory):
    return EvaluationStore(
        tmp_path_factory.mktemp("evaluation"),
        data.history,
        vector_spec=VECTOR_SPEC,
        schedule=data.schedule,
        models={},
        tables=feature_tables(base, [queries], data, AsOf.PUBLISHED),
    )


def cosine(a, b):
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / norms if norms else 0.0


def test_rows_are_as_of_the_newest_run_before_each_query(data, base, queries, store):
    (found,) = base_rows(store, [queries], base, AsOf.PUBLISHED)
    names = base_columns(base.categories)
    assert found.shape == (len(queries.item), len(names))
    weights = base.categories.weights
    early = 0
    for i, (a, b) in enumerate(zip(queries.start[:-1], queries.start[1:], strict=True)):
        moment = (int(queries.time[i]) - DELAY) // DAY * DAY
        early += moment < int(queries.time[i]) // DAY * DAY
        of_items = base.of_items(moment)
        of_member = base.of_members(queries.member[i : i + 1], np.array([moment]))
        for row in range(a, b):
            item = queries.item[row]
            expected = {name: of_items[name][item] for name in ITEM_STATISTICS}
            expected |= {f"member_{name}": of_member[name][0] for name in MEMBER_STATISTICS}
            own, others = of_member[PROFILE][0] * weights, base.categories.of_items[item] * weights
            expected["content_match"] = cosine(own, others)
            assert dict(zip(names, found[row], strict=True)) == pytest.approx(expected, abs=1e-5)
    assert 0 < early < len(queries), "some queries are asked before the day's values are there"


def test_a_item_was_posted_when_it_was_first_or_had_a_vector(data):
    expected = [min(DAY * item // 3, (item % 4) * DAY) for item in range(ITEMS)]
    assert posted_at(data).tolist() == expected


def test_the_true_preference_is_known_from_the_moment_it_holds(store):
    times = np.array([CHANGE - 1, CHANGE, CHANGE])
    joined = store.join(TRUE_PREFERENCE, pa.array([1, 1, 2]), times)
    assert joined["preference"].tolist() == [[1, 0], [0, 1], [2, 2]]


def test_true_vectors_are_those_of_known_items(data):
    vectors = true_item_vectors(data)
    assert vectors.shape == (ITEMS, 2)
    assert vectors[2].tolist() == [0.5, 0.25]
    assert not np.delete(vectors, 2, axis=0).any()


def test_a_task_with_fewer_columns_has_those_of_their_names(queries):
    random = np.random.default_rng(0)
    train, test = random.random((2, len(queries.item), 3)).astype(np.float32)
    task = RankingTask("day", "whole", queries, queries, (train, test), ("a", "b", "c"))
    few = task.with_columns("few", "less", ("c", "not there", "a"))
    assert (few.name, few.title, few.columns) == ("few", "less", ("c", "a"))
    assert few.train is queries
    np.testing.assert_array_equal(few.base[0], train[:, [2, 0]])
    np.testing.assert_array_equal(few.base[1], test[:, [2, 0]])
