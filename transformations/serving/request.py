"""The on-demand transformation: embeddings as of the request, from activity that is seconds old.

    stored sequence + the request's own activity -> merged -> make_sequences -> model

The cut-off is the time of the request. Sequences and embeddings are made by the functions that
make them in batch, so with no new activity the two agree. This module knows nothing of processes
and preloading; see `serving`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from feast.errors import FeastError

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.kinds import id_with_kind
from activity_embeddings.transformations.activity.merge import (
    Activity,
    SessionOf,
    activities_in,
    as_events,
    merge_activities,
    merge_sessions,
    with_event_ids,
    with_session_ids,
)
from activity_embeddings.transformations.activity.sequences import Sequences, make_sequences
from activity_embeddings.transformations.errors import InvalidInput, quote, received
from activity_embeddings.transformations.inference.embedder import Embedder
from activity_embeddings.transformations.spec import ActivitySpec
from activity_embeddings.transformations.times import (
    CLOCK_TOLERANCE,
    SECOND,
    parse_time,
    to_datetime,
    to_us,
)

_INT64 = 1 << 63

VectorLookup = Callable[[pa.Array], tuple[ItemVectors, np.ndarray]]
"""Takes distinct ascending item ids; returns the vectors of those that have one, and a bool array
that says which do. The vectors' `item_ids` are the given array itself where all do."""


class InvalidRequest(InvalidInput, FeastError):
    """A request that cannot be understood; `feast serve` answers 422 with the message."""

    def http_status_code(self) -> int:
        """Say that the request is at fault, not the server."""
        return 422


@dataclass
class RequestReport:
    """What a request held, for counters.

    Attributes
    ----------
    members
        Members asked for.
    empty
        Members left without any activity.
    unknown_items, unknown_actions, future
        Events left out, and why.
    newest_ages
        list of float. Seconds from the newest event used to the request, by member.
    """

    members: int = 0
    empty: int = 0
    unknown_items: int = 0
    unknown_actions: int = 0
    future: int = 0
    newest_ages: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class RequestSequences:
    """Sequences of n members as of a request.

    Attributes
    ----------
    sequences
        N sequences.
    vectors
        Vectors of the items in them.
    new
        The activities of each sequence that came with the request.
    report
        What the request held.
    """

    sequences: Sequences
    vectors: ItemVectors
    new: list[list[Activity]]
    report: RequestReport


@dataclass(frozen=True)
class RequestTimeResult:
    """n members as of a request.

    Attributes
    ----------
    vectors
        float32 [n, d] by output name; zero for a member without activity.
    sequences
        N sequences.
    new
        int64 [n]; positions of the sequence that came with the request.
    report
        What the request held.
    """

    vectors: dict[str, np.ndarray]
    sequences: Sequences
    new: np.ndarray
    report: RequestReport


class Recent(NamedTuple):
    """A request's own activity of one member.

    Attributes
    ----------
    activities
        All of it.
    cut
        The part of it whose times are cut to seconds.
    sessions
        The session ids of what has one.
    """

    activities: list[Activity]
    cut: list[Activity]
    sessions: SessionOf


@dataclass(frozen=True)
class _RequestKind:
    """What a request may have of one kind of activity.

    Attributes
    ----------
    domain
        Names its columns.
    actions
        Ids of its actions by name.
    string_ids
        Whether item ids are strings.
    of_several
        Whether there are other kinds, so that ids in sequences say their kind.
    """

    domain: names.DomainNames
    actions: Mapping[str, int]
    string_ids: bool
    of_several: bool = False

    def columns(self, *, event_ids: bool, session_ids: bool) -> tuple[str, ...]:
        """Return the names of its columns."""
        domain = self.domain
        return (
            *domain.recent_columns,
            *([domain.recent_event_ids] if event_ids else []),
            *([domain.recent_session_ids] if session_ids else []),
        )


