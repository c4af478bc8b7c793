"""Rows of any online store, by Feast's own calls.

Read, merged, written: of two writers who meet, the last one wins. Have one writer a member, as by
partitioning a stream by member.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.online.base import (
    Given,
    KeepMerge,
    Row,
    RowMerge,
    Stored,
)
from activity_embeddings.transformations.online.protobuf import feast_rows


class AnyRows:
    """A `RowStore` of any store of Feast; what a store does otherwise is overridden.

    Parameters
    ----------
    config, store
        As Feast hands them to an engine.
    """

    ordered = False
    remote = False
    at_once = 10_000
    """Rows read and written together: bounds how long others wait, and sqlite's parameters."""

    def __init__(self, config: RepoConfig, store: OnlineStore) -> None:
        self.config = config
        self._store: Any = store

    def prepare(self, views: Sequence[FeatureView]) -> None:
        """Do nothing: `feast apply` has made what the store needs."""

    def read(
        self, view: FeatureView, keys: Sequence[EntityKey], features: Sequence[str] | None = None
    ) -> list[Stored]:
        """See `RowStore.read`."""
        wanted = list(features or [feature.name for feature in view.features])
        found: list[Stored] = []
        for start in range(0, len(keys), self.at_once):
            part = list(keys[start : start + self.at_once])
            # A list of its own: Feast's Redis store adds to the one it is given.
            for moment, values in self._store.online_read(self.config, view, part, [*wanted]):
                # Feast's Redis store answers a missing row with unset values as of 1970.
                there = values is not None and any(v.WhichOneof("val") for v in values.values())
                found.append((moment, values) if there else (None, None))
        return found

    def write(self, view: FeatureView, rows: Sequence[Row]) -> None:
        """See `RowStore.write`."""
        self._store.online_write_batch(self.config, view, list(rows), None)

    def publish(
        self, view: FeatureView, batch: pa.RecordBatch, keep: KeepMerge | None = None
    ) -> None:
        """See `RowStore.publish`."""
        rows = feast_rows(view, batch)
        if keep is None:
            self.write(view, rows)
        else:
            self.update(view, [key for key, *_ in rows], rows, keep)

    def delete(self, rows: Sequence[tuple[FeatureView, Sequence[EntityKey]]]) -> int:
        """See `RowStore.delete`."""
        raise InvalidInput(
            f"online store {self.config.online_store.type}: expected one whose rows can be "
            "deleted: sqlite, Redis or PostgreSQL. Received: another one; delete the rows of "
            "these views by the means of the store"
        )

    def update(
        self,
        view: FeatureView,
        keys: Sequence[EntityKey],
        given: Sequence[Given],
        merge: RowMerge[Given],
    ) -> None:
        """See `RowStore.update`."""
        for start in range(0, len(keys), self.at_once):
            part = slice(start, start + self.at_once)
            with self._alone():
                self._merge(view, keys[part], given[part], merge)

    def _merge(
        self,
        view: FeatureView,
        keys: Sequence[EntityKey],
        given: Sequence[Given],
        merge: RowMerge[Given],
    ) -> None:
        """Read, merge and write rows, nobody else being let in where `_alone` can do that."""
        rows = [row for row in merge.merge(given, self.read(view, keys)) if row is not None]
        if rows:
            self.write(view, rows)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other writers out while the body runs, where the store has a way to."""
        yield
