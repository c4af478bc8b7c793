"""Everything that one domain publishes, from its events, vectors and models in one call."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from feast import BatchFeatureView, Entity, FeatureService, FeatureView, OnDemandFeatureView

from activity_embeddings.transformations.contract.activity_model import ActivityModel
from activity_embeddings.transformations.definitions.snapshot_source import Snapshots
from activity_embeddings.transformations.definitions.tags import spec_of
from activity_embeddings.transformations.definitions.views import (
    embedding_views,
    realtime_views,
    sequence_view,
)
from activity_embeddings.transformations.errors import require_kinds
from activity_embeddings.transformations.names import ACTIVITY_COUNT, LAST_ACTIVITY_AT, Tag

View: TypeAlias = BatchFeatureView | OnDemandFeatureView


class ActivityDomain:
    """The views of one type of item, as jobs: sequences, and for each model its embeddings.

    A second domain in the same feature repo, as courses beside jobs, is a second call. Its names
    follow its item, so that nothing of the two can meet.

    Parameters
    ----------
    activity
        The view of events, see `activity_view`. Of several kinds of activity, as searches beside
        acting on jobs, a list of their views; the first is that of `item`.
    vectors
        The view of item vectors, see `vector_view` and `encoded_vector_view`; of several kinds of
        activity those of all, in the same order and of one dimension.
    member, item
        The entities of both.
    models
        One line a model.
    repo
        Folder of the feature repo.
    snapshots
        Where every view keeps its snapshots: a folder or another place; `data/snapshots` of the
        repo unless said.
    keep
        How many places of a sequence are kept for a kind of activity, by the name of its item, so
        that many events of one kind do not push out the few of another. Where a member has fewer
        events of a kind, its places stay empty.
    owner
        Shown in the registry.

    Attributes
    ----------
    spec
        ActivitySpec. Window, length, actions and kinds of the sequences.

    Raises
    ------
    InvalidInput
        A model does not keep the contract, or was made for another spec or other vectors; or the
        views are of other entities, or the kinds of activity do not go together, see
        `ActivitySpec.of_kinds`.

    Notes
    -----
    In a module of the feature repo:

        jobs = ActivityDomain(
            activity=activity,
            vectors=vectors,
            member=member,
            item=job,
            models=[ActivityModel(REPO / "models" / "geometric_decay")],
            repo=REPO,
        )
        globals().update(jobs.views)
    """

    def __init__(
        self,
        *,
        activity: FeatureView | Sequence[FeatureView],
        vectors: FeatureView | Sequence[FeatureView],
        member: Entity,
        item: Entity,
        models: Sequence[ActivityModel],
        repo: Path,
        snapshots: Snapshots = None,
        keep: Mapping[str, int] | None = None,
        owner: str = "",
    ) -> None:
        require_kinds(
            "ActivityDomain",
            activity=(activity, (FeatureView, list, tuple)),
            vectors=(vectors, (FeatureView, list, tuple)),
            member=(member, Entity),
            item=(item, Entity),
            models=(models, (list, tuple)),
            repo=(repo, Path),
            keep=(keep, (Mapping, type(None))),
            owner=(owner, str),
        )
        self.sequence = sequence_view(
            events=activity,
            vectors=vectors,
            member=member,
            item=item,
            snapshots=snapshots,
            repo=repo,
            keep=keep,
            owner=owner,
        )
        self.spec = spec_of(self.sequence)
        embeddings = embedding_views(
            models,
            sequence=self.sequence,
            vectors=vectors,
            member=member,
            snapshots=snapshots,
            repo=repo,
            owner=owner,
        )
        realtime = realtime_views(embeddings, sequence=self.sequence, item=item, owner=owner)
        self.embeddings = {view.tags[Tag.MODEL]: view for view in embeddings.values()}
        self.realtime = {view.tags[Tag.MODEL]: view for view in realtime.values()}
        self._owner = owner

    @property
    def views(self) -> dict[str, View]:
        """Every view by its name; Feast collects those that are attributes of a module."""
        views: list[View] = [self.sequence, *self.embeddings.values(), *self.realtime.values()]
        return {view.name: view for view in views}

    def service(
        self, name: str, model: str, *, realtime: bool = False, description: str = ""
    ) -> FeatureService | None:
        """Return the feature service of one model's embedding.

        Parameters
        ----------
        name
            Of the service.
        model
            Of the model.
        realtime
            Whether the embedding is computed as of the request. Otherwise it is the published one,
            with `activity_count` and `last_activity_at`.
        description
            Shown in the registry.

        Returns
        -------
        FeatureService | None
            None, with a warning that names it, where no line has the model: a repo from which a
            model is taken out can still be applied.
        """
        if model not in self.embeddings:
            known = ", ".join(self.embeddings) or "none"
            warnings.warn(
                f"feature service {name!r} is left out: expected the name of a model in "
                f"ACTIVITY_MODELS: {known}. Received: {model!r}",
                stacklevel=2,
            )
            return None
        features = (
            [self.realtime[model]]
            if realtime
            else [self.sequence[[ACTIVITY_COUNT, LAST_ACTIVITY_AT]], self.embeddings[model]]
        )
        return FeatureService(
            name=name, features=features, description=description, owner=self._owner
        )
