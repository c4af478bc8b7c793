"""The tables of features that need no embedding: published as views, joined as columns."""

from __future__ import annotations

from collections.abc import Sequence

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
from activity_embeddings.training.evaluation.data import TRUE_MEMBERS, Data
from activity_embeddings.training.evaluation.member_vectors import (
    RECENT_CATEGORIES,
    TRUE_PREFERENCE,
)
from activity_embeddings.training.evaluation.plan import AsOf
from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.evaluation.store import EvaluationStore, Table
from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import codes_of, single_chunk, time_column

MEMBER_STATISTICS_VIEW = "member_statistics"
ITEM_STATISTICS_VIEW = "item_statistics"
CONTENT_MATCH = "content_match"
MEMBER = "member_"
TO_DATE_COLUMNS = (
    "positives",
    "days_since_activity",
    f"{MEMBER}positive_share",
    CONTENT_MATCH,
)
"""The least that a ranker has: popularity and recency of an item, the member's positive rate and
content match, all to date. Recent popularity is not among them."""


def feature_tables(
    base: BaseFeatures, queries: Sequence[Queries], data: Data, as_of: AsOf
) -> list[Table]:
    """Make the feature views of what is known without an embedding, as of each daily run.

    Values of members as of the request are not among them: no run publishes these.
    """
    history = data.history
    member = np.concatenate([q.member for q in queries])
    cutoff = data.schedule.newest(np.concatenate([q.time for q in queries]))
    moments = np.unique(cutoff)
    of_items = [base.of_items(int(moment)) for moment in moments]
    own = history.own_items
    items = history.vectors.item_ids.take(pa.array(own))
    tables = [
        Table(
            ITEM_STATISTICS_VIEW,
            "item",
            pa.concat_arrays([items] * len(moments)),
            np.repeat(moments, len(items)),
            {name: np.concatenate([c[name][own] for c in of_items]) for name in ITEM_STATISTICS},
        )
    ]
    if as_of == AsOf.PUBLISHED:
        member, cutoff = np.unique(np.stack([member, cutoff]), axis=1)
        ids = history.events.member_ids.take(pa.array(member))
        statistics = base.of_members(member, cutoff)
        tables.append(Table(MEMBER_STATISTICS_VIEW, "member", ids, cutoff, statistics))
        if base.categories.names:
            recent = base.recent_categories(member, cutoff)
            tables.append(Table(RECENT_CATEGORIES, "member", ids, cutoff, recent))
    if data.truth is not None:
        tables.append(_true_preferences(data))
    return tables


def _true_preferences(data: Data) -> Table:
    assert data.truth is not None
    truth = pq.read_table(data.truth / TRUE_MEMBERS)
    member_id = data.truth_names.member_id
    known = codes_of(single_chunk(truth, member_id), data.history.events.member_ids) >= 0
    truth = truth.filter(pa.array(known))
    time = time_column(truth, names.EVENT_TIMESTAMP, "truth")
    vectors = np.stack(single_chunk(truth, "preference").to_numpy(zero_copy_only=False))
    # Known when it holds, not when a daily run has seen it.
    return Table(
        TRUE_PREFERENCE,
        "member",
        single_chunk(truth, member_id),
        time - data.schedule.delay_us,
        {"preference": vectors},
    )


def base_columns(categories: Categories) -> tuple[str, ...]:
    """Return the names of the columns of `base_rows`."""
    of_members = tuple(f"{MEMBER}{name}" for name in MEMBER_STATISTICS)
    return (*ITEM_STATISTICS, *of_members, *((CONTENT_MATCH,) if categories.names else ()))


def base_rows(
    store: EvaluationStore, asked: Sequence[Queries], base: BaseFeatures, as_of: AsOf
) -> list[np.ndarray]:
    """Lay the base features beside each row: float32 [R, F], as `base_columns`.

    What is known of items is as of the daily run either way: a request brings the activity of its
    own member, and nobody else's.
    """
    history, schedule, categories = base.history, store.schedule, base.categories
    member_ids, item_ids = history.events.member_ids, history.vectors.item_ids
    if as_of == AsOf.REQUEST:
        of_members = [base.of_members(queries.member, queries.time) for queries in asked]
    else:
        of_members = store.join_each(
            MEMBER_STATISTICS_VIEW,
            [(member_ids.take(pa.array(queries.member)), queries.time) for queries in asked],
        )
    # An item's values change with the daily run alone: each pair is joined once.
    places, pairs = [], []
    for queries in asked:
        cutoff = schedule.newest(queries.time)[queries.query]
        moments, moment = np.unique(cutoff, return_inverse=True)
        pair, place = np.unique(moment * len(item_ids) + queries.item, return_inverse=True)
        places.append(place)
        known_from = moments[pair // len(item_ids)] + schedule.delay_us
        pairs.append((item_ids.take(pa.array(pair % len(item_ids))), known_from))
    of_items = store.join_each(ITEM_STATISTICS_VIEW, pairs)
    rows = []
    for queries, of_member, of_item, place in zip(asked, of_members, of_items, places, strict=True):
        columns = [of_item[name][place] for name in ITEM_STATISTICS]
        columns += [of_member[name][queries.query] for name in MEMBER_STATISTICS]
        if categories.names:
            profile = of_member[PROFILE]
            columns.append(content_match(profile, categories, queries.query, queries.item))
        rows.append(np.stack(columns, axis=1).astype(np.float32))
    return rows
