"""Append events to the offline source of activity, so that the next batch run sees them too.

A folder of parquet files, of this machine or of an object store, gets one more file. A single
parquet file is rewritten, where symbolic links point to. Iceberg and PostgreSQL get rows in one
commit. A reader, or a kill, finds all of the new events or none. Any other source is refused: some
of Feast's offline stores say that they have written what they have lost.
"""

from __future__ import annotations

import fcntl
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore, FeatureView

from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import TIMESTAMP, require_columns, single_chunk
from activity_embeddings.transformations.errors import InvalidData, InvalidInput
from activity_embeddings.transformations.feast_compat.stores import append_offline, offline_store
from activity_embeddings.transformations.files import real_path, replace_file
from activity_embeddings.transformations.offline.columns import RowsAsked, source_names
from activity_embeddings.transformations.offline.located import source_label, source_of
from activity_embeddings.transformations.offline.parquet_files import ParquetFiles
from activity_embeddings.transformations.offline.sources import (
    iceberg_rows,
    parquet_files,
    postgres_table,
    read_ids,
    readable,
)
from activity_embeddings.transformations.times import NEVER
from activity_embeddings.transformations.wording import OWN_PIPELINE, out_of

ABANDONED = 60.0
"""Seconds after which a file that a push writes aside is that of a push that was killed."""
_PUSHED = re.compile(r"live-\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{32}\.parquet")
"""What `_live_name` calls the files that pushes add to a folder of events."""


def append_events(
    store: FeatureStore, view: FeatureView, table: pa.Table, others: pa.Table | None = None
) -> None:
    """Append events to the batch source of a view.

    Parameters
    ----------
    store
        The feature store.
    view
        The view of activity events.
    table
        The view's own columns of members, items and actions, `event_timestamp` and, if the source
        has them, event ids. They are written under the source's own names and types. Its created
        timestamp, where it declares one, is now.
    others
        What the same events say beside it. A column that the source has under the same name is
        written where its values fit the source's type. The source's other columns are null.

    Raises
    ------
    InvalidInput
        The source cannot be read, lacks a column, has one that these events do not fill, is of a
        type that would lose something of them, or cannot be added to. Nothing was written.
    """
    files = parquet_files(store.config, view)
    if files is not None:
        path = files.local_path
        if path is None:
            files.add(_live_name(), _as_source(view, table, others, files.schema()))
        elif path.is_dir():
            _add_file(path, files, view, table, others)
        else:
            _rewrite_file(path, view, table, others)
    elif (iceberg := iceberg_rows(store.config, view)) is not None:
        types = {name: iceberg.type_of(name) for name in iceberg.columns}
        _append_through_feast(store, view, table, others, types)
    elif (rows := postgres_table(store.config, view)) is not None:
        types = {name: rows.type_of(name) for name in rows.columns}
        rows.append(_filled_columns(view, table, others, types))
    else:
        raise InvalidInput(
            f"{source_label(view)}: expected a source to which events can be added: parquet files, "
            "an Iceberg or a PostgreSQL table. Received: a "
            f"{type(source_of(view)).__name__}. {OWN_PIPELINE}"
        )


def source_has(store: FeatureStore, view: FeatureView, members: pa.Array) -> pa.Array:
    """Return those of some members who have events in the source, beside the files of pushes."""
    domain = names.DomainNames.of(view.tags)
    files = parquet_files(store.config, view)
    if files is None:
        table = read_ids(store.config, offline_store(store), view, domain.member_id)
    else:
        columns = source_names(view, [domain.member_id])
        asked = RowsAsked(columns, [domain.member_id], names.EVENT_TIMESTAMP, None, NEVER)
        table = replace(files, without=_PUSHED).read(asked)
    if not len(table):
        return members.slice(0, 0)
    return members.filter(pc.is_in(members, value_set=single_chunk(table, domain.member_id)))


class PushedEvents:
    """The events that pushes have added to a folder of files, each push a file of its own.

    The folder may be of this machine or of an object store. A reader in between, or a kill, may
    meet an event twice, which counts once.
    """

    def __init__(self, store: FeatureStore, view: FeatureView) -> None:
        member_id = names.DomainNames.of(view.tags).member_id
        self._column = source_names(view, [member_id])[member_id]
        self._source = parquet_files(store.config, view)
        there = [(self._source, name) for name in self._source.names] if self._source else []
        self._count = len(there)
        self._pushed = [(files, name) for files, name in there if _PUSHED.fullmatch(name)]

    def count(self, members: pa.Array) -> int:
        """Return how many events of members there are."""
        return sum(pc.sum(self._theirs(*pushed, members)).as_py() or 0 for pushed in self._pushed)

    def forget(self, members: pa.Array) -> int:
        """Take events of members out; return how many there were.

        A source that has no other file keeps one without rows, which says the columns.
        """
        self._remove_abandoned()
        forgotten, left = 0, self._count
        for files, name in self._pushed:
            theirs = self._theirs(files, name, members)
            count = pc.sum(theirs).as_py() or 0
            if count == len(theirs) and left > 1:
                files.remove(name)
                left -= 1
            elif count:
                _replace(files, name, files.rows_of(name).filter(pc.invert(theirs)))
            forgotten += count
        return forgotten

    def compact(self) -> tuple[int, int]:
        """Merge the files into one; return how many there were, and how many events they have."""
        self._remove_abandoned()
        tables = [files.rows_of(name) for files, name in self._pushed]
        if len(tables) > 1:
            merged = pa.concat_tables(tables, promote_options="default")
            self._pushed[0][0].write(_live_name(), merged)
            for files, name in self._pushed:
                files.remove(name)
        return len(tables), sum(map(len, tables))

    def _remove_abandoned(self) -> None:
        """Remove what killed pushes were writing: no reader saw it, and it names members.

        An object store has nothing of it.
        """
        folder = self._source.local_path if self._source else None
        for file in folder.glob(".live-*.writing") if folder else []:
            if not _PUSHED.fullmatch(file.name.removeprefix(".").removesuffix(".writing")):
                continue
            with suppress(FileNotFoundError):  # it was finished in between
                if time.time() - file.stat().st_mtime > ABANDONED:
                    file.unlink()

    def _theirs(self, files: ParquetFiles, name: str, members: pa.Array) -> pa.ChunkedArray:
        column = files.rows_of(name, [self._column]).column(0)
        return pc.is_in(column.cast(members.type), value_set=members)


