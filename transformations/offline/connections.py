"""Connections to a database that are kept while a run lasts.

A run asks a database many small questions. To connect for each would take longer than the answers:
PostgreSQL starts a process and checks a password, and ADBC reads the catalogue of types.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

SECONDS_IDLE = 2.0
"""How long a connection may be idle and still be used again: servers close those that idle."""


class Closable(Protocol):
    """A connection."""

    def close(self) -> None:
        """End it; a transaction that is open is undone."""


C = TypeVar("C", bound=Closable)


class _Kept(threading.local):
    """The idle connections of a thread, by how and where to; None where none are kept."""

    def __init__(self) -> None:
        self.idle: dict[tuple[Callable[[str], Any], str], list[tuple[Any, float]]] | None = None


_KEPT = _Kept()


@contextmanager
def kept_connections() -> Iterator[None]:
    """Use connections again in the body, as far as this thread makes them, and close them after.

    Inside of another such body it does nothing.
    """
    if _KEPT.idle is not None:
        yield
        return
    _KEPT.idle = {}
    try:
        yield
    finally:
        idle, _KEPT.idle = _KEPT.idle, None
        for connections in idle.values():
            for connection, _ in connections:
                connection.close()


@contextmanager
def connection_to(connect: Callable[[str], C], info: str) -> Iterator[C]:
    """Give a connection that nobody else uses; where the body fails, it is closed.

    Parameters
    ----------
    connect
        Makes a connection.
    info
        What it is called with.
    """
    connection = _taken(connect, info)
    if connection is None:
        connection = connect(info)
    try:
        yield connection
    except BaseException:
        connection.close()
        raise
    if _KEPT.idle is None:
        connection.close()
    else:
        _KEPT.idle.setdefault((connect, info), []).append((connection, time.monotonic()))


def _taken(connect: Callable[[str], C], info: str) -> C | None:
    """Return a connection that was kept, None if there is none; those that idled are closed."""
    connections = (_KEPT.idle or {}).get((connect, info), [])
    while connections:
        connection, since = connections.pop()
        if time.monotonic() - since < SECONDS_IDLE:
            return connection
        connection.close()
    return None
