"""Does an activity embedding help? One evaluation, from data and models to a report.

    before T1      item encoder, models and r learn
    T1 to T2       the ranker learns
    T2 to T3       one test

Every arm gets the same queries, candidates, base features, ranker and seeds. Embeddings are joined
as the daily run would have published them. What comes out is a dict of JSON values, a table of
each member's figures, and from the first a report.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings.training.evaluation import arms
from activity_embeddings.training.evaluation.arms import Arm, Kind, Role, Source
from activity_embeddings.training.evaluation.base_features import BaseFeatures, Categories
from activity_embeddings.training.evaluation.data import (
    TO_DATE,
    Data,
    Timeline,
    base_columns,
    base_rows,
    feature_tables,
    posted_at,
    true_item_vectors,
)
from activity_embeddings.training.evaluation.details import (
    SEARCH_DAYS,
    freshness_curve,
    quality_of,
    query_slices,
    search_decay,
    training_curves,
)
from activity_embeddings.training.evaluation.findings import (
    FIGURE,
    Declared,
    Target,
    check_instrument,
    compare_arms,
    conclude,
    judge_targets,
    pairs_of,
    slice_rows,
)
from activity_embeddings.training.evaluation.gate import MEMBERS, REPORT, SCHEMA
from activity_embeddings.training.evaluation.measure import (
    WITHIN_MEMBER_AUC,
    Measured,
    Task,
    measure,
)
from activity_embeddings.training.evaluation.member_vectors import EvaluatedModel, MemberVectors
from activity_embeddings.training.evaluation.queries import (
    DAY,
    WEEK,
    Queries,
    like_queries,
    ranking_queries,
)
from activity_embeddings.training.evaluation.ranker import RankerSettings
from activity_embeddings.training.evaluation.report.page import write_report
from activity_embeddings.training.evaluation.store import EvaluationStore
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.fitting.train import fingerprints
from activity_embeddings.training.models import (
    GeometricDecay,
    InterleavedDecay,
    SeveralRatesDecay,
    UnweightedAverage,
)
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import make_folder, replace_file
from activity_embeddings.transformations.spec import ItemVectorSpec
from activity_embeddings.transformations.times import to_datetime
from activity_embeddings.transformations.wording import counted

HTML = "report.html"
WORK = ".evaluation"
"""Folder of the Feast repo and of the averages, within that of the report."""
TITLES = {
    "day": "The next positive item among all items of the day",
    "to_date": "The same by a ranker that knows less",
    "week": "The next positive item among all items of the week",
    "like": "Will the member like or dismiss the item acted on",
}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How much is measured, the same for every arm.

    Parameters
    ----------
    train_queries, test_queries_of_member : of the task `day`.
    week_train_queries, week_test_queries_of_member : of the task `week`; 0 leaves it out.
    to_date : bool. Whether references and models are also measured beside the fewest base features.
    freshness : bool. Whether the curve is measured.
    """

    train_queries: int = 2000
    test_queries_of_member: int = 4
    week_train_queries: int = 700
    week_test_queries_of_member: int = 1
    to_date: bool = True
    freshness: bool = True


QUICK = Size(test_queries_of_member=1, week_train_queries=0, freshness=False)
"""For a look, in minutes. Now and then a seed of the ranker goes astray, with fewer queries to
learn from more often; of three seeds one is enough to make intervals wide."""


