"""Publish snapshots to the online store: which rows of which snapshots are the newest.

The online store holds, for every member and item, the newest committed row of the offline store; in
the sequence view, merged with activity that was pushed since, see `live_rows`. Rows go through a
`RowStore`, so any online store works.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, RepoConfig
from feast.types import Array, Float32
from tqdm import tqdm

from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import (
    rank_encode,
    single_chunk,
    take_rows,
    time_column,
)
from activity_embeddings.transformations.files import make_folder
from activity_embeddings.transformations.offline.sinks.base import (
    AfterCommit,
    SnapshotReader,
    SnapshotSink,
)
from activity_embeddings.transformations.offline.spill import (
    SAMPLE_ROWS,
    memory_of,
    spilled_parts,
)
from activity_embeddings.transformations.online.base import KeepMerge, RowStore
from activity_embeddings.transformations.online.encoding import join_key_of, row_keys

WRITE_BATCH = 10_000
"""Rows a call of the store, unless Feast's `materialization.online_write_batch_size` says."""
CALL_BYTES = 8 * 2**20
"""What a call holds at most unless that says; readers of sqlite wait while as much is committed."""
SLICE_BYTES = 32 * 2**20
"""Rows are read by slices of about this size."""
SLICES_HELD = 3
"""More of them are spilled to be put into the order of keys."""
_KEY = "__key"
"""Column of the keys of rows that are spilled."""

Newest: TypeAlias = Callable[
    [SnapshotReader, Sequence[int], set[int], str], Iterator[tuple[int, pa.BooleanArray]]
]
"""Takes the snapshots, all committed as-of times, the pending ones and the join key; returns the
rows to write of each snapshot. Of one key at most one row is chosen."""


class WriteParts(Protocol):
    """Writes parts of a view to the online store, in any order."""

    def __call__(
        self,
        view: FeatureView,
        parts: Iterator[pa.RecordBatch],
        keep: KeepMerge | None,
        count: int,
    ) -> Generator[int]:
        """Yield the number of rows of each part once it is written.

        Parameters
        ----------
        view, keep
            As those of `RowStore.publish`.
        parts
            Batches of rows, no two of one key.
        count
            How many rows they have together.
        """


@dataclass(frozen=True)
class PushCount:
    """Rows (members or items) and values (rows times features) that went online."""

    rows: int
    values: int


def push_snapshots(
    rows: RowStore,
    view: FeatureView,
    sink: SnapshotSink,
    *,
    changed: Iterable[int],
    keep: KeepMerge | None = None,
    newest: Newest | None = None,
    write: WriteParts | None = None,
    progress: Callable[[int], tqdm] | None = None,
) -> PushCount:
    """Bring the online store up to the newest committed snapshots of one view.

    Goes from the newest snapshot back to the oldest that the store has not seen, and writes each
    member's newest row once. Past the newest snapshot these are the members who fell silent in
    between: their explicit empty values.

    Parameters
    ----------
    rows
        Rows of the online store.
    view
        Whose snapshots.
    sink
        The view's committed snapshots.
    changed
        As-of times whose snapshot is new or has other rows than before.
    keep
        Merges rows with what the store has. None: they replace it.
    newest
        Chooses the rows. None: those of the newest snapshot, as where every row has the time of its
        snapshot; see also `newest_by_time`.
    write
        Writes the rows. None: this process does, part by part.
    progress
        Makes a progress bar of n rows.
    """
    # Versions of a view share one online table: what another one has put there is replaced.
    for other in sink.other_versions():
        other.forget_published()
    identity = store_identity(rows.config)
    pending = _pending(sink, sink.published(identity), changed)
    if not pending:
        return PushCount(0, 0)
    chosen = _newest_rows(view, sink, pending, newest)
    count = _count(view, chosen)
    slices = _newest_slices(rows, view, sink, chosen, join_key_of(view))
    _publish(rows, view, slices, keep, count.rows, write, progress)
    sink.mark_published(identity, sink.committed()[-1])
    return count


def count_snapshots(
    rows: RowStore,
    view: FeatureView,
    snapshots: AfterCommit,
    *,
    changed: Iterable[int],
    newest: Newest | None = None,
) -> PushCount:
    """Return what `push_snapshots` would write once what is staged is committed.

    Parameters
    ----------
    rows, view, changed, newest
        See `push_snapshots`.
    snapshots
        As they will be.
    """
    mark = snapshots.sink.published(store_identity(rows.config))
    pending = _pending(snapshots, mark, changed)
    return _count(view, _newest_rows(view, snapshots, pending, newest) if pending else [])


def newest_of_keys(view: FeatureView, table: pa.Table, *, start: int) -> np.ndarray:
    """Return the rows of a table that `push_table` writes: int64 [n], one of each key."""
    time = time_column(table, names.EVENT_TIMESTAMP, view.name)
    order = np.argsort(time, kind="stable")
    order = order[time[order] >= start]
    _, key = rank_encode(single_chunk(table, join_key_of(view)).take(pa.array(order)))
    # Of a key that is there several times, the position of the last.
    last = np.full(key.max(initial=-1) + 1, 0)
    last[key] = order
    return last


