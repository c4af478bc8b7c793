"""Train one activity model: architecture, objective and data in, a model to package out.

A run's folder holds what says it again and what came of it:

    run.json          architecture, objective, settings, periods, data: what makes it this run
    checkpoint.npz    the state after the last epoch; a run that was killed goes on from it
    tensorboard/      the figures of each epoch
    result.json       figures and counts, written last: with it, the run is complete
    best.npz          the weights of the best epoch
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.loop import VALIDATION, Fit, fit_task, save_arrays
from activity_embeddings.training.fitting.validation import (
    RankingQueries,
    decayed_average,
    embed_with,
)
from activity_embeddings.training.models import Architecture, architecture
from activity_embeddings.training.objectives import NextPositive, Objective
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import make_folder, replace_file
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.wording import share

RUN = "run.json"
RESULT = "result.json"
BEST = "best.npz"
RIVALS = {"mean": 1.0, "decay_0.9": 0.9}
"""Averages whose validation figures stand beside a model's."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and what is to be said of it.

    Attributes
    ----------
    model : what `package_model` takes.
    identity : JSON values that say which run it was; see `RUN`.
    result : JSON values: `training`, `metrics`, `parameters`, for the manifest.
    """

    model: keras.Model | tf.Module
    identity: Mapping[str, Any]
    result: Mapping[str, Any]

    @property
    def figure(self) -> float:
        """The validation figure of the best epoch, larger is better."""
        return self.result["metrics"]["validation"][VALIDATION]

    def package(self, path: Path, *, name: str, version: str, **facts: Any) -> ModelDescription:
        """Split the activity model off and package it; see `package_model`.

        Parameters
        ----------
        path : folder of the SavedModel.
        name, version : what the registry calls it.
        **facts : JSON values for the manifest, beside those of training.
        """
        return package_model(
            self.model,
            path,
            name=name,
            version=version,
            spec=ActivitySpec.from_dict(self.identity["spec"]),
            vector_spec=ItemVectorSpec(**self.identity["vector_spec"]),
            code_version=self.identity["code_version"],
            **{**self.result, **facts},
        )


def train(
    model: Architecture,
    history: ActivityHistory,
    *,
    vector_spec: ItemVectorSpec,
    period: Period,
    validation: Period,
    objective: Objective | None = None,
    fit: Fit | None = None,
    run: Path | None = None,
    verbose: int = 0,
) -> Trained:
    """Train a model on one period and choose its best epoch on a later one.

    A model that is not trainable, an average, is measured only.

    Parameters
    ----------
    model : architecture and hyperparameters.
    history : events and vectors; events after the validation period are not looked at.
    vector_spec : which vectors these are: the model will refuse others.
    period, validation : of the held-out activities; validation begins where the period ends or
        later.
    objective : what the model learns to do, default `NextPositive()`.
    fit : epochs, steps and seed, default `Fit()`.
    run : folder of the run. A run that was killed goes on, and a complete one is read.
    verbose : 1 prints the label balance and shows a progress bar for each epoch.

    Returns
    -------
    Trained

    Raises
    ------
    InvalidInput
        The periods overlap, there is too little data or of one class only, or the folder holds
        another run. Nothing is packaged.
    """
    if validation.start < period.end:
        raise InvalidInput(
            f"training: `validation` should begin where `period` ends or later. Received: "
            f"validation from {validation.start}, training until {period.end}"
        )
    objective, fit = objective or NextPositive(), fit or Fit()
    identity = {
        "model": model.name,
        "hyperparameters": model.to_dict(),
        "objective": objective.to_dict(),
        "fit": fit.to_dict(),
        "spec": history.spec.to_dict(),
        "vector_spec": vector_spec.to_dict(),
        "period": period.to_dict(),
        "validation": validation.to_dict(),
        "data": fingerprints(history, validation.end_us),
        "code_version": version("activity-embeddings"),
    }
    if run is not None:
        _claim(run, identity)
        if (run / RESULT).is_file():
            return load_run(run)

    keras.utils.set_random_seed(fit.seed)
    built = model.build(history.spec, vector_spec)
    queries = RankingQueries.of(history, validation)
    epochs: list[dict[str, float]] = []
    balance: dict[str, Any] = {}
    if isinstance(built, keras.Model):
        balance = objective.balance(history, period, seed=fit.seed)
        if verbose:
            for name, counts in balance.items():
                print(f"{name}: {_shares(counts)}", flush=True)
        embed = embed_with(built, history.spec)
        epochs = fit_task(
            objective.task(built, history, period),
            objective.stream(history, period, batch_size=fit.batch_size, seed=fit.seed),
            lambda: queries.measure(embed),
            fit,
            run=run,
            identity=identity,
            verbose=verbose,
        )
        best = max(epochs, key=lambda figures: figures[VALIDATION])
        measured = {name: value for name, value in best.items() if name != "loss"}
    else:
        measured = queries.measure(embed_with(built, history.spec))

    result = {
        "training": {
            "objective": objective.to_dict() if epochs else None,
            "period": period.to_dict(),
            "validation": validation.to_dict(),
            "examples": balance,
            "epochs": len(epochs),
            "best_epoch": 1 + epochs.index(best) if epochs else 0,
            "history": epochs,
            "data": identity["data"],
        },
        "metrics": {
            "validation": measured,
            "validation_queries": len(queries),
            "rivals": {
                "popularity": {VALIDATION: queries.popularity()},
                **{name: queries.measure(decayed_average(r)) for name, r in RIVALS.items()},
            },
        },
        "parameters": {
            "architecture": model.name,
            **model.to_dict(),
            "fit": fit.to_dict() if epochs else None,
            "weights": built.count_params() if isinstance(built, keras.Model) else 0,
        },
    }
    if run is not None:
        _write_result(run, built, result)
    return Trained(built, identity, result)


def load_run(run: Path) -> Trained:
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
                "a run that has not ended; train it again to go on"
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
    return Trained(built, identity, result)


def _claim(run: Path, identity: Mapping[str, Any]) -> None:
    """Write down which run the folder is for, or check that it is for this one."""
    file = run / RUN
    text = json.dumps(identity, indent=2, sort_keys=True) + "\n"
    if not file.is_file():
        make_folder(run)
        replace_file(file, lambda aside: aside.write_text(text, encoding="utf-8"))
        return
    known = json.loads(file.read_text(encoding="utf-8"))
    wanted = json.loads(text)
    different = [key for key in wanted if known.get(key) != wanted[key]]
    if different:
        key = different[0]
        raise InvalidInput(
            f"{run}: expected a new folder or one of the same run. Received: one with "
            f"`{key}` {known.get(key)!r} instead of {wanted[key]!r}. Name another folder, or "
            "remove this one"
        )


def _write_result(run: Path, built: keras.Model | tf.Module, result: Mapping[str, Any]) -> None:
    if isinstance(built, keras.Model):
        weights = {f"weight_{i}": value for i, value in enumerate(built.get_weights())}
        replace_file(run / BEST, lambda aside: save_arrays(aside, weights))
    text = json.dumps(result, indent=2, sort_keys=True) + "\n"
    replace_file(run / RESULT, lambda aside: aside.write_text(text, encoding="utf-8"))


def fingerprints(history: ActivityHistory, end: int | None = None) -> dict[str, Any]:
    """Return counts and hashes of the data, so that a manifest says what a model was made from.

    Parameters
    ----------
    history : events and vectors.
    end : events from then on do not count, microseconds since the epoch; None: all do.
    """
    events, vectors = history.events, history.vectors
    if end is not None:
        events = events.where(events.time < end)
    ids = str(events.member_ids.to_pylist()).encode()
    item_ids = str(vectors.item_ids.to_pylist()).encode()
    return {
        "events": len(events),
        "members": int((np.diff(events.member_start) > 0).sum()),
        "items": len(vectors.item_ids),
        "events_fingerprint": _hash(
            ids, events.member_start, events.item, events.action, events.time
        ),
        "item_vectors_fingerprint": _hash(item_ids, vectors.start, vectors.time, vectors.matrix),
    }


def _hash(*parts: bytes | np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    parts = (f"{name} {n:,} ({share(n, total, digits=0)})" for name, n in counts.items())
    return ", ".join(parts)
