"""From postings to a committed folder of item vectors: what `feast materialize` does for items.

    keys of all postings -> those that the sink lacks -> encoded slice by slice -> staged -> commit

The sink only grows: a run adds one folder with the vectors that were not there, named by the end of
its interval, or by the next microsecond where that is taken. So the folders are in the order of
their commits, and the mark of what is online is a place in that order.

Training asks for the vectors as of a time that need not be published: `vectors_up_to` takes those
that the sink holds, and encodes the others without committing them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import TIMESTAMP, single_chunk, time_column
from activity_embeddings.transformations.contract.item_encoder import ItemEncoderDescription
from activity_embeddings.transformations.errors import InvalidData, InvalidInput
from activity_embeddings.transformations.inference.encoder import (
    ItemEncoder,
    PostingVersions,
    encode_postings,
)
from activity_embeddings.transformations.offline.sinks.base import SnapshotSink, require_same_facts
from activity_embeddings.transformations.times import to_datetime
from activity_embeddings.transformations.wording import counted, out_of, passed_over, utc

POSTINGS_AT_ONCE = 65_536
"""Postings, with their text, held in memory together."""


class PostingReader(Protocol):
    """Reads ids, `event_timestamp` and more columns of postings with `start <= t <= end`."""

    def __call__(self, columns: Sequence[str], *, start: int | None, end: int) -> pa.Table:
        """Return the rows in any order; see `sources.read_postings`."""


@dataclass
class VectorReport:
    """What a run did, in numbers a person can read.

    Attributes
    ----------
    postings
        Postings up to the end of the interval.
    superseded
        Postings that a newer one of the item replaced before the encoder was valid.
    new
        Vectors that the sink did not hold.
    pushed
        Items whose newest vector went online.
    hidden_files
        Parquet files in hidden folders of the source, which are not read.
    """

    encoder: str
    end: int
    postings: int = 0
    superseded: int = 0
    new: int = 0
    pushed: int = 0
    hidden_files: int = 0

    def __str__(self) -> str:
        superseded = f" ({self.superseded:,} superseded)" if self.superseded else ""
        return (
            f"item vectors: {self.new:,} new by encoder {self.encoder}, of "
            f"{counted(self.postings, 'posting')}{superseded} up to {utc(to_datetime(self.end))}; "
            f"{self.pushed:,} online"
            + (f"\n  files    {passed_over(self.hidden_files)}" if self.hidden_files else "")
        )


@dataclass
class VectorRun:
    """One run of one item encoder over the postings up to a time.

    What the sink holds is read once: the caller keeps other runs out, see `SnapshotSink.locked`.

    Parameters
    ----------
    encoder
        As it was checked; it is loaded only if there is something to encode.
    sink
        Where its vectors go.
    read
        Reads the postings.
    end
        Microseconds; a vector is made if it is valid by then.
    id_type
        Arrow type of item ids in the feature repo.
    source
        What errors call the postings.
    publishing_delay
        Microseconds from a vector's time to when it is available.
    batch_size
        Postings a call of the encoder.
    item_id
        Name of the column of ids.
    """

    encoder: ItemEncoderDescription
    sink: SnapshotSink
    read: PostingReader
    end: int
    id_type: pa.DataType
    source: str
    publishing_delay: int = 0
    batch_size: int = 1024
    item_id: str = names.ITEM_ID
    _staged: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.report = VectorReport(f"{self.encoder.name} {self.encoder.version}", self.end)

    @property
    def staged(self) -> list[int]:
        """As-of times that are staged and not committed yet."""
        return [] if self._staged is None else [self._staged]

    def compute(self, progress: Callable[[int], Any] | None = None) -> None:
        """Encode what the sink lacks and write it aside.

        Parameters
        ----------
        progress
            Takes a number of postings, and returns a progress bar of them, or None.

        Raises
        ------
        InvalidInput
            A posting or the encoder is bad, or no vector is known by then. The sink is as it was.
        """
        self.sink.staging.clear()
        committed = self.sink.committed()
        if committed:
            require_same_facts(
                self.sink,
                committed[-1],
                self.encoder.facts(),
                what=f"item encoder {self.encoder.name!r}",
            )
        versions = self._versions()
        missing = np.flatnonzero(~self._held(versions, committed))
        self.report.new = len(missing)
        if not len(missing):
            return
        # Name the folder so that it sorts after every committed one: the online mark is a position
        # in that order.
        as_of = max(self.end, committed[-1] + 1) if committed else self.end
        bar = progress(len(missing)) if progress else None
        writer = self.sink.staging.writer(as_of, self.encoder.facts())
        try:
            encoder = ItemEncoder(self.encoder, batch_size=self.batch_size)
            for part in _slices(missing):
                vectors = self._postings.encode(encoder, versions.take(part))
                for batch in self._with_created(vectors).to_batches():
                    writer.write(batch)
                if bar is not None:
                    bar.update(len(part))
        finally:
            writer.close()
            if bar is not None:
                bar.close()
        self._staged = as_of

    def commit(self) -> None:
        """Put what is staged into place."""
        if self._staged is not None:
            self.sink.commit(self._staged)
            self._staged = None

    def abandon(self) -> None:
        """Drop what is staged and not committed."""
        self.sink.staging.clear()
        self._staged = None

    def _versions(self) -> PostingVersions:
        """Read the keys of all postings; return those that give a vector by the end."""
        if self.end < self.encoder.valid_from:
            raise InvalidInput(
                f"item encoder {self.encoder.name!r}: expected an interval that ends at or after "
                f"{utc(to_datetime(self.encoder.valid_from))}, since when its vectors can be "
                f"known. Received: end {utc(to_datetime(self.end))}"
            )
        count, versions = self._postings.versions(self.end)
        if not count:
            raise InvalidData(
                f"{self.source}: expected postings at or before {utc(to_datetime(self.end))}. "
                "Received: none"
            )
        self.report.postings = count
        self.report.superseded = count - len(versions)
        return versions

    def _held(self, versions: PostingVersions, committed: Sequence[int]) -> np.ndarray:
        """Return which vectors the sink holds: bool [n]."""
        held = np.zeros(len(versions), dtype=bool)
        for as_of in committed:
            rows, _ = _found_in(self.sink, as_of, versions, [], self.item_id)
            held[rows] = True
        return held

    def _with_created(self, vectors: pa.Table) -> pa.Table:
        """Add when each vector is available, as the sink has it."""
        time = time_column(vectors, names.EVENT_TIMESTAMP, self.source)
        created = pa.array(time + self.publishing_delay).cast(TIMESTAMP)
        return vectors.append_column(names.CREATED_TIMESTAMP, created).combine_chunks()

    @property
    def _postings(self) -> _Postings:
        return _Postings(self.encoder, self.read, self.id_type, self.source, self.item_id)


def vectors_up_to(
    encoder: ItemEncoderDescription,
    sink: SnapshotSink,
    read: PostingReader,
    *,
    end: int,
    id_type: pa.DataType,
    source: str,
    item_id: str = names.ITEM_ID,
) -> pa.Table:
    """Return the item vectors that the postings up to a time give, as `encode_postings` does.

    Those that the sink holds, which are served, are taken from there. The encoder is loaded only
    where others are left; nothing is written. Vectors that the sink holds of later postings are not
    among them. Those of another encoder of the same version are not taken, nor is any where the
    time is before `valid_from`: of an item's postings up to then the sink holds the newest of all,
    which may be later than the time.

    Parameters
    ----------
    encoder, sink, read, id_type, source, item_id
        See `VectorRun`.
    end
        Microseconds since the epoch; later postings do not count.

    Raises
    ------
    InvalidInput
        A posting or the encoder is bad.
    """
    postings = _Postings(encoder, read, id_type, source, item_id)
    _, versions = postings.versions(end)
    committed = sink.committed() if end >= encoder.valid_from else []
    if committed and sink.facts(committed[-1]) != encoder.facts():
        committed = []
    missing = np.ones(len(versions), dtype=bool)
    places, parts = [np.empty(0, np.int64)], [_no_vectors(item_id, id_type)]
    for as_of in committed:
        rows, found = _found_in(sink, as_of, versions, [names.EMBEDDING], item_id)
        places.append(rows)
        parts.append(found)
        missing[rows] = False
    if missing.any():
        loaded = ItemEncoder(encoder)
        for part in _slices(np.flatnonzero(missing)):
            places.append(part)
            parts.append(postings.encode(loaded, versions.take(part)))
    order = np.argsort(np.concatenate(places))
    return pa.concat_tables(part.cast(parts[0].schema) for part in parts).take(pa.array(order))


def _no_vectors(item_id: str, id_type: pa.DataType) -> pa.Table:
    """Return a table of item vectors without rows."""
    columns = {
        item_id: id_type,
        names.EMBEDDING: pa.list_(pa.float32()),
        names.EVENT_TIMESTAMP: TIMESTAMP,
    }
    return pa.schema(columns).empty_table()


@dataclass(frozen=True)
class _Postings:
    """The postings that an encoder reads; see `VectorRun`."""

    encoder: ItemEncoderDescription
    read: PostingReader
    id_type: pa.DataType
    source: str
    item_id: str

    def versions(self, end: int) -> tuple[int, PostingVersions]:
        """Read the keys of all postings up to a time; return how many, and which give a vector."""
        keys = self.read([], start=None, end=end)
        versions = PostingVersions.from_arrow(
            keys, self.encoder.valid_from, source=self.source, item_id=self.item_id
        )
        if len(keys) and versions.item_ids.type != self.id_type:
            raise InvalidData(
                f"{self.source}: column {self.item_id!r} should be {self.id_type}, as in the "
                f"feature repo. Received: {versions.item_ids.type}"
            )
        return len(keys), versions

    def encode(self, encoder: ItemEncoder, versions: PostingVersions) -> pa.Table:
        """Read the content of some postings and encode it, in the order of `versions`."""
        first, last = int(versions.posted[0]), int(versions.posted[-1])
        postings = self.read(self.encoder.content_columns(self.item_id), start=first, end=last)
        _, rows = _matches(
            versions.item_ids,
            versions.posted,
            single_chunk(postings, self.item_id),
            time_column(postings, names.EVENT_TIMESTAMP, self.source),
        )
        if len(rows) != len(versions):
            raise InvalidData(
                f"{self.source}: expected the postings that were there a moment before. Received: "
                f"{out_of(len(rows), len(versions), 'posting')}. Run again when the source is not "
                "being written"
            )
        return encode_postings(
            encoder, postings.take(pa.array(rows)), source=self.source, item_id=self.item_id
        )


def _found_in(
    sink: SnapshotSink,
    as_of: int,
    versions: PostingVersions,
    columns: Sequence[str],
    item_id: str,
) -> tuple[np.ndarray, pa.Table]:
    """Return which vectors a committed snapshot holds, and its rows of these with some columns."""
    table = sink.read(as_of, [item_id, *columns, names.EVENT_TIMESTAMP])
    rows, theirs = _matches(
        versions.item_ids,
        versions.time,
        single_chunk(table, item_id),
        time_column(table, names.EVENT_TIMESTAMP, sink.place),
    )
    return rows, table.take(pa.array(theirs))


def _slices(positions: np.ndarray) -> Iterator[np.ndarray]:
    """Split ascending positions of postings so that each slice spans at most `POSTINGS_AT_ONCE`.

    By all postings between, not only the missing ones: the source is read by time.
    """
    block = positions // POSTINGS_AT_ONCE
    yield from np.split(positions, np.flatnonzero(np.diff(block)) + 1)


def _matches(
    ids: pa.Array, time: np.ndarray, other_ids: pa.Array, other_time: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return where two lists of distinct (id, time) hold the same pair: rows of both, ascending."""
    key = ["id", "time"]
    ours = pa.table([ids, time, np.arange(len(ids))], [*key, "row"])
    theirs = pa.table([other_ids, other_time, np.arange(len(other_ids))], [*key, "other_row"])
    both = ours.join(theirs, key, join_type="inner").sort_by("row")
    return both.column("row").to_numpy(), both.column("other_row").to_numpy()
