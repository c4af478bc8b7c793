"""Dated snapshots of a view: how they are written aside, committed and read, wherever they lie.

A `SnapshotSink` holds the snapshots of one version of one view, and Feast's offline store reads it
as one table. The modules beside this one have a sink for each kind of place; `sources.sink_of`
chooses by the class of the view's source. Nothing else knows where snapshots lie.

What a run computes is first written to files of this machine, see `Staging`. So a run that fails or
is killed before the commit has changed nothing, and a sink need only be able to replace all rows of
an as-of time at once.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings.transformations.errors import AlreadyRunning, ModelMismatch
from activity_embeddings.transformations.files import make_folder
from activity_embeddings.transformations.spec import ItemVectorSpec, describe_mismatch
from activity_embeddings.transformations.times import to_datetime, to_us

_VERSION = "__v"
PARTITION = "as_of="
FILE = "snapshot.parquet"
RUNS = "runs"
"""Where a place keeps the records of runs."""
ROWS_A_GROUP = 8_192
"""Rows of a snapshot that are written, and read, together: a row group of its file."""
FACTS = b"activity_embeddings"
"""Key of the parquet metadata that says what a snapshot was computed with."""

_RUNTIMES = "; `mix_runtimes: true` under `batch_engine` lets one history have both"


class SnapshotReader(Protocol):
    """The snapshots of one version of one view, to be read."""

    @property
    def place(self) -> str:
        """How errors call it."""

    def committed(self) -> list[int]:
        """Return the as-of times of the committed snapshots, microseconds, ascending."""

    def read(self, as_of: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a committed snapshot: its rows as they were written, in that order.

        Parameters
        ----------
        as_of
            One of `committed()`.
        columns
            Which columns, in the order of the snapshot; None: all of them.
        """

    def count_rows(self, times: Collection[int]) -> int:
        """Return how many rows the committed snapshots as of some times have together."""


class SnapshotSink(SnapshotReader, Protocol):
    """The snapshots of one version of one view.

    Two sinks are equal where they are the same place.
    """

    @property
    def staging(self) -> Staging:
        """What is written aside, to be committed."""

    def locked(self) -> AbstractContextManager[None]:
        """Keep other runs out while the body runs; the lock dies with its process.

        Raises
        ------
        AlreadyRunning
            Another run has the lock.
        """

    def facts(self, as_of: int) -> dict[str, Any]:
        """Return what a committed snapshot says it was computed with."""

    def batches(self, as_of: int, size: int) -> Iterator[pa.RecordBatch]:
        """Yield a committed snapshot in batches of at most `size` rows, in the order of `read`."""

    def differs(self, as_of: int) -> bool:
        """Return whether to commit a staged snapshot would change anything."""

    def commit(self, as_of: int) -> bool:
        """Put a staged snapshot into place, in one piece; return whether anything changed.

        Committing the rows that are there changes nothing. Other rows lower the marks of online
        stores that are at this time or later: the next run pushes them, if this one is killed.
        """

    def together(self) -> AbstractContextManager[None]:
        """Let what is committed while the body runs be seen at once, where the place can do that.

        A body that raises commits nothing then. Sinks of one database share it: the outermost body
        counts.
        """

    def count_members(self, column: str, ids: pa.Array) -> int:
        """Return how many rows `delete_members` and `drop_history` would take out."""

    def delete_members(self, column: str, ids: pa.Array) -> int:
        """Take the rows of some members, or items, out of every committed snapshot.

        A snapshot without such a column of the type of the ids has none of them.

        Parameters
        ----------
        column
            Name of the column of ids.
        ids
            Whose rows.

        Returns
        -------
        rows
            How many were there.
        """

    def drop_history(self) -> None:
        """Remove for good what was replaced or deleted, where the place keeps it: rows, records.

        Raises
        ------
        InvalidInput
            A user has asked the place to keep it.
        """

    def expire(self, before: int) -> list[int]:
        """Remove the snapshots as of earlier times; return which."""

    def other_versions(self) -> Sequence[SnapshotSink]:
        """Return the sinks of the other versions of the view, which share its online table."""

    def beside(self) -> Sequence[SnapshotSink]:
        """Return every sink in the same place, of any view, this one too if it is there."""

    def published(self, store: str) -> int | None:
        """Return up to which as-of time the online store `store` has followed, None if unknown."""

    def mark_published(self, store: str, as_of: int) -> None:
        """Record that the online store holds everything up to `as_of`."""

    def forget_published(self) -> None:
        """Drop the record, as when the online store is torn down."""

    def records(self) -> dict[str, dict[str, Any]]:
        """Return the records of runs by their names, which every sink in the same place has."""

    def write_record(self, name: str, record: Mapping[str, Any]) -> None:
        """Keep the record of a run, JSON values, in place of one of that name."""


