"""Where activity events and job embeddings come from. Point these at your own data.

A column of another name is mapped the Feast way: `field_mapping={"user": "member_id"}`.
"""

from datetime import timedelta
from pathlib import Path

from entities import job, member
from feast import FeatureView, Field, FileSource
from feast.data_format import ParquetFormat
from feast.types import Array, Float32, Int64, String

from transformations.feature_views import event_tags, item_tags
from transformations.spec import ActivitySpec, ItemEmbedding

DATA = Path(__file__).parent / "data"
OWNER = "recommendations@example.com"

SPEC = ActivitySpec(window=timedelta(days=28), length=32)
ITEM_EMBEDDING = ItemEmbedding(name="content_and_behaviour", version="1", dimension=64)

activity_events = FileSource(
    name="activity_events",
    path=str(DATA / "activity_events"),
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    description="One row an activity; `activity-embeddings push` adds a file to this folder.",
    owner=OWNER,
)

job_embeddings = FileSource(
    name="job_embeddings",
    path=str(DATA / "job_embeddings.parquet"),
    timestamp_field="event_timestamp",
    description="One row a job and version: job_id, embedding, event_timestamp.",
    owner=OWNER,
)

member_activity = FeatureView(
    name="member_activity",
    entities=[member],
    source=activity_events,
    schema=[
        Field(name="member_id", dtype=Int64),
        Field(name="job_id", dtype=Int64, description="The job acted on."),
        Field(name="action", dtype=String, description="APPLY, SAVE or DISMISS."),
    ],
    ttl=SPEC.window,
    online=False,
    description="Job-seeking activity, as it happened.",
    tags=event_tags(SPEC),
    owner=OWNER,
)

job_embedding = FeatureView(
    name="job_embedding",
    entities=[job],
    source=job_embeddings,
    schema=[
        Field(name="job_id", dtype=Int64),
        Field(name="embedding", dtype=Array(Float32), description="Unit vector, length 64."),
    ],
    ttl=timedelta(days=0),
    online=True,
    description="Job vectors from content and behaviour; a job is known from its first one on.",
    tags=item_tags(ITEM_EMBEDDING, table="data/job_vectors"),
    owner=OWNER,
)
