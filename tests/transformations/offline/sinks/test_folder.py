"""Snapshots are whole or not there, and writing the same again changes nothing."""

import shutil
import stat
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from activity_embeddings.transformations.errors import AlreadyRunning, InvalidInput, ModelMismatch
from activity_embeddings.transformations.offline.sinks.base import (
    partition_name,
    read_facts,
    require_same_facts,
)
from activity_embeddings.transformations.offline.sinks.folder import FolderSink
from activity_embeddings.transformations.times import to_datetime, to_us

MIDNIGHT = to_us(datetime(2024, 3, 1, tzinfo=UTC))
FACTS = {"model": "m", "version": "1"}


def batch(*members):
    return pa.RecordBatch.from_pydict(
        {
            "member_id": pa.array(members, pa.int64()),
            "vector": pa.array([[1.0, 2.0]] * len(members), pa.list_(pa.float32())),
        }
    )


def stage(sink, as_of, *batches):
    writer = sink.staging.writer(as_of, FACTS)
    for each in batches:
        writer.write(each)
    writer.close()


def members_seen(sink):
    """What DuckDB, the offline store, sees."""
    query = f"SELECT member_id FROM read_parquet('{sink.path}/*/*.parquet') ORDER BY member_id"
    return [row[0] for row in duckdb.sql(query).fetchall()]


def test_a_staged_snapshot_is_seen_only_after_its_commit(tmp_path):
    sink = FolderSink(tmp_path / "view" / "v1")
    stage(sink, MIDNIGHT, batch(1), batch(2))
    assert sink.committed() == []
    assert not sink.path.exists()
    assert sink.commit(MIDNIGHT)
    assert sink.committed() == [MIDNIGHT]
    assert members_seen(sink) == [1, 2]
    assert read_facts(sink.file(MIDNIGHT)) == FACTS


def test_the_same_rows_again_leave_the_file_untouched_and_others_replace_it(tmp_path):
    sink = FolderSink(tmp_path / "v1")
    stage(sink, MIDNIGHT, batch(1))
    sink.commit(MIDNIGHT)
    before = sink.file(MIDNIGHT).stat()
    stage(sink, MIDNIGHT, batch(1))
    assert not sink.commit(MIDNIGHT)
    assert sink.file(MIDNIGHT).stat().st_mtime_ns == before.st_mtime_ns
    stage(sink, MIDNIGHT, batch(1, 2))
    assert sink.commit(MIDNIGHT)
    assert members_seen(sink) == [1, 2]


@pytest.fixture
def other_disk(tmp_path):
    """A folder on another disk than `tmp_path`, where the machine has one."""
    candidates = [Path(place) for place in ("/dev/shm", "/var/tmp") if Path(place).is_dir()]
    elsewhere = [p for p in candidates if p.stat().st_dev != tmp_path.stat().st_dev]
    with tempfile.TemporaryDirectory(dir=(elsewhere or candidates)[0]) as folder:
        yield Path(folder)


def test_a_sink_may_be_a_link_to_another_disk(tmp_path, other_disk):
    sink = FolderSink(tmp_path / "v1")
    (other_disk / "real").mkdir()
    sink.path.symlink_to(other_disk / "real")
    stage(sink, MIDNIGHT, batch(1))
    assert sink.commit(MIDNIGHT)
    sink.mark_published("sqlite:a", MIDNIGHT)
    sink.file(MIDNIGHT).chmod(0o640)
    stage(sink, MIDNIGHT, batch(1, 2))
    assert sink.commit(MIDNIGHT)
    assert sink.path.is_symlink() and list(tmp_path.iterdir()) == [sink.path]
    assert sink.published("sqlite:a") == MIDNIGHT - 1
    assert members_seen(sink) == [1, 2] == members_seen(FolderSink(other_disk / "real"))
    assert stat.S_IMODE(sink.file(MIDNIGHT).stat().st_mode) == 0o640


