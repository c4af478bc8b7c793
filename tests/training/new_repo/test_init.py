"""`activity-embeddings init` and what it says to do next, in processes of their own.

`test_wheel` types the same commands as from a shell.
"""

import re
import shutil
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from feast import FeatureStore

from activity_embeddings.training.commands.init import init
from activity_embeddings.transformations.definitions.registered import registered_domain
from activity_embeddings.transformations.serving.entity_rows import entity_rows
from activity_embeddings.transformations.spec import ActivitySpec
from support.feast_repo import at
from support.processes import COMMAND, FEAST, run

pytestmark = pytest.mark.slow

ACTIONS = ("view", "like", "buy", "skip", "hide")
TIMES = pa.timestamp("us", "UTC")


def ran(command, *arguments, folder):
    """Run a command; return what it printed."""
    done = run(command, *map(str, arguments), folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(*arguments):
    result = CliRunner().invoke(init, list(map(str, arguments)))
    assert result.exit_code != 0
    return result.output


def write_files(folder):
    """Write events of 20 users on 12 products, and vectors of these."""
    random = np.random.default_rng(0)
    rows = 400
    chosen = random.choice(len(ACTIONS), rows, p=[0.4, 0.25, 0.2, 0.1, 0.05])
    times = np.sort(random.uniform(-20, 0, rows))
    events = pa.table(
        {
            "user_id": [f"u{i}" for i in random.integers(20, size=rows)],
            "product_sku": [f"p{i}" for i in random.integers(12, size=rows)],
            "verb": [ACTIONS[i] for i in chosen],
            "ts": pa.array([at(day) for day in times], TIMES),
        }
    )
    products = [f"p{i}" for i in range(12)]
    vectors = pa.table(
        {
            "product_sku": products,
            "vec": pa.array(random.normal(size=(12, 16)).tolist(), pa.list_(pa.float32())),
            "made": pa.array([at(-90)] * 12, TIMES),
        }
    )
    pq.write_table(events, folder / "events.parquet")
    pq.write_table(vectors, folder / "vectors.parquet")
    return events, vectors


@pytest.mark.process
def test_own_data_are_published_by_two_commands_and_no_edited_file(tmp_path):
    """Text ids, other names of columns, five actions, 16 dimensions, 7 days, 20 events."""
    events, vectors = write_files(tmp_path)
    output = ran(
        COMMAND, "init", "shop", "--events", "events.parquet", "--vectors", "vectors.parquet",
        "--item", "product_sku", "--item-name", "product", "--days", 7, "--length", 20, "--apply",
        folder=tmp_path,
    )  # fmt: skip
    assert "members  user_id (string)" in output
    assert "items    product_sku (string), called product; vectors of your own, dimension 16" in (
        output
    )
    assert "verb: view, like, buy are positive, skip, hide not" in output
    assert "time     ts; the last 7 days, newest 20 events" in output
    (command,) = re.findall(r"^  feast (materialize .*)$", output, re.M)
    end = command.split()[-1]
    ran(FEAST, *command.split(), folder=tmp_path / "shop")

    store = FeatureStore(repo_path=str(tmp_path / "shop"))
    domain = registered_domain(store)
    assert domain.spec == ActivitySpec(timedelta(days=7), 20, ACTIONS, ("view", "like", "buy"))
    members = sorted(set(events["user_id"].to_pylist()))
    got = store.get_online_features(
        store.get_feature_service("search_v1"), [{"user_id": member} for member in members]
    ).to_dict()
    expected = expected_averages(events.to_pylist(), vectors.to_pylist(), members, end)
    assert got["activity_count"] == [count for count, _ in expected]
    for action in ACTIONS:
        np.testing.assert_allclose(
            got[f"{action}_embedding"], [means[action] for _, means in expected], atol=1e-6
        )
    # And as of a request: the item vectors are there.
    rows = entity_rows(
        [members[0]],
        {members[0]: [("p3", "hide", at(0.5))]},
        request_timestamp=at(1),
        domain=domain.names,
    )
    answer = store.get_online_features(
        store.get_feature_service("search_v1_realtime"), rows
    ).to_dict()
    assert answer["new_activity_count"] == [1]
    output = ran(COMMAND, "check", folder=tmp_path / "shop")
    assert " 0 differ" in output and not re.search(r"[1-9]\d* differ", output)


def expected_averages(events, vectors, members, end):
    """Return (number of events, {action: mean of its vectors}) of each member, the slow way."""
    as_of = pa.scalar(end).cast(pa.timestamp("s")).as_py().replace(tzinfo=at(0).tzinfo)
    vector_of = {row["product_sku"]: row["vec"] for row in vectors}
    found = []
    for member in members:
        inside = [
            e
            for e in events
            if e["user_id"] == member and as_of - timedelta(days=7) <= e["ts"] < as_of
        ]
        newest = sorted(inside, key=lambda e: (e["ts"], e["product_sku"]))[-20:]
        means = {}
        for action in ACTIONS:
            chosen = [vector_of[e["product_sku"]] for e in newest if e["verb"] == action]
            means[action] = np.mean(chosen, axis=0) if chosen else np.zeros(16)
        found.append((len(newest), means))
    return found


@pytest.mark.process
def test_the_sample_is_published_as_the_command_says(tmp_path):
    output = ran(COMMAND, "init", "repo", "--sample", folder=tmp_path)
    commands = re.findall(r"^  feast (.*)$", output, re.M)
    assert [command.split()[0] for command in commands] == ["apply", "materialize"]
    for command in commands:
        ran(FEAST, *command.split(), folder=tmp_path / "repo")
    store = FeatureStore(repo_path=str(tmp_path / "repo"))
    snapshots = tmp_path / "repo" / "data" / "snapshots" / "job_activity_sequence" / "v1"
    newest = pq.read_table(max(snapshots.glob("as_of=*")), partitioning=None)
    member = newest["member_id"][0].as_py()
    got = store.get_online_features(
        store.get_feature_service("recommendations_v1"), [{"member_id": member}]
    ).to_dict()
    assert got["activity_count"][0] == newest["activity_count"][0].as_py()
    assert len(got["apply_embedding"][0]) == 64


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for more in (["--sample"], []):
        output = refused(tmp_path, *more)
        assert "expected a folder that is new or empty. Received: a folder with files" in output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sample", "--item", "x"], "leave out --item"),
        (["--sample", "--length", "9"], "leave out --length"),
        (["--sample", "--days", "28"], "leave out --days"),
        (["--sample", "--apply", "--own-vectors", "--encoder"], "exclude each other"),
        (
            ["--sample", "--apply", "--positive", "a", "--own-vectors"],
            "leave out --own-vectors, --positive",
        ),
        (["--own-vectors", "--encoder"], "exclude each other"),
        (["--actions", "a,,b"], "expected names, separated by commas"),
        (["--dimension", "0"], "--dimension"),
        (["--days", "0"], "--days"),
        (["--item", "member_id"], "expected different names"),
        (["--item-name", "class"], "letters, digits and underscores"),
    ],
)
def test_options_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, options, message):
    assert message in " ".join(refused(tmp_path / "repo", *options).split())
    assert not (tmp_path / "repo").exists()


