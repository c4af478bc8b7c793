"""Feature views of activity sequences and embeddings, as Feast definitions.

A feature repo calls these with its own entities, sources and `ACTIVITY_MODELS`. What the compute
engine needs to know travels in tags and in the views' own graph, so that Feast's registry says
everything: lineage, model, version and fingerprint.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from feast import (
    BatchFeatureView,
    Entity,
    FeatureView,
    Field,
    OnDemandFeatureView,
    RequestSource,
)
from feast.data_source import DataSource
from feast.types import (
    Array,
    FeastType,
    Float32,
    Float64,
    Int32,
    Int64,
    PrimitiveFeastType,
    String,
    UnixTimestamp,
)
from feast.value_type import ValueType

from activity_embeddings.transformations import names
from activity_embeddings.transformations.contract.activity_model import (
    ActivityModel,
    ModelDescription,
    describe_models,
)
from activity_embeddings.transformations.contract.item_encoder import (
    ItemEncoderDescription,
    describe_item_encoder,
)
from activity_embeddings.transformations.definitions.schemas import (
    embedding_fields,
    request_time_fields,
    sequence_fields,
    vector_fields,
)
from activity_embeddings.transformations.definitions.snapshot_source import (
    Snapshots,
    snapshot_source,
)
from activity_embeddings.transformations.definitions.tags import (
    event_tags,
    fingerprint_tag,
    has_encoder,
    posting_tags,
    release_of,
    spec_of,
    vector_spec_of,
    vector_tags,
    within_repo,
)
from activity_embeddings.transformations.errors import InvalidInput, quote, require_kinds
from activity_embeddings.transformations.names import DomainNames, Role, Tag
from activity_embeddings.transformations.offline.sources import (
    check_columns,
    declared_session_ids,
    require_same_event_ids,
)
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.wording import duration

_POSTING_TYPES: dict[tuple[str, int], tuple[FeastType, ...]] = {
    ("string", 1): (String,),
    ("int64", 1): (Int64, Int32),
    ("float32", 1): (Float32, Float64),
    ("string", 2): (Array(String),),
}
"""Types of columns that may be an encoder's input, by type and rank of the tensor."""


TABLES = "data/vector_tables/{view}"
"""Folder, within the feature repo, of the vectors that serving processes map into memory."""


def activity_view(
    source: DataSource,
    *,
    member: Entity,
    item: Entity,
    spec: ActivitySpec,
    action: str = names.ACTION,
    event_id: Field | None = None,
    session_id: Field | None = None,
    owner: str = "",
) -> FeatureView:
    """Return the view `<item>_activity` of the events, as they happened.

    Parameters
    ----------
    source
        Where the events are: one row an event. Its `timestamp_field` is the time of the event.
    member, item
        Who acts on what. Their join keys are columns of the source, or of its `field_mapping`.
    spec
        Window, length and actions.
    action
        Column with the name of the action.
    event_id
        Column that orders events of one time, with its type, Int64 or String. Requests and pushed
        events then have it too.
    session_id
        Column that says which session an event is of, with its type, Int64 or String; null for an
        event that has none, whose session the time says. Sequences and pushed events then have it
        too, and requests may.
    owner
        Shown in the registry.

    Raises
    ------
    InvalidInput
        A name cannot be used, see `DomainNames`; the entities have one name; or ids are neither
        INT64 nor STRING.
    """
    require_kinds(
        "activity_view",
        session_id=(session_id, (Field, type(None))),
        source=(source, DataSource),
        member=(member, Entity),
        item=(item, Entity),
        spec=(spec, ActivitySpec),
        action=(action, str),
        event_id=(event_id, (Field, type(None))),
        owner=(owner, str),
    )
    names.require_different_entities(member.name, item.name)
    domain = DomainNames(
        item=item.name,
        member_id=member.join_key,
        item_id=item.join_key,
        action=action,
        event_id=names.EVENT_ID if event_id is None else event_id.name,
        session_id=None if session_id is None else session_id.name,
    )
    if session_id is not None and session_id.dtype not in (Int64, String):
        raise InvalidInput(
            f"{domain.events_view}: `session_id` should be of type Int64 or String. "
            f"Received: {session_id.dtype}"
        )
    actions = ", ".join(spec.actions)
    return FeatureView(
        name=domain.events_view,
        entities=[member],
        source=source,
        schema=[
            Field(name=member.join_key, dtype=_id_type(member)),
            Field(name=item.join_key, dtype=_id_type(item), description="What was acted on."),
            Field(name=action, dtype=String, description=f"One of {actions}."),
            *([] if event_id is None else [event_id]),
            *([] if session_id is None else [session_id]),
        ],
        ttl=spec.window,
        online=False,
        description=f"Activity of each {member.name} on each {item.name}, as it happened.",
        tags=event_tags(spec, domain),
        owner=owner,
    )


