"""What it takes to read more events than fit into memory, by source and by way of reading.

    python benchmarks/event_parts.py
    python benchmarks/event_parts.py --members 100000 --budget 64

Events of a window are read part by part and put in order, each way in a process of its own:

- `spilled`: in one pass, written to files by ranges of members, and read back;
- `filtered`: by one scan for each of such ranges, which passes over the row groups that their
  statistics rule out. Rows are by time, as in a log, or the same rows by member;
- `in order`: by row groups in the order of their members, divided while they come, as a run reads
  files by member;
- `sorted`: as PostgreSQL gives them in the order of members, divided while they come.

Printed are seconds, CPU seconds of the process and of the server, peak memory, the most bytes on
the local disk, and the number of parts. Imports are left out. PostgreSQL is one that is started
here, by the tests' own means; it runs on the same cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from math import ceil
from pathlib import Path

import adbc_driver_postgresql.dbapi
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import synthetic
from feast import Entity, FileSource, RepoConfig
from feast.value_type import ValueType
from processes import PYTHON, run

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from activity_embeddings import ActivitySpec, activity_view
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.offline.parquet_files import ParquetFiles
from activity_embeddings.transformations.offline.postgres_tables import PostgresTable
from activity_embeddings.transformations.offline.sources import event_parts
from activity_embeddings.transformations.offline.spill import memory_of
from activity_embeddings.transformations.times import to_us
from support.postgres_server import PASSWORD, USER, Database, postgres_server

WAYS = {
    "files by time, spilled": ("by_time.parquet", "spilled"),
    "files by time, filtered": ("by_time.parquet", "filtered"),
    "files by member, spilled": ("by_member.parquet", "spilled"),
    "files by member, filtered": ("by_member.parquet", "filtered"),
    "files by member, in order": ("by_member.parquet", "in order"),
    "PostgreSQL, spilled": ("events", "spilled"),
    "PostgreSQL, sorted": ("events", "sorted"),
}
ROWS_A_GROUP = 1 << 17
SPEC = ActivitySpec(window=synthetic.WINDOW, length=synthetic.LENGTH, actions=synthetic.ACTIONS)
END = to_us(synthetic.CUTOFF)
START = END - SPEC.window_us


def main() -> None:
    """Read in each way, and print a line."""
    options = _options()
    if options.way:
        _read_in_a_process(options)
        return
    with tempfile.TemporaryDirectory(prefix="activity-embeddings-") as folder:
        options.folder = Path(folder)
        with postgres_server(shared_buffers="1GB") as database:
            options.port = database.port
            _in_a_process("prepare", options)
            facts = json.loads((options.folder / "prepare.json").read_text())
            print(f"{facts['rows']:,} events of {options.members:,} members, of which a part may "
                  f"take {options.budget} MiB")  # fmt: skip
            print(f"{'':26} {'s':>6} {'CPU s':>6} {'server':>6} {'MiB':>6} {'disk MiB':>9} "
                  f"{'parts':>6}")  # fmt: skip
            server = _server(database)
            for way in WAYS:
                before = _cpu_of_connections(server)
                _in_a_process(way, options)
                served = _cpu_of_connections(server) - before
                took = json.loads((options.folder / f"{way}.json").read_text())
                print(f"{way:26} {took['seconds']:6.1f} {took['cpu']:6.1f} {served:6.1f} "
                      f"{took['peak']:6.0f} {took['disk']:9.0f} {took['parts']:6}",
                      flush=True)  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--members", type=int, default=1_000_000)
    add("--events-per-member", type=float, default=12, help="mean number in the window")
    add("--budget", type=int, default=512, help="MiB that the events of a part may take")
    # What the command says to processes of its own.
    add("--way", choices=["prepare", *WAYS], help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    add("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(way: str, options: argparse.Namespace) -> None:
    said = {**vars(options), "way": way}
    arguments = [(f"--{name.replace('_', '-')}", value) for name, value in said.items()]
    run([PYTHON, __file__, *(part for pair in arguments for part in pair)], options.folder)


def _read_in_a_process(options: argparse.Namespace) -> None:
    """Do what `--way` says, and leave a file of what it took."""
    database = Database("127.0.0.1", options.port)
    if options.way == "prepare":
        took = _prepare(options, database)
    else:
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        with _Disk(options.folder / "aside") as disk:
            parts = rows = 0
            for events in _parts(*WAYS[options.way], options, database):
                parts, rows = parts + 1, rows + len(events)
                del events
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        took = {
            "seconds": time.perf_counter() - started,
            "cpu": cpu,
            "peak": after.ru_maxrss / 2**10,
            "disk": disk.most / 2**20,
            "parts": parts,
        }
        assert rows == json.loads((options.folder / "prepare.json").read_text())["distinct"]
    (options.folder / f"{options.way}.json").write_text(json.dumps(took))


def _server(database: Database) -> int:
    """Return the process of a server of this machine."""
    with database.connect() as connection:
        (folder,) = connection.execute("SHOW data_directory").fetchone()
    return int((Path(folder) / "postmaster.pid").read_text().split()[0])


def _cpu_of_connections(server: int) -> float:
    """Return the CPU seconds of all connections of a server that have ended."""
    time.sleep(1)  # the last one ends
    user, system = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[13:15]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _prepare(options: argparse.Namespace, database: Database) -> dict[str, object]:
    """Write the events in both orders, and to PostgreSQL."""
    events, _ = synthetic.make_activity(
        members=options.members,
        events_per_member=options.events_per_member,
        items=50_000,
        dimension=1,
    )
    pq.write_table(events, options.folder / "by_time.parquet", row_group_size=ROWS_A_GROUP)
    by_member = events.sort_by("member_id")
    pq.write_table(by_member, options.folder / "by_member.parquet", row_group_size=ROWS_A_GROUP)
    with (
        adbc_driver_postgresql.dbapi.connect(
            f"postgresql://{USER}:{PASSWORD}@{database.host}:{database.port}/{database.database}"
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.adbc_ingest("events", events, mode="create")
        connection.commit()
    count = ceil(memory_of(len(events), events.nbytes) / (options.budget * 2**20))
    places = np.linspace(0, len(events), count, endpoint=False, dtype=np.int64)[1:]
    return {
        "rows": len(events),
        "distinct": len(ActivityEvents.from_arrow(events, SPEC)),
        "bounds": by_member["member_id"].take(places).to_pylist(),
    }


def _parts(
    name: str, way: str, options: argparse.Namespace, database: Database
) -> Iterator[ActivityEvents]:
    """Yield the events of each part."""
    if way == "filtered":
        bounds = json.loads((options.folder / "prepare.json").read_text())["bounds"]
        rows = ds.dataset(options.folder / name)
        member, moment = ds.field("member_id"), ds.field("event_timestamp")
        start, until = pa.array([START, END]).cast(pa.timestamp("us", "UTC"))
        for first, end in zip([-1, *bounds], [*bounds, 2**62], strict=True):
            members = (member >= first) & (member < end)
            part = rows.to_table(filter=members & (moment >= start) & (moment < until))
            yield ActivityEvents.from_arrow(part, SPEC)
        return
    store: dict[str, object] = {"type": "duckdb"}
    source = FileSource(name=name, path=name, timestamp_field="event_timestamp")
    if not name.endswith(".parquet"):
        from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
            PostgreSQLSource,
        )

        store = {"type": "postgres", **database.settings}
        source = PostgreSQLSource(name=name, table=name, timestamp_field="event_timestamp")
    if way == "spilled":
        for kind in (ParquetFiles, PostgresTable):
            kind.in_order = lambda self, asked, member, at_once: None
    member, item = (
        Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)
        for name in ("member", "job")
    )
    config = RepoConfig(
        project="benchmark",
        registry="none.db",
        provider="local",
        entity_key_serialization_version=3,
        repo_path=options.folder,
        offline_store=store,
    )
    (options.folder / "aside").mkdir(exist_ok=True)
    parts = event_parts(
        config,
        None,
        [activity_view(source, member=member, item=item, spec=SPEC)],
        SPEC,
        start=START,
        end=END,
        budget=options.budget * 2**20,
        folder=options.folder / "aside",
    )
    for _, events in parts:
        yield events


class _Disk:
    """The most bytes that a folder has while the body runs."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ended, self.most = folder, threading.Event(), 0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> _Disk:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            size = 0
            for folder, _, files in os.walk(self._folder):
                for file in files:
                    try:
                        size += os.stat(os.path.join(folder, file)).st_size
                    except FileNotFoundError:
                        continue
            self.most = max(self.most, size)


if __name__ == "__main__":
    main()
