"""An explanation as one HTML page without a script, a font or any other file."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from activity_embeddings.transformations.wording import utc

if TYPE_CHECKING:
    from activity_embeddings.transformations.explain.explanation import (
        ExplainedOutput,
        Explanation,
        NearItem,
    )

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --muted: #57606a; --line: #d0d7de;
  --accent: #0b57a4; --bad: #a1101f; --bar: #a9cbee; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e3e8ee;
  --muted: #a3adb8; --line: #3a434d; --accent: #74b3f5; --bad: #ff9a94; --bar: #27507c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 0 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
section { margin-top: 2.5rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
.muted { color: var(--muted); font-size: .875rem; }
ol { list-style: none; margin: 0; padding: 0; font-variant-numeric: tabular-nums; }
.effects > li { display: grid; grid-template-columns: 6rem minmax(0, 1fr); gap: 0 1rem;
  padding: .5rem 0; border-bottom: 1px solid var(--line); }
.bar { display: block; height: .5rem; background: var(--bar); border-radius: .15rem; }
.near > li { display: grid; grid-template-columns: 3.5rem minmax(0, 1fr); gap: 0 1rem; }
.scores > li { display: grid; grid-template-columns: 4rem minmax(0, 1fr); gap: 0 1rem; }
.new { color: var(--accent); font-weight: 650; }
.in { color: var(--accent); } .out { color: var(--bad); }
summary { cursor: pointer; color: var(--accent); font-size: .875rem; }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
"""


def page_of(explanation: Explanation) -> str:
    """Return the page of an explanation."""
    title = escape(f"{explanation.member_name} {explanation.member}")
    sections = "".join(_section(explanation, output) for output in explanation.outputs)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Why: {title}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<h1>Why the embeddings of {title} are what they are</h1>
<p>{escape(explanation.headline)}</p>
<p class="muted">{escape(explanation.reading)}</p>
{sections}
</body>
</html>
"""


def _section(explanation: Explanation, output: ExplainedOutput) -> str:
    order = [i for i in reversed(range(len(output.moved))) if output.counts[i]]
    most = max([1.0, *output.moved])
    rows = "".join(_effect(explanation, output, i, most) for i in order)
    rest = len(output.moved) - len(order)
    return f"""<section>
<h2>{escape(output.label)}</h2>
{f'<ol class="effects">{rows}</ol>' if rows else "<p>The zero vector: no activity counts.</p>"}
{f'<p class="muted">{rest:,} of the activities moved nothing.</p>' if rest and rows else ""}
{_nearest(f"Nearest {explanation.item_name}s", output.nearest)}
</section>
"""


def _effect(explanation: Explanation, output: ExplainedOutput, i: int, most: float) -> str:
    activity, moved = explanation.activities[i], output.moved[i]
    new = ' <span class="new">new</span>' if activity.new else ""
    changes = [
        *(f'<span class="in">+&nbsp;{escape(near.name)}</span>' for near in output.enters(i)),
        *(f'<span class="out">−&nbsp;{escape(near.name)}</span>' for near in output.leaves(i)),
    ]
    scores = "".join(
        f"<li><span>{effect:+.3f}</span><span>{escape(near.name)}</span></li>"
        for effect, near in zip(output.score_effects[i], output.nearest, strict=True)
    )
    details = ""
    if output.nearest:
        details = f"""<details><summary>Effect on each score; nearest without it</summary>
<h3>Adds to the score of</h3><ol class="scores">{scores}</ol>
{_nearest("Nearest without it", output.nearest_without[i])}</details>"""
    bar = f'<span class="bar" style="width:{100 * moved / most:.1f}%"></span>'
    return f"""<li><div>{100 * moved:.1f} %{bar}</div>
<div><strong>{escape(activity.label)}</strong>{new}
<div class="muted">{escape(activity.action)}, {utc(activity.time)}</div>
{f"<div>Without it: {', '.join(changes)}</div>" if changes else ""}{details}</div></li>"""


def _nearest(title: str, nearest: tuple[NearItem, ...]) -> str:
    if not nearest:
        return ""
    rows = "".join(
        f"<li><span>{near.score:.3f}</span><span>{escape(near.name)}</span></li>"
        for near in nearest
    )
    return f'<h3>{escape(title)}</h3><ol class="near">{rows}</ol>'
