"""Compare what is served with what it should be: for a sample of members, three ways to one value.

    stored       the row of the online store, as the batch run or a push left it
    request      the on-demand view's answer as of the same time
    recomputed   from the raw events and job vectors, by the batch functions, now

Where they differ, the report names the cause as far as it can be told from what is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore, FeatureView
from feast.errors import FeatureViewNotFoundException

from transformations import names
from transformations.embedding import Embedder
from transformations.entity_rows import entity_rows
from transformations.errors import InvalidInput
from transformations.events import ActivityEvents
from transformations.feature_views import (
    item_embedding_of,
    registered_model,
    source_views_of,
    spec_of,
)
from transformations.live import activities_of
from transformations.merge import activities_in
from transformations.names import Role, Tag
from transformations.row_updates import Stored, entity_keys, read_rows
from transformations.sequences import Sequences, make_sequences, members_active
from transformations.sources import read_events, read_item_vectors, sink_of
from transformations.tables import sorted_union
from transformations.times import to_datetime, to_us
from transformations.wording import counted

TOLERANCE = 1e-5
"""Largest difference of a value, relative where vectors have values above 1."""
_SECOND = 1_000_000
SHOWN = 5
"""Differing members that the report names."""

MISSING_ROW = "missing row"
NOT_PUSHED = "snapshot not pushed"
LATE_EVENT = "late event"
REMOVED_EVENT = "removed event"
OTHER_VERSION = "other model or item version"
STALE_VECTOR = "stale vector"


@dataclass(frozen=True)
class Difference:
    """One member's value that is not what it should be.

    Attributes
    ----------
    view : the view compared.
    member : the member's id.
    what : "stored" or "request": which value differs from the recomputed one.
    cause : why, as far as can be told.
    cosine : between the two vectors; None where one is zero or there is none.
    norms : of the value served and of the recomputed one.
    missing, extra : events that the stored sequence lacks, or has too many.
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
    members : int. Members looked at.
    compared : dict of view name to the number of values compared, stored and request-time.
    differences : what differs.
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


def check(store: FeatureStore, *, sample: int = 200, seed: int = 0) -> CheckReport:
    """Compare stored, request-time and recomputed values of a random sample of members.

    Parameters
    ----------
    store : the feature store.
    sample : int. Members to look at, of those in the newest snapshot and those active by now.
    seed : int. Of the sample.

    Raises
    ------
    InvalidInput
        Nothing has been published, or the sources cannot be read.
    """
    return _Check(store, sample, seed).run()


@dataclass(frozen=True)
class _Served:
    """Online rows of one view: what is stored, what it should be as of, and whether a newer
    snapshot has a row of the member that is not online."""

    rows: list[Stored]
    as_of: np.ndarray
    behind: list[bool]


