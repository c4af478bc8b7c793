"""The full evaluation on the sample data, models trained for it included: `make evaluate`.

It works in a feature repo of its own, `build/entree`, where `feast materialize`, `feast ui` and
everything else can be tried afterwards. `DATA=eshop`, `films` or `jobs` does the same on another
data set, in `build/DATA`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from feast import FeatureStore

from activity_embeddings.training.datasets.sample import (
    ENTREE,
    LEARNED,
    SAMPLES,
    TRUTH,
    MarketSample,
    Sample,
    make_sample_repo,
)
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.transformations import names
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.inference.tensorflow import tensorflow
from activity_embeddings.transformations.wording import counted

EVALUATION = "evaluation"
SEEDS = 5
QUICK_SEEDS = 3
MOST_TESTED = 8_000
"""Members of a simulated market who are tested."""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=sorted(SAMPLES), default=ENTREE.name)
    parser.add_argument(
        "--out", type=Path, help="Feature repo to make, or make again; default: build/DATA."
    )
    parser.add_argument("--members", type=int, help="Number of members of the simulated market.")
    parser.add_argument("--quick", action="store_true", help="A look, with wider intervals.")
    arguments = parser.parse_args()
    sample = SAMPLES[arguments.data]
    if arguments.members is not None:
        if not isinstance(sample, MarketSample):
            parser.error(f"--members is for simulated data. Received: --data {sample.name}")
        sample = replace(sample, members=arguments.members)
    repo = (arguments.out or Path("build") / sample.name).resolve()
    with _step(f"A feature repo: {_shown(repo)}"):
        try:
            make_sample_repo(repo, sample)
        except InvalidInput as error:
            parser.error(str(error))
    run(repo, sample, quick=arguments.quick)


def run(repo: Path, sample: Sample, *, quick: bool = False) -> None:
    """Train the encoder and the models in the feature repo at `repo`, apply it, and evaluate."""
    started = time.perf_counter()
    # Feast's DuckDB store calls functions that DuckDB has renamed.
    warnings.simplefilter("ignore", DeprecationWarning)
    data = repo / "data"
    with _step(sample.description):
        events, postings = sample.events(data), sample.postings(data)
        members = events[names.MEMBER_ID].to_pandas().nunique()
        print(
            f"{counted(len(events), 'event')} of {counted(members, 'member')} on "
            f"{counted(len(postings), 'item')}"
        )

    tensorflow()
    from activity_embeddings.training.demo.models import build_item_encoder, build_models

    with _step(
        f"Item encoder: content to vector, trained on activity before {sample.encoder_until:%F}"
    ):
        print(build_item_encoder(data, repo / "models", sample=sample).summary())
    with _step("Models: two formulas, and a CNN trained on what members went on to want"):
        for model in build_models(data, repo / "models", sample=sample):
            print(model.summary())
        _print_training(model.manifest)
    with _step("feast apply"):
        _feast(repo, "apply")
    with _step("activity-embeddings evaluate   (what does it add to a ranker?)"):
        table, report = _evaluate(
            FeatureStore(repo_path=str(repo)), sample, repo / EVALUATION, quick=quick
        )
    print(f"\n{table}\n")
    print(f"Done in {time.perf_counter() - started:.0f} s. Read {_shown(report)}")


@contextmanager
def _step(title: str) -> Iterator[None]:
    print(f"\n== {title}", flush=True)
    started = time.perf_counter()
    yield
    print(f"   {time.perf_counter() - started:.1f} s", flush=True)


def _feast(repo: Path, *arguments: str) -> None:
    """Run the real command; a failure ends the run with the command's own message."""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("feast")), *arguments],
        cwd=repo,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr or done.returncode)
    created = [line for line in done.stdout.splitlines() if line.startswith("Created feature")]
    print("\n".join(created))


def _print_training(manifest: Mapping[str, Any]) -> None:
    """Print what the CNN learnt, beside rivals that need no learning."""
    training, metrics = manifest["training"], manifest["metrics"]
    print(
        f"validation NDCG@10 of the next positive item among the day's, of "
        f"{metrics['validation_queries']:,}; best of {training['epochs']} epochs: "
        f"{training['best_epoch']}"
    )
    for name, figures in {"cnn": metrics["validation"], **metrics["rivals"]}.items():
        print(f"  {name:12} {figures[FIGURE]:.4f}")


def _evaluate(store: FeatureStore, sample: Sample, out: Path, *, quick: bool) -> tuple[str, Path]:
    """Measure the CNN beside averages and controls; return the table and the report."""
    from activity_embeddings.training.demo.targets import TARGETS
    from activity_embeddings.training.evaluation.evaluate import evaluate
    from activity_embeddings.training.evaluation.from_repo import read_data, read_models
    from activity_embeddings.training.evaluation.plan import (
        QUICK,
        AsOf,
        Declared,
        EvaluationPlan,
        Size,
        Timeline,
    )
    from activity_embeddings.training.evaluation.report.headline import headline
    from activity_embeddings.training.evaluation.result import HTML

    truth = Path(store.repo_path) / "data" / TRUTH if sample.simulated else None
    dates = {
        "rank-from": sample.rank_from,
        "test-from": sample.test_from,
        "until": sample.until,
    }
    options = [f"--{name} {moment:%Y-%m-%d}" for name, moment in dates.items()]
    seeds = QUICK_SEEDS if quick else SEEDS
    options += [
        f"--as-of {sample.as_of} --models {LEARNED} --seeds {seeds}{' --quick' if quick else ''}"
    ]
    tested = None
    if isinstance(sample, MarketSample) and sample.members > MOST_TESTED:
        tested = MOST_TESTED
        options += [f"--members {tested}"]
    options += [f"--description {shlex.quote(sample.description)}"]
    options += [f"--truth {shlex.quote(_shown(truth))}"] if truth else []
    options += [f"--out {shlex.quote(_shown(out))}"]
    command = f"activity-embeddings -C {shlex.quote(_shown(Path(store.repo_path)))} evaluate"
    result = evaluate(
        read_data(store, until=sample.until, description=sample.description, truth=truth),
        out,
        plan=EvaluationPlan(
            Timeline(sample.rank_from, sample.test_from, sample.until),
            as_of=AsOf(sample.as_of),
            declared=Declared(seeds=tuple(range(seeds))),
            size=replace(QUICK if quick else Size(), test_members=tested),
            targets=TARGETS[sample.name],
        ),
        models=read_models(store, [LEARNED]),
        commands=[" ".join([command, *options])],
        say=lambda line: print(line, flush=True),
    )
    return headline(result), out / HTML


def _shown(path: Path, start: Path | None = None) -> str:
    """Return a path as seen from a folder, default where the demo runs."""
    return os.path.relpath(path, start or Path.cwd())


if __name__ == "__main__":
    main()
