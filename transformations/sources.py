"""Read activity events and job vectors through the user's Feast offline store, and check them.

Feast hands an engine the interval to materialize; the look-back of the window is added here.
Whatever the store, the rows pass the same checks before anything is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import NoneType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from feast import FeatureView, FileSource, RepoConfig
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.offline_store import OfflineStore
from feast.types import String

from transformations import names
from transformations.errors import InvalidInput
from transformations.events import ActivityEvents
from transformations.item_vectors import ITEM_COLUMNS, ItemVectors
from transformations.names import Tag
from transformations.snapshots import SnapshotSink
from transformations.spec import ActivitySpec, ItemEmbedding
from transformations.tables import require_columns, time_column
from transformations.times import to_datetime, to_us
from transformations.wording import are, out_of

READ_MARGIN = timedelta(days=1)
"""Read this much more on both sides than is used, then cut exactly: stores differ in whether
interval ends belong to it and in which zone they compare."""
_ALWAYS = np.iinfo(np.int64).min


def source_of(view: FeatureView) -> DataSource:
    """Return a view's batch source."""
    if view.batch_source is None:
        raise InvalidInput(f"{view.name}: expected a view with a batch source. Received: none")
    return view.batch_source


def sink_of(view: FeatureView) -> SnapshotSink:
    """Return where a sequence or embedding view keeps its snapshots.

    Raises
    ------
    InvalidInput
        That is not a local folder.
    """
    source = source_of(view)
    if not isinstance(source, FileSource) or "://" in source.path:
        raise InvalidInput(
            f"{view.name}: the sink should be a FileSource on a local folder. "
            f"Received: {type(source).__name__} {source.name!r}"
        )
    return SnapshotSink(Path(source.path))


def source_label(view: FeatureView) -> str:
    """Return how errors call a view's source: view and, for files, path."""
    source = source_of(view)
    where = source.path if isinstance(source, FileSource) else source.name
    return f"{view.name} ({where})"


def read_events(
    config: RepoConfig,
    store: type[OfflineStore] | OfflineStore,
    view: FeatureView,
    spec: ActivitySpec,
    *,
    start: int,
    end: int,
) -> ActivityEvents:
    """Return the events with `start <= t < end`, microseconds since the epoch.

    Raises
    ------
    InvalidInput
        The source or a column is missing or malformed; see `ActivityEvents.from_arrow`.
    """
    table = _pull(
        config,
        store,
        view,
        [names.MEMBER_ID, names.JOB_ID, names.ACTION],
        to_datetime(start),
        to_datetime(end),
        optional=[names.EVENT_ID],
    )
    label = source_label(view)
    # Checked before the cut below, which compares with aware times.
    ActivityEvents.from_arrow(table.slice(0, 0), spec, source=label)
    times = table.column(names.EVENT_TIMESTAMP)
    zone = times.type.tz
    inside = pc.and_(
        pc.greater_equal(times, pa.scalar(to_datetime(start), pa.timestamp("us", zone))),
        pc.less(times, pa.scalar(to_datetime(end), pa.timestamp("us", zone))),
    )
    return ActivityEvents.from_arrow(table.filter(inside), spec, source=label)


def read_postings(
    config: RepoConfig,
    store: type[OfflineStore] | OfflineStore,
    view: FeatureView,
    columns: Sequence[str],
    *,
    start: int | None = None,
    end: int,
) -> pa.Table:
    """Return `job_id`, `event_timestamp` and other columns of postings with `start <= t <= end`.

    Parameters
    ----------
    config, store : as Feast hands them to an engine.
    view : the view of postings.
    columns : which others; they are not checked here.
    start, end : microseconds since the epoch; without a start, from the first one on.

    Raises
    ------
    InvalidInput
        The source or a column is missing, or times are malformed.
    """
    first = None if start is None else to_datetime(start)
    wanted = [names.JOB_ID, *columns]
    table = _pull(config, store, view, wanted, first, to_datetime(end))
    time = time_column(table, names.EVENT_TIMESTAMP, source_label(view))
    return table.filter(pa.array((time <= end) & (time >= (_ALWAYS if start is None else start))))


def read_published_vectors(
    view: FeatureView, embedding: ItemEmbedding, *, more: Sequence[Path] = ()
) -> ItemVectors:
    """Return every job vector that a view made by an encoder has published.

    Parameters
    ----------
    view : the view; its sink is read directly, as snapshots are wherever the engine reads them.
    embedding : which vectors these should be.
    more : files of vectors that are staged and not committed yet.
    """
    sink = sink_of(view)
    files = [*(sink.file(as_of) for as_of in sink.committed()), *more]
    tables = [pq.read_table(file, columns=list(ITEM_COLUMNS), partitioning=None) for file in files]
    empty = pa.schema(
        {
            names.JOB_ID: _id_type(view),
            names.EMBEDDING: pa.list_(pa.float32()),
            names.EVENT_TIMESTAMP: pa.timestamp("us", "UTC"),
        }
    ).empty_table()
    table = pa.concat_tables(tables) if tables else empty
    return ItemVectors.from_arrow(table, embedding, source=source_label(view))


