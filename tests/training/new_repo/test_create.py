"""A new feature repo: what is written, and that the checkout's own one is what is written."""

import ast
import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from activity_embeddings.training.datasets.entree import ENTREE
from activity_embeddings.training.demo.models import SAMPLE_MODELS
from activity_embeddings.training.evaluation.arms import ArmRole
from activity_embeddings.training.evaluation.from_repo import read_models
from activity_embeddings.training.from_repo import TrainingSource
from activity_embeddings.training.new_repo import create, render
from activity_embeddings.training.new_repo.create import create_repo, create_sample_repo
from activity_embeddings.training.new_repo.settings import (
    Content,
    EventSource,
    PostingSource,
    RepoSettings,
    VectorSource,
)
from activity_embeddings.transformations.contract.item_encoder import describe_item_encoder
from activity_embeddings.transformations.contract.saved_model import fingerprint
from activity_embeddings.transformations.definitions.registered import registered_domains
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.inference.tensorflow import load_saved_model
from activity_embeddings.transformations.names import DomainNames
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.times import to_us
from support.feast_repo import DEFINITIONS, SAMPLE, Repo, at

pytestmark = pytest.mark.slow


def test_the_definitions_of_the_checkout_are_those_of_the_sample_settings():
    settings = ENTREE.settings
    assert (DEFINITIONS / "entities.py").read_text() == render.entities_py(settings)
    assert (DEFINITIONS / "sources.py").read_text() == render.sources_py(settings)
    assert (DEFINITIONS / "item_vectors.py").read_text() == render.item_vectors_py(settings)
    for name in ("feature_store.yaml", "feature_store.redis.yaml"):
        text = (DEFINITIONS / name).read_text()
        assert render.feature_store_yaml(text, settings) == text


def call(path, **inputs):
    signature = load_saved_model(path, path.name, fingerprint(path)).signatures["serving_default"]
    return {
        name: value.numpy()
        for name, value in signature(**{k: tf.constant(v) for k, v in inputs.items()}).items()
    }


def test_the_formulas_of_the_checkout_give_what_formulas_built_again_give():
    spec, vector_spec = ENTREE.settings.spec, ENTREE.settings.vector_spec
    random = np.random.default_rng(0)
    inputs = {
        "item_embeddings": random.normal(size=(5, 32, 64)).astype(np.float32),
        "actions": random.integers(0, 4, (5, 32)).astype(np.int32),
    }
    for model, description in SAMPLE_MODELS[:2]:
        committed = DEFINITIONS / "models" / model.name
        got = call(committed, **inputs)
        expected = model.build(spec, vector_spec).serve(
            **{name: tf.constant(value) for name, value in inputs.items()}
        )
        assert expected.keys() == got.keys()
        for output, values in expected.items():
            np.testing.assert_allclose(got[output], values, atol=1e-6)
        manifest = json.loads((committed / "assets.extra" / "activity_model.json").read_text())
        assert manifest["description"] == description
        assert manifest["parameters"] == {**manifest["parameters"], **model.to_dict()}


def test_the_item_encoder_of_the_checkout_learned_before_its_vectors_are_valid():
    encoder = describe_item_encoder(DEFINITIONS / "models" / "item_encoder")
    made = ENTREE.settings.vector_spec
    assert (encoder.vector_spec.name, encoder.dimension) == (made.name, made.dimension)
    assert encoder.valid_from == to_us(ENTREE.encoder_until)
    training = encoder.manifest["training"]
    assert training["end"] == ENTREE.encoder_until.isoformat()


FIVE = ActivitySpec(
    window=timedelta(days=7),
    length=20,
    actions=("view", "like", "buy", "skip", "hide"),
    positive_actions=("like", "buy"),
    other_actions="ignore",
)
OWN = RepoSettings(
    project="shop",
    member="user",
    names=DomainNames("product", "user_id", "sku", "verb", "n"),
    member_type="string",
    item_type="string",
    spec=FIVE,
    vector_spec=ItemVectorSpec("item_vectors", "1", 16),
    events=EventSource(time="ts", event_id_type="string"),
    items=VectorSource(item_id="id", vector="vec", time="made"),
)


@pytest.mark.parametrize(
    "settings",
    [
        OWN,
        replace(
            OWN,
            items=PostingSource(
                item_id="id",
                time="since",
                content=[
                    Content("name", "String"),
                    Content("price", "Float32"),
                    Content("tags", "Array(String)"),
                ],
            ),
        ),
    ],
    ids=["own vectors", "encoder"],
)
def test_a_new_repo_with_empty_sources_is_applied_as_it_is(tmp_path, settings):
    repo = Repo(tmp_path / "shop")
    create_repo(repo.path, settings)
    repo.run("apply")
    store = repo.store
    assert store.project == "shop"
    views = {view.name for view in store.list_batch_feature_views()}
    assert {"product_activity_sequence", "product_activity_embedding_geometric_decay"} <= views
    assert [service.name for service in store.list_feature_services()]
    assert not TrainingSource(store).simulated
    (domain,) = registered_domains(store)
    assert (domain.names, domain.spec) == (settings.names, FIVE)
    events = pq.read_schema(repo.events / "empty.parquet")
    assert set(events.names) == {"user_id", "sku", "verb", "ts", "n"}
    assert events.field("n").type == pa.string()


