"""Sequences and embeddings: one view for the newest activities, one for each model."""

from activity_models import ACTIVITY_MODELS
from entities import job, member
from job_vectors import job_embedding
from sources import DATA, OWNER, SNAPSHOTS, SPEC, member_activity

from activity_embeddings import embedding_views, realtime_views, sequence_view

member_activity_sequence = sequence_view(
    events=member_activity,
    vectors=job_embedding,
    member=member,
    item=job,
    spec=SPEC,
    snapshots=SNAPSHOTS,
    owner=OWNER,
)

EMBEDDING_VIEWS = embedding_views(
    ACTIVITY_MODELS,
    sequence=member_activity_sequence,
    vectors=job_embedding,
    member=member,
    snapshots=SNAPSHOTS,
    repo=DATA.parent,
    owner=OWNER,
)

REALTIME_VIEWS = realtime_views(
    EMBEDDING_VIEWS,
    sequence=member_activity_sequence,
    item=job,
    repo=DATA.parent,
    owner=OWNER,
)

# Feast collects the views that are attributes of a module.
globals().update(EMBEDDING_VIEWS)
globals().update(REALTIME_VIEWS)
