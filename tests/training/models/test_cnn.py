"""The CNN reads runs of neighbouring activities, and what is beyond a sequence as PAD."""

import keras
import numpy as np
import pytest

from activity_embeddings.training.models import CNN
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec


def test_size_is_that_of_its_hyperparameters():
    facts = ActivitySpec(), ItemVectorSpec("test", "1", 64)
    assert 40_000 < CNN().build(*facts).count_params() < 45_000
    small = CNN(filters=4, kernel_size=5, convolutions=1, residual=False).build(*facts)
    assert small.count_params() == (67 * 5 + 1) * 4 + (2 * 4 + 3 * 64) * 64


@pytest.mark.parametrize("kernel_size", [2, 3, 5])
def test_neighbours_on_the_left_are_read_as_far_as_the_kernel_reaches(kernel_size):
    features, mask = keras.Input((9, 4)), keras.Input((9, 1))
    encoded = CNN(kernel_size=kernel_size, convolutions=1).encode(features, mask)
    model = keras.Model([features, mask], encoded[:, 48:])
    generator = np.random.default_rng(0)
    values, ones = generator.normal(size=(1, 9, 4)).astype(np.float32), np.ones((1, 9, 1))
    newest = model([values, ones]).numpy()
    reaches = []
    for i in range(9):
        changed = values.copy()
        changed[0, i] += 1.0
        if (model([changed, ones]).numpy() != newest).any():
            reaches.append(i)
    assert reaches == list(range(8 - (kernel_size - 1) // 2, 9))
