"""Read what training needs from a user's feature repo: the sources that Feast names there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from feast import FeatureStore
from feast.types import Array, String

from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.contract.activity_model import ActivityModel
from activity_embeddings.transformations.definitions.views import (
    has_encoder,
    in_repo,
    registered_encoder,
    source_views_of,
    spec_of,
    vector_spec_of,
)
from activity_embeddings.transformations.errors import NotReady
from activity_embeddings.transformations.feast_compat.stores import offline_store
from activity_embeddings.transformations.inference.encoder import ItemEncoder, encode_postings
from activity_embeddings.transformations.names import Role, Tag
from activity_embeddings.transformations.offline.sources import (
    key_of,
    read_events,
    read_item_vectors,
    read_postings,
    source_label,
)
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.times import Time, parse_datetime, parse_time

_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
"""Before the first event of anybody's log."""


@dataclass(frozen=True)
class TrainingSource:
    """The views of an applied feature repo that training reads.

    Parameters
    ----------
    store : the feature store, after `feast apply`.
    """

    store: FeatureStore

    @property
    def spec(self) -> ActivitySpec:
        """Window, length and actions."""
        return spec_of(self._view(Role.EVENTS))

    @property
    def vector_spec(self) -> ItemVectorSpec:
        """Which item vectors the repo has."""
        return vector_spec_of(self._view(Role.VECTORS))

    def history(self, period: Period) -> ActivityHistory:
        """Return the activity of a period, with the look-back of the window, and item vectors.

        Vectors that an encoder makes are made here, from the postings: nothing need have been
        materialized.

        Raises
        ------
        InvalidInput
            A source is missing or malformed, or holds no activity on items with a vector.
        """
        spec, vector_spec = self.spec, self._view(Role.VECTORS)
        start, end = period.start_us - spec.window_us, period.end_us
        events = read_events(*self._offline, self._view(Role.EVENTS), spec, start=start, end=end)
        if has_encoder(vector_spec):
            vectors = self._encoded(vector_spec, end)
        else:
            vectors = read_item_vectors(*self._offline, vector_spec, self.vector_spec, end=end)
        return ActivityHistory.of(events, vectors, spec)

    def whole_history(self, until: Time) -> ActivityHistory:
        """Return all activity before a time, which has a zone, and item vectors."""
        return self.history(Period(_ALWAYS, parse_datetime(until, "`until`", zone=True)))

    def postings(self, columns: Sequence[str], until: Time) -> pa.Table | None:
        """Return ids, times and some columns of the postings up to a time; None without a view."""
        end = parse_time(until, "`until`")
        views = self._views(Role.POSTINGS)
        if not views:
            return None
        return read_postings(*self._offline, views[0], list(columns), end=end)

    def category_columns(self) -> list[str]:
        """Return the columns of the postings that are lists of text."""
        return [
            feature.name
            for view in self._views(Role.POSTINGS)
            for feature in view.features
            if feature.dtype == Array(String)
        ]

    def models(self) -> dict[str, ActivityModel]:
        """Return the registered activity models, by name."""
        return {
            view.tags[Tag.MODEL]: ActivityModel(
                in_repo(view.tags[Tag.MODEL_PATH], self.store.config.repo_path),
                name=view.tags[Tag.MODEL],
                version=view.tags[Tag.MODEL_VERSION],
            )
            for view in self._views(Role.EMBEDDING)
        }

    @property
    def simulated(self) -> bool:
        """Whether a view says that its data are made up."""
        views = [*self._views(Role.EVENTS), *self._views(Role.POSTINGS)]
        return any(view.tags.get(Tag.SIMULATED) == "true" for view in views)

    @property
    def _offline(self) -> tuple[Any, Any]:
        return self.store.config, offline_store(self.store)

    def _views(self, role: str) -> list[Any]:
        return [v for v in self.store.list_all_feature_views() if v.tags.get(Tag.ROLE) == role]

    def _view(self, role: str) -> Any:
        views = self._views(role)
        if len(views) != 1:
            raise NotReady(
                f"{self.store.project}: expected one view with the tag {Tag.ROLE} {role!r} in the "
                f"registry. Received: {', '.join(v.name for v in views) or 'none'}; run `feast "
                "apply` first"
            )
        return views[0]

    def _encoded(self, vector_spec: Any, end: int) -> ItemVectors:
        encoder = registered_encoder(vector_spec, repo=self.store.config.repo_path)
        name = source_views_of(vector_spec)[Role.POSTINGS]
        view = self.store.registry.get_feature_view(name, self.store.project)
        item_id, source = key_of(view), source_label(view)
        columns = encoder.content_columns(item_id)
        postings = read_postings(*self._offline, view, columns, end=end)
        table = encode_postings(ItemEncoder(encoder), postings, source=source, item_id=item_id)
        return ItemVectors.from_arrow(table, encoder.vector_spec, source=source, item_id=item_id)
