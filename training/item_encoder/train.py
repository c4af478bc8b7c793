"""Item embeddings: a two-tower model of what postings say and of who wanted them.

The item tower reads a posting: a bag of its words and categories through a small network, plus a
vector of the item's own, which is dropped at random in training, so that a posting that nobody has
acted on yet gets a useful vector from its content. The member tower is the decaying average of
the vectors of the items that the member wanted lately, by the same item tower. Both are trained
together to rank the items that members go on to want (see `FuturePositives`): a score is the sum
of the element-wise product of the two towers. Then the item tower is split off and packaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf
from keras import ops
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer

from activity_embeddings.training.examples.history import INPUT_ITEM_ROWS, ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.loop import VALIDATION, Fit, fit_task
from activity_embeddings.training.fitting.validation import RankingQueries, embed_with
from activity_embeddings.training.models.base import ACTIVITY_EMBEDDING
from activity_embeddings.training.models.layers import LearnedDecay, OneHotAction
from activity_embeddings.training.objectives import (
    FuturePositives,
    FuturePositivesTask,
    Lookup,
    NextPositive,
)
from activity_embeddings.training.objectives.future_positives import (
    DAY_ROWS,
    DISMISSED_ROWS,
    NEGATIVE_ROWS,
    TARGET_ROWS,
)
from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.arrow import (
    id_column,
    rank_encode,
    require_columns,
    require_no_nulls,
    single_chunk,
    take_rows,
    time_column,
)
from activity_embeddings.transformations.errors import InvalidData, InvalidInput
from activity_embeddings.transformations.inference.tensorflow import held_back_stderr
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.times import Time, parse_datetime, to_datetime, to_us
from activity_embeddings.transformations.wording import counted

ENCODER_FIT = Fit(learning_rate=2e-3, epochs=20, patience=3)
"""How the towers are fitted by default."""

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
    text : string columns whose words count.
    categories : columns whose values count as they are: strings, lists of strings, or integers.
    tokens : int. Most words and categories of one posting that are read.
    buckets : int. Words and categories are hashed into so many vectors, at most 2^31 - 2.
    hidden : int. Length of the hidden layer.
    dropout : float. Share of the hidden layer dropped in training.
    id_dropout : float. Share of the items' own vectors dropped in training.
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

    def build(self, known_items: int, words: np.ndarray) -> keras.Model:
        """Return the untrained item tower.

        Parameters
        ----------
        known_items : how many items have a vector of their own.
        words : float32 [buckets + 1, D]; the tokens' vectors to start from.

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
        there = ops.expand_dims(ops.cast(tokens > 0, "float32"), 2)
        bag = keras.layers.UnitNormalization(name="bag")(ops.sum(embed(tokens) * there, axis=1))
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
        tokens : int32 [items, n], of the postings to learn from.
        dimension : length D of a vector; unused dimensions of tiny data are zero.
        seed : of the randomised SVD.

        Returns
        -------
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
        columns : tensors by name: strings or integers [items], lists of strings [items, n] padded
            with "".

        Returns
        -------
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


class _TwoTowerTask(FuturePositivesTask):
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
        """Encode the items of the batch, each once; see `Task.lookup`."""
        kinds = (INPUT_ITEM_ROWS, TARGET_ROWS, DISMISSED_ROWS, NEGATIVE_ROWS, DAY_ROWS)
        there = [ops.reshape(inputs[name], (-1,)) for name in kinds if name in inputs]
        rows = ops.concatenate(there, axis=0)
        distinct, _ = tf.unique(rows)
        places = tf.scatter_nd(distinct[:, None], tf.range(tf.size(distinct)), [self.pad_row + 1])
        encoded = self.item_tower(
            {name: ops.take(values, distinct, axis=0) for name, values in self.item_inputs.items()},
            training=training,
        )
        encoded = encoded * ops.cast(distinct != self.pad_row, "float32")[:, None]
        return lambda wanted: ops.take(encoded, ops.take(places, wanted), axis=0)


class _PackagedEncoder(tf.Module):
    """The item tower from raw columns of postings on: what is packaged."""

    def __init__(
        self, settings: TowerSettings, tower: keras.Model, known_ids: pa.Array, columns: pa.Schema
    ) -> None:
        super().__init__()
        self._settings = settings
        self._tower = tower
        id_type = _tensor_type(known_ids.type)
        self._numbers = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(known_ids.to_pylist(), id_type),
                tf.range(1, len(known_ids) + 1, dtype=tf.int32),
            ),
            default_value=0,
        )
        signature = {names.ITEM_ID: tf.TensorSpec([None], id_type, names.ITEM_ID)}
        for name in (*settings.text, *settings.categories):
            kind = columns.field(name).type
            is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
            signature[name] = tf.TensorSpec(
                [None, None] if is_list else [None],
                _tensor_type(kind.value_type if is_list else kind),
                name,
            )
        self.columns = signature
        self.serve = tf.function(self._serve, input_signature=list(signature.values()))

    def _serve(self, *columns: Any) -> dict[str, Any]:
        given = dict(zip(self.columns, columns, strict=True))
        known_item = self._numbers.lookup(given[names.ITEM_ID])
        inputs = {TOKENS: self._settings.tokens_of(given), KNOWN_ITEM: known_item}
        return {names.EMBEDDING: self._tower(inputs, training=False)}


