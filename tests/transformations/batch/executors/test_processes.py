"""Worker processes are started where the models are heavy: by what packaging has measured."""

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
    seconds_of_models,
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


def seconds(*names, **models):
    """Say it for a thousand members, of whom these models are asked."""
    ids = pa.array(range(MEMBERS), pa.int64())
    table = {"member_id": ids, "job_id": ids, "action": pa.array(["SAVE"] * MEMBERS)}
    times = pa.array([5] * MEMBERS, pa.int64()).cast(pa.timestamp("us", "UTC"))
    events = ActivityEvents.from_arrow(
        pa.table({**table, "event_timestamp": times}), ActivitySpec()
    )
    known = ItemVectors.always_known(ids)
    computation = Computation(ActivitySpec(), known, models, 0, 1024, JOBS)
    asked = CutOff(10, names, True, ())
    return seconds_of_models(Partition(EVERYBODY, events, asked, ids.slice(0, 0)), computation)


def test_calls_take_what_they_took_when_they_were_packaged(packaged):
    one, other = taking(packaged, BATCH * 0.01), taking(packaged, BATCH * 0.03)
    assert seconds("a", a=one) == pytest.approx(0.01 * MEMBERS)
    assert seconds("a", "b", a=one, b=other) == pytest.approx(0.04 * MEMBERS)
    assert seconds() == 0


def test_workers_take_nothing_over_beside_a_model_that_tensorflow_runs(packaged):
    heavy = taking(packaged, 10_000)
    slower = replace(heavy, converted=replace(heavy.converted, runs_batches=False))
    assert seconds("a", a=heavy) > 0
    assert seconds("a", "b", a=heavy, b=slower) == 0
    assert seconds("a", a=replace(heavy, converted=None)) == 0
    assert seconds("a", a=replace(heavy, manifest={})) == 0
