"""Gives the package thousands of generated inputs, most of them bad, and says what it made of them.

    python benchmarks/bad_inputs.py                 # 10,000

Files of events and item vectors, pushed frames and files, requests, definitions, manifests of
models, settings, commands and whole runs. Each input has to be refused by a named error, with the
stores as they were to the byte, or used rightly, which is held to the slow reference of the tests.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.append(str(Path(__file__).parents[1] / "tests"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from support.bad_inputs import areas, attempt
from support.packaged_models import package_models


@click.command()
@click.option("--inputs", default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--only", help="One area.")
def main(inputs: int, seed: int, only: str | None) -> None:
    """Generate, give, compare."""
    logging.disable(logging.ERROR)
    problems: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="bad-inputs-") as temporary:
        folder = Path(temporary)
        models = package_models(folder / "models")
        with areas(folder, models) as found:
            for area in found:
                if only not in (None, area.name):
                    continue
                draw, began = random.Random(f"{seed} {area.name}"), time.perf_counter()
                for _ in range(max(1, round(inputs * area.share))):
                    if wrong := attempt(area, draw):
                        problems.setdefault(wrong[0], []).append(wrong[1])
                seconds = time.perf_counter() - began
                counts = ", ".join(f"{n:,} {what}" for what, n in area.counts.most_common())
                print(
                    f"{area.name:<22}{area.counts.total():>6,}: {counts} [{seconds:.0f} s]",
                    flush=True,
                )
    for kind, examples in problems.items():
        print(f"{len(examples)} x {kind}: {' '.join(examples[0].split())[:500]}")
    print(f"{sum(map(len, problems.values()))} wrong")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
