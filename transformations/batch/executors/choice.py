"""Which executor the settings of the engine name."""

from __future__ import annotations

from functools import partial
from typing import Literal, TypeAlias, assert_never

from activity_embeddings.transformations.batch.executors.base import NewExecutor
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
