"""Does an activity embedding help? One evaluation, from data and models to a report.

    before T1      item encoder, models and r learn
    T1 to T2       the ranker learns
    T2 to T3       one test

Every arm gets the same queries, candidates, base features, ranker and seeds. Values of members are
those that the daily run would have published, or as of each request (`AsOf`). The result is a dict
of JSON values, a table of each member's figures, and a report made from the first.

    plan, models -> contenders -> queries -> feature store -> tasks -> figures -> result
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from activity_embeddings.training.evaluation import arms
from activity_embeddings.training.evaluation.alone import POPULARITY, measure_alone
from activity_embeddings.training.evaluation.arms import Arm, ArmRole, Kind
from activity_embeddings.training.evaluation.base_features import BaseFeatures, Categories
from activity_embeddings.training.evaluation.contenders import (
    Contenders,
    EvaluatedModel,
    require_earlier,
    require_one_a_seed,
)
from activity_embeddings.training.evaluation.data import Data, posted_at, true_item_vectors
from activity_embeddings.training.evaluation.feature_tables import (
    TO_DATE_COLUMNS,
    base_columns,
    base_rows,
    feature_tables,
)
from activity_embeddings.training.evaluation.findings import (
    check_instrument,
    compare_arms,
    conclude,
    judge_targets,
    pairs_of,
)
from activity_embeddings.training.evaluation.freshness import freshness_curve
from activity_embeddings.training.evaluation.measure import Measured, RankingTask, measure
from activity_embeddings.training.evaluation.member_vectors import MemberVectors
from activity_embeddings.training.evaluation.plan import AsOf, EvaluationPlan
from activity_embeddings.training.evaluation.quality import quality_of
from activity_embeddings.training.evaluation.queries import (
    DAYS_A_WEEK,
    Queries,
    like_queries,
    members_drawn,
    ranking_queries,
)
from activity_embeddings.training.evaluation.references import (
    SEARCH_DAYS,
    count_tables,
    package_references,
    search_decay,
)
from activity_embeddings.training.evaluation.report.page import TASKS, write_report
from activity_embeddings.training.evaluation.result import (
    ALONE,
    DAY,
    HTML,
    LIKE,
    SCHEMA,
    TO_DATE,
    WEEK,
    ArmFacts,
    Comparison,
    DataFacts,
    DecaySearch,
    LengthCount,
    Result,
    Slice,
    TimelineFacts,
    write_result,
)
from activity_embeddings.training.evaluation.scorers import ScoringModel
from activity_embeddings.training.evaluation.slices import query_slices, slice_rows
from activity_embeddings.training.evaluation.store import EvaluationStore
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.training.fitting.provenance import fingerprints
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import make_folder
from activity_embeddings.transformations.times import to_datetime
from activity_embeddings.transformations.wording import counted

WORK = ".evaluation"
"""Folder of the Feast repo and of the averages, within that of the report."""
TITLES = {
    DAY: "The next positive item among all items of the day",
    TO_DATE: "The same by a ranker that knows less",
    ALONE: "The same without a ranker, by an arm's own score and popularity",
    WEEK: "The next positive item among all items of the week",
    LIKE: "Will the member like or dismiss the item acted on",
}

Say = Callable[[str], None]


def evaluate(
    data: Data,
    folder: Path,
    *,
    plan: EvaluationPlan,
    models: Sequence[EvaluatedModel],
    scoring: Sequence[ScoringModel] = (),
    commands: Sequence[str] = (),
    say: Say = lambda line: None,
) -> Result:
    """Measure models beside the references and controls, and write the report.

    Parameters
    ----------
    data
        What it is measured on.
    folder
        Gets `report.html`, `report.json`, `members.parquet` and the evaluation's Feast store.
    plan
        T1, T2 and T3, and all settings.
    models
        To be compared, beside averages; the last learned one is the candidate, of which the placebo
        and the freshness curve are made.
    scoring
        To be compared, too: models that score items by themselves, such as one that you run today.
        Each is also measured with the candidate's vectors beside its scores.
    commands
        How it was run, for the report.
    say
        Gets a line a step.

    Returns
    -------
    Result
        The content of `report.json`.

    Raises
    ------
    InvalidInput
        A model learned from labels at or after T1, two arms have one name, an arm has neither one
        trained model nor one for each seed, or a period holds no queries. Nothing is written then
        but the evaluation's own store.
    """
    started = time.perf_counter()
    own_names = [n for m in models for n in dict.fromkeys((m.name, *m.views))]
    arms.require_distinct_names([*own_names, *(each.name for each in scoring)])
    seeds = len(plan.declared.seeds)
    for model in models:
        require_one_a_seed(model.name, [path.resolve() for path in model.paths], seeds)
    for each in scoring:
        require_one_a_seed(each.name, [id(scorer) for scorer in each.scorers], seeds)
    folder = _own_folder(folder)
    categories = Categories.from_arrow(
        data.postings,
        data.category_columns,
        data.history.vectors.item_ids,
        until=plan.timeline.ranker.start_us,
    )
    contenders, searches = _contenders(folder / WORK, data, plan, models, scoring, categories, say)
    asked = _ask(data, plan, say)
    base = BaseFeatures(data.history, posted_at(data), categories)
    store = _publish(folder / WORK, data, plan, contenders, asked, base, say)
    tasks = _tasks(asked, store, base, plan.as_of)
    run = _Run(data, plan, contenders, store, asked, base, started)
    measured, unlearned = _measure(run, tasks, say)
    result = _result(run, measured, searches, [*asked.left_out, *unlearned], commands)
    write_result(result, _member_table(measured, data), folder)
    write_report(result, folder / HTML)
    return result


def _own_folder(folder: Path) -> Path:
    """Make the folder of the evaluation, unless a feature repo is in it."""
    if (folder / "feature_store.yaml").exists():
        raise InvalidInput(
            f"evaluation: expected a folder of its own to write to. Received: {folder}, a feature "
            "repo"
        )
    return make_folder(folder)


def _contenders(
    work: Path,
    data: Data,
    plan: EvaluationPlan,
    models: Sequence[EvaluatedModel],
    scoring: Sequence[ScoringModel],
    categories: Categories,
    say: Say,
) -> tuple[Contenders, list[DecaySearch]]:
    """Check the models, and make the references that they have to beat."""
    history, vector_spec, timeline = data.history, data.vector_spec, plan.timeline
    described = {m.name: m.describe(history.spec, vector_spec) for m in models}
    for name, of_seeds in described.items():
        for model in of_seeds:
            require_earlier(name, model.manifest, timeline.rank_from, "the ranker learns")
    most = plan.size.test_members
    searches = search_decay(history, vector_spec, timeline, most_members=most)
    rates = {search["arm"]: search["best"] for search in searches}
    chosen = ", ".join(f"r = {r:g} of {name}" for name, r in rates.items())
    say(f"{chosen}: chosen on the {SEARCH_DAYS} days before {timeline.rank_from:%F}")
    references = package_references(work / "models", history, vector_spec, rates)
    described |= {m.name: m.describe(history.spec, vector_spec) for m in references}
    contenders = Contenders.of(
        [*references, *models],
        described,
        scoring=[*count_tables(history, timeline.rank_from), *scoring],
        with_categories=bool(categories.names),
        with_truth=data.truth is not None,
        kinds=[kind.name for kind in history.spec.kinds],
    )
    return contenders, searches


@dataclass(frozen=True, eq=False)
class _Asked:
    """The queries of each task, to learn from and to test on; and why a task has none."""

    queries: Mapping[str, tuple[Queries, Queries]]
    left_out: Sequence[str]

    @property
    def all(self) -> list[Queries]:
        """The queries of every task and period."""
        return [queries for pair in self.queries.values() for queries in pair]


def _ask(data: Data, plan: EvaluationPlan, say: Say) -> _Asked:
    """Make the queries of each task."""
    history, timeline, size = data.history, plan.timeline, plan.size

    def among(period: Period) -> np.ndarray | None:
        if size.test_members is None:
            return None
        return members_drawn(history, period, size.test_members)

    tested = among(timeline.test)

    def lists(days: int, train: int, of_member: int) -> tuple[Queries, Queries]:
        return (
            ranking_queries(
                history, timeline.ranker, days=days, per_member=of_member, most=train, seed=0
            ),
            ranking_queries(
                history, timeline.test, days=days, per_member=of_member, among=tested, seed=1
            ),
        )

    queries = {DAY: lists(1, size.train_queries, size.test_queries_of_member)}
    if size.week_train_queries:
        queries[WEEK] = lists(
            DAYS_A_WEEK, size.week_train_queries, size.week_test_queries_of_member
        )
    left_out = []
    try:
        queries[LIKE] = (
            like_queries(history, timeline.ranker, among=among(timeline.ranker)),
            like_queries(history, timeline.test, among=tested),
        )
    except InvalidInput as error:
        left_out.append(f"Like or dismiss is left out: {error}.")
    for name, (train, test) in queries.items():
        say(
            f"{name}: {counted(len(train), 'query')} to learn from, {len(test):,} to test on, "
            f"{counted(int(np.median(test.sizes)), 'candidate')}"
        )
    for reason in left_out:
        say(reason)
    return _Asked(queries, left_out)


def _publish(
    work: Path,
    data: Data,
    plan: EvaluationPlan,
    contenders: Contenders,
    asked: _Asked,
    base: BaseFeatures,
    say: Say,
) -> EvaluationStore:
    """Publish, as the daily run would have, what every arm is made of for those asked about."""
    members = np.unique(np.concatenate([queries.member for queries in asked.all]))
    store = EvaluationStore(
        work / "feast",
        data.history.of_members(members),
        vector_spec=data.vector_spec,
        schedule=data.schedule,
        models=contenders.paths,
        tables=feature_tables(base, asked.all, data, plan.as_of),
    )
    if plan.as_of == AsOf.PUBLISHED:
        say(f"publishing {counted(len(store.embeddings), 'model')} daily")
        store.publish(plan.timeline.ranker.start_us, plan.timeline.test.end_us)
    return store


def _tasks(
    asked: _Asked, store: EvaluationStore, base: BaseFeatures, as_of: AsOf
) -> dict[str, RankingTask]:
    """Lay the base features beside each task's rows."""
    columns = base_columns(base.categories)
    rows = iter(base_rows(store, asked.all, base, as_of))
    return {
        name: RankingTask(name, TITLES[name], train, test, (next(rows), next(rows)), columns)
        for name, (train, test) in asked.queries.items()
    }


