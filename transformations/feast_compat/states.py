"""Lifecycle states in the registry: views of ours stay in the one that Feast always serves.

Feast keeps a lifecycle state of every view in its registry, and its online reads refuse a view that
is MATERIALIZING, or whose last run failed (`feast.utils`, 0.64 to 0.67). It sets that state before
the engine is called, but only for a view whose state is not STATE_UNSPECIFIED. So views of ours
keep that state, which Feast takes for "served": it leaves them alone before, while and after a run.
Feast has no public way to write STATE_UNSPECIFIED, so the registry's messages are edited here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from feast import FeatureView
from feast.feature_view import FeatureViewState
from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.registry.base_registry import BaseRegistry
from feast.infra.registry.file import FileRegistryStore
from feast.infra.registry.registry import Registry
from feast.infra.registry.sql import SqlRegistry, feature_views
from feast.protos.feast.core.FeatureView_pb2 import FeatureView as FeatureViewProto
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from google.protobuf.message import DecodeError
from sqlalchemy import select, update

READ_PATIENCE = 5.0
"""Seconds to wait for a registry file that another process is writing."""

ABANDONED = 60.0
"""Seconds after which a file that was written aside is that of a process that was killed."""

Edit: TypeAlias = Callable[[FeatureViewProto], None]


@contextmanager
def kept_served(registry: BaseRegistry, tasks: Sequence[MaterializationTask]) -> Iterator[None]:
    """Keep the views of tasks in the state that Feast serves while the body runs, or if it fails.

    Another state comes from Feast's server, which reserves MATERIALIZING for `POST /materialize`
    before it runs, from runs of other engines, and from runs of those that were killed.

    A registry that is neither a file nor a database keeps Feast's states.
    """
    if not _edit_views(registry, tasks, _serve):
        yield
        return
    for task in tasks:
        task.feature_view.state = FeatureViewState.STATE_UNSPECIFIED
    try:
        yield
    except Exception:
        for task in tasks:
            keep_rollback_out(task.feature_view)
        raise


def keep_rollback_out(view: FeatureView) -> None:
    """Keep Feast from putting a view of a failed run back into a state that it does not serve.

    `FeatureStore._rollback_fv_states` would write GENERATED for a view that it found MATERIALIZING.
    It passes over an object that has no state; nobody uses this one after the run.
    """
    if hasattr(view, "state"):
        del view.state


def record_materialization(registry: BaseRegistry, tasks: Sequence[MaterializationTask]) -> None:
    """Record the intervals of tasks in one commit; their views stay in the state Feast serves.

    A registry that is neither a file nor a database records them as Feast does.
    """
    intervals = {task.feature_view.name: (task.start_time, task.end_time) for task in tasks}

    def add_interval(view: FeatureViewProto) -> None:
        interval = view.meta.materialization_intervals.add()
        start, end = intervals[view.spec.name]
        interval.start_time.FromDatetime(start)
        interval.end_time.FromDatetime(end)
        view.meta.last_updated_timestamp.FromDatetime(datetime.now(UTC))
        _serve(view)

    if not _edit_views(registry, tasks, add_interval):
        record_as_feast(registry, tasks)


def record_as_feast(registry: BaseRegistry, tasks: Sequence[MaterializationTask]) -> None:
    """Record the intervals of tasks as Feast does for an engine that leaves it to Feast."""
    for task in tasks:
        registry.apply_materialization(
            task.feature_view, task.project, task.start_time, task.end_time
        )


def _serve(view: FeatureViewProto) -> None:
    view.meta.ClearField("state")


def _edit_views(registry: BaseRegistry, tasks: Sequence[MaterializationTask], edit: Edit) -> bool:
    """Edit the views of tasks in one commit; return whether such a registry can be edited."""
    if not tasks:
        return True
    project, names = tasks[0].project, {task.feature_view.name for task in tasks}
    if isinstance(registry, Registry):
        _edit_file(registry, project, names, edit)
    elif isinstance(registry, SqlRegistry):
        _edit_rows(registry, project, names, edit)
    else:
        return False
    return True


def _edit_rows(registry: SqlRegistry, project: str, names: Collection[str], edit: Edit) -> None:
    """Edit views of a database.

    `SqlRegistry.apply_feature_view` would not: it takes views that differ in state alone for equal.
    """
    column = feature_views.c.feature_view_proto
    with registry.write_engine.begin() as connection:
        for name in sorted(names):
            row = (
                feature_views.c.feature_view_name == name,
                feature_views.c.project_id == project,
            )
            # Locked where the database can: another writer of the row waits.
            stored = connection.execute(select(column).where(*row).with_for_update()).scalar()
            if stored is None:
                continue  # somebody has deleted the view in the meantime
            view = FeatureViewProto.FromString(stored)
            edit(view)
            if view != FeatureViewProto.FromString(stored):
                values = {
                    column.name: view.SerializeToString(),
                    "last_updated_timestamp": int(time.time()),
                }
                connection.execute(update(feature_views).where(*row).values(values))
    registry.refresh(project)


def _edit_file(registry: Registry, project: str, names: Collection[str], edit: Edit) -> None:
    """Edit views of a registry that is one file, local or in an object store.

    `Registry.apply_feature_view` would not: it leaves STATE_UNSPECIFIED and intervals out.
    """
    before = _current(registry, project)
    after = RegistryProto()
    after.CopyFrom(before)
    for view in after.feature_views:
        if view.spec.project == project and view.spec.name in names:
            edit(view)
    if after == before:
        return
    # Other threads read the one that is there; they get the edited one as a whole.
    registry.cached_registry_proto = after
    store = registry._registry_store
    if not isinstance(store, FileRegistryStore) or not _replace(store._filepath, after):
        registry.commit()


def _current(registry: Registry, project: str) -> RegistryProto:
    """Return the registry as it is now, and not as this process had read it before its work.

    Feast empties the file before it writes it, so that a reader in between finds nothing.
    """
    deadline = time.monotonic() + READ_PATIENCE
    while True:
        late = time.monotonic() > deadline
        try:
            registry.refresh(project)
        except DecodeError:
            if late:
                raise
        else:
            current = registry.cached_registry_proto
            if late or any(each.spec.name == project for each in current.projects):
                return current
        time.sleep(0.05)


def _replace(path: Path, proto: RegistryProto) -> bool:
    """Put a registry file in the place of another, which no reader ever sees in part.

    Feast's `FileRegistryStore` empties the file and then writes it. Returns False where that is the
    only way: in a folder that takes no second file, or where the file is mounted alone.
    """
    target = path.resolve()
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    proto.version_id = str(uuid.uuid4())
    proto.last_updated.FromDatetime(datetime.now(UTC))
    try:
        for other in target.parent.glob(f".{target.name}.{'[0-9a-f]' * 32}"):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                if time.time() - other.stat().st_mtime > ABANDONED:
                    other.unlink()
        with aside.open("wb") as file:
            file.write(proto.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(target, aside)
        aside.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EBUSY):
            return False
        raise
    return True
