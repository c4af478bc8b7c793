"""Partitions that are computed by other processes of this machine.

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

from activity_embeddings.transformations.batch.executors.base import (
    TASKS_A_WORKER,
    answer,
    in_order,
    rows_of,
    tasks_of,
)
from activity_embeddings.transformations.batch.executors.local import LocalExecutor
from activity_embeddings.transformations.batch.executors.partition import (
    Computation,
    Partition,
    Rows,
    Worker,
)
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.inference.litert import cores

WORTH_SECONDS = 20.0
"""Seconds of model calls from which on workers are started: that takes a second or two each."""
_CODE = (
    "from activity_embeddings.transformations.batch.executors.processes import be_worker; "
    "be_worker({})"
)


def worth_workers(partition: Partition, computation: Computation) -> bool:
    """Return whether computing a partition takes so long that starting workers is worth it.

    What LiteRT takes for a sequence was measured when the model was packaged. A model that
    TensorFlow runs is worth none: it uses all cores by itself, and takes more than a GB a process.
    """
    members, seconds = len(partition.events.member_ids), 0.0
    for name in partition.asked.models:
        of_one = computation.models[name].litert_seconds
        if of_one is None:
            return False
        seconds += of_one * members
    return seconds >= WORTH_SECONDS


class ProcessesExecutor:
    """An `Executor` of worker processes, started where the models are heavy.

    Where they are not, see `worth_workers`, partitions are computed in this process.

    Parameters
    ----------
    computation
        What all partitions share; every worker has a copy.
    workers
        How many; None: one a core.
    """

    def __init__(self, computation: Computation, workers: int | None = None) -> None:
        self._computation = computation
        self._workers = workers or cores()
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._processes: list[_Process] = []
        self._threads: ThreadPoolExecutor | None = None

    def run(self, partitions: Iterator[Partition]) -> Generator[Iterable[Rows]]:
        """See `Executor.run`."""
        first = next(partitions, None)
        if first is None:
            return
        started = self._threads is not None
        alone = self._workers < 2 or not worth_workers(first, self._computation)
        partitions = chain([first], partitions)
        del first
        if alone and not started:
            yield from LocalExecutor(self._computation).run(partitions)
            return
        threads = self._start()
        yield from in_order(
            tasks_of(partitions),
            # As bytes, so that what is waiting does not hold on to the events of its partition.
            start=lambda partition: threads.submit(self._call, pickle.dumps(partition, protocol=5)),
            fetch=_fetch,
            drop=Future.cancel,
            limit=lambda: TASKS_A_WORKER * self._workers,
        )

    def close(self) -> None:
        """See `Executor.close`."""
        for process in self._processes:
            process.end()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._idle, self._processes, self._threads = SimpleQueue(), [], None

    def _start(self) -> ThreadPoolExecutor:
        """Start the workers, unless they are there; return the threads that wait for them."""
        if self._threads is None:
            content = pickle.dumps(self._computation, protocol=5)
            self._processes = [_Process(content) for _ in range(self._workers)]
            for process in self._processes:
                self._idle.put(process)
            self._threads = ThreadPoolExecutor(self._workers, thread_name_prefix="workers")
        return self._threads

    def _call(self, partition: bytes) -> bytes:
        """Have an idle worker compute a partition."""
        process = self._idle.get()
        try:
            return process.answer(partition)
        finally:
            self._idle.put(process)


def _fetch(task: Future[bytes]) -> list[Rows]:
    """Return the rows of a task.

    Errors are made in the thread that calls this: there they know the command that runs.
    """
    try:
        content = task.result()
    except _Lost as lost:
        raise InvalidInput(
            "batch_engine: expected worker processes that last. Received: one that ended "
            f"({lost}). If it was for memory, have fewer `workers`"
        ) from lost
    return rows_of(pickle.loads(content))


class _Lost(Exception):
    """A worker process that has ended; says how."""


class _Process:
    """A worker process and the pipe to it."""

    def __init__(self, computation: bytes) -> None:
        self._pipe, theirs = Pipe()
        # Not by `multiprocessing`, whose processes import the `__main__` of the caller: the command
        # `feast`, which takes seconds, or a script that has no guard.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CODE.format(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        theirs.close()
        self._computation: bytes | None = computation

    def answer(self, partition: bytes) -> bytes:
        """Return what the worker answers."""
        try:
            if self._computation is not None:
                self._pipe.send_bytes(self._computation)
                self._computation = None
            self._pipe.send_bytes(partition)
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
    """Answer partitions with their rows, until nobody is at the other end.

    Parameters
    ----------
    pipe
        File descriptor of the connection.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the driver gets, too, and ends this
    one_thread()
    connection = Connection(pipe)
    with suppress(EOFError, BrokenPipeError):
        worker = Worker(pickle.loads(connection.recv_bytes()), threads=1)
        while True:
            partition = pickle.loads(connection.recv_bytes())
            connection.send_bytes(pickle.dumps(answer(worker, partition), protocol=5))


def one_thread() -> None:
    """Have libraries that are imported later use one thread, as a worker has one core."""
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = "1"
