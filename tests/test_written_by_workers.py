"""Workers write the rows of a remote online store: the same ones, whatever happens to them."""

import json
import os
import signal
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from activity_embeddings.transformations.batch.executors import writing
from activity_embeddings.transformations.online import publish
from activity_embeddings.transformations.online.push import SequenceWriter
from support import processes
from support.feast_repo import KILLED_FEAST, at, events_table, interval, small_repo
from support.online_stores import emptied, redis_client
from support.postgres_repo import in_utc, serve_from_postgres
from support.ray_cluster import kill_workers
from support.redis_server import redis_server, use_redis

pytestmark = [pytest.mark.slow, pytest.mark.process]

SECONDS = 300
"""To wait for a worker, which imports Feast."""
PROCESSES = {"executor": "processes", "workers": 2}
SMALL = """
from activity_embeddings.transformations.batch.executors import writing
from activity_embeddings.transformations.online import publish
writing.WORTH_SECONDS, publish.WRITE_BATCH = 0, 7
"""


class InRedis:
    def __init__(self, address):
        self.address = emptied(address)

    def serves(self, repo):
        use_redis(repo, self.address)

    def rows(self):
        with redis_client(self.address) as client:
            return {key: client.hgetall(key) for key in client.scan_iter()}

    @contextmanager
    def stopped(self):
        """Have everybody who writes wait."""
        with redis_client(self.address) as client:
            client.client_pause(1000 * SECONDS, all=False)
            try:
                yield
            finally:
                client.client_unpause()

    def writers(self):
        """How many wait."""
        with redis_client(self.address) as client:
            return sum("b" in each["flags"] for each in client.client_list())


class InPostgres:
    def __init__(self, database):
        self.database = database
        in_utc(database)

    def serves(self, repo):
        serve_from_postgres(repo, self.database)

    def _tables(self, connection):
        found = connection.execute(
            "SELECT relname FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = to_regnamespace('public')"
        )
        return [name for (name,) in found.fetchall()]

    def rows(self):
        # Rows that were pushed have the time of that, which differs, as their created time.
        columns = (
            "entity_key, feature_name, value, value_text, event_ts, "
            "CASE WHEN created_ts < '2025-01-01' THEN created_ts END"
        )
        with self.database.connect() as connection:
            return {
                name: connection.execute(
                    f'SELECT {columns} FROM "{name}" ORDER BY entity_key, feature_name'
                ).fetchall()
                for name in self._tables(connection)
            }

    @contextmanager
    def stopped(self):
        """Have everybody who writes wait."""
        with self.database.connect() as connection, connection.transaction():
            for name in self._tables(connection):
                connection.execute(f'LOCK TABLE "{name}" IN EXCLUSIVE MODE')
            yield

    def writers(self):
        """How many wait."""
        with self.database.connect() as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                "AND datname = current_database()"
            ).fetchone()
        return count


@pytest.fixture(scope="module")
def one_redis():
    with redis_server() as address:
        yield address


# Beside what workers write, what differs by store is tested with one of them: a start of workers,
# or of Ray, takes seconds.
REDIS = pytest.param("redis", marks=pytest.mark.redis)
POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)
in_redis = pytest.mark.parametrize("new_store", [REDIS], indirect=True, scope="module")


@pytest.fixture(scope="module", params=[REDIS, POSTGRES])
def new_store(request):
    """Makes an empty online store."""
    if request.param == "redis":
        return lambda: InRedis(request.getfixturevalue("one_redis"))
    return lambda: InPostgres(request.getfixturevalue("postgres").new())


@pytest.fixture(scope="module")
def new(tmp_path_factory, models, new_store):
    """Makes a repo and its online store, always the same: a day after which events were pushed."""

    def make():
        repo = small_repo(tmp_path_factory.mktemp("repo") / "repo", models, seed=7, members=30)
        store = new_store()
        store.serves(repo)
        repo.publish(at(-1), at(0))
        live = [(1, 3, "SAVE", at(1.5)), (2, 4, "APPLY", at(0.5)), (99, 5, "SAVE", at(1.2))]
        assert SequenceWriter(repo.store).push(events_table(live)).new == 3
        return repo, store

    return make


def pushed_by_workers(repo):
    """What records say, run by run."""
    files = sorted((repo.data / "snapshots" / "_runs").glob("*.json"))
    return [
        step["pushed_by_workers"]
        for file in files
        for step in json.loads(file.read_text()).get("steps", ())  # a killed run has none
        if "pushed_by_workers" in step
    ]


