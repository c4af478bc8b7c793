"""Fitting repeats to the bit, survives a kill, and stops where it should."""

import itertools
import json
import re
import signal
import textwrap
import weakref
from dataclasses import fields, replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from activity_embeddings.training.examples.stream import ExampleStream
from activity_embeddings.training.fitting.loop import (
    CHECKPOINT,
    Fit,
    difference,
    fit_task,
    training_step,
)
from activity_embeddings.training.models import CNN
from activity_embeddings.training.objectives import FuturePositives, FuturePositivesTask, Proxy
from activity_embeddings.transformations.errors import InvalidInput
from support import processes
from support.training_data import SPEC, TRAIN, VECTOR_SPEC, turns, without_graphs

pytestmark = pytest.mark.slow

FIT = Fit(epochs=3, batch_size=64, learning_rate=5e-3)
HISTORY = turns(members=40)


def fit(validate=None, *, objective=None, settings=FIT, ensemble=1, seen=None, **options):
    """Fit a small CNN, or several; return the weights and the figures.

    With `seen`, a list, each validation adds the weights that it sees, and says they are better.
    """
    objective = objective or FuturePositives()
    keras.utils.set_random_seed(settings.seed)
    model = CNN(filters=5, convolutions=1, ensemble=ensemble).build(SPEC, VECTOR_SPEC)
    stream = objective.stream(HISTORY, TRAIN, batch_size=settings.batch_size, seed=settings.seed)
    if seen is not None:

        def validate():
            seen.append(model.get_weights())
            return {"ndcg_at_10": len(seen) / 100}

    figures = fit_task(objective.task(model, HISTORY, TRAIN), stream, validate, settings, **options)
    return model.get_weights(), figures


@pytest.fixture(scope="module")
def whole():
    """Weights and figures of a training that nothing interrupted."""
    return fit()


@pytest.fixture
def eager():
    """For what does not depend on how a step is computed."""
    with without_graphs():
        yield


def same(one, other):
    return all((a == b).all() for a, b in zip(one, other, strict=True))


def scripted(*figures):
    """A validation that says these figures, one an epoch."""
    left = iter(figures)
    return lambda: {"ndcg_at_10": next(left)}


def test_a_seed_gives_the_same_weights_and_another_gives_others(whole):
    weights, figures = whole
    again, same_figures = fit()
    assert same(weights, again)
    assert figures == same_figures
    assert [sorted(epoch) for epoch in figures] == [["loss"]] * 3
    other, _ = fit(settings=replace(FIT, seed=1))
    assert not same(weights, other)


def test_it_learns():
    _, figures = fit(settings=replace(FIT, epochs=8))
    assert figures[-1]["loss"] < 0.9 * figures[0]["loss"]


def test_the_best_epoch_is_kept_and_patience_ends_it(eager):
    settings = replace(FIT, epochs=9, patience=2)
    weights, figures = fit(scripted(0.1, 0.3, 0.2, 0.3), settings=settings)
    assert [epoch["ndcg_at_10"] for epoch in figures] == [0.1, 0.3, 0.2, 0.3]
    until_the_best, _ = fit(settings=replace(FIT, epochs=2))
    assert same(weights, until_the_best)