def _tensor_type(kind: pa.DataType) -> tf.DType:
    return tf.int64 if pa.types.is_integer(kind) else tf.string


def train_item_encoder(
    events: pa.Table | ActivityEvents,
    postings: pa.Table,
    *,
    until: Time,
    dimension: int = 64,
    seed: int = 0,
    validation_days: float = 14.0,
    encoder: TowerSettings | None = None,
    objective: FuturePositives | None = None,
    fit: Fit | None = None,
    spec: ActivitySpec | None = None,
    run: Path | None = None,
    verbose: int = 0,
) -> tuple[tf.Module, dict[str, Any]]:
    """Train item embeddings on activity strictly before `until`, and split the encoder off.

    The last `validation_days` say when to stop; then the same number of epochs is trained anew on
    all activity before `until`, since what is newest matters most.

    Parameters
    ----------
    events : columns `member_id`, `job_id`, `action`, `event_timestamp`; or as they were checked.
    postings : `job_id`, `event_timestamp` and the encoder's columns; of an item's several rows the
        newest before `until` counts, and items without one are left out.
    until : a time with a zone, see `activity_embeddings.transformations.times.Time`. No event at or after it is read;
        the vectors are valid from it on.
    dimension : int. Length D of a vector.
    seed : int. Of weights, examples and dropout.
    encoder, objective, fit, spec : settings, with defaults for each.
    run : folder for checkpoints and TensorBoard's logs; training goes on from a checkpoint there.
    verbose : 1 shows a progress bar for each epoch.

    Returns
    -------
    (module, facts)
        What `package_item_encoder` takes: a module with a function `serve`, and `training`,
        `metrics` and `parameters` as JSON values.

    Raises
    ------
    InvalidInput
        Events or postings are malformed, or there is too little activity before `until`, which is
        no time or has no zone.
    """
    until = parse_datetime(until, "item encoder: `until`", zone=True)
    encoder, spec = encoder or TowerSettings(), spec or ActivitySpec()
    fit = replace(fit or ENCODER_FIT, seed=seed)
    objective = objective or NextPositive()
    if isinstance(events, pa.Table):
        events = ActivityEvents.from_arrow(events, spec)
    past = _before(events, until)
    postings = _one_a_item(postings, until)
    columns = {
        **{name: _tensor(postings, name, lists=False) for name in encoder.text},
        **{name: _tensor(postings, name, lists=True) for name in encoder.categories},
    }
    with held_back_stderr():  # of oneDNN, which has a note on whole numbers
        tokens = encoder.tokens_of(columns).numpy()
    tokens = np.vstack([tokens, np.zeros(encoder.tokens, np.int32)])
    # Columns that no posting fills would be looked up in every step.
    tokens = tokens[:, : max(1, int((tokens > 0).any(axis=0).sum()))]
    vectors = _placeholder_vectors(postings.column(names.ITEM_ID), dimension)
    history = ActivityHistory.of(past, vectors, spec)

    start = to_datetime(int(history.events.time.min()))
    split_at = until - timedelta(days=validation_days)
    searched = _Towers(encoder, objective, history, tokens, Period(start, split_at), fit)
    epochs = searched.fit(Period(split_at, until), _within(run, "validation"), verbose)
    best = max(epochs, key=lambda figures: figures[VALIDATION])
    final_fit = replace(fit, epochs=epochs.index(best) + 1)
    final = _Towers(encoder, objective, history, tokens, Period(start, until), final_fit)
    final.fit(None, _within(run, "final"), verbose)
    facts = {
        "training": {
            "task": "items that members go on to want, by two towers",
            **Period(start, until).to_dict(),
            "validation_start": split_at.isoformat(),
            "examples": objective.balance(history, Period(start, until), seed=seed),
            "history": epochs,
            "epochs": final_fit.epochs,
        },
        "metrics": {"validation": best},
        "parameters": {
            "encoder": encoder.to_dict(),
            **objective.to_dict(),
            "fit": fit.to_dict(),
            "weights": final.item_tower.count_params(),
        },
    }
    known_ids = vectors.item_ids.take(pa.array(final.known_items))
    return _PackagedEncoder(encoder, final.item_tower, known_ids, postings.schema), facts


