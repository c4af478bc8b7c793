"""May embedding B replace embedding A? The gate of a release.

B replaces A where each of the evaluations, one of each cut date, says so by itself:

0. Its instrument worked: it has checks, all of them passed, but for those that name another arm
   than B and none of its models; and B is not one of its controls.
1. B is better: the interval of B - A is above 0 in the task `day`, and in `week` where that was
   measured.
2. Or B is not worse, and smaller: in these tasks the interval is above -margin, and B has at most
   half of A's bytes a member. Where both are equal for every member there is no interval that says
   so.

Otherwise A stays. The figure is NDCG@10, mean over members; a member's value is the mean over
seeds, and the interval that of the paired bootstrap over members and seeds, 95 %: the one that the
report has, if it compares the two. Since all tasks and all evaluations have to agree, no correction
for their number is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from activity_embeddings.training.evaluation.arms import ArmRole
from activity_embeddings.training.evaluation.findings import EQUAL
from activity_embeddings.training.evaluation.result import (
    DAY,
    MEMBERS,
    REPORT,
    WEEK,
    ArmFacts,
    Interval,
    Result,
    read_members,
    read_result,
)
from activity_embeddings.training.evaluation.statistics import (
    RESAMPLES,
    interval_text,
    paired_bootstrap,
)
from activity_embeddings.training.figure import FIGURE, MARGIN
from activity_embeddings.transformations.errors import InvalidInput, require_at_least
from activity_embeddings.transformations.wording import counted

TASKS = (DAY, WEEK)
"""The tasks that decide. Every evaluation has the first, and some have the second."""
SAME = 1e-6
"""Means of equal figures differ by less, whatever the order of their sums."""
NOT_PUBLISHED = (ArmRole.LESS, ArmRole.CONTROL, ArmRole.ORACLE)
"""Roles of arms that say what a kind of activity adds, or test the instrument."""


@dataclass(frozen=True)
class Verdict:
    """Whether B replaces A.

    Attributes
    ----------
    a, b
        The arms.
    replace
        Whether B replaces A.
    reasons
        Sentences with the figures: of every evaluation where B replaces A, else of those that speak
        against it.
    simulated
        An evaluation is of simulated data.
    day_alone
        list of Path. Evaluations without the items of a week, as quick ones are.
    """

    a: str
    b: str
    replace: bool
    reasons: list[str]
    simulated: bool = False
    day_alone: Sequence[Path] = ()

    def __str__(self) -> str:
        first = f"Replace `{self.a}` by `{self.b}`." if self.replace else f"Keep `{self.a}`."
        label = ["Simulated data: says nothing about real members."] * self.simulated
        label += [f"{folder}: the items of a week were not measured." for folder in self.day_alone]
        return "\n".join([first, *label, *(f"- {reason}" for reason in self.reasons)])


@dataclass(frozen=True)
class _Evaluation:
    """What one folder says of A and B.

    Attributes
    ----------
    report
        Content of `report.json`.
    tasks
        For each task that was measured, float [2, seeds, members]: the values of A and B, by member
        id ascending.
    """

    folder: Path
    report: Result
    tasks: dict[str, np.ndarray]


def compare(
    folders: Sequence[Path],
    a: str,
    b: str,
    *,
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Verdict:
    """Decide whether arm B may replace arm A; see the head of this module.

    Parameters
    ----------
    folders
        Each with `report.json` and `members.parquet` of one evaluation.
    a, b
        Names of arms: what is published today, and what might be.
    margin
        Float, 0 or more. NDCG@10 that B may be worse by if it is smaller.
    resamples, seed
        Resamples and seed of the bootstrap, where a report does not compare the two.

    Raises
    ------
    InvalidInput
        There is no folder, one is given twice or has no evaluation that can be read; an arm is
        unknown or both are the same; the members of the two differ, or the report is of others; or
        `margin` is below 0.
    """
    folders = [Path(folder) for folder in folders]
    if not folders or len({folder.resolve() for folder in folders}) < len(folders):
        raise InvalidInput(
            "compare: expected folders of evaluations, each once. Received: "
            f"{', '.join(map(str, folders)) or 'none'}"
        )
    if a == b:
        raise InvalidInput(f"compare: expected two arms. Received: `{a}` twice")
    require_at_least("compare", 0, margin=margin)
    evaluations = [_read(folder, a, b) for folder in folders]
    judged = [_judge(e, a, b, margin, resamples, seed) for e in evaluations]
    replace = all(says_so for says_so, _ in judged)
    reasons = [s for says_so, sentences in judged if says_so == replace for s in sentences]
    simulated = any(bool(e.report.get("simulated")) for e in evaluations)
    day_alone = [e.folder for e in evaluations if WEEK not in e.tasks]
    return Verdict(a, b, replace, reasons, simulated, day_alone)


def _judge(
    evaluation: _Evaluation, a: str, b: str, margin: float, resamples: int, seed: int
) -> tuple[bool, list[str]]:
    """Return whether one evaluation lets B replace A, and the sentences that say why."""
    against = _faults(evaluation, b)
    differences = {
        task: _reported(evaluation, task, a, b) or _difference(values, resamples, seed)
        for task, values in evaluation.tasks.items()
    }
    better = [task for task, d in differences.items() if d["low"] > 0]
    equal = [task for task, (of_a, of_b) in evaluation.tasks.items() if (of_a == of_b).all()]
    not_worse = [t for t, d in differences.items() if d["low"] > -margin and t not in equal]
    a_bytes, b_bytes = (_arm(evaluation.report, arm).get("bytes_per_member") for arm in (a, b))
    # Of two that have nothing, neither is smaller.
    smaller = bool(a_bytes and b_bytes is not None and 2 * b_bytes <= a_bytes)
    sizes = f"`{b}` has {_bytes(b_bytes)} and `{a}` {_bytes(a_bytes)} a member"

    def figures(task: str, says: str) -> str:
        d = differences[task]
        shown = interval_text(d["difference"], d["low"], d["high"])
        return f"{evaluation.folder}: task {task}: {b} - {a} is {shown}, {says}."

    if len(better) == len(differences):
        sentences = [figures(task, "above 0") for task in better]
        return not against, against or sentences
    if smaller and len(not_worse) == len(differences):
        sentences = [figures(task, f"above -{margin:g}") for task in not_worse]
        sentences.append(f"{evaluation.folder}: {sizes}, at most half.")
        return not against, against or sentences
    for task in differences:
        if task in equal:
            against.append(figures(task, EQUAL))
        elif task not in not_worse:
            against.append(figures(task, f"so that it may be worse by {margin:g} or more"))
        elif task not in better and not smaller:
            against.append(figures(task, "not above 0"))
    if not smaller:
        against.append(f"{evaluation.folder}: {sizes}, not at most half: it has to be better.")
    return False, against


def _faults(evaluation: _Evaluation, b: str) -> list[str]:
    """Return sentences that say why the evaluation proves nothing of B."""
    folder, checks = evaluation.folder, evaluation.report.get("checks") or []
    faults = []
    if not checks:
        faults.append(f"{folder}: the report has no checks of the instrument.")
    arm = _arm(evaluation.report, b)
    concerned = {None, b, *(arm.get("models") or ())}
    for check in checks:
        if check.get("arm") in concerned and check.get("passed") is not True:
            says = str(check.get("says") or "it says nothing more").rstrip(".")
            faults.append(f"{folder}: the check `{check.get('name')}` did not pass: {says}.")
    role = arm.get("role")
    if role in NOT_PUBLISHED:
        faults.append(f"{folder}: `{b}` is there for comparison ({role}), it cannot be published.")
    return faults


def _read(folder: Path, a: str, b: str) -> _Evaluation:
    """Read the evaluation of two arms in a folder."""
    for name in (REPORT, MEMBERS):
        if not (folder / name).is_file():
            raise InvalidInput(
                f"{folder}: expected an evaluation, `{REPORT}` and `{MEMBERS}`. Received: no "
                f"`{name}`; run `activity-embeddings evaluate` first"
            )
    report = read_result(folder)
    known = [arm["name"] for arm in report["arms"]]
    for arm in (a, b):
        if arm not in known:
            raise InvalidInput(
                f"{folder}: expected an arm that was evaluated: {', '.join(known)}. Received: {arm}"
            )
    path = folder / MEMBERS
    frame = read_members(folder, [a, b]).to_pandas()
    tasks = {
        task: _values(rows, a, b, f"{path}, task {task}")
        for task in TASKS
        if len(rows := frame[frame["task"] == task])
    }
    reported = report.get("tasks") or {}
    for task in TASKS:
        if task not in tasks and (task == DAY or reported.get(task)):
            raise InvalidInput(
                f"{path}: expected rows of the task `{task}` with `{a}` and `{b}`. Received: none"
            )
    return _Evaluation(folder, report, tasks)


def _values(rows: pd.DataFrame, a: str, b: str, where: str) -> np.ndarray:
    """Return each member's figures for A and for B, float64 [2, seeds, members]."""
    key = ["arm", "seed", "member_id"]
    if rows.duplicated(key).any():
        raise InvalidInput(
            f"{where}: expected a row of each arm, seed and member. Received: "
            f"{int(rows.duplicated(key).sum())} more"
        )
    members = {arm: set(rows.loc[rows["arm"] == arm, "member_id"]) for arm in (a, b)}
    # Every seed too: a member without one would get a mean of others.
    table = rows.pivot(index="member_id", columns=["arm", "seed"], values=FIGURE)
    table = table.sort_index(axis=0).sort_index(axis=1)
    without = int(table.isna().any(axis=1).sum())
    if members[a] != members[b] or without:
        raise InvalidInput(
            f"{where}: expected the same members with `{a}` and with `{b}`, for every seed. "
            f"Received: {len(members[a] - members[b])} with `{a}` alone, "
            f"{len(members[b] - members[a])} with `{b}` alone, {without} without a figure of some "
            "seed"
        )
    of_a, of_b = (table[arm].to_numpy(np.float64).T for arm in (a, b))
    if len(of_a) != len(of_b):
        raise InvalidInput(
            f"{where}: expected as many seeds of `{a}` as of `{b}`. Received: {len(of_a)} and "
            f"{len(of_b)}"
        )
    return np.stack([of_a, of_b])


