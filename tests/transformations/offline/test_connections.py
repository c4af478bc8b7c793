"""Connections to PostgreSQL are kept while a run lasts, and no longer."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL

from activity_embeddings.transformations.offline import connections
from activity_embeddings.transformations.offline.connections import kept_connections
from activity_embeddings.transformations.offline.postgres import rows, statements, stream

pytestmark = pytest.mark.postgres


@pytest.fixture
def info(database):
    return make_conninfo(**database.connection)


def by_statements(info):
    with statements(info) as cursor:
        return cursor.execute("SELECT pg_backend_pid()").fetchone()[0]


def by_rows(info):
    with rows(info) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


WAYS = pytest.mark.parametrize("session", [by_statements, by_rows])


@WAYS
def test_a_run_uses_a_connection_again_and_closes_it(session, info, database):
    with kept_connections():
        first = session(info)
        with kept_connections():
            assert session(info) == first
        assert session(info) == first
    with database.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        while connection.execute(query, [first]).fetchone()[0]:
            pass  # the server ends the session a moment after it was told to
    assert session(info) != session(info)


@WAYS
def test_two_at_once_are_two_connections(session, info):
    with kept_connections(), statements(info) as cursor, rows(info):
        assert cursor.execute("SELECT pg_backend_pid()").fetchone()[0] != session(info)


@WAYS
def test_each_thread_has_its_own(session, info):
    with kept_connections(), ThreadPoolExecutor(1) as other:
        assert other.submit(session, info).result() != session(info)


@WAYS
def test_one_that_idled_is_not_used_again(session, info, monkeypatch):
    monkeypatch.setattr(connections, "SECONDS_IDLE", 0)
    with kept_connections():
        assert session(info) != session(info)


def test_what_failed_is_undone_and_its_connection_closed(info):
    with kept_connections():
        with statements(info) as cursor:
            cursor.execute("CREATE TABLE kept AS SELECT 1 AS x, pg_backend_pid() AS pid")
        for failing in (statements, rows):
            with pytest.raises(ZeroDivisionError), failing(info) as session:
                cursor = session if failing is statements else session.cursor()
                cursor.execute("DELETE FROM kept")
                raise ZeroDivisionError
        with rows(info) as connection, connection.cursor() as cursor:
            cursor.execute("DELETE FROM kept")  # and not committed
        with statements(info) as cursor:
            found = cursor.execute("SELECT x, pid <> pg_backend_pid() FROM kept").fetchall()
    assert found == [(1, True)]


def test_columns_may_change_from_one_statement_to_the_next(info):
    """Many times, since psycopg prepares what it has seen often."""
    with kept_connections():
        with statements(info) as cursor:
            cursor.execute("CREATE TABLE kept (x0 int)")
        for number in range(1, 8):
            with statements(info) as cursor:
                assert len(cursor.execute("SELECT * FROM kept").description) == number
            assert next(stream(info, SQL("SELECT * FROM kept"))).num_columns == number
            with psycopg.connect(info) as other:
                other.execute(f"ALTER TABLE kept ADD COLUMN x{number} int")
