"""What Feast does not document is reached through `feast_compat` alone."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

from activity_embeddings.transformations import feast_compat

ROOT = Path(__file__).parents[2]
COMPAT = ROOT / "transformations" / "feast_compat"
UNDOCUMENTED = (
    "feast.feature_server",
    "feast.infra.key_encoding_utils",
    "feast.infra.offline_stores.offline_utils",
    "feast.infra.online_stores.helpers",
    "feast.infra.online_stores.redis",
    "feast.infra.online_stores.sqlite",
    "feast.infra.passthrough_provider",
    "feast.infra.registry.file",
    "feast.infra.registry.registry",
    "feast.infra.registry.sql",
    "feast.permissions",
    "feast.repo_operations",
    "feast.transformation",
    "feast.type_map",
    "feast.utils",
)
"""Modules of Feast whose functions and classes no page of its documentation names."""
UNDOCUMENTED_NAMES = ("__overridden_message__", "__index", "cached_registry_proto")
OF_OTHERS = ("_flatten_layers",)
"""Private names of other packages: Keras has no public way to the layers within layers."""


def private_names(source: str) -> list[str]:
    """Return what a module uses of Feast that is private or undocumented."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names = [alias.name for alias in node.names]
            of_feast = [m for m in modules or names if m.split(".")[0] == "feast"]
            for module in of_feast:
                parts = [*module.split("."), *(name for each in names for name in each.split("."))]
                if any(part.startswith("_") for part in parts) or any(
                    f"{module}.".startswith(f"{each}.") for each in UNDOCUMENTED
                ):
                    found.append(ast.unparse(node))
        elif isinstance(node, ast.Attribute):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if (private and not own) or node.attr in UNDOCUMENTED_NAMES:
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and node.value in UNDOCUMENTED_NAMES:
            found.append(ast.unparse(node))
    return [each for each in found if not each.endswith(OF_OTHERS)]


@pytest.mark.parametrize(
    "source",
    [
        "store._get_provider().online_store",
        "self._store._get_conn(config)",
        "from feast.infra.online_stores.online_store import _private",
        "from feast._private import thing",
        "import feast._private",
        "import feast.utils",
        "from feast.utils import make_tzaware",
        "from feast.infra.online_stores.sqlite import SqliteOnlineStore",
        "getattr(error, '__overridden_message__', None)",
        "registry.cached_registry_proto",
    ],
)
def test_a_private_name_is_seen(source):
    assert private_names(source)


@pytest.mark.parametrize(
    "source",
    [
        "self._store.online_read(config, view, keys)",
        "from feast import FeatureStore",
        "from feast.infra.online_stores.online_store import OnlineStore",
        "super().__init__()",
    ],
)
def test_a_public_name_is_none(source):
    assert not private_names(source)


def test_only_feast_compat_uses_what_feast_does_not_document():
    used = {}
    for folder in ("transformations", "training", "feature_repo", "examples"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if not file.is_relative_to(COMPAT):
                used[str(file.relative_to(ROOT))] = private_names(file.read_text(encoding="utf-8"))
    assert len(used) > 50
    assert {file: names for file, names in used.items() if names} == {}


@pytest.mark.parametrize("module", [each.name for each in pkgutil.iter_modules([str(COMPAT)])])
def test_each_module_says_in_which_version_its_names_were_seen(module):
    found = importlib.import_module(f"{feast_compat.__name__}.{module}")
    assert "0.67" in (found.__doc__ or "")
