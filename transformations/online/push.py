"""Merge events that just happened into the stored sequences, and keep them at the next batch run.

    pushed events -> offline log -> stored row + events -> merged -> make_sequences -> new row

The result depends on which events were pushed, not on their order, number or batches: a stored
sequence is a set of events in total order, by their event ids where the source has them, and what
is left out of it by window and length would be left out later too. So a push may be repeated after
any failure, and several writers may push at once where the online store lets them; see
`row_updates`.

A row that holds events of its batch row's as-of time or later is a live row. When the batch
publishes that member again, it brings everything before its own as-of time, late events included,
since these are in the offline log; of the live row, what is as late as that or later is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.errors import FeatureViewNotFoundException
from feast.infra.online_stores.sqlite import SqliteOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.events import EVENT_COLUMNS, ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.merge import (
    Activity,
    activities_in,
    as_events,
    has_numbers,
    merge_activities,
    with_event_ids,
)
from activity_embeddings.transformations.activity.sequences import Sequences, make_sequences
from activity_embeddings.transformations.arrow import id_column, single_chunk, time_column
from activity_embeddings.transformations.definitions.schemas import TIMESTAMP, sequence_batch
from activity_embeddings.transformations.definitions.views import (
    has_string_ids,
    source_views_of,
    spec_of,
)
from activity_embeddings.transformations.errors import InvalidData, NotReady, first_line
from activity_embeddings.transformations.names import Role
from activity_embeddings.transformations.offline.columns import source_names, under_our_names
from activity_embeddings.transformations.offline.event_log import append_events, require_event_ids
from activity_embeddings.transformations.offline.sources import event_ids_of, source_label
from activity_embeddings.transformations.online.publish import Merge, feast_rows
from activity_embeddings.transformations.online.rows import (
    Compute,
    Needs,
    Row,
    Stored,
    entity_keys,
    update_rows,
)
from activity_embeddings.transformations.serving.process import ItemVectorLookup
from activity_embeddings.transformations.serving.request import CLOCK_TOLERANCE_US
from activity_embeddings.transformations.spec import ActivitySpec
from activity_embeddings.transformations.times import to_datetime, to_us
from activity_embeddings.transformations.wording import are, counted, out_of, utc

SOURCE = "pushed events"
"""What errors call them."""
MEMBERS_AT_ONCE = 1_000
"""Members read, merged and written together: others wait for so many at most."""
_ALWAYS = np.iinfo(np.int64).min


@dataclass
class PushReport:
    """What a push did, in numbers a person can read.

    Attributes
    ----------
    events : int. Rows received.
    duplicates : int. Rows left out because an equal one was among them.
    unknown : int. Events on items that have no vector yet; the batch takes them up when it does.
    members : int. Members that the events are of.
    already_there : int. Events that the stored sequence had.
    older : int. Events before the window, or before a member's newest `length`.
    new : int. Events that are in the stored sequence now and were not before.
    """

    events: int = 0
    duplicates: int = 0
    unknown: int = 0
    members: int = 0
    already_there: int = 0
    older: int = 0
    new: int = 0

    def __str__(self) -> str:
        return (
            f"activity embeddings: {out_of(self.new, self.events, 'event')} "
            f"{are(1 if self.events == 1 else self.new)} new in the sequences of "
            f"{counted(self.members, 'member')}\n"
            f"  left out  {self.already_there:,} already there, "
            f"{counted(self.duplicates, 'duplicate')}, "
            f"{self.unknown:,} on unknown items, {self.older:,} older than the sequences reach"
        )


class SequenceWriter:
    """Pushes activity events to the sequences that are served.

    Parameters
    ----------
    store : the feature store; its definitions are read once.
    offline : bool. Append events to the offline source too; in a folder, every push adds a file,
        so push some seconds or minutes of events at a time. False where your own pipeline logs
        them: an event that is nowhere in the offline source is served until the next batch run
        that publishes its member as of a later time, and then gone.

    Raises
    ------
    InvalidInput
        The feature repo has no sequence view yet.

    Examples
    --------
    >>> writer = SequenceWriter(FeatureStore("feature_repo"))  # doctest: +SKIP
    >>> print(writer.push(events))  # doctest: +SKIP
    """

    def __init__(self, store: FeatureStore, *, offline: bool = True) -> None:
        self._store, self._offline = store, offline
        registry, project = store.registry, store.project
        try:
            self._view = registry.get_feature_view(names.MEMBER_ACTIVITY_SEQUENCE, project)
            sources = source_views_of(self._view)
            self._events = registry.get_feature_view(sources[Role.EVENTS], project)
            self._vector_view = registry.get_feature_view(sources[Role.VECTORS], project)
        except FeatureViewNotFoundException as error:
            raise NotReady(
                f"{store.repo_path}: expected a registry with {names.MEMBER_ACTIVITY_SEQUENCE} "
                f"and the views it is made from. Received: {error}. Run `feast apply`"
            ) from error
        self._spec = spec_of(self._view)
        # Feast's provider has it, its base class does not say so.
        provider: Any = store._get_provider()
        self._online_store = provider.online_store
        if isinstance(store.config.online_store, SqliteOnlineStoreConfig):
            # As in the engine: after `feast teardown`, `feast apply` leaves the tables out.
            views = [view for view in (self._view, self._vector_view) if view.online]
            self._online_store.update(store.config, [], views, [], [], partial=True)
        self._item_vectors = ItemVectorLookup(store, self._vector_view)

    @property
    def id_types(self) -> dict[str, pa.DataType]:
        """Types of the id columns that `push` takes."""
        views = {names.MEMBER_ID: self._view, names.ITEM_ID: self._vector_view}
        return {
            column: pa.string() if has_string_ids(view) else pa.int64()
            for column, view in views.items()
        }

    @property
    def source_names(self) -> dict[str, str]:
        """What the offline source calls the columns that `push` takes, by our names."""
        return source_names(self._events, (*EVENT_COLUMNS, names.EVENT_ID))

    def push(self, events: pa.Table | pd.DataFrame) -> PushReport:
        """Merge events into the stored sequences of their members, and log them.

        Pushing events again changes nothing, so that this may be repeated after any failure.
        Offline comes first: what is served is in the log, unless `offline` is False.

        Parameters
        ----------
        events : columns `member_id`, `job_id` (int64 or string as in the feature repo), `action`
            (string), `event_timestamp` (with time zone), and `event_id` if the source has it; or
            all of them under the names that the source has for them. Others are ignored, event ids
            too where the source has none. In any order.

        Raises
        ------
        InvalidInput
            Events are malformed or lie in the future, or do not fit the offline source. Nothing
            was written.
        """
        table = self._checked(events)
        activity = ActivityEvents.from_arrow(table, self._spec, source=SOURCE)
        report = PushReport(
            events=len(table), duplicates=activity.duplicates, members=len(activity.member_ids)
        )
        if not len(table):
            return report
        _, known_items = self._item_vectors(activity.item_ids)
        known = known_items[activity.item]
        report.unknown = int(np.count_nonzero(~known))
        if self._offline:
            append_events(self._store, self._events, table)
        for start in range(0, len(activity.member_ids), MEMBERS_AT_ONCE):
            stop = min(start + MEMBERS_AT_ONCE, len(activity.member_ids))
            self._push_members(activity, known, range(start, stop), report)
        return report

    def _checked(self, events: pa.Table | pd.DataFrame) -> pa.Table:
        """Return the events with the columns and types that both stores get, or refuse them."""
        table = events
        if isinstance(events, pd.DataFrame):
            try:
                table = pa.Table.from_pandas(events, preserve_index=False)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError) as error:
                raise InvalidData(
                    f"{SOURCE}: expected columns of one type each, integers of int64 and text "
                    f"that can be UTF-8. Received: {error}"
                ) from error
        table = under_our_names(table, self.source_names, SOURCE, optional=[names.EVENT_ID])
        # All checks that need no knowledge of the feature repo.
        ActivityEvents.from_arrow(table, self._spec, source=SOURCE)
        columns = {
            names.MEMBER_ID: self._ids(table, names.MEMBER_ID),
            names.ITEM_ID: self._ids(table, names.ITEM_ID),
            names.ACTION: single_chunk(table, names.ACTION).cast(pa.string()),
        }
        time = time_column(table, names.EVENT_TIMESTAMP, SOURCE)
        # Microseconds offline too, so that both stores mean the same event.
        columns[names.EVENT_TIMESTAMP] = pa.array(time, pa.int64()).cast(TIMESTAMP)
        if self._event_ids is not None:
            require_event_ids(self._events, table)
            columns[names.EVENT_ID] = self._as_event_ids(id_column(table, names.EVENT_ID, SOURCE))
        now = to_us(datetime.now(UTC))
        late = np.flatnonzero(time > now + CLOCK_TOLERANCE_US)
        if len(late):
            raise InvalidData(
                f"{SOURCE}: column {names.EVENT_TIMESTAMP!r} should not lie in the future. "
                f"Received: {utc(to_datetime(time[late].max()))} in "
                f"{out_of(len(late), len(time), 'row')}, now {utc(to_datetime(now))}"
            )
        return pa.table(columns)

    @cached_property
    def _event_ids(self) -> pa.DataType | None:
        """Type of the source's event ids; None where the batch would know none."""
        return event_ids_of(self._store.config, self._events)

    def _as_event_ids(self, ids: pa.Array) -> pa.Array:
        """Return event ids of the source's type, so that they are ordered as in the batch."""
        if self._event_ids is None or pa.types.is_null(self._event_ids):
            return ids
        try:
            return ids.cast(self._event_ids)
        except pa.ArrowInvalid as error:
            raise InvalidData(
                f"{SOURCE}: column {names.EVENT_ID!r} should be {self._event_ids}, as in "
                f"{source_label(self._events)}. Received: {ids.type}; {first_line(error)}"
            ) from error

    def _ids(self, table: pa.Table, column: str) -> pa.Array:
        ids, expected = id_column(table, column, SOURCE), self.id_types[column]
        if ids.type != expected and len(ids):
            raise InvalidData(
                f"{SOURCE}: column {column!r} should be {expected}, as in the feature repo. "
                f"Received: {ids.type}"
            )
        return ids.cast(expected)

    def _push_members(
        self, activity: ActivityEvents, known: np.ndarray, part: range, report: PushReport
    ) -> None:
        """Push the events of a few members, on known items, and count them."""
        pushed: list[list[Activity]] = []
        members: list[int] = []
        items = activity.item_ids.to_pylist()
        event_ids = [] if activity.event_ids is None else activity.event_ids.to_pylist()
        for member in part:
            events = slice(*activity.member_start[member : member + 2])
            chosen = events.start + np.flatnonzero(known[events])
            columns = [
                activity.time[chosen].tolist(),
                [items[item] for item in activity.item[chosen].tolist()],
                activity.action[chosen].tolist(),
            ]
            if activity.event is not None:
                columns.append([event_ids[event] for event in activity.event[chosen].tolist()])
            if len(chosen):
                members.append(member)
                pushed.append(list(zip(*columns, strict=True)))
        if not pushed:
            return
        ids = activity.member_ids.take(pa.array(members))
        merging = _Merging(self._view, self._spec, ids, pushed, has_numbers(activity.event_ids))
        update_rows(
            self._store.config,
            self._online_store,
            self._view,
            entity_keys(self._view, ids),
            merging,
        )
        report.already_there += int(merging.already_there.sum())
        report.older += int(merging.older.sum())
        report.new += int(merging.new.sum())


