"""The command `activity-embeddings`: what Feast's own command line has no place for."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from activity_embeddings.transformations.errors import (
    InvalidData,
    InvalidInput,
    StoreUnreachable,
    cannot_connect,
    first_line,
    quote,
)
from activity_embeddings.transformations.logs import (
    json_line,
    json_lines,
    reports_shown,
    wants_json,
)
from activity_embeddings.transformations.names import EVENT_TIMESTAMP, JOBS, DomainNames
from activity_embeddings.transformations.wording import counted, share, utc

# Feast and what it imports take seconds; a command imports them when it runs.
if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore

_log = logging.getLogger(__name__)


item_option = click.option(
    "--item", help="Name of the item's entity, where the feature repo has several domains."
)


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
            self.fail(f"expected an ISO date or time such as 2024-03-01. Received: {quote(value)}")
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.group()
@click.version_option(package_name="activity-embeddings", prog_name="activity-embeddings")
@click.option(
    "--repo",
    "-C",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=".",
    show_default=True,
    help="Folder of the feature repo. FEAST_FS_YAML_FILE_PATH names another feature_store.yaml.",
)
@click.option("--log-json", is_flag=True, help="Write reports and errors as lines of JSON.")
@click.pass_context
def cli(context: click.Context, repo: Path, log_json: bool) -> None:
    """Work with activity sequences and embeddings in a Feast feature repo."""
    context.obj = repo
    if log_json:
        context.with_resource(json_lines())


@cli.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--online-only",
    is_flag=True,
    help="Leave the offline source alone: your own pipeline logs these events.",
)
@click.option("--kind", help="Item of their kind of activity. Default: the domain's own.")
@item_option
@click.pass_obj
def push(repo: Path, file: Path, online_only: bool, kind: str | None, item: str | None) -> None:
    """Merge the events in FILE into the served sequences, and log them.

    FILE is .parquet, .csv or .jsonl, or - for JSON lines on standard input, with the columns of the
    view of events and event_timestamp, or those of its source. Times are ISO 8601 with a zone, as
    2024-03-01T12:00:00Z. Pushing a file again changes no sequence.
    """
    with one_line_errors():
        from activity_embeddings.transformations.online.push import SequenceWriter

        writer = SequenceWriter(open_store(repo), item=item, offline=not online_only)
        of = writer.kind(kind)
        events = read_events_file(file, of.id_types, of.source_names, of.names)
        click.echo(writer.push(events, kind=kind))


@cli.command()
@click.option("--sample", default=200, show_default=True, help="Number of members to look at.")
@click.option("--seed", default=0, show_default=True, help="Random seed of the sample.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the values that may differ, from 0 to 1.",
)
@item_option
@click.pass_obj
def check(repo: Path, sample: int, seed: int, threshold: float, item: str | None) -> None:
    """Compare stored and request-time values with a recompute from the raw events.

    For a random sample of members; says what differs and why. Exit status 1 if more values differ
    than the threshold allows.
    """
    with one_line_errors():
        from activity_embeddings.transformations.check import check as run_check

        report = run_check(open_store(repo), sample=sample, seed=seed, item=item)
        click.echo(report)
        if report.share > threshold:
            raise InvalidInput(
                f"expected at most {100 * threshold:.10g} % of the values to differ. "
                f"Received: {share(report.share, digits=2)}"
            )


_interval = [
    click.argument("start", metavar="START", type=Moment()),
    click.argument("end", metavar="END", type=Moment()),
    click.option("--views", "-v", multiple=True, help="View to publish; repeatable. Default: all."),
]


def _of_an_interval(command: Any) -> Any:
    for decorate in reversed(_interval):
        command = decorate(command)
    return command


@cli.command()
@_of_an_interval
@click.option(
    "--accept",
    multiple=True,
    metavar="GUARD",
    help="Publish what this guard would refuse, this once; repeatable.",
)
@click.pass_obj
def materialize(
    repo: Path, start: datetime, end: datetime, views: Sequence[str], accept: Sequence[str]
) -> None:
    """Publish the interval from START to END, as `feast materialize` does.

    Exit status 1 for bad input, 3 if a guard refuses what was computed, 4 if another run is under
    way, 5 if a store cannot be reached.
    """
    _materialize(repo, start, end, views, accept=accept)


@cli.command()
@_of_an_interval
@click.pass_obj
def plan(repo: Path, start: datetime, end: datetime, views: Sequence[str]) -> None:
    """Compute the interval from START to END, and say what publishing it would do.

    The stores stay as they are. Exit status as of `materialize`.
    """
    with reports_shown(), redirect_stdout(StringIO()):  # of Feast, which says that it materializes
        _materialize(repo, start, end, views, dry_run=True)


def _materialize(
    repo: Path, start: datetime, end: datetime, views: Sequence[str], **options: Any
) -> None:
    with one_line_errors():
        if end < start:
            raise InvalidInput(f"expected START before END. Received: {utc(start)}, {utc(end)}")
        from activity_embeddings.transformations.batch.options import run_options

        with run_options(**options):
            open_store(repo).materialize(start, end, feature_views=list(views) or None)


@cli.command()
@click.option("--limit", default=20, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole records, as JSON lines.")
@click.pass_obj
def runs(repo: Path, limit: int, as_json: bool) -> None:
    """List the runs of `feast materialize`, the last failure first, then the newest."""
    with one_line_errors():
        from activity_embeddings.transformations.batch.record import (
            last_failure_first,
            read_records,
            record_line,
            sink_of_records,
        )

        store = open_store(repo)
        sink = sink_of_records(store.list_batch_feature_views(), store.config)
        records = [] if sink is None else last_failure_first(read_records(sink))
        for record in records[:limit]:
            click.echo(json.dumps(record) if as_json else record_line(record))
        if not records:
            click.echo("no runs yet")


@cli.command()
@item_option
@click.pass_obj
def compact(repo: Path, item: str | None) -> None:
    """Merge the files that pushes have added to the source of events, each push one, into one.

    No run of the same views may be under way.
    """
    with one_line_errors():
        from activity_embeddings.transformations.definitions.registered import (
            domains_reading,
            registered_domain,
        )
        from activity_embeddings.transformations.offline.event_log import PushedEvents
        from activity_embeddings.transformations.offline.sinks.places import sink_of

        store = open_store(repo)
        domain = registered_domain(store, item)
        with ExitStack() as stack:
            for reader in domains_reading(store, domain):
                stack.enter_context(sink_of(reader.sequence, store.config).locked())
            merged = [PushedEvents(store, view).compact() for view in domain.event_views]
        files, events = map(sum, zip(*merged, strict=True))
        click.echo(f"{counted(files, 'file')} of pushes merged, {counted(events, 'event')}")


@cli.command()
@click.argument("members", nargs=-1, required=True)
@click.option("--verify", is_flag=True, help="Only look: exit status 1 if anything is left.")
@item_option
@click.pass_obj
def forget(repo: Path, members: Sequence[str], verify: bool, item: str | None) -> None:
    """Take all that is kept of MEMBERS out of snapshots, the online store and pushed events.

    Refused while the source of events has them: the next run would bring them back.
    """
    with one_line_errors():
        from activity_embeddings.transformations.forget import forget as run_forget
        from activity_embeddings.transformations.forget import traces_of

        store = open_store(repo)
        if not verify:
            gone = run_forget(store, members, item)
            click.echo(f"forgotten, {counted(gone.members, 'member')}: {gone}")
        left = traces_of(store, members, item)
        of = counted(left.members, "member")
        if left.any:
            raise InvalidInput(f"expected nothing left of {of}. Received: {left}")
        click.echo(f"left of {of}: {left}")


@cli.command()
@click.argument("member")
@click.option("--model", "models", multiple=True, help="Name of a model; repeatable. Default: all.")
@click.option("--as-of", type=Moment(), help="Cut-off. Default: that of the online value.")
@click.option(
    "--recent",
    nargs=3,
    multiple=True,
    metavar="ITEM ACTION TIME",
    help="Event of a request as of now, or as of the cut-off; repeatable.",
)
@click.option("--nearest", default=10, show_default=True, help="Number of nearest items.")
@click.option(
    "--gradients",
    is_flag=True,
    help="Integrated gradients instead of leaving one activity out at a time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Page to write.")
@item_option
@click.pass_obj
def explain(
    repo: Path,
    member: str,
    models: Sequence[str],
    as_of: datetime | None,
    recent: Sequence[tuple[str, str, str]],
    nearest: int,
    gradients: bool,
    as_json: bool,
    html: Path | None,
    item: str | None,
) -> None:
    """Explain the embeddings of MEMBER: what each activity adds to them, and the nearest items.

    Of what is online now; with --as-of of that time, from the source of events; with --recent of
    what a request with these events is answered.
    """
    with one_line_errors():
        from activity_embeddings.transformations.definitions.registered import registered_domain
        from activity_embeddings.transformations.explain.explain import explain as run_explain
        from activity_embeddings.transformations.explain.explanation import (
            INTEGRATED_GRADIENTS,
            LEAVE_ONE_OUT,
        )

        store = open_store(repo)
        domain = registered_domain(store, item)
        explanation = run_explain(
            store,
            member,
            models=models,
            as_of=as_of,
            recent=[(domain.item_id(of, action), action, time) for of, action, time in recent]
            or None,
            item=item,
            nearest=nearest,
            method=INTEGRATED_GRADIENTS if gradients else LEAVE_ONE_OUT,
        )
        if html is not None:
            html.write_text(explanation.to_html(), encoding="utf-8")
        click.echo(json.dumps(explanation.to_dict()) if as_json else explanation)


@cli.command()
@click.argument("model")
@click.option("--to", metavar="VERSION", help="Default: the one packaged before.")
@item_option
@click.pass_obj
def rollback(repo: Path, model: str, to: str | None, item: str | None) -> None:
    """Go back to a version of MODEL that `package` has replaced: apply it, and publish it.

    Its newest values take the place of the other version's online. If that fails, all is as it was.
    Restart servers afterwards.
    """
    with one_line_errors():
        require_repo(repo)
        from activity_embeddings.transformations.rollback import rollback as run_rollback

        version = run_rollback(repo, model, to=to, item=item)
        click.echo(f"{model}: version {version} is registered and published; restart servers")


def open_store(repo: Path) -> FeatureStore:
    """Return the feature store of a feature repo.

    Raises
    ------
    InvalidInput
        The folder is none.
    """
    require_repo(repo)
    from feast import FeatureStore

    return FeatureStore(repo_path=str(repo))


def require_repo(repo: Path) -> None:
    """Raise `InvalidInput` unless a folder is a feature repo."""
    from activity_embeddings.transformations.feast_compat.repo import settings_file

    if not settings_file(repo).is_file():
        raise InvalidInput(
            f"{repo.resolve()}: expected a feature repo, a folder with {settings_file(repo).name}. "
            "Received: none. Name one with `activity-embeddings -C FOLDER`, or make one with "
            "`activity-embeddings init FOLDER`"
        )


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Say what went wrong in one line, whatever it was; the traceback goes to the debug log."""
    try:
        yield
    except Exception as error:
        _log.debug("traceback", exc_info=True)
        ours = isinstance(error, (InvalidInput, click.ClickException))
        text = str(error) if ours else f"{type(error).__name__}: {error}"
        # Click reads the status of the class.
        said = type("Said", (_Said,), {"exit_code": _exit_code(error)})
        raise said(" ".join(text.split()), type(error).__name__) from error


