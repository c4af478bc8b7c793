"""One task, every arm: fit the ranker for each seed, test it, keep each query's figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

from activity_embeddings.training.evaluation.arms import AGAIN, Arm
from activity_embeddings.training.evaluation.member_vectors import MemberVectors
from activity_embeddings.training.evaluation.plan import EvaluationPlan
from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.evaluation.ranker import Ranker, RankerSettings, vector_columns
from activity_embeddings.training.evaluation.result import (
    AUC,
    LOG_LOSS,
    MRR,
    RECALL,
    WITHIN_MEMBER_AUC,
    ArmFigures,
    Figures,
    TaskFacts,
)
from activity_embeddings.training.figure import FIGURE, TOP
from activity_embeddings.training.metrics import (
    mean_by_member,
    ndcg_at,
    places_of_groups,
    recall_at,
    reciprocal_rank,
    within_member_auc,
)
from activity_embeddings.transformations.times import to_datetime
from activity_embeddings.transformations.wording import counted

AA_SEEDS = 1000
"""What is added to the seeds of the second of two equal arms."""
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class RankingTask:
    """Queries to learn from and to test on, with the base features of their rows.

    Attributes
    ----------
    name, title
        Name and title of the task.
    train, test
        The queries.
    base
        float32 [R, F] each; columns that every arm has.
    columns
        Names of the F columns.
    """

    name: str
    title: str
    train: Queries
    test: Queries
    base: tuple[np.ndarray, np.ndarray]
    columns: tuple[str, ...]

    def with_columns(self, name: str, title: str, columns: Sequence[str]) -> RankingTask:
        """Return the same queries with some of the columns; names that it lacks are left out."""
        kept = [column for column in columns if column in self.columns]
        places = [self.columns.index(column) for column in kept]
        train, test = (np.ascontiguousarray(rows[:, places]) for rows in self.base)
        return replace(self, name=name, title=title, base=(train, test), columns=tuple(kept))


@dataclass(eq=False)
class Measured:
    """The figures of every arm in one task.

    Attributes
    ----------
    task
        What was measured.
    figures_of
        By arm, each figure's value for each query and seed, float [seeds, n]; of a task of single
        rows, the scores.
    columns
        By arm, how many columns the ranker had.
    splits
        By arm, how often the trees of its rankers divide rows.
    """

    task: RankingTask
    figures_of: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    columns: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)

    @property
    def ranked(self) -> bool:
        """Whether it is a task of lists, and not of single rows."""
        return self.task.test.ranked

    @property
    def figure(self) -> str:
        """The figure that arms are compared by."""
        return FIGURE if self.ranked else WITHIN_MEMBER_AUC

    def unlearned(self) -> str | None:
        """Return why its figures say nothing of any arm, or None."""
        if not self.splits or any(self.splits.values()):
            return None
        rows = counted(len(self.task.train.item), "row")
        return f"of {rows} the ranker learned nothing in any arm: all are equal"

    def of_members(self, figure: str) -> dict[str, np.ndarray]:
        """Return a figure of each member, the mean over its queries: float [seeds, members]."""
        member = self.task.test.member
        if figure == WITHIN_MEMBER_AUC:
            target = self.task.test.target
            return {
                arm: np.stack([within_member_auc(target, s, member)[1] for s in values["score"]])
                for arm, values in self.figures_of.items()
            }
        return {
            arm: np.stack([mean_by_member(v, member)[1] for v in values[figure]])
            for arm, values in self.figures_of.items()
        }

    @property
    def members(self) -> np.ndarray:
        """The members of `of_members`, of lists: positions, ascending."""
        return np.unique(self.task.test.member)

    def by_seed(self) -> dict[str, dict[str, np.ndarray]]:
        """Return each figure of each arm, the mean over members: float [seeds]."""
        if self.ranked:
            return {
                name: {arm: values.mean(axis=1) for arm, values in self.of_members(name).items()}
                for name in (FIGURE, RECALL, MRR)
            }
        target = self.task.test.target
        within = self.of_members(WITHIN_MEMBER_AUC)
        scores = {arm: values["score"] for arm, values in self.figures_of.items()}
        return {
            AUC: {a: np.array([roc_auc_score(target, s) for s in v]) for a, v in scores.items()},
            LOG_LOSS: {a: np.array([log_loss(target, s) for s in v]) for a, v in scores.items()},
            # Of members with rows of both labels, and there may be none.
            WITHIN_MEMBER_AUC: {a: v.mean(axis=1) if v.size else v for a, v in within.items()},
        }

    def mean_figures(self) -> dict[str, Figures]:
        """Return the figures of each arm, means over members and seeds."""
        by_seed = self.by_seed()
        return {arm: _means(by_seed, arm) for arm in self.figures_of}

    def figures(self) -> dict[str, ArmFigures]:
        """Return the figures of each arm, the first of them also seed by seed."""
        by_seed = self.by_seed()
        first = next(iter(by_seed.values()))
        return {
            arm: {
                **_means(by_seed, arm),
                "by_seed": first[arm].tolist(),
                "seed_spread": seed_spread(first[arm]),
            }
            for arm in self.figures_of
        }

    def line(self, arm: str) -> str:
        """Return NDCG@10 of one arm, as a line."""
        figure = self.figures_of[arm][FIGURE].mean(axis=0)
        own = mean_by_member(figure, self.task.test.member)[1].mean()
        return f"  {self.task.name}: {arm:24} NDCG@10 {own:.4f}"

    def summary(self) -> TaskFacts:
        """Return what the report says of the task."""
        train, test = self.task.train, self.task.test
        facts: TaskFacts = {
            "title": self.task.title,
            "members": len(self.members),
            "base_features": list(self.task.columns),
            "asked": {"train": _span(train), "test": _span(test)},
            "figures": self.figures(),
        }
        if not self.ranked:
            return {**facts, "rows": len(test), "train_rows": len(train)}
        sizes = test.sizes
        return {
            **facts,
            "queries": len(test),
            "train_queries": len(train),
            "candidates": {"median": float(np.median(sizes)), "max": int(sizes.max())},
        }


def _span(queries: Queries) -> list[str]:
    """Return when the first and the last query is asked."""
    return [to_datetime(int(end)).isoformat() for end in (queries.time.min(), queries.time.max())]


def _means(by_seed: Mapping[str, Mapping[str, np.ndarray]], arm: str) -> Figures:
    return cast(Figures, {name: _mean(values[arm]) for name, values in by_seed.items()})


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def seed_spread(values: np.ndarray) -> float | None:
    """Return the deviation between the figures of seeds; None of one seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def measure(
    task: RankingTask,
    compared: Sequence[Arm],
    vectors: MemberVectors,
    plan: EvaluationPlan,
    say: Say,
) -> Measured:
    """Measure every arm in one task.

    Parameters
    ----------
    task
        Queries and base features.
    compared
        The arms.
    vectors
        Answers which vectors an arm has.
    plan
        Ranker and seeds, the same for all.
    say
        Gets a line for each arm.
    """
    measured = Measured(task)
    for arm in compared:
        measure_arm(measured, arm, vectors, plan)
        if measured.ranked:
            say(measured.line(arm.name))
    return measured


