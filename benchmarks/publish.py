"""Publishing three models offline and online: this package, stock Feast, and the floor.

    python benchmarks/publish.py

Generates activity, publishes it in each of the ways of `publish_variants`, prints seconds,
rates, memory and ratios, and says which targets were reached. Then publishes 1, 7 and 28
snapshots to show what memory does. Every run is a process of its own, so memory is its own too.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import synthetic
from publish_variants import VARIANTS, VIEWS
from synthetic import FEATURE_REPO

FEAST = Path(sys.executable).with_name("feast")
LOAD = "load models"
PUSH = "push online"
STAGES = {
    LOAD: "import TensorFlow and DuckDB, load models",
    "read item vectors": "read item vectors",
    "read events": "read events (ours: check and order)",
    "sequences": "sequences",
    "tensors": "tensors (ours: inside the models)",
    "models": "three models",
    "write": "write parquet",
    "commit": "commit",
    "other": "other",
    PUSH: "push online",
}
MEMORY_SNAPSHOTS = (1, 7, 28)
HOT_SPOTS = 25

Result = dict[str, Any]


def main() -> None:
    """Run what the command line asks for."""
    options = _options()
    if options.variant == "models":
        folder = options.keep
        synthetic.write_models(folder / "ours/models", folder / "keras", options.dimension)
        return
    if options.variant:
        arguments = (options.keep, options.snapshots)
        if options.profile:
            _profile(VARIANTS[options.variant], *arguments)
            return
        result = VARIANTS[options.variant](*arguments)
        options.result.write_text(json.dumps(result), encoding="utf-8")
        return
    print(_machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="activity-embeddings-") as temporary:
        folder = options.keep or Path(temporary)
        _compare(options, folder / "publish")
        if not options.skip_memory:
            _memory(options, folder / "memory")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--members", type=int, default=100_000)
    add("--events-per-member", type=float, default=12, help="mean number in a window")
    add("--items", type=int, default=50_000)
    add("--dimension", type=int, default=64, help="length of an item vector")
    add("--snapshots", type=int, default=1, help="daily cut-offs; stock and floor need 1")
    add("--repeat", type=int, default=1, help="run everything this often, print medians")
    add("--skip-stock", action="store_true")
    add("--skip-floor", action="store_true")
    add("--skip-memory", action="store_true", help="leave out the runs with 1, 7, 28 snapshots")
    add("--memory-members", type=int, default=20_000, help="members of those runs")
    add("--profile", action="store_true", help="print the hot spots of this package's path")
    add("--keep", type=Path, metavar="DIR", help="work in this folder and leave the files there")
    add("--variant", choices=["models", *VARIANTS], help=argparse.SUPPRESS)
    add("--result", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _compare(options: argparse.Namespace, folder: Path) -> None:
    """Run the variants side by side and print what they took."""
    names = ["ours"]
    if options.snapshots == 1:
        names += ["stock"] * (not options.skip_stock) + ["floor"] * (not options.skip_floor)
    _prepare(folder, options, members=options.members, snapshots=options.snapshots)
    runs: list[dict[str, Result]] = []
    for _ in range(options.repeat):
        _fresh_repo(folder)
        runs.append({name: _run(name, folder, options.snapshots) for name in names})
    results = {name: _median([run[name] for run in runs]) for name in names}
    _print_stages(results, options)
    _print_rates(results, _run("sequences", folder, 1), options)
    if options.profile:
        _fresh_repo(folder)
        output = _call(_command("ours", folder, options.snapshots, "--profile"), folder)
        start = output.rindex("\n", 0, output.index("function calls"))
        print("\nhot spots of this package, imports left out\n" + output[start:].rstrip())


def _prepare(folder: Path, options: argparse.Namespace, *, members: int, snapshots: int) -> None:
    """Generate data and models, in a process of their own, and copy the definitions."""
    shutil.rmtree(folder, ignore_errors=True)
    repo = folder / "ours"
    (repo / "data").mkdir(parents=True)
    synthetic.write_definitions(repo, options.dimension)
    shutil.copy(FEATURE_REPO / "feature_store.yaml", repo)
    synthetic.write_activity(
        repo / "data",
        members=members,
        events_per_member=options.events_per_member,
        items=options.items,
        dimension=options.dimension,
        snapshots=snapshots,
    )
    # Memory that this process had is counted in the processes it starts: TensorFlow stays out.
    dimension = str(options.dimension)
    command = [sys.executable, __file__, "--variant", "models", "--keep", folder]
    _call([*command, "--dimension", dimension], folder)


def _fresh_repo(folder: Path) -> None:
    """Empty all stores and apply the definitions, with the real command."""
    data = folder / "ours" / "data"
    for leftover in (data / "snapshots", folder / "stock", folder / "floor"):
        shutil.rmtree(leftover, ignore_errors=True)
    for database in data.glob("*.db*"):
        database.unlink()
    _call([FEAST, "apply"], folder / "ours")


def _run(name: str, folder: Path, snapshots: int) -> Result:
    """Run one variant in a process of its own."""
    result = folder / f"{name}.json"
    _call(_command(name, folder, snapshots, "--result", result), folder)
    return json.loads(result.read_text(encoding="utf-8"))


def _command(name: str, folder: Path, snapshots: int, *more: Any) -> list[Any]:
    own = [sys.executable, __file__, "--variant", name, "--keep", folder]
    return [*own, "--snapshots", str(snapshots), *more]


def _profile(variant: Callable[..., Result], *arguments: Any) -> None:
    """Run a variant under cProfile, imports done before, and print where the time goes."""
    import feast  # noqa: F401
    import tensorflow  # noqa: F401

    profiler = cProfile.Profile()
    profiler.runcall(variant, *arguments)
    pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(HOT_SPOTS)


def _call(command: list[Any], folder: Path) -> str:
    """Run a command and return what it printed; show everything if it fails."""
    environment = {"FEAST_USAGE": "False", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _median(runs: list[Result]) -> Result:
    """Return the last run with the median of every figure that varies."""
    result = dict(runs[-1])
    middle = statistics.median
    stages = runs[-1]["seconds"]
    result["seconds"] = {stage: middle(run["seconds"][stage] for run in runs) for stage in stages}
    result["memory"] = middle(run["memory"] for run in runs)
    if "pushes" in result:
        result["pushes"] = {
            view: {**push, "seconds": middle(run["pushes"][view]["seconds"] for run in runs)}
            for view, push in result["pushes"].items()
        }
    return result


def _print_stages(results: dict[str, Result], options: argparse.Namespace) -> None:
    ours = results["ours"]
    times = f", median of {options.repeat} runs" if options.repeat > 1 else ""
    print(
        f"data: {options.members:,} members, {ours['events']:,} events, {options.items:,} items "
        f"({synthetic.SHARE_UNKNOWN:.0%} without a vector), {options.dimension} dimensions, "
        f"{ours['snapshots']} snapshot(s)\n"
    )
    print(f"{'seconds' + times:<40}" + "".join(f"{name:>12}" for name in results))
    for stage, title in STAGES.items():
        if stage == PUSH:
            _print_row("everything but import and push", results, _work)
        _print_row(title, results, lambda result, stage=stage: result["seconds"].get(stage))
    print()
    _print_row(
        "members/s, everything but import, push", results, lambda r: options.members / _work(r), 0
    )
    _print_row("values pushed", results, lambda r: r["values"], 0)
    _print_row("values/s of the push", results, lambda r: r["values"] / r["seconds"][PUSH], 0)
    _print_row("peak memory, MB", results, lambda r: r["memory"], 0)
    print("\nThe engine's own report:\n" + ours["printed"] + "\n")


def _print_row(title: str, results: dict[str, Result], value: Any, digits: int = 2) -> None:
    cells = (value(result) for result in results.values())
    texts = ("-" if cell is None else f"{cell:,.{digits}f}" for cell in cells)
    print(f"{title:<40}" + "".join(f"{text:>12}" for text in texts), flush=True)


def _work(result: Result, *, load: bool = False) -> float:
    """Return the seconds of everything but the push and, unless `load`, import and loading."""
    left_out = {PUSH} if load else {PUSH, LOAD}
    return sum(spent for stage, spent in result["seconds"].items() if stage not in left_out)


def _print_rates(
    results: dict[str, Result], sequences: Result, options: argparse.Namespace
) -> None:
    """Print the ratios, each beside its target."""
    ours = results["ours"]
    seconds = ours["seconds"]
    events = options.members * options.events_per_member * ours["snapshots"]
    alone = sum(sequences["seconds"].values())
    _print_target(
        "events/s: check, order, make sequences, tables in memory", sequences["events"] / alone, 2e6
    )
    _print_target(
        "events/s: the same in the run above, read from parquet too",
        events / (seconds["sequences"] + seconds["read events"]),
        2e6,
    )
    if "stock" in results:
        stock = results["stock"]
        _print_target(
            "times as fast as stock: everything but import and push",
            _work(stock) / _work(ours),
            4,
        )
        _print_target(
            "times as fast as stock: everything but push, import included",
            _work(stock, load=True) / _work(ours, load=True),
        )
        embeddings = [ours["pushes"][view] for view in VIEWS]
        stock_rate = stock["values"] / stock["seconds"][PUSH]
        rate = sum(p["values"] for p in embeddings) / sum(p["seconds"] for p in embeddings)
        _print_target("times as fast as stock: push of the same values", rate / stock_rate, 1)
        rate = ours["values"] / seconds[PUSH]
        _print_target("times as fast as stock: push, sequences too", rate / stock_rate)
        print(f"  largest difference between the vectors of both: {stock['difference']:.1e}")
    if "floor" in results:
        floor = results["floor"]
        _print_target("times as long as the floor: all but push", _work(ours) / _work(floor))
        _print_target("times as long as the floor: push", seconds[PUSH] / floor["seconds"][PUSH])


def _print_target(title: str, value: float, target: float | None = None) -> None:
    text = f"{value:,.0f}" if value > 1000 else f"{value:.2f}"
    verdict = ""
    if target is not None:
        verdict = f"   target {target:,.0f}: {'reached' if value >= target else 'NOT reached'}"
    print(f"  {title:<62}{text:>12}{verdict}", flush=True)


def _memory(options: argparse.Namespace, folder: Path) -> None:
    """Print peak memory against the number of snapshots, over the same source files."""
    longest = max(MEMORY_SNAPSHOTS)
    _prepare(folder, options, members=options.memory_members, snapshots=longest)
    print(f"\nmemory: {options.memory_members:,} members, {longest - 1} days more than one window")
    print(f"{'snapshots':>12}{'events read':>14}{'peak MB':>10}{'before MB':>12}{'seconds':>10}")
    peaks = []
    for snapshots in MEMORY_SNAPSHOTS:
        _fresh_repo(folder)
        result = _run("ours", folder, snapshots)
        peaks.append(result["memory"])
        print(
            f"{snapshots:>12}{result['events']:>14,}{result['memory']:>10,.0f}"
            f"{result['memory_before']:>12,.0f}{sum(result['seconds'].values()):>10.1f}",
            flush=True,
        )
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
        f"machine: {cores} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, {libraries}"
    )


if __name__ == "__main__":
    main()
