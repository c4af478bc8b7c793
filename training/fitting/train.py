"""Train one activity model: architecture, objective and data in, a model to package out.

The folder of a run holds all that is needed to resume it, and its result:

    run.json          architecture, objective, settings, periods, data: what makes it this run
    checkpoint.npz    the state after the last epoch, from which a killed run is resumed
    tensorboard/      the figures of each epoch
    result.json       figures and counts, written last: with it, the run is complete
    best.npz          the weights of the best epoch, or of the last one of refitting
    refit             checkpoint and figures of refitting, where there is any
    sequences.npz     what the model reads of some members, to be compared on when it is packaged
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from activity_embeddings.training.figure import FIGURE
from activity_embeddings.training.fitting.embed import (
    decayed_average,
    embed_with,
    sequences_of_members,
)
from activity_embeddings.training.fitting.loop import difference, fit_task, save_arrays
from activity_embeddings.training.fitting.plan import TrainingPlan
from activity_embeddings.training.fitting.validation import MOST_MEMBERS, ValidationQueries
from activity_embeddings.training.models import Architecture, architecture
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import make_folder, replace_file, write_text
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.wording import share

RUN = "run.json"
RESULT = "result.json"
BEST = "best.npz"
SEQUENCES = "sequences.npz"
REFIT = "refit"
RIVALS = {"mean": 1.0, "decay_0.9": 0.9}
"""Averages whose validation figures stand beside a model's."""


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """A trained model, and the facts of its training.

    Attributes
    ----------
    model
        What `package_model` takes.
    identity
        JSON values that say which run it was; see `RUN`.
    result
        JSON values: `training`, `metrics`, `parameters`, for the manifest.
    sequences
        What the model reads of some members at the end of validation: arrays [n, L] and [n, L, D]
        by name. None for a run of before they were kept.
    """

    model: keras.Model | tf.Module
    identity: Mapping[str, Any]
    result: Mapping[str, Any]
    sequences: Mapping[str, np.ndarray] | None = None

    @property
    def figure(self) -> float:
        """The validation figure of the best epoch, larger is better."""
        return self.result["metrics"]["validation"][FIGURE]

    def package(self, path: Path, *, name: str, version: str, **facts: Any) -> ModelDescription:
        """Split the activity model off and package it; see `package_model`.

        Parameters
        ----------
        path
            Folder of the SavedModel.
        name, version
            What the registry calls it.
        **facts
            JSON values for the manifest, beside those of training.
        """
        return package_model(
            self.model,
            path,
            name=name,
            version=version,
            spec=ActivitySpec.from_dict(self.identity["spec"]),
            vector_spec=ItemVectorSpec(**self.identity["vector_spec"]),
            sequences=self.sequences,
            code_version=self.identity["code_version"],
            **{**self.result, **facts},
        )


def train(
    model: Architecture, plan: TrainingPlan, *, run: Path | None = None, verbose: int = 0
) -> TrainedRun:
    """Train a model on one period and choose its best epoch on a later one.

    With `plan.refit` it is then trained from scratch on both, for as many epochs as were best. A
    model that is not trainable, an average, is measured only.

    Parameters
    ----------
    model
        Architecture and hyperparameters.
    plan
        Data, periods, objective and settings.
    run
        Folder of the run. A run that was killed is resumed, and a complete one is read.
    verbose
        1 prints the label balance, and a progress bar and figures for each epoch; of a complete
        run it says that nothing is trained.

    Raises
    ------
    InvalidInput
        There is too little data or of one class only, or the folder holds another run. Nothing is
        packaged.
    """
    identity = plan.identity(model)
    if run is not None:
        _claim(run, identity)
        if (run / RESULT).is_file():
            if verbose:
                print(f"{run}: the run was complete, nothing is trained", flush=True)
            return load_run(run)

    keras.utils.set_random_seed(plan.fit.seed)
    built = model.build(plan.history.spec, plan.vector_spec)
    queries = ValidationQueries.of(plan.history, plan.validation, most_members=MOST_MEMBERS)
    if isinstance(built, keras.Model):
        training, measured = _fit(built, plan, queries, run, identity, verbose)
        if plan.refit:
            built = _refitted(model, plan, training["best_epoch"], run, identity, verbose)
    else:
        training = {"objective": None, "examples": {}, "epochs": 0, "best_epoch": 0, "history": []}
        measured = queries.measure(embed_with(built, plan.history.spec))

    result = {
        "training": {
            **training,
            "period": plan.period.to_dict(),
            "validation": plan.validation.to_dict(),
            "refit": plan.refit and training["epochs"] > 0,
            "data": identity["data"],
        },
        "metrics": {
            "validation": measured,
            "validation_queries": len(queries),
            "rivals": {
                "popularity": {FIGURE: queries.popularity()},
                **{name: queries.measure(decayed_average(r)) for name, r in RIVALS.items()},
            },
        },
        "parameters": {
            "architecture": model.name,
            **model.to_dict(),
            "fit": plan.fit.to_dict() if training["epochs"] else None,
            "weights": built.count_params() if isinstance(built, keras.Model) else 0,
        },
    }
    sequences = sequences_of_members(built, plan.history, plan.validation.end_us)
    trained = TrainedRun(built, identity, result, sequences)
    if run is not None:
        _write_result(run, trained)
    return trained