def proposed(folder, *options):
    """Return what `init` says of the events, as one line each."""
    arguments = ["--events", folder / "events.parquet", *options]
    result = CliRunner().invoke(init, list(map(str, [folder / "repo", *arguments])))
    assert result.exit_code == 0, result.output
    return [line.strip() for line in result.output.splitlines()]


def test_one_positive_action_is_positive(tmp_path):
    write_files(tmp_path)
    options = ["--item", "product_sku", "--positive", "buy"]
    assert "actions  verb: buy is positive, view, like, skip, hide not" in proposed(
        tmp_path, *options
    )


def test_an_event_id_that_is_declared_is_said(tmp_path):
    events, _ = write_files(tmp_path)
    options = ["--item", "product_sku"]
    assert not any(line.startswith("order") for line in proposed(tmp_path, *options))
    shutil.rmtree(tmp_path / "repo")
    events = events.append_column("event_id", pa.array(range(len(events))))
    pq.write_table(events, tmp_path / "events.parquet")
    assert "order    event_id (int), of events of one time" in proposed(tmp_path, *options)


def test_actions_that_are_there_beside_the_named_ones_are_said(tmp_path):
    write_files(tmp_path)
    options = ["--item", "product_sku", "--actions", "view,buy"]
    said = "like, skip, hide are there too: --ignore-other-actions leaves them out"
    assert f"{said}, and else a run refuses them" in proposed(tmp_path, *options)
    shutil.rmtree(tmp_path / "repo")
    lines = proposed(tmp_path, *options, "--ignore-other-actions")
    assert "like, skip, hide are left out" in lines
    shutil.rmtree(tmp_path / "repo")
    options[-1] = ",".join(ACTIONS[:4])
    said = "hide is there too: --ignore-other-actions leaves it out, and else a run refuses it"
    assert said in proposed(tmp_path, *options)


def test_a_file_that_does_not_tell_a_column_is_refused_with_the_option(tmp_path):
    events, _ = write_files(tmp_path)
    file = tmp_path / "events.parquet"
    pq.write_table(events.rename_columns({"user_id": "a"}), file)
    output = refused(tmp_path / "repo", "--events", file)
    assert "name it with --member" in output and "a, product_sku, verb, ts" in output


def test_a_time_without_a_zone_is_refused_by_name(tmp_path):
    events, vectors = write_files(tmp_path)
    naive = events["ts"].cast(pa.timestamp("us"))
    pq.write_table(events.set_column(3, "ts", naive), tmp_path / "naive.parquet")
    output = refused(tmp_path / "repo", "--events", tmp_path / "naive.parquet", "--time", "ts")
    assert "column 'ts' should be a timestamp with time zone UTC. Received: timestamp[us]" in output
    made = vectors["made"].cast(pa.timestamp("us"))
    pq.write_table(vectors.set_column(2, "made", made), tmp_path / "vectors.parquet")
    output = refused(tmp_path / "repo", "--vectors", tmp_path / "vectors.parquet")
    assert "column 'made' should be a timestamp with time zone UTC" in output
    assert not (tmp_path / "repo").exists()


def test_the_interval_ends_after_the_newest_event_of_any_file(tmp_path):
    events, _ = write_files(tmp_path)
    folder = tmp_path / "events"
    (folder / "day=2").mkdir(parents=True)
    pq.write_table(events.slice(0, 300), folder / "a.parquet")
    last = at(0.5) + timedelta(microseconds=5)
    newest = events.slice(300).set_column(3, "ts", pa.array([last] * 100, TIMES))
    pq.write_table(newest, folder / "day=2" / "000000_0")
    result = CliRunner().invoke(init, [str(tmp_path / "repo"), "--events", str(folder)])
    assert result.exit_code == 0, result.output
    assert "feast materialize 2024-02-29T12:00:01 2024-03-01T12:00:01" in result.output
