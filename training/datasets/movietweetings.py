"""MovieTweetings: rated films that stand in for jobs, and how the raw files become them.

No public data set of job applications carries job content, apply/save/dismiss actions and times
together. Here a user is a member, a film is a posting, and the rating says which action was taken.
Every figure measured on it is a figure from a proxy domain. What members rate next is hardly told
by what they rated last: it is the control on which an evaluation should find nothing.

    python -m activity_embeddings.training.datasets.movietweetings --raw RAW --out OUT
"""

import argparse
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings.training.datasets.base import (
    EVENTS_FILE,
    EVENTS_SCHEMA,
    POSTINGS_FILE,
    README_FILE,
    Sample,
    postings_of,
)
from activity_embeddings.training.new_repo.settings import RepoSettings
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import make_folder
from activity_embeddings.transformations.names import ACTION, EVENT_TIMESTAMP, ITEM_ID, MEMBER_ID

LICENSE_FILE = "LICENSE.movietweetings"

FILMS = Sample(
    name="films",
    description="MovieTweetings: films stand in for jobs, ratings for actions (a proxy domain)",
    encoder_until=datetime(2013, 5, 1, tzinfo=UTC),
    validate_from=datetime(2013, 6, 17, tzinfo=UTC),
    rank_from=datetime(2013, 7, 1, tzinfo=UTC),
    test_from=datetime(2013, 8, 1, tzinfo=UTC),
    until=datetime(2013, 9, 1, tzinfo=UTC),
    text=("title",),
    categories=("genres", "year"),
    fit={"epochs": 20, "learning_rate": 1e-4},  # what was best on the validation days
    settings=RepoSettings(
        items=postings_of(("title", "String"), ("year", "Int64"), ("genres", "Array(String)"))
    ),
    folder="training/datasets/data/films",
)

POSTINGS_SCHEMA = pa.schema(
    [
        (ITEM_ID, pa.int64()),
        ("title", pa.string()),
        ("year", pa.int32()),
        ("genres", pa.list_(pa.string())),
        (EVENT_TIMESTAMP, pa.timestamp("us", tz="UTC")),
    ]
)

_MICROSECOND = timedelta(microseconds=1)
_DAY_US = timedelta(days=1) // _MICROSECOND
NIGHTLY_JOB = timedelta(hours=4)
"""Time after midnight UTC at which a nightly job has taken up the day's new postings."""

APPLY_FROM_RATING = 8
SAVE_FROM_RATING = 6
MAX_RATING = 10

# Widths keep every id inside int64 and every time inside a microsecond timestamp.
_RATING_LINE = re.compile(r"([0-9]{1,18})::([0-9]{1,18})::([0-9]{1,2})::([0-9]{1,11})")
_MOVIE_LINE = re.compile(r"([0-9]{1,18})::(.*\S) \(([0-9]{4})\)::(.*)")

_README = """\
# Films

Real, timestamped, positive and negative actions, small enough to commit. It is a **proxy domain**:
no public data set of job applications carries job content, apply/save/dismiss actions and times
together, so films stand in for jobs. Say so beside every figure measured on it.

| File | Rows | One row per | Columns |
| --- | --- | --- | --- |
| `activity_events/history.parquet` | {events:,} | action | `member_id`, `job_id`, `action`, \
`event_timestamp` |
| `job_postings.parquet` | {postings:,} | job | `job_id`, `title`, `year`, `genres`, \
`event_timestamp` |

Times are UTC. A posting is known from its `event_timestamp` on. It is the control: what members
rate next is hardly told by what they rated last, and an evaluation should find nothing in it.

## Where it comes from

MovieTweetings, ratings from 0 to 10 of films that people posted on Twitter in 2013, from the
project [sidooms/MovieTweetings](https://github.com/sidooms/MovieTweetings) (`snapshots/100K`, with
every fifth user left out). MIT licence, copied in `LICENSE.movietweetings`. Please cite:

> S. Dooms, T. De Pessemier, L. Martens. "MovieTweetings: a Movie Rating Dataset Collected From
> Twitter". CrowdRec at RecSys 2013.

## What was modified

- A user is a member and a film is a job. Ids keep their numeric value; as integers, film ids lose
  their leading zeros.
- A rating of 8 or more is `APPLY`, 6 or 7 is `SAVE`, 5 or less is `DISMISS`; the rating itself is
  dropped. Of {events:,} events that makes {APPLY:,}, {SAVE:,} and {DISMISS:,}.
- Events are sorted by time, then member, then job. Times run from {first} to {last}, UTC.
- The year in brackets at the end of a film's title is a column of its own.
- Films without genres ({postings_without_genres:,}) have an empty list. Events on films without a
  row in `movies.dat` ({events_on_unknown_items:,}) are kept.
- The source does not say when a film became known, so the time of a posting is that of a nightly
  job: 04:00 UTC on the day after its first event. The {postings_without_events:,} films without
  any event have the start of the first day.

## How to make it again

With `ratings.dat`, `movies.dat` and `LICENSE` of the source in a folder `RAW`:

    python -m activity_embeddings.training.datasets.movietweetings --raw RAW --out OUT
"""


