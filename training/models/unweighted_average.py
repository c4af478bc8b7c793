"""UnweightedAverage: for each action, the plain mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from activity_embeddings.training.models.averages import Average, Averages
from activity_embeddings.training.models.base import Architecture
from activity_embeddings.training.models.registry import register
from activity_embeddings.training.outputs import output_name
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec


@register("unweighted_average")
@dataclass(frozen=True, kw_only=True)
class UnweightedAverage(Architecture):
    """Plain mean of the item embeddings of each action; one output each, as `apply_embedding`."""

    trainable: ClassVar[bool] = False

    def build(self, spec: ActivitySpec, vector_spec: ItemVectorSpec) -> Averages:
        """Return the module; see `Averages`."""
        return Averages(
            spec,
            vector_spec,
            {output_name(a): Average((i,), 1.0) for i, a in enumerate(spec.actions, start=1)},
        )
