"""Kills runs by SIGKILL at random moments, and compares what the next run makes of the stores.

    python benchmarks/kills.py                    # 100 kills of `feast materialize`, 90 of others

Snapshots lie in a folder, in Iceberg tables (both with sqlite online) and in PostgreSQL (which is
the online store, too). In each, `feast materialize` publishes an interval some of whose snapshots
are there with other rows, and is killed; then it is run again. Every row and fact of every
snapshot, every online row byte for byte, marks, vector tables, intervals in the registry and names
of files are compared with those of a run that nobody has disturbed.

The same for `activity-embeddings push`, `compact` and `forget`, each followed by
`feast materialize`.

A run says through a pipe when it enters and leaves a stage; an undisturbed one tells how long each
takes. A kill is a random while after a random one of these moments, so that short stages are hit
as often as long ones. The package itself knows nothing of this.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import itertools
import json
import logging
import os
import random
import select
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings.transformations.online.push import SequenceWriter

sys.path.append(str(Path(__file__).parents[1] / "tests"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Of semaphores that killed processes leave.
os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")

from support import processes
from support.feast_repo import (
    Repo,
    at,
    events_table,
    interval,
    make_repo,
    small_data,
    vectors_table,
)
from support.iceberg_repo import in_iceberg
from support.packaged_models import package_models
from support.postgres_repo import (
    ORDERED,
    in_utc,
    ingest,
    move_to_postgres,
    serve_from_postgres,
)
from support.postgres_server import postgres_server

SINKS = "activity_embeddings.transformations.offline.sinks"
SINK_CLASSES = [
    (f"{SINKS}.folder", "FolderSink"),
    (f"{SINKS}.iceberg", "IcebergSink"),
    (f"{SINKS}.postgres", "PostgresSink"),
]
ROWS = "activity_embeddings.transformations.online"
ROW_CLASSES = [
    (f"{ROWS}.any_store", "AnyRows"),
    (f"{ROWS}.sqlite", "SqliteRows"),
    (f"{ROWS}.postgres", "PostgresRows"),
]
LOG = "activity_embeddings.transformations.offline.event_log"
START = "start"
WATCHED: dict[str, list[tuple[str, str | None, str]]] = {
    "compute": [(f"{SINKS}.base", "SnapshotWriter", "write")],
    "commit": [(*of, "commit") for of in SINK_CLASSES],
    "push": [
        *((*of, name) for of in ROW_CLASSES for name in ("write", "update")),
        *((*of, "mark_published") for of in SINK_CLASSES),
        (f"{ROWS}.vector_table", None, "write_vector_table"),
    ],
    "record": [
        ("activity_embeddings.transformations.feast_compat.states", None, "record_materialization")
    ],
    "log": [(LOG, None, "append_events")],
    "merge files": [(LOG, "PushedEvents", "compact")],
    "delete": [
        (LOG, "PushedEvents", "forget"),
        *((*of, "delete_members") for of in SINK_CLASSES),
        *((*of, "delete") for of in ROW_CLASSES),
    ],
}
"""What tells that a run is in a stage: functions by module, class and name."""
SHARES = {"commit": 0.25, "push": 0.3, "record": 0.1}
"""Of the kills of `feast materialize`; the others fall anywhere."""
GONE = (10, 14, 19)
"""Members to forget; the source has only events of theirs that were pushed."""
PUSHES = 8


# In the process that is killed.


def watched(command: str) -> None:
    """Run a command that says through a pipe, its first argument, which stages it goes through."""
    pipe = os.open(sys.argv.pop(1), os.O_WRONLY)
    for stage, functions in WATCHED.items():
        for module, owner, name in functions:
            _announce(functools.partial(_say, pipe), stage, module, owner, name)
    _say(pipe, START)
    exec(compile(command, "-c", "exec"), {"__name__": "__main__"})


def _say(pipe: int, stage: str) -> None:
    os.write(pipe, f"{time.monotonic()} {stage}\n".encode())


def _announce(
    say: Callable[[str], None], stage: str, module: str, owner: str | None, name: str
) -> None:
    """Have a function say its stage before and after each call."""
    place: Any = importlib.import_module(module)
    if owner is not None:
        place = getattr(place, owner)
    if name not in vars(place):
        return  # inherited
    original = vars(place)[name]

    @functools.wraps(original)
    def said(*args: Any, **kwargs: Any) -> Any:
        say(stage)
        try:
            return original(*args, **kwargs)
        finally:
            say(stage)

    setattr(place, name, said)
    if owner is None:
        for other in [m for key, m in sys.modules.items() if key.startswith("activity_embeddings")]:
            if vars(other).get(name) is original:
                setattr(other, name, said)


# In the process that kills.


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, what it said, and the moments at which it said a stage."""

    code: int
    output: str
    stages: list[tuple[float, str]]
    seconds: float

    @property
    def stage(self) -> str:
        """The last stage that it was in."""
        return self.stages[-1][1] if self.stages else START

    def gaps(self) -> Iterator[tuple[int, str, float]]:
        """Yield what a kill can fall into: number of the moment, stage, seconds to the next."""
        for number, ((moment, stage), (end, _)) in enumerate(itertools.pairwise(self.stages)):
            yield number, stage, end - moment


