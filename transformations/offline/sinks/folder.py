"""Snapshots in a local folder, which Feast's offline store reads as one table of parquet files.

    <sink>/as_of=20130701T000000Z/snapshot.parquet     one row a member
    <sink>/_published.json                             how far the online store has followed
    <sink>/../../_runs/20240301T003000.123456Z.json    the record of a run

A snapshot is written to a sibling folder and renamed into place, so a reader or a kill finds it
whole or not at all. Writing the same rows again leaves the file as it was. The sink, or a snapshot
in it, may be a symbolic link, as to another disk.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FileSource, RepoConfig
from feast.data_source import DataSource

from activity_embeddings.transformations.arrow import single_chunk
from activity_embeddings.transformations.artifacts import place_of
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import (
    flush,
    make_folder,
    move_file,
    real_path,
    replace_file,
    write_text,
)
from activity_embeddings.transformations.offline.sinks.base import (
    FILE,
    PARTITION,
    RUNS,
    SnapshotSink,
    Staging,
    count_rows,
    lock_file,
    parse_partition,
    partition_name,
    read_facts,
    read_snapshot,
    snapshot_batches,
)

PUBLISHED = "_published.json"
_STAGING = ".staging"


def sink_of(source: DataSource, config: RepoConfig) -> SnapshotSink:
    """Return the folder that a `FileSource` names.

    Raises
    ------
    InvalidInput
        It is no local folder, is an absolute path, or leads out of the feature repo.
    """
    assert isinstance(source, FileSource)
    path = place_of(source.path, config.repo_path)
    if path is None:
        raise InvalidInput(
            f"{source.name}: the sink should be a local folder. Received: {source.path}"
        )
    return FolderSink(path)


@dataclass(frozen=True, eq=False)
class FolderSink:
    """A `SnapshotSink` that is a folder of this machine, by whatever name."""

    path: Path

    def __eq__(self, other: object) -> bool:
        """Return whether another sink is the same folder."""
        return isinstance(other, FolderSink) and self.real == other.real

    def __hash__(self) -> int:
        """Return a hash of the place."""
        return hash(self.real)

    @property
    def real(self) -> str:
        """The path without symbolic links."""
        return os.path.realpath(self.path)

    @property
    def place(self) -> str:
        """The path."""
        return str(self.path)

    @cached_property
    def staging(self) -> Staging:
        """Beside the sink, on the same disk."""
        real = real_path(self.path)
        return Staging(real.with_name(f".{real.name}{_STAGING}"))

    def locked(self) -> AbstractContextManager[None]:
        """See `SnapshotSink.locked`; holds for the processes of one machine."""
        real = real_path(self.path)
        return lock_file(real.with_name(f".{real.name}.lock"), self.place)

    def committed(self) -> list[int]:
        """See `SnapshotSink.committed`."""
        files = self.path.glob(f"{PARTITION}*/{FILE}")
        return sorted(parse_partition(file.parent.name) for file in files)

    def file(self, as_of: int) -> Path:
        """Return the file of a committed snapshot."""
        return self.path / partition_name(as_of) / FILE

    def facts(self, as_of: int) -> dict[str, Any]:
        """See `SnapshotSink.facts`."""
        return read_facts(self.file(as_of))

    def read(self, as_of: int, columns: Sequence[str] | None = None) -> pa.Table:
        """See `SnapshotSink.read`."""
        return read_snapshot(self.file(as_of), columns)

    def batches(self, as_of: int, size: int) -> Iterator[pa.RecordBatch]:
        """See `SnapshotSink.batches`."""
        yield from snapshot_batches(self.file(as_of), size)

    def count_rows(self, times: Collection[int]) -> int:
        """See `SnapshotReader.count_rows`."""
        return count_rows(map(self.file, times))

    def differs(self, as_of: int) -> bool:
        """See `SnapshotSink.differs`."""
        target = self.file(as_of)
        return not target.exists() or not filecmp.cmp(
            self.staging.file(as_of), target, shallow=False
        )

    def commit(self, as_of: int) -> bool:
        """See `SnapshotSink.commit`."""
        staged, target = self.staging.file(as_of), self.file(as_of)
        if not self.differs(as_of):
            staged.unlink()
            return False
        if target.exists():
            self._lower_mark(as_of)
            # The snapshot may have been moved to another disk, and be linked.
            move_file(staged, target)
            return True
        make_folder(self.path)
        self._lower_mark(as_of)
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

    def together(self) -> AbstractContextManager[None]:
        """See `SnapshotSink.together`; folders are seen one after the other."""
        return nullcontext()

    def count_members(self, column: str, ids: pa.Array) -> int:
        """See `SnapshotSink.count_members`."""
        return sum(theirs.true_count for _, theirs in self._rows_of(column, ids))

    def delete_members(self, column: str, ids: pa.Array) -> int:
        """See `SnapshotSink.delete_members`; a snapshot is written anew if it has such rows."""
        deleted = 0
        for as_of, theirs in self._rows_of(column, ids):
            kept = self.read(as_of).filter(pc.invert(theirs))
            writer = self.staging.writer(as_of, self.facts(as_of))
            for batch in kept.combine_chunks().to_batches() or [_no_rows(kept.schema)]:
                writer.write(batch)
            writer.close()
            self.commit(as_of)
            deleted += theirs.true_count
        return deleted

    def _rows_of(self, column: str, ids: pa.Array) -> Iterator[tuple[int, pa.BooleanArray]]:
        """Yield the snapshots that have rows of some members, and which these are."""
        for as_of in self.committed():
            schema = pq.read_schema(self.file(as_of))
            if column in schema.names and schema.field(column).type == ids.type:
                there = single_chunk(self.read(as_of, [column]), column)
                theirs = pc.is_in(there, value_set=ids)
                if theirs.true_count:
                    yield as_of, theirs

    def drop_history(self) -> None:
        """See `SnapshotSink.drop_history`; there is none."""

    def expire(self, before: int) -> list[int]:
        """See `SnapshotSink.expire`."""
        expired = [as_of for as_of in self.committed() if as_of < before]
        for as_of in expired:
            shutil.rmtree(real_path(self.file(as_of).parent))
        return expired

    def other_versions(self) -> Sequence[FolderSink]:
        """See `SnapshotSink.other_versions`: the folders beside this one."""
        if not self.path.parent.is_dir():
            return []
        folders = sorted(self.path.parent.iterdir())
        return [
            FolderSink(folder)
            for folder in folders
            if folder.is_dir() and not folder.name.startswith(".") and folder != self.path
        ]

    def beside(self) -> Sequence[FolderSink]:
        """See `SnapshotSink.beside`: folders of snapshots, each in the folder of its view.

        Those of a view of which nothing is committed, but staged, too.
        """
        found = sorted(self.path.parent.parent.glob(f"*/*/{PARTITION}*/{FILE}"))
        return [*dict.fromkeys(FolderSink(_committed(file.parent.parent)) for file in found)]

    def published(self, store: str) -> int | None:
        """See `SnapshotSink.published`."""
        mark = self._mark()
        return mark["as_of"] if mark is not None and mark["store"] == store else None

    def _lower_mark(self, as_of: int) -> None:
        """Let the online store not have followed up to a time whose rows are about to change."""
        mark = self._mark()
        if mark is not None and mark["as_of"] >= as_of:
            self.mark_published(mark["store"], as_of - 1)

    def _mark(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.path / PUBLISHED).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def mark_published(self, store: str, as_of: int) -> None:
        """See `SnapshotSink.mark_published`."""
        text = json.dumps({"as_of": as_of, "store": store}) + "\n"
        replace_file(self.path / PUBLISHED, lambda file: file.write_text(text, encoding="utf-8"))

    def forget_published(self) -> None:
        """See `SnapshotSink.forget_published`."""
        (self.path / PUBLISHED).unlink(missing_ok=True)

    def records(self) -> dict[str, dict[str, Any]]:
        """See `SnapshotSink.records`."""
        files = sorted(self._runs.glob("*.json"))
        return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}

    def write_record(self, name: str, record: Mapping[str, Any]) -> None:
        """See `SnapshotSink.write_record`."""
        make_folder(self._runs)
        write_text(self._runs / f"{name}.json", json.dumps(record, indent=1) + "\n")

    @property
    def _runs(self) -> Path:
        return self.path.parent.parent / f"_{RUNS}"


def _committed(folder: Path) -> Path:
    """Return the folder of a sink, given that or the one where its snapshots are staged."""
    staged = folder.name.startswith(".")
    return folder.with_name(folder.name[1:].removesuffix(_STAGING)) if staged else folder


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema)
