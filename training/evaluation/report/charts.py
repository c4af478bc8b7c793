"""The report's charts, as SVG that is written into its page.

All are as wide as the text column of a phone, so that their letters are never made smaller; wide
screens show several in a row. Letters stay letters, colours are the page's own variables, and each
chart says in words what it shows. Equal input gives equal text.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib.style
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import Formatter
from matplotlib.transforms import blended_transform_factory

WIDTH = 328
"""Of every chart, CSS pixels: a phone of 360 without its margins."""
LETTERS = 11.5
"""Size of all text in a chart, CSS pixels."""

INK, MUTED, LINE, ACCENT, PAPER = "#1f2328", "#57606a", "#d0d7de", "#0b57a4", "#ffffff"
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", ACCENT: "accent", PAPER: "paper"}
STYLE = {
    "svg.fonttype": "none",
    # A `$` in a name is a dollar.
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.size": LETTERS,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": LETTERS,
    "axes.titlesize": LETTERS,
    "axes.titlecolor": MUTED,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": LETTERS,
    "ytick.labelsize": LETTERS,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    # A line ends where its interval does.
    "lines.solid_capstyle": "butt",
}

EDGE = 18
"""Between an axis of differences and the chart's sides: half a label of the axis, CSS pixels."""
ROW, AXIS = 36, 46
"""Height of a row with its text above its mark, and of the axis below all, CSS pixels."""


@dataclass(frozen=True)
class Row:
    """A difference with its interval; `real` is None where nobody decided."""

    label: str
    difference: float
    low: float | None
    high: float | None
    real: bool | None = None


def figure_text(value: float) -> str:
    """Return a figure with four digits: `.1499`."""
    return _without_zero(f"{value:.4f}")


def signed_text(value: float, digits: int = 4) -> str:
    """Return a difference with four digits: `+.0012`."""
    return _without_zero(f"{value:+.{digits}f}")


def interval_text(low: float | None, high: float | None) -> str:
    """Return an interval: `[-.0011, +.0023]`; nothing where an end is not known."""
    return "" if low is None or high is None else f"[{signed_text(low)}, {signed_text(high)}]"


def _without_zero(text: str) -> str:
    return re.sub(r"^([+-]?)0\.", r"\1.", text)


