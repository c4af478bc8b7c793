"""Prometheus counters of request-time embeddings, beside Feast's own on `feast serve --metrics`."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from prometheus_client import Counter, Histogram

from activity_embeddings.transformations.serving.request import RequestReport

REQUESTS = Counter(
    "activity_embedding_requests_total", "Requests for a request-time embedding.", ["model"]
)
ERRORS = Counter("activity_embedding_errors_total", "Requests that ended in an error.", ["model"])
MEMBERS = Counter(
    "activity_embedding_members_total", "Members in requests for an embedding.", ["model"]
)
EMPTY_MEMBERS = Counter(
    "activity_embedding_empty_members_total", "Members without any activity.", ["model"]
)
IGNORED_EVENTS = Counter(
    "activity_embedding_ignored_events_total",
    "Events left out: on an unknown item, of an unknown action, or not before the request.",
    ["model", "reason"],
)
NEWEST_EVENT_AGE = Histogram(
    "activity_embedding_newest_event_age_seconds",
    "Age of the newest event used, by member.",
    ["model"],
    buckets=(1, 10, 60, 600, 3600, 6 * 3600, 86400, 3 * 86400, 7 * 86400, 28 * 86400),
)


class _OfModel(NamedTuple):
    """The counters of one model; finding a labelled counter costs more than counting."""

    requests: Counter
    members: Counter
    empty: Counter
    unknown_items: Counter
    unknown_actions: Counter
    future: Counter
    newest_age: Histogram


@cache
def _of(model: str) -> _OfModel:
    return _OfModel(
        REQUESTS.labels(model),
        MEMBERS.labels(model),
        EMPTY_MEMBERS.labels(model),
        IGNORED_EVENTS.labels(model, "unknown_item"),
        IGNORED_EVENTS.labels(model, "unknown_action"),
        IGNORED_EVENTS.labels(model, "future"),
        NEWEST_EVENT_AGE.labels(model),
    )


def count_request(model: str, report: RequestReport) -> None:
    """Count a request that was answered."""
    counters = _of(model)
    counters.requests.inc()
    counters.members.inc(report.members)
    for counter, count in (
        (counters.empty, report.empty),
        (counters.unknown_items, report.unknown_items),
        (counters.unknown_actions, report.unknown_actions),
        (counters.future, report.future),
    ):
        if count:
            counter.inc(count)
    for age in report.newest_ages:
        counters.newest_age.observe(age)


def count_error(model: str) -> None:
    """Count a request that was answered with an error."""
    _of(model).requests.inc()
    ERRORS.labels(model).inc()
