"""What the other kinds of activity of a simulated market are on: queries, statuses and posts.

Their texts are of O*NET occupations, in the columns of postings, so that an item encoder of
postings encodes them too. An encoder knows a word by its column, so that a short text stands in
both columns of text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from activity_embeddings.training.datasets.job_market.occupations import (
    Occupations,
    characteristic_words,
)
from activity_embeddings.training.datasets.job_market.settings import POSTS_STREAM, MarketSettings
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

QUERY_WORDS = ((0,), (1,), (0, 1), (0, 2), (1, 2))
"""Queries for an occupation, beside its title: which of its most characteristic words."""
HEADLINES = (
    "What it takes: {}",
    "A day in the work of {}",
    "How the work of {} is changing",
    "Questions to ask {}",
)
POST_OWN = 0.5
"""Length of the part of a post's vector that is not from its topic, whose own part has length 1."""
POST_DAYS = 7
"""Days on which a post is shown."""


@dataclass(frozen=True)
class Searches:
    """Queries that members type.

    Attributes
    ----------
    texts
        N strings, distinct. Some are typed for several occupations.
    forms
        int64 [occupations, f]; the queries for each occupation, positions in `texts`.
    """

    texts: list[str]
    forms: np.ndarray

    @classmethod
    def of(cls, occupations: Occupations) -> Searches:
        """Make the queries of all occupations: the title, and a few of its words."""
        place: dict[str, int] = {}
        forms = []
        own = characteristic_words(1 + max(map(max, QUERY_WORDS)))
        for title, words in zip(occupations.titles, own, strict=True):
            texts = [" ".join(re.findall("[a-z0-9]+", title.lower()))]
            # Some texts have fewer words.
            texts += [" ".join(words[i] for i in q if i < len(words)) for q in QUERY_WORDS]
            forms.append([place.setdefault(text or texts[0], len(place)) for text in texts])
        return cls(list(place), np.array(forms))


@dataclass(frozen=True)
class Posts:
    """All m posts, in order of posting; position i is post id i + 1.

    Attributes
    ----------
    occupation
        int64 [m]; the topic.
    headline
        int64 [m]; positions in `HEADLINES`.
    vectors
        float32 [m, K], unit vectors.
    posted
        int64 [m]; microseconds since the market's start, negative before it.
    """

    occupation: np.ndarray
    headline: np.ndarray
    vectors: np.ndarray
    posted: np.ndarray

    @classmethod
    def of(cls, settings: MarketSettings, occupations: Occupations) -> Posts:
        """Draw all posts, at an even rate from before the start on."""
        random, m = settings.random(POSTS_STREAM), settings.posts
        posted = np.sort(random.uniform(-POST_DAYS, settings.days, m))
        occupation = occupations.draw(random, m)
        return cls(
            occupation=occupation,
            headline=random.integers(0, len(HEADLINES), m),
            vectors=occupations.near(occupation, POST_OWN, random).astype(np.float32),
            posted=(posted * MICROSECONDS_PER_DAY).astype(np.int64),
        )

    def shown_on(self, day: int) -> np.ndarray:
        """Return the posts shown on a day, int64 positions: those of the days before it."""
        ends = np.array([day - POST_DAYS, day]) * MICROSECONDS_PER_DAY
        return np.arange(*np.searchsorted(self.posted, ends))
