"""A simulated market as tables and files, in the layout of the feature repo's data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings.training.datasets.base import EVENTS_SCHEMA, POSTINGS_FILE, README_FILE
from activity_embeddings.training.datasets.job_market.jobs import LEVELS, Jobs
from activity_embeddings.training.datasets.job_market.kind_tables import (
    TIME,
    KindTables,
    truth_schema,
)
from activity_embeddings.training.datasets.job_market.kinds import KIND_ACTIONS
from activity_embeddings.training.datasets.job_market.members import (
    BLOCK,
    Directions,
    draw_directions,
    draw_first_visits,
    draw_visits,
)
from activity_embeddings.training.datasets.job_market.occupations import NOTICE, Occupations
from activity_embeddings.training.datasets.job_market.sessions import (
    ACTIONS,
    Actions,
    Sessions,
    draw_actions,
    draw_sessions,
)
from activity_embeddings.training.datasets.job_market.settings import (
    BLOCK_STREAM,
    PASSIVE_STREAM,
    MarketSettings,
)
from activity_embeddings.transformations.arrow import vector_column
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import make_folder
from activity_embeddings.transformations.names import ACTION, EVENT_TIMESTAMP, ITEM_ID, MEMBER_ID
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY, to_us

EVENTS_FOLDER = "activity_events"
TRUE_MEMBERS_FILE = "truth/members.parquet"
TRUE_JOBS_FILE = "truth/items.parquet"

POSTINGS_SCHEMA = pa.schema(
    [
        (ITEM_ID, pa.int64()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("group", pa.list_(pa.string())),
        (EVENT_TIMESTAMP, TIME),
    ]
)
TRUE_MEMBERS_SCHEMA = pa.schema(
    [(MEMBER_ID, pa.int64()), (EVENT_TIMESTAMP, TIME), ("preference", pa.list_(pa.float32()))]
)
TRUE_JOBS_SCHEMA = pa.schema(
    [
        (ITEM_ID, pa.int64()),
        ("vector", pa.list_(pa.float32())),
        ("open_from", TIME),
        ("open_until", TIME),
    ]
)

FIRST_PASSIVE_ID = 1_000_000_001
"""Id of the first member who is no active seeker."""
HISTORY_DAYS = 28
"""Days of activity that count as a member's history."""

_README = """\
# A simulated job market

**Simulated**: made by `python -m activity_embeddings.training.datasets.job_market`, with planted \
preferences, to calibrate an evaluation on. It holds no people and no companies; no figure \
measured on it says anything of real members. Say so beside every one.

| File | One row per | Columns |
| --- | --- | --- |
| `activity_events/part-*.parquet` | action | `member_id`, `job_id`, `action`, `event_timestamp` |
| `job_postings.parquet` | job | `job_id`, `title`, `description`, `group` (SOC major group, and \
level if any), `event_timestamp` (posted) |
| `truth/members.parquet` | member and change | `member_id`, `event_timestamp`, `preference` from \
then on |
| `truth/items.parquet` | job | `job_id`, `vector`, `open_from`, `open_until` |

Times are UTC. A member's true utility of a job is the dot product of `preference`, from the newest
row at or before the moment, and `vector`. Truth is for an oracle alone: no model may read it.
{kinds}
## Where it comes from

Titles and descriptions of postings are those of O*NET occupations; a level was added to some
titles, and everything else is made up by the simulation. {notice}

## Settings

{settings}
"""

_KINDS_README = """
Beside acting on jobs, members search, change their status and read posts. Of `search`, `status` \
and `post`:

| File | One row per | Columns |
| --- | --- | --- |
| `<kind>_events/part-*.parquet` | event | `member_id`, `<kind>_id`, `action`, `event_timestamp` |
| `<kind>_items.parquet` | query, status or post | `<kind>_id`, and the columns of \
`job_postings.parquet`, `job_id` being that of no job |
| `truth/<kind>_events.parquet` | event | its columns, and what it came from: `occupation`, \
`cause`, since when that was there, and before which session it came |
"""


