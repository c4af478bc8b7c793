"""What every sink of snapshots promises, wherever it keeps them."""

import os
import time
import uuid
from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activity_embeddings.transformations.arrow import TIMESTAMP
from activity_embeddings.transformations.errors import AlreadyRunning, ModelMismatch
from activity_embeddings.transformations.offline.connections import kept_connections
from activity_embeddings.transformations.offline.sinks.base import AfterCommit, require_same_facts
from support import processes
from support.s3_server import CREDENTIALS, REGION, make_bucket, s3_server
from support.snapshot_places import (
    DAY,
    FACTS,
    MEMBERS,
    FolderPlace,
    IcebergPlace,
    PostgresPlace,
    T,
    commit_for_ever,
    publish,
    rows,
    stage,
)

KINDS = [
    "folder",
    "iceberg",
    # As of several machines, which share a catalog in PostgreSQL.
    pytest.param("iceberg on S3", marks=pytest.mark.postgres),
    pytest.param("postgres", marks=pytest.mark.postgres),
]


@pytest.fixture(scope="module")
def s3(request):
    """The address of an S3 server: a real process that answers over HTTP, of moto."""
    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield address


@pytest.fixture(params=KINDS)
def place(request, tmp_path):
    if request.param == "folder":
        return FolderPlace(tmp_path)
    if request.param == "postgres":
        database = request.getfixturevalue("database")
        return PostgresPlace(tmp_path, psycopg.conninfo.make_conninfo(**database.connection))
    if request.param == "iceberg":
        return IcebergPlace(tmp_path, "data/warehouse", "sqlite:///data/catalog.db")
    address = request.getfixturevalue("s3")
    bucket = make_bucket(address, f"b{uuid.uuid4().hex}")
    properties = {"s3.endpoint": address, "s3.region": REGION}
    catalog = request.getfixturevalue("database").address
    return IcebergPlace(tmp_path, f"{bucket}/warehouse", catalog, properties)


@pytest.fixture
def sink(place):
    return place.sink("job_activity_embedding_cnn", "1")


def test_nothing_is_there_at_first(sink):
    assert sink.committed() == []
    assert sink.published("sqlite:a") is None
    assert list(sink.other_versions()) == []
    assert sink.expire(T) == []
    assert sink.delete_members("member_id", MEMBERS) == 0
    sink.forget_published()
    sink.staging.clear()


def test_rows_are_counted_and_what_a_commit_would_change_is_known_before(sink):
    stage(sink, T, rows(MEMBERS))
    assert sink.differs(T) and sink.committed() == []
    after = AfterCommit(sink, [T])
    assert after.committed() == [T] and after.count_rows([T]) == len(MEMBERS)
    assert after.read(T).to_pylist() == rows(MEMBERS).to_pylist()
    sink.commit(T)
    publish(sink, T + DAY, rows(MEMBERS.slice(1)))
    assert sink.count_rows([]) == 0
    assert sink.count_rows([T + DAY]) == len(MEMBERS) - 1
    assert sink.count_rows([T, T + DAY]) == 2 * len(MEMBERS) - 1
    stage(sink, T, rows(MEMBERS))
    assert not sink.differs(T)
    stage(sink, T, rows(MEMBERS, seed=1))
    assert sink.differs(T)
    assert sink.read(T).to_pylist() == rows(MEMBERS).to_pylist()
    sink.delete_members("member_id", MEMBERS.slice(0, 1))
    assert sink.count_rows([T, T + DAY]) == 2 * len(MEMBERS) - 2


