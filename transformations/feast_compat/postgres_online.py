"""Feast's PostgreSQL online store: its connection and its tables.

`_get_conn` and the columns of the tables are those of Feast 0.67. It writes times
without their zone into columns that have one, so that the database takes them for times of the
session's zone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feast import FeatureView, RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey

from activity_embeddings.transformations.feast_compat.stores import (
    online_table,
    serialized_keys,
)


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
    from psycopg.sql import SQL, Identifier

    statement = SQL("DELETE FROM {} WHERE entity_key = ANY(%s) RETURNING entity_key")
    table = Identifier(online_table(config, view))
    with store._get_conn(config, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(statement.format(table), (serialized_keys(config, keys),))
        return len({bytes(key) for (key,) in cursor.fetchall()})