def run_watched(
    folder: Path, command: str, *arguments: str, kill: tuple[int, float] | None = None
) -> Ended:
    """Run a command; `kill` it some seconds after the moment of this number."""
    pipe = folder.parent / "pipe"
    if not pipe.exists():
        os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)  # also to write: it is not at its end before anyone writes
    code = f"import __mp_main__; __mp_main__.watched({command!r})"
    running = processes.start(code, pipe, *arguments, folder=folder)
    began, rest, stages, due = time.monotonic(), b"", [], None
    while True:
        wait = None if due is None else max(0.0, due - time.monotonic())
        ready, _, _ = select.select([reader, running.process.sentinel], [], [], wait)
        if not ready:
            running.kill()
            due = None
        elif reader in ready:
            *lines, rest = (rest + os.read(reader, 65536)).split(b"\n")
            before = len(stages)
            said = [line.decode().split(" ", 1) for line in lines]
            stages += [(float(moment), stage) for moment, stage in said]
            if kill is not None and before <= kill[0] < len(stages):
                due = stages[kill[0]][0] + kill[1]
        else:
            break
    os.close(reader)
    output = running.stdout.read_text() + running.stderr.read_text()
    for file in (running.stdout, running.stderr):
        file.unlink()
    return Ended(running.wait(), output, stages, time.monotonic() - began)


# What is compared.


def state_of(repo: Repo, database: Any) -> dict[str, Any]:
    """Return what the stores of a repo have, by what it is."""
    from activity_embeddings.transformations.offline.located import keeps_snapshots
    from activity_embeddings.transformations.offline.sinks.places import sink_of
    from activity_embeddings.transformations.online.publish import store_identity

    store = repo.store
    state: dict[str, Any] = {}
    for view in store.list_batch_feature_views():
        # A run that was killed when it had recorded itself is recorded twice.
        state[f"registry: {view.name}"] = {*view.materialization_intervals}, view.state
        if not keeps_snapshots(view):
            continue
        sink = sink_of(view, store.config)
        state[f"mark: {view.name}"] = sink.published(store_identity(store.config))
        for as_of in sink.committed():
            state[f"snapshot: {view.name} {as_of}"] = sink.read(as_of)
            state[f"facts: {view.name} {as_of}"] = sink.facts(as_of)
    state |= {f"online: {name}": rows for name, rows in _online(repo, database).items()}
    state["vector table"] = _vector_table(repo)
    state["events"] = _events(repo, database)
    state["files"] = _files(repo)
    return state


def _online(repo: Repo, database: Any) -> dict[str, list[tuple]]:
    """Return every online row, byte for byte."""
    if database is None:
        return repo.online_rows()
    named = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename LIKE 'act%'"
    with database.connect() as connection:
        return {
            name: connection.execute(
                "SELECT entity_key, feature_name, value, event_ts, created_ts "
                f'FROM "{name}" ORDER BY 1, 2'
            ).fetchall()
            for (name,) in connection.execute(named).fetchall()
        }


def _vector_table(repo: Repo) -> dict[str, Any]:
    """Return what servers would map."""
    (file,) = (repo.data / "vector_tables").glob("*/*/current.json")
    current = json.loads(file.read_text())
    folder = file.with_name(current["version"])
    arrays = {array.name: array.read_bytes() for array in sorted(folder.iterdir())}
    return {"end": current["end"], "items": current["items"], **arrays}


def _events(repo: Repo, database: Any) -> list[tuple]:
    """Return the distinct events of the source."""
    if database is None:
        tables = [pq.read_table(file) for file in repo.events.glob("*.parquet")]
        return sorted({tuple(row.values()) for table in tables for row in table.to_pylist()})
    with database.connect() as connection:
        return connection.execute("SELECT DISTINCT * FROM events ORDER BY 1, 4, 2, 3").fetchall()


