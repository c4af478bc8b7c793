"""`activity-embeddings push` and its Python writer, on real stores and in real processes."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from activity_embeddings.transformations.check import check
from activity_embeddings.transformations.cli import cli
from activity_embeddings.transformations.errors import InvalidInput, NotReady
from activity_embeddings.transformations.online.push import PushReport, SequenceWriter
from support import processes
from support.feast_repo import (
    DIMENSION,
    STRING_IDS,
    THEIRS,
    Repo,
    at,
    events_table,
    interval,
    make_repo,
    small_data,
    us,
    vectors_table,
    with_string_ids,
)
from support.redis_server import redis_server, use_redis

pytestmark = pytest.mark.slow

SEQUENCE = "job_activity_sequence"
FEATURES = ["activity_job_ids", "activity_actions", "activity_times", "activity_count"]
VECTORS = [(item, at(-90), np.full(DIMENSION, item, dtype=np.float32)) for item in range(1, 41)]
HISTORY = [
    (1, 1, "APPLY", at(-3)),
    (1, 2, "SAVE", at(-2)),
    (2, 3, "DISMISS", at(-1)),
    (3, 4, "APPLY", at(-27.5)),
]


def sequence_repo(path: Path, history=HISTORY, vectors=VECTORS) -> Repo:
    """A feature repo without models: sequences alone, so that a run takes no time."""
    (path / "no_models").mkdir(parents=True)
    repo = make_repo(
        path / "repo", path / "no_models", events_table(history), vectors_table(vectors)
    )
    (repo.path / "activity_models.py").write_text("ACTIVITY_MODELS = []\n")
    (repo.path / "services.py").unlink()
    return repo


def served(repo: Repo, members) -> dict:
    """Return {member: (items, actions, times)} as the online store serves them."""
    online = repo.store.get_online_features(
        [f"{SEQUENCE}:{name}" for name in FEATURES], [{"member_id": m} for m in members]
    ).to_dict()
    columns = [[value or [] for value in online[name]] for name in FEATURES[:3]]
    rows = dict(zip(members, zip(*columns, strict=True), strict=True))
    for member, count in zip(members, online["activity_count"], strict=True):
        assert len(rows[member][0]) == (count or 0)
    return rows


def logged(repo: Repo) -> list[dict]:
    return pq.read_table(repo.events).to_pylist()


@pytest.fixture(scope="module")
def of_day_0(tmp_path_factory):
    repo = sequence_repo(tmp_path_factory.mktemp("published"))
    repo.publish(at(-1), at(0))
    repo.keep()
    return repo


@pytest.fixture
def repo(of_day_0):
    """Materialized as of day 0."""
    return of_day_0.put_back()


@pytest.fixture(scope="module")
def address():
    with redis_server() as address:
        yield address


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def either(request, tmp_path):
    """The same on both stores that keep writers apart."""
    if request.param == "sqlite":
        yield request.getfixturevalue("repo")
        return
    with redis_server() as address:
        repo = sequence_repo(tmp_path)
        use_redis(repo, address)
        repo.publish(at(-1), at(0))
        yield repo


NEW = [
    (1, 5, "APPLY", at(0.25)),
    (1, 5, "APPLY", at(0.25)),
    (2, 3, "DISMISS", at(-1)),
    (2, 99, "APPLY", at(0.25)),
    (9, 6, "SAVE", at(0.5)),
    (1, 7, "SAVE", at(-40)),
]


def test_pushed_events_are_served_at_once_and_logged(either):
    report = SequenceWriter(either.store).push(events_table(NEW))

    assert report == PushReport(
        events=6, duplicates=1, unknown=1, members=3, already_there=1, older=1, new=2
    )
    assert "2 of 6 events are new" in str(report)
    rows = served(either, [1, 2, 3, 9])
    assert rows[1] == ([1, 2, 5], [1, 2, 1], [us(at(-3)), us(at(-2)), us(at(0.25))])
    assert rows[2] == ([3], [3], [us(at(-1))])
    assert rows[3] == ([4], [1], [us(at(-27.5))])
    assert rows[9] == ([6], [2], [us(at(0.5))])
    assert len(logged(either)) == len(HISTORY) + len(NEW)

    again = SequenceWriter(either.store).push(events_table(NEW))
    assert (again.new, again.already_there, again.older) == (0, 3, 1)
    assert served(either, [1, 2, 3, 9]) == rows


def test_the_next_batch_agrees_and_keeps_what_is_newer_than_it(either):
    SequenceWriter(either.store).push(
        events_table([(1, 5, "APPLY", at(0.25)), (1, 6, "SAVE", at(1.5)), (9, 7, "SAVE", at(1.5))])
    )
    # Late: before the cut-off, but not in the log when the row of day 0 was made.
    SequenceWriter(either.store).push(events_table([(2, 8, "APPLY", at(-0.5))]))
    before = served(either, [1, 2, 9])
    assert before[1][0] == [1, 2, 5, 6]
    assert before[2][0] == [3, 8]

    either.materialize(at(0), at(1))
    assert served(either, [1, 2, 9]) == before

    either.materialize(at(1), at(2))
    assert served(either, [1, 2, 9]) == before
    offline = pq.read_table(
        either.data / "snapshots" / SEQUENCE / "v1", partitioning=None
    ).to_pylist()
    rows = {r["member_id"]: r for r in offline if r["event_timestamp"] == at(2)}
    for member, (items, actions, times) in before.items():
        assert rows[member]["activity_job_ids"] == items
        assert rows[member]["activity_actions"] == actions
        assert rows[member]["activity_times"] == times


def test_materializing_an_older_day_keeps_live_events(either):
    SequenceWriter(either.store).push(events_table([(1, 5, "APPLY", at(0.25))]))
    either.materialize(at(-3), at(-2))
    either.materialize(at(-1), at(0))
    assert served(either, [1])[1][0] == [1, 2, 5]


def test_an_event_in_the_second_of_the_cut_off_is_kept(either):
    """Sqlite keeps whole seconds of a row's time, so the row itself does not look newer."""
    moment = at(0) + timedelta(microseconds=300_000)
    SequenceWriter(either.store, offline=False).push(events_table([(2, 5, "APPLY", moment)]))
    either.materialize(at(-1), at(0))
    assert served(either, [2])[2][0] == [3, 5]