class _Merging:
    """Merges a few members' events into their stored rows; a `row_updates.Compute`.

    Parameters
    ----------
    view, spec : of the sequences.
    members : n ids.
    pushed : n lists of distinct events, in any order.
    numbers : bool. Whether event ids are integers, where there are any.

    Attributes
    ----------
    already_there, older, new : int64 [n]; what became of the events, as in `PushReport`. A row
        that had to be computed again counts as it was computed last.
    """

    def __init__(
        self,
        view: FeatureView,
        spec: ActivitySpec,
        members: pa.Array,
        pushed: Sequence[Sequence[Activity]],
        numbers: bool,
    ) -> None:
        self._view, self._spec, self._members, self._pushed = view, spec, members, pushed
        self._numbers = numbers
        self.already_there, self.older, self.new = np.zeros((3, len(pushed)), dtype=np.int64)

    def __call__(self, which: Sequence[int], stored: Sequence[Stored]) -> list[Row | None]:
        before = [activities_of(values, numbers=self._numbers) for _, values in stored]
        merged, fresh = [], []
        for i, activities in zip(which, before, strict=True):
            together, not_stored = merge_activities(activities, self._pushed[i])
            merged.append(together)
            fresh.append(not_stored)
        floor = [_ALWAYS if moment is None else to_us(moment) for moment, _ in stored]
        sequences = _merged_sequences(merged, floor, self._spec)
        after = activities_in(sequences)
        for row, i in enumerate(which):
            kept = len(set(after[row]).intersection(fresh[row]))
            self.new[i] = kept
            self.older[i] = len(fresh[row]) - kept
            self.already_there[i] = len(self._pushed[i]) - len(fresh[row])
        changed = np.flatnonzero([a != b for a, b in zip(after, before, strict=True)])
        made: list[Row | None] = [None] * len(which)
        if len(changed):
            created = np.full(len(changed), to_us(datetime.now(UTC)), dtype=np.int64)
            members = self._members.take(pa.array(np.asarray(which)[changed]))
            batch = sequence_batch(members, sequences.take(changed), created)
            for row, new in zip(changed.tolist(), feast_rows(self._view, batch), strict=True):
                made[row] = new
        return made


