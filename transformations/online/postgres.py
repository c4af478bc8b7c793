"""Rows of Feast's PostgreSQL store, whose times are right in sessions in UTC alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from feast import FeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.feast_compat.postgres_online import (
    Column,
    copy_rows,
    delete_rows,
    has_plain_tables,
    session_zone,
)
from activity_embeddings.transformations.online.base import KeepMerge
from activity_embeddings.transformations.online.bulk_store import BulkRows
from activity_embeddings.transformations.online.byte_columns import (
    data_of,
    fixed_width,
    joined,
    lengths,
)
from activity_embeddings.transformations.online.encoding import RowBytes, row_bytes
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_EPOCH = 10_957 * MICROSECONDS_PER_DAY
"""Its times count from 2000."""
UTC_ZONES = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "UCT", "Zulu")


class PostgresRows(BulkRows):
    """A `RowStore` of Feast's PostgreSQL store."""

    ordered = True
    remote = True
    feast_store = "feast.infra.online_stores.postgres_online_store.postgres.PostgreSQLOnlineStore"

    def delete(self, rows: Sequence[tuple[FeatureView, Sequence[EntityKey]]]) -> int:
        """See `RowStore.delete`; the disk has the bytes until the database vacuums the table."""
        return sum(delete_rows(self.config, self._store, view, keys) for view, keys in rows)

    def prepare(self, views: Sequence[FeatureView]) -> None:
        """Accept sessions in UTC.

        Raises
        ------
        InvalidInput
            They are in another zone, by which the time of every row would be off.
        """
        zone = session_zone(self.config, self._store)
        if zone not in UTC_ZONES:
            settings = self.config.online_store
            raise InvalidInput(
                "online store postgres: expected sessions in UTC, since Feast writes times without "
                f"their zone. Received: {zone}. Run ALTER ROLE {settings.user} SET timezone TO "
                "'UTC', or have an online store with a database and role of its own"
            )

    def _knows_layout(self, view: FeatureView) -> bool:
        return has_plain_tables(self.config, self._store, view)

    def _put(self, view: FeatureView, batch: pa.RecordBatch, keep: KeepMerge | None) -> np.ndarray:
        rows = row_bytes(view, batch)
        columns = [
            Column(name, feature.texts is not None) for name, feature in rows.features.items()
        ]
        guard = None if keep is None else keep.decided_by
        refused = copy_rows(
            self.config, self._store, view, columns, _as_copied(rows), unless_later=guard
        )
        if not refused:
            return np.zeros(batch.num_rows, bool)
        return np.array([key in refused for key in rows.keys.to_pylist()])


def _as_copied(rows: RowBytes) -> memoryview:
    """Return rows in the format of COPY, binary: counts, sizes and times in big endian."""
    cells = [*_sized(rows.keys), *_time(rows.event_times)]
    cells += [b"\xff" * 4] if rows.created_times is None else _time(rows.created_times)
    fields = 3
    for values, texts in rows.features.values():
        cells += _sized(values)
        fields += 1
        if texts is not None:
            cells += _sized(texts.cast(pa.binary()))
            fields += 1
    lines = joined(fields.to_bytes(2, "big"), *cells)
    return memoryview(b"".join([_HEADER, data_of(lines), _TRAILER]))


def _sized(column: pa.BinaryArray) -> list[pa.BinaryArray]:
    """Return the parts of a field: its size, -1 for a null, and its bytes."""
    there = column.is_valid().to_numpy(zero_copy_only=False)
    column = column.fill_null(b"")
    size = np.where(there, lengths(column), -1)
    return [fixed_width(size.astype(">i4")), column]


def _time(microseconds: np.ndarray) -> list[bytes | pa.BinaryArray]:
    return [(8).to_bytes(4, "big"), fixed_width((microseconds - _EPOCH).astype(">i8"))]
