"""What runs the partitions of a run, wherever that is.

Whoever runs them, the driver, which is the process of `feast materialize`, alone reads sources and
stores, writes rows aside in the order of members, judges and commits. So a worker that is lost can
leave nothing behind, and what it had can be computed again.

`Workers` know nothing of what they do, which is a `Duty`: to compute partitions, or, once these are
committed, to write rows to the online store, see `writing`.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

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
Started = TypeVar("Started")
Result = TypeVar("Result")


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

Work: TypeAlias = Callable[[Any], Any]
"""Does a task and returns its result."""
Answer: TypeAlias = tuple[Any, Exception | None]
"""What a worker says of a task: its result, and the error that there was instead."""


class Duty(Protocol):
    """What workers do; goes to each of them as a pickle.

    Attributes
    ----------
    needs_feast
        Whether a worker imports Feast for it.
    """

    needs_feast: ClassVar[bool]

    def begin(self) -> Work:
        """Return what does the tasks; called once in a worker.

        Raises
        ------
        InvalidInput
            This worker cannot.
        """


class Workers(Protocol):
    """Other processes, of this machine or of others, that all have one duty."""

    def start(self, task: Any) -> Any:
        """Hand a task to a worker, which are started where they are not; return what `fetch` takes.

        Raises
        ------
        InvalidInput
            There are no workers to be had.
        """

    def fetch(self, started: Any) -> Any:
        """Wait for the result of a task and return it.

        Raises
        ------
        Exception
            What the worker raised.
        InvalidInput
            The worker was lost.
        """

    def drop(self, started: Any) -> object:
        """Let go of a task that will not be fetched."""

    def limit(self) -> int:
        """Return how many tasks may be under way, or done and not fetched."""

    def close(self) -> None:
        """End the workers; a later `start` starts them again."""


NewWorkers: TypeAlias = Callable[[Duty], Workers]


@dataclass(frozen=True)
class Computing:
    """The duty to compute partitions."""

    needs_feast: ClassVar[bool] = False

    computation: Computation

    def begin(self) -> Work:
        """See `Duty.begin`; a task is a `Partition`, its result a list of `Rows`."""
        worker = Worker(self.computation, threads=1)
        return lambda partition: list(worker.rows(partition))


def answer(work: Work, task: Any) -> Answer:
    """Return what a worker says of a task."""
    try:
        return work(task), None
    except Exception as error:
        if not isinstance(error, InvalidInput):
            # The traceback itself does not travel.
            error.add_note("".join(traceback.format_exception(error)))
        return None, error


def result_of(answered: Answer) -> Any:
    """Return the result that a worker sent, or raise the error."""
    result, error = answered
    if error is not None:
        raise error
    return result


def computed(workers: Workers, partitions: Iterator[Partition]) -> Generator[list[Rows]]:
    """Yield the rows of partitions in their order, computed by workers whose duty that is.

    Their seconds say how long the driver waited for workers, and, as `by workers`, how long it all
    took from the first task to the last answer.
    """
    waiting = Seconds()

    def fetch(started: Any) -> list[Rows]:
        with waiting.timed("wait for workers"):
            return workers.fetch(started)

    since = time.perf_counter()
    tasks = tasks_of(partitions)
    for rows in in_order(tasks, workers.start, fetch, workers.drop, workers.limit):
        now = time.perf_counter()
        rows[0].seconds.add({**waiting, "by workers": now - since})
        since = now
        waiting.clear()
        yield rows


def tasks_of(partitions: Iterator[Partition]) -> Iterator[Partition]:
    """Yield partitions as small as workers get them."""
    for partition in partitions:
        yield from partition.divided(ROWS_A_TASK)
        del partition  # before the next is read


def in_order(
    tasks: Iterator[Task],
    start: Callable[[Task], Started],
    fetch: Callable[[Started], Result],
    drop: Callable[[Started], object],
    limit: Callable[[], int],
) -> Generator[Result]:
    """Yield the results of tasks in their order, while workers are at the next ones.

    Parameters
    ----------
    tasks
        As small as workers get them.
    start, fetch, drop, limit
        As those of `Workers`.
    """
    under_way: deque[Started] = deque()
    try:
        for task in tasks:
            under_way.append(start(task))
            del task
            while len(under_way) >= limit():
                yield fetch(under_way.popleft())
        while under_way:
            yield fetch(under_way.popleft())
    finally:
        for started in under_way:
            drop(started)
