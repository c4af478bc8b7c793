"""Rows of Feast's DynamoDB store, which takes them 25 a request.

Feast's call waits for the answer to each request before it sends the next. Here several threads do,
each with a store of its own: a resource of boto3 is for one thread.
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

from activity_embeddings.transformations.feast_compat.dynamodb import connect
from activity_embeddings.transformations.feast_compat.stores import new_online_store
from activity_embeddings.transformations.online.any_store import AnyRows
from activity_embeddings.transformations.online.base import KeepMerge

THREADS = 8
ROWS_A_CALL = 250
"""Rows that a thread writes together: ten requests."""


class DynamoRows(AnyRows):
    """A `RowStore` of Feast's DynamoDB store."""

    remote = True

    def __init__(self, config: RepoConfig, store: OnlineStore) -> None:
        super().__init__(config, store)
        self._idle: SimpleQueue[AnyRows] = SimpleQueue()
        self._connecting = threading.Lock()

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

    @contextmanager
    def _of_one_thread(self) -> Iterator[AnyRows]:
        """Give rows by a store that no other thread uses meanwhile."""
        try:
            rows = self._idle.get_nowait()
        except Empty:
            store = new_online_store(self.config)
            with self._connecting:
                connect(self.config, store)
            rows = AnyRows(self.config, store)
        try:
            yield rows
        finally:
            self._idle.put(rows)
