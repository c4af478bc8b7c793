"""Read activity events and item vectors through the user's Feast offline store, and check them.

Feast hands an engine the interval to materialize; the look-back of the window is added here.
Whatever the store, the rows pass the same checks before anything is computed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, RepoConfig
from feast.infra.offline_stores.offline_store import OfflineStore
from feast.types import String

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.events import (
    ActivityEvents,
    CheckedEvents,
    action_ids,
    check_events,
)
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.kinds import events_of_kinds
from activity_embeddings.transformations.activity.member_range import EVERYBODY, MemberRange
from activity_embeddings.transformations.arrow import (
    TIMESTAMP,
    is_text,
    require_columns,
    require_zoned_time,
    single_chunk,
    time_column,
)
from activity_embeddings.transformations.errors import InvalidData, InvalidInput, unreadable
from activity_embeddings.transformations.extras import require_extra
from activity_embeddings.transformations.names import DomainNames, Tag
from activity_embeddings.transformations.offline.columns import RowsAsked, event_names, source_names
from activity_embeddings.transformations.offline.iceberg import IcebergRows, is_iceberg, located
from activity_embeddings.transformations.offline.located import (
    POSTGRES_SOURCE,
    SPARK_SOURCE,
    checked_source,
    is_a,
    source_label,
)
from activity_embeddings.transformations.offline.member_order import parts_in_order
from activity_embeddings.transformations.offline.parquet_files import (
    ROWS_AT_ONCE,
    ParquetFiles,
    is_parquet,
    plain_rows,
)
from activity_embeddings.transformations.offline.sinks.base import AfterCommit
from activity_embeddings.transformations.offline.sinks.places import sink_of
from activity_embeddings.transformations.offline.spill import (
    SAMPLE_ROWS,
    memory_of,
    spilled_parts,
)
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.times import ALWAYS, to_datetime, to_us

if TYPE_CHECKING:
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
        PostgreSQLSource,
    )
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

    from activity_embeddings.transformations.offline.postgres_tables import PostgresTable
    from activity_embeddings.transformations.offline.spark_tables import SparkTable

READ_MARGIN = timedelta(days=1)
"""Read this much more on both sides than is used, then cut exactly: stores differ in whether
interval ends belong to it and in which zone they compare."""
HELD = 4
"""As much as a fourth of what a part may take may be rows that wait for others of their members."""

_KIND = "__kind"
"""Says the kind of spilled rows; not in events."""
_WIDE_EVENT = 4_096
"""Bytes that no event takes: as many events as fit so are read without a look at some of them."""


class SourceRows(Protocol):
    """The rows of one source that is read here, whatever the offline store is."""

    @property
    def columns(self) -> dict[str, str]:
        """The names of the columns, and what the source calls their types."""

    def type_of(self, column: str) -> pa.DataType | None:
        """Return the type of what is read of a column, None where there is none."""

    def earliest(self) -> int | None:
        """Return the first time in microseconds since the epoch, None where it is untold."""

    def read(self, asked: RowsAsked) -> pa.Table:
        """Return the rows that are asked for, in any order.

        Raises
        ------
        InvalidData
            The source cannot be read, or lacks a column; see the classes that are one.
        StoreUnreachable
            Its store does not answer.
        """

    def most_rows(self, start: int | None, end: int) -> int:
        """Return how many rows `read` gives at most, without reading them."""

    def batches(self, asked: RowsAsked) -> Iterator[pa.Table]:
        """Yield what `read` gives in small tables; the first has no rows.

        All have one schema, in which all text is string.
        """

    def in_order(self, asked: RowsAsked, member: str, at_once: int) -> Iterator[pa.Table] | None:
        """Yield what `batches` gives by ascending ids of members, text by its bytes in UTF-8.

        None where the store cannot do that in one read.

        Parameters
        ----------
        asked
            Which rows.
        member
            Which of the columns has the ids.
        at_once
            How many rows may be held to put them in order, where it is not the store that does it.
        """


def read_events(
    config: RepoConfig,
    store: type[OfflineStore] | OfflineStore,
    views: Sequence[FeatureView],
    spec: ActivitySpec,
    *,
    start: int,
    end: int,
) -> ActivityEvents:
    """Return the events with `start <= t < end`, microseconds since the epoch.

    Parameters
    ----------
    config, store
        As Feast hands them to an engine.
    views
        The view of events; of a domain with several kinds of activity, those of all kinds in the
        order of the spec.
    spec
        Of the domain.
    start, end
        The interval.

    Raises
    ------
    InvalidInput
        The source or a column is missing or malformed; see `ActivityEvents.from_arrow`.
    """
    require_same_event_ids(views, config)
    return _in_order([_pull_events(config, store, v, start, end) for v in views], views, spec)


def event_parts(
    config: RepoConfig,
    store: type[OfflineStore] | OfflineStore,
    views: Sequence[FeatureView],
    spec: ActivitySpec,
    *,
    start: int,
    end: int,
    budget: int,
    folder: Path,
) -> Generator[tuple[MemberRange, ActivityEvents]]:
    """Yield the events that `read_events` returns, by ranges of members.

    The ranges ascend and cover all ids; there is one alone where all events fit into the budget. To
    hold one part at a time the caller lets go of it before asking for the next. A source that only
    the offline store reads is held whole all the same, as the store gives it.

    Parameters
    ----------
    config, store, views, spec, start, end
        See `read_events`.
    budget
        What the events of a part may take in bytes while they are read and put in order. The events
        of one member are never divided.
    folder
        A folder of this machine, for what does not fit and no store gives in the order of members.
        Nothing is left in it.

    Raises
    ------
    InvalidInput
        As `read_events` does, or the folder cannot be written. Ids, times and actions are checked
        when their rows are read: before the first part, or each where stores give the order.
    """
    event_ids = require_same_event_ids(views, config)
    rows, read, pulled = 0, list[Iterator[pa.Table]](), list[pa.Table | None]()
    for view in views:
        most, tables, held = _tables_of(config, store, view, start, end)
        rows += most
        read.append(tables)
        pulled.append(held)

    def spillable(streams: Sequence[Iterator[pa.Table]]) -> list[Iterator[pa.Table]]:
        return [
            map(partial(_spillable, views, kind, spec, event_ids, start, end), tables)
            for kind, tables in enumerate(streams)
        ]

    if rows * _WIDE_EVENT > budget:
        with ExitStack() as stack:
            for tables in read:
                stack.enter_context(closing(cast("Generator[pa.Table]", tables)))
            in_turn = _in_turn(spillable(read))
            head: list[pa.Table] = []
            for table in in_turn:
                head.append(table)
                if sum(map(len, head)) >= SAMPLE_ROWS:
                    break
            else:
                rows = sum(map(len, head))
            sample = pa.concat_tables(head)
            memory = memory_of(rows, rows * sample.nbytes / max(1, len(sample)))
            if memory > budget and len(sample):
                member_id = DomainNames.of(views[0].tags).member_id
                at_once = int(budget / HELD * len(sample) / sample.nbytes)
                ordered = _in_order_of_members(config, views, start, end, at_once // len(views))
                if ordered is not None:
                    stack.close()  # the store has begun to answer
                    for tables in ordered:
                        stack.enter_context(closing(cast("Generator[pa.Table]", tables)))
                    parts = parts_in_order(spillable(ordered), member_id, budget)
                else:
                    parts = spilled_parts(
                        chain(head, in_turn),
                        member_id,
                        sample=single_chunk(sample, member_id),
                        memory=memory,
                        budget=budget,
                        folder=folder,
                    )
                del sample, head
                with closing(parts):
                    for members, read_part in parts:
                        yield members, _in_order(_by_kind(read_part(), views), views, spec)
                return
    yield (
        EVERYBODY,
        _in_order(
            [
                _pull_events(config, store, view, start, end) if held is None else held
                for view, held in zip(views, pulled, strict=True)
            ],
            views,
            spec,
        ),
    )


def _in_order_of_members(
    config: RepoConfig, views: Sequence[FeatureView], start: int, end: int, at_once: int
) -> list[Iterator[pa.Table]] | None:
    """Return the rows of events of each view by ascending members; None unless all sources can."""
    streams = []
    for view in views:
        stored = _read_here(config, view)
        member_id = DomainNames.of(view.tags).member_id
        asked = _events_asked(view, start, end)
        rows = None if stored is None else stored.in_order(asked, member_id, at_once)
        if rows is None:
            return None
        streams.append(rows)
    return streams


def _tables_of(
    config: RepoConfig,
    store: type[OfflineStore] | OfflineStore,
    view: FeatureView,
    start: int,
    end: int,
) -> tuple[int, Iterator[pa.Table], pa.Table | None]:
    """Return the rows of events of one view in small tables.

    Returns
    -------
    tuple
        How many rows there are at most, the tables, and the one that they are slices of, where a
        store gives all rows at once.
    """
    asked, label = _events_asked(view, start, end), source_label(view)
    stored = _read_here(config, view)
    if stored is None:
        pulled = _pull_events(config, store, view, start, end)
        called = event_names(view)
        slices = (
            plain_rows(pulled.slice(i, ROWS_AT_ONCE), asked, called, label)
            for i in range(0, len(pulled), ROWS_AT_ONCE)
        )
        return len(pulled), slices, pulled
    return stored.most_rows(start, end), stored.batches(asked), None


def _events_asked(view: FeatureView, start: int, end: int) -> RowsAsked:
    """Return what is asked of a source of events."""
    domain = DomainNames.of(view.tags)
    wanted = source_names(view, [*domain.event_columns, domain.event_id])
    ids = [domain.member_id, domain.item_id, domain.event_id]
    return RowsAsked(wanted, ids, names.EVENT_TIMESTAMP, start, end, [domain.event_id])


def _in_turn(iterators: Sequence[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Yield a table of each in turn, so that the first ones tell of all."""
    for tables in zip_longest(*iterators):
        yield from (table for table in tables if table is not None)


