"""Every model in one pass gives what each gives alone, whatever the batches."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.member_range import EVERYBODY
from activity_embeddings.transformations.activity.sequences import make_sequences
from activity_embeddings.transformations.batch.executors.partition import (
    Computation,
    CutOff,
    Partition,
)
from activity_embeddings.transformations.batch.executors.ray_tasks import Shipment
from activity_embeddings.transformations.contract.activity_model import (
    ActivityModel,
    describe_models,
)
from activity_embeddings.transformations.errors import ModelMismatch
from activity_embeddings.transformations.inference.embedder import Embedder
from activity_embeddings.transformations.inference.litert import SEQUENCES_A_CALL
from activity_embeddings.transformations.names import JOBS
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support.feast_repo import at, events_table, small_data, us, vectors_table

pytestmark = pytest.mark.slow

SPEC, VECTOR_SPEC = ActivitySpec(), ItemVectorSpec("content_and_behaviour", "1", 64)


@pytest.fixture(scope="module")
def described(models):
    lines = [ActivityModel(models / n) for n in ("unweighted_average", "geometric_decay", "cnn")]
    return describe_models(lines, spec=SPEC, vector_spec=VECTOR_SPEC)


@pytest.fixture(scope="module")
def prepared():
    events, vectors = small_data()
    vector_spec = ItemVectors.from_arrow(vectors_table(vectors), VECTOR_SPEC)
    table = ActivityEvents.from_arrow(events_table(events), SPEC)
    members = pa.array([*range(1, 40), 999])
    moments = np.full(len(members), us(at(4)))
    return make_sequences(table, members, moments, spec=SPEC, vectors=vector_spec), vector_spec


def test_batches_of_any_size_give_the_same_vectors(described, prepared):
    sequences, vector_spec = prepared
    whole = Embedder(described)(sequences, vector_spec)
    for size in (1, 7):
        parts = Embedder(described, batch_size=size)(sequences, vector_spec)
        for model in described:
            for output in model.outputs:
                np.testing.assert_allclose(
                    parts[model.name][output], whole[model.name][output], atol=1e-5, rtol=0
                )


def test_each_model_alone_gives_the_same_as_all_together(described, prepared):
    together = Embedder(described)(*prepared)
    for model in described:
        alone = Embedder([model])(*prepared)[model.name]
        assert alone.keys() == model.outputs.keys()
        for output, values in alone.items():
            np.testing.assert_allclose(values, together[model.name][output], atol=1e-5, rtol=0)


def test_no_activity_is_the_zero_vector_of_every_model_even_one_with_a_bias(tmp_path, prepared):
    class Biased(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 32, 64], tf.float32, "item_embeddings"),
                tf.TensorSpec([None, 32], tf.int32, "actions"),
            ]
        )
        def serve(self, item_embeddings, actions):
            return {"x": tf.reduce_sum(item_embeddings, axis=1)[:, :3] + 1.0}

    module = Biased()
    tf.saved_model.save(module, str(tmp_path / "b"), signatures={"serving_default": module.serve})
    line = ActivityModel(
        tmp_path / "b", name="biased", version="1", spec=SPEC, vector_spec=VECTOR_SPEC
    )
    sequences, vector_spec = prepared
    got = Embedder(describe_models([line], spec=SPEC, vector_spec=VECTOR_SPEC))(
        sequences, vector_spec
    )
    empty = sequences.count == 0
    assert empty.any() and not empty.all()
    assert (got["biased"]["x"][empty] == 0).all()
    assert (got["biased"]["x"][~empty] != 0).any(axis=1).all()


def test_without_models_and_without_members_there_is_nothing(described, prepared):
    sequences, vector_spec = prepared
    assert Embedder([])(sequences, vector_spec) == {}
    nobody = make_sequences(
        ActivityEvents.from_arrow(events_table([]), SPEC),
        pa.array([], pa.int64()),
        np.array([], dtype=np.int64),
        spec=SPEC,
        vectors=vector_spec,
    )
    assert Embedder(described)(nobody, vector_spec)["cnn"]["activity_embedding"].shape == (0, 64)


@pytest.mark.parametrize("for_requests", [False, True])
def test_outputs_come_in_the_order_of_the_description(described, prepared, for_requests):
    sequences, vector_spec = prepared
    active = sequences.take(sequences.count > 0)
    backwards = [
        replace(model, outputs=dict(reversed(model.outputs.items()))) for model in described
    ]
    for models in (described, backwards):
        embedder = Embedder(models, for_requests=for_requests)
        for part in (sequences, active, active.take(np.array([0]))):
            for model in models:
                assert list(embedder(part, vector_spec)[model.name]) == list(model.outputs)


def by_tensorflow(models):
    """The same models, run as SavedModels."""
    return [replace(model, converted=None) for model in models]


def test_litert_gives_what_tensorflow_gives(described, prepared):
    sequences, vector_spec = prepared
    assert all(model.runtime == "litert" for model in described)
    random = np.random.default_rng(0)
    sequences = sequences.take(random.permutation(np.tile(np.arange(len(sequences)), 10)))
    fast = Embedder(described)(sequences, vector_spec)
    plain = Embedder(by_tensorflow(described))(sequences, vector_spec)
    for model in described:
        for output, values in plain[model.name].items():
            assert values.any()
            np.testing.assert_allclose(fast[model.name][output], values, atol=1e-5, rtol=0)


def test_the_number_of_threads_changes_no_bit(described, prepared, monkeypatch):
    sequences, vector_spec = prepared
    together = sequences.take(np.tile(np.arange(len(sequences)), 10))
    answers = []
    for count in (1, 2, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, count=count: set(range(count)))
        answers.append(Embedder(described)(together, vector_spec))
    for model in described:
        for output in model.outputs:
            one, *others = (answer[model.name][output] for answer in answers)
            assert all(np.array_equal(one, other) for other in others)


def test_models_of_both_runtimes_share_a_call(described, prepared):
    mixed = [described[0], *by_tensorflow(described[1:2]), described[2]]
    together, alone = Embedder(mixed)(*prepared), Embedder(described)(*prepared)
    assert list(together) == list(alone)
    for name, outputs in together.items():
        for output, values in outputs.items():
            np.testing.assert_allclose(values, alone[name][output], atol=1e-5, rtol=0)


@pytest.fixture(scope="module", params=[True, False], ids=["packaged", "made at the start"])
def of_batch_and_requests(request, described):
    """Embedders by the file that packaging made, and by one that is made when a server starts."""
    models = described if request.param else by_tensorflow(described)
    return Embedder(models), Embedder(models, for_requests=True)


@pytest.mark.parametrize("size", [1, 3, SEQUENCES_A_CALL, SEQUENCES_A_CALL + 1])
def test_few_sequences_give_what_a_batch_gives(described, prepared, size, of_batch_and_requests):
    sequences, vector_spec = prepared
    batch, embedder = of_batch_and_requests
    random = np.random.default_rng(size)
    chosen = random.permutation(np.tile(np.arange(len(sequences)), 3))
    whole = batch(sequences, vector_spec)
    for start in range(0, len(chosen), size):
        rows = chosen[start : start + size]
        few = embedder(sequences.take(rows), vector_spec)
        for model in described:
            for output in model.outputs:
                assert np.allclose(
                    few[model.name][output], whole[model.name][output][rows], rtol=0, atol=1e-5
                )


def replaced_meanwhile(models, folder):
    """A model that is checked and then replaced, as by `package` during a run."""
    shutil.copytree(models / "geometric_decay", folder)
    line = ActivityModel(folder)
    (model,) = describe_models([line], spec=SPEC, vector_spec=VECTOR_SPEC)
    shutil.rmtree(folder)
    shutil.copytree(models / "unweighted_average", folder)
    return model


@pytest.mark.parametrize("for_requests", [False, True])
@pytest.mark.parametrize("of", [lambda models: models, by_tensorflow], ids=["litert", "saved"])
def test_a_model_that_was_replaced_since_it_was_checked_is_refused(
    models, tmp_path, for_requests, of
):
    model = replaced_meanwhile(models, tmp_path / "model")
    said = r"model 'geometric_decay': .* should be the .*Received: [0-9a-f]{16} \(changed"
    with pytest.raises(ModelMismatch, match=said):
        Embedder(of([model]), for_requests=for_requests)


def test_a_model_that_is_gone_since_it_was_checked_is_refused(models, tmp_path):
    model = replaced_meanwhile(models, tmp_path / "model")
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(ModelMismatch, match=r"geometric_decay.* Received: no file"):
        Embedder([model])


def test_a_model_that_was_replaced_before_it_is_sent_to_a_cluster_is_refused(
    models, tmp_path, prepared, monkeypatch
):
    monkeypatch.setenv("ACTIVITY_EMBEDDINGS_CACHE", str(tmp_path / "cache"))
    model, (_, vectors) = replaced_meanwhile(models, tmp_path / "model"), prepared
    events = ActivityEvents.from_arrow(events_table(small_data()[0]), SPEC)
    cutoff = CutOff(us(at(4)), (model.name,), True, ())
    nobody = pa.array([], events.member_ids.type)
    work = Shipment.of(Computation(SPEC, vectors, {model.name: model}, 0, 8, JOBS)).begin()
    with pytest.raises(ModelMismatch, match="geometric_decay"):
        list(work(Partition(EVERYBODY, events, cutoff, nobody)))


class Unconvertible(tf.Module):
    """Computes with an operation that LiteRT does not know."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 32, 64], tf.float32, name="item_embeddings"),
            tf.TensorSpec([None, 32], tf.int32, name="actions"),
        ]
    )
    def serve(self, item_embeddings, actions):
        return {"x": tf.math.bessel_i0e(tf.reduce_sum(item_embeddings, axis=1))}


def test_a_model_that_cannot_be_converted_stays_a_saved_model(prepared, tmp_path):
    module = Unconvertible()
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.serve})
    line = ActivityModel(tmp_path, name="odd", version="1", spec=SPEC, vector_spec=VECTOR_SPEC)
    described = describe_models([line], spec=SPEC, vector_spec=VECTOR_SPEC)
    sequences, vector_spec = prepared
    embedder = Embedder(described, for_requests=True)
    assert [model.runtime for model in described] == ["tensorflow"]
    one = sequences.take(np.flatnonzero(sequences.count)[:1])
    assert np.array_equal(
        embedder(one, vector_spec)["odd"]["x"], Embedder(described)(one, vector_spec)["odd"]["x"]
    )
