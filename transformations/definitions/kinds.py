"""The views of each kind of activity of a domain, and what they are together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from feast import FeatureView

from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.kinds import vectors_of_kinds
from activity_embeddings.transformations.definitions.tags import source_views_of
from activity_embeddings.transformations.names import DomainNames, Role


@dataclass(frozen=True)
class KindViews:
    """The views of one kind of activity.

    Attributes
    ----------
    events
        The view of events.
    vectors
        The view of the vectors of its items.
    postings
        The view of what its items contain, where that has been looked for and there is one.
    """

    events: FeatureView
    vectors: FeatureView
    postings: FeatureView | None = None

    @property
    def names(self) -> DomainNames:
        """Names of the columns of its events, and of the columns of requests."""
        return DomainNames.of(self.events.tags)

    @property
    def name(self) -> str:
        """Name of its item's entity."""
        return self.names.item


def kinds_of(sequence: FeatureView, view_of: Callable[[str], FeatureView]) -> list[KindViews]:
    """Return the kinds of activity that a view of sequences is made from, the domain's own first.

    Parameters
    ----------
    sequence
        The view.
    view_of
        Returns the registered view of a name.
    """
    sources = source_views_of(sequence)
    pairs = zip(sources[Role.EVENTS], sources[Role.VECTORS], strict=True)
    return [KindViews(view_of(events), view_of(vectors)) for events, vectors in pairs]


def vectors_of_all(
    kinds: Sequence[KindViews], read: Callable[[FeatureView], ItemVectors]
) -> ItemVectors:
    """Return the vectors of the items of all kinds, as sequences name them.

    Parameters
    ----------
    kinds
        The kinds.
    read
        Returns the vectors of a view.
    """
    if len(kinds) == 1:
        return read(kinds[0].vectors)
    return vectors_of_kinds({kind.name: read(kind.vectors) for kind in kinds})
