"""Which executor, and which workers, the settings of the engine name."""

from __future__ import annotations

from functools import partial
from typing import Literal, TypeAlias, assert_never

from activity_embeddings.transformations.batch.executors.base import (
    Duty,
    NewExecutor,
    NewWorkers,
    Workers,
)
from activity_embeddings.transformations.batch.executors.local import LocalExecutor

ExecutorName: TypeAlias = Literal["local", "processes", "ray"]


def executor_of(name: ExecutorName, *, workers: int | None, address: str) -> NewExecutor:
    """Return what makes an executor; see `ActivityComputeEngineConfig`."""
    match name:
        case "local":
            return LocalExecutor
        case "processes":
            from activity_embeddings.transformations.batch.executors.processes import (
                ProcessesExecutor,
            )

            return partial(ProcessesExecutor, workers=workers)
        case "ray":
            from activity_embeddings.transformations.batch.executors.ray_tasks import RayExecutor

            return partial(RayExecutor, address=address, workers=workers)
        case _:
            assert_never(name)


def workers_of(name: ExecutorName, *, workers: int | None, address: str) -> NewWorkers | None:
    """Return what makes workers of any duty, None where there are none; as `executor_of`."""
    match name:
        case "local":
            return None
        case "processes":
            from activity_embeddings.transformations.batch.executors.processes import ProcessWorkers

            return partial(ProcessWorkers, count=workers)
        case "ray":
            from activity_embeddings.transformations.batch.executors.ray_tasks import RayWorkers

            def of_ray(duty: Duty) -> Workers:
                return RayWorkers(lambda: duty, address, workers)

            return of_ray
        case _:
            assert_never(name)