def push_table(
    rows: RowStore,
    view: FeatureView,
    table: pa.Table,
    *,
    start: int,
    progress: Callable[[int], tqdm] | None = None,
) -> PushCount:
    """Push each key's newest row of a table, as of `start` or later, in place of what is stored.

    Parameters
    ----------
    rows
        Rows of the online store.
    view
        Whose rows.
    table
        The join key, every feature, and `event_timestamp` as timestamp[us, UTC].
    start
        Microseconds since the epoch.
    progress
        Makes a progress bar of n rows.
    """
    newest = take_rows(table, newest_of_keys(view, table, start=start))
    for field in view.features:
        if field.dtype == Array(Float32):
            position = newest.column_names.index(field.name)
            floats = newest.column(position).cast(pa.list_(pa.float32()))
            newest = newest.set_column(position, field.name, floats)
    slices = _slices(newest.to_batches(WRITE_BATCH))
    _publish(rows, view, slices, None, len(newest), None, progress)
    return PushCount(len(newest), len(newest) * len(view.features))


def newest_by_snapshot(
    snapshots: SnapshotReader, committed: Sequence[int], pending: set[int], join_key: str
) -> Iterator[tuple[int, pa.BooleanArray]]:
    """Yield (as of, which rows) of pending snapshots: the rows that no newer snapshot replaces."""
    seen: pa.Array | None = None
    for as_of in reversed([t for t in committed if t >= min(pending)]):
        members = single_chunk(snapshots.read(as_of, [join_key]), join_key)
        if seen is None:
            fresh = pa.array(np.ones(len(members), dtype=bool))
            seen = members
        else:
            fresh = pc.invert(pc.is_in(members, value_set=seen))
            seen = pa.concat_arrays([seen, members.filter(fresh)])
        if as_of in pending and fresh.true_count:
            yield as_of, fresh


def newest_by_time(
    snapshots: SnapshotReader, committed: Sequence[int], pending: set[int], join_key: str
) -> Iterator[tuple[int, pa.BooleanArray]]:
    """Yield (as of, which rows) of pending snapshots: the rows that have no newer one anywhere.

    For snapshots whose rows have times of their own: a late one may be older than the stored row.
    """
    columns = [join_key, names.EVENT_TIMESTAMP]
    tables = [snapshots.read(as_of, columns) for as_of in committed]
    _, key = rank_encode(single_chunk(pa.concat_tables(tables), join_key))
    time = np.concatenate(
        [time_column(table, names.EVENT_TIMESTAMP, snapshots.place) for table in tables]
    )
    order = np.lexsort((time, key))
    last = np.append(key[order[1:]] != key[order[:-1]], True)
    newest = np.zeros(len(key), dtype=bool)
    newest[order[last]] = True
    start = 0
    for as_of, table in zip(committed, tables, strict=True):
        keep = pa.array(newest[start : start + len(table)])
        start += len(table)
        if as_of in pending and keep.true_count:
            yield as_of, keep


def store_identity(config: RepoConfig) -> str:
    """Return a short name of the configured online store, equal only for equal configurations.

    A file is another store in another place: a repo that is moved may have left it behind.
    """
    settings = config.online_store.model_dump(mode="json")
    if settings.get("path"):
        settings["path"] = str((Path(config.repo_path or ".") / settings["path"]).resolve())
    digest = hashlib.sha256(json.dumps([config.project, settings], sort_keys=True).encode())
    return f"{config.online_store.type}:{digest.hexdigest()[:12]}"


def _pending(snapshots: SnapshotReader, mark: int | None, changed: Iterable[int]) -> set[int]:
    """Return the as-of times of snapshots that a store has not seen as they are.

    Parameters
    ----------
    snapshots
        As they are, or will be.
    mark
        Up to which time the store has followed, None if unknown. A commit of other rows lowers it.
    changed
        As-of times whose snapshot is new or has other rows than before.
    """
    pending = set(changed)
    if mark is None:
        return pending.union(snapshots.committed())
    seen = min([mark, *(as_of - 1 for as_of in pending)])
    return pending.union(as_of for as_of in snapshots.committed() if as_of > seen)


def _newest_rows(
    view: FeatureView, snapshots: SnapshotReader, pending: set[int], newest: Newest | None
) -> list[tuple[int, pa.BooleanArray]]:
    """Return which rows of which pending snapshots are the newest of their keys."""
    committed = snapshots.committed()
    return list((newest or newest_by_snapshot)(snapshots, committed, pending, join_key_of(view)))


def _count(view: FeatureView, chosen: Iterable[tuple[int, pa.BooleanArray]]) -> PushCount:
    count = sum(rows.true_count for _, rows in chosen)
    return PushCount(count, count * len(view.features))


def _publish(
    rows: RowStore,
    view: FeatureView,
    slices: Generator[pa.RecordBatch],
    keep: KeepMerge | None,
    count: int,
    write: WriteParts | None,
    progress: Callable[[int], tqdm] | None,
) -> None:
    """Publish `count` rows, and show how far that is."""
    bar = progress(count) if progress else None
    if bar is not None:
        bar.set_description(view.name)
    write = write or partial(_written_here, rows)
    with (
        _garbage_collection_paused(),
        closing(slices),
        closing(write(view, _parts(rows, view, slices), keep, count)) as sizes,
    ):
        for size in sizes:
            if bar is not None:
                bar.update(size)
    if bar is not None:
        bar.close()


