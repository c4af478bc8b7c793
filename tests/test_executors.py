"""Wherever rows are computed, all files, rows and counts are the same."""

import os
import re
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from activity_embeddings.transformations.batch.executors import base, processes, ray_tasks
from activity_embeddings.transformations.batch.executors.processes import ProcessWorkers
from activity_embeddings.transformations.batch.executors.ray_tasks import RayWorkers
from activity_embeddings.transformations.batch.snapshot_run import SnapshotRun
from support.feast_repo import at, small_repo
from support.kinds import add_session_ids, repo_of_kinds
from support.ray_cluster import kill_workers

pytestmark = [pytest.mark.slow, pytest.mark.process]


def work(repo):
    """Publish, leave days out, and fill them in; return the reports."""
    outputs = [repo.publish(at(-1), at(1)).output]
    outputs += [repo.materialize(at(start), at(end)).output for start, end in ((3, 4), (1, 3))]
    return [
        line
        for text in outputs
        for line in text.splitlines()
        if re.match("  [a-z]", line) and not line.startswith("  seconds")
    ]


@pytest.fixture(scope="module")
def new(tmp_path_factory, models):
    """Return a function that makes a repo, always over the same data."""

    def make(**settings):
        repo = small_repo(tmp_path_factory.mktemp("repo") / "repo", models, seed=7, members=30)
        repo.set_engine(**settings)
        return repo

    return make


@pytest.fixture(scope="module")
def expected(new):
    """What this process alone computes: reports and stores."""
    repo = new()
    return work(repo), repo.stores()


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch):
    """Have tasks of a few members, and workers however light the models are."""
    monkeypatch.setattr(base, "ROWS_A_TASK", 12)
    monkeypatch.setattr(processes, "WORTH_SECONDS", 0)


def test_processes_give_the_same(new, expected):
    repo = new(executor="processes", workers=2)
    assert (work(repo), repo.stores()) == expected
    assert "wait for workers" in repo.materialize(at(3), at(4)).output


def test_a_worker_process_that_ends_is_said_and_nothing_is_published(new, monkeypatch):
    repo = new(executor="processes", workers=2)
    repo.publish(at(-1), at(0))
    before = repo.stores()
    begin = ProcessWorkers._begin

    def lose_one(workers):
        threads = begin(workers)
        workers._processes[1]._process.kill()
        return threads

    monkeypatch.setattr(ProcessWorkers, "_begin", lose_one)
    refused = repo.feast("materialize", "2024-03-01T00:00:00", "2024-03-02T00:00:00")
    assert refused.code == 1
    assert (
        "expected worker processes that last. Received: one that ended (SIGKILL)" in refused.output
    )
    assert "Traceback" not in refused.output
    assert repo.stores() == before


@pytest.mark.ray
def test_a_cluster_that_is_not_there_is_named(new):
    repo = new(executor="ray", address="127.0.0.1:1")
    repo.run("apply")
    refused = repo.feast("materialize", "2024-02-29T00:00:00", "2024-03-01T00:00:00")
    assert refused.code == 5
    assert "expected a Ray cluster at address '127.0.0.1:1'. Received: Conn" in refused.output
    assert "Traceback" not in refused.output


@pytest.mark.ray
def test_what_a_worker_says_is_said(new, cluster, monkeypatch):
    repo = new(executor="ray", address=cluster.address)
    repo.run("apply")
    monkeypatch.setattr(ray_tasks, "version", lambda package: "0.0.1")
    refused = repo.feast("materialize", "2024-02-29T00:00:00", "2024-03-01T00:00:00")
    assert refused.code == 1
    assert (
        "expected activity-embeddings 0.0.1 on every machine of the Ray cluster" in refused.output
    )
    assert "Traceback" not in refused.output


class Where:
    """A duty: to say on which node a task runs and with which GPUs."""

    def begin(self):
        import ray

        context = ray.get_runtime_context()
        return lambda _: (context.get_node_id(), ray.get_gpu_ids())


