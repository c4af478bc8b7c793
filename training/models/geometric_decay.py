"""GeometricDecay: for each action, a decaying average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from activity_embeddings.training.models.averages import (
    DECAYS,
    Averages,
    Formula,
    require_decay,
)
from activity_embeddings.training.models.registry import register
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec


@register("geometric_decay")
@dataclass(frozen=True, kw_only=True)
class GeometricDecay(Formula):
    """Geometrically decaying average of the item embeddings of each action.

    One output an action, as `apply_embedding`. The formula is that of `Averages`.

    Attributes
    ----------
    r
        float in (0, 1). Factor from one activity to the next older one of the same action.
    """

    r: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        require_decay("geometric_decay", self.r)

    def build(self, spec: ActivitySpec, vector_spec: ItemVectorSpec) -> Averages:
        """Return the module; see `Averages`."""
        return Averages(spec, vector_spec, self.by_action(spec, self.r))

    @classmethod
    def suggest(cls, trial: Any) -> Self:
        """Choose r from a grid."""
        return cls(r=trial.suggest_categorical("r", list(DECAYS)))
