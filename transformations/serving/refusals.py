"""What `feast serve` asks of a request before Feast sees it, so that a bad one is 4xx and says why.

Feast answers 500 with an internal message for most requests that it cannot understand. Here each is
answered with one message that names the part of the request, what is expected and what was
received. `server.start_serving` installs it. What passes is handed to Feast as it came,
or in a form that Feast takes in every case, see `request_columns`.
"""

from __future__ import annotations

import email.message
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from feast import FeatureService, FeatureStore
from feast.errors import (
    FeastError,
    FeatureNameCollisionError,
    FeatureServiceNotFoundException,
    FeatureViewNotFoundException,
)
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from activity_embeddings.transformations.errors import (
    InvalidInput,
    quote,
    received,
    require_kinds,
)
from activity_embeddings.transformations.feast_compat.requests import (
    GetOnlineFeaturesRequest,
    known_user,
    online_context,
    online_route,
    registry_state,
)
from activity_embeddings.transformations.serving.request import InvalidRequest
from activity_embeddings.transformations.serving.request_columns import RequestColumns

_log = logging.getLogger(__name__)
SERVICES_KEPT = 1000
"""Number of services and lists of features whose needs are kept until the registry changes."""


class _UnsupportedMedia(InvalidRequest):
    """The body is said to be something else than JSON."""

    def http_status_code(self) -> int:
        return 415


class _TooLarge(InvalidRequest):
    """The body has more bytes than are read."""

    def http_status_code(self) -> int:
        return 413


class _UnknownName(InvalidRequest):
    """The registry has no such view or feature."""

    def http_status_code(self) -> int:
        return 404


@dataclass(frozen=True)
class RequestLimits:
    """What one request may hold; past it the answer says so, and nothing is looked up.

    Attributes
    ----------
    bytes
        Of the body.
    rows
        Members, or other entities.
    recent_events
        Elements of a list in a row, as of a member's recent activity.
    """

    bytes: int = 16 * 2**20
    rows: int = 10_000
    recent_events: int = 1_000

    def __post_init__(self) -> None:
        given = asdict(self)
        require_kinds("RequestLimits", **{name: (value, int) for name, value in given.items()})
        if min(given.values()) < 1:
            raise InvalidInput(f"RequestLimits: expected positive numbers. Received: {given}")


DEFAULT_LIMITS = RequestLimits()


def check_requests(app: FastAPI, limits: RequestLimits) -> None:
    """Make `feast serve` check each request for online features before Feast sees it.

    Parameters
    ----------
    app
        The app that Feast hands to `load_artifacts`.
    limits
        What a request may hold.

    Raises
    ------
    InvalidInput
        It is another app.
    """
    route, store = online_route(app)
    route.app = RequestCheck(route.app, store, limits)


