"""Draw docs/assets/sample.png from what `make demo` printed, as benchmarks/README.md keeps it.

python benchmarks/sample_plot.py
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
OUT = HERE.parent / "docs" / "assets" / "sample.png"
CALLED = {
    "popularity": "popularity",
    "unweighted_average": "three means",
    "geometric_decay": "three decaying means",
    "item_counts": "counts after the last item",
    "item_action_counts": "counts after the last item and action",
    "cnn": "CNN",
}


def main() -> None:
    """Draw what each model finds on the sample."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    start = text.index("as of the request; above the row before")
    table = text[start : text.index("## ", start)]
    found = re.findall(r"^ {6}(\w+) +(0\.\d+)", table, re.MULTILINE)
    figure, axis = plt.subplots(figsize=(6.5, 2.4))
    for row, (name, ndcg) in enumerate(reversed(found)):
        grey = name == "popularity" or name.endswith("counts")
        axis.barh(row, float(ndcg), color="#8a8a8a" if grey else "#1f6f8b")
        axis.text(float(ndcg) + 0.006, row, ndcg[1:], va="center", fontsize=9)
    axis.set_yticks(range(len(found)), [CALLED[name] for name, _ in reversed(found)])
    axis.set_xlim(0, 0.72)
    axis.set_xlabel("NDCG@10 among all restaurants of the day, as of the request", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)
    figure.tight_layout()
    figure.savefig(OUT, dpi=110)
    print(OUT)


if __name__ == "__main__":
    main()
