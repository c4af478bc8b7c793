"""From cut-offs to committed snapshots of one sequence view and its models.

    cut-offs -> events and item vectors -> sequences -> every model -> staged snapshots -> commit

Nothing is visible before the commit. Of several cut-offs all input is checked first, so that bad
input anywhere in the interval leaves the stores as they were; then one after the other is computed
and committed. `steps` feeds this from Feast's registry, and pushes what is committed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.member_range import EVERYBODY, MemberRange
from activity_embeddings.transformations.activity.rows import embedding_batch, sequence_batch
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.arrow import (
    ArrayHash,
    codes_of,
    single_chunk,
    sorted_union,
)
from activity_embeddings.transformations.batch.executors.base import NewExecutor
from activity_embeddings.transformations.batch.executors.local import LocalExecutor
from activity_embeddings.transformations.batch.executors.partition import (
    MEMBERS_AT_ONCE,
    Computation,
    CutOff,
    Partition,
    Rows,
)
from activity_embeddings.transformations.batch.guards import VECTORS, Judge, Verdict, with_activity
from activity_embeddings.transformations.batch.report import MaterializeReport, ViewReport
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.errors import InvalidData
from activity_embeddings.transformations.offline.sinks.base import (
    AfterCommit,
    SnapshotSink,
    SnapshotWriter,
    Staging,
    require_same_facts,
)
from activity_embeddings.transformations.spec import ActivitySpec
from activity_embeddings.transformations.times import to_datetime
from activity_embeddings.transformations.wording import counted, utc

WRITERS = 2
"""Threads that write views side by side."""
CUTOFFS_A_READ = 14
"""Cut-offs that share one read of events, which spans them and the window before the first.

