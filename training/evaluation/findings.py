"""From measured values to what may be said: differences with intervals, checks, plain sentences.

The figure that decides is declared in advance: NDCG@10, each member's mean over its queries and
over seeds, in the task `day`, by paired bootstrap over members and seeds, Holm over arms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from activity_embeddings.training.evaluation import arms
from activity_embeddings.training.evaluation.arms import Arm, Role
from activity_embeddings.training.evaluation.statistics import (
    CONFIDENCE,
    RESAMPLES,
    Difference,
    holm,
    minimum_detectable_effect,
    paired_bootstrap,
)
from activity_embeddings.training.metrics import mean_by_member
from activity_embeddings.transformations.wording import counted, out_of, share

DECIDES = "day"
"""The task that decides."""
WEEK = "week"
"""The task that has to agree, where it is measured."""
FIGURE = "ndcg_at_10"
POWER = 0.8
LEAP = 3.0
"""An arm that adds more than so many times what any reference adds is taken for a leak, or more
than half of what is left above it, where that is less."""
COLLAPSED = 0.25
"""Coverage below so many times that of the plain mean is taken for a collapse."""


@dataclass(frozen=True)
class Declared:
    """What is fixed before anything is measured.

    Parameters
    ----------
    seeds : of the ranker, and of models where each seed has its own.
    resamples : of the bootstrap.
    margin : NDCG@10 that counts as not worse.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    resamples: int = RESAMPLES
    margin: float = 0.004

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "task": DECIDES,
            "figure": FIGURE,
            "seeds": list(self.seeds),
            "resamples": self.resamples,
            "confidence": CONFIDENCE,
            "correction": "Holm",
            "power": POWER,
            "margin": self.margin,
        }


@dataclass(frozen=True)
class Target:
    """A claim to be tested: one arm adds to another.

    Parameters
    ----------
    arm, against : names of arms.
    least : float. The difference should be at least so much.
    above_zero : bool. Its interval should be above 0.
    not_worse : bool. Its interval should be above minus the margin, and nothing else is asked.
    task : str. Where: "day", or "to_date" beside the fewest base features.
    """

    arm: str
    against: str
    least: float = 0.0
    above_zero: bool = True
    not_worse: bool = False
    task: str = DECIDES


Values = Mapping[str, np.ndarray]
"""A figure of each arm, float [seeds, queries or members]."""


def paired(
    values: Values, pairs: Sequence[tuple[str, str]], declared: Declared
) -> list[Difference]:
    """Return the difference of each pair of arms, its interval over members and seeds.

    Parameters
    ----------
    values : float [seeds, members] by arm.
    pairs : (arm, against).
    """
    differences = [values[arm] - values[against] for arm, against in pairs]
    return paired_bootstrap(
        np.stack([values[arm].mean(axis=0) for arm, _ in pairs], axis=1),
        np.stack([values[against].mean(axis=0) for _, against in pairs], axis=1),
        by_seed=np.stack([d.mean(axis=1) for d in differences], axis=1),
        resamples=declared.resamples,
    )


def compare_arms(
    task: str,
    figure: str,
    values: Values,
    pairs: Sequence[tuple[str, str]],
    declared: Declared,
    *,
    possible: str | None = None,
) -> list[dict[str, Any]]:
    """Compare pairs of arms by members; Holm over the pairs that share a baseline.

    Parameters
    ----------
    values : float [seeds, members] by arm.
    pairs : (arm, against).
    possible : the arm whose difference to the same baseline is all that is possible.
    """
    found = paired(values, pairs, declared)
    rows: list[dict[str, Any]] = [
        {
            "task": task,
            "figure": figure,
            "arm": arm,
            "against": against,
            "difference": difference.difference,
            "low": difference.low,
            "high": difference.high,
            "p": difference.p,
            "of_baseline": float(values[against].mean()),
            "relative": difference.difference / max(float(values[against].mean()), 1e-12),
            "minimum_detectable_effect": minimum_detectable_effect(
                difference.member_error,
                difference.seed_error,
                seeds=len(values[arm]),
                comparisons=sum(baseline == against for _, baseline in pairs),
                power=POWER,
            ),
        }
        for (arm, against), difference in zip(pairs, found, strict=True)
    ]
    for against in {row["against"] for row in rows}:
        family = [row for row in rows if row["against"] == against]
        whole = next((row["difference"] for row in family if row["arm"] == possible), None)
        for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = float(adjusted)
            row["real"] = bool(adjusted < 1 - CONFIDENCE)
            row["share_of_possible"] = row["difference"] / whole if whole else None
    return rows


