"""What machines share by URL, such as models in an object store: this machine's copy of it.

    <cache>/<hash>/...      files of one URL, as they were listed: names, sizes, times

A copy is made once, aside, and renamed into place; whoever finds it reads it without asking for
more than the list of files. URLs are those of `pyarrow.fs`, `s3://`, `gs://`, `hdfs://` and others,
and `fsspec+<protocol>://` for all that fsspec knows. Of `file://` no copy is made: it names a path
that every machine has, as where all mount one disk.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from pyarrow import ArrowInvalid
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, copy_files

from activity_embeddings.transformations.errors import InvalidInput, NotReady, first_line
from activity_embeddings.transformations.files import make_folder

CACHE = "ACTIVITY_EMBEDDINGS_CACHE"
"""Environment variable: the folder of copies; `~/.cache/activity_embeddings` unless it is set."""

Location: TypeAlias = str | Path
"""A folder of this machine, or a URL."""

FILE_URL = "file://"
"""How URLs of files begin. What follows is the path as it is, without escapes, as fsspec has it."""


def is_url(location: Location) -> bool:
    """Return whether a location is a URL."""
    return "://" in str(location)


def local_path(location: Location) -> Path | None:
    """Return a location as a path of this machine, None for a URL of another place.

    Raises
    ------
    InvalidInput
        A URL of a file names another machine.
    """
    text = str(location)
    if not is_url(text):
        return Path(text)
    if not text.startswith(FILE_URL):
        return None
    path = text.removeprefix(FILE_URL).removeprefix("localhost")
    if not path.startswith("/"):
        raise InvalidInput(
            f"{text}: expected a path that every machine has, as in {FILE_URL}/mnt/share/folder. "
            "Received: the name of one machine"
        )
    return Path(path)


def path_beside(repo: Path, path: Location) -> str | None:
    """Return a path relative to a feature repo, None where it is neither in nor beside the repo."""
    relative = os.path.relpath(path, repo)
    if relative.startswith(os.pardir):  # perhaps only because of a symbolic link
        relative = os.path.relpath(os.path.realpath(path), os.path.realpath(repo))
    return None if relative.startswith(os.path.join(os.pardir, os.pardir)) else relative


def require_everywhere(what: str, path: Location, instead: str | None = None) -> None:
    """Raise `InvalidInput` where a definition gives a path of this machine alone.

    Parameters
    ----------
    what
        What is there, for the message.
    path
        A path relative to the feature repo, which every machine has, or a URL.
    instead
        The same by a path relative to the feature repo, where there is one.
    """
    if not is_url(path) and Path(path).is_absolute():
        better = f"Write {instead!r}" if instead else "Give one within the feature repo"
        raise InvalidInput(
            f"{what}: expected a path relative to the feature repo, or a URL, since the registry "
            f"is for every machine. Received: {path}. {better}, or '{FILE_URL}{path}' if every "
            "machine has it there"
        )


def below(location: Location, *names: str) -> Location:
    """Return what lies below a location."""
    if is_url(location):
        return "/".join([str(location).rstrip("/"), *names])
    return Path(location, *names)


def filesystem_of(url: str) -> tuple[FileSystem, str]:
    """Return the file system of a URL, and the path in it.

    Raises
    ------
    InvalidInput
        It is none that is known.
    """
    try:
        return FileSystem.from_uri(url)
    except (ArrowInvalid, ValueError, ImportError) as error:
        raise InvalidInput(
            f"{url}: expected a URL such as s3://bucket/folder. Received: {first_line(error)}"
        ) from error


def local_folder(location: Location) -> Path:
    """Return a folder of this machine that holds what a location holds.

    Raises
    ------
    NotReady
        There is nothing at the URL.
    """
    path = local_path(location)
    if path is not None:
        return path
    filesystem, root = filesystem_of(str(location))
    listed = filesystem.get_file_info(FileSelector(root, recursive=True, allow_not_found=True))
    files = sorted((f for f in listed if f.type == FileType.File), key=lambda file: file.path)
    if not files:
        raise NotReady(f"{location}: expected files. Received: none")

    def fetch(folder: Path) -> None:
        for file in files:
            target = folder / PurePosixPath(file.path).relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_files(file.path, str(target), source_filesystem=filesystem)

    return cached(hashlib.sha256(repr([root, *map(_facts, files)]).encode()).hexdigest(), fetch)


def cached(name: str, fetch: Callable[[Path], None]) -> Path:
    """Return the folder `name` of the cache; where it is missing, `fetch` fills it.

    Processes that miss it at the same time each fetch it, and one copy stays.
    """
    folder = _home() / name
    if folder.is_dir():
        return folder
    aside = make_folder(folder.parent) / f".{folder.name}.{uuid.uuid4().hex}"
    aside.mkdir()
    try:
        fetch(aside)
        try:
            aside.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def drop_copies(prefix: str, kept: Collection[str]) -> None:
    """Remove what the cache has under names of a prefix, but for some names.

    Whoever has mapped such files goes on reading them.
    """
    for folder in _home().glob(f"{prefix}*"):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _home() -> Path:
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "activity_embeddings")


def _facts(file: FileInfo) -> tuple[str, int, int]:
    return file.path, file.size, file.mtime_ns
