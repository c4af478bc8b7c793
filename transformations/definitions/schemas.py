"""The columns that each view publishes, as Feast fields; `activity.rows` makes their values."""

from __future__ import annotations

from collections.abc import Mapping

from feast import Field
from feast.types import Array, Float32, Int32, Int64, PrimitiveFeastType, String, UnixTimestamp

from activity_embeddings.transformations import names


def sequence_fields(
    domain: names.DomainNames, member_type: PrimitiveFeastType, item_type: PrimitiveFeastType
) -> list[Field]:
    """Return the schema of the sequence view.

    Parameters
    ----------
    domain
        Names of the columns.
    member_type, item_type
        Types of the ids, of items as sequences name them.
    """
    return [
        Field(name=domain.member_id, dtype=member_type, description="The member."),
        Field(
            name=domain.activity_item_ids,
            dtype=Array(item_type),
            description="Items of the newest activities in the window, oldest first.",
        ),
        Field(
            name=names.ACTIVITY_ACTIONS,
            dtype=Array(Int32),
            description="Action ids of the same activities; see the tag activity_spec.",
        ),
        Field(
            name=names.ACTIVITY_TIMES,
            dtype=Array(Int64),
            description="Times of the same activities, microseconds since the epoch, UTC.",
        ),
        Field(
            name=names.ACTIVITY_EVENT_IDS,
            dtype=Array(String),
            description="Event ids of the same activities as text; empty if events have none.",
        ),
        *([] if domain.session_id is None else [_session_ids()]),
        Field(
            name=names.ACTIVITY_COUNT,
            dtype=Int64,
            description="Number of activities in the sequence; 0 for a member who fell silent.",
        ),
        Field(
            name=names.LAST_ACTIVITY_AT,
            dtype=UnixTimestamp,
            description="Time of the newest activity in the sequence; null where there is none.",
        ),
    ]


def _session_ids() -> Field:
    return Field(
        name=names.ACTIVITY_SESSION_IDS,
        dtype=Array(String),
        description="Session ids of the same activities as text; empty text for none.",
    )


def embedding_fields(
    member_id: str, member_type: PrimitiveFeastType, outputs: Mapping[str, int]
) -> list[Field]:
    """Return the schema of an embedding view: one float32 vector a model output, and whose."""
    return [
        Field(name=member_id, dtype=member_type, description="The member."),
        *(
            Field(
                name=output,
                dtype=Array(Float32),
                description=f"float32 vector of length {size}; zero without activity.",
            )
            for output, size in outputs.items()
        ),
        Field(
            name=names.MODEL_VERSION,
            dtype=String,
            description="Version of the model that made this row.",
        ),
    ]


def vector_fields(item_id: str, item_type: PrimitiveFeastType, dimension: int) -> list[Field]:
    """Return the schema of a view of item vectors that an encoder makes."""
    return [
        Field(name=item_id, dtype=item_type, description="The item."),
        Field(
            name=names.EMBEDDING,
            dtype=Array(Float32),
            description=f"float32 vector of length {dimension}.",
        ),
    ]


def request_time_fields() -> list[Field]:
    """Return the features that say where a request-time embedding came from."""
    return [
        Field(
            name=names.ACTIVITY_COUNT,
            dtype=Int64,
            description="Number of activities used, stored and new.",
        ),
        Field(
            name=names.NEW_ACTIVITY_COUNT,
            dtype=Int64,
            description="Number of activities used that only the request had.",
        ),
        Field(
            name=names.LAST_ACTIVITY_AT,
            dtype=UnixTimestamp,
            description="Time of the newest activity used; null where there is none.",
        ),
    ]
