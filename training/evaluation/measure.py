"""One task, every arm: fit the ranker for each seed, test it, keep each query's figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

from activity_embeddings.training.evaluation.arms import AGAIN, Arm
from activity_embeddings.training.evaluation.findings import FIGURE, Declared
from activity_embeddings.training.evaluation.member_vectors import MemberVectors
from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.evaluation.ranker import Ranker, RankerSettings, vector_columns
from activity_embeddings.training.fitting.validation import TOP
from activity_embeddings.training.metrics import (
    mean_by_member,
    ndcg_at,
    places_of_groups,
    recall_at,
    reciprocal_rank,
    within_member_auc,
)
from activity_embeddings.transformations.times import to_datetime

AA_SEEDS = 1000
"""What is added to the seeds of the second of two equal arms."""
WITHIN_MEMBER_AUC = "within_member_auc"
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Task:
    """Queries to learn from and to test on, with the base features of their rows.

    Attributes
    ----------
    name, title : str.
    train, test : the queries.
    base : float32 [R, F] each; columns that every arm has.
    columns : names of the F columns.
    """

    name: str
    title: str
    train: Queries
    test: Queries
    base: tuple[np.ndarray, np.ndarray]
    columns: tuple[str, ...]

    def with_columns(self, name: str, title: str, columns: Sequence[str]) -> Task:
        """Return the same queries with those of some columns that are there."""
        kept = [column for column in columns if column in self.columns]
        places = [self.columns.index(column) for column in kept]
        train, test = (np.ascontiguousarray(rows[:, places]) for rows in self.base)
        return replace(self, name=name, title=title, base=(train, test), columns=tuple(kept))


@dataclass(eq=False)
class Measured:
    """The figures of every arm in one task.

    Attributes
    ----------
    task : what was measured.
    figures_of : by arm, each figure's value for each query and seed, float [seeds, n]; of a task
        of single rows, the scores.
    columns : by arm, how many columns the ranker had.
    """

    task: Task
    figures_of: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    columns: dict[str, int] = field(default_factory=dict)

    @property
    def ranked(self) -> bool:
        """Whether it is a task of lists, and not of single rows."""
        return self.task.test.ranked

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

    def summary(self) -> dict[str, Any]:
        """Return what the report says of the task, as JSON values."""
        test = self.task.test
        about = {
            "title": self.task.title,
            "members": len(self.members),
            "base_features": list(self.task.columns),
            "asked": {"train": _span(self.task.train), "test": _span(test)},
        }
        if self.ranked:
            sizes = test.sizes
            about |= {
                "queries": len(test),
                "train_queries": len(self.task.train),
                "candidates": {"median": float(np.median(sizes)), "max": int(sizes.max())},
            }
            names: tuple[str, ...] = (FIGURE, "recall_at_10", "mrr")
            by_seed = {
                name: {arm: v.mean(axis=1) for arm, v in self.of_members(name).items()}
                for name in names
            }
        else:
            about |= {"rows": len(test), "train_rows": len(self.task.train)}
            by_seed = self._classified()
            names = tuple(by_seed)
        figures = {
            arm: {
                **{name: _mean(by_seed[name][arm]) for name in names},
                "by_seed": by_seed[names[0]][arm].tolist(),
                "seed_spread": _spread(by_seed[names[0]][arm]),
            }
            for arm in self.figures_of
        }
        return {**about, "figures": figures}

    def _classified(self) -> dict[str, dict[str, np.ndarray]]:
        target = self.task.test.target
        within = self.of_members(WITHIN_MEMBER_AUC)
        scores = {arm: values["score"] for arm, values in self.figures_of.items()}
        return {
            "auc": {a: np.array([roc_auc_score(target, s) for s in v]) for a, v in scores.items()},
            "log_loss": {a: np.array([log_loss(target, s) for s in v]) for a, v in scores.items()},
            # Of members with both kinds, and there may be none.
            WITHIN_MEMBER_AUC: {a: v.mean(axis=1) if v.size else v for a, v in within.items()},
        }


def _span(queries: Queries) -> list[str]:
    """Return when the first and the last query is asked."""
    return [to_datetime(int(end)).isoformat() for end in (queries.time.min(), queries.time.max())]


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _spread(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def measure(
    task: Task,
    compared: Sequence[Arm],
    vectors: MemberVectors,
    settings: RankerSettings,
    declared: Declared,
    say: Say,
) -> Measured:
    """Measure every arm in one task.

    Parameters
    ----------
    task : queries and base features.
    compared : the arms.
    vectors : answers which vectors an arm has.
    settings, declared : of the ranker and the seeds, the same for all.
    say : gets a line for each arm.
    """
    measured = Measured(task)
    for arm in compared:
        measure_arm(measured, arm, vectors, settings, declared)
        if measured.ranked:
            figure = measured.figures_of[arm.name][FIGURE].mean(axis=0)
            own = mean_by_member(figure, task.test.member)[1].mean()
            say(f"  {task.name}: {arm.name:24} NDCG@10 {own:.4f}")
    return measured


def measure_arm(
    measured: Measured,
    arm: Arm,
    vectors: MemberVectors,
    settings: RankerSettings,
    declared: Declared,
) -> None:
    """Measure one arm, and add its figures to those of a task."""
    task = measured.task

    def fit_and_test(seed: int, tables: tuple[np.ndarray, np.ndarray]) -> Mapping[str, np.ndarray]:
        own_seed = seed + AA_SEEDS if arm.name == AGAIN else seed
        scores = Ranker(settings, seed=own_seed).fit(tables[0], task.train).scores(tables[1])
        return _figures(scores, task.test) if measured.ranked else {"score": scores}

    per_seed: list[Mapping[str, np.ndarray]] = []
    same = None if vectors.varies(arm) else _tables(task, arm, vectors, settings, 0)
    at_once = os.cpu_count() or 1
    with ThreadPoolExecutor(at_once) as threads:
        for first in range(0, len(declared.seeds), at_once):
            seeds = declared.seeds[first : first + at_once]
            tables = [
                same or _tables(task, arm, vectors, settings, first + i) for i in range(len(seeds))
            ]
            per_seed += threads.map(fit_and_test, seeds, tables)
    measured.columns[arm.name] = tables[0][0].shape[1]
    measured.figures_of[arm.name] = {
        name: np.stack([figures[name] for figures in per_seed]) for name in per_seed[0]
    }


def _tables(
    task: Task, arm: Arm, vectors: MemberVectors, settings: RankerSettings, place: int
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
    train, test = (np.hstack(pair) for pair in zip(task.base, added, strict=True))
    return train, test


def _figures(scores: np.ndarray, queries: Queries) -> dict[str, np.ndarray]:
    places = places_of_groups(scores, queries.start, queries.wanted)
    return {
        FIGURE: ndcg_at(places, TOP),
        "recall_at_10": recall_at(places, TOP),
        "mrr": reciprocal_rank(places),
    }
