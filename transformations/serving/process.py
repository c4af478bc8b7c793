"""What a serving process holds: models, the vector table, and the way to the online store.

Feast hands an on-demand function its inputs and nothing else, so what it needs lives here, once a
process and feature repo. `server.start_serving` fills it when `feast serve` starts;
in a process of your own call `preload` yourself, or the first request pays for it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from feast import FeatureStore, FeatureView

from activity_embeddings.transformations import names
from activity_embeddings.transformations.arrow import TIMESTAMP, vector_column
from activity_embeddings.transformations.definitions.kinds import KindViews, kinds_of
from activity_embeddings.transformations.definitions.registered import registered_model
from activity_embeddings.transformations.definitions.tags import (
    has_string_ids,
    release_of,
    source_views_of,
    spec_of,
    vector_spec_of,
)
from activity_embeddings.transformations.errors import InvalidInput, ModelMismatch
from activity_embeddings.transformations.feast_compat.joins import Caller, feast_caller
from activity_embeddings.transformations.feast_compat.stores import online_store, prepare_reads
from activity_embeddings.transformations.inference.embedder import Embedder
from activity_embeddings.transformations.names import Role, Tag
from activity_embeddings.transformations.offline.sources import (
    declared_event_ids,
    declared_session_ids,
)
from activity_embeddings.transformations.online.lookup import lookup_of
from activity_embeddings.transformations.online.publish import store_identity
from activity_embeddings.transformations.serving.label_times import label_times
from activity_embeddings.transformations.serving.metrics import count_error, count_request
from activity_embeddings.transformations.serving.request import (
    RequestParser,
    RequestTimeResult,
    embed_at_request,
)
from activity_embeddings.transformations.times import SECOND

_log = logging.getLogger(__name__)
MEMBERS_A_CALL = 65_536
"""Members a model call: a request of any usual size is one call."""


def request_parser(sequence: FeatureView, kinds: Sequence[KindViews]) -> RequestParser:
    """Return the reader of requests of one domain.

    Parameters
    ----------
    sequence
        The view of sequences.
    kinds
        The views that it is made from.
    """
    event_ids = declared_event_ids(kinds[0].events)
    session_ids = declared_session_ids(kinds[0].events)
    return RequestParser(
        spec_of(sequence),
        string_ids={kind.name: has_string_ids(kind.vectors) for kind in kinds},
        string_event_ids=None if event_ids is None else pa.types.is_string(event_ids),
        string_session_ids=None if session_ids is None else pa.types.is_string(session_ids),
        domain=names.DomainNames.of(sequence.tags),
    )


class ServedModel:
    """One embedding view, ready to be recomputed.

    Parameters
    ----------
    store
        The feature store.
    view
        The embedding view.

    Raises
    ------
    InvalidInput
        The model is gone, or cannot be loaded.
    """

    def __init__(self, store: FeatureStore, view: FeatureView) -> None:
        registry, project = store.registry, store.project
        (called,) = source_views_of(view)[Role.SEQUENCE]
        sequence = registry.get_feature_view(called, project)
        kinds = kinds_of(sequence, lambda name: registry.get_feature_view(name, project))
        self.release = release_of(view)
        self.spec = spec_of(sequence)
        self.model = registered_model(
            view,
            spec=self.spec,
            vector_spec=vector_spec_of([kind.vectors for kind in kinds]),
            repo=store.repo_path,
        )
        self._parser = request_parser(sequence, kinds)
        self._lookup = lookup_of(store, kinds)
        self._embedder = Embedder([self.model], batch_size=MEMBERS_A_CALL, for_requests=True)

    def warm_up(self) -> None:
        """Map the vector table into memory.

        Raises
        ------
        InvalidInput
            It cannot be read, or holds other vectors.
        """
        self._lookup.map_table()

    def __call__(
        self, inputs: Mapping[str, Sequence[Any]], labels: Sequence[int] | None = None
    ) -> RequestTimeResult:
        """Embed the members of a request; see `request_time.embed_at_request`."""
        try:
            result = embed_at_request(
                inputs,
                parser=self._parser,
                spec=self.spec,
                embedder=self._embedder,
                lookup=self._lookup,
                labels=labels,
            )
        except Exception:
            count_error(self.model.name)
            raise
        count_request(self.model.name, result.report)
        return result


class ServingState:
    """The models of one feature repo that this process has loaded.

    Parameters
    ----------
    store
        The feature store from which definitions and newer item vectors are read.
    """

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self._models: dict[str, ServedModel] = {}
        self._lock = threading.Lock()

    def preload(self) -> list[str]:
        """Load every embedding view's model; return the names of the views.

        Raises
        ------
        InvalidInput
            One or more could not be loaded. The others were.
        """
        views = [
            view
            for view in self.store.list_batch_feature_views()
            if view.tags.get(Tag.ROLE) == Role.EMBEDDING
        ]
        problems = []
        for view in views:
            try:
                self.model(view.name, release_of(view)).warm_up()
            except InvalidInput as error:
                problems.append(str(error))
        prepare_reads(online_store(self.store))
        if problems:
            raise InvalidInput("; ".join(problems))
        return [view.name for view in views]

    def model(self, view_name: str, release: str) -> ServedModel:
        """Return the model of an embedding view, loading it at first use.

        Parameters
        ----------
        view_name
            The embedding view.
        release
            What the on-demand view was applied for, see `release_of`.

        Raises
        ------
        InvalidInput
            The registry has another release, or the model cannot be loaded.
        """
        served = self._models.get(view_name)
        if served is not None and served.release == release:
            return served
        with self._lock:
            served = self._models.get(view_name)
            if served is None or served.release != release:
                served = self._models[view_name] = self._load(view_name, release)
            return served

    def _load(self, view_name: str, release: str) -> ServedModel:
        registry, project = self.store.registry, self.store.project
        view = registry.get_feature_view(view_name, project)
        if release_of(view) != release:
            raise ModelMismatch(
                f"{view_name}: expected release {release}, for which its on-demand view was "
                f"applied. Received from the registry: {release_of(view)}. Run `feast apply`, "
                "and restart servers that hold an older registry"
            )
        _log.info("loading the model of %s", view_name)
        return ServedModel(self.store, view)


_states: dict[tuple[str, ...], ServingState] = {}
_states_lock = threading.Lock()
_of_store: WeakKeyDictionary[FeatureStore, ServingState] = WeakKeyDictionary()
"""The same, so that no request has to look at the settings of its store."""


def preload(repo: str | Path | FeatureStore) -> list[str]:
    """Load every model and the vector table, so that no request has to.

    Parameters
    ----------
    repo
        The folder of the feature repo, or the feature store that the process serves from.

    Returns
    -------
    list[str]
        The embedding views that are ready.

    Raises
    ------
    InvalidInput
        One or more models could not be loaded. The others were.
    """
    return new_state(repo).preload()


def new_state(repo: str | Path | FeatureStore) -> ServingState:
    """Return what this process serves a feature repo from, see `preload`; nothing is loaded yet."""
    store = repo if isinstance(repo, FeatureStore) else FeatureStore(repo_path=str(repo))
    with _states_lock:
        state = _states[_key(store)] = ServingState(store)
        _of_store.clear()
    return state


def _key(store: FeatureStore) -> tuple[str, ...]:
    """Return what feature stores share that are answered alike.

    One folder may have several files of settings, each with a registry and an online store.
    """
    config = store.config
    place, registry = Path(store.repo_path).resolve(), config.registry.model_dump(mode="json")
    said = json.dumps(registry, sort_keys=True, default=str)
    return str(place), config.project, said, store_identity(config)


def _state_of(caller: Caller) -> ServingState:
    """Return the state for the feature repo from which Feast was asked."""
    store = caller.store
    if store is not None and (known := _of_store.get(store)) is not None:
        return known
    if store is None:
        store = FeatureStore(repo_path=caller.repo, config=caller.config)
    key = _key(store)
    with _states_lock:
        if key not in _states:
            _states[key] = ServingState(store)
        state = _of_store[store] = _states[key]
        return state


def embed_request(
    inputs: Mapping[str, Sequence[Any]], *, view: str, release: str
) -> dict[str, Any]:
    """Compute the features of an on-demand view; its function in the registry calls this.

    Parameters
    ----------
    inputs
        Columns by name, as Feast hands them to a function of mode "python".
    view
        Name of the embedding view that is recomputed.
    release
        See `release_of`.

    Returns
    -------
    dict[str, Any]
        The model's outputs, `model_version`, `activity_count`, `new_activity_count` and
        `last_activity_at`: lists for an online request, Arrow arrays for a training join.

    Raises
    ------
    InvalidRequest
        The request cannot be understood, or the times of the labels of a training join.
    InvalidInput
        The model or the vector table cannot be read.
    """
    caller = feast_caller()
    join = caller.join
    labels = label_times(inputs, join) if join else None
    served = _state_of(caller).model(view, release)
    result = served(inputs, labels)
    newest = result.sequences.time[:, -1]
    if join:
        return _as_arrow(result, served.model.version, newest)
    features: dict[str, list[Any]] = {
        output: vectors.tolist() for output, vectors in result.vectors.items()
    }
    features[names.MODEL_VERSION] = [served.model.version] * len(newest)
    features[names.ACTIVITY_COUNT] = result.sequences.count.tolist()
    features[names.NEW_ACTIVITY_COUNT] = result.new.tolist()
    features[names.LAST_ACTIVITY_AT] = [
        datetime.fromtimestamp(time // SECOND, UTC) if time else None for time in newest.tolist()
    ]
    # With `full_feature_names`, Feast looks for the features of a Python function under these.
    realtime = names.realtime_name(view)
    return features | {f"{realtime}__{name}": values for name, values in features.items()}


def _as_arrow(result: RequestTimeResult, version: str, newest: np.ndarray) -> dict[str, pa.Array]:
    """Return the features with the types of the batch view, which Feast would else infer."""
    features: dict[str, pa.Array] = {}
    for output, vectors in result.vectors.items():
        features[output] = vector_column(vectors)
    features[names.MODEL_VERSION] = pa.repeat(pa.scalar(version, pa.string()), len(newest))
    features[names.ACTIVITY_COUNT] = pa.array(result.sequences.count, pa.int64())
    features[names.NEW_ACTIVITY_COUNT] = pa.array(result.new, pa.int64())
    times = pa.array(newest, pa.int64(), mask=newest == 0)
    features[names.LAST_ACTIVITY_AT] = times.cast(TIMESTAMP)
    return features
