"""What a report shows beside the headline: search of r, slices, quality, freshness, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from activity_embeddings.training.evaluation import arms
from activity_embeddings.training.evaluation.arms import Arm, Kind, Role, Source
from activity_embeddings.training.evaluation.base_features import Categories
from activity_embeddings.training.evaluation.data import Data, Timeline
from activity_embeddings.training.evaluation.findings import FIGURE, Declared, paired
from activity_embeddings.training.evaluation.measure import Measured, measure_arm
from activity_embeddings.training.evaluation.member_vectors import EvaluatedModel, MemberVectors
from activity_embeddings.training.evaluation.quality import measure_quality
from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.evaluation.ranker import RankerSettings
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.validation import RankingQueries, embed_with
from activity_embeddings.training.models import GeometricDecay, InterleavedDecay
from activity_embeddings.training.models.averages import DECAYS, negative_outputs
from activity_embeddings.transformations.activity.sequences import MICROSECONDS_PER_DAY
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.spec import ItemVectorSpec

SEARCH_DAYS = 14
"""Days before T1 on which r is chosen."""
FUTURE_DAYS = 7
"""Days after T2 whose positives the nearest items should hold."""
LAGS = {
    "0": timedelta(0),
    "1 minute": timedelta(minutes=1),
    "1 hour": timedelta(hours=1),
    "1 day": timedelta(days=1),
    "7 days": timedelta(days=7),
}
HISTORY_SLICES = {"new (1-3)": (1, 3), "light (4-8)": (4, 8), "heavy (9 and more)": (9, 10**9)}
AGE_SLICES = {"under 1 day": (0, 1), "1-7 days": (1, 7), "over 7 days": (7, 10**9)}
FEW_MOVES = 4
"""Wanted items from which on a member's interests can be said to have moved."""


def search_decay(
    history: ActivityHistory, vector_spec: ItemVectorSpec, timeline: Timeline
) -> list[dict[str, Any]]:
    """Choose r on the days before T1, by the figure that networks are chosen by.

    Returns
    -------
    list of dict
        One for each average with one rate, `arm`; `best` is the r of the greatest of `points`.
    """
    period = Period(timeline.rank_from - timedelta(days=SEARCH_DAYS), timeline.rank_from)
    queries = RankingQueries.of(history, period)
    searches = []
    for arm, kind in ((arms.DECAY, GeometricDecay), (arms.SINGLE_DECAY, InterleavedDecay)):
        points = []
        for r in DECAYS:
            average = kind(r=r).build(history.spec, vector_spec)
            figures = queries.measure(embed_with(average, history.spec))
            points.append({"r": r, "value": figures["ndcg_at_10"]})
        best = max(points, key=lambda point: point["value"])["r"]
        searches.append(
            {"arm": arm, "figure": "validation NDCG@10", "points": points, "best": best}
        )
    return searches


def query_slices(
    queries: Queries, newest: np.ndarray, history: ActivityHistory
) -> dict[str, dict[str, np.ndarray]]:
    """Return the parts of the queries that are looked at by themselves: bool [n] each."""
    count = queries.sequences.count
    age = (queries.time - newest) / MICROSECONDS_PER_DAY
    ages = {v: (newest > 0) & (age >= a) & (age < b) for v, (a, b) in AGE_SLICES.items()}
    ages["none"] = newest == 0
    moved = _movement(queries, history)
    tells = np.isfinite(moved)
    half = np.median(moved[tells]) if tells.any() else 0.0
    return {
        "history": {v: (count >= a) & (count <= b) for v, (a, b) in HISTORY_SLICES.items()},
        "newest activity in the embedding": ages,
        "interests moved": {
            "moved (older and newer half differ most)": tells & (moved < half),
            "stayed": tells & (moved >= half),
        },
    }


def _movement(queries: Queries, history: ActivityHistory) -> np.ndarray:
    """Return the cosine of the older and the newer half of what each member wanted, float [n].

    NaN for members with fewer than `FEW_MOVES` wanted items.
    """
    wanted = np.isin(queries.sequences.action, history.spec.positive_ids)
    rows = queries.sequences.rows(history.vectors)
    newer = wanted[:, ::-1].cumsum(axis=1)[:, ::-1]
    count = wanted.sum(axis=1)
    halves = []
    for chosen in (newer > count[:, None] // 2, newer <= count[:, None] // 2):
        weights = (wanted & chosen).astype(np.float32)
        total = np.zeros((len(queries), history.vectors.dimension), np.float32)
        for position in range(rows.shape[1]):
            total += weights[:, position, None] * history.vectors.matrix[rows[:, position]]
        halves.append(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9))
    return np.where(count >= FEW_MOVES, (halves[0] * halves[1]).sum(axis=1), np.nan)


