"""Rows in the order of members are divided into parts as they come."""

from collections import Counter
from itertools import chain, pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activity_embeddings.transformations.errors import InvalidData
from activity_embeddings.transformations.offline.member_order import (
    RowGroup,
    groups_in_turn,
    merged,
    most_held,
    parts_in_order,
)
from activity_embeddings.transformations.offline.spill import memory_of

SCHEMA = pa.schema({"member_id": pa.int64(), "row": pa.int64()})
TEXTS = pa.schema({"member_id": pa.string(), "row": pa.int64()})


def stream(rows, sizes, schema):
    """Yield rows in tables of some sizes, taken in turn; the first has none."""
    yield schema.empty_table()
    while rows:
        for size in sizes:
            members, numbers = zip(*rows[:size], strict=True)
            yield pa.table([list(members), list(numbers)], schema=schema)
            rows = rows[size:]
            if not rows:
                return


def taken(streams, budget):
    """Return the ranges, and the rows of each part."""
    parts = [
        (members, [(row["member_id"], row["row"]) for row in read().to_pylist()])
        for members, read in parts_in_order(streams, "member_id", budget)
    ]
    assert parts[0][0].first is None
    assert parts[-1][0].end is None
    for (one, _), (following, _) in pairwise(parts):
        assert one.end == following.first
    for members, rows in parts:
        ids = pa.array([member for member, _ in rows])
        assert members.of(ids).equals(ids)
    return [rows for _, rows in parts]


MEMBERS = st.integers(-4, 9) | st.sampled_from([-(2**63), 2**63 - 1])
WORDS = st.text(st.sampled_from(["a", "b", "\1", "é", "\U0001f600", "\uffff"]), max_size=3)


@st.composite
def cases(draw):
    schema, one = draw(st.sampled_from([(SCHEMA, MEMBERS), (TEXTS, WORDS)]))
    streams, number = [], 0
    for _ in range(draw(st.integers(1, 3))):
        members = draw(st.lists(one, max_size=30))
        members.sort(key=lambda m: m.encode() if isinstance(m, str) else m)
        streams.append([(member, number + i) for i, member in enumerate(members)])
        number += len(members)
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    return schema, streams, sizes, draw(st.integers(1, 5_000))


@given(cases())
def test_parts_are_all_rows_each_once_and_members_are_whole(case):
    schema, streams, sizes, budget = case
    parts = taken([stream(rows, sizes, schema) for rows in streams], budget)
    assert sorted(row for part in parts for row in part) == sorted(chain(*streams))
    for rows in filter(None, parts):
        # One member may be more than a part holds.
        of_members = Counter(member for member, _ in rows)
        others = [row for row in rows if row[0] != of_members.most_common(1)[0][0]]
        table = pa.table([[m for m, _ in others], [n for _, n in others]], schema=schema)
        assert memory_of(len(others), table.nbytes) <= budget or len(of_members) == 1


def test_parts_are_nearly_full():
    rows = [(member, number) for member in range(1_000) for number in range(3)]
    budget = int(memory_of(300, 300 * 16))
    parts = taken([stream(rows, [64], SCHEMA)], budget)
    assert min(map(len, parts[:-1])) > 250


def test_no_rows_are_one_part_with_the_columns():
    ((members, read),) = parts_in_order([iter([SCHEMA.empty_table()])], "member_id", 1)
    assert (members.first, members.end) == (None, None)
    assert read().schema == SCHEMA


def test_a_part_is_given_before_the_next_is_read():
    """So that memory holds one part, and what comes of a store is not asked for in advance."""
    asked = []

    def rows():
        yield SCHEMA.empty_table()
        for member in range(100):
            asked.append(member)
            yield pa.table([[member], [0]], schema=SCHEMA)

    parts = parts_in_order([rows()], "member_id", 1_000)
    _, read = next(parts)
    assert len(read()) < 10 and len(asked) < 12


def group_of(members, first=None, last=None):
    """Return a group of rows, which come in tables of two."""
    table = pa.table([members, range(len(members))], schema=SCHEMA)
    return RowGroup(
        min(members) if first is None else first,
        max(members) if last is None else last,
        len(members),
        lambda: (table.slice(i, 2) for i in range(0, len(members), 2)),
    )


@given(st.lists(st.lists(MEMBERS, min_size=1, max_size=9), max_size=9), st.integers(0, 3))
def test_groups_are_merged_by_members_and_no_more_is_held_than_is_said(members, below):
    groups = [group_of(ids, first=min(ids) - below) for ids in members]
    read, given, most = 0, 0, 0

    def counted(group):
        def rows():
            nonlocal read, most
            read += group.rows
            most = max(most, read - given)
            yield from group.read()

        return RowGroup(group.first, group.last, group.rows, rows)

    found = []
    for table in merged(map(counted, groups), "member_id", SCHEMA, "events"):
        found += table["member_id"].to_pylist()
        given += len(table)
    assert found == sorted(chain(*members))
    assert most <= most_held(groups)


def test_groups_without_common_members_are_not_held_together():
    apart = [group_of([i, i + 1]) for i in range(0, 100, 2)]
    assert most_held(apart) == 2
    assert most_held([*apart, group_of([0, 99])]) == 4
    assert most_held([group_of([0, 99])] * 7) == 14
    assert most_held([]) == 0


def test_files_are_asked_for_their_groups_until_too_much_would_be_held():
    asked = []

    def files(groups):
        for group in groups:
            asked.append(group)
            yield [group]

    apart = [group_of([i, i + 1]) for i in range(0, 100, 2)]
    assert groups_in_turn(files(apart), 2) == apart
    assert groups_in_turn(files(apart), 1) is None
    asked.clear()
    assert groups_in_turn(files([group_of([0, 99])] * 100), 20) is None
    assert len(asked) < 40
    assert groups_in_turn([apart, None, apart], 99) is None
    assert groups_in_turn([], 0) == []


def test_a_group_that_says_the_wrong_first_member_is_refused():
    groups = [group_of([1, 2]), group_of([5, 4], first=5)]
    with pytest.raises(InvalidData, match=r"events: column .* no value below 5 in rows .*: 4"):
        list(merged(groups, "member_id", SCHEMA, "events"))
