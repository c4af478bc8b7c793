"""Objectives: what an activity model is trained to do. A new one is one file and one line here."""

from training.objectives.base import WEIGHT, Finish, Lookup, Objective, Task
from training.objectives.future_positives import FuturePositives, FuturePositivesTask
from training.objectives.next_positive import NextPositive
from training.objectives.proxy import Proxy, ProxyTask

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective for objective in (NextPositive, FuturePositives, Proxy)
}

__all__ = [
    "OBJECTIVES",
    "WEIGHT",
    "Finish",
    "FuturePositives",
    "FuturePositivesTask",
    "Lookup",
    "NextPositive",
    "Objective",
    "Proxy",
    "ProxyTask",
    "Task",
]