def test_a_staged_snapshot_is_seen_only_after_its_commit_with_the_very_rows(sink, place):
    whole = rows(MEMBERS)
    stage(sink, T, whole.slice(0, 2), whole.slice(2))
    assert sink.committed() == []
    assert sink.commit(T)
    assert sink.committed() == [T]
    got = sink.read(T)
    assert got.schema.remove_metadata() == whole.schema
    assert got.to_pylist() == whole.to_pylist()
    assert sink.facts(T) == FACTS
    by_member = sorted(place.seen(sink).to_pylist(), key=lambda row: row["member_id"])
    assert [row["member_id"] for row in by_member] == MEMBERS.to_pylist()
    assert [row["embedding"] for row in by_member] == whole.column("embedding").to_pylist()
    assert {row["event_timestamp"] for row in by_member} == {datetime(2024, 3, 1, tzinfo=UTC)}


def test_columns_and_batches_have_the_same_rows_in_the_same_order(sink):
    publish(sink, T, rows(MEMBERS))
    whole = sink.read(T)
    some = sink.read(T, ["member_id", "activity_count"])
    assert some.column_names == ["member_id", "activity_count"]
    assert some.to_pylist() == whole.select(["member_id", "activity_count"]).to_pylist()
    batches = list(sink.batches(T, 2))
    assert max(batch.num_rows for batch in batches) <= 2
    assert pa.Table.from_batches(batches).to_pylist() == whole.to_pylist()


def test_the_same_rows_again_change_nothing_and_others_replace_them(sink):
    assert publish(sink, T, rows(MEMBERS))
    assert not publish(sink, T, rows(MEMBERS))
    assert publish(sink, T, rows(MEMBERS, seed=1))
    assert sink.read(T).to_pylist() == rows(MEMBERS, seed=1).to_pylist()
    assert publish(sink, T, rows(MEMBERS.slice(1)))
    assert sink.read(T).column("member_id").to_pylist() == MEMBERS.slice(1).to_pylist()
    other = {**FACTS, "version": "2"}
    assert publish(sink, T, rows(MEMBERS.slice(1)), facts=other)
    assert sink.facts(T) == other


def test_all_sinks_of_a_place_have_its_records_of_runs(sink, place):
    assert sink.records() == {}
    sink.write_record("20240302T000000.000000Z", {"outcome": "running", "é'": [1, None]})
    sink.write_record("20240301T000000.000000Z", {"outcome": "published"})
    sink.write_record("20240302T000000.000000Z", {"outcome": "failed", "seconds": 1.5})
    publish(sink, T, rows(MEMBERS))
    other = place.sink("job_activity_sequence", "2")
    assert list(other.records().items()) == [
        ("20240301T000000.000000Z", {"outcome": "published"}),
        ("20240302T000000.000000Z", {"outcome": "failed", "seconds": 1.5}),
    ]
    assert other.committed() == [] and [each.committed() for each in sink.beside()] == [[T]]


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=6))
def test_after_any_commits_each_as_of_has_its_last_rows(place, steps):
    sink = place.sink(f"walk_{abs(hash(tuple(steps)))}", "1")
    expected = {}
    with kept_connections():  # as in a run
        for day, seed in steps:
            as_of = T + day * DAY + (day == 3)  # not always at a whole second
            changed = publish(sink, as_of, rows(MEMBERS.slice(seed), as_of, seed))
            assert changed == (expected.get(as_of) != seed)
            expected[as_of] = seed
    assert sink.committed() == sorted(expected)
    for as_of, seed in expected.items():
        assert sink.read(as_of).to_pylist() == rows(MEMBERS.slice(seed), as_of, seed).to_pylist()


@pytest.mark.parametrize("ids", [["", "a'b", '"; DROP', "é\u202e職", "m" * 300], ["1", "2"]])
def test_ids_may_be_any_text(sink, place, ids):
    members = pa.array(sorted(ids), pa.string())
    publish(sink, T, rows(members))
    assert sink.read(T).column("member_id").to_pylist() == sorted(ids)
    assert sorted(place.seen(sink).column("member_id").to_pylist()) == sorted(ids)
    assert sink.delete_members("member_id", members.slice(0, 1)) == 1
    assert sink.read(T).column("member_id").to_pylist() == sorted(ids)[1:]


