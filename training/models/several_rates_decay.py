"""SeveralRatesDecay: decaying averages at several rates, for a model downstream to mix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from activity_embeddings.training.models.averages import Average, Averages, Formula, require_decay
from activity_embeddings.training.models.registry import register
from activity_embeddings.transformations.errors import InvalidInput, require_kinds
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

RATES = ((0.5, 0.95), (0.5, 0.8, 0.95), (0.3, 0.7, 0.95), (0.5, 0.7, 0.85, 0.95))
"""The sets of rates that a search tries."""


@register("several_rates_decay")
@dataclass(frozen=True, kw_only=True)
class SeveralRatesDecay(Formula):
    """Geometrically decaying averages of the positive activities, one output a rate.

    Rate 0.5 gives `decay_0_5_embedding`. Together they tell new interests from old ones: the
    rival of equal size of models with three outputs. The formula is that of `Averages`.

    Attributes
    ----------
    rates
        tuple of float in (0, 1), distinct. Factors from one positive activity to the next older
        one.
    """

    rates: tuple[float, ...] = (0.5, 0.8, 0.95)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_kinds("several_rates_decay", rates=(self.rates, (tuple, list)))
        # A list, as JSON has it, would make equal instances differ.
        object.__setattr__(self, "rates", tuple(self.rates))
        if not self.rates or len(set(self.rates)) < len(self.rates):
            raise InvalidInput(
                "several_rates_decay: `rates` should be distinct, and at least one. "
                f"Received: {self.rates}"
            )
        for rate in self.rates:
            require_decay("several_rates_decay", rate)

    def build(self, spec: ActivitySpec, vector_spec: ItemVectorSpec) -> Averages:
        """Return the module; see `Averages`."""
        return Averages(
            spec,
            vector_spec,
            {rate_output_name(r): Average(self.positive_ids(spec), r) for r in self.rates},
        )

    @classmethod
    def suggest(cls, trial: Any) -> Self:
        """Choose from a few sets of rates."""
        # Optuna stores numbers and strings, not tuples.
        sets = {" ".join(map(str, rates)): rates for rates in RATES}
        return cls(rates=sets[trial.suggest_categorical("rates", list(sets))])


def rate_output_name(rate: float) -> str:
    """Return the output of one rate: 0.5 gives `decay_0_5_embedding`."""
    return f"decay_{np.format_float_positional(rate).replace('.', '_')}_embedding"
