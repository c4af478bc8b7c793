"""The parquet files of a source: each of them is read as what it holds, or refused by name.

Feast's offline stores differ in which files of a folder they see, in what becomes of a column that
is not the same in all files, and in which types of time they know. So a `FileSource` of parquet is
read here, whatever the offline store is.

Which files a folder has:

- Every file in it and in its sub-folders, whatever its name ends in. Links are followed.
- Not what begins with `.` or `_`, by the convention of Hadoop, Spark and Arrow: markers, checksums,
  and what is still being written. A file that begins so and is called parquet all the same is
  refused, since some readers take it and others do not; in a folder that begins so it is counted.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from types import NoneType
from typing import Any, TypeGuard

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from feast import FileSource
from feast.data_format import ParquetFormat
from feast.data_source import DataSource

from activity_embeddings.transformations.arrow import (
    TIMESTAMP,
    id_column,
    is_text,
    require_columns,
    require_zoned_time,
    time_column,
)
from activity_embeddings.transformations.artifacts import local_path
from activity_embeddings.transformations.errors import (
    InvalidData,
    InvalidInput,
    first_line,
    unreadable,
)
from activity_embeddings.transformations.files import replace_file
from activity_embeddings.transformations.offline.columns import RowsAsked
from activity_embeddings.transformations.offline.member_order import (
    RowGroup,
    groups_in_turn,
    merged,
)
from activity_embeddings.transformations.wording import OWN_PIPELINE

DELTA_LOG = "_delta_log"
SUFFIXES = (".parquet", ".parq", ".pq")
ANY = "permissive"
"""How Arrow puts columns of different types together: by the wider type, where there is one."""
TEXT_FIRST = "; convert CSV and JSON lines first, for example with pandas' `to_parquet`"
"""What errors say of a file that is not parquet."""
ROWS_AT_ONCE = 65_536
"""Rows of a batch where rows are read bit by bit."""
_FORMAT = ds.ParquetFileFormat()
_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_INT64 = np.iinfo(np.int64)


def is_parquet(source: DataSource) -> TypeGuard[FileSource]:
    """Return whether a source is of parquet files."""
    return isinstance(source, FileSource) and isinstance(
        source.file_format, ParquetFormat | NoneType
    )


@dataclass(frozen=True)
class ParquetFiles:
    """A `SourceRows` of files, as they are when they are first asked for.

    Every method raises `InvalidData` where the folder, or a file in it, cannot be read, and
    `StoreUnreachable` where the object store is away. The message names it.

    Parameters
    ----------
    source
        A source of parquet files.
    repo
        Folder of the feature repo, in which a relative path lies.
    label
        What errors call the source.
    without
        Which files are left out, by their whole path within the folder; None for none.
    """

    source: FileSource
    repo: Path | None
    label: str
    without: re.Pattern[str] | None = None

    @property
    def local_path(self) -> Path | None:
        """Return the folder or file on this machine, None for one elsewhere."""
        filesystem, root = self._root
        return Path(root) if isinstance(filesystem, pafs.LocalFileSystem) else None

    def add(self, name: str, table: pa.Table) -> None:
        """Add a file to a folder of an object store, which has it whole or not at all.

        Raises
        ------
        InvalidData
            The source is one file, or has partitions in folders.
        """
        folders = [path for path in self._found if len(_inside(path, self._root[1]).parts) != 1]
        if folders:
            raise InvalidData(
                f"{self.label}: expected a folder of files, to which a file can be added. "
                f"Received: {folders[0]}. {OWN_PIPELINE}"
            )
        self.write(name, table)

    def write(self, name: str, table: pa.Table) -> None:
        """Write a file of the folder; on this machine aside, and renamed into place.

        Raises
        ------
        InvalidInput
            The folder cannot be written.
        """
        folder = self.local_path
        try:
            if folder is not None:
                replace_file(folder / name, partial(pq.write_table, table))
                return
            with self._root[0].open_output_stream(self._path(name)) as stream:
                pq.write_table(table, stream)
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.label, error, "a folder that can be written") from error

    def rows_of(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of one of `names` as they are stored, with some columns or all."""
        path = self._path(name)
        chosen = None if columns is None else list(columns)
        try:
            return pq.read_table(path, columns=chosen, filesystem=self._root[0], partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(path, error) from error

    def remove(self, name: str) -> None:
        """Remove one of `names`.

        Raises
        ------
        InvalidInput
            It is gone already, or may not be removed.
        """
        path = self._path(name)
        try:
            self._root[0].delete_file(path)
        except OSError as error:
            raise unreadable(self._of(path), error, "one that can be removed") from error

    @property
    def names(self) -> list[str]:
        """Return the paths within the folder of the files that are not hidden, in order."""
        return [str(_inside(path, self._root[1])) for path in self._found if not self._hidden(path)]

    def count_rows(self) -> int:
        """Return the rows of all files, as their footers say."""
        return sum(fragment.metadata.num_rows for fragment in self._fragments)

    def count_hidden(self) -> int:
        """Return the parquet files in folders that begin with `.` or `_`, which are not read."""
        return sum(path.lower().endswith(SUFFIXES) for path in self._found if self._hidden(path))

    def schema(self) -> pa.Schema:
        """Return the columns of the first file with rows, or else of the first file.

        Raises
        ------
        InvalidData
            There is no file.
        """
        if not self._fragments:
            raise InvalidData(
                f"{self.label}: expected at least one parquet file, which says the columns. "
                "Received: an empty folder"
            )
        return (self._filled or self._fragments)[0].physical_schema

    @property
    def columns(self) -> dict[str, str]:
        """See `SourceRows.columns`: those of `schema`."""
        return {field.name: str(field.type) for field in self.schema()}

    def type_of(self, column: str) -> pa.DataType | None:
        """See `SourceRows.type_of`: in the first file that has the column."""
        for fragment in self._filled or self._fragments:
            if column in fragment.physical_schema.names:
                return _type_of(fragment, column)
        return None

    def head(self, rows: int) -> pa.Table:
        """Return at most so many rows of the file that `schema` is of, with all its columns."""
        schema = self.schema()
        filesystem, _ = self._root
        path = (self._filled or self._fragments)[0].path
        try:
            with pq.ParquetFile(path, filesystem=filesystem) as file:
                return pa.Table.from_batches([*islice(file.iter_batches(rows), 1)], schema)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(path, error) from error

    def earliest(self) -> int | None:
        """See `SourceRows.earliest`: where footers say it."""
        return min(self._limits_of_times, default=None)

    def latest(self) -> int | None:
        """Return the last time in microseconds since the epoch, None where footers do not say."""
        return max(self._limits_of_times, default=None)

    def read(self, asked: RowsAsked) -> pa.Table:
        """See `SourceRows.read`.

        Raises
        ------
        InvalidData
            A file lacks a column, has one of another type than other files, or a time that is null
            or has no zone. A file without rows may have columns of any type.
        """
        wanted, groups = self._chosen(asked)
        if not groups:
            return _empty(wanted, asked.ids, asked.time)
        tables = {part[0].path: self._read_group(part, wanted, asked) for part in groups}
        return self._together(tables)

    def most_rows(self, start: int | None, end: int) -> int:
        """See `SourceRows.most_rows`: those of the row groups that `read` reads."""
        return sum(
            fragment.metadata.row_group(group).num_rows
            for fragment in self._filled
            for group in groups_inside(fragment.metadata, self.source.timestamp_field, start, end)
        )

    def batches(self, asked: RowsAsked) -> Iterator[pa.Table]:
        """See `SourceRows.batches`.

        Raises
        ------
        InvalidData
            As `read` does, where it comes to it.
        """
        wanted, schema = self._plainly(asked)
        yield schema.empty_table()
        for fragment in self._filled:
            inside = groups_inside(fragment.metadata, wanted[asked.time], asked.start, asked.end)
            yield from self._rows(fragment, inside, wanted, asked, schema)

    def in_order(self, asked: RowsAsked, member: str, at_once: int) -> Iterator[pa.Table] | None:
        """See `SourceRows.in_order`: where footers say that few members are in many row groups."""
        wanted, schema = self._plainly(asked)

        def groups_of(fragment: ds.ParquetFileFragment) -> list[RowGroup] | None:
            return groups_by_member(
                fragment.metadata,
                wanted,
                asked,
                member,
                lambda group: self._rows(fragment, [group], wanted, asked, schema),
            )

        groups = groups_in_turn(map(groups_of, self._filled), at_once)
        return None if groups is None else merged(groups, member, schema, self.label)

    def _plainly(self, asked: RowsAsked) -> tuple[dict[str, str], pa.Schema]:
        """Return the columns by their new names, and the schema of all rows, all text as string."""
        wanted, groups = self._chosen(asked)
        if not groups:
            return wanted, _empty(wanted, asked.ids, asked.time).schema
        none = {}
        for first, *_ in groups:
            kinds = {name: _type_of(first, field) for name, field in wanted.items()}
            label = self._of(first.path)
            none[first.path] = plain_rows(pa.schema(kinds).empty_table(), asked, wanted, label)
        return wanted, self._together(none).schema

    def _rows(
        self,
        fragment: ds.ParquetFileFragment,
        groups: Sequence[int],
        wanted: Mapping[str, str],
        asked: RowsAsked,
        schema: pa.Schema,
    ) -> Iterator[pa.Table]:
        """Yield the rows of some row groups, bit by bit."""
        path = fragment.path
        try:
            with pq.ParquetFile(path, filesystem=self._root[0], metadata=fragment.metadata) as file:
                for rows in rows_of_groups(file, groups, wanted, asked):
                    yield plain_rows(rows, asked, wanted, self._of(path)).cast(schema)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(path, error) from error

    @cached_property
    def _root(self) -> tuple[pafs.FileSystem, str]:
        """Return the file system and the path in it."""
        path = self.source.path
        local = local_path(path)
        if local is not None:
            return pafs.LocalFileSystem(), str(Path(self.repo or ".") / local)
        try:
            if path.startswith("s3://"):
                made = FileSource.create_filesystem_and_path(
                    path, self.source.s3_endpoint_override or "", self.source.resolve_credentials()
                )
                return made[0] or pafs.LocalFileSystem(), made[1]
            return pafs.FileSystem.from_uri(path)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise InvalidData(
                f"{self.label}: expected a path that can be opened. Received: {first_line(error)}"
            ) from error

    @cached_property
    def _found(self) -> list[str]:
        """Return the paths of all files, hidden ones too, in order."""
        filesystem, root = self._root
        local = isinstance(filesystem, pafs.LocalFileSystem)
        try:
            found = sorted(_local_files(root) if local else _remote_files(filesystem, root))
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(root, error) from error
        for path in found:
            inside = _inside(path, root)
            if DELTA_LOG in inside.parts[:-1]:
                raise InvalidData(
                    f"{self.label}: expected parquet files. Received: a Delta table ({DELTA_LOG}), "
                    "whose files need not all be of its newest version. Give the source "
                    "`file_format=DeltaFormat()`"
                )
            if (
                self._hidden(path)
                and not any(map(_begins_hidden, inside.parts[:-1]))
                and inside.suffix.lower() in SUFFIXES
            ):
                raise InvalidData(
                    f"{self.label}: expected files whose names do not begin with '.' or '_', which "
                    f"some readers pass over. Received: {inside}. Rename it, or put it elsewhere"
                )
            if local and not self._hidden(path) and not os.path.isfile(path):
                raise self._unreadable(path, OSError("not a file, or a link to none"))
        return found

    @cached_property
    def _fragments(self) -> list[ds.ParquetFileFragment]:
        """Return the files that are not hidden, with what their footers say."""
        filesystem, _ = self._root
        fragments = []
        for path in self._found:
            if self._hidden(path) or self._left_out(path):
                continue
            fragment = _FORMAT.make_fragment(path, filesystem)
            try:
                fragment.ensure_complete_metadata()
                # Read for the first time here: in a corrupt footer they are no text.
                _ = fragment.physical_schema.names, _paths(fragment.metadata)
            except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
                what_to_do = TEXT_FIRST if isinstance(error, pa.ArrowInvalid) else ""
                raise self._unreadable(path, error, what_to_do) from error
            fragments.append(fragment)
        return fragments

    @cached_property
    def _filled(self) -> list[ds.ParquetFileFragment]:
        """Return the files that have rows."""
        return [fragment for fragment in self._fragments if fragment.metadata.num_rows]

    @cached_property
    def _limits_of_times(self) -> list[int]:
        """Return the first and the last time of each row group; none where a footer lacks them."""
        limits: list[int] = []
        for fragment in self._filled:
            for statistics in _statistics(fragment.metadata, self.source.timestamp_field):
                times = [] if statistics is None else _limits_of_times(statistics)
                if not times:
                    return []
                limits += times
        return limits

    def _hidden(self, path: str) -> bool:
        return any(map(_begins_hidden, _inside(path, self._root[1]).parts))

    def _left_out(self, path: str) -> bool:
        inside = str(_inside(path, self._root[1]))
        return self.without is not None and self.without.fullmatch(inside) is not None

    def _path(self, name: str) -> str:
        return f"{self._root[1].rstrip('/')}/{name}"

    def _of(self, path: str) -> str:
        """Return how errors call one file."""
        inside = _inside(path, self._root[1])
        return f"{self.label}, file {inside}" if inside.parts else self.label

    def _unreadable(self, path: str, error: BaseException, what_to_do: str = "") -> InvalidInput:
        expected = f"a readable source of parquet files{what_to_do}"
        return unreadable(self._of(path), error, expected)

    def _require(
        self, fragment: ds.ParquetFileFragment, wanted: Mapping[str, str], time: str
    ) -> None:
        """Raise unless a file has the columns, each once, and a time with a zone."""
        schema, label = fragment.physical_schema, self._of(fragment.path)
        require_columns(schema.names, wanted.values(), label)
        require_zoned_time(_type_of(fragment, wanted[time]), wanted[time], label)

    def _chosen(
        self, asked: RowsAsked
    ) -> tuple[dict[str, str], list[list[ds.ParquetFileFragment]]]:
        """Return the columns by their new names, and the files by the types that these have."""
        there = {name for part in self._filled for name in part.physical_schema.names}
        wanted = asked.there(there, self.source.timestamp_field)
        all_left_out = self.names and not self._fragments
        if not self._filled and not all_left_out:
            require_columns(self.schema().names, wanted.values(), self.label)
        groups: dict[tuple[pa.DataType, ...], list[ds.ParquetFileFragment]] = {}
        for fragment in self._filled:
            self._require(fragment, wanted, asked.time)
            kinds = tuple(_type_of(fragment, field) for field in wanted.values())
            groups.setdefault(kinds, []).append(fragment)
        return wanted, list(groups.values())

    def _read_group(
        self,
        fragments: Sequence[ds.ParquetFileFragment],
        wanted: Mapping[str, str],
        asked: RowsAsked,
    ) -> pa.Table:
        """Read files whose columns have the same types together; one after the other to say which.

        Whatever is wrong with one of them is said of that file.
        """
        label = self._of(fragments[0].path) if len(fragments) == 1 else self.label
        try:
            table = self._scan(fragments, wanted, asked)
            return normalised(table, asked, wanted, label)
        except (OSError, pa.ArrowException, InvalidData) as error:
            if len(fragments) > 1:
                for fragment in fragments:
                    self._read_group([fragment], wanted, asked)
            if isinstance(error, InvalidData):
                raise
            raise self._unreadable(fragments[0].path, error) from error

    def _scan(
        self,
        fragments: Sequence[ds.ParquetFileFragment],
        wanted: Mapping[str, str],
        asked: RowsAsked,
    ) -> pa.Table:
        """Read the rows of an interval, and those without a time."""
        time = asked.time
        filesystem, _ = self._root
        kinds = {field: _type_of(fragments[0], field) for field in wanted.values()}
        # Arrow cannot filter views of text.
        views = {f: pa.string() for f, kind in kinds.items() if pa.types.is_string_view(kind)}
        schema = pa.schema({**kinds, **views})
        field = ds.field(wanted[time])
        first, last = _bounds(schema.field(wanted[time]).type, asked.start, asked.end)
        inside = (field >= first) & (field <= last)
        if any(_may_have_nulls(fragment.metadata, wanted[time]) for fragment in fragments):
            inside |= field.is_null()
        dataset = ds.FileSystemDataset(list(fragments), schema, _FORMAT, filesystem)
        return dataset.to_table(
            columns={name: ds.field(column) for name, column in wanted.items()}, filter=inside
        )

    def _together(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """Concatenate what files of different types gave; `tables` are by their first file."""
        if len(tables) == 1:
            return next(iter(tables.values()))
        (first, one), *others = [(path, _plain(table)) for path, table in tables.items()]
        for path, other in others:
            for ours, theirs in zip(one.schema, other.schema, strict=True):
                try:
                    pa.unify_schemas([pa.schema([ours]), pa.schema([theirs])], promote_options=ANY)
                except pa.ArrowException as error:
                    raise InvalidData(
                        f"{self._of(path)}: column {ours.name!r} should be of one type in all "
                        f"files. Received: {theirs.type}, and {ours.type} in "
                        f"{_inside(first, self._root[1])}"
                    ) from error
        return pa.concat_tables([one, *(table for _, table in others)], promote_options=ANY)


def _empty(wanted: Iterable[str], ids: Sequence[str], time: str) -> pa.Table:
    kinds = {name: pa.int64() if name in ids else pa.string() for name in wanted}
    return pa.schema({**kinds, time: TIMESTAMP}).empty_table()


def _local_files(root: str) -> Iterator[str]:
    """Yield the files of a local folder, following links; a file that is met again only once."""
    if not os.path.isdir(root):
        os.stat(root)
        yield root
        return
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_raise):
        # What is met again, by another link, is passed over: links may lead back.
        folders[:] = sorted(name for name in folders if _first(os.path.join(folder, name), seen))
        yield from (
            path for name in sorted(files) if _first(path := os.path.join(folder, name), seen)
        )


def _first(path: str, seen: set[str]) -> bool:
    """Return whether a file or folder is met for the first time, and remember it."""
    real = os.path.realpath(path)
    if real in seen:
        return False
    seen.add(real)
    return True


def _raise(error: OSError) -> None:
    raise error


def _remote_files(filesystem: pafs.FileSystem, root: str) -> Iterator[str]:
    info = filesystem.get_file_info(root)
    if info.type == pafs.FileType.NotFound:
        raise FileNotFoundError(f"{root} does not exist")
    if info.is_file:
        yield root
        return
    for found in filesystem.get_file_info(pafs.FileSelector(root, recursive=True)):
        if found.is_file:
            yield found.path


def _inside(path: str, root: str) -> PurePosixPath:
    """Return the path of a file within the folder of the source; of the source itself, `.`."""
    return PurePosixPath(path).relative_to(PurePosixPath(root))


def _begins_hidden(name: str) -> bool:
    # As Spark has it: a folder of a partition, `_day=1`, is none of its own.
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _type_of(fragment: ds.ParquetFileFragment, column: str) -> pa.DataType:
    return fragment.physical_schema.field(column).type


def _paths(metadata: pq.FileMetaData) -> list[str]:
    """Return the names of columns, and of what is in nested ones."""
    return [metadata.schema.column(i).path for i in range(metadata.num_columns)]


def _statistics(metadata: pq.FileMetaData, name: str) -> Iterator[pq.Statistics | None]:
    """Yield what each row group says of one column that is not nested; None for nothing."""
    paths = _paths(metadata)
    position = paths.index(name) if name in paths else None
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        yield None if position is None else row_group.column(position).statistics


def _may_have_nulls(metadata: pq.FileMetaData, name: str) -> bool:
    return any(map(_has_nulls, _statistics(metadata, name)))


def _has_nulls(statistics: pq.Statistics | None) -> bool:
    return statistics is None or not statistics.has_null_count or statistics.null_count > 0


def _limits_of_times(statistics: pq.Statistics) -> list[int]:
    """Return the first and the last time in microseconds, in a list; nothing where it is untold.

    They are computed from the numbers that are stored: datetimes of Python end in the year 9999.
    """
    kind = json.loads(statistics.logical_type.to_json())
    if kind["Type"] != "Timestamp" or not statistics.has_min_max:
        return []
    limits = [statistics.min_raw, statistics.max_raw]
    if kind["timeUnit"] == "nanoseconds":
        return [value // 1_000 for value in limits]
    size = {"milliseconds": 1_000, "microseconds": 1}[kind["timeUnit"]]
    return [value * size for value in limits]


def _bounds(kind: pa.TimestampType, start: int | None, end: int) -> tuple[pa.Scalar, pa.Scalar]:
    """Return the first and the last time of an interval, in the unit of a column.

    Times finer than a microsecond belong to the microsecond in which they are.
    """
    first = _INT64.min if start is None else start
    if kind.unit == "ns":
        first, last = first * 1_000, end * 1_000 + 999
    else:
        size = _MICROSECONDS[kind.unit]
        first, last = -(-first // size), end // size
    limits = [min(max(value, _INT64.min), _INT64.max) for value in (first, last)]
    return pa.scalar(limits[0], pa.int64()).cast(kind), pa.scalar(limits[1], pa.int64()).cast(kind)


def rows_of_groups(
    file: pq.ParquetFile, groups: Sequence[int], wanted: Mapping[str, str], asked: RowsAsked
) -> Iterator[pa.Table]:
    """Yield the rows of row groups in the interval, and those without a time, bit by bit.

    By one row group after the other: a scanner of Arrow decodes hundreds of megabytes ahead.

    Parameters
    ----------
    file
        Has the columns.
    groups
        Their numbers.
    wanted
        The file's columns by the names that they get.
    asked
        Says the interval, and which name the time gets, a timestamp.
    """
    moment = wanted[asked.time]
    first, last = _bounds(file.schema_arrow.field(moment).type, asked.start, asked.end)
    columns = list(dict.fromkeys(wanted.values()))
    for group in groups:
        for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns):
            times = batch.column(moment)
            inside = pc.and_(pc.greater_equal(times, first), pc.less_equal(times, last))
            rows = pa.table({name: batch.column(field) for name, field in wanted.items()})
            yield _plain(rows).filter(inside.fill_null(True))


def groups_by_member(
    metadata: pq.FileMetaData,
    wanted: Mapping[str, str],
    asked: RowsAsked,
    member: str,
    read: Callable[[int], Iterator[pa.Table]],
) -> list[RowGroup] | None:
    """Return the row groups of the interval, None where the footer does not say their members.

    Parameters
    ----------
    metadata
        Of a file.
    wanted, asked
        See `rows_of_groups`.
    member
        The name that the ids of members get.
    read
        Returns the rows of a group by its number.
    """
    limits = [
        None if statistics is None else _limits_of_ids(statistics)
        for statistics in _statistics(metadata, wanted[member])
    ]
    groups = []
    for number in groups_inside(metadata, wanted[asked.time], asked.start, asked.end):
        limit = limits[number]
        if limit is None:
            return None
        rows = metadata.row_group(number).num_rows
        groups.append(RowGroup(*limit, rows, partial(read, number)))
    return groups


def _limits_of_ids(statistics: pq.Statistics) -> tuple[Any, Any] | None:
    """Return the first and the last id, None where it is untold."""
    kind = json.loads(statistics.logical_type.to_json())
    if not statistics.has_min_max:
        return None
    first, last = statistics.min_raw, statistics.max_raw
    if kind["Type"] == "String":
        return _text(first), max(_text(first), _text(last))
    if (kind["Type"] == "None" and isinstance(first, int)) or kind.get("isSigned", False):
        return first, last
    return None


def _text(value: bytes) -> str:
    """Return text, of which writers may keep its first bytes alone, up to its last whole letter."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        return value[: error.start].decode()


def groups_inside(metadata: pq.FileMetaData, time: str, start: int | None, end: int) -> list[int]:
    """Return the row groups that may have rows of an interval, or rows without a time."""
    groups = []
    for group, statistics in enumerate(_statistics(metadata, time)):
        limits = [] if statistics is None else _limits_of_times(statistics)
        outside = limits and (limits[0] > end or (start is not None and limits[1] < start))
        if not outside or _has_nulls(statistics):
            groups.append(group)
    return groups


def normalised(
    table: pa.Table, asked: RowsAsked, called: Mapping[str, str], label: str
) -> pa.Table:
    """Return rows with ids as int64 or string, and times as timestamp[us, UTC].

    Parameters
    ----------
    table
        The columns that are asked for, by the names that they get.
    asked
        Says which are ids, and which is the time.
    called, label
        What errors call the columns, and the source.
    """
    table, time = with_plain_ids(table, asked, called, label), asked.time
    moments = pa.array(time_column(table, time, label, called), pa.int64())
    return table.set_column(table.column_names.index(time), time, moments.cast(TIMESTAMP))


def plain_rows(
    table: pa.Table, asked: RowsAsked, called: Mapping[str, str], label: str
) -> pa.Table:
    """Return rows as `normalised` does, text as string too, and without what a schema adds."""
    rows = normalised(_plain(table), asked, called, label)
    return pa.table(dict(zip(rows.column_names, rows.columns, strict=True)))


def with_plain_ids(
    table: pa.Table, asked: RowsAsked, called: Mapping[str, str], label: str
) -> pa.Table:
    """Return rows with ids as int64 or string; see `normalised`."""
    for position, name in enumerate(table.column_names):
        if name in asked.ids:
            table = table.set_column(position, name, id_column(table, name, label, called))
    return table


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which columns of different files are put together."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if is_text(kind):
        return pa.string()
    if (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ) and pa.types.is_floating(kind.value_type):
        return pa.list_(pa.float32())
    return kind


def _plain(table: pa.Table) -> pa.Table:
    return table.cast(
        pa.schema([field.with_type(plain_type(field.type)) for field in table.schema])
    )
