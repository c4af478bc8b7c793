"""Sources whose paths are where they are for the feature repo, as Feast's stores are given them.

Feast's DuckDB store looks a relative path up where the process runs. Feast 0.67 takes the URL of a
file for a relative path; see `FileSource.get_uri_for_file_path`.

The sources of this package's views are used through `checked_source`, which refuses a path of one
machine. `feast apply` does that too, but a registry may be written without its checks.
"""

from __future__ import annotations

from copy import copy
from pathlib import Path

from feast import FeatureView, FileSource, RepoConfig
from feast.data_source import DataSource

from activity_embeddings.transformations.artifacts import (
    FILE_URL,
    local_path,
    path_beside,
    place_of,
    require_everywhere,
)
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.feast_compat.views import changed_view
from activity_embeddings.transformations.names import Role, Tag
from activity_embeddings.transformations.offline.iceberg import is_iceberg, located

POSTGRES_SOURCE, SPARK_SOURCE = "PostgreSQLSource", "SparkSource"
"""Names of the classes: with a class comes a driver, which only the extra installs."""


def source_of(view: FeatureView) -> DataSource:
    """Return a view's batch source."""
    if view.batch_source is None:
        raise InvalidInput(f"{view.name}: expected a view with a batch source. Received: none")
    return view.batch_source


def checked_source(view: FeatureView, config: RepoConfig) -> DataSource:
    """Return a view's batch source, which every machine finds at the same path or URL.

    Raises
    ------
    InvalidInput
        There is none; or the view is of this package, and its source is at an absolute path, or its
        snapshots are outside the feature repo.
    """
    source = source_of(view)
    path = _path_in(source)
    if path and Tag.ROLE in view.tags:
        beside = path_beside(Path(config.repo_path or "."), path)
        require_everywhere(source_label(view), path, beside)
        if keeps_snapshots(view):
            place_of(path, config.repo_path)
    return source


def keeps_snapshots(view: FeatureView) -> bool:
    """Return whether a view is one of ours that is published from a sink."""
    ours = view.tags.get(Tag.ROLE) in (Role.SEQUENCE, Role.EMBEDDING)
    return ours or Tag.ENCODER_PATH in view.tags


def source_label(view: FeatureView) -> str:
    """Return how errors call a view's source: view and, for files, path."""
    source = source_of(view)
    where = source.path if isinstance(source, FileSource) else source.name
    return f"{view.name} ({where})"


def is_a(source: DataSource, name: str) -> bool:
    """Return whether a source is of a class of this name."""
    return name in [kind.__qualname__ for kind in type(source).__mro__]


def _path_in(source: DataSource) -> str:
    """Return the path or URL that a source names, empty for a source that names none."""
    if isinstance(source, FileSource):
        return str(source.path)
    if is_iceberg(source) and source.catalog_type == "sql":
        return source.warehouse
    if is_a(source, SPARK_SOURCE):
        return getattr(source, "path", None) or ""
    return ""


def located_view(view: FeatureView, config: RepoConfig) -> FeatureView:
    """Return a view whose source is where it is for the feature repo."""
    if view.batch_source is None:
        return view
    source = located_source(checked_source(view, config), config)
    return changed_view(view, batch_source=source)


def located_source(source: DataSource, config: RepoConfig) -> DataSource:
    """Return a source whose path holds wherever the process runs."""
    if is_iceberg(source):
        return located(source, config.repo_path)
    if not isinstance(source, FileSource):
        return source
    copied = copy(source)
    copied.file_options = copy(source.file_options)
    copied.file_options.uri = path_of(source, config)
    return copied


def path_of(source: FileSource, config: RepoConfig) -> str:
    """Return the path of a source of files on this machine, or its URL."""
    if source.path.startswith(FILE_URL):
        return str(local_path(source.path))
    return FileSource.get_uri_for_file_path(config.repo_path, source.path)
