"""The whole instrument on a simulated market, where the truth is known: it could fail."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from activity_embeddings.training.datasets.job_market import JobMarket
from activity_embeddings.training.evaluation import arms
from activity_embeddings.training.evaluation.arms import ArmRole
from activity_embeddings.training.evaluation.contenders import EvaluatedModel
from activity_embeddings.training.evaluation.data import Data
from activity_embeddings.training.evaluation.evaluate import evaluate
from activity_embeddings.training.evaluation.gate import compare
from activity_embeddings.training.evaluation.plan import (
    AsOf,
    Declared,
    EvaluationPlan,
    Size,
    Target,
    Timeline,
)
from activity_embeddings.training.evaluation.queries import like_queries, members_drawn
from activity_embeddings.training.evaluation.ranker import Ranker, RankerSettings
from activity_embeddings.training.evaluation.references import search_decay
from activity_embeddings.training.evaluation.report.headline import headline
from activity_embeddings.training.evaluation.scorers import ScoringModel
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.models import InterleavedDecay
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.times import Schedule, to_us
from support.reference import decayed_of

pytestmark = pytest.mark.slow

MARKET = JobMarket(members=900, jobs=300, days=70, seed=6)
VECTOR_SPEC = ItemVectorSpec("truth_with_noise", "1", MARKET.dimension)
SPEC = ActivitySpec()
SEEDS = (0, 1, 2)
TIMELINE = Timeline(*(MARKET.start + timedelta(days=day) for day in (42, 56, 70)))
SIZE = Size(
    train_queries=300,
    test_queries_of_member=2,
    week_train_queries=150,
    week_test_queries_of_member=1,
)
RANKER = RankerSettings(rounds=40, rows_of_leaf=30)
THEIRS = (0.5, 1e-9, 0.5)
"""Rates of a model that scores items, a seed each: that of `mine`, and one that looks at the last
item alone."""
FEW = np.arange(300)
"""Members, where nothing is to be proved of them."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("market")
    MARKET.write(folder)
    items = pq.read_table(folder / "truth" / "items.parquet")
    # What an encoder would know of an item: its true vector, without attractiveness, and noise.
    true = np.stack(items["vector"].to_numpy())[:, : VECTOR_SPEC.dimension]
    noise = np.random.default_rng(0).normal(size=true.shape) / np.sqrt(VECTOR_SPEC.dimension)
    vectors = pa.table(
        {
            "job_id": items["job_id"],
            "embedding": pa.array((true + 0.5 * noise).tolist(), pa.list_(pa.float32())),
            "event_timestamp": pa.array([0] * len(items), pa.timestamp("us", "UTC")),
        }
    )
    events = pa.concat_tables(map(pq.read_table, (folder / "activity_events").glob("*.parquet")))
    history = ActivityHistory.from_arrow(events, ItemVectors.from_arrow(vectors, VECTOR_SPEC), SPEC)
    return Data(
        history,
        VECTOR_SPEC,
        pq.read_table(folder / "job_postings.parquet"),
        ("group",),
        Schedule.every(hours=24, delay_minutes=30),
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
        plan=EvaluationPlan(
            TIMELINE,
            declared=Declared(seeds=SEEDS, resamples=2000, margin=0.05),
            size=SIZE,
            ranker=RANKER,
            targets=(
                Target(arms.MEAN, arms.NOTHING, 0.02),
                Target("mine", arms.NOTHING, 5.0),
                Target("mine", arms.DECAY, not_worse=True),
                Target(arms.PLACEBO, arms.NOTHING, above_zero=True),
                Target(arms.MEAN, arms.NOTHING, 0.02, task="to_date"),
                Target(arms.PLACEBO, arms.NOTHING, task="to_date"),
            ),
        ),
        models=[EvaluatedModel("mine", "my own", ArmRole.LEARNED, (folder / "mine",))],
        scoring=[
            ScoringModel("theirs", "what we run today", tuple(Decayed(data, r) for r in THEIRS))
        ],
        commands=["made by a test"],
    )


