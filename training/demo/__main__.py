"""The whole path on the sample data, with the real `feast` command: `make demo`.

It works in the feature repo itself, so that afterwards `feast ui` and everything else can be
tried there, and begins by removing what an earlier demo left. `make demo DATA=jobs` does the same
on a simulated job market, in a feature repo that it makes in `build/job_market`.
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
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from feast import FeatureStore

from activity_embeddings.training.datasets.sample import (
    EVENTS_FOLDER,
    FILMS,
    SAMPLES,
    TRUTH,
    Sample,
    make_market_repo,
)
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.transformations import names
from activity_embeddings.transformations.check import check
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import empty_folder
from activity_embeddings.transformations.inference.tensorflow import tensorflow
from activity_embeddings.transformations.offline.event_log import LIVE_FILES
from activity_embeddings.transformations.serving.entity_rows import entity_rows
from activity_embeddings.transformations.serving.process import preload
from activity_embeddings.transformations.spec import ActivitySpec
from activity_embeddings.transformations.wording import counted, share

SERVICE = "recommendations_v2"
REALTIME_SERVICE = "recommendations_v2_realtime"
EVALUATION = "evaluation"
SEEDS = 3
WEEK = timedelta(days=7)
TIMED_REQUESTS = 100
CHECKED = 500
EMBEDDING = "activity_embedding"
NEAREST = 5
SHOWN_ACTIVITIES = 8


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repo", type=Path, default=Path("feature_repo"), help="with the definitions"
    )
    parser.add_argument("--data", choices=sorted(SAMPLES), default=FILMS.name)
    parser.add_argument(
        "--market-repo",
        type=Path,
        default=Path("build/job_market"),
        help="feature repo of the simulated market; an existing one is replaced",
    )
    arguments = parser.parse_args()
    repo = arguments.repo.resolve()
    sample = SAMPLES[arguments.data]
    if sample.simulated:
        market = arguments.market_repo.resolve()
        with _step("A simulated job market, in a feature repo of its own"):
            try:
                make_market_repo(market, repo, repo.parent / "examples")
            except InvalidInput as error:
                parser.error(str(error))
        repo = market
    run(repo, sample)


def run(repo: Path, sample: Sample = FILMS) -> None:
    """Run the demo in the feature repo at `repo`."""
    started = time.perf_counter()
    # Feast's DuckDB store calls functions that DuckDB has renamed.
    warnings.simplefilter("ignore", DeprecationWarning)
    data = repo / "data"
    backfill = (sample.rank_from - timedelta(hours=12), sample.test_from)
    next_week = sample.test_from + WEEK
    _remove_outputs(repo)
    with _step(sample.description):
        events = sample.events(data)
        postings = sample.postings(data).to_pandas().set_index(names.ITEM_ID)
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
        _feast(repo, "apply", quiet=True)
    interval = [f"{moment:%Y-%m-%dT%H:%M:%S}" for moment in backfill]
    with _step(f"feast materialize {' '.join(interval)}   (a backfill, one snapshot a day)"):
        _feast(repo, "materialize", *interval)
    end = f"{next_week:%Y-%m-%dT%H:%M:%S}"
    with _step(f"feast materialize-incremental {end}   (from where the last run ended)"):
        _feast(repo, "materialize-incremental", end)

    store = FeatureStore(repo_path=str(repo))
    service = store.get_feature_service(SERVICE)
    with _step("Training set: each label joined with the newest value before it"):
        _join_labels(store, events.to_pandas(), sample.test_from, next_week)
    with _step("Serving: one online fetch"):
        member = _a_member_with_history(data)
        fetch = time.perf_counter()
        online = store.get_online_features(service, [{names.MEMBER_ID: member}]).to_dict()
        milliseconds = 1000 * (time.perf_counter() - fetch)
        print(
            f"member {member}: {counted(online[names.ACTIVITY_COUNT][0], 'activity')}, a vector of "
            f"{len(online[EMBEDDING][0])}, in {milliseconds:.1f} ms with the first call's set-up"
        )
    item_ids, vectors = _vectors_online(store, postings)
    seen = _show_member(store, member, postings)
    before = np.array(online[EMBEDDING][0])
    print("Items nearest to the activity embedding, by cosine, of those not acted on:")
    _show_nearest(before, item_ids, vectors, postings, seen)
    with _step("Serving as of the request: the same member has just saved three items of one kind"):
        now = next_week + timedelta(minutes=1)
        recent = _unlike(before, item_ids, vectors, now)
        for item, _, _ in recent:
            print(f"  SAVE     {_title(postings, item)}")
        after = _ask_with_recent(store, member, recent, now)
    print("Items nearest to the activity embedding now:")
    _show_nearest(after, item_ids, vectors, postings, seen | {item for item, _, _ in recent})
    with _step("activity-embeddings check"):
        print(check(store, sample=CHECKED))
    with _step("activity-embeddings evaluate --quick   (what does it add to an item ranker?)"):
        table, report = _evaluate(store, sample, repo / EVALUATION)
    print(f"\n{table}\n")
    print(
        f"Done in {time.perf_counter() - started:.0f} s. Read {_shown(report)}; look around: "
        f"cd {_shown(repo)} && {_shown(Path(sys.executable).with_name('feast'), repo)} ui"
    )


def _remove_outputs(repo: Path) -> None:
    data = repo / "data"
    outputs = (repo / "models", repo / EVALUATION, data / "snapshots", data / "job_vectors")
    for folder in outputs:
        if folder.exists():
            empty_folder(folder)
    pushed = (data / EVENTS_FOLDER).glob(LIVE_FILES)
    for file in (data / "registry.db", data / "online.db", *pushed):
        # Where it is a link, what it points to, in place of which the new one is then written.
        file.resolve().unlink(missing_ok=True)


@contextmanager
def _step(title: str) -> Iterator[None]:
    print(f"\n== {title}", flush=True)
    started = time.perf_counter()
    yield
    print(f"   {time.perf_counter() - started:.1f} s", flush=True)


def _feast(repo: Path, *arguments: str, quiet: bool = False) -> None:
    """Run the real command; a failure ends the demo with the command's own message."""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("feast")), *arguments],
        cwd=repo,
        env=environment,
        capture_output=quiet,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr or done.returncode)
    if quiet:
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


