"""What a model is trained on, and how: the same for every architecture that is compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.loop import Fit
from activity_embeddings.training.fitting.provenance import fingerprints
from activity_embeddings.training.models import Architecture
from activity_embeddings.training.objectives import NextPositive, Objective
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ItemVectorSpec


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingPlan:
    """Data, periods, objective and settings of training.

    Parameters
    ----------
    history
        Events and vectors. Events after the validation period are not read.
    vector_spec
        Which vectors these are: the model will refuse others.
    period
        Of the held-out activities to learn from.
    validation
        Of those to choose by; it begins where the period ends or later.
    objective
        What the model learns to do.
    fit
        Epochs, steps and seed.
    refit
        Whether a network is then trained from scratch, for as many epochs as were best, on the days
        of validation too: what is newest often says most. The figures stay those of before.

    Raises
    ------
    InvalidInput
        The periods overlap.
    """

    history: ActivityHistory
    vector_spec: ItemVectorSpec
    period: Period
    validation: Period
    objective: Objective = field(default_factory=NextPositive)
    fit: Fit = field(default_factory=Fit)
    refit: bool = False

    def __post_init__(self) -> None:
        if self.validation.start < self.period.end:
            raise InvalidInput(
                "training: `validation` should begin where `period` ends or later. Received: "
                f"validation from {self.validation.start}, training until {self.period.end}"
            )

    @property
    def whole(self) -> Period:
        """From the start of training to the end of validation."""
        return Period(self.period.start, self.validation.end)

    def facts(self) -> dict[str, Any]:
        """Return what is the same for all models by this plan, as JSON values."""
        return {
            "objective": self.objective.to_dict(),
            "period": self.period.to_dict(),
            "validation": self.validation.to_dict(),
            "vector_spec": self.vector_spec.to_dict(),
            "fit": self.fit.to_dict(),
            "refit": self.refit,
            "spec": self.history.spec.to_dict(),
            "data": fingerprints(self.history, self.validation.end_us),
        }

    def identity(self, model: Architecture) -> dict[str, Any]:
        """Return JSON values that say which run the training of a model by this plan is."""
        return {
            "model": model.name,
            "hyperparameters": model.to_dict(),
            **self.facts(),
            "code_version": version("activity-embeddings"),
        }
