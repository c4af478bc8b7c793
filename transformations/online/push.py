"""Merge events that just happened into the stored sequences.

    pushed events -> offline log -> stored row + events -> merged -> make_sequences -> new row

The result depends on which events were pushed, not on their order, number or batches: a stored
sequence is a set of events in total order, by their event ids where the source has them, and what
is left out of it by window and length would be left out later too. So a push may be repeated after
any failure, and several writers may push at once where the online store lets them; see `base`.
`live_rows` says what the next batch run keeps of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureStore, FeatureView

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.events import ActivityEvents, check_events
from activity_embeddings.transformations.activity.kinds import events_of_kinds
from activity_embeddings.transformations.activity.merge import (
    Activity,
    Id,
    SessionOf,
    activities_in,
    has_numbers,
    merge_activities,
    merge_sessions,
    sessions_in,
)
from activity_embeddings.transformations.activity.rows import sequence_batch
from activity_embeddings.transformations.arrow import (
    TIMESTAMP,
    id_column,
    single_chunk,
    time_column,
)
from activity_embeddings.transformations.definitions.kinds import KindViews
from activity_embeddings.transformations.definitions.registered import registered_domain
from activity_embeddings.transformations.definitions.tags import has_string_ids, spec_of
from activity_embeddings.transformations.errors import (
    InvalidData,
    first_line,
)
from activity_embeddings.transformations.names import DomainNames
from activity_embeddings.transformations.offline.columns import (
    event_names,
    names_there,
    under_our_names,
)
from activity_embeddings.transformations.offline.event_log import append_events, require_event_ids
from activity_embeddings.transformations.offline.located import source_label
from activity_embeddings.transformations.offline.sources import (
    declared_session_ids,
    event_ids_of,
)
from activity_embeddings.transformations.online.base import Row, Stored
from activity_embeddings.transformations.online.live_rows import (
    activities_of,
    merged_sequences,
    sessions_of,
)
from activity_embeddings.transformations.online.lookup import lookup_of
from activity_embeddings.transformations.online.protobuf import entity_keys, feast_rows
from activity_embeddings.transformations.online.stores import row_store_of
from activity_embeddings.transformations.spec import LONGEST_WINDOW, ActivitySpec
from activity_embeddings.transformations.times import ALWAYS, CLOCK_TOLERANCE, to_datetime, to_us
from activity_embeddings.transformations.wording import are, counted, duration, out_of, utc

SOURCE = "pushed events"
"""What errors call them."""
MEMBERS_AT_ONCE = 1_000
"""Members read, merged and written together: others wait for n at most."""


@dataclass
class PushReport:
    """What a push did, in numbers a person can read.

    Attributes
    ----------
    events
        Rows received.
    duplicates
        Rows left out because an equal one was among them.
    unknown
        Events on items that have no vector yet; the batch takes them up when it does.
    members
        Members that the events are of.
    already_there
        Events that the stored sequence had.
    ignored
        Events of actions that the spec ignores.
    older
        Events before the window, or before a member's newest `length`.
    new
        Events that are in the stored sequence now and were not before.
    """

    events: int = 0
    duplicates: int = 0
    unknown: int = 0
    members: int = 0
    already_there: int = 0
    older: int = 0
    new: int = 0
    ignored: int = 0

    def __str__(self) -> str:
        return (
            f"activity embeddings: {out_of(self.new, self.events, 'event')} "
            f"{are(1 if self.events == 1 else self.new)} new in the sequences of "
            f"{counted(self.members, 'member')}\n"
            f"  left out  {self.already_there:,} already there, "
            f"{counted(self.duplicates, 'duplicate')}, "
            f"{self.unknown:,} on unknown items, {self.older:,} older than the sequences reach"
            + (f", {self.ignored:,} of other actions" if self.ignored else "")
        )


class SequenceWriter:
    """Pushes activity events to the sequences that are served.

    Parameters
    ----------
    store
        The feature store; its definitions are read once.
    item
        Name of the item's entity, where the feature repo has several domains.
    offline
        Append events to the offline source too; in a folder, every push adds a file, so push some
        seconds or minutes of events at a time. False where your own pipeline logs them: an event
        that is nowhere in the offline source is served until the next batch run that publishes its
        member as of a later time, and then gone.

    Raises
    ------
    InvalidInput
        The feature repo has no sequence view yet, or several and no item says which.

    Notes
    -----
    A consumer of a stream calls it for the events of a few seconds:

        writer = SequenceWriter(FeatureStore("my_repo"))
        print(writer.push(events))
    """

    def __init__(
        self, store: FeatureStore, *, item: str | None = None, offline: bool = True
    ) -> None:
        self._store, self._offline = store, offline
        domain = registered_domain(store, item)
        self.domain, self._spec = domain.names, domain.spec
        self._view, self._registered = domain.sequence, domain
        self._rows = row_store_of(store)
        read = [self._view, *(kind.vectors for kind in domain.kinds)]
        self._rows.prepare([view for view in read if view.online])
        self._item_vectors = lookup_of(store, domain.kinds)
        self._kinds: dict[str, PushedKind] = {}

    def kind(self, name: str | None = None) -> PushedKind:
        """Return what `push` takes of one kind of activity.

        Parameters
        ----------
        name
            Name of its item's entity; the domain's own unless said.

        Raises
        ------
        InvalidInput
            The domain has no such kind.
        """
        views = self._registered.kind(name)
        if views.name not in self._kinds:
            self._kinds[views.name] = PushedKind(self._store, self._view, views)
        return self._kinds[views.name]

    def push(self, events: pa.Table | pd.DataFrame, *, kind: str | None = None) -> PushReport:
        """Merge events into the stored sequences of their members, and log them.

        Pushing events again changes no sequence, so that this may be repeated after any failure.
        The log keeps such an event twice, and batch runs drop one. Offline comes first: what is
        served is in the log, unless `offline` is False.

        Parameters
        ----------
        events
            Ids of members and items (int64 or string as in the feature repo), actions (string),
            `event_timestamp` (with time zone), and event ids if the source has them; all under the
            names of the view of events, or all under those of its source. So are session ids, null
            for an event without one, where the view declares them. Of others, the log keeps those
            that the source has under the same name and whose values fit its type. In any order.
        kind
            Which kind of activity they are, by the name of its item's entity; the domain's own
            unless said.

        Raises
        ------
        InvalidInput
            Events are malformed or lie in the future, or do not fit the offline source. Nothing
            was written.
        """
        pushed = self.kind(kind)
        received = _as_table(events)
        table = pushed.checked(received)
        checked = check_events(table, pushed.spec, source=SOURCE, domain=pushed.names)
        if self._spec.kinds:
            checked = events_of_kinds({pushed.names.item: checked}, self._spec)
        activity = ActivityEvents.of(checked)
        report = PushReport(
            events=len(table),
            duplicates=len(activity.duplicates),
            members=len(activity.member_ids),
            ignored=len(activity.other_actions),
        )
        if not len(table):
            return report
        _, known_items = self._item_vectors(activity.item_ids)
        known = known_items[activity.item]
        report.unknown = int(np.count_nonzero(~known))
        if self._offline:
            append_events(self._store, pushed.events, table, pushed.others(received))
        for start in range(0, len(activity.member_ids), MEMBERS_AT_ONCE):
            stop = min(start + MEMBERS_AT_ONCE, len(activity.member_ids))
            self._push_members(activity, known, range(start, stop), report)
        return report

    def _push_members(
        self, activity: ActivityEvents, known: np.ndarray, part: range, report: PushReport
    ) -> None:
        """Push the events of a few members, on known items, and count them."""
        pushed: list[_Pushed] = []
        members = activity.member_ids.slice(part.start, len(part)).to_pylist()
        items = activity.item_ids.to_pylist()
        event_ids = [] if activity.event_ids is None else activity.event_ids.to_pylist()
        for position, member in zip(part, members, strict=True):
            events = slice(*activity.member_start[position : position + 2])
            chosen = events.start + np.flatnonzero(known[events])
            columns = [
                activity.time[chosen].tolist(),
                [items[item] for item in activity.item[chosen].tolist()],
                activity.action[chosen].tolist(),
            ]
            if activity.event is not None:
                columns.append([event_ids[event] for event in activity.event[chosen].tolist()])
            if len(chosen):
                made = list(zip(*columns, strict=True))
                pushed.append(_Pushed(member, made, _sessions_of(activity, chosen, made)))
        if not pushed:
            return
        keys = entity_keys(self._view, pa.array([each.member for each in pushed]))
        merge = _MergePushed(self._view, self._spec, numbers=has_numbers(activity.event_ids))
        self._rows.update(self._view, keys, pushed, merge)
        report.already_there += sum(each.already_there for each in pushed)
        report.older += sum(each.older for each in pushed)
        report.new += sum(each.new for each in pushed)


def _as_table(events: pa.Table | pd.DataFrame) -> pa.Table:
    """Return events as an Arrow table."""
    if not isinstance(events, pd.DataFrame):
        return events
    try:
        return pa.Table.from_pandas(events, preserve_index=False)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        # Of pandas: also columns of one name, and objects of other types than the first.
        raise InvalidData(
            f"{SOURCE}: expected columns of one type each, integers of int64 and text "
            f"that can be UTF-8. Received: {first_line(error)}"
        ) from error


def _sessions_of(
    activity: ActivityEvents, chosen: np.ndarray, made: Sequence[Activity]
) -> SessionOf:
    """Return the sessions of chosen events."""
    if activity.session is None or activity.session_ids is None:
        return {}
    codes = activity.session[chosen]
    texts = activity.session_ids.take(pa.array(codes, mask=codes < 0)).to_pylist()
    return {event: text for event, text in zip(made, texts, strict=True) if text is not None}


class PushedKind:
    """What `SequenceWriter.push` takes of one kind of activity, and how it checks it.

    Parameters
    ----------
    store
        The feature store.
    sequence
        The view of sequences.
    views
        The views of the kind.
    """

    def __init__(self, store: FeatureStore, sequence: FeatureView, views: KindViews) -> None:
        self._config, self._sequence, self._views = store.config, sequence, views
        self.names = views.names
        self.spec = spec_of(views.events)

    @property
    def events(self) -> FeatureView:
        """The view of events."""
        return self._views.events

    @property
    def id_types(self) -> dict[str, pa.DataType]:
        """Types of the id columns."""
        views = {self.names.member_id: self._sequence, self.names.item_id: self._views.vectors}
        return {
            column: pa.string() if has_string_ids(view) else pa.int64()
            for column, view in views.items()
        }

    @property
    def source_names(self) -> dict[str, str]:
        """What the offline source calls the columns, by our names."""
        return event_names(self.events)

    def others(self, events: pa.Table) -> pa.Table:
        """Return the columns of events that `checked` leaves out, of those that are there once."""
        called = self._called(events)
        there = Counter(name for name in events.column_names if name not in called.values())
        return events.select([name for name, count in there.items() if count == 1])

    def _called(self, events: pa.Table) -> dict[str, str]:
        """Return what events call the columns, by our names."""
        return names_there(
            events.column_names, self.source_names, SOURCE, optional=[self.names.event_id]
        )

    def checked(self, events: pa.Table) -> pa.Table:
        """Return the events with the columns and types that both stores get.

        Raises
        ------
        InvalidInput
            They are malformed, lie in the future or before a hundred years.
        """
        domain, called = self.names, self._called(events)
        table = under_our_names(events, self.source_names, SOURCE, optional=[domain.event_id])
        # All checks that need no knowledge of the feature repo.
        check_events(table, self.spec, source=SOURCE, domain=domain, called=called)
        columns = {
            domain.member_id: self._ids(table, domain.member_id, called),
            domain.item_id: self._ids(table, domain.item_id, called),
            domain.action: single_chunk(table, domain.action).cast(pa.string()),
        }
        time = time_column(table, names.EVENT_TIMESTAMP, SOURCE, called)
        # Microseconds offline too, so that both stores mean the same event.
        columns[names.EVENT_TIMESTAMP] = pa.array(time, pa.int64()).cast(TIMESTAMP)
        if domain.session_id is not None:
            columns[domain.session_id] = self._as_session_ids(table, domain.session_id, called)
        if self._event_ids is not None:
            require_event_ids(self.events, table, events.column_names)
            columns[domain.event_id] = self._as_event_ids(table, called)
        now = to_us(datetime.now(UTC))
        oldest = now - LONGEST_WINDOW // timedelta(microseconds=1)
        old = np.flatnonzero(time < oldest)
        if len(old):
            raise InvalidData(
                f"{SOURCE}: column {called[names.EVENT_TIMESTAMP]!r} should lie in the "
                f"{duration(LONGEST_WINDOW)} before now. Received: "
                f"{utc(to_datetime(time[old].min()))} in {out_of(len(old), len(time), 'row')}"
            )
        late = np.flatnonzero(time > now + CLOCK_TOLERANCE)
        if len(late):
            raise InvalidData(
                f"{SOURCE}: column {called[names.EVENT_TIMESTAMP]!r} should not lie in the future. "
                f"Received: {utc(to_datetime(time[late].max()))} in "
                f"{out_of(len(late), len(time), 'row')}, now {utc(to_datetime(now))}"
            )
        return pa.table(columns)

    @cached_property
    def _event_ids(self) -> pa.DataType | None:
        """Type of the source's event ids; None where the batch would know none."""
        return event_ids_of(self._config, self.events)

    def _as_event_ids(self, table: pa.Table, called: Mapping[str, str]) -> pa.Array:
        """Return event ids of the source's type, so that they are ordered as in the batch."""
        ids = id_column(table, self.names.event_id, SOURCE, called)
        if self._event_ids is None or pa.types.is_null(self._event_ids):
            return ids
        try:
            return ids.cast(self._event_ids)
        except pa.ArrowInvalid as error:
            raise InvalidData(
                f"{SOURCE}: column {called[self.names.event_id]!r} should be {self._event_ids}, "
                f"as in {source_label(self.events)}. Received: {ids.type}; {first_line(error)}"
            ) from error

    def _as_session_ids(self, table: pa.Table, column: str, called: Mapping[str, str]) -> pa.Array:
        """Return session ids of the type that the view of events declares, null for none."""
        ids, expected = single_chunk(table, column), declared_session_ids(self.events)
        try:
            return ids.cast(expected)
        except pa.ArrowInvalid as error:
            raise InvalidData(
                f"{SOURCE}: column {called[column]!r} should be {expected}, as in the feature "
                f"repo. Received: {ids.type}; {first_line(error)}"
            ) from error

    def _ids(self, table: pa.Table, column: str, called: Mapping[str, str]) -> pa.Array:
        ids, expected = id_column(table, column, SOURCE, called), self.id_types[column]
        if ids.type != expected and len(ids):
            raise InvalidData(
                f"{SOURCE}: column {called[column]!r} should be {expected}, as in the feature "
                f"repo. Received: {ids.type}"
            )
        return ids.cast(expected)


