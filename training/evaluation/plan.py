"""What an evaluation measures, fixed before anything is measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from activity_embeddings.training.evaluation.ranker import RankerSettings
from activity_embeddings.training.evaluation.result import DAY, DeclaredFacts
from activity_embeddings.training.evaluation.statistics import CONFIDENCE, POWER, RESAMPLES
from activity_embeddings.training.examples.periods import Period, become_utc
from activity_embeddings.training.figure import FIGURE, MARGIN
from activity_embeddings.transformations.errors import InvalidInput


@dataclass(frozen=True)
class Timeline:
    """The cut dates T1, T2 and T3.

    Parameters
    ----------
    rank_from, test_from, until
        Times with a zone, ascending; they become UTC datetimes.

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


class AsOf(StrEnum):
    """As of when values of a member are, of every arm and of the base features."""

    PUBLISHED = "published"
    """Of the newest daily run that had published before the query."""
    REQUEST = "request"
    """Of the query's own time: from all activity strictly before it."""

    @property
    def says(self) -> str:
        """What tables say of it."""
        if self == AsOf.REQUEST:
            return "values as of the request"
        return "values as the daily run had published them"


@dataclass(frozen=True)
class Declared:
    """How figures are compared.

    Parameters
    ----------
    seeds
        Seeds of the ranker, and of models where each seed has its own.
    resamples
        Resamples of the bootstrap.
    margin
        NDCG@10 that counts as not worse.

    Raises
    ------
    InvalidInput
        There is no seed, or one is there twice.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    resamples: int = RESAMPLES
    margin: float = MARGIN

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InvalidInput(
                "evaluation: `seeds` should be one or more, each once. Received: "
                f"{', '.join(map(str, self.seeds)) or 'none'}"
            )

    def to_dict(self) -> DeclaredFacts:
        """Return it as JSON values."""
        return {
            "task": DAY,
            "figure": FIGURE,
            "seeds": list(self.seeds),
            "resamples": self.resamples,
            "confidence": CONFIDENCE,
            "correction": "Holm",
            "power": POWER,
            "margin": self.margin,
        }


@dataclass(frozen=True)
class Size:
    """How much is measured, the same for every arm.

    Parameters
    ----------
    train_queries, test_queries_of_member
        Train queries and test queries of member of the task `day`.
    week_train_queries, week_test_queries_of_member
        Week train queries and week test queries of member of the task `week`; 0 leaves it out.
    test_members
        Maximum number of members who are tested, drawn at random of those with activity in the
        test; None for all. Of liking, the ranker learns from as many, drawn of those with activity
        in its own days, and as many members choose the rates of decays.
    to_date
        Whether references and models are also measured beside the fewest base features.
    freshness
        Whether the curve is measured.
    """

    train_queries: int = 2000
    test_queries_of_member: int = 4
    week_train_queries: int = 700
    week_test_queries_of_member: int = 1
    test_members: int | None = None
    to_date: bool = True
    freshness: bool = True


QUICK = Size(test_queries_of_member=1, week_train_queries=0, freshness=False)
"""For a look, in minutes."""


@dataclass(frozen=True)
class Target:
    """A claim to be tested: one arm adds to another.

    Parameters
    ----------
    arm, against
        Names of arms.
    least
        What the difference should be at least.
    above_zero
        Its interval should be above 0.
    not_worse
        Its interval should be above minus the margin, and nothing else is asked.
    task
        Where: "day", "week", or "to_date" beside the fewest base features.
    """

    arm: str
    against: str
    least: float = 0.0
    above_zero: bool = True
    not_worse: bool = False
    task: str = DAY


@dataclass(frozen=True)
class EvaluationPlan:
    """All settings of an evaluation.

    Parameters
    ----------
    timeline
        T1, T2 and T3.
    as_of
        As of when values of a member are, of queries to learn from and to test on alike.
    declared
        Seeds, resamples and margin.
    size
        How many queries, and which tasks beside the one that decides.
    ranker
        The ranker that embeddings are judged by.
    targets
        Claims to be judged.
    """

    timeline: Timeline
    as_of: AsOf = AsOf.PUBLISHED
    declared: Declared = field(default_factory=Declared)
    size: Size = field(default_factory=Size)
    ranker: RankerSettings = field(default_factory=RankerSettings)
    targets: tuple[Target, ...] = ()

    def ranker_facts(self) -> dict[str, Any]:
        """Return the settings of ranker and size as JSON values."""
        return {**self.ranker.to_dict(), "size": asdict(self.size)}
