"""Tables and queries of sources in PostgreSQL, on a server whose zone is not UTC."""

import tracemalloc
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from feast import RepoConfig
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)

from activity_embeddings.transformations.arrow import TIMESTAMP
from activity_embeddings.transformations.errors import InvalidData
from activity_embeddings.transformations.offline.columns import RowsAsked
from activity_embeddings.transformations.offline.postgres_tables import PostgresTable
from activity_embeddings.transformations.times import to_us

pytestmark = pytest.mark.postgres

T = datetime(2024, 3, 10, 6, 30, tzinfo=UTC)  # New York changes its clocks half an hour later
HOUR = timedelta(hours=1)


def table_of(database, table="rows", time="at", **definition):
    source = {"query": table} if " " in table else {"table": table}
    return PostgresTable(
        PostgreSQLSource(name="rows", timestamp_field=time, **source, **definition),
        RepoConfig(
            project="p",
            registry="none.db",
            provider="local",
            entity_key_serialization_version=3,
            offline_store={"type": "postgres", **database.settings},
        ),
        "the rows",
    )


def read(table, columns=("id",), start=None, end=T + 24 * HOUR, **more):
    columns, start = {name: name for name in columns}, None if start is None else to_us(start)
    return table.read(RowsAsked(columns, ["id"], "event_timestamp", start, to_us(end), **more))


def create(database, columns, *rows):
    with database.connect() as connection:
        connection.execute(f"CREATE TABLE rows ({columns})")
        for row in rows:
            places = ", ".join(["%s"] * len(row))
            connection.execute(f"INSERT INTO rows VALUES ({places})", row)


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp"])
def test_moments_are_utc_and_the_ends_of_an_interval_belong_to_it(database, kind):
    moments = [T + n * HOUR for n in range(-3, 4)] + [T + timedelta(microseconds=1)]
    naive = kind == "timestamp"
    rows = [(i, t.replace(tzinfo=None) if naive else t) for i, t in enumerate(moments)]
    create(database, f"id bigint, at {kind}", *rows)
    table = table_of(database)
    got = read(table, start=T - HOUR, end=T)
    assert got.schema.field("event_timestamp").type == TIMESTAMP
    assert sorted(got.to_pylist(), key=lambda row: row["id"]) == [
        {"id": 2, "event_timestamp": T - HOUR},
        {"id": 3, "event_timestamp": T},
    ]
    assert len(read(table)) == len(moments)
    assert table.earliest() == to_us(T - 3 * HOUR)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("smallint", 7, 7),
        ("integer", 7, 7),
        ("bigint", 2**40, 2**40),
        ("text", "é", "é"),
        ("varchar(9)", "a", "a"),
        ("uuid", "0b1d5a3e-0000-0000-0000-000000000001", "0b1d5a3e-0000-0000-0000-000000000001"),
    ],
)
def test_ids_of_every_type_are_int64_or_text(database, kind, value, expected):
    create(database, f"id {kind}, at timestamptz", (value, T))
    table = table_of(database)
    got = read(table)
    assert got.schema.field("id").type == (pa.string() if isinstance(expected, str) else pa.int64())
    assert got["id"].to_pylist() == [expected]


@pytest.mark.parametrize("kind", ["numeric", "jsonb", "bytea", "interval", "numeric[]"])
def test_other_types_are_refused_by_name(database, kind):
    create(database, f"id {kind}, at timestamptz")
    table = table_of(database)
    assert table.columns == {"id": kind, "at": "timestamp with time zone"}
    with pytest.raises(InvalidData, match=r"'id' should be of a type .* Received: ") as raised:
        read(table)
    assert str(raised.value).endswith(f"Received: {kind}")


def test_rows_without_a_time_are_not_passed_over(database):
    create(database, "id bigint, at timestamptz", (1, T), (2, None))
    assert read(table_of(database), start=T)["event_timestamp"].null_count == 1


def test_arrays_and_what_a_query_computes(database):
    create(database, "id bigint, at timestamptz, v double precision[]", (1, T, [1.5, 2.5]))
    query = "SELECT id, at AS \"The Time\", v, v::real[] AS w, ARRAY['a', NULL] AS words FROM rows"
    got = read(table_of(database, query, "The Time"), ("id", "v", "w", "words"))
    assert got.schema.field("v").type == pa.list_(pa.float64())
    assert got.schema.field("w").type == pa.list_(pa.float32())
    assert got.select(["v", "w", "words"]).to_pylist() == [
        {"v": [1.5, 2.5], "w": [1.5, 2.5], "words": ["a", None]}
    ]


def test_a_column_may_be_optional_and_others_may_not(database):
    create(database, "id bigint, at timestamptz", (1, T))
    table = table_of(database)
    assert read(table, ("id", "event_id"), optional=["event_id"]).column_names == [
        "id",
        "event_timestamp",
    ]
    with pytest.raises(InvalidData, match=r"the rows: column 'event_id' is missing"):
        read(table, ("id", "event_id"))


def test_a_table_without_rows_has_the_types_of_its_columns(database):
    create(database, "id bigint, at timestamp")
    got = read(table_of(database))
    assert got.num_rows == 0
    assert got.schema.types == [pa.int64(), TIMESTAMP]


@pytest.mark.parametrize("table", ["nowhere", "SELECT 1 / 0 AS id, now() AS at"])
def test_what_cannot_be_read_is_one_error(database, table):
    with pytest.raises(InvalidData, match=r"the rows: expected a readable source\. Received: .*"):
        read(table_of(database, table))


def test_rows_never_become_python_objects(database):
    with database.connect() as connection:
        connection.execute(
            "CREATE TABLE rows AS SELECT id::bigint, timestamptz '2024-03-01' AS at, "
            "array_fill(1.0::real, ARRAY[64]) AS v FROM generate_series(1, 50000) AS id"
        )
    table = table_of(database)
    tracemalloc.start()
    got = read(table, ("id", "v"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert got.num_rows == 50_000
    assert got.nbytes > 12_800_000 > peak * 5
