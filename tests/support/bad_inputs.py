"""Generated inputs, most of them bad: each is refused by name, or used rightly.

An area makes inputs of one kind by a seeded generator and gives them to the real functions. What
is used is held to the slow reference; what is refused has to leave the stores as they were.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import random
import shutil
import sqlite3
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from click.testing import CliRunner
from feast import Entity, FileSource
from feast.value_type import ValueType

from activity_embeddings import (
    ActivityDomain,
    ActivityModel,
    ActivitySpec,
    IcebergSnapshots,
    ItemVectorSpec,
    PostgreSQLSnapshots,
    RequestLimits,
    activity_view,
    vector_view,
)
from activity_embeddings.training.commands import cli
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.sequences import make_sequences
from activity_embeddings.transformations.batch.engine import ActivityComputeEngine
from activity_embeddings.transformations.cli import read_events_file
from activity_embeddings.transformations.contract.activity_model import describe_model
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.feast_compat.stores import offline_store, online_store
from activity_embeddings.transformations.offline.sources import read_events, read_item_vectors
from activity_embeddings.transformations.online.push import SequenceWriter
from support import reference
from support.feast_repo import DIMENSION, Repo, at, interval, small_repo, us
from support.feast_server import Server, feast_server
from support.malformed_requests import DEEP, GOOD, OTHERS, PARTS, STRANGE, change, malformed

PACKAGE = "/transformations/"
"""What paths of the package have in them."""
HUGE = 2**63 - 1
TYPES = [
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.null(), pa.decimal128(38, 2)),
    *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()),
    *(pa.date32(), pa.date64(), pa.time64("us"), pa.duration("us")),
    *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns")
      for zone in (None, "UTC", "Asia/Tokyo", "+05:30")),
    *(pa.dictionary(pa.int32(), kind) for kind in (pa.string(), pa.int64())),
    *(pa.list_(kind) for kind in (pa.float16(), pa.float32(), pa.float64(), pa.int64())),
    pa.list_(pa.string()),
    *(pa.large_list(pa.float32()), pa.list_(pa.float32(), 3), pa.list_(pa.list_(pa.float32()))),
    *(pa.struct({"a": pa.int64()}), pa.map_(pa.string(), pa.int64())),
]  # fmt: skip
VALUES = [
    *(None, 0, -1, 1, 7, 2**31, HUGE, -HUGE - 1, 2**64, 1.5, math.nan, math.inf, 1e300, True),
    *("", " ", "7", "APPLY", "apply", "a\0b", "\ud800", "x" * 10_000, "http://[x"),
    *(b"\xff\xfe", b"", Decimal("1.50"), Path("."), object, float, pd.NA, set(), (), ("APPLY",)),
    *(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC), datetime(2024, 3, 1)),
    *(at(0), timedelta(days=-1), timedelta.max, np.float32(2), np.int64(3)),
    *([], [1.0], [None], [math.nan] * DIMENSION, {"a": 1}, [[1]]),
]  # fmt: skip
NAMES = [
    "member_id",
    "job_id",
    "action",
    "event_timestamp",
    "event_id",
    "embedding",
    "",
    "x",
    "a\0",
]


class Wrong(AssertionError):
    """An input was neither refused by name nor used rightly."""


@dataclass
class Area:
    """A kind of input.

    Attributes
    ----------
    name
        Of the kind.
    share
        Of all inputs.
    make
        Draws an input; gives it to the package; returns whether it was used, or raises.
    """

    name: str
    share: float
    make: Callable[[random.Random], str]
    counts: Counter[str] = field(default_factory=Counter)


def refused(call: Callable[[], Any]) -> tuple[bool, Any]:
    """Return whether a call refuses its input by name, and what it returns or says.

    Raises
    ------
    Wrong
        It fails otherwise.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return False, call()
    except InvalidInput as error:
        said = str(error)
        if not said.strip() or len(said) > 3000 or "Traceback" in said:
            raise Wrong(f"a message of {len(said)} characters: {said[:200]!r}") from error
        return True, said


# Files and tables.


