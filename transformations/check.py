"""Compare what is served with what it should be: for a sample of members, three ways to one value.

    stored       the row of the online store, as the batch run or a push left it
    request      the on-demand view's answer as of the same time
    recomputed   from the raw events and item vectors, by the batch functions, now

Where they differ, the report names the cause. A cause is named for what shows it, and for nothing
else: the row against the member's newest snapshot, the snapshot against the registered version, and
the stored events against those in the source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from feast import FeatureStore, FeatureView

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.merge import Activity, Id, activities_in
from activity_embeddings.transformations.activity.sequences import (
    Sequences,
    make_sequences,
    members_active,
)
from activity_embeddings.transformations.arrow import codes_of, single_chunk, sorted_union
from activity_embeddings.transformations.batch.snapshot_run import facts_of
from activity_embeddings.transformations.definitions.registered import (
    registered_domain,
    registered_model,
)
from activity_embeddings.transformations.errors import NotReady
from activity_embeddings.transformations.feast_compat.stores import offline_store
from activity_embeddings.transformations.inference.embedder import Embedder
from activity_embeddings.transformations.names import DomainNames
from activity_embeddings.transformations.offline.connections import kept_connections
from activity_embeddings.transformations.offline.sinks.base import SnapshotSink
from activity_embeddings.transformations.offline.sinks.places import sink_of
from activity_embeddings.transformations.offline.sources import declared_event_ids
from activity_embeddings.transformations.online.base import Stored
from activity_embeddings.transformations.online.live_rows import activities_of
from activity_embeddings.transformations.online.protobuf import entity_keys
from activity_embeddings.transformations.online.stores import row_store_of
from activity_embeddings.transformations.serving.entity_rows import entity_rows
from activity_embeddings.transformations.spec import ActivitySpec, describe_mismatch
from activity_embeddings.transformations.times import SECOND, to_datetime, to_us
from activity_embeddings.transformations.wording import counted

Event: TypeAlias = tuple[int, Id, int]
"""Time in microseconds, item id, action id."""
TOLERANCE = 1e-5
"""Largest difference of a value, relative where vectors have values above 1."""
SHOWN = 5
"""Differing members that the report names."""

MISSING_ROW = "missing row"
"""A snapshot has a row of the member, the online store has none."""
NOT_PUSHED = "snapshot not pushed"
"""The online row is older than the member's newest snapshot."""
OTHER_VERSION = "other model or item version"
"""The online row is one of another version's snapshots, or its snapshot was made with other facts
than those that are registered."""
NOT_THE_SNAPSHOT = "not what its snapshot says"
"""The snapshot is what it should be, and the online row is another one."""
NO_SNAPSHOT = "row of no snapshot"
"""No snapshot of any version has the online row."""
OTHER_ORDER = "other order"
"""The right events, in another order."""
LATE_EVENT = "late event or vector"
"""The source has an event now, on an item with a vector, that the stored sequence lacks."""
REMOVED_EVENT = "removed or unlogged event"
"""The stored sequence has an event that is not in the source."""
REMOVED_VECTOR = "removed vector"
"""The stored sequence has an event whose item has no vector as of that time."""
STALE_VECTOR = "stale vector"
"""The events are right and the model is the registered one: an item's vector is another."""


@dataclass(frozen=True)
class Difference:
    """One member's value that is not what it should be.

    Attributes
    ----------
    view
        The view compared.
    member
        The member's id.
    what
        "stored" or "request": which value differs from the recomputed one.
    cause
        Why, as far as can be told.
    cosine
        Between the two vectors; None where one is zero or there is none.
    norms
        Norms of the value served and of the recomputed one.
    missing, extra
        Events that the stored sequence lacks, or has too many.
    """

    view: str
    member: int | str
    what: str
    cause: str
    cosine: float | None = None
    norms: tuple[float, float] = (0.0, 0.0)
    missing: int = 0
    extra: int = 0

    def __str__(self) -> str:
        cosine = "" if self.cosine is None else f", cosine {self.cosine:.4f}"
        norms = f", norm {self.norms[0]:.3f} for {self.norms[1]:.3f}" if any(self.norms) else ""
        events = (
            f", {counted(self.missing, 'event')} missing, {self.extra:,} too many"
            if self.missing or self.extra
            else ""
        )
        where = f"{self.view}, member {self.member}, {self.what}"
        return f"{where}: {self.cause}{events}{cosine}{norms}"