class Decayed:
    """Scores of a decay of all positives, by the reference: what another team's model may be."""

    def __init__(self, data, r):
        self.vectors, self.r = data.history.vectors.matrix, r
        self.positive = set(SPEC.positive_ids)

    def columns(self, sequences, queries):
        scores = []
        for i, (start, end) in enumerate(pairwise(queries.start)):
            read = zip(sequences.item[i], sequences.action[i], strict=True)
            wanted = [self.vectors[item] for item, action in read if action in self.positive]
            preference = decayed_of(wanted, VECTOR_SPEC.dimension, self.r)
            scores.append(self.vectors[queries.vector_row[start:end]] @ preference)
        return np.concatenate(scores)[:, None]


def package(path, *, r=0.5, **facts):
    package_model(
        InterleavedDecay(r=r).build(SPEC, VECTOR_SPEC),
        path,
        name="mine",
        version="1",
        spec=SPEC,
        vector_spec=VECTOR_SPEC,
        litert=False,
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


def test_activity_helps_and_the_item_alone_does_not(result):
    for arm in (arms.MEAN, arms.DECAY, arms.SINGLE_DECAY, arms.SEVERAL_RATES, "mine"):
        assert row_of(result, arm)["low"] > 0, arm
        assert row_of(result, arm, task="week")["low"] > 0, arm
    assert row_of(result, arms.ITEM_ONLY)["high"] < row_of(result, arms.MEAN)["low"]


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
    found = search_decay(history, VECTOR_SPEC, TIMELINE)
    assert found == result["decay_searches"]
    assert [search["arm"] for search in found] == [arms.DECAY, arms.SINGLE_DECAY]


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
    for name in ("history", "newest activity in the embedding"):
        values = [row["queries"] for row in result["slices"] if row["slice"] == name]
        assert 0 < sum(values) <= queries
    assert sum(r["queries"] for r in result["slices"] if r["slice"] == "history") == queries
    assert sum(row["queries"] for row in result["sequence_lengths"]) == queries
    moved = [row["value"].split()[0] for row in result["slices"] if "moved" in row["slice"]]
    assert moved == ["moved", "stayed"]


def test_an_arm_says_what_it_takes(result):
    rows = {arm["name"]: arm for arm in result["arms"]}
    own = 4 * VECTOR_SPEC.dimension
    assert rows[arms.DECAY]["bytes_per_member"] == 3 * own
    assert rows["mine"]["bytes_per_member"] == own
    assert rows["decay+mine"]["bytes_per_member"] == 4 * own
    assert rows[arms.NOTHING]["bytes_per_member"] == 0
    base = rows[arms.NOTHING]["features"]
    assert rows["mine"]["features"] == base + 3
    assert rows["decay+mine"]["models"] == [arms.DECAY, "mine"]
    assert rows[arms.CANARY]["vectors"] == rows[arms.DECAY]["vectors"] == 3
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
    judged = [target["reached"] for target in result["targets"]]
    assert judged == [True, False, True, False, True, False]
    # The last one names an arm that its task does not have.
    assert [t["says"] == "not measured" for t in result["targets"]] == [False] * 5 + [True]
    assert [t["claim"] for t in result["targets"] if "to_date" in t["claim"]] == [
        "mean above nothing by 0.02, interval above 0 (task to_date)",
        "placebo above nothing, interval above 0 (task to_date)",
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
        *arms.COUNTS,
        "theirs",
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


def test_a_count_table_is_measured_alone_and_in_the_ranker(result, data):
    """Without a ranker nothing differs from seed to seed but models that have several."""
    alone = result["tasks"]["alone"]["figures"]
    assert set(alone) == set(result["tasks"]["to_date"]["figures"])
    spread = {arm: figures["seed_spread"] for arm, figures in alone.items()}
    assert spread.pop("theirs") > 0
    assert max(spread.values()) < 1e-12
    for arm in arms.COUNTS:
        assert row_of(result, arm, task="alone")
        assert row_of(result, "mine", arm, task="alone")
        assert row_of(result, "mine", arm)["figure"] == "ndcg_at_10"
    features = {arm["name"]: arm["features"] for arm in result["arms"]}
    assert features[arms.ITEM_COUNTS] == features[arms.NOTHING] + 2
    assert row_of(result, "mine", task="alone")["low"] > 0
    assert result["as_of"] == "published"
    assert "values as the daily run had published them" in headline(result)


def test_a_model_of_others_is_measured_by_its_scores_and_with_ours_beside_it(result):
    """Its first seed scores as ours does, so that without a ranker both find the same."""
    alone = result["tasks"]["alone"]["figures"]
    ours = alone["mine"]["by_seed"]
    theirs = alone["theirs"]["by_seed"]
    assert theirs[0] == pytest.approx(ours[0], abs=1e-3)
    assert theirs[2] == theirs[0] > theirs[1]
    features = {arm["name"]: arm["features"] for arm in result["arms"]}
    base = features[arms.NOTHING]
    assert (features["theirs"], features["theirs+mine"]) == (base + 1, base + 4)
    for task in ("day", "week"):
        assert row_of(result, "theirs", task=task)["low"] > 0
        assert row_of(result, "theirs+mine", "theirs", task=task)["difference"] > 0
    assert row_of(result, "mine", "theirs", task="alone")
    (facts,) = [arm for arm in result["arms"] if arm["name"] == "theirs"]
    assert (facts["title"], facts["role"], facts["vectors"]) == (
        "what we run today",
        "reference",
        0,
    )


@pytest.mark.parametrize(
    ("columns", "received"),
    [
        (lambda rows: np.zeros(rows), r"float64 \[\d+\]$"),
        (lambda rows: np.zeros((rows, 0)), r"float64 \[\d+, 0\]$"),
        (lambda rows: np.zeros((rows - 1, 1)), r"float64 \[\d+, 1\]$"),
        (lambda rows: np.full((rows, 1), "a"), r"<U1 \[\d+, 1\]$"),
        (lambda rows: np.full((rows, 2), np.nan), r"float64 \[\d+, 2\], some of them not finite$"),
    ],
)
def test_scores_that_are_none_are_one_error(data, columns, received):
    queries = like_queries(data.history, TIMELINE.test)
    scorer = SimpleNamespace(columns=lambda sequences, queries: columns(len(queries.item)))
    with pytest.raises(InvalidInput, match=rf"scores of 'theirs': expected finite.*{received}"):
        ScoringModel("theirs", "", (scorer,)).columns(queries.sequences, queries, 0)


def test_as_of_the_request_the_newest_activity_counts_in_every_arm(data, tmp_path):
    """A value of age 0 is then the arm itself, and nothing is published."""
    package(tmp_path / "own", r=0.7)
    result = evaluate(
        replace(data, history=data.history.of_members(FEW)),
        tmp_path,
        plan=EvaluationPlan(
            TIMELINE,
            as_of=AsOf.REQUEST,
            declared=Declared(seeds=SEEDS, resamples=200),
            size=replace(SIZE, train_queries=100, week_train_queries=0),
            ranker=replace(RANKER, rounds=5),
        ),
        models=[EvaluatedModel("mine", "my own", ArmRole.LEARNED, (tmp_path / "own",))],
    )
    assert result["as_of"] == "request"
    at_once, *older = result["freshness"]["points"]
    assert at_once["ndcg_at_10"] == result["tasks"]["day"]["figures"]["mine"]["ndcg_at_10"]
    assert at_once["auc"] == result["tasks"]["like"]["figures"]["mine"]["auc"]
    assert older[-1]["ndcg_at_10"] != at_once["ndcg_at_10"]
    assert check_of(result, "label sees itself")["passed"]
    assert not list(tmp_path.rglob("snapshots/*"))
    assert not [arm for arm in result["arms"] if "disk_bytes_per_member" in arm]
    assert "values as of the request" in headline(result)


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


def test_the_gate_says_the_intervals_of_the_report(result, folder):
    verdict = str(compare([folder], arms.DECAY, "mine"))
    for task in ("day", "week"):
        row = row_of(result, "mine", arms.DECAY, task)
        interval = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        assert f"task {task}: mine - decay is {interval}, " in verdict


def test_a_model_that_learned_from_the_rankers_days_is_refused(data, tmp_path):
    late = {"start": "2024-01-01T00:00:00+00:00", "end": TIMELINE.test_from.isoformat()}
    package(tmp_path / "late", training={"epochs": 3, "period": late, "validation": late})
    says = r"'mine': expected one that learned before 2024-02-12 .*, from when on the ranker learns"
    with pytest.raises(InvalidInput, match=says):
        evaluate(
            data,
            tmp_path / "out",
            plan=EvaluationPlan(TIMELINE),
            models=[EvaluatedModel("mine", "late", ArmRole.LEARNED, (tmp_path / "late",))],
        )
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize(
    ("trained", "received"),
    [("", "0"), ("ab", "2"), ("aba", "3, 2 of them different"), ("abcd", "4")],
)
def test_trained_models_are_one_or_a_different_one_for_each_seed(data, tmp_path, trained, received):
    """The same training counted twice would look like two that agree."""
    scorers = {each: Decayed(data, 0.5) for each in trained}
    refused = {
        "mine": {
            "models": [
                EvaluatedModel("mine", "m", ArmRole.LEARNED, tuple(map(tmp_path.joinpath, trained)))
            ]
        },
        "theirs": {
            "models": [],
            "scoring": [ScoringModel("theirs", "", tuple(scorers[each] for each in trained))],
        },
    }
    for name, arm in refused.items():
        message = (
            rf"arm '{name}': expected one trained model, or a different one for each of 3 seeds.* "
            rf"Received: {received}$"
        )
        with pytest.raises(InvalidInput, match=message):
            evaluate(
                data,
                tmp_path / "out",
                plan=EvaluationPlan(TIMELINE, declared=Declared(seeds=SEEDS)),
                **arm,
            )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("seeds", "received"), [((), "none"), ((0, 1, 0), "0, 1, 0")])
def test_a_seed_counts_once(seeds, received):
    with pytest.raises(InvalidInput, match=rf"`seeds` should be .* Received: {received}$"):
        Declared(seeds=seeds)


def test_where_there_is_one_training_the_conclusions_say_so(result):
    """The other model has one for each seed, and averages and counts are not trained."""
    (said,) = [sentence for sentence in result["conclusions"] if "one training" in sentence]
    assert said == (
        "Of mine there is one training: intervals are over members and seeds of the ranker, and "
        "say nothing of another training."
    )


@pytest.mark.parametrize("training", [{"epochs": 3}, {"epochs": 0}])
def test_every_model_of_several_has_to_have_learned_earlier(data, tmp_path, training):
    """Also one that was only chosen by later labels, as an average whose rate was tuned."""
    start, early, late = (
        moment.isoformat() for moment in (MARKET.start, TIMELINE.rank_from, TIMELINE.test_from)
    )
    for name, end in (("0", early), ("1", late)):
        period = {"period": {"start": start, "end": early}, "validation": {"end": end}}
        package(tmp_path / name, training={**training, **period})
    with pytest.raises(InvalidInput, match=r"'mine': expected one that learned before 2024-02-12"):
        evaluate(
            data,
            tmp_path / "out",
            plan=EvaluationPlan(TIMELINE, declared=Declared(seeds=(0, 1))),
            models=[
                EvaluatedModel("mine", "late", ArmRole.LEARNED, (tmp_path / "0", tmp_path / "1"))
            ],
        )


def test_vectors_that_no_item_can_be_multiplied_with_are_refused(data, tmp_path):
    class Short(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec(
                    [None, SPEC.length, VECTOR_SPEC.dimension], tf.float32, "item_embeddings"
                ),
                tf.TensorSpec([None, SPEC.length], tf.int32, "actions"),
            ]
        )
        def serve(self, item_embeddings, actions):
            return {"activity_embedding": item_embeddings[:, -1, :3]}

    package_model(
        Short(),
        tmp_path / "short",
        name="s",
        version="1",
        spec=SPEC,
        vector_spec=VECTOR_SPEC,
        litert=False,
    )
    package(tmp_path / "long")
    long = f"expected vectors as long as an item's, {VECTOR_SPEC.dimension}, .* Received: .*: 3"
    other = "expected every SavedModel to have the outputs of .*long"
    for paths, message in ((["short"], long), (["long", "short"], other)):
        with pytest.raises(InvalidInput, match=f"model 'mine': {message}"):
            evaluate(
                data,
                tmp_path / "out",
                plan=EvaluationPlan(TIMELINE, declared=Declared(seeds=(0, 1))),
                models=[
                    EvaluatedModel("mine", "m", ArmRole.LEARNED, tuple(tmp_path / p for p in paths))
                ],
            )