@dataclass(frozen=True, kw_only=True)
class JobMarket(MarketSettings):
    """A simulated market; its settings are those of `MarketSettings`.

    Examples
    --------
    >>> market = JobMarket(members=25_000)
    >>> market.blocks
    3
    """

    @property
    def blocks(self) -> int:
        """Number of blocks of members."""
        return -(-self.members // BLOCK)

    @cached_property
    def occupations(self) -> Occupations:
        """The occupations."""
        return Occupations.of(self)

    @cached_property
    def all_jobs(self) -> Jobs:
        """All postings."""
        return Jobs.of(self, self.occupations)

    @cached_property
    def kinds(self) -> KindTables:
        """What members do beside acting on jobs."""
        return KindTables(self, self.occupations)

    def postings(self) -> pa.Table:
        """Return the postings as a table of `POSTINGS_SCHEMA`; a level is added to the title."""
        jobs, known = self.all_jobs, self.occupations
        titles, groups = [], []
        for occupation, level in zip(jobs.occupation, jobs.level, strict=True):
            own = [LEVELS[level]] if LEVELS[level] else []
            titles.append(", ".join([known.titles[occupation], *own]))
            groups.append([known.groups[occupation], *own])
        descriptions = [known.descriptions[occupation] for occupation in jobs.occupation]
        job_ids, posted = np.arange(1, self.jobs + 1), to_us(self.start) + jobs.posted
        return pa.table([job_ids, titles, descriptions, groups, posted], schema=POSTINGS_SCHEMA)

    def true_jobs(self) -> pa.Table:
        """Return true vectors and times of the postings, a table of `TRUE_JOBS_SCHEMA`.

        `vector` has K + 1 values, the last being the attractiveness. A posting is shown from
        `open_from`, the midnight after it was posted, to before `open_until`.
        """
        jobs = self.all_jobs
        vectors = np.column_stack([jobs.vectors, jobs.attractiveness])
        start = to_us(self.start)
        opened, closed = (
            start + day * MICROSECONDS_PER_DAY for day in (jobs.first_day, jobs.end_day)
        )
        job_ids = np.arange(1, self.jobs + 1)
        return pa.table([job_ids, _lists(vectors), opened, closed], schema=TRUE_JOBS_SCHEMA)

    def block(self, number: int) -> tuple[pa.Table, pa.Table]:
        """Make the members `number * BLOCK + 1` and on; blocks can be made in any order.

        Returns
        -------
        tuple[pa.Table, pa.Table]
            Events : table of `EVENTS_SCHEMA`, by time. true_members : table of
            `TRUE_MEMBERS_SCHEMA`, by member, then time. `preference` has K + 1 values, the last
            being 1; a member's preference at t is that of the newest row with `event_timestamp <=
            t`, and its dot product with a job's true vector is the utility.

        Raises
        ------
        InvalidInput
            There is no such block.
        """
        return self.simulate(number).jobs()

    def simulate(self, number: int, *, passive: bool = False) -> SimulatedBlock:
        """Simulate the members of a block; see `block`.

        Parameters
        ----------
        number
            Which block.
        passive
            Whether of the passive members, whose ids begin with `FIRST_PASSIVE_ID`.
        """
        there = self.passive if passive else self.members
        blocks = -(-there // BLOCK)
        if not 0 <= number < blocks:
            raise InvalidInput(
                f"job market: a block is expected from 0 to {blocks - 1}, received {number}"
            )
        random = self.random(PASSIVE_STREAM if passive else BLOCK_STREAM, number)
        directions = draw_directions(self, self.occupations, random)
        if passive:
            visits = draw_first_visits(self, random)
        else:
            visits = draw_visits(self, directions, random)
        sessions = draw_sessions(self, self.occupations, directions, visits, random)
        return SimulatedBlock(
            market=self,
            stream=(int(passive), number),
            first=number * BLOCK + (FIRST_PASSIVE_ID if passive else 1),
            members=min(BLOCK, there - number * BLOCK),
            directions=directions,
            sessions=sessions,
            actions=draw_actions(self, self.all_jobs, directions, sessions, random),
        )

    def write(self, out_dir: Path, *, kinds: bool = False) -> dict[str, float]:
        """Write the market to a folder, block by block: memory does not grow with the members.

        Parameters
        ----------
        out_dir
            Path Made if missing. Gets `activity_events/part-00000.parquet` and on, a file a block;
            `job_postings.parquet`; `truth/members.parquet` and `truth/items.parquet`; `README.md`.
        kinds
            Whether what members do beside acting on jobs is written too: for each of the kinds
            `search`, `status` and `post`, `<kind>_events/`, `<kind>_items.parquet` and
            `truth/<kind>_events.parquet`.

        Returns
        -------
        dict[str, float]
            Counts `events`, `members` (with any event), `jobs`, `jobs_acted_on`; shares `APPLY`,
            `SAVE`, `DISMISS`; `median_history`, the median events in the last 28 days over
            members with any in them; with `kinds`, the number of events of each.

        Raises
        ------
        InvalidInput
            One of these is in the folder already, or it is a file.
        """
        out_dir, written = Path(out_dir), tuple(KIND_ACTIONS) if kinds else ()
        folders = {kind: out_dir / f"{kind}_events" for kind in written}
        items = {kind: out_dir / f"{kind}_items.parquet" for kind in written}
        truths = {kind: out_dir / f"truth/{kind}_events.parquet" for kind in written}
        files = [
            out_dir / f for f in (POSTINGS_FILE, TRUE_MEMBERS_FILE, TRUE_JOBS_FILE, README_FILE)
        ]
        _require_none(
            out_dir, [out_dir / EVENTS_FOLDER, *folders.values()], [*files, *items.values()]
        )
        for folder in (out_dir / EVENTS_FOLDER, *folders.values(), out_dir / "truth"):
            make_folder(folder)
        _write(self.postings(), out_dir / POSTINGS_FILE)
        _write(self.true_jobs(), out_dir / TRUE_JOBS_FILE)
        for kind, path in items.items():
            _write(self.kinds.items(kind), path)
        counts = _Counts(self)
        of_kind = dict.fromkeys(written, 0)
        with ExitStack() as stack:
            true_members = stack.enter_context(
                _writer(out_dir / TRUE_MEMBERS_FILE, TRUE_MEMBERS_SCHEMA)
            )
            writers = {
                kind: stack.enter_context(_writer(path, truth_schema(kind)))
                for kind, path in truths.items()
            }
            for part, block in self._blocks():
                events, members = block.jobs()
                _write(events, out_dir / EVENTS_FOLDER / part)
                true_members.write_table(members)
                counts.add(events)
                for kind in written:
                    events, truth = block.of_kind(kind)
                    _write(events, folders[kind] / part)
                    writers[kind].write_table(truth)
                    of_kind[kind] += len(events)
        readme = self._readme(_KINDS_README if kinds else "")
        (out_dir / README_FILE).write_text(readme, encoding="utf-8")
        return {**counts.summary(), **{f"{kind}_events": n for kind, n in of_kind.items()}}

    def _blocks(self) -> Iterator[tuple[str, SimulatedBlock]]:
        """Make each block, with the name of its files."""
        for number in range(self.blocks):
            yield f"part-{number:05d}.parquet", self.simulate(number)
        for number in range(-(-self.passive // BLOCK)):
            yield f"part-passive-{number:05d}.parquet", self.simulate(number, passive=True)

    def _readme(self, kinds: str) -> str:
        """Return what the folder holds and where it comes from."""
        settings = "\n".join(
            f"    {field.name} = {getattr(self, field.name)}" for field in fields(self)
        )
        return _README.format(notice=NOTICE, settings=settings, kinds=kinds)


@dataclass(frozen=True)
class SimulatedBlock:
    """The members of one block, what they want and do.

    The block is always whole, so that the first members do not depend on how many there are.

    Attributes
    ----------
    market
        The market.
    stream
        Whether they are passive and the number of the block: its place in random streams.
    first
        Id of the first member.
    members
        How many of them are in the market, the first ones.
    directions, sessions, actions
        What all want, when they come, and what they do.
    """

    market: JobMarket
    stream: tuple[int, int]
    first: int
    members: int
    directions: Directions
    sessions: Sessions
    actions: Actions

    def jobs(self) -> tuple[pa.Table, pa.Table]:
        """Return actions on jobs and true preferences; see `JobMarket.block`."""
        directions, actions = self.directions, self.actions
        start = to_us(self.market.start)
        actions = actions.take(actions.member < self.members)
        names = pa.array(ACTIONS).take(pa.array(actions.action))
        events = pa.table(
            [actions.member + self.first, actions.job + 1, names, actions.time + start],
            schema=EVENTS_SCHEMA,
        )
        rows = slice(0, int(np.searchsorted(directions.member, self.members)))
        preference = directions.preference[rows]
        preference = np.column_stack([preference, np.ones(len(preference), np.float32)])
        member, since = directions.member[rows] + self.first, directions.since[rows] + start
        return events, pa.table([member, since, _lists(preference)], schema=TRUE_MEMBERS_SCHEMA)

    def of_kind(self, kind: str) -> tuple[pa.Table, pa.Table]:
        """Return the events of another kind and what they came from; see `KindTables.tables`."""
        kinds = self.market.kinds
        done = kinds.activity(kind, self.directions, self.sessions, *self.stream)
        return kinds.tables(kind, done, self.first, self.members)


def _require_none(out_dir: Path, folders: list[Path], files: list[Path]) -> None:
    """Refuse a folder with a market, or with files of the same names."""
    there = [folder.name for folder in folders if any(folder.glob("*.parquet"))]
    there += [str(path.relative_to(out_dir)) for path in files if path.exists()]
    if there or out_dir.is_file():
        raise InvalidInput(
            f"{out_dir}: expected a folder without a market, whose events would be read with "
            f"the new ones, and without files of the same names. Received: "
            f"{', '.join(there) or 'a file'}"
        )


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd")


class _Counts:
    """Counts of events, added block by block."""

    def __init__(self, market: JobMarket) -> None:
        self.market = market
        self.actions = np.zeros(len(ACTIONS), np.int64)
        self.members = 0
        self.acted_on = np.zeros(market.jobs + 1, bool)
        self.histories = np.zeros(1, np.int64)

    def add(self, events: pa.Table) -> None:
        """Count the events of one block."""
        names = events[ACTION].to_numpy()
        self.actions += [int((names == action).sum()) for action in ACTIONS]
        member = events[MEMBER_ID].to_numpy()
        self.members += len(np.unique(member))
        self.acted_on[events[ITEM_ID].to_numpy()] = True
        end = to_us(self.market.start) + self.market.days * MICROSECONDS_PER_DAY
        time = events[EVENT_TIMESTAMP].cast(pa.int64()).to_numpy()
        lately = time >= end - HISTORY_DAYS * MICROSECONDS_PER_DAY
        _, lengths = np.unique(member[lately], return_counts=True)
        counted = np.bincount(lengths, minlength=len(self.histories))
        counted[: len(self.histories)] += self.histories
        self.histories = counted

    def summary(self) -> dict[str, float]:
        """Return the figures that `JobMarket.write` returns."""
        events = int(self.actions.sum())
        lengths = np.repeat(np.arange(len(self.histories)), self.histories)
        shares = self.actions / max(events, 1)
        return {
            "events": events,
            "members": self.members,
            "jobs": self.market.jobs,
            "jobs_acted_on": int(self.acted_on.sum()),
            **dict(zip(ACTIONS, shares.tolist(), strict=True)),
            "median_history": float(np.median(lengths)) if len(lengths) else 0.0,
        }


def _lists(values: np.ndarray) -> pa.ListArray:
    """Return float32 [n, K] as n lists of K."""
    return vector_column(values.astype(np.float32))
