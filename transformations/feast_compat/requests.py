"""What Feast's server and its online reads know of a request before they answer it.

Seen in Feast 0.67: the app's route and the store that it holds, the model of a request, who asks,
and the function that looks a request's views up. None of it is handed to `static_artifacts.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from feast import FeatureService, FeatureStore, FeatureView, OnDemandFeatureView
from feast.feature_server import GetOnlineFeaturesRequest
from feast.feature_view import DUMMY_ENTITY_NAME
from feast.permissions.server.rest import inject_user_details
from feast.utils import _get_cached_request_context
from feast.value_type import ValueType
from starlette.routing import Route

from activity_embeddings.transformations.errors import InvalidInput

__all__ = [
    "GetOnlineFeaturesRequest",
    "OnlineContext",
    "known_user",
    "online_context",
    "online_route",
    "registry_state",
]

ONLINE_FEATURES = "/get-online-features"
"""Path of Feast's server at which online features are asked for."""

known_user = asynccontextmanager(inject_user_details)
"""Tells Feast's permissions who asks, while the body runs; takes the request."""


def online_route(app: FastAPI) -> tuple[Route, FeatureStore]:
    """Return the route of Feast's server at which features are asked for, and the server's store.

    Feast hands `static_artifacts.py` the app alone; its store is a variable that the route's
    function holds. A store of our own would read another registry, at other times.

    Raises
    ------
    InvalidInput
        It is not the app of Feast's server.
    """
    for route in app.routes:
        if isinstance(route, Route) and route.path == ONLINE_FEATURES:
            store = inspect.getclosurevars(route.endpoint).nonlocals.get("store")
            if isinstance(store, FeatureStore):
                return route, store
    raise InvalidInput(
        f"request check: expected the app of `feast serve`, with a route {ONLINE_FEATURES} and its "
        "store. Received: another one"
    )


@dataclass(frozen=True)
class OnlineContext:
    """What Feast looks up in its registry to answer an online request.

    Attributes
    ----------
    views
        The views that it reads, and the features of each.
    on_demand_views
        Those that it computes.
    join_keys
        Names of all join keys in the registry; a request may have more than it needs.
    key_of_entity
        Join keys by name of their entity, by which a request may call them too.
    key_types
        Types of the join keys of `views`.
    request_columns
        Names of the columns that `on_demand_views` need.
    """

    views: list[tuple[FeatureView, list[str]]]
    on_demand_views: list[OnDemandFeatureView]
    join_keys: set[str]
    key_of_entity: dict[str, str]
    key_types: dict[str, ValueType]
    request_columns: set[str]

    def keys_of(self, view: FeatureView) -> list[str]:
        """Return the join keys of a view as this request calls them; none for one without."""
        if DUMMY_ENTITY_NAME in view.entities:
            return []
        names = [column.name for column in view.entity_columns]
        return [view.projection.join_key_map.get(name, name) for name in names]


def online_context(
    store: FeatureStore, features: FeatureService | Sequence[str], *, full_names: bool
) -> OnlineContext:
    """Return what Feast will look up for a request, by the function with which it will do so.

    Feast keeps the result until its registry changes, so that a request looks it up once.
    """
    found: tuple[Any, ...] = _get_cached_request_context(
        store.registry,
        store.project,
        features if isinstance(features, FeatureService) else list(features),
        full_names,
    )
    _, on_demand, key_of_entity, key_types, join_keys, views, _, request_columns, _ = found
    return OnlineContext(views, on_demand, join_keys, key_of_entity, key_types, request_columns)


def registry_state(store: FeatureStore) -> object | None:
    """Return what changes when the cached registry is read again; None where that is not known."""
    registry: Any = store.registry
    valid = getattr(registry, "is_cache_valid", None)
    if valid is None or not valid():
        return None
    return getattr(registry, "cached_registry_proto_created", None)