class RequestParser:
    """Reads the columns that Feast hands to an on-demand function.

    Parameters
    ----------
    spec
        Names the actions, and the kinds of activity.
    string_ids
        Whether item ids are strings; of several kinds of activity, by the name of each.
    string_event_ids
        Whether event ids are strings; None where requests have none.
    string_session_ids
        Whether session ids are strings; None where requests have none.
    domain
        Names the columns.

    Attributes
    ----------
    kinds
        Names of the columns of each kind of activity: items, actions, times and, if there are some,
        event ids and session ids.
    columns
        Names of the columns that a request has to have.
    """

    def __init__(
        self,
        spec: ActivitySpec,
        *,
        string_ids: bool | Mapping[str, bool],
        string_event_ids: bool | None = None,
        string_session_ids: bool | None = None,
        domain: names.DomainNames = names.JOBS,
    ) -> None:
        self.domain, self._string_event_ids = domain, string_event_ids
        self._string_session_ids = string_session_ids
        if not isinstance(string_ids, Mapping):
            string_ids = {domain.item: string_ids}
        actions = {name: spec.vocabulary.index(name) for name in spec.actions}
        self._kinds = [
            _RequestKind(
                names.DomainNames(item=kind.name),
                {name: actions[name] for name in kind.actions},
                string_ids[kind.name],
                of_several=True,
            )
            for kind in spec.kinds
        ] or [_RequestKind(domain, actions, string_ids[domain.item])]
        event_ids, session_ids = string_event_ids is not None, string_session_ids is not None
        self.kinds = [
            kind.columns(event_ids=event_ids, session_ids=session_ids) for kind in self._kinds
        ]
        self.columns = (*itertools.chain(*self.kinds), names.REQUEST_TIMESTAMP)

    def stored(self, inputs: Mapping[str, Sequence[Any]], row: int) -> list[Activity]:
        """Return a member's stored sequence; none where the store has no row."""
        times = inputs[names.ACTIVITY_TIMES][row]
        if times is None or not len(times):
            return []
        items = inputs[self.domain.activity_item_ids][row]
        actions = inputs[names.ACTIVITY_ACTIONS][row]
        activities = list(zip(times, items, actions, strict=True))
        if self._string_event_ids is None:
            return list(activities)
        event_ids = inputs[names.ACTIVITY_EVENT_IDS][row]
        return with_event_ids(activities, event_ids, numbers=not self._string_event_ids)

    def stored_sessions(
        self, inputs: Mapping[str, Sequence[Any]], row: int, stored: Sequence[Activity]
    ) -> SessionOf:
        """Return the sessions of a member's stored sequence; none where events have no such ids."""
        if self._string_session_ids is None:
            return {}
        return with_session_ids(stored, inputs[names.ACTIVITY_SESSION_IDS][row])

    def recent(
        self,
        inputs: Mapping[str, Sequence[Any]],
        row: int,
        report: RequestReport,
        *,
        online: bool = True,
    ) -> Recent:
        """Return the request's own activity.

        Parameters
        ----------
        inputs
            Columns by name.
        row
            Which of their values.
        report
            Counts unknown actions.
        online
            Whether Feast has cut datetimes to whole seconds.

        Raises
        ------
        InvalidRequest
            Lists of unequal length, ids, actions or times of another type.
        """
        if len(self._kinds) == 1:
            return self._recent_of(self._kinds[0], inputs, row, report, online=online)
        recent = Recent([], [], {})
        for kind in self._kinds:
            of_kind = self._recent_of(kind, inputs, row, report, online=online)
            recent.activities.extend(of_kind.activities)
            recent.cut.extend(of_kind.cut)
            recent.sessions.update(of_kind.sessions)
        return recent

    def _recent_of(
        self,
        kind: _RequestKind,
        inputs: Mapping[str, Sequence[Any]],
        row: int,
        report: RequestReport,
        *,
        online: bool,
    ) -> Recent:
        """Return the request's activity of one kind; see `recent`."""
        events, sessions = kind.domain.recent_event_ids, kind.domain.recent_session_ids
        strings = {events: self._string_event_ids, sessions: self._string_session_ids}
        optional = [
            name
            for name, string in strings.items()
            if string is not None and inputs[name][row] is not None
        ]
        called = (*kind.domain.recent_columns, *optional)
        columns = [inputs[name][row] for name in called]
        lists = [[] if column is None else column for column in columns]
        if not all(map(_is_list, lists)) or len(set(map(len, lists))) > 1:
            lengths = ", ".join(
                f"{name} {_length_of(column)}" for name, column in zip(called, columns, strict=True)
            )
            raise InvalidRequest(
                f"{self._who(inputs, row)}: {', '.join(called)} should be lists of "
                f"equal length, or null. Received: {lengths}"
            )
        recent = Recent([], [], {})
        for item, action, moment, *others in zip(*lists, strict=True):
            item = self._id(item, kind.domain.recent_item_ids, kind.string_ids, inputs, row)
            ids = {
                name: self._id(each, name, bool(strings[name]), inputs, row)
                for name, each in zip(optional, others, strict=True)
            }
            action_id = kind.actions.get(action) if isinstance(action, str) else None
            if action_id is None and not (isinstance(action, str) and _is_utf8(action)):
                raise InvalidRequest(
                    f"{self._who(inputs, row)}: {kind.domain.recent_actions} should hold names of "
                    f"actions, as {', '.join(kind.actions)}. Received: {received(action)}"
                )
            time = self._parse_time(moment, kind.domain.recent_timestamps, inputs, row)
            if action_id is None:
                report.unknown_actions += 1
                continue
            if kind.of_several:
                item = id_with_kind(kind.domain.item, item)
            activity: Activity = (time, item, action_id)
            if events in ids:
                activity = (*activity, ids[events])
            recent.activities.append(activity)
            session = str(ids.get(sessions, ""))
            if session:
                other = recent.sessions.get(activity, session)
                recent.sessions[activity] = min(session, other)
            if online and isinstance(moment, datetime) and not moment.microsecond:
                recent.cut.append(activity)
        return recent

    def _id(
        self, value: Any, column: str, string: bool, inputs: Mapping[str, Sequence[Any]], row: int
    ) -> int | str:
        """Return an id as Python has it, or refuse it."""
        if isinstance(value, np.generic):
            value = value.item()
        problem = id_problem(value, string=string)
        if problem is not None:
            raise InvalidRequest(f"{self._who(inputs, row)}: {column} {problem}")
        return value

    def moment(
        self, inputs: Mapping[str, Sequence[Any]], row: int, label: int | None = None
    ) -> tuple[int, int]:
        """Return (cut-off, slack) in microseconds.

        The slack is how much later than the cut-off an event of the request itself may be: Feast
        cuts an online request's datetimes to seconds, so that an event of the second in which
        the request was made may look as late as the request. A training join has no slack, and no
        cut-off after its label.

        Parameters
        ----------
        inputs
            Columns by name.
        row
            Which of their values.
        label
            Time of the label in a training join, None in an online request.

        Raises
        ------
        InvalidRequest
            The time is no time, or lies in the future.
        """
        given = inputs[names.REQUEST_TIMESTAMP][row]
        missing = pd.api.types.is_scalar(given) and bool(pd.isna(given))
        if label is not None:
            if missing:
                return label, 0
            return min(label, self._parse_time(given, names.REQUEST_TIMESTAMP, inputs, row)), 0
        now = to_us(datetime.now(UTC))
        if missing:
            return now, 0
        time = self._parse_time(given, names.REQUEST_TIMESTAMP, inputs, row)
        if time > now + CLOCK_TOLERANCE:
            raise InvalidRequest(
                f"{self._who(inputs, row)}: {names.REQUEST_TIMESTAMP} should not be in the future. "
                f"Received: {to_datetime(time)}, now {to_datetime(now)}"
            )
        return time, SECOND if isinstance(given, datetime) and not given.microsecond else 0

    def _parse_time(
        self, value: Any, column: str, inputs: Mapping[str, Sequence[Any]], row: int
    ) -> int:
        """Return a time of a request in microseconds; see `times.parse_time`."""
        try:
            return parse_time(value, column)
        except InvalidInput as error:
            raise InvalidRequest(f"{self._who(inputs, row)}: {error}") from error

    def _who(self, inputs: Mapping[str, Sequence[Any]], row: int) -> str:
        """Return how errors call a row of the request."""
        members = inputs.get(self.domain.member_id)
        return (
            f"request row {row}" if members is None else f"request of member {quote(members[row])}"
        )


