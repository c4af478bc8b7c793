"""What one `feast materialize` is asked for: which of its tasks are ours, and up to when.

Nothing is read but the registry and the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from feast import FeatureView
from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.registry.base_registry import BaseRegistry

from activity_embeddings.transformations.definitions.tags import has_encoder, source_views_of
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.names import Role, Tag
from activity_embeddings.transformations.times import CLOCK_TOLERANCE, Schedule, to_datetime, to_us
from activity_embeddings.transformations.wording import utc


@dataclass(frozen=True)
class SequencePlan:
    """The tasks that share one pass over events.

    Attributes
    ----------
    view
        The sequence view, from which the views of all tasks are derived, if it is not theirs.
    tasks
        Of that view, and of embedding views.
    """

    view: FeatureView
    tasks: list[MaterializationTask]

    @property
    def embeddings(self) -> list[MaterializationTask]:
        """The tasks of embedding views."""
        return [task for task in self.tasks if role_of(task) == Role.EMBEDDING]

    @property
    def interval(self) -> str:
        """How errors call the interval of all tasks."""
        start = min(task.start_time for task in self.tasks)
        return f"({utc(start)}, {utc(max(task.end_time for task in self.tasks))}]"

    def cutoffs(self, schedule: Schedule, earliest: int | None) -> dict[str, frozenset[int]]:
        """Return the as-of times of each task, by the name of its view.

        Parameters
        ----------
        schedule
            Gives the grid.
        earliest
            Time of the first event, where that is known. Before it there is nothing to compute,
            however long ago an interval begins.
        """
        moments = {}
        for task in self.tasks:
            start, end = interval_of(task)
            if earliest is not None:
                start = max(start, min(earliest, end - 1))
            moments[task.feature_view.name] = frozenset(schedule.cutoffs(start, end))
        return moments


@dataclass(frozen=True)
class MaterializePlan:
    """The tasks of one call, by what has to be done for them.

    Attributes
    ----------
    encoded
        Of views of item vectors that an encoder makes.
    given
        Of views of the user's own item vectors.
    sequences
        Of sequence views and embedding views.
    others
        Of views that are not ours.
    """

    encoded: list[MaterializationTask]
    given: list[MaterializationTask]
    sequences: list[SequencePlan]
    others: list[MaterializationTask]

    @classmethod
    def of(cls, tasks: Sequence[MaterializationTask], registry: BaseRegistry) -> MaterializePlan:
        """Return the plan of one call.

        Raises
        ------
        InvalidInput
            A task of ours has no interval, or one that ends in the future.
        """
        vectors = [task for task in tasks if role_of(task) == Role.VECTORS]
        groups: dict[str, list[MaterializationTask]] = {}
        for task in tasks:
            view = task.feature_view
            if role_of(task) == Role.SEQUENCE:
                groups.setdefault(view.name, []).append(task)
            elif role_of(task) == Role.EMBEDDING:
                (sequence,) = source_views_of(view)[Role.SEQUENCE]
                groups.setdefault(sequence, []).append(task)
        for task in filter(is_ours, tasks):
            interval_of(task)
        return cls(
            encoded=[task for task in vectors if has_encoder(task.feature_view)],
            given=[task for task in vectors if not has_encoder(task.feature_view)],
            sequences=[
                SequencePlan(registry.get_feature_view(name, group[0].project), group)
                for name, group in groups.items()
            ],
            others=[task for task in tasks if not is_ours(task)],
        )

    @property
    def locked(self) -> list[FeatureView]:
        """The views whose snapshots no other run may write meanwhile."""
        written = [task.feature_view for task in self.encoded]
        for plan in self.sequences:
            written += [plan.view, *(task.feature_view for task in plan.embeddings)]
        return written


def is_ours(task: MaterializationTask) -> bool:
    """Return whether a view is served as ours are; item vectors of the user's own are, too."""
    return role_of(task) in (Role.SEQUENCE, Role.EMBEDDING, Role.VECTORS)


def role_of(task: MaterializationTask) -> str | None:
    """Return what a task's view is to the engine."""
    return task.feature_view.tags.get(Tag.ROLE)


def interval_of(task: MaterializationTask) -> tuple[int, int]:
    """Return start and end of a task in microseconds, after checking that it can be computed.

    Raises
    ------
    InvalidInput
        It has no interval, or one that ends in the future.
    """
    if task.disable_event_timestamp:
        raise InvalidInput(
            f"{task.feature_view.name}: expected an interval, because every value has an as-of "
            "time. Received: --disable-event-timestamp"
        )
    now = datetime.now(UTC)
    start, end = to_us(task.start_time), to_us(task.end_time)
    if end > to_us(now) + CLOCK_TOLERANCE:
        raise InvalidInput(
            f"{task.feature_view.name}: an interval should not end in the future, since a value as "
            f"of a time needs all activity before it. Received: end {utc(to_datetime(end))}, now "
            f"{utc(now)}"
        )
    return start, end
