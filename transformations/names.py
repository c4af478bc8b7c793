"""Column, feature and view names, and the tags by which the engine knows its own views.

One place, so that definitions, engine, training and tests cannot drift apart.
"""

MEMBER_ID = "member_id"
ITEM_ID = "job_id"
ACTION = "action"
EVENT_ID = "event_id"
EMBEDDING = "embedding"
EVENT_TIMESTAMP = "event_timestamp"
CREATED_TIMESTAMP = "created_timestamp"

ACTIVITY_ITEM_IDS = "activity_job_ids"
ACTIVITY_ACTIONS = "activity_actions"
ACTIVITY_TIMES = "activity_times"
ACTIVITY_EVENT_IDS = "activity_event_ids"
ACTIVITY_COUNT = "activity_count"
LAST_ACTIVITY_AT = "last_activity_at"

NEW_ACTIVITY_COUNT = "new_activity_count"

RECENT_ITEM_IDS = "recent_job_ids"
RECENT_ACTIONS = "recent_actions"
RECENT_TIMESTAMPS = "recent_timestamps"
RECENT_EVENT_IDS = "recent_event_ids"
RECENT_COLUMNS = (RECENT_ITEM_IDS, RECENT_ACTIONS, RECENT_TIMESTAMPS)
REQUEST_TIMESTAMP = "request_timestamp"
REQUEST_COLUMNS = (*RECENT_COLUMNS, REQUEST_TIMESTAMP)

REQUEST_ROW = "__request_row"
"""Carries the order of a training join through the store; not in its result."""

MEMBER_ACTIVITY = "member_activity"
ITEM_POSTING = "job_posting"
ITEM_VECTORS = "job_embedding"
MEMBER_ACTIVITY_SEQUENCE = "member_activity_sequence"


def embedding_view_name(model_name: str) -> str:
    """Return the name of the feature view that publishes `model_name`."""
    return f"member_activity_embedding_{model_name}"


def realtime_name(view_name: str) -> str:
    """Return the name of the on-demand feature view that recomputes an embedding view."""
    return f"{view_name}_realtime"


class Tag:
    """Tags on feature views, kept in Feast's registry and shown by `feast ui`."""

    ROLE = "activity_role"
    SPEC = "activity_spec"
    MODEL = "model"
    MODEL_VERSION = "model_version"
    MODEL_FINGERPRINT = "model_fingerprint"
    MODEL_PATH = "model_path"
    VECTORS = "item_vectors"
    VECTORS_VERSION = "item_vectors_version"
    VECTORS_DIMENSION = "item_vectors_dimension"
    VECTORS_FINGERPRINT = "item_vectors_fingerprint"
    ENCODER_PATH = "item_encoder_path"
    ENCODER_VALID_FROM = "item_encoder_valid_from"
    VECTOR_TABLE = "vector_table"
    SIMULATED = "simulated"


class Role:
    """Values of `Tag.ROLE`: what a view is to the engine."""

    EVENTS = "events"
    POSTINGS = "job_postings"
    VECTORS = "item_vectors"
    SEQUENCE = "sequence"
    EMBEDDING = "embedding"
    REALTIME = "realtime_embedding"


# The inputs that a model may name in its `serving_default` signature.
INPUT_ITEM_EMBEDDINGS = "item_embeddings"
INPUT_ACTIONS = "actions"
INPUT_AGES = "ages"
