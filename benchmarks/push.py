"""What it costs to push snapshots online: Feast's own way, this package's, and the bare floor.

    python benchmarks/push.py                              # 50,000 members, all three stores
    python benchmarks/push.py --stores sqlite --members 10000
    python benchmarks/push.py --stores redis,postgres --members 200000 --workers 2

Four views of one as-of time, sequences and three embeddings, lie in a folder as a run commits them;
then those of the next day, all of other values. Each way writes the first into an empty store
(fill) and the second over it (overwrite).

- stock: Feast's own conversion of the same rows, and its `online_write_batch`, 10,000 at once.
- ours: `push_snapshots`, live rows looked after in the sequence view.
- workers: as ours, but processes write what this one reads; with `--workers`, not for sqlite.
- floor: the bytes that `ours` has written lie ready, in the order of their keys. sqlite: one
  statement a value, `executemany`. Redis: one stream of HSET a view, replies read. PostgreSQL: rows
  as they will lie, COPY, INSERT from there.

CPU is this process's alone. Also what a reader of sqlite waits while `ours` overwrites.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from feast import Entity, FeatureView, Field, FileSource, RepoConfig
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.types import Array, Float32, Int64
from feast.utils import _convert_arrow_to_proto
from feast.value_type import ValueType
from servers import SETTINGS
from synthetic import ACTIONS, CUTOFF, LENGTH, WINDOW

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.rows import embedding_batch, sequence_batch
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.batch.executors import writing
from activity_embeddings.transformations.batch.executors.base import NewWorkers
from activity_embeddings.transformations.batch.executors.processes import ProcessWorkers
from activity_embeddings.transformations.batch.executors.writing import PartWriter
from activity_embeddings.transformations.definitions.schemas import sequence_fields
from activity_embeddings.transformations.definitions.tags import event_tags
from activity_embeddings.transformations.offline.sinks.folder import FolderSink
from activity_embeddings.transformations.online.live_rows import KeepLiveEvents
from activity_embeddings.transformations.online.publish import push_snapshots
from activity_embeddings.transformations.online.stores import row_store
from activity_embeddings.transformations.spec import ActivitySpec
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY, to_us

DIMENSION = 64
MODELS = {"average": 3, "decay": 3, "cnn": 1}
"""Outputs of each model."""
BATCH = 10_000
DAYS = (to_us(CUTOFF) - MICROSECONDS_PER_DAY, to_us(CUTOFF))
TARGETS = {"sqlite": ("floor", 1.3), "redis": ("stock", 4.0), "postgres": ("stock", 2.5)}
WAYS = ("stock", "ours", "workers", "floor")

Times = tuple[float, float]
"""Seconds and CPU seconds."""


def main() -> None:
    """Run what the command line asks for."""
    options = _options()
    if options.read:
        _read(options.read)
        return
    views = _views()
    writing.WORTH_SECONDS = 0
    with tempfile.TemporaryDirectory(prefix="push-") as folder:
        sinks = {view.name: FolderSink(Path(folder) / view.name / "v1") for view in views}
        for day, as_of in enumerate(DAYS):
            _commit(sinks, options.members, as_of, seed=day)
        for name in options.stores:
            with SETTINGS[name]() as settings:
                store = STORES[name](Path(folder), settings)
                workers = 0 if name == "sqlite" else options.workers
                runs = [_run(store, views, sinks, workers) for _ in range(options.repeat)]
                _print(name, options.members, runs)
                if name == "sqlite":
                    _print_waits(store, views, sinks)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--members", type=int, default=50_000)
    add("--stores", type=lambda text: text.split(","), default=list(STORES))
    add("--repeat", type=int, default=1, help="run everything this often, print medians")
    add("--workers", type=int, default=0, help="processes that write; 0: leave that way out")
    add("--read", help=argparse.SUPPRESS)
    return parser.parse_args()


def _views() -> list[FeatureView]:
    member = Entity(name="member", join_keys=["member_id"], value_type=ValueType.INT64)
    source = FileSource(
        path="unused.parquet",
        timestamp_field=names.EVENT_TIMESTAMP,
        created_timestamp_column=names.CREATED_TIMESTAMP,
    )
    spec = ActivitySpec(window=WINDOW, length=LENGTH, actions=ACTIONS)
    schemas = {"sequence": sequence_fields(names.JOBS, Int64, Int64)}
    for model, outputs in MODELS.items():
        vectors = [Field(name=f"output_{i}", dtype=Array(Float32)) for i in range(outputs)]
        schemas[model] = [Field(name="member_id", dtype=Int64), *vectors]
    return [
        FeatureView(
            name=name,
            entities=[member],
            schema=schema,
            source=source,
            ttl=timedelta(0),
            tags=event_tags(spec) if name == "sequence" else {},
        )
        for name, schema in schemas.items()
    ]


def _commit(sinks: dict[str, FolderSink], members: int, as_of: int, *, seed: int) -> None:
    """Commit snapshots of made-up values, of 12 events a member in the mean."""
    random = np.random.default_rng(seed)
    ids = pa.array(np.arange(1, members + 1))
    created = np.full(members, as_of)
    count = np.minimum(1 + random.poisson(random.exponential(11, members)), LENGTH)
    filled = np.arange(LENGTH) >= LENGTH - count[:, None]
    span = WINDOW // timedelta(microseconds=1)
    times = np.sort(as_of - random.integers(1, span, filled.shape), axis=1)
    sequences = Sequences(
        item=np.where(filled, random.integers(0, 50_000, filled.shape), -1),
        action=np.where(filled, random.integers(1, 4, filled.shape), 0).astype(np.int32),
        time=np.where(filled, times, 0),
        count=count,
        unknown=np.zeros(members, dtype=np.int32),
        as_of=np.full(members, as_of),
        item_ids=pa.array(np.arange(50_000)),
    )
    batches = {"sequence": sequence_batch(ids, sequences, created)}
    for model, outputs in MODELS.items():
        vectors = {
            f"output_{i}": random.normal(size=(members, DIMENSION)).astype(np.float32)
            for i in range(outputs)
        }
        batches[model] = embedding_batch(ids, sequences, created, vectors, "1")
    for name, batch in batches.items():
        writer = sinks[name].staging.writer(as_of, {})
        for start in range(0, members, BATCH):
            writer.write(batch.slice(start, BATCH))
        writer.close()
        sinks[name].commit(as_of)


class Store:
    """A kind of store, empty at first, and how its floor is measured."""

    def __init__(self, folder: Path, settings: dict[str, Any], project: str = "push") -> None:
        self.config = RepoConfig(
            project=project,
            provider="local",
            registry="unused.db",
            online_store=settings,
            repo_path=folder,
            entity_key_serialization_version=3,
        )
        self.online = get_online_store_from_config(self.config.online_store)

    def table(self, view: FeatureView) -> str:
        """Return the name of a view's table, where there are tables."""
        return f"{self.config.project}_{view.name}"

    def empty(self, views: Sequence[FeatureView]) -> None:
        """Take all rows out."""
        self.online.teardown(self.config, views, [])
        self.online.update(self.config, [], views, [], [], partial=True)

    def ready(self, views: Sequence[FeatureView]) -> list[Any]:
        """Return what `write_ready` takes: for each view, the bytes that are stored."""
        raise NotImplementedError

    def write_ready(self, ready: list[Any]) -> None:
        """Write it in the barest way."""
        raise NotImplementedError


