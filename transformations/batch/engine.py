"""`ActivityComputeEngine`: makes `feast materialize` the pipeline.

Named in feature_store.yaml:

    batch_engine:
      type: activity_embeddings.ActivityComputeEngine

It accepts all views of one `feast materialize` together, encodes the postings that have no vector
yet, runs one pipeline for each sequence view and the embedding views derived from it, and leaves
every other view to Feast's own engine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias

import pyarrow as pa
from feast import Entity, FeatureView, OnDemandFeatureView
from feast.infra.common.materialization_job import (
    MaterializationJob,
    MaterializationJobStatus,
    MaterializationTask,
)
from feast.infra.common.retrieval_task import HistoricalRetrievalTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob, LocalRetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from tqdm import tqdm

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.batch.snapshot_run import (
    EmbeddingTarget,
    Report,
    SnapshotRun,
)
from activity_embeddings.transformations.batch.vector_run import VectorRun
from activity_embeddings.transformations.definitions.views import (
    has_encoder,
    has_string_ids,
    registered_encoder,
    registered_model,
    source_views_of,
    spec_of,
    vector_spec_of,
    vector_table_of,
)
from activity_embeddings.transformations.errors import InvalidData, InvalidInput, NotReady
from activity_embeddings.transformations.feast_compat import states
from activity_embeddings.transformations.names import Role, Tag
from activity_embeddings.transformations.offline.parquet_files import ParquetFiles
from activity_embeddings.transformations.offline.sources import (
    count_hidden_files,
    key_of,
    parquet_files,
    read_events,
    read_feature_rows,
    read_item_vectors,
    read_postings,
    read_published_vectors,
    sink_of,
    source_label,
)
from activity_embeddings.transformations.online.base import Row, RowMerge
from activity_embeddings.transformations.online.live_rows import KeepLiveEvents
from activity_embeddings.transformations.online.publish import (
    newest_by_time,
    push_snapshots,
    push_table,
)
from activity_embeddings.transformations.online.stores import row_store
from activity_embeddings.transformations.online.vector_table import write_vector_table
from activity_embeddings.transformations.times import (
    CLOCK_TOLERANCE,
    Schedule,
    to_datetime,
    to_us,
)
from activity_embeddings.transformations.wording import counted, duration, utc

VectorReader: TypeAlias = Callable[[FeatureView, int], ItemVectors]


class ActivityComputeEngineConfig(FeastConfigBaseModel):
    """Settings under `batch_engine` in feature_store.yaml."""

    type: str = "activity_embeddings.ActivityComputeEngine"
    """Selects this engine."""

    snapshot_interval_hours: PositiveFloat = 24
    """Distance of the cut-offs within an interval; 24 gives one snapshot at each midnight UTC."""

    publishing_delay_minutes: NonNegativeFloat = 0
    """Minutes from a cut-off to when its values are available: `created_timestamp` minus
    `event_timestamp`."""

    batch_size: PositiveInt = 1024
    """Members a model call, and postings a call of the item encoder."""

    @property
    def schedule(self) -> Schedule:
        """When values are computed, and when they are available."""
        return Schedule.every(
            hours=self.snapshot_interval_hours, delay_minutes=self.publishing_delay_minutes
        )


class ActivityComputeEngine(ComputeEngine):
    """Feast compute engine for activity sequences and embeddings."""

    def __init__(self, *, repo_config: Any, offline_store: Any, online_store: Any, **settings: Any):
        super().__init__(
            repo_config=repo_config, offline_store=offline_store, online_store=online_store
        )
        self.settings = ActivityComputeEngineConfig(**settings)
        self._rows = row_store(repo_config, online_store)
        self._feast_engine = LocalComputeEngine(
            repo_config=repo_config, offline_store=offline_store, online_store=online_store
        )

    @property
    def supports_batch(self) -> bool:
        """All views of one call come together: that is what lets them share one pass."""
        return True

    @property
    def applies_materialization(self) -> bool:
        """Feast leaves recording to the engine, which keeps its views served meanwhile."""
        return True

    def update(
        self,
        project: str,
        views_to_delete: Sequence[FeatureView],
        views_to_keep: Sequence[FeatureView | OnDemandFeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
    ) -> None:
        """Forget how far online stores have followed the views that are deleted."""
        self._forget_published(views_to_delete)

    def teardown_infra(
        self, project: str, fvs: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """Forget how far online stores have followed. Snapshots are the user's data and stay."""
        self._forget_published(fvs)

    def get_historical_features(
        self, registry: BaseRegistry, task: HistoricalRetrievalTask
    ) -> LocalRetrievalJob:
        """Leave retrieval to Feast's engine."""
        return self._feast_engine.get_historical_features(registry, task)

    def materialize(
        self,
        registry: BaseRegistry,
        tasks: MaterializationTask | list[MaterializationTask],
        **kwargs: Any,
    ) -> list[MaterializationJob]:
        """Compute and publish every view that is ours, then hand the others to Feast's engine.

        Raises
        ------
        InvalidInput
            Nothing was published.
        """
        tasks = [tasks] if isinstance(tasks, MaterializationTask) else list(tasks)
        with states.kept_served(registry, [task for task in tasks if _is_ours(task)]):
            jobs = self._materialize(registry, tasks)
            self._record(registry, tasks, jobs)
        return jobs

    def _materialize(
        self, registry: BaseRegistry, tasks: list[MaterializationTask]
    ) -> list[MaterializationJob]:
        ours = [task for task in tasks if _role(task) in (Role.SEQUENCE, Role.EMBEDDING)]
        encoded = [task for task in tasks if has_encoder(task.feature_view)]
        given = [
            task
            for task in tasks
            if _role(task) == Role.VECTORS and not has_encoder(task.feature_view)
        ]
        mine = {id(task) for task in [*ours, *encoded, *given]}
        others = [task for task in tasks if id(task) not in mine]
        groups = _by_sequence_view(ours)
        sequences = {
            name: registry.get_feature_view(name, group[0].project)
            for name, group in groups.items()
        }
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            # Feast's DuckDB store calls a function that DuckDB has renamed.
            warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)
            for view in [*(task.feature_view for task in encoded), *sequences.values()]:
                stack.enter_context(sink_of(view).locked())
            vectors: dict[str, ItemVectors] = {}
            encodings: list[tuple[MaterializationTask, VectorRun]] = []
            for task in encoded:
                view, encoding = task.feature_view, self._encoding(registry, task)
                stack.callback(encoding.abandon)
                encoding.stage(partial(_bar, task, "item vectors"))
                # As they will be once these are committed: sequences of this call see them.
                vectors[view.name] = read_published_vectors(
                    view, vector_spec_of(view), more=encoding.staged_files
                )
                encodings.append((task, encoding))
            tables = {task.feature_view.name: self._read_given(task) for task in given}
            for task in given:
                view = task.feature_view
                vectors[view.name] = ItemVectors.from_arrow(
                    tables[view.name],
                    vector_spec_of(view),
                    source=source_label(view),
                    item_id=key_of(view),
                )
            read_vectors = self._vector_reader(vectors)
            runs = {
                name: self._stage(registry, sequences[name], group, read_vectors)
                for name, group in groups.items()
            }
            self._rows.prepare([task.feature_view for task in tasks])
            for task, encoding in encodings:
                self._publish_vectors(task, encoding, vectors[task.feature_view.name])
            for task in given:
                name = task.feature_view.name
                self._publish_given(task, tables[name], vectors[name])
            for name, run in runs.items():
                self._publish(run, groups[name])
            done = self._feast_engine.materialize(registry, others)
        jobs = dict(zip(map(id, others), done, strict=True))
        return [jobs.get(id(task)) or _succeeded(task) for task in tasks]

    def _record(
        self,
        registry: BaseRegistry,
        tasks: Sequence[MaterializationTask],
        jobs: Sequence[MaterializationJob],
    ) -> None:
        """Record the intervals that were published, from where incremental runs continue."""
        ours, others = [], []
        for task, job in zip(tasks, jobs, strict=True):
            failed = job.status() == MaterializationJobStatus.ERROR
            if not _is_ours(task):
                others += [] if failed else [task]
            elif failed:
                states.keep_rollback_out(task.feature_view)
            else:
                ours.append(task)
        states.record_as_feast(registry, others)
        states.record_materialization(registry, ours)

    def _encoding(self, registry: BaseRegistry, task: MaterializationTask) -> VectorRun:
        """Return the run that encodes the postings which have no vector yet."""
        view = task.feature_view
        _, end = _interval_of(task)
        encoder = registered_encoder(view, repo=self.repo_config.repo_path)
        postings = registry.get_feature_view(source_views_of(view)[Role.POSTINGS], task.project)
        encoding = VectorRun(
            encoder=encoder,
            sink=sink_of(view),
            read=partial(read_postings, self.repo_config, self.offline_store, postings),
            end=end,
            id_type=pa.string() if has_string_ids(view) else pa.int64(),
            source=source_label(postings),
            publishing_delay=self.settings.schedule.delay_us,
            batch_size=self.settings.batch_size,
            item_id=key_of(view),
        )
        encoding.report.hidden_files = count_hidden_files(self.repo_config, postings)
        return encoding

    def _publish_vectors(
        self, task: MaterializationTask, encoding: VectorRun, vectors: ItemVectors
    ) -> None:
        """Commit new vectors offline, push each job's newest online, and write the table."""
        view, sink = task.feature_view, encoding.sink
        encoding.commit()
        if view.online:
            count = push_snapshots(
                self._rows,
                view,
                sink,
                changed=(),
                newest=newest_by_time,
                progress=task.tqdm_builder,
            )
            encoding.report.pushed = count.rows
        self._write_vector_table(task, vectors)
        print(encoding.report)

    def _read_given(self, task: MaterializationTask) -> pa.Table:
        """Read the rows of a view of the user's own vectors, up to the end of its interval.

        They are read here and not by Feast's engine, so that what goes online is what sequences
        and embeddings are made from: checked, and from all files of the source.
        """
        _require_times(task)
        view, end = task.feature_view, to_us(task.end_time)
        columns = [key_of(view), *(field.name for field in view.features)]
        return read_feature_rows(self.repo_config, self.offline_store, view, columns, end=end)

    def _publish_given(
        self, task: MaterializationTask, table: pa.Table, vectors: ItemVectors
    ) -> None:
        """Push each job's newest vector of the interval online, and write the table."""
        if task.feature_view.online:
            push_table(
                self._rows,
                task.feature_view,
                table,
                start=to_us(task.start_time),
                progress=task.tqdm_builder,
            )
        self._write_vector_table(task, vectors)

    def _vector_reader(self, known: Mapping[str, ItemVectors]) -> VectorReader:
        """Return a function that gives the vectors of a view up to a time, each read only once.

        Parameters
        ----------
        known : vectors by view, where this call makes them.
        """
        read: dict[tuple[str, int], ItemVectors] = {}

        def vectors_of(view: FeatureView, end: int) -> ItemVectors:
            if view.name in known:
                return known[view.name]
            if (view.name, end) not in read:
                read[view.name, end] = read_item_vectors(
                    self.repo_config, self.offline_store, view, vector_spec_of(view), end=end
                )
            return read[view.name, end]

        return vectors_of

    def _write_vector_table(self, task: MaterializationTask, vectors: ItemVectors) -> None:
        """Commit the table from which request-time views read item vectors."""
        view = task.feature_view
        path = vector_table_of(view, self.repo_config.repo_path)
        if path is not None:
            write_vector_table(path, vectors, vector_spec_of(view), end=to_us(task.end_time))

    def _stage(
        self,
        registry: BaseRegistry,
        sequence: FeatureView,
        tasks: list[MaterializationTask],
        read_vectors: VectorReader,
    ) -> SnapshotRun:
        """Stage all snapshots of one sequence view and its models."""
        sources = source_views_of(sequence)
        events = registry.get_feature_view(sources[Role.EVENTS], tasks[0].project)
        vector_view = registry.get_feature_view(sources[Role.VECTORS], tasks[0].project)
        spec = spec_of(sequence)
        files = parquet_files(self.repo_config, events)
        earliest = None if files is None else files.earliest()
        moments = {task.feature_view.name: self._cutoffs(task, earliest) for task in tasks}
        targets = [
            EmbeddingTarget(
                registered_model(
                    task.feature_view,
                    spec=spec,
                    vectors=vector_view,
                    repo=self.repo_config.repo_path,
                ),
                sink_of(task.feature_view),
                moments[task.feature_view.name],
            )
            for task in tasks
            if _role(task) == Role.EMBEDDING
        ]
        read = [events] if has_encoder(vector_view) else [events, vector_view]
        report = Report()
        report.hidden_files = count_hidden_files(self.repo_config, *read)
        last = max(max(times, default=0) for times in moments.values())
        with report.stage("read item vectors"):
            vectors = read_vectors(vector_view, last)
        if has_encoder(vector_view) and not len(vectors.time):
            raise NotReady(
                f"{vector_view.name}: expected published item vectors, from which {sequence.name} is "
                "made. Received: none. Materialize that view first, or both together"
            )
        run = SnapshotRun(
            spec=spec,
            sequence_sink=sink_of(sequence),
            sequence_cutoffs=moments.get(sequence.name, frozenset()),
            targets=targets,
            vectors=vectors,
            read_events=lambda start, end: read_events(
                self.repo_config, self.offline_store, events, spec, start=start, end=end
            ),
            publishing_delay=self.settings.schedule.delay_us,
            batch_size=self.settings.batch_size,
            domain=names.DomainNames.of(sequence.tags),
            report=report,
        )
        bar = _bar(tasks[0], "snapshots", len(run.cutoffs))
        try:
            run.stage(bar.update if bar is not None else lambda done: None)
            if not report.events:
                raise InvalidData(
                    f"{source_label(events)}: expected events in the {duration(spec.window)} "
                    f"before {_interval(tasks)}. Received: none"
                    f"{_of_rows(files)}"
                )
        except BaseException:
            run.abandon()
            raise
        finally:
            if bar is not None:
                bar.close()
        return run

    def _publish(self, run: SnapshotRun, tasks: Sequence[MaterializationTask]) -> None:
        """Commit offline, then push online, then say what was done."""
        changed = run.commit()
        with run.report.stage("push online"):
            for task in tasks:
                if not task.feature_view.online:
                    continue
                sink = sink_of(task.feature_view)
                # The newest snapshot is pushed whenever it was asked for, changed or not, so
                # that materializing again refills an online store.
                asked = set(run.cutoffs) & set(sink.committed()[-1:])
                count = push_snapshots(
                    self._rows,
                    task.feature_view,
                    sink,
                    changed=changed.get(sink, set()) | asked,
                    merge=_merge_of(task.feature_view),
                    progress=task.tqdm_builder,
                )
                run.report.pushed_rows += count.rows
                run.report.pushed_values += count.values
        print(run.report)

    def _cutoffs(self, task: MaterializationTask, earliest: int | None) -> frozenset[int]:
        """Return the as-of times of one task; `earliest` is the first event's time, if known."""
        start, end = _interval_of(task)
        # Before the first event there is nothing to compute, however long ago `start` is.
        if earliest is not None:
            start = max(start, min(earliest, end - 1))
        return frozenset(self.settings.schedule.cutoffs(start, end))

    def _forget_published(self, views: Sequence[FeatureView]) -> None:
        for view in views:
            if view.tags.get(Tag.ROLE) in (Role.SEQUENCE, Role.EMBEDDING) or has_encoder(view):
                sink_of(view).forget_published()