def pairs_of(compared: Sequence[Arm]) -> list[tuple[str, str]]:
    """Return which arms are compared: all with nothing, published ones with averages."""
    pairs = [(arm.name, arms.NOTHING) for arm in compared if arm.name != arms.NOTHING]
    shipped = [arm.name for arm in compared if arm.role in (Role.REFERENCE, Role.LEARNED)]
    known = {arm.name for arm in compared}
    for against in (arms.DECAY, arms.MEAN, arms.DECAY_AND_RATES):
        if against in known:
            rivals = shipped if against != arms.DECAY_AND_RATES else _decay_and(shipped)
            pairs += [(name, against) for name in rivals if name != against]
    return pairs


def _decay_and(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{arms.DECAY}+")]


def slice_rows(
    slices: Mapping[str, Mapping[str, np.ndarray]],
    values: Values,
    member: np.ndarray,
    compared: Sequence[str],
    declared: Declared,
) -> list[dict[str, Any]]:
    """Return the difference to nothing within parts of the queries.

    Parameters
    ----------
    slices : bool [queries] by slice and value.
    values : float [seeds, queries] by arm.
    member : int [queries].
    compared : names of arms.
    """
    rows = []
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


def check_instrument(
    comparisons: Sequence[Mapping[str, Any]],
    compared: Sequence[Arm],
    quality: Mapping[str, Mapping[str, Any]],
    seen_themselves: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Return the checks: what shows that the instrument works, and alarms of single arms.

    Parameters
    ----------
    comparisons : all rows of `compare_arms`.
    compared : the arms.
    quality : figures of embeddings on their own, by arm.
    seen_themselves : by arm, how many queries had another published value than that of the
        activity before the newest daily run before them.
    """
    day = {
        row["arm"]: row
        for row in comparisons
        if row["task"] == DECIDES and row["figure"] == FIGURE and row["against"] == arms.NOTHING
    }
    checks = []
    if arms.AGAIN in day:
        row = day[arms.AGAIN]
        checks.append(
            _check(
                "A/A",
                row["low"] <= 0 <= row["high"],
                f"nothing against itself with other seeds: {_text(row)}; the interval should "
                "hold 0",
            )
        )
    if arms.PLACEBO in day:
        row = day[arms.PLACEBO]
        checks.append(
            _check(
                "placebo",
                row["low"] <= 0,
                f"the embedding of another member adds {_text(row)}; nothing should be added",
            )
        )
    leap = _leap(day, compared)
    if arms.CANARY in day:
        row = day[arms.CANARY]
        checks.append(
            _check(
                "leak canary",
                row["low"] > leap,
                f"an embedding that sees the label's own activity adds {_text(row)}; more than "
                f"{leap:.4f} is flagged as a leak, and it should be",
            )
        )
    if arms.ORACLE in day:
        row = day[arms.ORACLE]
        checks.append(
            _check("oracle", row["low"] > 0, f"the true preference adds {_text(row)}; above 0")
        )
    for arm in compared:
        if arm.role in (Role.REFERENCE, Role.LEARNED) and day[arm.name]["low"] > leap:
            checks.append(
                _check(
                    "leak",
                    False,
                    f"{arm.name} adds {_text(day[arm.name])}, more than {leap:.4f}: too good to "
                    "be true; look for what it sees of its labels",
                    arm.name,
                )
            )
    late = {name: count for name, count in seen_themselves.items() if count}
    for name, count in late.items():
        checks.append(
            _check(
                "label sees itself",
                False,
                f"{name}: of {counted(count, 'query')}, what was joined is not the value of the "
                "activity before the daily run",
                name,
            )
        )
    if seen_themselves and not late:
        checks.append(
            _check(
                "label sees itself",
                True,
                "values that were joined are those of the activity before the daily run, computed "
                "anew",
            )
        )
    return checks + _collapses(quality)


def _leap(day: Mapping[str, Mapping[str, Any]], compared: Sequence[Arm]) -> float:
    """Return the lift from which on an arm is taken for a leak."""
    references = [day[arm.name] for arm in compared if arm.role == Role.REFERENCE]
    honest = max((max(row["high"], 0.0) for row in references), default=0.0)
    detectable = max((row["minimum_detectable_effect"] for row in references), default=0.0)
    usual = max(honest, detectable)
    # Nothing is better than a figure of 1.
    possible = 1 - next(iter(day.values()))["of_baseline"]
    return min(LEAP * usual, usual + (possible - usual) / 2)


def _collapses(quality: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    usual = quality.get(arms.MEAN, {}).get("p90_coverage_at_10")
    if not usual:
        return []
    checks = []
    for name, figures in quality.items():
        coverage = figures["p90_coverage_at_10"]
        if coverage is not None and coverage < COLLAPSED * usual:
            checks.append(
                _check(
                    "collapse",
                    False,
                    f"{name}: {share(coverage)} of the items make up 90 % of all members' "
                    f"nearest, of the plain mean {share(usual)}: it has collapsed",
                    name,
                )
            )
    if not checks:
        checks.append(
            _check("collapse", True, f"no embedding covers less than {COLLAPSED:g} of the mean's")
        )
    return checks


def _check(name: str, passed: bool, says: str, arm: str | None = None) -> dict[str, Any]:
    check = {"name": name, "passed": bool(passed), "says": says}
    return check if arm is None else {**check, "arm": arm}


def judge_targets(
    targets: Sequence[Target], comparisons: Sequence[Mapping[str, Any]], margin: float
) -> list[dict[str, Any]]:
    """Return whether each claim holds, in the declared figure."""
    rows = {
        (row["task"], row["arm"], row["against"]): row
        for row in comparisons
        if row["figure"] == FIGURE
    }
    results = []
    for target in targets:
        row = rows.get((target.task, target.arm, target.against))
        if target.not_worse:
            claim = f"{target.arm} not worse than {target.against} by {margin:g}"
        else:
            claim = f"{target.arm} above {target.against}"
            claim += f" by {target.least:g}" if target.least else ""
            claim += ", interval above 0" if target.above_zero else ""
        claim += "" if target.task == DECIDES else f" (task {target.task})"
        if row is None:
            reached, says = False, "not measured"
        elif target.not_worse:
            reached, says = row["low"] > -margin, _text(row)
        else:
            reached = row["difference"] >= target.least
            reached &= row["low"] > 0 or not target.above_zero
            says = _text(row)
        results.append({"claim": claim, "reached": bool(reached), "says": says})
    return results


def conclude(
    comparisons: Sequence[Mapping[str, Any]],
    compared: Sequence[Arm],
    checks: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Return plain sentences: what is real, what cannot be told."""
    day = [row for row in comparisons if row["task"] == DECIDES and row["figure"] == FIGURE]
    shipped = {arm.name for arm in compared if arm.role in (Role.REFERENCE, Role.LEARNED)}
    sentences = []
    failed = [check["name"] for check in checks if not check["passed"]]
    if failed:
        sentences.append(
            f"Read nothing below as proven: {out_of(len(failed), len(checks), 'check')} failed "
            f"({', '.join(failed)})."
        )
    for against, says in ((arms.NOTHING, "the base features alone"), (arms.DECAY, "the decay")):
        rows = [row for row in day if row["against"] == against and row["arm"] in shipped]
        better = [row for row in rows if row["real"] and row["difference"] > 0]
        worse = [row for row in rows if row["real"] and row["difference"] < 0]
        alone = [row for row in rows if not row["real"] and not row["low"] <= 0 <= row["high"]]
        same = [row for row in rows if not row["real"] and row["low"] <= 0 <= row["high"]]
        family = sum(row["against"] == against for row in day)
        not_in_week = _not_in_week(comparisons, against)
        unsure = [row for row in better if row["arm"] in not_in_week]
        better = [row for row in better if row["arm"] not in not_in_week]
        if better:
            sentences.append(f"Better than {says}: {_list(better)}.")
        if unsure:
            sentences.append(
                f"Better than {says} among the items of a day, which those of a week do not "
                f"confirm: {_list(unsure)}."
            )
        if worse:
            sentences.append(f"Worse than {says}: {_list(worse)}.")
        if alone:
            sentences.append(
                f"Different from {says} by an interval without 0, but not after Holm's correction "
                f"for {counted(family, 'comparison')}, so that one of them may be chance: "
                f"{_list(alone)}."
            )
        if same:
            effects = [row["minimum_detectable_effect"] for row in same]
            ends = dict.fromkeys(f"{end(effects):.4f}" for end in (min, max))
            names = ", ".join(row["arm"] for row in same)
            sentences.append(
                f"No difference to {says} can be told for {names}; one below {' to '.join(ends)}"
                f"{', by arm,' if len(ends) > 1 else ''} would be missed more often than in one of "
                "five cases."
            )
    return sentences


def _not_in_week(comparisons: Sequence[Mapping[str, Any]], against: str) -> set[str]:
    """Return the arms whose interval in the task `week` is there and not above 0."""
    return {
        row["arm"]
        for row in comparisons
        if (row["task"], row["figure"], row["against"]) == (WEEK, FIGURE, against)
        and row["low"] <= 0
    }


def _list(rows: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(f"{row['arm']} ({_text(row)})" for row in rows)


def _text(row: Mapping[str, Any]) -> str:
    return f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
