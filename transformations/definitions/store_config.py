"""What feature_store.yaml has to say for the views of this package, checked by `feast apply`.

Feast hands its configuration to the source of every view before it writes anything. What is missing
would otherwise show at the first `feast materialize`, or as labels that a training join left out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from feast import FeatureStore, FileSource, RepoConfig
from feast.errors import DataSourceObjectNotFoundException
from feast.infra.registry.base_registry import BaseRegistry

from activity_embeddings.transformations.errors import InvalidInput

ENGINE = "activity_embeddings.ActivityComputeEngine"
# By its name: the definitions do not know what computes them.
_ENGINE_CLASS = "activity_embeddings.transformations.batch.engine.ActivityComputeEngine"
DASK_STORE = "activity_embeddings.OrderedDaskOfflineStore"
DUCKDB_STORE = "activity_embeddings.OrderedDuckDBOfflineStore"

_LOSES_LABELS = ("dask", "file", "feast.infra.offline_stores.dask.DaskOfflineStore")


def require_engine(config: RepoConfig) -> None:
    """Raise `InvalidInput` unless views are computed by this package's engine."""
    engine = config.batch_engine_config
    kind = engine.get("type") if isinstance(engine, dict) else engine
    if kind == ENGINE or _is_engine(str(kind)):
        return
    raise InvalidInput(
        "feature_store.yaml: expected the compute engine of this package, which alone can publish "
        f"its views. Received: {kind or 'none'}. Set\n\n    batch_engine:\n      type: {ENGINE}\n"
    )


def _is_engine(kind: str) -> bool:
    """Return whether a type names the engine or a subclass of it."""
    module, _, name = kind.rpartition(".")
    try:
        found = getattr(import_module(module), name, None) if module else None
    except ImportError:
        return False
    classes = found.__mro__ if isinstance(found, type) else ()
    return _ENGINE_CLASS in [f"{each.__module__}.{each.__qualname__}" for each in classes]


def require_every_label(config: RepoConfig) -> None:
    """Raise `InvalidInput` if training joins of the offline store would leave labels out."""
    for kind in _offline_stores(config):
        if kind in _LOSES_LABELS:
            raise InvalidInput(
                "feature_store.yaml: expected an offline store whose training joins return every "
                f"label. Received: {kind} (also where no offline_store is named), which leaves "
                f"some out. Set\n\n    offline_store:\n      type: {DASK_STORE}\n\nwhich reads "
                f"the same files, or\n\n    offline_store:\n      type: {DUCKDB_STORE}\n"
            )


def _offline_stores(config: RepoConfig) -> Iterator[str]:
    """Yield the types of the offline store, and of those that a hybrid one is made of."""
    store = config.offline_store
    yield str(store.type)
    for part in getattr(store, "offline_stores", None) or []:
        yield str(part.type)


def require_same_place(config: RepoConfig, source: FileSource) -> None:
    """Raise `InvalidInput` if a view's snapshots were registered by a copy of this feature repo.

    The registry holds where snapshots lie. Applied in another folder, it would have values
    published where those who read the first one do not look, and `feast apply` would take the
    online tables of the first repo for its own. Another folder for snapshots within the same repo
    is no copy.
    """
    here = Path(config.repo_path or ".").resolve()
    registry = FeatureStore(config=config).registry
    try:
        registered = registry.get_data_source(source.name, config.project)
    except DataSourceObjectNotFoundException:
        return
    if not isinstance(registered, FileSource):
        return
    before, now = (here / registered.path).resolve(), (here / source.path).resolve()
    if before == now or before.is_relative_to(here):
        return
    there = _applied_in(registry, config.project) or _same_folder_elsewhere(before, now, here)
    if there is None or there == here:
        return
    raise InvalidInput(
        f"{source.name}: expected `feast apply` in {there}, where this registry "
        f"({config.registry.path}) was applied and keeps its snapshots ({before}). Received: "
        f"{here}. Apply there; or start again here: name a registry and an online store of its own "
        "in feature_store.yaml, or remove the files of both if they are copies in this folder"
    )


def _applied_in(registry: BaseRegistry, project: str) -> Path | None:
    """Return the feature repo that request-time views were applied in, None without any."""
    for view in registry.proto().on_demand_feature_views:
        text = view.spec.feature_transformation.user_defined_function.body_text
        found = re.search(r"""embed_request\(.*?repo=('[^'\n]*'|"[^"\n]*")""", text, re.DOTALL)
        if view.spec.project == project and found:
            return Path(ast.literal_eval(found.group(1))).resolve()
    return None


def _same_folder_elsewhere(before: Path, now: Path, here: Path) -> Path | None:
    """Return the other repo, if both hold snapshots in the same place; the version may differ."""
    if not now.is_relative_to(here):
        return None
    within = now.parent.relative_to(here).parts
    if before.parent.parts[-len(within) :] != within:
        return None
    return Path(*before.parent.parts[: -len(within)])
