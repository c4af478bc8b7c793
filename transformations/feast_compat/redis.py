"""The layout of Feast's Redis store, documented without the functions that make it.

A key is a hash: `_ts:<view>` holds the event time, and a hash of `<view>:<feature>` the value of
each feature. `_redis_key`, `_mmh3`, `compute_versioned_name` and `_get_client` are those of Feast
0.67; its public methods read and write without telling whether a row has changed in between.
"""

from __future__ import annotations

from typing import Any

from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key, compute_versioned_name
from feast.protos.feast.types.EntityKey_pb2 import EntityKey


def client_of(config: RepoConfig, store: Any) -> Any:
    """Return the client of a `RedisOnlineStore`: of one server, Sentinel or a cluster."""
    return store._get_client(config.online_store)


def row_key(config: RepoConfig, key: EntityKey) -> bytes:
    """Return the key of a row."""
    return _redis_key(config.project, key, config.entity_key_serialization_version)


def row_key_suffix(config: RepoConfig) -> bytes:
    """Return what follows the serialised key of a row in `row_key`."""
    return config.project.encode()


def row_fields(config: RepoConfig, view: FeatureView) -> list[bytes]:
    """Return the fields of a view's rows: one a feature, in the view's order, and last the time."""
    name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    fields: list[bytes] = [_mmh3(f"{name}:{feature.name}") for feature in view.features]
    return [*fields, f"_ts:{name}".encode()]
