"""Search the hyperparameters of a model with Optuna.

A network is searched with TPE. For an average, every r on a grid is tried. The study is a sqlite
file: a search that was killed is resumed, and any of Optuna's tools can show the trials. All trials
are kept, the bad ones too. What a trial tries depends on the seed, its number and the trials before
it alone, so that a search in parts tries the same as one in one go.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from activity_embeddings.training.figure import FIGURE
from activity_embeddings.training.fitting.plan import TrainingPlan
from activity_embeddings.training.fitting.train import TrainedRun, train
from activity_embeddings.training.models import Architecture, architecture
from activity_embeddings.transformations.errors import InvalidInput, require_at_least
from activity_embeddings.transformations.files import make_folder
from activity_embeddings.transformations.wording import counted

STUDY = "study.db"
PLOT = "search.png"
LEARNING_RATES = (1e-4, 3e-3)

Figure = Callable[[TrainedRun], float]
"""What a trial is judged by, larger is better."""


def validation_figure(trained: TrainedRun) -> float:
    """Return NDCG@10 of the validation period."""
    return trained.figure


def tune(
    model: str,
    plan: TrainingPlan,
    folder: Path,
    *,
    trials: int,
    figure: Figure = validation_figure,
    verbose: int = 0,
) -> optuna.Study:
    """Search until the study has `trials` complete trials, and draw it.

    Parameters
    ----------
    model
        Name of the architecture; its `suggest` says what is searched.
    plan
        Of every trial. The seed of its fit is that of the search too. The learning rate of
        networks is searched.
    folder
        Holds `study.db`, `search.png` and a folder for each trial's run.
    trials
        Number of complete trials in all. A grid ends earlier, when it has been tried whole.
    figure
        What a trial is judged by.
    verbose
        See `train`.

    Returns
    -------
    optuna.Study
        With `best_trial`; its run is in the folder `trial-<number>`.

    Raises
    ------
    InvalidInput
        See `train`; `trials` is below 1; or the folder holds a study of another model or plan.
    """
    require_at_least("tune", 1, trials=trials)
    kind = architecture(model)
    folder = make_folder(folder)
    storage = f"sqlite:///{folder / STUDY}"
    others = [name for name in optuna.get_all_study_names(storage) if name != model]
    if others:
        raise InvalidInput(
            f"{folder / STUDY}: expected a study of {model!r}. Received: one of {others[0]!r}. "
            "Name another folder, or remove this one"
        )
    study = optuna.create_study(
        study_name=model,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
    )
    about = plan.facts()
    del about["fit"]["learning_rate"]  # which is searched
    _require_same(study, about, folder)

    def run(trial: optuna.Trial) -> float:
        chosen = kind.suggest(trial)
        fit = plan.fit
        if kind.trainable:
            rate = trial.suggest_float("learning_rate", *LEARNING_RATES, log=True)
            fit = replace(fit, learning_rate=rate)
        trained = train(
            chosen,
            replace(plan, fit=fit),
            run=folder / f"trial-{trial.number}",
            verbose=verbose,
        )
        for name, value in trained.result["metrics"]["validation"].items():
            trial.set_user_attr(name, value)
        return figure(trained)

    grid = None if kind.trainable else _grid(kind, plan.fit.seed)
    while len(complete := _complete(study)) < trials:
        seed = int(np.random.SeedSequence([plan.fit.seed, len(study.trials)]).generate_state(1)[0])
        if grid is None:
            study.sampler = optuna.samplers.TPESampler(seed=seed)
        else:
            tried = [trial.params for trial in complete]
            left = [values for values in grid if values not in tried]
            if not left:
                break
            study.sampler = _only(left[0])
        study.optimize(run, n_trials=1)
    _draw(study, folder / PLOT)
    return study


def _complete(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=[optuna.trial.TrialState.COMPLETE])


def _grid(kind: type[Architecture], seed: int) -> list[dict[str, Any]]:
    """Return all hyperparameters that an average may be suggested, in the order of trials."""

    def suggested(trial: optuna.Trial) -> float:
        kind.suggest(trial)
        return 0.0

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with _experimental():
            study = optuna.create_study(sampler=optuna.samplers.BruteForceSampler(seed=seed))
        study.optimize(suggested)  # ends by itself
    finally:
        optuna.logging.set_verbosity(level)
    return [trial.params for trial in study.trials]


def _only(values: dict[str, Any]) -> optuna.samplers.BaseSampler:
    """Return what suggests these values.

    Optuna's own search of a grid never tries those of a trial that was killed.
    """
    with _experimental():
        return optuna.samplers.PartialFixedSampler(values, optuna.samplers.RandomSampler())


@contextmanager
def _experimental() -> Iterator[None]:
    """Make a sampler that is experimental, which users of a command need not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _require_same(study: optuna.Study, about: dict[str, Any], folder: Path) -> None:
    """Record the facts of a new study, or check that those of an existing one are the same."""
    about = json.loads(json.dumps(about))  # as the study has them
    known = study.user_attrs.get("about")
    if known is None:
        study.set_user_attr("about", about)
        return
    different = [key for key in about if known.get(key) != about[key]]
    if different:
        key = different[0]
        raise InvalidInput(
            f"{folder / STUDY}: expected a study with `{key}` {about[key]!r}. "
            f"Received: one with {known.get(key)!r}. Name another folder, or remove this one"
        )


def _draw(study: optuna.Study, file: Path) -> None:
    """Draw every trial's figure: over the search, and over each hyperparameter."""
    from matplotlib.figure import Figure as Canvas

    trials = _complete(study)
    searched = sorted({name for trial in trials for name in trial.params})
    columns = min(3, 1 + len(searched))
    rows = -(-(1 + len(searched)) // columns)
    canvas = Canvas(figsize=(4.5 * columns, 3.2 * rows), layout="constrained")
    axes = canvas.subplots(rows, columns, squeeze=False).ravel()
    values = [float(trial.values[0]) for trial in trials]
    best = [max(values[: i + 1]) for i in range(len(values))]
    axes[0].plot([t.number for t in trials], values, "o", color="tab:blue", label="trial")
    axes[0].plot([t.number for t in trials], best, color="tab:orange", label="best so far")
    axes[0].set(xlabel="trial", ylabel=f"validation {FIGURE}")
    axes[0].legend()
    for axis, name in zip(axes[1:], searched, strict=False):
        given = [(t.params[name], t.value) for t in trials if name in t.params]
        numeric = all(isinstance(x, int | float) and not isinstance(x, bool) for x, _ in given)
        given.sort(key=lambda pair: pair[0] if numeric else str(pair[0]))
        x = [value if numeric else str(value) for value, _ in given]
        axis.plot(x, [y for _, y in given], "o-" if len(searched) == 1 else "o")
        axis.set(xlabel=name)
        if name == "learning_rate":
            axis.set_xscale("log")
    for axis in axes[1 + len(searched) :]:
        axis.set_axis_off()
    canvas.suptitle(f"{study.study_name}: {counted(len(trials), 'trial')}")
    canvas.savefig(file, dpi=120)
