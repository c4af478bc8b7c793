"""What people call items: a column of text in the source of their content, or of their vectors."""

from __future__ import annotations

from typing import Any

from feast import FeatureView, RepoConfig
from feast.infra.offline_stores.offline_store import OfflineStore
from feast.types import String

from activity_embeddings.transformations import names
from activity_embeddings.transformations.offline.columns import source_names
from activity_embeddings.transformations.offline.sources import (
    key_of,
    read_feature_rows,
    source_columns,
)

NAME_COLUMNS = ("title", "name", "text")
"""Columns that name an item, the best first; failing these, the first column of text that a view
declares."""


def read_item_names(
    config: RepoConfig,
    store: type[OfflineStore] | OfflineStore,
    view: FeatureView,
    *,
    end: int,
) -> dict[Any, str]:
    """Return the newest names of items as of a time, by id; an item without one is left out.

    Parameters
    ----------
    config, store
        As Feast hands them to an engine.
    view
        The view of what items contain or, where there is none, of item vectors.
    end
        Microseconds since the epoch.

    Raises
    ------
    InvalidInput
        The source cannot be read.
    """
    column = _name_column(config, view)
    if column is None:
        return {}
    item_id = key_of(view)
    table = read_feature_rows(config, store, view, [item_id, column], end=end)
    rows = table.sort_by(names.EVENT_TIMESTAMP)  # of several the newest, which comes last
    pairs = zip(rows.column(item_id).to_pylist(), rows.column(column).to_pylist(), strict=True)
    return {item: str(name) for item, name in pairs if name is not None and str(name).strip()}


def _name_column(config: RepoConfig, view: FeatureView) -> str | None:
    there = source_columns(config, view)
    called = source_names(view, NAME_COLUMNS)
    declared = [field.name for field in view.features if field.dtype == String]
    return next(
        (name for name in NAME_COLUMNS if called[name] in there), next(iter(declared), None)
    )