def _evaluate(store: FeatureStore, sample: Sample, out: Path) -> tuple[str, Path]:
    """Measure the CNN beside averages and controls; return the table and the report."""
    from activity_embeddings.training.demo.targets import CANDIDATE, TARGETS
    from activity_embeddings.training.evaluation.evaluate import evaluate
    from activity_embeddings.training.evaluation.from_repo import read_data, read_models
    from activity_embeddings.training.evaluation.plan import (
        QUICK,
        Declared,
        EvaluationPlan,
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
    options += [f"--models {CANDIDATE} --seeds {SEEDS} --quick"]
    options += [f"--description {shlex.quote(sample.description)}"]
    options += [f"--truth {shlex.quote(_shown(truth))}"] if truth else []
    options += [f"--out {shlex.quote(_shown(out))}"]
    command = f"activity-embeddings -C {shlex.quote(_shown(Path(store.repo_path)))} evaluate"
    result = evaluate(
        read_data(store, until=sample.until, description=sample.description, truth=truth),
        out,
        plan=EvaluationPlan(
            Timeline(sample.rank_from, sample.test_from, sample.until),
            declared=Declared(seeds=tuple(range(SEEDS))),
            size=QUICK,
            targets=TARGETS[sample.name],
        ),
        models=read_models(store, [CANDIDATE]),
        commands=[" ".join([command, *options])],
        say=lambda line: print(line, flush=True),
    )
    return headline(result), out / HTML


def _shown(path: Path, start: Path | None = None) -> str:
    """Return a path as seen from a folder, default where the demo runs."""
    return os.path.relpath(path, start or Path.cwd())


def _join_labels(store: FeatureStore, events: pd.DataFrame, start: datetime, end: datetime) -> None:
    """Join a week, each event a label at its own time."""
    times = events[names.EVENT_TIMESTAMP]
    labels = events[(times >= start) & (times < end)]
    labels = labels[[names.MEMBER_ID, names.ITEM_ID, names.ACTION, names.EVENT_TIMESTAMP]]
    joined = store.get_historical_features(labels, store.get_feature_service(SERVICE)).to_df()
    active = int((joined[names.ACTIVITY_COUNT].fillna(0) > 0).sum())
    seen = joined[joined[names.LAST_ACTIVITY_AT].notna()]
    late = (seen[names.LAST_ACTIVITY_AT] >= seen[names.EVENT_TIMESTAMP]).sum()
    print(
        f"{counted(len(labels), 'label')} in, {counted(len(joined), 'row')} out, "
        f"{share(active, len(joined), digits=0)} with recent activity; {late:,} of them "
        f"{'knows' if late == 1 else 'know'} an activity at or after the label itself"
    )


def _a_member_with_history(data: Path) -> int:
    """Return a member with a full, varied sequence in the newest snapshot."""
    snapshots = data / "snapshots" / names.JOBS.sequence_view / "v1"
    newest = max(snapshots.glob("as_of=*"))
    table = pq.read_table(newest, partitioning=None).to_pandas()
    counts = table[names.ACTIVITY_COUNT]
    enough = table[(counts >= SHOWN_ACTIVITIES) & (counts < ActivitySpec().length)]
    return int(enough[names.MEMBER_ID].iloc[len(enough) // 2])


def _show_member(store: FeatureStore, member: int, postings: pd.DataFrame) -> set[int]:
    """Print a member's recent activity; return the items acted on."""
    features = [names.JOBS.activity_item_ids, names.ACTIVITY_ACTIONS]
    sequence = store.get_online_features(
        [f"{names.JOBS.sequence_view}:{name}" for name in features],
        [{names.MEMBER_ID: member}],
    ).to_dict()
    items = sequence[names.JOBS.activity_item_ids][0]
    actions = sequence[names.ACTIVITY_ACTIONS][0]
    print(f"\nMember {member}, newest of {counted(len(items), 'activity')} last:")
    for item, action in list(zip(items, actions, strict=True))[-SHOWN_ACTIVITIES:]:
        print(f"  {ActivitySpec().vocabulary[action]:8} {_title(postings, item)}")
    return set(items)


def _vectors_online(store: FeatureStore, postings: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and unit vectors of all items that have one."""
    answer = store.get_online_features(
        [f"{names.JOBS.vectors_view}:{names.EMBEDDING}"],
        [{names.ITEM_ID: int(item)} for item in postings.index],
    ).to_dict()
    known = [
        (item, vector)
        for item, vector in zip(answer[names.ITEM_ID], answer[names.EMBEDDING], strict=True)
        if vector is not None
    ]
    matrix = np.array([vector for _, vector in known])
    return np.array([item for item, _ in known]), matrix / np.linalg.norm(matrix, axis=1)[:, None]


def _unlike(
    embedding: np.ndarray, item_ids: np.ndarray, vectors: np.ndarray, now: datetime
) -> list[tuple[int, str, datetime]]:
    """Return three saves, seconds old, of items that are alike and unlike an embedding."""
    furthest = int(np.argmin(vectors @ embedding))
    alike = np.argsort(-(vectors @ vectors[furthest]))[:3]
    return [
        (int(item_ids[row]), "SAVE", now - timedelta(seconds=int(20 - 5 * i)))
        for i, row in enumerate(alike)
    ]


def _ask_with_recent(
    store: FeatureStore, member: int, recent: list[tuple[int, str, datetime]], now: datetime
) -> np.ndarray:
    """Ask for a member's embedding as of the request; say how long it takes."""
    preload(store)
    service = store.get_feature_service(REALTIME_SERVICE)
    rows = entity_rows([member], {member: recent}, request_timestamp=now)
    seconds = []
    for _ in range(TIMED_REQUESTS):
        started = time.perf_counter()
        answer = store.get_online_features(service, rows).to_dict()
        seconds.append(time.perf_counter() - started)
    print(
        f"{counted(answer[names.ACTIVITY_COUNT][0], 'activity')}, "
        f"{answer[names.NEW_ACTIVITY_COUNT][0]} of them new; the median of {TIMED_REQUESTS} "
        f"requests is {1000 * np.median(seconds):.1f} ms"
    )
    return np.array(answer[EMBEDDING][0])


def _show_nearest(
    embedding: np.ndarray,
    item_ids: np.ndarray,
    vectors: np.ndarray,
    postings: pd.DataFrame,
    seen: set[int],
) -> None:
    """Print the items nearest to an embedding, by title, of those not seen."""
    cosine = vectors @ embedding / np.linalg.norm(embedding)
    new = [row for row in np.argsort(-cosine) if item_ids[row] not in seen]
    for row in new[:NEAREST]:
        print(f"  {cosine[row]:.2f}     {_title(postings, int(item_ids[row]))}")


def _title(postings: pd.DataFrame, item: int) -> str:
    if item not in postings.index:
        return f"item {item}"
    row = postings.loc[item]
    kinds = [str(row["year"]), *row["genres"]] if "genres" in row else row["group"]
    return f"{row['title']} ({', '.join(kinds)})"


if __name__ == "__main__":
    main()
