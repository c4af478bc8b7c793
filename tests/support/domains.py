"""Feature repos of other names than the sample's: a shop with ids of text, and a second domain."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings import ActivitySpec, DomainNames, ItemVectorSpec
from activity_embeddings.training.models import UnweightedAverage
from activity_embeddings.training.new_repo.settings import (
    EventSource,
    PostingSource,
    VectorSource,
)
from activity_embeddings.training.packaging import package_model
from support.feast_repo import OWN_VECTORS, SAMPLE, Repo, at

COURSES = DomainNames(item="course", item_id="course_id")
COURSE_SPEC = ActivitySpec(timedelta(days=14), 8, ("ENROL", "LEAVE"), ("ENROL",))
COURSE_VECTORS = ItemVectorSpec("courses", "1", 16)
COURSES_PY = """
from datetime import timedelta

from activity_models import MODELS
from entities import member
from feast import Entity, FileSource
from feast.value_type import ValueType
from sources import REPO

from activity_embeddings import (
    ActivityDomain, ActivityModel, ActivitySpec, ItemVectorSpec, activity_view, vector_view,
)

course = Entity(name="course", join_keys=["course_id"], value_type=ValueType.STRING)
course_activity = activity_view(
    FileSource(
        name="course_events",
        path="data/course_events",
        timestamp_field="event_timestamp",
    ),
    member=member,
    item=course,
    spec=ActivitySpec(timedelta(days=14), 8, ("ENROL", "LEAVE"), ("ENROL",)),
)
course_vectors = vector_view(
    FileSource(
        name="course_embeddings",
        path="data/course_embeddings.parquet",
        timestamp_field="event_timestamp",
    ),
    item=course,
    vectors=ItemVectorSpec("courses", "1", 16),
)
courses = ActivityDomain(
    activity=course_activity,
    vectors=course_vectors,
    member=member,
    item=course,
    models=[ActivityModel(MODELS / "courses" / "unweighted_average")],
    repo=REPO,
)
globals().update(courses.views)
learning_v1 = courses.service("learning_v1", "unweighted_average")
learning_v1_realtime = courses.service("learning_v1_realtime", "unweighted_average", realtime=True)
"""
SHOP = replace(
    OWN_VECTORS,
    project="shop",
    member="user",
    names=DomainNames(item="product", member_id="user_id", item_id="sku", action="verb"),
    member_type="string",
    item_type="string",
    events=EventSource(time="ts"),
    items=VectorSource(item_id="sku", vector="vec", time="made"),
)
"""Settings of a shop whose item vectors are its own."""


SHOP_WITH_POSTINGS = replace(
    SHOP,
    vector_spec=ItemVectorSpec("words", "1", 16),
    items=PostingSource(item_id="sku", time="since", content=SAMPLE.items.content),
)
"""Settings of a shop whose item vectors an encoder makes."""
_COLUMNS = {"member_id": "user_id", "job_id": "sku", "action": "verb", "embedding": "vec"}


def of_shop(table: pa.Table, time: str) -> pa.Table:
    """Return a source of the tests' data as one of the shop: its columns, ids as u007 and s007."""
    columns = {}
    for name, values in zip(table.column_names, table.columns, strict=True):
        if name in ("member_id", "job_id"):
            letter = "u" if name == "member_id" else "s"
            values = pa.array(f"{letter}{number:03}" for number in values.to_pylist())
        columns[time if name == "event_timestamp" else _COLUMNS.get(name, name)] = values
    return pa.table(columns)


def package_average(folder, spec, vector_spec):
    package_model(
        UnweightedAverage().build(spec, vector_spec),
        folder,
        name="unweighted_average",
        version="1",
        spec=spec,
        vector_spec=vector_spec,
    )


def course_events(rows, member_id):
    """Return (member, course, action, time) as an event source."""
    members, courses, actions, times = zip(*rows, strict=True)
    return pa.table(
        {
            member_id: members,
            "course_id": courses,
            "action": actions,
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


def course_vector(course):
    return np.full(16, int(course[1:]), dtype=np.float32)


def add_courses(repo: Repo, rows, member_id="member_id") -> None:
    """Give a feature repo, not applied yet, a second domain: `rows` are its events."""
    (repo.path / "courses.py").write_text(COURSES_PY)
    package_average(
        repo.path / "models" / "courses" / "unweighted_average", COURSE_SPEC, COURSE_VECTORS
    )
    (repo.data / "course_events").mkdir()
    events = course_events(rows, member_id)
    pq.write_table(events, repo.data / "course_events" / "history.parquet")
    courses = [f"c{i}" for i in range(1, 6)]
    table = pa.table(
        {
            "course_id": courses,
            "embedding": pa.array([course_vector(c).tolist() for c in courses]),
            "event_timestamp": pa.array([at(-50)] * 5, pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(table, repo.data / "course_embeddings.parquet")
