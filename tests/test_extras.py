"""The core publishes and serves; what trains and evaluates says which extra it needs."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import activity_embeddings
from activity_embeddings.transformations.extras import MODULES, require_extra
from support.feast_repo import PROJECT, at
from support.processes import COMMAND, FEAST

SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
MODULE_OF = {"scikit-learn": "sklearn"}
NEED = {"train": "train", "tune": "train", "evaluate": "evaluate"}
DATES = ["--from", "2024-03-01", "--validate-from", "2024-03-02", "--until", "2024-03-03"]
RANKER = ["--rank-from", "2024-03-01", "--test-from", "2024-03-02", "--until", "2024-03-03"]


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """Return a function that runs Python where nothing but the core is installed."""
    site = tmp_path_factory.mktemp("core")
    extras = {name for names in MODULES.values() for name in names} - {"jinja2"}
    for entry in SITE_PACKAGES.iterdir():
        if entry.name not in extras and entry.suffix not in (".pth", ".egg-link"):
            (site / entry.name).symlink_to(entry)

    def run(code, *arguments, cwd=None):
        # -S: no site-packages but the one in PYTHONPATH.
        return subprocess.run(
            [sys.executable, "-S", "-c", code, *map(str, arguments)],
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
    declared["redis"] = [re.sub(r"feast\[(.*)\]", r"\1", name) for name in declared["redis"]]
    for extra, modules in MODULES.items():
        assert sorted(modules) == sorted(MODULE_OF.get(name, name) for name in declared[extra])
    assert set(MODULES) | {"all", "dev", "docs"} == set(declared)


def test_nothing_is_missing_where_all_extras_are_installed():
    for extra in MODULES:
        require_extra(extra, "the tests")


@pytest.mark.process
def test_the_core_has_every_public_name_but_those_that_train_and_evaluate(core):
    names = [name for name in activity_embeddings.__all__ if name not in NEED]
    done = core(f"import activity_embeddings as a\nfor name in {names}: getattr(a, name)")
    assert done.returncode == 0, done.stderr


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
    assert ("lightgbm" in done.stdout) == (extra == "evaluate") and "optuna" in done.stdout


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "cnn", *DATES], "train"),
        (["tune", "cnn", *DATES], "train"),
        (["train-item-encoder", "--until", "2024-03-03"], "train"),
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


@pytest.mark.slow
@pytest.mark.process
def test_the_core_builds_formula_models_and_publishes_and_serves_them(core, repo):
    (repo.path / "models" / "geometric_decay").rename(repo.path / "models" / "before")
    build = """
from activity_embeddings import ActivitySpec, ItemVectorSpec, models, package_model
spec, vectors = ActivitySpec(), ItemVectorSpec("content_and_behaviour", "1", 64)
model = models.GeometricDecay(r=0.8).build(spec, vectors)
package_model(model, "models/geometric_decay", name="geometric_decay", version="1", spec=spec,
              vector_spec=vectors)
"""
    fetch = """
from activity_embeddings import entity_rows
from feast import FeatureStore
store = FeatureStore(".")
recent = {1: [(2, "SAVE", "2024-03-02T00:00:00Z")]}
for service, rows in (
    ("recommendations_v1", [{"member_id": 1}]),
    ("recommendations_v1_realtime", entity_rows([1], recent)),
):
    answer = store.get_online_features(store.get_feature_service(service), rows).to_dict()
    print(service, len(next(v for k, v in answer.items() if k.endswith("_embedding"))[0]))
"""
    interval = [f"{day:%Y-%m-%dT%H:%M:%S}" for day in (at(0), at(1))]
    for code, *arguments in (
        [build],
        [FEAST, "apply"],
        [FEAST, "materialize", *interval],
        [fetch],
    ):
        done = core(code, *arguments, cwd=repo.path)
        assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["recommendations_v1 64", "recommendations_v1_realtime 64"]
