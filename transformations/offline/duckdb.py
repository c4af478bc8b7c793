"""Feast's DuckDB offline store, with request rows kept in the order they were asked in.

Feast 0.67's point-in-time join on DuckDB returns the right rows in any order. A label column that a
caller holds beside the request would then silently belong to other rows. Named in
feature_store.yaml:

    offline_store:
      type: activity_embeddings.OrderedDuckDBOfflineStore
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from feast import FeatureView, RepoConfig
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry

from activity_embeddings.transformations.feast_compat.duckdb import order_by_column
from activity_embeddings.transformations.names import REQUEST_ROW


class OrderedDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Settings under `offline_store` in feature_store.yaml: those of Feast's DuckDB store."""

    type: str = "activity_embeddings.OrderedDuckDBOfflineStore"


class OrderedDuckDBOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB store; `get_historical_features` keeps the order of the request."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Join as Feast's DuckDB store does; the i-th row of the result answers the i-th asked."""
        numbered = entity_df
        if isinstance(entity_df, pd.DataFrame):
            numbered = entity_df.assign(**{REQUEST_ROW: np.arange(len(entity_df))})
        job = DuckDBOfflineStore.get_historical_features(
            config,
            feature_views,
            feature_refs,
            numbered,
            registry,
            project,
            full_feature_names,
            filter_by_created_timestamp,
        )
        if numbered is not entity_df:
            order_by_column(job, REQUEST_ROW)
        return job
