"""Feast's Spark offline store, with rows in the order of the request and moments as moments.

Feast 0.67's point-in-time join in Spark returns the rows in any order, a row several times where
its newest values are there several times, and moments without their zone. Where the session is not
in UTC, it compares times in two zones: labels lose values, or get others. It knows no parquet files
of a `FileSource`, in which snapshots are kept, and reads an Iceberg table whole. So sources are
read as Feast's store reads them, and joined here, in Spark. Named in feature_store.yaml:

    offline_store:
      type: activity_embeddings.OrderedSparkOfflineStore
      spark_conf:
        spark.master: ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import and_
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView, OnDemandFeatureView, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.contrib.spark_offline_store.spark import (
    SparkOfflineStore,
    SparkOfflineStoreConfig,
)
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from activity_embeddings.transformations.arrow import take_rows
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.feast_compat.joins import time_column_of
from activity_embeddings.transformations.feast_compat.spark import job_of
from activity_embeddings.transformations.names import REQUEST_ROW
from activity_embeddings.transformations.offline.columns import RowsAsked
from activity_embeddings.transformations.offline.iceberg import IcebergRows, is_iceberg, located
from activity_embeddings.transformations.offline.located import checked_source, path_of
from activity_embeddings.transformations.offline.parquet_files import is_parquet
from activity_embeddings.transformations.offline.sinks.places import require_snapshots
from activity_embeddings.transformations.offline.spark import (
    answering,
    inside,
    rows_of,
    session_for,
    stream,
)
from activity_embeddings.transformations.times import NEVER, to_datetime, to_us

_STORE = "OrderedSparkOfflineStore"
_KEY, _THEN, _CREATED, _VALUES = "__key_{}", "__then", "__created", "__values"
"""Columns within a join, beside those of the request."""


class OrderedSparkOfflineStoreConfig(SparkOfflineStoreConfig):
    """Settings under `offline_store` in feature_store.yaml: those of Feast's Spark store."""

    # Feast's own default is the name of its store.
    type: Any = f"activity_embeddings.{_STORE}"


