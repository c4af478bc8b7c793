"""The training join of Feast's DuckDB store: an Ibis expression; seen in Feast 0.67.

Feast runs the expression when the job is asked for its rows, and has no way to add to it before. It
joins each label with all rows of its key, features and all, and then keeps the newest: from all
snapshots of a member. What reads a source is an argument of Feast's function. Ours hands on the
newest row of each key and time of a label, found by keys and times alone, with that time beside it.
The time is one key more to Feast, which joins each label with its row and no other.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import ibis
import pandas as pd
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore,
    _read_data_source,
    _write_data_source,
)
from feast.infra.offline_stores.ibis import get_historical_features_ibis
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from pandas.api.types import is_datetime64_any_dtype

from activity_embeddings.transformations.feast_compat.joins import time_column_of
from activity_embeddings.transformations.feast_compat.views import changed_view

_LABEL_TIME = "__label_time"


def order_by_column(job: RetrievalJob, column: str) -> None:
    """Order the rows of a join by a column of its request, and leave that column out."""
    of_ibis: Any = job
    of_ibis.table = of_ibis.table.order_by(column).drop(column)
    of_ibis.metadata.keys.remove(column)


def join(
    config: RepoConfig,
    feature_views: list[FeatureView],
    feature_refs: list[str],
    entity_df: pd.DataFrame | str,
    registry: BaseRegistry,
    project: str,
    full_feature_names: bool,
    filter_by_created_timestamp: bool,
) -> RetrievalJob:
    """Join as Feast's DuckDB store does, each label with the row of each source that it gets."""
    if isinstance(entity_df, pd.DataFrame):
        time = time_column_of(entity_df)
        entity_df = labels = _in_microseconds(entity_df, time)
        # Other times are left to Feast; with `filter_by_created_timestamp` a label may get an older
        # row than its newest.
        if isinstance(labels[time].dtype, pd.DatetimeTZDtype) and not filter_by_created_timestamp:
            views = {id(view.batch_source): view for view in feature_views}

            def read(source: DataSource, repo: str) -> ibis.Table:
                table = _read_data_source(source, repo)
                return _newest(table, source, views[id(source)], labels, time)

            settings = config.offline_store
            return get_historical_features_ibis(
                config=config,
                feature_views=[_joined_by_time(view, time) for view in feature_views],
                feature_refs=feature_refs,
                entity_df=labels,
                registry=registry,
                project=project,
                full_feature_names=full_feature_names,
                data_source_reader=read,
                data_source_writer=_write_data_source,
                staging_location=settings.staging_location,
                staging_location_endpoint_override=settings.staging_location_endpoint_override,
            )
    return DuckDBOfflineStore.get_historical_features(
        config,
        feature_views,
        feature_refs,
        entity_df,
        registry,
        project,
        full_feature_names,
        filter_by_created_timestamp,
    )


def _in_microseconds(labels: pd.DataFrame, time: str) -> pd.DataFrame:
    """Return labels as DuckDB knows times: one between two microseconds is as of the first."""
    if not is_datetime64_any_dtype(labels[time].dtype):
        return labels
    return labels.assign(**{time: labels[time].dt.as_unit("us")})


def _joined_by_time(view: FeatureView, time: str) -> FeatureView:
    """Return a view whose rows are those of labels of one time, by a key more; see `_newest`."""
    keys = _keys(view)
    if not keys:
        return view
    projection = copy(view.projection)
    projection.join_key_map = {**keys, _LABEL_TIME: time}
    return changed_view(view, projection=projection)


def _keys(view: FeatureView) -> dict[str, str]:
    """Return the keys of a view, and what labels call them."""
    return view.projection.join_key_map or {key: key for key in view.join_keys}


def _newest(
    table: ibis.Table, source: DataSource, view: FeatureView, labels: pd.DataFrame, time: str
) -> ibis.Table:
    """Return for each key and time of a label the newest row, ties too, with that time.

    A row that is past the ttl then has no older one that is not.
    """
    column_of = {new: old for old, new in source.field_mapping.items() if old in table.columns}
    # Of the source, and of the labels.
    keys = {column_of.get(key, key): asked for key, asked in _keys(view).items()}
    if not keys:
        return table
    moments = labels[time].dt.tz_convert("UTC")
    asked = pd.DataFrame({f"__{i}": labels[name] for i, name in enumerate(keys.values())})
    wanted = ibis.memtable(asked.assign(**{_LABEL_TIME: moments})).distinct()
    times = table[source.timestamp_field].cast("timestamp('UTC')")
    there = table.select(**{f"__{i}": table[name] for i, name in enumerate(keys)}, __time=times)
    same_key = [wanted[f"__{i}"] == there[f"__{i}"] for i in range(len(keys))]
    before = [wanted[_LABEL_TIME] >= there["__time"]]
    if view.ttl:
        before.append(there["__time"] + ibis.literal(view.ttl) >= wanted[_LABEL_TIME])
    # No ASOF join: of many labels, that of DuckDB 1.5.6 does not end.
    pairs = wanted.inner_join(there, [*same_key, *before], rname="{name}_there")
    newest = pairs.group_by([*(f"__{i}" for i in range(len(keys))), _LABEL_TIME]).agg(
        __newest=pairs["__time"].max()
    )
    matches = [table[name] == newest[f"__{i}"] for i, name in enumerate(keys)]
    rows = table.inner_join(newest, [*matches, times == newest["__newest"]])
    return rows.select(*table.columns, _LABEL_TIME)