@pytest.fixture(scope="module")
def expected(new):
    """What this process alone writes."""
    repo, store = new()
    repo.materialize(at(0), at(1))
    assert pushed_by_workers(repo) == [0, 0]
    return store.rows()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Have parts of a few rows, and workers however few there are."""
    monkeypatch.setattr(publish, "WRITE_BATCH", 7)
    monkeypatch.setattr(writing, "WORTH_SECONDS", 0)


@pytest.fixture
def workers(request):
    """Settings of an engine that has workers."""
    if request.param == "processes":
        return PROCESSES
    return {"executor": "ray", "address": request.getfixturevalue("cluster").address}


@pytest.mark.parametrize("new_store", [POSTGRES], indirect=True, scope="module")
def test_workers_write_the_same(new, expected):
    """In Redis what is killed in the middle shows it, below."""
    repo, store = new()
    repo.set_engine(**PROCESSES)
    said = repo.materialize(at(0), at(1)).output
    assert store.rows() == expected
    assert "workers do not write" not in said
    assert pushed_by_workers(repo)[-1] > 60


@pytest.mark.parametrize(
    ("new_store", "workers"),
    [
        pytest.param("postgres", "processes", marks=pytest.mark.postgres),
        pytest.param("redis", "ray", marks=[pytest.mark.redis, pytest.mark.ray]),
    ],
    indirect=True,
)
def test_workers_that_are_killed_while_they_write_change_nothing(
    new, expected, workers, request, monkeypatch
):
    repo, store = new()
    repo.set_engine(**workers)
    of, stopped, parts, killed = writing.Part.of, ExitStack(), [], []

    def kill():
        if workers["executor"] == "ray":
            return kill_workers(*request.getfixturevalue("cluster").list_all_nodes())
        victim = worker_processes()[0]
        os.kill(victim, signal.SIGKILL)
        return [victim]

    def part_of(*of_part):
        parts.append(of_part)
        if len(parts) == 1:
            stopped.enter_context(store.stopped())
        elif len(parts) == 3:
            wait_until(store.writers)
            killed.extend(kill())
            stopped.close()
        return of(*of_part)

    with stopped:
        monkeypatch.setattr(writing.Part, "of", part_of)
        said = repo.materialize(at(0), at(1)).output
    assert killed
    assert store.rows() == expected
    # Ray does a task again; what processes of this machine leave undone the run does itself.
    alone = workers["executor"] == "processes"
    assert ("workers do not write" in said) == alone
    assert (pushed_by_workers(repo)[-1] > 60) == (not alone)


@in_redis
def test_what_workers_cannot_write_the_run_does(new, expected, monkeypatch):
    repo, store = new()
    monkeypatch.setattr(writing, "version", lambda package: "0.0.1")
    repo.set_engine(**PROCESSES)
    said = repo.materialize(at(0), at(1)).output
    assert "expected Feast 0.0.1 on every machine that writes to the online store" in said
    assert said.count("workers do not write") == 1
    assert store.rows() == expected
    assert pushed_by_workers(repo)[-1] == 0


@in_redis
def test_a_run_that_is_killed_while_workers_write_is_finished_by_the_next(new, expected):
    repo, store = new()
    repo.set_engine(**PROCESSES)
    module = "activity_embeddings.transformations.batch.executors.processes"
    stage = (module, "ProcessWorkers", "fetch", "7", "after")
    killed = processes.run(SMALL + KILLED_FEAST, *stage, *interval(at(0), at(1)), folder=repo.path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert store.rows() != expected
    said = repo.materialize(at(0), at(1)).output
    assert store.rows() == expected
    assert "workers do not write" not in said
    assert pushed_by_workers(repo)[-1] > 60


def test_sqlite_is_left_to_the_run(tmp_path, models):
    repo = small_repo(tmp_path / "repo", models, seed=7, members=30)
    repo.set_engine(**PROCESSES)
    repo.publish(at(-1), at(0))
    assert pushed_by_workers(repo) == [0]


def worker_processes():
    """Ids of the workers of this process."""
    threads = Path("/proc/self/task").iterdir()
    children = [pid for thread in threads for pid in (thread / "children").read_text().split()]
    return [
        int(pid) for pid in children if b"be_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def wait_until(true):
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
