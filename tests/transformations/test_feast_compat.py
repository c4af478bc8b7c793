"""What is served stays served while a run is under way, and after it was killed or refused."""

import contextlib
import os
import signal
import sqlite3
import threading

import pyarrow.parquet as pq
import pytest
from feast import FeatureViewState

from activity_embeddings.transformations.feast_compat import states as registry_states
from support.feast_repo import (
    at,
    events_table,
    interval,
    run_killed,
    small_repo,
)
from support.feast_server import feast_server

pytestmark = pytest.mark.slow

REGISTRIES = {
    "file": "registry:\n  path: data/registry.db\n  cache_ttl_seconds: 1",
    "sql": "registry:\n  registry_type: sql\n  path: sqlite:///{path}/data/registry.sqlite\n"
    "  cache_ttl_seconds: 1",
}
OURS = [
    "job_embedding",
    "job_activity_sequence",
    "job_activity_embedding_cnn",
    "job_activity_embedding_geometric_decay",
    "job_activity_embedding_unweighted_average",
]
SERVICES = ["recommendations_v1", "recommendations_v2", "search_v1", "recommendations_v2_realtime"]
MEMBERS = [1, 2, 7, 14]
RECORD = (
    "activity_embeddings.transformations.batch.engine",
    "states",
    "record_materialization",
    1,
)


@pytest.fixture(scope="module", params=REGISTRIES)
def of_day_1(request, tmp_path_factory, models):
    folder = tmp_path_factory.mktemp(request.param)
    repo = small_repo(folder / "repo", models, members=20, days=20)
    registry = REGISTRIES[request.param].format(path=repo.path)
    repo.edit("feature_store.yaml", "registry: data/registry.db", registry)
    repo.publish(at(0), at(1))
    repo.keep()
    return repo


@pytest.fixture
def published(of_day_1):
    """A repo with values as of day 1 online."""
    return of_day_1.put_back()


def registered(repo):
    """Return what the registry holds of views, byte for byte."""
    file = repo.data / "registry.db"
    if file.exists():
        return file.read_bytes()
    with contextlib.closing(sqlite3.connect(repo.data / "registry.sqlite")) as connection:
        return sorted(connection.execute("SELECT * FROM feature_views").fetchall())


def served(repo):
    """Return what a new process would serve, after checking that nothing in it is null."""
    store = repo.store
    answers = {}
    for service in SERVICES:
        rows = [{"member_id": member} for member in MEMBERS]
        if "realtime" in service:
            rows = [{**row, **NOTHING_RECENT} for row in rows]
        answer = store.get_online_features(store.get_feature_service(service), rows).to_dict()
        vectors = [name for name in answer if name.endswith("embedding")]
        assert vectors and all(None not in answer[name] for name in vectors)
        answers[service] = {name: answer[name] for name in vectors}
    return answers


NOTHING_RECENT = {
    "recent_job_ids": None,
    "recent_job_actions": None,
    "recent_job_timestamps": None,
    "request_timestamp": None,
}


def states(repo):
    store = repo.store
    return {name: store.get_feature_view(name).state for name in OURS}


def newest_interval(repo):
    return {name: repo.store.get_feature_view(name).most_recent_end_time for name in OURS}


def set_state(repo, name, state):
    """Put a view into a state as Feast would: in a database it writes only what else differs."""
    store = repo.store
    view = store.get_feature_view(name)
    view.materialization_intervals.append((at(0.5), at(1)))
    view.state = state
    store.registry.apply_feature_view(view, store.project)
    assert repo.store.get_feature_view(name).state == state


def refuse_next_run(repo):
    """Add an event that no run accepts."""
    bad = events_table([(1, 1, "VIEW", at(1.5))])
    pq.write_table(bad, repo.events / "bad.parquet")


@pytest.mark.process
def test_a_run_writes_to_the_registry_only_when_everything_is_published(published):
    before = registered(published)
    killed = run_killed(published, (*RECORD, "before"), at(1), at(2))

    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert registered(published) == before
    served(published)

    # The interval was not recorded, so that the next run does it again, and goes on.
    published.run("materialize-incremental", f"{at(3):%Y-%m-%dT%H:%M:%S}")
    assert newest_interval(published) == dict.fromkeys(OURS, at(3))
    served(published)


@pytest.mark.process
def test_what_is_recorded_is_there_when_a_run_is_killed_right_afterwards(published):
    killed = run_killed(published, (*RECORD, "after"), at(1), at(2))
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert newest_interval(published) == dict.fromkeys(OURS, at(2))
    served(published)


def test_values_are_served_after_a_run_was_refused(published):
    before = served(published)
    refuse_next_run(published)
    refused = published.feast(*interval(at(1), at(2)))
    assert refused.code == 1 and "VIEW" in refused.output
    assert served(published) == before
    assert newest_interval(published) == dict.fromkeys(OURS, at(1))


