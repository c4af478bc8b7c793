"""Draw docs/assets/lift.png from what `lift.py` printed, as benchmarks/README.md keeps it.

python benchmarks/lift_plot.py
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

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


def main() -> None:
    """Draw it."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
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
    figure.tight_layout()
    out = HERE.parent / "docs" / "assets" / "lift.png"
    figure.savefig(out, dpi=110)
    print(out)


if __name__ == "__main__":
    main()
