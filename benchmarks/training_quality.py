"""What training reaches on the films: every configuration tried, and the chosen one.

    python benchmarks/training_quality.py search     configurations, on the validation period
    python benchmarks/training_quality.py test       the chosen ones, on the test period, by seed

Films stand in for jobs: a proxy domain. Periods follow each other: the item encoder learns before
`ENCODER_UNTIL`, models from there to `VALIDATE_FROM`; what is chosen is chosen on the days to
`TEST_FROM`; `test` measures what comes after, with everything that is random, item vectors
included, made again for each seed. A figure is the mean over members of NDCG@10 of the next
positive item among all items of the day, beside popularity; see
`activity_embeddings.training.fitting.validation`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from activity_embeddings.training.datasets.base import EVENTS_FILE, POSTINGS_FILE
from activity_embeddings.training.datasets.movietweetings import FILMS
from activity_embeddings.training.examples.held_out import Windows
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import TimeSplit
from activity_embeddings.training.fitting.embed import embed_with
from activity_embeddings.training.fitting.loop import Fit
from activity_embeddings.training.fitting.plan import TrainingPlan
from activity_embeddings.training.fitting.train import train
from activity_embeddings.training.fitting.validation import ValidationQueries
from activity_embeddings.training.item_encoder.towers import TowerSettings
from activity_embeddings.training.item_encoder.train import (
    ENCODER_FIT,
    EncoderPlan,
    train_towers,
)
from activity_embeddings.training.models import (
    CNN,
    GRU,
    LSTM,
    Architecture,
    GeometricDecay,
    InterleavedDecay,
    SeveralRatesDecay,
    Transformer,
    UnweightedAverage,
)
from activity_embeddings.training.objectives import FuturePositives, NextPositive, Objective, Proxy
from activity_embeddings.training.packaging import package_item_encoder
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.inference.encoder import ItemEncoder, encode_postings
from activity_embeddings.transformations.inference.tensorflow import tensorflow
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

DATA = Path(__file__).parents[1] / FILMS.folder
ENCODER_UNTIL = datetime(2013, 5, 1, tzinfo=UTC)
SPLIT = TimeSplit(
    ENCODER_UNTIL,
    datetime(2013, 6, 17, tzinfo=UTC),
    datetime(2013, 7, 1, tzinfo=UTC),
    datetime(2013, 9, 1, tzinfo=UTC),
)
SPEC = ActivitySpec()
DIMENSION = 64
RESAMPLES = 10_000

NEXT = NextPositive()
PINNERFORMER = FuturePositives()

ENCODERS = {
    "chosen": (TowerSettings(), NEXT, ENCODER_FIT),
    "content alone": (TowerSettings(), NEXT, replace(ENCODER_FIT, learning_rate=1e-7)),
    "learning rate 5e-4": (
        TowerSettings(),
        NEXT,
        replace(ENCODER_FIT, learning_rate=5e-4),
    ),
    "less dropout": (TowerSettings(dropout=0.3, id_dropout=0.5), NEXT, ENCODER_FIT),
    "positives of 7 days": (
        TowerSettings(),
        replace(NEXT, horizon_days=7, targets=8),
        ENCODER_FIT,
    ),
    "in-batch and drawn, logQ": (TowerSettings(), PINNERFORMER, ENCODER_FIT),
}

FIT = Fit(epochs=20, patience=4)
SLOW = replace(FIT, learning_rate=1e-4)
EVERY = Windows(minimum=1, prefixes=True)
MODELS: dict[str, tuple[Architecture, Objective, Fit]] = {
    "unweighted_average": (UnweightedAverage(), NEXT, FIT),
    **{f"geometric_decay r={r}": (GeometricDecay(r=r), NEXT, FIT) for r in (0.8, 0.9, 0.95)},
    **{
        f"interleaved_decay r={r}": (InterleavedDecay(r=r), NEXT, FIT)
        for r in (0.5, 0.8, 0.9, 0.95, 0.98)
    },
    "several_rates_decay": (SeveralRatesDecay(), NEXT, FIT),
    "cnn, proxy": (CNN(), Proxy(), FIT),
    "cnn, proxy, every activity": (CNN(), Proxy(windows=EVERY), FIT),
    "cnn, proxy, every activity, not residual": (CNN(residual=False), Proxy(windows=EVERY), FIT),
    "cnn, all positives of 14 days, in-batch and drawn": (CNN(), PINNERFORMER, FIT),
    "cnn, the same, random negatives alone": (
        CNN(),
        replace(PINNERFORMER, in_batch=False, popular_negatives=0, uniform_negatives=100),
        FIT,
    ),
    "cnn, the same, dismissals too": (CNN(), replace(PINNERFORMER, dismiss_weight=0.3), FIT),
    "cnn, next positive": (CNN(), NEXT, FIT),
    "cnn, next positive, ages": (CNN(ages=True), NEXT, FIT),
    "cnn, next positive, not residual": (CNN(residual=False), NEXT, FIT),
    "cnn, next positive, dropout 0.5": (CNN(dropout=0.5), NEXT, FIT),
    "cnn, next positive, learning rate 2e-3": (
        CNN(),
        NEXT,
        replace(FIT, learning_rate=2e-3),
    ),
    "cnn, next positive, dismissals of 7 days": (
        CNN(),
        replace(NEXT, horizon_days=7, dismiss_weight=0.3),
        FIT,
    ),
    "cnn, positives of 7 days of the day": (
        CNN(),
        replace(NEXT, horizon_days=7, targets=8),
        FIT,
    ),
    "lstm, next positive": (LSTM(), NEXT, FIT),
    "gru, next positive": (GRU(), NEXT, FIT),
    "transformer, next positive": (Transformer(), NEXT, FIT),
    "transformer, next positive, ages": (Transformer(ages=True), NEXT, FIT),
    "cnn, next positive, slow": (CNN(), NEXT, SLOW),
    "cnn of 8 filters, next positive, slow": (CNN(filters=8), NEXT, SLOW),
    "lstm, next positive, slow": (LSTM(), NEXT, SLOW),
    "lstm, next positive, slow, dropout 0.5": (LSTM(dropout=0.5), NEXT, SLOW),
    "gru, next positive, slow": (GRU(), NEXT, SLOW),
    "transformer, next positive, slow": (Transformer(), NEXT, SLOW),
    "lstm, proxy, every activity": (LSTM(), Proxy(windows=EVERY), FIT),
    "transformer, proxy, every activity": (Transformer(), Proxy(windows=EVERY), FIT),
}
TESTED = (
    "unweighted_average",
    "geometric_decay r=0.8",
    "interleaved_decay r=0.5",
    "several_rates_decay",
    "cnn, proxy",
    "cnn of 8 filters, next positive, slow",
    "lstm, next positive, slow",
    "gru, next positive, slow",
    "transformer, next positive, slow",
)
"""The best of each kind on the validation period, and the literal proxy task."""

RIVAL = "interleaved_decay r=0.5"
"""What intervals compare with: the best average of one vector."""


def history_of(
    folder: Path, name: str, seed: int
) -> tuple[ActivityHistory, ItemVectorSpec, dict[str, float]]:
    """Train an encoder, and return the history with its vectors and its own validation figures."""
    events, postings = pq.read_table(DATA / EVENTS_FILE), pq.read_table(DATA / POSTINGS_FILE)
    towers, objective, fit = ENCODERS[name]
    plan = EncoderPlan(
        ENCODER_UNTIL,
        dimension=DIMENSION,
        towers=towers,
        objective=objective,
        fit=replace(fit, seed=seed),
        spec=SPEC,
    )
    trained = train_towers(events, postings, plan)
    described = package_item_encoder(
        trained.encoder,
        folder / "item_encoder",
        name="items",
        version=str(seed),
        valid_from=ENCODER_UNTIL,
    )
    vector_spec = described.vector_spec
    table = encode_postings(ItemEncoder(described), postings)
    vectors = ItemVectors.from_arrow(table, vector_spec)
    return (
        ActivityHistory.from_arrow(events, vectors, SPEC),
        vector_spec,
        trained.facts["metrics"]["validation"],
    )


def search(folder: Path, only: str) -> None:
    """Print the validation figures of every configuration whose name holds `only`."""
    print("item encoders                        own  beside decayed average: validation, alone")
    histories = {}
    for name in ENCODERS if not only else ["chosen"]:
        started = time.perf_counter()
        history, vector_spec, own = history_of(folder, name, seed=0)
        histories[name] = (history, vector_spec)
        queries = ValidationQueries.of(history, SPLIT.validation)
        model = InterleavedDecay(r=0.9).build(SPEC, vector_spec)
        figures = queries.measure(embed_with(model, SPEC))
        print(
            f"{name:35} {own['ndcg_at_10']:.4f}  {figures['ndcg_at_10']:.4f} "
            f"{figures['ndcg_at_10_alone']:.4f}  {time.perf_counter() - started:5.0f} s",
            flush=True,
        )
    history, vector_spec = histories["chosen"]
    queries = ValidationQueries.of(history, SPLIT.validation)
    print(f"\nmodels, {len(queries):,} validation queries; popularity {queries.popularity():.4f}")
    print(f"{'':50} beside popularity (share), alone, best epoch, seconds")
    for name in (name for name in MODELS if only in name):
        started = time.perf_counter()
        trained = fitted(name, history, vector_spec, seed=0)
        figures = trained.result["metrics"]["validation"]
        print(
            f"{name:50} {figures['ndcg_at_10']:.4f} ({figures['share']:.1f})  "
            f"{figures['ndcg_at_10_alone']:.4f}  {trained.result['training']['best_epoch']:2}  "
            f"{time.perf_counter() - started:5.0f}",
            flush=True,
        )


def fitted(name: str, history: ActivityHistory, vector_spec: ItemVectorSpec, *, seed: int):
    """Train a configuration."""
    model, objective, fit = MODELS[name]
    plan = TrainingPlan(
        history=history,
        vector_spec=vector_spec,
        period=SPLIT.train,
        validation=SPLIT.validation,
        objective=objective,
        fit=replace(fit, seed=seed),
    )
    return train(model, plan)


def test(folder: Path, seeds: int) -> None:
    """Print the test figures of the chosen configurations, a column a seed.

    A figure is taken at the share that is best on the validation period, and of the embedding
    alone. Intervals are of the mean
    over seeds, by a paired bootstrap over members.
    """
    gains: dict[str, list[np.ndarray]] = {}
    alone: dict[str, list[float]] = {}
    for seed in range(seeds):
        history, vector_spec, _ = history_of(folder, "chosen", seed)
        queries = ValidationQueries.of(history, SPLIT.test)
        nothing = np.zeros((len(queries), DIMENSION), np.float32)
        gains.setdefault("popularity", []).append(queries.ndcg_of_members(nothing, 0.0))
        for name in TESTED:
            trained = fitted(name, history, vector_spec, seed=seed)
            share = trained.result["metrics"]["validation"]["share"]
            embeddings = embed_with(trained.model, SPEC)(queries.sequences, history)
            gains.setdefault(name, []).append(queries.ndcg_of_members(embeddings, share))
            alone.setdefault(name, []).append(queries.ndcg_of_members(embeddings).mean())
            print(f"seed {seed}: {name} {gains[name][-1].mean():.4f}", flush=True)
    members = len(gains[RIVAL][0])
    print(f"\n{len(queries):,} test queries of {members:,} members; films stand in for jobs")
    columns = "  ".join(f"seed {seed}" for seed in range(seeds))
    print(f"{'':40} {columns}    mean    minus {RIVAL}, 95 %   alone")
    chosen = np.random.default_rng(0).integers(0, members, (RESAMPLES, members))
    for name, runs in gains.items():
        difference = np.mean(runs, axis=0) - np.mean(gains[RIVAL], axis=0)
        low, high = np.percentile([difference[c].mean() for c in chosen], [2.5, 97.5])
        each = "  ".join(f"{run.mean():.4f}" for run in runs)
        print(
            f"{name:40} {each}  {np.mean(runs):.4f}    "
            f"{difference.mean():+.4f} [{low:+.4f}, {high:+.4f}]"
            + (f"   {np.mean(alone[name]):.4f}" if name in alone else "")
        )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("search", "test"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="search: models whose name holds this")
    parser.add_argument("--folder", type=Path, default=Path("build/training_quality"))
    arguments = parser.parse_args()
    tensorflow()
    started = time.perf_counter()
    if arguments.what == "search":
        search(arguments.folder, arguments.only)
    else:
        test(arguments.folder, arguments.seeds)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
