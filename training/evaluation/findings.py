"""From measured values to what may be said: differences with intervals, checks, plain sentences.

The figure that decides is declared in advance: NDCG@10, each member's mean over its queries and
over seeds, in the task `day`, by paired bootstrap over members and seeds, Holm over arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from activity_embeddings.training.evaluation import arms
from activity_embeddings.training.evaluation.arms import Arm, ArmRole
from activity_embeddings.training.evaluation.plan import AsOf, Declared, Target
from activity_embeddings.training.evaluation.result import (
    ALONE,
    COVERAGE,
    DAY,
    WEEK,
    Check,
    Comparison,
    Interval,
    JudgedTarget,
)
from activity_embeddings.training.evaluation.statistics import (
    CONFIDENCE,
    POWER,
    Difference,
    holm,
    interval_text,
    minimum_detectable_effect,
    paired_bootstrap,
)
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.transformations.wording import counted, out_of, share

LEAP = 3.0
"""An arm is flagged as a leak if its lift exceeds `LEAP` times the best reference's lift, or that
lift plus half of the headroom above it, whichever is less; where the true preference is known, also
if it exceeds what that adds, which nothing honest does."""
COLLAPSED = 0.25
"""An embedding has collapsed if its coverage is below this share of the plain mean's."""

EQUAL = "equal for every member, which says nothing of others"
"""Of two arms without any error between them: no interval says that they are as good."""

Values = Mapping[str, np.ndarray]
"""A figure of each arm, float [seeds, queries or members]."""


def paired(
    values: Values, pairs: Sequence[tuple[str, str]], declared: Declared
) -> list[Difference]:
    """Return the difference of each pair of arms, its interval over members and seeds.

    Parameters
    ----------
    values
        float [seeds, members] by arm.
    pairs
        (arm, against).
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
) -> list[Comparison]:
    """Compare pairs of arms by members; Holm over the pairs that share a baseline.

    Parameters
    ----------
    values
        float [seeds, members] by arm.
    pairs
        (arm, against).
    possible
        The arm whose difference to the same baseline is all that is possible.
    """
    found = paired(values, pairs, declared)
    adjusted = _adjusted(pairs, found)
    whole = {
        against: d.difference
        for (arm, against), d in zip(pairs, found, strict=True)
        if arm == possible
    }

    def compared(arm: str, against: str, difference: Difference, p_holm: float) -> Comparison:
        baseline = float(values[against].mean())
        return {
            "task": task,
            "figure": figure,
            "arm": arm,
            "against": against,
            "difference": difference.difference,
            "low": difference.low,
            "high": difference.high,
            "p": difference.p,
            "of_baseline": baseline,
            "relative": difference.difference / max(baseline, 1e-12),
            "minimum_detectable_effect": minimum_detectable_effect(
                difference.member_error,
                difference.seed_error,
                seeds=len(values[arm]),
                comparisons=sum(other == against for _, other in pairs),
                power=POWER,
            ),
            "p_holm": p_holm,
            "real": p_holm < 1 - CONFIDENCE,
            "share_of_possible": (
                difference.difference / whole[against] if whole.get(against) else None
            ),
        }

    return [
        compared(arm, against, difference, p_holm)
        for (arm, against), difference, p_holm in zip(pairs, found, adjusted, strict=True)
    ]


def _adjusted(pairs: Sequence[tuple[str, str]], found: Sequence[Difference]) -> list[float]:
    """Return the p value of each pair after Holm's correction over those of one baseline."""
    adjusted = np.empty(len(pairs))
    baselines = np.array([against for _, against in pairs])
    for against in dict.fromkeys(baselines):
        family = baselines == against
        adjusted[family] = holm([d.p for d, of_it in zip(found, family, strict=True) if of_it])
    return adjusted.tolist()