def _files(repo: Repo) -> dict[str, str]:
    """Return the names of all files below data, and a hash of those of snapshots."""
    found = {}
    for file in sorted(repo.data.rglob("*")):
        name = str(file.relative_to(repo.data))
        # Locks, records of runs, what is named at random, and what was being written; of the
        # registry and of pushes that is removed by the next run, or `forget`, after a minute.
        passed_over = (".lock", "-shm", "-wal", "runs/", "warehouse/", "vector_tables/", "live-")
        passed_over += (".registry.db.",)
        if file.is_file() and not any(part in name for part in passed_over):
            is_snapshot = name.startswith("snapshots/")
            content = file.read_bytes() if is_snapshot else b""
            found[name] = hashlib.sha256(content).hexdigest()
    return found


# What is killed.


@dataclass
class Place:
    """A feature repo with its stores, which can be put back to what they were when kept."""

    name: str
    repo: Repo
    database: Any = None

    def keep(self) -> None:
        """Remember what everything is."""
        shutil.rmtree(self._kept, ignore_errors=True)
        shutil.copytree(self.repo.data, self._kept)
        if self.database is not None:
            self._copy(self.database.database, self._kept_database)

    def put_back(self) -> None:
        """Make everything what it was."""
        shutil.rmtree(self.repo.data)
        shutil.copytree(self._kept, self.repo.data)
        if self.database is not None:
            self._copy(self._kept_database, self.database.database)
            in_utc(self.database)

    @property
    def _kept(self) -> Path:
        return self.repo.path.with_name(f"{self.repo.path.name}_kept")

    @property
    def _kept_database(self) -> str:
        return f"{self.database.database}_kept"

    def _copy(self, source: str, target: str) -> None:
        with replace(self.database, database="postgres").connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {target} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {target} TEMPLATE {source}")


@dataclass
class Case:
    """A command that is killed and run again, and perhaps another one after it."""

    name: str
    place: Place
    command: str
    arguments: list[str]
    then: list[str] | None = None
    shares: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.place.put_back()
        self.undisturbed = self._run()
        assert self.undisturbed.code == 0, self.undisturbed.output
        self.expected = self._outcome()

    def kill(self, draw: random.Random) -> tuple[str | None, str]:
        """Kill the command at a random moment and run it again.

        Returns
        -------
        stage
            In which it was killed; None where it had ended before.
        problem
            What the next run made of it, if that differs.
        """
        self.place.put_back()
        ended = self._run(kill=self._moment(draw))
        if ended.code >= 0:
            return None, ""
        again = self._run()
        if again.code:
            return ended.stage, f"exit code {again.code} when run again: {again.output[-2000:]}"
        outcome = self._outcome()
        names = outcome.keys() | self.expected.keys()
        differ = [name for name in sorted(names) if outcome.get(name) != self.expected.get(name)]
        return ended.stage, "; ".join(differ)

    def _outcome(self) -> dict[str, Any]:
        """Return what the stores have, now and when the other command has run, too."""
        repo, database = self.place.repo, self.place.database
        if self.then is None:
            return state_of(repo, database)
        # When a row was pushed is another time at each push, until a batch run replaces it.
        served = {
            f"before the batch, online: {name}": [row[:-1] for row in rows]
            for name, rows in _online(repo, database).items()
        }
        repo.run(*self.then)
        return served | state_of(repo, database)

    def _moment(self, draw: random.Random) -> tuple[int, float]:
        """Return the moment after which to kill, and how long after it."""
        gaps = [*self.undisturbed.gaps()]
        chosen = draw.choices([*self.shares, None], [*self.shares.values(), self._anywhere])[0]
        gaps = [gap for gap in gaps if chosen in (None, gap[1])] or gaps
        number, _, seconds = draw.choices(gaps, [seconds for *_, seconds in gaps])[0]
        return number, draw.uniform(0, seconds)

    @property
    def _anywhere(self) -> float:
        return 1 - sum(self.shares.values())

    def _run(self, kill: tuple[int, float] | None = None) -> Ended:
        return run_watched(self.place.repo.path, self.command, *self.arguments, kill=kill)


class Data:
    """Events and item vectors, and how they come in."""

    def __init__(self, members: int, seed: int) -> None:
        events, vectors = small_data(seed, members=members, days=8)
        self.vectors = vectors_table(vectors)
        self.first = events_table([event for i, event in enumerate(events) if i % 25])
        self.late = events_table(events[::25])
        some = range(1, members, 9)
        self.pushed = [
            events_table([(m, 1 + (m + n) % 30, "APPLY", at(6.5 + n / 100)) for m in some])
            for n in range(PUSHES + 1)
        ]


