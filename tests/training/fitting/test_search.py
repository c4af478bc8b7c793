"""A search of hyperparameters: in parts as in one go, each value of a grid once, on one plan."""

from dataclasses import dataclass, replace
from typing import ClassVar

import optuna
import pytest

from activity_embeddings.training.fitting.loop import Fit
from activity_embeddings.training.fitting.plan import TrainingPlan
from activity_embeddings.training.fitting.search import STUDY, tune
from activity_embeddings.training.models import InterleavedDecay, register, registry
from activity_embeddings.training.models.averages import DECAYS
from activity_embeddings.transformations.errors import InvalidInput
from support.training_data import SPEC, TRAIN, VALIDATION, VECTOR_SPEC, turns

pytestmark = pytest.mark.slow

HISTORY = turns(members=20)


def plan(**changes):
    given = {"history": HISTORY, "vector_spec": VECTOR_SPEC, "period": TRAIN}
    return TrainingPlan(**{**given, "validation": VALIDATION, **changes})


def complete(study):
    return study.get_trials(states=[optuna.trial.TrialState.COMPLETE])


@pytest.fixture
def searched(monkeypatch):
    """A model that is searched as networks are, and needs no training."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))

    @register("searched")
    @dataclass(frozen=True, kw_only=True)
    class Searched(InterleavedDecay):
        trainable: ClassVar[bool] = True

        @classmethod
        def suggest(cls, trial):
            return cls(r=trial.suggest_float("r", 0.1, 0.99))

    return "searched"


def test_a_search_in_parts_tries_what_one_in_one_go_does(searched, tmp_path):
    whole = tune(searched, plan(), tmp_path / "whole", trials=12)
    for trials in (4, 8, 12):
        parts = tune(searched, plan(), tmp_path / "parts", trials=trials)
        assert len(parts.trials) == trials
    assert [t.params for t in parts.trials] == [t.params for t in whole.trials]
    assert len({t.params["r"] for t in whole.trials}) == 12
    other = tune(searched, plan(fit=Fit(seed=1)), tmp_path / "other", trials=1)
    assert other.trials[0].params != whole.trials[0].params


def test_a_grid_that_was_tried_whole_is_not_tried_again(tmp_path):
    for trials in (3, 99, 99):
        study = tune("interleaved_decay", plan(), tmp_path, trials=trials)
    assert sorted(trial.params["r"] for trial in study.trials) == sorted(DECAYS)
    study = tune("unweighted_average", plan(), tmp_path / "one", trials=2)
    assert [trial.params for trial in study.trials] == [{}]


def test_a_value_of_a_grid_whose_trial_was_killed_is_tried_by_the_next(tmp_path):
    tune("interleaved_decay", plan(), tmp_path, trials=2)
    study = optuna.load_study(
        study_name="interleaved_decay", storage=f"sqlite:///{tmp_path / STUDY}"
    )
    (left, *_) = sorted(set(DECAYS) - {trial.params["r"] for trial in study.trials})
    study.enqueue_trial({"r": left})
    InterleavedDecay.suggest(study.ask())  # and no more of it
    tune("interleaved_decay", plan(), tmp_path, trials=99)
    assert sorted(trial.params["r"] for trial in complete(study)) == sorted(DECAYS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"history": turns(members=20, seed=1)}, "`data`"),
        ({"history": replace(HISTORY, spec=replace(SPEC, length=4))}, "`spec`"),
        ({"fit": Fit(epochs=3)}, "`fit`"),
        ({"fit": Fit(seed=1)}, "`fit`"),
        ({"refit": True}, "`refit`"),
    ],
)
def test_a_study_of_other_data_or_settings_is_refused(change, says, tmp_path):
    tune("unweighted_average", plan(), tmp_path, trials=1)
    with pytest.raises(InvalidInput, match=rf"expected a study with {says}.*Name another folder"):
        tune("unweighted_average", plan(**change), tmp_path, trials=2)


def test_a_study_of_another_model_is_refused_every_time(tmp_path):
    tune("unweighted_average", plan(), tmp_path, trials=1)
    for _ in range(2):
        with pytest.raises(
            InvalidInput, match=r"study of 'interleaved_decay'. Received: one of 'u"
        ):
            tune("interleaved_decay", plan(), tmp_path, trials=1)


def test_a_study_is_the_same_whatever_the_learning_rate_which_is_searched(tmp_path):
    for rate in (1e-3, 2e-3):
        fit = Fit(learning_rate=rate)
        study = tune("unweighted_average", plan(fit=fit), tmp_path, trials=1)
    assert len(study.trials) == 1
