"""What a new feature repo is to be like: the names, types and sources of its owner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from activity_embeddings.transformations.names import DomainNames
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

IdType = Literal["int", "string"]


@dataclass(frozen=True)
class Content:
    """A column of postings that an item encoder may read.

    Attributes
    ----------
    name
        Of the column.
    kind
        Name of its type in Feast: String, Int64, Float32, Array(String) ...
    """

    name: str
    kind: str


@dataclass(frozen=True)
class EventSource:
    """Where events are, and what their columns are called there.

    Attributes
    ----------
    path
        File or folder, as it is to stand in the feature repo; empty for `data/activity_events`.
    time
        Column of the time.
    event_id_type
        Type of the column that orders events of one time; None without one.
    single_file
        Whether the path is a file, which a push rewrites.
    """

    path: str = ""
    time: str = "event_timestamp"
    event_id_type: IdType | None = None
    single_file: bool = False


@dataclass(frozen=True)
class VectorSource:
    """Where the user's own item vectors are.

    Attributes
    ----------
    path
        File or folder; empty for `data/item_embeddings.parquet`.
    item_id, vector, time
        What its columns are called.
    """

    path: str = ""
    item_id: str = "job_id"
    vector: str = "embedding"
    time: str = "event_timestamp"


@dataclass(frozen=True)
class PostingSource:
    """Where the content of items is, for an item encoder.

    Attributes
    ----------
    path
        File or folder; empty for `data/item_postings.parquet`.
    item_id, time
        What its columns are called.
    content
        Its other columns.
    """

    path: str = ""
    item_id: str = "job_id"
    time: str = "event_timestamp"
    content: Sequence[Content] = (Content("title", "String"),)


@dataclass(frozen=True)
class RepoSettings:
    """Everything that decides what is written.

    Attributes
    ----------
    project
        Name in feature_store.yaml.
    member
        Name of the member's entity.
    names
        Item, join keys and columns.
    member_type, item_type
        Types of the ids.
    spec
        Window, length and actions.
    vector_spec
        Of the item vectors; its dimension is that of the encoder too.
    events, items
        The sources.
    simulated
        Whether the events are made up. A tag of their source says so, and with it every report.
    """

    project: str = "activity_embeddings"
    member: str = "member"
    names: DomainNames = field(default_factory=DomainNames)
    member_type: IdType = "int"
    item_type: IdType = "int"
    spec: ActivitySpec = field(
        default_factory=lambda: ActivitySpec(window=timedelta(days=28), length=32)
    )
    vector_spec: ItemVectorSpec = field(
        default_factory=lambda: ItemVectorSpec("item_vectors", "1", 64)
    )
    events: EventSource = field(default_factory=EventSource)
    items: VectorSource | PostingSource = field(default_factory=VectorSource)
    simulated: bool = False
