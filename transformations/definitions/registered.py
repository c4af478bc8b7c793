"""What a registry has after `feast apply`: its domains, and the models of its views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from feast import FeatureStore, FeatureView

from activity_embeddings.transformations.contract.activity_model import (
    ActivityModel,
    ModelDescription,
    describe_model,
)
from activity_embeddings.transformations.contract.item_encoder import (
    ItemEncoderDescription,
    describe_item_encoder,
)
from activity_embeddings.transformations.definitions.tags import (
    has_string_ids,
    in_repo,
    source_views_of,
    spec_of,
    vector_spec_of,
)
from activity_embeddings.transformations.errors import (
    InvalidInput,
    ModelMismatch,
    NotReady,
    quote,
)
from activity_embeddings.transformations.names import DomainNames, Role, Tag
from activity_embeddings.transformations.spec import ActivitySpec, describe_mismatch


@dataclass(frozen=True)
class RegisteredDomain:
    """The views of one domain.

    Attributes
    ----------
    names
        What columns, features and views are called.
    spec
        Window, length and actions.
    sequence, events, vectors
        The view of sequences, and the two that it is made from.
    postings
        The view of what items contain; None without one.
    embeddings
        One view a model.
    """

    names: DomainNames
    spec: ActivitySpec
    sequence: FeatureView
    events: FeatureView
    vectors: FeatureView
    postings: FeatureView | None
    embeddings: list[FeatureView]

    @property
    def views(self) -> list[FeatureView]:
        """The views whose rows are members'."""
        return [self.sequence, *self.embeddings]

    def member_ids(self, members: Sequence[int | str]) -> pa.Array:
        """Return members as ids of this domain, each once; integers may be text.

        Raises
        ------
        InvalidInput
            An id is of another type.
        """
        return _ids(members, self.sequence, self.names.member_id).unique()

    def item_id(self, item: int | str) -> int | str:
        """Return an item as an id of this domain; see `member_ids`."""
        return _ids([item], self.vectors, self.names.item_id)[0].as_py()


def _ids(given: Sequence[int | str], view: FeatureView, column: str) -> pa.Array:
    """Return ids of the type of a view's join key."""
    if has_string_ids(view):
        return pa.array([str(each) for each in given], pa.string())
    try:
        return pa.array([int(each) for each in given], pa.int64())
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            f"{column}: expected ids that are int64. Received: {', '.join(map(quote, given))}"
        ) from error


def registered_domains(store: FeatureStore) -> list[RegisteredDomain]:
    """Return every domain of a feature store, by the name of its item."""
    views = store.list_batch_feature_views()
    made = [
        _domain_of(store, sequence, views)
        for sequence in views
        if sequence.tags.get(Tag.ROLE) == Role.SEQUENCE
    ]
    return sorted(made, key=lambda domain: domain.names.item)


def registered_domain(store: FeatureStore, item: str | None = None) -> RegisteredDomain:
    """Return one domain of a feature store.

    Parameters
    ----------
    store
        The feature store, after `feast apply`.
    item
        Name of the item's entity; may be left out where there is one domain.

    Raises
    ------
    NotReady
        There is no domain yet.
    InvalidInput
        There is no such domain, or several and no item says which.
    """
    found = registered_domains(store)
    there = ", ".join(domain.names.item for domain in found) or "none"
    if not found:
        raise NotReady(
            f"{store.repo_path}: expected a registry with a view of sequences. Received: none. "
            "Run `feast apply`"
        )
    if item is None and len(found) == 1:
        return found[0]
    chosen = [domain for domain in found if domain.names.item == item]
    if not chosen:
        asked = "Received: no item" if item is None else f"Received: {item!r}"
        raise InvalidInput(
            f"{store.repo_path}: expected the item of one of its domains: {there}. {asked}"
        )
    return chosen[0]


def _domain_of(
    store: FeatureStore, sequence: FeatureView, views: list[FeatureView]
) -> RegisteredDomain:
    sources = source_views_of(sequence)
    vectors = store.registry.get_feature_view(sources[Role.VECTORS], store.project)
    postings = (
        view
        for view in store.list_feature_views()
        if view.tags.get(Tag.ROLE) == Role.POSTINGS and view.entities == vectors.entities
    )
    return RegisteredDomain(
        names=DomainNames.of(sequence.tags),
        spec=spec_of(sequence),
        sequence=sequence,
        events=store.registry.get_feature_view(sources[Role.EVENTS], store.project),
        vectors=vectors,
        postings=next(postings, None),
        embeddings=[
            view
            for view in views
            if view.tags.get(Tag.ROLE) == Role.EMBEDDING
            and source_views_of(view)[Role.SEQUENCE] == sequence.name
        ],
    )


def registered_model(
    view: FeatureView, *, spec: ActivitySpec, vectors: FeatureView, repo: Path | None
) -> ModelDescription:
    """Return the model of a registered embedding view, after checking that it is still the same.

    Raises
    ------
    ModelMismatch
        The SavedModel is gone, corrupt or another than the one that was applied.
    """
    path = in_repo(view.tags[Tag.MODEL_PATH], repo)
    embedding = vector_spec_of(vectors)
    packaged = (path / "assets.extra").is_dir()
    model = describe_model(
        ActivityModel(
            path,
            name=view.tags[Tag.MODEL],
            version=view.tags[Tag.MODEL_VERSION],
            spec=None if packaged else spec,
            vector_spec=None if packaged else embedding,
        ),
        spec=spec,
        vector_spec=embedding,
    )
    if model.fingerprint != view.tags[Tag.MODEL_FINGERPRINT]:
        raise ModelMismatch(
            f"model {model.name!r}: the SavedModel at {path} should be the one that was "
            f"applied, fingerprint {view.tags[Tag.MODEL_FINGERPRINT]}. Received: "
            f"{model.fingerprint}. Run `feast apply` to publish the changed model"
        )
    return model


def registered_encoder(view: FeatureView, *, repo: Path | None) -> ItemEncoderDescription:
    """Return the encoder of a registered view of item vectors, after checking that it is the same.

    Raises
    ------
    InvalidInput
        The SavedModel is gone, corrupt or another than the one that was applied.
    """
    encoder = describe_item_encoder(in_repo(view.tags[Tag.ENCODER_PATH], repo))
    mismatch = describe_mismatch(
        {
            **vector_spec_of(view).to_dict(),
            "valid_from": view.tags[Tag.ENCODER_VALID_FROM],
        },
        {**encoder.vector_spec.to_dict(), "valid_from": encoder.facts()["valid_from"]},
    )
    if mismatch:
        raise ModelMismatch(
            f"item encoder {encoder.name!r}: the SavedModel at {encoder.path} should be the one "
            f"that was applied: {mismatch}. Run `feast apply` to publish the changed encoder"
        )
    return encoder
