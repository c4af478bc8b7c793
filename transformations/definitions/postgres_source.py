"""A table of snapshots in PostgreSQL, as a source of Feast that `feast apply` can check."""

from __future__ import annotations

from typing import Any

from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)

from activity_embeddings.transformations.definitions.snapshot_source import CheckedSource
from activity_embeddings.transformations.definitions.store_config import require_postgres
from activity_embeddings.transformations.errors import InvalidInput, quote
from activity_embeddings.transformations.offline.sinks.base import table_name

LONGEST_NAME = 63
"""Bytes of a name in PostgreSQL; of longer ones it drops the rest."""


class PostgreSQLTableSource(CheckedSource, PostgreSQLSource, require_store=require_postgres):
    """A table of snapshots."""

    def __eq__(self, other: object) -> bool:
        """Return whether it is the same definition; Feast's own does not compare tables."""
        return (
            isinstance(other, PostgreSQLSource)
            and super().__eq__(other)
            and self.get_table_query_string() == other.get_table_query_string()
        )

    def __hash__(self) -> int:
        return super().__hash__()


def table_source(schema: str, view: str, version: str, **definition: Any) -> PostgreSQLTableSource:
    """Return the source `<schema>.<view>__v<version>`; further arguments are those of Feast's.

    Raises
    ------
    InvalidInput
        A name is none that the table can have.
    """
    table = table_name(view, version)
    for what, name in (("schema", schema), ("table", table)):
        # Not printable are NUL, which no name holds, and what is no UTF-8.
        fits = name.isprintable() and 0 < len(name.encode()) <= LONGEST_NAME
        if not fits or set(name) & set('"%'):
            raise InvalidInput(
                f"{view}: expected a name of a {what} in PostgreSQL: at most {LONGEST_NAME} bytes, "
                "all printable, and no quotation mark or per cent sign. Received: "
                f"{quote(name)}"
            )
    return PostgreSQLTableSource(table=f'"{schema}"."{table}"', **definition)
