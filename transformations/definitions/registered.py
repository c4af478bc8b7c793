"""What a registry has after `feast apply`: its domains, and the models of its views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from feast import FeatureStore, FeatureView, RepoConfig

from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.kinds import id_with_kind, kind_and_id
from activity_embeddings.transformations.contract.activity_model import (
    ActivityModel,
    ModelDescription,
    describe_model,
)
from activity_embeddings.transformations.contract.item_encoder import (
    ItemEncoderDescription,
    describe_item_encoder,
)
from activity_embeddings.transformations.definitions.kinds import (
    KindViews,
    kinds_of,
    vectors_of_all,
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
from activity_embeddings.transformations.offline.item_names import read_item_names
from activity_embeddings.transformations.offline.sources import read_events, read_item_vectors
from activity_embeddings.transformations.spec import (
    ActivitySpec,
    ItemVectorSpec,
    describe_mismatch,
)


@dataclass(frozen=True)
class RegisteredDomain:
    """The views of one domain.

    Attributes
    ----------
    names
        What columns, features and views are called.
    spec
        Window, length and actions.
    sequence
        The view of sequences.
    kinds
        The views that it is made from, of each kind of activity; the domain's own first.
    embeddings
        One view a model.
    """

    names: DomainNames
    spec: ActivitySpec
    sequence: FeatureView
    kinds: list[KindViews]
    embeddings: list[FeatureView]

    @property
    def events(self) -> FeatureView:
        """The view of events on the domain's own items."""
        return self.kinds[0].events

    @property
    def vectors(self) -> FeatureView:
        """The view of vectors of the domain's own items."""
        return self.kinds[0].vectors

    @property
    def postings(self) -> FeatureView | None:
        """The view of what the domain's own items contain; None without one."""
        return self.kinds[0].postings

    @property
    def event_views(self) -> list[FeatureView]:
        """The views of events of all kinds."""
        return [kind.events for kind in self.kinds]

    @property
    def vector_spec(self) -> ItemVectorSpec:
        """Which item vectors the domain's sequences have."""
        return vector_spec_of([kind.vectors for kind in self.kinds])

    def read_events(
        self, config: RepoConfig, offline_store: Any, *, start: int, end: int
    ) -> ActivityEvents:
        """Return the events of all kinds with `start <= t < end`, microseconds since the epoch.

        Raises
        ------
        InvalidInput
            A source or a column is missing or malformed; see `sources.read_events`.
        """
        return read_events(config, offline_store, self.event_views, self.spec, start=start, end=end)

    def read_vectors(self, config: RepoConfig, offline_store: Any, *, end: int) -> ItemVectors:
        """Return the item vectors of all kinds with `t <= end`, microseconds since the epoch.

        Raises
        ------
        InvalidInput
            A source or a column is missing or malformed; see `sources.read_item_vectors`.
        """
        return vectors_of_all(
            self.kinds,
            lambda view: read_item_vectors(
                config, offline_store, view, vector_spec_of(view), end=end
            ),
        )

    def item_names(
        self, config: RepoConfig, offline_store: Any, *, end: int
    ) -> dict[int | str, str]:
        """Return what people call items as of a time, by their ids in sequences.

        Raises
        ------
        InvalidInput
            A source cannot be read.
        """
        called: dict[int | str, str] = {}
        for kind in self.kinds:
            view = kind.postings or kind.vectors
            of_kind = read_item_names(config, offline_store, view, end=end)
            if self.spec.kinds:
                of_kind = {id_with_kind(kind.name, item): name for item, name in of_kind.items()}
            called |= of_kind
        return called

    def item_in_sequences(self, item_id: int | str) -> tuple[KindViews, int | str]:
        """Return the kind of an item of a sequence, and its id in the views of the kind."""
        if not self.spec.kinds:
            return self.kinds[0], item_id
        name, text = kind_and_id(str(item_id))
        kind = self.kind(name)
        return kind, text if has_string_ids(kind.vectors) else int(text)

    def kind(self, name: str | None) -> KindViews:
        """Return the kind of activity of a name; the domain's own unless said.

        Raises
        ------
        InvalidInput
            The domain has no such kind.
        """
        found = [kind for kind in self.kinds if name in (None, kind.name)]
        if not found:
            raise InvalidInput(
                f"domain {self.names.item!r}: expected one of its kinds of activity: "
                f"{', '.join(kind.name for kind in self.kinds)}. Received: {quote(name)}"
            )
        return found[0]

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

    def item_id(self, item: int | str, action: str | None = None) -> int | str:
        """Return an item as an id of this domain; see `member_ids`.

        Of several kinds of activity, an action of the spec says which kind of item it is.
        """
        kind = self.kind(self.spec.kind_of(action))
        return _ids([item], kind.vectors, kind.names.item_id)[0].as_py()


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


def domains_reading(store: FeatureStore, domain: RegisteredDomain) -> list[RegisteredDomain]:
    """Return the domains that read a source of events of a domain: itself, and perhaps others.

    An own kind of activity of one domain may be another kind in others.
    """
    read = {view.name for view in domain.event_views}
    return [
        other
        for other in registered_domains(store)
        if read.intersection(view.name for view in other.event_views)
    ]


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
    registry, project = store.registry, store.project
    kinds = kinds_of(sequence, lambda name: registry.get_feature_view(name, project))
    postings = {
        view.entities[0]: view
        for view in store.list_feature_views()
        if view.tags.get(Tag.ROLE) == Role.POSTINGS
    }
    return RegisteredDomain(
        names=DomainNames.of(sequence.tags),
        spec=spec_of(sequence),
        sequence=sequence,
        kinds=[replace(kind, postings=postings.get(kind.name)) for kind in kinds],
        embeddings=[
            view
            for view in views
            if view.tags.get(Tag.ROLE) == Role.EMBEDDING
            and source_views_of(view)[Role.SEQUENCE] == [sequence.name]
        ],
    )


def registered_model(
    view: FeatureView, *, spec: ActivitySpec, vector_spec: ItemVectorSpec, repo: Path | None
) -> ModelDescription:
    """Return the model of a registered embedding view, after checking that it is still the same.

    Parameters
    ----------
    view
        The view.
    spec, vector_spec
        Of its domain.
    repo
        Folder of the feature repo.

    Raises
    ------
    ModelMismatch
        The SavedModel is gone, corrupt or another than the one that was applied.
    """
    path = in_repo(view.tags[Tag.MODEL_PATH], repo)
    packaged = (path / "assets.extra").is_dir()
    model = describe_model(
        ActivityModel(
            path,
            name=view.tags[Tag.MODEL],
            version=view.tags[Tag.MODEL_VERSION],
            spec=None if packaged else spec,
            vector_spec=None if packaged else vector_spec,
        ),
        spec=spec,
        vector_spec=vector_spec,
    )
    if model.fingerprint != view.tags[Tag.MODEL_FINGERPRINT]:
        raise ModelMismatch(
            f"model {model.name!r}: the SavedModel at {path} should be the one that was "
            f"applied, fingerprint {view.tags[Tag.MODEL_FINGERPRINT]}. Received: "
            f"{model.fingerprint}. Package the changed model under a new version and run `feast "
            "apply`, or put back the one that was applied"
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
            f"that was applied: {mismatch}. Package the changed encoder under a new "
            "version and run `feast apply`, or put back the one that was applied"
        )
    return encoder
