"""What the definitions say of themselves in the registry, and what they refuse at once."""

from datetime import timedelta

import pytest
from feast import Entity, FileSource
from feast.value_type import ValueType

from activity_embeddings.transformations.definitions.tags import release_of
from activity_embeddings.transformations.definitions.views import (
    activity_view,
    sequence_view,
    vector_view,
)
from activity_embeddings.transformations.errors import InvalidInput
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
        for name in ("member", "course")
    )
    events, vectors = (
        FileSource(path=str(tmp_path / name), timestamp_field="time")
        for name in ("events", "vectors")
    )
    view = sequence_view(
        events=activity_view(events, member=member, item=item, spec=spec),
        vectors=vector_view(vectors, item=item, vectors=ItemVectorSpec("own", "1", 4)),
        member=member,
        item=item,
        snapshots=tmp_path,
        repo=tmp_path,
    )
    assert view.description == (
        f"The newest activities, at most 1, within {words}, on each course with a vector, "
        "oldest first."
    )
    assert view.ttl == window


def test_a_domain_of_one_kind_is_registered_as_before_there_were_kinds(repo):
    """What stands here is in the registries and snapshots of users."""
    repo.run("apply")
    store = repo.store
    view = store.get_feature_view("job_activity_sequence")
    assert view.tags == {
        "activity_role": "sequence",
        "activity_spec": '{"actions": ["APPLY", "SAVE", "DISMISS"], "length": 32, "other_actions": '
        '"refuse", "positive_actions": ["APPLY", "SAVE"], "window_seconds": 2419200.0}',
        "activity_domain": '{"action": "action", "event_id": "event_id", "item": "job", '
        '"item_id": "job_id", "member_id": "member_id"}',
    }
    assert release_of(view) == "bab97509a45316a9"
    assert [source.name for source in view.source_views] == ["job_activity", "job_embedding"]
    assert [f"{field.name} {field.dtype}" for field in view.features] == [
        "activity_job_ids Array(Int64)",
        "activity_actions Array(Int32)",
        "activity_times Array(Int64)",
        "activity_event_ids Array(String)",
        "activity_count Int64",
        "last_activity_at UnixTimestamp",
    ]
    realtime = store.get_on_demand_feature_view("job_activity_embedding_cnn_realtime")
    (request,) = realtime.source_request_sources.values()
    assert [f"{field.name} {field.dtype}" for field in request.schema] == [
        "recent_job_ids Array(Int64)",
        "recent_job_actions Array(String)",
        "recent_job_timestamps Array(UnixTimestamp)",
        "request_timestamp UnixTimestamp",
    ]


def refusal(repo):
    refused = repo.feast("apply")
    assert refused.code == 1
    (line,) = [line for line in refused.output.splitlines() if line.startswith("Error: ")]
    return line


@pytest.mark.parametrize(
    ("entity", "view", "key"),
    [("member", "activity", "user_id"), ("item", "activity", "sku"), ("item", "vectors", "sku")],
)
def test_an_entity_of_another_join_key_than_in_its_view_is_refused(repo, entity, view, key):
    """As when a second entity of the same name is made for one of the views."""
    file = "sources.py" if view == "activity" else "item_vectors.py"
    known = {"member": "member_id", "item": "job_id"}[entity]
    name = {"member": "member", "item": "job"}[entity]
    repo.edit(
        file,
        "OWNER = " if view == "activity" else "VECTOR_SPEC = ",
        f"from feast import Entity, ValueType\n\n{entity} = Entity(name={name!r}, "
        f"join_keys=[{key!r}], value_type=ValueType.INT64)\n"
        + ("OWNER = " if view == "activity" else "VECTOR_SPEC = "),
    )
    line = refusal(repo)
    assert f"entity {name!r}: expected join_keys=[{key!r}], as in job_" in line
    assert f"Received: {known!r}" in line


def test_a_member_that_is_called_like_the_item_is_refused(tmp_path):
    """A key of one would be read as that of the other."""
    member, job, clash = (
        Entity(name=name, join_keys=[key], value_type=ValueType.INT64)
        for name, key in (("member", "member_id"), ("job", "job_id"), ("member", "job_id"))
    )
    source = FileSource(path=str(tmp_path), timestamp_field="time")
    spec, own = ActivitySpec(), ItemVectorSpec("own", "1", 4)
    message = "different names for the member's and the item's entity. Received: member, member$"
    with pytest.raises(InvalidInput, match=message):
        activity_view(source, member=member, item=clash, spec=spec)
    with pytest.raises(InvalidInput, match=message):
        sequence_view(
            events=activity_view(source, member=member, item=job, spec=spec),
            vectors=vector_view(source, item=clash, vectors=own),
            member=member,
            item=clash,
            snapshots=tmp_path,
            repo=tmp_path,
        )


def test_an_entity_without_a_join_key_has_its_name_as_one(repo):
    repo.edit("entities.py", '    join_keys=["member_id"],\n', "")
    assert "activity_events" in refusal(repo)


def test_a_view_of_vectors_of_another_item_is_refused(repo):
    repo.edit(
        "item_vectors.py",
        "VECTOR_SPEC = ",
        "from entities import member as item\n\nVECTOR_SPEC = ",
    )
    line = refusal(repo)
    assert "member_embedding: expected entities=[job]" in line and "Received: member" in line


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("sources.py", "    member=member,", "    member='m',", "`member` should be of type Ent"),
        ("sources.py", "    spec=SPEC,", "    spec=None,", "`spec` should be of type ActivitySpec"),
        ("item_vectors.py", "vectors=VECTOR_SPEC,", "vectors=64,", "type ItemVectorSpec. Received"),
        ("views.py", "repo=REPO,", "repo=str(REPO),", "`repo` should be of type Path"),
        ("views.py", "repo=REPO,", "repo=REPO, snapshots=1,", "`snapshots` should be a folder"),
        ("views.py", "=ACTIVITY_MODELS,", "=None,", "`models` should be of type list or tuple"),
        ("activity_models.py", '(MODELS / "cnn")', "(7)", "`path` should be of type str or Path"),
        ("activity_models.py", '(MODELS / "cnn")', '("x" * 999)', "a TensorFlow SavedModel"),
    ],
)  # fmt: skip
def test_an_argument_of_another_kind_is_named(file, old, new, words, repo):
    repo.edit(file, old, new)
    assert words in refusal(repo)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("batch_size: -1", "batch_engine.batch_size: Input should be greater than or equal to 1"),
        ("snapshot_interval_hours: .inf", "batch_engine.snapshot_interval_hours: Input should be"),
        ("snapshot_interval_hours: 1.0e-300", "batch_engine.snapshot_interval_hours: Input"),
        ("retention_days: .inf", "batch_engine.retention_days: Input should be less than"),
        ("batchsize: 7", "batch_engine.batchsize: Extra inputs are not permitted. Received: 7"),
        ("guards: {members: {action: x}}", "guards.members.action: Input should be 'fail', 'warn'"),
    ],
)
def test_settings_of_the_engine_are_named(setting, words, repo):
    repo.edit("feature_store.yaml", "  snapshot_interval_hours: 24 ", f"  {setting} ")
    assert words in refusal(repo)
