"""Sequences and embeddings: a view of the newest activities, and two for each model."""

from activity_models import ACTIVITY_MODELS
from entities import item, member
from item_vectors import vectors
from sources import OWNER, REPO, activity

from activity_embeddings import ActivityDomain

domain = ActivityDomain(
    activity=activity,
    vectors=vectors,
    member=member,
    item=item,
    models=ACTIVITY_MODELS,
    repo=REPO,
    owner=OWNER,
)

# Feast collects the views that are attributes of a module.
globals().update(domain.views)
