"""Build the sample feature repo's job vectors and its three packaged models.

    python -m training.sample_models --repo feature_repo

Nothing learnt sees what it is later asked about: job vectors are fitted on activity before
`VECTORS_FROM`, the CNN on activity before `PUBLISH_FROM`, the first as-of time of the demo.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from training.cnn import train_cnn
from training.formulas import GeometricDecay, UnweightedAverage
from training.item_embeddings import EMBEDDINGS_FILE, fit_job_embeddings, write_job_embeddings
from training.movietweetings import EVENTS_FILE, POSTINGS_FILE
from training.package import package_model
from transformations.events import ActivityEvents
from transformations.item_vectors import ItemVectors
from transformations.model import ModelDescription
from transformations.spec import ActivitySpec, ItemEmbedding

ITEM_EMBEDDING = ItemEmbedding(name="content_and_behaviour", version="1", dimension=64)
"""What `fit_job_embeddings` makes; the feature repo declares the same."""

VECTORS_FROM = datetime(2013, 5, 1, tzinfo=UTC)
VALIDATE_FROM = datetime(2013, 6, 17, tzinfo=UTC)
PUBLISH_FROM = datetime(2013, 7, 1, tzinfo=UTC)
DECAY = 0.9
"""Factor r of the packaged decay model."""


def build_job_vectors(data: Path) -> int:
    """Fit the job vectors of the sample data in folder `data`; return how many there are."""
    table = fit_job_embeddings(
        pq.read_table(data / EVENTS_FILE),
        pq.read_table(data / POSTINGS_FILE),
        cutoff=VECTORS_FROM,
        dimension=ITEM_EMBEDDING.dimension,
    )
    write_job_embeddings(table, data / EMBEDDINGS_FILE)
    return len(table)


def build_models(data: Path, models: Path, *, seed: int = 0) -> Iterator[ModelDescription]:
    """Build and package the three models into folder `models`, one at a time, with progress."""
    spec = ActivitySpec()
    package = partial(package_model, version="1", spec=spec, item_embedding=ITEM_EMBEDDING)
    yield package(
        UnweightedAverage(spec, ITEM_EMBEDDING),
        models / "unweighted_average",
        name="unweighted_average",
        description="Plain mean of the job embeddings of each action.",
    )
    yield package(
        GeometricDecay(spec, ITEM_EMBEDDING, DECAY),
        models / "geometric_decay",
        name="geometric_decay",
        description=f"Geometrically decaying average of each action's job embeddings, r = {DECAY}.",
        parameters={"r": DECAY},
    )
    events = ActivityEvents.from_arrow(pq.read_table(data / EVENTS_FILE), spec)
    vectors = ItemVectors.from_arrow(pq.read_table(data / EMBEDDINGS_FILE), ITEM_EMBEDDING)
    model, facts = train_cnn(
        events,
        vectors,
        spec=spec,
        item_embedding=ITEM_EMBEDDING,
        start=VECTORS_FROM,
        validation_start=VALIDATE_FROM,
        end=PUBLISH_FROM,
        seed=seed,
        verbose=1,
    )
    yield package(
        model,
        models / "cnn",
        name="cnn",
        description="One vector from a CNN over the interleaved activities, by the proxy task.",
        **facts,
    )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repo", type=Path, required=True, help="folder of the feature repo")
    repo = parser.parse_args().repo
    print(f"{build_job_vectors(repo / 'data'):,} job vectors")
    for model in build_models(repo / "data", repo / "models"):
        print(model.summary())


if __name__ == "__main__":
    main()
