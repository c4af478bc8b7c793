"""A feature repo whose snapshots lie in Iceberg tables is the same to whoever reads it.

What it publishes, serves and joins is held to a repo with the same data and the default folder, by
the real commands and stores.
"""

import json
import shutil
import signal
import sqlite3
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog

from activity_embeddings.training.models import GeometricDecay
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.check import check
from activity_embeddings.transformations.offline.sinks.places import sink_of
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.times import to_us
from support import processes
from support.feast_repo import (
    Repo,
    at,
    events_table,
    interval,
    make_encoder_repo,
    run_killed,
    small_data,
    small_repo,
)
from support.iceberg_repo import WAREHOUSE, in_iceberg
from support.item_encoders import postings_table, small_postings

pytestmark = pytest.mark.slow

SINK = ("activity_embeddings.transformations.offline.sinks.iceberg", "IcebergSink")
SEQUENCE = "job_activity_sequence"
EMBEDDINGS = [f"job_activity_embedding_{name}" for name in ("unweighted_average", "cnn")]
FEATURES = [
    f"{SEQUENCE}:activity_job_ids",
    f"{SEQUENCE}:activity_count",
    f"{EMBEDDINGS[0]}:apply_embedding",
    f"{EMBEDDINGS[1]}:activity_embedding",
]
ITEMS = ["job_embedding:embedding"]


def sinks(repo):
    store = repo.store
    views = [*store.list_batch_feature_views()]
    return {
        view.name: sink_of(view, store.config)
        for view in views
        if view.name.startswith("job_")
        and view.batch_source is not None
        and "snapshots" in view.batch_source.name
    }


def snapshots(repo):
    """Every row of every snapshot, with what it says it was computed with."""
    return {
        name: {t: (sink.read(t).to_pylist(), sink.facts(t)) for t in sink.committed()}
        for name, sink in sinks(repo).items()
    }


def tables(repo):
    """Where each table's metadata is: another place after every change."""
    with sqlite3.connect(repo.path / WAREHOUSE / "catalog.db") as connection:
        query = (
            "SELECT table_name, metadata_location FROM iceberg_tables WHERE table_name <> 'runs'"
        )
        return dict(connection.execute(query).fetchall())


def labels(times=(0, 0.5, 1, 2.25, 3, 4, 40)):
    """Every member at cut-offs, between them, and when everything is older than the ttl."""
    members = [1, 3, 7, 14, 41, 999]
    rows = [(member, at(day)) for day in times for member in members]
    frame = pd.DataFrame(rows, columns=["member_id", "event_timestamp"])
    return frame.sample(frac=1, random_state=0).reset_index(drop=True)


def joined(store, features=FEATURES, frame=None):
    frame = labels() if frame is None else frame
    table = store.get_historical_features(frame, features).to_arrow()
    rows = table.to_pylist()
    assert len(rows) == len(frame)
    return sorted(rows, key=lambda row: json.dumps(row, default=str))


@pytest.fixture(scope="module")
def pair(tmp_path_factory, models):
    """Return a repo with a folder and one with Iceberg tables, both published for three days."""
    folder = tmp_path_factory.mktemp("pair")
    pair = []
    for name in ("folder", "iceberg"):
        repo = small_repo(folder / name, models, seed=3)
        if name == "iceberg":
            in_iceberg(repo)
        repo.publish(at(0), at(3))
        repo.keep()
        pair.append(repo)
    return pair


@pytest.fixture
def iceberg(pair):
    return pair[1].put_back()


def test_snapshots_and_online_rows_are_those_of_a_folder(pair, iceberg):
    folder, _ = pair
    expected = snapshots(folder)
    assert snapshots(iceberg) == expected
    assert len(expected) == 4 and all(len(each) == 3 for each in expected.values())
    assert iceberg.online_rows() == folder.online_rows()
    before = iceberg.online_rows(), tables(iceberg)
    outcome = iceberg.materialize(at(0), at(3))
    assert "no files new or changed" in outcome.output
    assert (iceberg.online_rows(), tables(iceberg)) == before


def test_training_joins_are_those_of_a_folder(pair, iceberg, monkeypatch, tmp_path):
    folder, _ = pair
    expected = joined(folder.store)
    assert any(row["activity_count"] for row in expected)
    assert all(
        row["activity_count"] is None for row in expected if row["event_timestamp"] == at(40)
    )
    monkeypatch.chdir(tmp_path)
    assert joined(iceberg.store) == expected
    in_order = iceberg.store.get_historical_features(labels(), FEATURES).to_df()
    assert in_order["member_id"].tolist() == labels()["member_id"].tolist()
    both = folder, iceberg
    for repo in both:
        repo.edit("feature_store.yaml", "activity_embeddings.OrderedDuckDBOfflineStore", "duckdb")
    try:
        monkeypatch.chdir(iceberg.path)
        assert joined(iceberg.store) == expected
    finally:
        folder.put_back()