class _Said(click.ClickException):
    """An error in one line, of which click says no more."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self._kind, self._as_json = kind, wants_json()

    def show(self, file: IO[Any] | None = None) -> None:
        """Write it to standard error."""
        if not self._as_json:
            super().show(file)
            return
        facts = {"kind": self._kind, "exit_status": self.exit_code}
        click.echo(json_line(logging.ERROR, self.message, **facts), err=True)


def _exit_code(error: Exception) -> int:
    """Return the status that an error ends a command with; what fails to connect may come back."""
    if cannot_connect(error):
        return StoreUnreachable.exit_code
    return getattr(error, "exit_code", 1)


def read_events_file(
    file: Path,
    id_types: Mapping[str, pa.DataType],
    source_names: Mapping[str, str] | None = None,
    domain: DomainNames = JOBS,
) -> pa.Table:
    """Read events from a parquet, CSV or JSON-lines file.

    Parameters
    ----------
    file
        By its suffix .parquet, .csv or .jsonl; `-` is JSON lines on standard input.
    id_types
        Types of id columns, which a CSV file does not tell.
    source_names
        Other names that columns may have in the file, by those of the view.
    domain
        Names of the columns.

    Raises
    ------
    InvalidData
        The file cannot be read; for text, the message names the line.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    called = source_names or {}
    id_types = {**id_types, **{called.get(name, name): kind for name, kind in id_types.items()}}
    times = list(dict.fromkeys([called.get(EVENT_TIMESTAMP, EVENT_TIMESTAMP), EVENT_TIMESTAMP]))
    try:
        if str(file) == "-":
            with click.open_file("-", encoding="utf-8") as lines:
                return _read_json_lines(lines, "standard input", id_types, times, domain)
        if file.suffix == ".jsonl":
            with file.open(encoding="utf-8") as lines:
                return _read_json_lines(lines, str(file), id_types, times, domain)
        if file.suffix == ".parquet":
            return pa.parquet.read_table(file, partitioning=None)
        if file.suffix == ".csv":
            read_as_text = [domain.action, EVENT_TIMESTAMP, domain.event_id]
            read_as_text += [] if domain.session_id is None else [domain.session_id]
            text = (*read_as_text, *(called.get(name, name) for name in read_as_text))
            types = {**dict.fromkeys(text, pa.string()), **id_types}
            # Only an empty field is null: NA, null and nan are texts, and may be ids.
            options = pa.csv.ConvertOptions(
                column_types=types,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            )
            table = pa.csv.read_csv(file, convert_options=options)
            return _with_times(table, str(file), itertools.count(2), times)
    except (OSError, pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise InvalidData(
            f"{file}: expected a readable file. Received: {first_line(error)}"
        ) from error
    raise InvalidData(
        f"{file}: expected a name that ends in .parquet, .csv or .jsonl, or - for JSON lines on "
        f"standard input. Received: {file.suffix or 'no suffix'}"
    )


def _read_json_lines(
    lines: Iterable[str],
    source: str,
    id_types: Mapping[str, pa.DataType],
    times: Sequence[str],
    domain: DomainNames,
) -> pa.Table:
    """Read one JSON object a line; empty lines are passed over."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            # Also of integers of thousands of digits, and of lists too deep.
            raise InvalidData(
                f"{source}, line {number}: expected JSON. {first_line(error)}"
            ) from error
        if not isinstance(row, dict):
            raise InvalidData(
                f"{source}, line {number}: expected a JSON object. Received: {line.strip()[:80]}"
            )
        rows.append(row)
        numbers.append(number)
    if not rows:
        texts = dict.fromkeys([domain.action, *domain.event_columns[3:]], pa.string())
        types = {**id_types, **texts, EVENT_TIMESTAMP: pa.timestamp("us", "UTC")}
        return pa.schema(types).empty_table()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    try:
        table = pa.table({name: [row.get(name) for row in rows] for name in columns})
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError) as error:
        raise InvalidData(
            f"{source}: expected values of one type in each column, integers of int64 "
            f"and text that can be UTF-8. Received: {first_line(error)}"
        ) from error
    return _with_times(table, source, numbers, times)


def _with_times(
    table: pa.Table, source: str, lines: Iterable[int], columns: Sequence[str]
) -> pa.Table:
    """Parse the column of times, which is text; `lines` are the lines of the rows.

    Of the names that the column may have, the first that is there counts.

    Raises
    ------
    InvalidData
        A value is no time, or has no zone.
    """
    import pyarrow as pa

    from activity_embeddings.transformations.times import to_us

    column = next((name for name in columns if name in table.column_names), None)
    if column is None:
        return table
    times: list[int | None] = []
    for text, number in zip(table.column(column).to_pylist(), lines, strict=False):
        try:
            moment = None if text is None else datetime.fromisoformat(text)
        except (TypeError, ValueError) as error:
            raise InvalidData(
                f"{source}, line {number}: {column!r} should be a time such as "
                f"2024-03-01T12:00:00Z. Received: {quote(text)}"
            ) from error
        if moment is not None and moment.tzinfo is None:
            raise InvalidData(
                f"{source}, line {number}: {column!r} should have a zone, as in "
                f"2024-03-01T12:00:00Z. Received: {quote(text)} without one (naive)"
            )
        times.append(None if moment is None else to_us(moment))
    parsed = pa.array(times, pa.int64()).cast(pa.timestamp("us", "UTC"))
    return table.set_column(table.column_names.index(column), column, parsed)


if __name__ == "__main__":
    cli()
