"""Where views keep their snapshots, as sources of Feast that `feast apply` can check."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias
from urllib.parse import urlsplit

from feast import FileSource, RepoConfig
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource

from activity_embeddings.transformations import names
from activity_embeddings.transformations.artifacts import Location, local_path
from activity_embeddings.transformations.definitions.store_config import (
    require_engine,
    require_every_label,
    require_files,
    require_iceberg,
    require_online,
)
from activity_embeddings.transformations.definitions.tags import relative_to_repo, within_repo
from activity_embeddings.transformations.errors import InvalidInput, quote, received, require_kinds
from activity_embeddings.transformations.extras import require_extra
from activity_embeddings.transformations.offline.sinks.base import table_name

_SECRET = re.compile(r"secret|password|credential|connection-string|token$|key(-id)?$")
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
    """A folder of the feature repo, or of a disk that every machine has: a URL of a file.

    Each version of a view has its own, `<folder>/<view>/v<version>`.
    """

    folder: Location

    def source(self, view: str, version: str, repo: Path, **definition: Any) -> DataSource:
        """See `SnapshotPlace.source`.

        Raises
        ------
        InvalidInput
            The folder is on no disk, or is an absolute path.
        """
        if local_path(self.folder) is None:
            raise InvalidInput(
                f"{view}: `snapshots` should be a folder; an object store has them with "
                f"IcebergSnapshots. Received: {received(self.folder)}"
            )
        folder = within_repo(self.folder, repo, f"{view}, `snapshots`").rstrip("/")
        return FolderSource(
            path=f"{folder}/{view}/v{version}",
            file_format=ParquetFormat(),
            **definition,
        )


@dataclass(frozen=True)
class PostgreSQLSnapshots:
    """Tables of a schema in PostgreSQL: `<schema>.<view>__v<version>`.

    In the database of `offline_store` in feature_store.yaml, which is Feast's PostgreSQL store.

    Parameters
    ----------
    schema
        Its name; created by the first `feast materialize` if it is not there.
    """

    schema: str = "activity_embeddings"

    def __post_init__(self) -> None:
        require_kinds("PostgreSQLSnapshots", schema=(self.schema, str))

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


@dataclass(frozen=True)
class IcebergSnapshots:
    """Apache Iceberg tables, one for each version of a view: `<namespace>.<view>__v<version>`.

    Namespace and tables are made by the first `feast materialize`. Nothing secret goes into the
    registry: credentials, and an address with a password, come from the environment or from the
    configuration of pyiceberg, under the name of the catalog, as
    `PYICEBERG_CATALOG__ACTIVITY_EMBEDDINGS__URI`.

    Parameters
    ----------
    warehouse
        Where the tables lie: the URI of an object store, what a catalog calls its warehouse, a
        folder of the feature repo, or the URL of a folder that every machine has.
    namespace
        Of the tables.
    catalog_type
        `sql`, `rest`, `hive`, `glue` or `dynamodb`.
    catalog_name
        Under which pyiceberg's configuration knows the catalog; without underscores, which that
        configuration reads as hyphens.
    catalog_properties
        Of pyiceberg, such as `uri` or `s3.endpoint`. A catalog of type `sql` without a `uri` is
        `catalog.db` in the warehouse if that is a folder.
    endpoint
        Address of a REST catalog.
    token_env_var
        Environment variable that holds the token of a REST catalog.
    credential_vending
        Whether a REST catalog hands out credentials for the object store.

    Raises
    ------
    InvalidInput
        A property is secret, or the name of the catalog has an underscore.
    """

    warehouse: str | Path
    namespace: str = "activity_embeddings"
    catalog_type: str = "sql"
    catalog_name: str = "activity-embeddings"
    catalog_properties: Mapping[str, str] = field(default_factory=dict)
    endpoint: str = ""
    token_env_var: str | None = None
    credential_vending: bool = True

    def __post_init__(self) -> None:
        require_extra("iceberg", "IcebergSnapshots")
        properties = self.catalog_properties
        require_kinds(
            "IcebergSnapshots",
            warehouse=(self.warehouse, (str, Path)),
            namespace=(self.namespace, str),
            catalog_type=(self.catalog_type, str),
            catalog_name=(self.catalog_name, str),
            catalog_properties=(properties, Mapping),
            endpoint=(self.endpoint, str),
            token_env_var=(self.token_env_var, (str, type(None))),
            credential_vending=(self.credential_vending, bool),
        )
        for key, value in properties.items():
            require_kinds("IcebergSnapshots: catalog_properties", key=(key, str))
            require_kinds("IcebergSnapshots: catalog_properties", **{key: (value, str)})
        if "_" in self.catalog_name:
            raise InvalidInput(
                "IcebergSnapshots: catalog_name should have no underscore, which pyiceberg's "
                f"environment variables cannot name. Received: {self.catalog_name!r}"
            )
        secret = [key for key, value in self._properties.items() if _is_secret(key, value)]
        if secret:
            variable = f"PYICEBERG_CATALOG__{self.catalog_name}__{secret[0]}"
            variable = variable.replace(".", "__").replace("-", "_").upper()
            raise InvalidInput(
                "IcebergSnapshots: catalog_properties should hold nothing secret, since the "
                f"registry does not hide it. Received: {secret[0]!r}. Set the environment variable "
                f"{variable} instead"
            )

    def source(self, view: str, version: str, repo: Path, **definition: Any) -> DataSource:
        """See `SnapshotPlace.source`."""
        warehouse = str(self.warehouse)
        properties = dict(self.catalog_properties)
        folder = local_path(warehouse)
        if folder is not None and self.catalog_type == "sql":
            warehouse = within_repo(warehouse, repo, f"{view}, `warehouse`")
            if not self.endpoint:
                place = local_path(warehouse)
                properties.setdefault("uri", f"sqlite:///{place}/catalog.db")
        if "uri" in properties:
            properties["uri"] = _sqlite_within(properties["uri"], repo)
        return IcebergTableSource(
            warehouse=warehouse,
            namespace=self.namespace,
            table=table_name(view, version),
            catalog_type=self.catalog_type,
            catalog_name=self.catalog_name,
            endpoint=_sqlite_within(self.endpoint, repo),
            catalog_properties=properties,
            token_env_var=self.token_env_var,
            credential_vending=self.credential_vending,
            **definition,
        )

    @property
    def _properties(self) -> dict[str, str]:
        return {**self.catalog_properties, "uri": self.catalog_properties.get("uri", self.endpoint)}


def _is_secret(key: str, value: str) -> bool:
    if key != "uri":
        return bool(_SECRET.search(key))
    try:
        return bool(urlsplit(value).password)
    except ValueError as error:
        raise InvalidInput(
            f"IcebergSnapshots: expected an address of a catalog. Received: {quote(value)}; {error}"
        ) from error


def _sqlite_within(uri: str, repo: Path) -> str:
    """Return the address of a database of sqlite in the repo by its path within it."""
    scheme, found, path = uri.partition(":///")
    if not found or not scheme.startswith("sqlite"):
        return uri
    return f"{scheme}:///{relative_to_repo(path, repo)}"


Snapshots: TypeAlias = Location | SnapshotPlace | None
"""What a feature repo says: a folder, by its path or the URL of a file, or another place; None:
`data/snapshots` of the repo."""


def snapshot_source(
    snapshots: Snapshots, view: str, version: str, *checks: Check, repo: Path, owner: str
) -> DataSource:
    """Return the source of one version of a view."""
    if snapshots is None:
        snapshots = repo / "data" / "snapshots"
    place = FolderSnapshots(snapshots) if isinstance(snapshots, str | Path) else snapshots
    if isinstance(place, type) or not hasattr(place, "source"):
        raise InvalidInput(
            f"{view}: `snapshots` should be a folder, IcebergSnapshots, PostgreSQLSnapshots or "
            f"None. Received: {received(place)}"
        )
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

    _of_the_store: ClassVar[tuple[Check, ...]]

    def __init_subclass__(cls, *, require_store: Check) -> None:
        """Make a kind of source; `require_store` refuses offline stores that do not join it."""
        cls._of_the_store = (require_store,)
        # Feast writes the name of a source's class to the registry, and imports it from there.
        feasts = cls.__mro__[2]  # behind this class
        cls.__module__, cls.__name__ = feasts.__module__, feasts.__name__

    def __init__(self, *, checks: Sequence[Check] = (), **definition: Any) -> None:
        super().__init__(**definition)
        self._checks = tuple(checks)

    def validate(self, config: RepoConfig) -> None:
        """Accept a place that is still to be written, in a store that can publish to it.

        Raises
        ------
        InvalidInput
            The configuration names an offline store that does not join such snapshots or loses
            labels, another engine, or an online store that mixes up threads; or a source lacks a
            column.
        """
        settings = (require_engine, require_every_label, require_online)
        for check in (*self._of_the_store, *settings, *self._checks):
            check(config)


class FolderSource(CheckedSource, FileSource, require_store=require_files):
    """A folder of snapshots."""


class IcebergTableSource(CheckedSource, IcebergSource, require_store=require_iceberg):
    """An Iceberg table of snapshots."""
