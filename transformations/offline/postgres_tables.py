"""The tables and queries of sources in PostgreSQL: read as what they hold, or refused by name.

Feast's own store fetches every row as Python objects, and gives moments without their zone. So a
`PostgreSQLSource` is read here, as Arrow.

A column of type `timestamp`, which has no zone, holds times in UTC, as Feast's store takes them;
uuid and enumerations are text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
from feast import RepoConfig
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal, Placeholder

from activity_embeddings.transformations.arrow import TIMESTAMP, require_columns
from activity_embeddings.transformations.errors import InvalidData, first_line, unreadable
from activity_embeddings.transformations.offline.columns import RowsAsked
from activity_embeddings.transformations.offline.parquet_files import plain_rows, with_plain_ids
from activity_embeddings.transformations.offline.postgres import (
    DatabaseError,
    connection_of,
    statements,
    stream,
)
from activity_embeddings.transformations.times import to_datetime, to_us
from activity_embeddings.transformations.wording import OWN_PIPELINE

_NAIVE = "timestamp without time zone"
_TEXT = pa.string()
_TYPES = {
    "boolean": pa.bool_(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "date": pa.date32(),
    "uuid": _TEXT,
    "timestamp with time zone": TIMESTAMP,
    _NAIVE: TIMESTAMP,
}
_ENUM, _STRING = "E", "S"
"""Categories of types, as PostgreSQL has them."""


@dataclass(frozen=True)
class _Type:
    """A type: its name, and the Arrow type of what is read of it, None where there is none."""

    name: str
    arrow: pa.DataType | None


@dataclass(frozen=True)
class PostgresTable:
    """A `SourceRows` in PostgreSQL, as it is when it is first asked for.

    Every method raises `InvalidData` where it cannot be read, and `StoreUnreachable` where the
    server does not answer.

    Parameters
    ----------
    source
        A table or a query.
    config
        Of the feature repo, whose offline store has the connection.
    label
        What errors call the source.
    """

    source: PostgreSQLSource
    config: RepoConfig
    label: str

    @property
    def columns(self) -> dict[str, str]:
        """See `SourceRows.columns`."""
        return {name: kind.name for name, kind in self._types.items()}

    def type_of(self, column: str) -> pa.DataType | None:
        """See `SourceRows.type_of`."""
        return self._types[column].arrow if column in self._types else None

    def earliest(self) -> int | None:
        """See `SourceRows.earliest`."""
        query = SQL("SELECT min({time}) FROM {source}").format(
            time=self._value(self.source.timestamp_field), source=self._from
        )
        with self._answering(), statements(self._info) as cursor:
            (moment,) = cursor.execute(query).fetchone() or (None,)
        return None if moment is None else to_us(moment)

    def read(self, asked: RowsAsked) -> pa.Table:
        """See `SourceRows.read`.

        Raises
        ------
        InvalidData
            A column is missing, or of a type that is not read. Rows without a time come, too.
        """
        query = self._select(asked)
        with self._answering():
            table = pa.Table.from_batches(stream(self._info, query))
        return with_plain_ids(table, asked, asked.columns, self.label)

    def most_rows(self, start: int | None, end: int) -> int:
        """See `SourceRows.most_rows`: as many as there are."""
        require_columns(self._types, [self.source.timestamp_field], self.label)
        query = SQL("SELECT count(*) FROM {source} WHERE {inside}").format(
            source=self._from, inside=self._inside(start, end)
        )
        with self._answering(), statements(self._info) as cursor:
            (rows,) = cursor.execute(query).fetchone() or (0,)
        return rows

    def batches(self, asked: RowsAsked) -> Iterator[pa.Table]:
        """See `SourceRows.batches`."""
        return self._batches(self._select(asked), asked)

    def in_order(self, asked: RowsAsked, member: str, at_once: int) -> Iterator[pa.Table]:
        """See `SourceRows.in_order`; the server sorts, on its own disk where it has to."""
        query, column = self._select(asked), asked.columns[member]
        by = self._value(column)
        if self._types[column].arrow == _TEXT:
            by = SQL('{} COLLATE "C"').format(by)
        return self._batches(SQL("{} ORDER BY {}").format(query, by), asked)

    def _batches(self, query: Composed, asked: RowsAsked) -> Iterator[pa.Table]:
        called = asked.called(self.source.timestamp_field)
        with self._answering():
            for batch in stream(self._info, query):
                rows = pa.Table.from_batches([batch])
                yield plain_rows(rows, asked, called, self.label)

    def append(self, columns: Mapping[str, pa.Array]) -> None:
        """Add rows to the table in one transaction; its other columns have their defaults.

        Parameters
        ----------
        columns
            Columns of n rows by their names in the table; times as timestamp[us, UTC].

        Raises
        ------
        InvalidData
            The source is a query, or the table does not take the rows.
        """
        if self.source.get_table_query_string().lstrip().startswith("("):
            raise InvalidData(
                f"{self.label}: expected a table, to which events can be added. Received: a query. "
                f"{OWN_PIPELINE}"
            )
        values = []
        for name, column in columns.items():
            rows = column.to_pylist()
            if self._types[name].name == _NAIVE:
                rows = [None if row is None else row.replace(tzinfo=None) for row in rows]
            values.append(rows)
        insert = SQL("INSERT INTO {} ({}) VALUES ({})").format(
            SQL(self.source.get_table_query_string()),
            SQL(", ").join(map(Identifier, columns)),
            SQL(", ").join([Placeholder()] * len(columns)),
        )
        try:
            with statements(self._info) as cursor:
                cursor.executemany(insert, list(zip(*values, strict=True)))
        except DatabaseError as error:
            raise InvalidData(
                f"{self.label}: expected a table that takes the events. "
                f"Received: {first_line(error)}"
            ) from error

    @cached_property
    def _info(self) -> str:
        return connection_of(self.config, self.label)

    @property
    def _from(self) -> Composable:
        return SQL(self.source.get_table_query_string() + " AS source")

    @cached_property
    def _types(self) -> dict[str, _Type]:
        with self._answering(), statements(self._info) as cursor:
            cursor.execute(SQL("SELECT * FROM {} LIMIT 0").format(self._from))
            columns = {column.name: column.type_code for column in cursor.description or ()}
            cursor.execute(
                "SELECT kind.oid, format_type(kind.oid, NULL), "
                "kind.typcategory, item.typcategory, format_type(item.oid, NULL) "
                "FROM pg_type AS kind LEFT JOIN pg_type AS item "
                "ON kind.typcategory = 'A' AND item.oid = kind.typelem WHERE kind.oid = ANY(%s)",
                (list(columns.values()),),
            )
            kinds = {}
            for oid, name, category, of_items, items in cursor.fetchall():
                arrow = _arrow_type(name, category)
                if items is not None:
                    item = _arrow_type(items, of_items)
                    arrow = None if item is None else pa.list_(item)
                kinds[oid] = _Type(name, arrow)
        return {name: kinds[oid] for name, oid in columns.items()}

    def _value(self, column: str) -> Composable:
        """Return what is selected of a column."""
        kind, field = self._types[column], Identifier(column)
        if kind.name == _NAIVE:
            return SQL("{} AT TIME ZONE 'UTC'").format(field)
        if kind.arrow == _TEXT:
            return SQL("{}::text").format(field)
        if kind.arrow == pa.list_(_TEXT):
            return SQL("{}::text[]").format(field)
        return field

    def _inside(self, start: int | None, end: int) -> Composable:
        """Return the condition of an interval, as an index on the column answers it.

        Rows without a time meet it: they are refused later.
        """
        field = Identifier(self.source.timestamp_field)
        naive = self._types[self.source.timestamp_field].name == _NAIVE

        def moment(us: int) -> Literal:
            time = to_datetime(us)
            return Literal(time.replace(tzinfo=None) if naive else time)

        inside: Composable = SQL("{} <= {}").format(field, moment(end))
        if start is not None:
            inside = SQL("({} AND {} >= {})").format(inside, field, moment(start))
        return SQL("{} OR {} IS NULL").format(inside, field)

    def _select(self, asked: RowsAsked) -> Composed:
        """Return the query of the rows of an interval, after checking the columns."""
        wanted = asked.there(self._types, self.source.timestamp_field)
        require_columns(self._types, wanted.values(), self.label)
        for column in wanted.values():
            if self._types[column].arrow is None:
                raise InvalidData(
                    f"{self.label}: column {column!r} should be of a type that can be read. "
                    f"Received: {self._types[column].name}"
                )
        return SQL("SELECT {columns} FROM {source} WHERE {inside}").format(
            columns=SQL(", ").join(
                SQL("{} AS {}").format(self._value(column), Identifier(name))
                for name, column in wanted.items()
            ),
            source=self._from,
            inside=self._inside(asked.start, asked.end),
        )

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            raise unreadable(self.label, error) from error


def _arrow_type(name: str, category: str) -> pa.DataType | None:
    return _TEXT if category in (_ENUM, _STRING) else _TYPES.get(name)
