"""Feast's Dask offline store, with a point-in-time join that keeps every row, and its place.

Feast 0.67's own join on Dask leaves out request rows that share key and time with another one, and
rows whose candidates are all later than the row or older than the view's `ttl`; it returns the
others in any order, and fails where a partition finds nothing. So sources are read by Feast's
store, and joined here. Named in feature_store.yaml:

    offline_store:
      type: activity_embeddings.OrderedDaskOfflineStore
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.offline_stores.dask import DaskOfflineStore, DaskOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.feast_compat.dask import join_job
from activity_embeddings.transformations.feast_compat.joins import time_column_of, with_config
from activity_embeddings.transformations.offline.located import located_view, source_of


class OrderedDaskOfflineStoreConfig(DaskOfflineStoreConfig):
    """Settings under `offline_store` in feature_store.yaml: those of Feast's Dask store."""

    # Feast's own type admits the names of its store alone.
    type: Any = "activity_embeddings.OrderedDaskOfflineStore"


class OrderedDaskOfflineStore(DaskOfflineStore):
    """Feast's Dask store; `get_historical_features` keeps the rows of the request."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | dd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """Return a join whose i-th row answers the i-th row of the request.

        A row gets the newest values at or before its time that are not older than the view's
        `ttl`, and null features where there are none.

        Raises
        ------
        InvalidInput
            `entity_df` lacks a key, or has it in another type than the source.
        """
        feature_views = [located_view(view, config) for view in feature_views]
        if isinstance(entity_df, dd.DataFrame):
            entity_df = entity_df.compute()
        if not isinstance(entity_df, pd.DataFrame):
            # All entities as of a time, which has no labels to lose; or what Feast refuses.
            job = DaskOfflineStore.get_historical_features(
                config,
                feature_views,
                feature_refs,
                entity_df,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp,
                **kwargs,
            )
            return with_config(job, config)
        labels = entity_df.reset_index(drop=True)
        label_time = time_column_of(labels)
        # Feast takes times without a zone for UTC. Stores know none between two microseconds.
        labels[label_time] = pd.to_datetime(labels[label_time], utc=True).dt.as_unit("us")

        def join() -> pa.Table:
            table = pa.Table.from_pandas(labels, preserve_index=False)
            for view in feature_views:
                name = view.projection.name_to_use()
                refs = [ref.rsplit(":", 1) for ref in feature_refs]
                features = list(dict.fromkeys(f for of_view, f in refs if of_view == name))
                source = _read_source(config, view, features, labels[label_time])
                rows = _newest_rows(
                    view, source, labels, label_time, available=filter_by_created_timestamp
                )
                for feature in features:
                    column = f"{name}__{feature}" if full_feature_names else feature
                    # As Feast names a feature like a column of the request.
                    column = f"{column}__" if column in labels else column
                    table = table.append_column(column, source[feature].take(rows))
            return table

        times = labels[label_time]
        job = join_job(
            join,
            config,
            registry,
            project,
            features=feature_refs,
            keys=[column for column in labels.columns if column != label_time],
            times=(times.min().to_pydatetime(), times.max().to_pydatetime()),
            full_names=full_feature_names,
        )
        return with_config(job, config)


def _read_source(
    config: RepoConfig, view: FeatureView, features: list[str], label_times: pd.Series
) -> pa.Table:
    """Return the keys, features and times of rows that may be the newest at some label's time."""
    source, ttl = source_of(view), view.ttl or timedelta(0)
    # A column is mapped the Feast way: {its name in the source: its name in the view}.
    in_source = {new: old for old, new in source.field_mapping.items()}
    keys = [column.name for column in view.entity_columns]
    created = [source.created_timestamp_column] if source.created_timestamp_column else []
    has_times = label_times.notna().any()
    job = DaskOfflineStore.pull_all_from_table_or_query(
        config,
        source,
        [in_source.get(name, name) for name in keys],
        # The time of creation is read as a feature: Feast would sort by it, which Dask cannot
        # where a partition has none.
        [in_source.get(name, name) for name in [*features, *created]],
        in_source.get(source.timestamp_field, source.timestamp_field),
        start_date=(label_times.min() - ttl).to_pydatetime() if has_times and ttl else None,
        end_date=label_times.max().to_pydatetime() if has_times else None,
    )
    table = job.to_arrow()
    wanted = dict.fromkeys([*keys, *features, source.timestamp_field, *created])
    return pa.table({name: table[in_source.get(name, name)] for name in wanted})


