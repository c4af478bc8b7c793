"""Workers that are the machines of a Ray cluster.

A task takes one core, and a share of a GPU where a model wants one. It has all that it needs with
it: a partition its events, and, by way of the object store, the item vectors and the files of the
models. So no machine but the driver's need reach a source, a feature repo, a bucket or a place of
snapshots. A task whose worker or machine is lost is run again by Ray; the driver takes each task's
result once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from activity_embeddings.transformations.artifacts import cached
from activity_embeddings.transformations.batch.executors.base import (
    TASKS_A_WORKER,
    Answer,
    Computing,
    Duty,
    Work,
    answer,
    computed,
    result_of,
)
from activity_embeddings.transformations.batch.executors.partition import (
    Computation,
    Partition,
    Rows,
)
from activity_embeddings.transformations.batch.executors.processes import one_thread
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.errors import (
    InvalidInput,
    StoreUnreachable,
    first_line,
)
from activity_embeddings.transformations.extras import require_extra
from activity_embeddings.transformations.logs import reports

RETRIES = 10
"""How often a task is run again whose worker or machine was lost."""
SECONDS_TO_CONNECT = 10
OF_A_GPU = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "NVIDIA_TF32_OVERRIDE": "0"}
"""What TensorFlow reads where it has a GPU: to take no more of its memory than it needs, since
others may share it, and to keep the precision of float32."""
PACKAGE = "activity-embeddings"


@dataclass(frozen=True)
class Shipment:
    """The duty to compute partitions, for machines that have none of the models' files.

    Attributes
    ----------
    computation
        As the driver has it: its models lie in the driver's folders.
    files
        Of each model by its name: the content by the path within its folder.
    """

    needs_feast: ClassVar[bool] = False

    computation: Computation
    files: dict[str, dict[str, bytes]]

    @classmethod
    def of(cls, computation: Computation) -> Shipment:
        """Return what is to be sent."""
        return cls(
            computation,
            {name: _files_of(model.path) for name, model in computation.models.items()},
        )

    def begin(self) -> Work:
        """See `Duty.begin`: as `Computing` does, with the models in folders of this machine."""
        models = {
            name: _in_folder(model, _unpacked(self.files[name]))
            for name, model in self.computation.models.items()
        }
        return Computing(replace(self.computation, models=models)).begin()


class RayExecutor:
    """An `Executor` of tasks of a Ray cluster.

    Parameters
    ----------
    computation
        What all partitions share.
    address, workers
        As those of `RayWorkers`.

    Raises
    ------
    MissingExtra
        Ray is not installed.
    """

    def __init__(
        self, computation: Computation, address: str = "auto", workers: int | None = None
    ) -> None:
        gpu = max((model.gpu for model in computation.models.values()), default=0.0)
        self._workers = RayWorkers(lambda: Shipment.of(computation), address, workers, gpu)

    def run(self, partitions: Iterator[Partition]) -> Generator[Iterable[Rows]]:
        """See `Executor.run`."""
        yield from computed(self._workers, partitions)

    def close(self) -> None:
        """See `Executor.close`."""
        self._workers.close()


class RayWorkers:
    """`Workers` that are the cores of a Ray cluster.

    Parameters
    ----------
    new_duty
        Makes their duty when the first task is started.
    address
        Of the cluster, as `ray.init` takes it; "auto" for the one that this machine is part of.
    workers
        For how many cores tasks are kept ready; None: for all that the cluster has.
    gpu
        Share of a GPU that a task takes beside its core, where the cluster has any GPU.

    Raises
    ------
    MissingExtra
        Ray is not installed.
    """

    def __init__(
        self,
        new_duty: Callable[[], Duty],
        address: str = "auto",
        workers: int | None = None,
        gpu: float = 0.0,
    ) -> None:
        require_extra("ray", "batch_engine: executor: ray")
        self._new_duty, self._address, self._workers = new_duty, address, workers
        self._gpu = gpu
        self._answer: Callable[[Any], Any] | None = None
        self._connected_here = False

    def start(self, task: Any) -> Any:
        """See `Workers.start`."""
        if self._answer is None:
            self._answer = self._begin()
        return self._answer(task)

    def fetch(self, started: Any) -> Any:
        """See `Workers.fetch`."""
        import ray

        try:
            answered = ray.get(started)
        except ray.exceptions.RayError as error:
            raise InvalidInput(
                "batch_engine: expected a Ray cluster whose workers last, or can be replaced "
                f"{RETRIES} times. Received: {type(error).__name__}: {first_line(error)}"
            ) from error
        return result_of(answered)

    def drop(self, started: Any) -> None:
        """See `Workers.drop`."""
        import ray

        ray.cancel(started)

    def limit(self) -> int:
        """See `Workers.limit`."""
        return TASKS_A_WORKER * (self._workers or _at_once(self._gpu))

    def close(self) -> None:
        """See `Workers.close`."""
        import ray

        self._answer = None  # frees what the duty takes in the object store
        if self._connected_here:
            ray.shutdown()
        self._connected_here = False

    def _begin(self) -> Callable[[Any], Any]:
        """Connect to the cluster, unless this process is; return what hands a task to it."""
        import ray

        if not ray.is_initialized():
            try:
                _require_listening(self._address)
                ray.init(
                    address=self._address,
                    configure_logging=False,
                    logging_level=logging.WARNING,
                    log_to_driver=False,
                )
            except (OSError, RuntimeError, ValueError) as error:
                raise StoreUnreachable(
                    f"batch_engine: expected a Ray cluster at address {self._address!r}. "
                    f"Received: {type(error).__name__}: {first_line(error)}"
                ) from error
            self._connected_here = True
        if self._gpu and not _has("GPU"):
            reports.warning(
                "batch_engine: expected a Ray cluster with GPUs, as a model's manifest asks for. "
                "Received: one without; processors compute its rows"
            )
            self._gpu = 0.0
        remote = ray.remote(num_cpus=1, num_gpus=self._gpu, max_retries=RETRIES)(_answer)
        # In a list, of which Ray fetches nothing by itself: a worker needs it once.
        sent = [ray.put(self._new_duty())]
        key, package = uuid.uuid4().hex, version(PACKAGE)
        return lambda task: remote.remote(key, package, sent, task)


def _require_listening(address: str) -> None:
    """Raise `OSError` where nobody listens at an address; Ray itself tries for many minutes.

    Where the address names no host and port, Ray finds out.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()


