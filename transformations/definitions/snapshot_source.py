"""Where a view keeps its snapshots, as a source of Feast that `feast apply` can check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from feast import FileSource, RepoConfig
from feast.data_format import ParquetFormat
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto

from activity_embeddings.transformations import names
from activity_embeddings.transformations.definitions.store_config import (
    require_engine,
    require_every_label,
    require_own_connections,
)

Check: TypeAlias = Callable[[RepoConfig], None]
"""Raises `InvalidInput` where what a view is made of cannot be used."""


class SnapshotSource(FileSource):
    """A folder of snapshots, which does not exist before the first `feast materialize`.

    In the registry it is a plain `FileSource`, so that readers of the registry need not have this
    package; only `feast apply`'s check that the files are there is left out.
    """

    def __init__(self, *, checks: Sequence[Check] = (), **definition: Any) -> None:
        super().__init__(**definition)
        self._checks = tuple(checks)

    def validate(self, config: RepoConfig) -> None:
        """Accept a folder that is still to be written, in a store that can publish to it.

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
        """Return the definition of a plain file source."""
        proto = super().to_proto()
        proto.data_source_class_type = f"{FileSource.__module__}.{FileSource.__name__}"
        return proto


def snapshot_source(
    view: str, snapshots: str, version: str, owner: str, *checks: Check
) -> SnapshotSource:
    """Return the source of one version of a view: the folder `<snapshots>/<view>/v<version>`.

    `snapshots` is absolute, or relative to the feature repo.
    """
    return SnapshotSource(
        checks=checks,
        name=f"{view}_snapshots",
        path=f"{snapshots}/{view}/v{version}",
        file_format=ParquetFormat(),
        timestamp_field=names.EVENT_TIMESTAMP,
        created_timestamp_column=names.CREATED_TIMESTAMP,
        description=f"Dated snapshots of {view}, one folder an as-of time.",
        owner=owner,
    )
