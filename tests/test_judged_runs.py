"""Rubbish is not published, every run leaves a record, and a plan changes nothing."""

import json
import os
import signal
import time
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from activity_embeddings.training.commands import cli
from activity_embeddings.transformations.offline.sinks.folder import FolderSink
from support import processes
from support.feast_repo import DIMENSION, at, events_table, interval, make_repo, vectors_table
from support.redis_server import use_redis

pytestmark = pytest.mark.slow

MEMBERS = range(150)


def events(days, shift=0):
    """Three actions of each member on each of some days."""
    return [
        (member + shift, 1 + (member + k + day) % 5, "APPLY", at(day + 0.1 + k / 10))
        for day in days
        for member in MEMBERS
        for k in range(3)
    ]


@pytest.mark.parametrize("command", ["plan", "materialize"])
def test_an_interval_that_ends_before_it_starts_is_refused(tmp_path, command):
    moments = ["2024-03-02", "2024-03-01T12:30:00"]
    result = CliRunner().invoke(cli, ["-C", str(tmp_path), command, *moments])
    assert result.exit_code == 1
    assert result.output == (
        "Error: expected START before END. Received: 2024-03-02 00:00 UTC, 2024-03-01 12:30 UTC\n"
    )


@pytest.fixture(scope="module")
def once(tmp_path_factory, models):
    random = np.random.default_rng(0)
    vectors = [
        (item, at(-40), random.normal(size=DIMENSION).astype(np.float32)) for item in range(1, 6)
    ]
    repo = make_repo(
        tmp_path_factory.mktemp("judged") / "repo",
        models,
        events_table(events(range(-25, 0))),
        vectors_table(vectors),
    )
    repo.publish(at(-1), at(0))
    repo.keep()
    return repo


@pytest.fixture
def repo(once):
    return once.put_back()


@pytest.fixture
def repo_with_new_ids(repo):
    """The next day the source has other ids for the same members, of all their history."""
    repo.write_events(events_table(events(range(-25, 1), shift=1_000_000)))
    return repo


def command(repo, *arguments):
    return CliRunner().invoke(cli, ["-C", str(repo.path), *arguments])


DAY = [f"{at(day):%Y-%m-%dT%H:%M:%S}" for day in (0, 1)]


def test_a_first_run_says_that_there_is_nothing_to_compare_with(repo):
    (record,) = records(repo)
    assert record["outcome"] == "published"
    (step,) = [step for step in record["steps"] if "guards" in step]
    assert {guard["guard"] for guard in step["guards"]} == {"unknown_items"}
    assert step["compared_with"] is None


def test_a_usual_day_passes(repo):
    repo.write_events(events_table(events(range(-25, 1))))
    printed = repo.materialize(at(0), at(1)).output
    assert "guards   10 passed, compared with 2024-03-01 00:00 UTC" in printed, printed


def test_ids_that_changed_form_are_refused_and_the_stores_stay(repo_with_new_ids):
    repo, before = repo_with_new_ids, repo_with_new_ids.stores()
    done = repo.process(*interval(at(0), at(1)))
    assert done.returncode == 3
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert (
        "job_activity_sequence: 150 of 150 members with activity before have none now; ids are "
        "such as 1000000, before 0, at most 50 % expected. Nothing was published" in line
    )
    assert "--accept silent_members" in line
    assert repo.stores() == before
    newest = records(repo)[-1]
    assert (newest["outcome"], newest["error"]["kind"]) == ("failed", "GuardFailed")


def test_it_can_be_accepted_once_which_is_recorded(repo_with_new_ids):
    repo = repo_with_new_ids
    wrong = command(repo, "materialize", *DAY, "--accept", "silence")
    assert wrong.exit_code == 1 and "expected names of guards: unknown_items, mem" in wrong.output
    done = command(repo, "materialize", *DAY, "--accept", "silent_members")
    assert done.exit_code == 0, done.output
    assert "silent_members: 150 of 150 members" in done.output and "(accepted)" in done.output
    newest = records(repo)[-1]
    assert newest["outcome"] == "published" and newest["accepted"] == ["silent_members"]
    rows = [{"member_id": member} for member in (3, 1_000_003)]
    counts = repo.store.get_online_features(["job_activity_sequence:activity_count"], rows)
    assert counts.to_dict()["activity_count"] == [0, 32]


def test_a_guard_may_warn_or_be_ignored(repo_with_new_ids):
    repo = repo_with_new_ids
    set_engine(repo, "guards:\n    silent_members: {action: warn}")
    printed = repo.materialize(at(0), at(1)).output
    assert "before 0; expected at most 50 % (warning)" in printed, printed