def _spillable(
    views: Sequence[FeatureView],
    kind: int,
    spec: ActivitySpec,
    event_ids: pa.DataType | None,
    start: int,
    end: int,
    table: pa.Table,
) -> pa.Table:
    """Return the rows of one kind with `start <= t < end`, checked.

    Of several kinds all have the columns of the first and their types, ids of items as text, and
    the kind.
    """
    view = views[kind]
    if len(views) == 1:
        return _checked(table, view, spec, start, end)
    rows = _checked(table, view, ActivitySpec.of(view.tags), start, end)
    ours, own = DomainNames.of(view.tags), DomainNames.of(views[0].tags)
    member_ids = rows.column(ours.member_id)
    if len(rows) and member_ids.type != _id_type(view):
        raise InvalidData(
            f"{source_label(view)}: column {event_names(view)[ours.member_id]!r} should be "
            f"{_id_type(view)}, as the feature repo declares it. Received: {member_ids.type}"
        )
    columns = {
        own.member_id: member_ids.cast(_id_type(view)),
        own.item_id: rows.column(ours.item_id).cast(pa.string()),
        own.action: rows.column(ours.action).cast(pa.string()),
        names.EVENT_TIMESTAMP: rows.column(names.EVENT_TIMESTAMP),
        _KIND: pa.array(np.full(len(rows), kind, dtype=np.int8)),
    }
    if ours.session_id is not None and own.session_id is not None:
        columns[own.session_id] = rows.column(ours.session_id).cast(pa.string())
    if ours.event_id in rows.column_names:
        ids = rows.column(ours.event_id)
        # A source without rows may not tell the type.
        columns[own.event_id] = ids if event_ids is None or len(ids) else ids.cast(event_ids)
    return pa.table(columns)


