"""`activity-embeddings check` finds what differs, and says why."""

import contextlib
import shutil
import sqlite3

import pyarrow as pa
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from hypothesis import given
from hypothesis import strategies as st

from activity_embeddings.transformations.check import (
    LATE_EVENT,
    NOT_THE_SNAPSHOT,
    REMOVED_EVENT,
    REMOVED_VECTOR,
    CheckReport,
    Difference,
    cause_of_events,
    check,
)
from activity_embeddings.transformations.errors import NotReady
from activity_embeddings.transformations.online.protobuf import entity_keys
from activity_embeddings.transformations.spec import ActivitySpec
from support import processes
from support.feast_repo import (
    at,
    events_table,
    make_repo,
    small_data,
    small_repo,
    vectors_table,
)

pytestmark = pytest.mark.slow

T = at(4)
SEQUENCE = "job_activity_sequence"
EMBEDDINGS = [
    f"job_activity_embedding_{name}" for name in ("cnn", "geometric_decay", "unweighted_average")
]
VIEWS = {SEQUENCE, *EMBEDDINGS, *(f"{name}_realtime" for name in EMBEDDINGS)}


@pytest.fixture
def data():
    return small_data()


@pytest.fixture(scope="module")
def original(tmp_path_factory, models):
    repo = small_repo(tmp_path_factory.mktemp("check") / "repo", models)
    repo.publish(at(-41), T)
    repo.keep()
    return repo


@pytest.fixture
def published(original):
    return original.put_back()


def causes(report, view):
    return {(d.member, d.what, d.cause) for d in report.differences if d.view == view}


def test_after_a_run_nothing_differs(published):
    report = check(published.store, sample=1000)
    assert not report.differences
    assert set(report.compared) == VIEWS
    assert set(report.compared.values()) == {report.members}
    assert report.members > 35


def test_the_sample_is_random_and_seeded(published):
    report = check(published.store, sample=5)
    assert report.members == 5
    assert set(report.compared.values()) == {5}


def test_a_late_event_and_a_removed_one_are_told(published, data):
    events, _ = data
    removed = next(e for e in events if e[0] == 14 and at(-24) < e[3] < T and e[1] in {1, 2, 3, 4})
    late = (15, 4, "DISMISS", at(2.5))
    published.write_events(events_table([e for e in events if e != removed] + [late]))
    report = check(published.store, sample=1000)
    assert causes(report, SEQUENCE) == {
        (14, "stored", "removed or unlogged event"),
        (15, "stored", "late event or vector"),
    }
    for view in EMBEDDINGS:
        assert causes(report, view) == causes(report, SEQUENCE)
        assert causes(report, f"{view}_realtime") == {
            (member, "request", cause) for member, _, cause in causes(report, SEQUENCE)
        }
    (difference,) = [d for d in report.differences if d.view == SEQUENCE and d.member == 15]
    assert (difference.missing, difference.extra) == (1, 0)
    differing = [d for d in report.differences if d.view == EMBEDDINGS[0]]
    assert all(d.cosine is not None and d.cosine < 0.9999 and all(d.norms) for d in differing)
    assert "member 15, stored: late event or vector, 1 event missing, 0 too many" in str(report)


def test_a_missing_row_is_told(published):
    with contextlib.closing(sqlite3.connect(published.data / "online.db")) as connection:
        table = f"activity_embeddings_{EMBEDDINGS[0]}"
        keys = connection.execute(f'SELECT entity_key FROM "{table}" ORDER BY 1').fetchall()
        connection.execute(f'DELETE FROM "{table}" WHERE entity_key = ?', keys[0])
        connection.commit()
    report = check(published.store, sample=1000)
    (difference,) = report.differences
    assert (difference.view, difference.what) == (EMBEDDINGS[0], "stored")
    assert difference.cause == "missing row"


def test_a_snapshot_that_is_not_online_is_told(published):
    backup = published.data / "backup.db"
    shutil.copy(published.data / "online.db", backup)
    published.materialize(T, at(5))
    assert not check(published.store, sample=1000).differences
    shutil.copy(backup, published.data / "online.db")
    report = check(published.store, sample=1000)
    stored = [d for d in report.differences if d.what == "stored"]
    assert {d.view for d in stored} == {SEQUENCE, *EMBEDDINGS}
    assert {d.cause for d in stored} == {"snapshot not pushed"}


def test_a_vector_that_changed_under_its_version_is_told(published, data):
    _, vectors = data
    changed = [(j, t, 3 * v if j == 4 else v) for j, t, v in vectors]
    published.write_vectors(vectors_table(changed))
    report = check(published.store, sample=1000)
    assert report.differences
    assert {d.cause for d in report.differences} == {"stale vector"}
    assert not causes(report, SEQUENCE)
    # With the table written again, requests are right and what is stored is not.
    published.materialize(at(-41), T, "--views", "job_embedding")
    report = check(published.store, sample=1000)
    assert {(d.what, d.cause) for d in report.differences} == {("stored", "stale vector")}


def move_row(repo, view, source, target):
    """Give one member's online row the values of another's."""
    keys = entity_keys(repo.store.get_feature_view(view), pa.array([source, target]))
    source_key, target_key = (serialize_entity_key(key, 3) for key in keys)
    table = f'"activity_embeddings_{view}"'
    with contextlib.closing(sqlite3.connect(repo.data / "online.db")) as connection:
        rows = connection.execute(
            f"SELECT value, feature_name FROM {table} WHERE entity_key = ?", [source_key]
        ).fetchall()
        for value, feature in rows:
            connection.execute(
                f"UPDATE {table} SET value = ? WHERE entity_key = ? AND feature_name = ?",
                [value, target_key, feature],
            )
        connection.commit()


