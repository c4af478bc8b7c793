"""The built wheel works in a new environment without extras, outside the checkout.

It lies beside what could hide it. PyPI has a distribution `transformations` that installs a package
of that name, and most projects have a folder `training` of their own. Neither may touch this
package, nor this package them.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from support.core_only import link_core
from support.feast_repo import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.process]

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "activity_embeddings")
FOLDERS = ("transformations", "training", "feature_repo")
THEIRS = "transformations"
NOW = datetime(2024, 3, 8, tzinfo=UTC)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy, so that no earlier build is in it and none stays."""
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "*.db*", "snapshots", "job_vectors")
    for name in SOURCES + FOLDERS:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, source / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(PROJECT / name, source / name)
    # What a run leaves in the checkout should not be in the wheel.
    (source / "feature_repo" / "data" / "registry.db").write_bytes(b"left by a run")
    out = tmp_path_factory.mktemp("wheel")
    _run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--wheel-dir", out, source),
        ]
    )
    (built,) = out.glob("*.whl")
    return built


class Environment:
    """A new environment with the wheel and PyPI's `transformations`, used in another project."""

    def __init__(self, folder, wheel):
        self.project = folder / "project"
        (self.project / "training").mkdir(parents=True)
        (self.project / "training" / "__init__.py").write_text('OWNER = "the user"\n')
        venv = folder / "venv"
        _run([sys.executable, "-m", "venv", "--without-pip", venv])
        self.python = venv / "bin" / "python"
        self.command = venv / "bin" / "activity-embeddings"
        self.pip("install", "--quiet", "--no-deps", "--no-index", wheel)
        (self.site,) = (venv / "lib").glob("python*/site-packages")
        # What the core depends on is installed already.
        (self.site / "core.pth").write_text(str(link_core(folder / "core")))
        _copy_distribution(THEIRS, self.site)

    def pip(self, *arguments):
        return _run([sys.executable, "-m", "pip", "--python", self.python, *arguments])

    def run(self, *arguments, cwd=None):
        return _run(list(arguments), cwd=cwd or self.project)

    def execute(self, code, *arguments, cwd=None):
        return self.run(self.python, "-c", code, *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("installed"), wheel)


def _run(command, cwd=None):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PYTHONOPTIMIZE"] = "1"  # as the tutorial says
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _copy_distribution(name, site):
    """Install a distribution that this environment has into another, file by file."""
    for file in importlib.metadata.distribution(name).files:
        if "__pycache__" not in file.parts:
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), target)


def test_it_holds_one_package_with_the_template_and_nothing_that_a_run_left(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"activity_embeddings"}
    held = {name.removeprefix("activity_embeddings/") for name in names}
    for name in (
        "py.typed",
        "template/views.py",
        "template/feature_store.yaml",
        "template/data/job_postings.parquet",
        "template/data/LICENSE.entree",
        "template/models/geometric_decay/saved_model.pb",
        "template/models/item_encoder/assets.extra/item_encoder.json",
        "training/evaluation/report/page.html.jinja",
        "training/datasets/onet/occupations.txt",
        "training/datasets/data/films/LICENSE.movietweetings",
        "training/datasets/data/eshop/activity_events/history.parquet",
    ):
        assert name in held
    assert not [name for name in held if "registry" in name and name.endswith(".db")]


def test_each_of_three_packages_is_found_and_none_is_another(installed):
    code = (
        "import json, transformations, training, activity_embeddings\n"
        "from activity_embeddings import training as ours, transformations as also_ours\n"
        "print(json.dumps([m.__file__ for m in (transformations, training, activity_embeddings,"
        " ours, also_ours)]))"
    )
    found = [Path(file).parent for file in json.loads(installed.execute(code))]
    package = installed.site / "activity_embeddings"
    assert found == [
        installed.site / THEIRS,
        installed.project / "training",
        package,
        package / "training",
        package / "transformations",
    ]


def test_the_command_says_its_version(installed):
    said = installed.run(installed.command, "--version")
    assert said.split()[-1] == importlib.metadata.version("activity-embeddings")


def test_removing_the_other_distribution_leaves_ours(wheel, tmp_path):
    other = Environment(tmp_path, wheel)
    assert (other.site / THEIRS / "__init__.py").exists()
    other.pip("uninstall", "--quiet", "--yes", THEIRS)
    assert not (other.site / THEIRS / "__init__.py").exists()
    other.execute("import activity_embeddings.transformations.spec")
    other.run(other.command, "--version")


def test_from_two_files_to_a_published_vector_in_two_commands(installed, tmp_path):
    random = np.random.default_rng(0)
    users, items = [f"u{i}" for i in range(20)], [f"p{i}" for i in range(10)]
    times = [NOW - timedelta(hours=int(h)) for h in random.integers(1, 24 * 6, size=300)]
    events = {
        "user_id": random.choice(users, size=300),
        "sku": random.choice(items, size=300),
        "verb": random.choice(["view", "cart", "buy", "hide", "share"], size=300),
        "at": pa.array(times, pa.timestamp("us", "UTC")),
    }
    vectors = {
        "sku": items,
        "vector": pa.array(random.normal(size=(10, 16)).tolist(), pa.list_(pa.float32())),
        "since": pa.array([NOW - timedelta(days=90)] * 10, pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(events), tmp_path / "events.parquet")
    pq.write_table(pa.table(vectors), tmp_path / "vectors.parquet")
    installed.run(
        *(installed.command, "init", "shop"),
        *("--events", tmp_path / "events.parquet", "--vectors", tmp_path / "vectors.parquet"),
        *("--days", "7", "--length", "20", "--apply"),
    )
    shop = installed.project / "shop"
    interval = [f"{NOW - timedelta(days=days):%Y-%m-%dT%H:%M:%S}" for days in (1, 0)]
    # In one interpreter, since most of the time goes into what it imports.
    code = f"""
import json
from feast import FeatureStore
from feast.cli.cli import cli
cli({["materialize", *interval]}, standalone_mode=False)
store = FeatureStore(".")
(request,) = store.list_on_demand_feature_views()[0].source_request_sources.values()
nothing = {{field.name: None for field in request.schema}}
nothing["request_timestamp"] = "{NOW.isoformat()}"
for service, more in ("recommendations_v1", {{}}), ("recommendations_v1_realtime", nothing):
    rows = [{{"user_id": user, **more}} for user in {users}]
    answer = store.get_online_features(store.get_feature_service(service), rows).to_dict()
    print(json.dumps(answer, default=str))
"""
    stored, as_of_request = map(
        json.loads, installed.execute(code, cwd=shop).strip().splitlines()[-2:]
    )
    acted = [sum(user == who for who in events["user_id"]) for user in users]
    assert stored["activity_count"] == [min(20, count) for count in acted]
    assert np.shape(stored["buy_embedding"]) == (20, 16)
    assert np.allclose(as_of_request["buy_embedding"], stored["buy_embedding"], atol=1e-5)


def test_the_sample_is_applied_as_it_comes(installed):
    installed.run(installed.command, "init", "sample", "--sample", "--apply")
    # What it wrote is read here, where Feast is imported already.
    store = FeatureStore(repo_path=str(installed.project / "sample"))
    listed = [view.name for view in store.list_all_feature_views()]
    assert "job_activity_embedding_geometric_decay" in listed
