"""The files of a feature repo, as Feast's command finds them; seen in Feast 0.67."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SETTINGS_VARIABLE = "FEAST_FS_YAML_FILE_PATH"
"""Environment variable with the path of a feature_store.yaml elsewhere."""


def repo_files(repo: Path) -> list[Path]:
    """Return the Python files of a feature repo, as `feast apply` imports them.

    `parse_repo`, which does it all, gives up at the first module that raises.
    """
    from feast.repo_operations import get_repo_files

    return get_repo_files(repo)


def is_project_name(name: str) -> bool:
    """Return whether `feast apply` takes a name of a project."""
    from feast.repo_operations import is_valid_name

    return bool(is_valid_name(name))


def apply_repo(repo: Path) -> None:
    """Run `feast apply` in a feature repo, in this process.

    Feast's functions for it are not documented; its command is.
    """
    from feast.cli.cli import cli

    # Of a repo that was applied before, or of this one as it was then.
    for file in repo_files(repo):
        sys.modules.pop(file.stem, None)
    before = os.getcwd(), list(sys.path)
    sys.path.insert(0, str(repo.resolve()))
    try:
        cli.main(["--chdir", str(repo), "apply"], prog_name="feast", standalone_mode=False)
    finally:
        os.chdir(before[0])
        sys.path[:] = before[1]


def settings_file(repo: Path) -> Path:
    """Return the path of feature_store.yaml, which an environment variable may change.

    There may be no such file: then `repo` is no feature repo. Feast says the same, but its import
    takes seconds, and not all who ask need it.
    """
    elsewhere = os.environ.get(SETTINGS_VARIABLE)
    return repo / "feature_store.yaml" if elsewhere is None else Path(elsewhere)
