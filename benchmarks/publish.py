"""Publishing three models offline and online, end to end: ours, stock Feast, and the bare work.

    python benchmarks/publish.py                       # 100,000 members, sqlite
    python benchmarks/publish.py --store redis         # or postgres

Publishes a first day into empty stores (fill), and the next day over it (overwrite). Each command
is a process of its own, measured from its start to its exit, imports included:

- ours: `feast materialize`, with the definitions of `feature_repo/`. It publishes sequences too.
- stock: a script that makes the values as a Feast user would by hand, and `feast materialize`.
- bare: the work that cannot be avoided, on data that lies ready in one process; imports are left
  out.

See `publish_variants.py` for what they do. `--memory` publishes 1, 7 and 28 snapshots with ours,
and prints what memory does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pstats
import shutil
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from processes import FEAST, PYTHON, Usage, run
from publish_variants import SEQUENCE, VARIANTS, VIEWS
from servers import SETTINGS
from synthetic import CUTOFF, SHARE_UNKNOWN

DAY = timedelta(days=1)
DAYS = {"fill": CUTOFF - DAY, "overwrite": CUTOFF}
PUSH = "push online"
REST = "import, start, other"
STAGES = (
    "read item vectors",
    "read events",
    "load models",
    "sequences",
    "models",
    "write",
    "judge",
    "commit",
    PUSH,
)
WAYS = ("ours", "stock", "bare")
MEMORY_SNAPSHOTS = (1, 7, 28)
HOT_SPOTS = 25


@dataclass(frozen=True)
class Result:
    """What a way to publish took: the whole, and seconds by stage; the bare work is all stages."""

    seconds: float
    stages: Mapping[str, float]
    values: int
    cpu: float
    peak: int | None = None

    @property
    def but_push(self) -> float:
        """Seconds of all but the push."""
        return self.seconds - self.stages[PUSH]


Results = dict[tuple[str, str], Result]
"""By the name of the day and the way."""


def main() -> None:
    """Run what the command line asks for."""
    options = _options()
    if options.part:
        _be(options.part, options.keep)
        return
    print(_machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="activity-embeddings-") as temporary:
        folder = options.keep or Path(temporary)
        _compare(options, folder / "publish")
        if options.memory:
            _memory(options, folder / "memory")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--store", choices=list(SETTINGS), default="sqlite", help="online store")
    add("--members", type=int, default=100_000)
    add("--events-per-member", type=float, default=12, help="mean number in a window")
    add("--items", type=int, default=50_000)
    add("--dimension", type=int, default=64, help="length of an item vector")
    add("--repeat", type=int, default=1, help="run everything this often, print medians")
    add("--skip-stock", action="store_true")
    add("--skip-bare", action="store_true")
    add("--memory", action="store_true", help="also publish 1, 7 and 28 snapshots")
    add("--memory-members", type=int, default=20_000, help="members of those runs")
    add("--profile", action="store_true", help="print the hot spots of ours, imports included")
    add("--keep", type=Path, metavar="DIR", help="work in this folder and leave the files there")
    add("--part", choices=list(VARIANTS), help=argparse.SUPPRESS)
    return parser.parse_args()


def _compare(options: argparse.Namespace, folder: Path) -> None:
    """Publish in each of the ways, and print what they took."""
    shutil.rmtree(folder, ignore_errors=True)
    runs = [_run(folder, options) for _ in range(options.repeat)]
    results = {key: _median([each[key] for each in runs]) for key in runs[0]}
    _print_table(results, options)
    _print_ratios(results)
    if not options.skip_stock:
        largest = max(_part("difference", folder, options, cutoff=day) for day in DAYS.values())
        print(f"  largest difference between the vectors of ours and stock: {largest:.1e}")
    sequences = _part("sequences", folder, options)
    _print_ratio(
        "events/s: check, order, make sequences, tables in memory",
        sequences["events"] / sum(sequences["seconds"].values()),
        2e6,
    )
    if options.profile:
        file = folder / "profile"
        profiled = [PYTHON, "-m", "cProfile", "-o", file, *_materialize(CUTOFF)]
        run(profiled, folder / "ours")
        pstats.Stats(str(file)).strip_dirs().sort_stats("tottime").print_stats(HOT_SPOTS)


def _run(folder: Path, options: argparse.Namespace) -> Results:
    """Publish both days in each of the ways, into stores that are empty at first."""
    results: Results = {}
    served = SETTINGS[options.store]
    with served() as online_store, served() as bare_store:
        options.online_store, options.bare_store, options.snapshots = online_store, bare_store, 2
        _prepare(folder, options)
        for name, day in DAYS.items():
            results[name, "ours"] = _ours(folder / "ours", day)
            if not options.skip_bare:
                made = _part("bare", folder, options, cutoff=day)
                stages = made["seconds"]
                results[name, "bare"] = Result(
                    sum(stages.values()), stages, made["values"], made["cpu"]
                )
        if not options.skip_stock:
            _part("define_stock", folder, options)
            for name, day in DAYS.items():
                results[name, "stock"] = _stock(folder, options, day)
    return results


def _prepare(folder: Path, options: argparse.Namespace) -> None:
    """Generate data and models, anew, and apply the definitions."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _part("prepare", folder, options)
    run([FEAST, "apply"], folder / "ours")


