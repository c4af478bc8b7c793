"""Iceberg tables that Feast's `IcebergSource` names: where they are, and rows of them.

Without pyiceberg this module can be imported, and tells by `require_extra` that it is missing where
a table is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource

from activity_embeddings.transformations.arrow import require_columns, require_zoned_time
from activity_embeddings.transformations.errors import InvalidData, InvalidInput, unreadable
from activity_embeddings.transformations.extras import require_extra
from activity_embeddings.transformations.files import path_within
from activity_embeddings.transformations.offline.columns import RowsAsked
from activity_embeddings.transformations.offline.member_order import (
    RowGroup,
    groups_in_turn,
    merged,
)
from activity_embeddings.transformations.offline.parquet_files import (
    groups_by_member,
    groups_inside,
    normalised,
    plain_rows,
    plain_type,
    rows_of_groups,
)

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import DataScan, FileScanTask, Table

REPO = "activity-embeddings.repo"
"""Property of a catalog: the folder in which the relative paths of its tables lie."""
_FIELD_ID = b"PARQUET:field_id"
"""Where Arrow says which column of Iceberg a column of a file is, whatever it is called."""
_FILE_IO = "activity_embeddings.transformations.offline.repo_file_io.RepoFileIO"
_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(?!/)(.+)")
"""The address of a database by a relative path."""


def is_iceberg(source: DataSource | None) -> TypeGuard[IcebergSource]:
    """Return whether a source is an Iceberg table."""
    return isinstance(source, IcebergSource)


def located(source: IcebergSource, repo: Path | str | None) -> IcebergSource:
    """Return a source whose relative paths are the feature repo's, wherever the process runs.

    They are those of a local warehouse and of an sqlite catalog. The tables go on naming their
    files by relative paths, as they do where a process runs in the repo.

    Raises
    ------
    InvalidInput
        One leads out of the repo.
    """
    if source.catalog_type != "sql":
        return source
    root = Path(repo or ".").resolve()
    properties = dict(source.catalog_properties)
    uri = _SQLITE.fullmatch(properties.get("uri") or source.endpoint)
    if uri is not None:
        properties["uri"] = f"{uri[1]}{path_within(root, uri[2])}"
    if _is_relative(source.warehouse):
        path_within(root, source.warehouse)
        properties |= {"py-io-impl": _FILE_IO, REPO: str(root)}
    moved = copy(source)
    moved.catalog_properties = properties
    return moved


def catalog_of(source: IcebergSource) -> Catalog | None:
    """Return the catalog of a located source, None for an sqlite one that is not there yet.

    pyiceberg would make it, and reading should not.
    """
    require_extra("iceberg", f"{source.name}")
    path = sqlite_file(source)
    if path is not None and not path.exists():
        return None
    if source.catalog_type != "rest":
        return source.get_catalog_client()
    # Feast's own client of REST catalogs knows no rows; Feast's DuckDB store opens tables so too.
    from pyiceberg.catalog import load_catalog

    settings = {
        **source.catalog_properties,
        "type": "rest",
        "uri": source.endpoint,
        "warehouse": source.warehouse,
    }
    return load_catalog(source.catalog_name, **settings, **_token(source))


def sqlite_file(source: IcebergSource) -> Path | None:
    """Return the file of a located source's catalog, None for a catalog of another kind."""
    uri = source.catalog_properties.get("uri") or source.endpoint
    if source.catalog_type != "sql" or not uri.startswith("sqlite"):
        return None
    return Path(uri.partition(":///")[2])


def table_of(source: IcebergSource, catalog: Catalog | None) -> Table | None:
    """Return the table of a source as it is now, None if there is none."""
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

    if catalog is None:
        return None
    try:
        return catalog.load_table(f"{source.namespace}.{source.iceberg_table}")
    except (NoSuchNamespaceError, NoSuchTableError):
        return None


