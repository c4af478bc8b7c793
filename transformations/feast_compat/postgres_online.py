"""Feast's PostgreSQL online store: its connection and its tables.

`_get_conn` and the columns of the tables are those of Feast 0.67. It writes a value a statement,
and times without their zone into columns that have one, so that the database takes them for times
of the session's zone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from feast import FeatureView, RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey

from activity_embeddings.transformations.feast_compat.stores import (
    online_table,
    serialized_keys,
)

_COLUMNS = [
    "created_ts timestamp with time zone",
    "entity_key bytea",
    "event_ts timestamp with time zone",
    "feature_name text",
    "value bytea",
    "value_text text",
    "vector_value bytea",
]
_PUSHED = "activity_embeddings_pushed"
"""A temporary table, which hides any other of that name."""


class Column(NamedTuple):
    """What `copy_rows` gets of a feature: its name, and whether its texts follow its values."""

    feature: str
    has_text: bool


def session_zone(config: RepoConfig, store: Any) -> str:
    """Return the zone of the sessions in which a `PostgreSQLOnlineStore` reads and writes."""
    with store._get_conn(config, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW timezone")
        (zone,) = cursor.fetchone()
    return zone


def delete_rows(
    config: RepoConfig, store: Any, view: FeatureView, keys: Sequence[EntityKey]
) -> int:
    """Delete the rows of keys and return how many there were."""
    from psycopg.sql import SQL, Identifier

    statement = SQL("DELETE FROM {} WHERE entity_key = ANY(%s) RETURNING entity_key")
    table = Identifier(online_table(config, view))
    with store._get_conn(config, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(statement.format(table), (serialized_keys(config, keys),))
        return len({bytes(key) for (key,) in cursor.fetchall()})


def has_plain_tables(config: RepoConfig, store: Any, view: FeatureView) -> bool:
    """Return whether `copy_rows` can write a view's rows.

    Its table has to have the columns that it writes and no others, and the role to be allowed to
    make temporary tables.
    """
    settings = config.online_store
    if settings.vector_enabled or settings.enable_openai_compatible_store:
        return False
    with store._get_conn(config, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT has_database_privilege(current_database(), 'TEMPORARY'), ARRAY("
            "SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = to_regclass(quote_ident(%s)) AND attnum > 0 AND NOT attisdropped)",
            (online_table(config, view),),
        )
        may_make, columns = cursor.fetchone()
    return may_make and sorted(columns) == _COLUMNS


def copy_rows(
    config: RepoConfig,
    store: Any,
    view: FeatureView,
    columns: Sequence[Column],
    rows: memoryview,
    *,
    unless_later: str | None,
) -> set[bytes]:
    """Write rows of a view in one transaction: copied to a temporary table, and from there.

    Parameters
    ----------
    config, store
        As Feast hands them to an engine; a `PostgreSQLOnlineStore`.
    view
        Whose rows.
    columns
        What a row has after the key and both times.
    rows
        In the format of COPY, binary; times are timestamps without a zone.
    unless_later
        A feature: rows whose stored event time is later are not written. None: all are.

    Returns
    -------
    refused
        Keys of the rows that were not written.
    """
    from psycopg.sql import SQL, Composed, Identifier, Literal

    names = {"stored": Identifier(online_table(config, view)), "pushed": Identifier(_PUSHED)}
    fields, features = [], []
    for i, column in enumerate(columns):
        fields.append(SQL("value_{} bytea").format(SQL(str(i))))
        text = SQL("NULL::text")
        if column.has_text:
            text = SQL(f"text_{i}")
            fields.append(text + SQL(" text"))
        features.append(
            SQL("({}, value_{}, {})").format(Literal(column.feature), SQL(str(i)), text)
        )
    make = SQL(
        "CREATE TEMPORARY TABLE {pushed} "
        "(entity_key bytea, event_ts timestamp, created_ts timestamp, {fields}) ON COMMIT DROP"
    ).format(fields=SQL(", ").join(fields), **names)
    insert: Composed = SQL(
        "INSERT INTO {stored} AS stored "
        "(entity_key, feature_name, value, value_text, vector_value, event_ts, created_ts) "
        "SELECT entity_key, feature.name, feature.value, feature.text, NULL, event_ts, created_ts "
        "FROM {pushed} CROSS JOIN LATERAL (VALUES {features}) AS feature (name, value, text) "
        "ON CONFLICT (entity_key, feature_name) DO UPDATE SET value = excluded.value, "
        "value_text = excluded.value_text, vector_value = excluded.vector_value, "
        "event_ts = excluded.event_ts, created_ts = excluded.created_ts"
    ).format(features=SQL(", ").join(features), **names)
    if unless_later is not None:
        insert += SQL(" WHERE stored.event_ts <= excluded.event_ts")
    refused = SQL(
        "SELECT entity_key FROM {pushed} AS pushed JOIN {stored} AS stored USING (entity_key) "
        "WHERE stored.feature_name = {feature} AND stored.event_ts > pushed.event_ts"
    ).format(feature=Literal(unless_later), **names)
    with (
        store._get_conn(config, autocommit=True) as connection,
        connection.transaction(),
        connection.cursor() as cursor,
    ):
        cursor.execute(make)
        with cursor.copy(SQL("COPY {pushed} FROM STDIN (FORMAT BINARY)").format(**names)) as copy:
            copy.write(rows)
        cursor.execute(insert)
        if unless_later is None:
            return set()
        cursor.execute(refused)
        return {bytes(key) for (key,) in cursor.fetchall()}
