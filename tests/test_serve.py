"""Request-time embeddings over HTTP: the real `feast serve`, on sqlite and on a real Redis."""

import contextlib
import shutil
import socket
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import redis
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from activity_embeddings.transformations.serving.entity_rows import entity_rows
from support.feast_repo import (
    at,
    small_repo,
    us,
)
from support.feast_server import feast_server
from support.redis_server import redis_server, use_redis

pytestmark = [pytest.mark.slow, pytest.mark.process]

T = at(4)
MEMBERS = [*range(1, 43), 999]
RECENT = ["recent_job_ids", "recent_job_actions", "recent_job_timestamps"]
COLUMNS = ["member_id", *RECENT, "request_timestamp"]


def publish(path, models, address=None):
    repo = small_repo(path, models)
    if address is not None:
        use_redis(repo, address)
    repo.publish(at(-41), T)
    return repo


def body(rows, service="recommendations_v2_realtime"):
    """Return entity rows as the JSON that the server takes: a list for each column."""
    return {
        "feature_service": service,
        "entities": {name: [row[name] for row in rows] for name in rows[0]},
    }


def batch_values(server):
    return server.features(
        body([{"member_id": member} for member in MEMBERS], "recommendations_v2")
    )


def same(one, other):
    vectors = [
        np.array([[0.0] * 64 if v is None else v for v in answer["activity_embedding"]])
        for answer in (one, other)
    ]
    assert np.abs(vectors[0] - vectors[1]).max() < 1e-5
    return True


@pytest.fixture(scope="module")
def metrics_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def repo(tmp_path_factory, models):
    return publish(tmp_path_factory.mktemp("serve") / "repo", models)


@pytest.fixture(scope="module")
def server(repo, tmp_path_factory, metrics_folder):
    log = tmp_path_factory.mktemp("log") / "serve.log"
    # Feast knows the one name of this variable, the Prometheus client the other.
    variables = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")
    with feast_server(repo, log, **dict.fromkeys(variables, str(metrics_folder))) as running:
        yield running


def test_models_and_vectors_are_there_before_the_first_request_without_tensorflow(tmp_path, repo):
    with feast_server(repo, tmp_path / "serve.log", whole=True) as server:
        (worker,) = server.workers()
        files = Path(f"/proc/{worker}/maps").read_text()
        assert "libtensorflow" not in files
        assert "ai_edge_litert" in files
        before = [line for line in files.splitlines() if ".so" in line]
        server.features(body(entity_rows([14], request_timestamp=us(T) / 1e6)))
        after = Path(f"/proc/{worker}/maps").read_text().splitlines()
        libraries = {line.split()[-1] for line in after if "tensorflow" in line or "litert" in line}
        assert libraries <= {line.split()[-1] for line in before}


def test_over_http_every_member_has_the_batch_value(server):
    got = server.features(body(entity_rows(MEMBERS, request_timestamp=T)))
    batch = batch_values(server)
    assert got["member_id"] == MEMBERS
    assert same(got, batch)
    assert got["activity_count"] == [count or 0 for count in batch["activity_count"]]


def test_over_http_new_activity_counts(server):
    recent = {14: [(1, "APPLY", at(3.99)), (2, "SAVE", at(3.98)), (77_777, "SAVE", at(3.98))]}
    rows = entity_rows([14, 15], recent, request_timestamp=T)
    got = server.features(body(rows))
    assert got["new_activity_count"] == [2, 0]
    assert server.features(body(rows, "search_v1_realtime"))["new_activity_count"] == [2, 0]


