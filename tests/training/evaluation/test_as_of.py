"""Values as of the request, and arms without a ranker: each query computed again by itself."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from activity_embeddings.training.evaluation import arms
from activity_embeddings.training.evaluation.alone import POPULARITY, measure_alone
from activity_embeddings.training.evaluation.arms import Arm, ArmRole, Kind, Source
from activity_embeddings.training.evaluation.base_features import BaseFeatures, Categories
from activity_embeddings.training.evaluation.contenders import EvaluatedModel
from activity_embeddings.training.evaluation.data import Data
from activity_embeddings.training.evaluation.feature_tables import (
    base_columns,
    base_rows,
    feature_tables,
)
from activity_embeddings.training.evaluation.measure import RankingTask
from activity_embeddings.training.evaluation.member_vectors import MemberVectors
from activity_embeddings.training.evaluation.mixing import best_mix
from activity_embeddings.training.evaluation.plan import AsOf
from activity_embeddings.training.evaluation.queries import ranking_queries
from activity_embeddings.training.evaluation.references import count_tables
from activity_embeddings.training.evaluation.store import EvaluationStore
from activity_embeddings.training.models import GeometricDecay
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.times import Schedule
from support.reference import US_PER_DAY, decayed_of, sequence, vector_as_of
from support.training_cases import at, event, history_of, period
from support.training_reference import POSITIVE, gain, held_out, mean_of_members

DAY = US_PER_DAY
SPEC = ActivitySpec()
VECTOR_SPEC = ItemVectorSpec("test", "1", 2)
SCHEDULE = Schedule(DAY, 30 * 60_000_000)
FACTS = {"window_us": SPEC.window_us, "length": SPEC.length}
ITEMS, MEMBERS, R, PRIOR = 15, 6, 0.7, 10
OUTPUTS = tuple(sorted(SPEC.actions))
KINDS = {item: [k for k in "ab" if (item + ord(k)) % 3] for item in range(ITEMS)}
VECTORS = [(item, (item % 4) * DAY, [np.cos(item), np.sin(3 * item)]) for item in range(ITEMS)]
TRAIN, TEST = period(4 * DAY, 7 * DAY), period(7 * DAY, 10 * DAY)


def events():
    """Some at the same time, where one of a member's is not before the other."""
    random = np.random.default_rng(0)
    made = [
        event(
            int(random.integers(MEMBERS)),
            int(random.integers(ITEMS)),
            str(random.choice(SPEC.actions)),
            int(random.integers(40)) * DAY // 4,
        )
        for _ in range(150)
    ]
    return [dict(e) for e in dict.fromkeys(tuple(e.items()) for e in made)]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """All that an evaluation as of the request asks, of small data."""
    folder = tmp_path_factory.mktemp("as_of")
    package_model(
        GeometricDecay(r=R).build(SPEC, VECTOR_SPEC),
        folder / "decay",
        name="decay",
        version="1",
        spec=SPEC,
        vector_spec=VECTOR_SPEC,
        litert=False,
    )
    history = history_of(events(), VECTORS, SPEC)
    postings = pa.table(
        {
            "job_id": pa.array(KINDS, pa.int64()),
            "event_timestamp": pa.array([0] * ITEMS, pa.timestamp("us", "UTC")),
            "kinds": pa.array(list(KINDS.values()), pa.list_(pa.string())),
        }
    )
    data = Data(history, VECTOR_SPEC, postings, ("kinds",), SCHEDULE, "small")
    categories = Categories.from_arrow(postings, ["kinds"], history.vectors.item_ids, until=0)
    base = BaseFeatures(history, np.zeros(ITEMS), categories)
    queries = [ranking_queries(history, part) for part in (TRAIN, TEST)]
    store = EvaluationStore(
        folder / "feast",
        history,
        vector_spec=VECTOR_SPEC,
        schedule=SCHEDULE,
        models={"decay": folder / "decay"},
        tables=feature_tables(base, queries, data, AsOf.REQUEST),
    )
    vectors = MemberVectors(
        store,
        base,
        queries=queries,
        vector_spec=VECTOR_SPEC,
        models={"decay": EvaluatedModel("decay", "", ArmRole.REFERENCE, (folder / "decay",))},
        scoring={model.name: model for model in count_tables(history, at(4 * DAY))},
        item_truth=None,
        as_of=AsOf.REQUEST,
    )
    rows = base_rows(store, queries, base, AsOf.REQUEST)
    return SimpleNamespace(queries=queries, base=base, vectors=vectors, rows=rows)


