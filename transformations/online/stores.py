"""Which `RowStore` an online store has: the one place that asks for a store's kind."""

from __future__ import annotations

from feast import FeatureStore, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore

from activity_embeddings.transformations.feast_compat.stores import online_store
from activity_embeddings.transformations.online.any_store import AnyRows
from activity_embeddings.transformations.online.base import RowStore
from activity_embeddings.transformations.online.dynamodb import DynamoRows
from activity_embeddings.transformations.online.postgres import PostgresRows
from activity_embeddings.transformations.online.redis import RedisRows
from activity_embeddings.transformations.online.sqlite import SqliteRows
from activity_embeddings.transformations.online.threaded import ThreadedRows

# By their names: the modules of Feast's stores import what they need, as redis, when imported.
_FEAST = "feast.infra.online_stores"
_ROWS_OF: dict[str, type[AnyRows]] = {
    f"{_FEAST}.couchbase_online_store.couchbase.CouchbaseOnlineStore": ThreadedRows,
    f"{_FEAST}.dynamodb.DynamoDBOnlineStore": DynamoRows,
    f"{_FEAST}.hazelcast_online_store.hazelcast_online_store.HazelcastOnlineStore": ThreadedRows,
    f"{_FEAST}.mysql_online_store.mysql.MySQLOnlineStore": ThreadedRows,
    f"{_FEAST}.postgres_online_store.postgres.PostgreSQLOnlineStore": PostgresRows,
    f"{_FEAST}.redis.RedisOnlineStore": RedisRows,
    f"{_FEAST}.sqlite.SqliteOnlineStore": SqliteRows,
}


def row_store(config: RepoConfig, store: OnlineStore) -> RowStore:
    """Return the rows of an online store.

    Parameters
    ----------
    config, store
        As Feast hands them to an engine.
    """
    for kind in type(store).__mro__:
        rows = _ROWS_OF.get(f"{kind.__module__}.{kind.__qualname__}")
        if rows is not None:
            return rows(config, store)
    return AnyRows(config, store)


def row_store_of(store: FeatureStore) -> RowStore:
    """Return the rows of the online store that a feature store reads."""
    return row_store(store.config, online_store(store))
