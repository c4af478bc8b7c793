"""Commands that train an activity model, search its hyperparameters and package it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from activity_embeddings.training.commands.options import (
    FOLDER,
    FitOptions,
    Setting,
    fit_options,
    given_options,
    grouped,
    learning_rate_option,
    objective_with,
    training,
    with_settings,
)
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.transformations.cli import Moment, item_option, open_store, require_repo
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.wording import counted

if TYPE_CHECKING:
    from activity_embeddings.training.fitting.plan import TrainingPlan
    from activity_embeddings.training.fitting.train import TrainedRun
    from activity_embeddings.training.models import Architecture
    from activity_embeddings.training.objectives import Objective

_FITTING = frozenset(
    {field.name for field in fields(FitOptions)} - {"seed"}  # which names the folder, too
    | {"learning_rate", "refit", "objective_name", "objective_settings"}
)
"""Parameters that only a model which is fitted reads."""
version_option = click.option(
    "--version",
    default="1",
    show_default=True,
    help="Version of the model that is packaged; a changed one needs a new version.",
)


@dataclass(frozen=True)
class PlanOptions:
    """The options of periods and objective that `train` and `tune` share."""

    start: datetime
    validate_from: datetime
    until: datetime
    objective_name: str
    objective_settings: tuple[tuple[str, Any], ...]
    item: str | None

    def plan(self, repo: Path, **fit: Any) -> TrainingPlan:
        """Return the plan that these options make with the data of a feature repo.

        Parameters
        ----------
        repo
            The feature repo.
        **fit
            Fields of `Fit`.
        """
        from activity_embeddings.training.examples.periods import Period
        from activity_embeddings.training.fitting.loop import Fit
        from activity_embeddings.training.fitting.plan import TrainingPlan
        from activity_embeddings.training.from_repo import TrainingSource

        # Before the data are read, which takes longer than to refuse an option.
        if not self.start < self.validate_from < self.until:
            raise InvalidInput(
                "--from, --validate-from and --until should follow each other. Received: "
                f"{self.start}, {self.validate_from}, {self.until}"
            )
        period = Period(self.start, self.validate_from)
        validation = Period(self.validate_from, self.until)
        objective = self._objective()
        fitted = Fit(**fit)
        source = TrainingSource(open_store(repo), self.item)
        return TrainingPlan(
            history=source.history(Period(self.start, self.until)),
            vector_spec=source.vector_spec,
            period=period,
            validation=validation,
            objective=objective,
            fit=fitted,
        )

    def _objective(self) -> Objective:
        from activity_embeddings.training.objectives import OBJECTIVES

        name = self.objective_name
        if name not in OBJECTIVES:
            raise InvalidInput(
                f"--objective should be one of {', '.join(sorted(OBJECTIVES))}. Received: {name!r}"
            )
        objective: Objective = objective_with(OBJECTIVES[name], self.objective_settings)
        return objective


plan_options = grouped(
    "options",
    PlanOptions,
    click.option("--from", "start", type=Moment(), required=True, help="Start of training."),
    click.option(
        "--validate-from",
        type=Moment(),
        required=True,
        help="End of training and start of validation.",
    ),
    click.option(
        "--until",
        type=Moment(),
        required=True,
        help="End of validation. No later event is read.",
    ),
    click.option(
        "--objective",
        "objective_name",
        default="next_positive",
        show_default=True,
        help="What to learn: next_positive, next_session, future_positives, or proxy, the original "
        "task.",
    ),
    click.option(
        "--objective-set",
        "objective_settings",
        type=Setting(),
        multiple=True,
        help="Setting of the objective, as horizon_days=7; repeatable.",
    ),
    item_option,
)


@click.command()
@click.argument("model")
@plan_options
@fit_options
@learning_rate_option
@click.option(
    "--refit",
    is_flag=True,
    help="Then train from scratch on the days of validation too, for as many epochs as were best.",
)
@click.option(
    "--set",
    "settings",
    type=Setting(),
    multiple=True,
    help="Hyperparameter, as filters=64; repeatable.",
)
@click.option(
    "--run",
    type=FOLDER,
    help="Folder of the run, default runs/MODEL-SEED. A run that was killed is resumed.",
)
@click.option("--package", "name", metavar="NAME", help="Package it, too, in models/NAME.")
@version_option
@click.pass_obj
def train(
    repo: Path,
    model: str,
    options: PlanOptions,
    fit: FitOptions,
    settings: tuple[tuple[str, Any], ...],
    learning_rate: float | None,
    refit: bool,
    run: Path | None,
    name: str | None,
    version: str,
) -> None:
    """Train MODEL on the activity and item vectors of the feature repo.

    The repo must have been applied. `activity-embeddings models` lists the models. The result is
    the folder of the run, from which `activity-embeddings package` makes a SavedModel.
    """
    with training("train"):
        from activity_embeddings.training.fitting.train import train as train_model
        from activity_embeddings.training.models import architecture
        from activity_embeddings.transformations.contract.activity_model import MANIFEST

        if name is None and "--version" in given_options():
            raise InvalidInput("--version expects --package NAME. Received: no --package")
        if name is not None:  # before hours of training
            MANIFEST.require_name(name, repo / "models" / name, origin="--package")
        run = run or Path("runs") / f"{model}-{fit.seed}"
        chosen = with_settings(architecture(model), f"model {model!r}", dict(settings))
        _require_effect(chosen, model)
        given = fit.given(learning_rate=learning_rate)
        plan = replace(options.plan(repo, **given), refit=refit)
        trained = train_model(chosen, plan, run=run, verbose=1)
        click.echo(f"{run}: {_figures(model, trained.result['metrics'])}")
        if name is not None:
            _package(trained, repo / "models" / name, name=name, version=version)


@click.command()
@click.argument("model")
@plan_options
@fit_options
@click.option("--trials", default=20, show_default=True, help="Number of complete trials in all.")
@click.option(
    "--folder",
    type=FOLDER,
    help="Folder of the study, default runs/tune-MODEL. A search that was killed is resumed.",
)
@click.pass_obj
def tune(
    repo: Path,
    model: str,
    options: PlanOptions,
    fit: FitOptions,
    trials: int,
    folder: Path | None,
) -> None:
    """Search the hyperparameters of MODEL; see `train`.

    Networks are searched with TPE. For the averaging models every decay rate on a grid is tried.
    Writes the study (sqlite), a plot of it, and the run of every trial.
    """
    with training("train"):
        from activity_embeddings.training.fitting.search import PLOT
        from activity_embeddings.training.fitting.search import tune as search
        from activity_embeddings.training.models import architecture

        _require_effect(architecture(model), model)
        folder = folder or Path("runs") / f"tune-{model}"
        study = search(model, options.plan(repo, **fit.given()), folder, trials=trials, verbose=1)
        for trial in study.trials:
            click.echo(f"trial {trial.number}: {trial.value} {trial.params}")
        best = study.best_trial
        click.echo(f"best: {folder / f'trial-{best.number}'}, {best.value:.4f}; {folder / PLOT}")


@click.command()
@click.argument("run", type=click.Path(file_okay=False, exists=True, path_type=Path))
@click.option("--name", required=True, help="Name of the model, as in job_activity_embedding_NAME.")
@version_option
@click.option(
    "--out",
    type=FOLDER,
    help="Folder of the SavedModel, default models/NAME in the feature repo.",
)
@click.option("--description", default="", help="Description of the model in the registry.")
@click.pass_obj
def package(
    repo: Path, run: Path, name: str, version: str, out: Path | None, description: str
) -> None:
    """Make a SavedModel of the activity model in RUN, the folder of a complete run.

    Then add its line to ACTIVITY_MODELS.
    """
    with training(feast=False):
        from activity_embeddings.training.fitting.train import load_run

        if out is None:
            require_repo(repo)
            out = repo / "models" / name
        _package(load_run(run), out, name=name, version=version, description=description)


def _require_effect(model: Architecture | type[Architecture], name: str) -> None:
    """Raise `InvalidInput` where options of fitting are given for a model that is not fitted."""
    without = [option for option, parameter in given_options().items() if parameter in _FITTING]
    if without and not model.trainable:
        raise InvalidInput(
            f"model {name!r}: expected no options of fitting, since it is a formula that is "
            f"measured only. Received: {', '.join(without)}"
        )


def _package(trained: TrainedRun, out: Path, **facts: Any) -> None:
    described = trained.package(out, **facts)
    click.echo(f"{described.summary()}\n{out}")


@click.command()
def models() -> None:
    """List the models that `train` knows, and their hyperparameters."""
    with training(feast=False):
        from activity_embeddings.training.models import architecture, known_models

        for name in known_models():
            try:
                click.echo(f"{name}: {json.dumps(architecture(name)().to_dict())}")
            except InvalidInput as error:  # of another package, whose models the others outlive
                click.echo(f"{name}: {error}", err=True)


def _figures(model: str, metrics: dict[str, Any]) -> str:
    """Return a table: the model beside popularity and averages."""
    rows = {model: metrics["validation"], **metrics["rivals"]}
    width = max(map(len, rows))
    return "\n".join(
        [
            f"validation NDCG@10 of {counted(metrics['validation_queries'], 'query')}",
            *(f"  {name:{width}}  {figures[FIGURE]:.4f}" for name, figures in rows.items()),
        ]
    )
