"""What tests need to start a server: a port, and to know when it answers."""

import socket
import subprocess
import time
from collections.abc import Callable


def free_port() -> int:
    """Return a port of this machine that nobody has, for now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def answers(
    process: subprocess.Popen,
    ask: Callable[[], bool],
    not_yet: type[Exception],
    *,
    seconds: float,
) -> bool:
    """Wait until a server answers.

    Parameters
    ----------
    process
        Of the server.
    ask
        Asks it, and returns whether it is this server that has answered.
    not_yet
        What that raises before the server is there.
    seconds
        To wait; then the process is killed.

    Returns
    -------
    answers
        False where the server ended instead, or another one answers.
    """
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        try:
            return ask()
        except not_yet:
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                return False
            time.sleep(0.02)
    return False