def test_rows_may_have_times_of_their_own(sink):
    """As vectors that an encoder made: one snapshot holds many times, and ids several times."""
    batch = rows(pa.array([1, 1, 2], pa.int64()))
    times = pa.array([T - 5 * DAY, T - DAY, T - 9 * DAY]).cast(TIMESTAMP)
    batch = batch.set_column(6, "event_timestamp", times)
    publish(sink, T, batch)
    assert sink.committed() == [T]
    assert sink.read(T).to_pylist() == batch.to_pylist()


def test_silent_members_have_rows_with_nothing_in_them(sink):
    empty = rows(pa.array([1], pa.int64()))  # the lists of the first row have no elements
    publish(sink, T, empty)
    (row,) = sink.read(T).to_pylist()
    assert row["item_ids"] == [] and row["actions"] == [] and row["times"] == []


def test_deleted_members_are_in_no_snapshot_and_may_come_back(sink, place):
    for day in range(3):
        publish(sink, T + day * DAY, rows(MEMBERS.slice(day), T + day * DAY))
    assert sink.count_members("member_id", pa.array([1, 3, 77], pa.int64())) == 5
    assert sink.delete_members("member_id", pa.array([1, 3, 77], pa.int64())) == 5
    sink.drop_history()
    assert sink.count_members("member_id", pa.array([1, 3, 77], pa.int64())) == 0
    for day in range(3):
        left = [m for m in MEMBERS.slice(day).to_pylist() if m not in (1, 3)]
        assert sink.read(T + day * DAY).column("member_id").to_pylist() == left
        assert sink.facts(T + day * DAY) == FACTS
    assert not {1, 3} & set(place.seen(sink).column("member_id").to_pylist())
    assert sink.delete_members("member_id", pa.array([1, 3], pa.int64())) == 0
    assert publish(sink, T, rows(MEMBERS))
    assert sink.read(T).to_pylist() == rows(MEMBERS).to_pylist()


def test_expired_snapshots_are_gone(sink, place):
    for day in range(4):
        publish(sink, T + day * DAY, rows(MEMBERS, T + day * DAY))
    assert sink.expire(T + 2 * DAY) == [T, T + DAY]
    assert sink.committed() == [T + 2 * DAY, T + 3 * DAY]
    first = min(place.seen(sink).column("event_timestamp").to_pylist())
    assert first == datetime(2024, 3, 1, tzinfo=UTC) + timedelta(days=2)
    assert publish(sink, T, rows(MEMBERS))
    assert sink.committed() == [T, T + 2 * DAY, T + 3 * DAY]


def test_marks_are_of_one_online_store(sink, place):
    publish(sink, T, rows(MEMBERS))
    sink.mark_published("sqlite:a", T)
    assert sink.published("sqlite:a") == T
    assert sink.published("redis:b") is None
    sink.mark_published("sqlite:a", T + DAY)
    assert place.sink("job_activity_embedding_cnn", "1").published("sqlite:a") == T + DAY
    sink.forget_published()
    assert sink.published("sqlite:a") is None
    assert sink.committed() == [T]


def test_other_rows_lower_a_mark_that_is_as_late(sink):
    """A run that is killed between commit and push is made good by the next one."""
    for day in range(3):
        publish(sink, T + day * DAY, rows(MEMBERS, T + day * DAY))
    sink.mark_published("sqlite:a", T + 2 * DAY)
    publish(sink, T + DAY, rows(MEMBERS, T + DAY))
    assert sink.published("sqlite:a") == T + 2 * DAY
    publish(sink, T + DAY, rows(MEMBERS, T + DAY, seed=1))
    assert sink.published("sqlite:a") == T + DAY - 1
    sink.mark_published("sqlite:a", T + 2 * DAY)
    publish(sink, T - DAY, rows(MEMBERS, T - DAY))
    assert sink.published("sqlite:a") == T - DAY - 1
    publish(sink, T + 3 * DAY, rows(MEMBERS, T + 3 * DAY))
    assert sink.published("sqlite:a") == T - DAY - 1