class Sqlite(Store):
    """A file on this machine's disk."""

    def path(self) -> Path:
        """Return the file."""
        return self.config.repo_path / "online.db"

    def ready(self, views: Sequence[FeatureView]) -> list[Any]:
        """See `Store.ready`."""
        with contextlib.closing(sqlite3.connect(self.path())) as connection:
            return [
                (
                    self.table(view),
                    connection.execute(
                        "SELECT entity_key, feature_name, value, value_text, event_ts, created_ts "
                        f'FROM "{self.table(view)}" ORDER BY entity_key, feature_name'
                    ).fetchall(),
                )
                for view in views
            ]

    def write_ready(self, ready: list[Any]) -> None:
        """See `Store.write_ready`."""
        with contextlib.closing(sqlite3.connect(self.path())) as connection:
            for table, rows in ready:
                with connection:
                    connection.executemany(
                        f'INSERT INTO "{table}" '
                        "(entity_key, feature_name, value, value_text, event_ts, created_ts) "
                        "VALUES (?, ?, ?, ?, ?, ?) "
                        "ON CONFLICT(entity_key, feature_name) DO UPDATE SET "
                        "value = excluded.value, value_text = excluded.value_text, "
                        "event_ts = excluded.event_ts, created_ts = excluded.created_ts",
                        rows,
                    )