def test_a_member_known_only_live_falls_silent_like_any_other(repo):
    SequenceWriter(repo.store).push(
        events_table([(9, 6, "SAVE", at(0.5)), *((1, 5, "SAVE", at(day)) for day in (15, 27))])
    )
    for day in (1, 20, 28, 29):
        repo.materialize(at(day - 1), at(day))
    assert served(repo, [9])[9] == ([], [], [])


def test_a_member_known_only_by_a_late_event_falls_silent_too(repo):
    # In the window of day 0, in no snapshot, and out of the window of the next one.
    SequenceWriter(repo.store).push(events_table([(9, 6, "SAVE", at(-27.5))]))
    assert served(repo, [9])[9][0] == [6]
    repo.materialize(at(0), at(1))
    assert served(repo, [9])[9] == ([], [], [])
    repo.materialize(at(1), at(2))
    offline = pq.read_table(repo.data / "snapshots" / SEQUENCE / "v1", partitioning=None)
    days = [row["event_timestamp"] for row in offline.to_pylist() if row["member_id"] == 9]
    assert days == [at(1)]


def test_materializing_a_changed_snapshot_again_shows_online(either):
    either.write_events(events_table([*HISTORY, (2, 5, "SAVE", at(-0.5))]))
    either.materialize(at(-1), at(0))
    assert served(either, [2])[2][0] == [3, 5]


@pytest.mark.redis
def test_redis_serves_what_sqlite_serves(tmp_path, address):
    events, vectors = small_data()
    both = [sequence_repo(tmp_path / name, events, vectors) for name in ("sqlite", "redis")]
    use_redis(both[1], address)
    pushed = events_table([(m, 1 + m % 30, "SAVE", at(2.5)) for m in range(1, 60)])
    for each in both:
        each.publish(at(0), at(2))
        SequenceWriter(each.store).push(pushed)
    members = list(range(1, 60))
    assert served(both[0], members) == served(both[1], members)
    each.run("teardown")


