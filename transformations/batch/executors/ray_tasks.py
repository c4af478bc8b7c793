"""Partitions that are computed by the machines of a Ray cluster.

Each is a task of one core, which has all that it needs with it: its events, and, by way of the
object store, the item vectors and the files of the models. So no machine but the driver's need
reach a source, a store, a feature repo or a bucket. A task whose worker or machine is lost is run
again by Ray; rows are written once, by the driver, which takes each task's rows once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import uuid
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from activity_embeddings.transformations.artifacts import cached
from activity_embeddings.transformations.batch.executors.base import (
    TASKS_A_WORKER,
    Answer,
    answer,
    in_order,
    rows_of,
    tasks_of,
)
from activity_embeddings.transformations.batch.executors.partition import (
    Computation,
    Partition,
    Rows,
    Worker,
)
from activity_embeddings.transformations.batch.executors.processes import one_thread
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.errors import (
    InvalidInput,
    StoreUnreachable,
    first_line,
)
from activity_embeddings.transformations.extras import require_extra

RETRIES = 10
"""How often a task is run again whose worker or machine was lost."""
SECONDS_TO_CONNECT = 10


@dataclass(frozen=True)
class Shipment:
    """A `Computation` and the files of its models, for machines that have none of them.

    Attributes
    ----------
    key
        Of this run.
    package
        The version of this package, which every machine should have.
    computation
        As the driver has it: its models lie in the driver's folders.
    files
        Of each model by its name: the content by the path within its folder.
    """

    key: str
    package: str
    computation: Computation
    files: dict[str, dict[str, bytes]]

    @classmethod
    def of(cls, computation: Computation) -> Shipment:
        """Return what is to be sent."""
        return cls(
            uuid.uuid4().hex,
            version("activity-embeddings"),
            computation,
            {name: _files_of(model.path) for name, model in computation.models.items()},
        )

    def unpack(self) -> Computation:
        """Return the computation with the models in folders of this machine.

        Raises
        ------
        InvalidInput
            This machine has another version of the package.
        """
        here = version("activity-embeddings")
        if here != self.package:
            raise InvalidInput(
                f"batch_engine: expected activity-embeddings {self.package} on every machine of "
                f"the Ray cluster, as where the run was started. Received: {here}"
            )
        models = {
            name: _in_folder(model, _unpacked(self.files[name]))
            for name, model in self.computation.models.items()
        }
        return replace(self.computation, models=models)


class RayExecutor:
    """An `Executor` of tasks of a Ray cluster.

    Parameters
    ----------
    computation
        What all partitions share.
    address
        Of the cluster, as `ray.init` takes it; "auto" for the one that this machine is part of.
    workers
        For how many cores tasks are kept ready; None: for all that the cluster has.

    Raises
    ------
    MissingExtra
        Ray is not installed.
    """

    def __init__(
        self, computation: Computation, address: str = "auto", workers: int | None = None
    ) -> None:
        require_extra("ray", "batch_engine: executor: ray")
        self._computation, self._address, self._workers = computation, address, workers
        self._shipment: Any = None
        self._connected_here = False

    def run(self, partitions: Iterator[Partition]) -> Generator[Iterable[Rows]]:
        """See `Executor.run`."""
        import ray

        self._connect()
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_answer)
        yield from in_order(
            tasks_of(partitions),
            start=lambda partition: task.remote(self._shipment, partition),
            fetch=_fetch,
            drop=ray.cancel,
            limit=lambda: TASKS_A_WORKER * (self._workers or _cores()),
        )

    def close(self) -> None:
        """See `Executor.close`."""
        import ray

        self._shipment = None  # frees what it takes in the object store
        if self._connected_here:
            ray.shutdown()
        self._connected_here = False

    def _connect(self) -> None:
        """Connect to the cluster, unless this process is, and put there what tasks share."""
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
        if self._shipment is None:
            self._shipment = ray.put(Shipment.of(self._computation))


def _require_listening(address: str) -> None:
    """Raise `OSError` where nobody listens at an address; Ray itself tries for many minutes.

    Where the address names no host and port, Ray finds out.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()


def _cores() -> int:
    """Return how many cores the cluster has, which may change while a run is under way."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _fetch(task: Any) -> list[Rows]:
    """Return the rows of a task."""
    import ray

    try:
        answered = ray.get(task)
    except ray.exceptions.RayError as error:
        raise InvalidInput(
            "batch_engine: expected a Ray cluster whose workers last, or can be replaced "
            f"{RETRIES} times. Received: {type(error).__name__}: {first_line(error)}"
        ) from error
    return rows_of(answered)


_kept: dict[str, Worker] = {}
"""The worker of the run that this process works for: Ray uses a process for many tasks."""


def _answer(shipment: Shipment, partition: Partition) -> Answer:
    """Compute a partition; what runs on the machines of the cluster."""
    try:
        if shipment.key not in _kept:
            one_thread()
            _kept.clear()
            _kept[shipment.key] = Worker(shipment.unpack(), threads=1)
    except InvalidInput as error:
        return [], error
    return answer(_kept[shipment.key], partition)


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
