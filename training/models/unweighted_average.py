"""UnweightedAverage: for each action, the plain mean."""

from __future__ import annotations

from dataclasses import dataclass

from activity_embeddings.training.models.averages import Averages, Formula
from activity_embeddings.training.models.registry import register
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec


@register("unweighted_average")
@dataclass(frozen=True, kw_only=True)
class UnweightedAverage(Formula):
    """Plain mean of the item embeddings of each action; one output each, as `apply_embedding`."""

    def build(self, spec: ActivitySpec, vector_spec: ItemVectorSpec) -> Averages:
        """Return the module; see `Averages`."""
        return Averages(spec, vector_spec, self.by_action(spec, 1.0))
