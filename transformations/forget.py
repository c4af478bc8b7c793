"""Forget members: take all that is kept of them out of the snapshots, the online store and pushes.

The source of events is the user's own, and is not touched. While it still has a member's events,
the next run would bring the member back, so that this is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa
from feast import FeatureStore

from activity_embeddings.transformations.batch.record import forget_messages, sink_of_records
from activity_embeddings.transformations.definitions.registered import (
    RegisteredDomain,
    domains_reading,
    registered_domain,
    registered_domains,
)
from activity_embeddings.transformations.errors import InvalidInput, quote
from activity_embeddings.transformations.offline.connections import kept_connections
from activity_embeddings.transformations.offline.event_log import PushedEvents, source_has
from activity_embeddings.transformations.offline.located import keeps_snapshots, source_label
from activity_embeddings.transformations.offline.sinks.base import SnapshotSink
from activity_embeddings.transformations.offline.sinks.places import sink_of
from activity_embeddings.transformations.online.base import RowStore
from activity_embeddings.transformations.online.protobuf import entity_keys
from activity_embeddings.transformations.online.stores import row_store_of
from activity_embeddings.transformations.wording import counted


@dataclass
class Traces:
    """Rows that are kept of members, or were.

    Attributes
    ----------
    members
        How many members were looked for.
    snapshots
        Rows of snapshots, of all versions and of views that are no longer defined, too.
    online
        Rows of the online store.
    pushed
        Pushed events.
    source
        Members who have events in the source; of several sources each counts.
    """

    members: int
    snapshots: int = 0
    online: int = 0
    pushed: int = 0
    source: int = 0

    @property
    def any(self) -> bool:
        """Whether there is anything."""
        return bool(self.snapshots or self.online or self.pushed or self.source)

    def __str__(self) -> str:
        return (
            f"{counted(self.snapshots, 'row')} of snapshots, "
            f"{counted(self.online, 'row')} online, {counted(self.pushed, 'pushed event')}, "
            f"{counted(self.source, 'member')} in the source of events"
        )


@kept_connections()
def forget(store: FeatureStore, members: Sequence[int | str], item: str | None = None) -> Traces:
    """Take all that is kept of members out of the stores; return what there was.

    Beside rows, messages of failed runs are taken out of their records, since they may name a
    member. What was trained or evaluated, and what others copied, is not touched.

    Parameters
    ----------
    store
        The feature store, after `feast apply`.
    members
        Ids, of the type of the member's entity; as text, integers are parsed.
    item
        Name of the item's entity, for one domain alone, beside views that are no longer defined;
        all domains unless said.

    Raises
    ------
    InvalidInput
        An id is of another type, the source of events still has one of them, or the online store
        has no way to delete rows. Nothing was changed.
    AlreadyRunning
        A run is under way.
    """
    rows = row_store_of(store)
    traces = Traces(len(set(members)))
    ids_of = [(domain, domain.member_ids(members)) for domain in _domains(store, item)]
    with ExitStack() as stack:
        for domain, ids in ids_of:
            _require_gone(store, domain, ids)
        rows.delete([])  # a store that cannot says so before anything changes
        readers = [reader for domain, _ in ids_of for reader in domains_reading(store, domain)]
        reading = [sink_of(reader.sequence, store.config) for reader in readers]
        sinks = {domain.names.item: _sinks(store, domain) for domain, _ in ids_of}
        for sink in dict.fromkeys([*reading, *chain(*sinks.values())]):
            stack.enter_context(sink.locked())
        for domain, ids in ids_of:
            # What is pushed goes first: it would come back with the next batch run.
            for view in domain.event_views:
                traces.pushed += PushedEvents(store, view).forget(ids)
            for sink in sinks[domain.names.item]:
                sink.staging.clear()
                traces.snapshots += sink.delete_members(domain.names.member_id, ids)
                sink.drop_history()
        traces.online = rows.delete(
            [(view, entity_keys(view, ids)) for domain, ids in ids_of for view in domain.views]
        )
    records = sink_of_records(store.list_batch_feature_views(), store.config)
    if records is not None:
        forget_messages(records)
        records.drop_history()
    return traces


@kept_connections()
def traces_of(store: FeatureStore, members: Sequence[int | str], item: str | None = None) -> Traces:
    """Look for all that is kept of members; see `forget`."""
    rows = row_store_of(store)
    traces = Traces(len(set(members)))
    for domain in _domains(store, item):
        ids = domain.member_ids(members)
        for view in domain.event_views:
            traces.source += len(source_has(store, view, ids))
            traces.pushed += PushedEvents(store, view).count(ids)
        for sink in _sinks(store, domain):
            traces.snapshots += sink.count_members(domain.names.member_id, ids)
        traces.online += sum(_online(rows, domain, ids))
    return traces


def _domains(store: FeatureStore, item: str | None) -> list[RegisteredDomain]:
    if item is None and len(found := registered_domains(store)) > 1:
        return found
    return [registered_domain(store, item)]


def _require_gone(store: FeatureStore, domain: RegisteredDomain, ids: pa.Array) -> None:
    for view in domain.event_views:
        still = source_has(store, view, ids)
        if len(still):
            raise InvalidInput(
                f"{source_label(view)}: expected no events of the members to forget, with "
                "which the next run would bring them back. Received: events of "
                f"{', '.join(map(quote, still.to_pylist()[:5]))}"
                f"{' and others' if len(still) > 5 else ''}. Take them out of the source first"
            )


def _sinks(store: FeatureStore, domain: RegisteredDomain) -> list[SnapshotSink]:
    """Return every sink that may hold members of a domain, whatever the version.

    Of views that are no longer defined, too; not of other views, as those of other domains, whose
    sources may have the members still.
    """
    found = [sink_of(view, store.config) for view in domain.views]
    ours = {view.name for view in domain.views}
    of_others = [
        sink_of(view, store.config)
        for view in store.list_batch_feature_views()
        if keeps_snapshots(view) and view.name not in ours
    ]
    left_out = {each for sink in of_others for each in (sink, *sink.other_versions())}
    beside = [other for sink in found for other in sink.beside()]
    return [sink for sink in dict.fromkeys([*found, *beside]) if sink not in left_out]


def _online(rows: RowStore, domain: RegisteredDomain, ids: pa.Array) -> Iterator[int]:
    for view in domain.views:
        stored = rows.read(view, entity_keys(view, ids))
        yield sum(moment is not None for moment, _ in stored)