class Redis(Store):
    """One server."""

    def ready(self, views: Sequence[FeatureView]) -> list[Any]:
        """See `Store.ready`."""
        from activity_embeddings.transformations.feast_compat.redis import row_fields

        client = self.online._get_client(self.config.online_store)
        keys, streams = sorted(client.keys(f"*{self.config.project}")), []
        for view in views:
            fields = row_fields(self.config, view)
            stream = []
            for key in keys:
                pairs = zip(fields, client.hmget(key, fields), strict=True)
                words = [b"HSET", key, *(word for pair in pairs for word in pair)]
                stream.append(b"*%d\r\n" % len(words))
                stream += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
            streams.append((len(keys), b"".join(stream)))
        return streams

    def write_ready(self, ready: list[Any]) -> None:
        """See `Store.write_ready`."""
        host, port = self.config.online_store.connection_string.split(":")
        with socket.create_connection((host, int(port))) as connection:
            for replies, stream in ready:
                connection.sendall(stream)
                while replies:
                    replies -= connection.recv(1 << 20).count(b"\n")


class Postgres(Store):
    """One server."""

    def ready(self, views: Sequence[FeatureView]) -> list[Any]:
        """See `Store.ready`."""
        with self.online._get_conn(self.config, autocommit=True) as connection:
            copies = []
            for view in views:
                query = f'SELECT * FROM "{self.table(view)}" ORDER BY entity_key, feature_name'
                with connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)") as rows:
                    copies.append((self.table(view), b"".join(rows)))
            return copies

    def write_ready(self, ready: list[Any]) -> None:
        """See `Store.write_ready`."""
        with self.online._get_conn(self.config, autocommit=True) as connection:
            for table, rows in ready:
                with connection.transaction(), connection.cursor() as cursor:
                    cursor.execute(f'CREATE TEMPORARY TABLE ready (LIKE "{table}") ON COMMIT DROP')
                    with cursor.copy("COPY ready FROM STDIN (FORMAT BINARY)") as copy:
                        copy.write(rows)
                    cursor.execute(
                        f'INSERT INTO "{table}" SELECT * FROM ready '
                        "ON CONFLICT (entity_key, feature_name) DO UPDATE SET "
                        "value = excluded.value, value_text = excluded.value_text, "
                        "event_ts = excluded.event_ts, created_ts = excluded.created_ts"
                    )


STORES = {"sqlite": Sqlite, "redis": Redis, "postgres": Postgres}


def _run(
    store: Store, views: Sequence[FeatureView], sinks: dict[str, FolderSink], workers: int
) -> dict[tuple[str, str], Times]:
    """Return what filling and overwriting takes in each way."""
    times: dict[tuple[str, str], Times] = {}
    ready = []
    by_workers = partial(_ours, new_workers=partial(ProcessWorkers, count=workers))
    ways = {"ours": _ours, **({"workers": by_workers} if workers else {}), "stock": _stock}
    for way, write in ways.items():
        store.empty(views)
        for kind, as_of in zip(("fill", "overwrite"), DAYS, strict=True):
            times[way, kind] = _timed(lambda: write(store, views, sinks, as_of))  # noqa: B023
            if way == "ours":
                ready.append(store.ready(views))
        found = store.ready(views)
        if found != ready[1]:
            sys.exit(f"what ours and {way} have written differs")
    store.empty(views)
    for kind, each in zip(("fill", "overwrite"), ready, strict=True):
        times["floor", kind] = _timed(lambda: store.write_ready(each))  # noqa: B023
    return times