def test_a_plan_says_what_a_run_would_do_and_changes_nothing(repo):
    repo.write_events(events_table(events(range(-25, 1))))
    before, registry = repo.stores(), (repo.data / "registry.db").read_bytes()
    planned = command(repo, "plan", *DAY)
    assert planned.exit_code == 0, planned.output
    assert planned.stdout.startswith("activity embeddings: a dry run, nothing was published")
    assert "1 snapshot as of 2024-03-02 00:00 UTC" in planned.output
    assert "1 snapshot as of 2024-03-02 00:00 UTC, 4 files new or changed" in planned.output
    assert "600 offline in 4 views; 600 online" in planned.output
    lines = [line.split() for line in planned.output.splitlines()]
    assert ["job_embedding", "1", "0", "0", "0", "0"] in lines
    assert ["job_activity_sequence", "1", "150", "0", "0", "150"] in lines
    assert ["job_activity_embedding_geometric_decay", "1", "150", "0", "0", "150"] in lines
    assert repo.stores() == before
    assert (repo.data / "registry.db").read_bytes() == registry
    assert records(repo)[-1]["outcome"] == "dry run"
    assert command(repo, "materialize", *DAY, "--views", "job_activity_sequence").exit_code == 0
    assert "job_activity_sequence/v1/as_of=20240302T000000Z/snapshot.parquet" in str(
        repo.snapshot_files().keys()
    )


def test_what_a_plan_says_of_each_view_is_what_the_run_then_does(repo):
    def planned_and_done(start, end):
        moments = [f"{at(day):%Y-%m-%dT%H:%M:%S}" for day in (start, end)]
        planned = command(repo, "plan", *moments)
        before = repo.stores()
        assert planned.exit_code == 0, planned.output
        done = command(repo, "materialize", *moments)
        assert done.exit_code == 0 and repo.stores() != before, done.output
        plan, run = (record["steps"] for record in records(repo)[-2:])
        assert [step["views"] for step in plan] == [step["views"] for step in run]
        return planned.output, {
            view: facts for step in run for view, facts in step["views"].items()
        }

    repo.write_events(events_table(events(range(-25, 31))))
    _, views = planned_and_done(1, 29)
    assert views["job_activity_sequence"]["rows"] == 28 * 150
    assert views["job_embedding"]["pushed_rows"] == 0  # its vectors are older
    # One comes in between, events of the past have changed, and the first is too old.
    repo.write_events(events_table(events([*range(-25, 2), *range(4, 31)])))
    set_engine(repo, "retention_days: 28")
    printed, views = planned_and_done(0.5, 29)
    sequences = views["job_activity_sequence"]
    assert 0 < sequences["replaced"] == sequences["rows"] - 150 < 28 * 150
    assert (len(sequences["expired"]), sequences["expired_rows"]) == (1, 150)
    assert f"in place of {4 * sequences['replaced']:,}; " in printed
    assert "expired  4 snapshots of 600 rows" in printed


def test_a_plan_is_refused_as_a_run_would_be(repo_with_new_ids):
    planned = command(repo_with_new_ids, "plan", *DAY)
    assert planned.exit_code == 3 and "have none now" in planned.output


def test_runs_are_listed_the_last_failure_first(repo_with_new_ids):
    repo = repo_with_new_ids
    assert repo.feast(*interval(at(0), at(1))).code == 3
    command(repo, "materialize", *DAY, "--accept", "silent_members")
    listed = command(repo, "runs").output.splitlines()
    assert [line.split()[3] for line in listed] == ["failed", "published", "published"]
    assert "have none now" in listed[0] and "rows" in listed[1]
    lines = command(repo, "runs", "--json", "--limit", "1").output.splitlines()
    (record,) = map(json.loads, lines)
    assert record["outcome"] == "failed" and record["peak_memory_bytes"] > 1e7
    assert record["versions"].keys() >= {"feast", "activity-embeddings", "python"}


def test_each_run_writes_metrics(repo_with_new_ids):
    repo = repo_with_new_ids
    set_engine(repo, "metrics_file: data/runs.prom")
    started = time.time()

    def metrics():
        families = text_string_to_metric_families((repo.data / "runs.prom").read_text())
        samples = [sample for family in families for sample in family.samples]
        return {(s.name[len("activity_embeddings_") :], s.labels.get("guard")): s for s in samples}

    assert repo.feast(*interval(at(0), at(1))).code == 3
    failed = metrics()
    assert failed["run_failed", None].value == 1
    assert failed["last_publish_timestamp_seconds", None].value < started
    assert failed["guard", "silent_members"].value == 1
    assert failed["guard", "silent_members"].labels["project"] == "activity_embeddings"
    assert command(repo, "materialize", *DAY, "--accept", "silent_members").exit_code == 0
    published = metrics()
    assert published["run_failed", None].value == 0
    assert published["run_rows", None].value == 4 * 300
    assert started < published["last_publish_timestamp_seconds", None].value < time.time()


