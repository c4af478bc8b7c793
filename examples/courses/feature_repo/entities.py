"""Who acts, and on what. `value_type` says whether ids are INT64 or STRING in your data."""

from feast import Entity
from feast.value_type import ValueType

member = Entity(
    name="learner",
    join_keys=["learner_id"],
    value_type=ValueType.STRING,
    description="Who acts.",
)

# Views and features are named after this entity: course_embedding, activity_course_ids.
item = Entity(
    name="course",
    join_keys=["course_code"],
    value_type=ValueType.STRING,
    description="What members act on.",
)