def read_item_vectors(
    config: RepoConfig,
    store: type[OfflineStore] | OfflineStore,
    view: FeatureView,
    embedding: ItemEmbedding,
    *,
    end: int,
) -> ItemVectors:
    """Return every job vector with `t <= end`, microseconds since the epoch.

    Where an encoder makes them these are the published ones, whatever their time: a look-up as of a
    time takes none that is later.

    Raises
    ------
    InvalidInput
        The source or a column is missing or malformed; see `ItemVectors.from_arrow`.
    """
    if Tag.ENCODER_PATH in view.tags:
        return read_published_vectors(view, embedding)
    table = _pull(config, store, view, [names.JOB_ID, names.EMBEDDING], None, to_datetime(end))
    label = source_label(view)
    ItemVectors.from_arrow(table.slice(0, 0), embedding, source=label)
    times = table.column(names.EVENT_TIMESTAMP)
    last = pa.scalar(to_datetime(end), pa.timestamp("us", times.type.tz))
    table = table.filter(pc.less_equal(times, last))
    return ItemVectors.from_arrow(table, embedding, source=label)


def count_rows(view: FeatureView) -> int | None:
    """Return the rows of a file source, None for others."""
    dataset = _parquet_dataset(view)
    return None if dataset is None else dataset.count_rows()


def earliest_event(view: FeatureView) -> int | None:
    """Return a file source's first event time in microseconds, None where that is not cheap."""
    dataset = _parquet_dataset(view)
    if dataset is None:
        return None
    column = source_of(view).timestamp_field
    lowest = None
    for fragment in dataset.get_fragments():
        for group in fragment.row_groups:
            statistics = (group.statistics or {}).get(column)
            if statistics is None:
                return None
            lowest = statistics["min"] if lowest is None else min(lowest, statistics["min"])
    return to_us(lowest) if isinstance(lowest, datetime) else None


def _id_type(view: FeatureView) -> pa.DataType:
    (column,) = view.entity_columns
    return pa.string() if column.dtype == String else pa.int64()


def _pull(
    config: RepoConfig,
    store: type[OfflineStore] | OfflineStore,
    view: FeatureView,
    columns: Sequence[str],
    start: datetime | None,
    end: datetime,
    *,
    optional: Sequence[str] = (),
) -> pa.Table:
    """Pull columns of a view's source under the view's own names, the join key first."""
    source, label = source_of(view), source_label(view)
    to_source = {ours: theirs for theirs, ours in source.field_mapping.items()}
    wanted = {name: to_source.get(name, name) for name in (*columns, *optional)}
    with readable(view):
        there = dict(source.get_table_column_names_and_types(config))
    for name in optional:
        if wanted[name] not in there:
            del wanted[name]
    require_columns(there, [*wanted.values(), source.timestamp_field], label)
    _require_times(view)
    join_key, *features = wanted.values()
    table = store.pull_all_from_table_or_query(
        config=config,
        data_source=source,
        join_key_columns=[join_key],
        feature_name_columns=features,
        timestamp_field=source.timestamp_field,
        start_date=None if start is None else start - READ_MARGIN,
        end_date=end + READ_MARGIN,
    ).to_arrow()
    names_of = {theirs: ours for ours, theirs in wanted.items()}
    names_of[source.timestamp_field] = names.EVENT_TIMESTAMP
    return table.rename_columns([names_of.get(name, name) for name in table.column_names])


def _require_times(view: FeatureView) -> None:
    """Raise where a file source has rows without a time: a store's interval filter hides them."""
    dataset = _parquet_dataset(view)
    column = source_of(view).timestamp_field
    if dataset is None or column not in dataset.schema.names:
        return
    nulls = dataset.count_rows(filter=ds.field(column).is_null())
    if nulls:
        raise InvalidInput(
            f"{source_label(view)}: column {column!r} should hold no nulls. "
            f"Received: {out_of(nulls, dataset.count_rows(), 'row')} {are(nulls)} null"
        )


def _parquet_dataset(view: FeatureView) -> ds.Dataset | None:
    """Return a local file source as a dataset, None for other sources."""
    source = source_of(view)
    if not isinstance(source, FileSource) or "://" in source.path:
        return None
    if not isinstance(source.file_format, ParquetFormat | NoneType):
        return None
    with readable(view):
        return ds.dataset(source.path, format="parquet")


@contextmanager
def readable(view: FeatureView) -> Iterator[None]:
    """Say which source it is that cannot be read."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidInput(
            f"{source_label(view)}: expected a readable source. "
            f"Received: {str(error).splitlines()[0]}"
        ) from error
