"""A run killed by SIGKILL at any stage loses nothing: run again, it ends as if undisturbed."""

import signal

import pytest

from activity_embeddings.transformations.offline.sinks.folder import FolderSink
from support.feast_repo import (
    at,
    interval,
    run_killed,
    small_repo,
)

pytestmark = pytest.mark.slow

SNAPSHOTS = ("activity_embeddings.transformations.offline.sinks.folder", "FolderSink")
STAGES = {
    "while a snapshot is written aside": (
        "activity_embeddings.transformations.offline.sinks.base",
        "SnapshotWriter",
        "write",
        6,
        "after",
    ),
    "before the first commit": (*SNAPSHOTS, "commit", 1, "before"),
    "between the views of one snapshot": (*SNAPSHOTS, "commit", 2, "after"),
    "between two snapshots": (*SNAPSHOTS, "commit", 8, "after"),
    "during the online push": (
        "activity_embeddings.transformations.online.sqlite",
        "SqliteRows",
        "publish",
        4,
        "after",
    ),
    "before the push is recorded": (*SNAPSHOTS, "mark_published", 2, "before"),
    "before the interval is recorded": (
        "activity_embeddings.transformations.batch.engine",
        "states",
        "record_materialization",
        1,
        "before",
    ),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, models):
    repo = _small_repo(tmp_path_factory.mktemp("undisturbed"), models)
    _first_day(repo)
    repo.materialize(at(1), at(3))
    return repo.stores()


@pytest.mark.process
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_is_finished_by_the_next(stage, tmp_path, models, undisturbed):
    repo = _small_repo(tmp_path, models)
    _first_day(repo)
    before = repo.stores()
    killed = run_killed(repo, STAGES[stage], at(1), at(3))

    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert repo.stores() != before or stage in (
        "while a snapshot is written aside",
        "before the first commit",
    )
    repo.materialize(at(1), at(3))
    assert repo.stores() == undisturbed


@pytest.mark.process
def test_after_a_kill_the_next_interval_alone_publishes_too(tmp_path, models):
    """Embeddings of day 2 are committed, its sequences are not; only day 3 is asked for then."""
    repo = _small_repo(tmp_path, models)
    _first_day(repo)
    killed = run_killed(repo, (*SNAPSHOTS, "commit", 3, "after"), at(1), at(2))
    assert killed.returncode == -signal.SIGKILL
    repo.materialize(at(2), at(3))
    online = repo.online_rows()
    sequences = online["activity_embeddings_job_activity_sequence"]
    assert {row[0] for row in sequences} == {
        row[0] for row in online["activity_embeddings_job_activity_embedding_cnn"]
    }


def test_a_second_run_at_the_same_time_is_refused_and_the_first_goes_on(tmp_path, models):
    repo = _small_repo(tmp_path, models)
    _first_day(repo)
    before = repo.stores()
    sequences = FolderSink(repo.data / "snapshots" / "job_activity_sequence" / "v1")
    with sequences.locked():
        second = repo.feast(*interval(at(1), at(2)))
    assert second.code == 4
    assert "Error: " in second.output and "one run at a time" in second.output
    assert repo.stores() == before
    repo.materialize(at(1), at(2))


def _small_repo(folder, models):
    repo = small_repo(folder / "repo", models, seed=2, members=20, days=20)
    # Several batches a view, so that a kill can fall between them.
    with (repo.path / "feature_store.yaml").open("a") as file:
        file.write("materialization:\n  online_write_batch_size: 7\n")
    return repo


def _first_day(repo):
    repo.publish(at(0), at(1))