@pytest.mark.ray
def test_tasks_run_where_there_is_a_gpu_if_a_model_wants_one(cluster):
    """Ray was told of one GPU, of the second node."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    _, with_gpu = cluster.list_all_nodes()
    workers = RayWorkers(Where, cluster.address, gpu=0.5)
    try:
        found = [workers.fetch(started) for started in [workers.start(i) for i in range(6)]]
        assert found == [(with_gpu.node_id, [0])] * 6
        assert workers.limit() == 2 * base.TASKS_A_WORKER
    finally:
        workers.close()


# The tests above connect by themselves, and each run of theirs starts workers; here they stay.
@pytest.fixture(scope="module")
def connected(cluster):
    """The cluster, with this process as the driver of all runs."""
    import ray

    with ray.init(address=cluster.address, configure_logging=False, log_to_driver=False):
        yield cluster


@pytest.mark.ray
def test_ray_gives_the_same(new, expected, connected):
    repo = new(executor="ray", address=connected.address)
    assert (work(repo), repo.stores()) == expected
    # The nodes had the models by way of the cluster alone.
    cache = Path(os.environ["ACTIVITY_EMBEDDINGS_CACHE"])
    assert len(list(cache.glob("model-*"))) == 3


@pytest.fixture(scope="module")
def of_kinds(tmp_path_factory, models_of_kinds):
    """Return a function that makes a repo of two kinds of activity with session ids."""

    def make(**settings):
        folder = tmp_path_factory.mktemp("kinds") / "repo"
        repo = repo_of_kinds(folder, models_of_kinds, members=20, days=8)
        add_session_ids(repo)
        repo.set_engine(**settings)
        return repo

    return make


@pytest.fixture(scope="module")
def expected_of_kinds(of_kinds):
    repo = of_kinds()
    reports, stores = work(repo), repo.stores()
    read = [pq.read_table(file) for file in sorted(repo.data.rglob("v1/**/*.parquet"))]
    ids = [
        t["activity_session_ids"].to_pylist() for t in read if "activity_job_ids" in t.schema.names
    ]
    assert any(any(each) for table in ids for each in table)
    return reports, stores


def test_processes_give_the_same_of_several_kinds(of_kinds, expected_of_kinds):
    repo = of_kinds(executor="processes", workers=2)
    assert (work(repo), repo.stores()) == expected_of_kinds


@pytest.mark.ray
def test_ray_gives_the_same_of_several_kinds(of_kinds, expected_of_kinds, connected):
    repo = of_kinds(executor="ray", address=connected.address)
    assert (work(repo), repo.stores()) == expected_of_kinds


@pytest.mark.ray
def test_workers_and_a_node_that_are_killed_change_nothing(new, expected, connected, monkeypatch):
    """From here on a node is gone, and with it the GPU."""
    repo = new(executor="ray", address=connected.address)
    head, other = connected.list_all_nodes()
    calls, killed, gone, write = [], [], [], SnapshotRun._write

    def killing(run, draft, rows):
        calls.append(rows.members)
        if len(calls) in (2, 5, 8):
            killed.extend(kill_workers(head, other))
        elif len(calls) == 10:
            gone.append(connected.remove_node(other, allow_graceful=False))
        return write(run, draft, rows)

    monkeypatch.setattr(SnapshotRun, "_write", killing)
    assert (work(repo), repo.stores()) == expected
    assert len(killed) >= 3
    assert gone
    assert len(calls) > 12


@pytest.mark.ray
def test_cores_compute_where_a_cluster_has_no_gpu(connected, caplog):
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    for node in connected.list_all_nodes()[1:]:
        connected.remove_node(node)
    deadline = time.monotonic() + 30
    while ray.cluster_resources().get("GPU") and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = RayWorkers(Where, connected.address, gpu=1)
    assert workers.fetch(workers.start(0))[1] == []
    assert "expected a Ray cluster with GPUs, as a model's manifest asks for" in caplog.text
