"""Processes of their own that start at once: forks of one that has imported what they all need.

To import Feast and TensorFlow takes seconds, which a suite that starts a hundred processes cannot
spare. What a fork shares with the others is imported modules and the seed of hashes, nothing else:
no test has run in the process that is forked. The workers of pytest-xdist are such forks, too, and
use the server that they come from. A test about the start itself, as of what is imported, printed
or seeded by it, starts a whole interpreter with `subprocess` instead.
"""

import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

FEAST = "from feast.cli.cli import cli; cli()"
"""The code of the command `feast`."""

COMMAND = "from activity_embeddings.training.commands import cli; cli()"
"""The code of the command `activity-embeddings`."""

PYTHON = """
import logging, os, runpy, sys
logging.root.handlers.clear()  # importing feast.cli.serve has set up logging
logging.root.setLevel(logging.WARNING)
if sys.argv[1].endswith(".py"):
    sys.argv = sys.argv[1:]
    sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    exec(sys.argv[-1])
"""
"""The code of `python`, as called with a script, or with `-c code` at last; other options have no
effect."""

_IMPORTED = [
    "support.unchecked",
    "pytest",
    "feast.cli.cli",
    "feast.infra.offline_stores.duckdb",
    "feast.infra.online_stores.sqlite",
    "feast.infra.online_stores.postgres_online_store.postgres",
    "feast.infra.registry.sql",
    "tensorflow",
    "keras",
    "pyiceberg.catalog.sql",
    "pyiceberg.io.pyarrow",
    "activity_embeddings.training.commands",
    "activity_embeddings.training.evaluation.evaluate",
    "activity_embeddings.training.fitting.train",
    "activity_embeddings.transformations.batch.engine",
    "activity_embeddings.transformations.inference.embedder",
    "activity_embeddings.transformations.offline.duckdb",
    "activity_embeddings.transformations.offline.postgres_store",
    "activity_embeddings.transformations.offline.sinks.iceberg",
    "activity_embeddings.transformations.offline.sinks.postgres",
    "activity_embeddings.transformations.serving.process",
]
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(_IMPORTED)


@dataclass
class Running:
    """A process: what it prints is in the files `stdout` and `stderr`."""

    process: BaseProcess
    stdout: Path
    stderr: Path

    @property
    def pid(self) -> int:
        """The process id."""
        assert self.process.pid
        return self.process.pid

    def poll(self) -> int | None:
        """Return the exit code, below 0 the signal that ended it, or None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once there is one."""
        self.process.join(timeout)
        code = self.poll()
        if code is None:
            raise TimeoutError(f"process {self.pid} runs after {timeout} s")
        return code

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Wait until it has printed a text."""
        deadline = time.monotonic() + seconds
        while text not in self.stdout.read_text():
            assert self.poll() is None, self.stderr.read_text()
            assert time.monotonic() < deadline, f"{text!r} was not printed within {seconds} s"
            time.sleep(0.005)


def start(
    code: str,
    *arguments: str | Path,
    folder: Path | None = None,
    stdin: str = "",
    log: Path | None = None,
    **environment: str,
) -> Running:
    """Start `python -c code arguments` in a folder and a session of its own.

    With `log` both outputs go to that file.
    """
    with tempfile.NamedTemporaryFile("w", prefix="stdin-", delete=False) as file:
        file.write(stdin)
    stdout = log or Path(f"{file.name}.stdout")
    stderr = log or Path(f"{file.name}.stderr")
    process = forks.Process(
        target=_run,
        args=(
            code,
            [*map(str, arguments)],
            folder or Path.cwd(),
            {**os.environ, **environment},
            (Path(file.name), stdout, stderr),
        ),
    )
    stdout.touch()
    stderr.touch()
    _start_server()
    process.start()
    return Running(process, stdout, stderr)


def run(
    code: str,
    *arguments: str | Path,
    folder: Path | None = None,
    stdin: str = "",
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run `python -c code arguments` to its end, as `subprocess.run` does."""
    running = start(code, *arguments, folder=folder, stdin=stdin, **environment)
    returncode = running.wait()
    printed = []
    for file in (running.stdout, running.stderr):
        printed.append(file.read_text())
        file.unlink()
    return subprocess.CompletedProcess(["-c", *map(str, arguments)], returncode, *printed)


def read_environment() -> None:
    """Read what pyiceberg reads of the environment when it is imported."""
    if any(name.startswith("PYICEBERG_") for name in os.environ):
        import pyiceberg.catalog

        pyiceberg.catalog._ENV_CONFIG = pyiceberg.catalog.Config()


@cache
def _start_server() -> None:
    """Start the server; what libraries print when they are imported says nothing of tests."""
    stderr = os.dup(2)
    # Where `support` is; processes have it from whoever starts them, as all of `sys.path`.
    path = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(path))
    with tempfile.TemporaryFile() as log, found:
        os.dup2(log.fileno(), 2)
        try:
            forkserver._forkserver.ensure_running()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _run(
    code: str,
    arguments: list[str],
    folder: Path,
    environment: dict[str, str],
    files: tuple[Path, Path, Path],
) -> None:
    """Be the process."""
    gc.freeze()  # what was imported is no garbage
    # What it starts comes from the same server, as `ensure_running` says of itself and does not.
    forkserver._forkserver.ensure_running = resource_tracker.ensure_running
    multiprocessing.set_start_method(None, force=True)  # the default, as in any other process
    os.setsid()
    stdin, stdout, stderr = files
    for number, file, flags in (
        (0, stdin, os.O_RDONLY),
        (1, stdout, os.O_WRONLY | os.O_APPEND),
        (2, stderr, os.O_WRONLY | os.O_APPEND),
    ):
        opened = os.open(file, flags)
        os.dup2(opened, number)
        os.close(opened)
    stdin.unlink()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  multiprocessing gave it /dev/null
    os.chdir(folder)
    os.environ.pop("PYTHONPATH", None)  # that of the server
    os.environ.update(environment)  # what imports have set stays
    read_environment()
    sys.argv = ["-c", *arguments]
    exec(compile(code, "-c", "exec"), {"__name__": "__main__"})
