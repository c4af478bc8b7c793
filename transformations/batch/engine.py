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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias

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
from pydantic import Field, ValidationError

from activity_embeddings.transformations.batch.executors.choice import (
    ExecutorName,
    executor_of,
    workers_of,
)
from activity_embeddings.transformations.batch.guards import Guards, Judge
from activity_embeddings.transformations.batch.options import RunOptions, current_options
from activity_embeddings.transformations.batch.plan import MaterializePlan, is_ours
from activity_embeddings.transformations.batch.record import RunRecord, sink_of_records
from activity_embeddings.transformations.batch.report import view_table
from activity_embeddings.transformations.batch.steps import Context, Step, step_facts, steps_of
from activity_embeddings.transformations.errors import (
    InvalidInput,
    StoreUnreachable,
    cannot_connect,
    first_line,
    quote,
)
from activity_embeddings.transformations.feast_compat import states
from activity_embeddings.transformations.logs import reports, reports_shown
from activity_embeddings.transformations.offline.connections import kept_connections
from activity_embeddings.transformations.offline.located import keeps_snapshots
from activity_embeddings.transformations.offline.sinks.places import sink_of
from activity_embeddings.transformations.online.stores import row_store
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY, Schedule

MIB = 1024**2
LONGEST_HOURS = 24 * 36_525
"""A hundred years, as of the longest window."""
FilePath: TypeAlias = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00\n]*$")]


class ActivityComputeEngineConfig(FeastConfigBaseModel):
    """Settings under `batch_engine` in feature_store.yaml."""

    type: str = "activity_embeddings.ActivityComputeEngine"
    """Selects this engine."""

    snapshot_interval_hours: Annotated[float, Field(ge=1 / 60, le=LONGEST_HOURS)] = 24
    """Distance of the cut-offs within an interval; 24 gives one snapshot at each midnight UTC."""

    publishing_delay_minutes: Annotated[float, Field(ge=0, le=60 * LONGEST_HOURS)] = 0
    """Minutes from a cut-off to when its values are available: `created_timestamp` minus
    `event_timestamp`."""

    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Members a model call, and postings a call of the item encoder."""

    memory_budget_mb: Annotated[int, Field(ge=64, le=2**20)] = 1024
    """MiB that a run should hold, about; half of it are events. More events than that are read in
    parts of members, by way of files."""

    executor: ExecutorName = "local"
    """Where rows are computed: in this process, in processes of this machine where the models are
    heavy enough, or by a Ray cluster. These write the rows of a remote online store, too, where
    there are many."""

    workers: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Processes, or cores of the Ray cluster, that compute; None: as many as there are cores."""

    address: Annotated[str, Field(min_length=1, max_length=1024)] = "auto"
    """Of the Ray cluster, as `ray.init` takes it; "auto": the one that this machine is part of."""

    retention_days: Annotated[float, Field(gt=0, le=LONGEST_HOURS / 24)] | None = None
    """Days of history that snapshots should have; what labels of these days join stays. None: all
    snapshots are kept."""

    mix_runtimes: bool = False
    """Whether the history of a model version may go on in another runtime, LiteRT or TensorFlow,
    than it began with. Their values differ by some 1e-7."""

    untested_online_store: bool = False
    """Whether `feast apply` accepts an online store that this package is not tested with."""

    metrics_file: FilePath | None = None
    """File that each run writes for the textfile collector of Prometheus' node_exporter, such as
    /var/lib/node_exporter/activity_embeddings.prom; None: no file."""

    guards: Guards = Guards()
    """What is compared with the run before, and what happens where it differs too much."""

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
        self.settings = _checked(settings)
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
        options = current_options()
        ours = [task for task in tasks if is_ours(task)]
        with _answering(), kept_connections(), states.kept_served(registry, ours):
            jobs = self._materialize(registry, tasks, options)
            if not options.dry_run:
                self._record(registry, tasks, jobs)
        return jobs

    def _materialize(
        self, registry: BaseRegistry, tasks: list[MaterializationTask], options: RunOptions
    ) -> list[MaterializationJob]:
        days, metrics = self.settings.retention_days, self.settings.metrics_file
        plan = MaterializePlan.of(tasks, registry)
        views = registry.list_feature_views(self.repo_config.project)
        records = sink_of_records(views, self.repo_config)
        record = RunRecord(
            records,
            {
                "project": self.repo_config.project,
                "views": sorted({view.name for view in plan.locked}),
                "interval": [
                    str(min(t.start_time for t in tasks)),
                    str(max(t.end_time for t in tasks)),
                ],
                "accepted": sorted(options.accepted),
                "dry_run": options.dry_run,
            },
            None if metrics is None else Path(self.repo_config.repo_path or ".") / metrics,
        )
        settings = self.settings
        context = Context(
            self.repo_config,
            self.offline_store,
            registry,
            self._rows,
            self.settings.schedule,
            self.settings.batch_size,
            self.settings.mix_runtimes,
            executor_of(settings.executor, workers=settings.workers, address=settings.address),
            workers_of(settings.executor, workers=settings.workers, address=settings.address),
            Judge(self.settings.guards, options.accepted),
            None if days is None else round(days * MICROSECONDS_PER_DAY),
            self.settings.memory_budget_mb * MIB // 2,
            record,
            dry_run=options.dry_run,
        )
        with record.kept(), _answering(), reports_shown(), ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            # Feast's DuckDB store calls a function that DuckDB has renamed.
            warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)
            for view in plan.locked:
                stack.enter_context(sink_of(view, self.repo_config).locked())
            steps = []
            for step in steps_of(plan, context):
                stack.callback(step.abandon)
                step.compute()
                steps.append(step)
            stack.callback(lambda: record.facts.update(steps=[step_facts(step) for step in steps]))
            for step in steps:
                step.judge()
            if options.dry_run:
                for step in steps:
                    step.preview()
                _say_plan(steps, plan.others)
                return [_succeeded(task) for task in tasks]
            self._rows.prepare([task.feature_view for task in tasks])
            for step in steps:
                step.publish()
                _say([step])
            done = self._feast_engine.materialize(registry, plan.others)
        jobs = dict(zip(map(id, plan.others), done, strict=True))
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
            if not is_ours(task):
                others += [] if failed else [task]
            elif failed:
                states.keep_rollback_out(task.feature_view)
            else:
                ours.append(task)
        states.record_as_feast(registry, others)
        states.record_materialization(registry, ours)

    @kept_connections()
    def _forget_published(self, views: Sequence[FeatureView]) -> None:
        for view in views:
            if keeps_snapshots(view):
                sink_of(view, self.repo_config).forget_published()


