"""Parts of the queries that are looked at by themselves, and what arms add within each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from activity_embeddings.training.evaluation import arms
from activity_embeddings.training.evaluation.findings import Values, paired
from activity_embeddings.training.evaluation.plan import Declared
from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.evaluation.result import Slice
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.metrics import mean_by_member
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

HISTORY_SLICES = {"new (1-3)": (1, 3), "light (4-8)": (4, 8), "heavy (9 and more)": (9, 10**9)}
AGE_SLICES = {"under 1 day": (0, 1), "1-7 days": (1, 7), "over 7 days": (7, 10**9)}
FEW_MOVES = 4
"""Wanted items from which on a member's interests can be said to have moved."""


def query_slices(
    queries: Queries, newest: np.ndarray, history: ActivityHistory
) -> dict[str, dict[str, np.ndarray]]:
    """Return the parts of the queries that are looked at by themselves: bool [n] each."""
    count = queries.sequences.count
    age = (queries.time - newest) / MICROSECONDS_PER_DAY
    ages = {v: (newest > 0) & (age >= a) & (age < b) for v, (a, b) in AGE_SLICES.items()}
    ages["none"] = newest == 0
    moved = _movement(queries, history)
    tells = np.isfinite(moved)
    half = np.median(moved[tells]) if tells.any() else 0.0
    return {
        "history": {v: (count >= a) & (count <= b) for v, (a, b) in HISTORY_SLICES.items()},
        "newest activity in the embedding": ages,
        "interests moved": {
            "moved (older and newer half differ most)": tells & (moved < half),
            "stayed": tells & (moved >= half),
        },
    }


def _movement(queries: Queries, history: ActivityHistory) -> np.ndarray:
    """Return the cosine of the older and the newer half of what each member wanted, float [n].

    NaN for members with fewer than `FEW_MOVES` wanted items.
    """
    wanted = np.isin(queries.sequences.action, history.spec.positive_ids)
    rows = queries.sequences.rows(history.vectors)
    newer = wanted[:, ::-1].cumsum(axis=1)[:, ::-1]
    count = wanted.sum(axis=1)
    halves = []
    for chosen in (newer > count[:, None] // 2, newer <= count[:, None] // 2):
        weights = (wanted & chosen).astype(np.float32)
        total = np.zeros((len(queries), history.vectors.dimension), np.float32)
        for position in range(rows.shape[1]):
            total += weights[:, position, None] * history.vectors.matrix[rows[:, position]]
        halves.append(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9))
    return np.where(count >= FEW_MOVES, (halves[0] * halves[1]).sum(axis=1), np.nan)


def slice_rows(
    slices: Mapping[str, Mapping[str, np.ndarray]],
    values: Values,
    member: np.ndarray,
    compared: Sequence[str],
    declared: Declared,
) -> list[Slice]:
    """Return the difference to nothing within parts of the queries.

    Parameters
    ----------
    slices
        bool [queries] by slice and value.
    values
        float [seeds, queries] by arm.
    member
        int [queries].
    compared
        Names of arms.
    """
    rows: list[Slice] = []
    for name, parts in slices.items():
        for value, inside in parts.items():
            members = len(np.unique(member[inside]))
            if members < 2:
                continue
            of_members = {
                arm: np.stack(
                    [mean_by_member(v, member[inside])[1] for v in values[arm][:, inside]]
                )
                for arm in (arms.NOTHING, *compared)
            }
            found = paired(of_members, [(arm, arms.NOTHING) for arm in compared], declared)
            rows.append(
                {
                    "slice": name,
                    "value": value,
                    "members": members,
                    "queries": int(inside.sum()),
                    "differences": [
                        {
                            "arm": arm,
                            "against": arms.NOTHING,
                            "difference": difference.difference,
                            "low": difference.low,
                            "high": difference.high,
                        }
                        for arm, difference in zip(compared, found, strict=True)
                    ],
                }
            )
    return rows
