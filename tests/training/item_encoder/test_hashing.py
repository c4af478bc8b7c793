"""The hashing encoder: words to vectors, held to a slow oracle."""

import re

import numpy as np
import pytest
import tensorflow as tf

from activity_embeddings.training.item_encoder.hashing import HashingEncoder

pytestmark = pytest.mark.slow

DIMENSION = 12
COLUMNS = {
    "title": tf.TensorSpec([None], tf.string),
    "year": tf.TensorSpec([None], tf.int64),
    "genres": tf.TensorSpec([None, None], tf.string),
}
ROWS = [
    ("Toy Story", 1995, ["comedy", "family"]),
    ("story, TOY!", 1995, ["family", "comedy"]),
    ("Der Untergang 2", 2004, []),
    ("ÉTÉ 85", -1, ["drama"]),
    ("toy toy story", 1995, ["comedy"]),
]


def encode(rows, dimension=DIMENSION, columns=COLUMNS):
    titles, years, genres = zip(*rows, strict=True)
    width = max(1, *map(len, genres))
    padded = [[*each, *[""] * (width - len(each))] for each in genres]
    values = {
        "title": tf.constant(titles),
        "year": tf.constant(years, tf.int64),
        "genres": tf.constant(padded, shape=(len(rows), width), dtype=tf.string),
    }
    chosen = [values[name] for name in columns]
    return HashingEncoder(columns, dimension).serve(*chosen)["embedding"].numpy()


def words_of(title, year, genres):
    return [
        *re.findall(r"[^\W_]+", title.lower()),
        f"year={year}",
        *(f"genres={genre}" for genre in genres),
    ]


def oracle(words, dimension=DIMENSION):
    """Add up the signs of each word's hashes one by one, in Python's integers."""
    multipliers = [int(m) | 1 for m in np.random.default_rng(0).integers(2**62, size=8)]
    total = np.zeros(dimension)
    for word in words:
        hashed = int(tf.strings.to_hash_bucket_fast([word], 2**62)[0])
        for multiplier in multipliers:
            product = hashed * multiplier % 2**64
            signed = product - 2**64 if product >= 2**63 else product
            bucket = (signed >> 33) % (2 * dimension)
            total[bucket // 2] += 2 * (bucket % 2) - 1
    length = np.linalg.norm(total)
    return total / length if length else total


def test_vectors_equal_the_slow_oracle():
    expected = [oracle(words_of(*row)) for row in ROWS]
    np.testing.assert_allclose(encode(ROWS), expected, atol=1e-6)


def test_a_vector_has_length_one_and_without_words_is_zero():
    np.testing.assert_allclose(np.linalg.norm(encode(ROWS), axis=1), 1, atol=1e-6)
    titles = {"title": COLUMNS["title"]}
    empty = encode([("", 0, []), ("?! -", 0, []), ("word", 0, [])], columns=titles)
    assert not empty[:2].any()
    assert empty[2].any()


def test_neither_order_nor_case_of_words_matters_and_their_number_does():
    vectors = encode(ROWS)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert not np.allclose(vectors[0], vectors[4])


def test_a_word_of_a_list_and_an_integer_are_words_of_their_column():
    def one(title="", year=0, genres=()):
        return encode([(title, year, list(genres))])[0]

    assert not np.allclose(one("comedy"), one(genres=["comedy"]))
    assert not np.allclose(one("1995"), one(year=1995))
    assert not np.allclose(one(year=1995), one(year=1996))
    # An element is one word, whatever is in it.
    assert not np.allclose(one(genres=["sci fi"]), one(genres=["sci", "fi"]))


def test_items_that_share_words_are_nearer_than_items_that_do_not():
    rows = [("red wine bar", 1, []), ("red wine shop", 1, []), ("steel road works", 9, [])]
    near, far = encode(rows, dimension=256)[1:] @ encode(rows, dimension=256)[0]
    assert near > 0.5 > far


@pytest.mark.parametrize("dimension", [1, 5, 64])
def test_of_any_dimension(dimension):
    vectors = encode(ROWS, dimension)
    assert vectors.shape == (len(ROWS), dimension)
    assert vectors.dtype == np.float32