@dataclass
class CheckReport:
    """What a check found.

    Attributes
    ----------
    members
        Members looked at.
    compared
        dict of view name to the number of values compared, stored and request-time.
    differences
        What differs.
    """

    members: int = 0
    compared: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of the compared values that differ."""
        return len(self.differences) / max(1, sum(self.compared.values()))

    def __str__(self) -> str:
        lines = [f"activity embeddings: {counted(self.members, 'member')} checked"]
        width = max(map(len, self.compared), default=0)
        for view, values in self.compared.items():
            found = [d for d in self.differences if d.view == view]
            causes = Counter(d.cause for d in found)
            told = ", ".join(f"{cause} {n:,}" for cause, n in causes.most_common())
            cosines = [d.cosine for d in found if d.cosine is not None]
            lowest = f"; lowest cosine {min(cosines):.4f}" if cosines else ""
            lines.append(
                f"  {view:{width}}  {counted(values, 'value')}, {len(found):,} "
                f"{'differs' if len(found) == 1 else 'differ'}"
                + (f": {told}{lowest}" if found else "")
            )
        lines += [f"  {difference}" for difference in self.differences[:SHOWN]]
        if len(self.differences) > SHOWN:
            lines.append(f"  and {len(self.differences) - SHOWN:,} more")
        return "\n".join(lines)


@kept_connections()
def check(
    store: FeatureStore, *, sample: int = 200, seed: int = 0, item: str | None = None
) -> CheckReport:
    """Compare stored, request-time and recomputed values of a random sample of members.

    Parameters
    ----------
    store
        The feature store.
    sample
        Members to look at, of those in the newest snapshot and those active by now.
    seed
        Seed of the sample.
    item
        Name of the item's entity, where the feature repo has several domains.

    Raises
    ------
    InvalidInput
        Nothing has been published, or the sources cannot be read.
    """
    return _Check(store, sample, seed, item).run()


@dataclass(frozen=True)
class _Published:
    """A member's row in its newest snapshot.

    Attributes
    ----------
    as_of
        As of of the snapshot, microseconds.
    row
        dict of column name to value.
    """

    as_of: int
    row: Mapping[str, Any]


@dataclass(frozen=True)
class _Served:
    """What is known of n members' values in one view.

    Attributes
    ----------
    online
        Rows of the online store.
    published
        Rows of the newest snapshots; None for a member who is in none.
    as_of
        int64 [n]; what each value should be as of.
    """

    online: list[Stored]
    published: list[_Published | None]
    as_of: np.ndarray

    def cause(self, i: int) -> str | None:
        """Return why an online row is not that of the newest snapshot, by their times alone."""
        moment, _ = self.online[i]
        newest = self.published[i]
        if newest is None:
            return None
        if moment is None:
            return MISSING_ROW
        return NOT_PUSHED if _seconds(moment) < newest.as_of // SECOND else None


class _Check:
    """One run; see `check`."""

    def __init__(self, store: FeatureStore, sample: int, seed: int, item: str | None) -> None:
        self._store, self._sample, self._seed = store, sample, seed
        self._offline_store = offline_store(store)
        domain = registered_domain(store, item)
        self._names, self._spec = domain.names, domain.spec
        self._sequence, self._embedding_views = domain.sequence, domain.embeddings
        self._views = domain.views
        self._domain = domain
        self._realtime = {view.name for view in store.list_on_demand_feature_views()}
        self._report = CheckReport()

    def run(self) -> CheckReport:
        """Read, recompute, compare."""
        committed = self._sink_of(self._sequence).committed()
        if not committed:
            raise NotReady(
                f"{self._sequence.name}: expected a published snapshot. Received: none. Run "
                "`feast materialize` first"
            )
        newest = committed[-1]
        events = self._read_events(newest - self._spec.window_us, newest)
        members = self._choose(events, newest)
        served = {view.name: self._read(view, members, newest) for view in self._views}
        moments = np.concatenate([rows.as_of for rows in served.values()])
        first, last = int(moments.min(initial=newest)), int(moments.max(initial=newest))
        events = self._read_events(first - self._spec.window_us, last)
        vectors = self._domain.read_vectors(self._store.config, self._offline_store, end=last)
        recomputed = {
            name: make_sequences(events, members, rows.as_of, spec=self._spec, vectors=vectors)
            for name, rows in served.items()
        }
        ids = members.to_pylist()
        self._report.members = len(ids)
        sequences = recomputed[self._sequence.name]
        logged = self._logged(events, members, sequences.as_of)
        wrong = self._compare_sequences(ids, served[self._sequence.name], sequences, logged)
        for view in self._embedding_views:
            model = registered_model(
                view,
                spec=self._spec,
                vector_spec=self._domain.vector_spec,
                repo=self._store.repo_path,
            )
            embedder = Embedder([model])
            expected = embedder(recomputed[view.name], vectors)[model.name]
            self._compare_embeddings(view, facts_of(model), ids, served[view.name], expected, wrong)
            if names.realtime_name(view.name) in self._realtime:
                expected = embedder(sequences, vectors)[model.name]
                self._compare_request(view, ids, sequences.as_of, expected, wrong)
        return self._report

    def _sink_of(self, view: FeatureView) -> SnapshotSink:
        return sink_of(view, self._store.config)

    def _read_events(self, start: int, end: int) -> ActivityEvents:
        return self._domain.read_events(
            self._store.config, self._offline_store, start=start, end=end
        )

    def _choose(self, events: ActivityEvents, newest: int) -> pa.Array:
        """Return a sample of the members who are in a snapshot of the last window or should be."""
        sink = self._sink_of(self._sequence)
        recent = [t for t in sink.committed() if t > newest - self._spec.window_us]
        published = [_keys(sink, self._names.member_id, as_of) for as_of in recent]
        members = sorted_union(*published, members_active(events, newest, self._spec))
        random = np.random.default_rng(self._seed)
        chosen = random.permutation(len(members))[: self._sample]
        return members.take(pa.array(np.sort(chosen)))

    def _read(self, view: FeatureView, members: pa.Array, newest: int) -> _Served:
        """Read the online and the newest offline rows, and say what each should be as of."""
        online = row_store_of(self._store).read(view, entity_keys(view, members))
        sink = self._sink_of(view)
        key = self._names.member_id
        published = _newest_rows(sink, key, members, newest - self._spec.window_us)
        # Feast's sqlite store keeps whole seconds of a row's time.
        exact = {as_of // SECOND: as_of for as_of in sink.committed()}
        times = []
        for (moment, values), row in zip(online, published, strict=True):
            as_of = newest if moment is None else to_us(moment)
            as_of = exact.get(as_of // SECOND, as_of)
            if row is not None:
                as_of = row.as_of if moment is None else max(as_of, row.as_of)
            if values is not None and names.ACTIVITY_TIMES in values:
                # Events pushed since then move the time of a sequence.
                as_of = max(
                    [as_of, *(held[0] + 1 for held in activities_of(values, self._names)[-1:])]
                )
            times.append(as_of)
        return _Served(online, published, np.array(times, dtype=np.int64))

    def _logged(
        self, events: ActivityEvents, members: pa.Array, as_of: np.ndarray
    ) -> list[set[Event]]:
        """Return, for each member, the events of the window that the source has, on any item."""
        known = ItemVectors.always_known(events.item_ids)
        most = int(np.diff(events.member_start).max(initial=1))
        spec = replace(self._spec, length=most, kinds=())
        sequences = make_sequences(events, members, as_of, spec=spec, vectors=known)
        return [set(_bare(activities)) for activities in activities_in(sequences)]

    def _compare_sequences(
        self,
        ids: Sequence[Any],
        served: _Served,
        recomputed: Sequences,
        logged: Sequence[set[Event]],
    ) -> dict[Any, Difference]:
        """Report stored sequences that differ; return the differences by member."""
        wrong: dict[Any, Difference] = {}
        view, sink = self._sequence.name, self._sink_of(self._sequence)
        facts = {"spec": self._spec.to_dict()}
        self._report.compared[view] = len(ids)
        for i, activities in enumerate(activities_in(recomputed)):
            expected, held = (
                _bare(activities),
                _bare(activities_of(served.online[i][1], self._names)),
            )
            if held == expected:
                continue
            newest = served.published[i]
            cause = served.cause(i)
            if cause is None and newest is not None and _made_with_other(sink, newest, facts):
                cause = OTHER_VERSION
            if cause is None:
                cause = cause_of_events(
                    held,
                    expected,
                    snapshot=None
                    if newest is None
                    else _activities_in_row(newest.row, self._names),
                    as_of=0 if newest is None else newest.as_of,
                    logged=logged[i],
                    spec=self._spec,
                )
            wrong[ids[i]] = Difference(
                view,
                ids[i],
                "stored",
                cause,
                missing=(Counter(expected) - Counter(held)).total(),
                extra=(Counter(held) - Counter(expected)).total(),
            )
        self._report.differences += wrong.values()
        return wrong

    def _compare_embeddings(
        self,
        view: FeatureView,
        facts: Mapping[str, Any],
        ids: Sequence[Any],
        served: _Served,
        expected: Mapping[str, np.ndarray],
        wrong: Mapping[Any, Difference],
    ) -> None:
        """Report stored embeddings that differ; `facts` are those of the registered model."""
        sink = self._sink_of(view)
        self._report.compared[view.name] = len(ids)
        for i, member in enumerate(ids):
            moment, values = served.online[i]
            got = _vectors_in(values, expected)
            newest = served.published[i]
            if _same(got, expected, i) or (
                # Nobody ever said anything of a member without activity.
                moment is None and newest is None and not _any(expected, i)
            ):
                continue
            cause = served.cause(i)
            if cause is None and newest is not None and _made_with_other(sink, newest, facts):
                cause = OTHER_VERSION
            if cause is None and moment is not None:
                cause = self._cause_of_row(sink, newest, member, moment, got)
            if cause is None:
                cause = wrong[member].cause if member in wrong else STALE_VECTOR
            self._differ(view, member, "stored", cause, got, expected, i)

    def _cause_of_row(
        self,
        sink: SnapshotSink,
        newest: _Published | None,
        member: Any,
        moment: datetime,
        got: Mapping[str, np.ndarray | None],
    ) -> str | None:
        """Return why an online row is not that of the newest snapshot, None where it is."""
        if newest is not None and _close(got, _vectors_of_row(newest.row, got)):
            return None
        if newest is not None and any(vector is None for vector in got.values()):
            return MISSING_ROW
        second = _seconds(moment)
        versions = [sink, *sink.other_versions()]
        having = [each for each in versions if self._has_row(each, member, second, got)]
        if sink in having:
            return None
        if having:
            return OTHER_VERSION
        return NO_SNAPSHOT if newest is None else NOT_THE_SNAPSHOT

    def _has_row(
        self, sink: SnapshotSink, member: Any, second: int, got: Mapping[str, np.ndarray | None]
    ) -> bool:
        """Return whether a snapshot as of that second has this very row."""
        times = [as_of for as_of in sink.committed() if as_of // SECOND == second]
        key, members = self._names.member_id, pa.array([member])
        rows = [_newest_rows(sink, key, members, as_of - 1)[0] for as_of in times]
        return any(row is not None and _close(got, _vectors_of_row(row.row, got)) for row in rows)

    def _compare_request(
        self,
        view: FeatureView,
        ids: Sequence[Any],
        as_of: np.ndarray,
        expected: Mapping[str, np.ndarray],
        wrong: Mapping[Any, Difference],
    ) -> None:
        """Report request-time embeddings, as of the time of the stored sequence, that differ."""
        name = names.realtime_name(view.name)
        event_ids = declared_event_ids(self._domain.events) is not None
        rows = [
            row
            for member, moment in zip(ids, as_of.tolist(), strict=True)
            for row in entity_rows(
                [member],
                request_timestamp=to_datetime(moment),
                event_ids=event_ids,
                session_ids=self._names.session_id is not None,
                domain=self._names,
                spec=self._spec,
            )
        ]
        answer = self._store.get_online_features(
            [f"{name}:{output}" for output in expected], rows
        ).to_dict()
        self._report.compared[name] = len(ids)
        for row, member in enumerate(ids):
            got = {output: np.array(answer[output][row], dtype=np.float32) for output in expected}
            if not _same(got, expected, row):
                cause = wrong[member].cause if member in wrong else STALE_VECTOR
                self._differ(view, member, "request", cause, got, expected, row, name=name)

    def _differ(
        self,
        view: FeatureView,
        member: Any,
        what: str,
        cause: str,
        got: Mapping[str, np.ndarray | None],
        expected: Mapping[str, np.ndarray],
        row: int,
        *,
        name: str | None = None,
    ) -> None:
        """Add a difference; of several outputs, the one that differs most is told."""
        worst: tuple[float, float | None, tuple[float, float]] = (-1.0, None, (0.0, 0.0))
        for output, vector in got.items():
            wanted = expected[output][row]
            served = np.zeros_like(wanted) if vector is None else vector
            norms = (float(np.linalg.norm(served)), float(np.linalg.norm(wanted)))
            if served.shape != wanted.shape:
                worst = (np.inf, None, norms)
                break
            cosine = float(served @ wanted) / (norms[0] * norms[1]) if all(norms) else None
            worst = max(worst, (float(np.abs(served - wanted).max()), cosine, norms), key=_largest)
        _, cosine, norms = worst
        self._report.differences.append(
            Difference(name or view.name, member, what, cause, cosine=cosine, norms=norms)
        )


def _largest(found: tuple[float, float | None, tuple[float, float]]) -> float:
    return found[0]


def _seconds(moment: datetime) -> int:
    return to_us(moment) // SECOND


def _keys(sink: SnapshotSink, key: str, as_of: int) -> pa.Array:
    """Return the join key of the rows of a snapshot."""
    return single_chunk(sink.read(as_of, [key]), key)


def _newest_rows(
    sink: SnapshotSink, key: str, members: pa.Array, after: int
) -> list[_Published | None]:
    """Return each member's row in the newest snapshot, later than `after`, that has one."""
    found: list[_Published | None] = [None] * len(members)
    for as_of in reversed([t for t in sink.committed() if t > after]):
        left = [i for i, row in enumerate(found) if row is None]
        if not left:
            break
        position = codes_of(members.take(pa.array(left, pa.int64())), _keys(sink, key, as_of))
        there = [(i, at) for i, at in zip(left, position.tolist(), strict=True) if at >= 0]
        if there:
            rows = sink.read(as_of).take(pa.array([at for _, at in there])).to_pylist()
            for (i, _), row in zip(there, rows, strict=True):
                found[i] = _Published(as_of, row)
    return found


