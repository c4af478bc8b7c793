"""Item vectors for request time: a table on disk that serving processes map into memory.

Written by the compute engine whenever the view of item vectors is materialized:

    <table>/current.json               which version is committed
    <table>/<version>/keys.npy         item ids, ascending: int64 [J] or UTF-8 bytes [J]
                      start.npy        int64 [J + 1]
                      time.npy         int64 [V]; microseconds from which a vector is valid
                      matrix.npy       float32 [V + 1, D]

The arrays are those of `ItemVectors`, so an item has the vector that the batch run would give it as
of any time. Pages are shared by all processes of a machine, and loaded when they are touched.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.errors import InvalidInput, ModelMismatch
from activity_embeddings.transformations.files import make_folder, replace_file
from activity_embeddings.transformations.ragged import ranges
from activity_embeddings.transformations.spec import ItemVectorSpec, describe_mismatch

CURRENT = "current.json"
_ARRAYS = ("keys", "start", "time", "matrix")
_VERSION = re.compile("[0-9a-f]{32}")


def write_vector_table(
    path: Path, vectors: ItemVectors, embedding: ItemVectorSpec, *, end: int
) -> None:
    """Write a new version of a table and commit it.

    Readers of the version before go on reading it until they look again: its files are removed
    only by the commit after the next one, and stay readable for whoever has mapped them.

    Parameters
    ----------
    path
        Folder of the table.
    vectors
        What to write.
    embedding
        Which vectors these are; readers that expect others refuse the table.
    end
        Microseconds since the epoch up to which vectors were read.
    """
    version = uuid.uuid4().hex
    path = make_folder(path)
    folder = path / version
    folder.mkdir()
    arrays = {
        "keys": _keys(vectors.item_ids),
        "start": vectors.start,
        "time": vectors.time,
        "matrix": vectors.matrix,
    }
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    before = _read_current(path)
    current = {
        "version": version,
        "before": before["version"] if before else None,
        "vector_spec": embedding.to_dict(),
        "items": len(vectors.item_ids),
        "end": end,
    }
    text = json.dumps(current) + "\n"
    replace_file(path / CURRENT, lambda file: file.write_text(text, encoding="utf-8"))
    for other in path.iterdir():
        if other.is_dir() and other.name not in (version, current["before"]):
            shutil.rmtree(other, ignore_errors=True)


def _keys(item_ids: pa.Array) -> np.ndarray:
    """Return ids as an array that `numpy.searchsorted` searches: int64, or UTF-8 bytes."""
    if pa.types.is_integer(item_ids.type):
        return item_ids.to_numpy()
    return np.array([key.encode() for key in item_ids.to_pylist()], dtype=np.bytes_)


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
        int64 [J], or UTF-8 bytes [J]; ascending.
    start, time, matrix
        As in `ItemVectors`.
    end
        Microseconds since the epoch up to which vectors were read.
    """

    keys: np.ndarray
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
            start=np.zeros(1, dtype=np.int64),
            time=np.empty(0, dtype=np.int64),
            matrix=np.zeros((1, dimension), dtype=np.float32),
            end=0,
        )

    def codes(self, item_ids: np.ndarray) -> np.ndarray:
        """Look ids up: int64 positions in `keys`, -1 where absent.

        Parameters
        ----------
        item_ids
            int64 [n], or str objects [n].
        """
        if not len(self.keys):
            return np.full(len(item_ids), -1, dtype=np.int64)
        if self.keys.dtype.kind == "S":
            # Of the same width as the keys, else numpy would copy all of them to compare.
            encoded = [item_id.encode() for item_id in item_ids]
            wanted = np.array(encoded, dtype=self.keys.dtype)
        else:
            wanted = item_ids
        position = np.searchsorted(self.keys, wanted)
        np.minimum(position, len(self.keys) - 1, out=position)
        found = self.keys[position] == wanted
        if self.keys.dtype.kind == "S":
            found &= [len(key) <= self.keys.itemsize for key in encoded]
        return np.where(found, position, -1)

    def take(
        self, item_ids: pa.Array, codes: np.ndarray, more: Mapping[int, tuple[int, np.ndarray]]
    ) -> ItemVectors:
        """Return the vectors of a few items, each of which is in the table or in `more`.

        Parameters
        ----------
        item_ids
            N distinct ids, ascending.
        codes
            int64 [n]; their positions, as `codes` returns them.
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
    path
        Path or None. The folder; None, or a folder without a table, is an empty table.
    embedding
        ItemVectorSpec. What the table should hold.
    """

    def __init__(self, path: Path | None, embedding: ItemVectorSpec) -> None:
        self._file = None if path is None else path / CURRENT
        self._embedding = embedding
        self._empty = VectorTable.empty(embedding.dimension)
        self._stamp: tuple[int, int] | None = None
        self._table = self._empty
        self._lock = threading.Lock()

    def table(self) -> VectorTable:
        """Return the newest committed version.

        Raises
        ------
        InvalidInput
            The table holds other vectors, or its files cannot be read.
        """
        if self._file is None:
            return self._empty
        try:
            status = os.stat(self._file)
        except FileNotFoundError:
            # Whoever removes the table wants it gone; the online store still has the vectors.
            self._stamp, self._table = None, self._empty
            return self._empty
        stamp = (status.st_ino, status.st_mtime_ns)
        if stamp == self._stamp:
            return self._table
        with self._lock:
            if stamp != self._stamp:
                self._table = self._load(self._file.parent)
                self._stamp = stamp
            return self._table

    def _load(self, path: Path) -> VectorTable:
        try:
            current = _read_current(path)
            if current is None:
                return self._empty
            folder = path / _version(current)
            # An empty file cannot be mapped.
            mode: Literal["r"] | None = "r" if current["items"] else None
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode=mode) for name in _ARRAYS}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"vector table {path}: expected the files that {CURRENT} names. Received: "
                f"{error}. Materialize the view of item vectors again, or remove the folder"
            ) from error
        held = ItemVectorSpec.from_dict(current["vector_spec"])
        mismatch = describe_mismatch(self._embedding.to_dict(), held.to_dict())
        if mismatch:
            raise ModelMismatch(
                f"vector table {path}: holds vectors of another item vectors: {mismatch}. "
                "Materialize the view of item vectors again"
            )
        # Plain arrays over the same mapping: indexing a memmap object costs more.
        plain = {name: np.asarray(values) for name, values in arrays.items()}
        return VectorTable(**plain, end=current["end"])
