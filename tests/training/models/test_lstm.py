"""The LSTM's state after a padded sequence is that after the activities alone."""

import keras
import numpy as np

from activity_embeddings.training.models import LSTM


def test_pad_leaves_the_state_as_it_is():
    model = LSTM(units=7)
    features, mask = keras.Input((9, 4)), keras.Input((9, 1))
    padded = keras.Model([features, mask], model.encode(features, mask))
    # The same layer in its plain form, a loop without a mask.
    plain = keras.layers.LSTM(7)
    plain.build((None, None, 4))
    generator = np.random.default_rng(0)
    for weight, other in zip(padded.trainable_variables, plain.trainable_variables, strict=True):
        weight.assign(generator.normal(0.0, 0.5, weight.shape))
        other.assign(weight)
    values = generator.normal(size=(5, 9, 4)).astype(np.float32)
    for count in range(1, 10):
        kept = (np.arange(9) >= 9 - count).astype(np.float32)[None, :, None].repeat(5, axis=0)
        got = padded([values * kept, kept]).numpy()
        expected = plain(values[:, 9 - count :]).numpy()
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
        assert np.abs(got).mean() > 0.1
    assert (padded([values * 0, np.zeros((5, 9, 1), np.float32)]).numpy() == 0.0).all()