def keep_live_events(view: FeatureView) -> Merge:
    """Return how snapshots of the sequence view go online: see the top of this module."""
    spec = spec_of(view)

    def merge(rows: Sequence[Row]) -> tuple[Compute, Needs]:
        as_of = {moment: to_us(moment) for moment in {row[2] for row in rows}}

        def is_live(position: int, times: Value) -> bool:
            # By its events, not by the row's time, of which sqlite keeps whole seconds.
            newest = times.int64_list_val.val[-1:]
            return bool(newest) and newest[0] >= as_of[rows[position][2]]

        def compute(which: Sequence[int], stored: Sequence[Stored]) -> list[Row | None]:
            chosen: list[Row | None] = [rows[i] for i in which]
            live = [
                (position, i, values)
                for position, (i, (_, values)) in enumerate(zip(which, stored, strict=True))
                if values is not None and is_live(i, values[names.ACTIVITY_TIMES])
            ]
            made = _with_live(
                view, spec, [rows[i] for _, i, _ in live], [values for _, _, values in live]
            )
            for (position, _, _), row in zip(live, made, strict=True):
                chosen[position] = row
            return chosen

        return compute, Needs(names.ACTIVITY_TIMES, is_live)

    return merge


def _with_live(
    view: FeatureView,
    spec: ActivitySpec,
    rows: Sequence[Row],
    stored: Sequence[Mapping[str, Value]],
) -> list[Row]:
    """Return batch rows with the events of stored rows that are as late as they are, or later."""
    if not rows:
        return []
    floor = [to_us(moment) for _, _, moment, _ in rows]
    merged = [
        activities_of(values) + [live for live in activities_of(held) if live[0] >= as_of]
        for (_, values, _, _), held, as_of in zip(rows, stored, floor, strict=True)
    ]
    created = np.array([to_us(made or moment) for _, _, moment, made in rows], dtype=np.int64)
    members = pa.array([_id_of(key) for key, *_ in rows])
    sequences = _merged_sequences(merged, floor, spec)
    return feast_rows(view, sequence_batch(members, sequences, created))


