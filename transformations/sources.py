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

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from feast import FeatureView, FileSource, RepoConfig
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.offline_store import OfflineStore

from transformations import names
from transformations.errors import InvalidInput
from transformations.events import ActivityEvents
from transformations.item_vectors import ItemVectors
from transformations.snapshots import SnapshotSink
from transformations.spec import ActivitySpec, ItemEmbedding
from transformations.tables import require_columns
from transformations.times import to_datetime, to_us

READ_MARGIN = timedelta(days=1)
"""Read this much more on both sides than is used, then cut exactly: stores differ in whether
interval ends belong to it and in which zone they compare."""


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


def read_item_vectors(
    config: RepoConfig,
    store: type[OfflineStore] | OfflineStore,
    view: FeatureView,
    embedding: ItemEmbedding,
    *,
    end: int,
) -> ItemVectors:
    """Return every job vector with `t <= end`, microseconds since the epoch.

    Raises
    ------
    InvalidInput
        The source or a column is missing or malformed; see `ItemVectors.from_arrow`.
    """
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
            f"Received: {nulls} of {dataset.count_rows()} rows are null"
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
