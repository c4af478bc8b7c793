"""Read what training needs from a user's feature repo: the sources that Feast names there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.types import Array, String

from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.kinds import ids_with_kind
from activity_embeddings.transformations.arrow import single_chunk
from activity_embeddings.transformations.batch.vector_run import vectors_up_to
from activity_embeddings.transformations.contract.activity_model import ActivityModel
from activity_embeddings.transformations.definitions.kinds import vectors_of_all
from activity_embeddings.transformations.definitions.registered import (
    RegisteredDomain,
    registered_domain,
    registered_encoder,
)
from activity_embeddings.transformations.definitions.tags import (
    has_encoder,
    has_string_ids,
    in_repo,
    vector_spec_of,
)
from activity_embeddings.transformations.errors import InvalidData
from activity_embeddings.transformations.feast_compat.stores import offline_store
from activity_embeddings.transformations.names import Tag
from activity_embeddings.transformations.offline.located import source_label
from activity_embeddings.transformations.offline.sinks.places import sink_of
from activity_embeddings.transformations.offline.sources import (
    key_of,
    read_item_vectors,
    read_postings,
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
    store
        The feature store, after `feast apply`.
    item
        Name of the item's entity, where the feature repo has several domains.
    """

    store: FeatureStore
    item: str | None = None

    @cached_property
    def domain(self) -> RegisteredDomain:
        """The views of the domain.

        Raises
        ------
        NotReady, InvalidInput
            See `registered_domain`.
        """
        return registered_domain(self.store, self.item)

    @property
    def spec(self) -> ActivitySpec:
        """Window, length and actions."""
        return self.domain.spec

    @property
    def vector_spec(self) -> ItemVectorSpec:
        """Which item vectors the repo has."""
        return self.domain.vector_spec

    def history(self, period: Period) -> ActivityHistory:
        """Return the activity of a period, with the look-back of the window, and item vectors.

        Of an encoder's vectors those that are published are read, and the others made here, from
        the postings: nothing need have been materialized.

        Raises
        ------
        InvalidInput
            A source is missing or malformed, or holds no activity on items with a vector.
        """
        spec, end = self.spec, period.end_us
        events = self._events(period.start_us - spec.window_us, end)
        if not len(events):
            raise InvalidData(
                f"events: expected events from {spec.window} before {period.start} to before "
                f"{period.end} to train on. Received: none"
            )
        vectors = vectors_of_all(self.domain.kinds, lambda view: self._vectors(view, end))
        return ActivityHistory.of(events, vectors, spec)

    def events(self, period: Period) -> ActivityEvents:
        """Return the activity of a period; raises as `history` does."""
        return self._events(period.start_us, period.end_us)

    def whole_history(self, until: Time) -> ActivityHistory:
        """Return all activity before a time, which has a zone, and item vectors."""
        return self.history(Period(_ALWAYS, parse_datetime(until, "`until`", zone=True)))

    def postings(self, columns: Sequence[str], until: Time) -> pa.Table | None:
        """Return ids, times and some columns of the postings up to a time; None without a view.

        They are those of the domain's own items, with ids as a history has them.
        """
        end = parse_time(until, "`until`")
        view = self.domain.postings
        if view is None:
            return None
        table = read_postings(*self._offline, view, list(columns), end=end)
        if not self.spec.kinds:
            return table
        item_id = key_of(view)
        ids = ids_with_kind(self.domain.names.item, single_chunk(table, item_id)).cast(pa.string())
        return table.set_column(table.column_names.index(item_id), item_id, ids)

    def item_names(self, until: Time) -> dict[int | str, str]:
        """Return the newest titles or texts of items up to a time, by their ids in a history."""
        return self.domain.item_names(*self._offline, end=parse_time(until, "`until`"))

    def category_columns(self) -> list[str]:
        """Return the columns of the postings that are lists of text."""
        features = [] if self.domain.postings is None else self.domain.postings.features
        return [feature.name for feature in features if feature.dtype == Array(String)]

    def models(self) -> dict[str, ActivityModel]:
        """Return the registered activity models, by name."""
        return {
            view.tags[Tag.MODEL]: ActivityModel(
                in_repo(view.tags[Tag.MODEL_PATH], self.store.config.repo_path),
                name=view.tags[Tag.MODEL],
                version=view.tags[Tag.MODEL_VERSION],
            )
            for view in self.domain.embeddings
        }

    @property
    def simulated(self) -> bool:
        """Whether the source of some events says that its data are made up."""
        sources = [view.batch_source for view in self.domain.event_views]
        return any(s is not None and s.tags.get(Tag.SIMULATED) == "true" for s in sources)

    @property
    def _offline(self) -> tuple[Any, Any]:
        return self.store.config, offline_store(self.store)

    def _events(self, start: int, end: int) -> ActivityEvents:
        return self.domain.read_events(*self._offline, start=start, end=end)

    def _vectors(self, view: FeatureView, end: int) -> ItemVectors:
        """Return the vectors of one kind of item; of an encoder those of postings up to the end."""
        if not has_encoder(view):
            return read_item_vectors(*self._offline, view, vector_spec_of(view), end=end)
        encoder = registered_encoder(view, repo=self.store.config.repo_path)
        (postings,) = [k.postings for k in self.domain.kinds if k.vectors is view]
        assert postings is not None  # `encoded_vector_view` takes it from this view
        item_id, source = key_of(postings), source_label(postings)
        table = vectors_up_to(
            encoder,
            sink_of(view, self.store.config),
            partial(read_postings, *self._offline, postings),
            end=end,
            id_type=pa.string() if has_string_ids(view) else pa.int64(),
            source=source,
            item_id=item_id,
        )
        return ItemVectors.from_arrow(table, encoder.vector_spec, source=source, item_id=item_id)
