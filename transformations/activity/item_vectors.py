"""Item vectors as of a time: from item id and moment to a row of one dense float32 matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import (
    codes_of,
    id_column,
    rank_encode,
    require_columns,
    require_no_nulls,
    time_column,
)
from activity_embeddings.transformations.errors import InvalidData, quote
from activity_embeddings.transformations.ragged import bisect, with_last
from activity_embeddings.transformations.spec import ItemVectorSpec
from activity_embeddings.transformations.times import NEVER
from activity_embeddings.transformations.wording import counted, out_of

_ITEM_IDS = "item ids of events and of item vectors"


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """V vectors of J items; an item has one or several, each valid from its own time on.

    Attributes
    ----------
    item_ids
        Distinct ids, ascending [J].
    start
        int64 [J + 1]; vectors of item j are rows `start[j]:start[j + 1]`.
    time
        int64 [V]; microseconds since the epoch from which the row is valid, ascending per item.
    matrix
        float32 [V + 1, D]; the last row is the zero vector that stands for PAD.
    """

    item_ids: pa.Array
    start: np.ndarray
    time: np.ndarray
    matrix: np.ndarray

    @property
    def dimension(self) -> int:
        """Length D of each vector."""
        return self.matrix.shape[1]

    @property
    def pad_row(self) -> int:
        """Row of the zero vector."""
        return len(self.matrix) - 1

    @classmethod
    def always_known(cls, item_ids: pa.Array) -> ItemVectors:
        """Return vectors of no length that leave out no event of these items, however old.

        Parameters
        ----------
        item_ids
            Distinct ids, ascending [J].
        """
        count = len(item_ids)
        return cls(
            item_ids=item_ids,
            start=np.arange(count + 1, dtype=np.int64),
            time=np.full(count, np.iinfo(np.int64).min, dtype=np.int64),
            matrix=np.zeros((count + 1, 0), dtype=np.float32),
        )

    @classmethod
    def from_arrow(
        cls,
        table: pa.Table,
        spec: ItemVectorSpec,
        *,
        source: str = names.JOBS.vectors_view,
        item_id: str = names.ITEM_ID,
    ) -> ItemVectors:
        """Check a table of item vectors and put it into rows.

        Parameters
        ----------
        table
            Ids of items (int64 or string), `embedding` (list of float), `event_timestamp`.
        spec
            Gives the length that every vector should have.
        source
            What errors call the table.
        item_id
            Name of the column of ids.

        Raises
        ------
        InvalidData
            A column is missing, of another type or holds nulls, a vector has another length or
            a value that is not finite, or one item has two vectors for one time.
        """
        columns = (item_id, names.EMBEDDING, names.EVENT_TIMESTAMP)
        require_columns(table.column_names, columns, source)
        ids = id_column(table, item_id, source)
        item_ids, item = rank_encode(ids)
        time = time_column(table, names.EVENT_TIMESTAMP, source)
        vectors = _dense(table.column(names.EMBEDDING), ids, spec, source)

        order = np.lexsort((time, item))
        item, time = item[order], time[order]
        twice = np.flatnonzero((item[1:] == item[:-1]) & (time[1:] == time[:-1]))
        if len(twice):
            moment = np.datetime64(int(time[twice[0]]), "us")
            raise InvalidData(
                f"{source}: an item should have one vector at one time. Received: item "
                f"{quote(item_ids[int(item[twice[0]])].as_py())} has two at {moment}Z "
                f"({counted(len(twice), 'such row')})"
            )
        matrix = np.zeros((len(order) + 1, spec.dimension), dtype=np.float32)
        matrix[:-1] = vectors[order]
        counts = np.bincount(item, minlength=len(item_ids))
        return cls(
            item_ids=item_ids,
            start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            time=time,
            matrix=matrix,
        )

    def known_at(self, item_ids: pa.Array) -> np.ndarray:
        """Return when each item first has a vector: int64 microseconds [n], `NEVER` if it has none.

        An item is unknown as of every `T < known_at`.
        """
        if item_ids is self.item_ids:
            return self.time[self.start[:-1]]
        codes = codes_of(item_ids, self.item_ids, what=_ITEM_IDS)
        first = np.full(len(codes), NEVER, dtype=np.int64)
        known = codes >= 0
        first[known] = self.time[self.start[codes[known]]]
        return first

    def rows(self, item_ids: pa.Array, item: np.ndarray, as_of: np.ndarray) -> np.ndarray:
        """Return the matrix row of each item as of a time.

        Parameters
        ----------
        item_ids
            The ids that `item` counts in.
        item
            int32 [n, L]; positions in `item_ids`, -1 for PAD.
        as_of
            int64 [n]; the newest vector with `time <= as_of` is taken.

        Returns
        -------
        np.ndarray
            int32 [n, L]; `pad_row` for PAD and for items without a vector as of that time.
        """
        codes = item
        if item_ids is not self.item_ids:
            codes = with_last(codes_of(item_ids, self.item_ids, what=_ITEM_IDS), -1)[item]
        known = codes >= 0
        if len(self.time) == len(self.item_ids):
            row = np.where(known, codes, self.pad_row).astype(np.int32)
            if len(self.time) and len(as_of) and self.time.max() > as_of.min():
                late = with_last(self.time, 0)[row] > as_of[:, None]
                row[late & known] = self.pad_row
            return row
        flat = codes[known]
        moments = np.broadcast_to(as_of[:, None], item.shape)[known]
        low, high = self.start[flat], self.start[flat + 1]
        position = bisect(self.time, low, high, moments, right=True)
        row = np.full(item.shape, self.pad_row, dtype=np.int32)
        row[known] = np.where(position > low, position - 1, self.pad_row)
        return row


def _dense(
    vectors: pa.ChunkedArray, ids: pa.Array, embedding: ItemVectorSpec, source: str
) -> np.ndarray:
    """Return list<float> as float32 [n, D], after checking lengths and values."""
    kind = vectors.type
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise InvalidData(
            f"{source}: column {names.EMBEDDING!r} should be list<float>. Received: {kind}"
        )
    require_no_nulls(vectors, names.EMBEDDING, source)
    lengths = np.concatenate([np.empty(0, np.int64), *map(_lengths, vectors.chunks)])
    wrong = np.flatnonzero(lengths != embedding.dimension)
    if len(wrong):
        raise InvalidData(
            f"{source}: column {names.EMBEDDING!r} should hold vectors of length "
            f"{embedding.dimension} ({embedding.name} version {embedding.version}). Received: "
            f"length {int(lengths[wrong[0]])} for item {quote(ids[int(wrong[0])].as_py())} "
            f"({out_of(len(wrong), len(lengths), 'row')})"
        )
    # Chunk by chunk: together they may have more values than one Arrow array holds.
    dense = np.empty((len(vectors), embedding.dimension), dtype=np.float32)
    row = 0
    for chunk in vectors.chunks:
        values = chunk.flatten().to_numpy(zero_copy_only=False)
        dense[row : row + len(chunk)] = values.reshape(len(chunk), embedding.dimension)
        row += len(chunk)
    bad = np.flatnonzero(~np.isfinite(dense).all(axis=1))
    if len(bad):
        raise InvalidData(
            f"{source}: column {names.EMBEDDING!r} should hold finite values. Received: NaN, "
            f"null or infinity for item {quote(ids[int(bad[0])].as_py())} "
            f"({out_of(len(bad), len(lengths), 'row')})"
        )
    return dense


def _lengths(lists: pa.Array) -> np.ndarray:
    """Return the length of each list, int64 [n]."""
    if pa.types.is_fixed_size_list(lists.type):
        return np.full(len(lists), lists.type.list_size, dtype=np.int64)
    return np.diff(lists.offsets.to_numpy()).astype(np.int64)
