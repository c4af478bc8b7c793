"""Rows of a store that is far away and takes them by many small requests.

Feast's call waits for the answer to each before it sends the next. Here several threads do, each
with a store of its own: what a store of Feast connects by, as a resource of boto3, is not for more
than one thread.
"""

from __future__ import annotations

import threading
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
"""Rows that a thread writes together: ten requests to DynamoDB."""


class ThreadedRows(AnyRows):
    """A `RowStore` of a remote store of Feast that keeps what it connects by in its object."""

    remote = True

    def __init__(self, config: RepoConfig, store: OnlineStore) -> None:
        super().__init__(config, store)
        self._idle: SimpleQueue[_OfOneThread] = SimpleQueue()
        self._connecting = threading.Lock()

    def publish(
        self, view: FeatureView, batch: pa.RecordBatch, keep: KeepMerge | None = None
    ) -> None:
        """See `RowStore.publish`."""

        def publish(start: int) -> None:
            with self._of_this_thread() as rows:
                rows.publish_alone(view, batch.slice(start, ROWS_A_CALL), keep, self._connecting)

        starts = range(0, len(batch), ROWS_A_CALL)
        with ThreadPoolExecutor(THREADS, thread_name_prefix="online") as threads:
            try:
                for _ in threads.map(publish, starts):
                    pass
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise

    @contextmanager
    def _of_this_thread(self) -> Iterator[_OfOneThread]:
        """Give rows by a store that no other thread uses."""
        try:
            rows = self._idle.get_nowait()
        except Empty:
            rows = _OfOneThread(self.config, new_online_store(self.config))
        try:
            yield rows
        finally:
            self._idle.put(rows)


class _OfOneThread(AnyRows):
    """Rows by a store that one thread uses at a time."""

    def __init__(self, config: RepoConfig, store: OnlineStore) -> None:
        super().__init__(config, store)
        self._connected: set[bool] = set()

    def publish_alone(
        self,
        view: FeatureView,
        batch: pa.RecordBatch,
        keep: KeepMerge | None,
        connecting: threading.Lock,
    ) -> None:
        """Publish rows; others wait the first time, when the store connects.

        It does by a session that boto3 shares among all threads, and for reading once more.
        """
        reads = keep is not None
        if reads in self._connected:
            self.publish(view, batch, keep)
            return
        with connecting:
            self.publish(view, batch, keep)
        self._connected.add(reads)