def _timed(work: Callable[[], None]) -> Times:
    started, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - used


def _ours(
    store: Store,
    views: Sequence[FeatureView],
    sinks: dict[str, FolderSink],
    as_of: int,
    new_workers: NewWorkers | None = None,
) -> None:
    rows = row_store(store.config, store.online)
    rows.prepare(views)

    def all_rows(sink: FolderSink, *_: Any) -> Iterator[tuple[int, pa.BooleanArray]]:
        members = len(sink.read(as_of, ["member_id"]))
        yield as_of, pa.array(np.ones(members, dtype=bool))

    with PartWriter(rows, new_workers) as write:
        for view in views:
            keep = KeepLiveEvents(view) if view.name == "sequence" else None
            push_snapshots(
                rows,
                view,
                sinks[view.name],
                changed=[as_of],
                keep=keep,
                newest=all_rows,
                write=write,
            )


def _stock(
    store: Store, views: Sequence[FeatureView], sinks: dict[str, FolderSink], as_of: int
) -> None:
    for view in views:
        for batch in sinks[view.name].batches(as_of, BATCH):
            table = pa.Table.from_batches([batch])
            rows = _convert_arrow_to_proto(table, view, {"member_id": ValueType.INT64})
            store.online.online_write_batch(store.config, view, rows, None)


def _print(name: str, members: int, runs: list[dict[tuple[str, str], Times]]) -> None:
    times = {
        key: tuple(statistics.median(run[key][i] for run in runs) for i in (0, 1))
        for key in runs[0]
    }
    print(f"\n{name}: {members:,} members, {6 + sum(MODELS.values())} values each")
    print(f"{'':<12}{'fill s (CPU)':>20}{'overwrite s (CPU)':>20}")
    for way in WAYS:
        if (way, "fill") not in times:
            continue
        cells = ("{:.2f} ({:.2f})".format(*times[way, kind]) for kind in ("fill", "overwrite"))
        print(f"{way:<12}" + "".join(f"{cell:>20}" for cell in cells))
    other, target = TARGETS[name]
    for kind in ("fill", "overwrite"):
        fast = times["stock", kind][0] / times["ours", kind][0]
        slow, by_cpu = (times["ours", kind][i] / times["floor", kind][i] for i in (0, 1))
        reached = slow <= target if other == "floor" else fast >= target
        print(
            f"  {kind}: {fast:.1f} times as fast as stock, {slow:.2f} times as long as the floor"
            + (f" ({by_cpu:.2f} by CPU)" if name == "sqlite" else "")
            + f"   target {target} {other}: {'reached' if reached else 'NOT reached'}"
        )
    sys.stdout.flush()


def _print_waits(store: Store, views: Sequence[FeatureView], sinks: dict[str, FolderSink]) -> None:
    """Print what a reader in a process of its own waits while rows are overwritten."""
    assert isinstance(store, Sqlite)
    command = [sys.executable, __file__, "--read", str(store.path())]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert reader.stdout
    reader.stdout.readline()  # it has begun
    for as_of in DAYS:
        _ours(store, views, sinks, as_of)
    print("  " + reader.communicate("stop\n")[0].strip(), flush=True)


def _read(path: str) -> None:
    """Read a member at a time, as Feast does, until the input ends; print how long reads took."""
    import select

    waits: list[float] = []
    random = np.random.default_rng(0)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        keys = [key for (key,) in connection.execute("SELECT DISTINCT entity_key FROM push_cnn")]
        print("reading", flush=True)
        while not select.select([sys.stdin], [], [], 0.002)[0]:
            key = keys[random.integers(len(keys))]
            for table in ("push_sequence", "push_cnn"):
                started = time.perf_counter()
                query = f"SELECT * FROM {table} WHERE entity_key IN (?) ORDER BY entity_key"
                connection.execute(query, [key]).fetchall()
                waits.append(1000 * (time.perf_counter() - started))
    print(
        f"a reader meanwhile: {len(waits):,} reads, "
        f"p99 {np.quantile(waits, 0.99):.1f} ms, the longest {max(waits):.0f} ms"
    )


if __name__ == "__main__":
    main()