@pytest.mark.redis
def test_a_redis_key_without_a_row_of_the_view_is_no_row(tmp_path, address):
    """A member who is online in another view has a key, but nothing in it is of this view."""
    repo = sequence_repo(tmp_path)
    use_redis(repo, address, "key_ttl_seconds: 1000")
    repo.publish(at(-1), at(0))
    store = repo.store
    client = store._get_provider().online_store._get_client(store.config.online_store)
    before = set(client.keys("*"))
    SequenceWriter(store).push(events_table([(9, 6, "SAVE", at(0.5))]))
    (key,) = set(client.keys("*")) - before
    assert 0 < client.ttl(key) <= 1000
    fields = client.hgetall(key)
    client.delete(key)
    client.hset(key, "other", "value")
    SequenceWriter(store).push(events_table([(9, 7, "SAVE", at(0.75))]))
    assert served(repo, [9])[9][0] == [7]
    assert set(client.hgetall(key)) == {*fields, b"other"}
    repo.run("teardown")


WRITER = """
import sys, time, pyarrow.parquet as pq
from pathlib import Path
from feast import FeatureStore
from activity_embeddings.transformations.online.push import SequenceWriter
repo, file, go = sys.argv[1:]
writer = SequenceWriter(FeatureStore(repo_path=repo), offline=False)
table = pq.read_table(file)
print("ready", flush=True)
while not Path(go).exists():
    time.sleep(0.001)
for start in range(0, len(table), 50):
    writer.push(table.slice(start, 50))
"""


