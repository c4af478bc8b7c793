"""The command `init`: a new feature repo."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from activity_embeddings.training.commands.options import given_options
from activity_embeddings.transformations.cli import one_line_errors
from activity_embeddings.transformations.wording import are

# Feast and Arrow take seconds to import; `--help` should not wait for them.
if TYPE_CHECKING:
    from activity_embeddings.training.new_repo.settings import RepoSettings

SAMPLE_INTERVAL = ("1999-03-28T00:00:00", "1999-03-31T00:00:00")
"""Days of the sample data that are published in seconds."""
_PATH = click.Path(exists=True, path_type=Path)
_ID_TYPES = click.Choice(["int", "string"])


class _Names(click.ParamType):
    """Names, separated by commas."""

    name = "A,B,..."

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> tuple[str, ...]:
        """Return the names of one option."""
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in str(value).split(","))
        if not all(names):
            self.fail(f"expected names, separated by commas. Received: {value!r}", parameter)
        return names


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--sample", is_flag=True, help="The sample data and their definitions.")
@click.option("--events", type=_PATH, help="Parquet file or folder of activity events.")
@click.option("--vectors", type=_PATH, help="Parquet file or folder of item vectors of your own.")
@click.option("--postings", type=_PATH, help="Parquet file or folder of what items contain.")
@click.option("--own-vectors", is_flag=True, help="Item vectors of your own; the default.")
@click.option("--encoder", is_flag=True, help="Item vectors by an encoder that reads postings.")
@click.option("--member", help="Column that says who acts.")
@click.option("--item", help="Column that says what was acted on.")
@click.option("--action", help="Column that says what was done.")
@click.option("--time", help="Column that says when, a timestamp with a zone.")
@click.option("--event-id", help="Column that orders events of one time.")
@click.option("--vector-item", help="Column of the vectors or postings that says the item.")
@click.option("--vector-time", help="Column that says since when these are valid.")
@click.option("--vector-column", help="Column of vectors, lists of floats.")
@click.option("--member-name", help="Name of the member's entity; default: from the column.")
@click.option("--item-name", help="Name of the item's entity, which views and features follow.")
@click.option("--member-type", type=_ID_TYPES, help="Type of member ids, if no file tells it.")
@click.option("--item-type", type=_ID_TYPES, help="Type of item ids, if no file tells it.")
@click.option("--actions", type=_Names(), default=(), help="Actions; default: those in the events.")
@click.option("--positive", type=_Names(), default=(), help="Actions that say the item is wanted.")
@click.option("--ignore-other-actions", is_flag=True, help="Leave events of other actions out.")
@click.option("--dimension", type=click.IntRange(1), help="Length of an item vector.")
@click.option(
    "--days", type=click.FloatRange(0, min_open=True), default=28, show_default=True, help="Window."
)
@click.option(
    "--length", type=click.IntRange(1), default=32, show_default=True, help="Most events a member."
)
@click.option("--simulated", is_flag=True, help="Say in every report that the data are made up.")
@click.option("--project", help="Name of the Feast project; default: that of the folder.")
@click.option("--apply", is_flag=True, help="Run `feast apply` in the new repo.")
def init(
    folder: Path,
    sample: bool,
    own_vectors: bool,
    apply: bool,
    **said: Any,
) -> None:
    """Write a feature repo into FOLDER that can be applied and published at once.

    Give it your files, and it proposes columns, types and actions from their first rows; options
    say otherwise. Without files it writes definitions and empty sources to be filled. Its models
    are formulas, which need no training: averages, and averages that decay.
    """
    with one_line_errors():
        if own_vectors and (said["encoder"] or said["postings"]):
            raise click.UsageError("--own-vectors and --encoder or --postings exclude each other")
        start, end = SAMPLE_INTERVAL
        if sample:
            _require_alone()
            from activity_embeddings.training.new_repo.create import create_sample_repo

            create_sample_repo(folder)
            click.echo(f"{folder}: the sample feature repo, restaurants that stand in for jobs")
        else:
            settings = _settings(folder, said)
            from activity_embeddings.training.new_repo.create import create_repo

            create_repo(folder, settings)
            click.echo(_summary(folder, settings, said["events"]))
            start, end = _interval(said["events"], settings.events.time)
        if apply:
            from activity_embeddings.transformations.feast_compat.repo import apply_repo

            apply_repo(folder)
        click.echo(_next(folder, start, end, applied=apply))


def _require_alone() -> None:
    """Raise where the user gave options, even at their defaults, that `--sample` has no use for."""
    given = [
        option
        for option, parameter in given_options().items()
        if parameter not in ("folder", "sample", "apply")
    ]
    if given:
        raise click.UsageError(f"--sample has columns of its own: leave out {', '.join(given)}")


def _settings(folder: Path, said: dict[str, Any]) -> RepoSettings:
    from activity_embeddings.training.new_repo.propose import Answers, settings_for

    said["encoder"] = said["encoder"] or said["postings"] is not None
    return settings_for(folder, Answers(**said), _ask)


def _ask(what: str, columns: Sequence[str]) -> str | None:
    """Ask for a column, if somebody can answer."""
    if not sys.stdin.isatty():
        return None
    return click.prompt(f"Column that says {what}", type=click.Choice(list(columns)))


def _summary(folder: Path, settings: RepoSettings, events: Path | None) -> str:
    """Say what was written, so that a wrong proposal is seen."""
    from activity_embeddings.training.new_repo.settings import VectorSource

    names, spec = settings.names, settings.spec
    negative = [action for action in spec.actions if action not in spec.positive_actions]
    own = isinstance(settings.items, VectorSource)
    kinds = "vectors of your own" if own else "an encoder"
    lines = [
        f"{folder}: a Feast feature repo",
        f"  members  {names.member_id} ({settings.member_type})",
        f"  items    {names.item_id} ({settings.item_type}), called {names.item}; {kinds}, "
        f"dimension {settings.vector_spec.dimension}",
        f"  actions  {names.action}: {', '.join(spec.positive_actions)} "
        f"{are(len(spec.positive_actions))} positive"
        + (f", {', '.join(negative)} not" if negative else ""),
        *([] if events is None else _other_actions(events, settings)),
        f"  time     {settings.events.time}; the last {spec.window.total_seconds() / 86400:g} "
        f"days, newest {spec.length} events",
    ]
    kind = settings.events.event_id_type
    if kind is not None:
        lines.append(f"  order    {names.event_id} ({kind}), of events of one time")
    return "\n".join(lines)


def _other_actions(events: Path, settings: RepoSettings) -> list[str]:
    """Return the line that says which actions are there beside those of the vocabulary."""
    from activity_embeddings.training.new_repo.heads import other_actions

    spec = settings.spec
    others = other_actions(events, settings.names.action, spec.actions)
    if not others:
        return []
    more = f" and {len(others) - 5:,} more" if len(others) > 5 else ""
    said = f"{' ' * 11}{', '.join(others[:5])}{more} {are(len(others))}"
    if spec.ignores_other_actions:
        return [f"{said} left out"]
    them = "it" if len(others) == 1 else "them"
    return [
        f"{said} there too: --ignore-other-actions leaves {them} out, and else a run refuses {them}"
    ]


def _interval(events: Path | None, column: str) -> tuple[str, str]:
    """Return the last day of the events, or the last day until now."""
    from activity_embeddings.training.new_repo.heads import last_time
    from activity_embeddings.transformations.times import SECOND, to_datetime, to_us

    now = to_us(datetime.now(UTC))
    last = None if events is None else last_time(events, column)
    end = to_datetime(now if last is None else min(now, last + SECOND))
    first, last_second = (f"{t:%Y-%m-%dT%H:%M:%S}" for t in (end - timedelta(days=1), end))
    return first, last_second


def _next(folder: Path, start: str, end: str, *, applied: bool) -> str:
    lines = ["Next:", f"  cd {folder}", *([] if applied else ["  feast apply"])]
    return "\n".join([*lines, f"  feast materialize {start} {end}"])
