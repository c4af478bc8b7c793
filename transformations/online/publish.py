"""Publish snapshots to the online store: all of the push is in this file.

The online store holds, for every member and item, the newest committed row of the offline store; in
the sequence view, merged with activity that was pushed since. Rows go through Feast's own
`online_write_batch`, or `row_updates` where they are merged, so any online store works; the
protobuf values are built in bulk, which is where the time of the usual path goes.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView, Field, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.Value_pb2 import Int32List, Int64List, StringList, Value
from feast.type_map import python_values_to_proto_values
from feast.types import Array, Float32, Int32, Int64, String, UnixTimestamp
from tqdm import tqdm

from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import (
    TIMESTAMP,
    rank_encode,
    single_chunk,
    take_rows,
    time_column,
)
from activity_embeddings.transformations.offline.snapshots import SnapshotSink
from activity_embeddings.transformations.online.rows import (
    Compute,
    Needs,
    Row,
    entity_keys,
    update_rows,
)
from activity_embeddings.transformations.times import to_datetime

WRITE_BATCH = 10_000
"""Rows a call of the store, unless Feast's `materialization.online_write_batch_size` says."""

Merge: TypeAlias = Callable[[Sequence[Row]], tuple[Compute, Needs]]
"""Takes the rows of a snapshot; returns what makes the rows to write from them and the stored, and
which of the stored it needs."""

Newest: TypeAlias = Callable[
    [SnapshotSink, Sequence[int], set[int], str], Iterator[tuple[int, pa.BooleanArray]]
]
"""Takes the sink, all committed as-of times, the pending ones and the join key; returns the rows to
write of each snapshot. Of one key at most one row is chosen."""


@dataclass(frozen=True)
class PushCount:
    """Rows (members or items) and values (rows times features) that went online."""

    rows: int
    values: int


def push_snapshots(
    config: RepoConfig,
    store: OnlineStore,
    view: FeatureView,
    sink: SnapshotSink,
    *,
    changed: Iterable[int],
    merge: Merge | None = None,
    newest: Newest | None = None,
    progress: Callable[[int], tqdm] | None = None,
) -> PushCount:
    """Bring the online store up to the newest committed snapshots of one view.

    Goes from the newest snapshot back to the oldest that the store has not seen, and writes each
    member's newest row once. Past the newest snapshot these are the members who fell silent in
    between: their explicit empty values.

    Parameters
    ----------
    config, store, view : as Feast hands them to an engine.
    sink : the view's committed snapshots.
    changed : as-of times whose snapshot is new or has other rows than before.
    merge : joins rows with what the store has. None: they replace it.
    newest : chooses the rows. None: those of the newest snapshot, as where every row has the time
        of its snapshot; see also `newest_by_time`.
    progress : makes a progress bar of so many rows.
    """
    # Versions of a view share one online table: what another one has put there is replaced.
    for other in sink.versions():
        if other != sink:
            other.forget_published()
    mark = sink.published(store_identity(config))
    committed = sink.committed()
    pending = set(changed) | {t for t in committed if mark is None or t > mark}
    if not pending:
        return PushCount(0, 0)
    join_key = _join_key(view)
    chosen = list((newest or newest_by_snapshot)(sink, committed, pending, join_key))
    count = sum(keep.true_count for _, keep in chosen)
    bar = progress(count) if progress else None
    if bar is not None:
        bar.set_description(view.name)
    for as_of, keep in chosen:
        with pq.ParquetFile(sink.file(as_of)) as file, _garbage_collection_paused():
            for batch in _batches(file, keep, join_key, config):
                _write(config, store, view, feast_rows(view, batch), merge)
                if bar is not None:
                    bar.update(batch.num_rows)
    if bar is not None:
        bar.close()
    sink.mark_published(store_identity(config), committed[-1])
    return PushCount(count, count * len(view.features))


def _write(
    config: RepoConfig,
    store: OnlineStore,
    view: FeatureView,
    rows: Sequence[Row],
    merge: Merge | None,
) -> None:
    """Write rows, merged with what is stored or in its place."""
    if merge is None and not _keeps_newer(config):
        store.online_write_batch(config, view, list(rows), None)
        return
    compute, needs = merge(rows) if merge else (lambda which, _: [rows[i] for i in which], None)
    update_rows(config, store, view, [key for key, *_ in rows], compute, needs=needs)


def _keeps_newer(config: RepoConfig) -> bool:
    """Return whether the store passes over rows that are not newer than what it has.

    Feast's Redis store does, unless told otherwise. A snapshot that was made again, or a model that
    was taken back to an earlier version, would then not show.
    """
    settings = config.online_store
    return settings.type == "redis" and not getattr(settings, "skip_dedup", False)


