"""The domains that a registry has: what a command or a process finds after `feast apply`."""

from __future__ import annotations

from dataclasses import dataclass

from feast import FeatureStore, FeatureView

from activity_embeddings.transformations.definitions.views import source_views_of, spec_of
from activity_embeddings.transformations.errors import InvalidInput, NotReady
from activity_embeddings.transformations.names import DomainNames, Role, Tag
from activity_embeddings.transformations.spec import ActivitySpec


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
    embeddings
        One view a model.
    """

    names: DomainNames
    spec: ActivitySpec
    sequence: FeatureView
    events: FeatureView
    vectors: FeatureView
    embeddings: list[FeatureView]


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
    return RegisteredDomain(
        names=DomainNames.of(sequence.tags),
        spec=spec_of(sequence),
        sequence=sequence,
        events=store.registry.get_feature_view(sources[Role.EVENTS], store.project),
        vectors=store.registry.get_feature_view(sources[Role.VECTORS], store.project),
        embeddings=[
            view
            for view in views
            if view.tags.get(Tag.ROLE) == Role.EMBEDDING
            and source_views_of(view)[Role.SEQUENCE] == sequence.name
        ],
    )