def test_versions_of_a_model_are_those_of_a_folder_and_one_may_be_taken_back(
    pair, iceberg, models, tmp_path
):
    folder, _ = pair
    spec, vectors = ActivitySpec(), ItemVectorSpec("content_and_behaviour", "1", 64)
    second = tmp_path / "second"
    package_model(
        GeometricDecay(r=0.1).build(spec, vectors),
        second,
        name="unweighted_average",
        version="2",
        spec=spec,
        vector_spec=vectors,
    )
    try:
        before = joined(folder.store)
        for source in (second, models / "unweighted_average"):
            for repo in pair:
                target = repo.path / "models" / "unweighted_average"
                shutil.rmtree(target)
                shutil.copytree(source, target)
                repo.publish(at(2), at(4))
            assert snapshots(iceberg) == snapshots(folder)
            assert iceberg.online_rows() == folder.online_rows()
            after = joined(folder.store)
            assert joined(iceberg.store) == after
            assert (after == before) == (source != second)
            assert not check(iceberg.store).differences
        names = {f"{EMBEDDINGS[0]}__v{version}" for version in "12"}
        assert names <= set(tables(iceberg))
    finally:
        folder.put_back()


def test_check_finds_no_difference(iceberg):
    report = check(iceberg.store)
    assert not report.differences and report.compared[SEQUENCE]


def test_nothing_in_the_registry_or_a_table_says_where_the_repo_is(iceberg):
    registry = (iceberg.data / "registry.db").read_bytes()
    assert b"data/warehouse" in registry
    assert b"transformations.definitions.snapshot_source" not in registry
    assert str(iceberg.path).encode() not in registry
    for path in tables(iceberg).values():
        assert path.startswith(WAREHOUSE)
        assert str(iceberg.path) not in (iceberg.path / path).read_text()
    applied = iceberg.run("apply").output
    assert "Updated" not in applied.replace("Updated on demand", "")


def test_a_moved_repo_goes_on(pair, iceberg, tmp_path):
    folder, _ = pair
    moved = Repo(iceberg.path.rename(tmp_path / "elsewhere"))
    try:
        assert joined(moved.store) == joined(folder.store)
        moved.materialize(at(3), at(4))
        assert sinks(moved)[SEQUENCE].committed() == [to_us(at(day)) for day in (1, 2, 3, 4)]
        assert not iceberg.path.exists()
    finally:
        moved.path.rename(iceberg.path)


def test_compaction_expiry_and_deletion_change_nothing_else(pair, iceberg, monkeypatch):
    folder, _ = pair
    rows, online = snapshots(folder), iceberg.online_rows()
    monkeypatch.chdir(iceberg.path)
    catalog = load_catalog(
        "activity-embeddings",
        type="sql",
        uri=f"sqlite:///{WAREHOUSE}/catalog.db",
        warehouse=WAREHOUSE,
    )
    for name in tables(iceberg):
        table = catalog.load_table(f"activity_embeddings.{name}")
        every = table.scan().to_arrow()
        table.overwrite(every.take(np.random.default_rng(1).permutation(len(every))))
        table.maintenance.expire_snapshots().older_than(pd.Timestamp.now().to_pydatetime()).commit()
    assert snapshots(iceberg) == rows
    assert joined(iceberg.store) == joined(folder.store)
    iceberg.materialize(at(0), at(3))
    assert snapshots(iceberg) == rows and iceberg.online_rows() == online
    for sink in sinks(iceberg).values():
        sink.expire(to_us(at(2)))
        sink.delete_members("member_id", pa.array([7], pa.int64()))
    left = [(day, 14) for day in (1.5, 2.5, 3.5)] + [(day, 7) for day in (1.5, 2.5, 3.5)]
    frame = pd.DataFrame(
        [(member, at(day)) for day, member in left], columns=["member_id", "event_timestamp"]
    )
    got = iceberg.store.get_historical_features(frame, FEATURES).to_df()
    there = got["activity_count"].notna().tolist()
    assert there == [False, True, True, False, False, False]


def test_a_bad_event_leaves_the_tables_as_they_were(iceberg):
    before = tables(iceberg), iceberg.online_rows()
    events, _ = small_data(seed=3)
    iceberg.write_events(events_table([*events, (1, 1, "WINK", at(3.5))]))
    outcome = iceberg.feast(*interval(at(3), at(4)))
    assert outcome.code == 1 and "WINK" in outcome.output
    assert (tables(iceberg), iceberg.online_rows()) == before


