"""The Transformer's own layers: attention as Keras computes it, and positions from the newest."""

import keras
import numpy as np
import pytest

from activity_embeddings.training.models import Transformer
from activity_embeddings.training.models.transformer import Recency, SelfAttention
from activity_embeddings.transformations.errors import InvalidInput


def test_attention_is_that_of_keras():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(5, 6, 8)).astype(np.float32)
    mask = (np.arange(6) >= np.arange(5)[:, None]).astype(np.float32)
    ours, theirs = SelfAttention(2), keras.layers.MultiHeadAttention(2, 4, use_bias=False)
    ours(values, mask[:, :, None])
    theirs.build(values.shape, values.shape)
    for name, kernel in (
        ("query", theirs._query_dense.kernel),
        ("key", theirs._key_dense.kernel),
        ("value", theirs._value_dense.kernel),
        ("output", theirs._output_dense.kernel),
    ):
        drawn = generator.normal(size=(8, 8)).astype(np.float32)
        getattr(ours, f"{name}_kernel").assign(drawn)
        kernel.assign(drawn.reshape(kernel.shape))
    expected = theirs(values, values, attention_mask=mask[:, None, :] > 0)
    got = ours(values, mask[:, :, None])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    assert np.abs(expected).mean() > 1.0


def test_attention_where_all_is_pad_is_finite():
    values = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    assert np.isfinite(SelfAttention(2)(values, np.zeros((2, 6, 1), np.float32))).all()


def test_recency_counts_from_the_newest_by_hand():
    layer = Recency(waves=2)
    layer.build((None, None, 4))
    layer.kernel.assign(np.eye(4))
    added = layer(np.zeros((1, 3, 4), np.float32)).numpy()[0]
    np.testing.assert_allclose(
        added,
        [[np.sin(k), np.sin(k / 10), np.cos(k), np.cos(k / 10)] for k in (2, 1, 0)],
        rtol=0,
        atol=1e-6,
    )
    longer = layer(np.zeros((1, 7, 4), np.float32)).numpy()[0]
    np.testing.assert_array_equal(longer[-3:], added)


def test_a_width_that_cannot_be_split_is_refused():
    with pytest.raises(InvalidInput, match=r"`width` should be a multiple .*width=10, heads=4"):
        Transformer(width=10, heads=4)
