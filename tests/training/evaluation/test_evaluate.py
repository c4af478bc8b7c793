"""The whole instrument on a simulated market, where the truth is known: it could fail."""

import json
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.evaluation import arms
from training.evaluation.arms import Role
from training.evaluation.compare import compare
from training.evaluation.data import Data, Timeline
from training.evaluation.details import search_decay
from training.evaluation.evaluate import Size, evaluate, headline
from training.evaluation.findings import Declared, Target
from training.evaluation.member_vectors import EvaluatedModel
from training.evaluation.queries import like_queries
from training.evaluation.ranker import RankerSettings
from training.evaluation.store import MINUTE_US, Schedule
from training.history import ActivityHistory
from training.job_market import JobMarket
from training.models import InterleavedDecay
from training.package import package_model
from transformations.errors import InvalidInput
from transformations.item_vectors import ItemVectors
from transformations.sequences import MICROSECONDS_PER_DAY
from transformations.spec import ActivitySpec, ItemEmbedding
from transformations.times import to_us

MARKET = JobMarket(members=2500, jobs=300, days=70, seed=3)
ITEMS = ItemEmbedding("truth_with_noise", "1", MARKET.dimension)
SPEC = ActivitySpec()
SEEDS = (0, 1, 2)
TIMELINE = Timeline(*(MARKET.start + timedelta(days=day) for day in (42, 56, 70)))
SIZE = Size(
    train_queries=600,
    test_queries_of_member=2,
    week_train_queries=300,
    week_test_queries_of_member=1,
)
RANKER = RankerSettings(rounds=60, rows_of_leaf=50)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("market")
    MARKET.write(folder)
    jobs = pq.read_table(folder / "truth" / "jobs.parquet")
    # What an encoder would know of a job: its true vector, without attractiveness, and noise.
    true = np.stack(jobs["vector"].to_numpy())[:, : ITEMS.dimension]
    noise = np.random.default_rng(0).normal(size=true.shape) / np.sqrt(ITEMS.dimension)
    vectors = pa.table(
        {
            "job_id": jobs["job_id"],
            "embedding": pa.array((true + 0.5 * noise).tolist(), pa.list_(pa.float32())),
            "event_timestamp": pa.array([0] * len(jobs), pa.timestamp("us", "UTC")),
        }
    )
    events = pa.concat_tables(map(pq.read_table, (folder / "activity_events").glob("*.parquet")))
    history = ActivityHistory.from_arrow(events, ItemVectors.from_arrow(vectors, ITEMS), SPEC)
    return Data(
        history,
        ITEMS,
        pq.read_table(folder / "job_postings.parquet"),
        ("group",),
        Schedule(MICROSECONDS_PER_DAY, 30 * MINUTE_US),
        "a market for tests",
        simulated=True,
        truth=folder / "truth",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def result(data, folder):
    """One evaluation, with a model of the user's own that is a decay by another name."""
    package(folder / "mine", r=0.5)
    return evaluate(
        data,
        folder,
        timeline=TIMELINE,
        models=[EvaluatedModel("mine", "my own", Role.LEARNED, (folder / "mine",))],
        declared=Declared(seeds=SEEDS, resamples=2000, margin=0.05),
        size=SIZE,
        ranker=RANKER,
        targets=[
            Target(arms.MEAN, arms.NOTHING, 0.02),
            Target("mine", arms.NOTHING, 5.0),
            Target("mine", arms.DECAY, not_worse=True),
            Target(arms.PLACEBO, arms.NOTHING, above_zero=True),
            Target(arms.MEAN, arms.NOTHING, 0.02, task="to_date"),
            Target(arms.PLACEBO, arms.NOTHING, task="to_date"),
        ],
        commands=["made by a test"],
    )


def package(path, *, r=0.5, **facts):
    package_model(
        InterleavedDecay(r=r).build(SPEC, ITEMS),
        path,
        name="mine",
        version="1",
        spec=SPEC,
        item_embedding=ITEMS,
        **facts,
    )


def row_of(result, arm, against=arms.NOTHING, task="day"):
    (row,) = [
        row
        for row in result["comparisons"]
        if (row["arm"], row["against"], row["task"]) == (arm, against, task)
    ]
    return row


def check_of(result, name):
    (check,) = [check for check in result["checks"] if check["name"] == name]
    return check


def test_two_runs_of_one_arm_cannot_be_told_apart(result):
    row = row_of(result, arms.AGAIN)
    assert row["low"] < 0 < row["high"]
    assert check_of(result, "A/A")["passed"]


def test_the_embedding_of_another_member_adds_nothing(result):
    row = row_of(result, arms.PLACEBO)
    assert row["low"] < 0 < row["high"]
    assert check_of(result, "placebo")["passed"]


def test_the_truth_is_found_and_is_the_most_there_is(result):
    oracle = row_of(result, arms.ORACLE)
    assert oracle["low"] > 0
    assert oracle["real"]
    assert oracle["share_of_possible"] == 1
    for arm in (arms.MEAN, arms.DECAY, "mine"):
        assert 0.1 < row_of(result, arm)["share_of_possible"] < 0.9


def test_a_leak_is_flagged_and_nothing_honest_is(result):
    assert check_of(result, "leak canary")["passed"]
    assert row_of(result, arms.CANARY)["low"] > 2 * row_of(result, arms.DECAY)["high"]
    assert not [check for check in result["checks"] if check["name"] == "leak"]
    assert check_of(result, "label sees itself")["passed"]


def test_activity_helps_and_the_job_alone_does_not(result):
    for arm in (arms.MEAN, arms.DECAY, arms.SINGLE_DECAY, arms.SEVERAL_RATES, "mine"):
        assert row_of(result, arm)["low"] > 0, arm
        assert row_of(result, arm, task="week")["low"] > 0, arm
    assert row_of(result, arms.JOB_ONLY)["high"] < row_of(result, arms.MEAN)["low"]


def test_the_ranker_learns_before_it_is_tested(result, data):
    for name, task in result["tasks"].items():
        train, test = (
            [datetime.fromisoformat(moment) for moment in task["asked"][part]]
            for part in ("train", "test")
        )
        assert TIMELINE.rank_from <= train[0] <= train[1] < TIMELINE.test_from, name
        assert TIMELINE.test_from <= test[0] <= test[1] < TIMELINE.until, name
    like = result["tasks"]["like"]
    assert like["train_rows"] == len(like_queries(data.history, TIMELINE.ranker))
    assert like["rows"] == len(like_queries(data.history, TIMELINE.test))


def test_the_rate_is_chosen_before_the_ranker_learns(data, result):
    """What happens from T1 on does not change it."""
    events = data.history.events
    earlier = events.where(events.time < to_us(TIMELINE.rank_from))
    history = ActivityHistory.of(earlier, data.history.vectors, SPEC)
    found = search_decay(history, TIMELINE)
    assert found == result["decay_search"]


def test_every_arm_is_measured_on_the_same_queries(result, folder):
    members = pq.read_table(folder / "members.parquet").to_pandas()
    for task in ("day", "week"):
        of_task = members[members["task"] == task]
        asked = {
            tuple(rows["member_id"]) for _, rows in of_task.groupby(["arm", "seed"], sort=False)
        }
        assert len(asked) == 1
        assert set(of_task["arm"]) == {arm["name"] for arm in result["arms"]}


def test_the_figures_are_means_over_members_of_what_is_kept(result, folder):
    members = pq.read_table(folder / "members.parquet").to_pandas()
    figures = result["tasks"]["day"]["figures"]
    day = members[members["task"] == "day"]
    for arm, of_arm in day.groupby("arm"):
        by_seed = of_arm.groupby("seed")["ndcg_at_10"].mean()
        assert figures[arm]["by_seed"] == pytest.approx(by_seed.tolist())
        assert figures[arm]["ndcg_at_10"] == pytest.approx(by_seed.mean())
        assert figures[arm]["seed_spread"] == pytest.approx(by_seed.std())
    mine, nothing = (
        day[day["arm"] == arm].groupby("member_id")["ndcg_at_10"].mean().mean()
        for arm in ("mine", arms.NOTHING)
    )
    assert row_of(result, "mine")["difference"] == pytest.approx(mine - nothing)


def test_fresher_embeddings_are_no_worse(result):
    points = {point["lag"]: point for point in result["freshness"]["points"]}
    assert result["freshness"]["arm"] == "mine"
    assert list(points) == ["0", "1 minute", "1 hour", "1 day", "7 days"]
    assert points["0"]["difference"] > points["7 days"]["difference"]
    assert points["7 days"]["low"] > 0
    for point in points.values():
        assert 0 < point["mrr"] < point["recall_at_10"] < 1
        assert 0.4 < point["auc"] < 1
        assert 0.4 < point["within_member_auc"] < 1
        assert point["log_loss"] > 0


def test_slices_are_parts_of_all_queries(result):
    queries = result["tasks"]["day"]["queries"]
    for name in ("history", "embedding age"):
        values = [row["queries"] for row in result["slices"] if row["slice"] == name]
        assert 0 < sum(values) <= queries
    assert sum(r["queries"] for r in result["slices"] if r["slice"] == "history") == queries
    assert sum(row["queries"] for row in result["sequence_lengths"]) == queries
    moved = [row["value"].split()[0] for row in result["slices"] if "moved" in row["slice"]]
    assert moved == ["moved", "stayed"]


def test_an_arm_says_what_it_takes(result):
    rows = {arm["name"]: arm for arm in result["arms"]}
    own = 4 * ITEMS.dimension
    assert rows[arms.DECAY]["bytes_per_member"] == 3 * own
    assert rows["mine"]["bytes_per_member"] == own
    assert rows["decay+mine"]["bytes_per_member"] == 4 * own
    assert rows[arms.NOTHING]["bytes_per_member"] == 0
    base = rows[arms.NOTHING]["features"]
    assert rows["mine"]["features"] == base + 3
    assert rows[arms.DECAY]["features"] == base + 9
    assert rows["mine"]["disk_bytes_per_member"] > own / 2


def test_quality_is_measured_of_every_model(result):
    for name in (arms.MEAN, arms.DECAY, "mine"):
        figures = result["quality"][name]
        assert figures["recall_at_10"] > 0.02
        assert 0 < figures["p90_coverage_at_10"] <= 1
        assert figures["interest_entropy_at_50"] > 0
    assert check_of(result, "collapse")["passed"]


def test_claims_are_judged(result):
    # The last one names an arm that its task does not have.
    assert [target["reached"] for target in result["targets"]] == [True, False, True, False, True]
    assert [t["claim"] for t in result["targets"] if "to_date" in t["claim"]] == [
        "mean above nothing by 0.02, interval above 0 (task to_date)"
    ]


def test_a_ranker_that_knows_less_is_measured_on_the_same_queries(result, folder):
    day, to_date = (result["tasks"][task] for task in ("day", "to_date"))
    assert to_date["base_features"] == [
        "positives",
        "days_since_activity",
        "member_positive_share",
        "content_match",
    ]
    assert set(to_date["base_features"]) < set(day["base_features"])
    assert (
        day["figures"][arms.NOTHING]["ndcg_at_10"] > to_date["figures"][arms.NOTHING]["ndcg_at_10"]
    )
    assert set(to_date["figures"]) == {
        arms.NOTHING,
        arms.MEAN,
        arms.DECAY,
        arms.SINGLE_DECAY,
        arms.SEVERAL_RATES,
        "mine",
    }
    members = pq.read_table(folder / "members.parquet").to_pandas()
    asked = [set(members.loc[members["task"] == task, "member_id"]) for task in ("day", "to_date")]
    assert asked[0] == asked[1]
    assert row_of(result, arms.MEAN, task="to_date")["low"] > 0


def test_what_is_written_is_what_is_returned(result, folder):
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(result)
    )
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "SIMULATED DATA" in page
    text = headline(result)
    assert text.startswith("SIMULATED DATA")
    for arm in result["arms"]:
        assert arm["name"] in text
    plain = text[text.index("days since activity") :]
    assert f"{result['tasks']['to_date']['figures']['mine']['ndcg_at_10']:.4f}" in plain


