"""Snapshots in PostgreSQL, which Feast's PostgreSQL offline store joins.

    <schema>.<view>__v<version>   the rows of every snapshot, `_as_of` and `_row` behind their own
    <schema>.snapshots            what each snapshot was computed with, its columns and content
    <schema>.published            how far each online store has followed
    <schema>.runs                 the records of runs

The connection is that of `offline_store` in feature_store.yaml. Rows are written aside to files of
this machine, and committed in one transaction: readers see a snapshot as it was or as it is, and
wait for nothing. Tables are created by the first commit.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from feast import RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import TIMESTAMP, require_columns
from activity_embeddings.transformations.errors import AlreadyRunning, InvalidInput, NotReady
from activity_embeddings.transformations.offline.postgres import (
    Connection,
    connection_of,
    rows,
    statements,
    stream,
)
from activity_embeddings.transformations.offline.sinks.base import (
    RUNS,
    SnapshotSink,
    Staging,
    open_snapshot,
    read_facts,
    view_of_table,
)
from activity_embeddings.transformations.offline.sinks.content import content_hash
from activity_embeddings.transformations.times import to_datetime, to_us
from activity_embeddings.transformations.wording import utc

AS_OF, ROW = "_as_of", "_row"
"""Columns behind those of a snapshot: when it is as of, and the position of the row in it."""
SNAPSHOTS, PUBLISHED = "snapshots", "published"
"""Tables beside those of the views."""
ROWS_AT_ONCE = 8_192
"""Rows held in memory while a snapshot is written."""
SECONDS_TO_WAIT = 1.0
"""For the lock: that of a process that has just died is let go some milliseconds later."""

_TYPES = {
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.bool_(): "boolean",
    pa.string(): "text",
    pa.large_string(): "text",
    TIMESTAMP: "timestamptz",
}
_PART = r'"(?:[^"%]|"")+"|[^\W\d][\w$]*'
_TABLE = re.compile(rf"(?:(?P<schema>{_PART})\.)?(?P<table>{_PART})")


def sink_of(source: DataSource, config: RepoConfig) -> SnapshotSink:
    """Return the table that a `PostgreSQLSource` names.

    Raises
    ------
    InvalidInput
        It names none, or the offline store is no PostgreSQL.
    """
    assert isinstance(source, PostgreSQLSource)
    named = _TABLE.fullmatch(source.get_table_query_string())
    if named is None:
        raise InvalidInput(
            f"{source.name}: the sink should be a table in a schema. Received: "
            f"{source.get_table_query_string()}"
        )
    schema = _as_stored(named["schema"]) if named["schema"] else config.offline_store.db_schema
    table = _as_stored(named["table"])
    folder = quote(f"{schema}.{table}", safe="")
    return PostgresSink(
        connection_of(config, f"{source.name}: snapshots in PostgreSQL"),
        schema,
        table,
        Path(config.repo_path or ".") / "data" / "staging" / folder,
    )


@dataclass(frozen=True)
class PostgresSink:
    """A `SnapshotSink` that is a table of a PostgreSQL database.

    Parameters
    ----------
    info
        What libpq connects with.
    schema, table
        Of the rows, `<view>__v<version>`.
    staged
        Folder of this machine for what is written aside.
    """

    info: str = field(repr=False)
    schema: str
    table: str
    staged: Path = field(compare=False)

    @property
    def place(self) -> str:
        """The table and its database."""
        server = conninfo_to_dict(self.info)
        return (
            f"table {self.schema}.{self.table} of database {server.get('dbname')} at "
            f"{server.get('host')}"
        )

    @property
    def staging(self) -> Staging:
        """In the feature repo."""
        return Staging(self.staged)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See `SnapshotSink.locked`; holds for the processes of all machines."""
        with psycopg.connect(self.info, autocommit=True) as session:
            # Nothing but the end of the process ends the session; of a machine that is gone the
            # server knows in a minute, by default in two hours.
            for setting, value in (
                ("idle_session_timeout", 0),
                ("tcp_keepalives_idle", 30),
                ("tcp_keepalives_interval", 10),
                ("tcp_keepalives_count", 3),
            ):
                session.execute(
                    "SELECT set_config(%s, %s, false) FROM pg_settings WHERE name = %s",
                    (setting, str(value), setting),
                )
            deadline = time.monotonic() + SECONDS_TO_WAIT
            while not self._try_lock(session):
                if time.monotonic() > deadline:
                    raise AlreadyRunning(
                        f"{self.place}: expected one run at a time. Received: a second one while "
                        "another is publishing; wait for it to end"
                    )
                time.sleep(0.02)
            yield

    def _try_lock(self, session: psycopg.Connection) -> bool:
        (locked,) = _one(
            session.execute(
                "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))",
                (f"activity embeddings {self.schema}.{self.table}",),
            )
        )
        return locked

    def committed(self) -> list[int]:
        """See `SnapshotSink.committed`."""
        return [to_us(as_of) for as_of in self._of_snapshots("as_of")]

    def facts(self, as_of: int) -> dict[str, Any]:
        """See `SnapshotSink.facts`."""
        return self._of_snapshots("facts", as_of)[0]

    def read(self, as_of: int, columns: Sequence[str] | None = None) -> pa.Table:
        """See `SnapshotSink.read`."""
        schema = self._schema(as_of, columns)
        return pa.Table.from_batches(self._stream(as_of, schema), schema)

    def batches(self, as_of: int, size: int) -> Iterator[pa.RecordBatch]:
        """See `SnapshotSink.batches`."""
        for batch in self._stream(as_of, self._schema(as_of)):
            for start in range(0, batch.num_rows, size):
                yield batch.slice(start, size)

    def count_rows(self, times: Collection[int]) -> int:
        """See `SnapshotReader.count_rows`."""
        if not times:
            return 0
        with statements(self.info) as cursor:
            cursor.execute(
                self._sql("SELECT count(*) FROM {rows} WHERE _as_of = ANY(%s)"),
                ([to_datetime(as_of) for as_of in times],),
            )
            return _one(cursor)[0]

    def differs(self, as_of: int) -> bool:
        """See `SnapshotSink.differs`."""
        file = self.staging.file(as_of)
        content = _content(file, json.dumps(read_facts(file), sort_keys=True))
        with statements(self.info) as cursor:
            if not self._has_table(cursor):
                return True
            cursor.execute(
                self._sql(
                    "SELECT content FROM {snapshots} WHERE snapshots_of = {key} AND as_of = %s"
                ),
                (to_datetime(as_of),),
            )
            return cursor.fetchone() != (content,)

    def commit(self, as_of: int) -> bool:
        """See `SnapshotSink.commit`."""
        file, moment = self.staging.file(as_of), Literal(to_datetime(as_of))
        facts = json.dumps(read_facts(file), sort_keys=True)
        schema = pq.read_schema(file).remove_metadata()
        self._create(schema)
        content = _content(file, facts)
        with _transaction(self.info) as connection, connection.cursor() as cursor:

            def execute(statement: str, **parts: Composable) -> None:
                cursor.execute(self._sql(statement, as_of=moment, **parts).as_string(None))

            execute(
                "SELECT content FROM {snapshots} WHERE snapshots_of = {key} AND as_of = {as_of}"
            )
            if cursor.fetchone() == (content,):
                return False
            execute("DELETE FROM {rows} WHERE _as_of = {as_of}")
            with open_snapshot(file) as staged:
                cursor.adbc_ingest(
                    self.table,
                    _numbered(staged, schema, as_of),
                    mode="append",
                    db_schema_name=self.schema,
                )
            execute(
                "INSERT INTO {snapshots} VALUES ({key}, {as_of}, {facts}, {columns}, {content}) "
                "ON CONFLICT (snapshots_of, as_of) DO UPDATE SET facts = EXCLUDED.facts, "
                "columns = EXCLUDED.columns, content = EXCLUDED.content",
                facts=Literal(facts),
                columns=Literal(schema.serialize().to_pybytes()),
                content=Literal(content),
            )
            # What online stores have of this time, and of later ones, is no longer all there is.
            execute(
                "UPDATE {published} SET as_of = {as_of} - interval '1 microsecond' "
                "WHERE snapshots_of = {key} AND as_of >= {as_of}"
            )
        return True

    @contextmanager
    def together(self) -> Iterator[None]:
        """See `SnapshotSink.together`; sinks of one database share a transaction."""
        with _transaction(self.info):
            yield

    def count_members(self, column: str, ids: pa.Array) -> int:
        """See `SnapshotSink.count_members`."""
        with statements(self.info) as cursor:
            if self._columns(cursor).get(column) != _type_of_ids(ids):
                return 0
            cursor.execute(
                self._sql(
                    "SELECT count(*) FROM {rows} WHERE {column} = ANY(%s::{kind})",
                    column=Identifier(column),
                    kind=SQL(f"{_type_of_ids(ids)}[]"),
                ),
                (ids.to_pylist(),),
            )
            return _one(cursor)[0]

    def delete_members(self, column: str, ids: pa.Array) -> int:
        """See `SnapshotSink.delete_members`.

        The next commit of a snapshot that had such rows writes it anew, whatever it holds.
        """
        with statements(self.info) as cursor:
            if self._columns(cursor).get(column) != _type_of_ids(ids):
                return 0
            cursor.execute(
                self._sql(
                    "WITH gone AS (DELETE FROM {rows} WHERE {column} = ANY(%s::{kind}) "
                    "RETURNING _as_of) SELECT _as_of, count(*) FROM gone GROUP BY _as_of",
                    column=Identifier(column),
                    kind=SQL(f"{_type_of_ids(ids)}[]"),
                ),
                (ids.to_pylist(),),
            )
            gone = dict(cursor.fetchall())
            cursor.execute(
                self._sql(
                    "UPDATE {snapshots} SET content = '' "
                    "WHERE snapshots_of = {key} AND as_of = ANY(%s::timestamptz[])"
                ),
                (list(gone),),
            )
        return sum(gone.values())

    def drop_history(self) -> None:
        """See `SnapshotSink.drop_history`; what VACUUM removes nobody reads any more."""

    def expire(self, before: int) -> list[int]:
        """See `SnapshotSink.expire`."""
        with statements(self.info) as cursor:
            if not self._has_table(cursor):
                return []
            moment = Literal(to_datetime(before))
            cursor.execute(self._sql("DELETE FROM {rows} WHERE _as_of < {before}", before=moment))
            cursor.execute(
                self._sql(
                    "DELETE FROM {snapshots} WHERE snapshots_of = {key} AND as_of < {before} "
                    "RETURNING as_of",
                    before=moment,
                )
            )
            return sorted(to_us(as_of) for (as_of,) in cursor.fetchall())

    def other_versions(self) -> Sequence[PostgresSink]:
        """See `SnapshotSink.other_versions`: the tables `<view>__v<version>` of the schema."""
        view = view_of_table(self.table)
        beside = [sink for sink in self.beside() if sink != self]
        return [sink for sink in beside if view and view_of_table(sink.table) == view]

    def beside(self) -> Sequence[PostgresSink]:
        """See `SnapshotSink.beside`: the tables of the schema that have snapshots."""
        with statements(self.info) as cursor:
            if not self._has_table(cursor):
                return []
            cursor.execute(self._sql("SELECT DISTINCT snapshots_of FROM {snapshots} ORDER BY 1"))
            return [
                PostgresSink(self.info, self.schema, table, self.staged.with_name(table))
                for (table,) in cursor.fetchall()
            ]

    def published(self, store: str) -> int | None:
        """See `SnapshotSink.published`."""
        with statements(self.info) as cursor:
            if not self._has_table(cursor, PUBLISHED):
                return None
            cursor.execute(
                self._sql(
                    "SELECT as_of FROM {published} WHERE snapshots_of = {key} AND store = {store}",
                    store=Literal(store),
                )
            )
            row = cursor.fetchone()
        return None if row is None else to_us(row[0])

    def mark_published(self, store: str, as_of: int) -> None:
        """See `SnapshotSink.mark_published`."""
        with statements(self.info) as cursor:
            self._create_shared(cursor)
            cursor.execute(
                self._sql(
                    "INSERT INTO {published} VALUES ({key}, {store}, {as_of}) "
                    "ON CONFLICT (snapshots_of, store) DO UPDATE SET as_of = EXCLUDED.as_of",
                    store=Literal(store),
                    as_of=Literal(to_datetime(as_of)),
                )
            )

    def forget_published(self) -> None:
        """See `SnapshotSink.forget_published`."""
        with statements(self.info) as cursor:
            if self._has_table(cursor, PUBLISHED):
                cursor.execute(self._sql("DELETE FROM {published} WHERE snapshots_of = {key}"))

    def records(self) -> dict[str, dict[str, Any]]:
        """See `SnapshotSink.records`."""
        with statements(self.info) as cursor:
            if not self._has_table(cursor, RUNS):
                return {}
            cursor.execute(self._sql("SELECT run, record FROM {runs} ORDER BY run"))
            return dict(cursor.fetchall())

    def write_record(self, name: str, record: Mapping[str, Any]) -> None:
        """See `SnapshotSink.write_record`."""
        with statements(self.info) as cursor:
            if not self._has_table(cursor, RUNS):
                self._create_schema(cursor)
                cursor.execute(
                    self._sql(
                        "CREATE TABLE IF NOT EXISTS {runs} (run text PRIMARY KEY, record json)"
                    )
                )
            cursor.execute(
                self._sql(
                    "INSERT INTO {runs} VALUES (%s, %s) "
                    "ON CONFLICT (run) DO UPDATE SET record = EXCLUDED.record"
                ),
                (name, json.dumps(record)),
            )

    def _sql(self, statement: str, **parts: Composable) -> Composed:
        """Return a statement with the names of the tables, and other parts, in place."""
        return SQL(statement).format(
            rows=Identifier(self.schema, self.table),
            snapshots=Identifier(self.schema, SNAPSHOTS),
            published=Identifier(self.schema, PUBLISHED),
            runs=Identifier(self.schema, RUNS),
            key=Literal(self.table),
            **parts,
        )

    def _of_snapshots(self, column: str, as_of: int | None = None) -> list[Any]:
        """Return what one column of the table of snapshots says, by time; of one or of all."""
        with statements(self.info) as cursor:
            if not self._has_table(cursor):
                return []
            one = "" if as_of is None else " AND as_of = {as_of}"
            cursor.execute(
                self._sql(
                    f"SELECT {column} FROM {{snapshots}} WHERE snapshots_of = {{key}}{one} "
                    "ORDER BY as_of",
                    as_of=Literal(None if as_of is None else to_datetime(as_of)),
                )
            )
            found = [value for (value,) in cursor.fetchall()]
        if as_of is not None and not found:
            raise NotReady(
                f"{self.place}: expected a snapshot as of {utc(to_datetime(as_of))}. Received: none"
            )
        return found

    def _schema(self, as_of: int, columns: Sequence[str] | None = None) -> pa.Schema:
        """Return the columns of a snapshot as they were staged, or some of them."""
        schema = pa.ipc.read_schema(pa.py_buffer(self._of_snapshots("columns", as_of)[0]))
        if columns is None:
            return schema
        require_columns(schema.names, columns, self.place)
        return pa.schema([field for field in schema if field.name in columns])

    def _stream(self, as_of: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        query = self._sql(
            "SELECT {columns} FROM {rows} WHERE _as_of = {as_of} ORDER BY _row",
            columns=SQL(", ").join(map(Identifier, schema.names)),
            as_of=Literal(to_datetime(as_of)),
        )
        for batch in stream(self.info, query):
            if batch.num_rows:
                yield batch.cast(schema)

    def _has_table(self, cursor: psycopg.Cursor, table: str = SNAPSHOTS) -> bool:
        """Return whether a table of the schema is there: nothing is, before the first commit."""
        name = Identifier(self.schema, table).as_string(None)
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (name,))
        return _one(cursor)[0]

    def _create(self, schema: pa.Schema) -> None:
        """Create what is missing for snapshots with such columns.

        Raises
        ------
        InvalidInput
            A column has a type that no table holds, or another one than it has there.
        """
        kinds = {column.name: self._type_of(column) for column in schema}
        with statements(self.info) as cursor:
            there = self._columns(cursor)
            for column in there.keys() & kinds.keys():
                if there[column] != kinds[column]:
                    raise InvalidInput(
                        f"{self.place}: column {column!r} should be {there[column]}, as in the "
                        f"snapshots that are there. Received: {kinds[column]}"
                    )
            missing = {name: kind for name, kind in kinds.items() if name not in there}
            if not missing:
                return
            self._create_shared(cursor)
            cursor.execute("SET LOCAL lock_timeout = '60s'")
            columns = [SQL("{} {}").format(Identifier(n), SQL(kind)) for n, kind in missing.items()]
            if there:
                added = SQL(", ").join(SQL("ADD COLUMN ") + column for column in columns)
                cursor.execute(self._sql("ALTER TABLE {rows} {added}", added=added))
                return
            cursor.execute(
                self._sql(
                    "CREATE TABLE {rows} ({columns}, _as_of timestamptz NOT NULL, "
                    "_row bigint NOT NULL, PRIMARY KEY (_as_of, _row))",
                    columns=SQL(", ").join(columns),
                )
            )
            # By the key, which comes first, as a training join and a look-up ask.
            key = [name for name in (schema.names[0], names.EVENT_TIMESTAMP) if name in kinds]
            cursor.execute(
                self._sql(
                    "CREATE INDEX ON {rows} ({key_columns})",
                    key_columns=SQL(", ").join(map(Identifier, key)),
                )
            )

    def _create_shared(self, cursor: psycopg.Cursor) -> None:
        """Create the schema and the tables that views share, one process at a time."""
        if self._has_table(cursor) and self._has_table(cursor, PUBLISHED):
            return
        self._create_schema(cursor)
        cursor.execute(
            self._sql(
                "CREATE TABLE IF NOT EXISTS {snapshots} (snapshots_of text, as_of timestamptz, "
                "facts json NOT NULL, columns bytea NOT NULL, content text NOT NULL, "
                "PRIMARY KEY (snapshots_of, as_of))"
            )
        )
        cursor.execute(
            self._sql(
                "CREATE TABLE IF NOT EXISTS {published} (snapshots_of text, store text, "
                "as_of timestamptz NOT NULL, PRIMARY KEY (snapshots_of, store))"
            )
        )

    def _create_schema(self, cursor: psycopg.Cursor) -> None:
        """Create the schema; other processes that create in it wait for the transaction to end."""
        lock = f"activity embeddings {self.schema}"
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (lock,))
        cursor.execute("SELECT count(*) FROM pg_namespace WHERE nspname = %s", (self.schema,))
        if not _one(cursor)[0]:
            # Asked for first: where the schema is there, one need not be allowed to create it.
            cursor.execute(SQL("CREATE SCHEMA {}").format(Identifier(self.schema)))

    def _columns(self, cursor: psycopg.Cursor) -> dict[str, str]:
        """Return the columns of the table of rows and their types; none where it is not there."""
        cursor.execute(
            "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            (Identifier(self.schema, self.table).as_string(None),),
        )
        long = "timestamp with time zone"
        return {name: kind.replace(long, "timestamptz") for name, kind in cursor.fetchall()}

    def _type_of(self, column: pa.Field) -> str:
        kind, suffix = column.type, ""
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            kind, suffix = kind.value_type, "[]"
        if kind not in _TYPES or column.name in (AS_OF, ROW):
            raise InvalidInput(
                f"{self.place}: expected columns that a table of snapshots can have. Received: "
                f"{column.name!r} of type {column.type}"
            )
        return _TYPES[kind] + suffix


