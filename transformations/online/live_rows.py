"""What is kept of a live row when the batch publishes its member again.

A *live* row holds events at or after the as-of time of the batch row it started from. When the
batch publishes that member as of T, events before T come from the batch, late ones included, since
these are in the offline log; events at or after T are kept from the live row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from feast import FeatureView
from feast.protos.feast.types.Value_pb2 import Value

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.merge import (
    Activity,
    SessionOf,
    as_events,
    with_event_ids,
    with_session_ids,
)
from activity_embeddings.transformations.activity.rows import sequence_batch
from activity_embeddings.transformations.activity.sequences import Sequences, make_sequences
from activity_embeddings.transformations.definitions.tags import spec_of
from activity_embeddings.transformations.names import DomainNames
from activity_embeddings.transformations.online.base import Row, Stored
from activity_embeddings.transformations.online.protobuf import feast_rows, id_of
from activity_embeddings.transformations.spec import ActivitySpec
from activity_embeddings.transformations.times import ALWAYS, SECOND, to_us


class KeepLiveEvents:
    """How rows of the batch join the stored ones: a `KeepMerge` of rows of the sequence view.

    Parameters
    ----------
    view
        The sequence view.
    """

    decided_by = names.LAST_ACTIVITY_AT

    def __init__(self, view: FeatureView) -> None:
        self._view, self._spec = view, spec_of(view)
        self._domain = DomainNames.of(view.tags)

    def needs(self, as_of: int, value: Value) -> bool:
        """Return whether a stored row may be live: it tells its newest event to the second."""
        return value.HasField("unix_timestamp_val") and value.unix_timestamp_val >= as_of // SECOND

    def merge(self, given: Sequence[Row], stored: Sequence[Stored]) -> list[Row]:
        """Return the batch rows, with the events that live rows have beyond them."""
        rows = list(given)
        # By their events, not by the row's time, of which sqlite keeps whole seconds.
        live = {
            i: values
            for i, (row, (_, values)) in enumerate(zip(given, stored, strict=True))
            if values is not None and any(t >= to_us(row[2]) for t in _times(values)[-1:])
        }
        made = self._with_live([given[i] for i in live], list(live.values()))
        for i, row in zip(live, made, strict=True):
            rows[i] = row
        return rows

    def _with_live(self, rows: Sequence[Row], stored: Sequence[Mapping[str, Value]]) -> list[Row]:
        """Return batch rows with the events of stored ones at or after their as-of times."""
        if not rows:
            return []
        floor = [to_us(moment) for _, _, moment, _ in rows]
        merged, sessions = [], []
        for (_, values, _, _), held, as_of in zip(rows, stored, floor, strict=True):
            batch_events = activities_of(values, self._domain)
            live_events = activities_of(held, self._domain)
            merged.append(batch_events + [live for live in live_events if live[0] >= as_of])
            # The two have no event in common that is kept: one lies before `as_of`.
            sessions.append(sessions_of(held, live_events) | sessions_of(values, batch_events))
        created = np.array([to_us(made or moment) for _, _, moment, made in rows], dtype=np.int64)
        members = pa.array([id_of(key) for key, *_ in rows])
        sequences = merged_sequences(merged, floor, self._spec, sessions)
        batch = sequence_batch(members, sequences, created, self._domain)
        return feast_rows(self._view, batch)


def activities_of(
    values: Mapping[str, Value] | None, domain: DomainNames, *, numbers: bool = False
) -> list[Activity]:
    """Return the activities of a row of the sequence view, oldest first; none without a row.

    Parameters
    ----------
    values
        Values of the row.
    domain
        Names the features.
    numbers
        Whether event ids, which are stored as text, are integers.
    """
    if values is None:
        return []
    times = _times(values)
    if not times:
        return []
    items = values[domain.activity_item_ids]
    item_ids = items.int64_list_val.val or items.string_list_val.val
    actions = values[names.ACTIVITY_ACTIONS].int32_list_val.val
    activities = list(zip(times, item_ids, actions, strict=True))
    event_ids = values[names.ACTIVITY_EVENT_IDS].string_list_val.val
    return with_event_ids(activities, event_ids, numbers=numbers)


def sessions_of(values: Mapping[str, Value] | None, activities: Sequence[Activity]) -> SessionOf:
    """Return the sessions of the activities of a row of the sequence view."""
    if values is None or names.ACTIVITY_SESSION_IDS not in values:
        return {}
    return with_session_ids(activities, values[names.ACTIVITY_SESSION_IDS].string_list_val.val)


def _times(values: Mapping[str, Value]) -> Sequence[int]:
    return values[names.ACTIVITY_TIMES].int64_list_val.val


def merged_sequences(
    merged: Sequence[Sequence[Activity]],
    floor: Sequence[int],
    spec: ActivitySpec,
    sessions: Sequence[SessionOf] = (),
) -> Sequences:
    """Return members' sequences as of just after their newest activity, or `floor` if later.

    A row of the batch is as of a cut-off; the events merged into it may be newer. Nothing else
    moves the as-of time, so that it is the same in whatever order events arrive.
    """
    newest = [activities[-1][0] + 1 if activities else ALWAYS for activities in merged]
    events = as_events(merged, sessions)
    # Items without a vector are left out before; every other one is known for ever. Were it known
    # from its vector's own time on, an event could be left out now and, had a later one been
    # pushed first, have stayed.
    known = ItemVectors.always_known(events.item_ids)
    as_of = np.maximum(np.array(newest, dtype=np.int64), np.array(floor, dtype=np.int64))
    return make_sequences(events, events.member_ids, as_of, spec=spec, vectors=known)
