"""The online tables that a registry says were made by `feast apply`.

Feast 0.67 keeps sqlite's tables in the registry by their absolute path. Applied in another place,
as after the repo was moved or copied, it would drop the tables at the old path and make none at the
new one.
"""

from __future__ import annotations

from pathlib import Path

from feast import FeatureStore, RepoConfig
from feast.infra.infra_object import Infra
from feast.protos.feast.core.InfraObject_pb2 import Infra as InfraProto
from feast.protos.feast.core.InfraObject_pb2 import InfraObject as InfraObjectProto


def forget_tables_elsewhere(config: RepoConfig) -> None:
    """Have the registry forget sqlite tables in other files than the one of this configuration."""
    registry = FeatureStore(config=config).registry
    known = registry.proto().infra.infra_objects
    # Feast makes the file of each table that it reads from the registry.
    kept = [table for table in known if not _is_elsewhere(table, config)]
    if len(kept) < len(known):
        registry.update_infra(
            Infra.from_proto(InfraProto(infra_objects=kept)), config.project, commit=True
        )


def _is_elsewhere(table: InfraObjectProto, config: RepoConfig) -> bool:
    if not table.HasField("sqlite_table"):
        return False
    file = Path(table.sqlite_table.path).resolve()
    path = getattr(config.online_store, "path", None)
    if path is None:  # now in another kind of store
        return not file.exists()
    return file != (Path(config.repo_path or ".") / path).resolve()