def _ours(repo: Path, day: datetime, days: int = 1) -> Result:
    """Publish with this package; its stages are those of the run's record."""
    records = repo / "data" / "snapshots" / "_runs"
    before = set(records.glob("*.json"))
    usage = run(_materialize(day, days), repo)
    (record,) = set(records.glob("*.json")) - before
    steps = json.loads(record.read_text())["steps"]
    (facts,) = (step for step in steps if "snapshots" in step)
    return _result([usage], facts["seconds"], facts["pushed_values"])


def _stock(folder: Path, options: argparse.Namespace, day: datetime) -> Result:
    """Publish by hand; the push is what Feast takes longer than for an interval without rows."""
    script = _part("stock", folder, options, cutoff=day)
    feast = run(_materialize(day, views=VIEWS), folder / "stock")
    idle = run(_materialize(day - 300 * DAY, views=VIEWS), folder / "stock")
    stages = {**script["seconds"], PUSH: feast.seconds - idle.seconds}
    return _result([script["usage"], feast], stages, script["values"])


def _result(commands: list[Usage], stages: Mapping[str, float], values: int) -> Result:
    return Result(
        sum(each.seconds for each in commands),
        stages,
        values,
        sum(each.cpu for each in commands),
        max(each.peak for each in commands),
    )


def _materialize(end: datetime, days: int = 1, views: Iterable[str] = (SEQUENCE, *VIEWS)) -> list:
    interval = (f"{moment:%Y-%m-%dT%H:%M:%S}" for moment in (end - days * DAY, end))
    return [
        FEAST,
        "materialize",
        *interval,
        *(word for view in views for word in ("--views", view)),
    ]


def _part(name: str, folder: Path, options: argparse.Namespace, **more: Any) -> Any:
    """Run a function of `publish_variants` as a process, and return what it returns.

    Where that is a dictionary, `usage` in it is what the process took.
    """
    text = json.dumps({**vars(options), **more}, default=str)
    (folder / "options.json").write_text(text, encoding="utf-8")
    usage = run([PYTHON, __file__, "--part", name, "--keep", folder], folder)
    made = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return {**made, "usage": usage} if isinstance(made, dict) else made


def _be(name: str, folder: Path) -> None:
    """Be such a process."""
    options = argparse.Namespace(**json.loads((folder / "options.json").read_text()))
    if "cutoff" in options:
        options.cutoff = datetime.fromisoformat(options.cutoff)
    made = VARIANTS[name](folder, options)
    (folder / "result.json").write_text(json.dumps(made), encoding="utf-8")


def _median(runs: list[Result]) -> Result:
    """Return the last run with the median of each figure."""
    last, middle = runs[-1], statistics.median
    stages = {stage: middle(each.stages[stage] for each in runs) for stage in last.stages}
    return replace(
        last,
        seconds=middle(each.seconds for each in runs),
        stages=stages,
        cpu=middle(each.cpu for each in runs),
        peak=last.peak and max(each.peak for each in runs),
    )


