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
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import peers
import pyarrow as pa

from activity_embeddings.training.datasets.sample import ENTREE, ESHOP, FILMS, JOBS, TRUTH, Sample
from activity_embeddings.training.demo.models import (
    ITEM_ENCODER,
    build_item_encoder,
    read_history,
    train_model,
)
from activity_embeddings.training.demo.targets import TARGETS
from activity_embeddings.training.evaluation.arms import DECAY, SINGLE_DECAY, ArmRole
from activity_embeddings.training.evaluation.contenders import EvaluatedModel
from activity_embeddings.training.evaluation.data import Data
from activity_embeddings.training.evaluation.evaluate import evaluate
from activity_embeddings.training.evaluation.gate import compare
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
from activity_embeddings.training.evaluation.result import REPORT
from activity_embeddings.training.evaluation.scorers import ScoringModel
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.item_encoder.towers import TowerSettings
from activity_embeddings.training.models import CNN, GRU, LSTM, Network, Transformer
from activity_embeddings.training.objectives import NextPositive, Objective, Proxy
from activity_embeddings.transformations.contract.item_encoder import describe_item_encoder
from activity_embeddings.transformations.inference.tensorflow import tensorflow
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
                replace(model, ages=given.ages),
                history,
                vector_spec,
                sample=sample,
                objective=objective,
                seed=seed,
                run=runs / path.name,
            ).package(path, name=name, version=str(seed))
            print(f"{path.name}: {time.perf_counter() - started:.0f} s", flush=True)
        trained.append(EvaluatedModel(name, f"{name}, one for each seed", ArmRole.LEARNED, paths))
    postings = sample.postings(data)
    lists = [field.name for field in postings.schema if pa.types.is_list(field.type)]
    result = evaluate(
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
        models=trained,
        scoring=scoring_models(sample, history, postings, folder, given),
        commands=[" ".join(["python", *sys.argv])],
        say=lambda line: print(line, flush=True),
    )
    print(f"\n{headline(result)}\n{time.perf_counter() - started:.0f} s", flush=True)


def scoring_models(
    sample: Sample,
    history: ActivityHistory,
    postings: pa.Table,
    folder: Path,
    given: argparse.Namespace,
) -> list[ScoringModel]:
    """Return the peers: chosen on the days before the ranker's, and trained on all before these."""
    if given.peers is None:
        return []
    validation = Period(sample.validate_from, sample.rank_from)
    early = peers.Asked.of(history, validation, given.asked)
    towers = TowerSettings(text=sample.text, categories=sample.categories)
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
    parser.add_argument("--epochs", type=int, help="the most; default: the sample's own")
    parser.add_argument("--learning-rate", type=float, help="default: the sample's own")
    parser.add_argument("--hadamard", choices=("layer", "coordinates"), default="layer")
    parser.add_argument("--as-of", choices=list(AsOf), type=AsOf, default=AsOf.PUBLISHED)
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
        fit = {name: getattr(given, name) for name in ("epochs", "learning_rate")}
        chosen = {name: value for name, value in fit.items() if value is not None}
        sample = replace(sample, fit={**sample.fit, **chosen})
        run(sample, folders[name], given)
    for names in (FILMS.name, EARLIER_FILMS.name), (JOBS.name,), (ENTREE.name,):
        reports = [report_folder(folders[name], given.as_of) for name in names]
        if SHIPPED in given.models and all((f / REPORT).is_file() for f in reports):
            for base in (DECAY, SINGLE_DECAY):
                print(f"\n{', '.join(names)}: {base} or {SHIPPED}?")
                print(compare(reports, base, SHIPPED))


if __name__ == "__main__":
    main()