def push_table(
    config: RepoConfig,
    store: OnlineStore,
    view: FeatureView,
    table: pa.Table,
    *,
    start: int,
    progress: Callable[[int], tqdm] | None = None,
) -> None:
    """Push each key's newest row of a table, as of `start` or later, in place of what is stored.

    Parameters
    ----------
    config, store, view : as Feast hands them to an engine.
    table : the join key, every feature, and `event_timestamp` as timestamp[us, UTC].
    start : microseconds since the epoch.
    progress : makes a progress bar of so many rows.
    """
    time = time_column(table, names.EVENT_TIMESTAMP, view.name)
    order = np.argsort(time, kind="stable")
    order = order[time[order] >= start]
    _, key = rank_encode(single_chunk(table, _join_key(view)).take(pa.array(order)))
    # Of a key that is there several times, the position of the last.
    last = np.full(key.max(initial=-1) + 1, 0)
    last[key] = order
    newest = take_rows(table, last)
    for field in view.features:
        if field.dtype == Array(Float32):
            position = newest.column_names.index(field.name)
            floats = newest.column(position).cast(pa.list_(pa.float32()))
            newest = newest.set_column(position, field.name, floats)
    bar = progress(len(newest)) if progress else None
    if bar is not None:
        bar.set_description(view.name)
    size = config.materialization_config.online_write_batch_size or WRITE_BATCH
    with _garbage_collection_paused():
        for batch in newest.to_batches(size):
            batch = _in_key_order(batch, _join_key(view))
            _write(config, store, view, feast_rows(view, batch), None)
            if bar is not None:
                bar.update(batch.num_rows)
    if bar is not None:
        bar.close()


def newest_by_snapshot(
    sink: SnapshotSink, committed: Sequence[int], pending: set[int], join_key: str
) -> Iterator[tuple[int, pa.BooleanArray]]:
    """Yield (as of, which rows) of pending snapshots: the rows that no newer snapshot replaces."""
    seen: pa.Array | None = None
    for as_of in reversed([t for t in committed if t >= min(pending)]):
        table = pq.read_table(sink.file(as_of), columns=[join_key], partitioning=None)
        members = table.column(0).combine_chunks()
        if seen is None:
            fresh = pa.array(np.ones(len(members), dtype=bool))
            seen = members
        else:
            fresh = pc.invert(pc.is_in(members, value_set=seen))
            seen = pa.concat_arrays([seen, members.filter(fresh)])
        if as_of in pending and fresh.true_count:
            yield as_of, fresh


def newest_by_time(
    sink: SnapshotSink, committed: Sequence[int], pending: set[int], join_key: str
) -> Iterator[tuple[int, pa.BooleanArray]]:
    """Yield (as of, which rows) of pending snapshots: the rows that have no newer one anywhere.

    For snapshots whose rows have times of their own: a late one may be older than what is there.
    """
    columns = [join_key, names.EVENT_TIMESTAMP]
    tables = [
        pq.read_table(sink.file(as_of), columns=columns, partitioning=None) for as_of in committed
    ]
    _, key = rank_encode(single_chunk(pa.concat_tables(tables), join_key))
    time = np.concatenate(
        [time_column(table, names.EVENT_TIMESTAMP, str(sink.path)) for table in tables]
    )
    order = np.lexsort((time, key))
    last = np.append(key[order[1:]] != key[order[:-1]], True)
    newest = np.zeros(len(key), dtype=bool)
    newest[order[last]] = True
    start = 0
    for as_of, table in zip(committed, tables, strict=True):
        keep = pa.array(newest[start : start + len(table)])
        start += len(table)
        if as_of in pending and keep.true_count:
            yield as_of, keep


def _join_key(view: FeatureView) -> str:
    (join_key,) = view.join_keys
    return join_key


def store_identity(config: RepoConfig) -> str:
    """Return a short name of the configured online store, equal only for equal configurations."""
    settings = config.online_store.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps([config.project, settings], sort_keys=True).encode())
    return f"{config.online_store.type}:{digest.hexdigest()[:12]}"