def _print_table(results: Results, options: argparse.Namespace) -> None:
    times = f", median of {options.repeat} runs" if options.repeat > 1 else ""
    print(
        f"data: {options.members:,} members with {options.events_per_member:g} events a window, "
        f"{options.items:,} items ({SHARE_UNKNOWN:.0%} without a vector), {options.dimension} "
        f"dimensions; online store: {options.store}{times}\n"
    )
    keys = [(day, way) for day in DAYS for way in WAYS if (day, way) in results]
    columns = [results[key] for key in keys]
    _print_row("", (f"{day}: {way}" for day, way in keys))
    _print_row("seconds, from start to exit", (f"{each.seconds:.1f}" for each in columns))
    _print_row("CPU seconds", (f"{each.cpu:.1f}" for each in columns))
    for stage in STAGES:
        found = [each.stages.get(stage) for each in columns]
        _print_row(f"  {stage}", (_or_dash(each, "{:.2f}") for each in found))
    rest = (each.seconds - sum(each.stages.values()) for each in columns)
    _print_row(f"  {REST}", (_or_dash(each if each > 1e-6 else None, "{:.2f}") for each in rest))
    _print_row("values online", (f"{each.values:,}" for each in columns))
    _print_row(
        "values/s of the push", (f"{each.values / each.stages[PUSH]:,.0f}" for each in columns)
    )
    _print_row(
        "peak memory, MB", (_or_dash(each.peak and each.peak / 1e6, "{:,.0f}") for each in columns)
    )
    print()


def _print_row(title: str, cells: Iterable[str]) -> None:
    print(f"{title:<30}" + "".join(f"{cell:>17}" for cell in cells), flush=True)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _print_ratios(results: Results) -> None:
    """Print the ratios, each beside its target."""
    for day in DAYS:
        ours, stock, bare = (results.get((day, way)) for way in WAYS)
        print(f"{day}:")
        if stock is not None:
            _print_ratio("times as fast as stock, end to end", stock.seconds / ours.seconds, 6)
            _print_ratio("times as fast as stock, by CPU seconds", stock.cpu / ours.cpu)
            _print_ratio(
                "times as fast as stock: all but the push, imports included",
                stock.but_push / ours.but_push,
                6,
            )
            rates = [each.values / each.stages[PUSH] for each in (ours, stock)]
            _print_ratio("times as fast as stock: values/s of the push", rates[0] / rates[1])
        if bare is not None:
            push = ours.stages[PUSH] / bare.stages[PUSH]
            _print_ratio("times as long as the bare push", push, 1.3, most=True)
            _print_ratio("times as long as all the bare work", ours.seconds / bare.seconds)


def _print_ratio(
    title: str, value: float, target: float | None = None, *, most: bool = False
) -> None:
    text = f"{value:,.0f}" if value > 1000 else f"{value:.2f}"
    verdict = ""
    if target is not None:
        reached = value <= target if most else value >= target
        verdict = f"   target {target:,.3g}: {'reached' if reached else 'NOT reached'}"
    print(f"  {title:<62}{text:>12}{verdict}", flush=True)


def _memory(options: argparse.Namespace, folder: Path) -> None:
    """Print peak memory against the number of snapshots, over the same source files."""
    longest = max(MEMORY_SNAPSHOTS)
    options = argparse.Namespace(**{**vars(options), "members": options.memory_members})
    options.snapshots = longest
    print(f"\nmemory: {options.members:,} members, {longest - 1} days more than one window")
    print(f"{'snapshots':>12}{'peak MB':>10}{'seconds':>10}")
    peaks = []
    for snapshots in MEMORY_SNAPSHOTS:
        with SETTINGS["sqlite"]() as options.online_store:
            _prepare(folder, options)
        result = _ours(folder / "ours", CUTOFF, snapshots)
        peaks.append(result.peak)
        print(f"{snapshots:>12}{result.peak / 1e6:>10,.0f}{result.seconds:>10.1f}", flush=True)
    growth = peaks[-1] / peaks[0] - 1
    print(f"  growth from {MEMORY_SNAPSHOTS[0]} to {longest} snapshots: {growth:+.1%}")


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    libraries = ", ".join(
        f"{title} {version(package)}"
        for title, package in (
            ("TensorFlow", "tensorflow"),
            ("Feast", "feast"),
            ("pandas", "pandas"),
            ("pyarrow", "pyarrow"),
        )
    )
    return (
        f"machine: {cores} cores (load {os.getloadavg()[0]:.1f}), {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}, {libraries}"
    )


if __name__ == "__main__":
    main()
