"""The stores of a feature repo, as Feast's provider holds them.

`FeatureStore._get_provider` is the one way to them in Feast 0.67; its base class does not say that
it has them.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.infra.offline_stores.offline_store import OfflineStore
from feast.infra.online_stores.online_store import OnlineStore


def offline_store(store: FeatureStore) -> OfflineStore:
    """Return the offline store that a feature store reads."""
    return _provider(store).offline_store


def online_store(store: FeatureStore) -> OnlineStore:
    """Return the online store that a feature store reads."""
    return _provider(store).online_store


def append_offline(store: FeatureStore, view: FeatureView, rows: pa.Table) -> None:
    """Append rows to a view's source, under the source's own names.

    `FeatureStore.write_to_offline_store` maps the columns to the names of the view, and then misses
    those of the source.
    """
    _provider(store).offline_write_batch(store.config, view, rows, None)


def _provider(store: FeatureStore) -> Any:
    return store._get_provider()