def test_many_clients_get_each_their_own_answer(server):
    def ask(member):
        return server.features(body(entity_rows([member], request_timestamp=T)))

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, MEMBERS * 3))
    assert [answer["member_id"] for answer in answers] == [[member] for member in MEMBERS * 3]
    batch = dict(zip(MEMBERS, batch_values(server)["activity_embedding"], strict=True))
    for member, answer in zip(MEMBERS * 3, answers, strict=True):
        assert same(answer, {"activity_embedding": [batch[member]]})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"recent_job_ids": [[1, 2]]}, "should be lists of equal length, or null"),
        ({"recent_job_timestamps": [["noon"]]}, "an ISO 8601 string. Received: 'noon'"),
        ({"request_timestamp": [4e9]}, "should not be in the future"),
        ({"recent_job_ids": ...}, "should be in every row, as null where there is nothing"),
        ({name: [] for name in COLUMNS}, "at least one entity"),
        (dict.fromkeys(COLUMNS, ...), "at least one entity"),
    ],
    ids=[
        "unequal lengths",
        "no time",
        "future",
        "left out",
        "no members",
        "empty request",
    ],
)
def test_a_malformed_request_is_422_with_one_clear_message_and_the_server_goes_on(
    server, change, message
):
    row = {
        "member_id": [14],
        "recent_job_ids": [[1]],
        "recent_job_actions": [["APPLY"]],
        "recent_job_timestamps": [[us(T) / 1e6 - 1]],
        "request_timestamp": [us(T) / 1e6],
    }
    entities = {k: v for k, v in (row | change).items() if v is not ...}
    status, answer = server.ask(
        {"feature_service": "recommendations_v2_realtime", "entities": entities}
    )
    assert status == 422
    assert message in str(answer)
    assert server.features(body(entity_rows([14], request_timestamp=T)))["activity_count"] == [8]


def test_lists_that_are_all_empty_are_no_new_activity(server):
    nothing = body(entity_rows([14, 15], request_timestamp=T))
    empty = {**nothing, "entities": {**nothing["entities"], **{n: [[], []] for n in RECENT}}}
    assert server.features(empty) == server.features(nothing)


def test_times_of_several_types_in_one_request_are_one_moment_each(server):
    times = [us(T) / 1e6 - 60, int(us(T) / 1e6) - 60, at(4 - 60 / 86_400).isoformat()]
    asked = {
        "member_id": [14, 15, 16],
        "recent_job_ids": [[1], [1, 1], [1]],
        "recent_job_actions": [["SAVE"], ["SAVE", "SAVE"], ["SAVE"]],
        "recent_job_timestamps": [[times[0]], [times[1], times[0]], [times[2]]],
        "request_timestamp": [us(T) / 1e6, T.isoformat(), int(us(T) / 1e6)],
    }
    got = server.features({"feature_service": "recommendations_v2_realtime", "entities": asked})
    assert got["new_activity_count"] == [1, 1, 1]
    assert got["last_activity_at"] == [us(T) // 1_000_000 - 60] * 3


def test_counters_can_be_scraped(server, metrics_folder):
    def count(name):
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(metrics_folder))
        value = registry.get_sample_value(f"activity_embedding_{name}", {"model": "cnn"})
        return value or 0.0

    names = ("requests_total", "members_total", "newest_event_age_seconds_count")
    before = [count(name) for name in names]
    server.features(body(entity_rows([14, 15, 999], request_timestamp=T)))
    assert [count(n) - b for n, b in zip(names, before, strict=True)] == [1, 3, 2]


def test_a_request_may_be_too_large(server):
    one = body(entity_rows([14], {14: [(1, "APPLY", at(3.9))] * 1_000}, request_timestamp=T))
    assert server.features(one)["new_activity_count"] == [1]
    many = body(entity_rows([14], {14: [(1, "APPLY", at(3.9))] * 1_001}, request_timestamp=T))
    status, answer = server.ask(many)
    assert status == 422 and "lists of at most 1,000 elements. Received: one of 1,001" in str(
        answer
    )
    status, answer = server.ask(body(entity_rows([14] * 10_001, request_timestamp=T)))
    assert status == 422 and "expected at most 10,000 rows. Received: 10,001" in str(answer)
    status, answer = server.post(b"{" + b" " * 2**24)
    assert status == 413 and "expected at most 16,777,216 bytes" in str(answer)
    assert server.features(one)["new_activity_count"] == [1]