def _merge_of(view: FeatureView) -> RowMerge[Row] | None:
    """Return how rows of a view go online: only sequences are written by others too."""
    return KeepLiveEvents(view) if view.tags.get(Tag.ROLE) == Role.SEQUENCE else None


def _is_ours(task: MaterializationTask) -> bool:
    """Return whether a view is served as ours are; item vectors of the user's own are, too."""
    return _role(task) in (Role.SEQUENCE, Role.EMBEDDING, Role.VECTORS)


def _role(task: MaterializationTask) -> str | None:
    return task.feature_view.tags.get(Tag.ROLE)


def _interval_of(task: MaterializationTask) -> tuple[int, int]:
    """Return start and end of a task in microseconds, after checking that it can be computed."""
    name = task.feature_view.name
    _require_times(task)
    now = datetime.now(UTC)
    start, end = to_us(task.start_time), to_us(task.end_time)
    if end > to_us(now) + CLOCK_TOLERANCE:
        raise InvalidInput(
            f"{name}: an interval should not end in the future, since a value as of a time "
            f"needs all activity before it. Received: end {utc(to_datetime(end))}, now {utc(now)}"
        )
    return start, end


def _require_times(task: MaterializationTask) -> None:
    if task.disable_event_timestamp:
        raise InvalidInput(
            f"{task.feature_view.name}: expected an interval, because every value has an as-of "
            "time. Received: --disable-event-timestamp"
        )


