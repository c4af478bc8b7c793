"""Publish snapshots to the online store: all of the push is in this file.

The online store holds, for every member, the newest committed row of the offline store. Rows go
through Feast's own `online_write_batch`, so any online store works; the protobuf values are built
in bulk, which is where the time of the usual path goes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Int32List, Int64List, StringList, Value

from transformations import names
from transformations.snapshots import SnapshotSink, to_datetime

WRITE_BATCH = 10_000
"""Rows a call of the store, unless Feast's `materialization.online_write_batch_size` says."""

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


@dataclass(frozen=True)
class PushCount:
    """Rows (members) and values (members times features) that went online."""

    rows: int
    values: int


def push_snapshots(
    config: RepoConfig,
    store: OnlineStore,
    view: FeatureView,
    sink: SnapshotSink,
    *,
    changed: Iterable[int],
    progress: Callable[[int], Any] = lambda rows: None,
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
    progress : called with the number of rows after every batch.
    """
    mark = sink.published(store_identity(config))
    committed = sink.committed()
    pending = set(changed) | {t for t in committed if mark is None or t > mark}
    if not pending:
        return PushCount(0, 0)
    seen: pa.Array | None = None
    rows = values = 0
    for as_of in sorted((t for t in committed if t >= min(pending)), reverse=True):
        with pq.ParquetFile(sink.file(as_of)) as file:
            members = file.read([names.MEMBER_ID]).column(0).combine_chunks()
            fresh = None if seen is None else pc.invert(pc.is_in(members, value_set=seen))
            if as_of in pending and (fresh is None or pc.any(fresh).as_py()):
                for batch in _batches(file, fresh, config):
                    store.online_write_batch(config, view, feast_rows(view, batch), None)
                    rows += batch.num_rows
                    values += batch.num_rows * len(view.features)
                    progress(batch.num_rows)
        distinct = members if seen is None else pa.concat_arrays([seen, members.filter(fresh)])
        seen = distinct
    sink.mark_published(store_identity(config), committed[-1])
    return PushCount(rows, values)


def store_identity(config: RepoConfig) -> str:
    """Return a short name of the configured online store, equal only for equal configurations."""
    settings = config.online_store.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps([config.project, settings], sort_keys=True).encode())
    return f"{config.online_store.type}:{digest.hexdigest()[:12]}"


def feast_rows(view: FeatureView, batch: pa.RecordBatch) -> list[Row]:
    """Return a record batch as the rows that Feast's online stores take."""
    (join_key,) = view.join_keys
    members = batch.column(names.MEMBER_ID)
    if pa.types.is_integer(members.type):
        keys = [Value(int64_val=member) for member in members.to_pylist()]
    else:
        keys = [Value(string_val=member) for member in members.to_pylist()]
    features = [field.name for field in view.features]
    columns = [_values(batch.column(name)) for name in features]
    event_times = _datetimes(batch.column(names.EVENT_TIMESTAMP))
    created_times = _datetimes(batch.column(names.CREATED_TIMESTAMP))
    return [
        (
            EntityKey(join_keys=[join_key], entity_values=[key]),
            dict(zip(features, row, strict=True)),
            event_time,
            created_time,
        )
        for key, event_time, created_time, row in zip(
            keys, event_times, created_times, zip(*columns, strict=True), strict=True
        )
    ]


def _batches(
    file: pq.ParquetFile, keep: pa.Array | None, config: RepoConfig
) -> Iterable[pa.RecordBatch]:
    """Read a snapshot in batches, leaving out the rows that `keep` does not choose."""
    size = config.materialization_config.online_write_batch_size or WRITE_BATCH
    start = 0
    for batch in file.iter_batches(size):
        rows = batch.num_rows
        if keep is not None:
            batch = batch.filter(keep.slice(start, rows))
        start += rows
        if batch.num_rows:
            yield batch


def _values(column: pa.Array) -> Sequence[Value]:
    """Return one feature's column as protobuf values."""
    kind = column.type
    if pa.types.is_list(kind):
        if pa.types.is_float32(kind.value_type):
            return _float_lists(column)
        make = {
            pa.int32(): lambda items: Value(int32_list_val=Int32List(val=items)),
            pa.int64(): lambda items: Value(int64_list_val=Int64List(val=items)),
            pa.string(): lambda items: Value(string_list_val=StringList(val=items)),
        }[kind.value_type]
        return [make(items) for items in column.to_pylist()]
    if pa.types.is_timestamp(kind):
        seconds = pc.floor(pc.divide(column.cast(pa.int64()), pa.scalar(1e6))).to_pylist()
        return [
            Value() if second is None else Value(unix_timestamp_val=int(second))
            for second in seconds
        ]
    return [Value(int64_val=item) for item in column.to_pylist()]


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
    """Return times as datetimes; a snapshot has one or two distinct ones."""
    microseconds = column.cast(pa.int64()).to_pylist()
    distinct = {us: to_datetime(us) for us in set(microseconds)}
    return [distinct[us] for us in microseconds]
