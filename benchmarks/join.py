"""A training join: labels against the daily snapshots of one embedding view.

    python benchmarks/join.py --labels 200000
    python benchmarks/join.py --labels 1000000

28 snapshots of 100,000 members with vectors of 64 dimensions lie in a folder, as a folder sink
keeps them. Each way to join runs in a process of its own, in turn, and the order of the ways
changes from round to round:

- `ours`: `OrderedDuckDBOfflineStore`, through `FeatureStore.get_historical_features`;
- `stock`: Feast's `duckdb`, the same call;
- `bare`: SQL by hand, without Feast: of each label and key the newest time, then its vector.
  (DuckDB's `ASOF JOIN` would be shorter; that of 1.5.6 does not end on this many labels.)

Printed are the medians of the seconds until the rows are an Arrow table, and of the memory that was
added to what the process held before, each also as a ratio to the bare join.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FIRST = datetime(2024, 3, 1, tzinfo=UTC)
DAY = 86_400_000_000
MIB = 1024**2


@click.command()
@click.option("--labels", default=200_000, show_default=True)
@click.option("--members", default=100_000, show_default=True, help="Of each snapshot.")
@click.option("--snapshots", default=28, show_default=True, help="One a day.")
@click.option("--dimension", default=64, show_default=True, help="Of the vectors.")
@click.option("--repeat", default=3, show_default=True, help="Rounds.")
def main(labels: int, members: int, snapshots: int, dimension: int, repeat: int) -> None:
    """Time training joins."""
    ways = {"ours": _ours, "stock": _stock, "bare": _bare}
    found: dict[str, list[tuple[float, float, int, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        repo = Path(folder)
        write_snapshots(repo, members, snapshots, dimension)
        asked = labels_of(labels, members, snapshots)
        pq.write_table(asked, repo / "labels.parquet")
        spawn = multiprocessing.get_context("spawn")
        for number in range(repeat):
            order = list(ways)
            for way in order[number % 3 :] + order[: number % 3]:
                answer = spawn.Queue()
                process = spawn.Process(target=ways[way], args=(repo, answer))
                process.start()
                found[way].append(answer.get(timeout=600))
                process.join()
    sums = {way: runs[0][2:] for way, runs in found.items()}
    assert len({filled for filled, _ in sums.values()}) == 1, sums
    assert np.allclose([total for _, total in sums.values()], sums["bare"][1]), sums
    print(f"{labels:,} labels, {snapshots} snapshots of {members:,} x {dimension}; "
          f"{sums['bare'][0]:,} labels have a value; medians of {repeat}")  # fmt: skip
    middle = {w: [statistics.median(run[i] for run in r) for i in (0, 1)] for w, r in found.items()}
    print(f"{'':6} {'s':>7} {'x bare':>7} {'MiB added':>10} {'x bare':>7}")
    for way, (seconds, added) in middle.items():
        print(f"{way:6} {seconds:7.2f} {seconds / middle['bare'][0]:7.2f} {added / MIB:10,.0f} "
              f"{added / middle['bare'][1]:7.2f}")  # fmt: skip


def write_snapshots(repo: Path, members: int, snapshots: int, dimension: int) -> None:
    """Write one parquet file a day, as a folder sink does."""
    random = np.random.default_rng(0)
    offsets = pa.array(np.arange(members + 1) * dimension, pa.int32())
    for day in range(snapshots):
        values = random.standard_normal(members * dimension, dtype=np.float32)
        moment = pa.array(np.full(members, _us(FIRST) + day * DAY)).cast(pa.timestamp("us", "UTC"))
        table = pa.table(
            {
                "member_id": np.arange(members),
                "embedding": pa.ListArray.from_arrays(offsets, pa.array(values)),
                "event_timestamp": moment,
                "created_timestamp": moment,
            }
        )
        file = repo / "snapshots" / f"as_of={FIRST + timedelta(days=day):%Y%m%dT%H%M%SZ}"
        file.mkdir(parents=True)
        plain = [name for name in table.column_names if name != "embedding"]
        pq.write_table(
            table,
            file / "snapshot.parquet",
            compression="lz4",
            use_dictionary=plain,
            write_statistics=plain,
            row_group_size=32_768,
        )


def labels_of(count: int, members: int, snapshots: int) -> pa.Table:
    """Return labels at random times; some are before the first value, some of strangers."""
    random = np.random.default_rng(1)
    times = _us(FIRST) - DAY + random.integers(0, (snapshots + 1) * DAY, count)
    return pa.table(
        {
            "member_id": random.integers(0, members * 21 // 20, count),
            "event_timestamp": pa.array(times).cast(pa.timestamp("us", "UTC")),
        }
    )


def _ours(repo: Path, answer: Any) -> None:
    _by_feast(repo, "activity_embeddings.OrderedDuckDBOfflineStore", answer)


def _stock(repo: Path, answer: Any) -> None:
    _by_feast(repo, "duckdb", answer)


def _by_feast(repo: Path, store: str, answer: Any) -> None:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.data_format import ParquetFormat
    from feast.types import Array, Float32, Int64
    from feast.value_type import ValueType

    feature_store = FeatureStore(
        config=RepoConfig(
            project="join",
            provider="local",
            registry=str(repo / f"{store}.db"),
            offline_store={"type": store},
            online_store=None,
            entity_key_serialization_version=3,
            repo_path=repo,
        )
    )
    member = Entity(name="member", join_keys=["member_id"], value_type=ValueType.INT64)
    source = FileSource(
        name="snapshots",
        path=f"{repo}/snapshots/*/*.parquet",
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    schema = [
        Field(name="member_id", dtype=Int64),
        Field(name="embedding", dtype=Array(Float32)),
    ]
    view = FeatureView(
        name="activity",
        entities=[member],
        source=source,
        schema=schema,
        ttl=timedelta(days=28),
        online=False,
    )
    feature_store.apply([member, view])
    labels = pq.read_table(repo / "labels.parquet").to_pandas()

    def join() -> pa.Table:
        return feature_store.get_historical_features(labels, ["activity:embedding"]).to_arrow()

    _measure(join, answer)


def _bare(repo: Path, answer: Any) -> None:
    import duckdb

    labels = pq.read_table(repo / "labels.parquet")
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("labels", labels)

    def join() -> pa.Table:
        query = (
            f"WITH s AS (FROM read_parquet('{repo}/snapshots/*/*.parquet', "
            "hive_partitioning=false)), newest AS (SELECT l.member_id, l.event_timestamp, "
            "max(s.event_timestamp) AS at FROM labels l JOIN s ON l.member_id = s.member_id "
            "AND l.event_timestamp >= s.event_timestamp GROUP BY ALL) "
            "SELECT l.*, s.embedding FROM labels l LEFT JOIN (newest JOIN s ON "
            "newest.member_id = s.member_id AND newest.at = s.event_timestamp) "
            "ON l.member_id = newest.member_id AND l.event_timestamp = newest.event_timestamp"
        )
        return connection.sql(query).to_arrow_table()

    _measure(join, answer)


def _measure(join: Any, answer: Any) -> None:
    """Answer with seconds, bytes that were added, labels that have a value, and their sum."""
    before = _peak()
    started = time.perf_counter()
    joined = join()
    seconds = time.perf_counter() - started
    added = _peak() - before
    vectors = joined.column("embedding").combine_chunks()
    values = vectors.drop_null().flatten().to_numpy(zero_copy_only=False)
    filled = len(vectors) - vectors.null_count
    answer.put((seconds, added, filled, float(values.sum(dtype=np.float64))))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _us(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


if __name__ == "__main__":
    main()
