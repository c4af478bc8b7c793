"""Explain a member's embeddings: which activities they are made from, and what each of them does.

    online row, source of events, or row + request -> one sequence -> it, and it without each
    activity -> every model, one batch -> effects, nearest items with and without

Sequences are made and embedded by the functions that serve and publish them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore

from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.leave_one_out import leave_one_out
from activity_embeddings.transformations.activity.merge import Activity, activities_in
from activity_embeddings.transformations.activity.sequences import Sequences, make_sequences
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.definitions.registered import (
    RegisteredDomain,
    registered_domain,
    registered_model,
)
from activity_embeddings.transformations.errors import InvalidInput, NotReady, quote
from activity_embeddings.transformations.explain.explanation import (
    LEAVE_ONE_OUT,
    METHODS,
    PUBLISHED,
    REQUEST,
    SOURCE,
    ExplainedActivity,
    ExplainedOutput,
    Explanation,
    NearItem,
)
from activity_embeddings.transformations.feast_compat.stores import offline_store
from activity_embeddings.transformations.feast_compat.values import (
    feast_value_type_to_python_type,
)
from activity_embeddings.transformations.inference.embedder import Embedder
from activity_embeddings.transformations.inference.gradients import integrated_gradients
from activity_embeddings.transformations.names import Tag
from activity_embeddings.transformations.offline.event_log import PushedEvents, source_has
from activity_embeddings.transformations.offline.sources import declared_event_ids
from activity_embeddings.transformations.online.live_rows import activities_of
from activity_embeddings.transformations.online.lookup import lookup_of
from activity_embeddings.transformations.online.protobuf import entity_keys
from activity_embeddings.transformations.online.stores import row_store_of
from activity_embeddings.transformations.serving.entity_rows import Event, entity_rows
from activity_embeddings.transformations.serving.process import request_parser
from activity_embeddings.transformations.serving.request import sequences_at_request
from activity_embeddings.transformations.times import Time, parse_time, to_datetime, to_us

ROUNDING = 1e-5
"""What is left of a vector without its only activity, by its length, is less than this."""


def explain(
    store: FeatureStore,
    member: int | str,
    *,
    models: Sequence[str] = (),
    as_of: Time | None = None,
    recent: Sequence[Event] | None = None,
    item: str | None = None,
    nearest: int = 10,
    method: str = LEAVE_ONE_OUT,
) -> Explanation:
    """Explain a member's embeddings: what each activity adds to them, and to the nearest items.

    By itself it explains what is online now. With `as_of` it explains the value as of that time,
    from the source of events, whether it was published or not. With `recent` it explains what a
    request with these events is answered, as of now or of `as_of`.

    Leaving an activity out is exact for every model, and takes one batch. It says what would be
    otherwise had that event not been; activities that say the same hide one another, so that of a
    long sequence each moves little. Integrated gradients divide the vector among them, and need a
    model that TensorFlow can differentiate.

    Parameters
    ----------
    store
        The feature store, after `feast apply`.
    member
        The member's id.
    models
        Names of registered models; all of the domain's unless said.
    as_of
        The cut-off; see above.
    recent
        (item id, action name, time) of what the member did since, as in `entity_rows`. An empty
        list asks for the stored sequence as of now.
    item
        Name of the item's entity, where the feature repo has several domains.
    nearest
        How many of the nearest items are told, of those with a vector that are not in the sequence.
    method
        "leave_one_out" or "integrated_gradients".

    Raises
    ------
    InvalidInput
        An argument is none of these, no such model is registered, a model cannot be differentiated,
        or nobody of that id is known.
    NotReady
        Nothing has been applied yet.
    InvalidRequest
        A recent event cannot be understood.
    """
    if method not in METHODS:
        raise InvalidInput(
            f"explain: `method` should be one of {', '.join(METHODS)}. Received: {quote(method)}"
        )
    if nearest < 0:
        raise InvalidInput(f"explain: `nearest` should not be negative. Received: {nearest}")
    domain = registered_domain(store, item)
    described = _models(store, domain, models)
    ids = domain.member_ids([member])
    if recent is None and as_of is not None:
        found = _from_source(store, domain, ids, parse_time(as_of, "`as_of`"))
    else:
        found = _from_online(store, domain, ids, recent, as_of)
    moment = int(found.sequences.as_of[0])
    vectors = found.catalogue
    if vectors is None:
        vectors = domain.read_vectors(store.config, offline_store(store), end=moment)
    (activities,) = activities_in(found.sequences)
    called = domain.item_names(store.config, offline_store(store), end=moment)
    acted_on = [domain.item_in_sequences(activity[1]) for activity in activities]
    without = {activity[1] for activity in activities}
    catalogue = _Catalogue.of(domain, vectors, moment, without, called)
    return Explanation(
        member=ids[0].as_py(),
        member_name=domain.names.member_id,
        item_name=domain.names.item,
        as_of=to_datetime(moment),
        origin=found.origin,
        method=method,
        activities=tuple(
            ExplainedActivity(
                item=item,
                name=called.get(activity[1], str(item)),
                action=domain.spec.vocabulary[activity[2]],
                time=to_datetime(activity[0]),
                new=activity in found.new,
                kind=kind.name if domain.spec.kinds else "",
            )
            for activity, (kind, item) in zip(activities, acted_on, strict=True)
        ),
        left_out={why: number for why, number in found.left_out.items() if number},
        outputs=tuple(
            _explained(model, output, vector, effects, catalogue, nearest)
            for model, output, vector, effects in _effects(
                described, found.sequences, found.vectors, method
            )
        ),
    )


@dataclass(frozen=True)
class _Found:
    """One member's sequence, and where it is from.

    Attributes
    ----------
    sequences
        One sequence.
    vectors
        Vectors of its items.
    origin
        See `Explanation`.
    new
        Activities that came with the request.
    left_out
        See `Explanation`; a number may be 0.
    catalogue
        The vectors of all items, where they have been read already.
    """

    sequences: Sequences
    vectors: ItemVectors
    origin: str
    new: Sequence[Activity]
    left_out: dict[str, int]
    catalogue: ItemVectors | None = None


def _from_source(
    store: FeatureStore, domain: RegisteredDomain, ids: pa.Array, as_of: int
) -> _Found:
    """Make the sequence that a snapshot as of a time has."""
    start = as_of - domain.spec.window_us
    events = domain.read_events(store.config, offline_store(store), start=start, end=as_of)
    vectors = domain.read_vectors(store.config, offline_store(store), end=as_of)
    moments = np.array([as_of], dtype=np.int64)
    sequences = make_sequences(events, ids, moments, spec=domain.spec, vectors=vectors)
    unknown = int(sequences.unknown[0])
    if not sequences.count[0] and not unknown:
        # Silent lately, or never seen: neither in the source nor in what was pushed to it.
        views = domain.event_views
        pushed = sum(PushedEvents(store, view).count(ids) for view in views)
        if not pushed and not any(len(source_has(store, view, ids)) for view in views):
            where = " and ".join(view.name for view in views)
            raise _nobody(domain, ids, f"the source of {where}")
    left_out = {_unknown(domain): unknown}
    return _Found(sequences, vectors, SOURCE, [], left_out, catalogue=vectors)


def _from_online(
    store: FeatureStore,
    domain: RegisteredDomain,
    ids: pa.Array,
    recent: Sequence[Event] | None,
    as_of: Time | None,
) -> _Found:
    """Make the sequence that a request has, from the stored one and what the request brings."""
    view, called = domain.sequence, domain.names
    ((moment, values),) = row_store_of(store).read(view, entity_keys(view, ids))
    if moment is None and not recent:
        raise _nobody(domain, ids, f"the online store ({view.name})")
    if recent is None and moment is not None:
        # As of the row; a push moves that to its newest event, of which a store may cut the second.
        newest = [activity[0] + 1 for activity in activities_of(values, called)[-1:]]
        as_of = to_datetime(max([to_us(moment), *newest]))
    member = ids[0].as_py()
    (row,) = entity_rows(
        [member],
        {member: recent or []},
        request_timestamp=as_of,
        event_ids=declared_event_ids(domain.events) is not None,
        session_ids=called.session_id is not None,
        domain=called,
        spec=domain.spec,
    )
    stored = {
        **dict.fromkeys(feature.name for feature in view.features),
        **{name: feast_value_type_to_python_type(value) for name, value in (values or {}).items()},
    }
    made = sequences_at_request(
        {name: [value] for name, value in {**stored, **row}.items()},
        parser=request_parser(view, domain.kinds),
        spec=domain.spec,
        lookup=lookup_of(store, domain.kinds),
    )
    left_out = {
        _unknown(domain): made.report.unknown_items,
        "unknown action": made.report.unknown_actions,
        "not before the time": made.report.future,
    }
    origin = PUBLISHED if recent is None else REQUEST
    return _Found(made.sequences, made.vectors, origin, made.new[0], left_out)


def _unknown(domain: RegisteredDomain) -> str:
    return f"{'item' if domain.spec.kinds else domain.names.item} without a vector"


def _nobody(domain: RegisteredDomain, ids: pa.Array, where: str) -> InvalidInput:
    return InvalidInput(
        f"{domain.names.member_id}: expected a member in {where}. "
        f"Received: {quote(ids[0].as_py())}, of whom it has nothing"
    )


def _models(
    store: FeatureStore, domain: RegisteredDomain, wanted: Sequence[str]
) -> list[ModelDescription]:
    """Return the registered models of these names, all of them without a name."""
    views = {view.tags[Tag.MODEL]: view for view in domain.embeddings}
    known = sorted(views)
    unknown = [name for name in wanted if name not in views]
    if unknown:
        raise InvalidInput(
            f"explain: expected registered models of {domain.names.item}: "
            f"{', '.join(known) or 'none'}. Received: {', '.join(map(quote, unknown))}"
        )
    if not known:
        raise NotReady(
            f"{domain.sequence.name}: expected a registered model. Received: none. Add a line to "
            "ACTIVITY_MODELS and run `feast apply`"
        )
    return [
        registered_model(
            views[name], spec=domain.spec, vector_spec=domain.vector_spec, repo=store.repo_path
        )
        for name in dict.fromkeys(wanted or known)
    ]


def _effects(
    models: Sequence[ModelDescription], sequence: Sequences, vectors: ItemVectors, method: str
) -> Iterator[tuple[ModelDescription, str, np.ndarray, np.ndarray]]:
    """Yield each model's outputs: the vector, float32 [d], and the effects on it, [n, d]."""
    one_by_one = method == LEAVE_ONE_OUT
    embedded = Embedder(models)(leave_one_out(sequence) if one_by_one else sequence, vectors)
    count = int(sequence.count[0])
    for model in models:
        if not one_by_one and count:
            given = vectors.matrix[sequence.rows(vectors)[0]]
            inputs = given, sequence.action[0], sequence.ages[0], sequence.sessions[0]
            parts = integrated_gradients(model, *inputs)
        for output, values in embedded[model.name].items():
            if one_by_one or not count:
                yield model, output, values[0], values[0] - values[1:]
            else:
                yield model, output, values[0], parts[output][-count:]


