"""`activity-embeddings evaluate` and `compare`, as a user types them in an applied repo."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from activity_embeddings.training.commands import cli

pytestmark = pytest.mark.slow

DATES = ["--rank-from", "2024-03-05", "--test-from", "2024-03-15", "--until", "2024-04-10"]


def run(repo, *arguments):
    return CliRunner().invoke(cli, ["-C", str(repo.path), *map(str, arguments)])


@pytest.fixture(scope="module")
def applied(tmp_path_factory, models):
    from support.feast_repo import small_repo

    folder = tmp_path_factory.mktemp("evaluated") / "repo"
    repo = small_repo(folder, models, members=120)
    repo.run("apply")
    return repo


@pytest.fixture(scope="module")
def evaluated(applied, tmp_path_factory):
    """The folder of one evaluation, what the command printed, and the stores before it."""
    folder = tmp_path_factory.mktemp("out") / "evaluation"
    before = applied.stores()
    done = run(
        applied, "evaluate", *DATES, "--models", "cnn", "--seeds", 3, "--quick", "--out", folder
    )
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert applied.stores() == before
    return folder, done.output


def test_it_writes_a_report_and_prints_the_table(evaluated):
    folder, output = evaluated
    result = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")
    assert not result["simulated"]
    assert [arm["name"] for arm in result["arms"] if arm["role"] == "learned"] == [
        "cnn",
        "decay+cnn",
    ]
    assert result["timeline"]["publishing_delay_minutes"] == 30
    assert result["declared"]["seeds"] == [0, 1, 2]
    assert "NDCG@10" in output and str(folder / "report.html") in output
    assert "Traceback" not in output


def test_the_gate_says_what_it_decides_and_why_and_exits_with_it(applied, evaluated):
    folder, _ = evaluated
    kept = run(applied, "compare", "decay", "leak_canary", "--evaluation", folder)
    assert kept.exit_code == 1
    assert kept.output.startswith("Keep `decay`.")
    assert "control" in kept.output


def test_arms_and_folders_that_are_not_there_are_one_line(applied, evaluated, tmp_path):
    folder, _ = evaluated
    for arguments, says in (
        (["decay", "cmm", "--evaluation", folder], "cmm"),
        (["decay", "cnn", "--evaluation", tmp_path], "activity-embeddings evaluate"),
    ):
        done = run(applied, "compare", *arguments)
        assert done.exit_code == 1
        (line,) = done.output.strip().splitlines()
        assert line.startswith("Error: ") and says in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*DATES[:3], "2024-03-01", *DATES[4:]], "`start` should be before `end`"),
        ([*DATES, "--also", "mine=nowhere"], "nowhere"),
        (
            ["--rank-from", "2030-03-05", "--test-from", "2030-03-15", "--until", "2030-04-10"],
            "Received: none",
        ),
        ([*DATES, "--seeds", "2"], "--seeds"),
    ],
)
def test_bad_requests_are_one_clear_error(applied, arguments, says, tmp_path):
    done = run(applied, "evaluate", *arguments, "--out", tmp_path / "out")
    assert done.exit_code != 0
    assert says in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.process
def test_an_error_after_reading_the_data_is_all_that_is_printed(applied, tmp_path):
    """In a process of its own, since libraries set filters of warnings when they are imported."""
    command = [
        sys.executable,
        "-m",
        "activity_embeddings.training.commands",
        "-C",
        str(applied.path),
        "evaluate",
        *DATES,
    ]
    done = subprocess.run(
        [*command, "--models", "nobody", "--out", str(tmp_path / "out")],
        env={name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    printed = (done.stdout + done.stderr).strip().splitlines()
    assert len(printed) == 1, printed
    assert printed[0].startswith("Error: ")
    assert "cnn, geometric_decay, unweighted_average" in printed[0]