class _Transactions(threading.local):
    """The transactions of a thread that are open, by where they are."""

    def __init__(self) -> None:
        self.of: dict[str, Connection] = {}


_OPEN = _Transactions()


@contextmanager
def _transaction(info: str) -> Iterator[Connection]:
    """Give the transaction that is open in this thread, or a new one, committed at the end."""
    if info in _OPEN.of:
        yield _OPEN.of[info]
        return
    with rows(info) as connection:
        _OPEN.of[info] = connection
        try:
            yield connection
        except BaseException:
            connection.rollback()
            raise
        else:
            connection.commit()
        finally:
            del _OPEN.of[info]


def _numbered(file: pq.ParquetFile, schema: pa.Schema, as_of: int) -> pa.RecordBatchReader:
    """Return staged rows with their snapshot and position."""
    numbered = schema.append(pa.field(AS_OF, TIMESTAMP)).append(pa.field(ROW, pa.int64()))

    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in file.iter_batches(ROWS_AT_ONCE):
            count = batch.num_rows
            moments = pa.array(np.full(count, as_of)).cast(TIMESTAMP)
            positions = pa.array(np.arange(start, start + count))
            yield pa.RecordBatch.from_arrays([*batch.columns, moments, positions], schema=numbered)
            start += count

    return pa.RecordBatchReader.from_batches(numbered, batches())


def _content(file: Path, facts: str) -> str:
    """Return what is equal for equal rows and facts, however the rows lie in the file."""
    with open_snapshot(file) as staged:
        rows = content_hash(staged.schema_arrow, staged.iter_batches(ROWS_AT_ONCE))
    return hashlib.sha256(f"{facts} {rows}".encode()).hexdigest()


def _type_of_ids(ids: pa.Array) -> str:
    return "bigint" if pa.types.is_integer(ids.type) else "text"


def _one(cursor: psycopg.Cursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None
    return row


def _as_stored(name: str) -> str:
    """Return a name of SQL as the database keeps it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
