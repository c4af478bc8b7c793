"""Events appended to the offline source, whatever its form, are what the next batch reads."""

import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.data_format import DeltaFormat
from pyarrow.fs import FileSelector, FileSystem, S3FileSystem

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.offline import event_log
from activity_embeddings.transformations.offline.event_log import (
    PushedEvents,
    append_events,
    source_has,
)
from activity_embeddings.transformations.offline.sources import parquet_files, read_events
from activity_embeddings.transformations.spec import ActivitySpec
from support.feast_repo import DIMENSION, at, events_table, make_repo, us, vectors_table
from support.s3_server import CREDENTIALS, REGION, make_bucket, s3_server

HISTORY = [(1, 1, "APPLY", at(-3)), (2, 3, "DISMISS", at(-1))]
NEW = events_table([(1, 2, "SAVE", at(0.5)), (9, 3, "APPLY", at(-5))])
DIRECTORY = 'path="data/activity_events"'


@pytest.fixture
def repo(tmp_path):
    (tmp_path / "no_models").mkdir()
    repo = make_repo(
        tmp_path / "repo",
        tmp_path / "no_models",
        events_table(HISTORY),
        vectors_table([(1, at(-9), np.ones(DIMENSION))]),
    )
    (repo.path / "activity_models.py").write_text("ACTIVITY_MODELS = []\n")
    (repo.path / "services.py").unlink()
    return repo


def applied(repo):
    """Return the store and the view of events."""
    repo.run("apply")
    store = repo.store
    return store, store.get_feature_view("job_activity")


def read(store, view):
    """Return the events as the engine reads them: (member, item, time)."""
    events = read_events(
        store.config,
        store._get_provider().offline_store,
        [view],
        ActivitySpec(),
        start=us(at(-20)),
        end=us(at(20)),
    )
    member = np.repeat(events.member_ids.to_numpy(), np.diff(events.member_start))
    items = events.item_ids.to_numpy()[events.item]
    return list(zip(member.tolist(), items.tolist(), events.time.tolist(), strict=True))


EXPECTED = [
    (1, 1, us(at(-3))),
    (1, 2, us(at(0.5))),
    (2, 3, us(at(-1))),
    (9, 3, us(at(-5))),
]


@pytest.mark.parametrize("offline", ["duckdb", "dask"])
def test_a_folder_gets_one_more_file(repo, offline):
    if offline == "dask":
        repo.edit(
            "feature_store.yaml",
            "activity_embeddings.OrderedDuckDBOfflineStore",
            "activity_embeddings.OrderedDaskOfflineStore",
        )
    store, view = applied(repo)
    history = (repo.events / "history.parquet").read_bytes()
    append_events(store, view, NEW)

    (live,) = repo.events.glob("live-*.parquet")
    assert {path.name for path in repo.events.iterdir()} == {"history.parquet", live.name}
    assert (repo.events / "history.parquet").read_bytes() == history
    assert read(store, view) == EXPECTED
    files = parquet_files(store.config, view)
    assert files.count_rows() == 4
    assert files.earliest() == us(at(-5))


@pytest.mark.parametrize("offline", ["duckdb", "dask"])
def test_what_a_kill_leaves_aside_is_no_event(repo, offline):
    if offline == "dask":
        repo.edit(
            "feature_store.yaml",
            "activity_embeddings.OrderedDuckDBOfflineStore",
            "activity_embeddings.OrderedDaskOfflineStore",
        )
    store, view = applied(repo)
    append_events(store, view, NEW)
    (repo.events / ".live-20240301T000000Z-00.parquet.staging").write_bytes(b"PAR1 half a file")
    assert read(store, view) == EXPECTED
    assert parquet_files(store.config, view).count_rows() == 4


def through_feast(store, view, events):
    schema = parquet_files(store.config, view).schema()
    types = dict(zip(schema.names, schema.types, strict=True))
    event_log._append_through_feast(store, view, events, None, types)


@pytest.mark.parametrize("way", ["ours", "through Feast"])
def test_a_single_file_is_rewritten(repo, way):
    (repo.events / "history.parquet").rename(repo.data / "events.parquet")
    repo.edit("sources.py", DIRECTORY, 'path="data/events.parquet"')
    store, view = applied(repo)
    if way == "ours":
        append_events(store, view, NEW)
    else:
        through_feast(store, view, NEW)
    assert read(store, view) == EXPECTED
    assert pq.read_schema(repo.data / "events.parquet").equals(NEW.schema)
    assert not list(repo.data.glob("*.staging")) + list(repo.data.glob(".*.staging"))


