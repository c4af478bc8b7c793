"""Feast's online stores with nothing in them, and what lies in them, whatever wrote it."""

import contextlib
import sqlite3
from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.repo_config import RepoConfig
from feast.types import Array, Int64, UnixTimestamp
from feast.value_type import ValueType
from redis import Redis

PLAIN = FeatureView(
    name="plain",
    entities=[Entity(name="member", join_keys=["member_id"], value_type=ValueType.INT64)],
    schema=[
        Field(name="member_id", dtype=Int64),
        Field(name="items", dtype=Array(Int64)),
        Field(name="newest", dtype=UnixTimestamp),
    ],
    source=FileSource(path="unused.parquet", timestamp_field="event_timestamp"),
    ttl=timedelta(0),
)
"""A view of lists and times, for rows that are made up."""

THREADED = "activity_embeddings.ThreadedSqliteOnlineStore"


def feast_store(folder, **settings):
    """Return (config, store) of a store."""
    config = RepoConfig(
        project="test",
        provider="local",
        registry="unused.db",
        online_store=settings,
        repo_path=folder,
        entity_key_serialization_version=3,
    )
    return config, get_online_store_from_config(config.online_store)


def redis_client(address):
    """Return a client of a server."""
    host, port = address.split(":")
    return Redis(host=host, port=int(port))


def emptied(address):
    """Take all rows out of a Redis, and give its address."""
    with redis_client(address) as client:
        client.flushall()
    return address


def bytes_of(config, store, view):
    """Return all that a store holds of a view; of Redis, all that it holds."""
    kind = config.online_store.type
    if kind == "redis":
        client = store._get_client(config.online_store)
        return {key: client.hgetall(key) for key in client.scan_iter()}
    query = f'SELECT * FROM "test_{view.name}" ORDER BY entity_key, feature_name'
    if kind == "postgres":
        with store._get_conn(config, autocommit=True) as connection:
            return connection.execute(query).fetchall()
    path = config.repo_path / config.online_store.path
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()
