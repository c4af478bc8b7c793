"""Feast's PostgreSQL online store: its connection and its tables.

`_get_conn`, `compute_table_id` and the columns of the tables are those of Feast 0.67. It writes
times without their zone into columns that have one, so that the database takes them for times of
the session's zone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id
from feast.protos.feast.types.EntityKey_pb2 import EntityKey


def session_zone(config: RepoConfig, store: Any) -> str:
    """Return the zone of the sessions in which a `PostgreSQLOnlineStore` reads and writes."""
    with store._get_conn(config, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW timezone")
        (zone,) = cursor.fetchone()
    return zone


def delete_rows(
    config: RepoConfig, store: Any, view: FeatureView, keys: Sequence[EntityKey]
) -> int:
    """Delete the rows of keys and return how many there were."""
    version = config.entity_key_serialization_version
    table = compute_table_id(
        config.project, view, config.registry.enable_online_feature_view_versioning
    )
    serialized = [serialize_entity_key(key, version) for key in keys]
    from psycopg.sql import SQL, Identifier

    statement = SQL("DELETE FROM {} WHERE entity_key = ANY(%s) RETURNING entity_key")
    with store._get_conn(config, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(statement.format(Identifier(table)), (serialized,))
        return len({bytes(key) for (key,) in cursor.fetchall()})
