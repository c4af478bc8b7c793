"""Feast's sqlite store: its connections, its file and its tables.

`_conn`, `_get_conn`, `_get_db_path`, `_quote_id` and the columns of the tables are those of Feast
0.67. Its public methods read and parse a row whole, and have no way to set how
the connection behaves.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from feast import FeatureView, RepoConfig
from feast.infra.infra_object import InfraObject
from feast.infra.online_stores.sqlite import (
    SqliteOnlineStore,
    SqliteOnlineStoreConfig,
    _quote_id,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from activity_embeddings.transformations.feast_compat.stores import (
    online_table,
    serialized_keys,
)


class ThreadedSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):
    """Settings under `online_store` in feature_store.yaml: those of Feast's sqlite store."""

    # Feast's own type admits the names of its store alone.
    type: Any = "activity_embeddings.ThreadedSqliteOnlineStore"


class ThreadedSqliteOnlineStore(SqliteOnlineStore):
    """Feast's sqlite store with a connection for each thread.

    Feast's own has one connection. Python 3.12 and 3.13 may give one prepared statement of a
    connection to two threads at once; then each gets the rows that the other asked for, or an
    error. Named in feature_store.yaml:

        online_store:
          type: activity_embeddings.ThreadedSqliteOnlineStore
          path: data/online.db
    """

    def __init__(self) -> None:
        self._connections = threading.local()  # a thread's one is closed when the thread ends

    @property
    def _conn(self) -> sqlite3.Connection | None:
        return getattr(self._connections, "own", None)

    @_conn.setter
    def _conn(self, connection: sqlite3.Connection | None) -> None:
        self._connections.own = connection

    def plan(self, config: RepoConfig, desired_registry_proto: Any) -> list[InfraObject]:
        """Return no tables: Feast has them made by `update`, as those of every other store.

        Of sqlite's, those of type `sqlite`, it would keep absolute paths in the registry.
        """
        return []


def database_of(config: RepoConfig) -> Path:
    """Return the file of the store."""
    return Path(SqliteOnlineStore._get_db_path(config))


def keep_readable(config: RepoConfig, store: Any) -> None:
    """Keep what this process writes from locking readers out before it is committed.

    A transaction that does not fit into sqlite's cache, as of the 10,000 rows that are pushed
    together, would go to the file early. No reader gets in from then until the commit: for seconds,
    where Feast's readers wait for five at most. In memory such a transaction takes some 30 MB.

    Parameters
    ----------
    config, store
        As Feast hands them to an engine; a `SqliteOnlineStore`.
    """
    store._get_conn(config).execute("PRAGMA cache_spill = OFF")


def delete_rows(
    config: RepoConfig, store: Any, rows: Sequence[tuple[FeatureView, Sequence[EntityKey]]]
) -> int:
    """Delete rows of views by their keys, free what they took, and return how many there were."""
    connection, deleted = store._get_conn(config), 0
    with connection:
        for view, keys in rows:
            where = f"FROM {_quote_id(online_table(config, view))} WHERE entity_key = ?"
            for key in serialized_keys(config, keys):
                deleted += bool(connection.execute(f"SELECT 1 {where}", [key]).fetchone())
                connection.execute(f"DELETE {where}", [key])
    connection.execute("VACUUM")
    return deleted


def read_feature(
    config: RepoConfig, store: Any, view: FeatureView, keys: Sequence[EntityKey], feature: str
) -> Iterator[tuple[int, Value]]:
    """Yield one feature's stored values, each with the position of its key.

    `SqliteOnlineStore.online_read` reads and parses every feature of a row, whichever it is asked
    for.
    """
    position = {key: i for i, key in enumerate(serialized_keys(config, keys))}
    found = store._get_conn(config).execute(
        f"SELECT entity_key, value FROM {_quote_id(online_table(config, view))} "
        f"WHERE feature_name = ? AND entity_key IN ({','.join('?' * len(position))})",
        [feature, *position],
    )
    for key, value in found:
        yield position[key], Value.FromString(value)
