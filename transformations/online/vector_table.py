"""Item vectors for request time: a table on disk that serving processes map into memory.

Written by the compute engine whenever the view of item vectors is materialized, to a folder or to a
URL, as of an object store:

    <table>/current.json               which version is committed: a hash of its content
    <table>/<version>/keys.npy         ascending: int64 [J] ids, or 16 bytes [J], hashes of texts
                      order.npy        int64 [J]; which item the key is of
                      start.npy        int64 [J + 1]
                      time.npy         int64 [V]; microseconds from which a vector is valid
                      matrix.npy       float32 [V + 1, D]

The arrays are those of `ItemVectors`, so an item has the vector that the batch run would give it as
of any time. Pages are shared by all processes of a machine, and loaded when they are touched.

Of a table at a URL a machine keeps a copy, see `artifacts`, and looks for a newer one now and then,
beside the requests.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import math
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType, copy_files

from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.arrow import ArrayHash
from activity_embeddings.transformations.artifacts import (
    Location,
    cached,
    drop_copies,
    filesystem_of,
    is_url,
)
from activity_embeddings.transformations.errors import InvalidInput, ModelMismatch
from activity_embeddings.transformations.files import flush, make_folder, write_text
from activity_embeddings.transformations.ragged import ranges
from activity_embeddings.transformations.spec import ItemVectorSpec, describe_mismatch

_log = logging.getLogger(__name__)

CURRENT = "current.json"
_ARRAYS = ("keys", "order", "start", "time", "matrix")
_VERSION = re.compile("[0-9a-f]{32}")
SECONDS_BETWEEN_LOOKS = 10.0
"""How long a process goes on with its version of a table at a URL."""


def write_vector_table(
    location: Location, vectors: ItemVectors, embedding: ItemVectorSpec, *, end: int
) -> None:
    """Write a new version of a table and commit it.

    Readers of the version before go on reading it until they look again: its files are removed
    only by the commit after the next one, and stay readable for whoever has mapped them.

    Parameters
    ----------
    location
        Folder or URL of the table.
    vectors
        What to write.
    embedding
        Which vectors these are; readers that expect others refuse the table.
    end
        Microseconds since the epoch up to which vectors were read.
    """
    keys, order = _searched(vectors.item_ids)
    arrays = {
        "keys": keys,
        "order": order,
        "start": vectors.start,
        "time": vectors.time,
        "matrix": vectors.matrix,
    }
    place: _Place = _Remote(str(location)) if is_url(location) else _Local(Path(location))
    version = _version_of(arrays)
    with place.alone():
        before = place.current()
        current = {
            "version": version,
            "before": None if before is None else before["version"],
            "vector_spec": embedding.to_dict(),
            "items": len(vectors.item_ids),
            "end": end,
        }
        if before is not None and before["version"] == version:
            current["before"] = before["before"]
        if place.sizes(version) != {name: _size(values) for name, values in arrays.items()}:
            place.write(version, arrays)
        place.commit(current)


class _Place(Protocol):
    """Where a table lies."""

    def alone(self) -> AbstractContextManager[None]:
        """Keep other writers out while the body runs, where that is possible."""

    def sizes(self, version: str) -> dict[str, int]:
        """Return the bytes of the files of a version, by the name of the array."""

    def current(self) -> dict[str, Any] | None:
        """Return what is committed."""

    def write(self, version: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a version, which nobody sees before it is committed."""

    def commit(self, current: Mapping[str, Any]) -> None:
        """Commit a version, and remove those that are neither it nor the one before."""


