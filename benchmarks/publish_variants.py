"""The ways to publish that `publish.py` compares; each runs in a process of its own.

- `ours`: the definitions of feature_repo/, applied, then `FeatureStore.materialize`.
- `stock`: what a Feast user would write without this package: pandas, `model.predict`, a parquet
  file and a plain feature view for each model, Feast's own engine.
- `floor`: the bare work that cannot be avoided, on data that lies ready: a sort, the models'
  functions, raw upserts of the bytes that `ours` put online, raw writes of its parquet files.

- `sequences`: only the making of sequences, of tables that lie in memory; the median of some runs.

Every variant returns seconds by stage under the same names, so that rows compare.
"""

from __future__ import annotations

import contextlib
import resource
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from synthetic import ACTIONS, CUTOFF, LENGTH, VECTORS, WINDOW

MODELS = ("unweighted_average", "geometric_decay", "cnn")
VIEWS = tuple(f"job_activity_embedding_{name}" for name in MODELS)
BATCH = 1024
SEQUENCE_RUNS = 5


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


def peak_megabytes() -> float:
    """Return the largest resident memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def first_duckdb_query() -> float:
    """Return the seconds of a first, tiny DuckDB query: nearly all of it is imports.

    Feast's DuckDB store makes it in this package's first read and in the stock path's push; both
    count it with the imports.
    """
    started = time.perf_counter()
    import ibis

    table = ibis.memtable({"x": [1, 2]})
    table.filter(table.x > 1).to_pyarrow()
    return time.perf_counter() - started


def run_ours(folder: Path, snapshots: int) -> dict[str, Any]:
    """Publish with this package.

    Parameters
    ----------
    folder : has `ours/`, an applied copy of feature_repo.
    snapshots : int. Daily cut-offs, the last at `CUTOFF`.
    """
    from feast import FeatureStore

    from activity_embeddings.transformations.batch import steps
    from activity_embeddings.transformations.batch.report import MaterializeReport

    reports: list[MaterializeReport] = []
    pushes: dict[str, dict[str, float]] = {}

    def kept_report(**settings: Any) -> MaterializeReport:
        """Make the run's report and keep it, to be read unrounded."""
        reports.append(MaterializeReport(**settings))
        return reports[-1]

    push_snapshots = steps.push_snapshots

    def timed_push(rows: Any, view: Any, *others: Any, **named: Any) -> Any:
        started = time.perf_counter()
        count = push_snapshots(rows, view, *others, **named)
        pushes[view.name] = {"values": count.values, "seconds": time.perf_counter() - started}
        return count

    store = FeatureStore(repo_path=str(folder / "ours"))
    memory_before = peak_megabytes()
    imports = first_duckdb_query()
    started = time.perf_counter()
    with (
        mock.patch.object(steps, "MaterializeReport", kept_report),
        mock.patch.object(steps, "push_snapshots", timed_push),
    ):
        store.materialize(
            CUTOFF - timedelta(days=snapshots),
            CUTOFF,
            feature_views=["job_activity_sequence", *VIEWS],
        )
    wall = time.perf_counter() - started
    (report,) = reports
    seconds = dict(report.seconds)
    seconds["other"] = wall - sum(seconds.values())
    seconds["load models"] += imports
    return {
        "seconds": seconds,
        "events": report.events,
        "members": report.members,
        "snapshots": len(report.snapshots),
        "values": report.pushed_values,
        "pushes": pushes,
        "printed": str(report),
        "memory_before": memory_before,
        "memory": peak_megabytes(),
    }


