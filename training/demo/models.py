"""Build the item encoder of the demo's feature repo and its three packaged models.

    python -m activity_embeddings.training.demo.models --repo build/entree

No model sees what it is later asked about; the dates are in
`activity_embeddings.training.datasets.sample`.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from activity_embeddings.training.datasets.sample import ENTREE, Sample
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.loop import Fit
from activity_embeddings.training.fitting.plan import TrainingPlan
from activity_embeddings.training.fitting.train import TrainedRun, train
from activity_embeddings.training.item_encoder.towers import TowerSettings
from activity_embeddings.training.item_encoder.train import (
    ENCODER_FIT,
    EncoderPlan,
    train_towers,
)
from activity_embeddings.training.models import CNN, Architecture, GeometricDecay, UnweightedAverage
from activity_embeddings.training.objectives import NextPositive, Objective
from activity_embeddings.training.packaging import package_item_encoder, package_model
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.contract.item_encoder import (
    ItemEncoderDescription,
    describe_item_encoder,
)
from activity_embeddings.transformations.inference.encoder import ItemEncoder, encode_postings
from activity_embeddings.transformations.spec import ItemVectorSpec

ITEM_ENCODER = "item_encoder"
"""Name of the encoder's folder among the models."""
DIMENSION = 64
"""Length of an item vector."""
NETWORK_PATIENCE = 6
"""Epochs without a better figure of an encoder with a network, whose figures go up and down."""
SAMPLE_MODELS: tuple[tuple[Architecture, str], ...] = (
    (UnweightedAverage(), "Plain mean of the item embeddings of each action."),
    (
        GeometricDecay(r=0.5),
        "Geometrically decaying average of each action's item embeddings, r = 0.5.",
    ),
    (CNN(), "One vector from a CNN over the interleaved activities, as a correction of a decay."),
)


def encoder_plan(sample: Sample, *, seed: int = 0, epochs: int = ENCODER_FIT.epochs) -> EncoderPlan:
    """Return how the item encoder of a sample is trained."""
    plan = EncoderPlan(
        sample.encoder_until,
        dimension=DIMENSION,
        spec=sample.settings.spec,
        towers=TowerSettings(
            text=sample.text,
            categories=sample.categories,
            tokens=sample.words,
            buckets=sample.buckets,
        ),
        fit=replace(ENCODER_FIT, seed=seed, epochs=epochs),
    )
    if not sample.encoder_with_network:
        return plan
    return replace(
        plan,
        network=CNN(),
        objective=NextPositive(other_weight=sample.other_weight),
        fit=replace(plan.fit, patience=NETWORK_PATIENCE),
    )


def build_item_encoder(
    data: Path,
    models: Path,
    *,
    sample: Sample = ENTREE,
    plan: EncoderPlan | None = None,
    network: str | None = None,
    verbose: int = 0,
) -> ItemEncoderDescription:
    """Train the encoder on the sample data in folder `data`, and package it into `models`.

    The network that it learns with, where there is one, is packaged there too, if it has a name.
    """
    plan = plan or encoder_plan(sample)
    towers = train_towers(sample.events(data), sample.postings(data), plan, verbose=verbose)
    described = package_item_encoder(
        towers.encoder,
        models / ITEM_ENCODER,
        name="content_and_behaviour",
        version="1",
        valid_from=plan.until,
        **{"description": "Item vectors from the content of postings.", **towers.facts},
    )
    if network is not None:
        package_model(
            towers.member_tower,
            models / network,
            name=network,
            version="1",
            spec=plan.spec,
            vector_spec=described.vector_spec,
            sequences=towers.sequences,
            **towers.facts,
        )
    return described


def read_history(data: Path, models: Path, *, sample: Sample = ENTREE) -> ActivityHistory:
    """Read the activity in folder `data`, with vectors of the item encoder in `models`."""
    encoder = describe_item_encoder(models / ITEM_ENCODER)
    encoded = encode_postings(ItemEncoder(encoder), sample.postings(data))
    vectors = ItemVectors.from_arrow(encoded, encoder.vector_spec)
    return ActivityHistory.from_arrow(sample.events(data), vectors, sample.settings.spec)


def train_model(
    model: Architecture,
    history: ActivityHistory,
    vector_spec: ItemVectorSpec,
    *,
    sample: Sample = ENTREE,
    objective: Objective | None = None,
    seed: int = 0,
    refit: bool = False,
    run: Path | None = None,
    verbose: int = 0,
) -> TrainedRun:
    """Train a model on the days between the item encoder's and the ranker's; see `train`."""
    plan = TrainingPlan(
        history=history,
        vector_spec=vector_spec,
        period=Period(sample.encoder_until, sample.validate_from),
        validation=Period(sample.validate_from, sample.rank_from),
        objective=objective or NextPositive(other_weight=sample.other_weight),
        fit=Fit(**sample.fit, seed=seed),
        refit=refit,
    )
    return train(model, plan, run=run, verbose=verbose)


def build_models(
    data: Path, models: Path, *, sample: Sample = ENTREE, seed: int = 0, verbose: int = 0
) -> Iterator[ModelDescription]:
    """Train and package the three models into folder `models`, one at a time.

    They read the vectors of the item encoder in that folder.
    """
    vector_spec = describe_item_encoder(models / ITEM_ENCODER).vector_spec
    history = read_history(data, models, sample=sample)
    for model, description in SAMPLE_MODELS:
        trained = train_model(
            model, history, vector_spec, sample=sample, seed=seed, verbose=verbose
        )
        yield trained.package(
            models / model.name, name=model.name, version="1", description=description
        )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repo", type=Path, required=True, help="folder of the feature repo")
    repo = parser.parse_args().repo
    # Of Keras about numpy.
    warnings.simplefilter("ignore", DeprecationWarning)
    print(build_item_encoder(repo / "data", repo / "models").summary())
    for model in build_models(repo / "data", repo / "models"):
        print(model.summary())


if __name__ == "__main__":
    main()
