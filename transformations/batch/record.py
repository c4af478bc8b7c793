"""The record of a run: written when it begins, when it has committed a part, and when it ends.

It lies where the snapshots lie, so that every machine sees the runs of all. A record that says
`running` and whose process is gone is that of a run that was killed.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import resource
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from feast import FeatureView, RepoConfig
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from activity_embeddings.transformations.names import Role, Tag
from activity_embeddings.transformations.offline.sinks.base import SnapshotSink
from activity_embeddings.transformations.offline.sinks.places import sink_of
from activity_embeddings.transformations.times import to_datetime
from activity_embeddings.transformations.wording import counted, utc

_log = logging.getLogger(__name__)

RUNNING, PUBLISHED, FAILED, DRY_RUN = "running", "published", "failed", "dry run"
_PACKAGES = ("activity-embeddings", "feast", "pyarrow", "numpy", "ai-edge-litert")


class RunRecord:
    """What is known of a run so far.

    Parameters
    ----------
    sink
        Where records are kept; None keeps none.
    facts
        JSON values that are known when it begins.
    metrics
        File for the textfile collector of Prometheus' node_exporter; None: there is none.
    """

    def __init__(
        self, sink: SnapshotSink | None, facts: Mapping[str, Any], metrics: Path | None = None
    ) -> None:
        self._metrics, self._sink = metrics, sink
        started = datetime.now(UTC)
        self._began = time.perf_counter()
        self._name = f"{started:%Y%m%dT%H%M%S.%f}Z"
        self.facts: dict[str, Any] = {
            "outcome": RUNNING,
            "started": started.isoformat(),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "versions": _versions(),
            **facts,
        }

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write the record before and after the body, which is the run."""
        self._write()
        try:
            yield
        except BaseException as error:
            kind = type(error).__name__
            try:
                self._end(FAILED, error={"kind": kind, "message": str(error)})
            except Exception:  # as where the store is gone, which is why the run failed
                _log.warning("the record of this run could not be written", exc_info=True)
            raise
        self._end(DRY_RUN if self.facts.get("dry_run") else PUBLISHED)

    def add_committed(self, view: str, *parts: str) -> None:
        """Say that parts of a backfill are committed, see `left_committed`.

        Called without a part before the first of a run is committed: from then on no record of an
        earlier run says what the snapshots are made of.
        """
        self.facts.setdefault("committed", {}).setdefault(view, []).extend(parts)
        self._write()

    def left_committed(self, view: str) -> frozenset[str]:
        """Return the parts that the run before of a view has committed, if it did not end well.

        Runs that were refused, or ended before they had anything to say of it, are passed over:
        they have committed nothing.

        The name of a part holds all that it is made of, so that one of the same name need not be
        made again. The caller has the lock of the view: that run is not under way.
        """
        before = [] if self._sink is None else read_records(self._sink)
        for record in reversed(before):
            about = view in record.get("views", []) and record["started"] < self.facts["started"]
            if not about or record.get("dry_run"):
                continue
            if record["outcome"] == PUBLISHED:
                break
            if (committed := record.get("committed", {}).get(view)) is not None:
                return frozenset(committed)
        return frozenset()

    def _end(self, outcome: str, **more: Any) -> None:
        scale = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
        self.facts |= {
            "outcome": outcome,
            "ended": datetime.now(UTC).isoformat(),
            "seconds": round(time.perf_counter() - self._began, 3),
            "peak_memory_bytes": peak,
            **more,
        }
        self._write()
        if self._metrics is not None:
            before = [] if self._sink is None else read_records(self._sink)
            write_metrics(self._metrics, self.facts, before)

    def _write(self) -> None:
        if self._sink is not None:
            self._sink.write_record(self._name, json.loads(json.dumps(self.facts, default=str)))


