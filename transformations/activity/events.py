"""Activity events, checked and put into their total order once, ready for any query.

The order is by member and time; ties are broken by event id where the source has one, then by
item id and action. Exact duplicates count once; an event that several sessions have is of the
first of them, by text. Two tables with the same rows in another order
become equal objects, which is why everything downstream is reproducible to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import (
    NAMES_AS_THEY_ARE,
    codes_of,
    id_column,
    is_text,
    rank_encode,
    require_columns,
    require_no_nulls,
    require_utf8,
    single_chunk,
    time_column,
)
from activity_embeddings.transformations.errors import InvalidData, quote
from activity_embeddings.transformations.ragged import ranges
from activity_embeddings.transformations.spec import ActivitySpec
from activity_embeddings.transformations.wording import out_of

_LAST = np.iinfo(np.int32).max
"""Orders events without a session after those with one."""


@dataclass(frozen=True, eq=False)
class ActivityEvents:
    """E events of M members on J items, in total order.

    Attributes
    ----------
    member_ids, item_ids
        Distinct ids, ascending; int64 or string arrays [M] and [J].
    member_start
        int64 [M + 1]; events of member m are `member_start[m]:member_start[m + 1]`.
    item
        int32 [E]; position in `item_ids`.
    action
        int16 [E]; action id of the spec, 1 and up.
    time
        int64 [E]; microseconds since the epoch, ascending within each member.
    duplicates
        int64; times of the rows that are left out because an equal row was kept.
    other_actions
        int64; times of the rows that are left out because the spec ignores their action.
    event_ids
        Distinct event ids, ascending; None where the source has none.
    event
        int32 [E]; position in `event_ids`, or None.
    session_ids
        Distinct session ids as text, ascending; None where the source has none.
    session
        int32 [E]; position in `session_ids`, -1 for an event without one, or None.
    """

    member_ids: pa.Array
    item_ids: pa.Array
    member_start: np.ndarray
    item: np.ndarray
    action: np.ndarray
    time: np.ndarray
    duplicates: np.ndarray
    other_actions: np.ndarray
    event_ids: pa.Array | None = None
    event: np.ndarray | None = None
    session_ids: pa.Array | None = None
    session: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.time)

    @property
    def member(self) -> np.ndarray:
        """Position in `member_ids` of the member of each event, int32 [E]."""
        members = np.arange(len(self.member_ids), dtype=np.int32)
        return np.repeat(members, np.diff(self.member_start))

    def of_members(self, members: np.ndarray) -> ActivityEvents:
        """Return the events of some members: ascending positions in `member_ids`."""
        sizes = np.diff(self.member_start)[members]
        return self._chosen(ranges(self.member_start[members], sizes), members, sizes)

    def within(self, first: pa.Scalar, last: pa.Scalar) -> ActivityEvents:
        """Return the events of the members whose ids lie from `first` to `last`, without a copy."""
        low = pc.less(self.member_ids, first).true_count
        high = pc.less_equal(self.member_ids, last).true_count
        start, end = self.member_start[low], self.member_start[high]
        return replace(
            self,
            member_ids=self.member_ids.slice(low, high - low),
            member_start=self.member_start[low : high + 1] - start,
            item=self.item[start:end],
            action=self.action[start:end],
            time=self.time[start:end],
            event=None if self.event is None else self.event[start:end],
            session=None if self.session is None else self.session[start:end],
        )

    def compact(self) -> ActivityEvents:
        """Return a copy that holds no ids but those of its own events, and no times of others.

        It shares no memory with these events, and is as small as they are when it is sent to
        another process.
        """
        item_ids, item = _used(self.item_ids, self.item)
        event_ids = event = session_ids = session = None
        if self.event_ids is not None and self.event is not None:
            event_ids, event = _used(self.event_ids, self.event)
        if self.session_ids is not None and self.session is not None:
            session_ids, session = _used(self.session_ids, self.session)
        none = np.empty(0, dtype=np.int64)
        return ActivityEvents(
            member_ids=self.member_ids.take(pa.array(np.arange(len(self.member_ids)))),
            item_ids=item_ids,
            member_start=self.member_start.copy(),
            item=item,
            action=self.action.copy(),
            time=self.time.copy(),
            duplicates=none,
            other_actions=none,
            event_ids=event_ids,
            event=event,
            session_ids=session_ids,
            session=session,
        )

    def where(self, kept: np.ndarray) -> ActivityEvents:
        """Return the events where `kept`, bool [E], is True, of the same members."""
        before = np.concatenate([[0], np.cumsum(kept)])
        sizes = np.diff(before[self.member_start])
        return self._chosen(np.flatnonzero(kept), np.arange(len(self.member_ids)), sizes)

    def on_items(self, item_ids: pa.Array) -> ActivityEvents:
        """Return the events on some items, whose positions are then in `item_ids`, ascending."""
        item = codes_of(self.item_ids, item_ids, what="item ids")[self.item]
        return replace(self, item=item, item_ids=item_ids).where(item >= 0)

    def _chosen(self, events: np.ndarray, members: np.ndarray, sizes: np.ndarray) -> ActivityEvents:
        return replace(
            self,
            member_ids=self.member_ids.take(pa.array(members)),
            member_start=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            item=self.item[events],
            action=self.action[events],
            time=self.time[events],
            event=None if self.event is None else self.event[events],
            session=None if self.session is None else self.session[events],
        )

    @classmethod
    def from_arrow(
        cls,
        table: pa.Table,
        spec: ActivitySpec,
        *,
        source: str = names.JOBS.events_view,
        domain: names.DomainNames = names.JOBS,
    ) -> ActivityEvents:
        """Return the events of a table, checked and in total order; see `check_events`."""
        return cls.of(check_events(table, spec, source=source, domain=domain))

    @classmethod
    def of(cls, checked: CheckedEvents) -> ActivityEvents:
        """Return checked events in total order, each once."""
        tie_breakers = [checked.item, checked.action]
        if checked.event is not None:
            tie_breakers.insert(0, checked.event)
        member, time, session = checked.member, checked.time, checked.session
        sessions = [] if session is None else [np.where(session < 0, _LAST, session)]
        order = _total_order(member, time, [*tie_breakers, *sessions], len(checked.member_ids))
        keys = [column[order] for column in (member, time, *tie_breakers)]
        repeats = np.zeros(len(order), dtype=bool)
        repeats[1:] = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
        duplicates = time[order[repeats]]
        if repeats.any():
            order = order[~repeats]

        counts = np.bincount(member[order], minlength=len(checked.member_ids))
        return cls(
            member_ids=checked.member_ids,
            item_ids=checked.item_ids,
            member_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            item=checked.item[order],
            action=checked.action[order],
            time=time[order],
            duplicates=duplicates,
            other_actions=checked.other_actions,
            event_ids=checked.event_ids,
            event=None if checked.event is None else checked.event[order],
            session_ids=checked.session_ids,
            session=None if session is None else session[order],
        )


@dataclass(frozen=True, eq=False)
class CheckedEvents:
    """E events in the order of their table, which says nothing; `ActivityEvents.of` orders them.

    Attributes
    ----------
    member_ids, item_ids
        Distinct ids, ascending; int64 or string arrays.
    member, item
        int32 [E]; positions in these.
    action
        int16 [E]; action id of the spec, 1 and up.
    time
        int64 [E]; microseconds since the epoch.
    other_actions
        int64; times of the rows that are left out because the spec ignores their action.
    event_ids, event
        Distinct event ids, ascending, and int32 [E] positions in these; None where the source has
        none.
    session_ids, session
        Distinct session ids as text, ascending, and int32 [E] positions in these, -1 for an event
        without one; None where the source has none.
    """

    member_ids: pa.Array
    item_ids: pa.Array
    member: np.ndarray
    item: np.ndarray
    action: np.ndarray
    time: np.ndarray
    other_actions: np.ndarray
    event_ids: pa.Array | None = None
    event: np.ndarray | None = None
    session_ids: pa.Array | None = None
    session: np.ndarray | None = None


def check_events(
    table: pa.Table,
    spec: ActivitySpec,
    *,
    source: str = names.JOBS.events_view,
    domain: names.DomainNames = names.JOBS,
    called: Mapping[str, str] = NAMES_AS_THEY_ARE,
) -> CheckedEvents:
    """Return the events of a table, after checking them.

    Parameters
    ----------
    table
        Ids of members and items (int64 or string), actions (string), `event_timestamp` (timestamp,
        UTC) and, if the source has them, event ids and session ids (int64 or string, null or empty
        where an event has none). Other columns are ignored.
    spec
        Names the actions, and says what to do with others.
    source
        What errors call the table.
    domain
        Names of the columns.
    called
        What errors call columns, where that is another name.

    Raises
    ------
    InvalidData
        A column is missing, of another type or holds nulls, a time has no zone, or an action is not
        in the vocabulary and the spec does not ignore others.
    """
    columns = (*domain.event_columns, names.EVENT_TIMESTAMP)
    require_columns(table.column_names, columns, source)
    action = action_ids(table, spec, source=source, column=domain.action, called=called)
    time = time_column(table, names.EVENT_TIMESTAMP, source, called)
    ignored = action < 0
    other_actions = time[ignored]
    if len(other_actions):
        table = table.filter(pa.array(~ignored))
        action, time = action[~ignored], time[~ignored]
    member_ids, member = rank_encode(id_column(table, domain.member_id, source, called))
    item_ids, item = rank_encode(id_column(table, domain.item_id, source, called))
    event_ids = event = None
    if domain.event_id in table.column_names:
        event_ids, event = rank_encode(id_column(table, domain.event_id, source, called))
        _require_filled(event_ids, source, called.get(domain.event_id, domain.event_id))
    session_ids = session = None
    if domain.session_id is not None:
        session_ids, session = _sessions(table, domain.session_id, source, called)
    return CheckedEvents(
        member_ids=member_ids,
        item_ids=item_ids,
        member=member,
        item=item,
        action=action,
        time=time,
        other_actions=other_actions,
        event_ids=event_ids,
        event=event,
        session_ids=session_ids,
        session=session,
    )


def action_ids(
    table: pa.Table,
    spec: ActivitySpec,
    *,
    source: str,
    column: str,
    called: Mapping[str, str] = NAMES_AS_THEY_ARE,
) -> np.ndarray:
    """Return a column of actions as int16 ids, -1 for what the spec ignores; see `check_events`."""
    values, column = single_chunk(table, column), called.get(column, column)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not is_text(values.type):
        raise InvalidData(f"{source}: column {column!r} should be string. Received: {values.type}")
    require_no_nulls(values, column, source)
    require_utf8(values, column, source)
    encoded = values.dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    unknown = [name for name in distinct if name not in spec.actions]
    if unknown and not spec.ignores_other_actions:
        rows = pc.sum(pc.is_in(values, value_set=pa.array(unknown, values.type))).as_py()
        raise InvalidData(
            f"{source}: column {column!r} should be one of {', '.join(spec.actions)}. "
            f"Received: {', '.join(map(quote, unknown[:5]))}"
            f"{f' and {len(unknown) - 5:,} more' if len(unknown) > 5 else ''} in "
            f"{out_of(rows, len(values), 'row')}"
        )
    known = {name: i for i, name in enumerate(spec.vocabulary) if i}
    ids = np.array([known.get(name, -1) for name in distinct], dtype=np.int16)
    return ids[encoded.indices.to_numpy(zero_copy_only=False)]


def _used(ids: pa.Array, codes: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """Return the ids that some codes count in, and the codes that count in these alone.

    A code of -1, for no id, stays what it is.
    """
    used, compact = np.unique(codes, return_inverse=True)
    none = int(np.count_nonzero(used[:1] < 0))
    return ids.take(pa.array(used[none:])), (compact - none).astype(codes.dtype)


def _sessions(
    table: pa.Table, column: str, source: str, called: Mapping[str, str]
) -> tuple[pa.Array, np.ndarray]:
    """Return the distinct session ids of a table as text, and each row's position, -1 for none."""
    values = single_chunk(table, column)
    if pa.types.is_null(values.type):
        values = values.cast(pa.string())
    there = values.is_valid()
    filled_in = pa.table({column: values.filter(there)})
    ids = id_column(filled_in, column, source, called).cast(pa.string())
    filled = pc.not_equal(ids, "")
    codes = np.full(len(table), -1, dtype=np.int32)
    session_ids, rank = rank_encode(ids.filter(filled))
    rows = np.flatnonzero(there.to_numpy(zero_copy_only=False))
    codes[rows[filled.to_numpy(zero_copy_only=False)]] = rank
    return session_ids, codes