def _newest_rows(
    view: FeatureView, table: pa.Table, labels: pd.DataFrame, label_time: str, *, available: bool
) -> pa.Array:
    """Return the number of the row that answers each label, null where none does.

    Parameters
    ----------
    view
        Its `ttl` is the age from which a row answers no more; 0 or None: never.
    table
        Rows, as `_read_source` returns them.
    labels, label_time
        The request, and its column of times.
    available
        A row also has to be created at or before the label's time.
    """
    source = source_of(view)
    time = created = _times(table[source.timestamp_field].to_pandas())
    if source.created_timestamp_column:
        created = _times(table[source.created_timestamp_column].to_pandas())
    of_row, of_label = _entities(view, table, labels)

    # Ages count up from old to new; of rows of one time the one that was created last is newest.
    by_age = np.lexsort((created, time))
    rows = pd.DataFrame(
        {
            "entity": of_row[by_age],
            "known": np.maximum(time, created)[by_age] if available else time[by_age],
            "age": np.arange(len(time)),
        }
    )
    # What is newest of all that is known at a time answers from then on.
    rows = rows.dropna().sort_values("known", kind="stable")
    rows["age"] = rows.groupby("entity")["age"].cummax()
    asked = pd.DataFrame({"entity": of_label, "asked": _times(labels[label_time])})
    asked = asked.dropna().reset_index(names="label").sort_values("asked", kind="stable")
    answers = pd.merge_asof(asked, rows, left_on="asked", right_on="known", by="entity")
    answers = answers.dropna(subset=["age"])

    label = answers["label"].to_numpy()
    row = by_age[answers["age"].to_numpy(dtype=np.int64)]
    if view.ttl:
        fresh = answers["asked"].to_numpy() - time[row] <= np.timedelta64(view.ttl)
        label, row = label[fresh], row[fresh]
    found = np.full(len(labels), -1)
    found[label] = row
    return pa.array(found, mask=found < 0)


def _entities(
    view: FeatureView, table: pa.Table, labels: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Number the entities of the source's rows and of the labels; a null key is no entity."""
    number = np.zeros(len(table) + len(labels), np.int64)
    no_entity = np.zeros(len(labels), bool)
    for key in (column.name for column in view.entity_columns):
        name = view.projection.join_key_map.get(key, key)
        if name not in labels:
            raise InvalidInput(
                f"training join with {view.name}: expected a column {name!r} in `entity_df`. "
                f"Received: {', '.join(map(str, labels.columns))}"
            )
        stored, asked = table[key].to_pandas(), labels[name].astype(object).infer_objects()
        numeric = pd.api.types.is_numeric_dtype
        if len(stored) and asked.notna().any() and numeric(stored) != numeric(asked):
            raise InvalidInput(
                f"training join with {view.name}: expected {name!r} of type {table[key].type} in "
                f"`entity_df`. Received: {labels[name].dtype}"
            )
        if stored.dtype != asked.dtype:
            # As a float, one large id would be another.
            stored, asked = stored.astype(object), asked.astype(object)
        codes, distinct = pd.factorize(pd.concat([stored, asked], ignore_index=True))
        number, _ = pd.factorize(number * (len(distinct) + 1) + codes + 1)
        no_entity |= asked.isna().to_numpy()
    of_row, of_label = number[: len(table)], number[len(table) :]
    return of_row, np.where(no_entity, -1, of_label)


def _times(times: pd.Series) -> np.ndarray:
    """Return times as datetime64[us] in UTC, where Feast takes those without a zone to be.

    Nanoseconds reach from 1677 to 2262, and times before and after would become others.
    """
    return pd.to_datetime(times, utc=True).dt.tz_localize(None).to_numpy("datetime64[us]")