def _by_kind(table: pa.Table, views: Sequence[FeatureView]) -> list[pa.Table]:
    """Return spilled rows as a table for each kind, with its own columns."""
    if len(views) == 1:
        return [table]
    own = DomainNames.of(views[0].tags)
    found = []
    for kind, view in enumerate(views):
        ours = DomainNames.of(view.tags)
        called = {
            own.item_id: ours.item_id,
            own.action: ours.action,
            own.event_id: ours.event_id,
            own.session_id: ours.session_id,
        }
        rows = table.filter(pc.equal(table.column(_KIND), kind)).drop_columns([_KIND])
        found.append(rows.rename_columns([called.get(name, name) for name in rows.column_names]))
    return found


def require_same_event_ids(views: Sequence[FeatureView], config: RepoConfig) -> pa.DataType | None:
    """Return the type of the event ids of all kinds of activity, where a source tells it.

    Parameters
    ----------
    views
        The views of events; of one there is nothing to require, and nothing is returned.
    config
        Says where the feature repo is.

    Raises
    ------
    InvalidInput
        Only some have event ids, or ids of different types.
    """
    if len(views) == 1:
        return None
    found = {view.name: event_ids_of(config, view) for view in views}
    having = [kind for kind in found.values() if kind is not None]
    told = {kind for kind in having if not pa.types.is_null(kind)}
    if len(told) > 1 or 0 < len(having) < len(views):
        raise InvalidInput(
            "event ids: expected the views of events of all kinds of activity to have them, of one "
            "type, or none of them. Received: "
            + ", ".join(
                f"{name} {'none' if kind is None else kind}" for name, kind in found.items()
            )
        )
    return next(iter(told), None)


