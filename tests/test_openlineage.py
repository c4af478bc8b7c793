"""Feast's OpenLineage events of a publishing run, with the views and intervals of this package."""

import json

import pytest

from support.feast_repo import at, interval, small_repo

pytestmark = pytest.mark.slow


def test_feast_emits_what_a_run_read_and_wrote(tmp_path, models):
    repo = small_repo(tmp_path / "repo", models, seed=1, members=4, days=3)
    with (repo.path / "feature_store.yaml").open("a") as file:
        file.write("openlineage:\n  enabled: true\n  transport_type: file\n")
    repo.run("apply")
    applied = len(emitted(repo))
    repo.materialize(at(0), at(1))
    events = emitted(repo)[applied:]
    runs = [event for event in events if "run" in event]
    assert [event["eventType"] for event in runs] == ["START", "COMPLETE"]
    assert len({event["run"]["runId"] for event in runs}) == 1
    written = {output["name"] for event in runs for output in event["outputs"]}
    assert any("job_activity_embedding_cnn" in name for name in written), written
    failed = repo.feast(*interval(at(-200), at(-199)))
    assert failed.code == 1
    assert emitted(repo)[-1]["eventType"] == "FAIL"


def emitted(repo):
    """Feast writes a file an event into the current folder, named by its time."""
    return [json.loads(file.read_text()) for file in sorted(repo.path.glob("openlineage_events*"))]
