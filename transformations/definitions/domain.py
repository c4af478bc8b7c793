"""Everything that one domain publishes, from its events, vectors and models in one call."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from feast import BatchFeatureView, Entity, FeatureService, FeatureView, OnDemandFeatureView

from activity_embeddings.transformations.contract.activity_model import ActivityModel
from activity_embeddings.transformations.definitions.snapshot_source import Snapshots
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
        The view of events, see `activity_view`.
    vectors
        The view of item vectors, see `vector_view` and `encoded_vector_view`.
    member, item
        The entities of both.
    models
        One line a model.
    repo
        Folder of the feature repo.
    snapshots
        Where every view keeps its snapshots: a folder or another place; `data/snapshots` of the
        repo unless said.
    owner
        Shown in the registry.

    Raises
    ------
    InvalidInput
        A model does not keep the contract, or was made for another spec or other vectors; or the
        views are of other entities.

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
        activity: FeatureView,
        vectors: FeatureView,
        member: Entity,
        item: Entity,
        models: Sequence[ActivityModel],
        repo: Path,
        snapshots: Snapshots = None,
        owner: str = "",
    ) -> None:
        require_kinds(
            "ActivityDomain",
            activity=(activity, FeatureView),
            vectors=(vectors, FeatureView),
            member=(member, Entity),
            item=(item, Entity),
            models=(models, (list, tuple)),
            repo=(repo, Path),
            owner=(owner, str),
        )
        self.sequence = sequence_view(
            events=activity,
            vectors=vectors,
            member=member,
            item=item,
            snapshots=snapshots,
            repo=repo,
            owner=owner,
        )
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