def _fit(
    model: keras.Model,
    plan: TrainingPlan,
    queries: ValidationQueries,
    run: Path | None,
    identity: dict[str, Any],
    verbose: int,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Train a network in place; return what is said of it and the figures of its best epoch."""
    history, fit = plan.history.reading(model.input), plan.fit
    balance = plan.objective.balance(history, plan.period, seed=fit.seed)
    if verbose:
        for name, counts in balance.items():
            if sum(counts.values()):  # or there will be an error
                print(f"{name}: {_shares(counts)}", flush=True)
    embed = embed_with(model, history.spec)
    epochs = fit_task(
        plan.objective.task(model, history, plan.period),
        plan.objective.stream(history, plan.period, batch_size=fit.batch_size, seed=fit.seed),
        lambda: queries.measure(embed),
        fit,
        run=run,
        identity=identity,
        verbose=verbose,
    )
    best = max(epochs, key=lambda figures: figures[FIGURE])
    training = {
        "objective": plan.objective.to_dict(),
        "examples": balance,
        "epochs": len(epochs),
        "best_epoch": 1 + epochs.index(best),
        "history": epochs,
    }
    return training, {name: value for name, value in best.items() if name != "loss"}


def _refitted(
    model: Architecture,
    plan: TrainingPlan,
    epochs: int,
    run: Path | None,
    identity: dict[str, Any],
    verbose: int,
) -> keras.Model:
    """Return the network as trained from scratch on the days of training and validation."""
    keras.utils.set_random_seed(plan.fit.seed)
    built = model.build(plan.history.spec, plan.vector_spec)
    history, whole = plan.history.reading(built.input), plan.whole
    fit = replace(plan.fit, epochs=epochs)
    fit_task(
        plan.objective.task(built, history, whole),
        plan.objective.stream(history, whole, batch_size=fit.batch_size, seed=fit.seed),
        None,
        fit,
        run=None if run is None else run / REFIT,
        identity=identity,
        verbose=verbose,
    )
    return built


def load_run(run: Path) -> TrainedRun:
    """Return what a complete run left in its folder.

    Raises
    ------
    InvalidInput
        The folder holds no complete run.
    """
    if not (run / RESULT).is_file():
        raise InvalidInput(
            f"{run}: expected the folder of a complete run, with {RUN} and {RESULT}. Received: "
            + (
                "a run that has not ended; run the same training again to resume it"
                if (run / RUN).is_file()
                else "no run"
            )
        )
    identity = json.loads((run / RUN).read_text(encoding="utf-8"))
    result = json.loads((run / RESULT).read_text(encoding="utf-8"))
    hyperparameters = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in identity["hyperparameters"].items()
    }
    built = architecture(identity["model"])(**hyperparameters).build(
        ActivitySpec.from_dict(identity["spec"]), ItemVectorSpec(**identity["vector_spec"])
    )
    if isinstance(built, keras.Model):
        with np.load(run / BEST, allow_pickle=False) as weights:
            built.set_weights([weights[f"weight_{i}"] for i in range(len(weights))])
    sequences = None
    if (run / SEQUENCES).is_file():
        with np.load(run / SEQUENCES, allow_pickle=False) as arrays:
            sequences = dict(arrays)
    return TrainedRun(built, identity, result, sequences)


def _claim(run: Path, identity: Mapping[str, Any]) -> None:
    """Write down which run the folder is for, or check that it is for this one."""
    file = run / RUN
    if not file.is_file():
        make_folder(run)
        write_text(file, json.dumps(identity, indent=2) + "\n")
        return
    differs = difference(json.loads(file.read_text(encoding="utf-8")), identity)
    if differs is not None:
        raise InvalidInput(
            f"{run}: expected a new folder or one of the same run. Received: one with {differs}. "
            "Name another folder, or remove this one"
        )


def _write_result(run: Path, trained: TrainedRun) -> None:
    built, sequences = trained.model, trained.sequences
    if isinstance(built, keras.Model):
        weights = {f"weight_{i}": value for i, value in enumerate(built.get_weights())}
        replace_file(run / BEST, lambda aside: save_arrays(aside, weights))
    if sequences is not None:
        replace_file(run / SEQUENCES, lambda aside: save_arrays(aside, sequences))
    text = json.dumps(trained.result, indent=2) + "\n"
    write_text(run / RESULT, text)


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    parts = (f"{name} {n:,} ({share(n, total, digits=0)})" for name, n in counts.items())
    return ", ".join(parts)