def posting_view(
    source: DataSource,
    *,
    item: Entity,
    schema: Sequence[Field],
    tags: Mapping[str, str] | None = None,
    owner: str = "",
) -> FeatureView:
    """Return the view `<item>_posting` of what items contain, which an item encoder reads.

    Parameters
    ----------
    source
        One row an item and version: its content, and since when it is like this.
    item
        The entity.
    schema
        Columns that the encoder takes.
    tags
        More tags for the registry.
    owner
        Shown in the registry.
    """
    require_kinds(
        "posting_view",
        source=(source, DataSource),
        item=(item, Entity),
        schema=(schema, (list, tuple)),
        owner=(owner, str),
    )
    return FeatureView(
        name=names.postings_view(item.name),
        entities=[item],
        source=source,
        schema=[Field(name=item.join_key, dtype=_id_type(item)), *schema],
        ttl=timedelta(0),
        online=False,
        description=f"Content of each {item.name}; the item encoder reads what it needs of it.",
        tags={**posting_tags(), **(tags or {})},
        owner=owner,
    )


def vector_view(
    source: DataSource,
    *,
    item: Entity,
    vectors: ItemVectorSpec,
    table: Path | str | None = TABLES,
    owner: str = "",
) -> FeatureView:
    """Return the view `<item>_embedding` of item vectors of the user's own.

    Parameters
    ----------
    source
        One row an item and version: the join key, `embedding` (list of float) and the time from
        which the vector is valid. A column of another name is mapped by the source:
        `field_mapping={"vector": "embedding"}`.
    item
        The entity.
    vectors
        Name, version and dimension.
    table
        Folder for the table that servers map into memory, relative to the feature repo, or a URL;
        `{view}` in it is the view's name. None: request-time views read item vectors from the
        online store.
    owner
        Shown in the registry.
    """
    require_kinds(
        "vector_view",
        source=(source, DataSource),
        item=(item, Entity),
        vectors=(vectors, ItemVectorSpec),
        table=(table, (Path, str, type(None))),
        owner=(owner, str),
    )
    name = names.vectors_view(item.name)
    return FeatureView(
        name=name,
        entities=[item],
        source=source,
        schema=vector_fields(item.join_key, _id_type(item), vectors.dimension),
        ttl=timedelta(0),
        online=True,
        description=f"Vectors; a {item.name} is known from its first one on.",
        tags=vector_tags(vectors, table=_table_of(table, name)),
        owner=owner,
    )


def encoded_vector_view(
    encoder: Path | str,
    *,
    postings: FeatureView,
    item: Entity,
    repo: Path,
    snapshots: Snapshots = None,
    table: Path | str | None = TABLES,
    owner: str = "",
) -> BatchFeatureView:
    """Return the view `<item>_embedding`, whose vectors an item encoder makes from postings.

    Parameters
    ----------
    encoder
        Folder of the SavedModel, or its URL; see `contract.item_encoder`.
    postings
        The view that it is derived from; the encoder's inputs are columns of it.
    item
        The entity; its `value_type` is the type of the ids.
    repo
        Folder of the feature repo. What lies in it is registered by its path within it.
    snapshots
        Where the view keeps its vectors: a folder or another place, each version its own;
        `data/snapshots` of the repo unless said.
    table
        Folder for the table that servers map into memory, relative to the feature repo, or a URL;
        `{view}` in it is the view's name. None: request-time views read item vectors from the
        online store.
    owner
        Shown in the registry.

    Raises
    ------
    InvalidInput
        The encoder does not keep the contract, or takes what the postings do not have; or the
        entity is not that of the postings.
    """
    require_kinds(
        "encoded_vector_view",
        encoder=(encoder, (Path, str)),
        postings=(postings, FeatureView),
        item=(item, Entity),
        repo=(repo, Path),
        table=(table, (Path, str, type(None))),
        owner=(owner, str),
    )
    _require_entity(postings, item)
    name = names.vectors_view(item.name)
    described = describe_item_encoder(encoder)
    _require_inputs(described, postings)
    return _batch_view(
        name=name,
        entities=[item],
        ttl=timedelta(0),
        source=[postings],
        sink_source=snapshot_source(
            snapshots,
            name,
            described.version,
            partial(check_columns, postings, ids=[item.join_key]),
            repo=repo,
            owner=owner,
        ),
        schema=vector_fields(item.join_key, _id_type(item), described.dimension),
        description=described.manifest.get("description")
        or f"Vectors by the encoder {described.name}; a {item.name} is known from its first on.",
        tags={
            **vector_tags(described.vector_spec, table=_table_of(table, name, repo)),
            Tag.ENCODER_PATH: within_repo(described.location, repo, "item encoder"),
            Tag.ENCODER_VALID_FROM: described.facts()["valid_from"],
        },
        owner=owner,
    )


