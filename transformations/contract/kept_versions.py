"""The versions of a SavedModel that were replaced, kept beside it to go back to.

models/cnn                    the version that is registered
models/.versions/cnn/v1       one that was replaced
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from activity_embeddings.transformations.contract.activity_model import read_manifest
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import make_folder, real_path
from activity_embeddings.transformations.spec import require_version

_FOLDER = ".versions"
_PREFIX = "v"
_KEPT_AS = "="


def kept_versions(model: Path) -> dict[str, Path]:
    """Return the folders of the versions of a model that are kept, by version, oldest first."""
    folders = [folder for folder in _home(model).glob(f"{_PREFIX}*") if folder.is_dir()]
    by_age = sorted(folders, key=_packaged_at)
    return {_version_of(folder): folder for folder in by_age}


def version_in_place(model: Path) -> str | None:
    """Return the version of the model in a folder, as packaged; None where none can be read."""
    try:
        return require_version(read_manifest(model).get("version"), "model")
    except InvalidInput:
        return None


def version_before(model: Path) -> str:
    """Return the version of a model that was packaged last before the one in place.

    Raises
    ------
    InvalidInput
        None is kept.
    """
    kept = kept_versions(model)
    now = _packaged_at(real_path(model))
    before = [version for version, folder in kept.items() if _packaged_at(folder) < now]
    if not before:
        raise InvalidInput(
            f"model {model}: expected an earlier version that is kept. Received: "
            f"{', '.join(kept) or 'none'}. Packaging keeps the version that it replaces"
        )
    return before[-1]


def put_into_place(model: Path, new: Path, version: str | None) -> None:
    """Move a folder into the place of a model, and keep the model that was there.

    Two renames: at no moment is half of either in place. A kill between them leaves none there, and
    the next call goes on from that; see `finish_replacing`.

    Parameters
    ----------
    model
        Where the model lies, or will lie.
    new
        The folder to be moved.
    version
        That of the model which is there; None: it is not kept.

    Raises
    ------
    InvalidInput
        The version is none that can be part of a path, whatever a manifest or a registry says.
    """
    if version is not None:
        require_version(version, f"model {model}")
    finish_replacing(model)
    place = real_path(model)
    try:
        if place.exists():
            shutil.copymode(place, new)
            kept_as = "" if version is None else f"{_KEPT_AS}{version}"
            place.rename(place.with_name(_replaced(place) + kept_as))
        new.rename(place)
    finally:
        finish_replacing(model)


def finish_replacing(model: Path) -> None:
    """Finish what a call of `put_into_place` began that was killed, so that no version is lost.

    A model whose successor did not come goes back into its place. One whose successor is there is
    kept, if it was to be.
    """
    place = real_path(model)
    # What is removed is renamed first: half of it should never be found.
    dropped = place.with_name(f".{place.name}.dropped")
    shutil.rmtree(dropped, ignore_errors=True)
    replaced = re.compile(re.escape(_replaced(place)) + f"(?:{_KEPT_AS}(.+))?")
    for folder in list(place.parent.iterdir()) if place.parent.is_dir() else []:
        found = replaced.fullmatch(folder.name)
        if found is None:
            continue
        if not place.exists():
            folder.rename(place)
        elif found[1] is None:
            folder.rename(dropped)
        else:
            kept = make_folder(_home(model)) / f"{_PREFIX}{found[1]}"
            if kept.exists():
                kept.rename(dropped)
            folder.rename(kept)
    shutil.rmtree(dropped, ignore_errors=True)


def _replaced(place: Path) -> str:
    """Return the name of a replaced model for a moment; what it is to be kept as may follow."""
    return f".{place.name}.replaced"


def _home(model: Path) -> Path:
    place = real_path(model)
    return place.parent / _FOLDER / place.name


def _version_of(folder: Path) -> str:
    return folder.name.removeprefix(_PREFIX)


def _packaged_at(folder: Path) -> int:
    return (folder / "saved_model.pb").stat().st_mtime_ns
