"""The recommendation model that embeddings are judged by: a LightGBM ranker.

Its table has the base features and, for each vector of a member, three columns: the cosine with
the candidate item's vector, the dot product, and the Hadamard product through a linear layer, the
head of the original design. The layer is a logistic regression on the ranker's own training rows,
fitted on one half of the queries for the other, so that the column says the same of rows that the
ranker learns from as of rows that it is tested on. `hadamard="coordinates"` makes each coordinate
of the product a column instead; trees take them one at a time, and
`benchmarks/lift.py --hadamard coordinates` says what becomes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import lightgbm
import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController

from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.examples.held_out import sample_per_group

COSINE, DOT, HADAMARD = "cosine", "dot", "hadamard"
COLUMNS = (COSINE, DOT, HADAMARD)
MOST_ROWS = 10_000
"""Candidates of one list that LightGBM learns from; it refuses more."""
_LIBRARIES = ThreadpoolController()


@dataclass(frozen=True)
class RankerSettings:
    """Settings of LightGBM and of the linear layer, the same for every arm.

    Parameters
    ----------
    rounds
        Number of trees.
    learning_rate
        Shrinkage of each tree.
    leaves
        Number of leaves of a tree.
    rows_of_leaf
        Minimum number of rows of a leaf. Of few rows, a tenth of their number is enough.
    wanted_of_leaf
        Minimum of what LightGBM calls the sum of hessians of a leaf: of lists, about the number of
        wanted items that the trees so far expect in it. With fewer, one list decides on a leaf, and
        its step is of any size. Of few queries, a fiftieth of their number is enough; of single
        rows with few of one kind, a quarter of the sum of all.
    wanted_label
        Label of the wanted row of a list. LightGBM's XE-NDCG wants each row in proportion to
        `2^label - g`, with g drawn anew from [0, 1] for each row and tree. With label 1 the wanted
        one of 275 candidates has 1 % of its list and chance the rest; with 20 it has all of it.
    rows_of_tree
        Share of the queries, or rows, at random for each tree. All columns are in each: a tree
        without the few that count learns chance.
    layer_penalty
        Strength of the ridge penalty on the linear layer.
    layer_negatives
        Candidates drawn for each wanted item to fit the layer.
    hadamard
        "layer" or "coordinates". What becomes of the Hadamard product: one column, or as many as
        the vector is long.
    """

    rounds: int = 100
    learning_rate: float = 0.07
    leaves: int = 7
    rows_of_leaf: int = 300
    wanted_of_leaf: float = 20.0
    wanted_label: int = 20
    rows_of_tree: float = 0.8
    layer_penalty: float = 10.0
    layer_negatives: int = 20
    hadamard: Literal["layer", "coordinates"] = "layer"

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Vectors:
    """A vector of each query's member, and of each row's item.

    Attributes
    ----------
    member
        float32 [n, D].
    items
        float32 [K, D].
    item
        int [R]; the row of `items` of each row of the queries.
    """

    member: np.ndarray
    items: np.ndarray
    item: np.ndarray


def vector_columns(
    train: tuple[Queries, Sequence[Vectors]],
    test: tuple[Queries, Sequence[Vectors]],
    settings: RankerSettings,
    *,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns that vectors add, of the rows to learn from and of those to test on.

    Parameters
    ----------
    train, test
        Queries and their vectors, as many for each.
    settings
        Settings of the layer.
    seed
        Seed of the candidates drawn to fit the layer.

    Returns
    -------
    float32 [R, 3 * V] each: cosine, dot and the layer's value, vector by vector; or
        [R, (2 + D) * V] with the coordinates of the product.
    """
    columns: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    queries = train[0]
    half = np.arange(len(queries)) % 2
    for fitted, tested in zip(train[1], test[1], strict=True):
        if settings.hadamard == "coordinates":
            for side, vectors, asked in ((0, fitted, queries), (1, tested, test[0])):
                plain = _columns(asked, vectors, np.ones_like(vectors.member))[:, :2]
                columns[side].append(np.hstack([plain, _products(asked, vectors)]))
            continue
        layers = [_fit_layer(queries, fitted, half == 1 - h, settings, seed=seed) for h in (0, 1)]
        columns[0].append(_columns(queries, fitted, np.stack(layers)[half]))
        average = np.broadcast_to(np.mean(layers, axis=0), tested.member.shape)
        columns[1].append(_columns(test[0], tested, average))
    return _joined(columns[0], queries), _joined(columns[1], test[0])


def _joined(columns: list[np.ndarray], queries: Queries) -> np.ndarray:
    return np.concatenate([np.empty((len(queries.item), 0), np.float32), *columns], axis=1)


