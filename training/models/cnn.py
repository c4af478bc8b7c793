"""CNN: short runs of activity, read beside what they were about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from activity_embeddings.training.models.base import Network, mean_and_newest
from activity_embeddings.training.models.registry import register
from activity_embeddings.transformations.errors import require_at_least


@register("cnn")
@dataclass(frozen=True, kw_only=True)
class CNN(Network):
    """A stack of convolutions, PAD set back to zero after each, pooled over the activities.

    About 42,000 parameters at 64-d item embeddings. From the second on, a convolution adds to
    what the one before gave.

    Attributes
    ----------
    filters
        Channels of each convolution.
    kernel_size
        Neighbouring activities that one reads.
    convolutions
        How many.
    """

    filters: int = 48
    kernel_size: int = 3
    convolutions: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(
            "CNN",
            1,
            filters=self.filters,
            kernel_size=self.kernel_size,
            convolutions=self.convolutions,
        )

    def encode(self, features: Any, mask: Any) -> Any:
        """Return the mean over the activities and the newest position; see `Network`."""
        for i in range(self.convolutions):
            convolved = keras.layers.Conv1D(
                self.filters,
                self.kernel_size,
                padding="same",
                activation="relu",
                name=f"convolution_{i}",
            )(features)
            # PAD must look to the next one like what is beyond the sequence: zero.
            convolved = convolved * mask
            features = convolved if i == 0 else features + convolved
        return mean_and_newest(features, mask)

    @classmethod
    def suggest_own(cls, trial: Any) -> dict[str, Any]:
        """Choose the size of the stack."""
        return {
            "filters": trial.suggest_categorical("filters", [32, 48, 64]),
            "kernel_size": trial.suggest_categorical("kernel_size", [3, 5]),
            "convolutions": trial.suggest_int("convolutions", 1, 3),
        }
