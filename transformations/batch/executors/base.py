"""What runs the partitions of a run, wherever that is.

Whoever runs them, the driver, which is the process of `feast materialize`, alone reads sources and
stores, writes rows aside in the order of members, judges and commits. So a worker that is lost can
leave nothing behind, and what it had can be computed again.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Protocol, TypeVar

from activity_embeddings.transformations.batch.executors.partition import (
    Computation,
    Partition,
    Rows,
    Worker,
)
from activity_embeddings.transformations.batch.seconds import Seconds
from activity_embeddings.transformations.errors import InvalidInput

ROWS_A_TASK = 8_192
"""Rows of a view that a worker returns together."""
TASKS_A_WORKER = 2
"""Tasks that are under way or done and not fetched, for each worker: the next one waits for it."""

Task = TypeVar("Task")


class Executor(Protocol):
    """Runs partitions, all with one `Computation`."""

    def run(self, partitions: Iterator[Partition]) -> Generator[Iterable[Rows]]:
        """Yield the rows of each partition, in the order of the partitions.

        A partition may be divided into several. It is let go of before the next one is asked for,
        unless its rows are still to be computed.

        Raises
        ------
        InvalidInput
            See `Worker.rows`; or workers cannot be had, or were lost too often.
        """

    def close(self) -> None:
        """End the workers; a later `run` starts them again."""


NewExecutor = Callable[[Computation], Executor]


Answer = tuple[list[Rows], Exception | None]
"""What a worker says of a partition: its rows, and the error that there was instead."""


def answer(worker: Worker, partition: Partition) -> Answer:
    """Return what a worker says of a partition."""
    try:
        return list(worker.rows(partition)), None
    except Exception as error:
        if not isinstance(error, InvalidInput):
            # The traceback itself does not travel.
            error.add_note("".join(traceback.format_exception(error)))
        return [], error


def rows_of(answered: Answer) -> list[Rows]:
    """Return the rows that a worker sent, or raise the error."""
    rows, error = answered
    if error is not None:
        raise error
    return rows


def tasks_of(partitions: Iterator[Partition]) -> Iterator[Partition]:
    """Yield partitions as small as workers get them."""
    for partition in partitions:
        yield from partition.divided(ROWS_A_TASK)
        del partition  # before the next is read


def in_order(
    partitions: Iterator[Partition],
    *,
    start: Callable[[Partition], Task],
    fetch: Callable[[Task], list[Rows]],
    drop: Callable[[Task], object],
    limit: Callable[[], int],
) -> Iterator[list[Rows]]:
    """Yield the rows of partitions in their order, while workers compute the next ones.

    Parameters
    ----------
    partitions
        As small as workers get them.
    start
        Hands one to a worker.
    fetch
        Waits for the rows of a task.
    drop
        Is called with what was started and is not fetched, where the run ends early.
    limit
        How many tasks may be under way, or done and not fetched.
    """
    under_way: deque[Task] = deque()

    def next_rows() -> list[Rows]:
        waiting = Seconds()
        with waiting.timed("wait for workers"):
            rows = fetch(under_way.popleft())
        rows[0].seconds.add(waiting)
        return rows

    try:
        for partition in partitions:
            under_way.append(start(partition))
            del partition
            while len(under_way) >= limit():
                yield next_rows()
        while under_way:
            yield next_rows()
    finally:
        for task in under_way:
            drop(task)