@pytest.mark.parametrize(
    "left", [s for s in FeatureViewState if s not in (0, FeatureViewState.CREATED)]
)
def test_views_that_others_left_in_another_state_are_served_again(published, left):
    """As Feast's server leaves them before a run, and runs of before that were killed or failed."""
    before = served(published)
    for name in OURS:
        set_state(published, name, left)
    refuse_next_run(published)
    assert published.feast(*interval(at(1), at(2))).code == 1
    assert served(published) == before
    assert set(states(published).values()) == {FeatureViewState.STATE_UNSPECIFIED}

    (published.events / "bad.parquet").unlink()
    published.materialize(at(1), at(2))
    served(published)
    assert set(states(published).values()) == {FeatureViewState.STATE_UNSPECIFIED}


def test_other_views_are_recorded_as_by_feast(published):
    """A view that is not ours goes through Feast's states, also beside ours, and if it fails."""
    with (published.path / "sources.py").open("a") as file:
        file.write(FOREIGN)
    published.publish(at(1), at(2))
    view = published.store.get_feature_view("member_plan")
    assert view.state == FeatureViewState.AVAILABLE_ONLINE
    assert view.most_recent_end_time == at(2)
    assert newest_interval(published) == dict.fromkeys(OURS, at(2))

    (published.data / "plans.parquet").unlink()
    failed = published.feast(*interval(at(2), at(3)))
    assert failed.code == 1
    assert published.store.get_feature_view("member_plan").most_recent_end_time == at(2)
    assert newest_interval(published) == dict.fromkeys(OURS, at(3))
    served(published)


FOREIGN = """
import pyarrow as pa
import pyarrow.parquet as pq
from datetime import datetime, timezone
from feast import FeatureView, Field
from feast.types import Int64, String

if not (REPO / "data" / "plans.parquet").exists():
    pq.write_table(
        pa.table(
            {
                "member_id": [1, 2],
                "plan": ["free", "paid"],
                "event_timestamp": pa.array(
                    [datetime(2024, 3, 2, 12, tzinfo=timezone.utc)] * 2, pa.timestamp("us", "UTC")
                ),
            }
        ),
        REPO / "data" / "plans.parquet",
    )

member_plan = FeatureView(
    name="member_plan",
    entities=[member],
    source=FileSource(
        name="plans", path="data/plans.parquet", timestamp_field="event_timestamp"
    ),
    schema=[Field(name="member_id", dtype=Int64), Field(name="plan", dtype=String)],
    ttl=timedelta(days=365),
)
"""


def test_what_others_applied_during_a_run_stays(published, monkeypatch):
    """The engine read the registry before its work, and must not write back what it read."""
    record = registry_states.record_materialization

    def record_after_an_apply(registry, tasks):
        published.edit("services.py", "By the model cnn, the", "By the CNN, the")
        published.run("apply")
        record(registry, tasks)

    monkeypatch.setattr(registry_states, "record_materialization", record_after_an_apply)
    published.materialize(at(1), at(2))
    assert "By the CNN" in published.store.get_feature_service("recommendations_v2").description
    assert newest_interval(published) == dict.fromkeys(OURS, at(2))


@pytest.mark.process
def test_a_server_answers_every_request_while_a_day_is_published(published, tmp_path):
    """It reads the registry again every second, also between two writes of it."""
    requests = [
        {"feature_service": service, "entities": {"member_id": MEMBERS}}
        for service in ("recommendations_v1", "recommendations_v2", "search_v1")
    ]
    nothing = dict.fromkeys(NOTHING_RECENT, [None] * len(MEMBERS))
    requests.append(
        {
            "feature_service": "recommendations_v2_realtime",
            "entities": {"member_id": MEMBERS, **nothing},
        }
    )
    answers = []
    over = threading.Event()

    def ask_all_the_time(server):
        while not over.is_set():
            for body in requests:
                answers.append((body["feature_service"], server.ask(body)))

    with feast_server(published, tmp_path / "log", "--registry_ttl_sec", "1") as server:
        for body in requests:  # the first answers take longer than a day's publication
            server.ask(body)
        client = threading.Thread(target=ask_all_the_time, args=[server])
        client.start()
        try:
            published.materialize(at(1), at(2))
            published.materialize(at(2), at(3))
        finally:
            over.set()
            client.join()
    assert len(answers) > len(requests)
    assert {status for _, (status, _) in answers} == {200}
    for service, (_, answer) in answers:
        names = answer["metadata"]["feature_names"]
        for name, column in zip(names, answer["results"], strict=True):
            if name.endswith("embedding"):
                assert None not in column["values"], (service, name)


def test_a_registry_file_is_replaced_where_it_lies_with_its_mode(tmp_path, models):
    """A link stays a link, and whoever could read the file still can."""
    repo = small_repo(tmp_path / "repo", models, members=5, days=5)
    repo.run("apply")
    link, kept = repo.data / "registry.db", tmp_path / "kept.db"
    link.rename(kept)
    kept.chmod(0o664)
    link.symlink_to(kept)
    left = tmp_path / f".kept.db.{'0a' * 16}"  # by a process that was killed
    left.touch()
    os.utime(left, (0, 0))
    repo.materialize(at(0), at(1))
    assert link.is_symlink() and kept.stat().st_mode & 0o777 == 0o664
    assert newest_interval(repo) == dict.fromkeys(OURS, at(1))
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith(".kept")]
