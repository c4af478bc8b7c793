"""The views of events and postings that a feature repo defines, read without applying it.

A feature repo cannot be applied before its item encoder exists, and the encoder is trained on the
sources that the repo defines. So its modules are imported as `feast apply` imports them, and of a
module that raises, as `item_vectors.py` does without an encoder, what it had defined until then
counts.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from feast import FeatureView

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.feast_compat.repo import repo_files, settings_file
from activity_embeddings.transformations.names import DomainNames, Role, Tag


@dataclass(frozen=True)
class RepoDefinitions:
    """What was found in a feature repo.

    Attributes
    ----------
    repo
        Its folder.
    views
        The views of ours, by role; see `Role`.
    raised
        What importing a module raised, by file.
    """

    repo: Path
    views: dict[str, list[FeatureView]] = field(default_factory=dict)
    raised: dict[Path, BaseException] = field(default_factory=dict)

    def view(self, role: str, item: str | None = None) -> FeatureView:
        """Return the one view of a role.

        Parameters
        ----------
        role
            See `Role`.
        item
            Name of the item's entity, where the feature repo has several domains.

        Raises
        ------
        InvalidInput
            There is none, or there are several. The message says what modules raised.
        """
        views = self.views.get(role, [])
        found = [view for view in views if item is None or item == _item_of(view)]
        if len(found) == 1:
            return found[0]
        items = sorted({_item_of(view) for view in views})
        # Of a domain with several kinds of activity the others have no sequences of their own.
        domains = sorted({_item_of(view) for view in self.views.get(Role.SEQUENCE, [])})
        if item is None and len(items) > 1 and len(domains) == 1:
            return self.view(role, domains[0])
        if item is None and len(items) > 1:
            raise InvalidInput(
                f"feature repo {self.repo}: expected the item of one of its domains: "
                f"{', '.join(items)}. Received: no item"
            )
        raised = "".join(
            f"; {file.name} raised {type(error).__name__}: {error}"
            for file, error in self.raised.items()
        )
        names = ", ".join(sorted(view.name for view in found or views)) or "none"
        of_item = "" if item is None else f" of {item!r}"
        raise InvalidInput(
            f"feature repo {self.repo}: expected one view{of_item} with the tag {Tag.ROLE} "
            f"{role!r} among its definitions. Received: {names}{raised}"
        )


def _item_of(view: FeatureView) -> str:
    """Return the item of a view of events, or of one whose rows are about items."""
    if Tag.DOMAIN in view.tags:
        return DomainNames.of(view.tags).item
    return view.entities[0]


def read_definitions(repo: Path) -> RepoDefinitions | None:
    """Import the modules of a feature repo and return the views of ours; None without such a repo.

    Neither the modules nor the path to them stay in `sys`.

    Parameters
    ----------
    repo
        Folder of `feature_store.yaml`.
    """
    if not settings_file(repo).is_file():
        return None
    repo = repo.resolve()
    definitions = RepoDefinitions(repo)
    files = repo_files(repo)
    with _importing_from(repo, {_module_name(file, repo) for file in files}):
        for file in files:
            module, raised = _imported(file, _module_name(file, repo))
            if raised is not None:
                definitions.raised[file] = raised
            for value in list(vars(module).values()):
                role = value.tags.get(Tag.ROLE) if isinstance(value, FeatureView) else None
                known = definitions.views.setdefault(role, []) if role else []
                if role and not any(value is view for view in known):
                    known.append(value)
    return definitions


def _module_name(file: Path, repo: Path) -> str:
    return ".".join(file.relative_to(repo).with_suffix("").parts)


def _imported(file: Path, name: str) -> tuple[ModuleType, BaseException | None]:
    """Import a module; return it, with what it defined, and what it raised."""
    if name in sys.modules:
        return sys.modules[name], None
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        # As the import system does. Whoever imports it raises the same again.
        del sys.modules[name]
        return module, error
    return module, None


@contextmanager
def _importing_from(repo: Path, names: set[str]) -> Iterator[None]:
    """Let modules of these names be those of the repo, and be forgotten afterwards."""
    roots = {name.partition(".")[0] for name in names}

    def of_the_repo(name: str) -> bool:
        return name.partition(".")[0] in roots

    folder, path, no_bytecode = Path.cwd(), list(sys.path), sys.dont_write_bytecode
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if of_the_repo(name)}
    sys.path.insert(0, str(repo))
    sys.dont_write_bytecode = True
    # Definitions may have paths that are relative to the repo, as `feast apply` reads them.
    os.chdir(repo)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        os.chdir(folder)
        sys.path[:] = path
        sys.dont_write_bytecode = no_bytecode
        for name in [name for name in sys.modules if of_the_repo(name)]:
            del sys.modules[name]
        sys.modules.update(others)