def test_a_feature_repo_is_not_written_over(data, tmp_path):
    (tmp_path / "feature_store.yaml").write_text("project: mine")
    with pytest.raises(InvalidInput, match="expected a folder of its own to write to"):
        evaluate(data, tmp_path, plan=EvaluationPlan(TIMELINE), models=[])
    assert [file.name for file in tmp_path.iterdir()] == ["feature_store.yaml"]


def test_truth_has_to_be_that_of_the_market(data, tmp_path):
    with pytest.raises(InvalidInput, match=r"truth: expected .*members.parquet.*: no such file"):
        replace(data, truth=tmp_path)
    pq.write_table(pa.table({"member_id": ["a"]}), tmp_path / "members.parquet")
    with pytest.raises(InvalidInput, match=r"with the member_id int64 .*Received: member_id str"):
        replace(data, truth=tmp_path)


def test_an_evaluation_needs_neither_dismissals_nor_categories(data, tmp_path):
    """Then there is no task of liking, but all else; and a model may say nothing of its past."""
    events = data.history.events
    liked = events.where(np.isin(events.action, SPEC.positive_ids))
    history = ActivityHistory.of(liked, data.history.vectors, SPEC).of_members(FEW)
    plain = replace(data, history=history, category_columns=(), truth=None, simulated=False)
    package(tmp_path / "own", r=0.7)
    result = evaluate(
        plain,
        tmp_path / "out",
        plan=EvaluationPlan(
            TIMELINE,
            declared=Declared(seeds=SEEDS, resamples=200),
            size=replace(
                SIZE, train_queries=100, week_train_queries=0, to_date=False, test_members=60
            ),
            ranker=replace(RANKER, rounds=5),
        ),
        models=[EvaluatedModel("mine", "my own", ArmRole.LEARNED, (tmp_path / "own",))],
    )
    assert set(result["tasks"]) == {"day", "alone"}
    assert 30 < result["tasks"]["day"]["members"] <= 60
    assert len(result["freshness"]["points"]) == 5
    assert arms.CATEGORY_SUMS not in {arm["name"] for arm in result["arms"]}
    assert result["quality"]["mine"]["interest_entropy_at_50"] is None
    *_, left_out, unknown, once = result["conclusions"]
    assert left_out.startswith("Like or dismiss is left out: evaluation: expected both positive")
    assert unknown.startswith("The manifest of mine does not say which days it learned from")
    assert once.startswith("Of mine there is one training")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Like or dismiss is left out" in page


