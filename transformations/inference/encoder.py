"""From postings to item vectors: which posting gives a vector, from when, and what it is.

One function, `encode_postings`, for the engine, which publishes the vectors, and for training,
which needs the same ones.

A vector is valid from the time of its posting, and never before the end of the data that the
encoder was fitted on. So of the postings of an item up to that time only the newest one counts.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import (
    TIMESTAMP,
    id_column,
    is_text,
    rank_encode,
    require_columns,
    require_no_nulls,
    require_utf8,
    single_chunk,
    take_rows,
    time_column,
    vector_chunks,
)
from activity_embeddings.transformations.contract.item_encoder import (
    ItemEncoderDescription,
    describe_item_encoder,
)
from activity_embeddings.transformations.contract.saved_model import SIGNATURE, TensorSpec
from activity_embeddings.transformations.errors import InvalidData, InvalidInput, first_line
from activity_embeddings.transformations.inference.embedder import BATCH_SIZE
from activity_embeddings.transformations.inference.tensorflow import (
    held_back_stderr,
    load_saved_model,
    tensorflow,
)
from activity_embeddings.transformations.wording import are, counted, out_of

SOURCE = "postings"
"""What errors call a table of postings, unless they are told."""
_ARROW_TYPES = {"string": pa.string(), "int64": pa.int64(), "float32": pa.float32()}


@dataclass(frozen=True, eq=False)
class PostingVersions:
    """The postings that give a vector: n of them, by time and then by item.

    Attributes
    ----------
    row
        int64 [n]; rows of the table they are from.
    item_ids
        int64 or string [n].
    posted
        int64 [n]; time of the posting, microseconds since the epoch.
    time
        int64 [n]; time from which the vector is valid.
    """

    row: np.ndarray
    item_ids: pa.Array
    posted: np.ndarray
    time: np.ndarray

    @classmethod
    def from_arrow(
        cls,
        postings: pa.Table,
        valid_from: int,
        *,
        source: str = SOURCE,
        item_id: str = names.ITEM_ID,
    ) -> PostingVersions:
        """Choose among postings.

        Parameters
        ----------
        postings
            Ids of items (int64 or string) and `event_timestamp`, in any order.
        valid_from
            Microseconds; before it no vector is known.
        source
            What errors call the table.
        item_id
            Name of the column of ids.

        Raises
        ------
        InvalidInput
            A column is missing, of another type or holds nulls, or one item has two postings of one
            time.
        """
        require_columns(postings.column_names, (item_id, names.EVENT_TIMESTAMP), source)
        ids = id_column(postings, item_id, source)
        posted = time_column(postings, names.EVENT_TIMESTAMP, source)
        _, item = rank_encode(ids)
        order = np.lexsort((posted, item))
        same_item = item[order[1:]] == item[order[:-1]]
        twice = np.flatnonzero(same_item & (posted[order[1:]] == posted[order[:-1]]))
        if len(twice):
            row = int(order[twice[0]])
            raise InvalidData(
                f"{source}: an item should have one posting at one time. Received: item "
                f"{ids[row].as_py()!r} has two at {np.datetime64(int(posted[row]), 'us')}Z "
                f"({counted(len(twice), 'such row')})"
            )
        kept = np.ones(len(order), dtype=bool)
        kept[:-1] = ~(same_item & (posted[order[1:]] <= valid_from))
        chosen = order[kept]
        chosen = chosen[np.lexsort((item[chosen], posted[chosen]))]
        return cls(
            row=chosen,
            item_ids=ids.take(pa.array(chosen)),
            posted=posted[chosen],
            time=np.maximum(posted[chosen], valid_from),
        )

    def __len__(self) -> int:
        """Return n."""
        return len(self.row)

    def take(self, positions: np.ndarray) -> PostingVersions:
        """Return some of them, in the order of `positions`."""
        return PostingVersions(
            self.row[positions],
            self.item_ids.take(pa.array(positions)),
            self.posted[positions],
            self.time[positions],
        )


class ItemEncoder:
    """An item encoder that is loaded.

    Parameters
    ----------
    encoder
        ItemEncoderDescription, or the folder of the SavedModel.
    batch_size
        Postings a call.

    Raises
    ------
    InvalidInput
        It does not keep the contract, or TensorFlow cannot load it; the message names it.
    """

    def __init__(
        self, encoder: ItemEncoderDescription | str, *, batch_size: int = BATCH_SIZE
    ) -> None:
        described = encoder
        if not isinstance(described, ItemEncoderDescription):
            described = describe_item_encoder(described)
        self.description = described
        self._batch_size = batch_size
        # The loaded object owns the variables that the signature reads: it must stay alive.
        self._loaded = load_saved_model(described.path, self._label, described.fingerprint)
        self._signature = self._loaded.signatures[SIGNATURE]
        self._called = False

    @property
    def _label(self) -> str:
        return f"item encoder {self.description.name!r}"

    def __call__(
        self, postings: pa.Table, *, source: str = SOURCE, item_id: str = names.ITEM_ID
    ) -> np.ndarray:
        """Encode n postings.

        Parameters
        ----------
        postings
            A column for each input of the encoder, and ids of items.
        source
            What errors call the table.
        item_id
            Name of the column of ids.

        Returns
        -------
        np.ndarray
            float32 [n, d].

        Raises
        ------
        InvalidInput
            A column is missing, of another type or holds nulls, or a vector is not finite.
        """
        inputs = self.description.inputs
        require_columns(postings.column_names, [item_id, *inputs], source)
        columns = {
            name: _checked_column(postings, name, tensor, source) for name, tensor in inputs.items()
        }
        vectors = np.empty((len(postings), self.description.dimension), dtype=np.float32)
        constant = tensorflow().constant
        for start in range(0, len(postings), self._batch_size):
            part = {
                name: constant(_as_batch(column.slice(start, self._batch_size), inputs[name]))
                for name, column in columns.items()
            }
            vectors[start : start + self._batch_size] = self._call(part)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise InvalidInput(
                f"{self._label} (version {self.description.version}): output {names.EMBEDDING!r} "
                f"should be finite. Received: NaN or infinity for item "
                f"{postings.column(item_id)[int(bad[0])].as_py()!r} "
                f"({out_of(len(bad), len(vectors), 'posting')})"
            )
        return vectors

    def _call(self, inputs: dict[str, Any]) -> np.ndarray:
        """Call the SavedModel on one batch."""
        errors = tensorflow().errors
        try:
            # The first call plans the graph, which on some processors brings a note by oneDNN.
            with nullcontext() if self._called else held_back_stderr():
                vectors = self._signature(**inputs)[names.EMBEDDING].numpy()
            self._called = True
            return vectors
        except (errors.OpError, ValueError) as error:
            raise InvalidInput(
                f"{self._label} (version {self.description.version}): expected vectors for a batch "
                f"of postings. Received: {type(error).__name__}: {first_line(error)}"
            ) from error


def encode_postings(
    encoder: ItemEncoder,
    postings: pa.Table,
    *,
    source: str = SOURCE,
    item_id: str = names.ITEM_ID,
) -> pa.Table:
    """Return the item vectors that postings give.

    Parameters
    ----------
    encoder
        The loaded encoder.
    postings
        Ids of items (int64 or string), `event_timestamp` (with time zone) and a column for each
        input of the encoder, in any order. An item may be there at several times.
    source
        What errors call the table.
    item_id
        Name of the column of ids.

    Returns
    -------
    pa.Table
        The ids, `embedding` list<float32> of the encoder's dimension, and `event_timestamp`
        timestamp[us, UTC]: that of the posting, or `valid_from` of the encoder if that is later.
        By time of the posting, then by item. Of an item's postings up to `valid_from` only the
        newest gives a vector.

    Raises
    ------
    InvalidInput
        A column is missing, of another type or holds nulls, one item has two postings of one time,
        or a vector is not finite.
    """
    valid_from = encoder.description.valid_from
    versions = PostingVersions.from_arrow(postings, valid_from, source=source, item_id=item_id)
    vectors = encoder(take_rows(postings, versions.row), source=source, item_id=item_id)
    return pa.table(
        {
            item_id: versions.item_ids,
            names.EMBEDDING: vector_chunks(vectors),
            names.EVENT_TIMESTAMP: pa.array(versions.time).cast(TIMESTAMP),
        }
    )


def _checked_column(table: pa.Table, name: str, tensor: TensorSpec, source: str) -> pa.Array:
    """Return an input's column with the type of the tensor, after checking type and nulls."""
    column = single_chunk(table, name)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_list = len(tensor.shape or ()) == 2
    if not (_is_text_list(column.type) if is_list else _fits(column.type, tensor.dtype)):
        expected = "list<string>" if is_list else tensor.dtype
        raise InvalidData(
            f"{source}: column {name!r} should be {expected}, as the item encoder takes it. "
            f"Received: {column.type}"
        )
    require_no_nulls(column, name, source)
    require_utf8(column, name, source)
    if is_list:
        if not pa.types.is_large_list(column.type):
            column = column.cast(pa.list_(pa.string()))
        inner = column.flatten()
        if inner.null_count:
            raise InvalidData(
                f"{source}: column {name!r} should hold lists without nulls. "
                f"Received: {out_of(inner.null_count, len(inner), 'element')} "
                f"{are(inner.null_count)} null"
            )
        return column
    if not pa.types.is_large_string(column.type):
        column = column.cast(_ARROW_TYPES[tensor.dtype])
    if tensor.dtype == "float32":
        bad = len(column) - (pc.sum(pc.is_finite(column)).as_py() or 0)
        if bad:
            raise InvalidData(
                f"{source}: column {name!r} should hold finite values. "
                f"Received: NaN or infinity in {out_of(bad, len(column), 'row')}"
            )
    return column


def _fits(kind: pa.DataType, dtype: str) -> bool:
    """Whether a column of this type can be an input of scalars."""
    if dtype == "string":
        return is_text(kind)
    if dtype == "int64":
        return pa.types.is_integer(kind)
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _is_text_list(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    # A column whose every list is empty may have no type of its own.
    return _fits(kind.value_type, "string") or pa.types.is_null(kind.value_type)


def _as_batch(column: pa.Array, tensor: TensorSpec) -> np.ndarray:
    """Return a checked column as the encoder takes it; lists are padded with ""."""
    if len(tensor.shape or ()) == 1:
        return column.to_numpy(zero_copy_only=False)
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    # At least one position, so that no encoder has to reduce over none.
    width = max(1, int(lengths.max(initial=0)))
    padded = np.full((len(column), width), "", dtype=object)
    padded[np.arange(width) < lengths[:, None]] = column.flatten().to_numpy(zero_copy_only=False)
    return padded