def _table_of(table: Path | str | None, view: str, repo: Path | None = None) -> str | None:
    if table is None:
        return None
    folder = str(table).format(view=view)
    return folder if repo is None else within_repo(folder, repo, f"{view}, `table`")


def _require_inputs(encoder: ItemEncoderDescription, postings: FeatureView) -> None:
    """Raise `InvalidInput` unless the inputs of an encoder are columns of the view of postings."""
    columns = [*postings.entity_columns, *postings.features]
    types = {column.name: str(column.dtype) for column in columns}
    for name, tensor in encoder.inputs.items():
        accepted = [str(kind) for kind in _POSTING_TYPES[tensor.dtype, len(tensor.shape or ())]]
        if types.get(name) not in accepted:
            raise InvalidInput(
                f"item encoder {encoder.name!r}: input {name!r} ({tensor}) should be a column of "
                f"{postings.name} of type {' or '.join(accepted)}. "
                f"Received: {types.get(name, 'no such column')}"
            )


def sequence_view(
    *,
    events: FeatureView | Sequence[FeatureView],
    vectors: FeatureView | Sequence[FeatureView],
    member: Entity,
    item: Entity,
    snapshots: Snapshots,
    repo: Path,
    keep: Mapping[str, int] | None = None,
    owner: str = "",
) -> BatchFeatureView:
    """Return the view of each member's newest activities, `<item>_activity_sequence`.

    Parameters
    ----------
    events
        The view of events; it says window, length, actions and the names of columns. Of several
        kinds of activity their views, that of `item` first.
    vectors
        The view of item vectors, which says which items are known; of several kinds of activity
        those of all, in the same order.
    member, item
        The entities; their `value_type` is the type of the ids.
    snapshots
        Where the view keeps its snapshots: a folder, another place, or None.
    repo
        Folder of the feature repo. Snapshots in it are registered by their path within it.
    keep
        How many places of a sequence are kept for a kind of activity, by the name of its item.
    owner
        Shown in the registry.

    Raises
    ------
    InvalidInput
        A view is of another entity, or an entity has another join key than in the events; or the
        kinds do not go together, see `ActivitySpec.of_kinds`.
    """
    event_views, vector_views = _views(events, "events"), _views(vectors, "vectors")
    domain, spec = DomainNames.of(event_views[0].tags), _spec_of_all(event_views, keep)
    names.require_different_entities(member.name, item.name)
    _require_join_key(item, domain.item_id, event_views[0])
    _require_entity(vector_views[0], item)
    for view in event_views:
        _require_entity(view, member)
    _require_pairs(event_views, vector_views)
    vector_spec_of(vector_views)  # of one dimension
    checks = []
    for view in event_views:
        ours = DomainNames.of(view.tags)
        ids = [ours.member_id, ours.item_id]
        ids += [] if ours.session_id is None else [ours.session_id]
        checks.append(
            partial(check_columns, view, texts=[ours.action], ids=ids, optional_ids=[ours.event_id])
        )
    if spec.kinds:
        _require_same_sessions(event_views)
        checks.append(partial(require_same_event_ids, event_views))
    for view in vector_views:
        if not has_encoder(view):
            checks.append(
                partial(check_columns, view, ids=list(view.join_keys), lists=[names.EMBEDDING])
            )
    on = f"each {item.name}"
    if spec.kinds:
        on = "each " + " and ".join(kind.name for kind in spec.kinds)
    return _batch_view(
        name=domain.sequence_view,
        entities=[member],
        ttl=spec.window,
        source=[view for pair in zip(event_views, vector_views, strict=True) for view in pair],
        sink_source=snapshot_source(
            snapshots,
            domain.sequence_view,
            names.SEQUENCES_VERSION,
            *checks,
            repo=repo,
            owner=owner,
        ),
        # Of several kinds, ids of items are texts that say the kind.
        schema=sequence_fields(domain, _id_type(member), String if spec.kinds else _id_type(item)),
        description=(
            f"The newest activities, at most {spec.length:,}, within {duration(spec.window)}, on "
            f"{on} with a vector, oldest first."
        ),
        tags={
            Tag.ROLE: Role.SEQUENCE,
            Tag.SPEC: spec.to_json(),
            Tag.DOMAIN: domain.to_json(),
        },
        owner=owner,
    )