def _require_filled(event_ids: pa.Array, source: str, column: str) -> None:
    """Raise where an event id is empty, which in a stored sequence means an event without one."""
    if len(event_ids) and event_ids[0].as_py() == "":
        raise InvalidData(
            f"{source}: column {column!r} should hold no empty text. Received: '' in at "
            "least one row"
        )


def _total_order(
    member: np.ndarray, time: np.ndarray, tie_breakers: list[np.ndarray], members: int
) -> np.ndarray:
    """Argsort by member, time, then the tie breakers in turn.

    One sort of a combined int64 key is four times faster than a sort by several keys; the few
    rows that share member and time are then put right among themselves.
    """
    if len(time) == 0:
        return np.empty(0, dtype=np.int64)
    first, last = int(time.min()), int(time.max())
    span = last - first + 1
    if members * span >= 2**63:
        return np.lexsort((*reversed(tie_breakers), time, member))
    key = member.astype(np.int64) * span + (time - first)
    order = np.argsort(key)
    sorted_key = key[order]
    equals_next = np.zeros(len(order) + 1, dtype=bool)
    equals_next[1:-1] = sorted_key[1:] == sorted_key[:-1]
    tied = np.flatnonzero(equals_next[1:] | equals_next[:-1])
    if len(tied):
        rows = order[tied]
        columns = [column[rows] for column in reversed(tie_breakers)]
        order[tied] = rows[np.lexsort((*columns, key[rows]))]
    return order
