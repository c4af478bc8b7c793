"""Seconds and peak memory of publishing, as the number of members grows, and by executor.

    python benchmarks/scale.py --members 10000 100000 1000000
    python benchmarks/scale.py --members 5000000 --dry-run
    python benchmarks/scale.py --members 300000 --dry-run --executor local processes ray1 ray2
    python benchmarks/scale.py --members 100000 --dry-run --executor ray1 ray2 --model transformer
    python benchmarks/scale.py --members 300000 --executor local ray1 --online redis

For each number: activity of a window (12 events a member at the mean), three models, one snapshot.
`feast materialize` runs as a process of its own, from its start to its end, with the definitions of
`feature_repo/`. Printed are its seconds and CPU seconds, microseconds a member, peak memory, and
the seconds by stage that the record of the run has. `--dry-run` computes and publishes nothing.

`ray1` and `ray2` are Ray clusters of so many nodes, on this machine. All processes of a node are
pinned to a core of its own, and the driver to that of the first. Seconds of `sequences` and
`models` are those of all workers together, `by workers` the time from the first task to the last
answer; CPU seconds and memory are the driver's alone. A model that costs more than the CNN,
`--model`, leaves the driver less of the work.

`--online` names the online store. Workers write the rows of all but sqlite, where there are many.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import synthetic
from processes import FEAST, Usage, run
from servers import SETTINGS

COMMAND = FEAST.with_name("activity-embeddings")
STAGES = ("read item vectors", "read events", "load models", "sequences", "models",
          "wait for workers", "by workers", "write", "judge", "commit", "push online")  # fmt: skip
EXECUTORS = ("local", "processes", "ray1", "ray2")


def main() -> None:
    """Publish for each number of members and each executor, and print a line."""
    options = _options()
    print(f"{'members':>10} {'executor':>9} {'s':>7} {'CPU s':>7} {'us/member':>10} {'MiB':>7}  "
          "seconds by stage")  # fmt: skip
    for members in options.members:
        with tempfile.TemporaryDirectory(prefix="activity-embeddings-") as folder:
            prepared = Path(folder) / "prepared"
            _in_a_process(_prepare, prepared, members, options)
            for executor in options.executor:
                repo = Path(folder) / executor
                shutil.copytree(prepared, repo)
                with SETTINGS[options.online]() as online, _settings(executor) as settings:
                    _configure(repo, {"memory_budget_mb": options.budget, **settings}, online)
                    run([FEAST, "apply"], repo)
                    usage = _publish(repo, dry_run=options.dry_run)
                (record,) = (repo / "data" / "snapshots" / "_runs").glob("*.json")
                facts = json.loads(record.read_text())
                step = next(step for step in facts["steps"] if "snapshots" in step)
                spent = step["seconds"]
                by_stage = ", ".join(f"{stage} {spent.get(stage, 0):.1f}" for stage in STAGES)
                if step["pushed_by_workers"]:
                    by_stage += f"; pushed by workers: {step['pushed_by_workers']:,} rows"
                if step["by_tensorflow"]:
                    by_stage += f"; in TensorFlow: {', '.join(step['by_tensorflow'])}"
                each = 1e6 * usage.seconds / members
                print(f"{members:10,} {executor:>9} {usage.seconds:7.1f} {usage.cpu:7.1f} "
                      f"{each:10.1f} {usage.peak / 2**20:7.0f}  {by_stage}",
                      flush=True)  # fmt: skip
                shutil.rmtree(repo)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--members", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    add("--events-per-member", type=float, default=12, help="mean number in the window")
    add("--items", type=int, default=50_000)
    add("--dimension", type=int, default=64, help="length of an item vector")
    add("--budget", type=int, default=1024, help="memory_budget_mb")
    add("--model", default="cnn", help="the learned one: cnn, gru, lstm or transformer")
    add("--online", choices=SETTINGS, default="sqlite", help="the online store")
    add("--executor", nargs="+", choices=EXECUTORS, default=["local"])
    add("--dry-run", action="store_true", help="compute and judge, and publish nothing")
    return parser.parse_args()


def _prepare(repo: Path, members: int, options: argparse.Namespace) -> None:
    """Write activity, models and definitions."""
    (repo / "data").mkdir(parents=True)
    synthetic.write_definitions(repo, options.dimension, options.model)
    synthetic.write_activity(
        repo / "data",
        members=members,
        events_per_member=options.events_per_member,
        items=options.items,
        dimension=options.dimension,
    )
    folders = repo / "models", repo.parent / "plain"
    synthetic.write_models(*folders, options.dimension, options.model)
    shutil.rmtree(repo.parent / "plain", ignore_errors=True)


@contextmanager
def _settings(executor: str) -> Iterator[dict[str, str]]:
    """Have what an executor needs, and yield the settings that name it."""
    if not executor.startswith("ray"):
        yield {"executor": executor}
        return
    from ray.cluster_utils import Cluster

    cluster, cores = Cluster(), os.sched_getaffinity(0)
    first, *_ = machines = sorted(cores)[: int(executor.removeprefix("ray"))]
    try:
        for core in machines:
            os.sched_setaffinity(0, {core})  # which what is started now has, too
            cluster.add_node(num_cpus=1, object_store_memory=512 * 2**20, include_dashboard=False)
        cluster.wait_for_nodes()
        os.sched_setaffinity(0, {first})
        yield {"executor": "ray", "address": cluster.address}
    finally:
        os.sched_setaffinity(0, cores)
        cluster.shutdown()


def _configure(repo: Path, settings: dict[str, object], online: dict[str, object]) -> None:
    """Write feature_store.yaml with settings of the engine and of the online store."""
    text = (synthetic.FEATURE_REPO / "feature_store.yaml").read_text()
    key = "  snapshot_interval_hours: 24"
    assert key in text
    lines = "".join(f"  {name}: {value}\n" for name, value in settings.items())
    text = text.replace(key, lines + key)
    before, _, rest = text.partition("online_store:\n")
    assert rest
    indented = "".join(f"  {name}: {value}\n" for name, value in online.items())
    after = rest[re.search(r"^(?=\S)|\Z", rest, re.MULTILINE).start() :]
    (repo / "feature_store.yaml").write_text(f"{before}online_store:\n{indented}{after}")


def _publish(repo: Path, *, dry_run: bool) -> Usage:
    """Return what a `feast materialize` takes, or what only computes."""
    interval = [synthetic.CUTOFF - timedelta(days=1), synthetic.CUTOFF]
    program = [COMMAND, "plan"] if dry_run else [FEAST, "materialize"]
    return run([*program, *(f"{moment:%Y-%m-%dT%H:%M:%S}" for moment in interval)], repo)


def _in_a_process(function, *arguments) -> None:
    """Call a function whose memory is not to be counted in the processes that are started later."""
    child = os.fork()
    if not child:
        status = 1
        try:
            function(*arguments)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0, function


if __name__ == "__main__":
    main()
