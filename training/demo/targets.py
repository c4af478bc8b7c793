"""What an evaluation of each data set should find, declared before it was run."""

from __future__ import annotations

from dataclasses import replace

from activity_embeddings.training.datasets.sample import ENTREE, ESHOP, FILMS, JOBS
from activity_embeddings.training.evaluation.arms import (
    DECAY,
    DECAY_AND_RATES,
    ITEM_ACTION_COUNTS,
    ITEM_COUNTS,
    MEAN,
    NOTHING,
    SEVERAL_RATES,
    SINGLE_DECAY,
)
from activity_embeddings.training.evaluation.plan import Target
from activity_embeddings.training.evaluation.result import DAY, TO_DATE, WEEK

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
    JOBS.name: tuple(
        Target(arm, against, task=task)
        for task in (DAY, WEEK)
        for arm, against in (
            *((CANDIDATE, rival) for rival in (SINGLE_DECAY, DECAY, SEVERAL_RATES)),
            (f"{DECAY}+{CANDIDATE}", DECAY_AND_RATES),
            *((CANDIDATE, table) for table in (ITEM_COUNTS, ITEM_ACTION_COUNTS)),
        )
    ),
}
"""By the name of the data set."""
