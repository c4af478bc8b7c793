"""What snapshots in Iceberg tables promise beyond the contract of all sinks."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from feast import RepoConfig
from pyiceberg.catalog import load_catalog

from activity_embeddings.transformations.errors import AlreadyRunning, InvalidInput, NotReady
from activity_embeddings.transformations.offline.sinks import iceberg
from activity_embeddings.transformations.offline.sinks.base import table_name, view_of_table
from activity_embeddings.transformations.offline.sinks.content import content_hash
from support import processes
from support.snapshot_places import (
    DAY,
    FACTS,
    MEMBERS,
    IcebergPlace,
    T,
    publish,
    publish_when_told,
    rows,
    stage,
)

VIEW = "job_activity_embedding_cnn"


@pytest.fixture
def place(tmp_path):
    return IcebergPlace(tmp_path / "repo", "data/warehouse", "sqlite:///data/catalog.db")


@pytest.fixture
def sink(place):
    return place.sink(VIEW, "1")


@pytest.fixture
def machines(tmp_path):
    """Two machines: a feature repo on each, and a warehouse that both reach."""
    uri, warehouse = f"sqlite:///{tmp_path}/catalog.db", f"file://{tmp_path}/warehouse"
    return [IcebergPlace(tmp_path / name, warehouse, uri) for name in ("a", "b")]


def table_of(sink):
    """Open a table as other programs do."""
    source = sink.source
    return source.get_catalog_client().load_table(f"{source.namespace}.{source.iceberg_table}")


def compact(sink):
    """Write all rows of a table anew, in another order and in other files, as engines do."""
    table = table_of(sink)
    every = table.scan().to_arrow()
    shuffled = every.take(np.random.default_rng(0).permutation(len(every)))
    table.overwrite(shuffled)


def test_reading_makes_neither_a_catalog_nor_a_folder(sink, place):
    assert sink.committed() == [] and sink.published("sqlite:a") is None
    assert not place.repo.exists()
    with pytest.raises(NotReady, match="Received: no such table; run `feast materialize`"):
        sink.read(T)


def test_the_same_rows_again_make_no_iceberg_snapshot_in_whatever_batches(sink):
    whole = rows(MEMBERS)
    publish(sink, T, whole)
    before = table_of(sink)
    assert not publish(sink, T, whole.slice(0, 1), whole.slice(1))
    assert table_of(sink).metadata_location == before.metadata_location


def test_a_commit_is_one_change_of_the_table(sink):
    publish(sink, T, rows(MEMBERS))
    version = len(table_of(sink).metadata.metadata_log)
    publish(sink, T, rows(MEMBERS, seed=1))
    assert len(table_of(sink).metadata.metadata_log) == version + 1


def test_rows_are_in_the_order_of_writing_after_a_compaction(sink):
    for day in range(3):
        publish(sink, T + day * DAY, rows(MEMBERS, T + day * DAY, day))
    compact(sink)
    for day in range(3):
        expected = rows(MEMBERS, T + day * DAY, day).to_pylist()
        assert sink.read(T + day * DAY).to_pylist() == expected
        batches = list(sink.batches(T + day * DAY, 2))
        assert pa.Table.from_batches(batches).to_pylist() == expected
    assert not publish(sink, T, rows(MEMBERS))
    assert publish(sink, T, rows(MEMBERS, seed=9))
    assert sink.read(T).to_pylist() == rows(MEMBERS, seed=9).to_pylist()


def test_a_large_snapshot_is_read_in_parts(sink, monkeypatch):
    monkeypatch.setattr(iceberg, "ROWS_AT_ONCE", 7)
    members = pa.array(range(50), pa.int64())
    stage(sink, T, *(rows(members).slice(start, 10) for start in range(0, 50, 10)))
    sink.commit(T)
    batches = list(sink.batches(T, 5))
    assert max(batch.num_rows for batch in batches) == 5
    assert pa.Table.from_batches(batches).to_pylist() == rows(members).to_pylist()


def test_rows_that_are_left_after_a_deletion_are_known_when_they_come_again(sink):
    publish(sink, T, rows(MEMBERS))
    sink.delete_members("member_id", MEMBERS.slice(0, 2))
    assert not publish(sink, T, rows(MEMBERS).slice(2))


def test_facts_are_kept_once_and_go_with_their_last_snapshot(sink):
    others = {**FACTS, "version": "2"}
    for day in range(4):
        publish(sink, T + day * DAY, rows(MEMBERS), facts=FACTS if day < 2 else others)
    kept = [v for k, v in table_of(sink).properties.items() if ".facts." in k]
    assert sorted(map(json.loads, kept), key=str) == [FACTS, others]
    sink.expire(T + 2 * DAY)
    kept = [v for k, v in table_of(sink).properties.items() if ".facts." in k]
    assert list(map(json.loads, kept)) == [others]


def test_other_columns_are_refused_and_nothing_changes(sink):
    publish(sink, T, rows(MEMBERS))
    before = table_of(sink).metadata_location
    with pytest.raises(InvalidInput, match=r"Received: others, such as extra: int64"):
        publish(sink, T + DAY, rows(MEMBERS).append_column("extra", MEMBERS))
    assert table_of(sink).metadata_location == before


def test_a_snapshot_of_no_rows_is_one(sink):
    publish(sink, T, rows(MEMBERS).slice(0, 0))
    assert sink.committed() == [T]
    assert sink.read(T).num_rows == 0 and sink.read(T).schema == rows(MEMBERS).schema
    assert list(sink.batches(T, 2)) == []
    assert publish(sink, T, rows(MEMBERS))
    assert sink.expire(T + 1) == [T]


@pytest.mark.process
@pytest.mark.parametrize("before", [False, True], ids=["the first commit", "a later one"])
def test_a_run_of_another_machine_is_noticed_and_its_snapshots_stay(machines, before):
    """By two real processes, each in a feature repo of its own, whose lock files are others."""
    ours = machines[0].sink(VIEW, "1")
    if before:
        publish(ours, T - DAY, rows(MEMBERS))
    looked, go = processes.forks.Event(), processes.forks.Event()
    answers = processes.forks.Queue()
    process = processes.forks.Process(
        target=publish_when_told, args=(machines[1], VIEW, looked, go, answers)
    )
    process.start()
    assert looked.wait(60)
    with ours.locked():
        assert publish(ours, T, rows(MEMBERS, T, 1))
    at_first = table_of(ours).metadata_location
    go.set()
    answer = answers.get(timeout=60)
    process.join()
    assert answer.startswith("AlreadyRunning: Iceberg table snapshots.")
    assert "another run, perhaps of another machine, has changed since this one began" in answer
    assert table_of(ours).metadata_location == at_first
    assert ours.read(T).to_pylist() == rows(MEMBERS, T, 1).to_pylist()
    with machines[1].sink(VIEW, "1").locked():
        assert publish(machines[1].sink(VIEW, "1"), T, rows(MEMBERS, T, 7))


def test_a_run_goes_on_after_a_compaction_and_marks_of_others(sink, place):
    publish(sink, T, rows(MEMBERS))
    with sink.locked():
        compact(sink)
        place.sink(VIEW, "1").mark_published("redis:b", T)
        assert publish(sink, T + DAY, rows(MEMBERS))
    assert sink.committed() == [T, T + DAY]
    assert sink.published("redis:b") == T


class Raced(iceberg.IcebergSink):
    """Does something of others between the look at the table and the commit."""

    def _require_schema(self, table, schema):
        super()._require_schema(table, schema)
        self.others()


def raced(sink, others):
    raced = Raced(sink.key, sink.source, sink.folder)
    raced.__dict__["others"] = others
    return raced


def test_a_commit_in_the_last_moment_wins(sink, place):
    publish(sink, T, rows(MEMBERS))
    other = place.sink(VIEW, "1")
    other = replace(other, folder=place.repo / "another_machine")
    late = raced(sink, lambda: publish(other, T, rows(MEMBERS, seed=3)))
    stage(late, T, rows(MEMBERS, seed=4))
    with pytest.raises(AlreadyRunning):
        late.commit(T)
    assert sink.read(T).to_pylist() == rows(MEMBERS, seed=3).to_pylist()
    named = {task.file.file_path for task in table_of(sink).scan().plan_files()}
    assert len(named) == 1


def test_a_compaction_in_the_last_moment_is_built_on(sink):
    publish(sink, T, rows(MEMBERS))
    late = raced(sink, lambda: compact(sink))
    stage(late, T + DAY, rows(MEMBERS, seed=4))
    assert late.commit(T + DAY)
    assert sink.read(T).to_pylist() == rows(MEMBERS).to_pylist()
    assert sink.read(T + DAY).to_pylist() == rows(MEMBERS, seed=4).to_pylist()


@pytest.mark.parametrize("view", ["v", "v__v1", "v_", "v__v"])
@pytest.mark.parametrize("version", ["1", "2024.06", "__v1", "a b", "é"])
def test_a_table_is_called_by_view_and_version(view, version):
    name = table_name(view, version)
    assert name.isascii() and name.replace("_", "").isalnum()
    assert view_of_table(name) == view
    assert table_name(view, f"{version}x") != name


def test_a_table_of_another_name_is_no_sink(place, tmp_path):
    source = place.source(VIEW, "1")
    source.iceberg_table = "mine"
    config = RepoConfig(project="p", registry="r", provider="local", repo_path=tmp_path)
    with pytest.raises(InvalidInput, match=r"should be called by view and version.*mine"):
        iceberg.sink_of(source, config)


def test_other_programs_read_the_rows_by_the_ids_of_columns(sink, place, monkeypatch):
    """Without pyiceberg's mapping of names, as engines of Java do."""
    publish(sink, T, rows(MEMBERS))
    table = table_of(sink)
    with table.transaction() as transaction:
        transaction.remove_properties("schema.name-mapping.default")
    found = table_of(sink).scan(selected_fields=("member_id", "embedding")).to_arrow()
    assert found.column("member_id").to_pylist() == MEMBERS.to_pylist()
    assert found.column("embedding").to_pylist() == rows(MEMBERS).column("embedding").to_pylist()


