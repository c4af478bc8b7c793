"""What activity embeddings add to an item ranker: every architecture, two cut dates, two data sets.

    python benchmarks/lift.py                         films at two cut dates, and the job market
    python benchmarks/lift.py --data jobs --seeds 3   one of them, fewer seeds
    python benchmarks/lift.py --quick                 fewer queries, no lists of weeks: a look
    python benchmarks/lift.py --resume                keep the models that are trained already
    python benchmarks/lift.py --as-of request         values as of each request, not as published
    python benchmarks/lift.py --data jobs --members 60000 --encoder-members 6000 --asked 8000 \
        --models cnn --ages --learning-rate 5e-4 --seeds 3 --as-of request    a larger market
    python benchmarks/lift.py --data entree --models cnn --as-of request \
        --peers peers/bin/python                                   peers as arms, see peers.py
    python benchmarks/lift.py --data entree --joint --as-of request     vectors with their network

Everything is made from scratch: the item encoder learns before the models, the models before the
ranker, the ranker before the test. Each seed has models of its own. Films stand in for jobs (a
proxy domain), and the members of the job market are simulated. Writes a report for each into
`--folder`, prints each headline table and target, and says what `compare` says of the CNN and the
decay.

With `--asked` so many members are tested, drawn at random, in one query each of the day and one of
the week: one query of each of more members tells more than several of fewer. The smaller ranker and
the ages of values are left out then. `--resume` goes on with a training that was killed after its
last epoch.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import peers
import pyarrow as pa

from activity_embeddings.training.datasets.sample import ENTREE, ESHOP, FILMS, JOBS, TRUTH, Sample
from activity_embeddings.training.demo.models import (
    ITEM_ENCODER,
    build_item_encoder,
    encoder_plan,
    read_history,
    train_model,
)
from activity_embeddings.training.demo.targets import TARGETS
from activity_embeddings.training.evaluation.arms import (
    COUNTS,
    DECAY,
    SINGLE_DECAY,
    Arm,
    ArmRole,
    scoring_arm,
)
from activity_embeddings.training.evaluation.contenders import EvaluatedModel
from activity_embeddings.training.evaluation.data import Data
from activity_embeddings.training.evaluation.evaluate import evaluate
from activity_embeddings.training.evaluation.findings import (
    check_instrument,
    compare_arms,
    conclude,
    judge_targets,
    paired,
)
from activity_embeddings.training.evaluation.gate import compare
from activity_embeddings.training.evaluation.measure import seed_spread
from activity_embeddings.training.evaluation.plan import (
    QUICK,
    AsOf,
    Declared,
    EvaluationPlan,
    Size,
    Timeline,
)
from activity_embeddings.training.evaluation.ranker import RankerSettings
from activity_embeddings.training.evaluation.report.headline import headline
from activity_embeddings.training.evaluation.result import (
    ALONE,
    DAY,
    REPORT,
    WEEK,
    Result,
    read_members,
    write_result,
)
from activity_embeddings.training.evaluation.scorers import ScoringModel
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.training.item_encoder.towers import TowerSettings
from activity_embeddings.training.models import CNN, GRU, LSTM, Network, Transformer
from activity_embeddings.training.objectives import NextPositive, Objective, Proxy
from activity_embeddings.transformations.contract.item_encoder import describe_item_encoder
from activity_embeddings.transformations.files import make_folder
from activity_embeddings.transformations.inference.tensorflow import tensorflow
from activity_embeddings.transformations.spec import ItemVectorSpec
from activity_embeddings.transformations.times import Schedule

EARLIER_FILMS = replace(
    FILMS,
    name="films-july",
    encoder_until=datetime(2013, 4, 10, tzinfo=UTC),
    validate_from=datetime(2013, 5, 18, tzinfo=UTC),
    rank_from=datetime(2013, 6, 1, tzinfo=UTC),
    test_from=datetime(2013, 7, 1, tzinfo=UTC),
    until=datetime(2013, 8, 1, tzinfo=UTC),
)
"""The second cut date: everything a month earlier."""
SAMPLES = {s.name: s for s in (FILMS, EARLIER_FILMS, JOBS, ENTREE, ESHOP)}
"""Of the last two few members come back after a daily run: ask `--as-of request` of them."""
DAILY = Schedule.every(hours=24, delay_minutes=30)
"""As in `feature_repo/feature_store.yaml`."""
MODELS: dict[str, tuple[Network, Objective]] = {
    "lstm": (LSTM(), NextPositive()),
    "gru": (GRU(), NextPositive()),
    "transformer": (Transformer(), NextPositive()),
    "cnn_proxy": (CNN(), Proxy()),
    "cnn": (CNN(), NextPositive()),
}
"""Learned models; the last is the one that is shipped, and the candidate of the evaluation."""
SHIPPED = "cnn"
JOINT_EPOCHS = 30
"""The most of item vectors and a network; chosen among them on the last days that they learn."""
PEER_ARMS = {peers.arm_name(peer) for peer in peers.PEERS.values()}
JOINT = "joint"
"""Folder of pairs of item vectors and network, within that of the data."""
PEER_RATES = {"SASRec": 3e-3, "HSTU": 1e-3}
"""Learning rates that were best on other days of the sample; see `peers.py` in README.md."""


def run(sample: Sample, folder: Path, given: argparse.Namespace) -> None:
    """Train everything, or what is missing, evaluate it and print what came out."""
    started, seeds = time.perf_counter(), range(given.seeds)
    print(f"\n== {sample.name}: {sample.description}", flush=True)
    data, runs = folder / "data", folder / "runs"
    if not given.resume:
        for made in (data, runs, folder / "peers"):
            shutil.rmtree(made, ignore_errors=True)
    if not (given.resume and (folder / ITEM_ENCODER).is_dir()):
        shutil.rmtree(data, ignore_errors=True)
        sample.write(data)
        learn_items(sample, data, folder, given.encoder_members)
    print(f"item encoder: {time.perf_counter() - started:.0f} s", flush=True)
    vector_spec = describe_item_encoder(folder / ITEM_ENCODER).vector_spec
    history = read_history(data, folder, sample=sample)
    trained = []
    for name in given.models:
        model, objective = MODELS[name]
        paths = tuple(folder / f"{name}-{seed}" for seed in seeds)
        for seed, path in enumerate(paths):
            if given.resume and path.is_dir():
                continue
            train_model(
                replace(model, ages=given.ages, ensemble=given.ensemble),
                history,
                vector_spec,
                sample=sample,
                objective=objective,
                seed=seed,
                refit=given.refit,
                run=runs / path.name,
            ).package(path, name=name, version=str(seed))
            print(f"{path.name}: {time.perf_counter() - started:.0f} s", flush=True)
        trained.append(EvaluatedModel(name, f"{name}, one for each seed", ArmRole.LEARNED, paths))
    scoring = scoring_models(sample, history, folder, given)
    result = measured(sample, data, history, vector_spec, trained, seeds, folder, given, scoring)
    print(f"\n{headline(result)}\n{time.perf_counter() - started:.0f} s", flush=True)


def run_jointly(sample: Sample, folder: Path, given: argparse.Namespace) -> None:
    """Train item vectors together with their network, a pair for each seed, and pool what is found.

    A pair learns until the days on which the decays' rates are chosen: item vectors are fresh then,
    where a network that learns after them finds them older.
    """
    started, seeds = time.perf_counter(), range(given.seeds)
    print(f"\n== {sample.name}: {sample.description}; learned together", flush=True)
    sample, data = replace(sample, encoder_until=sample.validate_from), folder / "data"
    if not (given.resume and data.is_dir()):
        sample.write(data)
    results = []
    for seed in seeds:
        own = folder / f"pair-{seed}"
        if not (given.resume and (own / SHIPPED).is_dir()):
            plan = encoder_plan(sample, seed=seed, epochs=given.epochs or JOINT_EPOCHS)
            network = replace(MODELS[SHIPPED][0], ensemble=given.ensemble)
            fit = replace(plan.fit, ema_momentum=given.ema_momentum)
            plan = replace(plan, network=network, fit=fit)
            build_item_encoder(data, own, sample=sample, plan=plan, network=SHIPPED)
            print(f"{own.name}: {time.perf_counter() - started:.0f} s", flush=True)
        vector_spec = describe_item_encoder(own / ITEM_ENCODER).vector_spec
        history = read_history(data, own, sample=sample)
        title = "cnn, trained together with its item vectors"
        model = EvaluatedModel(SHIPPED, title, ArmRole.LEARNED, (own / SHIPPED,))
        results.append(measured(sample, data, history, vector_spec, [model], [seed], own, given))
    folders = [report_folder(folder / f"pair-{seed}", given.as_of) for seed in seeds]
    result, members = pooled(sample, results, folders)
    joint = make_folder(report_folder(folder, given.as_of))
    write_result(result, members, joint)
    print(f"\n{headline(result)}\n{time.perf_counter() - started:.0f} s", flush=True)
    single = report_folder(folder.parent, given.as_of)
    if (single / REPORT).is_file() and given.seeds > 1:
        print(f"beside peers of the evaluation without --joint:\n{beside_peers(joint, single)}")


def of_seeds(members: pd.DataFrame, task: str) -> dict[str, np.ndarray]:
    """Return the figure of each member in a task, float [seeds, members] by arm."""
    return {
        arm: rows.pivot(index="seed", columns="member_id", values=FIGURE).to_numpy()
        for arm, rows in members[members["task"] == task].groupby("arm", sort=False)
    }


def beside_peers(joint: Path, single: Path) -> str:
    """Return what the CNN of pairs finds more than peers do in the other evaluation.

    Both ask the same queries of the same members; a peer reads no item vectors of ours.
    """
    theirs = read_members(single, sorted(PEER_ARMS)).to_pandas()
    ours = read_members(joint, [SHIPPED]).to_pandas()
    lines = []
    for task in (ALONE, DAY, WEEK):
        values = of_seeds(ours, task) | of_seeds(theirs, task)
        pairs = [(SHIPPED, name) for name in values if name != SHIPPED]
        lines += [
            f"  {task:6} {SHIPPED} less {name:20} {difference.text()}"
            for (_, name), difference in zip(pairs, paired(values, pairs, Declared()), strict=True)
        ]
    return "\n".join(lines)


def pooled(
    sample: Sample, results: Sequence[Result], folders: Sequence[Path]
) -> tuple[Result, pa.Table]:
    """Return evaluations of one seed each, of the same queries, as one of all seeds.

    Item vectors differ from seed to seed, so that all that reads them does, the decays too.
    """
    first, names_of = results[0], [arm["name"] for arm in results[0]["arms"]]
    tables = [read_members(folder, names_of).to_pandas() for folder in folders]
    members = pd.concat([rows.assign(seed=seed) for seed, rows in enumerate(tables)])
    declared = Declared(seeds=tuple(seed for r in results for seed in r["declared"]["seeds"]))
    tasks, comparisons = {}, []
    for task, facts in first["tasks"].items():
        of_task = members[members["task"] == task]
        if of_task.empty:  # of single rows
            continue
        values = of_seeds(of_task, task)
        pairs = [(r["arm"], r["against"]) for r in first["comparisons"] if r["task"] == task]
        comparisons += compare_arms(task, FIGURE, values, pairs, declared)
        figures = {
            arm: {
                FIGURE: float(value.mean()),
                "by_seed": value.mean(axis=1).tolist(),
                "seed_spread": seed_spread(value.mean(axis=1)),
            }
            for arm, value in values.items()
        }
        tasks[task] = {**facts, "figures": figures}
    compared = [
        scoring_arm(arm["name"], arm["title"])
        if arm["name"] in COUNTS
        else Arm(arm["name"], arm["title"], ArmRole(arm["role"]))
        for arm in first["arms"]
    ]
    checks = check_instrument(comparisons, compared, {}, {}, AsOf(first["as_of"]))
    of_one = {}  # what each pair is checked for by itself; one that failed counts
    for check in (check for result in results for check in result["checks"]):
        if check["name"] not in {each["name"] for each in checks}:
            kept = of_one.setdefault((check["name"], check.get("arm")), check)
            of_one[check["name"], check.get("arm")] = kept if not kept["passed"] else check
    checks += of_one.values()
    return {
        **first,
        "declared": declared.to_dict(),
        "tasks": tasks,
        "comparisons": comparisons,
        "checks": checks,
        "freshness": None,
        "targets": judge_targets(TARGETS[sample.name], comparisons, declared.margin),
        "conclusions": conclude(comparisons, compared, checks),
    }, pa.Table.from_pandas(members, preserve_index=False)


def measured(
    sample: Sample,
    data: Path,
    history: ActivityHistory,
    vector_spec: ItemVectorSpec,
    models: Sequence[EvaluatedModel],
    seeds: Sequence[int],
    folder: Path,
    given: argparse.Namespace,
    scoring: Sequence[ScoringModel] = (),
) -> Result:
    """Evaluate models, and write the report into a folder."""
    postings = sample.postings(data)
    lists = [field.name for field in postings.schema if pa.types.is_list(field.type)]
    return evaluate(
        Data(
            history=history,
            vector_spec=vector_spec,
            postings=postings,
            category_columns=tuple(lists),
            schedule=DAILY,
            description=sample.description,
            simulated=sample.simulated,
            truth=data / TRUTH if sample.simulated else None,
        ),
        report_folder(folder, given.as_of),
        plan=EvaluationPlan(
            Timeline(sample.rank_from, sample.test_from, sample.until),
            as_of=given.as_of,
            declared=Declared(seeds=tuple(seeds)),
            size=size_of(given),
            ranker=RankerSettings(hadamard=given.hadamard),
            targets=TARGETS[(FILMS if sample is EARLIER_FILMS else sample).name],
        ),
        models=models,
        scoring=scoring,
        commands=[" ".join(["python", *sys.argv])],
        say=lambda line: print(line, flush=True),
    )


def scoring_models(
    sample: Sample, history: ActivityHistory, folder: Path, given: argparse.Namespace
) -> list[ScoringModel]:
    """Return the peers: chosen on the days before the ranker's, and trained on all before these."""
    if given.peers is None:
        return []
    validation = Period(sample.validate_from, sample.rank_from)
    early = peers.Asked.of(history, validation, given.asked)
    towers = TowerSettings(text=sample.text, categories=sample.categories)
    postings = sample.postings(folder / "data")
    features = peers.features_of(postings, history.vectors.item_ids, towers)
    command = [str(given.peers), str(peers.SCRIPT)]
    models = []
    for name in given.peer:
        peer = peers.PEERS[name]
        settings = [
            {"n_blocks": 1, "n_factors": peers.FACTORS, "lr": rate}
            for rate in given.peer_rates or [PEER_RATES[peer.model]]
        ]
        models.append(
            peers.scoring_model(
                peer,
                early,
                peers.Trainer(command, given.peer_threads, settings, features),
                epochs=given.peer_epochs,
                seeds=given.seeds,
                folder=folder / "peers" / name,
            )
        )
    return models


