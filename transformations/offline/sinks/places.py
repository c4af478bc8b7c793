"""Which `SnapshotSink` a view has: the one place that asks for the class of its sink source.

Another kind of place is a module beside this one with a function `sink_of`, and a line below.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from feast import FeatureView, RepoConfig
from feast.data_source import DataSource

from activity_embeddings.transformations.errors import InvalidInput, NotReady
from activity_embeddings.transformations.offline.located import checked_source, keeps_snapshots
from activity_embeddings.transformations.offline.sinks.base import SnapshotSink

# By their names: a module here and the source's own import what they need, when imported.
_SINKS = {
    "feast.infra.offline_stores.file_source.FileSource": "folder",
    "feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source.PostgreSQLSource": (
        "postgres"
    ),
    "feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source.IcebergSource": "iceberg",
}


class _Kind(Protocol):
    """What a module beside this one is."""

    def sink_of(self, source: DataSource, config: RepoConfig) -> SnapshotSink:
        """Return the sink that a source names; raise `InvalidInput` where it names none."""


def sink_of(view: FeatureView, config: RepoConfig) -> SnapshotSink:
    """Return where a sequence or embedding view keeps its snapshots.

    Parameters
    ----------
    view
        The view.
    config
        Of the feature repo, in which a relative path lies.

    Raises
    ------
    InvalidInput
        The source of the view is of no kind that is known, or is at an absolute path.
    """
    source = checked_source(view, config)
    for kind in type(source).__mro__:
        module = _SINKS.get(f"{kind.__module__}.{kind.__qualname__}")
        if module is not None:
            sinks = cast(_Kind, import_module(f"{__package__}.{module}"))
            return sinks.sink_of(source, config)
    known = ", ".join(name.rpartition(".")[2] for name in _SINKS)
    raise InvalidInput(
        f"{view.name}: the sink should be one of {known}. Received: {type(source).__name__}"
    )


def require_snapshots(view: FeatureView, config: RepoConfig) -> None:
    """Raise `NotReady` where a view is one of ours and nothing is published yet."""
    if not keeps_snapshots(view):
        return
    sink = sink_of(view, config)
    if not sink.committed():
        raise NotReady(
            f"{view.name}: expected published snapshots. Received: none in {sink.place}; run "
            "`feast materialize` first"
        )
