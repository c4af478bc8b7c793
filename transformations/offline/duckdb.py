"""Feast's DuckDB offline store, with request rows in the order of the request, from any folder.

Feast 0.67's point-in-time join on DuckDB returns the right rows in any order. A label column that a
caller holds beside the request would then silently belong to other rows. And a relative path of a
source is looked up where the process runs; Feast's other stores take it from the feature repo.
Named in feature_store.yaml:

    offline_store:
      type: activity_embeddings.OrderedDuckDBOfflineStore
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry

from activity_embeddings.transformations.feast_compat.duckdb import join, order_by_column
from activity_embeddings.transformations.feast_compat.joins import with_config
from activity_embeddings.transformations.names import REQUEST_ROW
from activity_embeddings.transformations.offline.located import located_source, located_view
from activity_embeddings.transformations.offline.sinks.places import require_snapshots


class OrderedDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Settings under `offline_store` in feature_store.yaml: those of Feast's DuckDB store."""

    type: str = "activity_embeddings.OrderedDuckDBOfflineStore"


class OrderedDuckDBOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB store; joins keep the order of the request, and paths are the repo's."""

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
        """Join as Feast's DuckDB store does; the i-th row of the result answers the i-th asked.

        Raises
        ------
        NotReady
            A view of this package has no snapshots yet.
        """
        for view in feature_views:
            require_snapshots(view, config)
        numbered = entity_df
        if isinstance(entity_df, pd.DataFrame):
            numbered = entity_df.assign(**{REQUEST_ROW: np.arange(len(entity_df))})
        job = join(
            config,
            [located_view(view, config) for view in feature_views],
            feature_refs,
            numbered,
            registry,
            project,
            full_feature_names,
            filter_by_created_timestamp,
        )
        if numbered is not entity_df:
            order_by_column(job, REQUEST_ROW)
        return with_config(job, config)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *arguments: Any, **named: Any
    ) -> RetrievalJob:
        """Read as Feast's DuckDB store does."""
        return DuckDBOfflineStore.pull_latest_from_table_or_query(
            config, located_source(data_source, config), *arguments, **named
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *arguments: Any, **named: Any
    ) -> RetrievalJob:
        """Read as Feast's DuckDB store does."""
        return DuckDBOfflineStore.pull_all_from_table_or_query(
            config, located_source(data_source, config), *arguments, **named
        )

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Any
    ) -> None:
        """Write as Feast's DuckDB store does."""
        view = located_view(feature_view, config)
        DuckDBOfflineStore.offline_write_batch(config, view, table, progress)
