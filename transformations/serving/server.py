"""What makes a `feast serve` ready: requests that are checked, models that are loaded, `/ready`."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from feast import FeatureStore

from activity_embeddings.transformations.definitions.registered import registered_domains
from activity_embeddings.transformations.definitions.tags import has_string_ids, release_of
from activity_embeddings.transformations.errors import InvalidInput, first_line
from activity_embeddings.transformations.online.protobuf import entity_keys
from activity_embeddings.transformations.online.stores import row_store_of
from activity_embeddings.transformations.serving.process import ServingState, new_state
from activity_embeddings.transformations.serving.refusals import (
    DEFAULT_LIMITS,
    RequestLimits,
    check_requests,
)

_log = logging.getLogger(__name__)
READY = "/ready"


def start_serving(
    app: FastAPI, repo: Path | str, *, limits: RequestLimits = DEFAULT_LIMITS
) -> None:
    """Make a server ready, or end it.

    Every request for online features is checked before Feast sees it, all models and the table of
    item vectors are loaded, and `/ready` is there: 200 while models, table, registry and online
    store can be used, else 503 with what cannot.

    Parameters
    ----------
    app
        The app that Feast hands to `load_artifacts` in `static_artifacts.py`.
    repo
        Folder of the feature repo.
    limits
        What one request may hold; a larger one is answered with what is accepted.

    Raises
    ------
    SystemExit
        A model or the table cannot be loaded. Feast passes over every other error of
        `load_artifacts`, and would go on with a server that answers no request.
    """
    try:
        check_requests(app, limits)
        state = new_state(repo)
        views = state.preload()
    except Exception as error:
        _log.error("feast serve: the server ends, since it cannot start: %s", error)
        raise SystemExit(f"feast serve: {error}") from error

    def ready() -> JSONResponse:
        problems = problems_of(state)
        said = {"ready": not problems, "views": views, "problems": problems}
        return JSONResponse(said, status_code=503 if problems else 200)

    app.add_api_route(READY, ready, methods=["GET"], include_in_schema=False)
    # What is loaded stays: the garbage collector need not walk through it, which would hold up a
    # request for a quarter of a second every now and then.
    gc.collect()
    gc.freeze()


def problems_of(state: ServingState) -> list[str]:
    """Return what keeps a server from answering, in one sentence each; nothing if it can."""
    store, problems = state.store, []
    try:
        store.refresh_registry()
        domains = registered_domains(store)
    except Exception as error:
        return [f"registry: {type(error).__name__}: {first_line(error)}"]
    for domain in domains:
        for view in domain.embeddings:
            try:
                state.model(view.name, release_of(view)).warm_up()
            except InvalidInput as error:
                problems.append(str(error))
        problems += _unreadable(store, domain.sequence)
    return problems


def _unreadable(store: FeatureStore, view: Any) -> list[str]:
    """Return why a view's rows cannot be read online, in a list; empty where they can."""
    nobody = pa.array([""]) if has_string_ids(view) else pa.array([0])
    try:
        row_store_of(store).read(view, entity_keys(view, nobody))
    except Exception as error:
        return [f"online store: {type(error).__name__}: {first_line(error)}"]
    return []