class _Run:
    """The parts of an evaluation that measuring and the result share."""

    def __init__(
        self,
        data: Data,
        plan: EvaluationPlan,
        contenders: Contenders,
        store: EvaluationStore,
        asked: _Asked,
        base: BaseFeatures,
        started: float,
    ) -> None:
        self.data, self.plan, self.contenders = data, plan, contenders
        self.store, self.categories, self.started = store, base.categories, started
        self.vectors = MemberVectors(
            store,
            base,
            queries=asked.all,
            vector_spec=data.vector_spec,
            models=contenders.models,
            scoring=contenders.scoring,
            item_truth=true_item_vectors(data),
            as_of=plan.as_of,
        )

    def arms_of(self, task: str) -> Sequence[Arm]:
        """Return the arms that are compared in a task."""
        return self.contenders.basic_arms if task in (TO_DATE, ALONE) else self.contenders.arms


def _measure(
    run: _Run, tasks: Mapping[str, RankingTask], say: Say
) -> tuple[dict[str, Measured], list[str]]:
    """Measure the arms of each task, and of two more that ask the queries of the day.

    A task in which the ranker learned nothing is left out, but for that of the day, which decides;
    sentences say why.
    """
    day = tasks[DAY]
    alone = measure_alone(
        day.with_columns(ALONE, TITLES[ALONE], (POPULARITY,)),
        run.arms_of(ALONE),
        run.vectors,
        len(run.plan.declared.seeds),
    )
    for arm in alone.figures_of:
        say(alone.line(arm))
    ranked = dict(tasks)
    if run.plan.size.to_date:
        ranked[TO_DATE] = day.with_columns(TO_DATE, TITLES[TO_DATE], TO_DATE_COLUMNS)
    measured = {
        name: measure(task, run.arms_of(name), run.vectors, run.plan, say)
        for name, task in ranked.items()
    }
    reasons = {name: why for name, task in measured.items() if (why := task.unlearned())}
    learned = {name: task for name, task in measured.items() if name == DAY or name not in reasons}
    says = [
        f"{TASKS[name]}{'' if name in learned else ' is left out'}: {why}."
        for name, why in reasons.items()
    ]
    for sentence in says:
        say(sentence)
    return {**learned, ALONE: alone}, says


