"""The command `activity-embeddings`, with what trains and measures.

The commands that serve are in `activity_embeddings.transformations.cli`, which does not know training.
"""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from activity_embeddings.training.commands.init import init
from activity_embeddings.transformations.cli import cli, one_line_errors
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.extras import require_extra
from activity_embeddings.transformations.wording import counted

# TensorFlow, Optuna and Feast take seconds to import; a command imports them when it runs.
if TYPE_CHECKING:
    from activity_embeddings.training.models import Architecture
    from activity_embeddings.training.objectives import Objective


class Moment(click.ParamType):
    """An ISO date or time, UTC where it has no zone."""

    name = "time"

    def convert(self, value: Any, param: Any, context: Any) -> datetime:
        """Parse it."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"expected an ISO date or time such as 2024-03-01. Received: {value!r}")
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Setting(click.ParamType):
    """`name=value`, the value as JSON or else as text."""

    name = "name=value"

    def convert(self, value: Any, param: Any, context: Any) -> tuple[str, Any]:
        """Parse it."""
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not equals:
            self.fail(f"expected name=value. Received: {value!r}")
        try:
            parsed = json.loads(text)
        except json.JSONDecodeError:
            parsed = text
        return name, tuple(parsed) if isinstance(parsed, list) else parsed


class NamedPaths(click.ParamType):
    """`name=folder`, or `name=folder,folder`."""

    name = "name=folder"

    def convert(self, value: Any, param: Any, context: Any) -> tuple[str, tuple[Path, ...]]:
        """Parse it."""
        if isinstance(value, tuple):
            return value
        name, equals, folders = value.partition("=")
        if not (name and equals and folders):
            self.fail(f"expected NAME=FOLDER. Received: {value!r}")
        return name, tuple(map(Path, folders.split(",")))


@contextmanager
def _training(extra: str | None = None) -> Iterator[None]:
    """Import TensorFlow without its notes about the machine; say errors in one line."""
    with one_line_errors(), warnings.catch_warnings():
        if extra is not None:
            require_extra(extra, click.get_current_context().command_path)
        import feast  # noqa: F401  It filters warnings when it is imported, so that ours comes after.

        # Of Keras about numpy and of Feast's DuckDB store about DuckDB: not for users.
        warnings.simplefilter("ignore", DeprecationWarning)
        from activity_embeddings.transformations.inference.tensorflow import tensorflow

        tensorflow()
        yield


def _data_options(command: Any) -> Any:
    """Add the options of periods and objective that train and tune share."""
    options = (
        click.option("--from", "start", type=Moment(), required=True, help="Train from this time."),
        click.option(
            "--validate-from",
            type=Moment(),
            required=True,
            help="Train until, and validate from, this time.",
        ),
        click.option(
            "--until",
            type=Moment(),
            required=True,
            help="Validate until this time. No later event is read.",
        ),
        click.option(
            "--objective",
            "objective_name",
            default="next_positive",
            show_default=True,
            help="What to learn: next_positive, future_positives, or proxy, the original task.",
        ),
        click.option(
            "--objective-set",
            "objective_settings",
            type=Setting(),
            multiple=True,
            help="A setting of the objective, as horizon_days=7.",
        ),
        click.option("--epochs", type=int, help="At most so many passes over the examples."),
        click.option("--batch-size", type=int, help="Examples a step."),
        click.option(
            "--patience", type=int, help="Epochs without a better figure before stopping."
        ),
        click.option(
            "--seed", type=int, default=0, show_default=True, help="Of all that is random."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


cli.add_command(init)


@cli.command()
@click.argument("model")
@_data_options
@click.option("--learning-rate", type=float, help="Of AdamW.")
@click.option(
    "--set", "settings", type=Setting(), multiple=True, help="A hyperparameter, as filters=64."
)
@click.option(
    "--run",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run, default runs/MODEL-SEED. A run that was killed goes on.",
)
@click.pass_obj
def train(
    repo: Path,
    model: str,
    settings: tuple[tuple[str, Any], ...],
    learning_rate: float | None,
    run: Path | None,
    seed: int,
    **options: Any,
) -> None:
    """Train MODEL on the activity and item vectors of the feature repo.

    The repo must have been applied. `activity-embeddings models` lists the models. What comes out
    is the folder of the run: `activity-embeddings package` makes a SavedModel of it.
    """
    with _training("train"):
        from activity_embeddings.training.fitting.train import train as train_model

        run = run or Path("runs") / f"{model}-{seed}"
        trained = train_model(
            _architecture(model, dict(settings)),
            run=run,
            verbose=1,
            **_data(repo, seed=seed, learning_rate=learning_rate, **options),
        )
        click.echo(f"{run}: {_figures(trained.result['metrics'])}")


@cli.command()
@click.argument("model")
@_data_options
@click.option("--trials", default=20, show_default=True, help="Complete trials in all.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the study, default runs/tune-MODEL. A search that was killed goes on.",
)
@click.pass_obj
def tune(
    repo: Path, model: str, trials: int, folder: Path | None, seed: int, **options: Any
) -> None:
    """Search the hyperparameters of MODEL; see `train`.

    Networks are searched by TPE, averages over a grid of their rate. Writes the study (sqlite), a
    plot of it, and the run of every trial.
    """
    with _training("train"):
        from activity_embeddings.training.fitting.search import PLOT
        from activity_embeddings.training.fitting.search import tune as search

        folder = folder or Path("runs") / f"tune-{model}"
        study = search(
            model,
            folder=folder,
            trials=trials,
            verbose=1,
            **_data(repo, seed=seed, learning_rate=None, **options),
        )
        for trial in study.trials:
            click.echo(f"trial {trial.number}: {trial.value} {trial.params}")
        best = study.best_trial
        click.echo(f"best: {folder / f'trial-{best.number}'}, {best.value:.4f}; {folder / PLOT}")


@cli.command()
@click.argument("run", type=click.Path(file_okay=False, exists=True, path_type=Path))
@click.option("--name", required=True, help="Of the model, as in job_activity_embedding_NAME.")
@click.option("--version", default="1", show_default=True, help="A changed model needs a new one.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the SavedModel, default models/NAME in the feature repo.",
)
@click.option("--description", default="", help="For the registry.")
@click.pass_obj
def package(
    repo: Path, run: Path, name: str, version: str, out: Path | None, description: str
) -> None:
    """Make a SavedModel of the activity model in RUN, the folder of a complete run.

    Then add its line to ACTIVITY_MODELS.
    """
    with _training():
        from activity_embeddings.training.fitting.train import load_run

        out = out or repo / "models" / name
        described = load_run(run).package(out, name=name, version=version, description=description)
        click.echo(f"{described.summary()}\n{out}")


@cli.command()
def models() -> None:
    """List the models that `train` knows, and their hyperparameters."""
    with _training():
        from activity_embeddings.training.models import architecture, known_models

        for name in known_models():
            try:
                click.echo(f"{name}: {json.dumps(architecture(name)().to_dict())}")
            except InvalidInput as error:  # of another package, whose models the others outlive
                click.echo(f"{name}: {error}", err=True)


@cli.command("train-item-encoder")
@click.option(
    "--events",
    type=click.Path(exists=True, path_type=Path),
    help="Parquet file or folder: member_id, item_id, action, event_timestamp, or the feature "
    "repo's names for them. Default: the source of the feature repo.",
)
@click.option(
    "--postings",
    type=click.Path(exists=True, path_type=Path),
    help="Parquet file or folder: item_id, event_timestamp and content. Default: the same.",
)
@click.option("--text", multiple=True, default=("title",), show_default=True, help="Text columns.")
@click.option("--category", multiple=True, help="Columns of categories or lists of them.")
@click.option(
    "--until", type=Moment(), required=True, help="No later event is read; vectors hold from then."
)
@click.option("--dimension", default=64, show_default=True, help="Length of a vector.")
@click.option("--epochs", type=int, help="At most so many passes over the examples.")
@click.option("--seed", default=0, show_default=True, help="Of all that is random.")
@click.option("--name", default="content_and_behaviour", show_default=True, help="Of the vectors.")
@click.option("--version", default="1", show_default=True, help="A retrained one needs a new one.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Default: models/item_encoder."
)
@click.option(
    "--run", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/item-encoder")
)
@click.pass_obj
def train_item_encoder(
    repo: Path,
    events: Path | None,
    postings: Path | None,
    text: tuple[str, ...],
    category: tuple[str, ...],
    until: datetime,
    dimension: int,
    epochs: int | None,
    seed: int,
    name: str,
    version: str,
    out: Path | None,
    run: Path,
) -> None:
    """Train and package the encoder that the view item_embedding is computed with.

    Actions, names of columns and sources are those of the feature repo, which need not have been
    applied: that is not possible before its encoder is there. Without a feature repo, give files.
    """
    with _training("train"):
        from activity_embeddings.training.item_encoder import train as item_encoder
        from activity_embeddings.training.item_encoder.data import EncoderData
        from activity_embeddings.training.packaging import package_item_encoder

        data = EncoderData.of(repo)
        module, facts = item_encoder.train_item_encoder(
            data.events(events, until),
            data.postings(postings, [*text, *category], until),
            spec=data.spec,
            until=until,
            dimension=dimension,
            seed=seed,
            encoder=item_encoder.TowerSettings(text=text, categories=category),
            fit=replace(item_encoder.ENCODER_FIT, **({} if epochs is None else {"epochs": epochs})),
            run=run,
            verbose=1,
        )
        out = out or repo / "models" / "item_encoder"
        described = package_item_encoder(
            module, out, name=name, version=version, valid_from=until, **facts
        )
        click.echo(f"{described.summary()}\n{out}")


@cli.command()
@click.option(
    "--rank-from",
    type=Moment(),
    required=True,
    help="The ranker learns from this time; models must have learned before it.",
)
@click.option("--test-from", type=Moment(), required=True, help="Test from this time.")
@click.option("--until", type=Moment(), required=True, help="Test until this time.")
@click.option(
    "--models",
    "wanted",
    multiple=True,
    help="A registered model; repeat for several. Default: all that were trained.",
)
@click.option(
    "--also",
    type=NamedPaths(),
    multiple=True,
    help="NAME=FOLDER: a SavedModel that is not registered, or several with commas, one a seed.",
)
@click.option(
    "--seeds", type=click.IntRange(3), default=5, show_default=True, help="Of the ranker."
)
@click.option(
    "--category",
    "categories",
    multiple=True,
    help="A column of the postings with categories. Default: all lists of text.",
)
@click.option("--description", default="", help="One line on the data, for the report.")
@click.option(
    "--truth",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the truth of a simulated market, for the oracle arm.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="Fewer queries, no lists of weeks, no freshness curve: a look, with wider intervals.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("evaluation"),
    show_default=True,
    help="Folder of report.html, report.json and members.parquet.",
)
@click.pass_obj
def evaluate(
    repo: Path,
    rank_from: datetime,
    test_from: datetime,
    until: datetime,
    wanted: tuple[str, ...],
    also: tuple[tuple[str, tuple[Path, ...]], ...],
    seeds: int,
    categories: tuple[str, ...],
    description: str,
    truth: Path | None,
    quick: bool,
    out: Path,
) -> None:
    """Measure what models add to a job recommendation ranker, and write a report.

    The repo must have been applied; its registry and stores are only read.
    """
    with _training("evaluate"):
        from feast import FeatureStore

        from activity_embeddings.training.evaluation.data import Timeline
        from activity_embeddings.training.evaluation.evaluate import HTML, QUICK, Size, headline
        from activity_embeddings.training.evaluation.evaluate import evaluate as run_evaluation
        from activity_embeddings.training.evaluation.findings import Declared
        from activity_embeddings.training.evaluation.from_repo import read_data, read_models

        store = FeatureStore(repo_path=str(repo))
        result = run_evaluation(
            read_data(
                store, until=until, categories=categories, description=description, truth=truth
            ),
            out,
            timeline=Timeline(rank_from, test_from, until),
            models=read_models(store, wanted, also),
            declared=Declared(seeds=tuple(range(seeds))),
            size=QUICK if quick else Size(),
            commands=[" ".join(["activity-embeddings", *map(shlex.quote, sys.argv[1:])])],
            say=click.echo,
        )
        click.echo(f"\n{headline(result)}\n\n{out / HTML}")


@cli.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--evaluation",
    "folders",
    type=click.Path(file_okay=False, path_type=Path),
    multiple=True,
    default=(Path("evaluation"),),
    show_default=True,
    help="Folder that `evaluate` has written; repeat for several cut dates.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0),
    default=0.004,
    show_default=True,
    help="NDCG@10 that a B of at most half the bytes may be worse by.",
)
@click.pass_context
def compare(
    context: click.Context, a: str, b: str, folders: tuple[Path, ...], margin: float
) -> None:
    """Say whether embedding B should replace embedding A; exit status 1 if not.

    In every evaluation its checks must have passed, and either B is better (the 95 % interval of
    the difference in NDCG@10 is above 0, among the day's and among the week's items), or it is not
    worse by the margin and has at most half of A's bytes.
    """
    with one_line_errors():
        require_extra("evaluate", context.command_path)
        from activity_embeddings.training.evaluation.gate import compare as judge

        verdict = judge(folders, a, b, margin=margin)
    click.echo(verdict)
    context.exit(0 if verdict.replace else 1)


def _data(
    repo: Path,
    *,
    start: datetime,
    validate_from: datetime,
    until: datetime,
    objective_name: str,
    objective_settings: tuple[tuple[str, Any], ...],
    **fit: Any,
) -> dict[str, Any]:
    """Return what `train` and `tune` take, from the options."""
    from feast import FeatureStore

    from activity_embeddings.training.examples.periods import Period
    from activity_embeddings.training.fitting.loop import Fit
    from activity_embeddings.training.from_repo import TrainingSource

    period, validation = Period(start, validate_from), Period(validate_from, until)
    objective = _objective(objective_name, dict(objective_settings))
    settings = Fit(**{name: value for name, value in fit.items() if value is not None})
    source = TrainingSource(FeatureStore(repo_path=str(repo)))
    return {
        "history": source.history(Period(start, until)),
        "vector_spec": source.vector_spec,
        "period": period,
        "validation": validation,
        "objective": objective,
        "fit": settings,
    }


def _architecture(name: str, settings: dict[str, Any]) -> Architecture:
    from activity_embeddings.training.models import architecture

    kind = architecture(name)
    return _with_settings(kind, f"model {name!r}", settings)


def _objective(name: str, settings: dict[str, Any]) -> Objective:
    from activity_embeddings.training.examples.held_out import Windows
    from activity_embeddings.training.objectives import OBJECTIVES

    if name not in OBJECTIVES:
        raise InvalidInput(
            f"--objective should be one of {', '.join(sorted(OBJECTIVES))}. Received: {name!r}"
        )
    kind = OBJECTIVES[name]
    if isinstance(settings.get("windows"), dict):
        settings["windows"] = _with_settings(Windows, "windows", settings["windows"])
    return _with_settings(kind, f"objective {name!r}", settings)


def _with_settings(kind: Any, what: str, settings: dict[str, Any]) -> Any:
    """Return an instance of a dataclass with some of its fields set."""
    known = [field.name for field in fields(kind)]
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise InvalidInput(
            f"{what}: expected settings among {', '.join(known)}. Received: {', '.join(unknown)}"
        )
    return kind(**settings)


def _figures(metrics: dict[str, Any]) -> str:
    """Return one line: the model beside popularity and averages."""
    own = metrics["validation"]["ndcg_at_10"]
    rivals = ", ".join(
        f"{name} {figures['ndcg_at_10']:.4f}" for name, figures in metrics["rivals"].items()
    )
    queries = counted(metrics["validation_queries"], "query")
    return f"validation NDCG@10 {own:.4f} ({rivals}; {queries})"


if __name__ == "__main__":
    cli()