class RequestCheck:
    """An ASGI app that answers malformed requests itself and hands on all others.

    Parameters
    ----------
    app
        Answers well-formed requests.
    store
        Whose registry says what they may ask for.
    limits
        What a request may hold.
    """

    def __init__(
        self, app: ASGIApp, store: FeatureStore, limits: RequestLimits = DEFAULT_LIMITS
    ) -> None:
        self._app, self._store, self._limits = app, store, limits
        self._columns: dict[tuple[Any, ...], RequestColumns] = {}
        self._state: object | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            # Who may not ask is told so by Feast, before anything is read or said.
            async with known_user(request):
                body = await self._checked(request)
        except ClientDisconnect:
            return
        except FeastError as error:
            _log.info("request refused: %s", error)
            refusal = JSONResponse(error.to_error_detail(), status_code=error.http_status_code())
            await refusal(scope, receive, send)
            return
        await self._app(scope, _again(body, receive), send)

    async def _checked(self, request: Request) -> bytes:
        """Return the body as Feast takes it.

        Raises
        ------
        FeastError
            The request cannot be understood.
        """
        body = await self._body(request)
        _require_json(request.headers.get("content-type"))
        parsed = _parse(body)
        asked = _validated(parsed)
        self._require_within(asked.entities)
        columns = await self._columns_of(asked)
        if columns is not None:
            taken = columns.check(asked.entities)
            fields = {name: parsed[name] for name in asked.model_fields_set}
            if len(fields) < len(parsed) or taken != asked.entities:
                return json.dumps({**fields, "entities": taken}).encode()
        return body

    async def _body(self, request: Request) -> bytes:
        """Read a body, but no more than is accepted."""
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._limits.bytes:
                raise _TooLarge(
                    f"body: expected at most {self._limits.bytes:,} bytes. Received: more. "
                    "Ask for fewer members at once"
                )
            parts.append(part)
        return b"".join(parts)

    def _require_within(self, columns: Mapping[str, list[Any]]) -> None:
        rows, events = self._limits.rows, self._limits.recent_events
        for name, values in columns.items():
            if len(values) > rows:
                raise InvalidRequest(
                    f"entities: expected at most {rows:,} rows. Received: {len(values):,} in "
                    f"{quote(name)}"
                )
            longest = max((len(value) for value in values if isinstance(value, list)), default=0)
            if longest > events:
                raise InvalidRequest(
                    f"entities: {quote(name)} should have lists of at most {events:,} elements. "
                    f"Received: one of {longest:,}"
                )

    async def _columns_of(self, asked: GetOnlineFeaturesRequest) -> RequestColumns | None:
        """Return what the views asked for take; None where Feast has to say what is wrong."""
        state = registry_state(self._store)
        if state is None or state != self._state or len(self._columns) > SERVICES_KEPT:
            self._columns, self._state = {}, state
        key = (asked.feature_service or tuple(asked.features), asked.full_feature_names)
        found = self._columns.get(key)
        if found is None:
            try:
                found = await run_in_threadpool(self._look_up, asked)
            except FeastError:
                raise
            except Exception:
                # The registry cannot be read, or has a view that may not be served now.
                _log.debug("request not checked", exc_info=True)
                return None
            if state is not None and state == registry_state(self._store):
                self._columns[key] = found
        return found

    def _look_up(self, asked: GetOnlineFeaturesRequest) -> RequestColumns:
        """Look the views asked for up in the registry."""
        features: FeatureService | list[str] = asked.features
        if asked.feature_service:
            features = _service(asked.feature_service, self._store)
        else:
            _check_references(asked.features, self._store)
        try:
            context = online_context(self._store, features, full_names=asked.full_feature_names)
        except FeatureNameCollisionError as error:
            raise InvalidRequest(" ".join(str(error).split())) from error
        except KeyError as error:
            if asked.feature_service:
                raise
            raise _UnknownName(f"features: {error.args[0]}") from error
        return RequestColumns.of(context, self._store)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what hands out a body that was read before, and then what comes next."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def _require_json(content_type: str | None) -> None:
    """Raise `InvalidRequest` for a type of body that FastAPI does not read as JSON."""
    if content_type == "application/json":
        return
    message = email.message.Message()
    message["content-type"] = content_type or ""
    main, sub = message.get_content_maintype(), message.get_content_subtype()
    if not content_type or main != "application" or not (sub == "json" or sub.endswith("+json")):
        raise _UnsupportedMedia(
            "Content-Type: expected application/json. "
            f"Received: {quote(content_type) if content_type else 'none'}"
        )


def _parse(body: bytes) -> dict[str, Any]:
    """Return the object that a body is."""
    try:
        parsed = _DECODER.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
    except RecursionError as error:
        raise InvalidRequest("body: expected JSON. Received: lists too deep to be read") from error
    except ValueError as error:
        raise InvalidRequest(f"body: expected JSON. Received: {error}") from error
    if not isinstance(parsed, dict):
        raise InvalidRequest(f"body: expected a JSON object. Received: {received(parsed)}")
    return parsed


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {quote(twice)} twice")
    return made


def _no_constant(name: str) -> None:
    raise ValueError(f"{name}, which is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)


def _validated(parsed: dict[str, Any]) -> GetOnlineFeaturesRequest:
    """Return the request that a body holds, by the model with which Feast reads it."""
    try:
        asked = GetOnlineFeaturesRequest.model_validate(parsed)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        what = "null or absent" if problem["type"] == "missing" else received(problem["input"])
        raise InvalidRequest(f"{quote(where)[1:-1]}: {problem['msg']}. Received: {what}") from error
    if bool(asked.feature_service) == bool(asked.features):
        both = "both" if asked.features else "neither"
        raise InvalidRequest(
            "request: expected the name of a `feature_service`, or a list of `features`. "
            f"Received: {both}"
        )
    return asked


def _service(name: str, store: FeatureStore) -> FeatureService:
    try:
        return store.get_feature_service(name, allow_cache=True)
    except FeatureServiceNotFoundException as error:
        raise _UnknownName(
            "feature_service: expected the name of a feature service in the registry. "
            f"Received: {quote(name)}"
        ) from error


def _check_references(references: list[str], store: FeatureStore) -> None:
    """Raise `InvalidRequest` unless references are of views and look as Feast reads them."""
    for reference in references:
        view, colon, feature = reference.partition(":")
        if not (view and colon and feature):
            raise InvalidRequest(
                f"features: expected references such as view:feature. Received: {quote(reference)}"
            )
        if "@" in view and not getattr(store.registry, "enable_online_versioning", False):
            raise InvalidRequest(
                "features: expected views without a version, since "
                "`enable_online_feature_view_versioning` is off in feature_store.yaml. "
                f"Received: {quote(reference)}"
            )
        try:
            store.registry.get_any_feature_view(view.split("@")[0], store.project, allow_cache=True)
        except FeatureViewNotFoundException as error:
            raise _UnknownName(
                "features: expected references to views in the registry. "
                f"Received: {quote(reference)}"
            ) from error
