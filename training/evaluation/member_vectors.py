"""From an arm to numbers: the vectors of each query's member, wherever they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import numpy as np
import pyarrow as pa

from activity_embeddings.training.evaluation.arms import Arm, Kind, Source
from activity_embeddings.training.evaluation.base_features import BaseFeatures
from activity_embeddings.training.evaluation.contenders import EvaluatedModel
from activity_embeddings.training.evaluation.plan import AsOf
from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.evaluation.ranker import Vectors
from activity_embeddings.training.evaluation.scorers import ScoringModel
from activity_embeddings.training.evaluation.store import EvaluationStore
from activity_embeddings.training.outputs import negative_outputs
from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.sequences import Sequences
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
    """Answers what an arm has for queries: the values of each member, as the evaluation takes them.

    Parameters
    ----------
    store
        Where values were published.
    base
        Events, item vectors and categories.
    queries
        All that it will be asked about.
    vector_spec
        Which item vectors these are.
    models
        By name of the arm.
    scoring
        What scores items without a vector, by name.
    item_truth
        float32 [J, D]; the true vectors of items in a simulated market.
    as_of
        Whether values are those that were published, or are computed as of each query's time.
    """

    def __init__(
        self,
        store: EvaluationStore,
        base: BaseFeatures,
        *,
        queries: Sequence[Queries],
        vector_spec: ItemVectorSpec,
        models: Mapping[str, EvaluatedModel],
        scoring: Mapping[str, ScoringModel],
        item_truth: np.ndarray | None,
        as_of: AsOf,
    ) -> None:
        self._store, self._base, self._history = store, base, base.history
        self._vector_spec, self._queries, self._models = vector_spec, queries, models
        self._scoring, self._item_truth, self._as_of = scoring, item_truth, as_of
        self._embedders: dict[str, Embedder] = {}
        self._joined: dict[tuple[str, bool], list[dict[str, np.ndarray]]] = {}
        self._computed: dict[tuple[str, bool, int], dict[str, np.ndarray]] = {}

    def of_arm(self, arm: Arm, queries: Queries, seed: int) -> list[Vectors]:
        """Return the vectors of an arm, for the seed at a place among the seeds."""
        return [v for source in arm.sources for v in self._of(source, queries, seed).values()]

    def wanted_of_arm(self, arm: Arm, queries: Queries, seed: int) -> list[bool]:
        """Return whether each vector of an arm is of something wanted, in the order of `of_arm`.

        Scores have one.
        """
        negative = negative_outputs(self._history.spec)
        names_of = [name for s in arm.sources for name in self._of(s, queries, seed)]
        return [name not in negative for name in names_of] or [True]

    def scores_of_arm(self, arm: Arm, queries: Queries, seed: int) -> np.ndarray:
        """Return the columns of what scores items in an arm, float32 [R, k], for a seed's place."""
        columns = [
            self._scoring[name].columns(self._sequences(queries), queries, seed)
            for name in arm.scorers
        ]
        return np.concatenate([np.empty((len(queries.item), 0), np.float32), *columns], axis=1)

    def varies(self, arm: Arm) -> bool:
        """Return whether an arm's vectors or scores differ from seed to seed."""
        return any(len(self._models[model].paths) > 1 for model in arm.models) or any(
            len(self._scoring[name].scorers) > 1 for name in arm.scorers
        )

    def newest_activity(self, model: str, queries: Queries) -> np.ndarray:
        """Return the time of the newest activity that a value knew, int64 [n], or 0."""
        if self._as_of == AsOf.REQUEST:
            return queries.sequences.time[:, -1]
        return self._join(self._models[model].view(0), queries)[names.LAST_ACTIVITY_AT]

    def differing(self, model: str, queries: Queries) -> int:
        """Return how many queries have a value that knows what it should not.

        A value as of the request should know no activity at or after it. Of published values up to
        `CHECKED` are compared with a second computation, in every SavedModel of the model: from the
        activity before the newest daily run that had published before the query.
        """
        if self._as_of == AsOf.REQUEST:
            return int((self.newest_activity(model, queries) >= queries.time).sum())
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
        return self._embed(model, self._history.sequences(member, as_of))

    def _embed(self, model: str, sequences: Sequences) -> dict[str, np.ndarray]:
        if model not in self._embedders:
            path = self._store.model_path(model)
            described = describe_model(
                ActivityModel(path, name=model),
                spec=self._history.spec,
                vector_spec=self._vector_spec,
            )
            self._embedders[model] = Embedder([described])
        return self._embedders[model](sequences, self._history.vectors)[model]

    def _of(self, source: Source, queries: Queries, seed: int) -> dict[str, Vectors]:
        """Return the vectors of a source by name; scores have none."""
        matrix, rows = self._history.vectors.matrix, queries.vector_row
        if source.kind == Kind.SCORES:
            return {}
        if source.kind == Kind.CONSTANT:
            ones = np.ones((len(queries), matrix.shape[1]), np.float32)
            return {"constant": Vectors(ones, matrix, rows)}
        if source.kind == Kind.CATEGORIES:
            categories = self._base.categories
            items = categories.of_items * categories.weights
            return {
                name: Vectors(_wide(sums, items.shape[1]), items, queries.item)
                for name, sums in self._recent_categories(queries).items()
            }
        if source.kind == Kind.TRUTH:
            assert self._item_truth is not None
            (preference,) = self._join(TRUE_PREFERENCE, queries).values()
            return {"preference": Vectors(preference, self._item_truth, queries.item)}
        model = self._models[source.model].view(seed)
        if source.kind == Kind.AS_OF:
            as_of = queries.time - source.lag // timedelta(microseconds=1)
            outputs = self.embed(model, queries.member, as_of)
        elif source.kind == Kind.WITHOUT:
            outputs = self._without(source.without, model, queries)
        else:
            outputs = self._own(model, queries, other=source.kind == Kind.OTHER_MEMBER)
        return {
            name: Vectors(_wide(values, matrix.shape[1]), matrix, rows)
            for name, values in outputs.items()
        }

    def _own(self, view: str, queries: Queries, *, other: bool = False) -> dict[str, np.ndarray]:
        """Return a model's outputs for the member of each query, or for another member."""
        if self._as_of == AsOf.PUBLISHED:
            joined = self._join(view, queries, other=other)
            return {name: joined[name] for name in self._store.outputs(view)}
        key = (view, other, self._place(queries))
        if key not in self._computed:
            sequences = queries.sequences
            if other:
                sequences = self._history.sequences(_others(queries.member), queries.time)
            self._computed[key] = self._embed(view, sequences)
        return self._computed[key]

    def _without(self, kind: str, view: str, queries: Queries) -> dict[str, np.ndarray]:
        """Return a model's outputs for the member of each query, without activity of a kind."""
        key = (f"{view} without {kind}", False, self._place(queries))
        if key not in self._computed:
            less = self._history.without_kind(kind)
            sequences = less.sequences(queries.member, self._sequences(queries).as_of)
            self._computed[key] = self._embed(view, sequences)
        return self._computed[key]

    def _sequences(self, queries: Queries) -> Sequences:
        """Return what is known of the member of each query."""
        if self._as_of == AsOf.REQUEST:
            return queries.sequences
        return self._history.sequences(queries.member, self._store.schedule.newest(queries.time))

    def _recent_categories(self, queries: Queries) -> dict[str, np.ndarray]:
        if self._as_of == AsOf.REQUEST:
            return self._base.recent_categories(queries.member, queries.time)
        return self._join(RECENT_CATEGORIES, queries)

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
        return self._joined[key][self._place(queries)]

    def _place(self, queries: Queries) -> int:
        (place,) = [i for i, each in enumerate(self._queries) if each is queries]
        return place


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
