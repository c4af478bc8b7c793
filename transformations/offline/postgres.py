"""PostgreSQL, by the connection of Feast's offline store: rows as Arrow, in bounded memory.

Rows go through ADBC, by PostgreSQL's binary COPY: nothing becomes a Python object. Other statements
go through psycopg, which Feast uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import adbc_driver_manager.dbapi
import adbc_driver_postgresql.dbapi
import psycopg
import pyarrow as pa
from adbc_driver_manager import Error as AdbcError
from feast import RepoConfig
from psycopg.sql import SQL, Composed

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.feast_compat.postgres import connection_string
from activity_embeddings.transformations.offline.connections import connection_to

Connection = adbc_driver_manager.dbapi.Connection
"""Of ADBC: a transaction from the first statement on."""

DatabaseError = (AdbcError, psycopg.Error)
"""What the two libraries raise."""


def connection_of(config: RepoConfig, what: str) -> str:
    """Return what libpq connects with to the offline store of a feature repo.

    Parameters
    ----------
    config
        Of the feature repo.
    what
        What needs it, for the message.

    Raises
    ------
    InvalidInput
        The offline store is no PostgreSQL.
    """
    from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig

    settings = config.offline_store
    if not isinstance(settings, PostgreSQLConfig):
        raise InvalidInput(
            f"{what}: expected an offline store of type postgres in feature_store.yaml, whose "
            f"connection is used. Received: {settings.type}"
        )
    return connection_string(settings)


@contextmanager
def statements(info: str) -> Iterator[psycopg.Cursor]:
    """Give a cursor for one transaction of statements."""
    with (
        connection_to(_connect, info) as connection,
        connection.transaction(),
        connection.cursor() as cursor,
    ):
        yield cursor


@contextmanager
def rows(info: str) -> Iterator[Connection]:
    """Give a connection for one transaction with rows in Arrow; what is not committed is undone."""
    with connection_to(adbc_driver_postgresql.dbapi.connect, info) as connection:
        yield connection
        connection.rollback()


def stream(info: str, query: Composed | SQL) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a query as they come, some megabytes at a time."""
    with rows(info) as connection, connection.cursor() as cursor:
        cursor.execute(query.as_string(None))
        with cursor.fetch_record_batch() as reader:
            schema = pa.schema([field.remove_metadata() for field in reader.schema])
            yield pa.RecordBatch.from_pylist([], schema)
            for batch in reader:
                yield pa.RecordBatch.from_arrays(batch.columns, names=batch.schema.names)


def _connect(info: str) -> psycopg.Connection:
    # A statement that is prepared is refused once the columns of its table have changed.
    return psycopg.connect(info, prepare_threshold=None)
