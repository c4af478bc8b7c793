"""Hundreds of actions, through the batch, a request, a push and both stores."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from activity_embeddings.training.models import CNN, UnweightedAverage
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.online.push import SequenceWriter
from activity_embeddings.transformations.serving.entity_rows import entity_rows
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support.feast_repo import DIMENSION, OWN_VECTORS, at, events_table, make_repo, vectors_table

# The decay, of 300 vectors, is taken out of the models.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:feature service")]

ACTIONS = tuple(f"A{i}" for i in range(300))
SPEC = ActivitySpec(length=8, actions=ACTIONS, positive_actions=("A3", "A299"))
VECTOR_SPEC = ItemVectorSpec("content_and_behaviour", "1", DIMENSION)
HISTORY = [(1, 1, "A0", at(-3)), (1, 2, "A150", at(-2)), (2, 3, "A299", at(-1))]


@pytest.fixture
def repo(tmp_path):
    models = tmp_path / "models"
    for name, model in (("unweighted_average", UnweightedAverage()), ("cnn", CNN(filters=4))):
        built = model.build(SPEC, VECTOR_SPEC)
        package_model(
            built, models / name, name=name, version="1", spec=SPEC, vector_spec=VECTOR_SPEC
        )
    random = np.random.default_rng(0)
    vectors = [
        (item, at(-9), random.normal(size=DIMENSION).astype(np.float32)) for item in (1, 2, 3)
    ]
    settings = replace(OWN_VECTORS, spec=SPEC)
    repo = make_repo(
        tmp_path / "repo", models, events_table(HISTORY), vectors_table(vectors), settings
    )
    repo.edit("activity_models.py", '    ActivityModel(MODELS / "geometric_decay"),\n', "")
    repo.publish(at(-4), at(0))
    return repo


def test_every_way_knows_all_of_them(repo):
    vectors = {
        row["job_id"]: row["embedding"]
        for row in pa.parquet.read_table(repo.data / "job_embeddings.parquet").to_pylist()
    }
    store = repo.store
    view = "job_activity_embedding_unweighted_average"
    features = [f"{view}:a{i}_embedding" for i in (0, 150, 299)]
    sequence = "job_activity_sequence:activity_actions"
    got = store.get_online_features(
        [*features, sequence], [{"member_id": 1}, {"member_id": 2}]
    ).to_dict()
    assert got["activity_actions"] == [[1, 151], [300]]
    assert got["a0_embedding"][0] == pytest.approx(vectors[1])
    assert got["a150_embedding"][0] == pytest.approx(vectors[2])
    assert got["a299_embedding"][1] == pytest.approx(vectors[3])
    assert not np.any(got["a150_embedding"][1])

    rows = entity_rows([2], {2: [(1, "A200", at(-0.5))]}, request_timestamp=at(0))
    asked = store.get_online_features(
        [f"{view}_realtime:{name}" for name in ("a200_embedding", "a299_embedding")], rows
    ).to_dict()
    assert asked["a200_embedding"][0] == pytest.approx(vectors[1], abs=1e-5)
    assert asked["a299_embedding"][0] == pytest.approx(vectors[3], abs=1e-5)
    learned = "job_activity_embedding_cnn"
    batch, request = (
        store.get_online_features([f"{name}:activity_embedding"], rows).to_dict()
        for name, rows in (
            (learned, [{"member_id": 2}]),
            (f"{learned}_realtime", entity_rows([2], request_timestamp=at(0))),
        )
    )
    assert np.any(batch["activity_embedding"][0])
    assert request["activity_embedding"][0] == pytest.approx(
        batch["activity_embedding"][0], abs=1e-5
    )

    report = SequenceWriter(store).push(events_table([(2, 1, "A255", at(0.5))]))
    assert report.new == 1
    got = store.get_online_features([sequence], [{"member_id": 2}]).to_dict()
    assert got["activity_actions"] == [[300, 256]]
    repo.materialize(at(0), at(1))
    got = store.get_online_features([f"{view}:a255_embedding"], [{"member_id": 2}]).to_dict()
    assert got["a255_embedding"][0] == pytest.approx(vectors[1])