def prepare_movietweetings(raw_dir: Path, out_dir: Path) -> dict[str, int]:
    """Write the events, postings, licence and README made from the raw files.

    Both raw files are read and checked whole before anything is written, so bad input leaves
    `out_dir` as it was. Events on films without a row in `movies.dat` are kept: an item that has
    activity before it has content is the ordinary "unknown item" of production data.

    Parameters
    ----------
    raw_dir
        Folder with `ratings.dat` (`user_id::movie_id::rating::unix_seconds`), `movies.dat`
        (`movie_id::title (year)::genre|genre`), both UTF-8 without a header, and `LICENSE`.
    out_dir
        Folder to write to, made if missing. The same input gives the same bytes.

    Returns
    -------
    dict[str, int]
        Counts: `events`, `members`, `items_in_events`, `APPLY`, `SAVE`, `DISMISS`, `postings`,
        `postings_without_genres`, `postings_without_events`, `unknown_items` (items acted on that
        have no posting) and `events_on_unknown_items`.

    Raises
    ------
    InvalidInput
        If a raw file is missing or empty, or a line is malformed; the message names the file and
        the line.
    """
    raw_dir, out_dir = Path(raw_dir), Path(out_dir)
    events = _read_events(raw_dir / "ratings.dat")
    postings = _with_times(_read_postings(raw_dir / "movies.dat"), events)
    license_text = _read_bytes(raw_dir / "LICENSE")

    actions = events[ACTION].to_pylist()
    item_ids = events[ITEM_ID].to_pylist()
    unknown = set(item_ids) - set(postings[ITEM_ID].to_pylist())
    counts = {
        "events": events.num_rows,
        "members": len(set(events[MEMBER_ID].to_pylist())),
        "items_in_events": len(set(item_ids)),
        **{action: actions.count(action) for action in ("APPLY", "SAVE", "DISMISS")},
        "postings": postings.num_rows,
        "postings_without_genres": sum(not genres for genres in postings["genres"].to_pylist()),
        "postings_without_events": len(set(postings[ITEM_ID].to_pylist()) - set(item_ids)),
        "unknown_items": len(unknown),
        "events_on_unknown_items": sum(item_id in unknown for item_id in item_ids),
    }
    times = events[EVENT_TIMESTAMP]
    readme = _README.format(
        first=times[0].as_py().date(), last=times[events.num_rows - 1].as_py().date(), **counts
    )

    make_folder((out_dir / EVENTS_FILE).parent)
    pq.write_table(events, out_dir / EVENTS_FILE, compression="zstd", compression_level=19)
    pq.write_table(postings, out_dir / POSTINGS_FILE, compression="zstd", compression_level=19)
    (out_dir / LICENSE_FILE).write_bytes(license_text)
    (out_dir / README_FILE).write_text(readme, encoding="utf-8")
    return counts


def action_of_rating(rating: int) -> str:
    """Return the action that a rating stands for.

    Parameters
    ----------
    rating
        From 0 to 10.

    Returns
    -------
    str
        `APPLY` from 8, `SAVE` for 6 and 7, `DISMISS` for 5 and less.

    Raises
    ------
    InvalidInput
        If the rating is out of range.

    Examples
    --------
    >>> [action_of_rating(rating) for rating in (5, 6, 7, 8)]
    ['DISMISS', 'SAVE', 'SAVE', 'APPLY']
    """
    if not 0 <= rating <= MAX_RATING:
        raise InvalidInput(f"a rating is expected from 0 to {MAX_RATING}, received {rating}")
    if rating >= APPLY_FROM_RATING:
        return "APPLY"
    return "SAVE" if rating >= SAVE_FROM_RATING else "DISMISS"