def test_a_server_that_cannot_load_a_model_ends(tmp_path, models):
    repo = publish(tmp_path / "repo", models)
    (repo.path / "models" / "unweighted_average" / "saved_model.pb").unlink()
    ends = pytest.raises(AssertionError, match="feast serve did not start")
    with ends, feast_server(repo, tmp_path / "serve.log"):
        pass
    log = (tmp_path / "serve.log").read_text()
    assert "the server ends, since it cannot start: model" in log
    assert "expected a TensorFlow SavedModel. Received: no file saved_model.pb" in log


def ready(server):
    return server.call("/ready")


def test_a_server_says_whether_it_is_ready_and_answers_what_it_can(tmp_path, models):
    repo = publish(tmp_path / "repo", models)
    with feast_server(repo, tmp_path / "serve.log") as server:
        rows = entity_rows([14], request_timestamp=T)
        expected = server.features(body(rows))
        assert expected["activity_count"] == [8]
        status, said = ready(server)
        assert status == 200 and said["problems"] == []
        assert "job_activity_embedding_cnn" in said["views"]
        # What is loaded stays. The online store has the newest vectors, too.
        model = repo.path / "models" / "unweighted_average" / "saved_model.pb"
        model.rename(model.with_suffix(".gone"))
        shutil.rmtree(repo.data / "vector_tables")
        assert ready(server)[0] == 200
        assert server.features(body(rows, "search_v1_realtime"))["activity_count"] == [8]
        model.with_suffix(".gone").rename(model)
        repo.materialize(at(-41), T, "--views", "job_embedding")
        assert server.features(body(rows)) == expected

        registry = repo.data / "registry.db"
        registry.rename(registry.with_suffix(".gone"))
        status, said = ready(server)
        assert status == 503 and not said["ready"]
        assert said["problems"][0].startswith("registry: ")
        registry.with_suffix(".gone").rename(registry)
        assert ready(server)[0] == 200
        with contextlib.closing(sqlite3.connect(repo.data / "online.db")) as connection:
            connection.execute("DROP TABLE activity_embeddings_job_activity_sequence")
        status, said = ready(server)
        assert status == 503
        assert said["problems"][0].startswith("online store: OperationalError: no such table")


@pytest.mark.redis
def test_on_redis_the_answers_are_those_of_sqlite(tmp_path, models, server):
    with redis_server() as address:
        repo = publish(tmp_path / "repo", models, address)
        with feast_server(repo, tmp_path / "serve.log") as on_redis:
            assert same(batch_values(on_redis), batch_values(server))
            events = [(1, "APPLY", at(3.99)), (77_777, "APPLY", at(3.99))]
            recent = dict.fromkeys(MEMBERS[::3], events)
            rows = entity_rows(MEMBERS, recent, request_timestamp=T)
            got, expected = on_redis.features(body(rows)), server.features(body(rows))
            assert same(got, expected)
            for name in ("activity_count", "new_activity_count", "last_activity_at"):
                assert got[name] == expected[name]

            port = int(address.split(":")[1])
            redis.Redis(port=port).shutdown(nosave=True)
            status, answer = on_redis.ask(body(rows))
            assert status == 500
            assert "Connection refused" in answer
            with redis_on(port, tmp_path):
                # It came back without data: no stored activity, but the request's own.
                got = on_redis.features(body(rows))
                assert got["activity_count"] == [1 if m in recent else 0 for m in MEMBERS]


def redis_on(port, folder):
    """Start a Redis on a given port; it is stopped when the context ends."""
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while True:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return _stopping(process)
        assert process.poll() is None, "redis-server did not start"
        assert time.monotonic() < deadline, "redis-server does not answer"
        time.sleep(0.02)


class _stopping:
    def __init__(self, process):
        self.process = process

    def __enter__(self):
        return self.process

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()