def write_metrics(
    file: Path, record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> None:
    """Write what a run did as gauges of Prometheus, whole or not at all.

    Parameters
    ----------
    file
        Its name should end in `.prom`.
    record
        Of the run.
    records
        Of all runs, this one among them: by the last that published one sees that none did since.
    """
    registry, steps = CollectorRegistry(), record.get("steps", [])

    def gauge(name: str, says: str, value: float, **labels: str) -> None:
        full = f"activity_embeddings_{name}"
        known = gauges.get(full) or Gauge(full, says, ["project", *labels], registry=registry)
        gauges[full] = known
        known.labels(project=record["project"], **labels).set(value)

    gauges: dict[str, Gauge] = {}
    published = [r["ended"] for r in records if r["outcome"] == PUBLISHED]
    if published:
        moment = datetime.fromisoformat(max(published)).timestamp()
        gauge("last_publish_timestamp_seconds", "When the last run published.", moment)
    gauge("run_failed", "Whether the last run failed.", record["outcome"] == FAILED)
    gauge("run_seconds", "What the last run took.", record["seconds"])
    gauge("run_peak_memory_bytes", "What the last run held.", record["peak_memory_bytes"])
    rows = sum(step.get("rows", step.get("new", 0)) for step in steps)
    gauge("run_rows", "Rows that the last run wrote offline.", rows)
    for verdict in (verdict for step in steps for verdict in step.get("guards", [])):
        labels = {"guard": verdict["guard"], "view": verdict["view"]}
        gauge("guard", "What a guard found in the last run.", verdict["received"], **labels)
        gauge("guard_limit", "What it accepts.", verdict["limit"], **labels)
    write_to_textfile(str(file), registry)


def sink_of_records(views: Iterable[FeatureView], config: RepoConfig) -> SnapshotSink | None:
    """Return the sink beside which the records of a feature repo are kept.

    Parameters
    ----------
    views
        All of the feature repo. The first one of sequences, by name, says where.
    config
        Of the feature repo.
    """
    ours = [view for view in views if view.tags.get(Tag.ROLE) == Role.SEQUENCE]
    return sink_of(min(ours, key=lambda view: view.name), config) if ours else None


def read_records(sink: SnapshotSink) -> list[dict[str, Any]]:
    """Return the records beside a sink, oldest first; those of processes that are gone say so."""
    records = []
    for record in sink.records().values():
        if record["outcome"] == RUNNING and not _is_alive(record):
            record["outcome"] = FAILED
            record["error"] = {"kind": "Killed", "message": "its process ended without a word"}
        records.append(record)
    return records


def forget_messages(sink: SnapshotSink) -> None:
    """Take out of the records what failed runs said, since it may name a member."""
    taken_out = "taken out when members were forgotten"
    for name, record in sink.records().items():
        if record.get("error", {}).get("message", taken_out) != taken_out:
            record["error"]["message"] = taken_out
            sink.write_record(name, record)


def last_failure_first(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records newest first, but the newest that failed before all others."""
    newest = sorted(records, key=lambda record: record["started"], reverse=True)
    failed = [record for record in newest if record["outcome"] == FAILED][:1]
    return [*failed, *(record for record in newest if record not in failed)]


def record_line(record: Mapping[str, Any]) -> str:
    """Return a record in one line."""
    started = f"{datetime.fromisoformat(record['started']):%Y-%m-%d %H:%M:%S} UTC"
    said = record["error"]["message"] if "error" in record else _published(record)
    seconds = f"{record['seconds']:,.1f} s" if "seconds" in record else ""
    return f"{started}  {record['outcome']:<9}  {seconds:>9}  {' '.join(said.split())}"


def _published(record: Mapping[str, Any]) -> str:
    parts = []
    for step in record.get("steps", []):
        moments = step.get("snapshots") or []
        last = f" as of {utc(to_datetime(moments[-1]))}" if moments else ""
        rows = next((step[name] for name in ("rows", "new", "given") if name in step), 0)
        views = list(step["views"])
        named = views[0] if len(views) == 1 else counted(len(views), "view")
        parts.append(f"{named}{last}: {counted(rows, 'row')}")
    return "; ".join(parts)


def _is_alive(record: Mapping[str, Any]) -> bool:
    if record["host"] != socket.gethostname():
        return True  # nobody can tell from here
    try:
        os.kill(record["process"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@cache
def _versions() -> Mapping[str, str]:
    """Return what is installed; to look into the files of each package takes milliseconds."""
    return {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()}
