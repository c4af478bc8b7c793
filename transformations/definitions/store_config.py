"""What feature_store.yaml has to say for the views of this package, checked by `feast apply`.

Feast hands its configuration to the source of every view before it writes anything. What is missing
would otherwise show at the first `feast materialize`, as labels that a training join left out, or
as values of another member that a server gave.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from feast import RepoConfig

from activity_embeddings.transformations.errors import InvalidInput

ENGINE = "activity_embeddings.ActivityComputeEngine"
# By its name: the definitions do not know what computes them.
_ENGINE_CLASS = "activity_embeddings.transformations.batch.engine.ActivityComputeEngine"
DASK_STORE = "activity_embeddings.OrderedDaskOfflineStore"
SQLITE_STORE = "activity_embeddings.ThreadedSqliteOnlineStore"
DUCKDB_STORE = "activity_embeddings.OrderedDuckDBOfflineStore"
SPARK_STORE = "activity_embeddings.OrderedSparkOfflineStore"
POSTGRES_STORE = "activity_embeddings.OrderedPostgreSQLOfflineStore"
UNTESTED_ONLINE = "untested_online_store"
"""Setting of the engine."""

_POSTGRES_SETTINGS = "feast.infra.utils.postgres.postgres_config.PostgreSQLConfig"
_SHARES_A_CONNECTION = ("sqlite", "feast.infra.online_stores.sqlite.SqliteOnlineStore")
_STORES = "activity_embeddings.transformations.offline"
_DUCKDB_CLASS = "feast.infra.offline_stores.duckdb.DuckDBOfflineStore"
_DASK_CLASS = f"{_STORES}.dask.OrderedDaskOfflineStore"
_SPARK_CLASS = f"{_STORES}.spark_store.OrderedSparkOfflineStore"
_READS_ICEBERG = ("duckdb", _DUCKDB_CLASS, _SPARK_CLASS)
_READS_FILES = (*_READS_ICEBERG, _DASK_CLASS)
_TESTED_ONLINE = (
    "redis",
    "postgres",
    "feast.infra.online_stores.redis.RedisOnlineStore",
    "feast.infra.online_stores.postgres_online_store.postgres.PostgreSQLOnlineStore",
    "feast.infra.online_stores.sqlite.SqliteOnlineStore",
)
_COMPARES_ZONES = (
    "spark",
    "feast.infra.offline_stores.contrib.spark_offline_store.spark.SparkOfflineStore",
)
_LOSES_LABELS = ("dask", "file", "feast.infra.offline_stores.dask.DaskOfflineStore")


def require_engine(config: RepoConfig) -> None:
    """Raise `InvalidInput` unless views are computed by this package's engine."""
    kind = _engine_settings(config).get("type")
    if _names_one(str(kind), [ENGINE, _ENGINE_CLASS]):
        return
    raise InvalidInput(
        "feature_store.yaml: expected the compute engine of this package, which alone can publish "
        f"its views. Received: {kind or 'none'}. Set\n\n    batch_engine:\n      type: {ENGINE}\n"
    )


def _names_one(kind: str, known: Sequence[str]) -> bool:
    """Return whether a type is one of some names, or names a class that is of one of them."""
    if kind in known:
        return True
    module, _, name = kind.rpartition(".")
    try:
        found = getattr(import_module(module), name, None) if module else None
    except ImportError:
        return False
    return isinstance(found, type) and any(_is_kind(found, each) for each in known)


def _is_kind(found: type, name: str) -> bool:
    """Return whether a class is that of a name, or a subclass of it."""
    return name in [f"{each.__module__}.{each.__qualname__}" for each in found.__mro__]


def joins_postgres(config: RepoConfig) -> bool:
    """Return whether the offline store joins tables of PostgreSQL."""
    return _is_kind(type(config.offline_store), _POSTGRES_SETTINGS)


def require_postgres(config: RepoConfig) -> None:
    """Raise `InvalidInput` unless the offline store joins snapshots in PostgreSQL."""
    if not joins_postgres(config):
        raise InvalidInput(
            "feature_store.yaml: expected an offline store that joins snapshots in PostgreSQL, "
            f"where `snapshots=PostgreSQLSnapshots()` keeps them. Received: "
            f"{config.offline_store.type}. Set `type: {POSTGRES_STORE}`, with the connection, "
            "under `offline_store`"
        )