class OrderedSparkOfflineStore(SparkOfflineStore):
    """Feast's Spark store; joins keep the rows and the order of the request."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """Return a join whose i-th row answers the i-th row of the request.

        A row gets the newest values at or before its time that are not older than the view's
        `ttl`, and null features where there are none. Where the request is a query or a frame of
        Spark, the rows are its own, in no order.

        Raises
        ------
        InvalidInput
            There is no request, it lacks a key, or Spark does not start.
        NotReady
            A view of this package has no snapshots yet.
        """
        if entity_df is None:
            raise InvalidInput(f"{_STORE}: expected labels as `entity_df`. Received: none")
        session = session_for(config, _STORE)
        for view in feature_views:
            require_snapshots(view, config)
        labels = None
        if isinstance(entity_df, pd.DataFrame):
            labels = entity_df.reset_index(drop=True)
            time = time_column_of(labels)
            # Feast takes times without a zone for UTC.
            labels[time] = pd.to_datetime(labels[time], utc=True)
            columns = list(labels.columns)
        else:
            with answering("entity_df"):
                asked = session.sql(entity_df) if isinstance(entity_df, str) else entity_df
                time = time_column_of(asked.limit(0).toPandas())
            columns = asked.columns
        parts = [
            _Part.of(view, feature_refs, columns, full_feature_names) for view in feature_views
        ]
        if labels is not None:
            # What else the request holds stays here.
            keys = dict.fromkeys(key for part in parts for key in part.keys)
            rows = labels[[*keys, time]].assign(**{REQUEST_ROW: np.arange(len(labels))})
            asked = session.createDataFrame(pa.Table.from_pandas(rows, preserve_index=False))
        first, last = _span(asked, time)

        def join() -> DataFrame:
            joined = asked
            for part in parts:
                values = part.rows(config, session, first, last)
                joined = part.join(joined, time, values, available=filter_by_created_timestamp)
            return joined

        def ordered() -> pa.Table:
            if labels is None:
                return _arrow(join())
            joined = _arrow(join())
            joined = take_rows(joined, np.argsort(joined[REQUEST_ROW].to_numpy()))
            table = pa.Table.from_pandas(labels, preserve_index=False)
            for name in (name for part in parts for name in part.features.values()):
                table = table.append_column(name, joined[name])
            return table

        return job_of(
            ordered,
            join if labels is None else lambda: session.createDataFrame(ordered()),
            session,
            config,
            views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[column for column in columns if column != time],
                min_event_timestamp=to_datetime(first),
                max_event_timestamp=to_datetime(last),
            ),
            full_names=full_feature_names,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Return the newest row of each key in an interval."""
        times = [timestamp_field, *filter(None, [created_timestamp_column])]
        columns = [*join_key_columns, *feature_name_columns, *times]

        def newest(rows: DataFrame) -> DataFrame:
            newest = F.max_by(F.struct(*columns), F.struct(*times)).alias(_VALUES)
            return rows.groupBy(*join_key_columns).agg(newest).select(f"{_VALUES}.*")

        return _pulled(config, data_source, columns, timestamp_field, start_date, end_date, newest)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Return the rows of an interval."""
        created = filter(None, [created_timestamp_column])
        columns = [*join_key_columns, *feature_name_columns, timestamp_field, *created]
        return _pulled(config, data_source, columns, timestamp_field, start_date, end_date)


@dataclass(frozen=True)
class _Part:
    """What a view adds to a join.

    Attributes
    ----------
    view
        The view.
    keys
        Its keys, by the columns of the request that hold them.
    features
        The columns that they get, by its features.
    """

    view: FeatureView
    keys: dict[str, str]
    features: dict[str, str]

    @classmethod
    def of(
        cls, view: FeatureView, references: Sequence[str], columns: Sequence[str], full_names: bool
    ) -> _Part:
        """Return what a view adds to a request with some columns."""
        name = view.projection.name_to_use()
        joined_by = view.projection.join_key_map
        keys = {joined_by.get(key.name, key.name): key.name for key in view.entity_columns}
        for key in keys:
            if key not in columns:
                raise InvalidInput(
                    f"training join with {view.name}: expected a column {key!r} in `entity_df`. "
                    f"Received: {', '.join(columns)}"
                )
        features = {}
        for of_view, feature in (reference.rsplit(":", 1) for reference in references):
            if of_view == name:
                column = f"{name}__{feature}" if full_names else feature
                # As Feast names a feature like a column of the request.
                features[feature] = f"{column}__" if column in columns else column
        return cls(view, keys, features)

    def rows(self, config: RepoConfig, session: SparkSession, first: int, last: int) -> DataFrame:
        """Return keys, times and features of rows that may be the newest at some label's time.

        The labels' times are from `first` to `last`, microseconds since the epoch.
        """
        source = checked_source(self.view, config)
        in_source = {ours: theirs for theirs, ours in source.field_mapping.items()}

        def column(name: str) -> str:
            return in_source.get(name, name)

        time = column(source.timestamp_field)
        created = column(source.created_timestamp_column or source.timestamp_field)
        keys = [column(key) for key in self.keys.values()]
        features = {feature: column(feature) for feature in self.features}
        rows = _rows(
            config,
            session,
            source,
            [*keys, *features.values(), time, created],
            time,
            None if not self._ttl else first - self._ttl,
            last,
        )
        values = [F.col(theirs).alias(ours) for ours, theirs in features.items()]
        return rows.select(
            *(F.col(key).alias(_KEY.format(i)) for i, key in enumerate(keys)),
            F.col(time).alias(_THEN),
            F.col(created).alias(_CREATED),
            F.struct(*values).alias(_VALUES),
        )

    def join(self, labels: DataFrame, time: str, rows: DataFrame, *, available: bool) -> DataFrame:
        """Return labels with what is newest for each.

        Parameters
        ----------
        labels, time
            The request, and its column of times.
        rows
            As `rows` returns them.
        available
            A row also has to be created at or before the label's time.
        """
        asked = [F.col(key).alias(f"__asked_{i}") for i, key in enumerate(self.keys)]
        moments = labels.select(*asked, F.col(time).cast("timestamp").alias("__at")).distinct()
        at, then = F.col("__at"), F.col(_THEN)
        conditions = [
            *(F.col(f"__asked_{i}") == F.col(_KEY.format(i)) for i in range(len(self.keys))),
            then <= at,
        ]
        if self._ttl:
            conditions.append(
                F.unix_micros(at) - F.unix_micros(then.cast("timestamp")) <= self._ttl
            )
        if available:
            conditions.append(F.col(_CREATED) <= at)
        # One for each moment, however often a value is there.
        newest = (
            moments.join(rows, reduce(and_, conditions))
            .groupBy(*moments.columns)
            .agg(F.max_by(_VALUES, F.struct(_THEN, _CREATED)).alias(_VALUES))
        )
        same = [F.col(key) == F.col(f"__asked_{i}") for i, key in enumerate(self.keys)]
        same.append(F.col(time).cast("timestamp") == at)
        values = [F.col(f"{_VALUES}.{name}").alias(out) for name, out in self.features.items()]
        return labels.join(newest, reduce(and_, same), "left").select(*labels.columns, *values)

    @property
    def _ttl(self) -> int:
        return (self.view.ttl or timedelta(0)) // timedelta(microseconds=1)


def _pulled(
    config: RepoConfig,
    source: DataSource,
    columns: Sequence[str],
    time: str,
    start: datetime | None,
    end: datetime | None,
    change: Callable[[DataFrame], DataFrame] = lambda rows: rows,
) -> RetrievalJob:
    session = session_for(config, source.name)

    def frame() -> DataFrame:
        first = None if start is None else to_us(start)
        last = NEVER if end is None else to_us(end)
        return change(_rows(config, session, source, columns, time, first, last))

    return job_of(lambda: _arrow(frame()), frame, session, config)


def _rows(
    config: RepoConfig,
    session: SparkSession,
    source: DataSource,
    columns: Sequence[str],
    time: str,
    start: int | None,
    end: int,
) -> DataFrame:
    """Return columns of a source with `start <= t <= end`, microseconds since the epoch."""
    columns = list(dict.fromkeys(columns))
    with answering(source.name):
        if is_iceberg(source):
            others = {name: name for name in columns if name != time}
            table = IcebergRows(located(source, config.repo_path), source.name)
            asked = RowsAsked(others, (), time, start, end)
            return session.createDataFrame(table.read(asked))
        if is_parquet(source):
            path = path_of(source, config)
            reader = session.read.option("recursiveFileLookup", "true")
            rows = reader.parquet(path.replace("s3://", "s3a://"))
        elif isinstance(source, SparkSource):
            rows = rows_of(source, config, session)
        else:
            raise InvalidInput(
                f"{source.name}: expected a source that Spark reads: of Spark, of parquet files or "
                f"of Iceberg. Received: {type(source).__name__}"
            )
        return rows.where(inside(F.col(time), start, end)).select(*columns)


def _span(labels: DataFrame, time: str) -> tuple[int, int]:
    """Return the first and the last time of labels."""
    moment = F.unix_micros(F.col(time).cast("timestamp"))
    with answering("entity_df"):
        found = labels.agg(F.min(moment), F.max(moment)).first()
    return (0, 0) if found is None or found[0] is None else (found[0], found[1])


def _arrow(rows: DataFrame) -> pa.Table:
    with answering(_STORE):
        return pa.Table.from_batches(stream(rows))
