"""What an arm tells without a ranker: its own score of each item, with popularity beside it.

The figure that models are chosen by (`ValidationQueries`), on the queries of the test: the dot
product of embedding and item, or the share of a table of counts, is mixed with the popularity of
the week before. How much each counts is the one parameter that every arm has; it is chosen on the
queries that the ranker learns from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from activity_embeddings.training.evaluation.arms import Arm
from activity_embeddings.training.evaluation.measure import Measured, RankingTask, list_figures
from activity_embeddings.training.evaluation.member_vectors import MemberVectors
from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.training.fitting.validation import SHARES
from activity_embeddings.training.metrics import mean_by_member

POPULARITY = "positives_7d"
"""The column that is mixed with an arm's own score, as log(1 + x)."""


def measure_alone(
    task: RankingTask, compared: Sequence[Arm], vectors: MemberVectors, seeds: int
) -> Measured:
    """Measure arms without a ranker.

    Parameters
    ----------
    task
        Lists, with `POPULARITY` among their columns.
    compared
        Arms of at most one source, a model's or a table's. One without any is popularity alone.
    vectors
        Answers what an arm has.
    seeds
        How many seeds a model may have been trained with. Nothing else differs from seed to seed.
    """
    measured = Measured(task)
    column = task.columns.index(POPULARITY)
    popular = [np.log1p(rows[:, column]) for rows in task.base]
    for arm in compared:
        count = seeds if vectors.varies(arm) else 1
        of_seeds = [_scores(task, arm, vectors, place, popular) for place in range(count)]
        figures = [list_figures(scores, task.test) for scores in of_seeds * (seeds // count)]
        measured.figures_of[arm.name] = {
            name: np.stack([of_seed[name] for of_seed in figures]) for name in figures[0]
        }
    return measured


def _scores(
    task: RankingTask,
    arm: Arm,
    vectors: MemberVectors,
    place: int,
    popular: Sequence[np.ndarray],
) -> np.ndarray:
    """Return the score of each row of the test, mixed as is best on the rows to learn from."""
    if not arm.sources:
        return popular[1]
    own = [own_scores(arm, queries, vectors, place) for queries in (task.train, task.test)]
    own_spread, popular_spread = (max(float(s[0].std()), 1e-9) for s in (own, popular))

    def mixed(part: int, share: float) -> np.ndarray:
        weighted = own[part] * (share / own_spread)
        return np.asarray(weighted + popular[part] * ((1 - share) / popular_spread))

    def figure(share: float) -> float:
        gains = list_figures(mixed(0, share), task.train)[FIGURE]
        return float(mean_by_member(gains, task.train.member)[1].mean())

    return mixed(1, max(SHARES, key=figure))


def own_scores(arm: Arm, queries: Queries, vectors: MemberVectors, place: int) -> np.ndarray:
    """Return an arm's own score of each row, float [R].

    Parameters
    ----------
    arm
        An arm of one source.
    queries
        Whose rows are scored.
    vectors
        Answers what the arm has.
    place
        Place among the seeds.

    Returns
    -------
    float32 [R]
        The share of a table of counts, or the dot product of item and embedding; of several
        vectors the sum, without those of actions that are not positive, as for validation.
    """
    counts = vectors.counts_of_arm(arm, queries)
    if counts.shape[1]:
        return counts[:, 0]
    scores = np.zeros(len(queries.item), np.float32)
    for own in vectors.positive_of_arm(arm, queries, place):
        for i in range(len(queries)):
            rows = slice(queries.start[i], queries.start[i + 1])
            scores[rows] += own.items[own.item[rows]] @ own.member[i]
    return scores