def _made_with_other(sink: SnapshotSink, published: _Published, facts: Mapping[str, Any]) -> bool:
    return describe_mismatch(facts, sink.facts(published.as_of)) is not None


def cause_of_events(
    held: Sequence[Event],
    expected: Sequence[Event],
    *,
    snapshot: Sequence[Event] | None,
    as_of: int,
    logged: Collection[Event],
    spec: ActivitySpec,
) -> str:
    """Return why a stored sequence is not what it should be.

    What the other sequence has no room for, since it is full of newer events, is no cause.

    Parameters
    ----------
    held, expected
        The events, oldest first, that are stored and that should be.
    snapshot
        Those of the member's row in its newest snapshot, None without one.
    as_of
        As of of that snapshot, microseconds.
    logged
        Events that the source has in the window, on any item.
    spec
        Says how many events a sequence has, and of which kinds.
    """
    missing, extra = Counter(expected) - Counter(held), Counter(held) - Counter(expected)
    if not missing and not extra:
        return OTHER_ORDER
    late = [event for event in missing if _has_room(held, event, spec)]
    before = [event for event in expected if event[0] < as_of]
    unchanged = snapshot is not None and [event for event in snapshot if event in before] == before
    if unchanged and any(event[0] < as_of for event in late):
        return NOT_THE_SNAPSHOT
    if late or not extra:
        return LATE_EVENT
    gone = [event for event in extra if _has_room(expected, event, spec)] or list(extra)
    return REMOVED_VECTOR if all(event in logged for event in gone) else REMOVED_EVENT