def read_ids(
    config: RepoConfig, store: type[OfflineStore] | OfflineStore, view: FeatureView, column: str
) -> pa.Table:
    """Return a column of ids of all events up to tomorrow."""
    tomorrow = to_us(datetime.now(UTC) + timedelta(days=1))
    return _pull(config, store, view, [column], None, tomorrow, ids=[column])


def declared_event_ids(view: FeatureView) -> pa.DataType | None:
    """Return the type of event ids where a view of events declares them, else None."""
    event_id = DomainNames.of(view.tags).event_id
    for field in view.features:
        if field.name == event_id:
            return pa.string() if field.dtype == String else pa.int64()
    return None


def declared_session_ids(view: FeatureView) -> pa.DataType | None:
    """Return the type of session ids where a view of events declares them, else None."""
    session_id = DomainNames.of(view.tags).session_id
    for field in view.features:
        if field.name == session_id:
            return pa.string() if field.dtype == String else pa.int64()
    return None


def event_ids_of(config: RepoConfig, view: FeatureView) -> pa.DataType | None:
    """Return the type of the event ids in a source of events, None where it has none.

    `null` where it has them and does not tell their type.
    """
    declared = declared_event_ids(view)
    if declared is not None:
        return declared
    event_id = DomainNames.of(view.tags).event_id
    column = source_names(view, [event_id])[event_id]
    stored = _read_here(config, view)
    if stored is None:
        return pa.null() if column in source_columns(config, view) else None
    kind = stored.type_of(column)
    if kind is None or pa.types.is_null(kind):
        return kind
    return pa.int64() if pa.types.is_integer(kind) else pa.string()


def read_postings(
    config: RepoConfig,
    store: type[OfflineStore] | OfflineStore,
    view: FeatureView,
    columns: Sequence[str],
    *,
    start: int | None = None,
    end: int,
) -> pa.Table:
    """Return ids, `event_timestamp` and other columns of postings with `start <= t <= end`.

    Parameters
    ----------
    config, store
        As Feast hands them to an engine.
    view
        The view of postings.
    columns
        Which others; they are not checked here.
    start, end
        Microseconds since the epoch; without a start, from the first one on.

    Raises
    ------
    InvalidInput
        The source or a column is missing, or times are malformed.
    """
    item_id = key_of(view)
    table = _pull(config, store, view, [item_id, *columns], start, end, ids=[item_id])
    time = time_column(table, names.EVENT_TIMESTAMP, source_label(view))
    return table.filter(pa.array((time <= end) & (time >= (ALWAYS if start is None else start))))