def test_the_gate_lets_a_better_arm_through_and_no_worse_one(result, folder):
    assert compare([folder], arms.NOTHING, "mine", resamples=2000).replace
    assert not compare([folder], "mine", arms.NOTHING, resamples=2000).replace
    assert not compare([folder], arms.DECAY, arms.PLACEBO, resamples=2000).replace


def test_a_model_that_learned_from_the_rankers_days_is_refused(data, tmp_path):
    late = {"start": "2024-01-01T00:00:00+00:00", "end": TIMELINE.test_from.isoformat()}
    package(tmp_path / "late", training={"epochs": 3, "period": late, "validation": late})
    with pytest.raises(InvalidInput, match=r"'mine': expected one that learned before 2024-02-12"):
        evaluate(
            data,
            tmp_path / "out",
            timeline=TIMELINE,
            models=[EvaluatedModel("mine", "late", Role.LEARNED, (tmp_path / "late",))],
        )
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_model_with_the_name_of_an_arm_is_refused(data, tmp_path):
    package(tmp_path / "mean")
    with pytest.raises(InvalidInput, match=r"names differ .* Received: mean$"):
        evaluate(
            data,
            tmp_path / "out",
            timeline=TIMELINE,
            models=[EvaluatedModel("mean", "a mean", Role.LEARNED, (tmp_path / "mean",))],
        )
