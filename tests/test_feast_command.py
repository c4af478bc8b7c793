"""The real `feast` command, in processes of its own, does what a Feast user expects."""

import json
import socket
import time
import urllib.request
from datetime import timedelta

import pytest

from support import processes
from support.feast_repo import at

pytestmark = [pytest.mark.slow, pytest.mark.process]


@pytest.fixture
def ran(repo):
    """Return a function that runs a feast command that should succeed and gives its output."""

    def run(*arguments):
        done = repo.process(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    return run


def test_a_days_work_with_the_feast_command(repo, ran):
    planned = ran("plan")
    assert "Created feature view job_activity_sequence" in planned
    assert "Created feature service recommendations_v2" in planned

    applied = ran("apply")
    assert "Deploying infrastructure for job_activity_embedding_cnn" in applied

    backfill = ran("materialize", f"{at(0):%Y-%m-%dT%H:%M:%S}", f"{at(3):%Y-%m-%dT%H:%M:%S}")
    assert "3 snapshots from 2024-03-02 00:00 to 2024-03-04 00:00 UTC" in backfill
    assert "% of the activity in the windows is on unknown items" in backfill

    planned = ran("plan")
    assert "Created" not in planned and "Deleted" not in planned
    again = ran("apply")
    assert "Removing" not in again

    # Goes on where the last interval ended, also after another apply.
    daily = ran("materialize-incremental", f"{at(4.5):%Y-%m-%dT%H:%M:%S}")
    assert "2 snapshots from 2024-03-05 00:00 to 2024-03-05 12:00 UTC" in daily

    listed = ran("feature-views", "list")
    for name in ("job_activity", "job_embedding", "job_activity_embedding_geometric_decay"):
        assert name in listed

    snapshots = repo.snapshot_files()

    ran("teardown")
    assert repo.online_rows() == {}
    kept = {name: data for name, data in snapshots.items() if name.endswith(".parquet")}
    assert repo.snapshot_files() == kept

    # After a teardown a new store is filled from the snapshots that were kept.
    ran("apply")
    ran("materialize", f"{at(4):%Y-%m-%dT%H:%M:%S}", f"{at(4.5):%Y-%m-%dT%H:%M:%S}")
    assert repo.snapshot_files() == snapshots
    assert repo.online_rows()["activity_embeddings_job_activity_sequence"]


def test_an_error_is_one_line_without_a_traceback(repo):
    (repo.path / "models" / "cnn" / "saved_model.pb").unlink()
    failed = repo.process("apply")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("Error: model ")


def test_feast_ui_shows_the_views_with_their_lineage_and_models(repo, ran):
    ran("apply")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = processes.start(
        processes.FEAST, "ui", "--host", "127.0.0.1", "--port", str(port), folder=repo.path
    )
    try:
        page = _get(f"http://127.0.0.1:{port}/", patience=timedelta(seconds=60))
        assert b'<div id="root">' in page
        views = json.loads(
            _get(
                f"http://127.0.0.1:{port}/api/v1/feature_views?project=activity_embeddings",
                patience=timedelta(seconds=20),
            )
        )["featureViews"]
    finally:
        server.kill()
    specs = {view["spec"]["name"]: view["spec"] for view in views}
    cnn = specs["job_activity_embedding_cnn"]
    assert cnn["tags"]["model"] == "cnn"
    assert cnn["tags"]["model_version"] == "1"
    assert cnn["tags"]["model_path"] == "models/cnn"
    assert len(cnn["tags"]["model_fingerprint"]) == 16
    assert cnn["owner"] and cnn["description"]
    assert {source["name"] for source in cnn["sourceViews"]} == {
        "job_activity_sequence",
        "job_embedding",
    }


def _get(url, *, patience):
    deadline = time.monotonic() + patience.total_seconds()
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