def embed_at_request(
    inputs: Mapping[str, Sequence[Any]],
    *,
    parser: RequestParser,
    spec: ActivitySpec,
    embedder: Embedder,
    lookup: VectorLookup,
    labels: Sequence[int] | None = None,
) -> RequestTimeResult:
    """Embed n members as of their requests, by one model.

    Parameters
    ----------
    inputs
        Columns by name, n values each: the stored sequence's lists, the request's `recent_*` lists,
        and `request_timestamp`.
    parser
        Reads them.
    spec
        Window and length.
    embedder
        Holds the model.
    lookup
        Gives item vectors.
    labels
        In a training join, the time of each row's label in microseconds. None in an online request,
        whose cut-off is now unless it says another.

    Raises
    ------
    InvalidRequest
        The request cannot be understood.
    InvalidInput
        The model gave a value that is not finite.
    """
    made = sequences_at_request(inputs, parser=parser, spec=spec, lookup=lookup, labels=labels)
    (embedded,) = embedder(made.sequences, made.vectors).values()
    new = np.array([len(activities) for activities in made.new], dtype=np.int64)
    return RequestTimeResult(embedded, made.sequences, new, made.report)


def sequences_at_request(
    inputs: Mapping[str, Sequence[Any]],
    *,
    parser: RequestParser,
    spec: ActivitySpec,
    lookup: VectorLookup,
    labels: Sequence[int] | None = None,
) -> RequestSequences:
    """Return the sequences that `embed_at_request` embeds; it says what the arguments are.

    Raises
    ------
    InvalidRequest
        The request cannot be understood.
    """
    _require_columns(inputs, parser.columns)
    count = len(inputs[names.ACTIVITY_TIMES])
    report = RequestReport(members=count)
    as_of = np.empty(count, dtype=np.int64)
    merged: list[list[Activity]] = []
    new: list[list[Activity]] = []
    sessions: list[SessionOf] = []
    for row in range(count):
        recent, cut, of_recent = parser.recent(inputs, row, report, online=labels is None)
        moment, slack = parser.moment(inputs, row, None if labels is None else labels[row])
        if recent:
            past = [activity for activity in recent if activity[0] < moment + slack]
            report.future += len(recent) - len(past)
            moment = max([moment, *(activity[0] + 1 for activity in past)])
            recent = past
        stored = parser.stored(inputs, row)
        activities, fresh = merge_activities(stored, recent, cut)
        as_of[row] = moment
        merged.append(activities)
        new.append(fresh)
        sessions.append(merge_sessions(parser.stored_sessions(inputs, row, stored), of_recent))

    events, vectors = _known_events(merged, sessions, lookup, report)
    sequences = make_sequences(events, events.member_ids, as_of, spec=spec, vectors=vectors)
    report.unknown_items += int(sequences.unknown.sum())
    report.empty = count - int(np.count_nonzero(sequences.count))
    report.newest_ages = [
        (int(moment) - int(newest)) / SECOND
        for moment, newest in zip(as_of, sequences.time[:, -1], strict=True)
        if newest
    ]
    kept = [
        # Mostly nothing of a member's activity had to be left out.
        fresh if sequences.count[row] == len(merged[row]) else _in_sequence(sequences, row, fresh)
        for row, fresh in enumerate(new)
    ]
    return RequestSequences(sequences, vectors, kept, report)