def read_published_vectors(
    config: RepoConfig, view: FeatureView, embedding: ItemVectorSpec, *, staged: Sequence[int] = ()
) -> ItemVectors:
    """Return every item vector that a view made by an encoder has published.

    Parameters
    ----------
    view
        The view; its sink is read directly, as snapshots are wherever the engine reads them.
    embedding
        Which vectors these should be.
    staged
        As-of times of vectors that are staged and not committed yet.
    """
    vectors = AfterCommit(sink_of(view, config), staged)
    item_id = key_of(view)
    columns = [item_id, names.EMBEDDING, names.EVENT_TIMESTAMP]
    tables = [vectors.read(as_of, columns) for as_of in vectors.committed()]
    empty = pa.schema(
        {
            item_id: _id_type(view),
            names.EMBEDDING: pa.list_(pa.float32()),
            names.EVENT_TIMESTAMP: TIMESTAMP,
        }
    ).empty_table()
    table = pa.concat_tables(tables) if tables else empty
    return ItemVectors.from_arrow(table, embedding, source=source_label(view), item_id=item_id)


def read_item_vectors(
    config: RepoConfig,
    store: type[OfflineStore] | OfflineStore,
    view: FeatureView,
    embedding: ItemVectorSpec,
    *,
    end: int,
) -> ItemVectors:
    """Return every item vector with `t <= end`, microseconds since the epoch.

    Where an encoder makes them these are the published ones, whatever their time: a look-up as of a
    time takes none that is later.

    Raises
    ------
    InvalidInput
        The source or a column is missing or malformed; see `ItemVectors.from_arrow`.
    """
    if Tag.ENCODER_PATH in view.tags:
        return read_published_vectors(config, view, embedding)
    item_id = key_of(view)
    table = read_feature_rows(config, store, view, [item_id, names.EMBEDDING], end=end)
    return ItemVectors.from_arrow(table, embedding, source=source_label(view), item_id=item_id)


def read_feature_rows(
    config: RepoConfig,
    store: type[OfflineStore] | OfflineStore,
    view: FeatureView,
    columns: Sequence[str],
    *,
    end: int,
) -> pa.Table:
    """Return columns of a view of items, ids first, and `event_timestamp`, with `t <= end`."""
    table = _pull(config, store, view, columns, None, end, ids=[key_of(view)])
    time = time_column(table, names.EVENT_TIMESTAMP, source_label(view))
    return table.filter(pa.array(time <= end))


def parquet_files(config: RepoConfig, view: FeatureView) -> ParquetFiles | None:
    """Return the files of a view's source, None for a source that is no parquet files."""
    source = checked_source(view, config)
    if not is_parquet(source):
        return None
    return ParquetFiles(source, config.repo_path, source_label(view))


def iceberg_rows(config: RepoConfig, view: FeatureView) -> IcebergRows | None:
    """Return the rows of a view's source, None for a source that is no Iceberg table."""
    source = checked_source(view, config)
    if not is_iceberg(source):
        return None
    return IcebergRows(located(source, config.repo_path), source_label(view))


def postgres_table(config: RepoConfig, view: FeatureView) -> PostgresTable | None:
    """Return the table or query of a view's source, None for a source that is not PostgreSQL's."""
    source = checked_source(view, config)
    if not is_a(source, POSTGRES_SOURCE):
        return None
    require_extra("postgres", source_label(view))
    from activity_embeddings.transformations.offline.postgres_tables import PostgresTable

    return PostgresTable(cast("PostgreSQLSource", source), config, source_label(view))


