"""The job market of the same people: a domain of its own, and a kind of activity for courses."""

from activity_models import MODELS
from entities import member
from feast import Entity, Field, FileSource
from feast.types import Array, String
from feast.value_type import ValueType
from sources import OWNER, REPO, SPEC

from activity_embeddings import (
    ActivityDomain,
    ActivityModel,
    ActivitySpec,
    activity_view,
    encoded_vector_view,
    posting_view,
)

job = Entity(name="job", join_keys=["job_id"], value_type=ValueType.INT64)

job_activity = activity_view(
    FileSource(
        name="job_activity_events",
        path="../data/job_events",
        timestamp_field="event_timestamp",
        tags={"simulated": "true"},
    ),
    member=member,
    item=job,
    # Kinds of activity of one sequence have one window and length.
    spec=ActivitySpec(SPEC.window, SPEC.length, ("APPLY", "SAVE", "DISMISS"), ("APPLY", "SAVE")),
    owner=OWNER,
)

job_postings = posting_view(
    FileSource(
        name="job_postings",
        path="../data/job_postings.parquet",
        timestamp_field="event_timestamp",
    ),
    item=job,
    schema=[
        Field(name="title", dtype=String),
        Field(name="description", dtype=String),
        Field(name="group", dtype=Array(String)),
    ],
    owner=OWNER,
)

job_vectors = encoded_vector_view(
    MODELS / "jobs" / "item_encoder", postings=job_postings, item=job, repo=REPO, owner=OWNER
)

jobs = ActivityDomain(
    activity=job_activity,
    vectors=job_vectors,
    member=member,
    item=job,
    models=[ActivityModel(MODELS / "jobs" / "geometric_decay")],
    repo=REPO,
    owner=OWNER,
)
globals().update(jobs.views)

job_recommendations_v1 = jobs.service("job_recommendations_v1", "geometric_decay")
