"""Places of snapshots for tests, and rows for them; processes of their own can be given a place."""

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from feast import RepoConfig
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource

from activity_embeddings.transformations.arrow import TIMESTAMP
from activity_embeddings.transformations.offline.sinks.base import SnapshotSink, table_name
from activity_embeddings.transformations.offline.sinks.folder import FolderSink
from activity_embeddings.transformations.times import to_us

DAY = 86_400_000_000
T = to_us(datetime(2024, 3, 1, tzinfo=UTC))
FACTS = {"model": "m", "version": "1", "spec": {"length": 32, "actions": ["APPLY", "SAVE"]}}
MEMBERS = pa.array([-5, 1, 2, 3, 2**40], pa.int64())


@dataclass(frozen=True)
class FolderPlace:
    """A folder of this machine."""

    folder: Path

    def sink(self, view: str, version: str) -> SnapshotSink:
        """Return the sink of a view; called again, the same one."""
        return FolderSink(self.folder / view / f"v{version}")

    def seen(self, sink: SnapshotSink) -> pa.Table:
        """Return the rows that Feast's offline store reads of a sink."""
        import duckdb

        return duckdb.read_parquet(f"{sink.path}/*/*.parquet").to_arrow_table()


@dataclass(frozen=True)
class IcebergPlace:
    """Iceberg tables; `repo` is the folder of the feature repo, where locks and staging lie."""

    repo: Path
    warehouse: str
    uri: str
    properties: dict[str, str] = field(default_factory=dict)

    def source(self, view: str, version: str) -> IcebergSource:
        """Return the source of a view."""
        return IcebergSource(
            name=f"{view}_snapshots",
            warehouse=self.warehouse,
            namespace="snapshots",
            table=table_name(view, version),
            catalog_type="sql",
            catalog_name="activity-embeddings",
            catalog_properties={"uri": self.uri, **self.properties},
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        )

    def sink(self, view: str, version: str) -> SnapshotSink:
        """See `FolderPlace.sink`."""
        from activity_embeddings.transformations.offline.sinks.iceberg import IcebergSink

        return IcebergSink.of(self.source(view, version), self.repo)

    def seen(self, sink: SnapshotSink) -> pa.Table:
        """See `FolderPlace.seen`; by our DuckDB store."""
        from activity_embeddings import OrderedDuckDBOfflineStore

        config = RepoConfig(
            project="contract",
            provider="local",
            registry=str(self.repo / "registry.db"),
            online_store=None,
            offline_store={"type": "activity_embeddings.OrderedDuckDBOfflineStore"},
            repo_path=self.repo,
            entity_key_serialization_version=3,
        )
        return OrderedDuckDBOfflineStore.pull_all_from_table_or_query(
            config, sink.source, ["member_id"], ["embedding"], "event_timestamp"
        ).to_arrow()


@dataclass(frozen=True)
class PostgresPlace:
    """Tables of a PostgreSQL database."""

    folder: Path
    info: str

    def sink(self, view: str, version: str) -> SnapshotSink:
        """See `FolderPlace.sink`."""
        from activity_embeddings.transformations.offline.sinks.postgres import PostgresSink

        table = table_name(view, version)
        return PostgresSink(self.info, "activity embeddings", table, self.folder / table)

    def seen(self, sink: SnapshotSink) -> pa.Table:
        """See `FolderPlace.seen`; by a query of all columns."""
        from psycopg.sql import SQL, Identifier

        from activity_embeddings.transformations.offline.postgres import stream

        query = SQL("SELECT * FROM {}").format(Identifier(sink.schema, sink.table))
        return pa.Table.from_batches(stream(self.info, query))


Place = FolderPlace | IcebergPlace | PostgresPlace


def rows(members, as_of=T, seed=0):
    """Rows of an embedding view, with every type that snapshots have."""
    n, random = len(members), np.random.default_rng(seed)
    vectors = random.normal(size=(n, 4)).astype(np.float32)
    moments = pa.array([as_of] * n, pa.int64()).cast(TIMESTAMP)
    lists = [list(range(i % 4)) for i in range(n)]
    return pa.RecordBatch.from_pydict(
        {
            "member_id": members,
            "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32())),
            "item_ids": pa.array(lists, pa.list_(pa.int64())),
            "actions": pa.array([["SAVE"] * len(of) for of in lists], pa.list_(pa.string())),
            "times": pa.array([[T - i for i in of] for of in lists], pa.list_(pa.int64())).cast(
                pa.list_(TIMESTAMP)
            ),
            "activity_count": pa.array([len(of) for of in lists], pa.int64()),
            "event_timestamp": moments,
            "created_timestamp": moments,
        }
    )


def stage(sink, as_of, *batches, facts=FACTS):
    writer = sink.staging.writer(as_of, facts)
    for batch in batches:
        writer.write(batch)
    writer.close()


def publish(sink, as_of, *batches, facts=FACTS):
    stage(sink, as_of, *batches, facts=facts)
    return sink.commit(as_of)


def commit_for_ever(place: Place, view: str, ready, environment: dict[str, str]) -> None:
    """Replace one snapshot by another and back until killed; run in a process of its own.

    Its environment is that of the process that all others are forked from, and may lack
    credentials.
    """
    os.environ.update(environment)
    sink = place.sink(view, "1")
    sink.committed()
    ready.set()
    seed = 0
    while True:
        publish(sink, T, rows(MEMBERS.slice(seed), T, seed))
        seed = 1 - seed


def publish_when_told(place: Place, view: str, looked, go, answers) -> None:
    """Lock and look, wait, then commit a snapshot; send what that raised, or that it changed."""
    sink = place.sink(view, "1")
    with sink.locked():
        stage(sink, T, rows(MEMBERS, T, 7))
        looked.set()
        assert go.wait(60)
        try:
            answers.put(sink.commit(T))
        except ValueError as error:
            answers.put(f"{type(error).__name__}: {error}")
