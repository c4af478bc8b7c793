"""Several networks as one: an ensemble whose embedding is the mean of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from activity_embeddings.training.outputs import ACTIVITY_EMBEDDING


class Ensemble(keras.Model):
    """The mean of the embeddings of several networks.

    A score is a dot product with an item's vector, so that the mean of embeddings ranks as the mean
    of scores does, and takes no more bytes than one of them.

    Parameters
    ----------
    networks
        Functional models of the same inputs, which have an output `activity_embedding`.
    name
        Name of the model.
    """

    def __init__(self, networks: Sequence[keras.Model], name: str | None = None) -> None:
        inputs = {
            key: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=key)
            for key, tensor in networks[0].input.items()
        }
        for number, network in enumerate(networks):
            network.name = f"network_{number}"
        mean = keras.layers.Average(name=ACTIVITY_EMBEDDING)
        outputs = {ACTIVITY_EMBEDDING: mean([n(inputs)[ACTIVITY_EMBEDDING] for n in networks])}
        super().__init__(inputs, outputs, name=name)

    @property
    def networks(self) -> list[keras.Model]:
        """What the mean is of."""
        return [layer for layer in self.layers if isinstance(layer, keras.Model)]


def networks_of(model: Any) -> list[Any]:
    """Return the networks of an ensemble, or a model by itself."""
    return model.networks if isinstance(model, Ensemble) else [model]