def _explained(
    model: ModelDescription,
    output: str,
    vector: np.ndarray,
    effects: np.ndarray,
    catalogue: _Catalogue,
    count: int,
) -> ExplainedOutput:
    scores = catalogue.scores(vector)
    best = catalogue.best(scores, count)
    score_effects = np.zeros((len(effects), len(best)), dtype=np.float32)
    nearest_without = []
    for i, effect in enumerate(effects):
        rest = vector - effect
        if np.linalg.norm(rest) < ROUNDING * np.linalg.norm(vector):
            rest = np.zeros_like(vector)
        without = catalogue.scores(rest)
        score_effects[i] = scores[best] - without[best]
        nearest_without.append(catalogue.near(without, catalogue.best(without, count)))
    return ExplainedOutput(
        model=model.name,
        version=model.version,
        output=output,
        vector=vector,
        effects=effects,
        nearest=catalogue.near(scores, best),
        score_effects=score_effects,
        nearest_without=tuple(nearest_without),
    )


@dataclass(frozen=True)
class _Catalogue:
    """The domain's own items that can be near: known as of a time, and not acted on.

    Attributes
    ----------
    ids
        M ids.
    directions
        float32 [m, D]; their vectors at length 1, zero vectors as they are.
    called
        Their names.
    """

    ids: list[Any]
    directions: np.ndarray
    called: list[str]

    @classmethod
    def of(
        cls,
        domain: RegisteredDomain,
        vectors: ItemVectors,
        as_of: int,
        without: set[Any],
        called: Mapping[Any, str],
    ) -> _Catalogue:
        """Return the own items of some vectors, as of a time, without some."""
        every = np.arange(len(vectors.item_ids), dtype=np.int32)
        rows = vectors.rows(vectors.item_ids, every[None], np.array([as_of]))[0]
        items = vectors.item_ids.to_pylist()
        found = {
            j: domain.item_in_sequences(items[j])
            for j in every[rows != vectors.pad_row].tolist()
            if items[j] not in without
        }
        own = {j: item for j, (kind, item) in found.items() if kind is domain.kinds[0]}
        matrix = vectors.matrix[rows[list(own)]]
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        names = [called.get(items[j], str(item)) for j, item in own.items()]
        return cls(list(own.values()), matrix / np.where(lengths, lengths, 1), names)

    def scores(self, embedding: np.ndarray) -> np.ndarray:
        """Return the cosine of each item and an embedding, float32 [m]; 0 for the zero vector.

        An embedding that is not of the length of items' vectors has none.
        """
        if len(embedding) != self.directions.shape[1]:
            return np.zeros(0, dtype=np.float32)
        length = np.linalg.norm(embedding)
        return self.directions @ (embedding / (length or 1.0))

    def best(self, scores: np.ndarray, count: int) -> np.ndarray:
        """Return the positions of the best scores, ties by id; none where all are 0."""
        count = min(count, len(scores))
        if not count or not scores.any():
            return np.zeros(0, dtype=np.int64)
        # Only what can be among the best is put in order.
        limit = np.partition(scores, -count)[-count]
        found = np.flatnonzero(scores >= limit)
        return found[np.argsort(-scores[found], kind="stable")][:count]

    def near(self, scores: np.ndarray, positions: np.ndarray) -> tuple[NearItem, ...]:
        """Return the items at some positions."""
        return tuple(NearItem(self.ids[j], self.called[j], float(scores[j])) for j in positions)
