"""Arrow columns as the objects that Feast's own calls take: keys, values, times."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa
from feast import FeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from activity_embeddings.transformations import names
from activity_embeddings.transformations.online.base import Row
from activity_embeddings.transformations.online.encoding import feature_bytes, join_key_of
from activity_embeddings.transformations.times import to_datetime


def entity_keys(view: FeatureView, ids: pa.Array) -> list[EntityKey]:
    """Return ids, int64 or string, as the keys of rows of a view."""
    join_key = join_key_of(view)
    if pa.types.is_integer(ids.type):
        values = [Value(int64_val=each) for each in ids.to_pylist()]
    else:
        values = [Value(string_val=each) for each in ids.to_pylist()]
    return [EntityKey(join_keys=[join_key], entity_values=[value]) for value in values]


def id_of(key: EntityKey) -> int | str:
    """Invert `entity_keys` for one key."""
    (value,) = key.entity_values
    return value.string_val if value.HasField("string_val") else value.int64_val


def feast_rows(view: FeatureView, batch: pa.RecordBatch) -> list[Row]:
    """Return a record batch as the rows that Feast's online stores take."""
    keys = entity_keys(view, batch.column(join_key_of(view)))
    features = [field.name for field in view.features]
    columns = [
        [Value.FromString(each) for each in made.values.to_pylist()]
        for field in view.features
        for made in [feature_bytes(batch.column(field.name), field)]
    ]
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


def _datetimes(column: pa.Array) -> list[datetime]:
    """Return times as naive UTC datetimes, as Feast hands them to stores; few are distinct."""
    microseconds = column.cast(pa.int64()).to_pylist()
    distinct = {us: to_datetime(us).replace(tzinfo=None) for us in set(microseconds)}
    return [distinct[us] for us in microseconds]
