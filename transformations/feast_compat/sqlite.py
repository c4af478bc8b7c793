"""Feast's sqlite store: its connection, its file and its tables.

`_get_conn`, `_get_db_path`, `_quote_id`, `compute_table_id` and the columns of the tables are those
of Feast 0.67. Its public methods read and parse a row whole, and have no way to set how the
connection behaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.sqlite import SqliteOnlineStore, _quote_id
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value


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


def read_feature(
    config: RepoConfig, store: Any, view: FeatureView, keys: Sequence[EntityKey], feature: str
) -> Iterator[tuple[int, Value]]:
    """Yield one feature's stored values, each with the position of its key.

    `SqliteOnlineStore.online_read` reads and parses every feature of a row, whichever it is asked
    for.
    """
    version = config.entity_key_serialization_version
    table = compute_table_id(
        config.project, view, config.registry.enable_online_feature_view_versioning
    )
    position = {serialize_entity_key(key, version): i for i, key in enumerate(keys)}
    found = store._get_conn(config).execute(
        f"SELECT entity_key, value FROM {_quote_id(table)} "
        f"WHERE feature_name = ? AND entity_key IN ({','.join('?' * len(position))})",
        [feature, *position],
    )
    for key, value in found:
        yield position[key], Value.FromString(value)
