"""Rows of Feast's sqlite store: a lock file beside the database keeps other writers out.

It is held from the read to the write, by any number of processes of one machine.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
from feast import FeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey

from activity_embeddings.transformations.feast_compat.sqlite import (
    FeatureCells,
    database_of,
    delete_rows,
    has_plain_tables,
    keep_readable,
    read_feature,
    write_rows,
)
from activity_embeddings.transformations.online.base import KeepMerge
from activity_embeddings.transformations.online.bulk_store import BulkRows
from activity_embeddings.transformations.online.encoding import event_times, row_bytes, row_keys


class SqliteRows(BulkRows):
    """A `RowStore` of Feast's sqlite store."""

    ordered = True
    feast_store = "feast.infra.online_stores.sqlite.SqliteOnlineStore"

    def prepare(self, views: Sequence[FeatureView]) -> None:
        """Create tables that are missing, and let others read while rows are pushed.

        They are where the repo was moved and the file stayed behind. Creating a table that exists
        does nothing.
        """
        self._store.update(self.config, [], list(views), [], [], partial=True)
        keep_readable(self.config, self._store)

    def delete(self, rows: Sequence[tuple[FeatureView, Sequence[EntityKey]]]) -> int:
        """See `RowStore.delete`. The file is written anew: free pages keep what was in them."""
        if not rows:
            return 0
        with self._alone():
            return delete_rows(self.config, self._store, rows)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock file while the body runs; the lock dies with its process."""
        # The database itself: those who reach it by another name take the same lock.
        database = database_of(self.config).resolve()
        database.parent.mkdir(parents=True, exist_ok=True)
        with database.with_name(f"{database.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _knows_layout(self, view: FeatureView) -> bool:
        return has_plain_tables(self.config)

    def _put(self, view: FeatureView, batch: pa.RecordBatch, keep: KeepMerge | None) -> np.ndarray:
        left = np.zeros(batch.num_rows, bool)
        if keep is not None:
            times = event_times(batch)
            keys = row_keys(view, batch).to_pylist()
            stored = read_feature(self.config, self._store, view, keys, keep.decided_by)
            for position, value in stored:
                left[position] = keep.needs(times[position], value)
        rows = row_bytes(view, batch.filter(pa.array(~left)) if left.any() else batch)
        cells = {
            name: FeatureCells(
                made.values.to_pylist(), None if made.texts is None else made.texts.to_pylist()
            )
            for name, made in rows.features.items()
        }
        write_rows(
            self.config,
            self._store,
            view,
            rows.keys.to_pylist(),
            cells,
            rows.event_times,
            rows.created_times,
        )
        return left