def _bar(task: MaterializationTask, description: str, count: int) -> tqdm | None:
    """Return a progress bar of so many steps, None where the caller wants none."""
    if task.tqdm_builder is None:
        return None
    bar = task.tqdm_builder(count)
    bar.set_description(description)
    return bar


def _by_sequence_view(
    tasks: Sequence[MaterializationTask],
) -> dict[str, list[MaterializationTask]]:
    """Group tasks by the sequence view they are or are derived from."""
    groups: dict[str, list[MaterializationTask]] = {}
    for task in tasks:
        view = task.feature_view
        name = view.name
        if _role(task) == Role.EMBEDDING:
            name = source_views_of(view)[Role.SEQUENCE]
        groups.setdefault(name, []).append(task)
    return groups


def _interval(tasks: Sequence[MaterializationTask]) -> str:
    start = min(task.start_time for task in tasks)
    return f"({utc(start)}, {utc(max(task.end_time for task in tasks))}]"


def _of_rows(files: ParquetFiles | None) -> str:
    if files is None:
        return ""
    rows = files.count_rows()
    return f", of {counted(rows, 'row')} in the source" if rows else "; the source is empty"


def _succeeded(task: MaterializationTask) -> MaterializationJob:
    return LocalMaterializationJob(
        job_id=f"{task.feature_view.name}-{task.start_time}-{task.end_time}",
        status=MaterializationJobStatus.SUCCEEDED,
    )
