"""Real occupations: their text, the vectors made from it, and how much each is in demand."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from activity_embeddings.training.datasets.job_market.settings import DEMAND_STREAM, MarketSettings

OCCUPATIONS = Path(__file__).parents[1] / "onet" / "occupations.txt"
RELATED = 20
"""How many occupations count as related to one."""
NOTICE = (
    "This includes information from the O*NET database (2018 copy) by the U.S. Department of "
    "Labor, Employment and Training Administration (USDOL/ETA), used under the CC BY 4.0 license. "
    "O*NET is a trademark of USDOL/ETA, which has not approved, endorsed or tested what was made "
    "of it."
)
"""To be kept beside titles and descriptions, and whatever holds them."""
GROUPS = {
    "11": "Management",
    "13": "Business and Financial Operations",
    "15": "Computer and Mathematical",
    "17": "Architecture and Engineering",
    "19": "Life, Physical, and Social Science",
    "21": "Community and Social Service",
    "23": "Legal",
    "25": "Education, Training, and Library",
    "27": "Arts, Design, Entertainment, Sports, and Media",
    "29": "Healthcare Practitioners and Technical",
    "31": "Healthcare Support",
    "33": "Protective Service",
    "35": "Food Preparation and Serving Related",
    "37": "Building and Grounds Cleaning and Maintenance",
    "39": "Personal Care and Service",
    "41": "Sales and Related",
    "43": "Office and Administrative Support",
    "45": "Farming, Fishing, and Forestry",
    "47": "Construction and Extraction",
    "49": "Installation, Maintenance, and Repair",
    "51": "Production",
    "53": "Transportation and Material Moving",
    "55": "Military Specific",
}
"""Major groups of the Standard Occupational Classification, by the first digits of a code."""


@dataclass(frozen=True)
class Occupations:
    """n real occupations, in the order of the O*NET file.

    Attributes
    ----------
    codes, titles, descriptions, groups
        N strings each; a code is one of O*NET and the SOC, a group a major group of the SOC.
    vectors
        float32 [n, K], unit vectors; unrelated occupations are about orthogonal.
    related
        int64 [n, RELATED]; positions of the most similar others, best first.
    demand
        float64 [n], of sum 1; each occupation's share of postings and of interests.
    """

    codes: list[str]
    titles: list[str]
    descriptions: list[str]
    groups: list[str]
    vectors: np.ndarray
    related: np.ndarray
    demand: np.ndarray

    @classmethod
    def of(cls, settings: MarketSettings) -> Occupations:
        """Return all occupations; text and vectors are the same for every seed, demand is not."""
        codes, titles, descriptions = _read()
        groups = [GROUPS[code[:2]] for code in codes]
        vectors, related = _vectors(settings.dimension)
        spread = settings.random(DEMAND_STREAM).standard_normal(len(titles))
        demand = np.exp(settings.demand_spread * spread)
        demand /= demand.sum()
        return cls(codes, titles, descriptions, groups, vectors, related, demand)

    def draw(self, random: np.random.Generator, n: int) -> np.ndarray:
        """Draw n occupations by demand, int64 [n]."""
        return random.choice(len(self.demand), n, p=self.demand)

    def near(self, occupation: np.ndarray, own: float, random: np.random.Generator) -> np.ndarray:
        """Return unit vectors of the occupations' vectors plus a part of length `own`, [n, K]."""
        part = unit(random.standard_normal((len(occupation), self.vectors.shape[1])))
        return unit(self.vectors[occupation] + own * part)


@cache
def _read() -> tuple[list[str], list[str], list[str]]:
    """Return codes, titles and descriptions of the O*NET file."""
    with OCCUPATIONS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    codes, titles, descriptions = (
        [row[column] for row in rows] for column in ("O*NET-SOC Code", "Title", "Description")
    )
    return codes, titles, descriptions


def characteristic_words(most: int) -> list[list[str]]:
    """Return the words of each occupation's text that are most its own, by TF-IDF, best first."""
    weighting = TfidfVectorizer(
        stop_words="english", sublinear_tf=True, min_df=2, token_pattern="[a-z]{3,}"
    )
    weights = weighting.fit_transform(_texts())
    words = weighting.get_feature_names_out()
    own = []
    for row in range(weights.shape[0]):
        of_row = weights[row]
        best = np.argsort(-of_row.data, kind="stable")[:most]
        own.append(words[of_row.indices[best]].tolist())
    return own


def _texts() -> list[str]:
    """Return title and description of each occupation in one."""
    _, titles, descriptions = _read()
    return [f"{title}. {text}" for title, text in zip(titles, descriptions, strict=True)]


@cache
def _vectors(dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of the text, and which are related."""
    words = TfidfVectorizer(stop_words="english", sublinear_tf=True, min_df=2)
    svd = TruncatedSVD(dimension, n_iter=7, random_state=0)
    # Sums of several threads come in other orders, and the last digits of vectors with them.
    with threadpool_limits(1):
        vectors = svd.fit_transform(words.fit_transform(_texts()))
        # The mean is what all descriptions share: with it everything would be a little alike.
        vectors = unit(vectors - vectors.mean(axis=0)).astype(np.float32)
        similar = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    return vectors, np.argsort(-similar, axis=1, kind="stable")[:, :RELATED]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [n, K] divided by their length."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