@dataclass
class _Pushed:
    """A member's distinct events on known items, and what became of them, as in `PushReport`.

    A row that had to be merged again counts as it was merged last.
    """

    member: Id
    events: list[Activity]
    sessions: SessionOf
    already_there: int = 0
    older: int = 0
    new: int = 0


class _MergePushed:
    """A `RowMerge` of members' pushed events with their stored sequences.

    Parameters
    ----------
    view, spec
        Of the sequences.
    numbers
        Whether event ids are integers, where there are any.
    """

    def __init__(self, view: FeatureView, spec: ActivitySpec, *, numbers: bool) -> None:
        self._view, self._spec, self._numbers = view, spec, numbers
        self._domain = DomainNames.of(view.tags)

    def merge(self, given: Sequence[_Pushed], stored: Sequence[Stored]) -> list[Row | None]:
        before = [
            activities_of(values, self._domain, numbers=self._numbers) for _, values in stored
        ]
        held = [sessions_of(v, a) for (_, v), a in zip(stored, before, strict=True)]
        sessions = [merge_sessions(s, p.sessions) for s, p in zip(held, given, strict=True)]
        merged, fresh = [], []
        for activities, pushed in zip(before, given, strict=True):
            together, not_stored = merge_activities(activities, pushed.events)
            merged.append(together)
            fresh.append(not_stored)
        floor = [ALWAYS if moment is None else to_us(moment) for moment, _ in stored]
        sequences = merged_sequences(merged, floor, self._spec, sessions)
        after = activities_in(sequences)
        for pushed, kept, not_stored in zip(given, after, fresh, strict=True):
            pushed.new = len(set(kept).intersection(not_stored))
            pushed.older = len(not_stored) - pushed.new
            pushed.already_there = len(pushed.events) - len(not_stored)
        of_after = sessions_in(sequences, after)
        changed = [i for i in range(len(given)) if (after[i], of_after[i]) != (before[i], held[i])]
        made: list[Row | None] = [None] * len(given)
        if changed:
            created = np.full(len(changed), to_us(datetime.now(UTC)), dtype=np.int64)
            members = pa.array([given[i].member for i in changed])
            made_of = sequences.take(np.array(changed))
            batch = sequence_batch(members, made_of, created, self._domain)
            for row, new in zip(changed, feast_rows(self._view, batch), strict=True):
                made[row] = new
        return made
