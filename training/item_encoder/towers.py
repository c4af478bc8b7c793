"""The two towers: what an item is, and what a member wanted lately.

The item tower reads a posting: a bag of its words and categories through a small network, plus a
vector of the item's own. That vector is dropped at random in training, so that a posting without
activity gets a useful vector from its content. The member tower reads the vectors of the items that
the member acted on lately, by the same item tower: it is a decaying average, or any network. A
score is the sum of the element-wise product of the two towers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer

from activity_embeddings.training.examples.history import INPUT_ITEM_ROWS, ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.models.layers import LearnedDecay, OneHotAction
from activity_embeddings.training.objectives import FuturePositives, FuturePositivesTask, Lookup
from activity_embeddings.training.objectives.future_positives import (
    DAY_ROWS,
    DISMISSED_ROWS,
    NEGATIVE_ROWS,
    TARGET_ROWS,
)
from activity_embeddings.training.outputs import ACTIVITY_EMBEDDING
from activity_embeddings.transformations import names
from activity_embeddings.transformations.errors import InvalidInput, require_at_least
from activity_embeddings.transformations.spec import ActivitySpec

MOST_BUCKETS = 2**31 - 2
TOKENS = "tokens"
"""Input of the item tower: hashed words and categories, int32 [items, n], 0 for none."""
KNOWN_ITEM = "known_item"
"""Input of the item tower: number of the item's own vector, int32 [items], 0 for none."""


@dataclass(frozen=True, kw_only=True)
class TowerSettings:
    """The item tower's columns and size.

    Parameters
    ----------
    text
        String columns whose words count.
    categories
        Columns whose values count as they are: strings, lists of strings, or integers.
    tokens
        Most words and categories of one posting that are read.
    buckets
        Number of vectors that words and categories are hashed into, at most 2^31 - 2.
    hidden
        Length of the hidden layer.
    dropout
        Share of the hidden layer dropped in training.
    id_dropout
        Share of the items' own vectors dropped in training.
    """

    text: tuple[str, ...] = ("title",)
    categories: tuple[str, ...] = ("genres", "year")
    tokens: int = 32
    buckets: int = 1 << 14
    hidden: int = 128
    dropout: float = 0.5
    id_dropout: float = 0.7

    def __post_init__(self) -> None:
        if not 1 <= self.buckets <= MOST_BUCKETS:
            raise InvalidInput(
                f"item encoder: `buckets` should be from 1 to {MOST_BUCKETS:,}, since tokens are "
                f"int32. Received: {self.buckets:,}"
            )
        require_at_least("item encoder", 0, tokens=self.tokens)
        require_at_least("item encoder", 1, hidden=self.hidden)
        if not 0 <= self.dropout < 1:
            raise InvalidInput(
                f"item encoder: `dropout` should be in [0, 1). Received: {self.dropout}"
            )
        if not 0 <= self.id_dropout <= 1:
            raise InvalidInput(
                f"item encoder: `id_dropout` should be in [0, 1]. Received: {self.id_dropout}"
            )

    def build(self, known_items: int, words: np.ndarray) -> keras.Model:
        """Return the untrained item tower.

        Parameters
        ----------
        known_items
            How many items have a vector of their own.
        words
            float32 [buckets + 1, D]; the tokens' vectors to start from.

        Returns
        -------
        keras.Model
            Inputs `tokens` int32 [items, n] and `known_item` int32 [items]; output unit vectors
            float32 [items, D]. It starts at the sum of the tokens' vectors.
        """
        dimension = words.shape[1]
        tokens = keras.Input((None,), dtype="int32", name=TOKENS)
        known_item = keras.Input((), dtype="int32", name=KNOWN_ITEM)
        embed = keras.layers.Embedding(len(words), dimension, name="words")
        is_token = ops.expand_dims(ops.cast(tokens > 0, "float32"), 2)
        bag = keras.layers.UnitNormalization(name="bag")(ops.sum(embed(tokens) * is_token, axis=1))
        embed.embeddings.assign(words)
        hidden = keras.layers.Dense(self.hidden, activation="gelu", name="hidden")(bag)
        hidden = keras.layers.Dropout(self.dropout, name="dropout")(hidden)
        content = bag + keras.layers.Dense(
            dimension, kernel_initializer="zeros", use_bias=False, name="content"
        )(hidden)
        own = keras.layers.Embedding(
            known_items + 1, dimension, embeddings_initializer="zeros", name="own"
        )(known_item)
        # One draw for an item's whole vector.
        own = keras.layers.Dropout(self.id_dropout, noise_shape=(None, 1), name="own_dropout")(own)
        is_known = ops.expand_dims(ops.cast(known_item > 0, "float32"), 1)
        return keras.Model(
            {TOKENS: tokens, KNOWN_ITEM: known_item},
            keras.layers.UnitNormalization(name="unit")(content + own * is_known),
            name="item_tower",
        )

    def semantic_words(self, tokens: np.ndarray, dimension: int, seed: int) -> np.ndarray:
        """Return vectors of tokens by latent semantic analysis of postings.

        The TF-IDF weighted matrix of postings and tokens is reduced by a truncated SVD (Deerwester
        et al., 1990), so that the sum of a posting's token vectors says what it is about before
        anything is learnt from behaviour. A token that is in none of the postings is zero.

        Parameters
        ----------
        tokens
            int32 [items, n], of the postings to learn from.
        dimension
            Length D of a vector; unused dimensions of tiny data are zero.
        seed
            Seed of the randomised SVD.

        Returns
        -------
        np.ndarray
            float32 [buckets + 1, D]
        """
        row, _ = np.nonzero(tokens)
        counts = sparse.csr_matrix(
            (np.ones(len(row)), (row, tokens[tokens > 0])), (len(tokens), self.buckets + 1)
        )
        weighting = TfidfTransformer().fit(counts)
        svd = TruncatedSVD(min(dimension, *counts.shape), n_iter=10, random_state=seed)
        # Rows that are all equal have no variance to explain: a figure that is not used here.
        with np.errstate(invalid="ignore"):
            svd.fit(weighting.transform(counts))
        vectors = np.zeros((self.buckets + 1, dimension), np.float32)
        occurs = np.asarray(counts.sum(axis=0)).ravel() > 0
        weighted = weighting.idf_[:, None] * svd.components_.T
        vectors[occurs, : weighted.shape[1]] = weighted[occurs]
        return vectors

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    def tokens_of(self, columns: Mapping[str, Any]) -> Any:
        """Turn columns of postings into hashed tokens, in TensorFlow.

        Parameters
        ----------
        columns
            Tensors by name: strings or integers [items], lists of strings [items, n] padded with
            "".

        Returns
        -------
        Any
            int32 [items, tokens]; 0 where there are fewer.
        """
        parts = []
        for name in self.text:
            text = tf.strings.lower(columns[name], encoding="utf-8")
            words = tf.strings.split(tf.strings.regex_replace(text, r"[^\pL\pN]+", " "))
            parts.append(self._hashed(name, words))
        for name in self.categories:
            values = columns[name]
            if values.dtype != tf.string:
                values = tf.strings.as_string(values)
            if values.shape.rank == 1:
                values = values[:, None]
            ragged = tf.RaggedTensor.from_tensor(values)
            parts.append(self._hashed(name, tf.ragged.boolean_mask(ragged, ragged != "")))
        # Categories first: they are few, and a long text must not push them out.
        tokens = tf.concat([*parts[len(self.text) :], *parts[: len(self.text)]], axis=1)
        return tokens.to_tensor(0, shape=[None, self.tokens])

    def _hashed(self, column: str, words: Any) -> Any:
        named = tf.strings.join([f"{column}=", words.flat_values])
        hashed = tf.strings.to_hash_bucket_fast(named, self.buckets)
        return words.with_flat_values(tf.cast(hashed, tf.int32) + 1)


