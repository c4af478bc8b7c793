"""Partitions that are computed in this process, by as many threads as a model call can use."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

from activity_embeddings.transformations.batch.executors.partition import (
    Computation,
    Partition,
    Rows,
    Worker,
)


class LocalExecutor:
    """An `Executor` that needs nothing."""

    def __init__(self, computation: Computation) -> None:
        self._worker = Worker(computation)

    def run(self, partitions: Iterator[Partition]) -> Generator[Iterable[Rows]]:
        """See `Executor.run`."""
        for partition in partitions:
            yield self._worker.rows(partition)
            del partition  # before the next is read

    def close(self) -> None:
        """Do nothing: the models are let go of with this."""
