"""For what Feast calls the function of an on-demand view, and what it knows of a training join.

The function gets columns and nothing else. Seen in Feast 0.67: who calls it, and what the job of a
join says of its columns.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import pandas as pd
from feast import FeatureStore, RepoConfig
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.transformation.python_transformation import PythonTransformation

from activity_embeddings.transformations.errors import InvalidInput

# Both are called by Feast's RetrievalJob and OnDemandFeatureView, and by nobody else: the first
# with the table of a training join, the second with the columns of an online request.
_OFFLINE = PythonTransformation.transform_arrow.__code__
_ONLINE = PythonTransformation.transform.__code__
_Owner = TypeVar("_Owner")


@dataclass(frozen=True)
class Caller:
    """For what Feast calls an on-demand function.

    Attributes
    ----------
    join
        False in an online request. In a training join the job whose table it is, or True where that
        is not known.
    store
        The feature store that was asked, where that is known: in an online request.
    config
        Settings of the feature store whose join it is, where its job says them.
    repo
        Folder of the feature repo, where the job of a join says it.
    """

    join: RetrievalJob | bool
    store: FeatureStore | None = None
    config: RepoConfig | None = None
    repo: str | None = None


def feast_caller() -> Caller:
    """Return for what Feast calls the on-demand function that calls this one.

    A Python function of an on-demand view gets a dict of lists, offline and online, and nothing
    says which, nor from which feature repo. No column or type tells the two apart in every case;
    who called does.

    Raises
    ------
    InvalidInput
        Feast called the function in neither way.
    """
    frames = _callers()
    for frame in frames:
        if frame.f_code is _ONLINE:
            # Reading the variables of a frame costs as much as a small model: only of the store's.
            asked = (f for f in frames if f.f_code.co_qualname.startswith("FeatureStore."))
            return Caller(False, _first(asked, FeatureStore))
        if frame.f_code is _OFFLINE:
            job = _first(frames, RetrievalJob)
            config = getattr(job, "config", None)
            config = config if isinstance(config, RepoConfig) else None
            repo = getattr(job, "repo_path", None) if config is None else config.repo_path
            return Caller(
                True if job is None else job,
                config=config,
                repo=None if repo is None else str(repo),
            )
    raise InvalidInput(
        "request-time view: expected to be called by Feast, for an online request or a training "
        "join. Received: a call of its function. Use FeatureStore.get_online_features or "
        "get_historical_features"
    )


def _first(frames: Iterator[FrameType], kind: type[_Owner]) -> _Owner | None:
    """Return the first object of a class whose method is among the callers."""
    owners = (frame.f_locals.get("self") for frame in frames)
    return next((owner for owner in owners if isinstance(owner, kind)), None)


def _callers() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back


def with_config(job: RetrievalJob, config: RepoConfig) -> RetrievalJob:
    """Return the job of a join, which says the settings of its feature store; see `Caller`.

    Feast's jobs say the folder alone, and one folder may have several.
    """
    of_store: Any = job
    of_store.config = config
    return job


def time_column_of(labels: pd.DataFrame) -> str:
    """Return the column by which Feast joins labels."""
    return infer_event_timestamp_from_entity_df(dict(labels.dtypes))


def unknown_columns(columns: Iterable[str], job: RetrievalJob) -> list[str] | None:
    """Return the columns of a join's table that are neither a key nor a feature: times of labels.

    None where the job does not say what it was asked for, as Feast allows.
    """
    try:
        asked = job.metadata
    except NotImplementedError:
        asked = None
    if asked is None or not asked.keys:
        return None
    known = set(asked.keys)
    features = [tuple(reference.split(":", 1)) for reference in asked.features]
    for view in job.on_demand_feature_views:
        for source in view.source_feature_view_projections.values():
            features += [(source.name_to_use(), feature.name) for feature in source.features]
            features += [(source.name, feature.name) for feature in source.features]
    for view_name, feature in features:
        # With `full_feature_names`, without the version that a reference may have.
        known |= {feature, f"{view_name.split('@')[0]}__{feature}", f"{view_name}__{feature}"}
    # Feast's Dask store adds the index of pandas.
    return [name for name in columns if name not in known and not name.startswith("__index")]