def _columns(queries: Queries, vectors: Vectors, layer: np.ndarray) -> np.ndarray:
    """Return cosine, dot and layer of each row, float32 [R, 3]; `layer` is float [n, D]."""
    norms = np.linalg.norm(vectors.items, axis=1)
    own = np.linalg.norm(vectors.member, axis=1)
    plain_and_layer = np.stack([vectors.member, vectors.member * layer], axis=2)
    plain_and_layer = plain_and_layer.astype(np.float32)
    columns = np.empty((len(queries.item), len(COLUMNS)), np.float32)
    for i in range(len(queries)):
        rows = slice(queries.start[i], queries.start[i + 1])
        item = vectors.item[rows]
        columns[rows, 1:] = vectors.items[item] @ plain_and_layer[i]
        columns[rows, 0] = columns[rows, 1] / np.maximum(norms[item] * own[i], 1e-9)
    return columns


def _products(queries: Queries, vectors: Vectors) -> np.ndarray:
    """Return the Hadamard product of each row, float32 [R, D]."""
    products = vectors.items[vectors.item]
    for i in range(len(queries)):
        products[queries.start[i] : queries.start[i + 1]] *= vectors.member[i]
    return products


def _fit_layer(
    queries: Queries, vectors: Vectors, chosen: np.ndarray, settings: RankerSettings, *, seed: int
) -> np.ndarray:
    """Fit the linear layer on the Hadamard products of some queries: weights, float64 [D]."""
    random = np.random.default_rng(seed)
    # Members without activity say nothing about the layer.
    chosen = np.repeat(chosen & vectors.member.any(axis=1), queries.sizes)
    share = settings.layer_negatives / max(float(np.mean(queries.sizes)) - 1, 1)
    drawn = random.random(len(chosen)) < share if queries.ranked else True
    rows = np.flatnonzero(chosen & ((queries.target == 1) | drawn))
    target = queries.target[rows]
    if len(np.unique(target)) < 2:
        return np.zeros(vectors.member.shape[1])
    products = vectors.member[queries.query[rows]] * vectors.items[vectors.item[rows]]
    spread = np.maximum(products.std(axis=0), 1e-9)
    fitted = LogisticRegression(C=1 / settings.layer_penalty, max_iter=200)
    # For so few numbers several threads wait for each other longer than they work.
    with _LIBRARIES.limit(limits=1, user_api="blas"):
        fitted.fit(products / spread, target)
    return fitted.coef_[0] / spread


def _learned_from(queries: Queries) -> np.ndarray:
    """Return which rows of lists are learned from, bool [R]: the wanted one, and others."""
    kept = queries.target == 1
    others = np.flatnonzero(~kept)
    kept[others] = sample_per_group(MOST_ROWS - 1, queries.query[others], np.random.default_rng(0))
    return kept


class Ranker:
    """LightGBM, fitted on the rows of queries.

    Parameters
    ----------
    settings
        The same for every arm.
    seed
        Seed of all that is random.
    """

    def __init__(self, settings: RankerSettings, *, seed: int) -> None:
        self._settings, self._seed = settings, seed
        self._fitted: lightgbm.Booster | None = None

    def fit(self, table: np.ndarray, queries: Queries) -> Ranker:
        """Learn which row of each query is wanted.

        Lists are ranked by cross-entropy between the scores of a list and what was wanted (Bruch
        et al., "An Alternative Cross Entropy Loss for Learning-to-Rank", 2021); single rows are
        classified. Of a list longer than LightGBM takes, the wanted item and others at random are
        learned from, the same ones in every arm; lists are always tested whole.

        Parameters
        ----------
        table
            float32 [R, F].
        queries
            Whose rows these are.
        """
        lists = queries.ranked
        settings = self._settings
        target, sizes = queries.target, queries.sizes
        if lists and sizes.max() > MOST_ROWS:
            kept = _learned_from(queries)
            table, target, sizes = table[kept], target[kept], np.minimum(sizes, MOST_ROWS)
        # Of single rows, the sum before there is a tree; of lists it is about their number.
        hessian = len(queries) if lists else len(target) * float(target.var())
        parameters = {
            "objective": "rank_xendcg" if lists else "binary",
            "learning_rate": settings.learning_rate,
            "num_leaves": settings.leaves,
            "min_data_in_leaf": min(settings.rows_of_leaf, max(len(target) // 10, 1)),
            "min_sum_hessian_in_leaf": min(settings.wanted_of_leaf, len(queries) / 50, hessian / 4),
            "bagging_fraction": settings.rows_of_tree,
            "bagging_freq": 1,
            "bagging_by_query": lists,
            "seed": self._seed,
            "deterministic": True,
            "force_row_wise": True,
            # Sums of several threads come in any order. Whoever has cores fits several rankers.
            "num_threads": 1,
            "verbosity": -1,
        }
        label = target.astype(np.int32) * settings.wanted_label if lists else target
        data = lightgbm.Dataset(table, label=label, group=sizes if lists else None)
        self._fitted = lightgbm.train(parameters, data, num_boost_round=settings.rounds)
        return self

    @property
    def splits(self) -> int:
        """How often its trees divide rows: 0 where it learned nothing and all scores are equal."""
        assert self._fitted is not None
        return int(self._fitted.feature_importance("split").sum())

    def scores(self, table: np.ndarray) -> np.ndarray:
        """Return the score of each row, float64 [R]; of single rows, a probability."""
        assert self._fitted is not None
        return np.asarray(self._fitted.predict(table, num_threads=1))
