"""Where activity events come from, and what counts as recent. Point this at your own data.

A column of another name is mapped the Feast way: `field_mapping={"user": "member_id"}`. An
`event_id` orders events of one time; with a `Field` for it in the schema of `member_activity`,
requests have event ids too.
"""

from datetime import timedelta
from pathlib import Path

from entities import member
from feast import FeatureView, Field, FileSource
from feast.data_format import ParquetFormat
from feast.types import Int64, String

from activity_embeddings import ActivitySpec, event_tags

DATA = Path(__file__).parent / "data"
SNAPSHOTS = DATA / "snapshots"
OWNER = "recommendations@example.com"

SPEC = ActivitySpec(window=timedelta(days=28), length=32)

activity_events = FileSource(
    name="activity_events",
    path=str(DATA / "activity_events"),
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    description="One row an activity; `activity-embeddings push` adds a file to this folder.",
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
