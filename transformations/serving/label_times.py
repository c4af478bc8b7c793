"""The times of labels in a training join of a request-time view: its cut-offs.

Feast joins labels by the column `event_timestamp` of their frame, or else by its one column of
datetimes, and hands the function of an on-demand view the joined table without saying which column
that was. A join must never take now for the cut-off: what happened after the label would be known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from feast.infra.offline_stores.offline_store import RetrievalJob

from activity_embeddings.transformations import names
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.feast_compat.joins import unknown_columns
from activity_embeddings.transformations.serving.request import InvalidRequest
from activity_embeddings.transformations.times import parse_time


def label_times(inputs: Mapping[str, Sequence[Any]], job: RetrievalJob | bool) -> list[int]:
    """Return the time of each row's label in microseconds.

    Parameters
    ----------
    inputs
        Columns of the joined table by name.
    job
        The join, see `feast_compat.joins.feast_caller`.

    Raises
    ------
    InvalidRequest
        Which column holds the times is not known, or one of them is no time, as null.
    """
    column = _label_column(inputs, job)
    try:
        return [
            parse_time(time, f"training join, row {row}: the label's time {column!r}")
            for row, time in enumerate(inputs[column])
        ]
    except InvalidInput as error:
        raise InvalidRequest(str(error)) from error


def _label_column(inputs: Mapping[str, Sequence[Any]], job: RetrievalJob | bool) -> str:
    """Return the column of the labels' times: the one that is neither asked for nor joined."""
    candidates = unknown_columns(inputs, job) if isinstance(job, RetrievalJob) else None
    if candidates is None:
        # The job does not say what it was asked for.
        candidates = [name for name in inputs if name == names.EVENT_TIMESTAMP]
    if names.EVENT_TIMESTAMP in candidates:
        return names.EVENT_TIMESTAMP
    if len(candidates) != 1:
        raise InvalidRequest(
            "training join: expected the labels to have one column of times, best called "
            f"{names.EVENT_TIMESTAMP}. Received: the columns {', '.join(inputs)}, of which "
            f"{', '.join(candidates) or 'none'} could be it"
        )
    return candidates[0]