def evaluate(
    data: Data,
    folder: Path,
    *,
    timeline: Timeline,
    models: Sequence[EvaluatedModel],
    declared: Declared | None = None,
    size: Size | None = None,
    ranker: RankerSettings | None = None,
    targets: Sequence[Target] = (),
    commands: Sequence[str] = (),
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Measure models beside the references and controls, and write the report.

    Parameters
    ----------
    data : what it is measured on.
    folder : gets `report.html`, `report.json`, `members.parquet` and the evaluation's Feast store.
    timeline : T1, T2, T3.
    models : to be compared, beside averages; the last learned one is the candidate, of which the
        placebo and the freshness curve are made.
    declared, size, ranker : settings; each has defaults.
    targets : claims to be judged.
    commands : how it was run, for the report.
    say : gets a line a step.

    Returns
    -------
    dict
        The content of `report.json`.

    Raises
    ------
    InvalidInput
        A model learned from labels at or after T1, two arms have one name, or a period holds no
        queries. Nothing is written then but the evaluation's own store.
    """
    started = time.perf_counter()
    declared, size, settings = declared or Declared(), size or Size(), ranker or RankerSettings()
    arms.require_new([name for m in models for name in dict.fromkeys((m.name, *m.views))])
    if (folder / "feature_store.yaml").exists():
        raise InvalidInput(
            f"evaluation: expected a folder of its own to write to. Received: {folder}, a feature "
            "repo"
        )
    folder = make_folder(folder)
    history = data.history
    described = {m.name: m.describe(history, data.vector_spec) for m in models}
    for name, of_seeds in described.items():
        for model in of_seeds:
            _require_earlier(name, model.manifest, timeline)

    searches = search_decay(history, data.vector_spec, timeline)
    rates = {search["arm"]: search["best"] for search in searches}
    chosen = ", ".join(f"r = {r:g} of {name}" for name, r in rates.items())
    say(f"{chosen}: chosen on the {SEARCH_DAYS} days before {timeline.rank_from:%F}")
    references = _references(folder / WORK / "models", history, data.vector_spec, rates)
    everything = {model.name: model for model in (*references, *models)}
    described |= {m.name: m.describe(history, data.vector_spec) for m in references}
    learned = [model.name for model in models if model.role == Role.LEARNED]
    candidate = learned[-1] if learned else arms.DECAY
    categories = Categories.from_arrow(
        data.postings,
        data.category_columns,
        history.vectors.item_ids,
        until=timeline.ranker.start_us,
    )
    compared = _arms(everything, learned, candidate, bool(categories.names), data)

    queries, left_out = _queries(history, timeline, size)
    for name, (train, test) in queries.items():
        say(
            f"{name}: {counted(len(train), 'query')} to learn from, {len(test):,} to test on, "
            f"{counted(int(np.median(test.sizes)), 'candidate')}"
        )
    for reason in left_out:
        say(reason)
    base = BaseFeatures(history, posted_at(data), categories)
    store = EvaluationStore(
        folder / WORK / "feast",
        history,
        vector_spec=data.vector_spec,
        schedule=data.schedule,
        models={
            view: path
            for model in everything.values()
            for view, path in zip(model.views, model.paths, strict=True)
        },
        tables=feature_tables(base, [q for both in queries.values() for q in both], data),
    )
    say(f"publishing {counted(len(store.embeddings), 'model')} daily")
    store.publish(timeline.ranker.start_us, timeline.test.end_us)
    columns = base_columns(categories)
    tasks = {
        name: Task(
            name,
            TITLES[name],
            train,
            test,
            (
                base_rows(store, train, categories, data),
                base_rows(store, test, categories, data),
            ),
            columns,
        )
        for name, (train, test) in queries.items()
    }
    measured_arms = dict.fromkeys(tasks, compared)
    if size.to_date:
        tasks["to_date"] = tasks["day"].with_columns("to_date", TITLES["to_date"], TO_DATE)
        measured_arms["to_date"] = [
            arm for arm in compared if arm.name in {arms.NOTHING, *everything}
        ]
    vectors = MemberVectors(
        store,
        history,
        vector_spec=data.vector_spec,
        models=everything,
        categories=categories,
        item_truth=true_item_vectors(data),
    )
    results = {
        name: measure(task, measured_arms[name], vectors, settings, declared, say)
        for name, task in tasks.items()
    }
    day = results["day"]
    comparisons = _compare(results, measured_arms, declared)
    quality = quality_of(vectors, everything, data, timeline, categories)
    test = day.task.test
    checks = check_instrument(
        comparisons,
        compared,
        quality,
        {name: vectors.differing(name, test) for name in everything},
    )
    freshness = None
    if size.freshness:
        like = results.get("like")
        freshness = freshness_curve(candidate, day, like, vectors, settings, declared)
    result = {
        "schema": SCHEMA,
        "title": "Does it help? Activity embeddings in a job recommendation model",
        "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "simulated": data.simulated,
        "data": _facts(data),
        "timeline": {
            "learn_until": timeline.rank_from.isoformat(),
            "rank_from": timeline.rank_from.isoformat(),
            "test_from": timeline.test_from.isoformat(),
            "until": timeline.until.isoformat(),
            "publishing_delay_minutes": data.schedule.delay_us / 60e6,
            "snapshot_interval_hours": data.schedule.interval_us / 3600e6,
        },
        "declared": declared.to_dict(),
        "ranker": {**settings.to_dict(), "size": asdict(size)},
        "arms": [
            {
                **_arm_row(arm, store, described, everything, len(categories.names), data),
                "features": day.columns[arm.name],
            }
            for arm in compared
        ],
        "tasks": {name: measured.summary() for name, measured in results.items()},
        "comparisons": comparisons,
        "checks": checks,
        "slices": slice_rows(
            query_slices(test, vectors.newest_activity(candidate, test), history),
            {arm: figures[FIGURE] for arm, figures in day.figures_of.items()},
            test.member,
            [arm.name for arm in compared if arm.role in (Role.REFERENCE, Role.LEARNED)],
            declared,
        ),
        "quality": quality,
        "freshness": freshness,
        "decay_searches": searches,
        "training_curves": training_curves(described),
        "sequence_lengths": [
            {"length": int(length), "queries": int(count)}
            for length, count in enumerate(np.bincount(test.sequences.count))
            if count
        ],
        "targets": judge_targets(targets, comparisons, declared.margin),
        "conclusions": [
            *conclude(comparisons, compared, checks),
            *left_out,
            *_of_unknown_training(described),
        ],
        "commands": list(commands),
        "versions": _versions(),
        "seconds": time.perf_counter() - started,
    }
    table = _member_table(results, history)
    replace_file(folder / MEMBERS, lambda file: pq.write_table(table, file))
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    replace_file(folder / REPORT, lambda file: file.write_text(text, encoding="utf-8"))
    write_report(result, folder / HTML)
    return result


def headline(result: Mapping[str, Any]) -> str:
    """Return what decides, as text: each arm's NDCG@10 and what it adds, checks, targets."""
    label = "SIMULATED DATA. " if result["simulated"] else ""
    lines = [
        f"{label}{result['data']['description']}",
        f"NDCG@10, mean over {counted(result['tasks']['day']['members'], 'member')} and "
        f"{counted(len(result['declared']['seeds']), 'seed')}; seeds: the deviation between them",
        f"{TITLES['day']}:",
        *_headline_rows(result, "day"),
    ]
    if "to_date" in result["tasks"]:
        features = result["tasks"]["to_date"]["base_features"]
        named = ", ".join(name.replace("_", " ") for name in features)
        lines += [f"{TITLES['to_date']}; it knows {named}:"]
        lines += _headline_rows(result, "to_date")
    if result["freshness"]:
        lines.append(f"{result['freshness']['arm']} by the age of the embedding:")
        lines += [
            f"  {point['lag']:24} {point[FIGURE]:7.4f} {'':6} {_text(point)}"
            for point in result["freshness"]["points"]
        ]
    lines += [
        f"  check {c['name']}: {'passed' if c['passed'] else 'FAILED'}" for c in result["checks"]
    ]
    lines += [
        f"  {'reached' if t['reached'] else 'NOT REACHED'}: {t['claim']}: {t['says']}"
        for t in result["targets"]
    ]
    return "\n".join([*lines, *result["conclusions"]])


def _headline_rows(result: Mapping[str, Any], task: str) -> list[str]:
    """Return the table of a task, lines."""
    figures = result["tasks"][task]["figures"]
    added = {
        row["arm"]: row
        for row in result["comparisons"]
        if row["task"] == task and row["figure"] == FIGURE and row["against"] == arms.NOTHING
    }
    lines = [f"  {'':24} NDCG@10  seeds   added  95 % interval       bytes"]
    for arm in result["arms"]:
        if arm["name"] not in figures:
            continue
        spread = figures[arm["name"]]["seed_spread"] or 0.0
        line = f"  {arm['name']:24} {figures[arm['name']][FIGURE]:7.4f} {spread:6.4f}"
        if arm["name"] in added:
            row = added[arm["name"]]
            line += f" {_text(row)}"
            line += " real" if row["real"] else "     "
        if arm.get("bytes_per_member"):
            line = f"{line:73} {arm['bytes_per_member']:5,}"
        lines.append(line.rstrip())
    return lines


def _text(row: Mapping[str, Any]) -> str:
    return f"{row['difference']:+7.4f}  [{row['low']:+.4f}, {row['high']:+.4f}]"


def _require_earlier(name: str, manifest: Mapping[str, Any], timeline: Timeline) -> None:
    """Refuse a model that learned, or was chosen, by labels that the ranker learns from."""
    training = manifest.get("training") or {}
    ends = [(training.get(period) or {}).get("end") for period in ("period", "validation")]
    end = max((datetime.fromisoformat(end) for end in ends if end), default=timeline.rank_from)
    if end > timeline.rank_from:
        raise InvalidInput(
            f"model {name!r}: expected one that learned before {timeline.rank_from}, from when on "
            f"the ranker learns. Received: one that saw labels until {end}. Evaluate later days, "
            "or train it on earlier ones"
        )


def _of_unknown_training(described: Mapping[str, Sequence[ModelDescription]]) -> list[str]:
    """Say which models do not say what they learned from."""
    unknown = [
        name
        for name, of_seeds in described.items()
        if name not in arms.RESERVED and not all(m.manifest.get("training") for m in of_seeds)
    ]
    if not unknown:
        return []
    return [
        f"The manifest of {', '.join(unknown)} does not say which days it learned from, so that "
        "nothing here can tell whether it knew those of the test."
    ]


def _references(
    folder: Path,
    history: ActivityHistory,
    vector_spec: ItemVectorSpec,
    chosen: Mapping[str, float],
) -> list[EvaluatedModel]:
    """Package the averages that every embedding has to be compared with."""
    r, single = chosen[arms.DECAY], chosen[arms.SINGLE_DECAY]
    rates = (0.5, 0.98) if r not in (0.5, 0.98) else (0.6, 0.95)
    models = {
        arms.MEAN: ("plain mean, a vector an action", UnweightedAverage()),
        arms.DECAY: (f"geometric decay, a vector an action (r = {r:g})", GeometricDecay(r=r)),
        arms.SINGLE_DECAY: (
            f"one decay of all positives (r = {single:g})",
            InterleavedDecay(r=single),
        ),
        arms.SEVERAL_RATES: ("decays at three rates", SeveralRatesDecay()),
        arms.TWO_RATES: ("decays at two rates", SeveralRatesDecay(rates=rates)),
    }
    for name, (_, model) in models.items():
        package_model(
            model.build(history.spec, vector_spec),
            folder / name,
            name=name,
            version="1",
            spec=history.spec,
            vector_spec=vector_spec,
        )
    return [
        EvaluatedModel(name, title, Role.REFERENCE, (folder / name,))
        for name, (title, _) in models.items()
    ]


def _arms(
    models: Mapping[str, EvaluatedModel],
    learned: Sequence[str],
    candidate: str,
    categories: bool,
    data: Data,
) -> list[Arm]:
    """Return what is compared, in the order of the report."""
    own = {m.name: arms.published(m.name, m.title, m.role) for m in models.values()}
    two_rates = own.pop(arms.TWO_RATES)
    compared = [Arm(arms.NOTHING, "base features alone", Role.BASE)]
    if categories:
        compared.append(
            Arm(
                arms.CATEGORY_SUMS,
                "sums of the categories of recent items, for each action",
                Role.REFERENCE,
                (Source(Kind.CATEGORIES),),
            )
        )
    compared += own.values()
    compared.append(arms.together(own[arms.DECAY], two_rates))
    compared += [arms.together(own[arms.DECAY], own[name]) for name in learned]
    compared += arms.controls(candidate, leaking=arms.DECAY)
    if data.truth is not None:
        compared.append(
            Arm(
                arms.ORACLE,
                "the member's true preference",
                Role.ORACLE,
                (Source(Kind.TRUTH),),
            )
        )
    return compared


def _queries(
    history: ActivityHistory, timeline: Timeline, size: Size
) -> tuple[dict[str, tuple[Queries, Queries]], list[str]]:
    """Return the queries of each task, to learn from and to test on; and why one is not there."""

    def lists(days: int, train: int, of_member: int) -> tuple[Queries, Queries]:
        return (
            ranking_queries(
                history, timeline.ranker, days=days, per_member=of_member, most=train, seed=0
            ),
            ranking_queries(history, timeline.test, days=days, per_member=of_member, seed=1),
        )

    queries = {"day": lists(DAY, size.train_queries, size.test_queries_of_member)}
    if size.week_train_queries:
        queries["week"] = lists(WEEK, size.week_train_queries, size.week_test_queries_of_member)
    try:
        like = like_queries(history, timeline.ranker), like_queries(history, timeline.test)
    except InvalidInput as error:
        return queries, [f"Like or dismiss is left out: {error}."]
    return {**queries, "like": like}, []


def _compare(
    results: Mapping[str, Measured], compared: Mapping[str, Sequence[Arm]], declared: Declared
) -> list[dict[str, Any]]:
    rows = []
    for name, measured in results.items():
        figure = FIGURE if measured.ranked else WITHIN_MEMBER_AUC
        values = measured.of_members(figure)
        if values[arms.NOTHING].shape[1] < 2:  # few members have dismissed anything
            continue
        rows += compare_arms(
            name,
            figure,
            values,
            pairs_of(compared[name]),
            declared,
            possible=arms.ORACLE,
        )
    return rows


def _arm_row(
    arm: Arm,
    store: EvaluationStore,
    described: Mapping[str, Sequence[ModelDescription]],
    models: Mapping[str, EvaluatedModel],
    categories: int,
    data: Data,
) -> dict[str, Any]:
    """Return what the report says of an arm: what it is, and what it takes to keep."""
    row: dict[str, Any] = {"name": arm.name, "title": arm.title, "role": str(arm.role)}
    row["models"] = list(arm.models)
    published = [source.model for source in arm.sources if source.kind == Kind.PUBLISHED]
    if arm.name == arms.CATEGORY_SUMS:
        actions = len(data.history.spec.actions)
        row |= {"vectors": actions, "bytes_per_member": 4 * categories * actions}
    elif published:
        outputs = [size for name in published for size in described[name][0].outputs.values()]
        on_disk = [store.bytes_on_disk(models[name].view(0)) for name in published]
        row |= {
            "vectors": len(outputs),
            "bytes_per_member": 4 * sum(outputs),
            "disk_bytes_per_member": sum(on_disk),
        }
    else:
        row["vectors"] = sum(
            len(described[source.model][0].outputs) if source.model else 1 for source in arm.sources
        )
        if not arm.sources:
            row["bytes_per_member"] = 0
    if len(published) == 1:
        model, *others = described[published[0]]
        row |= {"version": model.version, "fingerprint": model.fingerprint}
        training = model.manifest.get("training") or {}
        period, chosen = (training.get(name) or {} for name in ("period", "validation"))
        if training.get("epochs") and "start" in period and "end" in period:
            row["trained"] = (
                f"on {period['start'][:10]} to {period['end'][:10]}"
                + (f", chosen until {chosen['end'][:10]}" if "end" in chosen else "")
                + (f"; {1 + len(others)} runs" if others else "")
            )
    return row


def _facts(data: Data) -> dict[str, Any]:
    events, prints = data.history.events, fingerprints(data.history)
    return {
        "description": data.description,
        "events": len(events),
        "members": len(events.member_ids),
        "items": len(data.history.vectors.item_ids),
        "from": to_datetime(int(events.time.min())).isoformat(),
        "until": to_datetime(int(events.time.max())).isoformat(),
        "events_fingerprint": prints["events_fingerprint"],
        "item_vectors_fingerprint": prints["item_vectors_fingerprint"],
        "vector_spec": data.vector_spec.to_dict(),
    }


def _versions() -> dict[str, str]:
    packages = ("activity-embeddings", "feast", "tensorflow", "keras", "lightgbm", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _member_table(results: Mapping[str, Measured], history: ActivityHistory) -> pa.Table:
    """Return NDCG@10 of each member, seed, arm and task of lists."""
    parts = []
    for name, measured in results.items():
        if not measured.ranked:
            continue
        ids = history.events.member_ids.take(pa.array(measured.members)).cast(pa.string())
        queries = np.unique(measured.task.test.member, return_counts=True)[1]
        for arm, values in measured.of_members(FIGURE).items():
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