class TwoTowerTask(FuturePositivesTask):
    """The task of future positives with item vectors that are learnt."""

    def __init__(
        self,
        member_tower: keras.Model,
        item_tower: keras.Model,
        inputs: Mapping[str, np.ndarray],
        history: ActivityHistory,
        period: Period,
        settings: FuturePositives,
    ) -> None:
        super().__init__(member_tower, history, period, settings)
        self.item_tower = item_tower
        self.item_inputs = {name: ops.convert_to_tensor(values) for name, values in inputs.items()}

    def lookup(self, inputs: dict[str, Any], training: bool | None = None) -> Lookup:
        """Encode the items of the batch, each once; see `TrainingTask.lookup`."""
        kinds = (INPUT_ITEM_ROWS, TARGET_ROWS, DISMISSED_ROWS, NEGATIVE_ROWS, DAY_ROWS)
        asked = [ops.reshape(inputs[name], (-1,)) for name in kinds if name in inputs]
        rows = ops.concatenate(asked, axis=0)
        distinct, _ = tf.unique(rows)
        places = tf.scatter_nd(distinct[:, None], tf.range(tf.size(distinct)), [self.pad_row + 1])
        encoded = self.item_tower(
            {name: ops.take(values, distinct, axis=0) for name, values in self.item_inputs.items()},
            training=training,
        )
        encoded = encoded * ops.cast(distinct != self.pad_row, "float32")[:, None]
        return lambda wanted: ops.take(encoded, ops.take(places, wanted), axis=0)


def member_tower(spec: ActivitySpec, dimension: int) -> keras.Model:
    """Return the decaying average with its decay to be learnt."""
    item_embeddings = keras.Input((spec.length, dimension), name=names.INPUT_ITEM_EMBEDDINGS)
    actions = keras.Input((spec.length,), dtype="int32", name=names.INPUT_ACTIONS)
    chosen = OneHotAction(len(spec.actions))(actions)
    average = LearnedDecay(len(spec.actions), list(spec.positive_ids), name="learned_decay")
    return keras.Model(
        {names.INPUT_ITEM_EMBEDDINGS: item_embeddings, names.INPUT_ACTIONS: actions},
        {ACTIVITY_EMBEDDING: average(item_embeddings, chosen)},
        name="member_tower",
    )
