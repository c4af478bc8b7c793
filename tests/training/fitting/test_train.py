"""Training a model, and packaging what came out, from one function each."""

import json
import re
import subprocess
import sys
import textwrap
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.loop import CHECKPOINT, Fit, fit_task
from activity_embeddings.training.fitting.plan import TrainingPlan
from activity_embeddings.training.fitting.train import (
    BEST,
    REFIT,
    RESULT,
    RUN,
    SEQUENCES,
    load_run,
    train,
)
from activity_embeddings.training.models import (
    CNN,
    LSTM,
    GeometricDecay,
    InterleavedDecay,
    SeveralRatesDecay,
)
from activity_embeddings.training.objectives import (
    FuturePositives,
    NextPositive,
    NextSession,
    Proxy,
)
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.contract.activity_model import read_manifest
from activity_embeddings.transformations.errors import InvalidInput
from support.training_data import TRAIN, VALIDATION, VECTOR_SPEC, day, turns

pytestmark = pytest.mark.slow

HISTORY = turns()
SMALL = CNN(filters=8, convolutions=2, dropout=0.0)
FIT = Fit(epochs=2, batch_size=128, learning_rate=3e-3)
EARLY = {
    "period": Period(day(0), day(12)),
    "validation": Period(day(14), day(20)),
    "fit": replace(FIT, epochs=3),
}
DATA = {"vector_spec": VECTOR_SPEC, "period": TRAIN, "validation": VALIDATION}


