"""The downstream ranker: three columns for each vector, and LightGBM."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from activity_embeddings.training.evaluation import ranker
from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.evaluation.ranker import (
    MOST_ROWS,
    Ranker,
    RankerSettings,
    Vectors,
    vector_columns,
)
from activity_embeddings.training.metrics import ndcg_at, places_of_groups
from activity_embeddings.transformations.activity.sequences import Sequences

SETTINGS = RankerSettings(rounds=40, rows_of_leaf=20)
DIMENSION = 5


def queries_of(sizes, target, *, ranked=True):
    n = len(sizes)
    empty = np.zeros((n, 1), np.int64)
    sequences = Sequences(
        item=empty.astype(np.int32) - 1,
        action=empty.astype(np.int32),
        time=empty,
        as_of=np.arange(n),
        count=np.zeros(n, np.int32),
        unknown=np.zeros(n, np.int32),
        item_ids=pa.array([1]),
    )
    total = int(np.sum(sizes))
    return Queries(
        sequences=sequences,
        member=np.arange(n),
        start=np.concatenate([[0], np.cumsum(sizes)]),
        item=np.arange(total, dtype=np.int32),
        vector_row=np.arange(total, dtype=np.int32),
        target=np.asarray(target, np.int8),
        ranked=ranked,
    )


def case(seed, n=300, weights=(3.0, 0.0, 0.0, 0.0, -3.0)):
    """Members want the item whose product with them is largest in some coordinates alone."""
    random = np.random.default_rng(seed)
    sizes = random.integers(3, 30, n)
    member = random.normal(size=(n, DIMENSION)).astype(np.float32)
    items = random.normal(size=(int(sizes.sum()), DIMENSION)).astype(np.float32)
    queries = queries_of(sizes, np.zeros(len(items)))
    utility = ((member[queries.query] * items) @ np.array(weights)) + random.gumbel(size=len(items))
    target = np.zeros(len(items), np.int8)
    for a, b in zip(queries.start[:-1], queries.start[1:], strict=True):
        target[a + np.argmax(utility[a:b])] = 1
    return queries_of(sizes, target), Vectors(member, items, np.arange(len(items)))


def figure(scores, queries):
    return ndcg_at(places_of_groups(scores, queries.start, queries.wanted), 10).mean()


def test_cosine_and_dot_are_those_of_each_pair():
    queries, vectors = case(0, n=20)
    vectors.member[3] = 0  # a member without activity
    train, test = vector_columns((queries, [vectors]), (queries, [vectors]), SETTINGS, seed=0)
    assert train.shape == test.shape == (len(queries.item), 3)
    for row, query in enumerate(queries.query):
        own, item = vectors.member[query].astype(float), vectors.items[row].astype(float)
        dot = float(own @ item)
        length = np.linalg.norm(own) * np.linalg.norm(item)
        for columns in (train, test):
            assert columns[row, 1] == pytest.approx(dot, abs=1e-5)
            assert columns[row, 0] == pytest.approx(dot / length if length else 0.0, abs=1e-5)


def test_columns_come_vector_by_vector():
    queries, vectors = case(0, n=20)
    twice = Vectors(2 * vectors.member, vectors.items, vectors.item)
    _, both = vector_columns(
        (queries, [vectors, twice]), (queries, [vectors, twice]), SETTINGS, seed=0
    )
    assert both.shape[1] == 6
    np.testing.assert_allclose(both[:, 3], both[:, 0], atol=1e-5)
    np.testing.assert_allclose(both[:, 4], 2 * both[:, 1], rtol=1e-5)


def test_coordinates_are_those_of_the_product():
    queries, vectors = case(0, n=20)
    settings = RankerSettings(hadamard="coordinates")
    for columns in vector_columns((queries, [vectors]), (queries, [vectors]), settings, seed=0):
        assert columns.shape == (len(queries.item), 2 + DIMENSION)
        for row, query in enumerate(queries.query):
            product = vectors.member[query] * vectors.items[row]
            assert columns[row, 2:] == pytest.approx(product, abs=1e-6)
            assert columns[row, 1] == pytest.approx(product.sum(), abs=1e-5)


def test_without_vectors_there_are_no_columns():
    queries, _ = case(0, n=5)
    train, test = vector_columns((queries, []), (queries, []), SETTINGS, seed=0)
    assert train.shape == test.shape == (len(queries.item), 0)


def test_the_layer_finds_which_coordinates_matter():
    (learn, from_), (test, of) = case(1), case(2)
    _, columns = vector_columns((learn, [from_]), (test, [of]), SETTINGS, seed=0)
    cosine, layer = figure(columns[:, 0], test), figure(columns[:, 2], test)
    best = figure((of.member[test.query] * of.items) @ np.array([3.0, 0, 0, 0, -3.0]), test)
    assert layer > cosine + 0.2
    assert layer > 0.97 * best


def test_the_layer_does_not_know_the_rows_that_it_is_laid_beside():
    """Where nothing can be learned, it says no more of rows to learn from than of others."""
    random = np.random.default_rng(3)
    gaps = []
    for seed in range(5):
        queries, _ = case(seed, n=60)
        noise = Vectors(
            random.normal(size=(60, 40)).astype(np.float32),
            random.normal(size=(len(queries.item), 40)).astype(np.float32),
            np.arange(len(queries.item)),
        )
        train, _ = vector_columns((queries, [noise]), (queries, [noise]), SETTINGS, seed=0)
        by_chance = np.mean([figure(random.random(len(queries.item)), queries) for _ in range(50)])
        gaps.append(figure(train[:, 2], queries) - by_chance)
    assert abs(np.mean(gaps)) < 0.05


def test_the_ranker_learns_lists_and_is_the_same_for_one_seed():
    (learn, from_), (test, of) = case(1), case(2)
    train, tested = vector_columns((learn, [from_]), (test, [of]), SETTINGS, seed=0)
    scores = Ranker(SETTINGS, seed=0).fit(train, learn).scores(tested)
    again = Ranker(SETTINGS, seed=0).fit(train, learn).scores(tested)
    other = Ranker(SETTINGS, seed=1).fit(train, learn).scores(tested)
    assert scores.tolist() == again.tolist()
    assert scores.tolist() != other.tolist()
    assert figure(scores, test) > 0.9 * figure(tested[:, 2], test)
    assert figure(scores, test) > figure(tested[:, 0], test) + 0.15


def test_of_single_rows_scores_are_probabilities():
    random = np.random.default_rng(0)
    table = random.normal(size=(4000, 2)).astype(np.float32)
    liked = random.random(4000) < 1 / (1 + np.exp(-2 * table[:, 0]))
    queries = queries_of(np.ones(4000, int), liked, ranked=False)
    settings = RankerSettings(rounds=150, rows_of_leaf=50)
    scores = Ranker(settings, seed=0).fit(table, queries).scores(table)
    assert ((scores > 0) & (scores < 1)).all()
    assert scores.mean() == pytest.approx(liked.mean(), abs=0.02)
    for low, high in ((0.2, 0.4), (0.6, 0.8)):
        inside = (scores > low) & (scores < high)
        assert liked[inside].mean() == pytest.approx(scores[inside].mean(), abs=0.08)


@pytest.mark.parametrize("n", [60, 300, 2999])
def test_of_few_rows_something_is_learned_too(n):
    (learn, table), (test, tested) = (single_rows(seed, rows) for seed, rows in ((0, n), (1, 500)))
    fitted = Ranker(RankerSettings(), seed=0).fit(table, learn)
    assert fitted.splits > 0
    assert roc_auc_score(test.target, fitted.scores(tested)) > 0.7


def test_of_few_rows_with_few_of_one_kind_something_is_learned_too():
    random = np.random.default_rng(0)
    table = random.normal(size=(114, 2)).astype(np.float32)
    learn = queries_of(np.ones(114, int), table[:, 0] > np.sort(table[:, 0])[-6], ranked=False)
    assert Ranker(RankerSettings(), seed=0).fit(table, learn).splits > 0


def test_of_many_rows_a_leaf_has_as_many_as_the_settings_say():
    learn, table = single_rows(0, 3000)
    scores = [
        Ranker(RankerSettings(rows_of_leaf=rows, rounds=1, leaves=60), seed=0)
        .fit(table, learn)
        .scores(table)
        for rows in (300, 301, 10_000)
    ]
    assert len(np.unique(scores[0])) > 3
    # A tree is grown of 2,400 of the rows.
    assert np.unique(scores[0], return_counts=True)[1].min() > 300
    assert scores[1].tolist() == scores[2].tolist() == scores[0].tolist()


def test_a_ranker_that_can_tell_no_rows_apart_says_that_it_learned_nothing():
    learn, table = single_rows(0, 100)
    table[:] = 1
    fitted = Ranker(RankerSettings(), seed=0).fit(table, learn)
    assert fitted.splits == 0
    assert len(np.unique(fitted.scores(table))) == 1


@pytest.mark.parametrize("most", [10, 40])
def test_of_a_list_longer_than_lightgbm_takes_some_rows_are_learned_from(most, monkeypatch):
    learn, vectors = case(0)
    test, tested = case(1)
    train, columns = vector_columns((learn, [vectors]), (test, [tested]), SETTINGS, seed=0)
    whole = Ranker(SETTINGS, seed=0).fit(train, learn).scores(columns)
    monkeypatch.setattr(ranker, "MOST_ROWS", most)
    scores = Ranker(SETTINGS, seed=0).fit(train, learn).scores(columns)
    assert len(scores) == len(whole)
    if most >= learn.sizes.max():
        assert scores.tolist() == whole.tolist()
    else:
        assert scores.tolist() != whole.tolist()
        assert figure(scores, test) > 0.8 * figure(whole, test)


def test_a_list_of_more_than_ten_thousand_items_can_be_learned_from():
    sizes = [MOST_ROWS + 1, 3]
    target = np.zeros(sum(sizes))
    target[[MOST_ROWS, MOST_ROWS + 1]] = 1
    table = np.random.default_rng(0).normal(size=(len(target), 2)).astype(np.float32)
    queries = queries_of(sizes, target)
    scores = Ranker(SETTINGS, seed=0).fit(table, queries).scores(table)
    assert len(scores) == len(target)


def test_of_long_lists_seeds_learn_more_and_lie_closer_than_by_the_settings_of_lightgbm():
    """By itself it learns from what it draws for each row, and a leaf from a single list."""
    (learn, from_), (test, of) = (long_lists(seed) for seed in (0, 1))
    figures = {
        label: [
            figure(Ranker(settings, seed=seed).fit(from_, learn).scores(of), test)
            for seed in range(6)
        ]
        for label, settings in (
            (1, RankerSettings(rounds=40, rows_of_leaf=50, wanted_label=1, wanted_of_leaf=1e-3)),
            (20, RankerSettings(rounds=40, rows_of_leaf=50)),
        )
    }
    assert min(figures[20]) > np.mean(figures[1])
    assert np.std(figures[20]) < np.std(figures[1]) / 2


def test_seeds_differ_by_the_queries_of_each_tree_alone():
    """A tree without the few columns that count would learn chance."""
    (learn, from_), (_, of) = (long_lists(seed) for seed in (0, 1))
    scores = {
        rows: [
            Ranker(RankerSettings(rounds=10, rows_of_tree=rows), seed=seed)
            .fit(from_, learn)
            .scores(of)
            for seed in (0, 1)
        ]
        for rows in (0.8, 1.0)
    }
    np.testing.assert_allclose(*scores[1.0], atol=1e-4)
    assert not np.allclose(*scores[0.8], atol=1e-2)


def single_rows(seed, n):
    """Rows that are liked or not, by the first of two columns."""
    random = np.random.default_rng(seed)
    table = random.normal(size=(n, 2)).astype(np.float32)
    liked = random.random(n) < 1 / (1 + np.exp(-3 * table[:, 0]))
    liked[:2] = True, False
    return queries_of(np.ones(n, int), liked, ranked=False), table


def long_lists(seed, n=100, size=150):
    """Lists with one wanted row, and what is known of each row: two columns of use, six of none."""
    random = np.random.default_rng(seed)
    table = random.normal(size=(n * size, 8)).astype(np.float32)
    utility = table[:, 0] + table[:, 1] + random.gumbel(size=n * size)
    target = np.zeros((n, size))
    target[np.arange(n), utility.reshape(n, size).argmax(axis=1)] = 1
    return queries_of([size] * n, target.ravel()), table
