"""Bad input gets one clear error, a non-zero exit status, and leaves both stores as they were."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.feast_repo import (
    DIMENSION,
    THEIRS,
    at,
    events_table,
    make_repo,
    small_data,
    vectors_table,
)

pytestmark = pytest.mark.slow

EVENTS, VECTORS = small_data(seed=1, members=15, days=10)


@pytest.fixture(scope="module")
def applied(tmp_path_factory, models):
    """A repo that was applied and materialized for a day; copied for each test."""
    repo = make_repo(
        tmp_path_factory.mktemp("applied") / "repo",
        models,
        events_table(EVENTS),
        vectors_table(VECTORS),
    )
    repo.publish(at(0), at(1))
    kept = repo.path.with_name("kept")
    shutil.copytree(repo.path, kept)
    return repo, kept


@pytest.fixture
def repo(applied):
    """The same repo in the same place, as it was after the good run."""
    repo, kept = applied
    shutil.rmtree(repo.path)
    shutil.copytree(kept, repo.path)
    return repo


def assert_refused(repo, command, *expected):
    """The command fails with one error that has all the words; the stores stay as they were."""
    before = repo.stores()
    outcome = repo.feast(*command)
    assert outcome.code == 1, outcome.output
    (error,) = [line for line in outcome.output.splitlines() if line.startswith("Error: ")]
    for words in expected:
        assert words in error
    assert "Traceback" not in outcome.output
    assert repo.stores() == before


MATERIALIZE = ["materialize", f"{at(1):%Y-%m-%dT%H:%M:%S}", f"{at(3):%Y-%m-%dT%H:%M:%S}"]
TWO_DAYS = events_table(EVENTS)
ACTIONS = TWO_DAYS["action"].to_pylist()
RECENT = next(i for i, event in enumerate(EVENTS) if at(0) < event[3] < at(1))


def with_column(table, name, values):
    return table.set_column(table.column_names.index(name), name, values)


def with_null(table, name, row=3):
    values = table[name].to_pylist()
    values[row] = None
    return with_column(table, name, pa.array(values, table.schema.field(name).type))


BAD_EVENTS = {
    "a missing column": (
        TWO_DAYS.drop_columns(["job_id"]),
        ["activity_events", "'job_id'", "missing", "member_id, action"],
    ),
    "a missing time column": (
        TWO_DAYS.drop_columns(["event_timestamp"]),
        ["activity_events", "'event_timestamp'", "missing"],
    ),
    "member ids of a wrong type": (
        with_column(TWO_DAYS, "member_id", TWO_DAYS["member_id"].cast(pa.float64())),
        ["activity_events", "'member_id'", "int64 or string", "double"],
    ),
    "actions of a wrong type": (
        with_column(TWO_DAYS, "action", pa.array([1] * len(TWO_DAYS))),
        ["'action'", "string", "Received: int64"],
    ),
    "a null member": (with_null(TWO_DAYS, "member_id"), ["'member_id'", "no nulls", "1 of"]),
    "a null item": (with_null(TWO_DAYS, "job_id"), ["'job_id'", "no nulls", "1 of"]),
    "a null action": (with_null(TWO_DAYS, "action"), ["'action'", "no nulls", "1 of"]),
    "a null time": (
        with_null(TWO_DAYS, "event_timestamp"),
        ["activity_events", "'event_timestamp'", "no nulls", "1 of"],
    ),
    "an unknown action": (
        with_column(
            TWO_DAYS,
            "action",
            pa.array(["VIEW" if i == RECENT else a for i, a in enumerate(ACTIONS)]),
        ),
        ["'action'", "APPLY, SAVE, DISMISS", "'VIEW' in 1 of"],
    ),
    "naive times": (
        with_column(
            TWO_DAYS, "event_timestamp", TWO_DAYS["event_timestamp"].cast(pa.timestamp("us"))
        ),
        ["'event_timestamp'", "time zone UTC", "naive"],
    ),
    "times as text": (
        with_column(
            TWO_DAYS,
            "event_timestamp",
            pa.array([str(t) for t in TWO_DAYS["event_timestamp"].to_pylist()]),
        ),
        ["'event_timestamp'", "timestamp", "Received: string"],
    ),
    "no rows": (TWO_DAYS.slice(0, 0), ["activity_events", "none", "the source is empty"]),
    "no event in the interval": (
        with_column(
            TWO_DAYS,
            "event_timestamp",
            pa.array([at(90)] * len(TWO_DAYS), pa.timestamp("us", "UTC")),
        ),
        ["expected events in the 28 days before", "Received: none", "rows in the source"],
    ),
}


@pytest.mark.parametrize("case", BAD_EVENTS)
def test_bad_events_are_refused(case, repo):
    table, expected = BAD_EVENTS[case]
    repo.write_events(table)
    assert_refused(repo, MATERIALIZE, "job_activity", *expected)


def test_bad_rows_late_in_a_long_interval_leave_no_snapshot_of_its_beginning(repo):
    """The unknown action is 30 days after the start, in another read of the source."""
    rows = [*EVENTS, (1, 1, "VIEW", at(30))]
    repo.write_events(events_table(rows))
    interval = ["materialize", f"{at(1):%Y-%m-%dT%H:%M:%S}", f"{at(31):%Y-%m-%dT%H:%M:%S}"]
    assert_refused(repo, interval, "'VIEW'")


def test_a_missing_and_an_unreadable_event_file_are_refused(repo):
    file = repo.events / "history.parquet"
    file.write_bytes(b"PAR1 this is not parquet")
    assert_refused(repo, MATERIALIZE, "activity_events", "readable source")
    file.unlink()
    assert_refused(repo, MATERIALIZE, "activity_events", "one parquet file", "an empty folder")
    repo.events.rmdir()
    assert_refused(repo, MATERIALIZE, "activity_events", "readable source")


GOOD_VECTORS = vectors_table(VECTORS)
OLD_VECTOR = next(i for i, vector in enumerate(VECTORS) if vector[1] < at(0))


def vectors_with(row, vector):
    values = GOOD_VECTORS["embedding"].to_pylist()
    values[row] = vector
    return with_column(GOOD_VECTORS, "embedding", pa.array(values, pa.list_(pa.float32())))


BAD_VECTORS = {
    "a missing column": (GOOD_VECTORS.drop_columns(["embedding"]), ["'embedding'", "missing"]),
    "vectors of a wrong type": (
        with_column(GOOD_VECTORS, "embedding", pa.array(["0.5"] * len(GOOD_VECTORS))),
        ["'embedding'", "list<float>", "string"],
    ),
    "vectors of unequal length": (
        vectors_with(2, [0.5] * 63),
        ["'embedding'", "length 64", "Received: length 63", "1 of"],
    ),
    "NaN": (vectors_with(2, [np.nan] + [0.0] * 63), ["finite", "NaN", "item", "1 of"]),
    "infinity": (vectors_with(2, [np.inf] + [0.0] * 63), ["finite", "infinity", "1 of"]),
    "a null inside a vector": (vectors_with(2, [None] + [0.0] * 63), ["finite", "null", "1 of"]),
    "a null vector": (vectors_with(2, None), ["'embedding'", "no nulls", "1 of"]),
    "two vectors at one time": (
        pa.concat_tables([GOOD_VECTORS, GOOD_VECTORS.slice(OLD_VECTOR, 1)]),
        ["one vector at one time", "has two at 2024-"],
    ),
    "times of the year 1": (
        with_column(
            GOOD_VECTORS,
            "event_timestamp",
            pa.array([datetime(1, 1, 1)] * len(GOOD_VECTORS), pa.timestamp("us", "UTC")),
        ),
        ["'event_timestamp' should hold times of the years 2 to 9998"],
    ),
    "a null item": (with_null(GOOD_VECTORS, "job_id"), ["'job_id'", "no nulls"]),
    "a null time": (with_null(GOOD_VECTORS, "event_timestamp"), ["no nulls", "1 of"]),
    "items of another type than in the events": (
        with_column(GOOD_VECTORS, "job_id", GOOD_VECTORS["job_id"].cast(pa.string())),
        ["job_id in job_activity", "one type", "string", "int64"],
    ),
}


@pytest.mark.parametrize("case", BAD_VECTORS)
def test_bad_item_vectors_are_refused(case, repo):
    table, expected = BAD_VECTORS[case]
    repo.write_vectors(table)
    assert_refused(repo, MATERIALIZE, "job_embedding", *expected)


def test_bad_item_vectors_are_refused_when_only_their_own_view_is_materialized(repo):
    repo.write_vectors(vectors_with(2, [np.nan] + [0.0] * 63))
    assert_refused(repo, [*MATERIALIZE, "--views", "job_embedding"], "job_embedding", "NaN")


def edit_manifest(repo, name, change):
    file = repo.path / "models" / name / "assets.extra" / "activity_model.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


BAD_MANIFESTS = {
    "another dimension": (
        lambda m: m["vector_spec"].update(dimension=32),
        ["'cnn'", "item vectors", "`dimension` should be 64", "Received: 32"],
    ),
    "another item-embedding version": (
        lambda m: m["vector_spec"].update(version="0"),
        ["'cnn'", "item vectors", "`version` should be '1'", "Received: '0'"],
    ),
    "another item vectors": (
        lambda m: m["vector_spec"].update(name="titles"),
        ["'cnn'", "`name` should be 'content_and_behaviour'", "'titles'"],
    ),
    "another vocabulary": (
        lambda m: m["spec"].update(actions=["SAVE", "APPLY", "DISMISS"]),
        ["'cnn'", "activity spec", "`actions`", "['SAVE', 'APPLY', 'DISMISS']"],
    ),
    "another length": (
        lambda m: m["spec"].update(length=16),
        ["'cnn'", "`length` should be 32", "Received: 16"],
    ),
    "another window": (
        lambda m: m["spec"].update(window_seconds=7 * 86400.0),
        ["'cnn'", "`window_seconds`", "604800.0"],
    ),
    "a name that cannot be a view's": (
        lambda m: m.update(name="CNN 2"),
        ["`name` should be lower-case", "'CNN 2'"],
    ),
    "the name of another model": (
        lambda m: m.update(name="geometric_decay"),
        ["'geometric_decay'", "distinct"],
    ),
    "no version": (lambda m: m.pop("version"), ["activity_model.json", "without version"]),
}


@pytest.mark.parametrize("command", [["apply"], ["plan"]])
def test_every_command_that_reads_the_definitions_checks_the_models(command, repo):
    edit_manifest(repo, "cnn", BAD_MANIFESTS["another dimension"][0])
    assert_refused(repo, command, *BAD_MANIFESTS["another dimension"][1])


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_models_made_for_something_else_are_refused_at_apply(case, repo):
    change, expected = BAD_MANIFESTS[case]
    edit_manifest(repo, "cnn", change)
    assert_refused(repo, ["apply"], *expected)


def save_plain(repo, signature=True, **shapes):
    """Replace the CNN by a SavedModel without manifest, whose input shapes are given."""
    import tensorflow as tf

    length, dimension = shapes.get("length", 32), shapes.get("dimension", DIMENSION)
    first = shapes.get("first_input", "item_embeddings")
    scale = shapes.get("scale", 1.0)

    class Plain(tf.Module):
        def __init__(self):
            super().__init__()
            self.scale = tf.Variable(scale)

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, length, dimension], tf.float32, first),
                tf.TensorSpec([None, length], shapes.get("actions", tf.int32), "actions"),
            ]
        )
        def serve(self, vectors, actions):
            return {"x": tf.reduce_sum(vectors, axis=1) * self.scale}

    path = repo.path / "models" / "cnn"
    shutil.rmtree(path)
    plain = Plain()
    signatures = {"serving_default": plain.serve} if signature else {"other": plain.serve}
    tf.saved_model.save(plain, str(path), signatures=signatures)
    repo.edit(
        "activity_models.py",
        'ActivityModel(MODELS / "cnn"),',
        'ActivityModel(MODELS / "cnn", name="cnn", version="9", spec=SPEC, '
        "vector_spec=VECTOR_SPEC),",
    )


def test_signatures_that_do_not_fit_are_refused_at_apply(repo):
    save_plain(repo, dimension=32)
    assert_refused(repo, ["apply"], "'cnn'", "'item_embeddings'", "[?, 32, 64]", "[?, 32, 32]")


def test_a_sequence_length_that_does_not_fit_is_refused_at_apply(repo):
    save_plain(repo, length=16)
    assert_refused(repo, ["apply"], "'cnn'", "'actions'", "[?, 32]", "[?, 16]")


def test_an_unknown_input_is_refused_at_apply(repo):
    save_plain(repo, first_input="items")
    assert_refused(repo, ["apply"], "'cnn'", "inputs should be named", "actions, items")


def test_an_input_of_a_wrong_type_is_refused_at_apply(repo):
    import tensorflow as tf

    save_plain(repo, actions=tf.float32)
    assert_refused(repo, ["apply"], "'cnn'", "'actions'", "int32", "float32")


def test_a_missing_signature_is_refused_at_apply(repo):
    save_plain(repo, signature=False)
    assert_refused(repo, ["apply"], "cnn", "'serving_default'", "Received signatures: other")


def test_a_model_without_manifest_and_facts_is_refused_at_apply(repo):
    shutil.rmtree(repo.path / "models" / "cnn" / "assets.extra")
    repo.edit(
        "activity_models.py",
        'ActivityModel(MODELS / "cnn"),',
        'ActivityModel(MODELS / "cnn", name="cnn"),',
    )
    assert_refused(repo, ["apply"], "'cnn'", "no manifest", "`version`")


def test_a_model_that_gives_nan_is_refused_and_nothing_is_published(repo):
    save_plain(repo, scale=float("nan"))
    repo.run("apply")
    assert_refused(repo, MATERIALIZE, "'cnn'", "'x'", "finite", "NaN")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("saved_model.pb", ["cnn", "corrupt"]),
        ("variables/variables.data-00000-of-00001", ["cnn", "fingerprint", "corrupt"]),
    ],
)
@pytest.mark.parametrize("command", [["apply"], MATERIALIZE])
def test_a_truncated_model_file_is_refused(command, file, expected, repo):
    path = repo.path / "models" / "cnn" / file
    path.write_bytes(path.read_bytes()[:-20])
    assert_refused(repo, command, *expected)


def test_a_missing_model_is_refused_at_apply_and_at_materialize(repo):
    shutil.rmtree(repo.path / "models" / "cnn")
    assert_refused(repo, ["apply"], "cnn", "expected a TensorFlow SavedModel")
    assert_refused(repo, MATERIALIZE, "cnn", "expected a TensorFlow SavedModel")


def test_a_model_changed_after_apply_is_refused_until_it_has_a_new_version(repo, models):
    """Vectors of two models never meet in one history."""
    decay = repo.path / "models" / "geometric_decay"
    average = models / "unweighted_average"
    shutil.rmtree(decay)
    shutil.copytree(average, decay)
    edit_manifest(repo, "geometric_decay", lambda m: m.update(name="geometric_decay"))
    assert_refused(repo, MATERIALIZE, "'geometric_decay'", "applied", "feast apply")
    repo.run("apply")
    assert_refused(repo, MATERIALIZE, "'geometric_decay'", "new version", "fingerprint")
    edit_manifest(repo, "geometric_decay", lambda m: m.update(version="2"))
    repo.run("apply")
    repo.run(*MATERIALIZE)
    histories = repo.data / "snapshots" / "job_activity_embedding_geometric_decay"
    assert {path.name for path in histories.glob("v*")} == {"v1", "v2"}


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("event_timestamp", None, "column 'when' should hold no nulls"),
        ("member_id", None, "column 'user' should hold no nulls"),
        ("action", None, "column 'what' should hold no nulls"),
        ("action", "VIEW", "column 'what' should be one of"),
    ],
)
def test_errors_name_the_columns_of_the_source(repo, column, value, words):
    position = TWO_DAYS.column_names.index(column)
    values = TWO_DAYS[column].to_pylist()
    values[RECENT] = value
    array = pa.array(values, TWO_DAYS[column].type)
    repo.write_events(TWO_DAYS.set_column(position, column, array).rename_columns(THEIRS))
    repo.map_columns()
    repo.run("apply")
    assert_refused(repo, MATERIALIZE, "activity_events", words)


def test_an_interval_that_ends_in_the_future_is_refused(repo):
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    interval = ["materialize", f"{at(1):%Y-%m-%dT%H:%M:%S}", f"{tomorrow:%Y-%m-%dT%H:%M:%S}"]
    assert_refused(repo, interval, "future")


def test_an_interval_without_times_is_refused(repo):
    assert_refused(
        repo, ["materialize", "--disable-event-timestamp"], "--disable-event-timestamp", "as-of"
    )


def test_ids_that_are_neither_int64_nor_string_are_refused_at_apply(repo):
    repo.edit("entities.py", "ValueType.INT64", "ValueType.DOUBLE")
    assert_refused(repo, ["apply"], "'member'", "INT64 or STRING", "DOUBLE")


def test_the_sources_are_read_again_by_the_next_good_run(repo):
    """After a refused run the same interval works once the source is right."""
    repo.write_events(BAD_EVENTS["an unknown action"][0])
    assert_refused(repo, MATERIALIZE, "'VIEW'")
    repo.write_events(events_table(EVENTS))
    repo.run(*MATERIALIZE)
    table = pq.read_table(
        repo.data / "snapshots" / "job_activity_sequence" / "v1", partitioning=None
    )
    assert set(table["event_timestamp"].to_pylist()) == {at(1), at(2), at(3)}
