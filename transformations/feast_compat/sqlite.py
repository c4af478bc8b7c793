"""Feast's sqlite store: its connections, its file and its tables.

`_conn`, `_get_conn`, `_get_db_path`, `_quote_id`, `_versioned_read_supported`, the columns of the
tables and how a time is bound are those of Feast 0.67. Its public methods read and parse a row
whole, write a value a statement, and have no way to set how the connection behaves.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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

CACHE_KIB = 64 * 1024
"""Of a connection that writes; sqlite has 2 MB unless told."""
KEYS_AT_ONCE = 10_000
"""Of a query; sqlite takes 32,766 parameters."""


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

    A first read of Feast's own imports every other online store that is installed, to learn whether
    the one that is asked can read versions of a view; this one says so itself.
    """

    _versioned_read_supported = True

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
    where Feast's readers wait for five at most. In memory such a transaction takes some 30 MB. The
    pages around, which the next rows need again, are kept there too: that halves the CPU time.

    Parameters
    ----------
    config, store
        As Feast hands them to an engine; a `SqliteOnlineStore`.
    """
    connection = store._get_conn(config)
    connection.execute("PRAGMA cache_spill = OFF")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")


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


def has_plain_tables(config: RepoConfig) -> bool:
    """Return whether rows have the columns that `write_rows` writes, and no others are wanted."""
    settings = config.online_store
    return not settings.vector_enabled and not settings.enable_openai_compatible_store


class FeatureCells(NamedTuple):
    """What n rows hold of a feature: serialised values and, unless None, their texts."""

    values: Sequence[bytes]
    texts: Sequence[str | None] | None


def write_rows(
    config: RepoConfig,
    store: Any,
    view: FeatureView,
    keys: Sequence[bytes],
    features: Mapping[str, FeatureCells],
    event_times: np.ndarray,
    created_times: np.ndarray | None,
) -> None:
    """Write rows of a view in one transaction, a statement a row with all of its features.

    Parameters
    ----------
    config, store
        As Feast hands them to an engine; a `SqliteOnlineStore`.
    view
        Whose rows.
    keys
        n keys; in the order of their bytes it takes half the time.
    features
        n values of each feature.
    event_times, created_times
        int64 [n]; microseconds since the epoch.
    """
    columns: list[Sequence[Any]] = [keys, _stored_times(event_times)]
    created = "NULL"
    if created_times is not None:
        columns.append(_stored_times(created_times))
        created = f"?{len(columns)}"
    rows = []
    # In the order of the primary key.
    for name in sorted(features, key=str.encode):
        values, texts = features[name]
        columns.append(values)
        value, text = f"?{len(columns)}", "NULL"
        if texts is not None:
            columns.append(texts)
            text = f"?{len(columns)}"
        literal = "'" + name.replace("'", "''") + "'"
        rows.append(f"(?1, {literal}, {value}, {text}, ?2, {created})")
    statement = (
        f"INSERT INTO {_quote_id(online_table(config, view))} "
        "(entity_key, feature_name, value, value_text, event_ts, created_ts) "
        f"VALUES {', '.join(rows)} ON CONFLICT (entity_key, feature_name) DO UPDATE SET "
        "value = excluded.value, value_text = excluded.value_text, "
        "event_ts = excluded.event_ts, created_ts = excluded.created_ts"
    )
    connection = store._get_conn(config)
    with connection:
        connection.executemany(statement, zip(*columns, strict=True))


def _stored_times(times: np.ndarray) -> list[int]:
    """Return times as Feast has them stored: seconds, of a naive time taken as of this machine."""
    distinct, which = np.unique(times, return_inverse=True)
    naive = [datetime(1970, 1, 1) + timedelta(microseconds=each) for each in distinct.tolist()]
    made = [int(moment.timestamp()) for moment in naive]
    return np.array(made, dtype=np.int64)[which].tolist()


def read_feature(
    config: RepoConfig, store: Any, view: FeatureView, keys: Sequence[bytes], feature: str
) -> Iterator[tuple[int, Value]]:
    """Yield one feature's stored values, each with the position of its serialised key.

    `SqliteOnlineStore.online_read` reads and parses every feature of a row, whichever it is asked
    for.
    """
    connection = store._get_conn(config)
    for start in range(0, len(keys), KEYS_AT_ONCE):
        position = {key: i for i, key in enumerate(keys[start : start + KEYS_AT_ONCE], start)}
        found = connection.execute(
            f"SELECT entity_key, value FROM {_quote_id(online_table(config, view))} "
            f"WHERE feature_name = ? AND entity_key IN ({','.join('?' * len(position))})",
            [feature, *position],
        )
        for key, value in found:
            yield position[key], Value.FromString(value)