def test_the_moving_average_of_weights_is_what_is_validated_and_kept(eager):
    """One step an epoch, so that validation without it sees the weights of each step."""
    settings = replace(FIT, epochs=4, batch_size=10_000)
    steps, averages = [], []
    fit(seen=steps, settings=settings)
    kept, _ = fit(seen=averages, settings=replace(settings, ema_momentum=0.75))
    expected = steps[0]
    for weights, average in zip(steps, averages, strict=True):
        if weights is not steps[0]:
            expected = [0.75 * e + 0.25 * w for e, w in zip(expected, weights, strict=True)]
        for one, other in zip(average, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert not same(averages[-1], steps[-1])
    assert same(kept, averages[-1])
    without_validation, _ = fit(settings=replace(settings, ema_momentum=0.75))
    assert same(without_validation, kept)


@pytest.mark.parametrize("momentum", [0.0, 1.0, -0.1, 99])
def test_a_momentum_that_is_no_share_is_refused(momentum):
    with pytest.raises(InvalidInput, match=rf"`ema_momentum` should be between 0 .*: {momentum}"):
        Fit(ema_momentum=momentum)


@pytest.mark.parametrize(("momentum", "ensemble"), [(None, 1), (0.5, 2)])
def test_it_goes_on_where_it_ended_and_ends_where_it_would_have(tmp_path, momentum, ensemble):
    """Also the state of early stopping is that of the uninterrupted run."""
    settings = replace(FIT, epochs=6, patience=2, ema_momentum=momentum)
    figures = (0.1, 0.4, 0.3, 0.2)
    of_run = {"settings": settings, "ensemble": ensemble}
    weights, whole = fit(scripted(*figures), **of_run)

    class Stop(Exception):
        pass

    def stops_after(count):
        said = iter(figures[:count])

        def validate():
            try:
                return {"ndcg_at_10": next(said)}
            except StopIteration:
                raise Stop from None

        return validate

    with pytest.raises(Stop):
        fit(stops_after(3), run=tmp_path, **of_run)
    resumed, all_figures = fit(scripted(*figures[3:]), run=tmp_path, **of_run)
    assert all_figures == whole
    assert same(resumed, weights)
    assert len(list((tmp_path / "tensorboard").rglob("events.out.tfevents.*"))) == 2

    # A run that has ended trains no more.
    ended, _ = fit(scripted(), run=tmp_path, **of_run)
    assert same(ended, weights)


@pytest.mark.process
def test_killed_with_no_chance_to_clean_up_it_goes_on(whole, tmp_path):
    """SIGKILL while the second checkpoint is being written: the first is whole."""
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path[:0] = {[str(Path(__file__).parents[2]), str(Path(__file__).parent)]!r}
        import numpy as np
        from pathlib import Path
        saved = []
        savez = np.savez
        def dying(file, **arrays):
            saved.append(file)
            if len(saved) == 2:
                file.write(b"half")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            savez(file, **arrays)
        np.savez = dying
        import test_loop
        test_loop.fit(run=Path({str(tmp_path)!r}))
        """
    )
    done = processes.run(script)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / f".{CHECKPOINT}.writing").read_bytes() == b"half"
    weights, figures = fit(run=tmp_path)
    uninterrupted, same_figures = whole
    assert figures == same_figures
    assert same(weights, uninterrupted)


def test_every_batch_of_every_epoch_counts():
    """Also where an epoch has more of them than the first: negatives come and go."""

    class Growing(ExampleStream):
        def batches(self, epoch=0):
            yield from itertools.islice(super().batches(epoch), 2 + 2 * epoch)

    seen = []

    class Counted(FuturePositivesTask):
        def compute_loss(self, x, *args, **kwargs):
            tf.py_function(lambda: seen.append(1), [], [])
            return super().compute_loss(x, *args, **kwargs)

    objective = FuturePositives()
    stream = objective.stream(HISTORY, TRAIN, batch_size=16)
    growing = Growing(**{field.name: getattr(stream, field.name) for field in fields(stream)})
    task = Counted(CNN(filters=5).build(SPEC, VECTOR_SPEC), HISTORY, TRAIN, objective)
    fit_task(task, growing, None, FIT)
    assert len(seen) == 2 + 4 + 6


def test_no_group_is_alive_while_the_next_is_made(eager):
    """A step holds a copy of its batch, and not the group that the batch is a part of."""
    made, alive = [], []

    class Watched(ExampleStream):
        def groups(self, epoch=0):
            for arrays, random in super().groups(epoch):
                alive.append(sum(reference() is not None for reference in made))
                made.append(weakref.ref(arrays["item_rows"]))
                yield arrays, random
                del arrays

    objective = FuturePositives()
    stream = objective.stream(HISTORY, TRAIN, batch_size=16)
    given = {field.name: getattr(stream, field.name) for field in fields(stream)}
    task = objective.task(CNN(filters=5).build(SPEC, VECTOR_SPEC), HISTORY, TRAIN)
    fit_task(task, Watched(**given | {"members_at_once": 7}), None, replace(FIT, epochs=1))
    assert len(alive) > 5
    assert set(alive) == {0}


def test_the_norm_of_gradients_is_that_of_whole_tables():
    """Rows that a batch looks up more than once count with the sum of what they get.

    A weight that the loss does not depend on, as one of a user's network may be, stays.
    """

    class Sum(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = keras.layers.Embedding(3, 2, embeddings_initializer="zeros")
            self.unused = keras.layers.Dense(1)
            self.unused.build((1, 1))

        def call(self, inputs, training=None):
            return keras.ops.sum(self.table(inputs["rows"]), axis=1)

        def compute_loss(self, x=None, y=None, y_pred=None, **_):
            return keras.ops.sum(y_pred)

    batch = {"rows": np.array([0, 0, 0, 2], np.int32)}  # the gradient is 3, 0, 1 in each column
    task = Sum()
    task(batch)
    optimizer = keras.optimizers.SGD(1.0, global_clipnorm=0.5)
    optimizer.build(task.trainable_variables)
    before = task.unused.get_weights()
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        training_step(task, optimizer, batch)(batch)
    assert same(task.unused.get_weights(), before)
    (table,) = task.table.get_weights()
    expected = np.array([3, 0, 1])[:, None] * [1, 1] / np.sqrt(20)
    np.testing.assert_allclose(table, -0.5 * expected, rtol=1e-5)


def test_a_checkpoint_of_another_run_is_refused(eager, tmp_path):
    fit(run=tmp_path, identity={"model": "cnn"}, settings=replace(FIT, epochs=1))
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(InvalidInput, match=r"checkpoint.*one with `model` 'cnn' instead of 'lstm'"):
        fit(run=tmp_path, identity={"model": "lstm"}, settings=replace(FIT, epochs=1))
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_where_runs_differ_is_said_by_the_first_value_that_does():
    wanted = {"model": "cnn", "fit": {"epochs": 3, "seed": 0}, "data": {"events": 9}}
    same = json.loads(json.dumps(wanted, sort_keys=True))
    assert difference(same, wanted) is None
    assert difference({"data": {}, "fit": {"epochs": 2}, "model": "lstm"}, wanted) == (
        "`model` 'lstm' instead of 'cnn'"
    )
    assert difference({**wanted, "fit": {"epochs": 3, "seed": 1}}, wanted) == (
        "`fit.seed` 1 instead of 0"
    )
    assert difference({**wanted, "fit": None}, wanted) == (
        "`fit` None instead of {'epochs': 3, 'seed': 0}"
    )


def test_each_epoch_ends_with_a_line_that_has_its_figures(eager, capsys):
    fit(scripted(0.1, 0.25, 0.2), verbose=1)
    *lines, last = capsys.readouterr().err.split("\n")
    assert (len(lines), last) == (3, "")
    lines = [line.split("\r")[-1] for line in lines]  # what stays of each
    for number, (line, figure) in enumerate(zip(lines, ("0.1", "0.25", "0.2"), strict=True), 1):
        assert line.startswith(f"epoch {number} of at most 3: ")
        assert re.search(rf"loss=[\d.]+, ndcg_at_10={figure}\b", line), line
    fit(scripted(0.1, 0.2, 0.3))
    assert capsys.readouterr().err == ""


def test_tensorboard_has_the_figures_of_each_epoch(eager, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, figures = fit(scripted(0.1, 0.2, 0.3), run=tmp_path)
    (folder,) = {f.parent for f in (tmp_path / "tensorboard").rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    tensors = events.Tensors("ndcg_at_10")
    assert [t.step for t in tensors] == [0, 1, 2]
    logged = [float(tf.make_ndarray(t.tensor_proto)) for t in tensors]
    np.testing.assert_allclose(logged, [epoch["ndcg_at_10"] for epoch in figures], rtol=1e-6)


def test_a_loss_that_is_no_number_ends_it_and_leaves_no_checkpoint(tmp_path):
    settings = replace(FIT, learning_rate=1e30, clip_norm=1e30)
    with pytest.raises(InvalidInput, match=r"finite loss in epoch \d.*smaller learning rate"):
        fit(settings=settings, run=tmp_path, objective=Proxy(), validate=scripted(0.1, 0.1, 0.1))


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"patience": 0}, {"batch_size": 0}, {"learning_rate": 0.0}]
)
def test_settings_are_checked(wrong):
    (name,) = wrong
    with pytest.raises(InvalidInput, match=f"`{name}` should be .*Received: "):
        Fit(**wrong)


def test_settings_are_json():
    assert json.loads(json.dumps(FIT.to_dict())) == FIT.to_dict()
