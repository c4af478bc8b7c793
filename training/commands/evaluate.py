"""Commands that measure what models add to a ranker, and decide which one is published."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

import click

from activity_embeddings.training.commands.options import (
    FOLDER,
    NamedObject,
    NamedPaths,
    grouped,
    training,
)
from activity_embeddings.training.figure import MARGIN
from activity_embeddings.transformations.cli import Moment, item_option, one_line_errors, open_store
from activity_embeddings.transformations.extras import require_extra

AS_OF = ("published", "request")
"""As `AsOf`, without importing what reads it."""
BOTH = "both"


@dataclass(frozen=True)
class Dates:
    """The cut dates."""

    rank_from: datetime
    test_from: datetime
    until: datetime


@dataclass(frozen=True)
class About:
    """What is said of the data beyond what the feature repo says."""

    categories: tuple[str, ...]
    description: str
    truth: Path | None


@click.command()
@grouped(
    "dates",
    Dates,
    click.option(
        "--rank-from",
        type=Moment(),
        required=True,
        help="Start of the ranker's training; models must have learned before it.",
    ),
    click.option("--test-from", type=Moment(), required=True, help="Start of the test."),
    click.option("--until", type=Moment(), required=True, help="End of the test."),
)
@click.option(
    "--models",
    "wanted",
    multiple=True,
    help="Name of a registered model; repeatable. Default: all that were trained.",
)
@click.option(
    "--also",
    type=NamedPaths(),
    multiple=True,
    help="NAME=FOLDER of a SavedModel that is not registered, or with commas of as many as there "
    "are seeds, each trained by itself; repeatable.",
)
@click.option(
    "--scorer",
    "scorers",
    type=NamedObject(),
    multiple=True,
    help="NAME=MODULE:OBJECT of a model that scores items by itself, such as the one that you run "
    "today: a class or function that gets the data and returns an object with a method `columns`; "
    "found in the current folder, too; repeatable.",
)
@click.option(
    "--as-of",
    type=click.Choice([*AS_OF, BOTH]),
    default=AS_OF[0],
    show_default=True,
    help="As of when values of members are: of the newest daily run, or of each request; both "
    "write a folder each into --out.",
)
@click.option(
    "--seeds",
    type=click.IntRange(3),
    default=5,
    show_default=True,
    help="Number of random seeds of the ranker.",
)
@grouped(
    "about",
    About,
    click.option(
        "--category",
        "categories",
        multiple=True,
        help="Column of the postings with categories; repeatable. Default: all lists of text.",
    ),
    click.option("--description", default="", help="Line about the data, for the report."),
    click.option(
        "--truth",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Folder of the truth of a simulated market, for the oracle arm.",
    ),
)
@click.option(
    "--quick",
    is_flag=True,
    help="Fewer queries, no lists of weeks, no freshness curve: a look, with wider intervals.",
)
@click.option(
    "--members",
    type=click.IntRange(1),
    help="Maximum number of members who are tested, drawn at random of those with activity in the "
    "test. Default: all.",
)
@click.option(
    "--out",
    type=FOLDER,
    default=Path("evaluation"),
    show_default=True,
    help="Folder of report.html, report.json and members.parquet.",
)
@item_option
@click.pass_obj
def evaluate(
    repo: Path,
    dates: Dates,
    wanted: tuple[str, ...],
    also: tuple[tuple[str, tuple[Path, ...]], ...],
    scorers: tuple[tuple[str, str], ...],
    as_of: str,
    seeds: int,
    about: About,
    quick: bool,
    members: int | None,
    out: Path,
    item: str | None,
) -> None:
    """Measure what models add to a ranker, and write a report.

    The repo must have been applied; its registry and stores are only read.
    """
    with training("evaluate"):
        from activity_embeddings.training.evaluation.evaluate import evaluate as run_evaluation
        from activity_embeddings.training.evaluation.from_repo import read_data, read_models
        from activity_embeddings.training.evaluation.plan import (
            QUICK,
            AsOf,
            Declared,
            EvaluationPlan,
            Size,
            Timeline,
        )
        from activity_embeddings.training.evaluation.report.headline import headline
        from activity_embeddings.training.evaluation.result import HTML
        from activity_embeddings.training.evaluation.scorers import load_scorer

        store = open_store(repo)
        data = read_data(store, until=dates.until, **vars(about), item=item)
        models = read_models(store, wanted, also, item=item)
        if scorers:
            sys.path.insert(0, str(Path.cwd()))
        scoring = [load_scorer(name, path, data) for name, path in scorers]
        for one in AS_OF if as_of == BOTH else [as_of]:
            folder = out / one if as_of == BOTH else out
            plan = EvaluationPlan(
                Timeline(**asdict(dates)),
                as_of=AsOf(one),
                declared=Declared(seeds=tuple(range(seeds))),
                size=replace(QUICK if quick else Size(), test_members=members),
            )
            result = run_evaluation(
                data,
                folder,
                plan=plan,
                models=models,
                scoring=scoring,
                commands=[" ".join(["activity-embeddings", *map(shlex.quote, sys.argv[1:])])],
                say=click.echo,
            )
            click.echo(f"\n{headline(result)}\n\n{folder / HTML}")


@click.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--evaluation",
    "folders",
    type=FOLDER,
    multiple=True,
    default=(Path("evaluation"),),
    show_default=True,
    help="Folder that `evaluate` has written; repeatable, one for each cut date.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0),
    default=MARGIN,
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