def activities_of(values: Mapping[str, Value] | None, *, numbers: bool = False) -> list[Activity]:
    """Return the activities of a row of the sequence view, oldest first; none without a row.

    Parameters
    ----------
    values : of the row.
    numbers : whether event ids, which are stored as text, are integers.
    """
    if values is None:
        return []
    times = values[names.ACTIVITY_TIMES].int64_list_val.val
    if not times:
        return []
    items = values[names.ACTIVITY_ITEM_IDS]
    item_ids = items.int64_list_val.val or items.string_list_val.val
    actions = values[names.ACTIVITY_ACTIONS].int32_list_val.val
    activities = list(zip(times, item_ids, actions, strict=True))
    event_ids = values[names.ACTIVITY_EVENT_IDS].string_list_val.val
    return with_event_ids(activities, event_ids, numbers=numbers)


def _id_of(key: EntityKey) -> int | str:
    (value,) = key.entity_values
    return value.string_val if value.HasField("string_val") else value.int64_val


def _merged_sequences(
    merged: Sequence[Sequence[Activity]], floor: Sequence[int], spec: ActivitySpec
) -> Sequences:
    """Return members' sequences as of just after their newest activity, or `floor` if later.

    A row of the batch is as of a cut-off; the events merged into it may be newer. Nothing else
    moves the as-of time, so that it is the same in whatever order events arrive.
    """
    newest = [activities[-1][0] + 1 if activities else _ALWAYS for activities in merged]
    events = as_events(merged)
    # Items without a vector are left out before; every other one is known for ever. Were it known
    # from its vector's own time on, an event could be left out now and, had a later one been
    # pushed first, have stayed.
    known = ItemVectors.always_known(events.item_ids)
    as_of = np.maximum(np.array(newest, dtype=np.int64), np.array(floor, dtype=np.int64))
    return make_sequences(events, events.member_ids, as_of, spec=spec, vectors=known)