def _require_same_sessions(events: Sequence[FeatureView]) -> None:
    """Raise `InvalidInput` unless all kinds of activity have session ids of one type, or none."""
    found = {view.name: declared_session_ids(view) for view in events}
    if len(set(found.values())) > 1:
        raise InvalidInput(
            "session ids: expected the views of events of all kinds of activity to declare "
            "`session_id`, of one type, or none of them. Received: "
            + ", ".join(f"{name} {kind or 'none'}" for name, kind in found.items())
        )


def _views(given: FeatureView | Sequence[FeatureView], what: str) -> list[FeatureView]:
    """Return a view, or those of several kinds of activity, as a list."""
    if isinstance(given, FeatureView):
        return [given]
    require_kinds("sequence_view", **{what: (given, (list, tuple))})
    require_kinds(
        "sequence_view", **{f"{what}[{i}]": (view, FeatureView) for i, view in enumerate(given)}
    )
    if not given:
        raise InvalidInput(f"sequence_view: `{what}` should be at least one view. Received: none")
    return list(given)


def _spec_of_all(events: Sequence[FeatureView], keep: Mapping[str, int] | None) -> ActivitySpec:
    """Return the spec of a domain with these views of events."""
    if len(events) == 1:
        if keep:
            raise InvalidInput(
                f"{events[0].name}: expected no `keep`, since all activity is of one kind. "
                f"Received: {quote(keep)}"
            )
        return spec_of(events[0])
    specs = {DomainNames.of(view.tags).item: spec_of(view) for view in events}
    if len(specs) < len(events):
        raise InvalidInput(
            "kinds of activity: expected views of events on different items. Received: "
            + ", ".join(view.name for view in events)
        )
    return ActivitySpec.of_kinds(specs, keep)


def _require_pairs(events: Sequence[FeatureView], vectors: Sequence[FeatureView]) -> None:
    """Raise `InvalidInput` unless each view of events has one of vectors of the same item."""
    of_events = [(DomainNames.of(v.tags).item, DomainNames.of(v.tags).item_id) for v in events]
    of_vectors = [(view.entities[0], *view.join_keys) for view in vectors]
    if of_events != of_vectors:
        raise InvalidInput(
            "kinds of activity: expected for each view of events the view of vectors of the same "
            "item, in the same order. Received: "
            f"{', '.join(view.name for view in events)}; {', '.join(v.name for v in vectors)}"
        )


def embedding_views(
    models: Sequence[ActivityModel],
    *,
    sequence: FeatureView,
    vectors: FeatureView | Sequence[FeatureView],
    member: Entity,
    snapshots: Snapshots,
    repo: Path,
    owner: str = "",
) -> dict[str, BatchFeatureView]:
    """Return one view `<item>_activity_embedding_<model>` for each line of `ACTIVITY_MODELS`.

    Parameters
    ----------
    models
        The lines.
    sequence, vectors
        The views they are derived from; of several kinds of activity the vectors of all.
    member
        The entity.
    snapshots
        Where each view keeps its snapshots: a folder, another place, or None.
    repo
        Folder of the feature repo. What lies in it is registered by its path within it, so that the
        registry serves on other machines too.

    Raises
    ------
    InvalidInput
        A model does not keep the contract, or was made for another spec or item vectors; or
        the entity is not that of the sequence.
    """
    _require_entity(sequence, member)
    spec = spec_of(sequence)
    vector_views = _views(vectors, "vectors")
    described = describe_models(models, spec=spec, vector_spec=vector_spec_of(vector_views))
    views = [
        _embedding_view(m, sequence, vector_views, member, snapshots, repo, owner)
        for m in described
    ]
    return {view.name: view for view in views}