def test_a_run_that_was_killed_is_one_that_failed(repo):
    repo.write_events(events_table(events(range(-25, 1))))
    code = (
        "import sys, os, signal\n"
        "from activity_embeddings.transformations.batch.steps import Snapshots\n"
        f"Snapshots.judge = lambda self: os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    ) + processes.FEAST
    done = processes.run(code, *interval(at(0), at(1)), folder=repo.path)
    assert done.returncode == -signal.SIGKILL
    assert "its process ended without a word" in command(repo, "runs").output.splitlines()[0]


def test_another_run_under_way_has_a_status_of_its_own(repo):
    with FolderSink(repo.data / "snapshots" / "job_activity_sequence" / "v1").locked():
        assert command(repo, "materialize", *DAY).exit_code == 4
        assert repo.feast(*interval(at(0), at(1))).code == 4


def test_a_store_that_does_not_answer_has_a_status_of_its_own(repo):
    use_redis(repo, "localhost:1,retry=null")
    repo.run("apply")
    done = repo.process(*interval(at(-1), at(0)))
    assert done.returncode == 5 and "Traceback" not in done.stderr
    assert "Error: expected stores that answer. Received: ConnectionError" in done.stderr
    assert command(repo, "materialize", *DAY).exit_code == 5
    assert records(repo)[-1]["error"]["kind"] == "StoreUnreachable"


def test_reports_and_errors_are_lines_of_json_where_that_is_asked_for(repo):
    repo.write_events(events_table(events(range(-25, 1))))
    in_json = ["--log-json", "-C", str(repo.path)]
    done = CliRunner().invoke(cli, [*in_json, "materialize", *DAY])
    assert done.exit_code == 0, done.output
    (line,) = [json.loads(each) for each in done.stdout.splitlines() if each.startswith("{")]
    assert (line["level"], line["logger"]) == ("INFO", "activity_embeddings")
    assert line["message"].startswith("activity embeddings: 1 snapshot as of 2024-03-02")
    assert line["facts"]["members"] == len(MEMBERS)
    assert datetime.fromisoformat(line["time"]).tzinfo is not None
    wrong = CliRunner().invoke(cli, [*in_json, "materialize", *DAY, "--accept", "silence"])
    (error,) = [json.loads(each) for each in wrong.stderr.splitlines() if each.startswith("{")]
    assert (error["level"], error["facts"]) == ("ERROR", {"kind": "InvalidInput", "exit_status": 1})
    assert "expected names of guards" in error["message"]
    planned = CliRunner().invoke(cli, [*in_json, "plan", *DAY])
    assert all(json.loads(line)["level"] == "INFO" for line in planned.stdout.splitlines())
    assert "a dry run, nothing was published" in planned.stdout


def test_a_program_that_has_set_up_logging_gets_the_report_there(repo, caplog, capsys):
    repo.write_events(events_table(events(range(-25, 1))))
    with caplog.at_level("INFO", logger="activity_embeddings"):
        repo.store.materialize(at(0), at(1))
    (report,) = [each for each in caplog.records if each.name == "activity_embeddings"]
    assert report.facts["members"] == len(MEMBERS)
    assert "activity embeddings: 1 snapshot" in report.getMessage()
    assert "activity embeddings: 1 snapshot" not in capsys.readouterr().out


def test_no_runs_yet(tmp_path, once):
    os.symlink(once.path / "feature_store.yaml", tmp_path / "feature_store.yaml")
    assert command_in(tmp_path).output == "no runs yet\n"


def command_in(folder):
    return CliRunner().invoke(cli, ["-C", str(folder), "runs"])


def records(repo):
    files = sorted((repo.data / "snapshots" / "_runs").glob("*.json"))
    return [json.loads(file.read_text()) for file in files]


def test_after_all_members_were_forgotten_there_is_nothing_to_compare_with(repo):
    for sink in FolderSink(repo.data / "snapshots" / "job_activity_sequence" / "v1").beside():
        assert sink.delete_members("member_id", pa.array(MEMBERS, pa.int64())) == len(MEMBERS)
    repo.write_events(events_table(events(range(-25, 1), shift=1_000_000)))
    assert "guards   1 passed, compared with" in repo.materialize(at(0), at(1)).output


def test_old_snapshots_expire_but_none_that_a_kept_label_joins(repo):
    repo.write_events(events_table(events(range(-25, 31))))
    repo.materialize(at(0), at(29))
    labels = pd.DataFrame({"member_id": [3, 4], "event_timestamp": [at(1.6), at(28)]})
    service = repo.store.get_feature_service("search_v1")
    joined = repo.store.get_historical_features(labels, service).to_df()
    set_engine(repo, "retention_days: 28")
    assert "expired  4 snapshots" in repo.materialize(at(29), at(29.5)).output
    for view in (repo.data / "snapshots").glob("job_*"):
        kept = sorted(folder.name for folder in view.glob("v1/as_of=*"))
        assert (kept[0], len(kept)) == ("as_of=20240302T000000Z", 30), view
    again = repo.store.get_historical_features(labels, service).to_df()
    pd.testing.assert_frame_equal(again, joined)


def test_a_retention_shorter_than_the_window_is_refused(repo):
    set_engine(repo, "retention_days: 27.9")
    refused = repo.feast(*interval(at(0), at(1)))
    assert refused.code == 1
    assert "expected `retention_days` of at least the window, 28 days" in refused.output


def set_engine(repo, line):
    repo.edit(
        "feature_store.yaml",
        "  snapshot_interval_hours: 24",
        f"  {line}\n  snapshot_interval_hours: 24",
    )