def mutated(table: pa.Table, draw: random.Random) -> pa.Table:
    """Return a table with some changes, of which a few leave it good."""
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        table = draw.choice(
            [_without, _renamed, _twice, _cast, _cast, _valued, _valued, _valued, _rows]
        )(table, draw)
    return table


def _column(table: pa.Table, draw: random.Random) -> int:
    return draw.randrange(max(1, table.num_columns))


def _without(table: pa.Table, draw: random.Random) -> pa.Table:
    return table.remove_column(_column(table, draw)) if table.num_columns else table


def _renamed(table: pa.Table, draw: random.Random) -> pa.Table:
    names = list(table.column_names)
    if names:
        i = _column(table, draw)
        names[i] = draw.choice([names[i].upper(), f" {names[i]}", f"{names[i]}\0", *NAMES])
    return table.rename_columns(names)


def _twice(table: pa.Table, draw: random.Random) -> pa.Table:
    if not table.num_columns:
        return table
    i = _column(table, draw)
    name = draw.choice([table.column_names[i], table.column_names[i], *NAMES])
    return table.append_column(name, table.column(draw.randrange(table.num_columns)))


def _cast(table: pa.Table, draw: random.Random) -> pa.Table:
    if not table.num_columns:
        return table
    i, kind = _column(table, draw), draw.choice(TYPES)
    values = table.column(i)
    try:
        values = values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        values = pa.nulls(len(table), kind)
    return table.set_column(i, table.column_names[i], values)


def _valued(table: pa.Table, draw: random.Random) -> pa.Table:
    """Put a strange value into a cell, or into all of a column, of whatever type that makes it."""
    if not table.num_columns or not len(table):
        return table
    i, value = _column(table, draw), draw.choice(VALUES)
    kind = table.column(i).type
    try:
        values = table.column(i).to_pylist()
    except (UnicodeDecodeError, OverflowError, ValueError):
        return table  # of an earlier change
    if draw.random() < 0.2:
        values = [value] * len(values)
    else:
        values[draw.randrange(len(values))] = value
    for wanted in (kind, None):
        with contextlib.suppress(Exception):
            return table.set_column(i, table.column_names[i], pa.array(values, wanted))
    if pa.types.is_timestamp(kind):
        far = [draw.choice([HUGE, -HUGE - 1, HUGE // 1000, -HUGE // 1000, 0])] * len(values)
        return table.set_column(i, table.column_names[i], pa.array(far, pa.int64()).cast(kind))
    if pa.types.is_string(kind):  # text that is none
        return table.set_column(
            i, table.column_names[i], pa.array([b"\xff\xfe"] * len(values)).view(pa.string())
        )
    return table


def _rows(table: pa.Table, draw: random.Random) -> pa.Table:
    count = draw.choice([0, 1, 2, len(table)])
    order = [draw.randrange(len(table)) for _ in range(count)] if len(table) else []
    with contextlib.suppress(pa.ArrowNotImplementedError):  # of some types
        return table.take(pa.array(order, pa.int64()))
    return table.slice(0, count)


def corrupt(content: bytes, draw: random.Random) -> bytes:
    """Return bytes of a file, some of which are others."""
    kind, place = draw.randrange(6), draw.randrange(max(1, len(content)))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return draw.choice(
            [
                b"",
                b"PAR1",
                b"PAR1PAR1",
                b"\0" * 100,
                b"{}\n",
                content * 2,
                b"\xef\xbb\xbf" + content,
            ]
        )
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 4, 40])):
        # The footer of parquet, at the end, says how to read the rest.
        back = draw.randrange(1, max(2, min(len(changed), draw.choice([8, 400, 10**9]))))
        if changed:
            changed[-back] = draw.randrange(256)
    return bytes(changed)


def written(table: pa.Table, file: Path, draw: random.Random, *, whole: bool = False) -> bool:
    """Write a parquet file, perhaps corrupt; return whether its rows are surely those given."""
    try:
        pq.write_table(table, file, row_group_size=draw.choice([None, 7]))
    except (pa.ArrowException, OSError, UnicodeError):
        file.unlink(missing_ok=True)
        return False
    if whole or draw.random() > 0.25:
        return True
    file.write_bytes(corrupt(file.read_bytes(), draw))
    return False


