"""What a commit of snapshots costs in each place, and as a table of Iceberg grows.

    python benchmarks/snapshot_places.py --days 365

Three views of one as-of time, 30,000 rows each: sequences and two embeddings of 64 dimensions.
Columns: a folder, an Iceberg table (sqlite catalog, local warehouse), and a bare pyiceberg append
of the same rows to an unpartitioned table, which is neither idempotent nor replaces anything.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource

from activity_embeddings.transformations.arrow import TIMESTAMP
from activity_embeddings.transformations.offline.iceberg import table_name
from activity_embeddings.transformations.offline.sinks.folder import FolderSink
from activity_embeddings.transformations.offline.sinks.iceberg import IcebergSink

DAY = 86_400_000_000
VIEWS = ("sequence", "embedding_a", "embedding_b")


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
    with tempfile.TemporaryDirectory() as folder:
        repo = Path(folder)
        sinks = {
            "folder": {view: FolderSink(repo / "snapshots" / view / "v1") for view in VIEWS},
            "iceberg": {view: IcebergSink.of(_source(view), repo) for view in VIEWS},
        }
        bare = {}
        print(f"{'day':>5} {'folder':>8} {'iceberg':>8} {'same again':>10} {'bare':>8}"
              f" {'metadata KiB':>13} {'read':>7} {'all rows':>9}")  # fmt: skip
        for day in range(days):
            reported = day in (0, 1, 2, 30, 90, 180, days - 1)
            count, as_of = rows if reported else small, 20_000 * DAY + day * DAY
            batches = {view: rows_of(view, count, as_of, random) for view in VIEWS}
            seconds = {kind: _commit(of, batches, as_of) for kind, of in sinks.items()}
            again = _commit(sinks["iceberg"], batches, as_of)
            started = time.perf_counter()
            for view, batch in batches.items():
                table = pa.Table.from_batches([batch])
                if view not in bare:
                    catalog = _source(view, repo).get_catalog_client()
                    catalog.create_namespace_if_not_exists("bare")
                    bare[view] = catalog.create_table(f"bare.{view}", table.schema)
                bare[view].append(table)
            seconds["bare"] = time.perf_counter() - started
            if not reported:
                continue
            sink = sinks["iceberg"]["embedding_a"]
            started = time.perf_counter()
            sink.read(as_of)
            read = time.perf_counter() - started
            table = sink.source.get_catalog_client().load_table(
                f"snapshots.{sink.source.iceberg_table}"
            )
            started = time.perf_counter()
            table.scan().to_arrow()
            whole = time.perf_counter() - started
            size = (repo / table.metadata_location).stat().st_size / 1024
            print(f"{day + 1:5} {seconds['folder']:8.3f} {seconds['iceberg']:8.3f} {again:10.3f}"
                  f" {seconds['bare']:8.3f} {size:13.0f} {read:7.3f} {whole:9.2f}")  # fmt: skip


def _commit(sinks: dict, batches: dict, as_of: int) -> float:
    for view, batch in batches.items():
        writer = sinks[view].staging.writer(as_of, {"model": view})
        writer.write(batch)
        writer.close()
    started = time.perf_counter()
    for sink in sinks.values():
        sink.commit(as_of)
    return time.perf_counter() - started


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