@pytest.mark.process
def test_two_writers_at_once_lose_nothing(either, tmp_path):
    """Each pushes half of the events of the same members, in many small pushes."""
    rounds = [
        (member, 1 + (member + step) % 40, "SAVE", at(0) + timedelta(minutes=step, seconds=member))
        for step in range(24)
        for member in range(1, 51)
    ]
    writers = []
    for half in range(2):
        file = tmp_path / f"half{half}.parquet"
        # Every second event of each member, so that both write the same rows all the time.
        pq.write_table(
            events_table([e for i, e in enumerate(rounds) if (i // 50) % 2 == half]), file
        )
        writers.append(processes.start(WRITER, either.path, file, tmp_path / "go"))
    for writer in writers:
        writer.wait_for("ready")
    (tmp_path / "go").touch()
    for writer in writers:
        assert writer.wait(timeout=300) == 0, writer.stderr.read_text()
    rows = served(either, range(1, 51))
    for member in range(1, 51):
        expected = [us(when) for who, _, _, when in rounds if who == member]
        assert rows[member][2][-24:] == expected


def test_two_threads_with_stores_of_their_own_lose_nothing(either):
    def push(part):
        writer = SequenceWriter(either.store)
        for step in range(part, 30, 2):
            writer.push(
                events_table([(m, 1 + step, "APPLY", at(0.01 * step)) for m in range(1, 21)])
            )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(push, range(2)))
    for items, _, _ in served(either, range(5, 21)).values():
        assert items == list(range(1, 31))
    assert len(logged(either)) == len(HISTORY) + 30 * 20


def test_a_writer_and_a_batch_run_at_once_lose_nothing(either):
    # Made before: Feast rewrites its registry file in place at the end of each run.
    writer = SequenceWriter(either.store)

    def push():
        for step in range(40):
            when = at(1 + 0.01 * step)
            writer.push(events_table([(m, 1 + step, "SAVE", when) for m in (1, 2)]))

    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(push)
        while not pushing.done():
            either.materialize(at(0), at(1))
        pushing.result()
    rows = served(either, [1, 2])
    for member in (1, 2):
        assert rows[member][2][-30:] == [us(at(1 + 0.01 * step)) for step in range(10, 40)]


def with_column(name, values):
    table = events_table(NEW)
    if values is None:
        return table.drop_columns([name])
    return table.set_column(table.column_names.index(name), name, values)


FUTURE = datetime.now(UTC) + timedelta(hours=1)
BAD = {
    "a missing column": (with_column("job_id", None), ["'job_id'", "missing"]),
    "an unknown action": (with_column("action", pa.array(["VIEW"] * 6)), ["'VIEW' in 6 of 6"]),
    "a null": (with_column("member_id", pa.array([1, 2, 3, 4, 5, None])), ["no nulls", "1 of 6"]),
    "naive times": (
        with_column("event_timestamp", pa.array([datetime(2024, 3, 1)] * 6, pa.timestamp("us"))),
        ["time zone UTC", "naive"],
    ),
    "an event of the future": (
        with_column("event_timestamp", pa.array([at(0)] * 5 + [FUTURE], pa.timestamp("us", "UTC"))),
        ["should not lie in the future", "1 of 6 rows", f"{FUTURE:%Y-%m-%d %H:%M}"],
    ),
    "an event of long ago": (
        with_column(
            "event_timestamp",
            pa.array([at(0)] * 5 + [datetime(1900, 1, 1)], pa.timestamp("us", "UTC")),
        ),
        ["36,525 days before now", "1900-01-01", "1 of 6 rows"],
    ),
    "a column that is there twice": (
        events_table(NEW).append_column("action", [["SAVE"] * 6]),
        ["'action' should be there once", "2 columns"],
    ),
    "an unknown action that is long": (
        with_column("action", pa.array(["x" * 10_000] * 6)),
        ["'xxx", "..."],
    ),
    "ids of another type": (
        with_column("job_id", pa.array(list("abcdef"))),
        ["'job_id'", "should be int64", "Received: string"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_events_are_refused_and_leave_both_stores_as_they_were(case, repo):
    table, expected = BAD[case]
    before = repo.stores(), logged(repo)
    with pytest.raises(InvalidInput) as raised:
        SequenceWriter(repo.store).push(table)
    for words in ["pushed events", *expected]:
        assert words in str(raised.value)
    assert (repo.stores(), logged(repo)) == before


def test_a_pandas_frame_is_taken_and_a_mixed_one_refused(repo):
    frame = events_table(NEW).to_pandas()
    assert SequenceWriter(repo.store).push(frame).new == 2
    frame["job_id"] = frame["job_id"].astype(object)
    frame.loc[0, "job_id"] = "five"
    twice = pd.concat([frame["action"], frame], axis=1)
    times = events_table(NEW).to_pandas()
    times["event_timestamp"] = times["event_timestamp"].astype(object)
    times.loc[0, "event_timestamp"] = 7
    for bad in (frame, twice, times):
        with pytest.raises(InvalidInput, match="one type each"):
            SequenceWriter(repo.store).push(bad)


def test_nothing_to_push_is_no_error(repo):
    before = repo.stores()
    assert SequenceWriter(repo.store).push(events_table([])) == PushReport()
    assert repo.stores() == before


def test_a_repo_that_is_not_applied_is_named(tmp_path):
    repo = sequence_repo(tmp_path)
    with pytest.raises(NotReady, match="Run `feast apply`"):
        SequenceWriter(repo.store)


def test_event_ids_are_required_where_the_source_has_them(tmp_path):
    repo = sequence_repo(tmp_path)
    repo.write_events(events_table(HISTORY).append_column("event_id", pa.array([1, 2, 3, 4])))
    repo.publish(at(-1), at(0))
    writer = SequenceWriter(repo.store)
    before = repo.stores(), logged(repo)
    with pytest.raises(InvalidInput, match="'event_id' is missing"):
        writer.push(events_table(NEW))
    assert (repo.stores(), logged(repo)) == before

    rows = [(1, 5, "SAVE", at(0.5)), (1, 4, "SAVE", at(0.5)), (1, 4, "SAVE", at(0.5))]
    pushed = events_table(rows).append_column("event_id", pa.array([10, 11, 11]))
    report = writer.push(pushed)
    assert (report.duplicates, report.new) == (1, 2)
    repo.materialize(at(0), at(1))
    # By event id, as the batch orders them; a later push keeps that order.
    assert served(repo, [1])[1][0] == [1, 2, 5, 4]
    writer.push(events_table([(1, 6, "SAVE", at(0.6))]).append_column("event_id", pa.array([12])))
    assert served(repo, [1])[1][0] == [1, 2, 5, 4, 6]


def numbered(rows, ids, kind):
    return events_table(rows).append_column("event_id", pa.array(ids, kind))


@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.string()], ids=str)
@pytest.mark.parametrize("store", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def test_events_of_one_time_have_one_order_everywhere(store, kind, tmp_path):
    """Stored by a run, pushed in any order and batches, and as the next run has them."""
    with redis_server() if store == "redis" else nullcontext() as address:
        repo = sequence_repo(tmp_path)
        if address:
            use_redis(repo, address)
        assert_one_order(repo, kind)


def assert_one_order(repo, kind):
    random = np.random.default_rng(3)
    rows = [
        (int(member), int(random.integers(1, 20)), ("APPLY", "SAVE")[i % 2], at(day))
        for i, (member, day) in enumerate(
            zip(random.integers(1, 5, 80), random.choice([-0.5, -0.25, 0.25, 0.5], 80), strict=True)
        )
    ]
    numbers = random.permutation(len(rows)) + 60
    text = [f"e{n}" for n in numbers] if pa.types.is_string(kind) else numbers.tolist()
    order = sorted(range(len(rows)), key=lambda i: (rows[i][3], text[i]))
    expected = {
        member: [rows[i][1] for i in order if rows[i][0] == member][-32:] for member in range(1, 5)
    }
    past = [i for i, row in enumerate(rows) if row[3] < at(0) and i % 3]
    rest = [i for i in range(len(rows)) if i not in past]
    repo.write_events(numbered([rows[i] for i in past], [text[i] for i in past], kind))
    repo.publish(at(-1), at(0))
    writer = SequenceWriter(repo.store)
    for part in np.array_split(random.permutation(rest), 4):
        # As text or numbers, whatever the caller has.
        ids = [str(text[i]) if i % 2 else text[i] for i in part]
        pushed_as = pa.string() if any(isinstance(each, str) for each in ids) else kind
        ids = [str(each) for each in ids] if pa.types.is_string(pushed_as) else ids
        writer.push(numbered([rows[i] for i in part], ids, pushed_as))

    def items():
        return {member: row[0] for member, row in served(repo, range(1, 5)).items()}

    assert items() == expected
    assert not check(repo.store).differences
    repo.materialize(at(0), at(1))
    assert items() == expected
    report = writer.push(numbered([rows[i] for i in rest], [text[i] for i in rest], kind))
    assert (report.new, report.already_there) == (0, len(rest))
    assert items() == expected


def test_the_same_event_under_two_ids_counts_twice_as_in_the_batch(tmp_path):
    repo = sequence_repo(tmp_path)
    repo.write_events(numbered(HISTORY, [1, 2, 3, 4], pa.int64()))
    repo.publish(at(-1), at(0))
    twice = [(1, 5, "SAVE", at(0.5))] * 2
    assert SequenceWriter(repo.store).push(numbered(twice, [7, 8], pa.int64())).new == 2
    before = served(repo, [1])
    repo.materialize(at(0), at(1))
    assert served(repo, [1]) == before
    assert before[1][0] == [1, 2, 5, 5]


def test_ids_that_the_source_does_not_have_are_ignored_and_unfit_ones_refused(tmp_path):
    repo = sequence_repo(tmp_path)
    repo.publish(at(-1), at(0))
    rows = [(1, 9, "SAVE", at(0.5)), (1, 8, "SAVE", at(0.5))]
    SequenceWriter(repo.store).push(numbered(rows, [1, 2], pa.int64()))
    assert served(repo, [1])[1][0] == [1, 2, 8, 9]
    repo.write_events(numbered(HISTORY, [1, 2, 3, 4], pa.int64()))
    for online_only in (False, True):
        writer = SequenceWriter(repo.store, offline=not online_only)
        with pytest.raises(InvalidInput, match=r"'event_id' should be int64.*'y'"):
            writer.push(numbered(rows, ["x", "y"], pa.string()))
        with pytest.raises(InvalidInput, match="'event_id' is missing"):
            writer.push(events_table(rows))
    repo.write_events(numbered(HISTORY, ["a", "b", "", "c"], pa.string()))
    assert "should hold no empty text" in repo.feast(*interval(at(0), at(1))).output


def test_string_ids(tmp_path):
    repo = sequence_repo(tmp_path)
    repo.write_events(with_string_ids(events_table(HISTORY)))
    repo.write_vectors(with_string_ids(vectors_table(VECTORS)))
    repo.configure(STRING_IDS)
    repo.publish(at(-1), at(0))
    assert SequenceWriter(repo.store).push(with_string_ids(events_table(NEW))).new == 2
    assert served(repo, ["1", "9"])["1"][0] == ["1", "2", "5"]
    repo.materialize(at(0), at(1))
    assert served(repo, ["1", "9"])["9"][0] == ["6"]
    with pytest.raises(InvalidInput, match="'member_id' should be string"):
        SequenceWriter(repo.store).push(events_table(NEW))


def test_a_item_that_only_the_online_store_knows_counts_as_known(either):
    """Feast's Redis store answers a missing row with an empty value, which is no vector."""
    either.write_vectors(vectors_table([*VECTORS, (99, at(0.1), np.ones(DIMENSION))]))
    either.materialize(at(0), at(0.2), "--views", "job_embedding")
    (table,) = (either.data / "vector_tables" / "job_embedding").iterdir()
    (table / "current.json").unlink()
    report = SequenceWriter(either.store).push(
        events_table([(2, 99, "APPLY", at(0.05)), (2, 98, "APPLY", at(0.06))])
    )
    assert (report.new, report.unknown) == (1, 1)
    assert served(either, [2])[2][0] == [3, 99]


def run(repo, *arguments, stdin=None):
    return processes.run(processes.COMMAND, *arguments, folder=repo.path, stdin=stdin or "")


def json_lines(rows):
    names = ("member_id", "job_id", "action", "event_timestamp")
    return "\n".join(
        json.dumps(dict(zip(names, (*row[:3], row[3].isoformat()), strict=True))) for row in rows
    )


@pytest.mark.process
def test_the_command_pushes_json_lines_and_says_what_it_did(repo):
    done = run(repo, "push", "-", stdin=json_lines(NEW) + "\n\n")
    assert done.returncode == 0, done.stderr
    assert "2 of 6 events are new in the sequences of 3 members" in done.stdout
    assert served(repo, [1])[1][0] == [1, 2, 5]
    assert len(logged(repo)) == len(HISTORY) + len(NEW)


def invoke(repo, *arguments):
    result = CliRunner().invoke(cli, ["-C", str(repo.path), *map(str, arguments)])
    return result.exit_code, result.output


def test_the_command_honours_another_feature_store_yaml(repo, monkeypatch, tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text(json_lines(NEW))
    (repo.path / "feature_store.yaml").rename(repo.path / "other.yaml")
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(repo.path / "other.yaml"))
    code, output = invoke(repo, "push", file)
    assert code == 0, output
    assert served(repo, [1])[1][0] == [1, 2, 5]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_the_command_reads_files_by_suffix(repo, tmp_path, suffix):
    file = tmp_path / f"events.{suffix}"
    if suffix == "parquet":
        pq.write_table(events_table(NEW), file)
    elif suffix == "csv":
        pa.csv.write_csv(events_table(NEW), file)
    else:
        file.write_text(json_lines(NEW))
    code, output = invoke(repo, "push", "--online-only", file)
    assert code == 0, output
    assert "2 of 6 events are new" in output
    assert served(repo, [1])[1][2][-1] == us(at(0.25))
    assert len(logged(repo)) == len(HISTORY)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_file_may_have_the_columns_of_the_source(tmp_path, suffix):
    repo = sequence_repo(tmp_path)
    history = pq.read_table(repo.events)
    repo.write_events(history.rename_columns(THEIRS))
    repo.map_columns()
    repo.run("apply")
    # A column of another meaning, called as ours is.
    table = events_table(NEW).rename_columns(THEIRS)
    table = table.append_column("event_timestamp", events_table(NEW)["event_timestamp"])
    table = table.set_column(4, "event_timestamp", pa.array([at(-9).isoformat()] * len(NEW)))
    file = tmp_path / f"events.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, file)
    elif suffix == "csv":
        pa.csv.write_csv(table, file)
    else:
        rows = table.to_pylist()
        lines = [json.dumps({**row, "when": row["when"].isoformat()}) for row in rows]
        file.write_text("\n".join(lines))
    code, output = invoke(repo, "push", file)
    assert code == 0, output
    source = pq.read_table(repo.events)
    assert source.column_names == list(THEIRS.values())
    assert len(source) == len(history) + len(NEW)
    assert sorted(source["when"].to_pylist()[-len(NEW) :]) == sorted(row[3] for row in NEW)
    # And ours, as ever.
    (tmp_path / "ours.jsonl").write_text(json_lines(NEW))
    code, output = invoke(repo, "push", "--online-only", tmp_path / "ours.jsonl")
    assert code == 0, output
    assert "none of 6 events are new" in output


PAGES = {
    "device": (pa.string(), "ios"),
    "price": (pa.float32(), 1.5),
    "seen": (pa.timestamp("us", "UTC"), at(0.1)),
    "weekday": (pa.dictionary(pa.int32(), pa.string()), "Monday"),
    "shown": (pa.int64(), None),  # is text when it is pushed
    "member": (pa.int64(), None),  # is not pushed
}


def with_pages(repo):
    """Give the source other columns than events need, and one called as our time is."""
    table = events_table(HISTORY).rename_columns({"event_timestamp": "when"})
    for name, (kind, _) in PAGES.items():
        table = table.append_column(name, pa.nulls(len(HISTORY), kind))
    table = table.append_column("event_timestamp", pa.nulls(len(HISTORY), pa.string()))
    repo.edit("sources.py", 'timestamp_field="event_timestamp",', 'timestamp_field="when",')
    return table


@pytest.mark.parametrize("single", [False, True], ids=["folder", "file"])
def test_other_columns_of_an_event_are_kept_where_the_source_has_them(tmp_path, single):
    repo = sequence_repo(tmp_path)
    repo.write_events(with_pages(repo))
    if single:
        (repo.events / "history.parquet").rename(repo.data / "events.parquet")
        repo.edit("sources.py", "data/activity_events", "data/events.parquet")
    repo.run("apply")
    event = {"member_id": 1, "job_id": 5, "action": "SAVE", "event_timestamp": at(0.5).isoformat()}
    others = {"device": "ios", "price": 1.5, "seen": at(0.1).isoformat(), "weekday": "Monday"}
    (tmp_path / "events.jsonl").write_text(
        json.dumps({**event, **others, "shown": "twice", "nowhere": 1})
    )
    code, output = invoke(repo, "push", tmp_path / "events.jsonl")
    assert code == 0, output
    rows = pq.read_table(repo.data / "events.parquet" if single else repo.events).to_pylist()
    (row,) = [row for row in rows if row["when"] == at(0.5)]
    assert row == {
        "member_id": 1,
        "job_id": 5,
        "action": "SAVE",
        "when": at(0.5),
        **{name: value for name, (_, value) in PAGES.items()},
        "event_timestamp": None,
    }


@pytest.fixture(scope="module")
def with_own_names(tmp_path_factory):
    """A repo, applied, whose source has other names than the view, and event ids."""
    repo = sequence_repo(tmp_path_factory.mktemp("own_names"))
    repo.write_events(numbered(HISTORY, [1, 2, 3, 4], pa.int64()).rename_columns(THEIRS))
    repo.map_columns()
    repo.publish(at(-1), at(0))
    return repo


@pytest.mark.parametrize(
    "case",
    [
        "a null",
        "naive times",
        "an event of the future",
        "no event id",
        "an event of long ago",
        "an unknown action",
        "ids of another type",
    ],
)
def test_errors_of_a_push_name_the_columns_that_were_pushed(with_own_names, case):
    """Whether these have the names of the source or those of the view."""
    table = events_table(NEW) if case == "no event id" else BAD.get(case, BAD["a null"])[0]
    column = {
        "a null": "member_id",
        "no event id": "event_timestamp",
        "an unknown action": "action",
        "ids of another type": "job_id",
    }.get(case, "event_timestamp")
    writer = SequenceWriter(with_own_names.store)
    if case != "no event id":
        table = table.append_column("event_id", pa.array(range(6)))
    for theirs in ({}, THEIRS):
        with pytest.raises(InvalidInput) as raised:
            writer.push(table.rename_columns(theirs))
        message = str(raised.value)
        if case == "no event id":
            columns = ", ".join(theirs.get(name, name) for name in THEIRS)
            assert message.endswith(f"Received columns: {columns}")
        else:
            assert f"column {theirs.get(column, column)!r} should" in message


def test_a_column_that_has_to_be_filled_may_be_pushed(repo):
    page = pa.field("page", pa.string(), nullable=False)
    repo.write_events(events_table(HISTORY).append_column(page, pa.array(["home"] * 4)))
    fine = events_table(NEW).append_column("page", pa.array(["list"] * 6))
    some = events_table(NEW).append_column("page", pa.array(["list"] * 5 + [None]))
    for bad in (events_table(NEW), some):
        with pytest.raises(InvalidInput, match="'page' should accept nulls"):
            SequenceWriter(repo.store).push(bad)
    SequenceWriter(repo.store).push(fine)
    assert [row["page"] for row in logged(repo)].count("list") == 6


BAD_FILES = {
    "events.txt": ("", "expected a name that ends in .parquet, .csv or .jsonl"),
    "missing.csv": (None, "expected a readable file"),
    "events.parquet": ("PAR1 no", "expected a readable file"),
    "broken.jsonl": ('{"member_id": 1\n', "line 1: expected JSON"),
    "list.jsonl": ("\n[1]\n", "line 2: expected a JSON object. Received: [1]"),
    "naive.jsonl": ('\n{"event_timestamp": "2024-03-01T12:00:00"}', "line 2: 'event_timestamp'"),
    "time.jsonl": ('{"event_timestamp": 17}', "should be a time such as"),
    "mixed.jsonl": ('{"member_id": 1}\n{"member_id": "a"}', "one type in each column"),
    "surrogate.jsonl": ('{"action": "\\ud800"}', "text that can be UTF-8. Received: 'utf-8' codec"),
    "huge.jsonl": (f'{{"member_id": {10**30}}}', "integers of int64"),
    "ids.csv": ("member_id\none\n", "CSV conversion error"),
    "columns.csv": ("member_id,job_id\n1,2\n", "columns 'action', 'event_timestamp' are missing"),
    "naive.csv": ("event_timestamp\n2024-03-01T12:00:00\n", "line 2: 'event_timestamp'"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_the_command_refuses_bad_files_in_one_line(repo, tmp_path, name):
    text, expected = BAD_FILES[name]
    if text is not None:
        (tmp_path / name).write_text(text)
    before = repo.stores(), logged(repo)
    code, output = invoke(repo, "push", tmp_path / name)
    assert code == 1
    (line,) = output.splitlines()
    assert line.startswith("Error: ") and expected in line
    assert (repo.stores(), logged(repo)) == before


def test_the_command_says_in_one_line_that_the_store_cannot_be_reached(tmp_path):
    repo = sequence_repo(tmp_path)
    use_redis(repo, "localhost:1,retry=null")
    (tmp_path / "events.jsonl").write_text(json_lines(NEW))
    repo.feast("apply")
    code, output = invoke(repo, "push", tmp_path / "events.jsonl")
    assert code == 5
    (line,) = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert "ConnectionError" in line


def test_files_of_pushes_are_merged_and_nothing_else_changes(tmp_path):
    repo = sequence_repo(tmp_path)
    repo.publish(at(0), at(1))
    for start in range(0, len(NEW), 2):
        SequenceWriter(repo.store).push(events_table(NEW[start : start + 2]))
    before = sorted(map(str, events_of(repo)))
    online, others = repo.online_rows(), set(repo.events.iterdir()) - set(live_files(repo))
    assert len(live_files(repo)) > 2
    code, output = invoke(repo, "compact")
    assert code == 0 and f"{-(-len(NEW) // 2)} files of pushes merged" in output, output
    assert len(live_files(repo)) == 1
    assert sorted(map(str, events_of(repo))) == before
    assert repo.online_rows() == online
    assert set(repo.events.iterdir()) - set(live_files(repo)) == others
    merged = live_files(repo)
    assert invoke(repo, "compact")[0] == 0
    assert live_files(repo) == merged


def live_files(repo):
    return sorted(repo.events.glob("live-*.parquet"))


def events_of(repo):
    return [
        row for file in repo.events.glob("*.parquet") for row in pq.read_table(file).to_pylist()
    ]