def spark_table(config: RepoConfig, view: FeatureView) -> SparkTable | None:
    """Return what a view's source reads in Spark, None for a source that is not Spark's."""
    source = checked_source(view, config)
    if not is_a(source, SPARK_SOURCE):
        return None
    require_extra("spark", source_label(view))
    from activity_embeddings.transformations.offline.spark_tables import SparkTable

    return SparkTable(cast("SparkSource", source), config, source_label(view))


def _read_here(config: RepoConfig, view: FeatureView) -> SourceRows | None:
    """Return a source that is read here, whatever the offline store is, None for another one."""
    return (
        parquet_files(config, view)
        or iceberg_rows(config, view)
        or postgres_table(config, view)
        or spark_table(config, view)
    )


def earliest_time(config: RepoConfig, view: FeatureView) -> int | None:
    """Return the first time of a source, microseconds since the epoch, None where it is untold."""
    stored = _read_here(config, view)
    return None if stored is None else stored.earliest()


def count_hidden_files(config: RepoConfig, *views: FeatureView) -> int:
    """Return how many parquet files of sources are not read; see `parquet_files`."""
    sources = [parquet_files(config, view) for view in views]
    return sum(files.count_hidden() for files in sources if files is not None)


def source_columns(config: RepoConfig, view: FeatureView) -> dict[str, str]:
    """Return the names of the columns of a view's source, and what it calls their types."""
    stored = _read_here(config, view)
    if stored is not None:
        return stored.columns
    with readable(view):
        return dict(checked_source(view, config).get_table_column_names_and_types(config))


def check_columns(
    view: FeatureView,
    config: RepoConfig,
    *,
    ids: Sequence[str],
    texts: Sequence[str] = (),
    lists: Sequence[str] = (),
    optional_ids: Sequence[str] = (),
) -> None:
    """Check where a source is, and those of its columns that are cheap to look at.

    Of parquet files by a footer, of tables in Iceberg, PostgreSQL and Spark by what these say of
    them.

    Parameters
    ----------
    view
        Whose source.
    config
        Says where the feature repo is.
    ids, texts, lists
        Columns of the view that should hold ids, text, and lists of floats.
    optional_ids
        Columns of ids that the source may lack.

    Raises
    ------
    InvalidInput
        There is no such source, its path is absolute, or a column is missing or of another type.
    """
    checked_source(view, config)
    stored = _read_here(config, view)
    if stored is None:
        return
    there = source_columns(config, view)
    label = source_label(view)
    called = source_names(view, [*ids, *texts, *lists, *optional_ids, names.EVENT_TIMESTAMP])
    optional = {called[name] for name in optional_ids}
    declared = {column.name: column.dtype for column in [*view.entity_columns, *view.features]}
    require_columns(there, [c for c in called.values() if c not in optional], label)

    def require(column: str, suits: bool, expected: str) -> None:
        if not suits:
            raise InvalidInput(
                f"{label}: column {column!r} should be {expected}. Received: {there[column]}"
            )

    for name, column in called.items():
        if column not in there:
            continue
        kind = stored.type_of(column)
        if kind is None:
            raise InvalidInput(
                f"{label}: column {column!r} should be of a type that can be read. "
                f"Received: {there[column]}"
            )
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if pa.types.is_null(kind):
            continue  # As pandas writes a column without values.
        if name in ids or name in optional_ids:
            integer, text = pa.types.is_integer(kind), is_text(kind)
            if name not in declared:
                require(column, integer or text, "int64 or string")
            elif declared[name] == String:
                require(column, text, "string, as the feature repo declares it")
            else:
                require(column, integer, "int64, as the feature repo declares it")
        elif name in texts:
            require(column, is_text(kind), "string")
        elif name in lists:
            floats = pa.types.is_nested(kind) and hasattr(kind, "value_type")
            require(column, floats and pa.types.is_floating(kind.value_type), "list<float>")
        else:
            require_zoned_time(kind, column, label)


def key_of(view: FeatureView) -> str:
    """Return the join key of a view of one entity."""
    (key,) = view.join_keys
    return key


