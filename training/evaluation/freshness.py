"""What an older embedding loses: the candidate measured with embeddings of several ages."""

from __future__ import annotations

from datetime import timedelta

from activity_embeddings.training.evaluation import arms
from activity_embeddings.training.evaluation.arms import Arm, ArmRole, Kind, Source
from activity_embeddings.training.evaluation.findings import paired
from activity_embeddings.training.evaluation.measure import Measured, measure_arm
from activity_embeddings.training.evaluation.member_vectors import MemberVectors
from activity_embeddings.training.evaluation.plan import EvaluationPlan
from activity_embeddings.training.evaluation.result import Figures, Freshness, FreshnessPoint
from activity_embeddings.training.figure import FIGURE

LAGS = {
    "0": timedelta(0),
    "1 minute": timedelta(minutes=1),
    "1 hour": timedelta(hours=1),
    "1 day": timedelta(days=1),
    "7 days": timedelta(days=7),
}


def freshness_curve(
    candidate: str,
    day: Measured,
    like: Measured | None,
    vectors: MemberVectors,
    plan: EvaluationPlan,
) -> Freshness:
    """Measure the candidate with embeddings of several ages, for what a faster cadence buys."""
    points: list[FreshnessPoint] = []
    for lag, delta in LAGS.items():
        arm = Arm(f"lag {lag}", lag, ArmRole.CONTROL, (Source(Kind.AS_OF, candidate, delta),))
        aged = [_aged(measured, arm, vectors, plan) for measured in (day, like) if measured]
        figures: Figures = {}
        for measured in aged:
            figures |= measured.mean_figures()[arm.name]
        pair = [(arm.name, arms.NOTHING)]
        (found,) = paired(aged[0].of_members(FIGURE), pair, plan.declared)
        points.append(
            {
                "lag": lag,
                "seconds": delta.total_seconds(),
                **figures,
                "difference": found.difference,
                "low": found.low,
                "high": found.high,
            }
        )
    return {"arm": candidate, "points": points}


def _aged(measured: Measured, arm: Arm, vectors: MemberVectors, plan: EvaluationPlan) -> Measured:
    """Return a task with the figures of one more arm beside those of nothing."""
    aged = Measured(measured.task, {arms.NOTHING: measured.figures_of[arms.NOTHING]})
    measure_arm(aged, arm, vectors, plan)
    return aged
