"""LSTM: activity read from the oldest to the newest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from activity_embeddings.training.models.base import Network
from activity_embeddings.training.models.registry import register
from activity_embeddings.transformations.errors import require_at_least


@register("lstm")
@dataclass(frozen=True, kw_only=True)
class LSTM(Network):
    """The state of an LSTM after the newest activity; about 37,000 parameters at 64-d vectors.

    PAD leaves the state as it is, so at zero on the left.

    Attributes
    ----------
    units
        Width of the state.
    """

    units: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("LSTM", 1, units=self.units)

    def encode(self, features: Any, mask: Any) -> Any:
        """Return the last state; see `Network`."""
        # Unrolled it is as fast in batches, and LiteRT can convert it (it knows no such loop of an
        # open batch), which serves one member eight times as fast. cuDNN takes PAD on the right
        # only, and would refuse ours while running.
        layer = keras.layers.LSTM(self.units, unroll=True, use_cudnn=False, name="lstm")
        return layer(features, mask=ops.squeeze(mask, axis=2) > 0)

    @classmethod
    def suggest_own(cls, trial: Any) -> dict[str, Any]:
        """Choose the width."""
        return {"units": trial.suggest_categorical("units", [32, 48, 64])}