@dataclass(frozen=True)
class _Local:
    path: Path

    @contextmanager
    def alone(self) -> Iterator[None]:
        folder = os.open(make_folder(self.path), os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def sizes(self, version: str) -> dict[str, int]:
        return {file.stem: file.stat().st_size for file in (self.path / version).glob("*.npy")}

    def current(self) -> dict[str, Any] | None:
        return _read_current(self.path)

    def write(self, version: str, arrays: Mapping[str, np.ndarray]) -> None:
        folder = self.path / version
        # What is there is of a run that was killed, or damaged.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _save(folder, arrays)
        for written in (*folder.iterdir(), folder, self.path):
            flush(written)

    def commit(self, current: Mapping[str, Any]) -> None:
        write_text(self.path / CURRENT, json.dumps(current) + "\n")
        for other in self.path.iterdir():
            if other.is_dir() and other.name not in (current["version"], current["before"]):
                shutil.rmtree(other, ignore_errors=True)


@dataclass(frozen=True)
class _Remote:
    url: str

    @cached_property
    def _root(self) -> tuple[FileSystem, str]:
        return filesystem_of(self.url)

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()

    def sizes(self, version: str) -> dict[str, int]:
        filesystem, root = self._root
        files = filesystem.get_file_info([f"{root}/{version}/{name}.npy" for name in _ARRAYS])
        return {name: file.size or 0 for name, file in zip(_ARRAYS, files, strict=True)}

    def current(self) -> dict[str, Any] | None:
        filesystem, root = self._root
        try:
            with filesystem.open_input_stream(f"{root}/{CURRENT}") as stream:
                return json.loads(stream.read())
        except FileNotFoundError:
            return None

    def write(self, version: str, arrays: Mapping[str, np.ndarray]) -> None:
        filesystem, root = self._root
        with tempfile.TemporaryDirectory() as folder:
            _save(Path(folder), arrays)
            copy_files(folder, f"{root}/{version}", destination_filesystem=filesystem)

    def commit(self, current: Mapping[str, Any]) -> None:
        filesystem, root = self._root
        with filesystem.open_output_stream(f"{root}/{CURRENT}") as stream:
            stream.write(json.dumps(current).encode())
        for other in filesystem.get_file_info(FileSelector(root)):
            kept = (current["version"], current["before"])
            if other.type == FileType.Directory and other.base_name not in kept:
                filesystem.delete_dir(other.path)

    def fetch(self, current: Mapping[str, Any]) -> Path:
        """Return this machine's copy of a version; keep that of the one before, and no other.

        Raises `ValueError` where the files are not of the version, as while it is removed.
        """
        filesystem, root = self._root
        version = _version(current)
        prefix = f"vector_table-{hashlib.sha256(self.url.encode()).hexdigest()[:12]}-"

        def copy(folder: Path) -> None:
            for name in _ARRAYS:
                file = f"{name}.npy"
                copy_files(
                    f"{root}/{version}/{file}", str(folder / file), source_filesystem=filesystem
                )
            received = _version_of(_arrays(folder, current))
            if received != version:
                raise ValueError(f"files of another content, {received}, in the folder {version}")

        folder = cached(f"{prefix}{version}", copy)
        drop_copies(prefix, [f"{prefix}{version}", f"{prefix}{current['before']}"])
        return folder


def _save(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)


def _size(values: np.ndarray) -> int:
    """Return the bytes of the file that `numpy.save` writes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
    return len(header.getvalue()) + values.nbytes


def _arrays(folder: Path, current: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a version, mapped into memory."""
    # An empty file cannot be mapped.
    mode: Literal["r"] | None = "r" if current["items"] else None
    return {name: np.load(folder / f"{name}.npy", mmap_mode=mode) for name in _ARRAYS}


def _version_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a hash of arrays."""
    content = ArrayHash()
    content.add(*arrays.values())
    return str(content)


def _searched(item_ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys of ids, ascending, and which id each is of, int64 [J]."""
    if pa.types.is_integer(item_ids.type):
        return item_ids.to_numpy(), np.arange(len(item_ids))
    keys = _hashes(item_ids.to_pylist())
    order = np.argsort(keys)
    return keys[order], order


def _hashes(texts: Iterable[str]) -> np.ndarray:
    """Return a key of 16 bytes for each text: as long for a URL as for a number.

    That two of a million differing texts share one has a probability below 1e-26.
    """
    return np.array([hashlib.blake2b(t.encode(), digest_size=16).digest() for t in texts], "S16")


def _read_current(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads((path / CURRENT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _version(current: Mapping[str, Any]) -> str:
    """Return the name of the folder that is committed; raise `ValueError` for any other path."""
    version = current["version"]
    if not _VERSION.fullmatch(version):
        raise ValueError(f"the version {version!r}, which no run has written")
    return version


@dataclass(frozen=True, eq=False)
class VectorTable:
    """One committed version, mapped into memory.

    Attributes
    ----------
    keys
        int64 [J], or 16 bytes [J]; ascending.
    order
        int64 [J]; the position of a key's item.
    start, time, matrix
        As in `ItemVectors`.
    end
        Microseconds since the epoch up to which vectors were read.
    """

    keys: np.ndarray
    order: np.ndarray
    start: np.ndarray
    time: np.ndarray
    matrix: np.ndarray
    end: int

    @cached_property
    def one_each(self) -> bool:
        """Whether every item has exactly one vector, as is usual."""
        return len(self.time) == len(self.keys)

    @classmethod
    def empty(cls, dimension: int) -> VectorTable:
        """Return a table that knows no item."""
        return cls(
            keys=np.empty(0, dtype=np.int64),
            order=np.empty(0, dtype=np.int64),
            start=np.zeros(1, dtype=np.int64),
            time=np.empty(0, dtype=np.int64),
            matrix=np.zeros((1, dimension), dtype=np.float32),
            end=0,
        )

    def codes(self, item_ids: np.ndarray) -> np.ndarray:
        """Look ids up: int64 positions of items, -1 where absent.

        Parameters
        ----------
        item_ids
            int64 [n], or str objects [n].

        Raises
        ------
        ModelMismatch
            The table holds ids of the other type.
        """
        if not len(self.keys) or not len(item_ids):
            return np.full(len(item_ids), -1, dtype=np.int64)
        text = self.keys.dtype.kind == "S"
        if text != (item_ids.dtype.kind == "O"):
            held, asked = ("text", "integers") if text else ("integers", "text")
            raise ModelMismatch(
                f"vector table: holds ids that are {held}. Received: {asked}. Materialize the view "
                "of item vectors again"
            )
        wanted = _hashes(item_ids) if text else item_ids
        position = np.searchsorted(self.keys, wanted)
        np.minimum(position, len(self.keys) - 1, out=position)
        return np.where(self.keys[position] == wanted, self.order[position], -1)

    def take(
        self, item_ids: pa.Array, codes: np.ndarray, more: Mapping[int, tuple[int, np.ndarray]]
    ) -> ItemVectors:
        """Return the vectors of a few items, each of which is in the table or in `more`.

        Parameters
        ----------
        item_ids
            N distinct ids, ascending.
        codes
            int64 [n]; as `codes` returns them.
        more
            (time, vector) of the items that the table lacks, by position in `item_ids`.
        """
        if not more and self.one_each:
            rows = np.append(codes, len(self.time))
            return ItemVectors(item_ids, np.arange(len(rows)), self.time[codes], self.matrix[rows])
        there = np.flatnonzero(codes >= 0)
        first = self.start[codes[there]]
        counts = np.ones(len(codes), dtype=np.int64)
        counts[there] = self.start[codes[there] + 1] - first
        start = np.zeros(len(codes) + 1, dtype=np.int64)
        np.cumsum(counts, out=start[1:])
        total = int(start[-1])
        source = ranges(first, counts[there])
        target = ranges(start[there], counts[there])
        matrix = np.zeros((total + 1, self.matrix.shape[1]), dtype=np.float32)
        time = np.zeros(total, dtype=np.int64)
        matrix[target], time[target] = self.matrix[source], self.time[source]
        for i, (since, vector) in more.items():
            time[start[i]], matrix[start[i]] = since, vector
        return ItemVectors(item_ids=item_ids, start=start, time=time, matrix=matrix)


class VectorTableReader:
    """The committed version of a table; a newer one is taken up when it is committed.

    Parameters
    ----------
    location
        A folder, a URL, or None. None, or a place without a table, is an empty table.
    embedding
        ItemVectorSpec. What the table should hold.
    """

    def __init__(self, location: Location | None, embedding: ItemVectorSpec) -> None:
        self._remote = _Remote(str(location)) if is_url(location or "") else None
        self._path = Path(location) if location is not None and self._remote is None else None
        self._current = "" if self._path is None else str(self._path / CURRENT)
        self._embedding = embedding
        self._empty = VectorTable.empty(embedding.dimension)
        self._stamp: object = None
        self._table = self._empty
        self._lock = threading.Lock()
        self._look_at = -math.inf

    def table(self) -> VectorTable:
        """Return the newest committed version; of a URL, one that is some seconds old at most.

        Raises
        ------
        InvalidInput
            The table holds other vectors, or its files cannot be read.
        """
        if self._remote is not None:
            return self._from_url(self._remote)
        if self._path is None:
            return self._empty
        try:
            status = os.stat(self._current)
        except FileNotFoundError:
            # Whoever removes the table wants it gone; the online store still has the vectors.
            self._stamp, self._table = None, self._empty
            return self._empty
        stamp = (status.st_ino, status.st_mtime_ns)
        if stamp == self._stamp:
            return self._table
        with self._lock:
            if stamp != self._stamp:
                path = self._path
                self._table = self._load(
                    path, _Local(path).current, lambda current: path / _version(current)
                )
                self._stamp = stamp
            return self._table

    def _from_url(self, remote: _Remote) -> VectorTable:
        """Return the version that is there; the first call waits for it, later ones do not."""
        if time.monotonic() < self._look_at:
            return self._table
        first = self._look_at == -math.inf
        if self._lock.acquire(blocking=first):
            if first and self._look_at > -math.inf:  # another thread was first
                self._lock.release()
            elif first:
                self._look(remote)
            else:
                threading.Thread(target=self._look_again, args=[remote], daemon=True).start()
        return self._table

    def _look(self, remote: _Remote) -> None:
        """Take up what is committed; the caller has the lock, which is released."""
        try:
            current = remote.current()
            if current != self._stamp:
                self._table = self._load(remote.url, lambda: current, remote.fetch)
                self._stamp = current
            self._look_at = time.monotonic() + SECONDS_BETWEEN_LOOKS
        finally:
            self._lock.release()

    def _look_again(self, remote: _Remote) -> None:
        try:
            self._look(remote)
        except Exception:
            # The version that is there still serves.
            self._look_at = time.monotonic() + SECONDS_BETWEEN_LOOKS
            _log.warning("vector table %s: no newer version can be read", remote.url, exc_info=True)

    def _load(
        self,
        place: Location,
        read: Callable[[], dict[str, Any] | None],
        folder_of: Callable[[Mapping[str, Any]], Path],
    ) -> VectorTable:
        try:
            current = read()
            if current is None:
                return self._empty
            arrays = _arrays(folder_of(current), current)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"vector table {place}: expected the files that {CURRENT} names. Received: "
                f"{error}. Materialize the view of item vectors again, or remove the folder"
            ) from error
        held = ItemVectorSpec.from_dict(current["vector_spec"])
        mismatch = describe_mismatch(self._embedding.to_dict(), held.to_dict())
        if mismatch:
            raise ModelMismatch(
                f"vector table {place}: holds vectors of another item vectors: {mismatch}. "
                "Materialize the view of item vectors again"
            )
        # Plain arrays over the same mapping: indexing a memmap object costs more.
        plain = {name: np.asarray(values) for name, values in arrays.items()}
        return VectorTable(**plain, end=current["end"])
