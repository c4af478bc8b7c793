"""The connection and the join of Feast's PostgreSQL offline store; seen in Feast 0.67.

`_get_conninfo` and `_get_conn_kwargs` alone know how Feast makes a connection of its settings. The
job of a join fetches every row as Python objects, gives moments without their zone, and knows no
order; its query runs elsewhere as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLRetrievalJob,
)
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.utils.postgres.connection_utils import _get_conn_kwargs, _get_conninfo
from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig
from psycopg.conninfo import make_conninfo


def connection_string(settings: PostgreSQLConfig) -> str:
    """Return what libpq connects with: that with which Feast does."""
    more: dict[str, Any] = {
        **_get_conn_kwargs(settings),
        "keepalives_idle": settings.keepalives_idle,
    }
    return make_conninfo(
        _get_conninfo(settings), **{key: value for key, value in more.items() if value is not None}
    )


def with_result(
    job: RetrievalJob, run: Callable[[str], pa.Table], columns: list[str] | None = None
) -> RetrievalJob:
    """Return a job of the PostgreSQL store with another way to run its query.

    Parameters
    ----------
    job
        The store's own.
    run
        Takes the query and returns the result.
    columns
        What the result has of the request, but for the time of labels; None: as the job says.
    """
    assert isinstance(job, PostgreSQLRetrievalJob)
    metadata = job.metadata
    if columns is not None and metadata is not None:
        metadata.keys = columns
    return _Job(
        query=job._query_generator,
        config=job.config,
        full_feature_names=job.full_feature_names,
        on_demand_feature_views=job.on_demand_feature_views,
        metadata=metadata,
    ).runs(run)


class _Job(PostgreSQLRetrievalJob):
    def runs(self, run: Callable[[str], pa.Table]) -> _Job:
        """Run the query so."""
        self._run = run
        return self

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with self._query_generator() as query:
            return self._run(query)
