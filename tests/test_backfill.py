"""A backfill is committed day by day, and goes on where it was killed or refused."""

import signal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from activity_embeddings.transformations.offline.sinks.folder import FolderSink
from support.feast_repo import at, events_table, interval, run_killed, small_repo

pytestmark = pytest.mark.slow

COMMIT = ("activity_embeddings.transformations.offline.sinks.folder", "FolderSink", "commit")
AFTER_SIXTEEN = (*COMMIT, 4 * 16 + 1, "after")
"""There are four views; of the seventeenth cut-off one is committed."""
DAYS = (at(0), at(20))


def new_repo(folder, models):
    repo = small_repo(folder / "repo", models, seed=3, members=12, days=20)
    repo.edit(
        "feature_store.yaml", "  snapshot_interval_hours: 24", "  snapshot_interval_hours: 12"
    )
    repo.run("apply")
    return repo


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory, models):
    """A repo whose backfill of forty cut-offs was killed in the seventeenth."""
    repo = new_repo(tmp_path_factory.mktemp("killed"), models)
    killed = run_killed(repo, AFTER_SIXTEEN, *DAYS)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    repo.keep()
    return repo


@pytest.fixture
def killed(killed_once):
    return killed_once.put_back()


def undisturbed(folder, models, *more_events):
    repo = new_repo(folder, models)
    add_events(repo, *more_events)
    repo.materialize(*DAYS)
    return repo.stores()


def add_events(repo, *more_events):
    if more_events:
        pq.write_table(events_table(list(more_events)), repo.events / "late.parquet")


@pytest.mark.process
def test_it_goes_on_at_the_cut_off_where_it_was_killed(killed, tmp_path, models):
    printed = killed.materialize(*DAYS).output
    assert "goes on  after 16 snapshots that the run before had committed" in printed, printed
    assert "24 snapshots from" in printed
    assert killed.stores() == undisturbed(tmp_path, models)
    again = killed.materialize(*DAYS).output
    assert "goes on" not in again and "no files new or changed" in again


@pytest.mark.process
def test_killed_again_it_still_knows_the_cut_offs_of_both_runs(killed, tmp_path, models):
    again = run_killed(killed, AFTER_SIXTEEN, *DAYS)
    assert again.returncode == -signal.SIGKILL
    printed = killed.materialize(*DAYS).output
    assert "goes on  after 32 snapshots" in printed, printed
    assert killed.stores() == undisturbed(tmp_path, models)


@pytest.mark.process
def test_cut_offs_that_late_events_change_are_made_again(killed, tmp_path, models):
    late = (3, 1, "SAVE", at(0.4))
    add_events(killed, late)
    printed = killed.materialize(*DAYS).output
    assert "goes on" not in printed, printed
    assert killed.stores() == undisturbed(tmp_path, models, late)


@pytest.mark.process
def test_a_snapshot_that_is_gone_is_made_again(killed, tmp_path, models):
    sequences = killed.data / "snapshots" / "job_activity_sequence" / "v1"
    (sequences / "as_of=20240302T000000Z" / "snapshot.parquet").unlink()
    assert "goes on  after 15 snapshots" in killed.materialize(*DAYS).output
    assert killed.stores() == undisturbed(tmp_path, models)


def test_bad_rows_at_the_end_of_a_long_interval_leave_the_stores_as_they_were(tmp_path, models):
    repo = new_repo(tmp_path, models)
    before = repo.stores()
    bad = events_table([(3, 1, "SAVE", at(19.9))]).set_column(2, "action", pa.array([None, ""])[:1])
    pq.write_table(bad.cast(events_table([]).schema), repo.events / "bad.parquet")
    refused = repo.feast(*interval(*DAYS))
    assert refused.code == 1 and "'action'" in refused.output, refused.output
    assert repo.stores() == before


@pytest.mark.process
def test_a_run_that_was_refused_meanwhile_takes_nothing_from_what_is_known(
    killed, tmp_path, models
):
    sequences = FolderSink(killed.data / "snapshots" / "job_activity_sequence" / "v1")
    with sequences.locked():
        assert killed.feast(*interval(*DAYS)).code == 4
    assert "goes on  after 16 snapshots" in killed.materialize(*DAYS).output
    assert killed.stores() == undisturbed(tmp_path, models)


@pytest.mark.process
def test_killed_again_before_it_has_checked_its_input_it_still_knows_the_cut_offs(
    killed, tmp_path, models
):
    run = "activity_embeddings.transformations.batch.snapshot_run"
    again = run_killed(killed, (run, "SnapshotRun", "_check", 2, "before"), *DAYS)
    assert again.returncode == -signal.SIGKILL
    assert "goes on  after 16 snapshots" in killed.materialize(*DAYS).output
    assert killed.stores() == undisturbed(tmp_path, models)


@pytest.mark.process
def test_what_a_killed_run_has_overwritten_is_made_again_once_its_events_are_gone(
    killed, tmp_path, models
):
    """The names of the first run's parts are those of the third; the second has other events."""
    add_events(killed, (3, 1, "SAVE", at(0.4)))
    first_cut_off_and_not_recorded = (*COMMIT, 4, "after")
    again = run_killed(killed, first_cut_off_and_not_recorded, *DAYS)
    assert again.returncode == -signal.SIGKILL
    (killed.events / "late.parquet").unlink()
    killed.materialize(*DAYS)
    assert killed.stores() == undisturbed(tmp_path, models)
