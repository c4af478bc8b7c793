"""Rows that are committed, written to the online store by workers.

The driver reads them from where they are committed and hands each worker a part, as Arrow; the
worker makes the bytes of the store, writes them and reads the answers. So a worker need reach the
online store alone. It gets the configuration of the feature repo, with what that says to
connect by.

No part shares a key with another, and a part that is written twice leaves what it left the first
time. A worker that is lost has taken nothing along: its part is written again. Where workers cannot
write, the driver writes all that is left, and says so. Either way it knows that every part is
written before it says how far the online store has followed.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from typing import Any, ClassVar, Self

import pyarrow as pa
from feast import FeatureView, RepoConfig

from activity_embeddings.transformations.batch.executors.base import (
    NewWorkers,
    Work,
    Workers,
    in_order,
)
from activity_embeddings.transformations.errors import InvalidInput, first_line
from activity_embeddings.transformations.feast_compat.stores import new_online_store
from activity_embeddings.transformations.logs import reports
from activity_embeddings.transformations.online.base import KeepMerge, RowStore
from activity_embeddings.transformations.online.stores import row_store

WORTH_SECONDS = 20.0
"""Seconds that the rest of a view's rows would take the driver, from which on workers write them:
each imports Feast first, which takes seconds."""


@dataclass(frozen=True)
class Writing:
    """The duty to write parts.

    Attributes
    ----------
    config
        Of the feature repo.
    feast
        The version of Feast, which makes what is stored.
    """

    needs_feast: ClassVar[bool] = True

    config: RepoConfig
    feast: str

    @classmethod
    def of(cls, config: RepoConfig) -> Writing:
        """Return the duty, as this process would do it."""
        return cls(config, version("feast"))

    def begin(self) -> Work:
        """See `Duty.begin`; a task is a `Part`, and has no result."""
        here = version("feast")
        if here != self.feast:
            raise InvalidInput(
                f"batch_engine: expected Feast {self.feast} on every machine that writes to the "
                f"online store, as where the run was started. Received: {here}"
            )
        rows = row_store(self.config, new_online_store(self.config))
        return lambda part: rows.publish(part.view, part.batch(), part.keep)


@dataclass(frozen=True)
class Part:
    """Rows of a view that are written together, in a form that travels.

    Attributes
    ----------
    view, keep
        As those of `RowStore.publish`.
    stream
        The batch, as a stream of Arrow.
    """

    view: FeatureView
    keep: KeepMerge | None
    stream: pa.Buffer

    @classmethod
    def of(cls, view: FeatureView, batch: pa.RecordBatch, keep: KeepMerge | None) -> Part:
        """Return a copy of a batch."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        return cls(view, keep, sink.getvalue())

    def batch(self) -> pa.RecordBatch:
        """Return the rows."""
        with pa.ipc.open_stream(self.stream) as stream:
            return stream.read_next_batch()


class PartWriter:
    """Writes parts of views, by workers where that takes long: a `WriteParts`.

    Parameters
    ----------
    rows
        Of the online store.
    new_workers
        Makes workers; None: this process writes everything.

    Attributes
    ----------
    by_workers
        How many rows workers have written.
    """

    def __init__(self, rows: RowStore, new_workers: NewWorkers | None = None) -> None:
        self._rows = rows
        self._new_workers = new_workers if rows.remote else None
        self._workers: Workers | None = None
        self.by_workers = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._workers is not None:
            self._workers.close()
        self._workers = None

    def __call__(
        self,
        view: FeatureView,
        parts: Iterator[pa.RecordBatch],
        keep: KeepMerge | None,
        count: int,
    ) -> Generator[int]:
        """See `WriteParts`."""
        written, spent = 0, 0.0
        for part in parts:
            if self._new_workers is not None and self._is_worth(count - written, written, spent):
                with closing(self._by_workers(view, chain([part], parts), keep)) as sizes:
                    yield from sizes
                return
            started = time.perf_counter()
            self._rows.publish(view, part, keep)
            spent += time.perf_counter() - started
            written += len(part)
            yield len(part)
            del part  # before the next is read

    def _is_worth(self, left: int, written: int, spent: float) -> bool:
        """Return whether workers should write the rows that are left, by what others took."""
        if self._workers is not None:
            return True
        return written > 0 and left * spent / written >= WORTH_SECONDS

    def _by_workers(
        self, view: FeatureView, parts: Iterator[pa.RecordBatch], keep: KeepMerge | None
    ) -> Generator[int]:
        """Have workers write parts; this process writes those that they do not."""
        assert self._new_workers is not None
        workers = self._workers = self._workers or self._new_workers(Writing.of(self._rows.config))

        def start(batch: pa.RecordBatch) -> tuple[Part | pa.RecordBatch, int, Any]:
            size = len(batch)
            if self._new_workers is None:
                return batch, size, None
            part = Part.of(view, batch, keep)
            try:
                return part, size, workers.start(part)
            except InvalidInput as error:
                self._write_alone(error)
                return batch, size, None

        def fetch(started: tuple[Part | pa.RecordBatch, int, Any]) -> int:
            part, size, under_way = started
            if under_way is not None:
                try:
                    workers.fetch(under_way)
                    self.by_workers += size
                    return size
                except Exception as error:
                    self._write_alone(error)
            batch = part.batch() if isinstance(part, Part) else part
            self._rows.publish(view, batch, keep)
            return size

        def drop(started: tuple[Part | pa.RecordBatch, int, Any]) -> None:
            if started[2] is not None:
                workers.drop(started[2])

        def limit() -> int:
            return workers.limit() if self._new_workers is not None else 1

        yield from in_order(parts, start, fetch, drop, limit)

    def _write_alone(self, error: Exception) -> None:
        """Start no more tasks, and say why."""
        if self._new_workers is not None:
            reports.warning(
                "online store: workers do not write, so that this process does. Received: %s: %s",
                type(error).__name__,
                first_line(error),
            )
        self._new_workers = None
