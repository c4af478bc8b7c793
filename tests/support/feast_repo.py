"""A real feature repo for tests: the project's own definitions over small data.

`Repo.feast` runs the real `feast` command in this process, for speed, and `Repo.process` in one of
its own; `Repo.store` is the real `FeatureStore`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner
from feast import FeatureStore
from feast.cli.cli import cli

from activity_embeddings import ItemVectorSpec
from activity_embeddings.training.new_repo import render
from activity_embeddings.training.new_repo.settings import (
    Content,
    PostingSource,
    RepoSettings,
    VectorSource,
)
from activity_embeddings.transformations.online.publish import store_identity
from support import processes

PROJECT = Path(__file__).parents[2]
DEFINITIONS = PROJECT / "feature_repo"
OWN_VECTORS = RepoSettings(
    items=VectorSource(), vector_spec=ItemVectorSpec("content_and_behaviour", "1", 64)
)
"""Settings of a feature repo whose item vectors are the user's own."""
STRING_IDS = replace(OWN_VECTORS, member_type="string", item_type="string")
SAMPLE = RepoSettings(
    items=PostingSource(
        content=(
            Content("title", "String"),
            Content("year", "Int64"),
            Content("genres", "Array(String)"),
        )
    )
)
"""Settings of a feature repo whose item vectors an encoder makes."""
FEAST = Path(sys.executable).with_name("feast")
THEIRS = {"member_id": "user", "job_id": "posting", "action": "what", "event_timestamp": "when"}
"""Other names of the columns of events, by ours; see `Repo.map_columns`."""
DIMENSION = 64
US_PER_DAY = 86_400_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Runs the feast command and kills its own process around the n-th call of one function.
KILLED_FEAST = """
import importlib, itertools, os, signal, sys
module, owner, function, call, when = sys.argv[1:6]
target = getattr(importlib.import_module(module), owner)
original = getattr(target, function)
calls = itertools.count(1)
def counted(*args, **kwargs):
    number = next(calls)
    if number == int(call) and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*args, **kwargs)
    if number == int(call):
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(target, function, counted)
sys.argv = ["feast", *sys.argv[6:]]
from feast.cli.cli import cli
cli()
"""


def at(day: float) -> datetime:
    """Return a moment of the test calendar: day 0 is 2024-03-01, midnight UTC."""
    return datetime(2024, 3, 1, tzinfo=UTC) + timedelta(days=day)


def us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


@dataclass
class Outcome:
    code: int
    output: str


