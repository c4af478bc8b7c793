"""Rows for requests of the on-demand views, in the one form that Feast takes in every case.

Feast infers the type of each request column from its values, before any of our code runs. It
refuses a column in which every list is empty, rows that do not all have the same keys, and columns
of mixed types; and it cuts datetimes to whole seconds. `entity_rows` avoids all four.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from activity_embeddings.transformations import names
from activity_embeddings.transformations.errors import InvalidInput, quote
from activity_embeddings.transformations.spec import ActivitySpec
from activity_embeddings.transformations.times import Time, parse_time, to_datetime

Event: TypeAlias = (
    tuple[int | str, str, Time]
    | tuple[int | str, str, Time, int | str]
    | tuple[int | str, str, Time, int | str, int | str]
)


def entity_rows(
    member_ids: Iterable[int | str],
    recent: Mapping[Any, Sequence[Event]] | None = None,
    *,
    request_timestamp: Time | None = None,
    event_ids: bool = False,
    session_ids: bool = False,
    domain: names.DomainNames = names.JOBS,
    spec: ActivitySpec | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of a request, for `FeatureStore.get_online_features`.

    Parameters
    ----------
    member_ids
        Who is asked for.
    recent
        (item id, action name, time) of what members did lately, by member id; members may be
        missing or have nothing. For times see `activity_embeddings.transformations.times.Time`.
    request_timestamp
        The cut-off; None for the time at which the request is answered.
    event_ids
        Whether the view of events declares `event_id`. Each event may then have its id, as (item
        id, action name, time, event id); of one member all or none.
    session_ids
        Whether it declares `session_id`. Each event may then have its session id as the last, after
        the event id, if it has one; of one member all or none.
    domain
        Names the columns; those of the sample data unless said.
    spec
        Of a domain with several kinds of activity, as `ActivityDomain.spec`: an event's action says
        its kind, and so its columns.

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
    kinds = {domain.item: domain}
    if spec is not None and spec.kinds:
        kinds = {kind.name: names.DomainNames(item=kind.name) for kind in spec.kinds}
    rows = []
    for member in member_ids:
        row: dict[str, Any] = {domain.member_id: member}
        of_kinds: dict[str, list[Event]] = {kind: [] for kind in kinds}
        for event in recent.get(member) or []:
            # An action that no kind has is left to whoever answers to refuse or count.
            of_kinds[(spec and spec.kind_of(event[1])) or domain.item].append(event)
        for kind, columns in kinds.items():
            events = of_kinds[kind]
            items, actions, times, *ids = zip(*events, strict=True) if events else ((), (), ())
            optional = [columns.recent_event_ids] * event_ids
            optional += [columns.recent_session_ids] * session_ids
            row[columns.recent_item_ids] = list(items) or None
            row[columns.recent_actions] = list(actions) or None
            row[columns.recent_timestamps] = [
                _as_text(time, member, columns.recent_timestamps) for time in times
            ] or None
            row |= dict.fromkeys(optional)
            row |= {name: list(values) for name, values in zip(optional, ids, strict=False)}
        row[names.REQUEST_TIMESTAMP] = (
            None
            if request_timestamp is None
            else _as_text(request_timestamp, member, names.REQUEST_TIMESTAMP)
        )
        rows.append(row)
    if not rows:
        raise InvalidInput("entity_rows: expected at least one member. Received: none")
    return rows


def _as_text(time: Time, member: int | str, column: str) -> str:
    """Return a time as an ISO string, which keeps microseconds all the way."""
    us = parse_time(time, f"entity_rows, member {quote(member)}: {column}")
    return time if isinstance(time, str) else to_datetime(us).isoformat()
