"""Rows of Feast's PostgreSQL store, whose times are right in sessions in UTC alone."""

from __future__ import annotations

from collections.abc import Sequence

from feast import FeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.feast_compat.postgres_online import (
    delete_rows,
    session_zone,
)
from activity_embeddings.transformations.online.any_store import AnyRows

UTC_ZONES = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "UCT", "Zulu")


class PostgresRows(AnyRows):
    """A `RowStore` of Feast's PostgreSQL store."""

    def delete(self, rows: Sequence[tuple[FeatureView, Sequence[EntityKey]]]) -> int:
        """See `RowStore.delete`; the disk has the bytes until the database vacuums the table."""
        return sum(delete_rows(self.config, self._store, view, keys) for view, keys in rows)

    def prepare(self, views: Sequence[FeatureView]) -> None:
        """Accept sessions in UTC.

        Raises
        ------
        InvalidInput
            They are in another zone, by which the time of every row would be off.
        """
        zone = session_zone(self.config, self._store)
        if zone not in UTC_ZONES:
            settings = self.config.online_store
            raise InvalidInput(
                "online store postgres: expected sessions in UTC, since Feast writes times without "
                f"their zone. Received: {zone}. Run ALTER ROLE {settings.user} SET timezone TO "
                "'UTC', or have an online store with a database and role of its own"
            )
