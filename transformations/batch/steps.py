"""The steps of one `feast materialize`: each computes aside, and publishes when all have computed.

    encoded vectors, given vectors -> snapshots of each sequence view and its models

A step that fails while it computes leaves the stores as they were, whatever the others have done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.registry.base_registry import BaseRegistry
from tqdm import tqdm

from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.arrow import EARLIEST
from activity_embeddings.transformations.batch.executors.base import NewExecutor, NewWorkers
from activity_embeddings.transformations.batch.executors.writing import PartWriter
from activity_embeddings.transformations.batch.guards import Judge, require_passed
from activity_embeddings.transformations.batch.plan import (
    MaterializePlan,
    SequencePlan,
    interval_of,
)
from activity_embeddings.transformations.batch.record import RunRecord
from activity_embeddings.transformations.batch.report import MaterializeReport, ViewReport
from activity_embeddings.transformations.batch.snapshot_run import (
    EmbeddingTarget,
    SnapshotRun,
)
from activity_embeddings.transformations.batch.vector_run import VectorRun
from activity_embeddings.transformations.definitions.kinds import kinds_of, vectors_of_all
from activity_embeddings.transformations.definitions.registered import (
    registered_encoder,
    registered_model,
)
from activity_embeddings.transformations.definitions.tags import (
    has_encoder,
    has_string_ids,
    source_views_of,
    spec_of,
    vector_spec_of,
    vector_table_of,
)
from activity_embeddings.transformations.errors import InvalidData, InvalidInput, NotReady
from activity_embeddings.transformations.files import make_folder
from activity_embeddings.transformations.names import DomainNames, Role, Tag
from activity_embeddings.transformations.offline.located import source_label
from activity_embeddings.transformations.offline.sinks.base import AfterCommit, SnapshotSink
from activity_embeddings.transformations.offline.sinks.places import sink_of
from activity_embeddings.transformations.offline.sources import (
    count_hidden_files,
    earliest_time,
    event_parts,
    key_of,
    parquet_files,
    read_feature_rows,
    read_item_vectors,
    read_postings,
    read_published_vectors,
)
from activity_embeddings.transformations.online.base import KeepMerge, RowStore
from activity_embeddings.transformations.online.live_rows import KeepLiveEvents
from activity_embeddings.transformations.online.publish import (
    PushCount,
    count_snapshots,
    newest_by_time,
    newest_of_keys,
    push_snapshots,
    push_table,
)
from activity_embeddings.transformations.online.vector_table import write_vector_table
from activity_embeddings.transformations.times import Schedule, to_us
from activity_embeddings.transformations.wording import are, counted, duration


@dataclass
class Context:
    """What all steps of a call share.

    Attributes
    ----------
    config, offline_store, registry
        As Feast hands them to an engine.
    rows
        Of the online store.
    schedule
        When values are computed, and when they are available.
    batch_size
        Members a model call, and postings a call of the item encoder.
    mix_runtimes
        Whether a model's history may go on in another runtime.
    executor
        Makes what computes rows.
    workers
        Makes workers that write rows to the online store; None: this process writes them.
    judge
        Compares with the run before.
    retention
        Microseconds of history that snapshots should have; None keeps all.
    events_budget
        Bytes that the events which are held together may take.
    record
        Of the run.
    dry_run
        Whether nothing will be published.
    """

    config: RepoConfig
    offline_store: Any
    registry: BaseRegistry
    rows: RowStore
    schedule: Schedule
    batch_size: int
    mix_runtimes: bool
    executor: NewExecutor
    workers: NewWorkers | None
    judge: Judge
    retention: int | None
    events_budget: int
    record: RunRecord
    dry_run: bool
    _made: dict[str, ItemVectors] = field(default_factory=dict)
    _read: dict[tuple[str, int], ItemVectors] = field(default_factory=dict)

    def sink_of(self, view: FeatureView) -> SnapshotSink:
        """Return where a view keeps its snapshots."""
        return sink_of(view, self.config)

    def keep_vectors(self, view: FeatureView, vectors: ItemVectors) -> None:
        """Have later steps use the vectors that a step publishes for a view."""
        self._made[view.name] = vectors

    def vectors_of(self, view: FeatureView, end: int) -> ItemVectors:
        """Return the vectors of a view up to a time, in microseconds, each read only once."""
        if view.name in self._made:
            return self._made[view.name]
        if (view.name, end) not in self._read:
            self._read[view.name, end] = read_item_vectors(
                self.config, self.offline_store, view, vector_spec_of(view), end=end
            )
        return self._read[view.name, end]

    def registered(self, name: str, task: MaterializationTask) -> FeatureView:
        """Return the registered view of a name."""
        return self.registry.get_feature_view(name, task.project)

    def write_vector_table(self, view: FeatureView, vectors: ItemVectors, end: int) -> None:
        """Commit the table from which request-time views read item vectors."""
        path = vector_table_of(view, self.config.repo_path)
        if path is not None:
            write_vector_table(path, vectors, vector_spec_of(view), end=end)


class Step(Protocol):
    """One part of a call."""

    def compute(self) -> None:
        """Read, compute and write aside; no reader sees anything of it.

        Raises
        ------
        InvalidInput
            Something cannot be used. The stores are as they were.
        """

    def judge(self) -> None:
        """Compare what was computed with what was published before.

        Raises
        ------
        GuardFailed
            It is too different. The stores are as they were.
        """

    def preview(self) -> None:
        """Find what `publish` would do, for the report; the stores stay as they are."""

    def publish(self) -> None:
        """Commit offline, then push online, then say what was done."""

    def abandon(self) -> None:
        """Drop what is written aside and not committed."""

    @property
    def views(self) -> Mapping[str, ViewReport]:
        """What was done to each view, or would be, by its name."""

    def facts(self) -> dict[str, Any]:
        """Return what the record of the run keeps of the step, beside `views`."""

    def __str__(self) -> str:
        """Return the report."""


def steps_of(plan: MaterializePlan, context: Context) -> Iterator[Step]:
    """Yield the steps of a plan in the order in which they compute and publish.

    Each is made when those before it have computed, and may read what they keep in the context.
    """
    yield from (EncodedVectors(context, task) for task in plan.encoded)
    yield from (GivenVectors(context, task) for task in plan.given)
    yield from (Snapshots(context, sequence) for sequence in plan.sequences)


def step_facts(step: Step) -> dict[str, Any]:
    """Return all that the record of the run keeps of a step."""
    return {**step.facts(), "views": {name: asdict(view) for name, view in step.views.items()}}


class EncodedVectors:
    """Encodes the postings that have no vector yet."""

    def __init__(self, context: Context, task: MaterializationTask) -> None:
        self._context, self._task, self._view = context, task, task.feature_view
        self._run = self._new_run()

    def compute(self) -> None:
        """See `Step.compute`."""
        self._run.compute(partial(_bar, self._task, "item vectors"))
        # As they will be once these are committed: sequences of this call see them.
        self._vectors = read_published_vectors(
            self._context.config,
            self._view,
            vector_spec_of(self._view),
            staged=self._run.staged,
        )
        self._context.keep_vectors(self._view, self._vectors)

    def judge(self) -> None:
        """Do nothing: vectors are only added."""

    def preview(self) -> None:
        """See `Step.preview`."""
        if self._view.online:
            after = AfterCommit(self._run.sink, self._run.staged)
            self._run.report.pushed = count_snapshots(
                self._context.rows, self._view, after, changed=(), newest=newest_by_time
            ).rows

    def publish(self) -> None:
        """Commit new vectors, push each item's newest, write the table, and print the report."""
        self._run.commit()
        if self._view.online:
            count = push_snapshots(
                self._context.rows,
                self._view,
                self._run.sink,
                changed=(),
                newest=newest_by_time,
                progress=self._task.tqdm_builder,
            )
            self._run.report.pushed = count.rows
        self._context.write_vector_table(self._view, self._vectors, to_us(self._task.end_time))

    def abandon(self) -> None:
        """See `Step.abandon`."""
        self._run.abandon()

    @property
    def views(self) -> Mapping[str, ViewReport]:
        """See `Step.views`."""
        report = self._run.report
        return {self._view.name: _of_vectors(self._view, report.new, report.pushed)}

    def facts(self) -> dict[str, Any]:
        """See `Step.facts`."""
        return vars(self._run.report)

    def __str__(self) -> str:
        return str(self._run.report)

    def _new_run(self) -> VectorRun:
        context, view = self._context, self._view
        _, end = interval_of(self._task)
        encoder = registered_encoder(view, repo=context.config.repo_path)
        (called,) = source_views_of(view)[Role.POSTINGS]
        postings = context.registered(called, self._task)
        run = VectorRun(
            encoder=encoder,
            sink=context.sink_of(view),
            read=partial(read_postings, context.config, context.offline_store, postings),
            end=end,
            id_type=pa.string() if has_string_ids(view) else pa.int64(),
            source=source_label(postings),
            publishing_delay=context.schedule.delay_us,
            batch_size=context.batch_size,
            item_id=key_of(view),
        )
        run.report.hidden_files = count_hidden_files(context.config, postings)
        return run


