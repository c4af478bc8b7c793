"""What trains and evaluates says which extra it needs; the core does without.

`test_wheel` publishes and serves with the core alone.
"""

import os
import re
import subprocess
import sys
import tomllib

import pytest

import activity_embeddings
from activity_embeddings.transformations.extras import MODULES, require_extra
from support.core_only import link_core
from support.feast_repo import PROJECT
from support.processes import COMMAND

MODULE_OF = {"scikit-learn": "sklearn", "adbc-driver-postgresql": "adbc_driver_postgresql"}
NEED = {
    "train": "train",
    "tune": "train",
    "evaluate": "evaluate",
    "OrderedPostgreSQLOfflineStore": "postgres",
    "OrderedPostgreSQLOfflineStoreConfig": "postgres",
    "OrderedSparkOfflineStore": "spark",
    "OrderedSparkOfflineStoreConfig": "spark",
}
LACKS = {
    "train": {"optuna": True, "lightgbm": False},
    "evaluate": {"optuna": True, "lightgbm": True},
    "postgres": {"psycopg": True, "optuna": False},
    "spark": {"pyspark": True, "optuna": False},
}
DATES = ["--from", "2024-03-01", "--validate-from", "2024-03-02", "--until", "2024-03-03"]
RANKER = ["--rank-from", "2024-03-01", "--test-from", "2024-03-02", "--until", "2024-03-03"]
LOOK = ["--choose-from", "2024-03-01", "--test-from", "2024-03-02", "--until", "2024-03-03"]


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """Return a function that runs Python where nothing but the core is installed."""
    site = link_core(tmp_path_factory.mktemp("core") / "site-packages")

    def run(code, *arguments, cwd=None):
        # -S: no site-packages but the one in PYTHONPATH; -O: Feast is imported sooner.
        return subprocess.run(
            [sys.executable, "-OS", "-c", code, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), str(site)])},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def requirements():
    """Return the names of the distributions of each extra, as pyproject.toml has them."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return {
        extra: [re.split(r"[<>=]", line)[0] for line in lines]
        for extra, lines in project["optional-dependencies"].items()
    }


def test_the_modules_of_an_extra_are_those_that_it_installs():
    declared = requirements()
    assert declared["evaluate"][0] == "activity-embeddings[train]"
    declared["evaluate"][:1] = declared["train"]
    # As Feast has them.
    assert declared["redis"] == ["feast[redis]", "redis"]
    declared["redis"] = ["redis"]
    declared["postgres"] = ["psycopg", "psycopg_pool", *declared["postgres"][1:]]
    declared["iceberg"] = [re.sub(r"\[.*\]", "", name) for name in declared["iceberg"]]
    for extra, modules in MODULES.items():
        assert sorted(modules) == sorted(MODULE_OF.get(name, name) for name in declared[extra])
    assert set(MODULES) | {"all", "dev", "docs"} == set(declared)


def test_nothing_is_missing_where_all_extras_are_installed():
    for extra in MODULES:
        require_extra(extra, "the tests")


POSTGRES = [
    "a.PostgreSQLSnapshots().source('view', '1', None)",
    "require_extra('postgres', 'snapshots in PostgreSQL')",
]
ASK = f"""
import activity_embeddings as a
from activity_embeddings.transformations.extras import require_extra
for name in {[name for name in activity_embeddings.__all__ if name not in NEED]}: getattr(a, name)
for statement in {POSTGRES}:
    try: eval(statement)
    except a.MissingExtra as error: print(error)
"""


@pytest.mark.process
def test_the_core_has_every_other_public_name_and_no_snapshots_in_postgres(core):
    """In one interpreter, since most of the time goes into what it imports."""
    done = core(ASK)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(POSTGRES)
    for line in said:
        assert line.startswith("snapshots in PostgreSQL: expected the packages")
        assert line.endswith("Run pip install 'activity-embeddings[postgres]'")


@pytest.mark.process
@pytest.mark.parametrize(("name", "extra"), NEED.items())
def test_a_public_name_says_which_extra_it_needs(core, name, extra):
    code = (
        "import activity_embeddings as a\n"
        f"try: a.{name}\n"
        "except a.MissingExtra as error: print(isinstance(error, ImportError), error)\n"
    )
    done = core(code)
    assert done.stdout.startswith(f"True activity_embeddings.{name}: expected"), done.stderr
    assert done.stdout.endswith(f"Run pip install 'activity-embeddings[{extra}]'\n")
    for package, named in LACKS[extra].items():
        assert (package in done.stdout) == named


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "cnn", *DATES], "train"),
        (["tune", "cnn", *DATES], "train"),
        (["train-item-encoder", "--until", "2024-03-03"], "train"),
        (["measure", *LOOK], "train"),
        (["evaluate", *RANKER], "evaluate"),
        (["compare", "decay", "cnn"], "evaluate"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_a_command_says_in_one_line_which_extra_it_needs(core, arguments, extra, tmp_path):
    done = core(COMMAND, *arguments, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert f" {arguments[0]}: expected the packages of the extra {extra!r}" in line
    assert line.endswith(f"Run pip install 'activity-embeddings[{extra}]'")
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())
