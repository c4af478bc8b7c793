"""Train an item encoder: item vectors of what postings say and of who wanted them.

Both towers are trained together to rank the items that members want next (see
`FuturePositives`). Then the item tower is split off, to be packaged. With a network as the member
tower, vectors get the freedom to say what follows what, and the network is an activity model of
these very vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf

from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period, become_utc
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.training.fitting.embed import embed_with, sequences_of_members
from activity_embeddings.training.fitting.loop import Fit, fit_task
from activity_embeddings.training.fitting.provenance import fingerprint, fingerprints
from activity_embeddings.training.fitting.validation import MOST_MEMBERS, ValidationQueries
from activity_embeddings.training.item_encoder.export import PackagedEncoder, posting_tensor
from activity_embeddings.training.item_encoder.towers import (
    KNOWN_ITEM,
    TOKENS,
    TowerSettings,
    TwoTowerTask,
    member_tower,
)
from activity_embeddings.training.models import Network
from activity_embeddings.training.objectives import FuturePositives, NextPositive
from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.arrow import (
    id_column,
    rank_encode,
    require_columns,
    take_rows,
    time_column,
)
from activity_embeddings.transformations.errors import InvalidData
from activity_embeddings.transformations.inference.tensorflow import held_back_stderr
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.times import to_datetime, to_us
from activity_embeddings.transformations.wording import counted

ENCODER_FIT = Fit(learning_rate=2e-3, epochs=20, patience=3)
"""How the towers are fitted by default."""


@dataclass(frozen=True)
class EncoderPlan:
    """What an item encoder is trained for, and how.

    Parameters
    ----------
    until
        A time with a zone; it becomes a UTC datetime. No event at or after it is read, and the
        vectors are valid from it on.
    dimension
        Length D of a vector.
    validation_days
        The days before `until` that say when to stop.
    towers, objective, fit, spec
        Settings of the item tower, of what both learn, of how, and of sequences. The seed of the
        fit is that of weights, examples and dropout.
    network
        The member tower; None: the decaying average with its decay to be learnt.
    item_id
        Column of the items' ids, which becomes an input of the encoder.

    Raises
    ------
    InvalidInput
        `until` is no time or has no zone.
    """

    until: datetime
    dimension: int = 64
    validation_days: float = 14.0
    towers: TowerSettings = field(default_factory=TowerSettings)
    objective: FuturePositives = field(default_factory=NextPositive)
    fit: Fit = ENCODER_FIT
    spec: ActivitySpec = field(default_factory=ActivitySpec)
    network: Network | None = None
    item_id: str = names.ITEM_ID

    def __post_init__(self) -> None:
        become_utc(self, "item encoder", "until")

    def member_tower(self) -> keras.Model:
        """Return the untrained member tower."""
        if self.network is None:
            return member_tower(self.spec, self.dimension)
        return self.network.build(self.spec, ItemVectorSpec("untrained", "1", self.dimension))

    def network_facts(self) -> dict[str, Any]:
        """Return the network as JSON values, nothing where there is none."""
        if self.network is None:
            return {}
        return {"network": {"architecture": self.network.name, **self.network.to_dict()}}


@dataclass(frozen=True, eq=False)
class TrainedTowers:
    """Both towers after training.

    Attributes
    ----------
    encoder
        The item tower: a module with a function `serve`, which `package_item_encoder` takes.
    member_tower
        What `package_model` takes; it reads vectors of `encoder`.
    sequences
        What the member tower reads of some members as of `until`; see `TrainedRun.sequences`.
    facts
        `training`, `metrics` and `parameters` as JSON values.
    """

    encoder: tf.Module
    member_tower: keras.Model
    sequences: dict[str, np.ndarray]
    facts: dict[str, Any]


def train_towers(
    events: pa.Table | ActivityEvents,
    postings: pa.Table,
    plan: EncoderPlan,
    *,
    run: Path | None = None,
    verbose: int = 0,
) -> TrainedTowers:
    """Train item vectors on activity strictly before `plan.until`, and split the encoder off.

    The validation days say when to stop, with postings as they were before. Then the same number
    of epochs is trained from scratch on all activity before `plan.until`, since what is newest
    matters most.

    Parameters
    ----------
    events
        Columns `member_id`, `job_id`, `action`, `event_timestamp`; or as they were checked.
    postings
        Ids of items, `event_timestamp` and the columns of the towers. Of an item's several rows the
        newest before `plan.until` counts, and items without one are left out. When to stop is told
        by the newest before the validation days, or the first one where all are later.
    plan
        What is trained.
    run
        Folder for checkpoints and TensorBoard's logs. Training is resumed from a checkpoint in it.
    verbose
        1 shows a progress bar for each epoch.

    Raises
    ------
    InvalidInput
        Events or postings are malformed, or there is too little activity before `plan.until`.
    """
    if isinstance(events, pa.Table):
        events = ActivityEvents.from_arrow(events, plan.spec)
    past = events.where(events.time < to_us(plan.until))
    split_at = plan.until - timedelta(days=plan.validation_days)
    # When to stop is told by what was known before the days that are asked about.
    known = _newest_postings(postings, plan, split_at)
    postings = _newest_postings(postings, plan, plan.until)
    vectors = _placeholder_vectors(postings.column(plan.item_id), plan.dimension)
    history = ActivityHistory.of(past, vectors, plan.spec)

    start = to_datetime(int(history.events.time.min()))
    period, validation = Period(start, split_at), Period(split_at, plan.until)
    searched = _Training(plan, history, _tokens(known, plan.towers), period, plan.fit)
    epochs = searched.fit(validation, _within(run, "validation"), verbose)
    best = max(epochs, key=lambda figures: figures[FIGURE])
    final_fit = replace(plan.fit, epochs=epochs.index(best) + 1)
    whole = Period(start, plan.until)
    final = _Training(plan, history, _tokens(postings, plan.towers), whole, final_fit)
    final.fit(None, _within(run, "final"), verbose)
    facts = {
        "training": {
            "task": "items that members go on to want, by two towers",
            **whole.to_dict(),
            "period": period.to_dict(),
            "validation": validation.to_dict(),
            "refit": True,
            "examples": plan.objective.balance(history, whole, seed=plan.fit.seed),
            "history": epochs,
            "epochs": final_fit.epochs,
        },
        "metrics": {"validation": best},
        "parameters": {
            "encoder": plan.towers.to_dict(),
            **plan.network_facts(),
            **plan.objective.to_dict(),
            "fit": plan.fit.to_dict(),
            "weights": final.item_tower.count_params(),
        },
    }
    known_ids = vectors.item_ids.take(pa.array(final.known_items))
    module = PackagedEncoder(
        plan.towers, final.item_tower, known_ids, postings.schema, plan.item_id
    )
    sequences = sequences_of_members(final.member_tower, final.history(), to_us(plan.until))
    return TrainedTowers(module, final.member_tower, sequences, facts)


class _Training:
    """The training of both towers on one period."""

    def __init__(
        self,
        plan: EncoderPlan,
        history: ActivityHistory,
        tokens: np.ndarray,
        period: Period,
        fit: Fit,
    ) -> None:
        self._plan, self._history, self._period, self._fit = plan, history, period, fit
        events, vectors = history.events, history.vectors
        inside = (events.time >= period.start_us) & (events.time < period.end_us)
        self.known_items = np.unique(events.item[inside])
        known_item = np.zeros(len(vectors.matrix), np.int32)
        known_item[self.known_items] = np.arange(1, len(self.known_items) + 1)

        keras.utils.set_random_seed(fit.seed)
        words = plan.towers.semantic_words(tokens[self.known_items], vectors.dimension, fit.seed)
        self.item_tower = plan.towers.build(len(self.known_items), words)
        self.member_tower = plan.member_tower()
        self._inputs = {TOKENS: tokens, KNOWN_ITEM: known_item}
        self._embed = embed_with(self.member_tower, history.spec)

    def fit(
        self, validation: Period | None, run: Path | None, verbose: int
    ) -> list[dict[str, float]]:
        """Train; without a validation period, train all epochs and keep the last."""
        plan, period, fit = self._plan, self._period, self._fit
        history = self._history.reading(self.member_tower.input)
        validate = None
        if validation is not None:
            queries = ValidationQueries.of(history, validation, most_members=MOST_MEMBERS)
            validate = partial(self._measure, queries)
        identity = {
            "encoder": plan.towers.to_dict(),
            **plan.network_facts(),
            "objective": plan.objective.to_dict(),
            "fit": fit.to_dict(),
            "period": period.to_dict(),
            "validation": None if validation is None else validation.to_dict(),
            "spec": plan.spec.to_dict(),
            "dimension": plan.dimension,
            "item_id": plan.item_id,
            "data": fingerprints(history),
            "postings_fingerprint": fingerprint(self._inputs[TOKENS]),
            "code_version": version("activity-embeddings"),
        }
        return fit_task(
            TwoTowerTask(
                self.member_tower, self.item_tower, self._inputs, history, period, plan.objective
            ),
            plan.objective.stream(history, period, batch_size=fit.batch_size, seed=fit.seed),
            validate,
            fit,
            run=run,
            identity=identity,
            verbose=verbose,
        )

    def history(self) -> ActivityHistory:
        """Return the history with the vectors of the item tower as it is."""
        matrix = self.item_tower.predict(self._inputs, batch_size=4096, verbose=0)
        matrix[-1] = 0.0
        return replace(self._history, vectors=replace(self._history.vectors, matrix=matrix))

    def _measure(self, queries: ValidationQueries) -> dict[str, float]:
        """Return the validation figures of the towers as they are."""
        return replace(queries, history=self.history()).measure(self._embed)


def _newest_postings(postings: pa.Table, plan: EncoderPlan, before: datetime) -> pa.Table:
    """Return one posting of each item that has any before `plan.until`, ascending by id.

    It is the newest before a time, and the first one of an item that has none so early.

    Raises
    ------
    InvalidInput
        A column is missing or malformed, or every posting is newer than `plan.until`.
    """
    require_columns(postings.column_names, (plan.item_id, names.EVENT_TIMESTAMP), "postings")
    time = time_column(postings, names.EVENT_TIMESTAMP, "postings")
    _, code = rank_encode(id_column(postings, plan.item_id, "postings"))
    order = np.lexsort((time, code))
    order = order[time[order] < to_us(plan.until)]
    if not len(order):
        raise InvalidData(
            f"postings: expected some before {plan.until}. Received: "
            f"{counted(len(postings), 'row')}, none so old"
        )
    _, first = np.unique(code[order], return_index=True)
    early = np.add.reduceat(time[order] < to_us(before), first, dtype=np.int64)
    return take_rows(postings, order[first + np.maximum(early, 1) - 1])


def _tokens(postings: pa.Table, towers: TowerSettings) -> np.ndarray:
    """Return the hashed tokens of each posting and a last row of none, int32 [items + 1, n]."""
    columns = {
        **{name: posting_tensor(postings, name, lists=False) for name in towers.text},
        **{name: posting_tensor(postings, name, lists=True) for name in towers.categories},
    }
    with held_back_stderr():  # of oneDNN, which has a note on whole numbers
        tokens = towers.tokens_of(columns).numpy()
    tokens = np.vstack([tokens, np.zeros(towers.tokens, np.int32)])
    # Columns that no posting fills would be looked up in every step.
    return tokens[:, : max(1, int((tokens > 0).any(axis=0).sum()))]


def _placeholder_vectors(item_ids: pa.ChunkedArray, dimension: int) -> ItemVectors:
    """Return one zero vector an item, known always: the towers make the real ones."""
    known = ItemVectors.always_known(item_ids.combine_chunks())
    return replace(known, matrix=np.zeros((len(item_ids) + 1, dimension), np.float32))


def _within(run: Path | None, name: str) -> Path | None:
    return None if run is None else run / name
