"""What only the older snapshots of an Iceberg table have: rows that were replaced or deleted."""

from __future__ import annotations

from collections.abc import Iterable
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


def rows_of_history(table: Table, column: str, ids: pa.Array) -> int:
    """Return how many rows of some ids are in data files that only older snapshots name."""
    rows = 0
    data, _ = _only_older(table)
    for path in data:
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
    data, lists = _only_older(table)
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


def _only_older(table: Table) -> tuple[set[str], set[str]]:
    """Return what no snapshot names that a branch or tag keeps: data files; manifests and lists.

    Snapshots share manifests: each is read once.
    """
    keeps = {ref.snapshot_id for ref in table.metadata.refs.values()}
    kept: dict[str, ManifestFile] = {}
    older: dict[str, ManifestFile] = {}
    lists = set[str]()
    for snapshot in table.snapshots():
        manifests = {each.manifest_path: each for each in snapshot.manifests(table.io)}
        if snapshot.snapshot_id in keeps:
            kept |= manifests
        else:
            older |= manifests
            lists.add(snapshot.manifest_list)
    only_older = {path: manifest for path, manifest in older.items() if path not in kept}
    data = _data_files(table, only_older.values()) - _data_files(table, kept.values())
    return data, lists | only_older.keys()


def _data_files(table: Table, manifests: Iterable[ManifestFile]) -> set[str]:
    entries = (entry for each in manifests for entry in each.fetch_manifest_entry(table.io))
    return {entry.data_file.file_path for entry in entries}


def _delete(table: Table, paths: Iterable[str]) -> None:
    for path in sorted(paths):
        with suppress(FileNotFoundError):
            table.io.delete(path)