def _compare(run: _Run, measured: Mapping[str, Measured]) -> list[Comparison]:
    """Compare the arms of each task by the figure of its members."""
    rows: list[Comparison] = []
    for name, task in measured.items():
        values = task.of_members(task.figure)
        if values[arms.NOTHING].shape[1] < 2:  # few members have dismissed anything
            continue
        pairs = pairs_of(run.arms_of(name))
        rows += compare_arms(
            name, task.figure, values, pairs, run.plan.declared, possible=arms.ORACLE
        )
    return rows


def _result(
    run: _Run,
    measured: Mapping[str, Measured],
    searches: list[DecaySearch],
    left_out: Sequence[str],
    commands: Sequence[str],
) -> Result:
    """Compare what was measured, check the instrument and say what came out."""
    data, plan, contenders, vectors = run.data, run.plan, run.contenders, run.vectors
    day = measured[DAY]
    test = day.task.test
    comparisons = _compare(run, measured)
    quality = quality_of(vectors, contenders.models, data, plan.timeline, run.categories)
    late = {name: vectors.differing(name, test) for name in contenders.models}
    checks = check_instrument(comparisons, contenders.arms, quality, late, plan.as_of)
    freshness = None
    if plan.size.freshness:
        freshness = freshness_curve(contenders.candidate, day, measured.get(LIKE), vectors, plan)
    return {
        "schema": SCHEMA,
        "title": "Does it help? Activity embeddings in a recommendation model",
        "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "simulated": data.simulated,
        "as_of": str(plan.as_of),
        "data": _data_facts(data),
        "timeline": _timeline_facts(run),
        "declared": plan.declared.to_dict(),
        "ranker": plan.ranker_facts(),
        "arms": [_arm_facts(arm, run, day.columns[arm.name]) for arm in contenders.arms],
        "tasks": {name: task.summary() for name, task in measured.items()},
        "comparisons": comparisons,
        "checks": checks,
        "slices": _slices(run, day),
        "quality": quality,
        "freshness": freshness,
        "decay_searches": searches,
        "training_curves": contenders.training_curves(),
        "sequence_lengths": _sequence_lengths(test),
        "targets": judge_targets(plan.targets, comparisons, plan.declared.margin),
        "conclusions": [
            *conclude(comparisons, contenders.arms, checks),
            *left_out,
            *contenders.of_unknown_training(),
            *contenders.of_one_training(),
        ],
        "commands": list(commands),
        "versions": _versions(),
        "seconds": time.perf_counter() - run.started,
    }


