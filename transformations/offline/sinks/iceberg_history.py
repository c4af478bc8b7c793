"""What only the older snapshots of an Iceberg table have: rows that were replaced or deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.wording import counted

if TYPE_CHECKING:
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot


def rows_of_history(table: Table, column: str, ids: pa.Array) -> int:
    """Return how many rows of some ids are in data files that only older snapshots name."""
    rows = 0
    for path in _only_older(table, _data_files):
        # One that is missing was deleted by `drop_history`, which did not come to its end.
        with suppress(FileNotFoundError), table.io.new_input(path).open() as stream:
            theirs = pc.is_in(pq.ParquetFile(stream).read([column]).column(0), value_set=ids)
            rows += theirs.to_numpy().sum()
    return int(rows)


def drop_history(table: Table, place: str) -> None:
    """Expire the older snapshots of a table, and delete all files that only they name.

    Data files go first: of one that was killed in between, the next call finds the rest.

    Raises
    ------
    InvalidInput
        A branch or tag keeps an older snapshot. The others are gone.
    """
    newest = table.current_snapshot()
    if newest is None:
        return
    kept_by = {ref.snapshot_id: name for name, ref in table.metadata.refs.items()}
    older = [s.snapshot_id for s in table.snapshots() if s.snapshot_id not in kept_by]
    data, lists = _only_older(table, _data_files), _only_older(table, _lists)
    _delete(table, data)
    if older:
        table.maintenance.expire_snapshots().by_ids(older).commit()
    _delete(table, lists)
    kept = sorted(name for snapshot, name in kept_by.items() if snapshot != newest.snapshot_id)
    if kept:
        raise InvalidInput(
            f"{place}: expected no branch and no tag that keeps rows that were deleted. Received: "
            f"{counted(len(kept), 'such name')}, {', '.join(kept)}. Drop them, and run again"
        )


def _only_older(table: Table, files: Callable[[Table, Snapshot], Iterable[str]]) -> set[str]:
    """Return files of snapshots that no branch or tag keeps, and of no other snapshot."""
    keeps = {ref.snapshot_id for ref in table.metadata.refs.values()}
    kept, older = set[str](), set[str]()
    for snapshot in table.snapshots():
        (kept if snapshot.snapshot_id in keeps else older).update(files(table, snapshot))
    return older - kept


def _manifests(table: Table, snapshot: Snapshot) -> list[ManifestFile]:
    return snapshot.manifests(table.io)


def _data_files(table: Table, snapshot: Snapshot) -> Iterable[str]:
    for manifest in _manifests(table, snapshot):
        for entry in manifest.fetch_manifest_entry(table.io):
            yield entry.data_file.file_path


def _lists(table: Table, snapshot: Snapshot) -> Iterable[str]:
    yield snapshot.manifest_list
    for manifest in _manifests(table, snapshot):
        yield manifest.manifest_path


def _delete(table: Table, paths: Iterable[str]) -> None:
    for path in sorted(paths):
        with suppress(FileNotFoundError):
            table.io.delete(path)
