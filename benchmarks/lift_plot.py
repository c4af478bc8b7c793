"""Draw docs/assets from what `make demo` and `lift.py` printed, as benchmarks/README.md keeps it.

python benchmarks/lift_plot.py
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

HERE = Path(__file__).parent
PAGES = {"films": "Films, August (a proxy domain)", "jobs, SIMULATED DATA": "Jobs, SIMULATED"}
ARMS = {
    "placebo": "another member's vector",
    "mean": "mean, 3 vectors",
    "decay": "decay, 3 vectors",
    "single_decay": "one decay",
    "cnn": "CNN",
    "gru": "GRU",
    "lstm": "LSTM",
    "transformer": "Transformer",
}
SAMPLE = {
    "popularity": "popularity",
    "unweighted_average": "mean",
    "geometric_decay": "decaying mean",
    "item_counts": "counts after the last item",
    "item_action_counts": "counts after the last item and action",
    "cnn": "CNN",
}
_ROW = re.compile(r"^ {6}(\w+) +\S+ +\S+ +([+-]\S+) +\[([+-]\S+), ([+-]\S+)\]", re.MULTILINE)


def lifts(text: str, data: str) -> dict[str, tuple[float, float, float]]:
    """Return what each arm adds, with its interval, in the first table of one data set."""
    start = re.search(rf"^ {{4}}{re.escape(data)}$", text, re.MULTILINE)
    if start is None:
        raise SystemExit(f"benchmarks/README.md: expected a table of {data!r}. Received: none")
    table = text[start.end() : text.index("The same by a ranker", start.end())]
    return {
        arm: (float(added), float(low), float(high))
        for arm, added, low, high in _ROW.findall(table)
    }


def draw_sample(text: str) -> Path:
    """Draw what each model finds on the sample."""
    start = text.index("as of the request; above the row before")
    found = re.findall(
        r"^ {6}(\w+) +(0\.\d+)", text[start : text.index("## ", start)], re.MULTILINE
    )
    figure, axis = plt.subplots(figsize=(6.5, 2.4))
    for row, (name, ndcg) in enumerate(reversed(found)):
        grey = name == "popularity" or name.endswith("counts")
        axis.barh(row, float(ndcg), color="#8a8a8a" if grey else "#1f6f8b")
        axis.text(float(ndcg) + 0.006, row, ndcg[1:], va="center", fontsize=9)
    axis.set_yticks(range(len(found)), [SAMPLE[name] for name, _ in reversed(found)])
    axis.set_xlim(0, 0.72)
    axis.set_xlabel("NDCG@10 among all restaurants of the day, as of the request", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)
    return save(figure, "sample.png")


def save(figure: Figure, name: str) -> Path:
    """Write a picture among those of the documentation."""
    figure.tight_layout()
    out = HERE.parent / "docs" / "assets" / name
    figure.savefig(out, dpi=110)
    return out


def main() -> None:
    """Draw both."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    print(draw_sample(text))
    figure, axes = plt.subplots(1, len(PAGES), figsize=(9, 3.2), sharex=True, sharey=True)
    for axis, (data, title) in zip(axes, PAGES.items(), strict=True):
        found = lifts(text, data)
        for row, (arm, _) in enumerate(ARMS.items()):
            added, low, high = found[arm]
            colour = "#1f6f8b" if low > 0 else "#8a8a8a"
            axis.plot([low, high], [row, row], color=colour, linewidth=2)
            axis.plot(added, row, "o", color=colour, markersize=5)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("added to the ranker's NDCG@10, 95 % interval", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    axes[0].set_yticks(range(len(ARMS)), list(ARMS.values()))
    print(save(figure, "lift.png"))


if __name__ == "__main__":
    main()
