"""InterleavedDecay: one decaying average of everything the member wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from activity_embeddings.training.models.averages import DECAYS, Average, Averages, require_decay
from activity_embeddings.training.models.base import Architecture
from activity_embeddings.training.models.registry import register
from activity_embeddings.training.outputs import ACTIVITY_EMBEDDING
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec


@register("interleaved_decay")
@dataclass(frozen=True, kw_only=True)
class InterleavedDecay(Architecture):
    """Geometrically decaying average of the positive activities of all kinds, in their order.

    One output `activity_embedding`, of the size of a learned model's: their honest rival. The
    formula is that of `Averages`.

    Attributes
    ----------
    r
        float in (0, 1). Factor from one positive activity to the next older one.
    """

    trainable: ClassVar[bool] = False

    r: float = 0.9

    def __post_init__(self) -> None:
        require_decay("interleaved_decay", self.r)

    def build(self, spec: ActivitySpec, vector_spec: ItemVectorSpec) -> Averages:
        """Return the module; see `Averages`."""
        return Averages(spec, vector_spec, {ACTIVITY_EMBEDDING: Average(spec.positive_ids, self.r)})

    @classmethod
    def suggest(cls, trial: Any) -> Self:
        """Choose r from a grid."""
        return cls(r=trial.suggest_categorical("r", list(DECAYS)))