def _replace(files: ParquetFiles, name: str, rows: pa.Table) -> None:
    """Write a file of a push anew."""
    if files.local_path is not None:
        files.write(name, rows)
        return
    # Not every store elsewhere keeps what was there until the new file is whole.
    files.write(_live_name(), rows)
    files.remove(name)


def _live_name() -> str:
    return f"live-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex}.parquet"


def _add_file(
    folder: Path,
    files: ParquetFiles,
    view: FeatureView,
    table: pa.Table,
    others: pa.Table | None,
) -> None:
    partitions = sorted(path.name for path in folder.glob("*=*") if path.is_dir())
    if partitions:
        raise InvalidInput(
            f"{source_label(view)}: expected a folder of files, because a new file could not say "
            f"its partition. Received: {partitions[0]}. {OWN_PIPELINE}"
        )
    files.write(_live_name(), _as_source(view, table, others, files.schema()))


def _rewrite_file(path: Path, view: FeatureView, table: pa.Table, others: pa.Table | None) -> None:
    # The file itself, so that pushes through all of its names wait for each other.
    path = real_path(path)
    with ExitStack() as stack:
        with readable(view):
            lock = stack.enter_context(path.with_name(f".{path.name}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = stack.enter_context(pq.ParquetFile(path))
        rows = _as_source(view, table, others, before.schema_arrow)
        groups = before.metadata.num_row_groups
        codec = before.metadata.row_group(0).column(0).compression if groups else "snappy"

        def write(aside: Path) -> None:
            with pq.ParquetWriter(aside, before.schema_arrow, compression=codec) as writer:
                for group in range(groups):
                    writer.write_table(before.read_row_group(group))
                writer.write_table(rows.cast(before.schema_arrow))

        replace_file(path, write)


def _append_through_feast(
    store: FeatureStore,
    view: FeatureView,
    table: pa.Table,
    others: pa.Table | None,
    types: Mapping[str, pa.DataType | None],
) -> None:
    filled = _filled_columns(view, table, others, types)
    nothing = pa.nulls(len(table))
    rows = pa.table({name: filled.get(name, nothing) for name in types})
    append_offline(store, view, rows)


def _as_source(
    view: FeatureView, table: pa.Table, others: pa.Table | None, schema: pa.Schema
) -> pa.Table:
    """Return events with all columns of the source, under its names and of its types."""
    types = dict(zip(schema.names, schema.types, strict=True))
    filled = _filled_columns(view, table, others, types)
    columns = []
    for field in schema:
        values = filled.get(field.name, pa.nulls(len(table), field.type))
        if values.null_count and not field.nullable:
            raise InvalidInput(
                f"{source_label(view)}: column {field.name!r} should accept nulls, since "
                f"{out_of(values.null_count, len(values), 'pushed event')} "
                f"{'does' if values.null_count == 1 else 'do'} not have it. Received: a column "
                f"that does not. {OWN_PIPELINE}"
            )
        try:
            columns.append(values.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InvalidData(
                f"{source_label(view)}: pushed events should fit column {field.name!r} of type "
                f"{field.type}. Received: {values.type}; {error}"
            ) from error
    return pa.Table.from_arrays(columns, schema=schema.remove_metadata())


def _filled_columns(
    view: FeatureView,
    table: pa.Table,
    others: pa.Table | None,
    types: Mapping[str, pa.DataType | None],
) -> dict[str, pa.Array]:
    """Return the columns that events fill, by their names in the source, which has these types."""
    source, label = source_of(view), source_label(view)
    domain = names.DomainNames.of(view.tags)
    columns = (*domain.event_columns, names.EVENT_TIMESTAMP, domain.event_id)
    wanted = source_names(view, columns)
    if wanted[domain.event_id] not in types:
        del wanted[domain.event_id]
    else:
        require_event_ids(view, table, table.column_names)
    require_columns(types, wanted.values(), label)
    filled = {theirs: single_chunk(table, ours) for ours, theirs in wanted.items()}
    created = source.created_timestamp_column
    if created and created in types:
        now = pa.scalar(datetime.now(UTC), TIMESTAMP)
        filled[created] = pa.array([now] * len(table), now.type)
    for column in [] if others is None else others.column_names:
        kind = types.get(column)
        if kind is not None and column not in filled:
            # What does not fit is left out, as what the source does not have.
            with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
                values = single_chunk(others, column).cast(kind)
                if values.null_count < len(values):  # or else the source may have a default
                    filled[column] = values
    return filled


def require_event_ids(view: FeatureView, table: pa.Table, received: Sequence[str]) -> None:
    """Raise where pushed events have no event ids, for a source of events that has them.

    Parameters
    ----------
    view
        The view of events.
    table
        The events, under our names.
    received
        The columns that were pushed.
    """
    event_id = names.DomainNames.of(view.tags).event_id
    if event_id not in table.column_names:
        raise InvalidData(
            f"pushed events: column {event_id!r} is missing. Expected, because "
            f"{source_label(view)} has it and orders events of one time by it. Received columns: "
            f"{', '.join(received)}"
        )