def test_a_snapshot_may_have_been_moved_to_another_disk(tmp_path, other_disk):
    sink = FolderSink(tmp_path / "v1")
    stage(sink, MIDNIGHT, batch(1))
    sink.commit(MIDNIGHT)
    moved = Path(shutil.move(sink.file(MIDNIGHT).parent, other_disk / "moved"))
    sink.file(MIDNIGHT).parent.symlink_to(moved)
    stage(sink, MIDNIGHT, batch(1, 2))
    assert sink.commit(MIDNIGHT)
    assert members_seen(sink) == [1, 2]
    (moved / "snapshot.parquet").unlink()
    stage(sink, MIDNIGHT, batch(3))
    assert sink.commit(MIDNIGHT)
    assert members_seen(sink) == [3]
    assert sink.file(MIDNIGHT).parent.is_symlink() and (moved / "snapshot.parquet").is_file()


def test_two_names_of_a_sink_share_a_lock(tmp_path):
    sink, link = FolderSink(tmp_path / "v1"), FolderSink(tmp_path / "also")
    sink.path.mkdir()
    link.path.symlink_to("v1")
    assert {sink, link} == {link} and FolderSink(tmp_path / "v2") not in {sink, link}
    with link.locked(), pytest.raises(AlreadyRunning, match="one run at a time"), sink.locked():
        pass


def test_a_sink_on_a_disk_that_is_not_there_is_named(tmp_path):
    (tmp_path / "snapshots").symlink_to(tmp_path / "unmounted")
    sink = FolderSink(tmp_path / "snapshots" / "view" / "v1")
    with pytest.raises(InvalidInput, match="unmounted, which is not there"), sink.locked():
        pass
    assert not (tmp_path / "unmounted").exists()


def test_as_of_times_survive_in_folder_names(tmp_path):
    sink = FolderSink(tmp_path / "v1")
    moments = [MIDNIGHT, MIDNIGHT + 1, MIDNIGHT + 123_456, MIDNIGHT + 86_400_000_000]
    for moment in reversed(moments):
        stage(sink, moment, batch(1))
        sink.commit(moment)
    assert sink.committed() == moments
    assert partition_name(MIDNIGHT) == "as_of=20240301T000000Z"
    assert to_us(to_datetime(moments[2])) == moments[2]


def test_what_an_interrupted_run_left_is_cleared(tmp_path):
    sink = FolderSink(tmp_path / "v1")
    stage(sink, MIDNIGHT, batch(1))
    sink.staging.clear()
    assert list(tmp_path.iterdir()) == []


def test_what_is_staged_alone_is_found_beside_by_the_name_of_its_sink(tmp_path):
    names = [("job", "v1"), ("job", "v1.staging"), ("course", "v2")]
    sinks = [FolderSink(tmp_path / view / version) for view, version in names]
    for sink in sinks:
        stage(sink, MIDNIGHT, batch(1))
    assert sinks[0].commit(MIDNIGHT) and sinks[1].commit(MIDNIGHT)
    stage(sinks[0], MIDNIGHT, batch(2))
    found = FolderSink(tmp_path / "other" / "v1").beside()
    assert sorted(sink.path for sink in found) == sorted(sink.path for sink in sinks)


def test_the_published_mark_belongs_to_one_store(tmp_path):
    sink = FolderSink(tmp_path / "v1")
    sink.path.mkdir()
    assert sink.published("sqlite:a") is None
    sink.mark_published("sqlite:a", MIDNIGHT)
    assert sink.published("sqlite:a") == MIDNIGHT
    assert sink.published("redis:b") is None
    sink.forget_published()
    assert sink.published("sqlite:a") is None


def test_a_history_takes_only_what_was_computed_with_the_same_facts(tmp_path):
    sink = FolderSink(tmp_path / "view" / "v1")
    vector_spec = {"name": "a", "version": "1", "dimension": 64}
    writer = sink.staging.writer(MIDNIGHT, {"version": "1", "vector_spec": vector_spec})
    writer.write(batch(1))
    writer.close()
    sink.commit(MIDNIGHT)
    # The file is from before there were fingerprints: the vectors were the user's own.
    own = {"version": "1", "vector_spec": {**vector_spec, "fingerprint": ""}}
    require_same_facts(sink, MIDNIGHT, own, what="the view")
    for other in (
        {**own, "version": "2"},
        {**own, "vector_spec": {**vector_spec, "fingerprint": "one"}},
    ):
        with pytest.raises(ModelMismatch, match=r"^the view: .*other facts: .*a new version"):
            require_same_facts(sink, MIDNIGHT, other, what="the view")