def pairs_of(compared: Sequence[Arm]) -> list[tuple[str, str]]:
    """Return which arms are compared: all with nothing, what could be shipped with references."""
    pairs = [(arm.name, arms.NOTHING) for arm in compared if arm.name != arms.NOTHING]
    shipped = [arm.name for arm in compared if arm.role in (ArmRole.REFERENCE, ArmRole.LEARNED)]
    known = {arm.name for arm in compared}
    for against in (arms.DECAY, arms.MEAN, arms.DECAY_AND_RATES):
        if against in known:
            rivals = shipped if against != arms.DECAY_AND_RATES else _decay_and(shipped)
            pairs += [(name, against) for name in rivals if name != against]
    pairs += [(a.name, a.sources[0].model) for a in compared if a.role == ArmRole.LESS]
    learned = [arm.name for arm in compared if arm.role == ArmRole.LEARNED]
    rivals = [name for name in (arms.SINGLE_DECAY, arms.SEVERAL_RATES) if name in known]
    rivals += [arm.name for arm in compared if arm.only_scores]
    return pairs + [(name, rival) for rival in rivals for name in learned]


def _decay_and(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{arms.DECAY}+")]


def check_instrument(
    comparisons: Sequence[Comparison],
    compared: Sequence[Arm],
    quality: Mapping[str, Mapping[str, float | None]],
    seen_themselves: Mapping[str, int],
    as_of: AsOf,
) -> list[Check]:
    """Return the checks that show that the instrument works, and the alarms of single arms.

    Parameters
    ----------
    comparisons
        All rows of `compare_arms`.
    compared
        The arms.
    quality
        Figures of embeddings on their own, by arm.
    seen_themselves
        By arm, how many queries had a value that knows what it should not; see
        `MemberVectors.differing`.
    as_of
        As of when values are.
    """
    day = {
        row["arm"]: row
        for row in comparisons
        if row["task"] == DAY and row["figure"] == FIGURE and row["against"] == arms.NOTHING
    }
    checks: list[Check] = []
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
        if arm.role in (ArmRole.REFERENCE, ArmRole.LEARNED) and day[arm.name]["low"] > leap:
            checks.append(
                _check(
                    "leak",
                    False,
                    f"{arm.name} adds {_text(day[arm.name])}, more than {leap:.4f}: too good to "
                    "be true; look for what it sees of its labels",
                    arm.name,
                )
            )
    if as_of == AsOf.PUBLISHED:
        wrong = "what was joined is not the value of the activity before the daily run"
        right = "values that were joined are those of the activity before the daily run, computed "
        right += "again"
    else:
        wrong = "the value knows activity at the time of the query or later"
        right = "values as of the request know no activity at its time or later"
    late = {name: count for name, count in seen_themselves.items() if count}
    for name, count in late.items():
        says = f"{name}: of {counted(count, 'query')}, {wrong}"
        checks.append(_check("label sees itself", False, says, name))
    if seen_themselves and not late:
        checks.append(_check("label sees itself", True, right))
    return checks + _collapses(quality)


def _leap(day: Mapping[str, Comparison], compared: Sequence[Arm]) -> float:
    """Return the lift above which an arm is flagged as a leak; see `LEAP`."""
    references = [day[arm.name] for arm in compared if arm.role == ArmRole.REFERENCE]
    honest = max((max(row["high"], 0.0) for row in references), default=0.0)
    # References may all be equal to nothing; what else there is tells noise from a leap, too.
    detectable = max(_effects(references) or _effects(day.values()), default=0.0)
    usual = max(honest, detectable)
    # Nothing is better than a figure of 1.
    possible = 1 - next(iter(day.values()))["of_baseline"]
    leap = min(LEAP * usual, usual + (possible - usual) / 2)
    if arms.ORACLE in day and day[arms.ORACLE]["low"] > 0:
        leap = min(leap, max(day[arms.ORACLE]["high"], usual))
    return leap


def _effects(rows: Iterable[Comparison]) -> list[float]:
    """Return the minimum detectable effects that are known."""
    return [effect for row in rows if (effect := row["minimum_detectable_effect"]) is not None]


def _collapses(quality: Mapping[str, Mapping[str, float | None]]) -> list[Check]:
    usual = quality.get(arms.MEAN, {}).get(COVERAGE)
    if not usual:
        return []
    checks: list[Check] = []
    for name, figures in quality.items():
        coverage = figures[COVERAGE]
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


def _check(name: str, passed: bool, says: str, arm: str | None = None) -> Check:
    check: Check = {"name": name, "passed": bool(passed), "says": says}
    if arm is not None:
        check["arm"] = arm
    return check


def judge_targets(
    targets: Sequence[Target], comparisons: Sequence[Comparison], margin: float
) -> list[JudgedTarget]:
    """Return whether each claim holds, in the declared figure."""
    rows = {
        (row["task"], row["arm"], row["against"]): row
        for row in comparisons
        if row["figure"] == FIGURE
    }
    results: list[JudgedTarget] = []
    for target in targets:
        row = rows.get((target.task, target.arm, target.against))
        if target.not_worse:
            claim = f"{target.arm} not worse than {target.against} by {margin:g}"
        else:
            claim = f"{target.arm} above {target.against}"
            claim += f" by {target.least:g}" if target.least else ""
            claim += ", interval above 0" if target.above_zero else ""
        claim += "" if target.task == DAY else f" (task {target.task})"
        if row is None:
            reached, says = False, "not measured"
        elif target.not_worse and row["minimum_detectable_effect"] is None:
            reached, says = False, EQUAL
        elif target.not_worse:
            reached, says = row["low"] > -margin, _text(row)
        else:
            reached = row["difference"] >= target.least
            reached &= row["low"] > 0 or not target.above_zero
            says = _text(row)
        results.append({"claim": claim, "reached": bool(reached), "says": says})
    return results


def conclude(
    comparisons: Sequence[Comparison],
    compared: Sequence[Arm],
    checks: Sequence[Check],
) -> list[str]:
    """Return sentences that say which differences are real, and which cannot be told."""
    day = [row for row in comparisons if row["task"] == DAY and row["figure"] == FIGURE]
    shipped = {arm.name for arm in compared if arm.role in (ArmRole.REFERENCE, ArmRole.LEARNED)}
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
        equal = [row for row in same if row["minimum_detectable_effect"] is None]
        same = [row for row in same if row not in equal]
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
            effects = _effects(same)
            ends = dict.fromkeys(f"{end(effects):.4f}" for end in (min, max))
            names = ", ".join(row["arm"] for row in same)
            sentences.append(
                f"No difference to {says} can be told for {names}; one below {' to '.join(ends)}"
                f"{', by arm,' if len(ends) > 1 else ''} would be missed more often than in one of "
                "five cases."
            )
        if equal:
            names = ", ".join(row["arm"] for row in equal)
            sentences.append(
                f"Equal to {says} for every member, which says nothing of others: {names}."
            )
    return sentences + _beside_scores(comparisons, compared) + _of_kinds(comparisons, compared)


def _beside_scores(comparisons: Sequence[Comparison], compared: Sequence[Arm]) -> list[str]:
    """Return sentences that say which learned vectors are beaten by what needs none."""
    sentences = []
    for task, where in ((ALONE, "without a ranker"), (DAY, "in the ranker")):
        for arm in compared:
            if not arm.only_scores:
                continue
            rows = [row for row in comparisons if (row["task"], row["against"]) == (task, arm.name)]
            beaten = [row for row in rows if row["real"] and row["difference"] < 0]
            level = [row for row in rows if not row["real"]]
            if beaten:
                sentences.append(f"Beaten by {arm.title} {where}: {_list(beaten)}.")
            if level:
                sentences.append(f"Not to be told from {arm.title} {where}: {_list(level)}.")
    return sentences


def _of_kinds(comparisons: Sequence[Comparison], compared: Sequence[Arm]) -> list[str]:
    """Return sentences that say what the candidate finds less without a kind of activity."""
    less = {arm.name: arm.sources[0].model for arm in compared if arm.role == ArmRole.LESS}
    sentences = []
    for task, where in ((ALONE, "without a ranker"), (DAY, "in the ranker")):
        rows = [
            row
            for row in comparisons
            if row["task"] == task and less.get(row["arm"]) == row["against"]
        ]
        if rows:
            sentences.append(f"Beside {rows[0]['against']} {where}: {_list(rows)}.")
    return sentences


def _not_in_week(comparisons: Sequence[Comparison], against: str) -> set[str]:
    """Return the arms that were measured in the task `week` and whose interval is not above 0."""
    return {
        row["arm"]
        for row in comparisons
        if (row["task"], row["figure"], row["against"]) == (WEEK, FIGURE, against)
        and row["low"] <= 0
    }


def _list(rows: Sequence[Comparison]) -> str:
    return "; ".join(f"{row['arm']} ({_text(row)})" for row in rows)


def _text(row: Interval) -> str:
    return interval_text(row["difference"], row["low"], row["high"])