def _data_facts(data: Data) -> DataFacts:
    events, prints = data.history.events, fingerprints(data.history)
    return {
        "description": data.description,
        "events": len(events),
        "members": len(events.member_ids),
        "items": len(data.history.own_items),
        "from": to_datetime(int(events.time.min())).isoformat(),
        "until": to_datetime(int(events.time.max())).isoformat(),
        "events_fingerprint": prints["events_fingerprint"],
        "item_vectors_fingerprint": prints["item_vectors_fingerprint"],
        "vector_spec": data.vector_spec.to_dict(),
    }


def _timeline_facts(run: _Run) -> TimelineFacts:
    timeline, schedule = run.plan.timeline, run.data.schedule
    return {
        "learn_until": timeline.rank_from.isoformat(),
        "rank_from": timeline.rank_from.isoformat(),
        "test_from": timeline.test_from.isoformat(),
        "until": timeline.until.isoformat(),
        "publishing_delay_minutes": schedule.delay_minutes,
        "snapshot_interval_hours": schedule.interval_hours,
    }


def _arm_facts(arm: Arm, run: _Run, features: int) -> ArmFacts:
    """Return what the report says of an arm: what it is, and what it takes to keep.

    Parameters
    ----------
    arm, run
        The arm, and the evaluation that it is of.
    features
        How many columns the ranker had in the task that decides.
    """
    described = run.contenders.described
    own = [source.model for source in arm.sources if source.kind == Kind.OWN]
    facts: ArmFacts = {
        "name": arm.name,
        "title": arm.title,
        "role": str(arm.role),
        "models": list(arm.models),
        "vectors": sum(
            len(described[s.model][0].outputs) if s.model else s.kind != Kind.SCORES
            for s in arm.sources
        ),
        "features": features,
    }
    if arm.name == arms.CATEGORY_SUMS:
        actions = len(run.data.history.spec.own_actions)
        facts["vectors"] = actions
        facts["bytes_per_member"] = 4 * len(run.categories.names) * actions
    elif own:
        outputs = [size for name in own for size in described[name][0].outputs.values()]
        views = [run.contenders.models[name].view(0) for name in own]
        facts["bytes_per_member"] = 4 * sum(outputs)
        if run.plan.as_of == AsOf.PUBLISHED:
            facts["disk_bytes_per_member"] = sum(map(run.store.bytes_on_disk, views))
    elif not arm.sources:
        facts["bytes_per_member"] = 0
    if len(own) == 1:
        model, *others = described[own[0]]
        facts["version"], facts["fingerprint"] = model.version, model.fingerprint
        training = model.manifest.get("training") or {}
        period, chosen = (training.get(name) or {} for name in ("period", "validation"))
        if training.get("epochs") and "start" in period and "end" in period:
            facts["trained"] = (
                f"on {period['start'][:10]} to {period['end'][:10]}"
                + (f", chosen until {chosen['end'][:10]}" if "end" in chosen else "")
                + (f"; {1 + len(others)} runs" if others else "")
            )
    return facts


