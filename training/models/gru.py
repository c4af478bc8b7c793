"""GRU: activity read from the oldest to the newest, with one gate less than an LSTM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from activity_embeddings.training.models.base import Network
from activity_embeddings.training.models.registry import register
from activity_embeddings.transformations.errors import require_at_least


@register("gru")
@dataclass(frozen=True, kw_only=True)
class GRU(Network):
    """The state of a GRU after the newest activity; about 37,000 parameters at 64-d vectors.

    PAD leaves the state as it is, so at zero on the left.

    Attributes
    ----------
    units
        Width of the state.
    """

    units: int = 56

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("GRU", 1, units=self.units)

    def encode(self, features: Any, mask: Any) -> Any:
        """Return the last state; see `Network`."""
        # Unrolled, and without cuDNN, for the reasons that `LSTM` gives.
        layer = keras.layers.GRU(self.units, unroll=True, use_cudnn=False, name="gru")
        return layer(features, mask=ops.squeeze(mask, axis=2) > 0)

    @classmethod
    def suggest_own(cls, trial: Any) -> dict[str, Any]:
        """Choose the width."""
        return {"units": trial.suggest_categorical("units", [32, 56, 72])}
