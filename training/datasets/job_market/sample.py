"""The simulated market as a data set of the package."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from activity_embeddings.training.datasets.base import Sample, postings_of
from activity_embeddings.training.datasets.job_market.market import JobMarket
from activity_embeddings.training.new_repo.settings import RepoSettings


@dataclass(frozen=True, kw_only=True)
class MarketSample(Sample):
    """A market that is simulated when it is asked for.

    Attributes
    ----------
    members
        Number of members.
    """

    members: int = JobMarket.members
    simulated: bool = True

    def write(self, data: Path) -> None:
        """Simulate the market, and write its events, postings and truth into folder `data`."""
        JobMarket(members=self.members).write(data)


JOBS = MarketSample(
    name="jobs",
    description="A simulated job market: real occupations, made-up members",
    encoder_until=datetime(2024, 2, 12, tzinfo=UTC),
    validate_from=datetime(2024, 3, 18, tzinfo=UTC),
    rank_from=datetime(2024, 3, 25, tzinfo=UTC),
    test_from=datetime(2024, 4, 8, tzinfo=UTC),
    until=datetime(2024, 4, 29, tzinfo=UTC),
    text=("title", "description"),
    categories=("group",),
    words=64,
    fit={"epochs": 20, "learning_rate": 1e-4},  # as for the films
    settings=RepoSettings(
        items=postings_of(
            ("title", "String"),
            ("description", "String"),
            ("group", "Array(String)"),
        ),
        simulated=True,
    ),
)