def realtime_views(
    views: Mapping[str, FeatureView],
    *,
    sequence: FeatureView,
    item: Entity,
    owner: str = "",
) -> dict[str, OnDemandFeatureView]:
    """Return an on-demand view `<name>_realtime` for each embedding view.

    Its features are those of the embedding view as of the request, and where they came from. Where
    the view of events declares `event_id` or `session_id`, requests have a column more for each.

    Parameters
    ----------
    views
        Embedding views by name.
    sequence
        The view of stored sequences.
    item
        Entity; its `value_type` is the type of the ids that requests have.

    Raises
    ------
    InvalidInput
        The entity has another join key than items have.
    """
    domain = DomainNames.of(sequence.tags)
    _require_join_key(item, domain.item_id, sequence)
    events = [v for v in sequence.source_views or [] if v.tags.get(Tag.ROLE) == Role.EVENTS]
    request = RequestSource(
        name=f"recent_{domain.item}_activity",
        schema=[
            *(field for view in events for field in _request_fields(view)),
            Field(
                name=names.REQUEST_TIMESTAMP,
                dtype=UnixTimestamp,
                description="The cut-off; null: now, and in a training join the label's time.",
            ),
        ],
        description="What a member did in the last seconds.",
        owner=owner,
    )
    made = [_realtime_view(view, sequence, request) for view in views.values()]
    return {view.name: view for view in made}


def _request_fields(events: FeatureView) -> list[Field]:
    """Return the request columns of activity of one kind."""
    domain = DomainNames.of(events.tags)
    types = {field.name: field.dtype for field in events.features}
    fields = [
        Field(
            name=domain.recent_item_ids,
            dtype=Array(types[domain.item_id]),
            description="Items of activity that the stored sequence may not hold yet, or null.",
        ),
        Field(
            name=domain.recent_actions,
            dtype=Array(String),
            description="Action names of the same activity, or null.",
        ),
        Field(
            name=domain.recent_timestamps,
            dtype=Array(UnixTimestamp),
            description="Times: datetimes, epoch seconds or ISO strings; or null.",
        ),
    ]
    if domain.event_id in types:
        fields.insert(
            0,
            Field(
                name=domain.recent_event_ids,
                dtype=Array(types[domain.event_id]),
                description="Event ids of the same activity, which order it; or null.",
            ),
        )
    if domain.session_id is not None:
        fields.append(
            Field(
                name=domain.recent_session_ids,
                dtype=Array(types[domain.session_id]),
                description="Session ids of the same activity; or null.",
            )
        )
    return fields


class _DeclaredView(OnDemandFeatureView):
    """An on-demand view whose schema is declared.

    Feast would call its function with made-up inputs at every `feast apply` to infer a schema,
    and so import TensorFlow and load the model. In the registry it is a plain on-demand view.
    """

    def infer_features(self) -> None:
        """Leave the schema as declared."""


def _realtime_view(
    view: FeatureView, sequence: FeatureView, request: RequestSource
) -> OnDemandFeatureView:
    name, domain = names.realtime_name(view.name), DomainNames.of(sequence.tags)
    # Feast keeps a function's source in the registry and makes the function from it again in each
    # process. So it is written as source here, complete in itself.
    source = (
        f"def {name}(inputs):\n"
        "    from activity_embeddings import embed_request\n\n"
        f"    return embed_request(inputs, view={view.name!r}, release={release_of(view)!r})\n"
    )
    made: dict[str, Any] = {}
    exec(source, made)
    features = [*view.features, *request_time_fields()]
    return _DeclaredView(
        name=name,
        sources=[
            sequence[_stored_features(request, domain)],
            request,
        ],
        # Feast does not keep the descriptions of an on-demand view's features, and then refuses
        # feature services whose projection has them.
        schema=[Field(name=field.name, dtype=field.dtype) for field in features],
        udf=made[name],
        udf_string=source,
        mode="python",
        description=f"{view.description} As of the request, with the request's own activity.",
        tags={**view.tags, Tag.ROLE: Role.REALTIME},
        owner=view.owner,
    )


