"""Rows that stores give in the order of members: divided into parts while they come.

Nothing is written to a disk of this machine, and each row is read once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from activity_embeddings.transformations.activity.member_range import MemberRange
from activity_embeddings.transformations.arrow import single_chunk
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
