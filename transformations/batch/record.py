"""The record of a run: one JSON file, written when it begins and again when it ends.

    <feature repo>/data/runs/20240301T003000.123456Z.json

A record that says `running` and whose process is gone is that of a run that was killed.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from feast import RepoConfig
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from activity_embeddings.transformations.definitions.tags import in_repo
from activity_embeddings.transformations.files import make_folder, write_text
from activity_embeddings.transformations.times import to_datetime
from activity_embeddings.transformations.wording import counted, utc

RUNS = "data/runs"
"""Folder of the records in a feature repo, unless `batch_engine.runs` says another."""
RUNNING, PUBLISHED, FAILED, DRY_RUN = "running", "published", "failed", "dry run"
_VERSIONS = ("activity-embeddings", "feast", "pyarrow", "numpy", "ai-edge-litert")


class RunRecord:
    """What is known of a run so far.

    Parameters
    ----------
    folder
        Of the records.
    facts
        JSON values that are known when it begins.
    metrics
        File for the textfile collector of Prometheus' node_exporter; None: there is none.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], metrics: Path | None = None) -> None:
        self._metrics = metrics
        started = datetime.now(UTC)
        self._began = time.perf_counter()
        self._file = folder / f"{started:%Y%m%dT%H%M%S.%f}Z.json"
        self.facts: dict[str, Any] = {
            "outcome": RUNNING,
            "started": started.isoformat(),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "versions": {name: version(name) for name in _VERSIONS}
            | {"python": platform.python_version()},
            **facts,
        }

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write the record before and after the body, which is the run."""
        make_folder(self._file.parent)
        self._write()
        try:
            yield
        except BaseException as error:
            kind = type(error).__name__
            self._end(FAILED, error={"kind": kind, "message": str(error)})
            raise
        self._end(DRY_RUN if self.facts.get("dry_run") else PUBLISHED)

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
            write_metrics(self._metrics, self.facts, read_records(self._file.parent))

    def _write(self) -> None:
        write_text(self._file, json.dumps(self.facts, indent=1, default=str) + "\n")


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


def records_folder(config: RepoConfig) -> Path:
    """Return the folder of the records of a feature repo."""
    engine = config.batch_engine_config
    runs = engine.get("runs", RUNS) if isinstance(engine, dict) else RUNS
    return in_repo(runs, config.repo_path)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a folder, oldest first; those of processes that are gone say so."""
    records = []
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["outcome"] == RUNNING and not _is_alive(record):
            record["outcome"] = FAILED
            record["error"] = {"kind": "Killed", "message": "its process ended without a word"}
        records.append(record)
    return records


def forget_messages(folder: Path) -> None:
    """Take out of the records what failed runs said, since it may name a member."""
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if "error" in record:
            record["error"]["message"] = "taken out when members were forgotten"
            write_text(file, json.dumps(record, indent=1) + "\n")


def last_failure_first(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records newest first, but the newest that failed before all others."""
    newest = sorted(records, key=lambda record: record["started"], reverse=True)
    failed = [record for record in newest if record["outcome"] == FAILED][:1]
    return [*failed, *(record for record in newest if record not in failed)]


def record_line(record: Mapping[str, Any]) -> str:
    """Return a record in one line."""
    started = utc(datetime.fromisoformat(record["started"]).replace(microsecond=0))
    said = record["error"]["message"] if "error" in record else _published(record)
    seconds = f"{record['seconds']:,.1f} s" if "seconds" in record else ""
    return f"{started}  {record['outcome']:<9}  {seconds:>9}  {' '.join(said.split())}"


def _published(record: Mapping[str, Any]) -> str:
    parts = []
    for step in record.get("steps", []):
        moments = step.get("snapshots") or []
        last = f" as of {utc(to_datetime(moments[-1]))}" if moments else ""
        rows = next((step[name] for name in ("rows", "new", "given") if name in step), 0)
        views = step["views"]
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