def _slices(run: _Run, day: Measured) -> list[Slice]:
    """Return what references and models add within each part of the test queries."""
    test = day.task.test
    newest = run.vectors.newest_activity(run.contenders.candidate, test)
    return slice_rows(
        query_slices(test, newest, run.data.history),
        {arm: figures[FIGURE] for arm, figures in day.figures_of.items()},
        test.member,
        [a.name for a in run.contenders.arms if a.role in (ArmRole.REFERENCE, ArmRole.LEARNED)],
        run.plan.declared,
    )


def _sequence_lengths(queries: Queries) -> list[LengthCount]:
    return [
        {"length": length, "queries": int(count)}
        for length, count in enumerate(np.bincount(queries.sequences.count))
        if count
    ]


def _versions() -> dict[str, str]:
    packages = ("activity-embeddings", "feast", "tensorflow", "keras", "lightgbm", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _member_table(measured: Mapping[str, Measured], data: Data) -> pa.Table:
    """Return NDCG@10 of each member, seed, arm and task of lists."""
    parts = []
    for name, task in measured.items():
        if not task.ranked:
            continue
        ids = data.history.events.member_ids.take(pa.array(task.members)).cast(pa.string())
        queries = np.unique(task.task.test.member, return_counts=True)[1]
        for arm, values in task.of_members(FIGURE).items():
            parts += [
                pa.table(
                    {
                        "task": pa.array([name] * len(ids)),
                        "arm": pa.array([arm] * len(ids)),
                        "seed": np.full(len(ids), seed),
                        "member_id": ids,
                        "queries": queries,
                        FIGURE: of_members,
                    }
                )
                for seed, of_members in enumerate(values)
            ]
    return pa.concat_tables(parts)