class _Towers:
    """Both towers, made for one period of training."""

    def __init__(
        self,
        encoder: TowerSettings,
        objective: FuturePositives,
        history: ActivityHistory,
        tokens: np.ndarray,
        period: Period,
        settings: Fit,
    ) -> None:
        self.history, self.settings = history, settings
        self.encoder, self.objective, self.period = encoder, objective, period
        events, vectors = history.events, history.vectors
        inside = (events.time >= period.start_us) & (events.time < period.end_us)
        self.known_items = np.unique(events.item[inside])
        known_item = np.zeros(len(vectors.matrix), np.int32)
        known_item[self.known_items] = np.arange(1, len(self.known_items) + 1)

        keras.utils.set_random_seed(settings.seed)
        words = encoder.semantic_words(tokens[self.known_items], vectors.dimension, settings.seed)
        self.item_tower = encoder.build(len(self.known_items), words)
        vector_spec = ItemVectorSpec("item_tower", "1", vectors.dimension)
        self.member_tower = _member_tower(history.spec, vector_spec)
        self.inputs = {TOKENS: tokens, KNOWN_ITEM: known_item}
        self.task = _TwoTowerTask(
            self.member_tower, self.item_tower, self.inputs, history, period, objective
        )
        self.embed = embed_with(self.member_tower, history.spec)
        self.stream = objective.stream(
            history, period, batch_size=settings.batch_size, seed=settings.seed
        )

    def fit(
        self, validation: Period | None, run: Path | None, verbose: int
    ) -> list[dict[str, float]]:
        """Train; without a validation period, all epochs, and keep the last."""
        validate = None
        if validation is not None:
            queries = RankingQueries.of(self.history, validation)
            validate = partial(self._measure, queries)
        identity = {
            "encoder": self.encoder.to_dict(),
            "objective": self.objective.to_dict(),
            "fit": self.settings.to_dict(),
            "period": self.period.to_dict(),
            "events": len(self.history.events),
            "weights": self.item_tower.count_params(),
        }
        return fit_task(
            self.task,
            self.stream,
            validate,
            self.settings,
            run=run,
            identity=identity,
            verbose=verbose,
        )

    def _measure(self, queries: RankingQueries) -> dict[str, float]:
        """Return the validation figures of the towers as they are."""
        matrix = self.item_tower.predict(self.inputs, batch_size=4096, verbose=0)
        matrix[-1] = 0.0
        history = replace(self.history, vectors=replace(self.history.vectors, matrix=matrix))
        queries = replace(queries, history=history)
        return queries.measure(self.embed)


def _member_tower(spec: ActivitySpec, vector_spec: ItemVectorSpec) -> keras.Model:
    """Return the decaying average with its decay to be learnt."""
    item_embeddings = keras.Input(
        (spec.length, vector_spec.dimension), name=names.INPUT_ITEM_EMBEDDINGS
    )
    actions = keras.Input((spec.length,), dtype="int32", name=names.INPUT_ACTIONS)
    chosen = OneHotAction(len(spec.actions))(actions)
    average = LearnedDecay(len(spec.actions), list(spec.positive_ids), name="learned_decay")
    return keras.Model(
        {names.INPUT_ITEM_EMBEDDINGS: item_embeddings, names.INPUT_ACTIONS: actions},
        {ACTIVITY_EMBEDDING: average(item_embeddings, chosen)},
        name="member_tower",
    )


def _before(events: ActivityEvents, until: datetime) -> ActivityEvents:
    return events.where(events.time < to_us(until))


def _one_a_item(postings: pa.Table, until: datetime) -> pa.Table:
    """Return the newest posting of each item before a time, ascending by id.

    Raises
    ------
    InvalidInput
        A column is missing or malformed, or no posting is so old.
    """
    require_columns(postings.column_names, (names.ITEM_ID, names.EVENT_TIMESTAMP), "postings")
    time = time_column(postings, names.EVENT_TIMESTAMP, "postings")
    _, code = rank_encode(id_column(postings, names.ITEM_ID, "postings"))
    order = np.lexsort((time, code))
    order = order[time[order] < to_us(until)]
    if not len(order):
        raise InvalidData(
            f"postings: expected some before {until}. Received: "
            f"{counted(len(postings), 'row')}, none so old"
        )
    newest = np.append(code[order[1:]] != code[order[:-1]], True)
    return take_rows(postings, order[newest])


def _placeholder_vectors(item_ids: pa.ChunkedArray, dimension: int) -> ItemVectors:
    """Return one zero vector an item, known always: the towers make the real ones."""
    count = len(item_ids)
    return ItemVectors(
        item_ids=item_ids.combine_chunks(),
        start=np.arange(count + 1),
        time=np.full(count, np.iinfo(np.int64).min),
        matrix=np.zeros((count + 1, dimension), np.float32),
    )


def _tensor(postings: pa.Table, name: str, *, lists: bool) -> Any:
    """Return a column of postings as a tensor; lists are padded with "".

    Raises
    ------
    InvalidInput
        The column is missing, holds nulls, or is neither text nor, with `lists`, categories.
    """
    require_columns(postings.column_names, [name], "postings")
    column = single_chunk(postings, name)
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    one = kind.value_type if is_list else kind
    if not (
        (lists or not is_list)
        and (_is_text(one) or (lists and not is_list and pa.types.is_integer(one)))
    ):
        expected = "string, list<string> or integer" if lists else "string"
        raise InvalidData(
            f"postings: column {name!r} should be {expected}. Received: {column.type}"
        )
    require_no_nulls(column, name, "postings")
    values = column.to_pylist()
    if is_list:
        return tf.ragged.constant(values, tf.string, ragged_rank=1).to_tensor("")
    return tf.constant(values, _tensor_type(kind))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _within(run: Path | None, name: str) -> Path | None:
    return None if run is None else run / name
