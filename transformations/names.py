"""Column, feature and view names, and the tags by which the engine knows its own views.

One place, so that definitions, engine, training and tests cannot drift apart.
"""

from __future__ import annotations

import json
import keyword
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

from activity_embeddings.transformations.errors import InvalidInput, quote

EMBEDDING = "embedding"
EVENT_TIMESTAMP = "event_timestamp"
CREATED_TIMESTAMP = "created_timestamp"

ACTIVITY_ACTIONS = "activity_actions"
ACTIVITY_TIMES = "activity_times"
ACTIVITY_EVENT_IDS = "activity_event_ids"
ACTIVITY_SESSION_IDS = "activity_session_ids"
ACTIVITY_COUNT = "activity_count"
LAST_ACTIVITY_AT = "last_activity_at"

MODEL_VERSION = "model_version"
NEW_ACTIVITY_COUNT = "new_activity_count"
REQUEST_TIMESTAMP = "request_timestamp"

REQUEST_ROW = "__request_row"
"""Carries the order of a training join through the store; not in its result."""


def is_identifier(name: str) -> bool:
    """Return whether Python finds a function under the name that it is given.

    It writes some letters in another way, as the ligature fi, U+FB01, in two letters.
    """
    return name.isidentifier() and unicodedata.normalize("NFKC", name) == name


def postings_view(item: str) -> str:
    """Return the name of the view of what items contain, by the name of their entity."""
    return f"{item}_posting"


def vectors_view(item: str) -> str:
    """Return the name of the view of item vectors, by the name of their entity."""
    return f"{item}_embedding"


@dataclass(frozen=True)
class DomainNames:
    """Names of one domain: the user's columns, and the features and views that follow them.

    A domain is one type of item with its members, events, models and services. Several may live in
    one feature repo, so that everything a view or a request has to tell apart is named after the
    item.

    Parameters
    ----------
    item
        Name of the item's entity; views and features are named after it.
    member_id
        Join key of the member's entity.
    item_id
        Join key of the item's entity.
    action
        Column of the events that says what was done.
    event_id
        Column of the events that orders those of one time.
    session_id
        Column of the session of each event; None where the events have no such column.

    Raises
    ------
    InvalidInput
        A name cannot be part of the name of a Python function, which Feast makes of view names; or
        two columns have one name.

    Examples
    --------
    >>> courses = DomainNames(item="course", member_id="user", item_id="course_id")
    >>> courses.sequence_view, courses.activity_item_ids, courses.recent_actions
    ('course_activity_sequence', 'activity_course_ids', 'recent_course_actions')
    """

    item: str = "job"
    member_id: str = "member_id"
    item_id: str = "job_id"
    action: str = "action"
    event_id: str = "event_id"
    session_id: str | None = None

    def __post_init__(self) -> None:
        if not is_identifier(self.item) or keyword.iskeyword(self.item):
            raise InvalidInput(
                "item: expected an entity whose name is letters, digits and underscores, as Python "
                "writes them (in NFKC), since views and features are named after it. Received: "
                f"{quote(self.item)}"
            )
        columns = [*self.event_columns, self.event_id, EVENT_TIMESTAMP]
        if len(set(columns)) < len(columns):
            raise InvalidInput(
                "columns of events: expected different names, of the member, the item, the action, "
                f"the event, the time and the session, if any. Received: {', '.join(columns)}"
            )

    @cached_property
    def events_view(self) -> str:
        """Name of the view of events."""
        return f"{self.item}_activity"

    @cached_property
    def postings_view(self) -> str:
        """Name of the view of what items contain."""
        return postings_view(self.item)

    @cached_property
    def vectors_view(self) -> str:
        """Name of the view of item vectors."""
        return vectors_view(self.item)

    @cached_property
    def sequence_view(self) -> str:
        """Name of the view of sequences."""
        return f"{self.item}_activity_sequence"

    def embedding_view(self, model: str) -> str:
        """Return the name of the view that publishes a model."""
        return f"{self.item}_activity_embedding_{model}"

    @cached_property
    def activity_item_ids(self) -> str:
        """Feature of the sequence view: ids of the items."""
        return f"activity_{self.item}_ids"

    @cached_property
    def recent_item_ids(self) -> str:
        """Request column: ids of the items of recent activity."""
        return f"recent_{self.item}_ids"

    @cached_property
    def recent_actions(self) -> str:
        """Request column: actions of recent activity."""
        return f"recent_{self.item}_actions"

    @cached_property
    def recent_timestamps(self) -> str:
        """Request column: times of recent activity."""
        return f"recent_{self.item}_timestamps"

    @cached_property
    def recent_event_ids(self) -> str:
        """Request column: event ids of recent activity, where the view of events declares them."""
        return f"recent_{self.item}_event_ids"

    @cached_property
    def recent_session_ids(self) -> str:
        """Request column: sessions of recent activity, where the view of events declares them."""
        return f"recent_{self.item}_session_ids"

    @cached_property
    def recent_columns(self) -> tuple[str, str, str]:
        """Request columns of recent activity that every request has."""
        return (self.recent_item_ids, self.recent_actions, self.recent_timestamps)

    @cached_property
    def request_columns(self) -> tuple[str, ...]:
        """Request columns that every request has."""
        return (*self.recent_columns, REQUEST_TIMESTAMP)

    @cached_property
    def event_columns(self) -> tuple[str, ...]:
        """Columns that the source of events has to have, beside the time."""
        session = () if self.session_id is None else (self.session_id,)
        return (self.member_id, self.item_id, self.action, *session)

    def to_json(self) -> str:
        """Return the names as one line of JSON with sorted keys; no session column is not said."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(said, sort_keys=True)

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> DomainNames:
        """Return the names that a view of ours has in its tags; invert `to_json`."""
        return cls(**json.loads(tags[Tag.DOMAIN]))


def require_different_entities(member: str, item: str) -> None:
    """Raise `InvalidInput` where the member's and the item's entity have one name."""
    if member == item:
        raise InvalidInput(
            "expected different names for the member's and the item's entity. "
            f"Received: {member}, {item}"
        )


SEQUENCES_VERSION = "1"
"""Of every sequence view: they have none of their own."""

JOBS = DomainNames()
"""Names where nobody says others, as in the sample data: members act on jobs."""

MEMBER_ID, ITEM_ID, ACTION, EVENT_ID = (
    JOBS.member_id,
    JOBS.item_id,
    JOBS.action,
    JOBS.event_id,
)


def realtime_name(view_name: str) -> str:
    """Return the name of the on-demand feature view that recomputes an embedding view."""
    return f"{view_name}_realtime"


class Tag:
    """Tags on feature views, kept in Feast's registry and shown by `feast ui`."""

    ROLE = "activity_role"
    SPEC = "activity_spec"
    DOMAIN = "activity_domain"
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
    """On the source of events, which the user defines: reports say that its data are made up."""


class Role:
    """Values of `Tag.ROLE`: what a view is to the engine."""

    EVENTS = "events"
    POSTINGS = "item_postings"
    VECTORS = "item_vectors"
    SEQUENCE = "sequence"
    EMBEDDING = "embedding"
    REALTIME = "realtime_embedding"


# The inputs that a model may name in its `serving_default` signature.
INPUT_ITEM_EMBEDDINGS = "item_embeddings"
INPUT_ACTIONS = "actions"
INPUT_AGES = "ages"
INPUT_SESSIONS = "sessions"
