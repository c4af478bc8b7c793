"""From an arm to numbers: the vectors of each query's member, wherever they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import numpy as np
import pyarrow as pa

from activity_embeddings.training.evaluation.arms import Arm, Kind, Source
from activity_embeddings.training.evaluation.base_features import Categories
from activity_embeddings.training.evaluation.contenders import EvaluatedModel
from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.evaluation.ranker import Vectors
from activity_embeddings.training.evaluation.store import EvaluationStore
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.transformations import names
from activity_embeddings.transformations.contract.activity_model import (
    ActivityModel,
    describe_model,
)
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.inference.embedder import Embedder
from activity_embeddings.transformations.spec import ItemVectorSpec

RECENT_CATEGORIES = "member_recent_categories"
TRUE_PREFERENCE = "member_true_preference"
CHECKED = 1000
"""Queries whose published values are computed again, to check them."""


class MemberVectors:
    """Answers which vectors an arm has for queries.

    Parameters
    ----------
    store
        Where values were published.
    history
        Events and item vectors.
    queries
        All that it will be asked about.
    vector_spec
        Which item vectors these are.
    models
        By name of the arm.
    categories
        Categories of the items.
    item_truth
        float32 [J, D]; the true vectors of items in a simulated market.
    """

    def __init__(
        self,
        store: EvaluationStore,
        history: ActivityHistory,
        *,
        queries: Sequence[Queries],
        vector_spec: ItemVectorSpec,
        models: Mapping[str, EvaluatedModel],
        categories: Categories,
        item_truth: np.ndarray | None,
    ) -> None:
        self._store, self._history, self._vector_spec = store, history, vector_spec
        self._queries = queries
        self._models, self._categories, self._item_truth = models, categories, item_truth
        self._embedders: dict[str, Embedder] = {}
        self._joined: dict[tuple[str, bool], list[dict[str, np.ndarray]]] = {}

    def of_arm(self, arm: Arm, queries: Queries, seed: int) -> list[Vectors]:
        """Return the vectors of an arm, for the seed at a place among the seeds."""
        return [vectors for source in arm.sources for vectors in self._of(source, queries, seed)]

    def varies(self, arm: Arm) -> bool:
        """Return whether an arm's vectors differ from seed to seed."""
        return any(len(self._models[model].paths) > 1 for model in arm.models)

    def newest_activity(self, model: str, queries: Queries) -> np.ndarray:
        """Return the time of the newest activity that a published value knew, int64 [n], or 0."""
        return self._join(self._models[model].view(0), queries)[names.LAST_ACTIVITY_AT]

    def differing(self, model: str, queries: Queries) -> int:
        """Return how many queries have a published value that differs from a second computation.

        Up to `CHECKED` queries are checked, in every SavedModel of the model. The second
        computation is from the activity before the newest daily run that had published before
        the query.
        """
        few = np.unique(np.linspace(0, len(queries) - 1, CHECKED).astype(int))
        as_of = self._store.schedule.newest(queries.time[few])
        differ = np.zeros(len(few), bool)
        for view in self._models[model].views:
            joined = self._join(view, queries)
            differ |= joined[names.LAST_ACTIVITY_AT][few] >= as_of
            for name, again in self.embed(view, queries.member[few], as_of).items():
                published = _wide(joined[name], again.shape[1])[few]
                differ |= ~np.isclose(published, again, rtol=1e-3, atol=1e-4).all(axis=1)
        return int(differ.sum())

    def embed(self, model: str, member: np.ndarray, as_of: np.ndarray) -> dict[str, np.ndarray]:
        """Compute a model's outputs of members as of any time, by the daily run's functions.

        Parameters
        ----------
        model
            Name under which it is published.
        member
            int [n]; positions in `history.events.member_ids`.
        as_of
            int64 [n]; microseconds since the epoch.
        """
        if model not in self._embedders:
            path = self._store.model_path(model)
            described = describe_model(
                ActivityModel(path, name=model),
                spec=self._history.spec,
                vector_spec=self._vector_spec,
            )
            self._embedders[model] = Embedder([described])
        sequences = self._history.sequences(member, as_of)
        return self._embedders[model](sequences, self._history.vectors)[model]

    def _of(self, source: Source, queries: Queries, seed: int) -> list[Vectors]:
        matrix, rows = self._history.vectors.matrix, queries.vector_row
        if source.kind == Kind.CONSTANT:
            ones = np.ones((len(queries), matrix.shape[1]), np.float32)
            return [Vectors(ones, matrix, rows)]
        if source.kind == Kind.CATEGORIES:
            sums = self._join(RECENT_CATEGORIES, queries)
            items = self._categories.of_items * self._categories.weights
            return [Vectors(_wide(s, items.shape[1]), items, queries.item) for s in sums.values()]
        if source.kind == Kind.TRUTH:
            assert self._item_truth is not None
            (preference,) = self._join(TRUE_PREFERENCE, queries).values()
            return [Vectors(preference, self._item_truth, queries.item)]
        model = self._models[source.model].view(seed)
        if source.kind == Kind.AS_OF:
            as_of = queries.time - source.lag // timedelta(microseconds=1)
            outputs = self.embed(model, queries.member, as_of)
        else:
            other = source.kind == Kind.OTHER_MEMBER
            joined = self._join(model, queries, other=other)
            outputs = {name: joined[name] for name in self._store.outputs(model)}
        return [Vectors(_wide(o, matrix.shape[1]), matrix, rows) for o in outputs.values()]

    def _join(
        self, service: str, queries: Queries, *, other: bool = False
    ) -> dict[str, np.ndarray]:
        key = (service, other)
        if key not in self._joined:
            asked = []
            for each in self._queries:
                member = _others(each.member) if other else each.member
                asked.append((self._history.events.member_ids.take(pa.array(member)), each.time))
            self._joined[key] = self._store.join_each(service, asked)
        (place,) = [i for i, each in enumerate(self._queries) if each is queries]
        return self._joined[key][place]


def _others(member: np.ndarray) -> np.ndarray:
    """Return another member for each, always the same one for one, drawn at random."""
    members, position = np.unique(member, return_inverse=True)
    if len(members) < 2:
        raise InvalidInput("placebo: expected queries of two members or more. Received: one")
    order = np.random.default_rng(0).permutation(len(members))
    other = np.empty_like(members)
    other[order] = members[np.roll(order, 1)]
    return other[position]


def _wide(values: np.ndarray, dimension: int) -> np.ndarray:
    """Return vectors, or zeros of the right length where nobody had a value."""
    return values if values.shape[1] else np.zeros((len(values), dimension), np.float32)