def plan(**changes):
    return TrainingPlan(**{"history": HISTORY, "fit": FIT, **DATA, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def trained(folder):
    return train(SMALL, plan(), run=folder)


def test_it_learns_an_order_that_no_average_sees():
    fit = replace(FIT, epochs=12)
    result = train(SMALL, plan(fit=fit)).result["metrics"]
    assert result["validation"]["ndcg_at_10"] > 1.3 * result["rivals"]["decay_0.9"]["ndcg_at_10"]


def test_facts_are_json_and_say_what_was_done(trained):
    result = json.loads(json.dumps(trained.result))
    assert result == trained.result
    assert result["training"]["period"] == TRAIN.to_dict()
    assert result["training"]["validation"] == VALIDATION.to_dict()
    assert len(result["training"]["history"]) == result["training"]["epochs"] == 2
    assert set(result["metrics"]["rivals"]) == {"popularity", "mean", "decay_0.9"}
    assert result["training"]["data"]["events"] == len(HISTORY.events)
    assert result["parameters"]["filters"] == 8
    assert trained.figure == result["metrics"]["validation"]["ndcg_at_10"]


@pytest.fixture(scope="module")
def refitted(tmp_path_factory):
    """Chosen among three epochs by the days before those of `VALIDATION`, and then refitted."""
    folder = tmp_path_factory.mktemp("refitted")
    return train(SMALL, plan(**EARLY)), train(SMALL, plan(**EARLY, refit=True), run=folder), folder


def test_a_refitted_network_is_one_that_learned_on_all_days_for_the_best_number_of_epochs(refitted):
    chosen, again, _ = refitted
    whole, best = Period(day(0), day(20)), chosen.result["training"]["best_epoch"]
    keras.utils.set_random_seed(FIT.seed)
    expected, objective = SMALL.build(HISTORY.spec, VECTOR_SPEC), plan().objective
    fit_task(
        objective.task(expected, HISTORY, whole),
        objective.stream(HISTORY, whole, batch_size=FIT.batch_size, seed=FIT.seed),
        None,
        replace(FIT, epochs=best),
    )
    for one, other, before in zip(
        expected.get_weights(), again.model.get_weights(), chosen.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
        assert (one != before).any()


def test_figures_of_a_refitted_network_are_those_of_the_days_that_it_had_not_seen(refitted):
    chosen, again, _ = refitted
    assert again.result["metrics"] == chosen.result["metrics"]
    assert again.result["training"] == {**chosen.result["training"], "refit": True}
    assert not chosen.result["training"]["refit"]
    assert train(GeometricDecay(r=0.8), plan(refit=True)).result["training"]["refit"] is False


def test_a_refitting_that_was_killed_ends_with_the_same_weights(refitted):
    _, again, folder = refitted
    for name in (RESULT, BEST):
        (folder / name).unlink()
    checkpoint = folder / REFIT / CHECKPOINT
    written = checkpoint.stat().st_mtime_ns
    resumed = train(SMALL, plan(**EARLY, refit=True), run=folder)
    assert checkpoint.stat().st_mtime_ns == written
    assert resumed.result == again.result
    for one, other in zip(resumed.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_complete_run_is_read_and_not_trained_again(trained, folder):
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = train(SMALL, plan(), run=folder)
    assert again.result == trained.result
    for one, other in zip(again.model.get_weights(), trained.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_a_run_in_a_linked_folder_is_written_there(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    model = GeometricDecay(r=0.8)
    figure = train(model, plan(), run=tmp_path / "run").figure
    assert (tmp_path / "run").is_symlink()
    assert load_run(tmp_path / "disk").figure == figure
    (tmp_path / "broken").symlink_to("gone")
    with pytest.raises(InvalidInput, match="gone, which is not there"):
        train(model, plan(), run=tmp_path / "broken")


def test_a_folder_of_another_run_is_refused_and_left_alone(trained, folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    for model, other, differs in (
        (SMALL, {"fit": replace(FIT, seed=1)}, "`fit.seed` 0 instead of 1"),
        (SMALL, {"objective": Proxy()}, "`objective.objective` '.*' instead of 'proxy'"),
        (SMALL, {"validation": Period(day(20), day(29))}, "`validation.end` '.*' instead of '.*'"),
        (LSTM(), {}, "`model` 'cnn' instead of 'lstm'"),
    ):
        message = rf"expected a new folder.*one with {differs}\. Name another folder"
        with pytest.raises(InvalidInput, match=message):
            train(model, plan(**other), run=folder)
    assert before == {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}
    assert set(before) == {RUN, RESULT, BEST, CHECKPOINT, SEQUENCES}


def test_a_run_keeps_the_sequences_of_members_at_the_end_of_validation(trained, folder):
    kept, loaded = trained.sequences, load_run(folder).sequences
    assert set(kept) == set(loaded) == {"item_embeddings", "actions"}
    for name, values in kept.items():
        np.testing.assert_array_equal(values, loaded[name])
    events = HISTORY.events
    for member in range(0, len(events.member_ids), 7):
        own = (events.member == member) & (events.time < VALIDATION.end_us)
        newest = np.flatnonzero(own)[np.argsort(events.time[own], kind="stable")][-8:]
        np.testing.assert_array_equal(kept["actions"][member], events.action[newest])
        np.testing.assert_array_equal(
            kept["item_embeddings"][member], HISTORY.vectors.matrix[events.item[newest]]
        )


@pytest.mark.process
def test_a_model_that_is_packaged_gives_the_same_vectors_by_plain_tensorflow(
    trained, folder, tmp_path
):
    """In a process that imports TensorFlow and nothing of this package."""
    described = load_run(folder).package(tmp_path / "cnn", name="cnn", version="3", owner="me")
    random = np.random.default_rng(0)
    inputs = {
        "item_embeddings": random.normal(size=(5, 8, 6)).astype(np.float32),
        "actions": random.integers(0, 4, (5, 8)).astype(np.int32),
    }
    np.savez(tmp_path / "inputs.npz", **inputs)
    script = textwrap.dedent(
        f"""
        import sys
        import numpy as np
        import tensorflow as tf
        inputs = {{k: tf.constant(v) for k, v in np.load({str(tmp_path / "inputs.npz")!r}).items()}}
        serve = tf.saved_model.load({str(described.path)!r}).signatures["serving_default"]
        np.save({str(tmp_path / "outputs.npy")!r}, serve(**inputs)["activity_embedding"].numpy())
        ours = [m for m in sys.modules if m.split(".")[0] == "activity_embeddings"]
        assert not ours, ours
        """
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    expected = trained.model({k: tf.constant(v) for k, v in inputs.items()}, training=False)
    np.testing.assert_allclose(
        np.load(tmp_path / "outputs.npy"), expected["activity_embedding"], rtol=0, atol=1e-6
    )
    manifest = read_manifest(described.path)
    assert manifest["version"] == "3"
    assert manifest["owner"] == "me"
    assert manifest["vector_spec"] == VECTOR_SPEC.to_dict()
    assert manifest["code_version"]
    assert manifest["litert"]["compared"] == {"made up": 4, "real": len(HISTORY.events.member_ids)}
    assert manifest["training"]["period"] == TRAIN.to_dict()
    assert manifest["training"]["data"]["item_vectors_fingerprint"]
    assert manifest["metrics"]["validation"] == trained.result["metrics"]["validation"]


@pytest.mark.parametrize(
    "model", [InterleavedDecay(r=0.9), GeometricDecay(r=0.9), SeveralRatesDecay()], ids=str
)
def test_averages_are_measured_and_packaged_in_the_same_way(model, tmp_path):
    trained = train(model, plan(fit=Fit()), run=tmp_path / "run")
    metrics = trained.result["metrics"]
    if model.name == "interleaved_decay":
        assert metrics["validation"] == pytest.approx(metrics["rivals"]["decay_0.9"], abs=1e-6)
    assert 0 < metrics["validation"]["ndcg_at_10_alone"] < 1
    loaded = load_run(tmp_path / "run")
    described = loaded.package(tmp_path / "model", name=model.name, version="1")
    assert described.manifest["parameters"]["architecture"] == model.name
    assert described.manifest["training"]["epochs"] == 0


def test_periods_that_overlap_are_refused():
    with pytest.raises(InvalidInput, match="`validation` should begin where `period` ends"):
        plan(validation=Period(day(19), day(30)))


def test_events_after_the_validation_period_change_nothing(trained):
    """Also not through popularity, candidates or negatives."""
    longer = turns()
    extra = longer.events
    moved = replace(extra, time=extra.time + (VALIDATION.end_us - int(extra.time.min())))
    both = type(longer).from_arrow(
        _as_table([HISTORY.events, moved]), HISTORY.vectors, HISTORY.spec
    )
    assert len(both.events) == 2 * len(HISTORY.events)
    again = train(SMALL, plan(history=both))
    for one, other in zip(again.model.get_weights(), trained.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.result == trained.result


def _as_table(parts):
    import pyarrow as pa

    actions = np.array(HISTORY.spec.vocabulary)
    return pa.concat_tables(
        [
            pa.table(
                {
                    "member_id": part.member_ids.take(pa.array(part.member)),
                    "job_id": part.item_ids.take(pa.array(part.item)),
                    "action": pa.array(actions[part.action]),
                    "event_timestamp": pa.array(part.time).cast(pa.timestamp("us", "UTC")),
                }
            )
            for part in parts
        ]
    )


def test_vectors_that_are_not_finite_are_one_clear_error():
    vectors = HISTORY.vectors
    matrix = vectors.matrix.copy()
    matrix[3, 2] = np.nan
    broken = ItemVectors(vectors.item_ids, vectors.start, vectors.time, matrix)
    with pytest.raises(InvalidInput, match=r"finite to train on.*NaN or infinity in 1 of 40"):
        type(HISTORY).of(HISTORY.events, broken, HISTORY.spec)


@pytest.mark.parametrize("objective", [NextPositive(), NextSession(), FuturePositives(), Proxy()])
def test_a_period_without_activity_is_named_and_nothing_is_printed(objective, capsys):
    empty = Period(day(-90), day(-80))
    message = re.escape(f"from {empty.start} to before {empty.end}. Received: no")
    with pytest.raises(InvalidInput, match=message):
        train(SMALL, plan(period=empty, objective=objective), verbose=1)
    assert capsys.readouterr().out == ""


def test_too_few_members_is_one_clear_error_and_leaves_nothing_to_package(tmp_path):
    few = HISTORY.of_members(np.array([0]))
    only = replace(few, events=few.events.where(few.events.time < few.events.time.min() + 1))
    for objective in (FuturePositives(), Proxy()):
        with pytest.raises(InvalidInput, match=r"expected .*Received: no"):
            train(
                SMALL,
                plan(history=only, objective=objective, fit=Fit()),
                run=tmp_path / objective.name,
            )
        assert not (tmp_path / objective.name / RESULT).exists()
        with pytest.raises(InvalidInput, match="a run that has not ended"):
            load_run(tmp_path / objective.name)
    with pytest.raises(InvalidInput, match=r"complete run.*Received: no run"):
        load_run(tmp_path)