class _Check:
    """One run; see `check`."""

    def __init__(self, store: FeatureStore, sample: int, seed: int) -> None:
        self._store, self._sample, self._seed = store, sample, seed
        self._provider = store._get_provider()
        try:
            self._sequence = self._view(names.MEMBER_ACTIVITY_SEQUENCE)
        except FeatureViewNotFoundException as error:
            raise InvalidInput(
                f"{store.repo_path}: expected a registry with the view "
                f"{names.MEMBER_ACTIVITY_SEQUENCE}. Received: none. Run `feast apply`"
            ) from error
        sources = source_views_of(self._sequence)
        self._items = self._view(sources[Role.ITEMS])
        self._events_view = self._view(sources[Role.EVENTS])
        self._spec = spec_of(self._sequence)
        self._embedding_views = [
            view
            for view in store.list_batch_feature_views()
            if view.tags.get(Tag.ROLE) == Role.EMBEDDING
            and source_views_of(view)[Role.SEQUENCE] == self._sequence.name
        ]
        self._realtime = {view.name for view in store.list_on_demand_feature_views()}
        self._report = CheckReport()

    def run(self) -> CheckReport:
        """Read, recompute, compare."""
        published = sink_of(self._sequence).committed()
        if not published:
            raise InvalidInput(
                f"{self._sequence.name}: expected a published snapshot. Received: none. Run "
                "`feast materialize` first"
            )
        newest = published[-1]
        events = self._read_events(newest - self._spec.window_us, newest)
        members = self._choose(events, newest)
        ids = members.to_pylist()
        served = {view.name: self._read(view, members, newest) for view in self._views}
        moments = np.concatenate([rows.as_of for rows in served.values()])
        first, last = int(moments.min(initial=newest)), int(moments.max(initial=newest))
        events = self._read_events(first - self._spec.window_us, last)
        vectors = read_item_vectors(
            self._store.config,
            self._provider.offline_store,
            self._items,
            item_embedding_of(self._items),
            end=last,
        )
        recomputed = {
            name: make_sequences(events, members, rows.as_of, spec=self._spec, vectors=vectors)
            for name, rows in served.items()
        }
        self._report.members = len(members)
        sequences = recomputed[self._sequence.name]
        wrong = self._compare_sequences(ids, served[self._sequence.name], sequences)
        for view in self._embedding_views:
            model = registered_model(
                view, spec=self._spec, items=self._items, repo=self._store.repo_path
            )
            embedder = Embedder([model])
            expected = embedder(recomputed[view.name], vectors)[model.name]
            counts = recomputed[view.name].count
            self._compare_embeddings(view, ids, served[view.name], expected, counts, wrong)
            if names.realtime_name(view.name) in self._realtime:
                expected = embedder(sequences, vectors)[model.name]
                self._compare_request(view, ids, sequences.as_of, expected, wrong)
        return self._report

    @property
    def _views(self) -> list[FeatureView]:
        return [self._sequence, *self._embedding_views]

    def _view(self, name: str) -> FeatureView:
        return self._store.registry.get_feature_view(name, self._store.project)

    def _read_events(self, start: int, end: int) -> ActivityEvents:
        return read_events(
            self._store.config,
            self._provider.offline_store,
            self._events_view,
            self._spec,
            start=start,
            end=end,
        )

    def _choose(self, events: ActivityEvents, newest: int) -> pa.Array:
        """Return a sample of the members who are in the newest snapshot or should be."""
        file = sink_of(self._sequence).file(newest)
        table = pq.read_table(file, columns=[names.MEMBER_ID], partitioning=None)
        published = table.column(0).combine_chunks()
        members = sorted_union(published, members_active(events, newest, self._spec))
        random = np.random.default_rng(self._seed)
        chosen = random.permutation(len(members))[: self._sample]
        return members.take(pa.array(np.sort(chosen)))

    def _read(self, view: FeatureView, members: pa.Array, newest: int) -> _Served:
        """Read the online rows of a view, and say what each should be as of."""
        store = self._provider.online_store
        rows = read_rows(self._store.config, store, view, entity_keys(view, members))
        # Feast's sqlite store keeps whole seconds of a row's time.
        exact = {as_of // _SECOND: as_of for as_of in sink_of(view).committed()}
        published = self._published(view, newest)
        times, behind = [], []
        for member, (moment, values) in zip(members.to_pylist(), rows, strict=True):
            as_of = newest if moment is None else to_us(moment)
            as_of = exact.get(as_of // _SECOND, as_of)
            if values is not None and names.ACTIVITY_TIMES in values:
                # Events pushed since then move the time of a sequence.
                as_of = max([as_of, *(time + 1 for time, _, _ in activities_of(values)[-1:])])
            behind.append(as_of < newest and member in published)
            times.append(newest if behind[-1] else as_of)
        return _Served(rows, np.array(times, dtype=np.int64), behind)

    def _published(self, view: FeatureView, as_of: int) -> set[Any]:
        """Return the members of a snapshot; none where it is not there."""
        file = sink_of(view).file(as_of)
        if not file.is_file():
            return set()
        return set(pq.read_table(file, columns=[names.MEMBER_ID], partitioning=None)[0].to_pylist())

    def _compare_sequences(
        self, ids: Sequence[Any], served: _Served, recomputed: Sequences
    ) -> dict[Any, Difference]:
        """Report stored sequences that differ; return the differences by member."""
        wrong: dict[Any, Difference] = {}
        view = self._sequence.name
        self._report.compared[view] = len(ids)
        for row, expected in enumerate(activities_in(recomputed)):
            moment, values = served.rows[row]
            held = activities_of(values)
            if held == expected:
                continue
            missing = len(set(expected).difference(held))
            extra = len(set(held).difference(expected))
            if moment is None:
                cause = MISSING_ROW
            elif served.behind[row]:
                cause = NOT_PUSHED
            else:
                cause = LATE_EVENT if missing else REMOVED_EVENT
            wrong[ids[row]] = Difference(
                view, ids[row], "stored", cause, missing=missing, extra=extra
            )
        self._report.differences += wrong.values()
        return wrong

    def _compare_embeddings(
        self,
        view: FeatureView,
        ids: Sequence[Any],
        served: _Served,
        expected: Mapping[str, np.ndarray],
        counts: np.ndarray,
        wrong: Mapping[Any, Difference],
    ) -> None:
        """Report stored embeddings that differ; `counts` say who has activity."""
        committed = {as_of // _SECOND for as_of in sink_of(view).committed()}
        self._report.compared[view.name] = len(ids)
        for row, member in enumerate(ids):
            moment, values = served.rows[row]
            got = {
                output: np.array(values[output].float_list_val.val, dtype=np.float32)
                if values is not None and output in values
                else None
                for output in expected
            }
            if moment is None or any(vector is None for vector in got.values()):
                if counts[row]:
                    self._differ(view, member, "stored", MISSING_ROW, got, expected, row)
                continue
            if _same(got, expected, row):
                continue
            if _seconds(moment) not in committed:
                cause = OTHER_VERSION
            elif served.behind[row]:
                cause = NOT_PUSHED
            elif member in wrong:
                cause = wrong[member].cause
            else:
                cause = STALE_VECTOR
            self._differ(view, member, "stored", cause, got, expected, row)

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
        rows = [
            entity_rows([member], request_timestamp=to_datetime(moment))[0]
            for member, moment in zip(ids, as_of.tolist(), strict=True)
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
            cosine = float(served @ wanted) / (norms[0] * norms[1]) if all(norms) else None
            worst = max(worst, (float(np.abs(served - wanted).max()), cosine, norms), key=_largest)
        _, cosine, norms = worst
        self._report.differences.append(
            Difference(name or view.name, member, what, cause, cosine=cosine, norms=norms)
        )


def _largest(found: tuple[float, float | None, tuple[float, float]]) -> float:
    return found[0]


def _seconds(moment: datetime) -> int:
    return to_us(moment) // _SECOND


def _same(
    got: Mapping[str, np.ndarray | None], expected: Mapping[str, np.ndarray], row: int
) -> bool:
    """Whether every output is, within the tolerance, what it should be."""
    for output, vector in got.items():
        wanted = expected[output][row]
        scale = max(1.0, float(np.abs(wanted).max()))
        if vector is None or not np.allclose(vector, wanted, rtol=0, atol=TOLERANCE * scale):
            return False
    return True
