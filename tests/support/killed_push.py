"""Publishes rows in a process of its own, and kills it in the middle, if it is told to."""

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
from feast import Entity, FeatureView, Field, FileSource
from feast.types import Array, Int64
from feast.value_type import ValueType

from activity_embeddings.transformations.online.stores import row_store
from support.online_stores import feast_store

ROWS = 5_000
VIEW = FeatureView(
    name="killed",
    entities=[Entity(name="member", join_keys=["member_id"], value_type=ValueType.INT64)],
    schema=[
        Field(name="member_id", dtype=Int64),
        Field(name="items", dtype=Array(Int64)),
        Field(name="count", dtype=Int64),
    ],
    source=FileSource(path="unused.parquet", timestamp_field="event_timestamp"),
    ttl=timedelta(0),
)


def batch_of(item):
    """Rows that all hold one item."""
    return pa.RecordBatch.from_pydict(
        {
            "member_id": pa.array(range(ROWS)),
            "items": pa.array([[item] * 20] * ROWS, pa.list_(pa.int64())),
            "count": pa.array([item] * ROWS),
            "event_timestamp": pa.array(
                [datetime(2024, 3, 1, tzinfo=UTC)] * ROWS, pa.timestamp("us", "UTC")
            ),
        }
    )


def kill_in_the_middle(config, store):
    """Have this process killed while it writes: within a transaction, if there is one."""

    def kill(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    if config.online_store.type == "redis":
        from redis.connection import Connection

        send, blocks = Connection.send_packed_command, []

        def send_or_kill(self, command, **how):
            if isinstance(command[0], memoryview):
                blocks.append(1)
                if len(blocks) == 4:
                    kill()
            return send(self, command, **how)

        Connection.send_packed_command = send_or_kill
    elif config.online_store.type == "postgres":
        from psycopg import Cursor

        execute = Cursor.execute

        def execute_and_kill(self, query, *rest, **how):
            execute(self, query, *rest, **how)
            if "INSERT" in str(query):
                kill()

        Cursor.execute = execute_and_kill
    else:
        store._get_conn(config).set_progress_handler(kill, 100_000)


def main(settings, folder, item, *killed):
    """Publish rows that hold an item."""
    config, store = feast_store(Path(folder), **json.loads(settings))
    rows = row_store(config, store)
    rows.prepare([VIEW])
    if killed:
        kill_in_the_middle(config, store)
    rows.publish(VIEW, batch_of(int(item)))