class GivenVectors:
    """Pushes the user's own vectors.

    They are read here and not by Feast's engine, so that what goes online is what sequences and
    embeddings are made from: checked, and from all files of the source.
    """

    def __init__(self, context: Context, task: MaterializationTask) -> None:
        self._context, self._task, self._view = context, task, task.feature_view
        self._pushed = 0

    def compute(self) -> None:
        """Read the rows up to the end of the interval, and check them.

        Where a run has come further they are read as far: one of older days takes nothing back. The
        first run of a view takes vectors of any age online: `materialize-incremental` would begin
        it 52 weeks ago, and an older vector would never get there.
        """
        context, view = self._context, self._view
        self._start, self._end = interval_of(self._task)
        if view.most_recent_end_time is None:
            self._start = EARLIEST
        else:
            self._end = max(self._end, to_us(view.most_recent_end_time))
        self._table = read_feature_rows(
            context.config,
            context.offline_store,
            view,
            [key_of(view), *(field.name for field in view.features)],
            end=self._end,
        )
        self._vectors = ItemVectors.from_arrow(
            self._table, vector_spec_of(view), source=source_label(view), item_id=key_of(view)
        )
        context.keep_vectors(view, self._vectors)

    def judge(self) -> None:
        """Do nothing: vectors were checked one by one."""

    def preview(self) -> None:
        """See `Step.preview`."""
        if self._view.online:
            self._pushed = len(newest_of_keys(self._view, self._table, start=self._start))

    def publish(self) -> None:
        """Push each item's newest vector that is not older than the interval; write the table."""
        if self._view.online:
            self._pushed = push_table(
                self._context.rows,
                self._view,
                self._table,
                start=self._start,
                progress=self._task.tqdm_builder,
            ).rows
        self._context.write_vector_table(self._view, self._vectors, self._end)

    def abandon(self) -> None:
        """Do nothing: nothing is written aside."""

    @property
    def views(self) -> Mapping[str, ViewReport]:
        """See `Step.views`."""
        return {self._view.name: _of_vectors(self._view, 0, self._pushed)}

    def facts(self) -> dict[str, Any]:
        """See `Step.facts`."""
        return {"given": len(self._table)}

    def __str__(self) -> str:
        return ""


