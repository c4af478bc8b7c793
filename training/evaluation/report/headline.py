"""What decides, as text for a terminal."""

from __future__ import annotations

from activity_embeddings.training.evaluation.arms import NOTHING
from activity_embeddings.training.evaluation.plan import AsOf
from activity_embeddings.training.evaluation.result import (
    ALONE,
    DAY,
    TO_DATE,
    Interval,
    Result,
)
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.transformations.wording import counted


def headline(result: Result) -> str:
    """Return each arm's NDCG@10 and what it adds, the checks and the targets, as lines of text."""
    label = "SIMULATED DATA. " if result["simulated"] else ""
    day, as_of = result["tasks"][DAY], AsOf(result["as_of"]).says
    lines = [
        f"{label}{result['data']['description']}",
        f"NDCG@10, mean over {counted(day['members'], 'member')} and "
        f"{counted(len(result['declared']['seeds']), 'seed')}; seeds: the deviation between them",
        f"{day['title']}, {as_of}:",
        *_rows(result, DAY),
    ]
    if TO_DATE in result["tasks"]:
        to_date = result["tasks"][TO_DATE]
        named = ", ".join(name.replace("_", " ") for name in to_date["base_features"])
        lines += [f"{to_date['title']}, {as_of}; it knows {named}:", *_rows(result, TO_DATE)]
    lines += [f"{result['tasks'][ALONE]['title']}, {as_of}:", *_rows(result, ALONE)]
    if result["freshness"]:
        lines.append(f"{result['freshness']['arm']} by the age of the embedding:")
        lines += [
            f"  {point['lag']:24} {point[FIGURE]:7.4f} {'':6} {_interval(point)}"
            for point in result["freshness"]["points"]
        ]
    lines += [
        f"  check {c['name']}: {'passed' if c['passed'] else 'FAILED'}" for c in result["checks"]
    ]
    lines += [
        f"  {'reached' if t['reached'] else 'NOT REACHED'}: {t['claim']}: {t['says']}"
        for t in result["targets"]
    ]
    return "\n".join([*lines, *result["conclusions"]])


def _rows(result: Result, task: str) -> list[str]:
    """Return the table of a task, lines."""
    figures = result["tasks"][task]["figures"]
    added = {
        row["arm"]: row
        for row in result["comparisons"]
        if row["task"] == task and row["figure"] == FIGURE and row["against"] == NOTHING
    }
    lines = [f"  {'':24} NDCG@10  seeds   added  95 % interval       bytes"]
    for arm in result["arms"]:
        name = arm["name"]
        if name not in figures:
            continue
        spread = figures[name]["seed_spread"] or 0.0
        line = f"  {name:24} {figures[name][FIGURE]:7.4f} {spread:6.4f}"
        if name in added:
            line += f" {_interval(added[name])}"
            line += " real" if added[name]["real"] else "     "
        if arm.get("bytes_per_member"):
            line = f"{line:73} {arm['bytes_per_member']:5,}"
        lines.append(line.rstrip())
    return lines


def _interval(row: Interval) -> str:
    """Return a difference with the ends of its interval, in columns."""
    return f"{row['difference']:+7.4f}  [{row['low']:+.4f}, {row['high']:+.4f}]"
