"""Where activity events come from, and what counts as recent.

A column is mapped the Feast way where the source calls it otherwise than the entities do:
`field_mapping={"user": "member_id"}` on the source. A column that orders events of one time is
declared with `event_id=Field(name="event_id", dtype=Int64)` of `activity_view`; requests and pushed
events then have it too.
"""

import os
from datetime import timedelta
from pathlib import Path

from entities import item, member
from feast import FileSource
from feast.data_format import ParquetFormat

from activity_embeddings import ActivitySpec, IcebergSnapshots, activity_view

REPO = Path(__file__).parent
OWNER = "recommendations@example.com"

# The catalog is in PostgreSQL, whose address is in settings.env alone.
SNAPSHOTS = IcebergSnapshots("s3://lake/warehouse")
S3_ENDPOINT = os.environ.get("S3_ENDPOINT", "")  # of another store than Amazon's

SPEC = ActivitySpec(
    window=timedelta(days=28),
    length=32,
    actions=("APPLY", "SAVE", "DISMISS"),
    positive_actions=("APPLY", "SAVE"),
)

activity_events = FileSource(
    name="job_activity_events",
    path="s3://lake/activity_events",
    s3_endpoint_override=S3_ENDPOINT,
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    description="One row an event; `activity-embeddings push` adds a file to this folder.",
    owner=OWNER,
)

activity = activity_view(
    activity_events,
    member=member,
    item=item,
    spec=SPEC,
    action="action",
    owner=OWNER,
)