def microseconds(values: pa.ChunkedArray) -> list[int]:
    """Return times as the reference has them."""
    per = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0}[values.type.unit]
    numbers = values.cast(pa.int64()).to_pylist()
    return [number * per if per else number // 1_000 for number in numbers]


def reference_events(table: pa.Table) -> list[dict[str, Any]]:
    """Return events as the reference takes them."""
    columns = {name: table.column(name).to_pylist() for name in ("member_id", "job_id", "action")}
    columns["time"] = microseconds(table.column("event_timestamp"))
    if "event_id" in table.column_names:
        columns["event_id"] = table.column("event_id").to_pylist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


# What the areas share.


class World:
    """A published feature repo, its server, and good inputs to start from."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.repo: Repo = small_repo(folder / "repo", models)
        (self.repo.path / "others.py").write_text(OTHERS)
        self.repo.run("apply", "--skip-source-validation")
        names = ("cnn", "unweighted_average", "geometric_decay")
        ours = ("embedding", "activity_sequence", *(f"activity_embedding_{m}" for m in names))
        self.views = [word for view in ours for word in ("--views", f"job_{view}")]
        self.repo.materialize(at(2), at(4), *self.views)
        self.store = self.repo.store
        self.config, self.offline = self.store.config, offline_store(self.store)
        self.spec = ActivitySpec()
        self.events = pq.read_table(self.repo.events)
        self.some = self.events.slice(0, 60)
        self.vectors = pq.read_table(self.repo.data / "job_embeddings.parquet")
        self.aside = folder / "aside"
        self.aside.mkdir()
        self.kept = self.state()

    def state(self) -> dict[str, bytes]:
        """Return every byte of the stores and sources, but for locks and records of runs."""
        return {
            str(file.relative_to(self.repo.data)): file.read_bytes()
            for file in sorted(self.repo.data.rglob("*"))
            if file.is_file() and "runs/" not in str(file) and file.suffix != ".lock"
        }

    def put_back(self) -> None:
        """Make the stores what they were."""
        for name in self.state().keys() - self.kept.keys():
            (self.repo.data / name).unlink()
        for name, content in self.kept.items():
            file = self.repo.data / name
            if not file.is_file() or file.read_bytes() != content:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)

    def require_unchanged(self) -> None:
        """Raise `Wrong` unless the stores are what they were."""
        now = self.state()
        differ = [k for k in now.keys() | self.kept.keys() if now.get(k) != self.kept.get(k)]
        if differ:
            self.put_back()
            raise Wrong(f"refused, but {sorted(differ)} changed")


# The areas.


def event_files(world: World) -> Callable[[random.Random], str]:
    """Give files to the reader of sources."""
    view = world.store.get_feature_view("job_activity")
    source = world.aside / "events"
    source.mkdir()
    view.batch_source = FileSource(path=f"file://{source}", timestamp_field="event_timestamp")
    end = us(at(6))
    known = ItemVectors.from_arrow(world.vectors, ItemVectorSpec("v", "1", DIMENSION))
    vectors = [(row["job_id"], us(row["event_timestamp"]), 1) for row in world.vectors.to_pylist()]

    def make(draw: random.Random) -> str:
        for file in source.iterdir():
            file.unlink()
        table = mutated(world.some, draw)
        surely = written(table, source / "a.parquet", draw)
        if draw.random() < 0.2:
            written(world.some.slice(0, 3), source / "b.parquet", draw)
            surely = False
        no, events = refused(
            lambda: read_events(
                world.config, world.offline, [view], world.spec, start=us(at(-60)), end=end
            )
        )
        if no:
            return "refused"
        # Text ids of items meet no vectors here.
        if surely and len(events) and events.item_ids.type == known.item_ids.type:
            sequences = make_sequences(
                events,
                events.member_ids,
                np.full(len(events.member_ids), end),
                spec=world.spec,
                vectors=known,
            )
            rows = reference_events(table)
            for n, member in enumerate(events.member_ids.to_pylist()):
                want, _ = reference.sequence(
                    rows, vectors, member, end, window_us=world.spec.window_us, length=32
                )
                count = int(sequences.count[n])
                got = [
                    (
                        sequences.item_ids[int(item)].as_py(),
                        world.spec.vocabulary[action],
                        int(time),
                    )
                    for item, action, time in zip(
                        sequences.item[n][32 - count :],
                        sequences.action[n][32 - count :],
                        sequences.time[n][32 - count :],
                        strict=True,
                    )
                ]
                if got != want:
                    raise Wrong(f"member {member}: {got} instead of {want}; {table.schema}")
        return "used"

    return make


def vector_files(world: World) -> Callable[[random.Random], str]:
    """Give files of item vectors to the reader of sources."""
    view = world.store.get_feature_view("job_embedding")
    file = world.aside / "vectors.parquet"
    view.batch_source = FileSource(path=f"file://{file}", timestamp_field="event_timestamp")
    spec = ItemVectorSpec("content_and_behaviour", "1", DIMENSION)

    def make(draw: random.Random) -> str:
        table = mutated(world.vectors, draw)
        surely = written(table, file, draw)
        no, vectors = refused(
            lambda: read_item_vectors(world.config, world.offline, view, spec, end=us(at(9)))
        )
        if no:
            return "refused"
        if not np.isfinite(vectors.matrix).all() or vectors.matrix.shape[1] != DIMENSION:
            raise Wrong("vectors that are not finite, or of another length")
        if surely:
            time = microseconds(table.column("event_timestamp"))
            want = sorted(
                (item, t, np.float32(values).tolist())
                for item, t, values in zip(
                    table.column("job_id").to_pylist(),
                    time,
                    table.column("embedding").to_pylist(),
                    strict=True,
                )
                if t <= us(at(9))
            )
            got = [
                (item.as_py(), int(vectors.time[row]), vectors.matrix[row].tolist())
                for n, item in enumerate(vectors.item_ids)
                for row in range(vectors.start[n], vectors.start[n + 1])
            ]
            if got != want:
                raise Wrong(f"other vectors than those of the file: {table.schema}")
        return "used"

    return make


class Pushes:
    """Pushes what may be bad, and holds what is served then to the reference."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.writer = SequenceWriter(world.store)
        self.database = world.repo.data / "online.db"
        self.copy = world.aside / "online.db"
        shutil.copy(self.database, self.copy)
        self.known = {
            row["job_id"] for row in world.vectors.to_pylist() if row["event_timestamp"] <= at(4)
        }

    def push(self, read: Callable[[], Any]) -> str:
        """Push what `read` gives, or raise."""
        before: dict[str, Any] = {}

        def push() -> pa.Table:
            events = read()
            before["table"] = events
            members = self._members(events)
            before["stored"] = self._stored(members) if members else {}
            self.writer.push(events)
            return events

        no, _ = refused(push)
        if no:
            self.world.require_unchanged()
            return "refused"
        try:
            self._check(before["table"], before["stored"])
        finally:
            self._put_back()
        return "used"

    def _members(self, events: Any) -> list[int]:
        try:
            found = {int(member) for member in events["member_id"].to_pylist()}
        except Exception:
            return []
        return sorted(member for member in found if -HUGE <= member <= HUGE)

    def _stored(self, members: list[int]) -> dict[int, tuple[list[dict[str, Any]], int]]:
        """Return members' stored activities, and the time of their rows."""
        names = ("job_ids", "actions", "times")
        answer = self.world.store.get_online_features(
            [f"job_activity_sequence:activity_{name}" for name in names],
            [{"member_id": member} for member in members],
        )
        columns = [answer.to_dict()[f"activity_{name}"] for name in names]
        position = list(answer.proto.metadata.feature_names.val).index("activity_job_ids")
        moments = answer.proto.results[position].event_timestamps
        stored = {}
        for n, member in enumerate(members):
            items, actions, times = (column[n] or [] for column in columns)
            rows = [
                {"member_id": member, "job_id": item, "time": time,
                 "action": self.world.spec.vocabulary[action]}
                for item, action, time in zip(items, actions, times, strict=True)
            ]  # fmt: skip
            stored[member] = rows, moments[n].ToMicroseconds()
        return stored

    def _check(self, events: Any, stored: Mapping[int, tuple[list[dict[str, Any]], int]]) -> None:
        table = events if isinstance(events, pa.Table) else pa.Table.from_pandas(events)
        rows = [
            {k: v for k, v in row.items() if k != "event_id"} for row in reference_events(table)
        ]
        for row in rows:
            row["member_id"], row["job_id"] = int(row["member_id"]), int(row["job_id"])
        logged = [
            row
            for name in self.world.state().keys() - self.world.kept.keys()
            for row in reference_events(pq.read_table(self.world.repo.data / name))
        ]
        order = lambda row: (row["member_id"], row["time"], row["job_id"], row["action"])  # noqa: E731
        if sorted(logged, key=order) != sorted(rows, key=order):
            raise Wrong(f"other events in the log than were pushed: {table.schema}")
        after = self._stored(sorted(stored)) if stored else {}
        for member, (before, moment) in stored.items():
            theirs = [
                row for row in rows if row["member_id"] == member and row["job_id"] in self.known
            ]
            together = before + theirs
            as_of = max([moment, *(row["time"] + 1 for row in together)])
            vectors = [(row["job_id"], -(2**70), 1) for row in together]
            want, _ = reference.sequence(
                together, vectors, member, as_of, window_us=self.world.spec.window_us, length=32
            )
            got = [(row["job_id"], row["action"], row["time"]) for row in after[member][0]]
            if got != want:
                raise Wrong(f"member {member} is served {got} instead of {want}; {table.schema}")

    def _put_back(self) -> None:
        for name in self.world.state().keys() - self.world.kept.keys():
            (self.world.repo.data / name).unlink()
        # By sqlite's own means: the writer has it open.
        with (
            contextlib.closing(sqlite3.connect(self.copy)) as kept,
            contextlib.closing(sqlite3.connect(self.database)) as there,
        ):
            kept.backup(there)
        self.world.kept = self.world.state()


def pushed_frames(world: World, pushes: Pushes) -> Callable[[random.Random], str]:
    """Push tables of Arrow and of pandas."""

    def make(draw: random.Random) -> str:
        events = mutated(world.some.slice(draw.randrange(40), draw.choice([1, 5, 20])), draw)
        if draw.random() < 0.4:
            with contextlib.suppress(Exception):
                events = events.to_pandas()
                if draw.random() < 0.5 and len(events) and len(events.columns):
                    column = draw.choice(list(events.columns))
                    values = events[column].tolist()
                    values[draw.randrange(len(values))] = draw.choice(VALUES)
                    events[column] = pd.Series(values, dtype=object)
        return pushes.push(lambda: events)

    return make


def pushed_files(world: World, pushes: Pushes) -> Callable[[random.Random], str]:
    """Push parquet, CSV and JSON-lines files."""

    def as_text(table: pa.Table, suffix: str, draw: random.Random) -> bytes:
        rows = [
            {**row, "event_timestamp": row["event_timestamp"].isoformat()}
            for row in table.to_pylist()
        ]
        for _ in range(draw.choice([0, 1, 1, 2])):
            row, name = draw.choice(rows), draw.choice(list(rows[0]))
            kind = draw.randrange(4)
            if kind == 0:
                row.pop(name, None)
            elif kind == 1:
                row[draw.choice([name.upper(), *NAMES])] = row.pop(name, None)
            else:
                row[name] = draw.choice(STRANGE)
        if suffix == ".jsonl":
            lines = [json.dumps(row) for row in rows]
            for placeholder, deep in DEEP.items():
                lines = [line.replace(placeholder, deep) for line in lines]
        else:
            header = list(dict.fromkeys(name for row in rows for name in row))
            lines = [",".join(map(str, header))]
            lines += [",".join(str(row.get(name, "")) for name in header) for row in rows]
        return "\n".join(lines).encode("utf-8", "surrogatepass")

    def make(draw: random.Random) -> str:
        suffix = draw.choice([".parquet", ".csv", ".jsonl", ".jsonl"])
        table = world.some.slice(draw.randrange(40), draw.choice([1, 5, 20]))
        file = world.aside / f"pushed{suffix}"
        if suffix == ".parquet":
            if not written(mutated(table, draw), file, draw):
                file.touch()
        else:
            content = as_text(table, suffix, draw)
            file.write_bytes(corrupt(content, draw) if draw.random() < 0.3 else content)
        own = pushes.writer.kind()
        return pushes.push(
            lambda: read_events_file(file, own.id_types, own.source_names, own.names)
        )

    return make


def requests(
    world: World, connection: http.client.HTTPConnection
) -> Callable[[random.Random], str]:
    """Ask a server for features."""
    good = [json.dumps(request).encode() for request in GOOD]
    asked = 0.0

    def ask(body: bytes, kind: str = "application/json") -> tuple[int, Any]:
        nonlocal asked
        if time.monotonic() > asked + 1:
            connection.close()  # a server ends a connection that is idle for some seconds
        asked = time.monotonic()
        headers = {"Content-Type": kind} if kind else {}
        connection.request("POST", "/get-online-features", body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def values(body: bytes) -> list[Any]:
        return [column["values"] for column in ask(body)[1]["results"]]

    expected = [values(body) for body in good]

    def make(draw: random.Random) -> str:
        body, kind = malformed(draw)
        status, answer = ask(body, kind)
        if draw.random() < 0.02:
            n = draw.randrange(len(good))
            if values(good[n]) != expected[n]:
                raise Wrong("a good request is answered otherwise than before")
            world.require_unchanged()
        if status == 200:
            return "used"
        if status not in (404, 413, 415, 422):
            raise Wrong(f"{status}: {answer} to {body[:300]!r}")
        message = json.loads(answer)["message"]
        if not message.isprintable() or not PARTS.search(message) or len(message) > 1000:
            raise Wrong(f"{status} {message[:300]!r} to {body[:300]!r}")
        return "refused"

    return make


def definitions(world: World) -> Callable[[random.Random], str]:
    """Declare with arguments that may be none."""
    repo = world.repo.path
    spec, vectors = ActivitySpec(), ItemVectorSpec("content_and_behaviour", "1", DIMENSION)
    member = Entity(name="member", join_keys=["member_id"], value_type=ValueType.INT64)
    item = Entity(name="job", join_keys=["job_id"], value_type=ValueType.INT64)
    event_source = FileSource(
        name="e", path="data/activity_events", timestamp_field="event_timestamp"
    )
    item_source = FileSource(
        name="v", path="data/job_embeddings.parquet", timestamp_field="event_timestamp"
    )
    events = {"source": event_source, "member": member, "item": item, "spec": spec}
    of_items = {"source": item_source, "item": item, "vectors": vectors, "table": None}
    model = {
        "path": repo / "models/cnn",
        "name": "cnn",
        "version": "1",
        "spec": spec,
        "vector_spec": vectors,
    }
    domain = {
        "activity": activity_view(event_source, member=member, item=item, spec=spec),
        "vectors": vector_view(item_source, item=item, vectors=vectors),
        "member": member, "item": item, "models": [ActivityModel(**model)], "repo": repo,
    }  # fmt: skip

    def same_spec(made: ActivitySpec) -> bool:
        return ActivitySpec.from_dict(json.loads(made.to_json())) == made

    def same_vectors(made: ItemVectorSpec) -> bool:
        return ItemVectorSpec.from_dict(json.loads(json.dumps(made.to_dict()))) == made

    fine: Callable[[Any], bool] = lambda made: True  # noqa: E731
    makers: list[tuple[Callable[..., Any], dict[str, Any], Callable[[Any], bool]]] = [
        (ActivitySpec, {f: getattr(spec, f) for f in spec.__slots__}, same_spec),
        (ItemVectorSpec, vectors.to_dict(), same_vectors),
        (RequestLimits, asdict(RequestLimits()), fine),
        (lambda schema: PostgreSQLSnapshots(schema).source("v", "1", repo), {"schema": "s"}, fine),
        (lambda **of: IcebergSnapshots(**of).source("view", "1", repo),
         {"warehouse": "data/w", "namespace": "n", "catalog_type": "sql", "catalog_name": "c",
          "catalog_properties": {}, "endpoint": "", "token_env_var": None,
          "credential_vending": True}, fine),
        (lambda **of: describe_model(ActivityModel(**of), spec=spec, vector_spec=vectors),
         model, fine),
        (lambda source, **of: activity_view(source, **of),
         {**events, "action": "action", "event_id": None, "owner": ""}, fine),
        (lambda source, **of: vector_view(source, **of), {**of_items, "owner": ""}, fine),
        (lambda **of: ActivityDomain(**of), {**domain, "owner": ""}, fine),
    ]  # fmt: skip

    def make(draw: random.Random) -> str:
        call, arguments, right = draw.choice(makers)
        arguments = dict(arguments)
        for _ in range(draw.choice([1, 1, 2])):
            arguments[draw.choice(list(arguments))] = draw.choice(VALUES)
        no, made = refused(lambda: call(**arguments))
        if not no and not right(made):
            raise Wrong(f"{made!r} is another one when written and read")
        return "refused" if no else "used"

    return make


def manifests(world: World) -> Callable[[random.Random], str]:
    """Read models whose manifest may be none."""
    folder = world.aside / "model"
    shutil.copytree(world.repo.path / "models" / "geometric_decay", folder)
    file = folder / "assets.extra" / "activity_model.json"
    good = json.loads(file.read_text())
    model = ActivityModel(folder)
    vectors = ItemVectorSpec("content_and_behaviour", "1", DIMENSION)

    def make(draw: random.Random) -> str:
        manifest = deepcopy(good)
        for _ in range(draw.choice([1, 1, 2])):
            change(manifest, draw)
        text = json.dumps(manifest)
        for placeholder, deep in DEEP.items():
            text = text.replace(placeholder, deep)
        content = text.encode()
        file.write_bytes(corrupt(content, draw) if draw.random() < 0.2 else content)
        no, _ = refused(lambda: describe_model(model, spec=world.spec, vector_spec=vectors))
        return "refused" if no else "used"

    return make


def configurations(world: World) -> Callable[[random.Random], str]:
    """Make engines of feature_store.yaml whose settings may be none."""
    folder = world.aside / "configured"
    folder.mkdir()
    good = yaml.safe_load((world.repo.path / "feature_store.yaml").read_text())
    guard = {"limit": 0.5, "action": "fail"}
    good["batch_engine"] |= {
        "batch_size": 1024, "retention_days": 90, "mix_runtimes": False, 
        "metrics_file": "m.prom", "guards": {"members": guard, "norms": guard},
    }  # fmt: skip
    offline, online = offline_store(world.store), online_store(world.store)

    def make(draw: random.Random) -> str:
        settings = deepcopy(good)
        of_engine = settings["batch_engine"]
        kind = of_engine.pop("type")
        change(of_engine, draw)
        if not all(isinstance(key, str) for key in of_engine):
            return "left out"
        settings["batch_engine"] = {"type": kind, **of_engine}
        text = yaml.safe_dump(settings, allow_unicode=True)
        for placeholder in DEEP:
            text = text.replace(placeholder.strip('"'), "deep")
        file = folder / "feature_store.yaml"
        file.write_text(text, encoding="utf-8", errors="replace")
        read = yaml.safe_load(file.read_text())["batch_engine"]
        config = world.config

        def use() -> None:
            engine = ActivityComputeEngine(
                repo_config=config, offline_store=offline, online_store=online, **read
            )
            cutoffs = engine.settings.schedule.cutoffs(us(at(0)), us(at(1)))
            if cutoffs[-1] != us(at(1)):
                raise Wrong(f"cut-offs {cutoffs[-3:]}")

        no, _ = refused(use)
        return "refused" if no else "used"

    return make


def commands(world: World) -> Callable[[random.Random], str]:
    """Run `activity-embeddings` with arguments that may be none."""
    file = world.aside / "events.jsonl"
    file.write_text('{"member_id": 1}\n')
    texts = [
        *("", "x", "-1", "0", "1", "9" * 30, "nan", "inf", "a\nb", "\u0663", "../..", "/", "-"),
        *("2024-03-02", "2024-03-04", "0001-01-01", "9999-12-31", "2024-13-01"),
        *("2024-03-01T00:00:00+99:00", str(file), "job", "job_embedding", "members"),
        *("--help", "--item", "--views", "--limit", "--sample", "--seed", "--verify", "--json"),
    ]
    names = [
        "push",
        "check",
        "materialize",
        "plan",
        "runs",
        "compact",
        "forget",
        "nothing",
        "--version",
    ]

    def make(draw: random.Random) -> str:
        arguments = [draw.choice(names), *(draw.choice(texts) for _ in range(draw.randrange(5)))]
        result = CliRunner().invoke(cli, ["-C", str(world.repo.path), *arguments])
        done = result.exit_code == 0
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise Wrong(f"{arguments}: {result.exception!r}") from result.exception
        said = [line for line in result.output.splitlines() if line.startswith("Error: ")]
        if (not done and len(said) != 1) or result.exit_code not in range(6):
            raise Wrong(f"{arguments}: status {result.exit_code}: {result.output[-500:]}")
        if said and said[0].removeprefix("Error: ").split(":")[0].endswith(("Error", "Exception")):
            raise Wrong(f"{arguments}: {said[0]}")
        if not done:
            world.require_unchanged()
        elif world.state() != world.kept:
            world.put_back()
        return "used" if done else "refused"

    return make


def runs(world: World) -> Callable[[random.Random], str]:
    """Publish from sources that may be bad."""
    history = world.repo.events / "history.parquet"
    vectors = world.repo.data / "job_embeddings.parquet"

    def make(draw: random.Random) -> str:
        file, table = draw.choice([(history, world.events), (vectors, world.vectors)])
        written(mutated(table, draw), file, draw)
        name = str(file.relative_to(world.repo.data))
        if file.is_file():
            world.kept[name] = file.read_bytes()
        else:
            world.kept.pop(name, None)
        try:
            outcome = world.repo.feast(*interval(at(3), at(5), *world.views))
            if outcome.code == 0:
                return "used"
            said = [line for line in outcome.output.splitlines() if line.startswith("Error: ")]
            if "Traceback" in outcome.output or len(said) != 1 or outcome.code not in (1, 3):
                raise Wrong(f"status {outcome.code}: {outcome.output[-1500:]}")
            world.require_unchanged()
            return "refused"
        finally:
            pq.write_table(world.events, history)
            pq.write_table(world.vectors, vectors)
            world.kept |= {
                str(f.relative_to(world.repo.data)): f.read_bytes() for f in (history, vectors)
            }
            world.put_back()

    return make


@contextlib.contextmanager
def areas(folder: Path, models: Path) -> Iterator[list[Area]]:
    """Give all areas, over one world, while the body runs."""
    world = World(folder, models)
    with (
        feast_server(world.repo, folder / "serve.log") as server,
        contextlib.closing(_connect(server)) as connection,
    ):
        pushes = Pushes(world)
        yield [
            Area("files of events", 0.2, event_files(world)),
            Area("files of item vectors", 0.12, vector_files(world)),
            Area("pushed frames", 0.13, pushed_frames(world, pushes)),
            Area("pushed files", 0.12, pushed_files(world, pushes)),
            Area("requests", 0.24, requests(world, connection)),
            Area("definitions", 0.08, definitions(world)),
            Area("manifests", 0.05, manifests(world)),
            Area("settings", 0.04, configurations(world)),
            Area("commands", 0.015, commands(world)),
            Area("runs", 0.005, runs(world)),
        ]


def _connect(server: Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)


def attempt(area: Area, draw: random.Random) -> tuple[str, str] | None:
    """Make one input; return what is wrong, by kind and in words, None where nothing is."""
    try:
        area.counts[area.make(draw)] += 1
    except Exception as error:
        area.counts["wrong"] += 1
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if PACKAGE in frame.filename] or frames
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        return f"{area.name}: {type(error).__name__} at {where}", str(error)
    return None
