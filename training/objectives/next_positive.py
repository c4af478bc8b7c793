"""Rank the item wanted next before others of the same day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from activity_embeddings.training.objectives.future_positives import FuturePositives


@dataclass(frozen=True, kw_only=True)
class NextPositive(FuturePositives):
    """`FuturePositives` with one target, the activity at the moment itself, and its day's items.

    Items come and go. Against items of all times a model learns which items belong to which season,
    which is no news on the day, and item vectors learnt so put new postings last. So the negatives
    are what members did on the same UTC day, as often as they did it; compare
    `benchmarks/training_quality.py`.
    """

    name: ClassVar[str] = "next_positive"
    horizon_days: float = 0.0
    targets: int = 1
    uniform_negatives: int = 0
    popular_negatives: int = 0
    day_negatives: int = 32
    in_batch: bool = False
    log_q: bool = False
