"""Write what an evaluation found as one HTML page that needs nothing else: `report.html`.

The page is `page.html.jinja`; here its figures become text and its charts are drawn. Whatever a
result leaves out is left out of the page: a column without a figure, a section without a row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader, Template, Undefined
from markupsafe import Markup

from activity_embeddings.training.evaluation.arms import CANARY, DECAY, NOTHING, ArmRole
from activity_embeddings.training.evaluation.plan import AsOf
from activity_embeddings.training.evaluation.report import charts
from activity_embeddings.training.evaluation.report.charts import Row
from activity_embeddings.training.evaluation.result import (
    ALONE,
    AUC,
    COVERAGE,
    DAY,
    LIKE,
    LISTS,
    LOG_LOSS,
    MRR,
    RECALL,
    SCHEMA,
    TO_DATE,
    WEEK,
    WITHIN_MEMBER_AUC,
    Result,
)
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import make_folder, replace_file
from activity_embeddings.transformations.wording import counted, duration, share, utc

BASELINE, REFERENCE = NOTHING, DECAY
"""Arms that others are compared against."""
ROLES: dict[str, str] = {
    ArmRole.BASE: "Without activity embeddings",
    ArmRole.REFERENCE: "References",
    ArmRole.LEARNED: "Learned",
    ArmRole.LESS: "Without a kind of activity",
    ArmRole.CONTROL: "Controls",
    ArmRole.ORACLE: "Oracle",
}
"""Groups of the table of arms, in their order; others follow."""
TASKS = {
    DAY: "Day",
    TO_DATE: "Day, base to date",
    WEEK: "Week",
    LIKE: "Like or dismiss",
    ALONE: "Day, without a ranker",
}
"""Short names of the tasks."""
FIGURES = {
    FIGURE: "NDCG@10",
    RECALL: "Recall@10",
    MRR: "MRR",
    AUC: "AUC",
    LOG_LOSS: "log loss",
    WITHIN_MEMBER_AUC: "AUC within members",
}
QUALITY = {
    RECALL: "Recall@10",
    "interest_entropy_at_50": "interest entropy@50",
    COVERAGE: "P90 coverage@10",
    "norm_p10": "norm, 10th percentile",
    "norm_p50": "norm, median",
    "norm_p90": "norm, 90th percentile",
    "empty_share": "share empty",
}
MISSING = "–"


def write_report(result: Result, file: Path) -> None:
    """Write the page of a result; it is written aside, so `file` never holds half a page.

    Parameters
    ----------
    result
        What an evaluation found; equal results give equal bytes. Parts may be missing, null or NaN.
    file
        The page. An existing one is replaced, and a missing folder is made.

    Raises
    ------
    InvalidInput
        The result is of another schema. Nothing is written.
    """
    page = render_report(result)
    make_folder(file.parent)
    replace_file(file, lambda aside: aside.write_bytes(page.encode("utf-8")))


def render_report(result: Result) -> str:
    """Return the page of a result; see `write_report`."""
    schema = result.get("schema") if isinstance(result, Mapping) else None
    if schema != SCHEMA:
        raise InvalidInput(
            f"report: expected the result of an evaluation, with `schema` {SCHEMA}. "
            f"Received: {schema!r}"
        )
    known = _known(result)
    return _template().render(
        result=known,
        headline=_headline(known),
        lift=_lift(known, BASELINE, "lift"),
        against_reference=_lift(known, REFERENCE, "reference"),
        detectable=_detectable(known),
        same=[check for check in known.get("checks") or [] if check.get("name") == "A/A"],
        slices=_slices(known),
        searches=_searches(known),
        curves=_curves(known),
        freshness=_freshness(known),
        ages=_ages(known),
        lengths=_lengths(known),
        timeline=_timeline(known),
        quality=_quality(known),
        seeds=_seeds(known),
        as_of=_as_of(known),
        baseline=BASELINE,
        reference=REFERENCE,
        missing=MISSING,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("activity_embeddings.training.evaluation.report", "."),
        autoescape=True,
        undefined=ChainableUndefined,
        finalize=lambda value: "" if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=_text(charts.figure_text),
        signed=_text(charts.signed_text),
        interval=_interval,
        p=_text(_p),
        count=_text(lambda value: f"{value:,.0f}"),
        things=lambda value, noun: _text(lambda number: counted(round(number), noun))(value),
        percent=_text(lambda value: f"{100 * value:.10g} %"),
        signed_percent=_text(lambda value: f"{100 * value:+.1f} %"),
        number=_text(lambda value: f"{value:g}"),
        moment=_moment,
        duration=_text(_duration),
        minutes=_text(lambda value: duration(timedelta(minutes=value))),
        figure_name=lambda name: FIGURES.get(name, name),
        task_name=lambda name: TASKS.get(name, name),
        breakable=_text(_breakable),
    )
    return environment.get_template("page.html.jinja")


def _as_of(result: Mapping[str, Any]) -> str:
    """Return the sentence that says as of when values are, nothing where that is not known."""
    known = result.get("as_of")
    return f"V{AsOf(known).says[1:]}. " if known in list(AsOf) else ""


def _breakable(name: str) -> Markup:
    """Return a name that may be broken after its parts, and rather there than within a word."""
    return Markup("<wbr>").join(re.split(r"(?<=[_+])", name))


def _known(value: Any) -> Any:
    """Return a JSON value where NaN and infinity are null and every letter can be printed."""
    if isinstance(value, Mapping):
        return {_known(str(key)): _known(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_known(part) for part in value]
    if isinstance(value, str):
        return "".join(c if c.isprintable() or c == "\n" else " " for c in value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _text(write: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return a filter that writes a value, or that it is missing."""

    def filtered(value: Any) -> str:
        return MISSING if value is None or isinstance(value, Undefined) else write(value)

    return filtered


