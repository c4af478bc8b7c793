"""InterleavedDecay: one decaying average of everything the member wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from activity_embeddings.training.models.averages import (
    DECAYS,
    Average,
    Averages,
    Formula,
    require_decay,
)
from activity_embeddings.training.models.base import ACTIVITY_EMBEDDING
from activity_embeddings.training.models.registry import register
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec


@register("interleaved_decay")
@dataclass(frozen=True, kw_only=True)
class InterleavedDecay(Formula):
    """Geometrically decaying average of the activities of all positive actions, in their order.

    One output `activity_embedding`, of the size of a learned model's: their honest rival. The
    formula is that of `Averages`.

    Attributes
    ----------
    r
        float in (0, 1). Factor from one positive activity to the next older one.
    """

    r: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        require_decay("interleaved_decay", self.r)

    def build(self, spec: ActivitySpec, vector_spec: ItemVectorSpec) -> Averages:
        """Return the module; see `Averages`."""
        return Averages(
            spec, vector_spec, {ACTIVITY_EMBEDDING: Average(self.positive_ids(spec), self.r)}
        )

    @classmethod
    def suggest(cls, trial: Any) -> Self:
        """Choose r from a grid."""
        return cls(r=trial.suggest_categorical("r", list(DECAYS)))
