"""The parts of `publish.py` that are processes of their own, each with what it needs imported.

- `prepare`: activity, models and definitions.
- `define_stock`: what a Feast user would define: a plain feature view for each model's files.
- `stock`: what that user would run before `feast materialize`: pandas, `model.predict`, a parquet
  file a model and day.
- `bare`: the bare work that cannot be avoided, on data that lies ready: a sort, the models'
  functions, raw writes of the parquet files that ours has written, and of the rows that it has put
  online, see `push.py`.
- `sequences`: only the making of sequences, of tables that lie in memory; the median of some runs.
- `difference`: the largest difference between the vectors that ours and stock have published.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import synthetic
import yaml
from synthetic import ACTIONS, CUTOFF, FEATURE_REPO, LENGTH, VECTORS, WINDOW

MODELS = ("unweighted_average", "geometric_decay", "cnn")
SEQUENCE = "job_activity_sequence"
VIEWS = tuple(f"job_activity_embedding_{name}" for name in MODELS)
BATCH = 1024
SEQUENCE_RUNS = 5


class Clock:
    """Seconds by stage, and CPU seconds of all stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu = 0.0

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started, used = time.perf_counter(), time.process_time()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
        self.cpu += time.process_time() - used


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Write activity, models and definitions, with an online store, as a feature repo `ours`."""
    repo = folder / "ours"
    (repo / "data").mkdir(parents=True)
    synthetic.write_definitions(repo, options.dimension)
    settings = yaml.safe_load((FEATURE_REPO / "feature_store.yaml").read_text())
    settings["online_store"] = options.online_store
    (repo / "feature_store.yaml").write_text(yaml.safe_dump(settings))
    synthetic.write_activity(
        repo / "data",
        members=options.members,
        events_per_member=options.events_per_member,
        items=options.items,
        dimension=options.dimension,
        snapshots=options.snapshots,
    )
    synthetic.write_models(repo / "models", folder / "keras", options.dimension)


def define_stock(folder: Path, options: argparse.Namespace) -> None:
    """Apply an entity and a plain feature view for each model; its features are those of ours."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource
    from feast.data_format import ParquetFormat
    from feast.types import Array, Float32
    from feast.value_type import ValueType

    here = folder / "stock"
    online_store = dict(options.online_store)
    if "path" in online_store:
        online_store["type"] = "sqlite"
    settings = {
        "project": "stock",
        "provider": "local",
        "registry": "registry.db",
        "entity_key_serialization_version": 3,
        "online_store": online_store,
        "offline_store": {"type": "duckdb"},
    }
    here.mkdir()
    (here / "feature_store.yaml").write_text(yaml.safe_dump(settings))
    member = Entity(name="member", join_keys=["member_id"], value_type=ValueType.INT64)
    definitions: list[Any] = [member]
    for name, view in zip(MODELS, VIEWS, strict=True):
        (here / name).mkdir()
        columns = pq.read_schema(_snapshot(folder, view, CUTOFF)).names
        definitions.append(
            FeatureView(
                name=view,
                entities=[member],
                ttl=WINDOW,
                schema=[
                    Field(name=column, dtype=Array(Float32))
                    for column in columns
                    if column.endswith("_embedding")
                ],
                source=FileSource(
                    name=name,
                    path=str(here / name),
                    file_format=ParquetFormat(),
                    timestamp_field="event_timestamp",
                ),
            )
        )
    FeatureStore(repo_path=str(here)).apply(definitions)