def run_stock(folder: Path, snapshots: int) -> dict[str, Any]:
    """Publish the same three models at one cut-off as a Feast user would by hand.

    Parameters
    ----------
    folder : has the source files under `ours/data/` and the `.keras` files under `keras/`.
    snapshots : int. Must be 1: a backfill by hand would be this many runs.
    """
    import pandas as pd
    from feast import FeatureStore

    assert snapshots == 1
    data, here = folder / "ours" / "data", folder / "stock"
    here.mkdir()
    clock = Clock()
    memory_before = peak_megabytes()

    with clock("load models"):
        import keras

        import activity_embeddings.training.models  # noqa: F401  registers the layers of the CNN

        first_duckdb_query()

        models = {name: keras.models.load_model(folder / f"keras/{name}.keras") for name in MODELS}
    with clock("read item vectors"):
        items = pd.read_parquet(data / "job_embeddings.parquet")
        vectors = np.stack(items["embedding"])
        vectors = np.concatenate([vectors, np.zeros_like(vectors[:1])])
        row_of_item = pd.Index(items["job_id"])
    with clock("read events"):
        events = pd.read_parquet(data / "activity_events")
        times = events["event_timestamp"]
        events = events[(times >= CUTOFF - WINDOW) & (times < CUTOFF)]
    with clock("sequences"):
        events = events.assign(
            row=row_of_item.get_indexer(events["job_id"]),
            code=events["action"].map({name: i for i, name in enumerate(ACTIONS, start=1)}),
        )
        events = events[events["row"] >= 0].sort_values(["member_id", "event_timestamp"])
        newest = events.groupby("member_id").tail(LENGTH)
        sequences = newest.groupby("member_id")[["row", "code"]].agg(list)
    with clock("tensors"):
        pad = keras.utils.pad_sequences
        rows = pad(sequences["row"], maxlen=LENGTH, padding="pre", value=len(vectors) - 1)
        inputs = {
            "item_embeddings": vectors[rows],
            "actions": pad(sequences["code"], maxlen=LENGTH, padding="pre", value=0),
        }
    for name, model in models.items():
        with clock("models"):
            outputs = model.predict(inputs, batch_size=BATCH, verbose=0)
        with clock("write"):
            frame = pd.DataFrame({"member_id": sequences.index, "event_timestamp": CUTOFF})
            for output, values in outputs.items():
                frame[output] = list(values)
            frame.to_parquet(here / f"{name}.parquet")

    (here / "feature_store.yaml").write_text(
        "project: stock\nprovider: local\nregistry: registry.db\n"
        "entity_key_serialization_version: 3\n"
        "online_store: {type: sqlite, path: online.db}\noffline_store: {type: duckdb}\n"
    )
    store = FeatureStore(repo_path=str(here))
    store.apply(_stock_definitions(here))
    with clock("push online"):
        store.materialize(CUTOFF - timedelta(days=1), CUTOFF)
    return {
        "seconds": clock.seconds,
        "events": len(events),
        "members": len(sequences),
        "values": sum(len(rows) for rows in _online_rows(here / "online.db").values()),
        "difference": _largest_difference(folder),
        "memory_before": memory_before,
        "memory": peak_megabytes(),
    }


def run_floor(folder: Path, snapshots: int) -> dict[str, Any]:
    """Do the bare work on data that lies ready.

    Parameters
    ----------
    folder : where `ours` has just published.
    snapshots : int. Must be 1.
    """
    import tensorflow as tf

    assert snapshots == 1
    data = folder / "ours" / "data"
    clock = Clock()

    events = pq.read_table(data / "activity_events")
    member, moment = (
        events.column(name).cast(pa.int64()).to_numpy() for name in ("member_id", "event_timestamp")
    )
    with clock("sequences"):
        np.lexsort((moment, member))

    batches = _ready_batches(data)
    loaded = [tf.saved_model.load(str(folder / "ours/models" / name)) for name in MODELS]
    functions = [tf.function(model.signatures["serving_default"]) for model in loaded]
    for function in functions:
        function(**batches[0])
    with clock("models"):
        for batch in batches:
            for function in functions:
                for value in function(**batch).values():
                    value.numpy()

    files = sorted((data / "snapshots").rglob("snapshot.parquet"))
    tables = [pq.read_table(file, partitioning=None) for file in files]
    (folder / "floor").mkdir()
    with clock("write"):
        for i, table in enumerate(tables):
            plain = [c.name for c in table.schema if not pa.types.is_list(c.type)]
            pq.write_table(
                table,
                folder / "floor" / f"{i}.parquet",
                compression="lz4",
                use_dictionary=plain,
                write_statistics=plain,
            )

    ready = _online_rows(data / "online.db")
    with contextlib.closing(sqlite3.connect(folder / "floor" / "online.db")) as connection:
        for statement in _schema(data / "online.db"):
            connection.execute(statement)
        with clock("push online"):
            for table, rows in ready.items():
                columns = "entity_key, feature_name, value, value_text, event_ts, created_ts"
                with connection:
                    connection.executemany(
                        f'INSERT INTO "{table}" ({columns}) VALUES (?, ?, ?, ?, ?, ?) '
                        "ON CONFLICT(entity_key, feature_name) DO UPDATE SET "
                        "value = excluded.value, value_text = excluded.value_text, "
                        "event_ts = excluded.event_ts, created_ts = excluded.created_ts",
                        rows,
                    )
    return {
        "seconds": clock.seconds,
        "values": sum(len(rows) for rows in ready.values()),
        "memory": peak_megabytes(),
    }


