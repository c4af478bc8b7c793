"""Workers that are other processes of this machine.

A model call by LiteRT holds Python's lock, so that threads gain nothing beyond those of the call
itself. A worker is an interpreter of its own, which imports neither Feast nor what the caller runs.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue
from typing import Any

from activity_embeddings.transformations.batch.executors.base import (
    TASKS_A_WORKER,
    Computing,
    Duty,
    Work,
    answer,
    computed,
    result_of,
)
from activity_embeddings.transformations.batch.executors.local import LocalExecutor
from activity_embeddings.transformations.batch.executors.partition import (
    Computation,
    Partition,
    Rows,
)
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.inference.litert import cores

WORTH_SECONDS = 20.0
"""Seconds of model calls from which on workers are started: that takes a second or two each."""
_CODE = (
    "from activity_embeddings.transformations.batch.executors.processes import be_worker; "
    "be_worker({})"
)


def seconds_of_models(partition: Partition, computation: Computation) -> float:
    """Return what model calls of a partition take that workers would take over.

    What LiteRT takes for a sequence was measured when the model was packaged. Beside a model that
    TensorFlow runs it is nothing: it uses all cores by itself, and takes more than a GB a process.
    """
    each = [computation.models[name].litert_seconds for name in partition.cutoff.models]
    known = [seconds for seconds in each if seconds is not None]
    return sum(known) * len(partition.events.member_ids) if len(known) == len(each) else 0.0


class ProcessesExecutor:
    """An `Executor` of worker processes, started where the models are heavy.

    Partitions are computed in this process until what was asked has `WORTH_SECONDS`, see
    `seconds_of_models`.

    Parameters
    ----------
    computation
        What all partitions share; every worker has a copy.
    workers
        How many; None: one a core.
    """

    def __init__(self, computation: Computation, workers: int | None = None) -> None:
        self._computation = computation
        self._workers = ProcessWorkers(Computing(computation), workers)
        self._asked = 0.0

    def run(self, partitions: Iterator[Partition]) -> Generator[Iterable[Rows]]:
        """See `Executor.run`."""
        first = next(partitions, None)
        if first is None:
            return
        self._asked += seconds_of_models(first, self._computation)
        partitions = chain([first], partitions)
        del first
        if self._workers.count < 2 or self._asked < WORTH_SECONDS:
            yield from LocalExecutor(self._computation).run(partitions)
        else:
            yield from computed(self._workers, partitions)

    def close(self) -> None:
        """See `Executor.close`."""
        self._workers.close()


class ProcessWorkers:
    """`Workers` that are processes of this machine.

    Parameters
    ----------
    duty
        Theirs; every worker has a copy.
    count
        How many; None: one a core.
    """

    def __init__(self, duty: Duty, count: int | None = None) -> None:
        self._duty = duty
        self.count = count or cores()
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._processes: list[_Process] = []
        self._threads: ThreadPoolExecutor | None = None

    def start(self, task: Any) -> Future[bytes]:
        """See `Workers.start`."""
        threads = self._begin()
        # As bytes, so that what is waiting does not hold on to what its task was cut from.
        return threads.submit(self._call, pickle.dumps(task, protocol=5))

    def fetch(self, started: Future[bytes]) -> Any:
        """See `Workers.fetch`.

        Errors are made in the thread that calls this: there they know the command that runs.
        """
        try:
            content = started.result()
        except _Lost as lost:
            raise InvalidInput(
                "batch_engine: expected worker processes that last. Received: one that ended "
                f"({lost}). If it was for memory, have fewer `workers`"
            ) from lost
        return result_of(pickle.loads(content))

    def drop(self, started: Future[bytes]) -> None:
        """See `Workers.drop`."""
        started.cancel()

    def limit(self) -> int:
        """See `Workers.limit`."""
        return TASKS_A_WORKER * self.count

    def close(self) -> None:
        """See `Workers.close`."""
        for process in self._processes:
            process.end()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._idle, self._processes, self._threads = SimpleQueue(), [], None

    def _begin(self) -> ThreadPoolExecutor:
        """Start the workers, unless they are there; return the threads that wait for them."""
        if self._threads is None:
            content = pickle.dumps(self._duty, protocol=5)
            optimized = self._duty.needs_feast
            self._processes = [_Process(content, optimized) for _ in range(self.count)]
            for process in self._processes:
                self._idle.put(process)
            self._threads = ThreadPoolExecutor(self.count, thread_name_prefix="workers")
        return self._threads

    def _call(self, task: bytes) -> bytes:
        """Have an idle worker do a task."""
        process = self._idle.get()
        try:
            return process.answer(task)
        finally:
            self._idle.put(process)


class _Lost(Exception):
    """A worker process that has ended; says how."""


class _Process:
    """A worker process and the pipe to it.

    An `optimized` one imports Feast in a third of the time: without the type checks that typeguard
    writes into its classes, and without `assert`.
    """

    def __init__(self, duty: bytes, optimized: bool) -> None:
        self._pipe, theirs = Pipe()
        # Not by `multiprocessing`, whose processes import the `__main__` of the caller: the command
        # `feast`, which takes seconds, or a script that has no guard.
        self._process = subprocess.Popen(
            [
                sys.executable,
                *(["-O"] if optimized else []),
                "-P",
                "-c",
                _CODE.format(theirs.fileno()),
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        theirs.close()
        self._duty: bytes | None = duty

    def answer(self, task: bytes) -> bytes:
        """Return what the worker answers."""
        try:
            if self._duty is not None:
                self._pipe.send_bytes(self._duty)
                self._duty = None
            self._pipe.send_bytes(task)
            return self._pipe.recv_bytes()
        except (OSError, EOFError) as error:
            status = self._process.wait()
            raise _Lost(
                f"exit status {status}" if status >= 0 else signal.Signals(-status).name
            ) from error

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()


def be_worker(pipe: int) -> None:
    """Do tasks, and answer with their results, until nobody is at the other end.

    Parameters
    ----------
    pipe
        File descriptor of the connection.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the driver gets, too, and ends this
    one_thread()
    connection = Connection(pipe)
    with suppress(EOFError, BrokenPipeError):
        duty = connection.recv_bytes()
        begun = answer(_begun, duty)
        while True:
            task = pickle.loads(connection.recv_bytes())
            answered = begun if begun[1] is not None else answer(begun[0], task)
            connection.send_bytes(pickle.dumps(answered, protocol=5))


def _begun(duty: bytes) -> Work:
    """Begin a duty that was sent."""
    return pickle.loads(duty).begin()


def one_thread() -> None:
    """Have libraries that are imported later use one thread, as a worker has one core."""
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = "1"
