"""HashingEncoder: item vectors from words alone, before anything is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from activity_embeddings.transformations import names

HASHES = 8
"""Positions of a vector that one word changes."""
_MULTIPLIERS = np.random.default_rng(0).integers(2**62, size=HASHES) | 1
"""Odd, so that no hash is lost (multiply-shift hashing, Dietzfelbinger et al., 1997)."""


class HashingEncoder(tf.Module):
    """An item encoder that needs no data: items that share words get similar vectors.

    A word adds +1 or -1 at each of `HASHES` positions that its hashes name, so that the inner
    product of two vectors is, in expectation, proportional to the number of words that both have
    (feature hashing, Weinberger et al., ICML 2009). The vector is scaled to length 1; it is zero
    for an item without words.

    Its function `serve` takes the columns by name and gives `embedding` float32 [batch, D]. Text is
    split at what is no letter or digit; an element of a list and an integer are one word each.

    Parameters
    ----------
    columns
        TensorFlow types of the columns: `tf.string` or `tf.int64` [batch], or `tf.string`
        [batch, n] for lists, padded with "".
    dimension
        Length D of a vector.
    """

    def __init__(self, columns: Mapping[str, tf.TensorSpec], dimension: int) -> None:
        super().__init__()
        self._columns, self._dimension = dict(columns), dimension
        signature = [
            tf.TensorSpec(column.shape, column.dtype, name)
            for name, column in self._columns.items()
        ]
        self.serve = tf.function(self._serve, autograph=False, input_signature=signature)

    def _serve(self, *columns: Any) -> dict[str, Any]:
        words = tf.concat(
            [
                self._words(name, column)
                for name, column in zip(self._columns, columns, strict=True)
            ],
            axis=1,
        )
        row, word = words.value_rowids(), words.values
        size = words.nrows() * self._dimension
        # One hash of the text, of which each multiplication makes another: its high bits are good.
        hashed = tf.strings.to_hash_bucket_fast(word, 2**62)[:, None] * _MULTIPLIERS
        # Twice as many buckets as positions: one bit is the sign.
        bucket = tf.bitwise.right_shift(hashed, 33) % (2 * self._dimension)
        place = row[:, None] * self._dimension + bucket // 2
        sign = tf.cast(bucket % 2 * 2 - 1, tf.float32)
        total = tf.math.unsorted_segment_sum(tf.reshape(sign, [-1]), tf.reshape(place, [-1]), size)
        vectors = tf.reshape(total, [-1, self._dimension])
        return {names.EMBEDDING: tf.math.l2_normalize(vectors, axis=1, epsilon=1e-12)}

    def _words(self, name: str, column: Any) -> Any:
        """Return the words of each row, ragged."""
        kind = self._columns[name]
        if kind.dtype != tf.string:
            column = tf.strings.join([f"{name}=", tf.strings.as_string(column)])
            return tf.RaggedTensor.from_tensor(column[:, None])
        if kind.shape.rank == 2:
            listed = tf.RaggedTensor.from_tensor(column)
            kept = tf.ragged.boolean_mask(listed, listed != "")
            return kept.with_values(tf.strings.join([f"{name}=", kept.values]))
        lower = tf.strings.lower(column, encoding="utf-8")
        return tf.strings.split(tf.strings.regex_replace(lower, r"[^\pL\pN]+", " "))