def _known_events(
    merged: list[list[Activity]],
    sessions: list[SessionOf],
    lookup: VectorLookup,
    report: RequestReport,
) -> tuple[ActivityEvents, ItemVectors]:
    """Return the events on items that have a vector at all, and the vectors."""
    events = as_events(merged, sessions)
    vectors, known = lookup(events.item_ids)
    if known.all():
        return events, vectors
    items = set(vectors.item_ids.to_pylist())
    report.unknown_items += int(np.count_nonzero(~known[events.item]))
    known_ones = [[a for a in activities if a[1] in items] for activities in merged]
    events = as_events(known_ones, sessions)
    # The same ids; as the same object they need no look-up.
    return events, replace(vectors, item_ids=events.item_ids)


def _in_sequence(sequences: Sequences, row: int, new: list[Activity]) -> list[Activity]:
    """Return those of the request's activities that are in a sequence."""
    if not new or not sequences.count[row]:
        return []
    (there,) = activities_in(sequences.take(np.array([row])))
    return [activity for activity in new if activity in there]


def id_problem(value: Any, *, string: bool) -> str | None:
    """Return what is wrong with an id, None where nothing is.

    Parameters
    ----------
    value
        int or str, as JSON has them.
    string
        Whether ids are strings; otherwise they are int64.
    """
    if string:
        # NUL ends a string in numpy, and half a surrogate pair cannot be stored.
        if isinstance(value, str) and "\0" not in value and _is_utf8(value):
            return None
        expected = "strings without NUL and lone surrogates"
    else:
        if isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64:
            return None
        expected = "int64"
    return f"should be ids of type {expected}. Received: {received(value)}"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_columns(inputs: Mapping[str, Sequence[Any]], columns: Sequence[str]) -> None:
    """Raise `InvalidRequest` unless the columns of a request are there."""
    missing = [name for name in columns if name not in inputs]
    if missing:
        raise InvalidRequest(
            f"request: expected the columns {', '.join(columns)}, with null where "
            f"there is nothing. Received: none called {', '.join(missing)}"
        )


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray)


def _length_of(value: Any) -> str:
    return f"of length {len(value)}" if _is_list(value) else received(value)