def test_a_file_behind_links_is_rewritten_and_the_links_stay(repo, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    real = Path(shutil.move(repo.events / "history.parquet", shared / "events-2024.parquet"))
    real.chmod(0o640)
    (shared / "events.parquet").symlink_to(real.name)
    (repo.data / "events.parquet").symlink_to(shared / "events.parquet")
    repo.edit("sources.py", DIRECTORY, 'path="data/events.parquet"')
    store, view = applied(repo)
    append_events(store, view, NEW)
    assert read(store, view) == EXPECTED
    assert (repo.data / "events.parquet").is_symlink()
    assert (shared / "events.parquet").is_symlink()
    assert pq.read_metadata(real).num_rows == 4
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    # The lock is beside the file: whoever pushes to it by another name waits for this one.
    assert not list(repo.data.glob(".*.lock")) and len(list(shared.glob(".*.lock"))) == 1


def test_a_folder_behind_a_link_gets_one_more_file(repo, tmp_path):
    shared = Path(shutil.move(repo.events, tmp_path / "shared"))
    repo.events.symlink_to(shared)
    store, view = applied(repo)
    append_events(store, view, NEW)
    assert read(store, view) == EXPECTED
    assert repo.events.is_symlink() and len(list(shared.glob("live-*.parquet"))) == 1


@pytest.mark.parametrize("name", ["live-orders-2024.parquet", "archive/{pushed}"])
def test_a_file_of_the_users_own_is_none_of_a_push(repo, name):
    store, view = applied(repo)
    append_events(store, view, NEW)
    (pushed,) = repo.events.glob("live-*.parquet")
    own = repo.events / name.format(pushed=pushed.name)
    own.parent.mkdir(exist_ok=True)
    (repo.events / "history.parquet").rename(own)
    aside = repo.events / ".live-orders-2024.parquet.writing"
    aside.write_bytes(b"of the user's own pipeline")
    os.utime(aside, (0, 0))
    before = own.read_bytes()

    assert source_has(store, view, pa.array([1, 2, 9])).to_pylist() == [1, 2]
    assert PushedEvents(store, view).count(pa.array([1, 2])) == 1
    assert PushedEvents(store, view).compact() == (1, 2)
    assert PushedEvents(store, view).forget(pa.array([1, 2])) == 1
    assert own.read_bytes() == before and aside.exists()
    assert read(store, view) == [(1, 1, us(at(-3))), (2, 3, us(at(-1))), (9, 3, us(at(-5)))]


def test_where_only_pushed_files_are_left_nobody_is_in_the_source_beside_them(repo):
    store, view = applied(repo)
    append_events(store, view, NEW)
    (repo.events / "history.parquet").unlink()
    members = pa.array([1, 2, 9])
    assert source_has(store, view, members).to_pylist() == []
    assert PushedEvents(store, view).forget(members) == 2
    # What is left says the columns, for the next push and the next run.
    assert source_has(store, view, members).to_pylist() == [] == read(store, view)
    append_events(store, view, NEW)
    assert read(store, view) == [(1, 2, us(at(0.5))), (9, 3, us(at(-5)))]
    assert PushedEvents(store, view).compact() == (2, 2)
    assert len(list(repo.events.iterdir())) == 1


def test_members_are_not_forgotten_while_the_folder_of_events_is_empty(repo):
    """As where a disk is not mounted: who says that their events are gone?"""
    store, view = applied(repo)
    (repo.events / "history.parquet").unlink()
    with pytest.raises(
        InvalidInput, match=r"at least one parquet file.* Received: an empty folder"
    ):
        source_has(store, view, pa.array([1]))


def test_a_broken_link_is_named_and_nothing_is_made(repo, tmp_path):
    (repo.events / "history.parquet").rename(repo.data / "events.parquet")
    repo.edit("sources.py", DIRECTORY, 'path="data/events.parquet"')
    store, view = applied(repo)
    (repo.data / "events.parquet").unlink()
    (repo.data / "events.parquet").symlink_to(tmp_path / "gone.parquet")
    with pytest.raises(InvalidInput, match=r"a link to .*gone.parquet, which is not there"):
        append_events(store, view, NEW)
    assert not (tmp_path / "gone.parquet").exists()


@pytest.mark.parametrize("single", [False, True])
def test_many_writers_at_once_lose_nothing(repo, single):
    if single:
        (repo.events / "history.parquet").rename(repo.data / "events.parquet")
        repo.edit("sources.py", DIRECTORY, 'path="data/events.parquet"')
    store, view = applied(repo)

    def append(step):
        append_events(
            store, view, events_table([(step, 1, "SAVE", at(0) + timedelta(seconds=step))])
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(100, 140)))
    assert [member for member, _, _ in read(store, view)] == [1, 2, *range(100, 140)]


