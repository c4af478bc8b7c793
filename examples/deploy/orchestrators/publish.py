"""Publish one interval, for orchestrators: an exit status that may be another later says so.

Needs nothing but the command `activity-embeddings`, in the same environment or, as
`docker run IMAGE activity-embeddings ...`, in an image.
"""

import subprocess
from datetime import datetime

FINAL = (1, 2, 3)
"""Bad input, wrong usage, refused by a guard: somebody has to look."""


class Refused(Exception):
    """The run would say the same again."""


class TryAgain(Exception):
    """Another run is under way (4), a store does not answer (5), or the run was killed."""


def publish(start: datetime, end: datetime, command: tuple[str, ...] = ()) -> None:
    """Publish the time from `start` to `end`; run again, it changes nothing.

    Parameters
    ----------
    start, end
        The interval of the orchestrator's run.
    command
        What runs the command and where, `activity-embeddings -C /repo` unless said.
    """
    run = command or ("activity-embeddings", "-C", "/repo")
    status = subprocess.run(
        [*run, "materialize", start.isoformat(), end.isoformat()], check=False
    ).returncode
    if status:
        said = f"exit status {status}; what was wrong is the last line that the run has printed"
        raise Refused(said) if status in FINAL else TryAgain(said)
