"""The example of a second domain: its page runs as it stands, and its learners are as it says."""

import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from support.commands import commands

pytestmark = [pytest.mark.slow, pytest.mark.process]

PROJECT = Path(__file__).parents[1]
EXAMPLE = PROJECT / "examples" / "courses"
RUNNER = PROJECT / "tools" / "run_blocks.py"
SMALLER = {
    "--learners 4000": "--learners 250",
    "--epochs 10": "--epochs 1",
    "--seeds 3": "--seeds 1",
    "--quick": "--quick --seeds 3",
}
"""What the page asks for, and what is enough here."""
START, END = (datetime(2024, month, day, tzinfo=UTC) for month, day in ((3, 1), (5, 30)))
"""The window of 90 days of the snapshot."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Run the page; return its folder and what was printed."""
    folder = tmp_path_factory.mktemp("courses")
    for name in ("learners.py", "knowledge_areas.tsv", "cross_domain.py"):
        shutil.copy(EXAMPLE / name, folder)
    shutil.copytree(EXAMPLE / "with_jobs", folder / "with_jobs")
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    for asked, enough in SMALLER.items():
        assert asked in text
        text = text.replace(asked, enough)
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    (folder / "bin").mkdir()
    with commands(folder / "bin") as own:
        done = subprocess.run(
            [sys.executable, RUNNER, page, "--in", folder, "--commands", own],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_what_init_writes_is_the_feature_repo_of_the_example(ran):
    written = ran[0] / "courses"
    kept = sorted(path.name for path in (EXAMPLE / "feature_repo").iterdir())
    assert kept == sorted(p.name for p in written.iterdir() if p.suffix in (".py", ".yaml"))
    for name in kept:
        text = (written / name).read_text(encoding="utf-8")
        added = '    ActivityModel(MODELS / "cnn"),\n'
        assert (added in text) == (name == "activity_models.py")
        assert text.replace(added, "") == (EXAMPLE / "feature_repo" / name).read_text("utf-8")


def test_its_reports_say_that_the_learners_are_made_up_and_what_can_be_found(ran):
    printed = ran[1]
    assert "SIMULATED DATA. NDCG@10 of what" in printed
    assert "SIMULATED DATA. Events of the Feast project courses" in printed
    assert "job" not in (ran[0] / "courses" / "evaluation" / "report.html").read_text("utf-8")


def test_a_sequence_of_courses_has_the_jobs_of_the_same_learner_in_it(ran):
    """As of the snapshot, in the order of time; the domain of jobs goes on with its own ids."""
    folder, printed = ran
    store = FeatureStore(repo_path=str(folder / "both"))
    done = {"course": [], "job": []}
    for kind, name, item, time in (
        ("course", "enrolments", "course_code", "at"),
        ("job", "job_events", "job_id", "event_timestamp"),
    ):
        for row in pq.read_table(folder / "data" / name).to_pylist():
            if START <= row[time] < END:
                done[kind].append((row["learner_id"], row[time], f"{kind}:{row[item]}"))
    learners = sorted({who for who, *_ in done["course"]} & {who for who, *_ in done["job"]})
    answer = store.get_online_features(
        ["course_activity_sequence:activity_course_ids", "job_activity_sequence:activity_job_ids"],
        [{"learner_id": who} for who in learners],
    ).to_dict()
    for who, mixed, jobs in zip(
        learners, answer["activity_course_ids"], answer["activity_job_ids"], strict=True
    ):
        own, other = (
            [(time, item) for whose, time, item in done[kind] if whose == who]
            for kind in ("course", "job")
        )
        assert jobs == [int(item.partition(":")[2]) for _, item in sorted(other)[-20:]]
        kept = sorted(own)[-12:]
        rest = sorted([*other, *sorted(own)[:-12]])[-8:]
        assert mixed == [item for _, item in sorted([*kept, *rest])]
    assert re.search(r"new: \d+ queries of \d+ learners\n  decay of courses ", printed)


def test_learners_choose_as_their_true_preference_says(ran):
    """What they chose surprises as much as the logit of that preference expects."""
    data = ran[0] / "data"
    items = pq.read_table(data / "truth" / "items.parquet").to_pydict()
    place = {code: i for i, code in enumerate(items["course_code"])}
    vectors = np.array(items["vector"])
    rows = [
        (row["event_timestamp"], 0, row["learner_id"], row["preference"])
        for row in pq.read_table(data / "truth" / "members.parquet").to_pylist()
    ]
    rows += [
        (row["at"], 1, row["learner_id"], row["course_code"])
        for row in pq.read_table(data / "enrolments").to_pylist()
        if row["verb"] == "ENROL"
    ]
    preference, left, surprises = {}, {}, []
    for _, chose, learner, what in sorted(rows, key=lambda row: row[:2]):
        if not chose:
            preference[learner] = np.array(what)
            continue
        free = left.setdefault(learner, np.ones(len(vectors), bool))
        assert free[place[what]], f"{learner} enrolled in {what} twice"
        utility = np.where(free, vectors @ preference[learner], -np.inf)
        chance = np.exp(utility - utility.max())
        chance /= chance.sum()
        logs = np.log(chance, where=chance > 0, out=np.zeros_like(chance))
        spread = np.sqrt((chance * logs**2).sum() - (chance * logs).sum() ** 2)
        surprises.append(((chance * logs).sum() - logs[place[what]], spread))
        free[place[what]] = False
    more, spread = np.array(surprises).T
    assert len(more) > 1_000
    assert abs(more.sum()) < 4 * np.sqrt((spread**2).sum())


def test_a_course_ends_once_after_the_learner_enrolled(ran):
    began, ended = {}, set()
    for row in pq.read_table(ran[0] / "data" / "enrolments").to_pylist():
        key = row["learner_id"], row["course_code"]
        if row["verb"] == "ENROL":
            began[key] = row["at"]
            continue
        assert began[key] <= row["at"] and key not in ended
        ended.add(key)
    assert 0.5 < len(ended) / len(began) < 1
