"""Dated snapshots in the offline store: partitioned, atomic, idempotent.

A view's sink is a folder that Feast's offline store reads as one table:

    <sink>/as_of=20130701T000000Z/snapshot.parquet     one row a member
    <sink>/_published.json                             how far the online store has followed

A snapshot is written to a sibling folder and renamed into place, so a reader or a kill finds it
whole or not at all. Writing the same rows again leaves the file as it was. The sink, or a snapshot
in it, may be a symbolic link, as to another disk.
"""

from __future__ import annotations

import fcntl
import filecmp
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings.transformations.errors import AlreadyRunning, ModelMismatch
from activity_embeddings.transformations.files import (
    flush,
    make_folder,
    move_file,
    real_path,
    replace_file,
)
from activity_embeddings.transformations.spec import ItemVectorSpec, describe_mismatch
from activity_embeddings.transformations.times import to_datetime, to_us

PARTITION = "as_of="
FILE = "snapshot.parquet"
PUBLISHED = "_published.json"
FACTS = b"activity_embeddings"
"""Key of the parquet metadata that says what a snapshot was computed with."""

_RUNTIMES = "; `mix_runtimes: true` under `batch_engine` lets one history have both"


def partition_name(as_of: int) -> str:
    """Return the folder name of a snapshot: `as_of=20130701T000000Z`."""
    moment = to_datetime(as_of)
    fraction = f".{moment.microsecond:06d}" if moment.microsecond else ""
    return f"{PARTITION}{moment:%Y%m%dT%H%M%S}{fraction}Z"


def _parse_partition(name: str) -> int:
    text = name.removeprefix(PARTITION).removesuffix("Z")
    pattern = "%Y%m%dT%H%M%S.%f" if "." in text else "%Y%m%dT%H%M%S"
    return to_us(datetime.strptime(text, pattern))


@dataclass(frozen=True)
class SnapshotSink:
    """The folder that holds the snapshots of one view."""

    path: Path

    @property
    def staging(self) -> Path:
        """Where snapshots are written before they are committed: beside the sink, same disk."""
        real = real_path(self.path)
        return real.with_name(f".{real.name}.staging")

    def versions(self) -> list[SnapshotSink]:
        """Return the sinks of all versions of the view, this one among them if it is there."""
        if not self.path.parent.is_dir():
            return []
        folders = sorted(self.path.parent.iterdir())
        return [
            SnapshotSink(folder)
            for folder in folders
            if folder.is_dir() and not folder.name.startswith(".")
        ]

    def committed(self) -> list[int]:
        """As-of times of the committed snapshots, microseconds, ascending."""
        files = self.path.glob(f"{PARTITION}*/{FILE}")
        return sorted(_parse_partition(file.parent.name) for file in files)

    def file(self, as_of: int) -> Path:
        """Return the file of a committed snapshot."""
        return self.path / partition_name(as_of) / FILE

    def staged_file(self, as_of: int) -> Path:
        """Return the file of a snapshot that is not committed yet."""
        return self.staging / partition_name(as_of) / FILE

    def clear_staging(self) -> None:
        """Forget what an interrupted run left."""
        shutil.rmtree(self.staging, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of this sink while the body runs; the lock dies with its process.

        Raises
        ------
        InvalidInput
            Another run has the lock.
        """
        real = real_path(self.path)
        make_folder(real.parent)
        with real.with_name(f".{real.name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AlreadyRunning(
                    f"{self.path}: expected one run at a time. Received: a second one while "
                    "another is publishing; wait for it to end"
                ) from error
            yield

    def writer(self, as_of: int, facts: Mapping[str, Any]) -> SnapshotWriter:
        """Return a writer of a snapshot that is not visible before `commit`."""
        return SnapshotWriter(self.staged_file(as_of), facts)

    def commit(self, as_of: int) -> bool:
        """Put a staged snapshot into place; return whether anything changed."""
        staged, target = self.staged_file(as_of), self.file(as_of)
        if target.exists():
            if filecmp.cmp(staged, target, shallow=False):
                staged.unlink()
                return False
            # The snapshot may have been moved to another disk, and be linked.
            move_file(staged, target)
            return True
        make_folder(self.path)
        # A folder without its file can be there only if something else removed the file.
        folder = real_path(target.parent)
        shutil.rmtree(folder, ignore_errors=True)
        if target.parent.is_symlink():
            folder.mkdir()
            move_file(staged, target)
        else:
            flush(staged)
            flush(staged.parent)
            os.rename(staged.parent, folder)
            flush(folder.parent)
        return True

    def published(self, store: str) -> int | None:
        """Return up to which as-of time the online store `store` has followed, None if unknown."""
        try:
            mark = json.loads((self.path / PUBLISHED).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return mark["as_of"] if mark["store"] == store else None

    def mark_published(self, store: str, as_of: int) -> None:
        """Record that the online store holds everything up to `as_of`."""
        text = json.dumps({"as_of": as_of, "store": store}) + "\n"
        replace_file(self.path / PUBLISHED, lambda file: file.write_text(text, encoding="utf-8"))

    def forget_published(self) -> None:
        """Drop the record, as when the online store is torn down."""
        (self.path / PUBLISHED).unlink(missing_ok=True)


class SnapshotWriter:
    """Writes a snapshot batch by batch, one row group each, so that memory stays bounded.

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

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        if self._writer is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # Dictionaries and statistics of vectors cost time and help nobody.
            plain = [field.name for field in batch.schema if not _is_vector(field.type)]
            self._writer = pq.ParquetWriter(
                self._file,
                batch.schema.with_metadata(self._metadata),
                compression="lz4",
                use_dictionary=plain,
                write_statistics=plain,
            )
        self._writer.write_batch(batch)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


def read_facts(file: Path) -> dict[str, Any]:
    """Return what a snapshot says it was computed with."""
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
    recorded = read_facts(sink.file(newest))
    if "vector_spec" in recorded:
        # Snapshots from before there were fingerprints.
        vector_view = ItemVectorSpec.from_dict(recorded["vector_spec"])
        recorded["vector_spec"] = vector_view.to_dict()
    mismatch = describe_mismatch({k: v for k, v in recorded.items() if k not in but}, facts)
    if mismatch:
        by_runtime = mismatch.startswith("`runtime`")
        raise ModelMismatch(
            f"{what}: the snapshots in {sink.path} were computed with other facts: {mismatch}. "
            "Give what was changed a new version or name (a new version starts its own "
            f"history), or remove that folder and backfill it{_RUNTIMES if by_runtime else ''}"
        )


def _is_vector(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)
