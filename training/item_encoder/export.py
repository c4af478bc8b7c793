"""The item tower from columns of postings on: how they become tensors, and what is packaged."""

from __future__ import annotations

from typing import Any

import keras
import pyarrow as pa
import tensorflow as tf

from activity_embeddings.training.item_encoder.towers import KNOWN_ITEM, TOKENS, TowerSettings
from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import (
    is_text,
    require_columns,
    require_no_nulls,
    single_chunk,
)
from activity_embeddings.transformations.errors import InvalidInput


class PackagedEncoder(tf.Module):
    """Item vectors from columns of postings: what is packaged.

    Parameters
    ----------
    settings, tower
        The settings of the item tower, and the tower itself.
    known_ids
        The items that have a vector of their own, by its number from 1.
    columns
        The schema of the postings.
    item_id
        Column of the items' ids.
    """

    def __init__(
        self,
        settings: TowerSettings,
        tower: keras.Model,
        known_ids: pa.Array,
        columns: pa.Schema,
        item_id: str,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._tower = tower
        id_type = tensor_type(known_ids.type)
        self._numbers = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(known_ids.to_pylist(), id_type),
                tf.range(1, len(known_ids) + 1, dtype=tf.int32),
            ),
            default_value=0,
        )
        self._item_id = item_id
        signature = {item_id: tf.TensorSpec([None], id_type, item_id)}
        for name in (*settings.text, *settings.categories):
            kind = columns.field(name).type
            shape = [None, None] if is_list(kind) else [None]
            signature[name] = tf.TensorSpec(shape, tensor_type(kind), name)
        self.columns = signature
        self.serve = tf.function(
            self._serve, autograph=False, input_signature=list(signature.values())
        )

    def _serve(self, *columns: Any) -> dict[str, Any]:
        given = dict(zip(self.columns, columns, strict=True))
        known_item = self._numbers.lookup(given[self._item_id])
        inputs = {TOKENS: self._settings.tokens_of(given), KNOWN_ITEM: known_item}
        return {names.EMBEDDING: self._tower(inputs, training=False)}


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def tensor_type(kind: pa.DataType) -> tf.DType:
    """Return the type of the tensor of a column, whose values are of this type or lists of it."""
    value = kind.value_type if is_list(kind) else kind
    return tf.int64 if pa.types.is_integer(value) else tf.string


def posting_tensor(postings: pa.Table, name: str, *, lists: bool) -> Any:
    """Return a column of postings as a tensor; lists are padded with "".

    Raises
    ------
    InvalidInput
        The column is missing, holds nulls, or is neither text nor, with `lists`, categories.
    """
    require_columns(postings.column_names, [name], "postings")
    column = single_chunk(postings, name)
    kind = column.type
    text = is_text(kind.value_type if is_list(kind) else kind)
    if not ((text or pa.types.is_integer(kind)) if lists else (text and not is_list(kind))):
        expected = "string, list<string> or integer" if lists else "string"
        raise InvalidInput(
            f"postings: column {name!r} should be {expected}. Received: {column.type}"
        )
    require_no_nulls(column, name, "postings")
    values = column.to_pylist()
    if is_list(kind):
        return tf.ragged.constant(values, tf.string, ragged_rank=1).to_tensor("")
    return tf.constant(values, tensor_type(kind))
