"""Rows of DynamoDB go out from many threads, and are those that one thread would have written.

The server of moto imitates it.
"""

import threading
from datetime import UTC, datetime, timedelta
from functools import partial

import boto3
import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import Int64List, Value

from activity_embeddings.transformations.batch.executors import writing
from activity_embeddings.transformations.batch.executors.processes import ProcessWorkers
from activity_embeddings.transformations.batch.executors.writing import PartWriter
from activity_embeddings.transformations.online import dynamodb as dynamo_rows
from activity_embeddings.transformations.online.any_store import AnyRows
from activity_embeddings.transformations.online.dynamodb import DynamoRows
from activity_embeddings.transformations.online.protobuf import entity_keys
from activity_embeddings.transformations.online.stores import row_store
from support.online_stores import PLAIN, feast_store
from support.s3_server import CREDENTIALS, REGION, s3_server

pytestmark = [pytest.mark.slow, pytest.mark.process]

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
STAMPS = pa.timestamp("us", "UTC")
ROWS_A_CALL = 40
MEMBERS = 5 * ROWS_A_CALL + 3
KEYS = entity_keys(PLAIN, pa.array(range(MEMBERS)))


@pytest.fixture(scope="module")
def dynamodb():
    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield address


@pytest.fixture(autouse=True)
def small_calls(monkeypatch):
    monkeypatch.setattr(dynamo_rows, "ROWS_A_CALL", ROWS_A_CALL)


@pytest.fixture
def new(tmp_path, dynamodb):
    """Makes an empty store: (config, store)."""

    def make(template):
        settings = {"type": "dynamodb", "region": REGION, "endpoint_url": dynamodb}
        settings["table_name_template"] = template + ".{project}.{table_name}"
        config, store = feast_store(tmp_path, **settings)
        store.update(config, [], [PLAIN], [], [], partial=True)
        return config, store

    return make


def batch(item, moment=NOON):
    return pa.RecordBatch.from_pydict(
        {
            "member_id": pa.array(range(MEMBERS)),
            "items": pa.array([[member, item] for member in range(MEMBERS)], pa.list_(pa.int64())),
            "newest": pa.array([moment] * MEMBERS, STAMPS),
            "event_timestamp": pa.array([moment] * MEMBERS, STAMPS),
        }
    )


class KeepLater:
    """Keeps stored rows of later times as they are, with an item more."""

    decided_by = "newest"

    def __init__(self):
        self.threads = set()

    def needs(self, as_of, value):
        return value.unix_timestamp_val >= as_of // 1_000_000

    def merge(self, given, stored):
        self.threads.add(threading.get_ident())
        merged = []
        for (key, values, moment, created), (later, old) in zip(given, stored, strict=True):
            moment = moment.replace(tzinfo=UTC)
            if later is not None and later.replace(tzinfo=UTC) > moment:
                items = [*values["items"].int64_list_val.val, *old["items"].int64_list_val.val]
                values = {**old, "items": Value(int64_list_val=Int64List(val=items))}
                moment = later
            merged.append((key, values, moment, created))
        return merged


def items_of(dynamodb, config):
    """All that lies in a table, asked by boto3 alone."""
    client = boto3.client("dynamodb", region_name=REGION, endpoint_url=dynamodb)
    name = config.online_store.table_name_template.format(project="test", table_name="plain")
    pages = client.get_paginator("scan").paginate(TableName=name)
    return {item["entity_id"]["S"]: item for page in pages for item in page["Items"]}


def test_rows_are_those_that_feast_writes_one_after_the_other(new, dynamodb):
    written = []
    for template, make in (("feast", AnyRows), ("ours", row_store)):
        config, store = new(template)
        rows = make(config, store)
        rows.publish(PLAIN, batch(1))
        rows.publish(PLAIN, batch(2, NOON + timedelta(days=1)))
        written.append(items_of(dynamodb, config))
    assert type(rows) is DynamoRows
    assert len(written[0]) == MEMBERS
    assert written[0] == written[1]
    read = rows.read(PLAIN, KEYS)
    assert [list(v["items"].int64_list_val.val) for _, v in read] == [
        [m, 2] for m in range(MEMBERS)
    ]


def test_worker_processes_write_them_too(new, dynamodb, monkeypatch):
    monkeypatch.setattr(writing, "WORTH_SECONDS", 0)
    config, store = new("alone")
    row_store(config, store).publish(PLAIN, batch(1))
    expected = items_of(dynamodb, config)
    rows = row_store(*new("workers"))
    parts = (batch(1).slice(start, 50) for start in range(0, MEMBERS, 50))
    with PartWriter(rows, partial(ProcessWorkers, count=2)) as write:
        assert sum(write(PLAIN, parts, None, MEMBERS)) == MEMBERS
    assert write.by_workers == MEMBERS - 50
    assert items_of(dynamodb, rows.config) == expected


def test_what_live_rows_hold_is_kept(new):
    rows = row_store(*new("live"))
    rows.publish(PLAIN, batch(1))
    live = [5, ROWS_A_CALL, MEMBERS - 1]
    later = NOON + timedelta(days=3)
    rows.write(
        PLAIN,
        [
            (
                KEYS[m],
                {"items": Value(int64_list_val=Int64List(val=[9])), "newest": Value()},
                later,
                None,
            )
            for m in live
        ],
    )
    keep = KeepLater()
    rows.publish(PLAIN, batch(2, NOON + timedelta(days=1)), keep)
    expected = [[m, 2, 9] if m in live else [m, 2] for m in range(MEMBERS)]
    read = rows.read(PLAIN, KEYS)
    assert [list(v["items"].int64_list_val.val) for _, v in read] == expected
    assert len(keep.threads) > 1


def test_what_a_thread_raises_is_raised_and_the_next_try_writes_all(new):
    config, store = new("fails")
    rows = row_store(config, store)

    class Refusing(KeepLater):
        def merge(self, given, stored):
            if given[0][0].entity_values[0].int64_val >= 2 * ROWS_A_CALL:
                raise RuntimeError("refused")
            return super().merge(given, stored)

    with pytest.raises(RuntimeError, match="refused"):
        rows.publish(PLAIN, batch(1), Refusing())
    rows.publish(PLAIN, batch(1), KeepLater())
    read = rows.read(PLAIN, KEYS)
    assert [list(v["items"].int64_list_val.val) for _, v in read] == [
        [m, 1] for m in range(MEMBERS)
    ]
