"""Fixtures shared by all tests."""

import os
from pathlib import Path

os.environ.setdefault("FEAST_USAGE", "False")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """The three packaged models of the feature repo; the CNN has its first, random weights."""
    import keras

    from activity_embeddings.training.models import CNN, GeometricDecay, UnweightedAverage
    from activity_embeddings.training.packaging import package_model
    from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

    spec, vector_spec = ActivitySpec(), ItemVectorSpec("content_and_behaviour", "1", 64)
    keras.utils.set_random_seed(7)
    folder = tmp_path_factory.mktemp("models")
    for name, model in {
        "unweighted_average": UnweightedAverage().build(spec, vector_spec),
        "geometric_decay": GeometricDecay(r=0.8).build(spec, vector_spec),
        "cnn": CNN(residual=False).build(spec, vector_spec),
    }.items():
        package_model(
            model, folder / name, name=name, version="1", spec=spec, vector_spec=vector_spec
        )
    return folder


@pytest.fixture
def repo(tmp_path, models):
    """A feature repo over `small_data`, not applied yet."""
    from support.feast_repo import events_table, make_repo, small_data, vectors_table

    events, vectors = small_data()
    return make_repo(tmp_path / "repo", models, events_table(events), vectors_table(vectors))
