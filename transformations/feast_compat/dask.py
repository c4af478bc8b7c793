"""The job of a training join that is computed here; seen in Feast 0.67.

Saved data sets and on-demand views are the work of `DaskRetrievalJob`, which takes a frame of Dask
from its `evaluation_function`; here the function returns an Arrow table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import pandas as pd
import pyarrow as pa
from feast import OnDemandFeatureView, RepoConfig
from feast.infra.offline_stores.dask import DaskRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry


def join_job(
    join: Callable[[], pa.Table],
    config: RepoConfig,
    registry: BaseRegistry,
    project: str,
    *,
    features: Sequence[str],
    keys: Sequence[str],
    times: tuple[datetime, datetime],
    full_names: bool,
) -> DaskRetrievalJob:
    """Return the job of a join.

    Parameters
    ----------
    join
        Returns the joined table.
    config, registry, project
        As Feast hands them to an offline store.
    features
        References of the features asked for.
    keys
        Columns of the labels, but for their time.
    times
        The first and the last of the labels.
    full_names
        Whether names of features have those of their views before them.
    """
    references = list(features)
    return _TableJob(
        evaluation_function=join,
        full_feature_names=full_names,
        repo_path=str(config.repo_path),
        on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(
            references, project, registry
        ),
        metadata=RetrievalMetadata(
            features=references,
            keys=list(keys),
            min_event_timestamp=times[0],
            max_event_timestamp=times[1],
        ),
    )


class _TableJob(DaskRetrievalJob):
    """A join whose `evaluation_function` gives an Arrow table."""

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self.evaluation_function()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self.evaluation_function().to_pandas()
