"""Sequences and embeddings: a view of the newest activities, and two for each model."""

from activity_models import ACTIVITY_MODELS
from entities import item, member
from item_vectors import vectors
from jobs import job_activity, job_vectors
from sources import OWNER, REPO, activity

from activity_embeddings import ActivityDomain

domain = ActivityDomain(
    activity=[activity, job_activity],
    vectors=[vectors, job_vectors],
    keep={"course": 12},  # of 20, so that many jobs do not push out the few courses
    member=member,
    item=item,
    models=ACTIVITY_MODELS,
    repo=REPO,
    owner=OWNER,
)

# Feast collects the views that are attributes of a module.
globals().update(domain.views)
