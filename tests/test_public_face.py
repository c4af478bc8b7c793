"""What users import stands in `activity_embeddings`, and what is stored names it alone."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from feast.repo_config import (
    get_batch_engine_config_from_type,
    get_offline_config_from_type,
    get_online_config_from_type,
)

import activity_embeddings
from support.feast_repo import DEFINITIONS, PROJECT

FACE = Path(activity_embeddings.__file__)
HEAVY = {"feast", "tensorflow", "keras", "pandas", "numpy", "pyarrow", "click"}


def imports_for_type_checkers():
    """Return module by name, as `__init__.py` tells type checkers."""
    (block,) = [node for node in ast.parse(FACE.read_text()).body if isinstance(node, ast.If)]
    return {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def names_imported(file):
    """Return (module, name) of every import of this package in a file."""
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("activity_embeddings")
        for alias in node.names
    ]


@pytest.mark.process
def test_importing_it_imports_nothing_heavy():
    code = "import sys, activity_embeddings; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "activity_embeddings" in loaded
    assert not HEAVY & set(loaded)
    assert not [name for name in loaded if name.startswith("activity_embeddings.")]


@pytest.mark.process
def test_an_error_can_be_caught_without_importing_what_raises_it():
    code = "import sys; from activity_embeddings import InvalidInput; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize("name", activity_embeddings.__all__)
def test_every_name_is_what_type_checkers_are_told(name):
    value = getattr(activity_embeddings, name)
    if name == "__version__":
        assert value.count(".") == 2
        return
    module = import_module(imports_for_type_checkers()[name])
    assert value is getattr(module, name)
    assert getattr(value, "__doc__", None) or isinstance(value, tuple)


def test_type_checkers_are_told_every_name_and_no_other():
    assert sorted(imports_for_type_checkers()) == [
        name for name in activity_embeddings.__all__ if name != "__version__"
    ]
    assert set(activity_embeddings.__all__) <= set(dir(activity_embeddings))


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'embed'"):
        activity_embeddings.embed  # noqa: B018


@pytest.mark.parametrize("file", ["feature_store.yaml", "feature_store.redis.yaml"])
def test_the_types_in_feature_store_yaml_stay(file):
    """They are in the files of every user."""
    settings = yaml.safe_load((DEFINITIONS / file).read_text())
    engine, store = settings["batch_engine"]["type"], settings["offline_store"]["type"]
    assert engine == "activity_embeddings.ActivityComputeEngine"
    assert store == "activity_embeddings.OrderedDuckDBOfflineStore"
    dask = "activity_embeddings.OrderedDaskOfflineStore"
    sqlite = "activity_embeddings.ThreadedSqliteOnlineStore"
    assert settings["online_store"]["type"] in (sqlite, "redis")
    assert get_online_config_from_type(sqlite)().type == sqlite
    assert get_batch_engine_config_from_type(engine)().type == engine
    assert get_offline_config_from_type(store)().type == store
    assert get_offline_config_from_type(dask)().type == dask
    spark = "activity_embeddings.OrderedSparkOfflineStore"
    assert get_offline_config_from_type(spark)().type == spark
    postgres = "activity_embeddings.OrderedPostgreSQLOfflineStore"
    connection = {"host": "h", "database": "d", "user": "u", "password": "p"}
    assert get_offline_config_from_type(postgres)(**connection).type == postgres


def test_the_import_in_the_registry_stays(repo):
    """Feast runs the text that `feast apply` stored, whatever version of this package is there."""
    repo.run("apply")
    views = repo.store.list_on_demand_feature_views()
    assert len(views) == 3
    for view in views:
        text = view.feature_transformation.udf_string
        assert text.splitlines()[1] == "    from activity_embeddings import embed_request"
        assert text.count(" import ") == 1


@pytest.mark.parametrize(
    "file",
    [*sorted(DEFINITIONS.glob("*.py")), *sorted((PROJECT / "examples").glob("*.py"))],
    ids=lambda file: file.name,
)
def test_definitions_import_public_names_alone(file):
    for module, name in names_imported(file):
        assert module == "activity_embeddings"
        assert name in activity_embeddings.__all__
