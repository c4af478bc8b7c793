"""The averages that every embedding has to beat, with decay rates chosen before the test."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from activity_embeddings.training.evaluation import arms
from activity_embeddings.training.evaluation.arms import ArmRole
from activity_embeddings.training.evaluation.contenders import EvaluatedModel
from activity_embeddings.training.evaluation.next_item_counts import NextItemCounts
from activity_embeddings.training.evaluation.plan import Timeline
from activity_embeddings.training.evaluation.result import DecaySearch, RatePoint
from activity_embeddings.training.evaluation.scorers import ScoringModel
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.training.fitting.embed import embed_with
from activity_embeddings.training.fitting.validation import ValidationQueries
from activity_embeddings.training.models import (
    GeometricDecay,
    InterleavedDecay,
    SeveralRatesDecay,
    UnweightedAverage,
)
from activity_embeddings.training.models.averages import DECAYS
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.spec import ItemVectorSpec

SEARCH_DAYS = 14
"""Days before T1 on which r is chosen."""


def search_decay(
    history: ActivityHistory,
    vector_spec: ItemVectorSpec,
    timeline: Timeline,
    *,
    most_members: int | None = None,
) -> list[DecaySearch]:
    """Choose r on the days before T1, by the figure that networks are chosen by.

    Parameters
    ----------
    history, vector_spec
        All activity, and which item vectors.
    timeline
        Says T1.
    most_members
        Maximum number of members who are asked, drawn at random; None for all.

    Returns
    -------
    list of DecaySearch
        One for each average with one rate, `arm`; `best` is the r of the greatest of `points`.
    """
    period = Period(timeline.rank_from - timedelta(days=SEARCH_DAYS), timeline.rank_from)
    queries = ValidationQueries.of(history, period, most_members=most_members)
    searches: list[DecaySearch] = []
    for arm, kind in ((arms.DECAY, GeometricDecay), (arms.SINGLE_DECAY, InterleavedDecay)):
        points: list[RatePoint] = []
        for r in DECAYS:
            average = kind(r=r).build(history.spec, vector_spec)
            figures = queries.measure(embed_with(average, history.spec))
            points.append({"r": r, "value": figures[FIGURE]})
        best = max(points, key=lambda point: point["value"])["r"]
        searches.append(
            {"arm": arm, "figure": "validation NDCG@10", "points": points, "best": best}
        )
    return searches


def count_tables(history: ActivityHistory, until: datetime) -> list[ScoringModel]:
    """Count what came next in all activity before a time, by the last item and by its action."""
    counted = {
        arms.ITEM_COUNTS: ("counts of what came next after the last item", False),
        arms.ITEM_ACTION_COUNTS: ("counts of what came next after the last item and action", True),
    }
    return [
        ScoringModel(name, title, (NextItemCounts.of(history, until, by_action=by_action),))
        for name, (title, by_action) in counted.items()
    ]


def package_references(
    folder: Path,
    history: ActivityHistory,
    vector_spec: ItemVectorSpec,
    rates: Mapping[str, float],
) -> list[EvaluatedModel]:
    """Package the averages into a folder.

    Parameters
    ----------
    folder
        Gets a SavedModel for each.
    history, vector_spec
        Which sequences and vectors they are made for.
    rates
        The chosen r by arm; see `search_decay`.
    """
    r, single = rates[arms.DECAY], rates[arms.SINGLE_DECAY]
    # Two rates beside r, so that the three together differ.
    two = (0.5, 0.98) if r not in (0.5, 0.98) else (0.6, 0.95)
    models = {
        arms.MEAN: ("plain mean, a vector an action", UnweightedAverage()),
        arms.DECAY: (f"geometric decay, a vector an action (r = {r:g})", GeometricDecay(r=r)),
        arms.SINGLE_DECAY: (
            f"one decay of all positives (r = {single:g})",
            InterleavedDecay(r=single),
        ),
        arms.SEVERAL_RATES: ("decays at three rates", SeveralRatesDecay()),
        arms.TWO_RATES: ("decays at two rates", SeveralRatesDecay(rates=two)),
    }
    for name, (_, model) in models.items():
        package_model(
            model.build(history.spec, vector_spec),
            folder / name,
            name=name,
            version="1",
            spec=history.spec,
            vector_spec=vector_spec,
            litert=False,  # it is run here and now
        )
    return [
        EvaluatedModel(name, title, ArmRole.REFERENCE, (folder / name,))
        for name, (title, _) in models.items()
    ]