def _has_room(sequence: Sequence[Event], event: Event, spec: ActivitySpec) -> bool:
    """Return whether a sequence would take an event, by the order that events without ids have."""
    newer = [other for other in sequence if other > event]
    return spec.has_place(event[2], [other[2] for other in newer])


def _bare(activities: Sequence[Activity]) -> list[Event]:
    """Return activities without event ids, as models see them."""
    return [activity[:3] for activity in activities]


def _activities_in_row(row: Mapping[str, Any], domain: DomainNames) -> list[Event]:
    """Return the activities of a row of a snapshot of sequences."""
    columns = (names.ACTIVITY_TIMES, domain.activity_item_ids, names.ACTIVITY_ACTIONS)
    return list(zip(*(row[column] for column in columns), strict=True))


def _vectors_in(
    values: Mapping[str, Any] | None, outputs: Iterable[str]
) -> dict[str, np.ndarray | None]:
    """Return the vectors of an online row; None for one that it lacks."""
    return {
        output: np.array(values[output].float_list_val.val, dtype=np.float32)
        if values is not None and output in values
        else None
        for output in outputs
    }


def _vectors_of_row(row: Mapping[str, Any], outputs: Iterable[str]) -> dict[str, np.ndarray | None]:
    """Return the vectors of a row of a snapshot; None for one that it lacks."""
    return {
        output: None if row.get(output) is None else np.array(row[output], dtype=np.float32)
        for output in outputs
    }


def _any(expected: Mapping[str, np.ndarray], row: int) -> bool:
    return any(values[row].any() for values in expected.values())


def _same(
    got: Mapping[str, np.ndarray | None], expected: Mapping[str, np.ndarray], row: int
) -> bool:
    """Whether every output is, within the tolerance, what it should be."""
    return _close(got, {output: values[row] for output, values in expected.items()})


def _close(got: Mapping[str, np.ndarray | None], wanted: Mapping[str, np.ndarray | None]) -> bool:
    for output, vector in got.items():
        other = wanted[output]
        if vector is None or other is None or vector.shape != other.shape:
            return False
        scale = max(1.0, float(np.abs(other).max(initial=0)))
        if not np.allclose(vector, other, rtol=0, atol=TOLERANCE * scale):
            return False
    return True
