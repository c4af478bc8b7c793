"""What an arm tells without a ranker: its own score of each item, with popularity beside it.

The figure that models are chosen by (`ValidationQueries`), on the queries of the test: the dot
products of a model's vectors and the item, or the scores of what has no vectors, are mixed with the
popularity of the week before. How much each counts is chosen on the queries that the ranker learns
from; see `best_mix`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from activity_embeddings.training.evaluation.arms import Arm
from activity_embeddings.training.evaluation.measure import Measured, RankingTask, list_figures
from activity_embeddings.training.evaluation.member_vectors import MemberVectors
from activity_embeddings.training.evaluation.mixing import Mix, best_mix
from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.figure import FIGURE
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
        Arms of at most one source. One without any is popularity alone.
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
    popular_spread = max(float(popular[0].std()), 1e-9)

    def mixed(part: int, mix: Mix) -> np.ndarray:
        train = mix.weights @ own[0]
        added = mix.weights @ own[part] if part else train
        weighted = added * (mix.share / max(float(train.std()), 1e-9))
        return np.asarray(weighted + popular[part] * ((1 - mix.share) / popular_spread))

    def figure(mix: Mix) -> float:
        gains = list_figures(mixed(0, mix), task.train)[FIGURE]
        return float(mean_by_member(gains, task.train.member)[1].mean())

    return mixed(1, best_mix(figure, vectors.wanted_of_arm(arm, task.train, place)))


def own_scores(arm: Arm, queries: Queries, vectors: MemberVectors, place: int) -> np.ndarray:
    """Return an arm's own scores of each row, one for each of its vectors.

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
    float32 [k, R]
        The dot products of item and vectors, or one row of scores.
    """
    if arm.only_scores:
        return vectors.scores_of_arm(arm, queries, place)[:, :1].T
    of_arm = vectors.of_arm(arm, queries, place)
    scores = np.zeros((len(of_arm), len(queries.item)), np.float32)
    for row, own in zip(scores, of_arm, strict=True):
        for i in range(len(queries)):
            rows = slice(queries.start[i], queries.start[i + 1])
            row[rows] = own.items[own.item[rows]] @ own.member[i]
    return scores
