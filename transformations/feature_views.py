"""Feature views of activity sequences and embeddings, as Feast definitions.

A feature repo calls these with its own entities, sources and `ACTIVITY_MODELS`. What the compute
engine needs to know travels in tags and in the views' own graph, so that Feast's registry says
everything: lineage, model, version and fingerprint.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import BatchFeatureView, Entity, FeatureView, FileSource, RepoConfig
from feast.data_format import ParquetFormat
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.types import Int64, PrimitiveFeastType, String
from feast.value_type import ValueType

from transformations import names
from transformations.errors import InvalidInput
from transformations.feature_tables import embedding_fields, sequence_fields
from transformations.model import ActivityModel, ModelDescription, describe_models
from transformations.names import Role, Tag
from transformations.spec import ActivitySpec, ItemEmbedding


class SnapshotSource(FileSource):
    """A folder of snapshots, which does not exist before the first `feast materialize`.

    In the registry it is a plain `FileSource`, so that readers of the registry need not have this
    package; only `feast apply`'s check that the files are there is left out.
    """

    def validate(self, config: RepoConfig) -> None:
        """Accept a folder that is still to be written."""

    def to_proto(self) -> DataSourceProto:
        """Return the definition of a plain file source."""
        proto = super().to_proto()
        proto.data_source_class_type = f"{FileSource.__module__}.{FileSource.__name__}"
        return proto


def event_tags(spec: ActivitySpec) -> dict[str, str]:
    """Return the tags of the view of activity events."""
    return {Tag.ROLE: Role.EVENTS, Tag.SPEC: spec.to_json()}


def item_tags(embedding: ItemEmbedding) -> dict[str, str]:
    """Return the tags of the view of job embeddings: which vectors these are."""
    return {
        Tag.ROLE: Role.ITEMS,
        Tag.ITEM_EMBEDDING: embedding.name,
        Tag.ITEM_EMBEDDING_VERSION: embedding.version,
        Tag.ITEM_EMBEDDING_DIMENSION: str(embedding.dimension),
    }


def item_embedding_of(view: FeatureView) -> ItemEmbedding:
    """Invert `item_tags`."""
    return ItemEmbedding(
        view.tags[Tag.ITEM_EMBEDDING],
        view.tags[Tag.ITEM_EMBEDDING_VERSION],
        int(view.tags[Tag.ITEM_EMBEDDING_DIMENSION]),
    )


def sequence_view(
    *,
    events: FeatureView,
    items: FeatureView,
    member: Entity,
    job: Entity,
    spec: ActivitySpec,
    snapshots: Path,
    owner: str = "",
) -> BatchFeatureView:
    """Return the view of each member's newest activities, `member_activity_sequence`.

    Parameters
    ----------
    events, items : the views it is derived from: items say which jobs are known.
    member, job : entities; their `value_type` is the type of the ids.
    spec : window, length and actions.
    snapshots : folder under which the view keeps its snapshots.
    """
    return _batch_view(
        name=names.MEMBER_ACTIVITY_SEQUENCE,
        entities=[member],
        ttl=spec.window,
        source=[events, items],
        sink_source=_sink(names.MEMBER_ACTIVITY_SEQUENCE, snapshots / "v1", owner),
        schema=sequence_fields(_id_type(member), _id_type(job)),
        description=(
            f"Newest {spec.length} activities of the last {spec.window.days} days, on jobs with "
            "a vector, oldest first."
        ),
        tags={Tag.ROLE: Role.SEQUENCE, Tag.SPEC: spec.to_json()},
        owner=owner,
    )


def embedding_views(
    models: Sequence[ActivityModel],
    *,
    sequence: FeatureView,
    items: FeatureView,
    member: Entity,
    snapshots: Path,
    repo: Path,
    owner: str = "",
) -> dict[str, BatchFeatureView]:
    """Return one view `member_activity_embedding_<model>` for each line of `ACTIVITY_MODELS`.

    Parameters
    ----------
    models : the lines.
    sequence, items : the views they are derived from.
    member : the entity.
    snapshots : folder under which each view keeps its snapshots.
    repo : folder of the feature repo. Models in it are registered by their path within it, so
        that the registry serves on other machines too.

    Raises
    ------
    InvalidInput
        A model does not keep the contract, or was made for another spec or item embedding.
    """
    spec = ActivitySpec.from_dict(json.loads(sequence.tags[Tag.SPEC]))
    described = describe_models(models, spec=spec, item_embedding=item_embedding_of(items))
    views = [_embedding_view(m, sequence, items, member, snapshots, repo, owner) for m in described]
    return {view.name: view for view in views}


def _embedding_view(
    model: ModelDescription,
    sequence: FeatureView,
    items: FeatureView,
    member: Entity,
    snapshots: Path,
    repo: Path,
    owner: str,
) -> BatchFeatureView:
    name = names.embedding_view_name(model.name)
    clash = {names.MEMBER_ID, names.EVENT_TIMESTAMP, names.CREATED_TIMESTAMP} & set(model.outputs)
    if clash:
        raise InvalidInput(
            f"model {model.name!r}: outputs become features, so they should not be named like "
            f"keys and times. Received: {', '.join(sorted(clash))}"
        )
    path = model.path.relative_to(repo) if model.path.is_relative_to(repo) else model.path
    outputs = ", ".join(f"{output} [{size}]" for output, size in model.outputs.items())
    return _batch_view(
        name=name,
        entities=[member],
        ttl=model.spec.window,
        source=[sequence, items],
        # A new version starts a new history: vectors of two versions never meet in one table.
        sink_source=_sink(name, snapshots / f"v{model.version}", model.owner or owner),
        schema=embedding_fields(_id_type(member), model.outputs),
        description=model.description or f"Activity embedding by {model.name}: {outputs}.",
        tags={
            Tag.ROLE: Role.EMBEDDING,
            Tag.MODEL: model.name,
            Tag.MODEL_VERSION: model.version,
            Tag.MODEL_FINGERPRINT: model.fingerprint,
            Tag.MODEL_PATH: path.as_posix(),
            Tag.ITEM_EMBEDDING: model.item_embedding.name,
            Tag.ITEM_EMBEDDING_VERSION: model.item_embedding.version,
        },
        owner=model.owner or owner,
    )


def _batch_view(*, ttl: timedelta, **definition: Any) -> BatchFeatureView:
    with warnings.catch_warnings():
        # Feast says at every construction that batch feature views are experimental.
        warnings.simplefilter("ignore", RuntimeWarning)
        return BatchFeatureView(ttl=ttl, online=True, offline=True, **definition)


def _sink(view: str, folder: Path, owner: str) -> FileSource:
    path = folder.parent / view / folder.name
    return SnapshotSource(
        name=f"{view}_snapshots",
        path=str(path),
        file_format=ParquetFormat(),
        timestamp_field=names.EVENT_TIMESTAMP,
        created_timestamp_column=names.CREATED_TIMESTAMP,
        description=f"Dated snapshots of {view}, one folder an as-of time.",
        owner=owner,
    )


def _id_type(entity: Entity) -> PrimitiveFeastType:
    if entity.value_type not in (ValueType.INT64, ValueType.STRING):
        raise InvalidInput(
            f"entity {entity.name!r}: `value_type` should be INT64 or STRING. "
            f"Received: {entity.value_type.name}"
        )
    return Int64 if entity.value_type == ValueType.INT64 else String
