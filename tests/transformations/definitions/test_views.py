"""What the definitions say of themselves in the registry, and what they refuse at once."""

from datetime import timedelta

import pytest
from feast import Entity, FeatureView, Field, FileSource
from feast.types import Int64
from feast.value_type import ValueType

from activity_embeddings.transformations.definitions.views import (
    event_tags,
    sequence_view,
    vector_tags,
)
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec


@pytest.mark.parametrize(
    ("window", "words"),
    [
        (timedelta(days=28), "28 days"),
        (timedelta(days=1), "1 day"),
        (timedelta(hours=12), "12 hours"),
        (timedelta(minutes=90), "90 minutes"),
    ],
)
def test_the_window_is_said_in_its_own_unit(window, words, tmp_path):
    spec = ActivitySpec(window=window, length=1)
    member, item = (
        Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)
        for name in ("member", "item")
    )
    events, vector_spec = (
        FeatureView(
            name=entity.name,
            entities=[entity],
            schema=[Field(name=f"{entity.name}_id", dtype=Int64)],
            source=FileSource(path=str(tmp_path / entity.name), timestamp_field="time"),
            tags=tags,
        )
        for entity, tags in (
            (member, event_tags(spec)),
            (item, vector_tags(ItemVectorSpec("own", "1", 4))),
        )
    )
    view = sequence_view(
        events=events,
        vector_spec=vector_spec,
        member=member,
        item=item,
        spec=spec,
        snapshots=tmp_path,
    )
    assert view.description == (
        f"The newest activities, at most 1, within {words}, on items with a vector, oldest first."
    )
    assert view.ttl == window


def refusal(repo):
    refused = repo.feast("apply")
    assert refused.code == 1
    (line,) = [line for line in refused.output.splitlines() if line.startswith("Error: ")]
    return line


@pytest.mark.parametrize(
    ("entity", "old", "new"),
    [
        ("member", 'join_keys=["member_id"]', 'join_keys=["user_id"]'),
        ("item", 'join_keys=["job_id"]', 'join_keys=["posting"]'),
        ("member", '    join_keys=["member_id"],\n', ""),
    ],
)
def test_another_join_key_is_refused(repo, entity, old, new):
    repo.edit("entities.py", old, new)
    line = refusal(repo)
    received = new.split('"')[1] if new else "member"
    assert f"entity {entity!r}: expected join_keys=['{entity}_id']" in line
    assert f"Received: join key {received!r}" in line
    assert f"field_mapping={{{received!r}: '{entity}_id'}}" in line


def test_a_view_of_events_that_are_not_the_members_is_refused(repo):
    repo.edit("sources.py", "import member\n", "import item, member\n")
    repo.edit("sources.py", "entities=[member]", "entities=[item]")
    line = refusal(repo)
    assert "job_activity: expected entities=[member]" in line and "Received: item" in line
