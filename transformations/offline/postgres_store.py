"""Feast's PostgreSQL offline store, with request rows in the order of the request.

Feast 0.67's point-in-time join in PostgreSQL returns the rows in any order, a row several times
where its newest values are there several times, and moments without their zone; it takes labels
without a zone to be in the zone of the session, and refuses columns beside them that hold lists of
text or times. Named in feature_store.yaml:

    offline_store:
      type: activity_embeddings.OrderedPostgreSQLOfflineStore
      host: ...
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLOfflineStore,
    PostgreSQLOfflineStoreConfig,
)
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from psycopg.sql import SQL, Identifier

from activity_embeddings.transformations.feast_compat.joins import time_column_of
from activity_embeddings.transformations.feast_compat.postgres import (
    connection_string,
    with_result,
)
from activity_embeddings.transformations.names import REQUEST_ROW
from activity_embeddings.transformations.offline.postgres import stream


class OrderedPostgreSQLOfflineStoreConfig(PostgreSQLOfflineStoreConfig):
    """Settings under `offline_store` in feature_store.yaml: those of Feast's PostgreSQL store."""

    # Feast's own type admits the name of its store alone.
    type: Any = "activity_embeddings.OrderedPostgreSQLOfflineStore"


class OrderedPostgreSQLOfflineStore(PostgreSQLOfflineStore):
    """Feast's PostgreSQL store; joins keep the rows and the order of the request."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """Join as Feast's PostgreSQL store does; the i-th row answers the i-th asked."""

        def join(request: pd.DataFrame | str | None) -> RetrievalJob:
            return PostgreSQLOfflineStore.get_historical_features(
                config,
                feature_views,
                feature_refs,
                request,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp,
                **kwargs,
            )

        if not isinstance(entity_df, pd.DataFrame):
            return join(entity_df)
        info = connection_string(config.offline_store)
        labels = entity_df.reset_index(drop=True)
        label_time = time_column_of(labels)
        # Feast's other stores take times without a zone for UTC.
        labels[label_time] = pd.to_datetime(labels[label_time], utc=True)
        # What else the request holds stays here.
        asked = labels[[*_keys_of(feature_views, labels), label_time]].assign(
            **{REQUEST_ROW: np.arange(len(labels))}
        )

        def run(query: str) -> pa.Table:
            # Of values that are there several times as of one time, Feast's join gives each.
            ordered = SQL("SELECT DISTINCT ON ({row}) * FROM ({query}) AS joined ORDER BY {row}")
            found = stream(
                info,
                ordered.format(row=Identifier(REQUEST_ROW), query=SQL(query)),
            )
            joined = pa.Table.from_batches(found)
            table = pa.Table.from_pandas(labels, preserve_index=False)
            for position in range(len(asked.columns), joined.num_columns):
                name = joined.column_names[position]
                # As Feast names a feature like a column of the request.
                name = f"{name}__" if name in labels else name
                table = table.append_column(name, joined.column(position))
            return table

        return with_result(
            join(asked), run, [column for column in labels.columns if column != label_time]
        )


def _keys_of(views: list[FeatureView], labels: pd.DataFrame) -> list[str]:
    """Return the columns of the request by which views are joined."""
    keys = {
        view.projection.join_key_map.get(column.name, column.name): None
        for view in views
        for column in view.entity_columns
    }
    return [key for key in keys if key in labels]
