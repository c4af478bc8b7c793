"""What activity embeddings add to an item ranker: every architecture, two cut dates, two data sets.

    python benchmarks/lift.py                         films at two cut dates, and the job market
    python benchmarks/lift.py --data jobs --seeds 3   one of them, fewer seeds
    python benchmarks/lift.py --quick                 fewer queries, no lists of weeks: a look
    python benchmarks/lift.py --resume                keep the models that are trained already
    python benchmarks/lift.py --as-of request         values as of each request, not as published

Everything is made from scratch: the item encoder learns before the models, the models before the
ranker, the ranker before the test. Each seed has models of its own. Films stand in for jobs (a
proxy domain), and the members of the job market are simulated. Writes a report for each into
`--folder`, prints each headline table and target, and says what `compare` says of the CNN and the
decay.
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

import pyarrow as pa

from activity_embeddings.training.datasets.sample import FILMS, JOBS, TRUTH, Sample
from activity_embeddings.training.demo.models import (
    ITEM_ENCODER,
    build_item_encoder,
    read_history,
    train_model,
)
from activity_embeddings.training.demo.targets import TARGETS
from activity_embeddings.training.evaluation.arms import DECAY, ArmRole
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
from activity_embeddings.training.models import CNN, GRU, LSTM, Architecture, Transformer
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
SAMPLES = {FILMS.name: FILMS, EARLIER_FILMS.name: EARLIER_FILMS, JOBS.name: JOBS}
DAILY = Schedule.every(hours=24, delay_minutes=30)
"""As in `feature_repo/feature_store.yaml`."""
MODELS: dict[str, tuple[Architecture, Objective]] = {
    "lstm": (LSTM(), NextPositive()),
    "gru": (GRU(), NextPositive()),
    "transformer": (Transformer(), NextPositive()),
    "cnn_proxy": (CNN(), Proxy()),
    "cnn": (CNN(), NextPositive()),
}
"""Learned models; the last is the one that is shipped, and the candidate of the evaluation."""
SHIPPED = "cnn"


def run(
    sample: Sample,
    folder: Path,
    seeds: int,
    size: Size,
    models: tuple[str, ...],
    ranker: RankerSettings,
    as_of: AsOf,
    *,
    resume: bool,
) -> None:
    """Train everything, or what is missing, evaluate it and print what came out."""
    started = time.perf_counter()
    print(f"\n== {sample.name}: {sample.description}", flush=True)
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    sample.write(data)
    if not (resume and (folder / ITEM_ENCODER).is_dir()):
        build_item_encoder(data, folder, sample=sample)
    vector_spec = describe_item_encoder(folder / ITEM_ENCODER).vector_spec
    history = read_history(data, folder, sample=sample)
    trained = []
    for name in models:
        model, objective = MODELS[name]
        paths = tuple(folder / f"{name}-{seed}" for seed in range(seeds))
        for seed, path in enumerate(paths):
            if resume and path.is_dir():
                continue
            train_model(
                model, history, vector_spec, sample=sample, objective=objective, seed=seed
            ).package(path, name=name, version=str(seed))
        trained.append(EvaluatedModel(name, f"{name}, one for each seed", ArmRole.LEARNED, paths))
    print(f"trained: {time.perf_counter() - started:.0f} s", flush=True)
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
        report_folder(folder, as_of),
        plan=EvaluationPlan(
            Timeline(sample.rank_from, sample.test_from, sample.until),
            as_of=as_of,
            declared=Declared(seeds=tuple(range(seeds))),
            size=size,
            ranker=ranker,
            targets=TARGETS[(FILMS if sample is EARLIER_FILMS else sample).name],
        ),
        models=trained,
        commands=[" ".join(["python", *sys.argv])],
        say=lambda line: print(line, flush=True),
    )
    print(f"\n{headline(result)}\n{time.perf_counter() - started:.0f} s", flush=True)


def report_folder(folder: Path, as_of: AsOf) -> Path:
    """Return where the evaluation of a data set is written."""
    return folder if as_of == AsOf.PUBLISHED else folder / as_of


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=SAMPLES, nargs="+", default=list(SAMPLES))
    parser.add_argument("--models", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer queries, no lists of weeks")
    parser.add_argument("--hadamard", choices=("layer", "coordinates"), default="layer")
    parser.add_argument("--as-of", choices=list(AsOf), type=AsOf, default=AsOf.PUBLISHED)
    parser.add_argument("--resume", action="store_true", help="keep what was trained before")
    parser.add_argument("--folder", type=Path, default=Path("build/lift"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    tensorflow()
    for name in arguments.data:
        run(
            SAMPLES[name],
            arguments.folder / name,
            arguments.seeds,
            QUICK if arguments.quick else Size(),
            tuple(arguments.models),
            RankerSettings(hadamard=arguments.hadamard),
            arguments.as_of,
            resume=arguments.resume,
        )
    for data in (FILMS, EARLIER_FILMS), (JOBS,):
        folders = [report_folder(arguments.folder / s.name, arguments.as_of) for s in data]
        if SHIPPED in arguments.models and all((f / REPORT).is_file() for f in folders):
            print(f"\n{', '.join(sample.name for sample in data)}: {DECAY} or {SHIPPED}?")
            print(compare(folders, DECAY, SHIPPED))


if __name__ == "__main__":
    main()