def _written_here(
    rows: RowStore,
    view: FeatureView,
    parts: Iterator[pa.RecordBatch],
    keep: KeepMerge | None,
    count: int,
) -> Generator[int]:
    """Write parts in this process: a `WriteParts`."""
    for part in parts:
        rows.publish(view, part, keep)
        yield len(part)
        del part  # before the next is read


def _parts(
    rows: RowStore, view: FeatureView, slices: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Divide slices, each in the order in which a store has rows, into as much as a call takes."""
    asked = rows.config.materialization_config.online_write_batch_size
    for piece in slices:
        order = pc.sort_indices(row_keys(view, piece)) if rows.ordered else None
        fitting = CALL_BYTES * len(piece) // max(piece.nbytes, 1)
        size = asked or min(max(fitting, 1), WRITE_BATCH)
        for start in range(0, len(piece), size):
            if order is None:
                yield piece.slice(start, size)
            else:
                yield piece.take(order.slice(start, size))
        del piece  # before the next is read


def _newest_slices(
    rows: RowStore,
    view: FeatureView,
    sink: SnapshotSink,
    chosen: Iterable[tuple[int, pa.BooleanArray]],
    join_key: str,
) -> Generator[pa.RecordBatch]:
    """Yield the rows of snapshots that are chosen, by slices."""
    for as_of, chosen_rows in chosen:
        slices = _slices(_chosen(sink.batches(as_of, WRITE_BATCH), chosen_rows))
        if rows.ordered:
            ids = partial(_chosen_ids, sink, as_of, join_key, chosen_rows)
            slices = _by_key(view, slices, ids, sink.staging.folder)
        with closing(slices):
            yield from slices


def _chosen(batches: Iterable[pa.RecordBatch], chosen: pa.BooleanArray) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a snapshot that are chosen, batch by batch."""
    start = 0
    for batch in batches:
        here = chosen.slice(start, len(batch))
        start += len(batch)
        yield batch if here.true_count == len(batch) else batch.filter(here)


def _chosen_ids(
    sink: SnapshotSink, as_of: int, join_key: str, chosen: pa.BooleanArray
) -> pa.RecordBatch:
    """Return the ids of the rows of a snapshot that are chosen."""
    ids = single_chunk(sink.read(as_of, [join_key]), join_key).filter(chosen)
    return pa.RecordBatch.from_arrays([ids], [join_key])


def _slices(batches: Iterable[pa.RecordBatch]) -> Generator[pa.RecordBatch]:
    """Put batches together to some that are as large as fits into memory without trouble."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        if not len(batch):
            continue
        held.append(batch)
        size += batch.nbytes
        if size >= SLICE_BYTES:
            piece, held, size = pa.concat_batches(held), [], 0
            yield piece
    if held:
        yield pa.concat_batches(held)


def _by_key(
    view: FeatureView,
    slices: Iterator[pa.RecordBatch],
    ids: Callable[[], pa.RecordBatch],
    folder: Path,
) -> Generator[pa.RecordBatch]:
    """Yield the rows of slices again by slices, each of keys past those of the slice before.

    The bytes of an integer id begin with its lowest, so that the keys of members who are neighbours
    in a snapshot lie all over the store. A store that keeps rows in the order of keys would be gone
    through whole for each slice, and take a time that grows with the square of the members.

    Parameters
    ----------
    view
        Whose rows.
    slices
        The rows.
    ids
        Returns the join key of all of them.
    folder
        A folder of this machine, for what is too much to be held. Nothing is left in it.
    """
    held = deque(islice(slices, SLICES_HELD + 1))
    if len(held) <= SLICES_HELD:
        if held:
            yield pa.concat_batches(held)
        return
    members = ids()
    count = len(members)
    sampled = np.random.default_rng(count).random(count) * count < SAMPLE_ROWS
    row_size = held[0].nbytes / len(held[0])
    parts = spilled_parts(
        (_with_keys(view, piece) for piece in chain(_emptied(held), slices)),
        _KEY,
        sample=row_keys(view, members.filter(pa.array(sampled))),
        memory=memory_of(count, count * row_size),
        budget=int(memory_of(2 * len(held[0]), 2 * held[0].nbytes)),
        folder=make_folder(folder),
        compression=None,  # vectors get no smaller
    )
    with closing(parts):
        for _, read in parts:
            for piece in read().drop_columns([_KEY]).combine_chunks().to_batches():
                yield piece
                del piece  # before the next is read
    with suppress(OSError):  # as where something else lies there
        folder.rmdir()


def _emptied(held: deque[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield what is held, and let go of it."""
    while held:
        yield held.popleft()


def _with_keys(view: FeatureView, batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch]).append_column(_KEY, row_keys(view, batch))


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause the cyclic garbage collector, which would walk through millions of fresh values.

    They form no cycles: reference counts free them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