Events that do not fit into memory are read for each cut-off by itself.
"""


@dataclass(frozen=True)
class EmbeddingTarget:
    """A model and the sink of its view; `cutoffs` are the as-of times asked of it."""

    model: ModelDescription
    sink: SnapshotSink
    cutoffs: frozenset[int]


@dataclass(frozen=True)
class Part:
    """One cut-off of every view, which is computed and committed by itself.

    Attributes
    ----------
    as_of
        The cut-off.
    read_with
        The cut-offs that share its read of events, ascending.
    name
        Says all that its snapshots are made of; empty where there is one part alone.
    """

    as_of: int
    read_with: Sequence[int]
    name: str = ""


@dataclass
class SnapshotRun:
    """One run over the cut-offs of one sequence view and the models that read it.

    What the sinks hold is read once: the caller keeps other runs out, see `SnapshotSink.locked`.

    Parameters
    ----------
    spec
        Window, length, actions.
    sequence_sink
        Where sequences go; written at every cut-off that has none yet, because they say who had
        activity, whatever views are asked for.
    sequence_cutoffs
        As-of times asked of the sequence view.
    targets
        The models to run.
    vectors
        Item vectors up to the last cut-off.
    read_events
        Yields ranges of members that together cover all, ascending, and the events of each with
        `start <= t < end`.
    publishing_delay
        Microseconds from a cut-off to when its values are available.
    batch_size
        Members a model call.
    domain
        Names the columns of the snapshots.
    mix_runtimes
        Whether a model's history may go on in another runtime than its newest snapshot's.
    executor
        Makes what computes the rows.
    """

    spec: ActivitySpec
    sequence_sink: SnapshotSink
    sequence_cutoffs: frozenset[int]
    targets: Sequence[EmbeddingTarget]
    vectors: ItemVectors
    read_events: Callable[[int, int], Generator[tuple[MemberRange, ActivityEvents]]]
    publishing_delay: int = 0
    batch_size: int = 1024
    domain: names.DomainNames = names.JOBS
    mix_runtimes: bool = False
    executor: NewExecutor = LocalExecutor
    report: MaterializeReport = field(default_factory=MaterializeReport)

    def __post_init__(self) -> None:
        self._sinks = [self.sequence_sink, *(target.sink for target in self.targets)]
        self._committed = {sink: frozenset(sink.committed()) for sink in self._sinks}
        self._before_run = dict(self._committed)
        self._staged: dict[SnapshotSink, set[int]] = {sink: set() for sink in self._sinks}
        self.changed: dict[SnapshotSink, set[int]] = {sink: set() for sink in self._sinks}
        self.left: list[Part] = []
        self._computed: list[Part] = []
        self._facts = {self.sequence_sink: {"spec": self.spec.to_dict()}} | {
            target.sink: facts_of(target.model) for target in self.targets
        }
        self._named = {self.sequence_sink: (self.domain.sequence_view, names.SEQUENCES_VERSION)} | {
            target.sink: (self.domain.embedding_view(target.model.name), target.model.version)
            for target in self.targets
        }
        computation = Computation(
            spec=self.spec,
            vectors=self.vectors,
            models={target.model.name: target.model for target in self.targets},
            publishing_delay=self.publishing_delay,
            batch_size=self.batch_size,
            domain=self.domain,
        )
        self._executor = self.executor(computation)
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="snapshots")
        self._writing: list[Future[None]] = []
        self._newest: tuple[int, int] = (0, 0)
        self._newest_of_kinds: Mapping[str, tuple[int, int]] = {}
        # Who has activity in the newest sequences of this run.
        self._active: dict[int, pa.Array] = {}
        # The events of cut-offs that are left, where they fit into memory.
        self._held: ActivityEvents | None = None
        self._fit = True
        self.report.views = {view: ViewReport(version) for view, version in self._named.values()}
        for sink, facts in self._facts.items():
            if self._committed[sink]:
                what = f"model {facts['model']!r}" if "model" in facts else "the sequence view"
                but = ("runtime",) if self.mix_runtimes else ()
                require_same_facts(sink, max(self._committed[sink]), facts, what=what, but=but)

    @property
    def cutoffs(self) -> list[int]:
        """Every as-of time of the run, ascending."""
        return sorted(self.sequence_cutoffs.union(*(t.cutoffs for t in self.targets)))

    def check(
        self,
        left_committed: Callable[[], Collection[str]] = tuple,
        progress: Callable[[int], Any] = lambda done: None,
    ) -> list[str]:
        """Divide the run into cut-offs, see `left`; of several, check the input of all.

        Parameters
        ----------
        left_committed
            Returns the names of parts that a run before has committed, asked where there are
            several. Those that are there are not made again.
        progress
            Is told how many cut-offs are there.

        Returns
        -------
        names
            Of these parts.

        Raises
        ------
        InvalidInput
            Events are bad anywhere in the interval.
        """
        for sink in self._sinks:
            sink.staging.clear()
        moments = self.cutoffs
        if len(moments) == 1:
            self.left = [Part(moments[0], moments)]
            return []
        before, there = left_committed(), []
        counted_until = self._start(moments)
        for first in range(0, len(moments), CUTOFFS_A_READ):
            cutoffs = moments[first : first + CUTOFFS_A_READ]
            made_of = self._check(cutoffs, counted_until)
            counted_until = cutoffs[-1]
            for as_of in cutoffs:
                part = Part(as_of, cutoffs, f"{made_of}@{as_of}")
                if part.name in before and self._has(as_of):
                    self.report.left_committed += 1
                    progress(1)
                    there.append(part.name)
                else:
                    self.left.append(part)
        return there

    def compute(self, progress: Callable[[int], Any] = lambda done: None) -> None:
        """Compute the snapshots of the next part that is left, and write them aside.

        Raises
        ------
        InvalidInput
            An event or model is bad. What is committed is as it was.
        """
        part = self.left.pop(0)
        draft = self._draft(part.as_of)
        try:
            with closing(self._executor.run(self._partitions(part, draft))) as computed:
                for rows in itertools.chain.from_iterable(computed):
                    self._write(draft, rows)
            self._finish(draft)
            progress(1)
        finally:
            self._finish_writing()
            draft.close()
        self._stage_followers()
        self._computed.append(part)
        if not self.left:
            self._executor.close()

    def judge(self, judge: Judge) -> list[Verdict]:
        """Compare the newest snapshot that is computed with the one before it.

        That is one that was there before the run: the days of a backfill are not compared with
        each other, since a history may well grow faster than a guard lets a day grow.
        """
        if not self.report.snapshots:
            return []
        as_of, sequence_sink = self.report.snapshots[-1], self.sequence_sink
        before = max((t for t in self._before_run[sequence_sink] if t < as_of), default=None)
        # Half a window later most of what was in it has left it.
        if before is not None and as_of - before > self.spec.window_us // 2:
            before = None
        key = self.domain.member_id
        found = list(judge.unknown_items(self.domain.sequence_view, *self._newest))
        for kind, (every, unknown) in self._newest_of_kinds.items():
            view = self.domain.sequence_view
            found += judge.unknown_items(view, every - unknown, unknown, kind=kind)
        if before is None:
            self.report.verdicts = found
            return found
        self.report.compared_with = before
        if as_of in self._staged[sequence_sink]:
            columns = [key, names.ACTIVITY_COUNT]
            now, then = (
                sequence_sink.staging.read(as_of, columns),
                sequence_sink.read(before, columns),
            )
            found += judge.sequences(self.domain.sequence_view, key, now, then)
        for target in self.targets:
            if as_of in self._staged[target.sink] and before in self._before_run[target.sink]:
                outputs = list(target.model.outputs)
                now = _first_rows(target.sink.staging, as_of)
                then = _first_rows(target.sink, before)
                view = self.domain.embedding_view(target.model.name)
                found += judge.vectors(view, key, outputs, now, then)
        self.report.verdicts = found
        return found

    def commit(self) -> list[str]:
        """Put every staged snapshot into place; return the names of the parts that have one.

        Within one as-of time the sequences come last: where they are, the embeddings are too. What
        is new or changed is added to `changed`.
        """
        with self.report.timed("commit"):
            for as_of in sorted(set().union(*self._staged.values())):
                with ExitStack() as stack:
                    for sink in self._sinks:
                        stack.enter_context(sink.together())
                    for sink in reversed(self._sinks):
                        if as_of in self._staged[sink]:
                            self._commit(sink, as_of)
        for sink in self._sinks:
            self._committed[sink] |= self._staged[sink]
            self._staged[sink] = set()
        self._drop_staged()
        self.report.changed = sum(len(times) for times in self.changed.values())
        done, self._computed = self._computed, []
        return [part.name for part in done if part.name]

    def preview(self) -> None:
        """Find what to commit every staged snapshot would change, in `changed`; commit none."""
        for sink in self._sinks:
            for as_of in sorted(self._staged[sink]):
                if sink.differs(as_of):
                    self._add_changed(sink, as_of, *self._sizes(sink, as_of))
        self.report.changed = sum(len(times) for times in self.changed.values())

    def after_commit(self, sink: SnapshotSink) -> AfterCommit:
        """Return the snapshots of a sink as they will be once what is staged is committed."""
        return AfterCommit(sink, self._staged[sink])

    def report_of(self, sink: SnapshotSink) -> ViewReport:
        """Return what the report says of the view that a sink is of."""
        return self.report.views[self._named[sink][0]]

    def abandon(self) -> None:
        """Drop what is staged and not committed."""
        self._executor.close()
        self._writers.shutdown()
        self._drop_staged()

    def _commit(self, sink: SnapshotSink, as_of: int) -> None:
        """Put one staged snapshot into place."""
        sizes = self._sizes(sink, as_of)
        if sink.commit(as_of):
            self._add_changed(sink, as_of, *sizes)

    def _sizes(self, sink: SnapshotSink, as_of: int) -> tuple[int, int]:
        """Return how many rows a staged snapshot has, and how many are in its place."""
        there = [as_of] if as_of in self._committed[sink] else []
        return sink.staging.count_rows([as_of]), sink.count_rows(there)

    def _add_changed(self, sink: SnapshotSink, as_of: int, rows: int, replaced: int) -> None:
        self.changed[sink].add(as_of)
        view = self.report_of(sink)
        view.rows += rows
        view.replaced += replaced

    def _drop_staged(self) -> None:
        for sink in self._sinks:
            sink.staging.clear()

    def _start(self, cutoffs: Sequence[int]) -> int:
        """Return when the window of the first of some cut-offs begins."""
        return cutoffs[0] - self.spec.window_us

    def _check(self, cutoffs: Sequence[int], counted_until: int) -> ArrayHash:
        """Check the input of some cut-offs; return a hash of all that they are made of."""
        windows = {as_of: _Window(as_of, self.spec, self.vectors) for as_of in cutoffs}
        made_of = self._made_of(cutoffs)
        for _, events in self._read_events(cutoffs):
            self._count(events, since=counted_until)
            _add_events(made_of, events)
            for window in windows.values():
                window.add(events)
            del events  # before the next are read
        for window in windows.values():
            window.require_known()
        return made_of

    def _events_of(self, part: Part) -> Iterator[tuple[MemberRange, ActivityEvents]]:
        """Yield the events of a part by ranges of members.

        Those that fit into memory are held until the last part that is left of their read.
        """
        last = not self.left or self.left[0].read_with != part.read_with
        if self._held is not None:
            yield EVERYBODY, self._held
        else:
            shared = [t for t in part.read_with if t >= part.as_of]
            for members, events in self._read_events(shared if self._fit else [part.as_of]):
                if members != EVERYBODY:
                    self._fit = False
                elif self._fit and not last:
                    self._held = events
                yield members, events
                del events  # before the next are read
        if last:
            self._held = None

    def _read_events(self, cutoffs: Sequence[int]) -> Iterator[tuple[MemberRange, ActivityEvents]]:
        """Read what some cut-offs are computed from, and the window before, to see the silent.

        What a run before has committed of this one's cut-offs does not change what is read.
        """
        before = self._before(cutoffs[0], *self.cutoffs)
        parts = self.read_events(self._start([*before, *cutoffs]), cutoffs[-1])
        with closing(parts):
            while True:
                with self.report.timed("read events"):
                    part = next(parts, None)
                if part is None:
                    return
                self._require_same_ids(part[1])
                yield part
                del part  # before the next is read

    def _has(self, as_of: int) -> bool:
        """Return whether every view that is asked for a cut-off has its snapshot."""
        asked = [(self.sequence_sink, self.sequence_cutoffs)]
        asked += [(target.sink, target.cutoffs) for target in self.targets]
        return all(as_of in self._committed[sink] for sink, of in asked if as_of in of)

    def _made_of(self, cutoffs: Sequence[int]) -> ArrayHash:
        """Return a hash of what some cut-offs are made of, but for their events.

        What a snapshot says of members who fell silent depends on those before it, too. These may
        only gain members since: whoever does so is added to the snapshots that follow.
        """
        said = {
            "package": version("activity-embeddings"),
            "cutoffs": cutoffs,
            "asked": [sorted(self.sequence_cutoffs.intersection(cutoffs))]
            + [sorted(target.cutoffs.intersection(cutoffs)) for target in self.targets],
            "facts": list(self._facts.values()),
            "delay": self.publishing_delay,
        }
        made_of = ArrayHash()
        vectors = self.vectors
        valid = vectors.time <= cutoffs[-1]
        made_of.add(
            json.dumps(said, sort_keys=True),
            vectors.item_ids,
            np.cumsum(valid)[vectors.start[1:] - 1],
            vectors.time[valid],
            vectors.matrix[:-1][valid],
        )
        return made_of

    def _count(self, events: ActivityEvents, *, since: int) -> None:
        """Count the rows of a read, but not those that the read before has counted."""
        report = self.report
        report.events += int((events.time >= since).sum())
        report.duplicates += int((events.duplicates >= since).sum())
        report.other_actions += int((events.other_actions >= since).sum())

    def _require_same_ids(self, events: ActivityEvents) -> None:
        acted_on, known = events.item_ids, self.vectors.item_ids
        if len(acted_on) and len(known) and acted_on.type != known.type:
            raise InvalidData(
                f"{self.domain.item_id} in {self.domain.events_view} and "
                f"{self.domain.vectors_view} should have one type. Received: {acted_on.type} and "
                f"{known.type}"
            )

    def _draft(self, as_of: int) -> _Draft:
        """Begin one as-of time of every view that asks for it."""
        targets = [target for target in self.targets if as_of in target.cutoffs]
        sinks = [target.sink for target in targets]
        # Kept as it is where only models ask for this time, as when one is added later.
        if as_of in self.sequence_cutoffs or as_of not in self._committed[self.sequence_sink]:
            sinks.insert(0, self.sequence_sink)
        writers = {sink: sink.staging.writer(as_of, self._facts[sink]) for sink in sinks}
        self.report.by_tensorflow |= {
            target.model.name: target.model.why_tensorflow
            for target in targets
            if target.model.why_tensorflow
        }
        return _Draft(as_of, targets, writers)

    def _partitions(self, part: Part, draft: _Draft) -> Iterator[Partition]:
        """Yield what a part is computed from, by ascending ranges of members."""
        cutoff = CutOff(
            as_of=draft.as_of,
            models=tuple(target.model.name for target in draft.targets),
            sequences=self.sequence_sink in draft.writers,
            # Events that came too late for the snapshot before may have been pushed online since.
            after=tuple(self._before(draft.as_of)),
        )
        were_active = self._were_active(draft)
        for members, events in self._events_of(part):
            if not part.name:
                self._count(events, since=self._start([part.as_of]))
            yield Partition(members, events, cutoff, members.of(were_active))
            del events  # before the next are read

    def _were_active(self, draft: _Draft) -> pa.Array:
        """Return the members who had activity in the snapshots before, ascending.

        Those of them who have none now are written as explicitly empty. A view that lacks snapshots
        before, such as a new model version or one that was taken back, empties whoever had
        activity in any of those that it lacks.
        """
        before = dict[int, SnapshotSink]()
        earlier_sequences = [t for t in self._chain(self.sequence_sink) if t < draft.as_of]
        for sink in [self.sequence_sink, *(target.sink for target in draft.targets)]:
            last = [t for t in self._chain(sink) if t < draft.as_of][-1:]
            lacking = [t for t in earlier_sequences if not last or t > last[0]]
            before.update(dict.fromkeys([*last, *lacking], sink))
        none = pa.array([], pa.int64())
        return sorted_union(none, *(self._members_with_activity(before[t], t) for t in before))

    def _write(self, draft: _Draft, rows: Rows) -> None:
        """Write rows aside."""
        draft.add(rows)
        self.report.seconds.add(rows.seconds)
        if not rows.members:
            return
        batches = {target.sink: rows.embeddings[target.model.name] for target in draft.targets}
        if rows.sequences is not None:
            batches[self.sequence_sink] = rows.sequences
            active = with_activity(pa.Table.from_batches([rows.sequences]))
            draft.with_activity.append(single_chunk(active, self.domain.member_id))
        # The views are written side by side while the next members are computed; no more than one
        # slice of members waits to be written.
        self._finish_writing()
        self._writing = [
            self._writers.submit(draft.writers[sink].write, batch)
            for sink, batch in batches.items()
        ]

    def _finish(self, draft: _Draft) -> None:
        """Take a draft whose members are all there for a snapshot to commit."""
        self._finish_writing()
        with self.report.timed("write"):
            draft.close()
        if draft.unknown and not draft.positions:
            raise _all_unknown(draft.as_of, draft.unknown, draft.example, self.vectors)
        if not draft.members:
            return
        for sink in draft.writers:
            self._staged[sink].add(draft.as_of)
        if draft.with_activity:
            self._active = {draft.as_of: pa.concat_arrays(draft.with_activity)}
        self.report.positions += draft.positions
        self.report.unknown += draft.unknown
        self.report.snapshots.append(draft.as_of)
        self.report.members, self.report.silent = draft.members, draft.silent
        self._newest = (draft.positions, draft.unknown)
        self._newest_of_kinds = draft.of_kinds

    def _finish_writing(self) -> None:
        """Wait for the writes under way; raise what one of them raised."""
        with self.report.timed("write"):
            for write in self._writing:
                write.result()
        self._writing = []

    def _chain(self, sink: SnapshotSink) -> list[int]:
        """As-of times of a sink once what is staged is committed, ascending."""
        return sorted(self._committed[sink] | self._staged[sink])

    def _read(self, sink: SnapshotSink, as_of: int, columns: Sequence[str]) -> pa.Table:
        """Read a snapshot as it will be once what is staged is committed."""
        return self.after_commit(sink).read(as_of, columns)

    def _members_with_activity(self, sink: SnapshotSink, as_of: int) -> pa.Array:
        """Return the members of a view's snapshot who had activity.

        The sequences say who. Where they are missing, as after a run that was killed between the
        views of one snapshot, every member of the view is taken.
        """
        if as_of in self._active:
            return self._active[as_of]
        if as_of not in self._chain(self.sequence_sink):
            table = self._read(sink, as_of, [self.domain.member_id])
            return table.column(0).combine_chunks()
        columns = [self.domain.member_id, names.ACTIVITY_COUNT]
        table = self._read(self.sequence_sink, as_of, columns)
        return single_chunk(with_activity(table), self.domain.member_id)

    def _before(self, as_of: int, *to_come: int) -> list[int]:
        """Return the as-of time of the sequences before, in a list, if it is not a window ago."""
        chain = sorted({*self._chain(self.sequence_sink), *to_come})
        earlier = [t for t in chain if t < as_of][-1:]
        return [t for t in earlier if as_of - t < self.spec.window_us]

    def _stage_followers(self) -> None:
        """Add explicit empty rows to committed snapshots that follow a new one.

        A backfill may insert a snapshot before existing ones. Whoever has activity in it and no
        row in the snapshot that follows would otherwise seem active for ever after.
        """
        for sink in self._sinks:
            chain = self._chain(sink)
            for as_of, follower in itertools.pairwise(chain):
                if as_of in self._staged[sink] and follower not in self._staged[sink]:
                    self._stage_follower(sink, as_of, follower)

    def _stage_follower(self, sink: SnapshotSink, as_of: int, follower: int) -> None:
        key = self.domain.member_id
        present = single_chunk(sink.read(follower, [key]), key)
        active = self._members_with_activity(sink, as_of)
        missing = active.filter(pa.array(codes_of(active, present) < 0))
        if not len(missing):
            return
        writer = sink.staging.writer(follower, self._facts[sink])
        for batch in sink.batches(follower, MEMBERS_AT_ONCE):
            # Both are ascending.
            fresh = pc.less(missing, batch.column(key)[-1]).true_count
            self._write_with(writer, sink, follower, missing.slice(0, fresh), batch)
            missing = missing.slice(fresh)
        self._write_with(writer, sink, follower, missing)
        writer.close()
        self._staged[sink].add(follower)

    def _write_with(
        self,
        writer: SnapshotWriter,
        sink: SnapshotSink,
        as_of: int,
        silent: pa.Array,
        *rows: pa.RecordBatch,
    ) -> None:
        """Write rows, and explicit empty ones of members who are silent, in the order of ids."""
        batches = list(rows)
        if len(silent):
            batches.append(self._empty_rows(sink, as_of, silent))
        if batches:
            schema = batches[0].schema.remove_metadata()
            table = pa.concat_tables([pa.Table.from_batches([b]).cast(schema) for b in batches])
            table = table.sort_by(self.domain.member_id).combine_chunks()
            for batch in table.to_batches():
                writer.write(batch)

    def _empty_rows(self, sink: SnapshotSink, as_of: int, members: pa.Array) -> pa.RecordBatch:
        """Return the rows of members without activity."""
        moments = np.full(len(members), as_of, dtype=np.int64)
        created = moments + self.publishing_delay
        empty = _empty_sequences(moments, self.spec.length, self.vectors.item_ids.slice(0, 0))
        if sink == self.sequence_sink:
            return sequence_batch(members, empty, created, self.domain)
        (model,) = [target.model for target in self.targets if target.sink == sink]
        zeros = {
            output: np.zeros((len(members), size), dtype=np.float32)
            for output, size in model.outputs.items()
        }
        return embedding_batch(members, empty, created, zeros, model.version, self.domain.member_id)


@dataclass
class _Draft:
    """One as-of time of the views that ask for it, while its rows are written aside."""

    as_of: int
    targets: Sequence[EmbeddingTarget]
    writers: Mapping[SnapshotSink, SnapshotWriter]
    members: int = 0
    silent: int = 0
    positions: int = 0
    unknown: int = 0
    example: Any = None
    with_activity: list[pa.Array] = field(default_factory=list)
    of_kinds: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, rows: Rows) -> None:
        """Count rows."""
        for kind, (every, unknown) in rows.of_kinds.items():
            before = self.of_kinds.get(kind, (0, 0))
            self.of_kinds[kind] = (before[0] + every, before[1] + unknown)
        self.members += rows.members
        self.silent += rows.silent
        self.positions += rows.positions
        self.unknown += rows.unknown
        if self.unknown and self.example is None:
            self.example = rows.item_id

    def close(self) -> None:
        """Finish the files."""
        for writer in self.writers.values():
            writer.close()


@dataclass
class _Window:
    """The activity in the window of one as-of time, as it is read."""

    as_of: int
    spec: ActivitySpec
    vectors: ItemVectors
    count: int = 0
    known: bool = False
    example: Any = None

    def add(self, events: ActivityEvents) -> None:
        """Count more of it."""
        inside = (events.time < self.as_of) & (events.time >= self.as_of - self.spec.window_us)
        count = int(inside.sum())
        if count and not self.known:
            known_at = self.vectors.known_at(events.item_ids)[events.item[inside]]
            self.known = bool((known_at <= self.as_of).any())
            self.example = events.item_ids[0].as_py()
        self.count += count

    def require_known(self) -> None:
        """Refuse a snapshot that would be empty because no item has a vector."""
        if self.count and not self.known:
            raise _all_unknown(self.as_of, self.count, self.example, self.vectors)


def _all_unknown(as_of: int, count: int, example: Any, vectors: ItemVectors) -> InvalidData:
    """Return what is said of a snapshot that would be empty because no item has a vector."""
    known = "no item has one"
    if len(vectors.time):
        items = len(vectors.item_ids)
        known = (
            f"{counted(items, 'item')} {'has' if items == 1 else 'have'} one, the first from "
            f"{utc(to_datetime(int(vectors.time.min())))} on, with ids such as "
            f"{vectors.item_ids[0].as_py()!r}"
        )
    return InvalidData(
        f"snapshot as of {utc(to_datetime(as_of))}: expected activity on items with a "
        f"vector as of that time. Received: {counted(count, 'activity')}, all on items "
        f"without, with ids such as {example!r}; {known}. Give the items vectors from an "
        "earlier time on, or start the interval later"
    )


def _add_events(made_of: ArrayHash, events: ActivityEvents) -> None:
    """Add events to a hash."""
    made_of.add(events.member_ids, events.item_ids, events.event_ids, events.member_start)
    made_of.add(events.item, events.action, events.time, events.event)
    if events.session is not None:
        made_of.add(events.session_ids, events.session)


def _first_rows(where: SnapshotSink | Staging, as_of: int) -> pa.Table:
    """Return the rows of the first members of a snapshot."""
    parts: list[pa.RecordBatch] = []
    for batch in where.batches(as_of, VECTORS):
        parts.append(batch)
        if sum(part.num_rows for part in parts) >= VECTORS:
            break
    # Of a snapshot whose members were all forgotten there is no batch, which would say the columns.
    rows = pa.Table.from_batches(parts) if parts else where.read(as_of)
    return rows.slice(0, VECTORS)


def _empty_sequences(as_of: np.ndarray, length: int, item_ids: pa.Array) -> Sequences:
    """Return sequences without any activity."""
    shape = (len(as_of), length)
    return Sequences(
        item=np.full(shape, -1, dtype=np.int32),
        action=np.zeros(shape, dtype=np.int32),
        time=np.zeros(shape, dtype=np.int64),
        as_of=as_of,
        count=np.zeros(len(as_of), dtype=np.int32),
        unknown=np.zeros(len(as_of), dtype=np.int32),
        item_ids=item_ids,
    )


def facts_of(model: ModelDescription) -> dict[str, Any]:
    """Return what a snapshot of a model's view records."""
    return {
        "model": model.name,
        "version": model.version,
        "fingerprint": model.fingerprint,
        "runtime": model.runtime,
        "vector_spec": model.vector_spec.to_dict(),
        "spec": model.spec.to_dict(),
    }
