"""Postings to vectors: one a version, never known too early, the same in any order or batch."""

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from activity_embeddings.transformations.errors import InvalidInput, ModelMismatch
from activity_embeddings.transformations.inference.encoder import (
    ItemEncoder,
    PostingVersions,
    encode_postings,
)
from support.feast_repo import EPOCH, at, us
from support.item_encoders import (
    VALID_FROM,
    SmallEncoder,
    expected_vectors,
    package_encoder,
    postings_table,
    small_postings,
)

ROWS = small_postings()


@pytest.fixture(scope="module")
def description(tmp_path_factory):
    return package_encoder(tmp_path_factory.mktemp("encoder") / "small")


@pytest.fixture(scope="module")
def encoder(description):
    return ItemEncoder(description)


def by_key(table):
    rows = table.to_pylist()
    found = {(row["job_id"], row["event_timestamp"]): row["embedding"] for row in rows}
    assert len(found) == len(rows)
    return found


def test_every_version_is_encoded_and_dated_as_the_slow_way_says(encoder):
    table = encode_postings(encoder, postings_table(ROWS))
    assert table.schema.names == ["job_id", "embedding", "event_timestamp"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32())
    assert table.schema.field("event_timestamp").type == pa.timestamp("us", "UTC")
    expected = expected_vectors(ROWS, at(100))
    got = by_key(table)
    assert set(got) == set(expected)
    for key, vector in expected.items():
        np.testing.assert_allclose(got[key], vector, atol=1e-6, rtol=0)


def test_the_order_of_rows_and_more_columns_change_nothing(encoder):
    table = postings_table(ROWS)
    order = np.random.default_rng(0).permutation(len(table))
    other = table.take(pa.array(order)).append_column("pay", pa.array([1.5] * len(table)))
    other = pa.concat_tables([other.slice(0, 5), other.slice(5)])
    assert encode_postings(encoder, other).equals(encode_postings(encoder, table))


def test_an_encoder_that_was_replaced_since_it_was_checked_is_refused(tmp_path):
    described = package_encoder(tmp_path / "small")
    variables = tmp_path / "small" / "variables" / "more"
    variables.write_bytes(b"another")
    with pytest.raises(ModelMismatch, match=r"item encoder .* should be the one that was checked"):
        ItemEncoder(described)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_give_the_same_vectors(batch_size, description, encoder):
    small = ItemEncoder(description, batch_size=batch_size)
    table = postings_table(ROWS)
    got = by_key(encode_postings(small, table))
    for key, vector in by_key(encode_postings(encoder, table)).items():
        np.testing.assert_allclose(got[key], vector, atol=1e-6, rtol=0)


def test_of_postings_before_the_encoder_the_newest_counts_once(encoder):
    rows = [
        (1, at(-50), "first", [], 2000),
        (1, at(-40), "second", [], 2000),
        (2, VALID_FROM, "exactly then", [], 2000),
        (2, at(-31), "just before", [], 2000),
        (1, at(-29), "after", [], 2000),
    ]
    versions = PostingVersions.from_arrow(postings_table(rows), us(VALID_FROM))
    assert versions.row.tolist() == [1, 2, 4]
    assert versions.item_ids.to_pylist() == [1, 2, 1]
    assert versions.time.tolist() == [us(VALID_FROM), us(VALID_FROM), us(at(-29))]
    assert versions.posted.tolist() == [us(at(-40)), us(VALID_FROM), us(at(-29))]


def test_no_postings_give_no_vectors(encoder):
    assert len(encode_postings(encoder, postings_table(ROWS).slice(0, 0))) == 0


def test_lists_that_are_all_empty_and_have_no_type_are_empty(encoder):
    table = postings_table([(1, EPOCH, "title", [], 2000), (2, EPOCH, "other", [], 2001)])
    untyped = table.set_column(2, "genres", pa.array([[], []], pa.list_(pa.null())))
    assert encode_postings(encoder, untyped).equals(encode_postings(encoder, table))


def test_every_kind_of_input_arrives_as_it_is(tmp_path):
    class Probe(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, "job_id"),
                tf.TensorSpec([None], tf.float32, "pay"),
                tf.TensorSpec([None], tf.int64, "count"),
                tf.TensorSpec([None, None], tf.string, "skills"),
            ]
        )
        def serve(self, job_id, pay, count, skills):
            numbers = [tf.strings.to_number(job_id), pay, tf.cast(count, tf.float32)]
            listed = tf.reduce_sum(tf.cast(skills != "", tf.float32), axis=1)
            length = tf.cast(tf.reduce_sum(tf.strings.length(skills), axis=1), tf.float32)
            return {"embedding": tf.stack([*numbers, listed, length], axis=1)}

    probe = ItemEncoder(package_encoder(tmp_path / "probe", Probe()), batch_size=2)
    table = pa.table(
        {
            "job_id": pa.array(["7", "8", "9"]).dictionary_encode(),
            "pay": pa.array([1.5, -2.0, 0.0], pa.float64()),
            "count": pa.array([1, 2, 3], pa.uint8()),
            "skills": pa.array([["ä", "bc"], [], ["", "xyz"]], pa.large_list(pa.large_string())),
        }
    )
    np.testing.assert_array_equal(
        probe(table), [[7, 1.5, 1, 2, 4], [8, -2, 2, 0, 0], [9, 0, 3, 1, 3]]
    )
    bad = table.set_column(1, "pay", pa.array([1.5, float("nan"), None]))
    with pytest.raises(InvalidInput, match=r"'pay' should hold no nulls. Received: 1 of 3"):
        probe(bad)
    with pytest.raises(InvalidInput, match=r"'pay' should hold finite values. .*1 of 2"):
        probe(bad.slice(0, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["title"]), "my postings: column 'title' is missing"),
        (lambda t: t.drop_columns(["job_id"]), "column 'job_id' is missing"),
        (lambda t: t.drop_columns(["event_timestamp"]), "'event_timestamp' is missing"),
        (lambda t: pa.concat_tables([t, t.slice(3, 1)]), "one posting at one time.*item 4 has two"),
        (
            lambda t: t.set_column(1, "title", pa.array([b"x"] * len(t))),
            "'title' should be string.*Received: binary",
        ),
        (
            lambda t: t.set_column(3, "year", pa.array([2000.5] * len(t))),
            "'year' should be int64.*Received: double",
        ),
    ],
)
def test_bad_postings_are_refused(change, message, encoder):
    with pytest.raises(InvalidInput, match=message):
        encode_postings(encoder, change(postings_table(ROWS)), source="my postings")


def test_a_vector_that_is_not_finite_is_refused_by_item(tmp_path):
    broken = ItemEncoder(package_encoder(tmp_path / "nan", SmallEncoder(scale=float("inf"))))
    with pytest.raises(InvalidInput, match=r"'content' \(version 1\).*finite.*for item \d+ \("):
        encode_postings(broken, postings_table(ROWS))


def test_an_encoder_that_fails_while_it_computes_is_named(tmp_path):
    class Failing(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "title")])
        def serve(self, title):
            return {"embedding": tf.tile(tf.strings.to_number(title)[:, None], [1, 5])}

    failing = ItemEncoder(package_encoder(tmp_path / "failing", Failing()))
    with pytest.raises(InvalidInput, match=r"item encoder 'content' .*InvalidArgumentError"):
        encode_postings(failing, postings_table(ROWS))


def test_an_encoder_is_loaded_from_its_folder_too(description, encoder):
    table = postings_table(ROWS)
    again = ItemEncoder(str(description.path))
    assert again.description == description
    assert encode_postings(again, table).equals(encode_postings(encoder, table))
