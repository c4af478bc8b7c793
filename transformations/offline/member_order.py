"""Rows in the order of members: as stores give them, or put in order by what files say of them.

They are divided into parts while they come. Nothing is written to a disk of this machine, and each
row is read once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from activity_embeddings.transformations.activity.member_range import MemberRange
from activity_embeddings.transformations.arrow import single_chunk
from activity_embeddings.transformations.errors import InvalidData
from activity_embeddings.transformations.offline.spill import Part, memory_of

_PIECES_A_PART = 16
"""How much smaller what is added to a part is, so that most parts are nearly full."""


def parts_in_order(
    streams: Sequence[Iterable[pa.Table]], member: str, budget: int
) -> Generator[Part]:
    """Yield the rows of streams by ascending ranges of members, which cover all ids.

    Parameters
    ----------
    streams
        The rows, in tables of one schema, those of each stream by ascending ids of members. Each
        has a table at least, which may have no rows.
    member
        Column of these ids, without nulls.
    budget
        What the rows of a range may take in bytes, see `memory_of`. One member is never divided.
    """
    coming = [_pieces(stream, budget) for stream in streams]
    held = [next(pieces) for pieces in coming]  # no rows, but the columns
    ahead = {pieces: piece for pieces in coming if (piece := next(pieces, None)) is not None}
    memory, start = 0.0, None
    while ahead:
        # Of members before the first that comes, of all streams, all rows are held.
        pieces = min(ahead, key=lambda coming: ahead[coming].column(member)[0].as_py())
        piece = ahead.pop(pieces)
        if memory + _memory(piece) > budget:
            end = piece.column(member)[0]
            complete, held = _divided(held, member, end.as_py())
            if complete:
                yield MemberRange(start, end), partial(_taken, complete)
                start, memory = end, sum(map(_memory, held))
        held.append(piece)
        memory += _memory(piece)
        following = next(pieces, None)
        if following is not None:
            ahead[pieces] = following
    yield MemberRange(start), partial(_taken, held)


@dataclass(frozen=True)
class RowGroup:
    """Rows of a source that are read together.

    Attributes
    ----------
    first
        int or str. No member before it has rows; that it has some itself need not be.
    last
        No member after it has rows, more or less.
    rows
        How many at most.
    read
        Yields them in tables, in any order.
    """

    first: Any
    last: Any
    rows: int
    read: Callable[[], Iterator[pa.Table]]


def groups_in_turn(
    files: Iterable[Sequence[RowGroup] | None], at_once: int
) -> list[RowGroup] | None:
    """Return the row groups of files, where `merged` holds no more than some rows of them.

    None otherwise, or where a file does not tell its groups: most logs are by time, and show it by
    their first files, so that the others are not asked for.
    """
    groups: list[RowGroup] = []
    looked = 0
    for found in files:
        if found is None:
            return None
        groups += found
        if len(groups) > 2 * looked:
            looked = len(groups)
            if most_held(groups) > at_once:
                return None
    return groups if most_held(groups) <= at_once else None


def most_held(groups: Iterable[RowGroup]) -> int:
    """Return how many rows `merged` holds at most: those of groups that one member may be in."""
    by_last = iter(sorted(groups, key=attrgetter("last")))
    ended = next(by_last, None)
    held = most = 0
    for group in sorted(groups, key=attrgetter("first")):
        while ended is not None and ended.last < group.first:
            held -= ended.rows
            ended = next(by_last, None)
        held += group.rows
        most = max(most, held)
    return most


def merged(
    groups: Iterable[RowGroup], member: str, schema: pa.Schema, label: str
) -> Iterator[pa.Table]:
    """Yield a table without rows, then the rows of groups by ascending ids of members.

    Each group is read once.

    Parameters
    ----------
    groups
        The groups.
    member
        Column of these ids, without nulls.
    schema
        Of all tables.
    label
        What errors call the source.

    Raises
    ------
    InvalidData
        A group has a member before its first.
    """
    yield schema.empty_table()
    groups = sorted(groups, key=attrgetter("first"))
    held: list[pa.Table] = []
    for number, group in enumerate(groups, 1):
        read = [table for table in group.read() if len(table)]
        if read:
            rows = _sorted(pa.concat_tables(read), member)
            first = rows.column(member)[0].as_py()
            if first < group.first:
                raise InvalidData(
                    f"{label}: column {member!r} should have no value below {group.first!r} in "
                    f"rows of which the file says so. Received: {first!r}"
                )
            held.append(rows)
        if number == len(groups):
            complete = held
        else:
            complete, held = _divided(held, member, groups[number].first)
        if complete:
            yield _sorted(pa.concat_tables(complete), member)


def _sorted(table: pa.Table, member: str) -> pa.Table:
    ids = single_chunk(table, member)
    if pc.all(pc.less_equal(ids.slice(0, max(0, len(ids) - 1)), ids.slice(1))).as_py():
        return table
    return table.take(pc.sort_indices(ids))


def _pieces(stream: Iterable[pa.Table], budget: int) -> Iterator[pa.Table]:
    """Yield a table without rows, and then the rows of a stream in small tables of one chunk."""
    for number, table in enumerate(stream):
        if not number:
            yield table.schema.empty_table()
        size = max(1, int(len(table) * budget / _PIECES_A_PART / max(1, _memory(table))))
        for begin in range(0, len(table), size):
            yield table.slice(begin, size).combine_chunks()


def _divided(
    tables: Iterable[pa.Table], member: str, end: Any
) -> tuple[list[pa.Table], list[pa.Table]]:
    """Return the rows of members before one, and those of others."""
    before, after = [], []
    for table in tables:
        count = bisect_left(single_chunk(table, member), end, key=lambda id_: id_.as_py())
        before.append(table.slice(0, count))
        after.append(table.slice(count))
    return list(filter(len, before)), list(filter(len, after))


def _taken(tables: list[pa.Table]) -> pa.Table:
    """Return the rows of some tables, and let go of these."""
    whole = pa.concat_tables(tables)
    tables.clear()
    return whole


def _memory(table: pa.Table) -> float:
    return memory_of(len(table), table.nbytes)
