"""What machines share by URL, such as models in an object store: this machine's copy of it.

    <cache>/<hash>/...      a copy, named by the content of its files
    <cache>/told/<hash>     link to the copy of a URL, by what the store told of its files

A copy is made once, aside, and renamed into place. Its name is a hash of the bytes that came, so
two contents never share one, and URLs of the same files share a copy. Object stores tell, without
sending a file, an ETag that changes with its content: where all are as they were, the copy is found
by them, and nothing is fetched. From a store that tells none the files come again each time.

URLs are those of `pyarrow.fs`, `s3://`, `gs://`, `hdfs://` and others, and `fsspec+<protocol>://`
for all that fsspec knows. Of `file://` no copy is made: it names a path that every machine has, as
where all mount one disk.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from pyarrow import ArrowInvalid
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, copy_files

from activity_embeddings.transformations.errors import InvalidInput, NotReady, first_line
from activity_embeddings.transformations.files import flush, make_folder, path_within

CACHE = "ACTIVITY_EMBEDDINGS_CACHE"
"""Environment variable: the folder of copies; `~/.cache/activity_embeddings` unless it is set."""

_TOLD = "told"
_QUESTIONS_AT_ONCE = 8
_ASIDE = re.compile(r"\.[0-9a-f]{32}")
_LEFT_SECONDS = 24 * 3600

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


def place_of(path: Location, repo: Path | str | None) -> Path | None:
    """Return where a path of a registry is on this machine, None for a URL of another place.

    What a registry says of models, tables of vectors and folders of snapshots goes through here
    whenever it is used, since whoever may write a registry need not be `feast apply`.

    Parameters
    ----------
    path
        A path within the feature repo, or a URL.
    repo
        Folder of the feature repo.

    Raises
    ------
    InvalidInput
        The path is absolute or leads out of the repo, or the URL of a file names another machine.
    """
    return local_path(path) if is_url(path) else path_within(Path(repo or "."), str(path))


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
    files = _files(filesystem, root)
    if not files:
        raise NotReady(f"{location}: expected files. Received: none")
    told = _told(filesystem, files)
    if told is None:
        known = None
    else:
        known = _home() / _TOLD / hashlib.sha256(repr((str(location), told)).encode()).hexdigest()
        if known.is_dir():
            return _home() / known.resolve().name

    def fetch(folder: Path) -> None:
        for file in files:
            inside = PurePosixPath(file.path).relative_to(root)
            target = path_within(folder, str(inside))
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_files(file.path, str(target), source_filesystem=filesystem)

    copy = _copied(fetch, content_name)
    # Files that changed while they came are told differently now.
    if known is not None and _told(filesystem, _files(filesystem, root)) == told:
        make_folder(known.parent)
        aside = _aside(known.parent)
        aside.symlink_to(Path("..") / copy.name)
        aside.replace(known)
    return copy


def cached(name: str, fetch: Callable[[Path], None]) -> Path:
    """Return the folder `name` of the cache; where it is missing, `fetch` fills it.

    Processes that miss it at the same time each fetch it, and one copy stays. The name should be
    one that no other content has.
    """
    folder = _home() / name
    return folder if folder.is_dir() else _copied(fetch, lambda _: name)


def content_name(folder: Path) -> str:
    """Return a hash of the files below a folder: of their paths within it, and their bytes."""
    content = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256")
        content.update(os.fsencode(file.relative_to(folder)) + b"\0" + digest.digest())
    return content.hexdigest()


def drop_copies(prefix: str, kept: Collection[str]) -> None:
    """Remove what the cache has under names of a prefix, but for some names.

    Whoever has mapped such files goes on reading them.
    """
    for folder in _home().glob(f"{prefix}*"):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _home() -> Path:
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "activity_embeddings")


def _copied(fetch: Callable[[Path], None], name_of: Callable[[Path], str]) -> Path:
    """Fill a folder aside, and put it into the cache under the name that it gets; return it there.

    Where there is one of that name, that one stays.
    """
    aside = _aside(make_folder(_home()))
    _remove_left(aside.parent)
    aside.mkdir()
    try:
        fetch(aside)
        folder = _home() / name_of(aside)
        for path in (*aside.rglob("*"), aside):
            flush(path)
        try:
            aside.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
        flush(aside.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _aside(folder: Path) -> Path:
    """Return a new place in a folder for what is not whole yet."""
    return folder / f".{uuid.uuid4().hex}"


def _remove_left(home: Path) -> None:
    """Remove what fetches have left that were killed: what lies aside for longer than one takes."""
    for left in (path for folder in (home, home / _TOLD) for path in folder.glob(".*")):
        if not _ASIDE.fullmatch(left.name):
            continue
        with suppress(FileNotFoundError):  # another process removes it, too
            if time.time() - left.lstat().st_mtime > _LEFT_SECONDS:
                left.unlink() if left.is_symlink() else shutil.rmtree(left, ignore_errors=True)


def _files(filesystem: FileSystem, root: str) -> list[FileInfo]:
    listed = filesystem.get_file_info(FileSelector(root, recursive=True, allow_not_found=True))
    return sorted((f for f in listed if f.type == FileType.File), key=lambda file: file.path)


def _told(filesystem: FileSystem, files: Sequence[FileInfo]) -> list[tuple[str, int, bytes]] | None:
    """Return path, size and ETag of files; None where the store tells no ETag of one."""
    with ThreadPoolExecutor(_QUESTIONS_AT_ONCE) as threads:
        tags = list(threads.map(lambda file: _etag(filesystem, file.path), files))
    told = [(f.path, f.size, tag) for f, tag in zip(files, tags, strict=True) if tag is not None]
    return told if len(told) == len(files) else None


def _etag(filesystem: FileSystem, path: str) -> bytes | None:
    """Return what an object store says in place of a file's content; it is not read."""
    with filesystem.open_input_stream(path) as stream:
        for key, value in stream.metadata().items():
            # A weak one may stay where the content changes.
            if key.lower() == "etag" and not value.startswith(b"W/"):
                return bytes(value)
    return None
