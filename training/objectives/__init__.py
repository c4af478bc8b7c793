"""Objectives: what an activity model is trained to do. A new one is one file and one line here."""

from activity_embeddings.training.objectives.base import (
    WEIGHT,
    Finish,
    Lookup,
    Objective,
    TrainingTask,
)
from activity_embeddings.training.objectives.future_positives import (
    FuturePositives,
    FuturePositivesTask,
)
from activity_embeddings.training.objectives.next_positive import NextPositive
from activity_embeddings.training.objectives.next_session import NextSession
from activity_embeddings.training.objectives.proxy import Proxy, ProxyTask

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective for objective in (NextPositive, FuturePositives, NextSession, Proxy)
}

__all__ = [
    "OBJECTIVES",
    "WEIGHT",
    "Finish",
    "FuturePositives",
    "FuturePositivesTask",
    "Lookup",
    "NextPositive",
    "NextSession",
    "Objective",
    "Proxy",
    "ProxyTask",
    "TrainingTask",
]