@pytest.mark.parametrize("way", ["ours", "through Feast"])
def test_names_types_and_extra_columns_of_the_source_are_kept(repo, way):
    schema = pa.schema(
        {
            "page": pa.string(),
            "user": pa.int32(),
            "posting": pa.int64(),
            "what": pa.large_string(),
            "when": pa.timestamp("us", "UTC"),
            "loaded": pa.timestamp("us", "UTC"),
            "nr": pa.int64(),
        }
    )
    before = events_table(HISTORY)
    columns = [pa.array(["home", None]), *before.columns, pa.array([at(0)] * 2), pa.array([1, 2])]
    table = pa.table([c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
    if way == "ours":
        repo.write_events(table)
    else:
        pq.write_table(table, repo.data / "events.parquet")
        repo.edit("sources.py", DIRECTORY, 'path="data/events.parquet"')
    repo.edit(
        "sources.py",
        'file_format=ParquetFormat(),\n    timestamp_field="event_timestamp",',
        'file_format=ParquetFormat(),\n    timestamp_field="when",\n    '
        'created_timestamp_column="loaded",\n    field_mapping='
        '{"user": "member_id", "posting": "job_id", "what": "action", "nr": "event_id"},',
    )
    store, view = applied(repo)
    with pytest.raises(InvalidInput, match="'event_id' is missing"):
        append_events(store, view, NEW)
    append = append_events if way == "ours" else through_feast
    started = datetime.now(UTC)
    append(store, view, NEW.append_column("event_id", pa.array([3, 4])))

    assert read(store, view) == EXPECTED
    path = repo.events if way == "ours" else repo.data / "events.parquet"
    rows = pq.read_table(path).to_pylist()
    new = {row["user"]: row for row in rows if row["nr"] in (3, 4)}
    assert new[9] == {
        "page": None,
        "user": 9,
        "posting": 3,
        "what": "APPLY",
        "when": at(-5),
        "loaded": new[9]["loaded"],
        "nr": 4,
    }
    assert started <= new[9]["loaded"] <= datetime.now(UTC)
    if way == "ours":
        (live,) = repo.events.glob("live-*.parquet")
        assert pq.read_schema(live).equals(schema)


def seconds_only(folder: Path) -> None:
    table = events_table(HISTORY)
    times = table["event_timestamp"].cast(pa.timestamp("s", "UTC"))
    pq.write_table(table.set_column(3, "event_timestamp", times), folder / "history.parquet")
    # Parquet knows no seconds: the nearest is milliseconds.
    assert pq.read_schema(folder / "history.parquet").field("event_timestamp").type.unit == "ms"


def required_column(folder: Path) -> None:
    table = events_table(HISTORY).append_column(
        pa.field("page", pa.string(), nullable=False), pa.array(["a", "b"])
    )
    pq.write_table(table, folder / "history.parquet")


def partitioned(folder: Path) -> None:
    (folder / "day=1").mkdir()
    (folder / "history.parquet").rename(folder / "day=1" / "part.parquet")


SOURCES = {
    "an empty folder": (lambda folder: (folder / "history.parquet").unlink(), "an empty folder"),
    "broken": (lambda folder: (folder / "history.parquet").write_bytes(b"no"), "readable source"),
    "coarser times": (seconds_only, "column 'event_timestamp' of type timestamp.ms, tz=UTC."),
    "a required column": (required_column, "'page' should accept nulls"),
    "partitions": (partitioned, "Received: day=1"),
    "no item column": (
        lambda folder: pq.write_table(
            events_table(HISTORY).drop_columns(["job_id"]), folder / "history.parquet"
        ),
        "'job_id' is missing",
    ),
}


@pytest.mark.parametrize("case", SOURCES)
def test_a_source_that_cannot_take_events_is_refused(repo, case):
    change, expected = SOURCES[case]
    store, view = applied(repo)
    change(repo.events)
    before = sorted(repo.events.rglob("*"))
    fine = events_table([(1, 2, "SAVE", at(0.5) + timedelta(microseconds=1))])
    with pytest.raises(InvalidInput, match=expected):
        append_events(store, view, fine)
    assert sorted(repo.events.rglob("*")) == before
    if case == "broken":
        repo.events.joinpath("history.parquet").unlink()
        repo.events.rmdir()
        with pytest.raises(InvalidInput, match="expected a readable source"):
            append_events(store, view, fine)


@pytest.fixture
def on_s3(repo, monkeypatch):
    """A feature repo, applied, with the events in a folder of an object store; its file system."""
    with s3_server() as address:
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        bucket = make_bucket(address, "events").removeprefix("s3://")
        filesystem = S3FileSystem(endpoint_override=address, region=REGION)
        pq.write_table(
            pq.read_table(repo.events), f"{bucket}/log/history.parquet", filesystem=filesystem
        )
        shutil.rmtree(repo.events)
        settings = f'path="s3://{bucket}/log", s3_endpoint_override="{address}"'
        repo.edit("sources.py", DIRECTORY, settings)
        # Or else Feast asks Amazon about the folder, and waits for an answer.
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        store, view = applied(repo)
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        yield store, view, filesystem, f"{bucket}/log"


def test_a_folder_of_an_object_store_gets_one_more_object(on_s3):
    store, view, filesystem, folder = on_s3
    append_events(store, view, NEW)
    assert read(store, view) == EXPECTED
    objects = filesystem.get_file_info(FileSelector(folder))
    assert len(objects) == 2 and any("/live-" in each.path for each in objects)


MEMBERS = pa.array([1, 2, 9])


@pytest.fixture(params=["S3", "a folder through fsspec"])
def elsewhere(request, repo):
    """A feature repo, applied, with events that this machine has no path of; their file system."""
    if request.param == "S3":
        return request.getfixturevalue("on_s3")
    url = f"fsspec+file://{repo.events}"
    repo.edit("sources.py", DIRECTORY, f'path="{url}"')
    return (*applied(repo), *FileSystem.from_uri(url))


def test_pushed_events_of_an_object_store_are_counted_and_forgotten(elsewhere):
    store, view, filesystem, folder = elsewhere
    append_events(store, view, NEW)
    append_events(store, view, NEW.slice(1))
    assert PushedEvents(store, view).count(MEMBERS) == 3
    assert source_has(store, view, MEMBERS).to_pylist() == [1, 2]
    assert PushedEvents(store, view).forget(pa.array([9])) == 2
    assert PushedEvents(store, view).count(MEMBERS) == 1
    assert read(store, view) == EXPECTED[:3]
    (history, live) = sorted(each.path for each in filesystem.get_file_info(FileSelector(folder)))
    assert history == f"{folder}/history.parquet" and live.startswith(f"{folder}/live-")
    table = pq.read_table(live, filesystem=filesystem, partitioning=None)
    assert table.to_pylist() == NEW.slice(0, 1).to_pylist()


def test_what_only_pushes_brought_to_an_object_store_is_forgotten(elsewhere):
    store, view, filesystem, folder = elsewhere
    append_events(store, view, NEW)
    filesystem.delete_file(f"{folder}/history.parquet")
    assert PushedEvents(store, view).forget(MEMBERS) == 2
    assert source_has(store, view, MEMBERS).to_pylist() == [] == read(store, view)
    append_events(store, view, NEW)
    assert read(store, view) == [(1, 2, us(at(0.5))), (9, 3, us(at(-5)))]


def test_files_of_pushes_to_an_object_store_are_merged(elsewhere):
    store, view, filesystem, folder = elsewhere
    for row in range(2):
        append_events(store, view, NEW.slice(row, 1))
    assert PushedEvents(store, view).compact() == (2, 2)
    assert len(filesystem.get_file_info(FileSelector(folder))) == 2
    assert read(store, view) == EXPECTED


def test_a_pushed_file_that_is_gone_or_stays_is_named(elsewhere):
    store, view, filesystem, folder = elsewhere
    append_events(store, view, NEW)
    pushed = PushedEvents(store, view)
    (_, live) = sorted(each.path for each in filesystem.get_file_info(FileSelector(folder)))
    filesystem.delete_file(live)
    with pytest.raises(InvalidInput, match=r"file live-.*: expected a readable source"):
        pushed.forget(MEMBERS)
    files = parquet_files(store.config, view)
    with pytest.raises(InvalidInput, match=r"file gone.parquet: expected one that can be removed"):
        files.remove("gone.parquet")


def test_an_object_store_with_partitions_is_refused(on_s3):
    store, view, filesystem, folder = on_s3
    filesystem.move(f"{folder}/history.parquet", f"{folder}/day=1/history.parquet")
    with pytest.raises(InvalidInput, match=r"a file can be added. Received: .*/day=1/history"):
        append_events(store, view, NEW)
    assert len(filesystem.get_file_info(FileSelector(folder))) == 1


def test_a_source_that_may_lose_events_is_refused(repo):
    """As a Delta table, whose files need not all be of its newest version."""
    store, view = applied(repo)
    view.batch_source.file_options.file_format = DeltaFormat()
    with pytest.raises(InvalidInput, match=r"events can be added: .* Received: a FileSource. Log"):
        append_events(store, view, NEW)
