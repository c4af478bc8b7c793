"""The stores of a feature repo, as Feast's provider holds them.

`FeatureStore._get_provider` is the one way to them in Feast 0.67; its base class does not say that
it has them. `compute_table_id` names the online table of a view; `get_online_store_from_config` is
what the provider makes the online store with; `_check_versioned_read_support` comes before each
read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from feast import FeatureStore, FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.offline_stores.offline_store import OfflineStore
from feast.infra.online_stores.helpers import compute_table_id, get_online_store_from_config
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey

KEY_VERSION = 3
"""The version of serialised keys that this package writes; Feast 0.67 warns of others."""


def offline_store(store: FeatureStore) -> OfflineStore:
    """Return the offline store that a feature store reads."""
    return _provider(store).offline_store


def online_store(store: FeatureStore) -> OnlineStore:
    """Return the online store that a feature store reads."""
    return _provider(store).online_store


def prepare_reads(store: OnlineStore) -> None:
    """Have Feast import now what it would at the first read: every online store that is installed.

    By that it learns whether this one can read a version of a view.
    """
    store._check_versioned_read_support([])


def new_online_store(config: RepoConfig) -> OnlineStore:
    """Return the online store of a configuration, with connections of its own."""
    return get_online_store_from_config(config.online_store)


def append_offline(store: FeatureStore, view: FeatureView, rows: pa.Table) -> None:
    """Append rows to a view's source, under the source's own names.

    `FeatureStore.write_to_offline_store` maps the columns to the names of the view, and then misses
    those of the source.
    """
    _provider(store).offline_write_batch(store.config, view, rows, None)


def online_table(config: RepoConfig, view: FeatureView) -> str:
    """Return the name of a view's table in an online store of tables."""
    versioning = config.registry.enable_online_feature_view_versioning
    return compute_table_id(config.project, view, versioning)


def serialized_keys(config: RepoConfig, keys: Sequence[EntityKey]) -> list[bytes]:
    """Return keys as such tables hold them."""
    version = config.entity_key_serialization_version
    return [serialize_entity_key(key, version) for key in keys]


def writes_as(store: Any, path: str) -> bool:
    """Return whether a store is of a class of Feast, or of one that leaves the writing to it."""
    own: Any = type(store)
    for kind in own.__mro__:
        if f"{kind.__module__}.{kind.__qualname__}" == path:
            return own.online_write_batch is kind.online_write_batch
    return False


def _provider(store: FeatureStore) -> Any:
    return store._get_provider()