@dataclass(frozen=True)
class Staging:
    """Snapshots that are written aside and not committed yet: a folder of this machine.

    <folder>/as_of=20130701T000000Z/snapshot.parquet     one row a member
    """

    folder: Path

    def file(self, as_of: int) -> Path:
        """Return the file of a snapshot."""
        return self.folder / partition_name(as_of) / FILE

    def writer(self, as_of: int, facts: Mapping[str, Any]) -> SnapshotWriter:
        """Return a writer of a snapshot, which nobody sees before it is committed."""
        return SnapshotWriter(self.file(as_of), facts)

    def read(self, as_of: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a snapshot, as `SnapshotSink.read` does."""
        return read_snapshot(self.file(as_of), columns)

    def count_rows(self, times: Collection[int]) -> int:
        """Return how many rows snapshots have together, as `SnapshotReader.count_rows` does."""
        return count_rows(map(self.file, times))

    def batches(self, as_of: int, size: int) -> Iterator[pa.RecordBatch]:
        """Yield a snapshot in batches, as `SnapshotSink.batches` does."""
        yield from snapshot_batches(self.file(as_of), size)

    def clear(self) -> None:
        """Forget what is there, as what an interrupted run left."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class AfterCommit:
    """A `SnapshotReader` of what a sink will have once staged snapshots are committed.

    Parameters
    ----------
    sink
        The sink.
    staged
        As-of times of what is staged and will be committed.
    """

    sink: SnapshotSink
    staged: Collection[int]

    @property
    def place(self) -> str:
        """See `SnapshotReader.place`."""
        return self.sink.place

    def committed(self) -> list[int]:
        """See `SnapshotReader.committed`."""
        return sorted({*self.sink.committed(), *self.staged})

    def read(self, as_of: int, columns: Sequence[str] | None = None) -> pa.Table:
        """See `SnapshotReader.read`."""
        where = self.sink.staging if as_of in self.staged else self.sink
        return where.read(as_of, columns)

    def count_rows(self, times: Collection[int]) -> int:
        """See `SnapshotReader.count_rows`."""
        staged = [as_of for as_of in times if as_of in self.staged]
        there = [as_of for as_of in times if as_of not in self.staged]
        return self.sink.staging.count_rows(staged) + self.sink.count_rows(there)


class SnapshotWriter:
    """Writes a snapshot batch by batch, so that memory stays bounded.

    Equal rows give equal files, however they are divided into batches.

    Parameters
    ----------
    file
        Where to write.
    facts
        JSON values kept in the file: what the snapshot was computed with.
    """

    def __init__(self, file: Path, facts: Mapping[str, Any]) -> None:
        self._file = file
        self._metadata = {FACTS: json.dumps(facts, sort_keys=True).encode()}
        self._writer: pq.ParquetWriter | None = None
        self._held: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._open(batch.schema)
        self._held.append(batch)
        count = sum(held.num_rows for held in self._held)
        if count >= ROWS_A_GROUP:
            self._write_held(count - count % ROWS_A_GROUP)

    def close(self) -> None:
        """Finish the file."""
        self._write_held(sum(held.num_rows for held in self._held))
        if self._writer is not None:
            self._writer.close()

    def _open(self, schema: pa.Schema) -> None:
        if self._writer is not None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # Dictionaries and statistics of vectors cost time and help nobody.
        plain = [field.name for field in schema if not _is_vector(field.type)]
        self._writer = pq.ParquetWriter(
            self._file,
            schema.with_metadata(self._metadata),
            compression="lz4",
            use_dictionary=plain,
            write_statistics=plain,
        )

    def _write_held(self, count: int) -> None:
        """Write the first rows of those that are held."""
        if self._writer is None or not count:
            return
        rows = pa.Table.from_batches(self._held)
        for start in range(0, count, ROWS_A_GROUP):
            self._writer.write_table(rows.slice(start, min(ROWS_A_GROUP, count - start)))
        # A copy, so that what is written can be freed.
        left = rows.take(np.arange(count, len(rows)))
        self._held = left.to_batches()


@contextmanager
def lock_file(file: Path, place: str) -> Iterator[None]:
    """Keep other processes of this machine out while the body runs, as `SnapshotSink.locked`.

    Parameters
    ----------
    file
        Made where it is missing; its folder too.
    place
        What is locked, for the error.
    """
    make_folder(file.parent)
    with file.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(
                f"{place}: expected one run at a time. Received: a second one while another is "
                "publishing; wait for it to end"
            ) from error
        yield


def read_snapshot(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of a snapshot's file."""
    # By its own columns alone: the name of its folder is none.
    chosen = None if columns is None else list(columns)
    return pq.read_table(file, columns=chosen, partitioning=None)


def count_rows(files: Iterable[Path]) -> int:
    """Return how many rows the files of snapshots have together."""
    return sum(pq.read_metadata(file).num_rows for file in files)


def open_snapshot(file: Path) -> pq.ParquetFile:
    """Open a snapshot's file to read it in parts; close it, as by `with`."""
    # With `pre_buffer`, the default, pyarrow 26 holds the whole file.
    return pq.ParquetFile(file, pre_buffer=False)


def snapshot_batches(file: Path, size: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a snapshot's file in batches of at most `size`."""
    with open_snapshot(file) as opened:
        yield from opened.iter_batches(size)


def read_facts(file: Path) -> dict[str, Any]:
    """Return what a snapshot's file says it was computed with."""
    metadata = pq.read_schema(file).metadata or {}
    return json.loads(metadata.get(FACTS, b"{}"))


def require_same_facts(
    sink: SnapshotSink,
    newest: int,
    facts: Mapping[str, Any],
    *,
    what: str,
    but: Collection[str] = (),
) -> None:
    """Refuse to put values of two models, encoders or specs into one history.

    Parameters
    ----------
    sink
        The history.
    newest
        As-of time of its newest snapshot.
    facts
        What the values to be added are computed with.
    what
        What the error calls them.
    but
        Facts that may differ.

    Raises
    ------
    InvalidInput
        The newest snapshot was computed with other facts.
    """
    recorded = sink.facts(newest)
    if "vector_spec" in recorded:
        # Snapshots from before there were fingerprints.
        vector_view = ItemVectorSpec.from_dict(recorded["vector_spec"])
        recorded["vector_spec"] = vector_view.to_dict()
    mismatch = describe_mismatch({k: v for k, v in recorded.items() if k not in but}, facts)
    if mismatch:
        by_runtime = mismatch.startswith("`runtime`")
        raise ModelMismatch(
            f"{what}: the snapshots in {sink.place} were computed with other facts: {mismatch}. "
            "Give what was changed a new version or name (a new version starts its own "
            f"history), or remove those and backfill{_RUNTIMES if by_runtime else ''}"
        )


def table_name(view: str, version: str) -> str:
    """Return the name of the table of one version of a view: `some_view__v1`.

    Catalogs and databases take letters, digits and underscores; whatever else a version has is
    written as its code: `_2e_` for a dot.
    """
    plain = "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in version)
    return f"{view}{_VERSION}{plain}"


def view_of_table(name: str) -> str | None:
    """Return the view of a table that `table_name` named, None for another table."""
    view, found, version = name.rpartition(_VERSION)
    return view if found and version else None


def partition_name(as_of: int) -> str:
    """Return the name of a snapshot's folder: `as_of=20130701T000000Z`."""
    moment = to_datetime(as_of)
    fraction = f".{moment.microsecond:06d}" if moment.microsecond else ""
    return f"{PARTITION}{moment:%Y%m%dT%H%M%S}{fraction}Z"


def parse_partition(name: str) -> int:
    """Invert `partition_name`."""
    text = name.removeprefix(PARTITION).removesuffix("Z")
    pattern = "%Y%m%dT%H%M%S.%f" if "." in text else "%Y%m%dT%H%M%S"
    return to_us(datetime.strptime(text, pattern))


def _is_vector(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)
