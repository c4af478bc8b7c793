"""A real Redis for tests: `redis-server` on a free port, in memory, gone when the test ends."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import redis

from support.servers import answers, free_port

SECONDS_TO_START = 30


@contextmanager
def redis_server(*, cluster: bool = False) -> Iterator[str]:
    """Run a Redis without persistence while the body runs; give it as `localhost:PORT`.

    With `cluster` it is a cluster of one node.
    """
    binary = shutil.which("redis-server")
    assert binary, "redis-server is missing: apt-get install redis-server (.ci/run does)"
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        process, port = _start(binary, folder, cluster)
        try:
            if cluster:
                _take_all_slots(port)
            yield f"localhost:{port}"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def redis_sentinel(address: str) -> Iterator[str]:
    """Run a Sentinel that knows a server as `mymaster` while the body runs."""
    binary = shutil.which("redis-server")
    host, watched = "127.0.0.1", address.split(":")[1]
    with tempfile.TemporaryDirectory(prefix="sentinel-") as folder:
        for _ in range(5):
            port = free_port()
            config = Path(folder) / "sentinel.conf"
            config.write_text(
                f"port {port}\nbind {host}\ndir {folder}\n"
                f"sentinel monitor mymaster {host} {watched} 1\n"
            )
            process = subprocess.Popen(
                [binary, str(config), "--sentinel"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                with redis.Redis(port=port) as client:
                    ask = partial(_is_ours, process, client)
                    if answers(process, ask, redis.ConnectionError, seconds=SECONDS_TO_START):
                        yield f"localhost:{port}"
                        return
            finally:
                process.terminate()
                process.wait()
    raise AssertionError("the Sentinel did not start")


def use_redis(repo, address: str, *settings: str) -> None:
    """Give a `feast_repo.Repo` an online store in Redis; more settings are lines of its YAML."""
    lines = ["type: redis", f"connection_string: {address}", *settings]
    repo.edit(
        "feature_store.yaml",
        "  type: activity_embeddings.ThreadedSqliteOnlineStore    # sqlite, a connection a thread\n"
        "  path: data/online.db\n",
        "".join(f"  {line}\n" for line in lines),
    )


def _start(binary: str, folder: str, cluster: bool) -> tuple[subprocess.Popen, int]:
    """Start a server; another port is tried where somebody else was faster to take the first."""
    for _ in range(5):
        port = free_port()
        log = Path(folder) / f"{port}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [
                    binary,
                    *("--port", str(port), "--bind", "127.0.0.1", "--dir", folder),
                    *("--save", "", "--appendonly", "no"),
                    *("--cluster-enabled", "yes" if cluster else "no"),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        with redis.Redis(port=port) as client:
            ask = partial(_is_ours, process, client)
            if answers(process, ask, redis.ConnectionError, seconds=SECONDS_TO_START):
                return process, port
    raise AssertionError(f"redis-server did not start:\n{log.read_text()}")


def _take_all_slots(port: int) -> None:
    with redis.Redis(port=port) as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            time.sleep(0.02)


def _is_ours(process: subprocess.Popen, client: redis.Redis) -> bool:
    """Return whether the server that answers has our process id."""
    return client.info("server")["process_id"] == process.pid
