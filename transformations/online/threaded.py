"""Rows of a remote store whose call in Feast waits for each value, row or few rows before the next.

Several threads make that call here, each with a store of its own, so with connections of its own.
That is safe where Feast's class keeps in its objects all that changes, and where the server takes
each row by itself; `stores` names the classes of which both were read.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore

from activity_embeddings.transformations.feast_compat.stores import new_online_store
from activity_embeddings.transformations.online.any_store import AnyRows
from activity_embeddings.transformations.online.base import KeepMerge

THREADS = 8
ROWS_A_CALL = 250
"""Rows that a thread writes together: ten requests of DynamoDB."""


class ThreadedRows(AnyRows):
    """A `RowStore` of a store of Feast that several threads write to."""

    remote = True

    def __init__(self, config: RepoConfig, store: OnlineStore) -> None:
        super().__init__(config, store)
        self._idle: SimpleQueue[AnyRows] = SimpleQueue()

    def publish(
        self, view: FeatureView, batch: pa.RecordBatch, keep: KeepMerge | None = None
    ) -> None:
        """See `RowStore.publish`."""

        def publish(start: int) -> None:
            with self._of_one_thread() as rows:
                rows.publish(view, batch.slice(start, ROWS_A_CALL), keep)

        with ThreadPoolExecutor(THREADS, thread_name_prefix="online") as threads:
            try:
                for _ in threads.map(publish, range(0, len(batch), ROWS_A_CALL)):
                    pass
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise

    def new_store(self) -> OnlineStore:
        """Return a store that shares no connection with another; several threads call this."""
        return new_online_store(self.config)

    @contextmanager
    def _of_one_thread(self) -> Iterator[AnyRows]:
        """Give rows by a store that no other thread uses meanwhile."""
        try:
            rows = self._idle.get_nowait()
        except Empty:
            rows = AnyRows(self.config, self.new_store())
        yield rows
        self._idle.put(rows)  # not after an error, which may have left half an answer unread