def _interval(row: Mapping[str, Any]) -> str:
    return charts.interval_text(row.get("low"), row.get("high"))


def _p(value: float) -> str:
    if value >= 0.99995:
        return "1"
    return "<.0001" if value < 0.0001 else charts.figure_text(value)


def _share_of_possible(value: float) -> str:
    """Return a share, which noise may put below 0 and above 1."""
    return share(value, digits=0) if 0 <= value <= 1 else f"{100 * value:.0f} %"


def _duration(seconds: float) -> str:
    """Return how long something took, to the second."""
    if 0 < seconds < 1:
        return "under 1 s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "0 s"


def _moment(value: Any) -> str:
    """Return an ISO moment in UTC, a midnight as its date; other text as it is."""
    if not value or isinstance(value, Undefined):
        return MISSING
    moment = _parsed(value)
    if moment is None:
        return str(value)
    return utc(moment).removesuffix(" 00:00 UTC")


def _parsed(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


@dataclass(frozen=True)
class Column:
    """A column of the table of arms; `cell` makes the text of an arm and the note below it."""

    group: str
    title: str
    cell: Callable[[Mapping[str, Any]], tuple[str, str]]


def _arms(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the arms, with those that have figures but no description at the end."""
    arms = list(result.get("arms") or [])
    names = [arm.get("name") for arm in arms]
    for task in (result.get("tasks") or {}).values():
        for name in (task or {}).get("figures") or {}:
            if name not in names:
                names.append(name)
                arms.append({"name": name})
    return arms


def _headline(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the table of arms: groups of columns, columns, and groups of rows."""
    arms = _arms(result)
    tasks = result.get("tasks") or {}

    def figure(task: str, name: str, write: Any = charts.figure_text) -> Any:
        def cell(arm: Mapping[str, Any]) -> tuple[str, str]:
            figures = ((tasks.get(task) or {}).get("figures") or {}).get(arm.get("name")) or {}
            return _text(write)(figures.get(name)), ""

        return cell

    def compared(task: str, name: str, write: Any, note: Any = lambda row: "") -> Any:
        rows = {row.get("arm"): row for row in _compared(result, task, BASELINE)}

        def cell(arm: Mapping[str, Any]) -> tuple[str, str]:
            row = rows.get(arm.get("name")) or {}
            return _text(write)(row.get(name)), note(row)

        return cell

    def fact(name: str, write: Any = lambda value: f"{value:,.0f}") -> Any:
        return lambda arm: (_text(write)(arm.get(name)), "")

    difference = f"difference to {BASELINE}"
    columns = [
        Column(TASKS[DAY], "NDCG@10", figure(DAY, FIGURE)),
        Column(TASKS[DAY], difference, compared(DAY, "difference", charts.signed_text, _interval)),
        Column(TASKS[DAY], "p (Holm)", compared(DAY, "p_holm", _p)),
        Column(TASKS[DAY], "real", compared(DAY, "real", lambda real: "● yes" if real else "○ no")),
        Column(TASKS[DAY], "seed spread", figure(DAY, "seed_spread")),
        Column(
            TASKS[DAY],
            "share of the possible",
            compared(DAY, "share_of_possible", _share_of_possible),
        ),
        Column(TASKS[DAY], "Recall@10", figure(DAY, RECALL)),
        Column(TASKS[DAY], "MRR", figure(DAY, MRR)),
        *[
            column
            for task in (ALONE, TO_DATE, WEEK)
            for column in (
                Column(TASKS[task], "NDCG@10", figure(task, FIGURE)),
                Column(
                    TASKS[task],
                    difference,
                    compared(task, "difference", charts.signed_text, _interval),
                ),
            )
        ],
        Column(TASKS[LIKE], "AUC", figure(LIKE, AUC)),
        Column(TASKS[LIKE], "AUC within members", figure(LIKE, WITHIN_MEMBER_AUC)),
        Column(TASKS[LIKE], "log loss", figure(LIKE, LOG_LOSS)),
        Column("Cost", "columns", fact("features")),
        Column("Cost", "bytes a member", fact("bytes_per_member")),
    ]
    columns = [c for c in columns if any(c.cell(arm)[0] != MISSING for arm in arms)]
    if not columns:
        return None
    roles = [*ROLES, *sorted({str(arm.get("role")) for arm in arms} - {*ROLES, "None"}), "None"]
    groups = [
        (ROLES.get(role, "Others" if role == "None" else role), members)
        for role in roles
        if (members := [arm for arm in arms if str(arm.get("role")) == role])
    ]
    over = [column.group for column in columns]
    return {
        "over": [(group, over.count(group)) for group in dict.fromkeys(over)],
        "columns": columns,
        "first": [i == 0 or over[i] != over[i - 1] for i in range(len(over))],
        "groups": groups,
    }


def _compared(result: Mapping[str, Any], task: str, against: str) -> list[Mapping[str, Any]]:
    """Return the comparisons of the figure that decides against one arm."""
    return [
        row
        for row in result.get("comparisons") or []
        if (row.get("task"), row.get("against"), row.get("figure")) == (task, against, FIGURE)
    ]


def _rows(found: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return comparisons as a chart takes them; those without a difference are left out."""
    return [
        Row(
            row.get("arm") or "",
            row["difference"],
            row.get("low"),
            row.get("high"),
            row.get("real"),
        )
        for row in found
        if row.get("difference") is not None
    ]


def _lift(result: Mapping[str, Any], against: str, name: str) -> list[tuple[str, Markup]]:
    """Draw the differences to one arm by task, on one scale."""
    rows = {
        # The canary adds so much that beside it no other arm could be told from 0.
        task: _rows(row for row in _compared(result, task, against) if row.get("arm") != CANARY)
        for task in LISTS
    }
    span = charts.span_of([row for found in rows.values() for row in found])
    return [
        (
            task,
            charts.forest(
                f"{name}-{task}", found, span, f"NDCG@10, {TASKS[task]}, differences to {against}:"
            ),
        )
        for task, found in rows.items()
        if found
    ]


def _detectable(result: Mapping[str, Any]) -> str:
    """Return the least and greatest minimum detectable effect of each task, as text."""
    found = []
    for task in LISTS:
        effects = [
            effect
            for row in _compared(result, task, BASELINE)
            if (effect := row.get("minimum_detectable_effect")) is not None
        ]
        if effects:
            ends = dict.fromkeys(charts.figure_text(end(effects)) for end in (min, max))
            found.append(f"{TASKS[task].lower()} {' to '.join(ends)}")
    return ", ".join(found)


def _slices(result: Mapping[str, Any]) -> list[tuple[str, list[tuple[Any, Markup]]]]:
    """Draw the differences of every slice, all on one scale."""
    drawn = [(part, _rows(part.get("differences") or [])) for part in result.get("slices") or []]
    drawn = [(part, rows) for part, rows in drawn if rows]
    span = charts.span_of([row for _, rows in drawn for row in rows])
    slices: dict[str, list[tuple[Any, Markup]]] = {}
    for place, (part, rows) in enumerate(drawn):
        says = f"{part.get('slice') or ''} {part.get('value') or ''}, differences to {BASELINE}:"
        chart = charts.forest(f"slice-{place}", rows, span, says)
        slices.setdefault(part.get("slice") or "", []).append((part, chart))
    return list(slices.items())


def _searches(result: Mapping[str, Any]) -> list[tuple[str, str, Markup]]:
    """Draw every search of a rate: arm, figure and chart."""
    drawn = []
    for place, search in enumerate(result.get("decay_searches") or []):
        points = _pairs(search.get("points"), "r", "value")
        figure = search.get("figure") or ""
        if points:
            chart = charts.search_curve(f"search-{place}", points, search.get("best"), figure)
            drawn.append((search.get("arm") or "", figure, chart))
    return drawn


def _pairs(points: Sequence[Mapping[str, Any]] | None, x: str, y: str) -> list[tuple[Any, Any]]:
    pairs = [(point.get(x), point.get(y)) for point in points or []]
    return [pair for pair in pairs if None not in pair]


def _curves(result: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """Draw the training of each model that has a figure of any epoch."""
    drawn = []
    for place, curve in enumerate(result.get("training_curves") or []):
        epochs = curve.get("epochs") or []
        values = [[epoch.get(name) for epoch in epochs] for name in ("loss", FIGURE)]
        if any(value is not None for part in values for value in part):
            model = curve.get("model") or "a model"
            drawn.append((model, charts.training_curve(f"training-{place}", model, *values)))
    return drawn


def _freshness(result: Mapping[str, Any]) -> Markup | None:
    fresh = result.get("freshness") or {}
    points = [
        (str(point.get("lag") or f"{point['seconds']:g} s"), point["seconds"], row)
        for point in fresh.get("points") or []
        if point.get("seconds") is not None
        for row in _rows([point])
    ]
    if not points:
        return None
    says = f"Difference to {BASELINE} of {fresh.get('arm') or 'an arm'} by age of the embeddings:"
    return charts.freshness_curve("freshness", points, says)


def _ages(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the table of every figure by age of the embedding."""
    points = [p for p in (result.get("freshness") or {}).get("points") or [] if p.get("lag")]
    names = [name for name in FIGURES if any(point.get(name) is not None for point in points)]
    if not names:
        return None
    write = _text(charts.figure_text)
    rows = [(point["lag"], [write(point.get(name)) for name in names]) for point in points]
    return {"columns": [FIGURES[name] for name in names], "rows": rows}


def _lengths(result: Mapping[str, Any]) -> Markup | None:
    counts = _pairs(result.get("sequence_lengths"), "length", "queries")
    return charts.lengths_histogram("lengths", counts) if counts else None


def _timeline(result: Mapping[str, Any]) -> Markup | None:
    """Draw which period is for what, where both its ends are known."""
    line, data = result.get("timeline") or {}, result.get("data") or {}
    periods = []
    for label, first, last in (
        ("embedding models learn", data.get("from"), line.get("learn_until")),
        ("the ranker learns", line.get("rank_from"), line.get("test_from")),
        ("the test", line.get("test_from"), line.get("until")),
    ):
        start, end = _parsed(first), _parsed(last)
        if start and end and start < end:
            dates = f"{_moment(first)} to {_moment(last)}"
            periods.append((label, start.timestamp(), end.timestamp(), dates))
    return charts.timeline("timeline", periods) if periods else None


def _quality(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the table of the embeddings alone: titles of columns, and rows by arm."""
    quality = {arm: row for arm, row in (result.get("quality") or {}).items() if row}
    names = [*QUALITY, *(name for row in quality.values() for name in row if name not in QUALITY)]
    names = [
        name
        for name in dict.fromkeys(names)
        if any(row.get(name) is not None for row in quality.values())
    ]
    if not names:
        return None
    write = _text(charts.figure_text)
    rows = [(arm, [write(row.get(name)) for name in names]) for arm, row in quality.items()]
    return {"columns": [QUALITY.get(name, name) for name in names], "rows": rows}


def _seeds(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the table of the figure of each seed of task `day`."""
    figures = ((result.get("tasks") or {}).get(DAY) or {}).get("figures") or {}
    rows = [(arm, row["by_seed"]) for arm, row in figures.items() if row and row.get("by_seed")]
    if not rows:
        return None
    width = max(len(values) for _, values in rows)
    seeds = list((result.get("declared") or {}).get("seeds") or [])
    write = _text(charts.figure_text)
    return {
        "seeds": [MISSING if seed is None else seed for seed in [*seeds, *[None] * width][:width]],
        "rows": [
            (arm, [write(value) for value in values] + [MISSING] * (width - len(values)))
            for arm, values in rows
        ],
    }
