"""The postings of a simulated market: what they are, and how often each is shown when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from activity_embeddings.training.datasets.job_market.occupations import Occupations
from activity_embeddings.training.datasets.job_market.settings import JOBS_STREAM, MarketSettings
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

LEVELS = ("", "entry level", "experienced", "senior")
LEVEL_SHARES = (0.55, 0.15, 0.15, 0.15)
SHORTEST_OPEN_DAYS = 7
OPEN_SPREAD = 0.45
"""Standard deviation of the log of the days that a posting is open."""


@dataclass(frozen=True)
class Jobs:
    """All m postings, in order of posting; position i is job id i + 1.

    Attributes
    ----------
    occupation, level
        int64 [m].
    vectors
        float32 [m, K], unit vectors.
    attractiveness
        float32 [m]; adds to everyone's utility.
    exposure
        float64 [m]; how often it is shown when new, relative to others.
    fading_days
        Float; number of days in which exposure falls to 1/e.
    posted
        int64 [m]; microseconds since the market's start, negative before it.
    first_day, end_day
        int64 [m]; shown on days `first_day <= day < end_day`, day 0 being the first of the market.
    """

    occupation: np.ndarray
    level: np.ndarray
    vectors: np.ndarray
    attractiveness: np.ndarray
    exposure: np.ndarray
    fading_days: float
    posted: np.ndarray
    first_day: np.ndarray
    end_day: np.ndarray

    @classmethod
    def of(cls, settings: MarketSettings, occupations: Occupations) -> Jobs:
        """Draw all postings."""
        random, m = settings.random(JOBS_STREAM), settings.jobs
        log_days = np.log(settings.open_days) + OPEN_SPREAD * random.standard_normal(8 * m)
        open_days = np.clip(np.rint(np.exp(log_days)), SHORTEST_OPEN_DAYS, None)
        # Postings come at an even rate from long before the start; of these, some that are open at
        # any time in the market. Among those of before, there are more of the long ones.
        chance = open_days + settings.days
        open_days = random.choice(open_days, m, p=chance / chance.sum())
        posted = random.uniform(-open_days, settings.days)
        order = np.argsort(posted)
        posted, open_days = posted[order], open_days[order].astype(np.int64)
        first_day = np.floor(posted).astype(np.int64) + 1
        occupation = occupations.draw(random, m)
        return cls(
            occupation=occupation,
            level=random.choice(len(LEVELS), m, p=LEVEL_SHARES),
            vectors=occupations.near(occupation, settings.job_own, random).astype(np.float32),
            attractiveness=np.float32(settings.attractiveness)
            * random.standard_normal(m, dtype=np.float32),
            exposure=np.exp(settings.exposure_spread * random.standard_normal(m)),
            fading_days=settings.fading_days,
            posted=(posted * MICROSECONDS_PER_DAY).astype(np.int64),
            first_day=first_day,
            end_day=first_day + open_days,
        )

    def shown_on(self, day: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the postings shown on a day and how often, relative to each other.

        Returns
        -------
        tuple[np.ndarray, np.ndarray]
            Jobs : int64 [m], positions. exposure : float64 [m], of sum 1 if there is any job.
        """
        shown = np.flatnonzero((self.first_day <= day) & (day < self.end_day))
        age = day - self.first_day[shown]
        exposure = self.exposure[shown] * np.exp(-age / self.fading_days)
        return shown, exposure / exposure.sum()
