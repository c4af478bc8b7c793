"""The job of a training join on DuckDB: an Ibis expression; seen in Feast 0.67.

Feast runs the expression when the job is asked for its rows, and has no way to add to it before.
"""

from __future__ import annotations

from typing import Any

from feast.infra.offline_stores.offline_store import RetrievalJob


def order_by_column(job: RetrievalJob, column: str) -> None:
    """Order the rows of a join by a column of its request, and leave that column out."""
    of_ibis: Any = job
    of_ibis.table = of_ibis.table.order_by(column).drop(column)
    of_ibis.metadata.keys.remove(column)