def _id_type(view: FeatureView) -> pa.DataType:
    (column,) = view.entity_columns
    return pa.string() if column.dtype == String else pa.int64()


def _pull(
    config: RepoConfig,
    store: type[OfflineStore] | OfflineStore,
    view: FeatureView,
    columns: Sequence[str],
    start: int | None,
    end: int,
    *,
    ids: Sequence[str],
    optional: Sequence[str] = (),
) -> pa.Table:
    """Pull columns of a view's source under the view's own names, the join key first.

    At least the rows with `start <= t <= end`, microseconds since the epoch; a store may give more.
    """
    source = checked_source(view, config)
    wanted = source_names(view, (*columns, *optional))
    stored = _read_here(config, view)
    if stored is not None:
        return stored.read(RowsAsked(wanted, ids, names.EVENT_TIMESTAMP, start, end, optional))
    there = source_columns(config, view)
    for name in optional:
        if wanted[name] not in there:
            del wanted[name]
    require_columns(there, [*wanted.values(), source.timestamp_field], source_label(view))
    join_key, *features = wanted.values()
    with readable(view):
        pulled = store.pull_all_from_table_or_query(
            config=config,
            data_source=source,
            join_key_columns=[join_key],
            feature_name_columns=features,
            timestamp_field=source.timestamp_field,
            start_date=None if start is None else to_datetime(start) - READ_MARGIN,
            end_date=to_datetime(end) + READ_MARGIN,
        ).to_arrow()
    names_of = {theirs: ours for ours, theirs in wanted.items()}
    names_of[source.timestamp_field] = names.EVENT_TIMESTAMP
    return pulled.rename_columns([names_of.get(name, name) for name in pulled.column_names])


def _pull_events(
    config: RepoConfig,
    store: type[OfflineStore] | OfflineStore,
    view: FeatureView,
    start: int,
    end: int,
) -> pa.Table:
    """Return the rows of events with `start <= t < end`."""
    domain = DomainNames.of(view.tags)
    return _events_inside(
        _pull(
            config,
            store,
            view,
            domain.event_columns,
            start,
            end,
            ids=[domain.member_id, domain.item_id, domain.event_id],
            optional=[domain.event_id],
        ),
        view,
        start,
        end,
    )


def _events_inside(table: pa.Table, view: FeatureView, start: int, end: int) -> pa.Table:
    label = source_label(view)
    if declared_event_ids(view) is not None:
        require_columns(table.column_names, [DomainNames.of(view.tags).event_id], label)
    time = time_column(table, names.EVENT_TIMESTAMP, label, event_names(view))
    return table.filter(pa.array((time >= start) & (time < end)))


def _checked(
    table: pa.Table, view: FeatureView, spec: ActivitySpec, start: int, end: int
) -> pa.Table:
    """Return the rows with `start <= t < end`, whose actions are those of the spec."""
    rows = _events_inside(table, view, start, end)
    column, called = DomainNames.of(view.tags).action, event_names(view)
    action_ids(rows, spec, source=source_label(view), column=column, called=called)
    return rows


def _in_order(
    tables: Sequence[pa.Table], views: Sequence[FeatureView], spec: ActivitySpec
) -> ActivityEvents:
    """Return the events of each view as one event table."""
    if len(views) == 1:
        return ActivityEvents.of(_check(tables[0], views[0], spec))
    checked = {
        DomainNames.of(view.tags).item: _check(table, view, ActivitySpec.of(view.tags))
        for table, view in zip(tables, views, strict=True)
    }
    return ActivityEvents.of(events_of_kinds(checked, spec))


def _check(table: pa.Table, view: FeatureView, spec: ActivitySpec) -> CheckedEvents:
    domain = DomainNames.of(view.tags)
    label, called = source_label(view), event_names(view)
    return check_events(table, spec, source=label, domain=domain, called=called)


@contextmanager
def readable(view: FeatureView) -> Iterator[None]:
    """Say which source it is that cannot be read."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise unreadable(source_label(view), error) from error
