"""Spark as Feast's offline store reaches it: session, sources and jobs; seen in Feast 0.67.

`get_spark_session_or_start_new_with_repoconfig` alone knows the session, and a source's
`_load_dataframe_from_path` its file and table formats. The store's own job fetches rows through
pandas, and gives moments in the zone of the session, without saying so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import pyarrow as pa
from feast import OnDemandFeatureView, RepoConfig
from feast.infra.offline_stores.contrib.spark_offline_store.spark import (
    SparkOfflineStoreConfig,
    SparkRetrievalJob,
    get_spark_session_or_start_new_with_repoconfig,
)
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from pyspark.sql import DataFrame, SparkSession


def session_of(settings: SparkOfflineStoreConfig) -> SparkSession:
    """Return the session that Feast uses; it starts one if there is none."""
    return get_spark_session_or_start_new_with_repoconfig(settings)


def frame_of(source: SparkSource, session: SparkSession) -> DataFrame:
    """Return the rows of a source, as Feast reads them."""
    if source.table or source.query:
        return session.sql(f"SELECT * FROM {source.get_table_query_string()}")
    return source._load_dataframe_from_path(session)


def job_of(
    rows: Callable[[], pa.Table],
    frame: Callable[[], DataFrame],
    session: SparkSession,
    config: RepoConfig,
    *,
    views: Sequence[OnDemandFeatureView] = (),
    metadata: RetrievalMetadata | None = None,
    full_names: bool = False,
) -> SparkRetrievalJob:
    """Return a job of the Spark store whose rows are computed here.

    Parameters
    ----------
    rows, frame
        Return the result, the second one in Spark.
    session, config
        Of the store.
    views
        The on-demand views that were asked for.
    metadata
        What was asked for.
    full_names
        Whether names of features have those of their views before them.
    """
    job = _Job(session, "", full_names, config, list(views), metadata)
    job.config, job.rows, job.frame = config, rows, frame
    return job


class _Job(SparkRetrievalJob):
    config: RepoConfig
    rows: Callable[[], pa.Table]
    frame: Callable[[], DataFrame]

    def to_spark_df(self) -> DataFrame:
        return self.frame()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self.rows()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self.rows().to_pandas()
