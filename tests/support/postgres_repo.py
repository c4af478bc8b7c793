"""A feature repo whose sources and snapshots are in PostgreSQL."""

import shutil

import adbc_driver_postgresql.dbapi
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.conninfo import make_conninfo

from support.feast_repo import Repo
from support.postgres_server import Database, use_postgres

SOURCE = """\
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
"""
FIELD = "from feast import Field\n"
IMPORT = "from activity_embeddings import PostgreSQLSnapshots, "
STOCK, ORDERED = "postgres", "activity_embeddings.OrderedPostgreSQLOfflineStore"


def ingest(database: Database, table: str, rows: pa.Table, mode: str = "create") -> None:
    """Write rows to a table of the schema public."""
    info = make_conninfo(**database.connection)
    with adbc_driver_postgresql.dbapi.connect(info) as connection:
        with connection.cursor() as cursor:
            cursor.adbc_ingest(table, rows, mode=mode)
        connection.commit()


def move_to_postgres(
    repo: Repo, database: Database, kind: str = STOCK, items: str = "job_embeddings"
) -> Repo:
    """Put the sources of a repo into a database, and have snapshots kept there.

    `items` is the file of item vectors or postings.
    """
    use_postgres(repo, database, kind)
    ingest(database, "events", pq.read_table(repo.events))
    ingest(database, items, pq.read_table(repo.data / f"{items}.parquet"))
    shutil.rmtree(repo.events)
    (repo.data / f"{items}.parquet").unlink()
    for file, path, table in (
        ("sources.py", '    path="data/activity_events",\n', "events"),
        ("item_vectors.py", f'    path="data/{items}.parquet",\n', items),
    ):
        repo.edit(file, "FileSource", "PostgreSQLSource")
        repo.edit(file, path, f'    table="{table}",\n')
        text = (repo.path / file).read_text()
        text = text.replace("from feast import PostgreSQLSource\n", SOURCE)
        text = text.replace("from feast import Field, PostgreSQLSource\n", f"{FIELD}{SOURCE}")
        (repo.path / file).write_text(text)
    repo.edit("sources.py", "    file_format=ParquetFormat(),\n", "")
    keep_in_postgres(repo, "views.py")
    if "encoded_vector_view" in (repo.path / "item_vectors.py").read_text():
        keep_in_postgres(repo, "item_vectors.py")
    return repo


def keep_in_postgres(repo: Repo, file: str) -> None:
    """Have the views of a module keep their snapshots in PostgreSQL."""
    repo.edit(file, "    repo=REPO,\n", "    repo=REPO,\n    snapshots=PostgreSQLSnapshots(),\n")
    repo.edit(file, "from activity_embeddings import ", IMPORT)


def serve_from_postgres(repo: Repo, database: Database) -> None:
    """Put the online store of a repo into a database."""
    lines = "".join(f"  {name}: {value}\n" for name, value in database.settings.items())
    repo.edit(
        "feature_store.yaml",
        "  type: activity_embeddings.ThreadedSqliteOnlineStore    # sqlite, a connection a thread\n"
        "  path: data/online.db\n",
        f"  type: postgres\n{lines}",
    )


def in_utc(database: Database) -> None:
    """Have new sessions be in UTC, without which a PostgreSQL online store is refused."""
    with database.connect() as connection:
        connection.execute(f"ALTER DATABASE {database.database} SET timezone TO 'UTC'")


def tables(database: Database) -> dict[str, list[tuple]]:
    """Return every row of the schemas of snapshots, whatever its place on the disk.

    Without the records of runs: each run has one.
    """
    with database.connect() as connection:
        named = connection.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'public') "
            "AND tablename <> 'runs' ORDER BY 1"
        ).fetchall()
        return {name: _rows(connection, name) for (name,) in named}


def _rows(connection: psycopg.Connection, table: str) -> list[tuple]:
    found = connection.execute(f"SELECT kept::text FROM {table} AS kept ORDER BY 1")
    return found.fetchall()
