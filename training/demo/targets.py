"""What an evaluation of each data set should find, declared before it was run."""

from __future__ import annotations

from dataclasses import replace

from activity_embeddings.training.datasets.sample import ENTREE, ESHOP, FILMS, JOBS
from activity_embeddings.training.evaluation.arms import DECAY, MEAN, NOTHING
from activity_embeddings.training.evaluation.plan import Target
from activity_embeddings.training.evaluation.result import DAY, TO_DATE

CANDIDATE = "cnn"
"""The model that the demo trains, and that the targets are about."""
TARGETS = {
    ENTREE.name: (Target(CANDIDATE, DECAY, least=0.15),),
    ESHOP.name: (Target(CANDIDATE, DECAY),),
    FILMS.name: tuple(
        replace(target, task=task)
        for task in (TO_DATE, DAY)
        for target in (
            Target(MEAN, NOTHING, least=0.02),
            Target(DECAY, MEAN, least=0.004),
            Target(CANDIDATE, MEAN, least=0.004),
            Target(CANDIDATE, DECAY, not_worse=True),
        )
    ),
    JOBS.name: (Target(CANDIDATE, DECAY),),
}
"""By the name of the data set."""