def outputs_of(before, time, actions=OUTPUTS):
    """The decay of each action, by the reference, in the order of the outputs' names."""
    return [
        decayed_of([vector_as_of(VECTORS, j, time) for j, a, _ in before if a == action], 2, R)
        for action in actions
    ]


def each_query(asked):
    """Yield queries, rows, the place of each query, its member and the slow sequence before it."""
    for queries, rows in zip(asked.queries, asked.rows, strict=True):
        ids = asked.base.history.events.member_ids.to_pylist()
        for i, time in enumerate(queries.time.tolist()):
            member = ids[queries.member[i]]
            before, _ = sequence(events(), VECTORS, member, time, **FACTS)
            yield queries, rows, i, member, before


def test_embeddings_are_of_all_activity_strictly_before_each_query(asked):
    arm = arms.model_arm("decay", "", ArmRole.REFERENCE)
    seen = 0
    for queries, _, i, member, before in each_query(asked):
        time = int(queries.time[i])
        found = [v.member[i] for v in asked.vectors.of_arm(arm, queries, 0)]
        np.testing.assert_allclose(found, outputs_of(before, time), atol=1e-5)
        newest = asked.vectors.newest_activity("decay", queries)[i]
        assert newest == before[-1][2] < time
        late = [e for e in events() if e["member_id"] == member and e["time"] == time]
        seen += len(late) > 1
    assert seen > 3, "some members did several things at the time of a query"
    assert [asked.vectors.differing("decay", queries) for queries in asked.queries] == [0, 0]


def test_another_member_is_asked_about_at_the_same_time(asked):
    arm = Arm(arms.PLACEBO, "", ArmRole.CONTROL, (Source(Kind.OTHER_MEMBER, "decay"),))
    for queries, _, i, member, _ in each_query(asked):
        time = int(queries.time[i])
        found = np.stack([v.member[i] for v in asked.vectors.of_arm(arm, queries, 0)])
        others = [
            outputs_of(sequence(events(), VECTORS, other, time, **FACTS)[0], time)
            for other in range(MEMBERS)
            if other != member
        ]
        assert any(np.allclose(found, other, atol=1e-5) for other in others)


def test_categories_are_those_of_the_activity_before_the_query(asked):
    arm = Arm("c", "", ArmRole.REFERENCE, (Source(Kind.CATEGORIES),))
    for queries, _, i, _, before in each_query(asked):
        found = [v.member[i].tolist() for v in asked.vectors.of_arm(arm, queries, 0)]
        assert found == [
            [sum(k in KINDS[j] for j, a, _ in before if a == action) for k in "ab"]
            for action in SPEC.actions
        ]


def test_base_features_know_the_member_as_of_the_request_and_items_as_of_the_daily_run(asked):
    columns = base_columns(asked.base.categories)
    for queries, rows, i, member, _ in each_query(asked):
        time = int(queries.time[i])
        known = [
            e
            for e in events()
            if e["time"] < time and min(t for j, t, _ in VECTORS if j == e["job_id"]) <= 10 * DAY
        ]
        own = [e for e in known if e["member_id"] == member]
        liked = sum(e["action"] in POSITIVE for e in own)
        share = sum(e["action"] in POSITIVE for e in known) / len(known)
        of_items = asked.base.of_items(int(SCHEDULE.newest(np.array([time]))[0]))
        for row in range(queries.start[i], queries.start[i + 1]):
            found = dict(zip(columns, rows[row].tolist(), strict=True))
            assert found["member_activities"] == len(own)
            expected = (liked + PRIOR * share) / (len(own) + PRIOR)
            assert found["member_positive_share"] == pytest.approx(expected, rel=1e-5)
            for name, values in of_items.items():
                assert found[name] == pytest.approx(float(values[queries.item[row]]), rel=1e-5)