def measure_arm(
    measured: Measured,
    arm: Arm,
    vectors: MemberVectors,
    plan: EvaluationPlan,
) -> None:
    """Measure one arm, and add its figures to those of a task."""
    task, settings, seeds = measured.task, plan.ranker, plan.declared.seeds

    def fit_and_test(
        seed: int, tables: tuple[np.ndarray, np.ndarray]
    ) -> tuple[Mapping[str, np.ndarray], int]:
        own_seed = seed + AA_SEEDS if arm.name == AGAIN else seed
        ranker = Ranker(settings, seed=own_seed).fit(tables[0], task.train)
        scores = ranker.scores(tables[1])
        figures = list_figures(scores, task.test) if measured.ranked else {"score": scores}
        return figures, ranker.splits

    per_seed: list[tuple[Mapping[str, np.ndarray], int]] = []
    same = None if vectors.varies(arm) else _tables(task, arm, vectors, settings, 0)
    at_once = os.cpu_count() or 1
    with ThreadPoolExecutor(at_once) as threads:
        for first in range(0, len(seeds), at_once):
            part = seeds[first : first + at_once]
            tables = [
                same or _tables(task, arm, vectors, settings, first + i) for i in range(len(part))
            ]
            per_seed += threads.map(fit_and_test, part, tables)
    measured.columns[arm.name] = tables[0][0].shape[1]
    measured.splits[arm.name] = sum(splits for _, splits in per_seed)
    measured.figures_of[arm.name] = {
        name: np.stack([figures[name] for figures, _ in per_seed]) for name in per_seed[0][0]
    }


def _tables(
    task: RankingTask,
    arm: Arm,
    vectors: MemberVectors,
    settings: RankerSettings,
    place: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranker's columns of an arm: of the rows to learn from, and to test on."""
    if not arm.sources:
        return task.base
    added = vector_columns(
        (task.train, vectors.of_arm(arm, task.train, place)),
        (task.test, vectors.of_arm(arm, task.test, place)),
        settings,
        seed=0,
    )
    scores = [vectors.scores_of_arm(arm, queries, place) for queries in (task.train, task.test)]
    train, test = (np.hstack(parts) for parts in zip(task.base, scores, added, strict=True))
    return train, test


def list_figures(scores: np.ndarray, queries: Queries) -> dict[str, np.ndarray]:
    """Return the figures of each list by the scores of its rows, float [n] by name."""
    places = places_of_groups(scores, queries.start, queries.wanted)
    return {
        FIGURE: ndcg_at(places, TOP),
        RECALL: recall_at(places, TOP),
        MRR: reciprocal_rank(places),
    }
