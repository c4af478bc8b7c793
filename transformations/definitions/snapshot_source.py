"""Where views keep their snapshots, as sources of Feast that `feast apply` can check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from feast import FileSource, RepoConfig
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto

from activity_embeddings.transformations import names
from activity_embeddings.transformations.definitions.store_config import (
    require_engine,
    require_every_label,
    require_files,
    require_own_connections,
)
from activity_embeddings.transformations.definitions.tags import within_repo
from activity_embeddings.transformations.extras import require_extra

Check: TypeAlias = Callable[[RepoConfig], None]
"""Raises `InvalidInput` where what a view is made of cannot be used."""


class SnapshotPlace(Protocol):
    """A place where views keep their snapshots."""

    def source(self, view: str, version: str, repo: Path, **definition: Any) -> DataSource:
        """Return the source of one version of a view.

        Parameters
        ----------
        view, version
            Whose.
        repo
            Folder of the feature repo. What lies in it should be named by its path within it.
        definition
            Further arguments of the source.
        """


@dataclass(frozen=True)
class FolderSnapshots:
    """A folder of this machine: `<folder>/<view>/v<version>`."""

    folder: Path

    def source(self, view: str, version: str, repo: Path, **definition: Any) -> DataSource:
        """See `SnapshotPlace.source`."""
        return FolderSource(
            path=f"{within_repo(self.folder, repo)}/{view}/v{version}",
            file_format=ParquetFormat(),
            **definition,
        )


@dataclass(frozen=True)
class PostgreSQLSnapshots:
    """Tables of a schema in PostgreSQL: `<schema>.<view>_v<version>`.

    In the database of `offline_store` in feature_store.yaml, which is Feast's PostgreSQL store.

    Parameters
    ----------
    schema
        Its name; created by the first `feast materialize` if it is not there.
    """

    schema: str = "activity_embeddings"

    def source(self, view: str, version: str, repo: Path, **definition: Any) -> DataSource:
        """See `SnapshotPlace.source`.

        Raises
        ------
        InvalidInput
            The name of a table cannot be made of the view and its version.
        """
        require_extra("postgres", "snapshots in PostgreSQL")
        from activity_embeddings.transformations.definitions.postgres_source import table_source

        return table_source(self.schema, view, version, **definition)


Snapshots: TypeAlias = Path | SnapshotPlace | None
"""What a feature repo says: a folder or another place; None: `data/snapshots` of the repo."""


def snapshot_source(
    snapshots: Snapshots, view: str, version: str, *checks: Check, repo: Path, owner: str
) -> DataSource:
    """Return the source of one version of a view."""
    if snapshots is None:
        snapshots = repo / "data" / "snapshots"
    place = FolderSnapshots(snapshots) if isinstance(snapshots, Path) else snapshots
    return place.source(
        view,
        version,
        repo,
        checks=checks,
        name=f"{view}_snapshots",
        timestamp_field=names.EVENT_TIMESTAMP,
        created_timestamp_column=names.CREATED_TIMESTAMP,
        description=f"Dated snapshots of {view}.",
        owner=owner,
    )


if TYPE_CHECKING:
    _Source = DataSource
else:
    _Source = object


class CheckedSource(_Source):
    """What makes one of Feast's sources that of snapshots.

    They are not there before the first `feast materialize`, so `feast apply` checks what they are
    made from instead. In the registry it is Feast's own source, so that readers of the registry
    need not have this package.
    """

    def __init__(self, *, checks: Sequence[Check] = (), **definition: Any) -> None:
        super().__init__(**definition)
        self._checks = tuple(checks)

    def validate(self, config: RepoConfig) -> None:
        """Accept a place that is still to be written, in a store that can publish to it.

        Raises
        ------
        InvalidInput
            The configuration names another engine, an offline store whose joins lose labels, or an
            online store that mixes up threads; or a source lacks a column.
        """
        require_engine(config)
        require_every_label(config)
        require_own_connections(config)
        for check in self._checks:
            check(config)

    def to_proto(self) -> DataSourceProto:
        """Return the definition of Feast's own source."""
        proto = super().to_proto()
        kind = type(self).__mro__[2]  # behind this class
        proto.data_source_class_type = f"{kind.__module__}.{kind.__name__}"
        return proto


class FolderSource(CheckedSource, FileSource):
    """A folder of snapshots."""

    def validate(self, config: RepoConfig) -> None:
        """See `CheckedSource.validate`; the offline store has to join files."""
        require_files(config)
        super().validate(config)