def _read_events(path: Path) -> pa.Table:
    """Return `ratings.dat` as a table of `EVENTS_SCHEMA`, sorted by time, member and item."""
    rows = []
    for number, line in _lines(path):
        match = _RATING_LINE.fullmatch(line)
        if match is None:
            raise _malformed(path, number, "user_id::movie_id::rating::unix_seconds", line)
        member_id, item_id, rating, seconds = map(int, match.groups())
        try:
            action = action_of_rating(rating)
        except InvalidInput as error:
            raise InvalidInput(f"{path}, line {number}: {error}") from None
        rows.append((seconds * 1_000_000, member_id, item_id, action))
    rows.sort()
    times, member_ids, item_ids, actions = zip(*rows, strict=True)
    return pa.table([member_ids, item_ids, actions, times], schema=EVENTS_SCHEMA)


def _read_postings(path: Path) -> pa.Table:
    """Return `movies.dat` as a table of `POSTINGS_SCHEMA` without times, sorted by item."""
    rows = {}
    for number, line in _lines(path):
        match = _MOVIE_LINE.fullmatch(line)
        if match is None:
            raise _malformed(path, number, "movie_id::title (year)::genre|genre", line)
        item_id, title, year, genres = match.groups()
        if int(item_id) in rows:
            raise InvalidInput(
                f"{path}, line {number}: expected one line per film, "
                f"received movie_id {int(item_id)} again"
            )
        rows[int(item_id)] = (title, int(year), [genre for genre in genres.split("|") if genre])
    item_ids = sorted(rows)
    titles, years, genre_lists = zip(*(rows[item_id] for item_id in item_ids), strict=True)
    schema = pa.schema([field for field in POSTINGS_SCHEMA if field.name != EVENT_TIMESTAMP])
    return pa.table([item_ids, titles, years, genre_lists], schema=schema)


def _with_times(postings: pa.Table, events: pa.Table) -> pa.Table:
    """Add when each posting became known: `NIGHTLY_JOB` after the day of its first event.

    Items without any event count as posted at the start of the first day of all events.
    """
    times = events[EVENT_TIMESTAMP].cast(pa.int64()).to_pylist()
    first: dict[int, int] = {}
    for item_id, time in zip(events[ITEM_ID].to_pylist(), times, strict=True):
        first.setdefault(item_id, time)
    start = times[0] // _DAY_US * _DAY_US
    known = [
        (first[item_id] // _DAY_US + 1) * _DAY_US + NIGHTLY_JOB // _MICROSECOND
        if item_id in first
        else start
        for item_id in postings[ITEM_ID].to_pylist()
    ]
    field = POSTINGS_SCHEMA.field(EVENT_TIMESTAMP)
    return postings.append_column(field, pa.array(known, pa.int64()).cast(field.type))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield `(number from 1, text)` of each line; raise InvalidInput if not UTF-8 or if empty."""
    raw_lines = _read_bytes(path).splitlines()
    if not raw_lines:
        raise InvalidInput(f"{path}, line 1: expected at least one line, received an empty file")
    for number, raw_line in enumerate(raw_lines, start=1):
        try:
            yield number, raw_line.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidInput(
                f"{path}, line {number}: expected UTF-8, received {raw_line!r}"
            ) from None


def _read_bytes(path: Path) -> bytes:
    """Return the bytes of a file; raise InvalidInput if it is missing."""
    if not path.is_file():
        raise InvalidInput(
            f"{path} is missing: expected the MovieTweetings files ratings.dat, movies.dat and "
            f"LICENSE in {path.parent}"
        )
    return path.read_bytes()


def _malformed(path: Path, number: int, expected: str, line: str) -> InvalidInput:
    """Return the error for a line that does not have the expected form."""
    return InvalidInput(f"{path}, line {number}: expected {expected}, received {line!r}")


def main(argv: list[str] | None = None) -> None:
    """Run from the command line and print the counts.

    Parameters
    ----------
    argv
        list[str], optional Arguments, those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--raw", type=Path, required=True, help="folder with the raw files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args(argv)
    try:
        counts = prepare_movietweetings(arguments.raw, arguments.out)
    except InvalidInput as error:
        parser.error(str(error))
    for name, count in counts.items():
        print(f"{name}: {count:,}")


if __name__ == "__main__":
    main()