def span_of(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the ends of an axis that shows all rows and 0, with some air."""
    ends = [0.0]
    for row in rows:
        ends += [value for value in (row.difference, row.low, row.high) if value is not None]
    low, high = min(ends), max(ends)
    air = 0.06 * (high - low) or 0.001
    return low - air, high + air


def forest(name: str, rows: Sequence[Row], span: tuple[float, float], says: str) -> Markup:
    """Draw differences below each other: a filled mark is real, a hollow one is not shown to be.

    Parameters
    ----------
    name
        Name of the chart; unique in a page.
    rows
        From the top.
    span
        Ends of the axis, so that charts can be compared.
    says
        What it shows, for those who do not see it; the rows are added.
    """
    words = []
    with _drawing(name, ROW * len(rows) + AXIS) as (figure, written):
        axes = figure.add_axes(_place(figure, left=EDGE, right=EDGE, bottom=AXIS - 6))
        across = blended_transform_factory(figure.transFigure, axes.transData)
        axes.axvline(0, color=INK, linewidth=1)
        axes.grid(axis="x")
        for place, row in enumerate(rows):
            value = f"{signed_text(row.difference)} {interval_text(row.low, row.high)}".rstrip()
            words.append(f"{row.label}: {value}{_decided(row.real)}")
            # On paper of its own, so that no line runs through the letters.
            above: dict[str, Any] = {
                "y": place - 0.2,
                "transform": across,
                "va": "baseline",
                "bbox": {"facecolor": PAPER, "edgecolor": "none", "pad": 1},
            }
            label = _shortened(row.label, WIDTH - _width(value) - 16, "bold")
            axes.text(1 / WIDTH, s=label, weight="bold", **above)
            axes.text(1 - 1 / WIDTH, s=value, ha="right", **above)
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [place + 0.12] * 2, color=ACCENT, linewidth=2)
            axes.plot(
                [row.difference],
                [place + 0.12],
                marker="o",
                markersize=7,
                markeredgewidth=1.6,
                color=ACCENT,
                markerfacecolor=PAPER if row.real is False else ACCENT,
            )
        axes.set(xlim=span, ylim=(len(rows) - 0.5, -0.68), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter(_Digits(signed=True))
        axes.set_xlabel("difference")
    return _page_svg(written, name, f"{says} {'; '.join(words)}.")


def _decided(real: bool | None) -> str:
    return {True: ", real", False: ", not shown to be real", None: ""}[real]


def search_curve(
    name: str, points: Sequence[tuple[float, float]], best: float | None, figure_name: str
) -> Markup:
    """Draw the figure of each decay rate, and which was chosen."""
    points = sorted(points)
    with _drawing(name, 220) as (figure, written):
        axes = figure.add_axes(_place(figure, left=44, top=26, bottom=42))
        axes.grid(axis="y")
        axes.plot(*zip(*points, strict=True), color=ACCENT, marker="o", markersize=4.5)
        chosen = [value for r, value in points if r == best]
        if best is not None:
            axes.axvline(best, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xlabel="r, the weight of an activity one step older", title=figure_name)
        axes.xaxis.set_major_formatter(_Digits(signed=False))
        _figures_on(axes, signed=False)
    chose = ""
    if best is not None:
        chose = f" The chosen rate is {best:g}" + (
            f", with {figure_text(chosen[0])}." if chosen else "."
        )
    words = "; ".join(f"r {r:g}: {figure_text(value)}" for r, value in points)
    return _page_svg(written, name, f"{figure_name} by decay rate. {words}.{chose}")


def training_curve(
    name: str, model: str, loss: Sequence[float | None], figure_values: Sequence[float | None]
) -> Markup:
    """Draw loss and validation figure of each epoch, one above the other, and mark the best.

    Parameters
    ----------
    name
        Name of the chart; unique in a page.
    model
        What was trained.
    loss, figure_values
        Loss and figure values of each epoch from the first; None where not known.
    """
    panels = []
    for title, values in (("loss", loss), ("validation NDCG@10", figure_values)):
        known = [(i, value) for i, value in enumerate(values, 1) if value is not None]
        if known:
            panels.append((title, known))
    words = []
    height = 140 * len(panels) + 34
    with _drawing(name, height) as (figure, written):
        for place, (title, known) in enumerate(panels):
            top = 26 + 140 * place
            axes = figure.add_axes(_place(figure, left=44, top=top, bottom=height - top - 112))
            axes.grid(axis="y")
            axes.plot(*zip(*known, strict=True), color=ACCENT, marker="o", markersize=3)
            axes.set(title=title, xlim=(0.5, max(len(loss), len(figure_values)) + 0.5))
            axes.locator_params(axis="x", integer=True, nbins=7)
            lowest = title == "loss"
            best = (min if lowest else max)(known, key=lambda point: point[1])
            axes.plot(*best, marker="o", markersize=8, color=INK, markerfacecolor="none")
            _figures_on(axes, signed=False, bins=4)
            if place == len(panels) - 1:
                axes.set_xlabel("epoch")
            else:
                axes.set_xticklabels([])
            words.append(
                f"{title}: first {figure_text(known[0][1])}, {'lowest' if lowest else 'highest'} "
                f"{figure_text(best[1])} in epoch {best[0]}, last {figure_text(known[-1][1])}"
            )
    return _page_svg(written, name, f"Training of {model}. {'; '.join(words)}.")


def freshness_curve(name: str, points: Sequence[tuple[str, float, Row]], says: str) -> Markup:
    """Draw differences by the age of embeddings, on an axis where each day counts less.

    Parameters
    ----------
    name
        Name of the chart; unique in a page.
    points
        Name of the lag, its seconds, and the difference.
    says
        What it shows; the points are added.
    """
    points = sorted(points, key=lambda point: point[1])
    # The logarithm, from a minute on; below it, and at 0, a line.
    x = [math.asinh(seconds / 120) for _, seconds, _ in points]
    with _drawing(name, 260) as (figure, written):
        axes = figure.add_axes(_place(figure, left=44, top=26, bottom=66))
        axes.grid(axis="y")
        axes.axhline(0, color=INK, linewidth=1)
        banded = [
            (place, row.low, row.high)
            for place, (_, _, row) in zip(x, points, strict=True)
            if row.low is not None and row.high is not None
        ]
        if banded:
            at, low, high = zip(*banded, strict=True)
            axes.fill_between(at, low, high, color=ACCENT, alpha=0.18, linewidth=0)
        axes.plot(x, [row.difference for _, _, row in points], color=ACCENT, marker="o")
        axes.set(title="difference to nothing", xlabel="age of the embeddings")
        axes.margins(x=0.08)
        labels = _staggered(x, [lag for lag, _, _ in points], axes)
        axes.set_xticks(x, labels)
        _figures_on(axes, signed=True)
    words = "; ".join(
        f"{lag}: {signed_text(row.difference)} {interval_text(row.low, row.high)}".rstrip()
        for lag, _, row in points
    )
    return _page_svg(written, name, f"{says} {words}.")


def _staggered(x: Sequence[float], labels: Sequence[str], axes: Axes) -> list[str]:
    """Put a label a line lower where it would run into the one before it."""
    low, high = axes.get_xlim()
    scale = (WIDTH - 50) / (high - low)
    ends = [-math.inf, -math.inf]
    staggered = []
    for at, label in zip(x, labels, strict=True):
        text = _shortened(label, 90)
        half = _width(text) / 2 + 2
        line = next((i for i, end in enumerate(ends) if at * scale - half > end), 1)
        ends[line] = at * scale + half
        staggered.append("\n" * line + text)
    return staggered


def lengths_histogram(name: str, counts: Sequence[tuple[int, int]]) -> Markup:
    """Draw how many queries have sequences of which length."""
    counts = sorted(counts)
    with _drawing(name, 220) as (figure, written):
        axes = figure.add_axes(_place(figure, left=48, top=26, bottom=42))
        axes.grid(axis="y")
        axes.bar([n for n, _ in counts], [count for _, count in counts], color=ACCENT, width=0.75)
        axes.set(title="queries", xlabel="activities in the sequence")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="y", integer=True, nbins=5)
        axes.locator_params(axis="x", integer=True)
    words = "; ".join(f"{length}: {count:,}" for length, count in counts)
    return _page_svg(written, name, f"Queries by length of the sequence. {words}.")


def timeline(name: str, periods: Sequence[tuple[str, float, float, str]]) -> Markup:
    """Draw periods as bars below each other.

    Parameters
    ----------
    name
        Name of the chart; unique in a page.
    periods
        What it is for, start and end in seconds since the epoch, and both in words.
    """
    start = min(low for _, low, _, _ in periods)
    end = max(high for _, _, high, _ in periods)
    with _drawing(name, 46 * len(periods) + 4) as (figure, written):
        axes = figure.add_axes(_place(figure))
        for place, (label, low, high, dates) in enumerate(periods):
            axes.barh(place + 0.3, end - start, left=start, height=0.2, color=LINE)
            axes.barh(place + 0.3, high - low, left=low, height=0.2, color=ACCENT)
            above: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "baseline"}
            axes.text(0, place - 0.16, label, weight="bold", **above)
            axes.text(0, place + 0.13, dates, color=MUTED, **above)
        axes.set(xlim=(start, end), ylim=(len(periods) - 0.54, -0.5))
        axes.set_axis_off()
    words = "; ".join(f"{label}: {dates}" for label, _, _, dates in periods)
    return _page_svg(written, name, f"Periods in time. {words}.")


def _figures_on(axes: Axes, *, signed: bool, bins: int = 5) -> None:
    axes.locator_params(axis="y", nbins=bins)
    axes.yaxis.set_major_formatter(_Digits(signed=signed))


class _Digits(Formatter):
    """Writes the figures at an axis with as many digits as the longest of them needs."""

    def __init__(self, *, signed: bool):
        self.signed = signed

    def __call__(self, value: float, pos: int | None = None) -> str:
        return self.format_ticks([value])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        digits = [len(f"{value:.5f}".rstrip("0").partition(".")[2]) for value in values]
        needed = max(digits, default=0)
        return [
            "0"
            if abs(value) < 5e-6
            else signed_text(value, needed)
            if self.signed
            else _without_zero(f"{value:.{needed}f}")
            for value in values
        ]


def _shortened(text: str, room: float, weight: str = "normal") -> str:
    """Return a text on one line, cut to a width in CSS pixels."""
    text = " ".join(text.split())
    if _width(text, weight) <= room:
        return text
    return next(
        (
            f"{text[:kept]}…"
            for kept in range(len(text) - 1, 0, -1)
            if _width(f"{text[:kept]}…", weight) <= room
        ),
        "…",
    )


def _width(text: str, weight: str = "normal") -> float:
    """Return how wide a text is, CSS pixels, in the widest font that a reader is likely to have."""
    font = FontProperties(family="DejaVu Sans", size=LETTERS, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0])


def _place(
    figure: Figure, *, left: float = 1, right: float = 6, top: float = 0, bottom: float = 0
) -> tuple[float, float, float, float]:
    """Return where axes are, of margins in CSS pixels."""
    width, height = figure.get_size_inches() * 72
    return (
        left / width,
        bottom / height,
        (width - left - right) / width,
        (height - top - bottom) / height,
    )


@contextmanager
def _drawing(name: str, height: float) -> Iterator[tuple[Figure, io.StringIO]]:
    """Give a figure of the charts' look; it is written to the buffer at the end."""
    written = io.StringIO()
    # A user's own matplotlib settings are left out, and what is named differs between charts, so
    # that the parts that refer to each other by name do not meet those of another chart.
    style = {**STYLE, "svg.hashsalt": name}
    with matplotlib.style.context(style, after_reset=True), warnings.catch_warnings():
        # The reader's fonts draw the letters, not matplotlib's, which may not have them all.
        warnings.filterwarnings("ignore", message="Glyph")
        # One point of matplotlib is one CSS pixel of the chart.
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        yield figure, written
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})


def _page_svg(written: io.StringIO, name: str, says: str) -> Markup:
    """Turn matplotlib's SVG document into an element of an HTML page."""
    root = ElementTree.fromstring(written.getvalue())
    for element in root.iter():
        for child in list(element):
            # What it was made with, and a style that would be the whole page's.
            if _local(child.tag) in ("metadata", "style"):
                element.remove(child)
    for element in root.iter():
        # HTML knows SVG without its namespaces, which are addresses of other places.
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            element.set(key, _of_this_chart(key, value, name))
    root.attrib = {
        "class": "chart",
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": " ".join(says.split()),
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _of_this_chart(key: str, value: str, name: str) -> str:
    """Make names unique in the page, and colours and fonts those of the page."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value[1:]}"
    if key == "clip-path":
        return value.replace("url(#", f"url(#{name}-")
    if key == "style":
        return re.sub("|".join(VARIABLES), lambda found: f"var(--{VARIABLES[found[0]]})", value)
    return value
