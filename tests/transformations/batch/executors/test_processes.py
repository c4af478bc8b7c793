"""Worker processes are started where the models are heavy."""

from dataclasses import replace

import pyarrow as pa
import pytest

from activity_embeddings import ActivityModel, ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.member_range import EVERYBODY
from activity_embeddings.transformations.batch.executors.partition import (
    Computation,
    CutOff,
    Partition,
)
from activity_embeddings.transformations.batch.executors.processes import (
    WORTH_SECONDS,
    worth_workers,
)
from activity_embeddings.transformations.contract.activity_model import describe_model
from activity_embeddings.transformations.names import JOBS

MEMBERS = 1_000
BATCH = 512
"""Sequences that packaging times."""


@pytest.fixture(scope="module")
def packaged(models):
    spec, vectors = ActivitySpec(), ItemVectorSpec("content_and_behaviour", "1", 64)
    return describe_model(ActivityModel(models / "cnn"), spec=spec, vector_spec=vectors)


def taking(model, seconds):
    """Return the model as if packaging had found that a batch takes LiteRT so long."""
    facts = {**model.manifest["litert"], "seconds_of_a_batch": {"litert": seconds}}
    converted = replace(model.converted, runs_batches=True)
    return replace(model, manifest={**model.manifest, "litert": facts}, converted=converted)


def worth(**models):
    """Say it for a thousand members."""
    ids = pa.array(range(MEMBERS), pa.int64())
    table = {"member_id": ids, "job_id": ids, "action": pa.array(["SAVE"] * MEMBERS)}
    times = pa.array([5] * MEMBERS, pa.int64()).cast(pa.timestamp("us", "UTC"))
    events = ActivityEvents.from_arrow(
        pa.table({**table, "event_timestamp": times}), ActivitySpec()
    )
    asked = CutOff(10, tuple(models), True, ())
    known = ItemVectors.always_known(ids)
    computation = Computation(ActivitySpec(), known, models, 0, 1024, JOBS)
    return worth_workers(Partition(EVERYBODY, events, asked, ids.slice(0, 0)), computation)


def test_workers_are_worth_it_where_calls_take_long(packaged):
    enough = WORTH_SECONDS * BATCH / MEMBERS
    heavy, half = taking(packaged, 1.01 * enough), taking(packaged, 0.51 * enough)
    light = taking(packaged, 0.4 * enough)
    assert worth(a=heavy)
    assert not worth(a=half)
    assert worth(a=half, b=half)
    assert not worth(a=light, b=light)
    assert not worth()


def test_no_worker_is_started_for_a_model_that_tensorflow_runs(packaged):
    heavy = taking(packaged, 10_000)
    slower = replace(heavy, converted=replace(heavy.converted, runs_batches=False))
    assert worth(a=heavy)
    assert not worth(a=heavy, b=slower)
    assert not worth(a=replace(heavy, converted=None))
    assert not worth(a=replace(heavy, manifest={}))
