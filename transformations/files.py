"""Write files and folders whole or not at all, where a user's symbolic links point to.

A rename onto a link would put the new file in the link's place, and leave what it pointed to, on
another disk or shared with others, as it was. So everything that is renamed into place is renamed
within the folder of the real file, with the permissions that the real file had.

A rename is whole or not at all for whoever reads meanwhile. After a power loss it is so only if the
disk held the content before the name was changed, and the name before anything was built on it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from activity_embeddings.transformations.errors import InvalidInput


def real_path(path: Path) -> Path:
    """Return a path without symbolic links; the file or folder itself may still be missing.

    Two names of one file have one real path, so that what lies beside it, as a lock, is shared.

    Raises
    ------
    InvalidInput
        The path, or a folder above it, is a link to what is not there, or links go in a circle.
    """
    try:
        return Path(os.path.realpath(path, strict=True))
    except OSError:  # something is missing, or links go in a circle
        pass
    # From the top, since nothing can be said of what is below a broken link.
    for part in reversed((path, *path.parents)):
        if part.is_symlink() and not part.exists():
            raise InvalidInput(
                f"{path}: expected a path whose symbolic links lead somewhere. Received: {part}, a "
                f"link to {os.readlink(part)}, which is not there. Make that (is a disk mounted?), "
                "or remove the link"
            )
    return path.resolve()


def path_within(folder: Path, path: str) -> Path:
    """Return a path that a registry or a table names, relative to a folder.

    Links are followed wherever they lead: whoever made them could write in the folder.

    Raises
    ------
    InvalidInput
        It leads out of the folder, or is absolute.
    """
    absolute = os.path.isabs(path)
    if absolute or os.path.normpath(path).split(os.sep)[0] == os.pardir:
        raise InvalidInput(
            f"path {path!r}: expected a path within {folder}. Received: "
            + ("an absolute one" if absolute else "one that leads out of it")
        )
    return folder / path


def replace_file(file: Path, write: Callable[[Path], Any]) -> None:
    """Write a file aside and rename it into place, so that readers find the old or the new one.

    Parameters
    ----------
    file
        Where a symbolic link is, the file that it points to. Its folder should be there.
    write
        Writes to the path that it is given.

    Raises
    ------
    InvalidInput
        See `real_path`.
    """
    real = real_path(file)
    aside = real.with_name(f".{real.name}.writing")
    try:
        write(aside)
        move_file(aside, real)
    finally:
        aside.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; see `replace_file`."""
    replace_file(file, lambda aside: aside.write_text(text, encoding="utf-8"))


def move_file(staged: Path, file: Path) -> None:
    """Put a file that was written elsewhere into place, as `replace_file` does.

    Parameters
    ----------
    staged
        The new content; gone afterwards. It is copied where it lies on another disk.
    file
        As in `replace_file`.
    """
    real = real_path(file)
    if real.exists():
        shutil.copymode(real, staged)
    flush(staged)
    try:
        os.replace(staged, real)
        flush(real.parent)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        replace_file(real, lambda aside: shutil.copy(staged, aside))
        staged.unlink()


def flush(path: Path) -> None:
    """Return once the disk holds a file's content, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it, where they are missing; return the real one.

    Raises
    ------
    InvalidInput
        There is a file of that name, or see `real_path`.
    """
    real = real_path(path)
    try:
        real.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidInput(
            f"{path}: expected a folder, or a path where one can be made. Received: a file at "
            f"{error.filename}"
        ) from error
    return real


def empty_folder(path: Path) -> Path:
    """Make a folder empty, or make it; return the real one. What links in it point to stays.

    Raises
    ------
    InvalidInput
        See `make_folder`.
    """
    real = make_folder(path)
    for part in real.iterdir():
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink()
    return real
