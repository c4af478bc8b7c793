"""An evaluation where activity is of several kinds: what counts is the domain's own."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from activity_embeddings.training.datasets.job_market import JobMarket
from activity_embeddings.training.evaluation import arms
from activity_embeddings.training.evaluation.arms import ArmRole
from activity_embeddings.training.evaluation.base_features import BaseFeatures, Categories
from activity_embeddings.training.evaluation.contenders import EvaluatedModel
from activity_embeddings.training.evaluation.data import Data
from activity_embeddings.training.evaluation.evaluate import evaluate
from activity_embeddings.training.evaluation.plan import (
    QUICK,
    Declared,
    EvaluationPlan,
    Timeline,
)
from activity_embeddings.training.evaluation.queries import like_queries, ranking_queries
from activity_embeddings.training.evaluation.ranker import RankerSettings
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.models import InterleavedDecay
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.activity.events import ActivityEvents, check_events
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.kinds import (
    events_of_kinds,
    ids_with_kind,
    vectors_of_kinds,
)
from activity_embeddings.transformations.names import DomainNames
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.times import Schedule

pytestmark = pytest.mark.slow

MARKET = JobMarket(members=500, jobs=300, days=70, seed=6)
VECTOR_SPEC = ItemVectorSpec("truth", "1", MARKET.dimension)
TIMELINE = Timeline(*(MARKET.start + timedelta(days=day) for day in (42, 56, 70)))
SEARCHES = DomainNames(item="search", item_id="search_id")
SPECS = {
    "job": ActivitySpec(),
    "search": ActivitySpec(actions=("SEARCH",), positive_actions=()),
}
SPEC = ActivitySpec.of_kinds(SPECS, {"job": 20, "search": 4})


def vectors_of(ids, vectors):
    embedding = pa.array(vectors.tolist(), pa.list_(pa.float32()))
    known = pa.array([0] * len(ids), pa.timestamp("us", "UTC"))
    table = pa.table({"job_id": ids, "embedding": embedding, "event_timestamp": known})
    return ItemVectors.from_arrow(table, VECTOR_SPEC)


@pytest.fixture(scope="module")
def block():
    return MARKET.simulate(0)


@pytest.fixture(scope="module")
def data(block, tmp_path_factory):
    searched, _ = block.of_kind("search")
    jobs, _ = block.jobs()
    events = {
        "job": check_events(jobs, SPECS["job"]),
        "search": check_events(searched, SPECS["search"], domain=SEARCHES),
    }
    forms, known = MARKET.kinds.searches.forms, MARKET.occupations.vectors
    of_search = np.zeros((len(MARKET.kinds.searches.texts), MARKET.dimension), np.float32)
    for form in range(forms.shape[1]):
        of_search[forms[:, form]] = known
    vectors = {
        "job": vectors_of(np.arange(1, MARKET.jobs + 1), MARKET.all_jobs.vectors),
        "search": vectors_of(MARKET.kinds.items("search")["search_id"], of_search),
    }
    together = ActivityEvents.of(events_of_kinds(events, SPEC))
    postings = MARKET.postings()
    ids = ids_with_kind("job", postings["job_id"].combine_chunks()).cast(pa.string())
    truth = tmp_path_factory.mktemp("truth")
    pq.write_table(MARKET.true_jobs(), truth / "items.parquet")
    pq.write_table(block.jobs()[1], truth / "members.parquet")
    return Data(
        ActivityHistory.of(together, vectors_of_kinds(vectors), SPEC),
        VECTOR_SPEC,
        postings.set_column(0, "job_id", ids),
        ("group",),
        Schedule.every(hours=24, delay_minutes=30),
        "a market with searches",
        simulated=True,
        truth=truth,
    )


def of_jobs(data) -> ActivityHistory:
    """The same activity without searches, which says the same of all that is of jobs alone."""
    return replace(data.history, events=data.history.own_events)


def test_what_is_asked_about_and_ranked_are_own_items(data):
    jobs = {f"job:{i}" for i in range(1, MARKET.jobs + 1)}
    ids = data.history.vectors.item_ids
    ranked = ranking_queries(data.history, TIMELINE.test)
    liked = like_queries(data.history, TIMELINE.test)
    for queries in (ranked, liked):
        assert set(ids.take(pa.array(queries.item)).to_pylist()) <= jobs
    # More queries have activity before them, and that of jobs is the same.
    assert len(liked) > len(like_queries(of_jobs(data), TIMELINE.test))
    seen = ids.take(pa.array(np.unique(ranked.sequences.item[ranked.sequences.item >= 0])))
    assert set(seen.to_pylist()) - jobs


def test_what_a_ranker_knows_without_an_embedding_is_of_own_items_alone(data):
    item_ids = data.history.vectors.item_ids
    categories = Categories.from_arrow(data.postings, ("group",), item_ids, until=2**62)
    assert categories.of_items[data.history.own_items].any(axis=1).all()
    posted = np.zeros(len(item_ids), np.int64)
    with_searches, jobs = (
        BaseFeatures(history, posted, categories) for history in (data.history, of_jobs(data))
    )
    moment = int(data.history.events.time.max())
    member = np.arange(len(data.history.events.member_ids))
    moments = np.full(len(member), moment)
    for name, values in jobs.of_items(moment).items():
        np.testing.assert_array_equal(with_searches.of_items(moment)[name], values)
    for name, values in jobs.of_members(member, moments).items():
        np.testing.assert_array_equal(with_searches.of_members(member, moments)[name], values)
    assert list(with_searches.recent_categories(member, moments)) == [
        f"{action}_categories" for action in ("apply", "save", "dismiss")
    ]


def test_a_history_without_a_kind_has_the_events_of_the_others(data):
    jobs, searches = data.history.without_kind("search"), data.history.without_kind("job")
    expected = data.history.own_events
    for column in ("member_start", "item", "action", "time"):
        np.testing.assert_array_equal(getattr(jobs.events, column), getattr(expected, column))
    assert set(searches.events.action.tolist()) == {SPEC.vocabulary.index("SEARCH")}
    assert len(jobs.events) + len(searches.events) == len(data.history.events)
    assert jobs.events.member_ids == searches.events.member_ids == data.history.events.member_ids


def test_an_evaluation_publishes_all_kinds_and_its_instrument_is_in_order(data, tmp_path):
    package_model(
        InterleavedDecay(r=0.7, kinds=("job", "search")).build(SPEC, VECTOR_SPEC),
        tmp_path / "both",
        name="both",
        version="1",
        spec=SPEC,
        vector_spec=VECTOR_SPEC,
        litert=False,
    )
    result = evaluate(
        data,
        tmp_path / "evaluation",
        plan=EvaluationPlan(
            TIMELINE,
            declared=Declared(seeds=(0, 1), resamples=1000),
            size=replace(QUICK, train_queries=200, to_date=False),
            ranker=RankerSettings(rounds=30, rows_of_leaf=30),
        ),
        models=[EvaluatedModel("both", "decay of both", ArmRole.LEARNED, (tmp_path / "both",))],
    )
    # Published values are those that all activity before their time gives.
    (check,) = [c for c in result["checks"] if c["name"] == "label sees itself"]
    assert check["passed"]
    figures = result["tasks"]["alone"]["figures"]
    assert figures["both"]["ndcg_at_10"] > figures[arms.SINGLE_DECAY]["ndcg_at_10"]
    assert figures[arms.SINGLE_DECAY]["ndcg_at_10"] > figures[arms.NOTHING]["ndcg_at_10"]
    assert result["data"]["items"] == MARKET.jobs
    # Without searches it is a decay of jobs, and without jobs one of searches.
    assert figures["both"]["ndcg_at_10"] > figures["both_without_search"]["ndcg_at_10"]
    assert figures["both_without_search"]["ndcg_at_10"] == pytest.approx(
        figures[arms.SINGLE_DECAY]["ndcg_at_10"], abs=0.03
    )
    less = {
        (row["task"], row["arm"]): row
        for row in result["comparisons"]
        if row["against"] == "both" and row["arm"].startswith("both_without_")
    }
    assert {("alone", "both_without_job"), ("day", "both_without_search")} <= set(less)
    for row in less.values():
        assert row["low"] <= row["difference"] <= row["high"]
    assert less["alone", "both_without_job"]["high"] < 0
    assert any(
        s.startswith("Beside both without a ranker: both_without_job (-")
        for s in result["conclusions"]
    )
    page = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "Without a kind of activity" in page
    (oracle,) = [
        row
        for row in result["comparisons"]
        if (row["arm"], row["against"], row["task"]) == (arms.ORACLE, arms.NOTHING, "day")
    ]
    assert oracle["low"] > 0
