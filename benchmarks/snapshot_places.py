"""What a commit of snapshots costs in each place, and as the tables grow.

    python benchmarks/snapshot_places.py --days 365

Three views of one as-of time, 30,000 rows each: sequences and two embeddings of 64 dimensions.
Seconds to commit what is written aside in

- a folder;
- an Iceberg table (sqlite catalog, local warehouse), and once more the same rows, which changes
  nothing; beside it a bare append by pyiceberg of the same rows to an unpartitioned table, which is
  neither idempotent nor replaces anything;
- PostgreSQL, all views in one transaction, and once more the same rows; beside it a bare COPY of
  the same rows (binary, by ADBC) to tables without keys or indexes. Every commit is synced to disk.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import adbc_driver_postgresql.dbapi
import click
import numpy as np
import pyarrow as pa
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource
from psycopg.conninfo import make_conninfo

from activity_embeddings.transformations.arrow import TIMESTAMP
from activity_embeddings.transformations.offline.sinks.base import table_name
from activity_embeddings.transformations.offline.sinks.folder import FolderSink
from activity_embeddings.transformations.offline.sinks.iceberg import IcebergSink
from activity_embeddings.transformations.offline.sinks.postgres import PostgresSink

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.postgres_server import postgres_server

DAY = 86_400_000_000
VIEWS = ("sequence", "embedding_a", "embedding_b")
DURABLE = dict.fromkeys(("fsync", "full_page_writes", "synchronous_commit"), "on")


def rows_of(view: str, count: int, as_of: int, random: np.random.Generator) -> pa.RecordBatch:
    """Return a snapshot of one view."""
    moments = pa.array(np.full(count, as_of)).cast(TIMESTAMP)
    columns = {"member_id": pa.array(np.arange(count))}
    if view == "sequence":
        lengths = random.integers(1, 33, count)
        offsets = pa.array(np.concatenate([[0], lengths.cumsum()]), pa.int32())
        total = int(lengths.sum())
        ids = pa.array(random.integers(0, 100_000, total))
        times = pa.array(as_of - random.integers(0, 28 * DAY, total)).cast(TIMESTAMP)
        actions = pa.array(np.array(["APPLY", "SAVE"])[random.integers(0, 2, total)])
        for name, values in (("ids", ids), ("actions", actions), ("times", times)):
            columns[name] = pa.ListArray.from_arrays(offsets, values)
    else:
        values = pa.array(random.normal(size=count * 64).astype(np.float32))
        offsets = pa.array(np.arange(count + 1) * 64, pa.int32())
        columns["embedding"] = pa.ListArray.from_arrays(offsets, values)
    return pa.RecordBatch.from_pydict(
        {**columns, "event_timestamp": moments, "created_timestamp": moments}
    )


@click.command()
@click.option("--days", default=365, help="Snapshots.")
@click.option("--rows", default=30_000, help="Rows a view.")
@click.option("--small", default=300, help="Rows a view of the days that are not reported.")
def main(days: int, rows: int, small: int) -> None:
    """Time commits."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, postgres_server(**DURABLE) as database:
        repo, info = Path(folder), make_conninfo(**database.connection)
        sinks = {
            "folder": {view: FolderSink(repo / "snapshots" / view / "v1") for view in VIEWS},
            "Iceberg": {view: IcebergSink.of(_source(view), repo) for view in VIEWS},
            "PostgreSQL": {
                view: PostgresSink(info, "snapshots", table_name(view, "1"), repo / f"aside {view}")
                for view in VIEWS
            },
        }
        columns = ["folder", "Iceberg", "again", "append", "PostgreSQL", "again", "COPY"]
        print(f"{'day':>5}" + "".join(f"{column:>12}" for column in columns))
        for day in range(days):
            reported = day in (0, 1, 2, 30, 90, 180, days - 1)
            count, as_of = rows if reported else small, 20_000 * DAY + day * DAY
            batches = {view: rows_of(view, count, as_of, random) for view in VIEWS}
            seconds = [_commit(sinks["folder"], batches, as_of)]
            for place, bare in (("Iceberg", _append), ("PostgreSQL", _copy)):
                seconds += [_commit(sinks[place], batches, as_of) for _ in range(2)]
                started = time.perf_counter()
                bare(repo, info, batches)
                seconds.append(time.perf_counter() - started)
            if reported:
                print(f"{day + 1:5}" + "".join(f"{each:12.3f}" for each in seconds), flush=True)


def _commit(sinks: dict, batches: dict, as_of: int) -> float:
    for view, batch in batches.items():
        writer = sinks[view].staging.writer(as_of, {"model": view})
        writer.write(batch)
        writer.close()
    started = time.perf_counter()
    with ExitStack() as stack:
        for sink in sinks.values():
            stack.enter_context(sink.together())
        for sink in sinks.values():
            sink.commit(as_of)
    return time.perf_counter() - started


def _append(repo: Path, info: str, batches: dict) -> None:
    for view, batch in batches.items():
        catalog = _source(view, repo).get_catalog_client()
        catalog.create_namespace_if_not_exists("bare")
        table = catalog.create_table_if_not_exists(f"bare.{view}", batch.schema)
        table.append(pa.Table.from_batches([batch]))


def _copy(repo: Path, info: str, batches: dict) -> None:
    with adbc_driver_postgresql.dbapi.connect(info) as connection, connection.cursor() as cursor:
        for view, batch in batches.items():
            cursor.adbc_ingest(f"bare_{view}", batch, mode="create_append")
        connection.commit()


def _source(view: str, bare: Path | None = None) -> IcebergSource:
    warehouse = "data/lake" if bare is None else str(bare / "bare")
    uri = "sqlite:///data/lake.db" if bare is None else f"sqlite:///{bare}/bare.db"
    return IcebergSource(
        warehouse=warehouse,
        namespace="snapshots",
        table=table_name(view, "1"),
        catalog_type="sql",
        catalog_properties={"uri": uri},
        timestamp_field="event_timestamp",
    )


if __name__ == "__main__":
    main()