def feast_rows(view: FeatureView, batch: pa.RecordBatch) -> list[Row]:
    """Return a record batch as the rows that Feast's online stores take."""
    keys = entity_keys(view, batch.column(_join_key(view)))
    features = [field.name for field in view.features]
    columns = [_values(batch.column(field.name), field) for field in view.features]
    event_times = _datetimes(batch.column(names.EVENT_TIMESTAMP))
    created_times: Sequence[datetime | None] = [None] * batch.num_rows
    if names.CREATED_TIMESTAMP in batch.schema.names:
        created_times = _datetimes(batch.column(names.CREATED_TIMESTAMP))
    return [
        (key, dict(zip(features, row, strict=True)), event_time, created_time)
        for key, event_time, created_time, row in zip(
            keys, event_times, created_times, zip(*columns, strict=True), strict=True
        )
    ]


def _batches(
    file: pq.ParquetFile, keep: pa.BooleanArray, join_key: str, config: RepoConfig
) -> Iterator[pa.RecordBatch]:
    """Read the rows of a snapshot that `keep` chooses, in batches."""
    size = config.materialization_config.online_write_batch_size or WRITE_BATCH
    start = 0
    for batch in file.iter_batches(size):
        rows = batch.num_rows
        batch = _in_key_order(batch.filter(keep.slice(start, rows)), join_key)
        start += rows
        if batch.num_rows:
            yield batch


def _in_key_order(batch: pa.RecordBatch, join_key: str) -> pa.RecordBatch:
    """Order rows by their serialised entity key, as an index of the store has them.

    Feast writes integers in little endian, so that ids in order are keys out of order.
    """
    ids = batch.column(join_key)
    if not pa.types.is_integer(ids.type):
        return batch
    keys = ids.to_numpy(zero_copy_only=False).view(np.uint64).byteswap()
    return batch.take(pa.array(np.argsort(keys)))


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause the cyclic garbage collector, which would walk through millions of fresh values.

    They form no cycles: reference counts free them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _values(column: pa.Array, field: Field) -> Sequence[Value]:
    """Return one feature's column as protobuf values, of the type that the view declares."""
    if field.dtype == UnixTimestamp and column.type == TIMESTAMP:
        seconds = pc.floor(pc.divide(column.cast(pa.int64()), pa.scalar(1e6))).to_pylist()
        return [
            Value() if second is None else Value(unix_timestamp_val=int(second))
            for second in seconds
        ]
    if not column.null_count:
        if field.dtype == Array(Float32) and _of_one_length(column):
            return _float_lists(column)
        kind, make = _IN_BULK.get(str(field.dtype), (None, None))
        if make is not None and column.type == kind:
            return [make(value) for value in column.to_pylist()]
    return python_values_to_proto_values(column.to_pylist(), field.dtype.to_value_type())


_IN_BULK: dict[str, tuple[pa.DataType, Callable[[Any], Value]]] = {
    str(Int64): (pa.int64(), lambda value: Value(int64_val=value)),
    str(Array(Int32)): (
        pa.list_(pa.int32()),
        lambda items: Value(int32_list_val=Int32List(val=items)),
    ),
    str(Array(Int64)): (
        pa.list_(pa.int64()),
        lambda items: Value(int64_list_val=Int64List(val=items)),
    ),
    str(Array(String)): (
        pa.list_(pa.string()),
        lambda items: Value(string_list_val=StringList(val=items)),
    ),
}
"""Types of features whose values are made without Feast's checks of each, by their name."""


def _of_one_length(column: pa.Array) -> bool:
    """Return whether a column is of lists of float32 that all have one length."""
    if not pa.types.is_list(column.type) or not pa.types.is_float32(column.type.value_type):
        return False
    lengths = np.diff(column.offsets.to_numpy())
    return not len(lengths) or bool((lengths == lengths[0]).all())


def _float_lists(column: pa.ListArray) -> list[Value]:
    """Return vectors as values by writing the protobuf bytes of a whole column at once.

    All vectors of a column have one length, so that all values have the same header:
    `Value.float_list_val`, its size, `FloatList.val` packed, its size; then the floats in little
    endian as they lie in memory.
    """
    count = len(column)
    if not count:
        return []
    flat = np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False), dtype="<f4")
    width = flat.nbytes // count
    template = Value()
    template.float_list_val.val.extend([1.0] * (width // 4))
    header = template.SerializeToString()[: -width or None]
    data = flat.tobytes()
    parse = Value.FromString
    return [parse(header + data[i : i + width]) for i in range(0, count * width, width)]


def _datetimes(column: pa.Array) -> list[datetime]:
    """Return times as naive UTC datetimes, as Feast hands them to stores; few are distinct."""
    microseconds = column.cast(pa.int64()).to_pylist()
    distinct = {us: to_datetime(us).replace(tzinfo=None) for us in set(microseconds)}
    return [distinct[us] for us in microseconds]
