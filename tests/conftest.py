"""Fixtures shared by all tests, and which of the tests are run."""

import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("FEAST_USAGE", "False")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What tests compute is small: threads would wait for each other longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import pytest

import support.unchecked  # noqa: F401  before Feast
from support import system
from support.made_once import made_once

TESTS = Path(__file__).parent
TEMPORARY = "PYTEST_DEBUG_TEMPROOT"
"""Environment variable: where pytest makes the temporary folders of tests."""
LONGEST = (
    "test_courses.py",
    "test_docs.py",
    "test_written_by_workers.py",
    "test_executors.py",
    "test_wheel.py",
    "test_iceberg.py",
    "training/evaluation/test_evaluate.py",
    "test_postgres.py",
    "test_train_command.py",
    "test_kinds.py",
    "test_evaluate_command.py",
    "test_job_embedding.py",
    "test_model_versions.py",
)
"""Files of tests that take longest, from the longest on."""

# Nothing there has to survive a crash of the machine, and to wait for a disk at every commit of a
# store takes longer than all that some files compute.
in_memory = system.folder_in_memory()
if in_memory is not None:
    os.environ.setdefault(TEMPORARY, str(in_memory))


def pytest_configure():
    lacking = [need for need in system.missing() if need.in_ci]
    if lacking and os.environ.get(system.REQUIRED):
        raise pytest.UsageError(f"{system.REQUIRED} is set, but {'; '.join(map(str, lacking))}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config, specs):
    """Have the workers be forks of one process that has imported what they need."""
    import execnet

    from support.commands import commands

    stack = ExitStack()
    config.add_cleanup(stack.close)
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="workers-")))
    python = stack.enter_context(commands(folder)) / "python"
    specs[:] = [execnet.XSpec(f"{spec}//python={python}") for spec in specs]


def pytest_ignore_collect(collection_path):
    # None leaves the question to others.
    return system.left_out(collection_path, TESTS) or None


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker("browser")
    lacking = {need.mark for need in system.missing() if need.mark}
    left_out = [item for item in items if any(map(item.get_closest_marker, lacking))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    # The files that take longest begin, so that no worker ends long after the others.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    place = {TESTS / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (place.get(item.path, len(place)), item.path not in slow))


def pytest_terminal_summary(terminalreporter):
    for need in system.missing():
        terminalreporter.write_line(str(need))


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """The three packaged models of the feature repo; the CNN has its first, random weights."""
    from support.packaged_models import package_models

    return made_once(tmp_path_factory, "models", package_models)


@pytest.fixture(scope="session")
def models_of_kinds(tmp_path_factory) -> Path:
    """Packaged models of several kinds of activity: see `support.kinds.repo_of_kinds`."""
    from support.kinds import package_models_of_kinds, repo_of_kinds

    def make(folder: Path) -> None:
        package_models_of_kinds(folder)
        repo_of_kinds(tmp_path_factory.mktemp("guide") / "repo", folder)

    return made_once(tmp_path_factory, "models-of-kinds", make)


@pytest.fixture(scope="session")
def encoder_models(tmp_path_factory) -> Path:
    """A small item encoder, and three packaged models for its vectors."""
    from support.item_encoders import package_all

    return made_once(tmp_path_factory, "encoder-models", package_all)


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server; `new` makes a database in it."""
    from support.postgres_server import postgres_server

    with postgres_server() as database:
        yield database


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes of Ray, which keep their copies of models where no other test does."""
    from support.ray_cluster import two_nodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIVITY_EMBEDDINGS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PYTHONOPTIMIZE", "1")
        patch.setenv("RAY_raylet_start_wait_time_s", "120")  # on cores that are busy
        with two_nodes() as nodes:
            yield nodes


@pytest.fixture
def database(postgres):
    """A new database in PostgreSQL."""
    return postgres.new()


@pytest.fixture
def repo(tmp_path, models):
    """A feature repo over `small_data`, not applied yet."""
    from support.feast_repo import small_repo

    return small_repo(tmp_path / "repo", models)