def slow_scores(asked, name):
    """The own scores of each row of both parts: dot products, or a share of dictionaries."""
    counted = {}
    everything = {"start": 0, "end": 4 * DAY, "minimum": 1, "prefixes": True}
    for following, before in held_out(events(), VECTORS, **everything, **FACTS):
        item, action, _ = before[-1]
        key = item if name == arms.ITEM_COUNTS else (item, action)
        counted.setdefault(key, []).append(following["job_id"])
    scores = {id(queries): [] for queries in asked.queries}
    for queries, _, i, _, before in each_query(asked):
        time = int(queries.time[i])
        outputs = [np.array(output) for output in outputs_of(before, time, OUTPUTS)]
        item, action, _ = before[-1]
        next_items = counted.get(item if name == arms.ITEM_COUNTS else (item, action), [])
        for j in queries.item[queries.start[i] : queries.start[i + 1]].tolist():
            if name == arms.DECAY:
                own = [float(v @ np.array(vector_as_of(VECTORS, j, time))) for v in outputs]
            else:
                own = [next_items.count(j) / max(len(next_items), 1)]
            scores[id(queries)].append(own)
    return [np.array(of_part).T for of_part in scores.values()]


@pytest.mark.parametrize(
    "arm",
    [
        arms.model_arm(arms.DECAY, "", ArmRole.REFERENCE),
        *(arms.scoring_arm(name, "") for name in arms.COUNTS),
    ],
    ids=lambda arm: arm.name,
)
def test_without_a_ranker_popularity_is_mixed_in_as_is_best_on_the_queries_before(asked, arm):
    nothing = Arm(arms.NOTHING, "", ArmRole.BASE)
    columns = base_columns(asked.base.categories)
    task = RankingTask("alone", "", *asked.queries, tuple(asked.rows), columns)
    measured = measure_alone(task, [nothing, arm], asked.vectors, 2)
    own = slow_scores(asked, arm.name)
    popular = [np.log1p(rows[:, columns.index(POPULARITY)].astype(float)) for rows in asked.rows]

    def gains(part, mixed):
        queries = asked.queries[part]
        return [
            gain(mixed[w], np.delete(mixed[a:b], w - a))
            for a, b, w in zip(queries.start[:-1], queries.start[1:], queries.wanted, strict=True)
        ]

    def mixed(part, mix):
        weights = np.array(mix.weights)
        added, spread = weights @ own[part], max((weights @ own[0]).std(), 1e-9)
        return np.round(
            mix.share * added / spread + (1 - mix.share) * popular[part] / popular[0].std(), 6
        )

    def members_mean(mix):
        values = gains(0, mixed(0, mix))
        asked_of = [{"member": m} for m in asked.queries[0].member.tolist()]
        return round(np.mean(mean_of_members(asked_of, values)), 9)

    wanted = [action in SPEC.positive_actions for action in OUTPUTS]
    best = best_mix(members_mean, wanted if arm.name == arms.DECAY else [True])
    assert measured.figures_of[arm.name]["ndcg_at_10"].shape == (2, len(asked.queries[1]))
    for values in measured.figures_of[arm.name]["ndcg_at_10"]:
        np.testing.assert_allclose(values, gains(1, mixed(1, best)), atol=1e-6)
    np.testing.assert_allclose(
        measured.figures_of[arms.NOTHING]["ndcg_at_10"][0], gains(1, popular[1]), atol=1e-6
    )
