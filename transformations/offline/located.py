"""Sources whose paths are where they are for the feature repo, as Feast's stores are given them.

Feast's DuckDB store looks a relative path up where the process runs. Feast 0.67 takes the URL of a
file for a relative path; see `FileSource.get_uri_for_file_path`.
"""

from __future__ import annotations

from copy import copy

from feast import FeatureView, FileSource, RepoConfig
from feast.data_source import DataSource

from activity_embeddings.transformations.artifacts import FILE_URL, local_path
from activity_embeddings.transformations.offline.iceberg import is_iceberg, located


def located_view(view: FeatureView, config: RepoConfig) -> FeatureView:
    """Return a view whose source is where it is for the feature repo."""
    if view.batch_source is None:
        return view
    copied = object.__new__(type(view))
    copied.__dict__.update(view.__dict__, batch_source=located_source(view.batch_source, config))
    return copied


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