@dataclass(frozen=True)
class IcebergRows:
    """A `SourceRows` in an Iceberg table, as it is when it is first asked for.

    Every method raises `InvalidData` where the table cannot be read, and `StoreUnreachable` where
    its catalog or its files are away.

    Parameters
    ----------
    source
        Located.
    label
        What errors call it.
    """

    source: IcebergSource
    label: str

    def schema(self) -> pa.Schema:
        """Return the columns."""
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        return schema_to_pyarrow(self._table.schema(), include_field_ids=False)

    @property
    def columns(self) -> dict[str, str]:
        """See `SourceRows.columns`."""
        return {field.name: str(field.type) for field in self.schema()}

    def earliest(self) -> int | None:
        """See `SourceRows.earliest`; it is not told without a look at every file."""
        return None

    def type_of(self, column: str) -> pa.DataType | None:
        """See `SourceRows.type_of`."""
        schema = self.schema()
        return schema.field(column).type if column in schema.names else None

    def read(self, asked: RowsAsked) -> pa.Table:
        """See `SourceRows.read`.

        Only these rows are read, and only their columns: files and row groups of other times are
        passed over.

        Raises
        ------
        InvalidData
            A column is missing, or a time is null or has no zone.
        """
        wanted = self._wanted(asked)
        with self._readable():
            table = self._scan(wanted.values(), asked.start, asked.end).to_arrow()
        rows = pa.table({name: _plain(table.column(theirs)) for name, theirs in wanted.items()})
        return normalised(rows, asked, wanted, self.label)

    def most_rows(self, start: int | None, end: int) -> int:
        """See `SourceRows.most_rows`: those of the files that `read` reads."""
        require_columns(self.schema().names, [self.source.timestamp_field], self.label)
        with self._readable():
            scan = self._scan([self.source.timestamp_field], start, end)
            return sum(task.file.record_count for task in scan.plan_files())

    def batches(self, asked: RowsAsked) -> Iterator[pa.Table]:
        """See `SourceRows.batches`."""
        wanted = self._wanted(asked)
        yield self._no_rows(wanted, asked)
        with self._readable():
            scan = self._scan(wanted.values(), asked.start, asked.end)
            for task in scan.plan_files():
                for rows in self._rows_of(scan, task, wanted, asked):
                    yield plain_rows(rows, asked, wanted, self.label)

    def in_order(self, asked: RowsAsked, member: str, at_once: int) -> Iterator[pa.Table] | None:
        """See `SourceRows.in_order`: where footers say that few members are in many row groups."""
        wanted = self._wanted(asked)
        scan = self._scan(wanted.values(), asked.start, asked.end)

        def groups_of(task: FileScanTask) -> list[RowGroup] | None:
            with self._opened(scan, task, wanted) as (file, columns):
                if file is None:
                    return None
                return groups_by_member(
                    file.metadata, columns, asked, member, partial(rows_of, task)
                )

        def rows_of(task: FileScanTask, group: int) -> Iterator[pa.Table]:
            with self._readable(), self._opened(scan, task, wanted) as (file, columns):
                assert file is not None
                for rows in rows_of_groups(file, [group], columns, asked):
                    yield plain_rows(rows, asked, wanted, self.label)

        with self._readable():
            groups = groups_in_turn(map(groups_of, scan.plan_files()), at_once)
        if groups is None:
            return None
        return merged(groups, member, self._no_rows(wanted, asked).schema, self.label)

    def _no_rows(self, wanted: Mapping[str, str], asked: RowsAsked) -> pa.Table:
        schema = self.schema()
        none = pa.schema({name: schema.field(theirs).type for name, theirs in wanted.items()})
        return plain_rows(none.empty_table(), asked, wanted, self.label)

    @contextmanager
    def _opened(
        self, scan: DataScan, task: FileScanTask, wanted: Mapping[str, str]
    ) -> Iterator[tuple[pq.ParquetFile | None, dict[str, str]]]:
        """Give a file and what it calls the columns.

        None where pyiceberg has to make rows of what the file holds: some are deleted, or columns
        are of other types, as of before a change of the schema.
        """
        if task.file.file_format != "PARQUET" or task.delete_files:
            yield None, {}
            return
        with (
            scan.io.new_input(task.file.file_path).open() as opened,
            pq.ParquetFile(opened) as file,
        ):
            columns = self._columns_of(file.schema_arrow, wanted)
            yield (None, {}) if columns is None else (file, columns)

    def _rows_of(
        self,
        scan: DataScan,
        task: FileScanTask,
        wanted: Mapping[str, str],
        asked: RowsAsked,
    ) -> Iterator[pa.Table]:
        """Yield the rows of one file; pyiceberg, which reads it whole, does so where it has to."""
        with self._opened(scan, task, wanted) as (file, columns):
            if file is not None:
                time = columns[asked.time]
                inside = groups_inside(file.metadata, time, asked.start, asked.end)
                yield from rows_of_groups(file, inside, columns, asked)
                return
        from pyiceberg.io.pyarrow import ArrowScan

        whole = ArrowScan(scan.table_metadata, scan.io, scan.projection(), scan.row_filter)
        for batch in whole.to_record_batches([task]):
            yield pa.table({name: batch.column(theirs) for name, theirs in wanted.items()})

    def _columns_of(self, there: pa.Schema, wanted: Mapping[str, str]) -> dict[str, str] | None:
        """Return what a file calls the columns, None where one is missing or of another type."""
        names = {(field.metadata or {}).get(_FIELD_ID): field.name for field in there}
        schema, found = self.schema(), {}
        for name, theirs in wanted.items():
            field_id = self._table.schema().find_field(theirs).field_id
            found[name] = names.get(str(field_id).encode(), "")
            if there.names.count(found[name]) != 1 or plain_type(
                there.field(found[name]).type
            ) != plain_type(schema.field(theirs).type):
                return None
        return found

    def _wanted(self, asked: RowsAsked) -> dict[str, str]:
        """Return the columns that are there by their new names, after checking them."""
        schema, time = self.schema(), self.source.timestamp_field
        wanted = asked.there(schema.names, time)
        require_columns(schema.names, wanted.values(), self.label)
        require_zoned_time(schema.field(time).type, time, self.label)
        return wanted

    def _scan(self, columns: Iterable[str], start: int | None, end: int) -> DataScan:
        return self._table.scan(
            row_filter=_inside(self.source.timestamp_field, start, end),
            selected_fields=tuple(dict.fromkeys(columns)),
        )

    @cached_property
    def _table(self) -> Table:
        with self._readable():
            table = table_of(self.source, catalog_of(self.source))
        if table is None:
            raise InvalidData(
                f"{self.label}: expected an Iceberg table {self.source.namespace}."
                f"{self.source.iceberg_table} in the catalog {self.source.catalog_name!r}. "
                "Received: none of that name"
            )
        return table

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Say which source cannot be read; errors of the libraries have no common class."""
        try:
            yield
        except (ImportError, InvalidInput):
            raise
        except Exception as error:
            raise unreadable(self.label, error, "a readable Iceberg table") from error


def _inside(time: str, start: int | None, end: int) -> BooleanExpression:
    """Return the rows of an interval, and those without a time, which are refused later."""
    from pyiceberg.expressions import And, GreaterThanOrEqual, IsNull, LessThanOrEqual, Or

    inside: BooleanExpression = LessThanOrEqual(time, end)
    if start is not None:
        inside = And(inside, GreaterThanOrEqual(time, start))
    return Or(inside, IsNull(time))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return lists with offsets as files have them; ids are normalised by their own rules."""
    kind = column.type
    if pa.types.is_large_list(kind):
        return column.cast(pa.list_(kind.value_type))
    return column


def _is_relative(path: str) -> bool:
    return bool(path) and "://" not in path and not path.startswith(("/", "file:"))


def _token(source: IcebergSource) -> dict[str, str]:
    token = os.environ.get(source.token_env_var or "", "")
    return {"token": token} if token else {}
