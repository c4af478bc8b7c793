"""Who acts, and on what. `value_type` says whether ids are INT64 or STRING in your data."""

from feast import Entity
from feast.value_type import ValueType

member = Entity(
    name="member",
    join_keys=["member_id"],
    value_type=ValueType.INT64,
    description="Who acts.",
)

# Views and features are named after this entity: job_embedding, activity_job_ids.
item = Entity(
    name="job",
    join_keys=["job_id"],
    value_type=ValueType.INT64,
    description="What members act on.",
)