def _reported(evaluation: _Evaluation, task: str, a: str, b: str) -> Interval | None:
    """Return B - A as the report has it; None where it does not compare the two."""
    rows = {
        (row["arm"], row["against"]): row
        for row in evaluation.report.get("comparisons") or []
        if (row["task"], row["figure"]) == (task, FIGURE)
    }
    found: Interval
    if (b, a) in rows:
        row = rows[b, a]
        found = {"difference": row["difference"], "low": row["low"], "high": row["high"]}
    elif (a, b) in rows:
        row = rows[a, b]
        found = {"difference": -row["difference"], "low": -row["high"], "high": -row["low"]}
    else:
        return None
    of_a, of_b = evaluation.tasks[task]
    own = float((of_b - of_a).mean())
    if abs(own - found["difference"]) > SAME:
        raise InvalidInput(
            f"{evaluation.folder}: expected `{REPORT}` and `{MEMBERS}` of one evaluation. "
            f"Received: {b} - {a} of the task `{task}` is {found['difference']:+.6f} in "
            f"`{REPORT}` and {own:+.6f} in `{MEMBERS}`"
        )
    return found


def _difference(values: np.ndarray, resamples: int, seed: int) -> Interval:
    """Compare B with A; `values` is float [2, seeds, members]."""
    own, base = values[1].mean(axis=0), values[0].mean(axis=0)
    by_seed = (values[1] - values[0]).mean(axis=1)[:, None]
    (found,) = paired_bootstrap(own[:, None], base, by_seed=by_seed, resamples=resamples, seed=seed)
    return {"difference": found.difference, "low": found.low, "high": found.high}


def _arm(report: Result, name: str) -> ArmFacts:
    return next(arm for arm in report["arms"] if arm["name"] == name)


def _bytes(count: float | None) -> str:
    return "an unknown number of bytes" if count is None else counted(round(count), "byte")
