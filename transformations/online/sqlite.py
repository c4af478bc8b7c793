"""Rows of Feast's sqlite store: a lock file beside the database keeps other writers out.

It is held from the read to the write, by any number of processes of one machine.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from feast import FeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey

from activity_embeddings.transformations.feast_compat.sqlite import (
    database_of,
    delete_rows,
    keep_readable,
    read_feature,
)
from activity_embeddings.transformations.online.any_store import AnyRows
from activity_embeddings.transformations.online.base import Given, RowMerge, Stored


class SqliteRows(AnyRows):
    """A `RowStore` of Feast's sqlite store."""

    def prepare(self, views: Sequence[FeatureView]) -> None:
        """Create tables that are missing, and let others read while rows are pushed.

        They are where the repo was moved and the file stayed behind. Creating a table that exists
        does nothing.
        """
        self._store.update(self.config, [], list(views), [], [], partial=True)
        keep_readable(self.config, self._store)

    def delete(self, rows: Sequence[tuple[FeatureView, Sequence[EntityKey]]]) -> int:
        """See `RowStore.delete`. The file is written anew: free pages keep what was in them."""
        if not rows:
            return 0
        with self._alone():
            return delete_rows(self.config, self._store, rows)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock file while the body runs; the lock dies with its process."""
        # The database itself: those who reach it by another name take the same lock.
        database = database_of(self.config).resolve()
        database.parent.mkdir(parents=True, exist_ok=True)
        with database.with_name(f"{database.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read_needed(
        self,
        view: FeatureView,
        keys: Sequence[EntityKey],
        given: Sequence[Given],
        merge: RowMerge[Given],
    ) -> list[Stored]:
        """Read the one feature that decides, and the rows that are needed whole.

        Feast reads and parses every feature of a row, which takes half as long as writing it.
        """
        if merge.decided_by is None:
            return self.read(view, keys)
        values = read_feature(self.config, self._store, view, keys, merge.decided_by)
        needed = [i for i, value in values if merge.needs(given[i], value)]
        stored: list[Stored] = [(None, None)] * len(keys)
        for i, row in zip(needed, self.read(view, [keys[i] for i in needed]), strict=True):
            stored[i] = row
        return stored
