"""Commands as processes of their own: what they take from start to exit."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PYTHON = Path(sys.executable)
FEAST = PYTHON.with_name("feast")


@dataclass(frozen=True)
class Usage:
    """Seconds, CPU seconds and peak bytes of a process."""

    seconds: float
    cpu: float
    peak: int


def run(command: Sequence[Any], folder: Path) -> Usage:
    """Run a command in a folder and return what it took; exit with what it said if it fails.

    Memory that this process has had is counted in the commands: what needs much of it is a command
    itself.
    """
    environment = {"FEAST_USAGE": "False", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)), cwd=folder, env=environment, stdout=said, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            said.seek(0)
            sys.exit(f"{' '.join(map(str, command))} failed\n{said.read()}")
    return Usage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
