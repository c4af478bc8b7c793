"""The connection of Feast's sqlite store."""

from __future__ import annotations

from typing import Any

from feast import RepoConfig


def keep_readable(config: RepoConfig, store: Any) -> None:
    """Keep what this process writes from locking readers out before it is committed.

    A transaction that does not fit into sqlite's cache, as of the 10,000 rows that are pushed
    together, would go to the file early. No reader gets in from then until the commit: for seconds,
    where Feast's readers wait for five at most. In memory such a transaction takes some 30 MB.

    Parameters
    ----------
    config, store : as Feast hands them to an engine; a `SqliteOnlineStore`.
    """
    store._get_conn(config).execute("PRAGMA cache_spill = OFF")