class Snapshots:
    """Makes the snapshots of one sequence view and of the models that read it.

    A long backfill is made in parts: the input of all is checked before the first is computed, and
    each is judged and committed before the next is computed. So one that is killed need not begin
    anew; see `RunRecord.left_committed`.
    """

    def __init__(self, context: Context, plan: SequencePlan) -> None:
        self._context, self._plan = context, plan
        self._kinds = kinds_of(plan.view, lambda name: context.registered(name, plan.tasks[0]))
        self._events = [kind.events for kind in self._kinds]
        self._run = self._new_run()
        self._bar = _bar(self._plan.tasks[0], "snapshots", len(self._run.cutoffs))

    def compute(self) -> None:
        """See `Step.compute`: the first part, or all that is left to do if it is a dry run."""
        run = self._run
        record, view = self._context.record, self._plan.view.name
        there = run.check(lambda: record.left_committed(view), self._progress)
        if there:  # all at once: what is said of a view is all that is known
            record.add_committed(view, *there)
        while run.left:
            run.compute(self._progress)
            if not self._context.dry_run:
                break
        if not run.report.events:
            raise InvalidData(
                f"{', '.join(map(source_label, self._events))}: expected events in the "
                f"{duration(run.spec.window)} before {self._plan.interval}. Received: none"
                f"{_of_rows(self._context.config, self._events)}"
            )

    def judge(self) -> None:
        """See `Step.judge`."""
        run = self._run
        with run.report.timed("judge"):
            verdicts = run.judge(self._context.judge)
        if verdicts:
            committed = sum(map(len, run.changed.values()))
            require_passed(verdicts, run.report.snapshots[-1], committed=committed)

    def preview(self) -> None:
        """See `Step.preview`."""
        run = self._run
        run.preview()
        for task, snapshots, changed in self._to_push():
            view = task.feature_view
            count = count_snapshots(self._context.rows, view, snapshots, changed=changed)
            _add_pushed(run.report_of(snapshots.sink), count)
        for snapshots in self._of_tasks():
            self._find_expired(snapshots)

    def publish(self) -> None:
        """Commit, go on with the parts that are left, and push the newest rows."""
        run = self._run
        self._commit()
        while run.left:
            run.compute(self._progress)
            self.judge()
            self._commit()
        self._close_bar()
        with run.report.timed("push online"):
            self._push()
        for snapshots in self._of_tasks():
            self._find_expired(snapshots)
            old = run.report_of(snapshots.sink).expired
            if old:
                snapshots.sink.expire(old[-1] + 1)

    def _push(self) -> None:
        """Push the newest rows of each view that is served."""
        run = self._run
        with PartWriter(self._context.rows, self._context.workers) as write:
            for task, snapshots, changed in self._to_push():
                count = push_snapshots(
                    self._context.rows,
                    task.feature_view,
                    snapshots.sink,
                    changed=changed,
                    keep=_keep_of(task.feature_view),
                    write=write,
                    progress=task.tqdm_builder,
                )
                _add_pushed(run.report_of(snapshots.sink), count)
        run.report.pushed_by_workers = write.by_workers

    def _of_tasks(self) -> Iterator[AfterCommit]:
        """Yield the snapshots of each task's view, as they will be."""
        for task in self._plan.tasks:
            yield self._run.after_commit(self._context.sink_of(task.feature_view))

    def _to_push(self) -> Iterator[tuple[MaterializationTask, AfterCommit, set[int]]]:
        """Yield each view that is served, its snapshots, and which of them are new to a store.

        The newest snapshot is pushed whenever it was asked for, changed or not, so that
        materializing again refills an online store.
        """
        run = self._run
        for task, snapshots in zip(self._plan.tasks, self._of_tasks(), strict=True):
            if task.feature_view.online:
                asked = set(run.cutoffs) & set(snapshots.committed()[-1:])
                yield task, snapshots, run.changed[snapshots.sink] | asked

    def _find_expired(self, snapshots: AfterCommit) -> None:
        """Add to the report which snapshots are older than the kept history needs."""
        view = self._run.report_of(snapshots.sink)
        view.expired = expired(snapshots.committed(), self._context.retention)
        view.expired_rows = snapshots.count_rows(view.expired)

    def abandon(self) -> None:
        """See `Step.abandon`."""
        self._run.abandon()
        self._close_bar()

    def _commit(self) -> None:
        """Commit what is computed."""
        record, view = self._context.record, self._plan.view.name
        if view not in record.facts.get("committed", {}):
            record.add_committed(view)
        if parts := self._run.commit():
            record.add_committed(view, *parts)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _progress(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(done)

    @property
    def views(self) -> Mapping[str, ViewReport]:
        """See `Step.views`."""
        return self._run.report.views

    def facts(self) -> dict[str, Any]:
        """See `Step.facts`."""
        return self._run.report.facts()

    def __str__(self) -> str:
        return str(self._run.report)

    def _new_run(self) -> SnapshotRun:
        context, plan, events = self._context, self._plan, self._events
        vector_views = [kind.vectors for kind in self._kinds]
        spec, vector_spec = spec_of(plan.view), vector_spec_of(vector_views)
        earliest = [earliest_time(context.config, view) for view in events]
        told = [time for time in earliest if time is not None]
        cutoffs = plan.cutoffs(context.schedule, min(told) if len(told) == len(earliest) else None)
        targets = [
            EmbeddingTarget(
                registered_model(
                    task.feature_view,
                    spec=spec,
                    vector_spec=vector_spec,
                    repo=context.config.repo_path,
                ),
                context.sink_of(task.feature_view),
                cutoffs[task.feature_view.name],
            )
            for task in plan.embeddings
        ]
        given = [view for view in vector_views if not has_encoder(view)]
        hidden = count_hidden_files(context.config, *events, *given)
        report = MaterializeReport(hidden_files=hidden)
        last = max(max(times, default=0) for times in cutoffs.values())
        with report.timed("read item vectors"):
            vectors = vectors_of_all(self._kinds, lambda view: self._vectors_of(view, last))
        retention = context.retention
        if retention is not None and retention < spec.window_us:
            raise InvalidInput(
                f"batch_engine: expected `retention_days` of at least the window, "
                f"{duration(spec.window)}. Received: {duration(timedelta(microseconds=retention))}"
            )
        sequence_sink = context.sink_of(plan.view)
        return SnapshotRun(
            spec=spec,
            sequence_sink=sequence_sink,
            sequence_cutoffs=cutoffs.get(plan.view.name, frozenset()),
            targets=targets,
            vectors=vectors,
            read_events=lambda start, end: event_parts(
                context.config,
                context.offline_store,
                events,
                spec,
                start=start,
                end=end,
                budget=context.events_budget,
                folder=make_folder(sequence_sink.staging.folder),
            ),
            publishing_delay=context.schedule.delay_us,
            batch_size=context.batch_size,
            domain=DomainNames.of(plan.view.tags),
            mix_runtimes=context.mix_runtimes,
            executor=context.executor,
            report=report,
        )

    def _vectors_of(self, view: FeatureView, end: int) -> ItemVectors:
        """Return the vectors of one kind, after checking that an encoder's have been made."""
        vectors = self._context.vectors_of(view, end)
        if has_encoder(view) and not len(vectors.time):
            raise NotReady(
                f"{view.name}: expected published item vectors, from which "
                f"{self._plan.view.name} is made. Received: none. Materialize that view first, or "
                "both together"
            )
        return vectors


def expired(committed: Sequence[int], retention: int | None) -> list[int]:
    """Return the as-of times of snapshots that no label of the kept history joins.

    Parameters
    ----------
    committed
        As-of times of all, ascending.
    retention
        Microseconds that the history is to reach back from the newest snapshot; None keeps all.
    """
    if retention is None or not committed:
        return []
    first_label = committed[-1] - retention
    # The newest one at or before the first label is what that label joins.
    kept = max((t for t in committed if t <= first_label), default=committed[0])
    return [t for t in committed if t < kept]


def _of_vectors(view: FeatureView, rows: int, pushed: int) -> ViewReport:
    """Return what was done to a view of item vectors."""
    return ViewReport(
        vector_spec_of(view).version,
        rows=rows,
        pushed_rows=pushed,
        pushed_values=pushed * len(view.features),
    )


def _add_pushed(view: ViewReport, count: PushCount) -> None:
    view.pushed_rows += count.rows
    view.pushed_values += count.values


def _keep_of(view: FeatureView) -> KeepMerge | None:
    """Return how rows of a view go online: only sequences are written by others too."""
    return KeepLiveEvents(view) if view.tags.get(Tag.ROLE) == Role.SEQUENCE else None


def _bar(task: MaterializationTask, description: str, count: int) -> tqdm | None:
    """Return a progress bar of `count` steps, None where the caller wants none."""
    if task.tqdm_builder is None:
        return None
    bar = task.tqdm_builder(count)
    bar.set_description(description)
    return bar


def _of_rows(config: RepoConfig, events: Sequence[FeatureView]) -> str:
    """Return how many rows sources of events have, where all are files."""
    files = [source for view in events if (source := parquet_files(config, view)) is not None]
    if len(files) < len(events):
        return ""
    rows = sum(source.count_rows() for source in files)
    where = "the source" if len(events) == 1 else "the sources"
    if rows:
        return f", of {counted(rows, 'row')} in {where}"
    return f"; {where} {are(len(events))} empty"