def _checked(settings: dict[str, Any]) -> ActivityComputeEngineConfig:
    """Return the settings; Feast would show pydantic's error with a traceback."""
    try:
        return ActivityComputeEngineConfig(**settings)
    except ValidationError as error:
        first, *others = error.errors()
        where = ".".join(map(quote, first["loc"])).replace("'", "")
        more = f" ({len(others)} more)" if others else ""
        raise InvalidInput(
            f"feature_store.yaml: batch_engine.{where}: {first['msg']}. "
            f"Received: {quote(first['input'])}{more}"
        ) from error


@contextmanager
def _answering() -> Iterator[None]:
    """Say that a store does not answer, where that is why a run fails."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InvalidInput) or not cannot_connect(error):
            raise
        raise StoreUnreachable(
            "expected stores that answer. Received: "
            f"{type(error).__name__}: {first_line(error)}. What is committed stays; run again"
        ) from error


def _say(steps: Sequence[Step]) -> None:
    """Log the reports of steps."""
    for step in steps:
        if str(step):
            reports.info("%s", step, extra={"facts": step_facts(step)})


def _say_plan(steps: Sequence[Step], others: Sequence[MaterializationTask]) -> None:
    """Log what steps would do, of each view."""
    reports.info("activity embeddings: a dry run, nothing was published; as it would be:")
    _say(steps)
    reports.info("%s", view_table({name: view for s in steps for name, view in s.views.items()}))
    if others:
        names = ", ".join(task.feature_view.name for task in others)
        reports.info("  Feast's own engine would materialize %s", names)


def _succeeded(task: MaterializationTask) -> MaterializationJob:
    return LocalMaterializationJob(
        job_id=f"{task.feature_view.name}-{task.start_time}-{task.end_time}",
        status=MaterializationJobStatus.SUCCEEDED,
    )
