"""Rows for requests of the on-demand views, in the one form that Feast takes in every case.

Feast infers the type of each request column from its values, before any of our code runs. It
refuses a column in which every list is empty, rows that do not all have the same keys, and columns
of mixed types; and it cuts datetimes to whole seconds. `entity_rows` avoids all four.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from feast.errors import RequestDataNotFoundInEntityRowsException

from transformations import names
from transformations.errors import InvalidInput, quote
from transformations.times import Time, parse_time, to_datetime

HINT = (
    f"{', '.join(names.RECENT_COLUMNS)} and {names.REQUEST_TIMESTAMP} should be in every row, "
    "as null where there is nothing: Feast cannot tell the type of a column of empty lists. In "
    "Python, transformations.entity_rows.entity_rows makes such rows"
)
NOBODY = "A request should name at least one entity, as a member. Received: none"
_CANNOT_INFER = "Couldn't infer value type from empty value"
_NOBODY = ("Missing join key values for keys", "pop from an empty set")


def entity_rows(
    member_ids: Iterable[int | str],
    recent: Mapping[Any, Sequence[tuple[int | str, str, Time]]] | None = None,
    *,
    request_timestamp: Time | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of a request, for `FeatureStore.get_online_features`.

    Parameters
    ----------
    member_ids : who is asked for.
    recent : (job id, action name, time) of what members did lately, by member id; members may be
        missing or have nothing. For times see `transformations.times.Time`.
    request_timestamp : the cut-off; None for the time at which the request is answered.

    Raises
    ------
    InvalidInput
        There are no members, of which Feast makes an error that does not say so; or a time is none.

    Examples
    --------
    >>> rows = entity_rows([7, 8], {7: [(42, "APPLY", "2024-03-01T12:00:00Z")]})
    >>> rows[0]["recent_job_ids"], rows[1]["recent_job_ids"]
    ([42], None)
    """
    recent = recent or {}
    rows = []
    for member in member_ids:
        events = recent.get(member) or []
        jobs, actions, times = zip(*events, strict=True) if events else ((), (), ())
        rows.append(
            {
                names.MEMBER_ID: member,
                names.RECENT_JOB_IDS: list(jobs) or None,
                names.RECENT_ACTIONS: list(actions) or None,
                names.RECENT_TIMESTAMPS: [
                    _as_text(time, member, names.RECENT_TIMESTAMPS) for time in times
                ]
                or None,
                names.REQUEST_TIMESTAMP: (
                    None
                    if request_timestamp is None
                    else _as_text(request_timestamp, member, names.REQUEST_TIMESTAMP)
                ),
            }
        )
    if not rows:
        raise InvalidInput(f"entity_rows: {NOBODY}")
    return rows


def _as_text(time: Time, member: int | str, column: str) -> str:
    """Return a time as an ISO string, which keeps microseconds all the way."""
    us = parse_time(time, f"entity_rows, member {quote(member)}: {column}")
    return time if isinstance(time, str) else to_datetime(us).isoformat()


def explain_refusals(app: FastAPI) -> None:
    """Make `feast serve` say what to send where Feast refuses a request before our code runs."""

    async def explain(request: Request, error: Exception) -> JSONResponse:
        hint = _hint(error)
        if hint is None:
            raise error
        return JSONResponse(status_code=422, content=f"{error}. {hint}")

    for refusal in (TypeError, KeyError, RequestDataNotFoundInEntityRowsException):
        app.add_exception_handler(refusal, explain)
    # The server has started: its chain of handlers is made again, with the new ones.
    app.middleware_stack = app.build_middleware_stack()


def _hint(error: Exception) -> str | None:
    """Return what to send instead, None for an error that is not a refusal of Feast's."""
    if isinstance(error, RequestDataNotFoundInEntityRowsException) or str(error) == _CANNOT_INFER:
        return HINT
    if isinstance(error, KeyError) and any(text in str(error) for text in _NOBODY):
        return NOBODY
    return None