def learn_items(sample: Sample, data: Path, folder: Path, members: int | None) -> None:
    """Train the item encoder, on the first members of a market where their number is given."""
    with TemporaryDirectory() as first:
        if members is not None:
            data = Path(first) / "data"
            replace(JOBS, members=members).write(data)
        build_item_encoder(data, folder, sample=sample)


def size_of(given: argparse.Namespace) -> Size:
    """Return how much is measured."""
    if given.quick:
        return QUICK
    if given.asked is None:
        return Size()
    return Size(test_queries_of_member=1, test_members=given.asked, to_date=False, freshness=False)


def report_folder(folder: Path, as_of: AsOf) -> Path:
    """Return where the evaluation of a data set is written."""
    return folder if as_of == AsOf.PUBLISHED else folder / as_of


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", choices=SAMPLES, nargs="+", default=[FILMS.name, EARLIER_FILMS.name, JOBS.name]
    )
    parser.add_argument("--models", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer queries, no lists of weeks")
    parser.add_argument("--members", type=int, help="of the market; default: the sample's own")
    parser.add_argument(
        "--encoder-members", type=int, help="that its item vectors are learned from"
    )
    parser.add_argument("--asked", type=int, help="members who are tested; default: all")
    parser.add_argument("--ages", action="store_true", help="networks read the ages of activities")
    parser.add_argument("--ensemble", type=int, default=1, help="how many networks are one")
    parser.add_argument("--epochs", type=int, help="the most; default: the sample's own")
    parser.add_argument("--learning-rate", type=float, help="default: the sample's own")
    parser.add_argument("--ema-momentum", type=float, help="of weights; default: no average")
    parser.add_argument(
        "--refit", action="store_true", help="networks learn from the days of validation too"
    )
    parser.add_argument("--hadamard", choices=("layer", "coordinates"), default="layer")
    parser.add_argument("--as-of", choices=list(AsOf), type=AsOf, default=AsOf.PUBLISHED)
    parser.add_argument(
        "--joint", action="store_true", help="item vectors and network are trained together"
    )
    parser.add_argument("--peers", type=Path, help="python of an environment with rectools[torch]")
    parser.add_argument(
        "--peer",
        nargs="+",
        choices=[name for name, peer in peers.PEERS.items() if peer.told != peers.POSITIVES],
        default=["SASRec, all", "HSTU, with actions"],
        help="which of them",
    )
    parser.add_argument("--peer-rates", type=float, nargs="+", help="to choose from")
    parser.add_argument("--peer-epochs", type=int, default=10, help="the most, of a peer")
    parser.add_argument("--peer-threads", type=int, default=1, help="of a peer's training")
    parser.add_argument("--resume", action="store_true", help="keep what was trained before")
    parser.add_argument("--folder", type=Path, default=Path("build/lift"))
    given = parser.parse_args()
    of_market = [name for name in ("members", "encoder_members") if getattr(given, name)]
    if of_market and given.data != [JOBS.name]:
        parser.error(f"--{of_market[0].replace('_', '-')}: expected with --data {JOBS.name} alone")
    warnings.simplefilter("ignore")
    tensorflow()
    folders = {name: given.folder / name for name in SAMPLES}
    if given.members:
        folders[JOBS.name] = given.folder / f"{JOBS.name}-{given.members}"
    for name in given.data:
        sample = SAMPLES[name]
        if given.members:
            sample = replace(JOBS, members=given.members)
        fit = {name: getattr(given, name) for name in ("epochs", "learning_rate", "ema_momentum")}
        chosen = {name: value for name, value in fit.items() if value is not None}
        sample = replace(sample, fit={**sample.fit, **chosen})
        if given.joint:
            run_jointly(sample, folders[name] / JOINT, given)
        else:
            run(sample, folders[name], given)
    for names in (FILMS.name, EARLIER_FILMS.name), (JOBS.name,), (ENTREE.name,):
        kept = [folders[name] / JOINT if given.joint else folders[name] for name in names]
        reports = [report_folder(folder, given.as_of) for folder in kept]
        if SHIPPED in given.models and all((f / REPORT).is_file() for f in reports):
            for base in (DECAY, SINGLE_DECAY):
                print(f"\n{', '.join(names)}: {base} or {SHIPPED}?")
                print(compare(reports, base, SHIPPED))


if __name__ == "__main__":
    main()