@dataclass
class Repo:
    """A copy of feature_repo/ with data of its own."""

    path: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def store(self) -> FeatureStore:
        return FeatureStore(repo_path=str(self.path))

    def feast(self, *arguments: str) -> Outcome:
        """Run the feast command line in this process."""
        with self._here():
            result = CliRunner().invoke(cli, list(arguments), catch_exceptions=True)
        problem = f"\n{result.exception!r}" if result.exception else ""
        return Outcome(result.exit_code, result.output + problem)

    def python(self, source: str) -> None:
        """Run a script of the repo in this process."""
        with self._here():
            exec(compile(source, "script of the repo", "exec"), {"__name__": "__main__"})

    def forget_modules(self) -> None:
        """Have the next import of a definition read it, and not take another repo's."""
        for file in self.path.glob("*.py"):
            sys.modules.pop(file.stem, None)

    @contextlib.contextmanager
    def _here(self) -> Iterator[None]:
        """Let the folder be the current one, and its modules be found first."""
        before = (os.getcwd(), list(sys.path), sys.dont_write_bytecode)
        self.forget_modules()
        os.chdir(self.path)
        sys.path.insert(0, str(self.path))
        try:
            yield
        finally:
            os.chdir(before[0])
            sys.path[:] = before[1]
            sys.dont_write_bytecode = before[2]

    def run(self, *arguments: str) -> Outcome:
        """Run a feast command that should succeed."""
        outcome = self.feast(*arguments)
        assert outcome.code == 0, outcome.output
        return outcome

    def materialize(self, start: datetime, end: datetime, *more: str) -> Outcome:
        return self.run(*interval(start, end, *more))

    def publish(self, start: datetime, end: datetime, *more: str) -> Outcome:
        """Apply the definitions, then materialize an interval."""
        self.run("apply")
        return self.materialize(start, end, *more)

    def process(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the feast command in a process of its own."""
        return processes.run(processes.FEAST, *arguments, folder=self.path, **environment)

    @property
    def events(self) -> Path:
        """The folder that is the source of events."""
        return self.data / "activity_events"

    def write_events(self, table: pa.Table) -> None:
        """Make these the only events of the source."""
        shutil.rmtree(self.events, ignore_errors=True)
        self.events.mkdir()
        pq.write_table(table, self.events / "history.parquet")

    def write_vectors(self, table: pa.Table) -> None:
        pq.write_table(table, self.data / "job_embeddings.parquet")

    def write_postings(self, table: pa.Table) -> None:
        pq.write_table(table, self.data / "job_postings.parquet")

    def configure(self, settings: RepoSettings) -> None:
        """Write the definitions that `init` writes for such settings."""
        (self.path / "entities.py").write_text(render.entities_py(settings))
        (self.path / "sources.py").write_text(render.sources_py(settings))
        (self.path / "item_vectors.py").write_text(render.item_vectors_py(settings))

    def edit(self, file: str, old: str, new: str) -> None:
        """Change one of the definitions, as a user would."""
        path = self.path / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def map_columns(self) -> None:
        """Have the definitions say that the source of events calls its columns as in `THEIRS`."""
        self.edit(
            "sources.py",
            'timestamp_field="event_timestamp",',
            'timestamp_field="when",\n    field_mapping={"user": "member_id", "posting": "job_id", '
            '"what": "action"},',
        )

    def set_engine(self, **settings: object) -> None:
        """Give the engine settings more."""
        line = "  snapshot_interval_hours"
        more = "".join(f"  {name}: {value}\n" for name, value in settings.items())
        self.edit("feature_store.yaml", line, more + line)

    def snapshot_files(self) -> dict[str, bytes]:
        """Every committed or staged file of the offline store, byte for byte.

        Locks and records of runs are no data, and the mark of what is online names the place of the
        online store: that of another repo is the same if the place is the only difference.
        """
        root, place = self.data / "snapshots", store_identity(self.store.config).encode()
        return {
            str(file.relative_to(root)): file.read_bytes().replace(place, b"this repo's store")
            for file in sorted(root.rglob("*"))
            if file.is_file() and file.suffix != ".lock" and file.parent.name != "_runs"
        }

    def online_rows(self) -> dict[str, list[tuple]]:
        """Every row of the online store, byte for byte, whatever its order on disk."""
        database = self.data / "online.db"
        if not database.exists():
            return {}
        with contextlib.closing(sqlite3.connect(database)) as connection:
            tables = [
                name
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type='table'"
                )
            ]
            return {
                table: sorted(connection.execute(f'SELECT * FROM "{table}"').fetchall(), key=repr)
                for table in sorted(tables)
            }

    def stores(self) -> tuple[dict, dict]:
        return self.snapshot_files(), self.online_rows()

    def keep(self) -> None:
        """Copy the whole repo beside itself, for `put_back`."""
        shutil.copytree(self.path, self._kept, symlinks=True)

    def put_back(self) -> Repo:
        """Make it what it was when `keep` was called, at its place: registries hold paths."""
        shutil.rmtree(self.path)
        shutil.copytree(self._kept, self.path, symlinks=True)
        return self

    @property
    def _kept(self) -> Path:
        return self.path.with_name(f"{self.path.name}_kept")


def make_repo(
    path: Path,
    models: Path,
    events: pa.Table,
    vectors: pa.Table,
    settings: RepoSettings = OWN_VECTORS,
) -> Repo:
    """Copy the definitions to `path` and give them data and packaged models.

    The item vectors are the user's own; what depends on the settings is what `init` writes.
    """
    repo = _copy_definitions(path, models)
    repo.configure(settings)
    repo.write_events(events)
    repo.write_vectors(vectors)
    return repo


def small_repo(path: Path, models: Path, *, settings: RepoSettings = OWN_VECTORS, **data) -> Repo:
    """Return a repo over `small_data(**data)`, not applied yet."""
    events, vectors = small_data(**data)
    return make_repo(path, models, events_table(events), vectors_table(vectors), settings)


def make_encoder_repo(path: Path, models: Path, events: pa.Table, postings: pa.Table) -> Repo:
    """Return a repo of `SAMPLE`; `models` holds an item encoder and models for it."""
    repo = _copy_definitions(path, models)
    repo.configure(SAMPLE)
    repo.write_events(events)
    repo.write_postings(postings)
    return repo


def _copy_definitions(path: Path, models: Path) -> Repo:
    path.mkdir(parents=True)
    for file in [*DEFINITIONS.glob("*.py"), DEFINITIONS / "feature_store.yaml"]:
        shutil.copy(file, path)
    shutil.copytree(models, path / "models")
    (path / "data").mkdir()
    lines, services = path / "activity_models.py", path / "services.py"
    lines.write_text(render.activity_models_py(lines.read_text(), "cnn"))
    services.write_text(render.services_py(services.read_text(), "recommendations_v2", "cnn"))
    return Repo(path)


def events_table(rows: list[tuple[int, int, str, datetime]]) -> pa.Table:
    """Return (member_id, item_id, action, time) as an event source."""
    members, items, actions, times = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table(
        {
            "member_id": pa.array(members, pa.int64()),
            "job_id": pa.array(items, pa.int64()),
            "action": pa.array(actions, pa.string()),
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


def with_string_ids(table: pa.Table) -> pa.Table:
    """Return a source whose ids are text."""
    for column in {"member_id", "job_id"}.intersection(table.column_names):
        position = table.column_names.index(column)
        table = table.set_column(position, column, table[column].cast(pa.string()))
    return table


def vectors_table(rows: list[tuple[int, datetime, np.ndarray]]) -> pa.Table:
    """Return (item_id, time, vector) as an item-embedding source."""
    items, times, vectors = zip(*rows, strict=True)
    return pa.table(
        {
            "job_id": pa.array(items, pa.int64()),
            "embedding": pa.array([v.tolist() for v in vectors], pa.list_(pa.float32())),
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


def small_data(seed: int = 0, members: int = 40, days: int = 45) -> tuple[list, list]:
    """Return (events, vectors) rows with the cases that matter.

    Members differ in how much and until when they act; some items get a vector late or never, some
    get a second one; some events repeat.
    """
    random = np.random.default_rng(seed)
    items = 30
    events = []
    for member in range(1, members + 1):
        silent_after = days if member % 3 else random.integers(1, 12)
        for _ in range(int(random.integers(1, 60 if member % 7 == 0 else 12))):
            when = at(-20 + float(random.uniform(0, 20 + silent_after)))
            action = ("APPLY", "SAVE", "DISMISS")[random.choice(3, p=[0.5, 0.35, 0.15])]
            events.append((member, int(random.integers(1, items + 4)), action, when))
    events += events[:5]
    # On the edges of windows: at a cut-off, and exactly 28 days before one.
    events += [(members + 1, 1, "APPLY", at(0)), (members + 2, 2, "SAVE", at(-25))]
    vectors = []
    for item in range(1, items + 1):
        known_from = at(-40) if item % 5 else at(float(random.uniform(-5, 8)))
        vectors.append((item, known_from, random.normal(size=DIMENSION).astype(np.float32)))
        if item % 11 == 0:
            vectors.append((item, at(5), random.normal(size=DIMENSION).astype(np.float32)))
    return events, vectors


def interval(start: datetime, end: datetime, *more: str) -> list[str]:
    """Return the arguments of the feast command that materialize an interval."""
    return ["materialize", f"{start:%Y-%m-%dT%H:%M:%S}", f"{end:%Y-%m-%dT%H:%M:%S}", *more]


def run_killed(
    repo: Repo, stage: tuple, start: datetime, end: datetime, *more: str
) -> subprocess.CompletedProcess[str]:
    """Materialize in a process that is killed at a stage: module, class, method, call, when."""
    return processes.run(
        KILLED_FEAST, *map(str, stage), *interval(start, end, *more), folder=repo.path
    )