def quality_of(
    vectors: MemberVectors,
    models: Mapping[str, EvaluatedModel],
    data: Data,
    timeline: Timeline,
    categories: Categories,
) -> dict[str, dict[str, Any]]:
    """Measure each model's embeddings alone, of the members active before T2, as of T2."""
    history, events = data.history, data.history.events
    now = timeline.test.start_us
    as_of = int(data.schedule.newest(np.array([now]))[0])
    recent = (events.time >= as_of - history.spec.window_us) & (events.time < as_of)
    member = np.unique(events.member[recent])
    # Items that can be recommended: with a vector, and acted on by anyone within the window.
    known = history.vectors.known_at(history.vectors.item_ids) <= now
    items = np.flatnonzero(known & np.isin(np.arange(len(known)), events.item[recent]))
    rows = history.rows(items, np.full(len(items), now))
    week = Period(timeline.test_from, timeline.test_from + timedelta(days=FUTURE_DAYS))
    start, wanted = wanted_within(history, week, member, items)
    kinds = [np.flatnonzero(categories.of_items[item]) for item in items]
    negative = negative_outputs(history.spec)
    quality = {}
    for name, model in models.items():
        outputs = vectors.embed(model.view(0), member, np.full(len(member), as_of))
        counted = [values for output, values in outputs.items() if output not in negative]
        quality[name] = measure_quality(
            np.mean(counted, axis=0), history.vectors.matrix[rows], start, wanted, kinds
        )
    return quality


def wanted_within(
    history: ActivityHistory, period: Period, member: np.ndarray, items: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return which of some items each of some members acted on positively in a period.

    Parameters
    ----------
    member : int [n], ascending; positions in `history.events.member_ids`.
    items : int [J]; positions in `history.vectors.item_ids`.

    Returns
    -------
    start : int [n + 1], and
    wanted : int [W]; those of member i are `wanted[start[i]:start[i + 1]]`, positions in `items`.
    """
    events = history.events
    place = np.full(len(history.vectors.item_ids), -1)
    place[items] = np.arange(len(items))
    kept = (events.time >= period.start_us) & (events.time < period.end_us)
    kept &= np.isin(events.action, history.spec.positive_ids) & (place[events.item] >= 0)
    kept &= np.isin(events.member, member)
    start = np.searchsorted(events.member[kept], [*member, len(events.member_ids)])
    return start, place[events.item[kept]]


def freshness_curve(
    candidate: str,
    day: Measured,
    like: Measured | None,
    vectors: MemberVectors,
    settings: RankerSettings,
    declared: Declared,
) -> dict[str, Any]:
    """Measure the candidate with embeddings of several ages, for what a faster cadence buys."""
    points = []
    for lag, delta in LAGS.items():
        arm = Arm(f"lag {lag}", lag, Role.CONTROL, (Source(Kind.AS_OF, candidate, delta),))
        point: dict[str, Any] = {"lag": lag, "seconds": delta.total_seconds()}
        for measured in (day, like) if like else (day,):
            aged = Measured(measured.task, {arms.NOTHING: measured.figures_of[arms.NOTHING]})
            measure_arm(aged, arm, vectors, settings, declared)
            point |= aged.summary()["figures"][arm.name]
            if measured is day:
                of_members = aged.of_members(FIGURE)
                (row,) = paired(of_members, [(arm.name, arms.NOTHING)], declared)
                point |= {"difference": row.difference, "low": row.low, "high": row.high}
        points.append({k: v for k, v in point.items() if k not in ("by_seed", "seed_spread")})
    return {"arm": candidate, "points": points}


def training_curves(described: Mapping[str, Sequence[ModelDescription]]) -> list[dict[str, Any]]:
    """Return the figures of each epoch, as manifests have them, of the first run of each model."""
    return [
        {"model": name, "epochs": list(model.manifest["training"]["history"])}
        for name, (model, *_) in described.items()
        if (model.manifest.get("training") or {}).get("history")
    ]
