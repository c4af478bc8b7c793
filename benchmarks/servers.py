"""Online stores for benchmarks: empty ones, with a server of their own where they need one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.postgres_server import postgres_server
from support.redis_server import redis_server


@contextmanager
def _sqlite() -> Iterator[dict[str, Any]]:
    yield {"type": "activity_embeddings.ThreadedSqliteOnlineStore", "path": "online.db"}


@contextmanager
def _redis() -> Iterator[dict[str, Any]]:
    """A server without persistence."""
    with redis_server() as address:
        yield {"type": "redis", "connection_string": address, "skip_dedup": True}


@contextmanager
def _postgres() -> Iterator[dict[str, Any]]:
    """A server that syncs to disk at every commit."""
    durable = dict.fromkeys(("fsync", "full_page_writes", "synchronous_commit"), "on")
    with postgres_server(**durable, timezone="UTC", shared_buffers="512MB") as database:
        yield {"type": "postgres", **database.settings}


SETTINGS = {"sqlite": _sqlite, "redis": _redis, "postgres": _postgres}
"""Context managers of `online_store` in feature_store.yaml; sqlite's file is in the repo."""