def test_reports_of_a_new_repo_know_that_its_models_are_formulas_and_its_data_made_up(tmp_path):
    repo = Repo(tmp_path / "shop")
    create_repo(repo.path, replace(OWN, simulated=True))
    repo.run("apply")
    assert TrainingSource(repo.store).simulated
    models = read_models(repo.store, ["geometric_decay", "unweighted_average"])
    assert [model.role for model in models] == [ArmRole.REFERENCE] * 2
    assert read_models(repo.store) == []


def test_rows_written_beside_the_empty_files_are_published(tmp_path):
    repo = Repo(tmp_path / "shop")
    create_repo(repo.path, replace(OWN, events=EventSource(time="ts")))
    events = pa.table(
        {
            "user_id": ["ann", "ann", "ann"],
            "sku": ["a", "b", "a"],
            "verb": ["buy", "look", "buy"],
            "ts": pa.array([at(-1), at(-1), at(-8)], pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(events, repo.events / "history.parquet")
    vectors = pa.table(
        {
            "id": ["a", "b"],
            "vec": pa.array([[2.0] * 16] * 2, pa.list_(pa.float32())),
            "made": pa.array([at(-99)] * 2, pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(vectors, repo.data / "product_embeddings.parquet")
    repo.publish(at(-0.5), at(0))
    got = repo.store.get_online_features(
        [
            "product_activity_sequence:activity_product_ids",
            "product_activity_embedding_unweighted_average:buy_embedding",
        ],
        [{"user_id": "ann"}],
    ).to_dict()
    assert got["activity_product_ids"] == [["a"]]
    assert got["buy_embedding"] == [[2.0] * 16]


def test_the_sample_repo_is_the_feature_repo_of_the_checkout_with_its_data(tmp_path):
    create_sample_repo(tmp_path / "repo")
    for file in sorted(DEFINITIONS.glob("*.py")):
        assert (tmp_path / "repo" / file.name).read_bytes() == file.read_bytes()
    for name in ("activity_events/history.parquet", "job_postings.parquet", "README.md"):
        assert (tmp_path / "repo" / "data" / name).is_file()
    assert list((tmp_path / "repo" / "data").glob("LICENSE*"))
    written = {path.name for path in (tmp_path / "repo").iterdir()}
    assert written >= {"feature_store.yaml", "feature_store.redis.yaml", "models", "data"}


@pytest.mark.parametrize("create", [lambda p: create_repo(p, RepoSettings()), create_sample_repo])
def test_a_folder_with_something_in_it_is_refused_and_stays_as_it_is(tmp_path, create):
    (tmp_path / "mine.txt").write_text("mine")
    for path, received in ((tmp_path, "a folder with files"), (tmp_path / "mine.txt", "a file")):
        with pytest.raises(InvalidInput, match=rf"new or empty. Received: {received}"):
            create(path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("mine.txt", "mine")]


FLOATS = RepoSettings(items=PostingSource(content=[Content("price", "Float32")]))


def test_a_repo_that_cannot_be_written_whole_is_not_there_at_all(tmp_path):
    with pytest.raises(InvalidInput, match=r"column of text, integers or lists.*Received: price"):
        create_repo(tmp_path / "repo", FLOATS)
    assert not (tmp_path / "repo").exists()


def test_an_empty_folder_that_was_there_stays_when_a_repo_cannot_be_written(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to("mine")
    for folder in (tmp_path / "mine", tmp_path / "link"):
        with pytest.raises(InvalidInput, match="Received: price"):
            create_repo(folder, FLOATS)
        assert list(folder.iterdir()) == []


def test_a_sample_that_cannot_be_copied_whole_is_not_there_at_all(tmp_path, monkeypatch):
    # As a full disk or an interrupt.
    monkeypatch.setattr(create.shutil, "copytree", lambda *paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        create_sample_repo(tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize(
    ("window", "written"),
    [
        (timedelta(days=7), "timedelta(days=7)"),
        (timedelta(hours=36), "timedelta(seconds=129600)"),
        (timedelta(milliseconds=1500), "timedelta(seconds=1.5)"),
    ],
)
def test_a_window_is_written_so_that_it_reads_the_same(window, written):
    text = render.sources_py(replace(SAMPLE, spec=ActivitySpec(window=window)))
    assert f"window={written}," in text
    assert eval(written, {"timedelta": timedelta}) == window


@pytest.mark.parametrize("name", ['say "hi"', "it's", "back\\slash", "né"])
def test_any_text_is_written_so_that_it_reads_the_same(name):
    settings = replace(SAMPLE, spec=ActivitySpec(actions=(name,), positive_actions=()))
    tree = ast.parse(render.sources_py(settings))
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert name in constants
