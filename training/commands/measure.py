"""The command that measures what models find by themselves, as of the request."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from activity_embeddings.training.commands.options import NamedPaths, training
from activity_embeddings.transformations.cli import Moment, item_option, open_store


@click.command()
@click.option(
    "--choose-from",
    type=Moment(),
    required=True,
    help="Start of the days on which it is chosen how much each vector and popularity count.",
)
@click.option(
    "--test-from",
    type=Moment(),
    required=True,
    help="Start of the test; models must have learned before it.",
)
@click.option("--until", type=Moment(), required=True, help="End of the test.")
@click.option(
    "--models",
    "wanted",
    multiple=True,
    help="Name of a registered model; repeatable, in the order of the table. Default: all, those "
    "that learned last.",
)
@click.option(
    "--also",
    type=NamedPaths(),
    multiple=True,
    help="NAME=FOLDER of a SavedModel that is not registered; repeatable.",
)
@item_option
@click.pass_obj
def measure(
    repo: Path,
    choose_from: datetime,
    test_from: datetime,
    until: datetime,
    wanted: tuple[str, ...],
    also: tuple[tuple[str, tuple[Path, ...]], ...],
    item: str | None,
) -> None:
    """Measure what each model finds by itself, as of the request.

    For each positive activity of the test, all items of the day are ranked by the member's
    embedding as of that moment, with popularity beside it; of several vectors each counts as is
    best on the days before the test. Two tables of counts, which a learned
    model has to beat, stand before the first learned one: how often each item came next after the
    last item (`item_counts`), and after the last item and action (`item_action_counts`), in all
    activity before the test. Takes seconds; `evaluate` measures what models add to a ranker. The
    repo must have been applied; its registry and stores are only read.
    """
    with training("train", tensorflow=False):
        from activity_embeddings.training.evaluation.arms import ArmRole
        from activity_embeddings.training.evaluation.first_look import first_look
        from activity_embeddings.training.evaluation.from_repo import read_models
        from activity_embeddings.training.examples.periods import Period
        from activity_embeddings.training.from_repo import TrainingSource

        choose, test = Period(choose_from, test_from), Period(test_from, until)
        store = open_store(repo)
        source = TrainingSource(store, item)
        models = read_models(store, wanted or sorted(source.models()), also, item=item)
        if not wanted:
            models.sort(key=lambda model: model.role == ArmRole.LEARNED)
        history = source.whole_history(until)
        label = "SIMULATED DATA. " if source.simulated else ""
        look = first_look(history, source.vector_spec, models, choose=choose, test=test)
        click.echo(f"{label}{look}")