def run_sequences(folder: Path, snapshots: int) -> dict[str, Any]:
    """Make the sequences of one cut-off, of tables that lie in memory, several times."""
    from activity_embeddings.transformations.activity.events import ActivityEvents
    from activity_embeddings.transformations.activity.item_vectors import ItemVectors
    from activity_embeddings.transformations.activity.sequences import (
        make_sequences,
        members_active,
    )
    from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
    from activity_embeddings.transformations.times import to_us

    data = folder / "ours" / "data"
    spec = ActivitySpec(window=WINDOW, length=LENGTH, actions=ACTIONS)
    table = pq.read_table(data / "activity_events")
    vector_spec = pq.read_table(data / "job_embeddings.parquet")
    dimension = len(vector_spec.column("embedding")[0])
    vectors = ItemVectors.from_arrow(vector_spec, ItemVectorSpec(VECTORS, "1", dimension))
    cutoff = to_us(CUTOFF)
    runs = []
    for _ in range(SEQUENCE_RUNS):
        clock = Clock()
        with clock("read events"):
            events = ActivityEvents.from_arrow(table, spec)
        with clock("sequences"):
            members = members_active(events, cutoff, spec)
            times = np.full(len(members), cutoff)
            make_sequences(events, members, times, spec=spec, vectors=vectors)
        runs.append(clock.seconds)
    seconds = {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}
    return {"seconds": seconds, "events": len(events), "memory": peak_megabytes()}


VARIANTS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "ours": run_ours,
    "stock": run_stock,
    "floor": run_floor,
    "sequences": run_sequences,
}


def _stock_definitions(here: Path) -> list[Any]:
    """Return an entity and a plain feature view for each model's file."""
    from feast import Entity, FeatureView, Field, FileSource
    from feast.types import Array, Float32
    from feast.value_type import ValueType

    member = Entity(name="member", join_keys=["member_id"], value_type=ValueType.INT64)
    views = []
    for name in MODELS:
        path = here / f"{name}.parquet"
        columns = [c for c in pq.read_schema(path).names if c.endswith("_embedding")]
        source = FileSource(name=name, path=str(path), timestamp_field="event_timestamp")
        schema = [Field(name=column, dtype=Array(Float32)) for column in columns]
        views.append(
            FeatureView(
                name=f"job_activity_embedding_{name}",
                entities=[member],
                ttl=WINDOW,
                schema=schema,
                source=source,
            )
        )
    return [member, *views]


def _largest_difference(folder: Path) -> float:
    """Return the largest difference between the vectors that `ours` and `stock` published."""
    largest = 0.0
    for name, view in zip(MODELS, VIEWS, strict=True):
        (file,) = (folder / "ours/data/snapshots" / view).rglob("snapshot.parquet")
        ours = pq.read_table(file, partitioning=None).sort_by("member_id")
        stock = pq.read_table(folder / "stock" / f"{name}.parquet").sort_by("member_id")
        # Members all of whose items are unknown: zero vectors for us, no row in stock.
        both = np.isin(ours.column("member_id"), stock.column("member_id"))
        for column in (c for c in stock.column_names if c.endswith("_embedding")):
            a, b = (
                np.asarray(table.column(column).combine_chunks().flatten()).reshape(len(table), -1)
                for table in (ours, stock)
            )
            largest = max(largest, float(np.abs(a[both] - b).max()))
            largest = max(largest, float(np.abs(a[~both]).max(initial=0.0)))
    return largest


def _ready_batches(data: Path) -> list[dict[str, Any]]:
    """Return the models' inputs for every member, made of the sequences `ours` published."""
    import tensorflow as tf

    (file,) = (data / "snapshots" / "job_activity_sequence").rglob("snapshot.parquet")
    sequences = pq.read_table(file, partitioning=None)
    vector_spec = pq.read_table(data / "job_embeddings.parquet")
    item_ids = vector_spec.column("job_id").to_numpy()
    matrix = np.asarray(vector_spec.column("embedding").combine_chunks().flatten())
    matrix = np.pad(matrix.reshape(len(vector_spec), -1), [(0, 1), (0, 0)])

    count = sequences.column("activity_count").to_numpy()
    filled = np.arange(LENGTH) >= LENGTH - count[:, None]
    items = sequences.column("activity_job_ids").combine_chunks().flatten().to_numpy()
    rows = np.full(filled.shape, len(vector_spec))
    rows[filled] = np.searchsorted(item_ids, items)
    actions = np.zeros(filled.shape, dtype=np.int32)
    actions[filled] = sequences.column("activity_actions").combine_chunks().flatten().to_numpy()
    return [
        {
            "item_embeddings": tf.constant(matrix[rows[start : start + BATCH]]),
            "actions": tf.constant(actions[start : start + BATCH]),
        }
        for start in range(0, len(rows), BATCH)
    ]


def _online_rows(database: Path) -> dict[str, list[tuple]]:
    """Return every row of an online store by table, in the order it was written."""
    columns = "entity_key, feature_name, value, value_text, event_ts, created_ts"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {
            name: connection.execute(f'SELECT {columns} FROM "{name}" ORDER BY rowid').fetchall()
            for (name,) in tables.fetchall()
        }


def _schema(database: Path) -> list[str]:
    """Return the statements that make an empty online store like this one."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        found = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        return [statement for (statement,) in found]
