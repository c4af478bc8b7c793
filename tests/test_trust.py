"""What is read stays in the folders it may name, and nothing that is stored is read by pickle."""

import ast
import shutil
from pathlib import Path

import pytest

import activity_embeddings
from activity_embeddings import ActivityModel, IcebergSnapshots
from activity_embeddings.transformations.contract.activity_model import describe_model
from activity_embeddings.transformations.definitions.snapshot_source import snapshot_source
from activity_embeddings.transformations.definitions.tags import within_repo
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import path_within
from activity_embeddings.transformations.offline.repo_file_io import RepoFileIO
from activity_embeddings.transformations.offline.sinks.iceberg import IcebergSink
from activity_embeddings.transformations.serving.process import preload
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support.feast_repo import at, interval

LEADS_OUT = r"expected an absolute path, or one that stays in .*Received: one that leads out"
SPEC, VECTORS = ActivitySpec(), ItemVectorSpec("content_and_behaviour", "1", 64)


@pytest.mark.parametrize("path", ["..", "../x", "a/../../x", "./../x", "../repo/x"])
def test_a_relative_path_that_leads_out_is_refused(path):
    with pytest.raises(InvalidInput, match=LEADS_OUT):
        path_within(Path("/some/repo"), path)


@pytest.mark.parametrize("path", ["x", "a/../x", "...", "..x", "a/..x/b"])
def test_a_path_that_stays_is_taken(path):
    assert path_within(Path("/some/repo"), path) == Path("/some/repo") / path
    assert path_within(Path("/some/repo"), "/else/where") == Path("/else/where")


def test_a_definition_in_the_repo_is_registered_by_its_path_in_it(tmp_path):
    repo = Path("/some/repo")
    assert within_repo(repo / "x" / ".." / "models", repo, "a model") == "models"
    assert within_repo("s3://bucket/models", repo, "a model") == "s3://bucket/models"
    (tmp_path / "link").symlink_to(tmp_path / "repo")
    assert within_repo(tmp_path / "repo" / "models", tmp_path / "link", "a model") == "models"


def test_a_definition_beside_the_repo_is_refused():
    repo = Path("/some/repo")
    with pytest.raises(InvalidInput) as raised:
        within_repo(repo / ".." / "models" / "cnn", repo, "model 'cnn'")
    assert str(raised.value) == (
        "model 'cnn': expected a path relative to the feature repo, or a URL, since the registry "
        "is for every machine. Received: /some/models/cnn. Give one within the feature repo, or "
        "'file:///some/models/cnn' if every machine has it there"
    )


def change_tag(view, tag, path):
    view.tags[tag] = path


def change_sink(view, path):
    view.batch_source.file_options.uri = path


CHANGES = {
    "the model's folder": (
        "job_activity_embedding_cnn",
        lambda view: change_tag(view, "model_path", "../outside/cnn"),
    ),
    "the table of vectors": (
        "job_embedding",
        lambda view: change_tag(view, "vector_table", "data/../../outside"),
    ),
    "the snapshots": (
        "job_activity_sequence",
        lambda view: change_sink(view, "../outside/snapshots"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_registry_that_names_a_path_outside_the_repo_is_refused(repo, change):
    repo.run("apply")
    outside = repo.path.parent / "outside"
    outside.mkdir()
    shutil.copytree(repo.path / "models" / "cnn", outside / "cnn")
    before = sorted(outside.rglob("*"))
    name, edit = CHANGES[change]
    store = repo.store
    view = store.registry.get_feature_view(name, store.project)
    edit(view)
    store.registry.apply_feature_view(view, store.project)
    outcome = repo.feast(*interval(at(0), at(1)))
    assert outcome.code == 1 and "that leads out of it" in " ".join(outcome.output.split())
    if change != "the snapshots":  # which servers do not read
        with pytest.raises(InvalidInput, match=LEADS_OUT):
            preload(repo.path)
    assert sorted(outside.rglob("*")) == before
    assert not list(repo.data.glob("snapshots/**/*.parquet"))


def test_an_iceberg_table_names_files_of_the_repo(repo):
    source = snapshot_source(
        IcebergSnapshots(repo.path / "data" / "lake"), "a", "1", repo=repo.path, owner="us"
    )
    properties = {"activity-embeddings.repo": str(repo.path)}
    found = RepoFileIO.parse_location("data/lake/x.parquet", properties)
    assert found == ("file", "", f"{repo.path}/data/lake/x.parquet")
    with pytest.raises(InvalidInput, match=LEADS_OUT):
        RepoFileIO.parse_location("data/../../x.parquet", properties)
    for warehouse, uri in (("../lake", "sqlite:///lake.db"), ("lake", "sqlite:///../lake.db")):
        source.warehouse, source.catalog_properties = warehouse, {"uri": uri}
        with pytest.raises(InvalidInput, match=LEADS_OUT):
            IcebergSink.of(source, repo.path)


@pytest.mark.parametrize("version", ["../1", "1/2", "", ".", "..", "1 2", 1])
def test_versions_are_no_paths(models, tmp_path, version):
    with pytest.raises(InvalidInput, match=r"`version` should be (letters|of type str)"):
        ItemVectorSpec("own", version, 4)
    shutil.copytree(models / "cnn", tmp_path / "cnn")
    shutil.rmtree(tmp_path / "cnn" / "assets.extra")
    with pytest.raises(InvalidInput, match=r"`version`.*Received: "):
        line = ActivityModel(
            tmp_path / "cnn", name="cnn", version=version, spec=SPEC, vector_spec=VECTORS
        )
        describe_model(line, spec=SPEC, vector_spec=VECTORS)


UNPICKLE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
BY_PIPE = Path("batch", "executors", "processes.py")
"""Sends pickles to processes that it starts itself, over a pipe that nobody else has."""


def modules():
    package = Path(activity_embeddings.__file__).parent
    files = [*package.rglob("*.py"), *package.joinpath("transformations").rglob("*.py")]
    files += package.joinpath("training").rglob("*.py")  # links, which rglob does not follow
    return sorted(set(files))


def test_no_module_reads_a_pickle():
    """`np.load` reads none unless it is told to; the test of the vector table plants one."""
    files = modules()
    assert len(files) > 100
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
                if names == ["pickle"] and file.parts[-3:] == BY_PIPE.parts:
                    names = []
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call):
                for keyword in node.keywords:
                    if keyword.arg == "allow_pickle":
                        assert ast.unparse(keyword.value) == "False", f"{file}:{node.lineno}"
                if ast.unparse(node.func).rpartition(".")[2] in ("read_pickle", "to_pickle"):
                    raise AssertionError(f"{file}:{node.lineno}")
            for name in names:
                assert name.partition(".")[0] not in UNPICKLE, f"{file}:{node.lineno}"