def require_files(config: RepoConfig) -> None:
    """Raise `InvalidInput` if the offline store joins no snapshots in files."""
    if joins_postgres(config):
        raise InvalidInput(
            "feature_store.yaml: expected an offline store that joins snapshots in files, which "
            f"are kept there unless `snapshots=` says otherwise. Received: "
            f"{config.offline_store.type}. Give ActivityDomain, and every view of vectors that an "
            "encoder makes, `snapshots=PostgreSQLSnapshots()`"
        )
    _require_moments(config)
    kinds = list(_offline_stores(config))
    if not any(_names_one(kind, _READS_FILES) or kind in _LOSES_LABELS for kind in kinds):
        raise InvalidInput(
            "feature_store.yaml: expected an offline store that is known to join snapshots in "
            f"files. Received: {kinds[0]}. Set `type: {DUCKDB_STORE}` under `offline_store`, or "
            "see which stores work together in the documentation"
        )


def _require_moments(config: RepoConfig) -> None:
    """Raise `InvalidInput` if training joins compare the times of two zones."""
    for kind in _offline_stores(config):
        if kind in _COMPARES_ZONES:
            raise InvalidInput(
                "feature_store.yaml: expected an offline store whose training joins compare "
                f"moments, whatever the zone of the session. Received: {kind}. Set `type: "
                f"{SPARK_STORE}` under `offline_store`, which takes the same settings"
            )


def require_every_label(config: RepoConfig) -> None:
    """Raise `InvalidInput` if training joins of the offline store would leave labels out."""
    for kind in _offline_stores(config):
        if kind in _LOSES_LABELS:
            raise InvalidInput(
                "feature_store.yaml: expected an offline store whose training joins return every "
                f"label. Received: {kind} (also where no offline_store is named), which leaves "
                f"some out. Set\n\n    offline_store:\n      type: {DASK_STORE}\n\nwhich reads "
                f"the same files, or\n\n    offline_store:\n      type: {DUCKDB_STORE}\n"
            )


def require_iceberg(config: RepoConfig) -> None:
    """Raise `InvalidInput` unless the offline store joins Iceberg tables.

    Feast's own DuckDB store finds a local warehouse only where it runs in the feature repo.
    """
    _require_moments(config)
    kinds = list(_offline_stores(config))
    if not any(_names_one(kind, _READS_ICEBERG) for kind in kinds):
        raise InvalidInput(
            "feature_store.yaml: expected an offline store that joins Iceberg tables, in which "
            f"views keep their snapshots. Received: {kinds[0]}. Set\n\n    offline_store:\n      "
            f"type: {DUCKDB_STORE}\n"
        )


def require_online(config: RepoConfig) -> None:
    """Raise `InvalidInput` unless the online store is one that is known to serve what is written.

    Threads that read Feast's own sqlite store get each other's rows with Python 3.12 and later.
    Which Python serves is not known here.
    """
    kind = str(config.online_store.type)
    if kind in _SHARES_A_CONNECTION:
        raise InvalidInput(
            "feature_store.yaml: expected an online store that threads can read at once. Received: "
            f"{kind} (also where no online_store is named), with which a server on Python 3.12 or "
            f"later mixes up members. Set\n\n    online_store:\n      type: {SQLITE_STORE}\n\n"
            "which reads and writes the same file.\n"
        )
    if not _names_one(kind, _TESTED_ONLINE) and not _engine_settings(config).get(UNTESTED_ONLINE):
        raise InvalidInput(
            "feature_store.yaml: expected an online store that this package is tested with: "
            f"{SQLITE_STORE}, redis or postgres. Received: {kind}. To have rows written there by "
            f"Feast's own call, value by value, set\n\n    batch_engine:\n      type: {ENGINE}\n"
            f"      {UNTESTED_ONLINE}: true\n"
        )


def _engine_settings(config: RepoConfig) -> dict[str, Any]:
    """Return what `batch_engine` says, which may be its type alone."""
    engine = config.batch_engine_config
    return engine if isinstance(engine, dict) else {"type": engine}


def _offline_stores(config: RepoConfig) -> Iterator[str]:
    """Yield the types of the offline store, and of those that a hybrid one is made of."""
    store = config.offline_store
    yield str(store.type)
    for part in getattr(store, "offline_stores", None) or []:
        yield str(part.type)