@pytest.fixture(scope="module")
def first_day(tmp_path_factory, models):
    """Return a repo published for a day, and what it holds after two more that nothing disturbs."""
    folder = tmp_path_factory.mktemp("first_day")
    repo = in_iceberg(small_repo(folder / "repo", models, seed=2, members=20, days=20))
    repo.publish(at(0), at(1))
    repo.keep()
    repo.materialize(at(1), at(3))
    return repo, (snapshots(repo), repo.online_rows(), joined(repo.store))


@pytest.mark.process
@pytest.mark.parametrize(
    "stage",
    [
        ("commit", 1, "before"),
        ("commit", 2, "after"),
        ("commit", 5, "after"),
        ("mark_published", 2, "before"),
        ("_change", 3, "before"),  # the first is of the record of the run
    ],
    ids=str,
)
def test_a_killed_run_is_finished_by_the_next(stage, first_day):
    repo, undisturbed = first_day
    repo.put_back()
    done = run_killed(repo, (*SINK, *stage), at(1), at(3))
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    repo.materialize(at(1), at(3))
    assert (snapshots(repo), repo.online_rows(), joined(repo.store)) == undisturbed


def test_before_the_first_run_a_join_says_what_to_do(tmp_path, models, monkeypatch):
    repo = in_iceberg(small_repo(tmp_path / "repo", models))
    repo.run("apply")
    assert not (repo.path / WAREHOUSE).exists()
    with pytest.raises(ValueError, match=r"expected published snapshots.*feast materialize"):
        joined(repo.store)
    assert not (repo.path / WAREHOUSE).exists()


def test_item_vectors_of_an_encoder_lie_in_iceberg_too(tmp_path, encoder_models):
    events, _ = small_data(seed=6, members=20, days=12)
    repos = []
    for name in ("folder", "iceberg"):
        repo = make_encoder_repo(
            tmp_path / name,
            encoder_models,
            events_table(events),
            postings_table(small_postings()),
        )
        if name == "iceberg":
            in_iceberg(repo)
            in_iceberg(repo, file="item_vectors.py", line="    repo=REPO,\n")
        repo.publish(at(0), at(2))
        repo.materialize(at(2), at(6))
        repos.append(repo)
    folder, iceberg = repos
    assert "job_embedding__v1" in tables(iceberg)
    assert snapshots(iceberg) == snapshots(folder)
    assert len(snapshots(folder)["job_embedding"]) == 2
    assert iceberg.online_rows() == folder.online_rows()
    items = pd.DataFrame({"job_id": [1, 5, 11], "event_timestamp": [at(5.5)] * 3})
    assert joined(iceberg.store, ITEMS, items) == joined(folder.store, ITEMS, items)
    assert not check(iceberg.store).differences


@pytest.mark.process
def test_a_second_machine_that_publishes_meanwhile_wins_and_the_first_changes_nothing(
    tmp_path, models
):
    """Two feature repos, as on two machines, whose tables are the same; real processes both."""
    shared = f'"file://{tmp_path}/warehouse"'
    more = f', catalog_properties={{"uri": "sqlite:///{tmp_path}/catalog.db"}}'
    repos = [
        in_iceberg(small_repo(tmp_path / name, models, seed=2, members=20, days=20), shared, more)
        for name in ("first", "second")
    ]
    for repo in repos:
        repo.run("apply")
    first, second = repos
    second.edit("feature_store.yaml", "publishing_delay_minutes: 30", "publishing_delay_minutes: 9")
    first.materialize(at(0), at(1))
    # Where the first run begins to compute it has looked, and waits for the second one to end.
    wait = f"""
from support import processes
from activity_embeddings.transformations.batch.snapshot_run import SnapshotRun
compute = SnapshotRun.compute
def late(self, *arguments):
    compute(self, *arguments)
    done = processes.run(processes.FEAST, *{interval(at(1), at(2))!r}, folder={str(second.path)!r})
    assert done.returncode == 0, done.stderr
SnapshotRun.compute = late
from feast.cli.cli import cli
cli()
"""
    online = first.online_rows()
    done = processes.run(wait, *interval(at(1), at(2)), folder=first.path)
    assert done.returncode == 4
    assert "Error: Iceberg table activity_embeddings.job_activity_embedding" in done.stderr
    assert "perhaps of another machine, has changed since this one began" in done.stderr
    assert "Traceback" not in done.stderr
    assert first.online_rows() == online
    (created,) = {
        row["created_timestamp"] for row in sinks(first)[SEQUENCE].read(to_us(at(2))).to_pylist()
    }
    assert created == at(2) + timedelta(minutes=9)
    first.materialize(at(1), at(2))
    assert not check(first.store).differences
