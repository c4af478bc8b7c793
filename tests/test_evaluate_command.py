"""`activity-embeddings evaluate` and `compare`, as a user types them in an applied repo.

The repo has two domains, join keys of its own and ids of text.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from activity_embeddings.training.commands import cli

pytestmark = pytest.mark.slow

ITEM = ["--item", "product"]
DATES = ["--rank-from", "2024-03-05", "--test-from", "2024-03-15", "--until", "2024-04-10"]


TODAY = """
import numpy as np


class Today:
    def __init__(self, data):
        self.member_ids = data.history.events.member_ids.to_numpy(zero_copy_only=False)
        self.item_ids = data.history.vectors.item_ids.to_numpy(zero_copy_only=False)

    def columns(self, sequences, queries):
        members = self.member_ids[queries.member]
        assert all(member.startswith("u") for member in members)
        known = sequences.time[:, -1] < queries.time
        assert known.all()
        return np.array([[sum(map(ord, name))] for name in self.item_ids[queries.item]])
"""
"""A model that scores items, of the user's own."""


def run(repo, *arguments):
    return CliRunner().invoke(cli, ["-C", str(repo.path), *map(str, arguments)])


@pytest.fixture(scope="module")
def applied(tmp_path_factory, models):
    from support.domains import SHOP, add_courses, of_shop
    from support.feast_repo import at, events_table, make_repo, small_data, vectors_table

    folder = tmp_path_factory.mktemp("evaluated") / "repo"
    events, vectors = small_data(members=120)
    sources = of_shop(events_table(events), "ts"), of_shop(vectors_table(vectors), "made")
    repo = make_repo(folder, models, *sources, SHOP)
    (repo.data / "job_embeddings.parquet").rename(repo.data / "product_embeddings.parquet")
    add_courses(repo, [("u003", "c1", "ENROL", at(-2))], "user_id")
    repo.run("apply")
    return repo


@pytest.fixture(scope="module")
def evaluated(applied, tmp_path_factory):
    """The folder of one of two evaluations, and what the command printed."""
    folder = tmp_path_factory.mktemp("out") / "evaluation"
    before = applied.stores()
    options = ["--models", "cnn", "--seeds", 3, "--quick", "--as-of", "both", "--out", folder]
    options += ["--members", 60, "--scorer", "today=our_ranker:Today"]
    (folder.parent / "our_ranker.py").write_text(TODAY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setattr(sys, "path", [*sys.path])
        done = run(applied, "evaluate", *ITEM, *DATES, *options)
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert applied.stores() == before
    return folder / "published", done.output


def test_it_writes_a_report_and_prints_the_table(evaluated):
    folder, output = evaluated
    result = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")
    assert not result["simulated"]
    assert [arm["name"] for arm in result["arms"] if arm["role"] == "learned"] == [
        "cnn",
        "decay+cnn",
        "today+cnn",
    ]
    (today,) = [arm for arm in result["arms"] if arm["name"] == "today"]
    assert (today["role"], today["title"]) == ("reference", "scores of our_ranker:Today")
    assert result["tasks"]["alone"]["figures"]["today"]["ndcg_at_10"] > 0
    assert result["data"]["items"] == 30
    members = pq.read_table(folder / "members.parquet")["member_id"].to_pylist()
    assert 30 < len(set(members)) <= 60
    assert set(members) <= {f"u{number:03}" for number in range(1, 123)}
    assert result["timeline"]["publishing_delay_minutes"] == 30
    assert result["declared"]["seeds"] == [0, 1, 2]
    assert "NDCG@10" in output and str(folder / "report.html") in output
    assert "Traceback" not in output


def test_values_as_published_and_as_of_the_request_have_a_report_each(evaluated):
    folder, output = evaluated
    for as_of in ("published", "request"):
        own = folder.with_name(as_of)
        result = json.loads((own / "report.json").read_text(encoding="utf-8"))
        assert result["as_of"] == as_of
        assert str(own / "report.html") in output


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
        ([*DATES, "--also", "mine=a,b"], "a different one for each of 5 seeds"),
        ([*DATES, "--scorer", "mine=nowhere:Mine"], "--scorer mine=nowhere:Mine: expected MODULE:"),
        ([*DATES, "--scorer", "mine=json:Mine"], "has no attribute 'Mine'"),
        ([*DATES, "--scorer", "mine=json:__name__"], "with a method `columns`. Received: 'json'"),
        ([*DATES, "--scorer", "mine=builtins:id"], "with a method `columns`. Received: <built-in"),
        (
            ["--rank-from", "2030-03-05", "--test-from", "2030-03-15", "--until", "2030-04-10"],
            "Received: none",
        ),
        ([*DATES, "--seeds", "2"], "--seeds"),
    ],
)
def test_bad_requests_are_one_clear_error(applied, arguments, says, tmp_path):
    done = run(applied, "evaluate", *ITEM, *arguments, "--out", tmp_path / "out")
    assert done.exit_code != 0
    assert says in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize("item", [[], ["--item", "film"]])
def test_of_several_domains_one_is_named(applied, item, tmp_path):
    done = run(applied, "evaluate", *DATES, *item, "--out", tmp_path / "out")
    received = repr(item[1]) if item else "no item"
    (line,) = done.output.strip().splitlines()
    assert line.endswith(f"one of its domains: course, product. Received: {received}")


def test_names_and_types_of_ids_change_nothing_of_the_data(tmp_path):
    """Of a repo with postings, whose table has the names of the default domain afterwards."""
    from activity_embeddings.training.evaluation.from_repo import read_data
    from activity_embeddings.training.new_repo.create import create_repo
    from support.domains import SHOP_WITH_POSTINGS, add_courses, of_shop
    from support.feast_repo import SAMPLE, Repo, at, events_table, small_data
    from support.item_encoders import postings_table, small_postings

    events, postings = events_table(small_data()[0]), postings_table(small_postings())
    jobs, shop = Repo(tmp_path / "jobs"), Repo(tmp_path / "shop")
    create_repo(jobs.path, replace(SAMPLE, vector_spec=SHOP_WITH_POSTINGS.vector_spec))
    jobs.write_events(events)
    jobs.write_postings(postings)
    create_repo(shop.path, SHOP_WITH_POSTINGS)
    shop.write_events(of_shop(events, "ts"))
    pq.write_table(of_shop(postings, "since"), shop.data / "product_postings.parquet")
    add_courses(shop, [("u003", "c1", "ENROL", at(-2))], "user_id")
    jobs.run("apply")
    shop.run("apply")
    theirs = read_data(jobs.store, until=at(40))
    ours = read_data(shop.store, until=at(40), item="product")
    for name in ("member", "item", "action", "time"):
        expected = getattr(theirs.history.events, name)
        assert getattr(ours.history.events, name).tolist() == expected.tolist()
    assert ours.history.events.member_ids[6].as_py() == "u007"
    assert ours.history.vectors.matrix.tolist() == theirs.history.vectors.matrix.tolist()
    assert ours.category_columns == ("genres",)
    assert ours.postings.column_names == theirs.postings.column_names
    assert ours.postings["genres"].equals(theirs.postings["genres"])
    assert ours.postings["job_id"].to_pylist() == [
        f"s{number:03}" for number in theirs.postings["job_id"].to_pylist()
    ]


@pytest.mark.process
def test_an_error_after_reading_the_data_is_all_that_is_printed(applied, tmp_path):
    """In a process of its own, since libraries set filters of warnings when they are imported."""
    command = [
        sys.executable,
        "-O",
        "-m",
        "activity_embeddings.training.commands",
        "-C",
        str(applied.path),
        "evaluate",
        *ITEM,
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
