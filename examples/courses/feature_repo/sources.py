"""Where activity events come from, and what counts as recent.

A column is mapped the Feast way where the source calls it otherwise than the entities do:
`field_mapping={"user": "learner_id"}` on the source. A column that orders events of one time is
declared with `event_id=Field(name="event_id", dtype=Int64)` of `activity_view`; requests and pushed
events then have it too.
"""

from datetime import timedelta
from pathlib import Path

from entities import item, member
from feast import FileSource
from feast.data_format import ParquetFormat

from activity_embeddings import ActivitySpec, activity_view

REPO = Path(__file__).parent
OWNER = "recommendations@example.com"

SPEC = ActivitySpec(
    window=timedelta(days=90),
    length=20,
    actions=("ENROL", "COMPLETE", "DROP"),
    positive_actions=("ENROL", "COMPLETE"),
)

activity_events = FileSource(
    name="course_activity_events",
    path="../data/enrolments",
    file_format=ParquetFormat(),
    timestamp_field="at",
    description="One row an event; `activity-embeddings push` adds a file to this folder.",
    tags={"simulated": "true"},
    owner=OWNER,
)

activity = activity_view(
    activity_events,
    member=member,
    item=item,
    spec=SPEC,
    action="verb",
    owner=OWNER,
)
