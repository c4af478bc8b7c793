"""What a sink in PostgreSQL promises beyond the contract of all sinks."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pyarrow as pa
import pytest
from feast import RepoConfig
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from psycopg.conninfo import make_conninfo

from activity_embeddings.transformations.errors import AlreadyRunning, InvalidInput, NotReady
from activity_embeddings.transformations.offline.sinks import postgres
from activity_embeddings.transformations.offline.sinks.postgres import PostgresSink
from support import processes

pytestmark = pytest.mark.postgres

DAY = 86_400_000_000
T = 1_709_251_200_000_000  # 2024-03-01
TIMES = pa.timestamp("us", "UTC")


@pytest.fixture
def sink(database, tmp_path):
    return sink_in(database, tmp_path, "view_v1")


def sink_in(database, folder, table):
    return PostgresSink(make_conninfo(**database.connection), "s", table, folder / table)


def rows(ids, **more):
    moments = pa.array([T] * len(ids), pa.int64()).cast(TIMES)
    columns = {"member_id": pa.array(ids, pa.int64()), "event_timestamp": moments, **more}
    return pa.RecordBatch.from_pydict(columns)


def publish(sink, as_of, *batches):
    writer = sink.staging.writer(as_of, {"model": "m"})
    for batch in batches:
        writer.write(batch)
    writer.close()
    return sink.commit(as_of)


def test_how_rows_lie_in_the_file_is_not_their_content(sink):
    words = pa.array([["a", "bc"], None, [], ["", None], ["x" * 9]], pa.list_(pa.string()))
    batch = rows([1, 2, 3, 4, 5], words=words)
    assert publish(sink, T, batch)
    assert not publish(sink, T, batch.slice(0, 1), batch.slice(1, 3), batch.slice(4))
    for other in (
        [["ab", "c"], None, [], ["", None], ["x" * 9]],
        [["a", "bc"], [], None, ["", None], ["x" * 9]],
        [["a", "bc"], None, [], [None, ""], ["x" * 9]],
        [["a"], None, ["bc"], ["", None], ["x" * 9]],
    ):
        changed = rows([1, 2, 3, 4, 5], words=pa.array(other, pa.list_(pa.string())))
        assert publish(sink, T, changed)
        assert sink.read(T)["words"].to_pylist() == other


def test_a_new_commit_lowers_the_mark_of_every_online_store(sink):
    for day in range(3):
        publish(sink, T + day * DAY, rows([1]))
        sink.mark_published("a", T + day * DAY)
    sink.mark_published("b", T)
    publish(sink, T + DAY, rows([1]))
    assert (sink.published("a"), sink.published("b")) == (T + 2 * DAY, T)
    publish(sink, T + DAY, rows([1, 2]))
    assert (sink.published("a"), sink.published("b")) == (T + DAY - 1, T)


def test_a_column_that_is_new_joins_the_table_and_another_type_is_refused(sink, database):
    publish(sink, T, rows([1]))
    publish(sink, T + DAY, rows([2], more=pa.array([0.5], pa.float32())))
    assert sink.read(T).column_names == ["member_id", "event_timestamp"]
    assert sink.read(T + DAY)["more"].to_pylist() == [0.5]
    with database.connect() as connection:
        found = connection.execute("SELECT more FROM s.view_v1 ORDER BY member_id").fetchall()
    assert found == [(None,), (0.5,)]
    with pytest.raises(InvalidInput, match=r"'more' should be real.* Received: bigint"):
        publish(sink, T + 2 * DAY, rows([2], more=pa.array([1], pa.int64())))
    with pytest.raises(InvalidInput, match=r"Received: 'x' of type date32"):
        publish(sink, T + 2 * DAY, rows([2], x=pa.array([1], pa.date32())))
    assert sink.committed() == [T, T + DAY]


def test_views_that_begin_at_once_share_the_tables(database, tmp_path):
    sinks = [sink_in(database, tmp_path, f"view{i}_v1") for i in range(6)]
    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(lambda sink: publish(sink, T, rows([1])), sinks))
    assert [sink.committed() for sink in sinks] == [[T]] * 6


def test_a_user_may_write_in_a_schema_that_he_may_not_create(database, tmp_path):
    writer = database.new_user()
    with database.connect() as connection:
        connection.execute("CREATE SCHEMA s")
        connection.execute(f"GRANT CREATE, USAGE ON SCHEMA s TO {writer}")
    info = make_conninfo(**{**database.connection, "user": writer})
    sink = PostgresSink(info, "s", "view_v1", tmp_path)
    assert publish(sink, T, rows([1]))
    sink.mark_published("a", T)
    other = PostgresSink(info, "t", "view_v1", tmp_path)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        publish(other, T, rows([1]))


def test_readers_wait_for_no_commit_and_see_it_whole(sink):
    publish(sink, T, rows([1, 2]))
    with sink.together():
        publish(sink, T, rows([3]))
        assert sink.read(T)["member_id"].to_pylist() == [1, 2]
    assert sink.read(T)["member_id"].to_pylist() == [3]


HOLDER = """
import signal, sys
from pathlib import Path
from activity_embeddings.transformations.offline.sinks.postgres import PostgresSink
with PostgresSink(*sys.argv[1:4], Path(".")).locked():
    print("locked", flush=True)
    signal.pause()
"""


@pytest.mark.process
def test_the_lock_of_another_process_ends_with_it(sink):
    process = processes.start(HOLDER, sink.info, sink.schema, sink.table)
    process.wait_for("locked")
    with pytest.raises(AlreadyRunning), sink.locked():
        pass
    process.kill()
    with sink.locked():
        process.wait()


def test_a_snapshot_that_is_not_there_is_named(sink):
    publish(sink, T, rows([1]))
    with pytest.raises(NotReady, match=r"view_v1 .*a snapshot as of 2024-03-02 00:00 UTC"):
        sink.read(T + DAY)


@pytest.mark.parametrize(
    ("named", "schema", "table"),
    [
        ("s.view_v1", "s", "view_v1"),
        ("S.View_v1", "s", "view_v1"),
        ('"S".View_v1', "S", "view_v1"),
        ('"a b"."c.d""e"', "a b", 'c.d"e'),
        ("view_v1", "features", "view_v1"),
    ],
)
def test_a_table_is_named_as_in_sql(tmp_path, named, schema, table):
    sink = postgres.sink_of(PostgreSQLSource(name="v", table=named), config_of(tmp_path))
    assert (sink.schema, sink.table) == (schema, table)
    assert sink.staging.folder.parent == tmp_path / "data" / "staging"
    assert "word" not in repr(sink)


@pytest.mark.parametrize("source", [{"query": "SELECT 1"}, {"table": "a.b.c"}, {"table": "a b"}])
def test_what_is_no_table_is_refused(tmp_path, source):
    with pytest.raises(InvalidInput, match=r"v: the sink should be a table"):
        postgres.sink_of(PostgreSQLSource(name="v", **source), config_of(tmp_path))


def config_of(folder):
    return RepoConfig(
        project="p",
        registry="none.db",
        provider="local",
        entity_key_serialization_version=3,
        repo_path=folder,
        offline_store={
            "type": "postgres",
            "host": "h",
            "database": "d",
            "db_schema": "features",
            "user": "u",
            "password": "word",
        },
    )
