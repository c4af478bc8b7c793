"""Rows of Feast's DynamoDB store, which takes them 25 a request: a resource is for one thread."""

from __future__ import annotations

import threading

from feast import RepoConfig
from feast.infra.online_stores.online_store import OnlineStore

from activity_embeddings.transformations.feast_compat.dynamodb import connect
from activity_embeddings.transformations.online.threaded import ThreadedRows


class DynamoRows(ThreadedRows):
    """A `RowStore` of Feast's DynamoDB store."""

    def __init__(self, config: RepoConfig, store: OnlineStore) -> None:
        super().__init__(config, store)
        self._connecting = threading.Lock()

    def new_store(self) -> OnlineStore:
        """See `ThreadedRows`; stores connect by a session of boto3 that all threads share."""
        store = super().new_store()
        with self._connecting:
            connect(self.config, store)
        return store