def make_places(folder: Path, data: Data, postgres: Any) -> list[Place]:
    """Make the three feature repos, published, and as they are before each kill."""
    models = package_models(folder / "models")
    places = []
    for name in ("folder", "Iceberg", "PostgreSQL"):
        repo = make_repo(folder / name / "repo", models, data.first, data.vectors)
        place = Place(name, repo)
        if name == "Iceberg":
            in_iceberg(repo)
        if name == "PostgreSQL":
            place.database = postgres.new()
            move_to_postgres(repo, place.database, ORDERED)
            serve_from_postgres(repo, place.database)
            in_utc(place.database)
        _publish_first(place, data)
        place.keep()
        places.append(place)
    return places


def _publish_first(place: Place, data: Data) -> None:
    """Publish two days and a later one and push; then the source of events changes."""
    repo = place.repo
    repo.publish(at(0), at(2))
    repo.materialize(at(5), at(6))
    writer = SequenceWriter(repo.store)
    for events in data.pushed[:PUSHES]:
        writer.push(events)
    write_jsonl(repo.data / "new.jsonl", data.pushed[PUSHES])
    if place.database is None:
        repo.events.joinpath("history.parquet").unlink()
        for name, table in (("history", data.first), ("late", data.late)):
            kept = ~np.isin(table["member_id"].to_numpy(), GONE)
            pq.write_table(table.filter(kept), repo.events / f"{name}.parquet")
        return
    ingest(place.database, "events", data.late, mode="append")
    with place.database.connect() as connection:
        connection.execute("DELETE FROM events WHERE member_id = ANY(%s)", (list(GONE),))


def write_jsonl(file: Path, events: pa.Table) -> None:
    """Write events as `activity-embeddings push` reads them."""
    rows = [
        {**row, "event_timestamp": row["event_timestamp"].isoformat()} for row in events.to_pylist()
    ]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def materialize_cases(place: Place) -> Iterator[Case]:
    """Yield runs before a later snapshot, which then gets rows of who falls silent, and after."""
    for name, start, end in (("materialize, before", 0, 4), ("materialize, after", 5, 8)):
        yield Case(name, place, processes.FEAST, interval(at(start), at(end)), shares=SHARES)


def other_cases(place: Place) -> Iterator[Case]:
    """Yield the other commands that write, each followed by a batch run."""
    commands = {
        "push": ["push", "data/new.jsonl"],
        "compact": ["compact"],
        "forget": ["forget", *map(str, GONE)],
    }
    if place.name != "folder":
        del commands["compact"]  # as in the folder, or nothing to do
    for name, arguments in commands.items():
        yield Case(name, place, processes.COMMAND, arguments, then=interval(at(6), at(7)))


@click.command()
@click.option("--kills", default=100, show_default=True, help="Of feast materialize.")
@click.option("--others", default=10, show_default=True, help="Of each other command.")
@click.option("--members", default=600, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(kills: int, others: int, members: int, seed: int) -> None:
    """Kill, run again, compare."""
    logging.disable(logging.INFO)  # which Feast's command has shown
    began, problems = time.perf_counter(), 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-")))
        postgres = stack.enter_context(postgres_server())
        places = make_places(folder, Data(members, seed), postgres)
        print(f"ready after {time.perf_counter() - began:.0f} s", flush=True)
        runs = [case for place in places for case in materialize_cases(place)]
        shares = [
            (case, kills // len(runs) + (i < kills % len(runs))) for i, case in enumerate(runs)
        ]
        shares += [(case, others) for place in places for case in other_cases(place)]
        for number, (case, count) in enumerate(shares):
            problems += report(case, count, random.Random(f"{seed} {number}"))
    print(f"{problems} problems; {time.perf_counter() - began:.0f} s in all")
    sys.exit(problems > 0)


def report(case: Case, count: int, draw: random.Random) -> int:
    """Kill a command some times, print what it was doing, and return how often stores differ."""
    began, stages, problems, ended = time.perf_counter(), Counter(), [], 0
    while stages.total() < count:
        stage, problem = case.kill(draw)
        if stage is None:
            ended += 1
            continue
        stages[stage] += 1
        if problem:
            problems.append(f"    killed in {stage}: {problem}")
    said = ", ".join(f"{stage} {stages[stage]}" for stage in (START, *WATCHED) if stages[stage])
    seconds = case.undisturbed.seconds
    print(
        f"{case.place.name:<11}{case.name:<21}{count:>4} kills: {said}"
        f"{f' ({ended} had ended)' if ended else ''}; {len(problems)} differ"
        f" [{seconds:.1f} s undisturbed, {time.perf_counter() - began:.0f} s]",
        *problems,
        sep="\n",
        flush=True,
    )
    return len(problems)


if __name__ == "__main__":
    main()
