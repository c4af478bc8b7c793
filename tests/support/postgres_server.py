"""A real PostgreSQL for tests: a server of its own on a free port, gone when the tests end."""

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from support.servers import answers, free_port
from support.system import postgres_program

SECONDS_TO_START = 30
USER, PASSWORD = "feast", "word"


@dataclass(frozen=True)
class Database:
    """One database of a server, as feature_store.yaml says it."""

    host: str
    port: int
    database: str = "postgres"

    @property
    def settings(self) -> dict[str, str | int]:
        """Settings under `offline_store`, but for the type."""
        return {
            "host": self.host,
            "port": self.port,
            "database": self.database,
            "user": USER,
            "password": PASSWORD,
            "sslmode": "disable",
        }

    @property
    def connection(self) -> dict[str, Any]:
        """What libpq connects with."""
        return {
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
            "user": USER,
            "password": PASSWORD,
        }

    @property
    def address(self) -> str:
        """What SQLAlchemy connects with."""
        server = f"{USER}:{PASSWORD}@{self.host}:{self.port}"
        return f"postgresql+psycopg://{server}/{self.database}"

    def connect(self) -> psycopg.Connection:
        """Return a connection in which every statement is a transaction."""
        return psycopg.connect(**self.connection, autocommit=True)

    def new_user(self) -> str:
        """Create a user of this database alone, since roles belong to the server."""
        name = f"writer_{self.database}"
        with self.connect() as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
        return name

    def new(self) -> "Database":
        """Return a new, empty database of the same server."""
        name = f"d{uuid.uuid4().hex}"
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return replace(self, database=name)


@contextmanager
def postgres_server(**settings: str) -> Iterator[Database]:
    """Run a PostgreSQL while the body runs.

    What it holds need not survive a crash, unless settings of the server say something else.
    """
    with tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp") as folder:
        os.chmod(folder, 0o700)
        user = _unprivileged(Path(folder))
        data = Path(folder) / "data"
        password = Path(folder) / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        _run(
            [
                _program("initdb"),
                *("--pgdata", str(data), "--username", USER, "--pwfile", str(password)),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--no-sync"),
            ],
            folder,
            user,
        )
        process, port = _start(folder, data, user, settings)
        try:
            yield Database("127.0.0.1", port)
        finally:
            process.send_signal(signal.SIGINT)  # SIGTERM would wait for clients
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def use_postgres(repo, database: Database, kind: str = "postgres") -> None:
    """Give a `feast_repo.Repo` an offline store in PostgreSQL."""
    lines = [f"type: {kind}", *(f"  {key}: {value}" for key, value in database.settings.items())]
    duckdb = (
        "type: activity_embeddings.OrderedDuckDBOfflineStore    # duckdb, rows in request order"
    )
    repo.edit("feature_store.yaml", duckdb, "\n".join(lines))


def _program(name: str) -> str:
    path = postgres_program(name)
    assert path, f"{name} is missing: apt-get install postgresql (.ci/run does)"
    return path


def _unprivileged(folder: Path) -> str | None:
    """Return as whom to run, None for the user of the tests: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    shutil.chown(folder, "nobody")
    return "nobody"


def _run(command: Sequence[str], folder: str, user: str | None) -> None:
    done = subprocess.run(
        command, cwd=folder, user=user, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _start(
    folder: str, data: Path, user: str | None, more: dict[str, str]
) -> tuple[subprocess.Popen, int]:
    """Start a server; another port is tried where somebody else was faster to take the first."""
    for _ in range(5):
        port = free_port()
        log = Path(folder) / f"{port}.log"
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": folder,
            "port": port,
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            # Another zone than UTC, which what is read must not depend on.
            "timezone": "America/New_York",
            **more,
        }
        with log.open("w") as output:
            process = subprocess.Popen(
                [
                    _program("postgres"),
                    *("-D", str(data)),
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                cwd=folder,
                user=user,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        ask = partial(_is_ours, Database("127.0.0.1", port), data)
        if answers(process, ask, psycopg.OperationalError, seconds=SECONDS_TO_START):
            return process, port
    raise AssertionError(f"postgres did not start:\n{log.read_text()}")


def _is_ours(database: Database, data: Path) -> bool:
    """Return whether the server that answers has our folder."""
    with database.connect() as connection:
        return connection.execute("SHOW data_directory").fetchone() == (str(data),)
