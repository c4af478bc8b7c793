"""A real `feast serve` for tests, on a free port, stopped when the test ends."""

import contextlib
import json
import os
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import processes
from support.feast_repo import FEAST, Repo
from support.servers import free_port

SECONDS_TO_START = 120


@dataclass
class Server:
    """A running server: `url`, the master's process, and the file of what it printed.

    `tls` says whom its clients trust, `token` who they are.
    """

    url: str
    process: processes.Running | subprocess.Popen
    log: Path
    tls: ssl.SSLContext | None = None
    token: str | None = None

    def ask(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Post to /get-online-features; return status and parsed answer."""
        return self.post(json.dumps(body).encode())

    def post(self, body: bytes, content_type: str = "application/json") -> tuple[int, Any]:
        """Post bytes to /get-online-features; return status and parsed answer."""
        return self.call("/get-online-features", body, **{"Content-Type": content_type})

    def call(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """Ask for a path, with a body by POST; return status and parsed answer, None if empty."""
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(f"{self.url}{path}", data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60, context=self.tls) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def features(self, body: dict[str, Any]) -> dict[str, list[Any]]:
        """Return the features of a request that should succeed, by name."""
        status, answer = self.ask(body)
        assert status == 200, answer
        names = answer["metadata"]["feature_names"]
        return {
            name: column["values"] for name, column in zip(names, answer["results"], strict=True)
        }

    def workers(self) -> list[int]:
        """Return the process ids of the workers, which answer requests."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for file in tasks for pid in file.read_text().split()]


@contextmanager
def feast_server(
    repo: Repo,
    log: Path,
    *arguments: str,
    whole: bool = False,
    tls: ssl.SSLContext | None = None,
    **environment: str,
) -> Iterator[Server]:
    """Run `feast serve` while the body runs; with `whole` as from a shell, with all
    its imports, and as `examples/deploy` starts it: without typeguard, which takes seconds.

    Where the arguments name a certificate, `tls` trusts it.
    """
    port = free_port()
    serve = ["serve", "--port", str(port), "--max-requests", "0", *arguments]
    process: processes.Running | subprocess.Popen
    if whole:
        with log.open("w") as output:
            process = subprocess.Popen(
                [FEAST, *serve],
                cwd=repo.path,
                env={**os.environ, "PYTHONOPTIMIZE": "1", **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    else:
        process = processes.start(processes.FEAST, *serve, folder=repo.path, log=log, **environment)
    server = Server(f"http{'s' if tls else ''}://127.0.0.1:{port}", process, log, tls)
    try:
        _wait(server)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):  # of a server that has ended itself
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except (subprocess.TimeoutExpired, TimeoutError):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(server: Server) -> None:
    """Wait until the server is healthy."""
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=5, context=server.tls):
                return
        except (urllib.error.URLError, OSError):
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(
                    f"feast serve did not start:\n{server.log.read_text()}"
                ) from None
            time.sleep(0.1)