def test_where_few_members_are_tested_liking_is_learned_from_as_many_of_the_rankers_days(
    data, tmp_path
):
    result = evaluate(
        data,
        tmp_path,
        plan=EvaluationPlan(
            TIMELINE,
            as_of=AsOf.REQUEST,
            declared=Declared(seeds=SEEDS, resamples=200),
            size=replace(
                SIZE, week_train_queries=0, to_date=False, freshness=False, test_members=40
            ),
        ),
        models=[],
    )
    drawn = members_drawn(data.history, TIMELINE.ranker, 40)
    like = result["tasks"]["like"]
    assert drawn.sum() == 40
    assert like["train_rows"] == len(like_queries(data.history, TIMELINE.ranker, among=drawn))
    assert like["figures"][arms.CANARY]["auc"] > like["figures"][arms.NOTHING]["auc"] + 0.1
    assert not any("left out" in sentence for sentence in result["conclusions"])


def test_a_task_in_which_nothing_was_learned_is_left_out(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Ranker, "splits", 0)
    result = evaluate(
        replace(data, history=data.history.of_members(FEW), truth=None),
        tmp_path,
        plan=EvaluationPlan(
            TIMELINE,
            as_of=AsOf.REQUEST,
            declared=Declared(seeds=SEEDS, resamples=200),
            size=replace(SIZE, week_train_queries=0, train_queries=50),
            ranker=replace(RANKER, rounds=2),
        ),
        models=[],
    )
    assert set(result["tasks"]) == {"day", "alone"}
    assert {row["task"] for row in result["comparisons"]} == {"day", "alone"}
    assert "auc" not in result["freshness"]["points"][0]
    sentences = [s for s in result["conclusions"] if "the ranker learned nothing" in s]
    assert [sentence.split(": of ")[0] for sentence in sentences] == [
        "Day",
        "Like or dismiss is left out",
        "Day, base to date is left out",
    ]
    assert sentences[1].endswith(" rows the ranker learned nothing in any arm: all are equal.")