def stock(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make the values of a day as a Feast user would by hand; return the seconds by stage."""
    import pandas as pd

    data, here, cutoff = folder / "ours" / "data", folder / "stock", options.cutoff
    clock = Clock()
    with clock("load models"):
        import keras

        import activity_embeddings.training.models  # noqa: F401  registers the layers of the CNN

        models = {name: keras.models.load_model(folder / f"keras/{name}.keras") for name in MODELS}
    with clock("read item vectors"):
        items = pd.read_parquet(data / "job_embeddings.parquet")
        vectors = np.stack(items["embedding"])
        vectors = np.concatenate([vectors, np.zeros_like(vectors[:1])])
        row_of_item = pd.Index(items["job_id"])
    with clock("read events"):
        events = pd.read_parquet(data / "activity_events")
        times = events["event_timestamp"]
        events = events[(times >= cutoff - WINDOW) & (times < cutoff)]
    with clock("sequences"):
        events = events.assign(
            row=row_of_item.get_indexer(events["job_id"]),
            code=events["action"].map({name: i for i, name in enumerate(ACTIONS, start=1)}),
        )
        events = events[events["row"] >= 0].sort_values(["member_id", "event_timestamp"])
        newest = events.groupby("member_id").tail(LENGTH)
        sequences = newest.groupby("member_id")[["row", "code"]].agg(list)
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
            frame = pd.DataFrame({"member_id": sequences.index, "event_timestamp": cutoff})
            for output, values in outputs.items():
                frame[output] = list(values)
            frame.to_parquet(here / name / f"{cutoff:%Y-%m-%d}.parquet")
    values = len(sequences) * sum(len(model.output) for model in models.values())
    return {"seconds": clock.seconds, "values": values}


def bare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Do the bare work on what ours has just published; return the seconds by stage."""
    import push
    import tensorflow as tf
    from feast import FeatureStore

    data, here = folder / "ours" / "data", folder / "bare"
    first = not here.exists()
    clock = Clock()

    events = pq.read_table(data / "activity_events")
    member, moment = (
        events.column(name).cast(pa.int64()).to_numpy() for name in ("member_id", "event_timestamp")
    )
    with clock("sequences"):
        np.lexsort((moment, member))

    batches = _ready_batches(folder, options.cutoff)
    loaded = [tf.saved_model.load(str(folder / "ours/models" / name)) for name in MODELS]
    functions = [tf.function(model.signatures["serving_default"]) for model in loaded]
    for function in functions:
        function(**batches[0])
    with clock("models"):
        for batch in batches:
            for function in functions:
                for value in function(**batch).values():
                    value.numpy()

    files = [_snapshot(folder, view, options.cutoff) for view in (SEQUENCE, *VIEWS)]
    tables = [pq.read_table(file, partitioning=None) for file in files]
    here.mkdir(exist_ok=True)
    with clock("write"):
        for i, table in enumerate(tables):
            plain = [c.name for c in table.schema if not pa.types.is_list(c.type)]
            pq.write_table(
                table,
                here / f"{i}.parquet",
                compression="lz4",
                use_dictionary=plain,
                write_statistics=plain,
            )

    published = FeatureStore(repo_path=str(folder / "ours"))
    views = [published.get_feature_view(name) for name in (SEQUENCE, *VIEWS)]
    kind, project = push.STORES[options.store], published.config.project
    ready = kind(folder / "ours", options.online_store, project).ready(views)
    other = kind(here, options.bare_store, project)
    if first:
        other.empty(views)
    with clock("push online"):
        other.write_ready(ready)
    values = sum(len(t) * len(v.features) for t, v in zip(tables, views, strict=True))
    return {"seconds": clock.seconds, "cpu": clock.cpu, "values": values}


def sequences(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
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
    return {"seconds": seconds, "events": len(events)}


def difference(folder: Path, options: argparse.Namespace) -> float:
    """Return the largest difference between the vectors that ours and stock have published."""
    largest = 0.0
    for name, view in zip(MODELS, VIEWS, strict=True):
        file = folder / "stock" / name / f"{options.cutoff:%Y-%m-%d}.parquet"
        stock = pq.read_table(file).sort_by("member_id")
        ours = pq.read_table(_snapshot(folder, view, options.cutoff), partitioning=None)
        ours = ours.sort_by("member_id")
        # Members all of whose items are unknown, or who fell silent: zero vectors, no row in stock.
        both = np.isin(ours.column("member_id"), stock.column("member_id"))
        for column in (c for c in stock.column_names if c.endswith("_embedding")):
            a, b = (
                np.asarray(table.column(column).combine_chunks().flatten()).reshape(len(table), -1)
                for table in (ours, stock)
            )
            largest = max(largest, float(np.abs(a[both] - b).max()))
            largest = max(largest, float(np.abs(a[~both]).max(initial=0.0)))
    return largest


def _ready_batches(folder: Path, cutoff: datetime) -> list[dict[str, Any]]:
    """Return the models' inputs for every member, made of the sequences `ours` published."""
    import tensorflow as tf

    sequences = pq.read_table(_snapshot(folder, SEQUENCE, cutoff), partitioning=None)
    vector_spec = pq.read_table(folder / "ours" / "data" / "job_embeddings.parquet")
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


def _snapshot(folder: Path, view: str, cutoff: datetime) -> Path:
    """Return the file that ours has committed for a view and day."""
    views = folder / "ours" / "data" / "snapshots" / view
    (file,) = views.glob(f"*/as_of={cutoff:%Y%m%dT%H%M%SZ}/snapshot.parquet")
    return file


VARIANTS: dict[str, Callable[[Path, argparse.Namespace], Any]] = {
    each.__name__: each for each in (prepare, define_stock, stock, bare, sequences, difference)
}
