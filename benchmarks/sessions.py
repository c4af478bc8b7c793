"""What sessions are good for: as lists to learn from, and in the place of single activities.

    python benchmarks/sessions.py entree      real sessions, of a proxy domain
    python benchmarks/sessions.py jobs        the simulated market of 6,000 members

A session is a member's activity without a gap of more than 30 minutes. Two questions are asked of
each trained model, about the days of the test, and answered by NDCG@10 among all items of the day,
mean over members:

    next activity   given all until now: the positive item that comes next, mostly in one session
    next session    given all before a session: each of its positive items

`next_positive` and the proxy learn from moments of the first kind, `next_session` from those of
the second alone. How much an embedding counts beside popularity is chosen on the days before the
test, for each question. Everything that is random in the training of a model is made again for
each seed, item vectors apart.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from activity_embeddings.training.datasets.sample import ENTREE, JOBS, Sample
from activity_embeddings.training.demo.models import (
    ITEM_ENCODER,
    build_item_encoder,
    read_history,
    train_model,
)
from activity_embeddings.training.evaluation.statistics import paired_bootstrap
from activity_embeddings.training.examples.held_out import Windows, hold_out
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.examples.sessions import session_starts
from activity_embeddings.training.fitting.embed import embed_with
from activity_embeddings.training.fitting.validation import ValidationQueries
from activity_embeddings.training.models import (
    CNN,
    Architecture,
    InterleavedDecay,
    SessionDecay,
)
from activity_embeddings.training.objectives import NextPositive, NextSession, Objective, Proxy
from activity_embeddings.transformations.contract.item_encoder import describe_item_encoder
from activity_embeddings.transformations.inference.tensorflow import tensorflow
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

GAP_MINUTES = 30.0
EVERY = Windows(minimum=1, prefixes=True)
RIVAL = "cnn, next_positive"
"""What intervals compare with: the default of `train`."""
QUESTIONS = ("next activity", "next session")


def configurations(sample: Sample) -> dict[str, tuple[Architecture, Objective]]:
    """Return what is trained, by name: as the sample is trained, but for what the name says."""
    following = NextPositive(other_weight=sample.other_weight)
    proxy, session = Proxy(windows=EVERY), NextSession(session_gap_minutes=GAP_MINUTES)
    by_session = {"session_gap_minutes": GAP_MINUTES}
    return {
        "interleaved_decay": (InterleavedDecay(), following),
        "session_decay": (SessionDecay(**by_session), following),
        "cnn, proxy": (CNN(), proxy),
        RIVAL: (CNN(), following),
        "cnn, next_session": (CNN(), session),
        "cnn of sessions, next_positive": (CNN(**by_session), following),
        "cnn of sessions, next_session": (CNN(**by_session), session),
    }


def queries_of(history: ActivityHistory, period: Period) -> dict[str, ValidationQueries]:
    """Return the queries of both questions."""
    return dict(
        zip(
            QUESTIONS,
            (ValidationQueries.of(history, period), next_sessions(history, period)),
            strict=True,
        )
    )


def next_sessions(history: ActivityHistory, period: Period) -> ValidationQueries:
    """Return a query of each new positive item of a session, as of the session's start.

    An item counts once in a session; left out is what lies after the midnight that a session
    crosses.
    """
    windows = Windows(minimum=1, prefixes=True, per_member=None)
    held_out = hold_out(history, period, windows=windows, random=np.random.default_rng(0))
    held_out = held_out.take(np.isin(held_out.label, history.spec.positive_ids))
    starts = session_starts(history.events, round(GAP_MINUTES * 60_000_000))
    start = starts[np.searchsorted(starts, held_out.event, side="right") - 1]
    as_of, time_of = history.events.time[start], history.events.time[held_out.event]
    same_day = as_of // MICROSECONDS_PER_DAY == time_of // MICROSECONDS_PER_DAY
    _, first = np.unique(np.stack([start, held_out.item]), axis=1, return_index=True)
    once = np.zeros(len(held_out), dtype=bool)
    once[first] = True
    sequences = history.sequences(held_out.member, as_of)
    item_rows = history.rows(held_out.item, as_of)
    kept = once & same_day & (as_of >= period.start_us) & (sequences.count > 0)
    kept &= item_rows != history.vectors.pad_row
    asked = replace(held_out, sequences=sequences, item_rows=item_rows)
    return ValidationQueries.of_held_out(history, asked.take(kept), period)


@contextmanager
def data_of(sample: Sample, members: int | None) -> Iterator[tuple[Path, Path]]:
    """Yield the folders of data and of models, with the item encoder of the data set.

    That of the sample comes with the package; that of the market is trained.
    """
    if sample is ENTREE:
        with sample.packaged() as data:
            yield data, data.with_name("models")
        return
    if members is not None:
        sample = replace(sample, members=members)
    with tempfile.TemporaryDirectory() as folder:
        data, models = Path(folder, "data"), Path(folder, "models")
        sample.write(data)
        build_item_encoder(data, models, sample=sample)
        yield data, models


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=(ENTREE.name, JOBS.name))
    parser.add_argument("--members", type=int, help="of the simulated market")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="configurations whose name holds this")
    given = parser.parse_args()
    tensorflow()
    sample = {ENTREE.name: ENTREE, JOBS.name: JOBS}[given.data]
    with data_of(sample, given.members) as (data, models):
        vector_spec = describe_item_encoder(models / ITEM_ENCODER).vector_spec
        history = read_history(data, models, sample=sample)
        measure(sample, history, vector_spec, given.seeds, given.only)


def measure(sample: Sample, history: ActivityHistory, vector_spec, seeds: int, only: str) -> None:
    """Train every configuration with every seed, and print what each finds."""
    # Few members of the sample come back. So it is asked about the ranker's days too, and how much
    # an embedding counts is chosen on the days that the epoch is chosen on.
    days = (
        (sample.validate_from, sample.rank_from, sample.until)
        if sample is ENTREE
        else (sample.rank_from, sample.test_from, sample.until)
    )
    early, late = (queries_of(history, Period(*ends)) for ends in itertools.pairwise(days))
    chosen = {
        name: what for name, what in configurations(sample).items() if only in name or name == RIVAL
    }
    gains: dict[str, dict[str, list[np.ndarray]]] = {question: {} for question in QUESTIONS}
    for question, queries in late.items():
        nothing = np.zeros((len(queries), vector_spec.dimension), np.float32)
        gains[question]["popularity"] = [queries.ndcg_of_members(nothing, 0.0)]
    for seed in range(seeds):
        for name, (model, objective) in chosen.items():
            if seed and not model.trainable:
                continue
            started = time.perf_counter()
            trained = train_model(
                model, history, vector_spec, sample=sample, objective=objective, seed=seed
            )
            embed = embed_with(trained.model, history.spec)
            for question in QUESTIONS:
                share = early[question].measure(embed)["share"]
                embeddings = embed(late[question].sequences, history)
                found = late[question].ndcg_of_members(embeddings, share)
                gains[question].setdefault(name, []).append(found)
            figures = ", ".join(f"{gains[q][name][-1].mean():.4f}" for q in QUESTIONS)
            training = trained.result["training"]
            counts = [sum(of_label.values()) for of_label in training["examples"].values()]
            print(
                f"{name}, seed {seed}: {figures}; {max(counts, default=0):,} examples, "
                f"{training['epochs']} epochs, {time.perf_counter() - started:.0f} s",
                flush=True,
            )
    for question in QUESTIONS:
        print_table(question, late[question], gains[question])


def print_table(
    question: str, queries: ValidationQueries, gains: dict[str, list[np.ndarray]]
) -> None:
    """Print the mean over seeds of each configuration, and how far it is from `RIVAL`."""
    rival = gains[RIVAL]
    print(f"\n{question}: {len(queries):,} queries of {len(rival[0]):,} members")
    print(f"{'':40} NDCG@10   minus {RIVAL}, 95 %   by seed")
    for name, runs in gains.items():
        mean, each = np.mean(runs, axis=0), " ".join(f"{run.mean():.4f}" for run in runs)
        text = ""
        if name != RIVAL:
            by_seed = np.array([run.mean() - r.mean() for run, r in zip(runs, rival, strict=False)])
            if len(runs) < len(rival):  # a formula has no seeds
                by_seed = np.array([mean.mean() - r.mean() for r in rival])
            (difference,) = paired_bootstrap(
                mean[:, None],
                np.mean(rival, axis=0),
                by_seed=by_seed[:, None] if len(rival) > 1 else None,
            )
            text = difference.text()
        print(f"{name:40}  {mean.mean():.4f}   {text:28} {each}")


if __name__ == "__main__":
    main()