def test_members_who_dismissed_nothing_have_no_auc_of_their_own(data, tmp_path):
    """One dismissal of a member is enough to learn from, and too little to compare members."""
    few = data.history.of_members(FEW)
    events, kinds = few.events, []
    for period in (TIMELINE.ranker, TIMELINE.test):
        inside = (events.time >= period.start_us) & (events.time < period.end_us)
        asked = like_queries(few, period)
        row = np.flatnonzero(asked.target == 0)[0]
        member, time = asked.member[row], asked.time[row]
        kept = inside & (events.member == member) & (events.time == time)
        kinds.append(kept | (inside & np.isin(events.action, SPEC.positive_ids)))
    earlier = events.time < TIMELINE.ranker.start_us
    history = ActivityHistory.of(
        events.where(np.logical_or.reduce([earlier, *kinds])), data.history.vectors, SPEC
    )
    result = evaluate(
        replace(data, history=history, truth=None),
        tmp_path,
        plan=EvaluationPlan(
            TIMELINE,
            as_of=AsOf.REQUEST,
            declared=Declared(seeds=SEEDS, resamples=200),
            size=replace(
                SIZE, train_queries=100, week_train_queries=0, to_date=False, freshness=False
            ),
            ranker=replace(RANKER, rounds=5),
        ),
        models=[],
    )
    assert {row["task"] for row in result["comparisons"]} == {"day", "alone"}
    assert 0 < result["tasks"]["like"]["figures"][arms.NOTHING]["auc"] < 1


def test_a_model_with_the_name_of_an_arm_is_refused(data, tmp_path):
    package(tmp_path / "mean")
    with pytest.raises(InvalidInput, match=r"names differ .* Received: mean$"):
        evaluate(
            data,
            tmp_path / "out",
            plan=EvaluationPlan(TIMELINE),
            models=[EvaluatedModel("mean", "a mean", ArmRole.LEARNED, (tmp_path / "mean",))],
        )
