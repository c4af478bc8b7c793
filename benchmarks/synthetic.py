"""Seeded synthetic activity in the source schemas, and three models, for the benchmarks."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FEATURE_REPO = Path(__file__).parents[1] / "feature_repo"
CUTOFF = datetime(2024, 4, 1, tzinfo=UTC)
"""The as-of time of the newest snapshot."""
WINDOW = timedelta(days=28)
LENGTH = 32
ACTIONS = ("APPLY", "SAVE", "DISMISS")
DECAY = 0.8
VECTORS = "synthetic"
"""Name of the item vectors."""
SHARE_UNKNOWN = 0.01
"""Share of the items that have activity but no vector."""


def write_definitions(repo: Path, dimension: int, learned: str = "cnn") -> None:
    """Write the definitions of a feature repo with item vectors of its own, and a learned model.

    `learned` is the name of a network of `activity_embeddings.training.models`.
    """
    from activity_embeddings import ItemVectorSpec
    from activity_embeddings.training.new_repo import render
    from activity_embeddings.training.new_repo.settings import RepoSettings

    for file in FEATURE_REPO.glob("*.py"):
        shutil.copy(file, repo)
    settings = RepoSettings(vector_spec=ItemVectorSpec(VECTORS, "1", dimension))
    (repo / "item_vectors.py").write_text(render.item_vectors_py(settings), encoding="utf-8")
    models = repo / "activity_models.py"
    models.write_text(render.activity_models_py(models.read_text(), learned), encoding="utf-8")
    services = repo / "services.py"
    text = render.services_py(services.read_text(), "recommendations_v2", learned)
    services.write_text(text, encoding="utf-8")


def write_activity(
    folder: Path,
    *,
    members: int,
    events_per_member: float,
    items: int,
    dimension: int,
    snapshots: int = 1,
    seed: int = 0,
) -> None:
    """Write `activity_events/history.parquet` and `job_embeddings.parquet`.

    `folder` is where to write; the rest is as in `make_activity`.
    """
    events, vector_spec = make_activity(
        members=members,
        events_per_member=events_per_member,
        items=items,
        dimension=dimension,
        snapshots=snapshots,
        seed=seed,
    )
    (folder / "activity_events").mkdir(exist_ok=True)
    pq.write_table(events, folder / "activity_events" / "history.parquet")
    pq.write_table(vector_spec, folder / "job_embeddings.parquet")


def make_activity(
    *,
    members: int,
    events_per_member: float,
    items: int,
    dimension: int,
    snapshots: int = 1,
    seed: int = 0,
) -> tuple[pa.Table, pa.Table]:
    """Return activity events and item vectors.

    Activity is as dense in the window of every one of the daily snapshots up to `CUTOFF`. Members
    differ in how much they act (log-normal, everyone at least once), items in how popular they
    are (a power law). Rows lie in the order of time, as in a log.

    Parameters
    ----------
    members, items : int. How many there are.
    events_per_member : float. Mean number of events in a window.
    dimension : int. Length of an item vector.
    snapshots : int. Daily cut-offs, the last at `CUTOFF`.
    seed : int. The same seed gives the same rows.
    """
    random = np.random.default_rng(seed)
    span = WINDOW + timedelta(days=snapshots - 1)
    total = round(members * events_per_member * (span / WINDOW))
    shares = random.lognormal(0.0, 1.0, members)
    counts = 1 + random.multinomial(max(total - members, 0), shares / shares.sum())
    member = np.repeat(np.arange(1, members + 1), counts)

    popularity = 1.0 / (10.0 + np.arange(items)) ** 0.8
    rank = np.searchsorted(np.cumsum(popularity / popularity.sum()), random.random(len(member)))
    item_ids = random.permutation(np.arange(1, items + 1))
    item = item_ids[np.minimum(rank, items - 1)]
    action = random.choice(len(ACTIONS), len(member), p=[0.5, 0.35, 0.15])
    last = int(CUTOFF.timestamp() * 1e6)
    time = last - random.integers(1, span // timedelta(microseconds=1), len(member))

    order = np.argsort(time, kind="stable")
    events = {
        "member_id": pa.array(member[order]),
        "job_id": pa.array(item[order]),
        "action": pa.array(ACTIONS).take(pa.array(action[order])),
        "event_timestamp": pa.array(time[order]).cast(pa.timestamp("us", "UTC")),
    }

    known = np.sort(random.permutation(item_ids)[round(SHARE_UNKNOWN * items) :])
    vectors = random.normal(size=(len(known), dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    offsets = np.arange(len(known) + 1, dtype=np.int32) * dimension
    since = np.full(len(known), last - (span + WINDOW) // timedelta(microseconds=1))
    vector_spec = {
        "job_id": pa.array(known),
        "embedding": pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel())),
        "event_timestamp": pa.array(since).cast(pa.timestamp("us", "UTC")),
    }
    return pa.table(events), pa.table(vector_spec)


def write_models(packaged: Path, plain: Path, dimension: int, learned: str = "cnn") -> None:
    """Write the same three models twice: as packaged SavedModels, and as `.keras` files.

    The network has random weights, which cost as much to run as trained ones. The averages as plain
    Keras models are what a Keras user would write.

    Parameters
    ----------
    packaged : folder of the SavedModels, as `feature_repo/models`.
    plain : folder of the `.keras` files.
    dimension : int. Length of an item vector.
    learned : str. Name of the network.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    from activity_embeddings.training.models import (
        GeometricDecay,
        UnweightedAverage,
        architecture,
    )
    from activity_embeddings.training.packaging import package_model
    from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

    spec = ActivitySpec(window=WINDOW, length=LENGTH, actions=ACTIONS)
    vector_spec = ItemVectorSpec(VECTORS, "1", dimension)
    keras.utils.set_random_seed(0)
    network = architecture(learned)().build(spec, vector_spec)
    for name, model in {
        "unweighted_average": UnweightedAverage().build(spec, vector_spec),
        "geometric_decay": GeometricDecay(r=DECAY).build(spec, vector_spec),
        learned: network,
    }.items():
        package_model(
            model, packaged / name, name=name, version="1", spec=spec, vector_spec=vector_spec
        )
    plain.mkdir(parents=True)
    for name, model in {
        "unweighted_average": _keras_average(dimension, None),
        "geometric_decay": _keras_average(dimension, DECAY),
        learned: network,
    }.items():
        model.save(plain / f"{name}.keras")


def _keras_average(dimension: int, r: float | None) -> Any:
    """Return a Keras model of the plain (`r` is None) or geometrically decaying average."""
    import keras
    from keras import ops

    items = keras.Input((LENGTH, dimension), dtype="float32", name="item_embeddings")
    actions = keras.Input((LENGTH,), dtype="int32", name="actions")
    outputs = {}
    for i, action in enumerate(ACTIONS, start=1):
        chosen = ops.cast(ops.equal(actions, i), "float32")
        count = ops.maximum(ops.sum(chosen, axis=1, keepdims=True), 1.0)
        if r is None:
            weights = chosen / count
        else:
            newer = ops.flip(ops.cumsum(ops.flip(chosen, axis=1), axis=1), axis=1) - chosen
            weights = chosen * r**newer * (1.0 - r) / (1.0 - r**count)
        average = ops.sum(ops.expand_dims(weights, 2) * items, axis=1)
        outputs[f"{action.lower()}_embedding"] = average
    return keras.Model({"item_embeddings": items, "actions": actions}, outputs)