def test_a_relative_warehouse_is_found_by_a_process_in_the_repo(sink, place, monkeypatch):
    publish(sink, T, rows(MEMBERS))
    monkeypatch.chdir(place.repo)
    catalog = load_catalog(
        "activity-embeddings",
        type="sql",
        uri="sqlite:///data/catalog.db",
        warehouse="data/warehouse",
    )
    table = catalog.load_table(f"snapshots.{table_name(VIEW, '1')}")
    assert table.scan().to_arrow().num_rows == len(MEMBERS)
    assert str(place.repo) not in table.metadata.model_dump_json()


def test_content_is_told_from_other_content():
    whole = rows(MEMBERS)

    def of(*batches):
        return content_hash(whole.schema, batches)

    assert of(whole) == of(whole.slice(0, 3), whole.slice(3))
    swapped = pa.array([1, 0, 2, 3, 4])
    others = [whole.take(swapped), whole.slice(1), rows(MEMBERS, seed=1)]
    for position in range(whole.num_columns):
        column = whole.column(position).take(swapped)
        changed = whole.set_column(position, whole.schema.field(position), column)
        if not changed.equals(whole):
            others.append(changed)
        null = pa.array([None, *whole.column(position).to_pylist()[1:]], column.type)
        others.append(whole.set_column(position, whole.schema.field(position), null))
    hashes = [of(batch) for batch in [whole, *others]]
    assert len(set(hashes)) == len(hashes)