def _stored_features(request: RequestSource, domain: DomainNames) -> list[str]:
    """Return what requests need of the stored sequence: event ids only if they have some."""
    features = [domain.activity_item_ids, names.ACTIVITY_ACTIONS, names.ACTIVITY_TIMES]
    if any(field.name == domain.recent_event_ids for field in request.schema):
        features.append(names.ACTIVITY_EVENT_IDS)
    if domain.session_id is not None:
        features.append(names.ACTIVITY_SESSION_IDS)
    return features


def _embedding_view(
    model: ModelDescription,
    sequence: FeatureView,
    vectors: Sequence[FeatureView],
    member: Entity,
    snapshots: Snapshots,
    repo: Path,
    owner: str,
) -> BatchFeatureView:
    domain = DomainNames.of(sequence.tags)
    name = domain.embedding_view(model.name)
    taken = {domain.member_id, names.EVENT_TIMESTAMP, names.CREATED_TIMESTAMP, names.MODEL_VERSION}
    clash = taken.intersection(model.outputs)
    if clash:
        raise InvalidInput(
            f"model {model.name!r}: outputs become features, so they should not be named like "
            f"keys, times and the version. Received: {', '.join(sorted(clash))}"
        )
    outputs = ", ".join(f"{output} [{size}]" for output, size in model.outputs.items())
    return _batch_view(
        name=name,
        entities=[member],
        ttl=model.spec.window,
        source=[sequence, *vectors],
        # A new version starts a new history: vectors of two versions never meet in one table.
        sink_source=snapshot_source(
            snapshots, name, model.version, repo=repo, owner=model.owner or owner
        ),
        schema=embedding_fields(domain.member_id, _id_type(member), model.outputs),
        description=model.description or f"Activity embedding by {model.name}: {outputs}.",
        tags={
            Tag.ROLE: Role.EMBEDDING,
            Tag.DOMAIN: domain.to_json(),
            Tag.MODEL: model.name,
            Tag.MODEL_VERSION: model.version,
            Tag.MODEL_FINGERPRINT: model.fingerprint,
            Tag.MODEL_PATH: within_repo(model.location, repo, f"model {model.name!r}"),
            Tag.VECTORS: model.vector_spec.name,
            Tag.VECTORS_VERSION: model.vector_spec.version,
            **fingerprint_tag(model.vector_spec),
        },
        owner=model.owner or owner,
    )


def _batch_view(*, ttl: timedelta, **definition: Any) -> BatchFeatureView:
    with warnings.catch_warnings():
        # Feast says at every construction that batch feature views are experimental.
        warnings.simplefilter("ignore", RuntimeWarning)
        return BatchFeatureView(ttl=ttl, online=True, offline=True, **definition)


def _require_join_key(entity: Entity, key: str, view: FeatureView) -> None:
    """Raise `InvalidInput` unless an entity has the join key that a view has for it."""
    if entity.join_key != key:
        raise InvalidInput(
            f"entity {entity.name!r}: expected join_keys=[{key!r}], as in {view.name}. "
            f"Received: {entity.join_key!r}"
        )


def _require_entity(view: FeatureView, entity: Entity) -> None:
    """Raise `InvalidInput` unless the rows of a view are about an entity."""
    if entity.name not in view.entities:
        raise InvalidInput(
            f"{view.name}: expected entities=[{entity.name}], the entity whose join key is "
            f"{entity.join_key!r}. Received: {', '.join(view.entities) or 'none'}"
        )
    for key in view.join_keys:
        _require_join_key(entity, key, view)


def _id_type(entity: Entity) -> PrimitiveFeastType:
    if entity.value_type not in (ValueType.INT64, ValueType.STRING):
        raise InvalidInput(
            f"entity {entity.name!r}: `value_type` should be INT64 or STRING. "
            f"Received: {entity.value_type.name}"
        )
    return Int64 if entity.value_type == ValueType.INT64 else String
