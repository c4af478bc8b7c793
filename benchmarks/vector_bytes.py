"""What bytes of a member's row buy: three averages or decays, a learned vector, and each in int8.

    python benchmarks/vector_bytes.py REPO --choose-from 1999-02-15 --test-from 1999-03-01 \
        --until 1999-04-01 --models geometric_decay --models cnn

REPO is a feature repo that has been applied, such as `make demo` leaves in `build/demo`. The figure
is that of `activity-embeddings measure`: NDCG@10 of what members wanted next among all items of the
day, as of the request, with popularity beside the vectors, of which each counts as is best on the
days before the test.

An int8 vector is divided by its largest absolute value and rounded to 127 steps each way; that
value is kept with it, in four bytes. It counts as its float32 does, so that int8 alone differs.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

import numpy as np
from feast import FeatureStore

from activity_embeddings.training.evaluation.first_look import added, best_mix_of
from activity_embeddings.training.evaluation.from_repo import read_models
from activity_embeddings.training.evaluation.statistics import paired_bootstrap
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.validation import ValidationQueries
from activity_embeddings.training.from_repo import TrainingSource
from activity_embeddings.transformations.inference.embedder import Embedder


def in_int8(vectors: np.ndarray) -> np.ndarray:
    """Return float32 [n, D] as it is after a way through int8."""
    scale = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-12) / 127
    return np.rint(vectors / scale).astype(np.int8) * scale.astype(np.float32)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repo")
    for name in ("--choose-from", "--test-from", "--until"):
        parser.add_argument(name, type=_day, required=True)
    parser.add_argument("--models", action="append", required=True)
    given = parser.parse_args()
    store = FeatureStore(given.repo)
    source = TrainingSource(store)
    history = source.whole_history(given.until)
    models = read_models(store, given.models, ())
    embedder = Embedder([m.describe(history.spec, source.vector_spec)[0] for m in models])
    chosen_on, asked = (
        ValidationQueries.of(history, Period(start, end))
        for start, end in ((given.choose_from, given.test_from), (given.test_from, given.until))
    )
    early, late = (embedder(queries.sequences, history.vectors) for queries in (chosen_on, asked))
    figures = {}
    for name in given.models:
        mix = best_mix_of(chosen_on, early[name])
        rounded = {output: in_int8(vectors) for output, vectors in late[name].items()}
        count, dimension = len(rounded), history.vectors.dimension
        for called, vectors, size in (
            (name, late[name], 4 * dimension),
            (f"{name}, int8", rounded, 4 + dimension),
        ):
            values = asked.ndcg_of_members(added(vectors, mix.weights), mix.share)
            figures[called] = count, count * size, values
    print(f"{len(asked):,} queries of {len(np.unique(asked.member)):,} members")
    print(f"{'':26} vectors  bytes  NDCG@10  the last row less this, 95 %")
    *_, (_, _, last) = figures.values()
    for called, (count, size, values) in figures.items():
        (less,) = paired_bootstrap(last[:, None], values[:, None])
        print(f"{called:26} {count:7} {size:6}   {values.mean():.4f}  {less.text()}")


def _day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


if __name__ == "__main__":
    main()
