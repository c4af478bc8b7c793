"""What an evaluation is made from, and the tables of features that need no embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings.training.evaluation.base_features import (
    ITEM_STATISTICS,
    MEMBER_STATISTICS,
    PROFILE,
    BaseFeatures,
    Categories,
    content_match,
)
from activity_embeddings.training.evaluation.member_vectors import (
    RECENT_CATEGORIES,
    TRUE_PREFERENCE,
)
from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.evaluation.store import EvaluationStore, Schedule, Table
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period, become_utc
from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import codes_of, single_chunk, time_column
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ItemVectorSpec

MEMBER_STATISTICS_VIEW = "member_statistics"
ITEM_STATISTICS_VIEW = "item_statistics"
TRUE_MEMBERS = "members.parquet"
TRUE_ITEMS = "items.parquet"
CONTENT_MATCH = "content_match"
MEMBER = "member_"
TO_DATE = ("positives", "days_since_activity", f"{MEMBER}positive_share", CONTENT_MATCH)
"""The least that a ranker has: popularity and recency of an item, the member's positive rate and
content match, all to date. What was popular of late is not among them."""


@dataclass(frozen=True)
class Timeline:
    """The cut dates T1, T2 and T3.

    Parameters
    ----------
    rank_from, test_from, until : times with a zone, ascending; they become UTC datetimes.

    Raises
    ------
    InvalidInput
        One is no time or has no zone, or they are not in order.
    """

    rank_from: datetime
    test_from: datetime
    until: datetime

    def __post_init__(self) -> None:
        become_utc(self, "timeline", "rank_from", "test_from", "until")
        _ = self.ranker, self.test  # each raises if its two are not in order

    @property
    def ranker(self) -> Period:
        """The days that the ranker learns from."""
        return Period(self.rank_from, self.test_from)

    @property
    def test(self) -> Period:
        """The days that it is tested on."""
        return Period(self.test_from, self.until)


@dataclass(frozen=True, eq=False)
class Data:
    """What is evaluated on.

    Parameters
    ----------
    history : all events from the first on, and item vectors.
    vector_spec : which vectors.
    postings : `job_id`, `event_timestamp` and the columns of categories.
    category_columns : their names.
    schedule : of the daily run.
    description : one line for people.
    simulated : whether members are made up.
    truth : folder with `members.parquet` and `items.parquet` of a simulated market, or None.
    """

    history: ActivityHistory
    vector_spec: ItemVectorSpec
    postings: pa.Table
    category_columns: tuple[str, ...]
    schedule: Schedule
    description: str
    simulated: bool = False
    truth: Path | None = None

    def __post_init__(self) -> None:
        if self.truth is None:
            return
        known = {
            TRUE_MEMBERS: (names.MEMBER_ID, self.history.events.member_ids.type),
            TRUE_ITEMS: (names.ITEM_ID, self.history.vectors.item_ids.type),
        }
        for file, (column, of_type) in known.items():
            path = self.truth / file
            received = "no such file"
            if path.is_file():
                schema = pq.read_schema(path)
                found = schema.field(column).type if column in schema.names else "none"
                if found == of_type:
                    continue
                received = f"{column} {found}"
            raise InvalidInput(
                f"truth: expected {path}, as a simulated market writes it, with the {column} "
                f"{of_type} of the events. Received: {received}"
            )


def posted_at(data: Data) -> np.ndarray:
    """Return when each item was posted first, or else when it first had a vector, int64 [J]."""
    vectors = data.history.vectors
    posted = vectors.known_at(vectors.item_ids).copy()
    ids = single_chunk(data.postings, names.ITEM_ID).cast(vectors.item_ids.type)
    item = codes_of(ids, vectors.item_ids)
    time = time_column(data.postings, names.EVENT_TIMESTAMP, names.JOBS.postings_view)
    np.minimum.at(posted, item[item >= 0], time[item >= 0])
    return posted


def feature_tables(base: BaseFeatures, queries: Sequence[Queries], data: Data) -> list[Table]:
    """Make the feature views of what is known without an embedding, as of each daily run."""
    history, schedule = data.history, data.schedule
    member = np.concatenate([q.member for q in queries])
    as_of = schedule.newest(np.concatenate([q.time for q in queries]))
    pairs = np.unique(np.stack([member, as_of]), axis=1)
    ids = history.events.member_ids.take(pa.array(pairs[0]))
    moments = np.unique(as_of)
    of_items = [base.of_items(int(moment)) for moment in moments]
    items = history.vectors.item_ids
    tables = [
        Table(MEMBER_STATISTICS_VIEW, "member", ids, pairs[1], base.of_members(pairs[0], pairs[1])),
        Table(
            ITEM_STATISTICS_VIEW,
            "item",
            pa.concat_arrays([items] * len(moments)),
            np.repeat(moments, len(items)),
            {name: np.concatenate([c[name] for c in of_items]) for name in ITEM_STATISTICS},
        ),
    ]
    if base.categories.names:
        recent = base.recent_categories(pairs[0], pairs[1])
        tables.append(Table(RECENT_CATEGORIES, "member", ids, pairs[1], recent))
    if data.truth is not None:
        tables.append(_true_preferences(data))
    return tables


def _true_preferences(data: Data) -> Table:
    assert data.truth is not None
    truth = pq.read_table(data.truth / TRUE_MEMBERS)
    known = codes_of(single_chunk(truth, names.MEMBER_ID), data.history.events.member_ids) >= 0
    truth = truth.filter(pa.array(known))
    time = time_column(truth, names.EVENT_TIMESTAMP, "truth")
    vectors = np.stack(single_chunk(truth, "preference").to_numpy(zero_copy_only=False))
    # Known when it holds, not when a daily run has seen it.
    return Table(
        TRUE_PREFERENCE,
        "member",
        single_chunk(truth, names.MEMBER_ID),
        time - data.schedule.delay_us,
        {"preference": vectors},
    )


def true_item_vectors(data: Data) -> np.ndarray | None:
    """Return the true vectors of the items of a simulated market, float32 [J, D], or None."""
    if data.truth is None:
        return None
    truth = pq.read_table(data.truth / TRUE_ITEMS)
    items = data.history.vectors.item_ids
    vectors = np.stack(single_chunk(truth, "vector").to_numpy(zero_copy_only=False))
    matrix = np.zeros((len(items), vectors.shape[1]), np.float32)
    place = codes_of(single_chunk(truth, names.ITEM_ID), items)
    matrix[place[place >= 0]] = vectors[place >= 0]
    return matrix


def base_columns(categories: Categories) -> tuple[str, ...]:
    """Return the names of the columns of `base_rows`."""
    of_members = tuple(f"{MEMBER}{name}" for name in MEMBER_STATISTICS)
    return (*ITEM_STATISTICS, *of_members, *((CONTENT_MATCH,) if categories.names else ()))


def base_rows(
    store: EvaluationStore, queries: Queries, categories: Categories, data: Data
) -> np.ndarray:
    """Join the base features and lay them beside each row: float32 [R, F], as `base_columns`."""
    history, schedule = data.history, data.schedule
    ids = history.events.member_ids.take(pa.array(queries.member))
    of_member = store.join(MEMBER_STATISTICS_VIEW, ids, queries.time)
    query = queries.query
    as_of = schedule.newest(queries.time)[query]
    # An item's values change with the daily run alone: each pair is joined once.
    moments, moment = np.unique(as_of, return_inverse=True)
    pair = moment * len(history.vectors.item_ids) + queries.item
    pairs, row = np.unique(pair, return_inverse=True)
    item = pairs % len(history.vectors.item_ids)
    of_item = store.join(
        ITEM_STATISTICS_VIEW,
        history.vectors.item_ids.take(pa.array(item)),
        moments[pairs // len(history.vectors.item_ids)] + schedule.delay_us,
    )
    columns = [of_item[name][row] for name in ITEM_STATISTICS]
    columns += [of_member[name][query] for name in MEMBER_STATISTICS]
    if categories.names:
        columns.append(content_match(of_member[PROFILE], categories, query, queries.item))
    return np.stack(columns, axis=1).astype(np.float32)