def test_other_versions_of_a_view_are_known_and_those_of_other_views_are_not(sink, place):
    second = place.sink("job_activity_embedding_cnn", "2")
    similar = place.sink("job_activity_embedding_cnn_v1", "1")
    for each in (sink, second, similar):
        publish(each, T, rows(MEMBERS))
        each.mark_published("sqlite:a", T)
    assert list(sink.other_versions()) == [second]
    for other in sink.other_versions():
        other.forget_published()
    assert [each.published("sqlite:a") for each in (sink, second, similar)] == [T, None, T]


def test_every_sink_of_the_place_is_found(sink, place):
    others = [
        place.sink("job_activity_sequence", "1"),
        place.sink("job_activity_embedding_cnn", "2"),
    ]
    assert list(sink.beside()) == []
    for each in (sink, *others):
        publish(each, T, rows(MEMBERS))
    assert set(sink.beside()) == {sink, *others} == set(others[0].beside())


def test_what_has_no_such_column_is_left_alone(sink):
    publish(sink, T, rows(MEMBERS))
    assert sink.count_members("item_id", MEMBERS) == 0
    assert sink.delete_members("item_id", MEMBERS) == 0
    assert sink.delete_members("member_id", pa.array(["1"])) == 0
    assert sink.read(T).to_pylist() == rows(MEMBERS).to_pylist()


def test_facts_of_another_model_are_refused(sink):
    publish(sink, T, rows(MEMBERS))
    require_same_facts(sink, T, FACTS, what="the view")
    with pytest.raises(ModelMismatch, match=r"`version` should be '1'\. Received: '2'"):
        require_same_facts(sink, T, {**FACTS, "version": "2"}, what="the view")


def test_one_run_at_a_time(sink, place):
    same = place.sink("job_activity_embedding_cnn", "1")
    other = place.sink("job_activity_sequence", "1")
    one_alone = pytest.raises(AlreadyRunning, match="expected one run at a time")
    with sink.locked(), other.locked(), one_alone, same.locked():
        pass
    with same.locked():
        publish(same, T, rows(MEMBERS))


def test_together_is_undone_where_it_can_be_and_never_half_a_snapshot(sink, place):
    other = place.sink("job_activity_sequence", "1")
    stage(sink, T, rows(MEMBERS))
    stage(other, T, rows(MEMBERS))
    with pytest.raises(RuntimeError), sink.together(), other.together():
        sink.commit(T)
        raise RuntimeError
    assert sink.committed() in ([], [T])
    stage(sink, T, rows(MEMBERS))
    with sink.together(), other.together():
        sink.commit(T)
        other.commit(T)
    assert sink.committed() == other.committed() == [T]
    assert sink.read(T).to_pylist() == other.read(T).to_pylist() == rows(MEMBERS).to_pylist()


def test_killed_anywhere_it_has_the_rows_of_one_commit_and_goes_on(sink, place):
    """By SIGKILL at moments that are spread over the time that two commits take."""
    publish(sink, T, rows(MEMBERS))
    started = time.perf_counter()
    publish(sink, T, rows(MEMBERS.slice(1), T, 1))
    took = time.perf_counter() - started
    possible = [rows(MEMBERS.slice(seed), T, seed).to_pylist() for seed in (0, 1)]
    for trial in range(6):
        ready = processes.forks.Event()
        process = processes.forks.Process(
            target=commit_for_ever,
            args=(place, "job_activity_embedding_cnn", ready, dict(os.environ)),
        )
        process.start()
        assert ready.wait(60)
        process.join(took * (0.1 + 0.38 * trial))
        assert process.is_alive()
        process.kill()
        process.join()
        with sink.locked():
            sink.staging.clear()
            assert sink.committed() == [T]
            assert sink.read(T).to_pylist() in possible
    assert publish(sink, T, rows(MEMBERS, T, 5))
    assert sink.read(T).to_pylist() == rows(MEMBERS, T, 5).to_pylist()