@pytest.mark.parametrize("view", [SEQUENCE, EMBEDDINGS[1]])
def test_a_row_that_is_not_its_snapshots_is_told(published, view):
    move_row(published, view, 14, 28)
    report = check(published.store, sample=1000)
    assert causes(report, view) == {(28, "stored", "not what its snapshot says")}
    others = [d for d in report.differences if d.view != view]
    # The request is answered from the stored sequence.
    assert {d.what for d in others} <= ({"request"} if view == SEQUENCE else set())


def test_a_row_of_no_snapshot_is_told(published):
    move_row(published, EMBEDDINGS[1], 14, 28)
    shutil.rmtree(published.data / "snapshots" / EMBEDDINGS[1])
    report = check(published.store, sample=1000)
    assert causes(report, EMBEDDINGS[1]) == {(28, "stored", "row of no snapshot")}


def test_a_vector_that_was_removed_is_told(published, data):
    """The events are there as before: none of them is called late or removed."""
    _, vectors = data
    published.write_vectors(vectors_table([v for v in vectors if v[0] != 4]))
    report = check(published.store, sample=1000)
    assert {d.cause for d in report.differences if d.what == "stored"} == {"removed vector"}
    assert causes(report, SEQUENCE)


def test_another_order_is_told(tmp_path, models, data):
    _, vectors = data
    rows = [(1, 4, "APPLY", at(1)), (1, 3, "APPLY", at(1)), (2, 3, "APPLY", at(1))]
    repo = make_repo(tmp_path / "repo", models, events_table(rows), vectors_table(vectors))
    repo.publish(at(1), at(2))
    assert not check(repo.store).differences
    repo.write_events(events_table(rows).append_column("event_id", pa.array([1, 2, 3])))
    report = check(repo.store)
    assert causes(report, SEQUENCE) == {(1, "stored", "other order")}
    (difference,) = [d for d in report.differences if d.view == SEQUENCE]
    assert (difference.missing, difference.extra) == (0, 0)
    assert {d.cause for d in report.differences} == {"other order"}


EVENT = st.tuples(st.integers(0, 30), st.integers(1, 4), st.integers(1, 3))


@given(
    st.lists(EVENT, max_size=10, unique=True),
    st.sampled_from([LATE_EVENT, REMOVED_EVENT, REMOVED_VECTOR, NOT_THE_SNAPSHOT]),
    st.data(),
)
def test_what_was_done_to_a_sequence_is_what_is_told(events, done, data):
    """Of a sequence that is full, too, where one event more or less moves another one."""
    length, as_of = 5, 40

    def newest(kept):
        return sorted(kept)[-length:]

    one = data.draw(EVENT.filter(lambda event: event not in events))
    with_one, without = newest([*events, one]), newest(events)
    if with_one == without:
        return  # nothing to be seen
    match done:
        case "late event or vector":
            held, expected, snapshot, logged = without, with_one, without, {*events, one}
        case "removed or unlogged event":
            held, expected, snapshot, logged = with_one, without, with_one, set(events)
        case "removed vector":
            held, expected, snapshot, logged = with_one, without, with_one, {*events, one}
        case _:
            held, expected, snapshot, logged = without, with_one, with_one, {*events, one}
    got = cause_of_events(
        held,
        expected,
        snapshot=snapshot,
        as_of=as_of,
        logged=logged,
        spec=ActivitySpec(length=length),
    )
    assert got == done


def test_a_model_that_was_applied_and_not_materialized_is_told(published):
    import keras

    from activity_embeddings.training.models import CNN
    from activity_embeddings.training.packaging import package_model
    from activity_embeddings.transformations.spec import ItemVectorSpec

    spec, vector_spec = ActivitySpec(), ItemVectorSpec("content_and_behaviour", "1", 64)
    keras.utils.set_random_seed(8)
    shutil.rmtree(published.path / "models" / "cnn")
    package_model(
        CNN(residual=False).build(spec, vector_spec),
        published.path / "models" / "cnn",
        name="cnn",
        version="2",
        spec=spec,
        vector_spec=vector_spec,
    )
    published.run("apply")
    report = check(published.store, sample=1000)
    # A CNN that has another start still gives the decayed average where nothing is learned yet.
    assert {(d.view, d.what, d.cause) for d in report.differences} <= {
        (EMBEDDINGS[0], "stored", "other model or item version")
    }
    assert report.differences


def test_nothing_published_is_one_clear_error(repo):
    with pytest.raises(NotReady, match="expected a registry with a view of sequences"):
        check(repo.store)
    repo.run("apply")
    with pytest.raises(NotReady, match=r"expected a published snapshot. Received: none"):
        check(repo.store)


@pytest.mark.process
def test_the_command_exits_with_1_past_the_threshold(published, data):
    def command(*arguments):
        return processes.run(processes.COMMAND, "-C", published.path, "check", *arguments)

    done = command("--sample", "1000")
    assert done.returncode == 0, done.stderr
    assert "values, 0 differ" in done.stdout
    published.write_events(events_table([*data[0], (15, 4, "DISMISS", at(2.5))]))
    done = command("--sample", "1000")
    assert done.returncode == 1
    assert "late event" in done.stdout
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert command("--sample", "1000", "--threshold", "0.5").returncode == 0


def test_a_report_reads_right_for_one_member():
    late = Difference("sequences", 7, "stored", LATE_EVENT, missing=1)
    report = CheckReport(1, {"sequences": 1, "vectors": 1_000}, [late])
    assert str(report).splitlines() == [
        "activity embeddings: 1 member checked",
        "  sequences  1 value, 1 differs: late event or vector 1",
        "  vectors    1,000 values, 0 differ",
        "  sequences, member 7, stored: late event or vector, 1 event missing, 0 too many",
    ]