def _at_once(gpu: float) -> int:
    """Return how many tasks the cluster has room for, which may change while a run is under way."""
    cores = _has("CPU")
    return max(1, int(min(cores, _has("GPU") / gpu) if gpu else cores))


def _has(resource: str) -> float:
    """Return how much of a resource the cluster has."""
    import ray

    return ray.cluster_resources().get(resource, 0.0)


_begun: dict[str, Work] = {}
"""The duty that this process has begun, by its key: Ray uses a process for many tasks."""


def _answer(key: str, package: str, sent: list[Any], task: Any) -> Answer:
    """Do a task; what runs on the machines of the cluster.

    Parameters
    ----------
    key
        Of the duty.
    package
        The version of this package that the driver has.
    sent
        The duty, in the object store.
    task
        What is to be done.
    """
    if key not in _begun:
        _begun.clear()
        begun, error = answer(lambda _: _begin(package, sent), None)
        if error is not None:
            return None, error
        _begun[key] = begun
    return answer(_begun[key], task)


def _begin(package: str, sent: list[Any]) -> Work:
    """Begin a duty that was sent, unless this machine has another version of this package."""
    import ray

    here = version(PACKAGE)
    if here != package:
        raise InvalidInput(
            f"batch_engine: expected activity-embeddings {package} on every machine of the Ray "
            f"cluster, as where the run was started. Received: {here}"
        )
    one_thread()
    for setting, value in OF_A_GPU.items():
        os.environ.setdefault(setting, value)
    return ray.get(sent[0]).begin()


def _files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder, by their paths within it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def _unpacked(files: dict[str, bytes]) -> Path:
    """Return a folder of this machine that has these files; see `artifacts.cached`."""
    content = hashlib.sha256()
    for name, data in files.items():
        content.update(repr((name, len(data))).encode())
        content.update(data)

    def write(folder: Path) -> None:
        for name, data in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)

    return cached(f"model-{content.hexdigest()}", write)


def _in_folder(model: ModelDescription, folder: Path) -> ModelDescription:
    """Return a model that lies in another folder."""
    converted = model.converted
    if converted is not None:
        file = folder / converted.path.relative_to(model.path)
        converted = replace(converted, path=file)
    return replace(model, path=folder, converted=converted)
