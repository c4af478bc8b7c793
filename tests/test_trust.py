"""What is read stays in the folders it may name, and nothing that is stored is read by pickle."""

import ast
import shutil
from pathlib import Path

import pandas as pd
import pytest

import activity_embeddings
from activity_embeddings import ActivityModel, IcebergSnapshots, SequenceWriter
from activity_embeddings.transformations.artifacts import place_of
from activity_embeddings.transformations.contract.activity_model import describe_model
from activity_embeddings.transformations.contract.kept_versions import put_into_place
from activity_embeddings.transformations.definitions.snapshot_source import snapshot_source
from activity_embeddings.transformations.definitions.tags import within_repo
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import path_within
from activity_embeddings.transformations.offline.repo_file_io import RepoFileIO
from activity_embeddings.transformations.offline.sinks.iceberg import IcebergSink
from activity_embeddings.transformations.serving.process import preload
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support.feast_repo import at, events_table

LEADS_OUT = r"expected a path within .*Received: one that leads out of it"
SPEC, VECTORS = ActivitySpec(), ItemVectorSpec("content_and_behaviour", "1", 64)


@pytest.mark.parametrize("path", ["..", "../x", "a/../../x", "./../x", "../repo/x"])
def test_a_relative_path_that_leads_out_is_refused(path):
    with pytest.raises(InvalidInput, match=LEADS_OUT):
        path_within(Path("/some/repo"), path)


@pytest.mark.parametrize("path", ["x", "a/../x", "...", "..x", "a/..x/b"])
def test_a_path_that_stays_is_taken(path):
    assert path_within(Path("/some/repo"), path) == Path("/some/repo") / path


@pytest.mark.parametrize("path", ["/else/where", "/some/repo/x", "//some/repo/x"])
def test_an_absolute_path_is_refused(path):
    for use in (path_within, lambda folder, path: place_of(path, folder)):
        with pytest.raises(
            InvalidInput, match=r"path within /some/repo\. Received: an absolute one"
        ):
            use(Path("/some/repo"), path)


def test_a_url_is_used_as_it_is():
    assert place_of("file:///mnt/share/../x", "/some/repo") == Path("/mnt/share/../x")
    assert place_of("s3://bucket/../x", "/some/repo") is None
    with pytest.raises(InvalidInput, match="the name of one machine"):
        place_of("file://host/x", "/some/repo")


def test_a_definition_in_the_repo_is_registered_by_its_path_in_it(tmp_path):
    repo = Path("/some/repo")
    assert within_repo(repo / "x" / ".." / "models", repo, "a model") == "models"
    assert within_repo("s3://bucket/models", repo, "a model") == "s3://bucket/models"
    (tmp_path / "link").symlink_to(tmp_path / "repo")
    assert within_repo(tmp_path / "repo" / "models", tmp_path / "link", "a model") == "models"


@pytest.mark.parametrize("path", ["models/\0", "models/\ud800"])
def test_a_path_that_no_file_can_have_is_refused(path):
    with pytest.raises(InvalidInput, match="expected one that a file can have"):
        within_repo(path, Path("/some/repo"), "a model")


def test_a_definition_beside_the_repo_is_refused():
    repo = Path("/some/repo")
    with pytest.raises(InvalidInput) as raised:
        within_repo(repo / ".." / "models" / "cnn", repo, "model 'cnn'")
    assert str(raised.value) == (
        "model 'cnn': expected a path relative to the feature repo, or a URL, since the registry "
        "is for every machine. Received: /some/models/cnn. Give one within the feature repo, or "
        "'file:///some/models/cnn' if every machine has it there"
    )


def tag(name):
    return lambda view, path: view.tags.update({name: path})


def path_of_source(view, path):
    view.batch_source.file_options.uri = path


def publish(store):
    store.materialize(at(0), at(1))


def join(store):
    labels = pd.DataFrame({"member_id": [1], "event_timestamp": [at(1)]})
    store.get_historical_features(labels, store.get_feature_service("search_v1")).to_df()


def push(store):
    SequenceWriter(store).push(events_table([(7, 1, "APPLY", at(1.1))]))


PATHS = {
    "the model": ("job_activity_embedding_cnn", tag("model_path"), "cnn", [publish, preload]),
    "the table": ("job_embedding", tag("vector_table"), "table", [publish, preload]),
    "the snapshots": ("job_activity_sequence", path_of_source, "snapshots", [publish, join]),
    "the events": ("job_activity", path_of_source, "events", [publish, push]),
    "the vectors": ("job_embedding", path_of_source, "vectors.parquet", [publish]),
}
"""A view, what a registry says of it, a path, and who uses that."""
SOURCES = ("the events", "the vectors")
REFUSED = r"an absolute one|one that leads out|expected a path relative to the feature repo"


def test_a_path_of_a_registry_is_checked_by_whoever_uses_it(repo):
    """`feast apply` refuses such a path too; a registry may be written without it."""
    outside = repo.path.parent / "outside"
    shutil.copytree(repo.path / "models", outside)
    shutil.copytree(repo.events, outside / "events")
    shutil.copy(repo.data / "job_embeddings.parquet", outside / "vectors.parquet")
    before = sorted(outside.rglob("*"))
    repo.edit("sources.py", 'path="data/activity_events"', f'path="{outside}/events"')
    repo.run("apply", "--skip-source-validation")
    registry, project = repo.store.registry, repo.store.project

    def write(name, change, path):
        view = registry.get_feature_view(name, project)
        change(view, path)
        registry.apply_feature_view(view, project)

    def refused(what):
        for use in PATHS[what][3]:
            with pytest.raises(InvalidInput, match=REFUSED):
                use(repo.store)

    refused("the events")
    write("job_activity", path_of_source, "data/activity_events")
    for what, (name, change, path, _) in PATHS.items():
        there = registry.get_feature_view(name, project)
        # A source may lie beside the repo.
        for place in (outside, *([] if what in SOURCES else ["../outside"])):
            write(name, change, f"{place}/{path}")
            refused(what)
        registry.apply_feature_view(there, project)
    assert sorted(outside.rglob("*")) == before
    assert not list(repo.data.glob("snapshots/**/*.parquet"))
    # With the paths that `feast apply` writes all of them work.
    for use in (publish, join, preload, push):
        use(repo.store)


def test_an_iceberg_table_names_files_of_the_repo(repo):
    source = snapshot_source(
        IcebergSnapshots(repo.path / "data" / "lake"), "a", "1", repo=repo.path, owner="us"
    )
    properties = {"activity-embeddings.repo": str(repo.path)}
    found = RepoFileIO.parse_location("data/lake/x.parquet", properties)
    assert found == ("file", "", f"{repo.path}/data/lake/x.parquet")
    for path in ("data/../../x.parquet", "/x.parquet"):
        with pytest.raises(InvalidInput, match=REFUSED):
            RepoFileIO.parse_location(path, properties)
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
    shutil.copytree(tmp_path / "cnn", tmp_path / "new")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidInput, match=r"`version` should be"):
        put_into_place(tmp_path / "cnn", tmp_path / "new", version)
    assert sorted(tmp_path.rglob("*")) == before


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
