"""Rows go out from many threads, and are those that one thread would have written.

DynamoDB is the server of moto, which imitates it; MySQL is MariaDB. Of the other stores that
threads write to, Feast's source is read.
"""

import ast
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import Int64List, Value

from activity_embeddings.transformations.batch.executors import writing
from activity_embeddings.transformations.batch.executors.processes import ProcessWorkers
from activity_embeddings.transformations.batch.executors.writing import PartWriter
from activity_embeddings.transformations.online import stores, threaded
from activity_embeddings.transformations.online.any_store import AnyRows
from activity_embeddings.transformations.online.protobuf import entity_keys
from activity_embeddings.transformations.online.stores import row_store
from activity_embeddings.transformations.online.threaded import ThreadedRows
from support.online_stores import PLAIN, feast_store
from support.s3_server import CREDENTIALS, REGION, s3_server

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
STAMPS = pa.timestamp("us", "UTC")
ROWS_A_CALL = 40
MEMBERS = 5 * ROWS_A_CALL + 3
KEYS = entity_keys(PLAIN, pa.array(range(MEMBERS)))


class DynamoDB:
    """Tables of a server of moto, one for each store."""

    def __init__(self, address):
        self._settings = {"type": "dynamodb", "region": REGION, "endpoint_url": address}
        self._client = boto3.client("dynamodb", region_name=REGION, endpoint_url=address)

    def new(self, name):
        return self._settings | {"table_name_template": name + ".{project}.{table_name}"}

    def rows(self, config):
        table = config.online_store.table_name_template.format(project="test", table_name="plain")
        pages = self._client.get_paginator("scan").paginate(TableName=table)
        return {item["entity_id"]["S"]: item for page in pages for item in page["Items"]}


class MySQL:
    """Databases of a server, one for each store."""

    def __init__(self, connection):
        self._connection = connection

    def new(self, name):
        with self._connect() as connection:
            connection.cursor().execute(f"CREATE DATABASE {name}")
        return {"type": "mysql", "database": name, **self._connection}

    def rows(self, config):
        with self._connect(database=config.online_store.database) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT * FROM test_plain")
            rows = {(key, feature): row for key, feature, *row in cursor.fetchall()}
        return rows

    def _connect(self, **settings):
        import pymysql

        return pymysql.connect(**self._connection, **settings)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("dynamodb", marks=[pytest.mark.slow, pytest.mark.process]),
        pytest.param("mysql", marks=pytest.mark.mysql),
    ],
)
def server(request):
    if request.param == "mysql":
        from support.mysql_server import mysql_server

        with mysql_server() as connection:
            yield MySQL(connection)
        return
    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield DynamoDB(address)


@pytest.fixture(autouse=True)
def small_calls(monkeypatch):
    monkeypatch.setattr(threaded, "ROWS_A_CALL", ROWS_A_CALL)


@pytest.fixture
def new(tmp_path, server):
    """Makes an empty store: (config, store)."""

    def make(name):
        config, store = feast_store(tmp_path, **server.new(name))
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


def test_rows_are_those_that_feast_writes_one_after_the_other(new, server):
    written = []
    for template, make in (("feast", AnyRows), ("ours", row_store)):
        config, store = new(template)
        rows = make(config, store)
        rows.publish(PLAIN, batch(1))
        rows.publish(PLAIN, batch(2, NOON + timedelta(days=1)))
        written.append(server.rows(config))
    assert isinstance(rows, ThreadedRows)
    assert len(written[0]) >= MEMBERS
    assert written[0] == written[1]
    read = rows.read(PLAIN, KEYS)
    assert [list(v["items"].int64_list_val.val) for _, v in read] == [
        [m, 2] for m in range(MEMBERS)
    ]


def test_worker_processes_write_them_too(new, server, monkeypatch):
    monkeypatch.setattr(writing, "WORTH_SECONDS", 0)
    config, store = new("alone")
    row_store(config, store).publish(PLAIN, batch(1))
    expected = server.rows(config)
    rows = row_store(*new("workers"))
    parts = (batch(1).slice(start, 50) for start in range(0, MEMBERS, 50))
    with PartWriter(rows, partial(ProcessWorkers, count=2)) as write:
        assert sum(write(PLAIN, parts, None, MEMBERS)) == MEMBERS
    assert write.by_workers == MEMBERS - 50
    assert server.rows(rows.config) == expected


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


SHARED = """
class Store:
    _conn: object = None
    _lock = threading.Lock()
    _profile: object = DEFAULT
    _statements: dict = {}
    _own = None

    def connect(self):
        self._conn = self._profile = connect()
        cls._session = self._conn
        Store._count += 1
        self._own = {}
"""


def shared_by(text, name):
    """Names of what objects of a class share and change, by the text of its module.

    A list or dict that is made with the class can be changed by each of them; what is None or a
    name there is replaced, if at all, in the object alone.
    """
    tree = ast.parse(text)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
    (of_class,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    made = (ast.Dict, ast.List, ast.Set, ast.Call, ast.DictComp, ast.ListComp, ast.SetComp)
    shared = set()
    for node in of_class.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, made):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if ast.unparse(node.value) != "threading.Lock()":
                shared.update(map(ast.unparse, targets))
    for node in ast.walk(of_class):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            owner = ast.unparse(node.value)
            if owner in ("cls", name, "self.__class__", "type(self)"):
                shared.add(node.attr)
    return shared


def shared_in_feast(path):
    module, name = path.rsplit(".", 1)
    return shared_by(Path(find_spec(module).origin).read_text(encoding="utf-8"), name)


@pytest.mark.parametrize(
    "path", [path for path, rows in stores._ROWS_OF.items() if issubclass(rows, ThreadedRows)]
)
def test_objects_of_a_store_that_threads_write_to_share_nothing_that_changes(path):
    """But for boto3's `TypeDeserializer` in that of DynamoDB, which holds nothing."""
    assert shared_in_feast(path) == ({"_type_deserializer"} if "dynamodb" in path else set())


@pytest.mark.parametrize("path", ["cassandra_online_store.Cassandra", "scylladb.ScyllaDB"])
def test_what_objects_of_a_store_share_is_seen_in_its_source(path):
    assert shared_by(SHARED, "Store") == {"_statements", "_session", "_count"}
    folder = "cassandra_online_store" if "Cassandra" in path else "scylladb_online_store"
    path = f"feast.infra.online_stores.{folder}.{path}OnlineStore"
    assert shared_in_feast(path) == {"_prepared_statements"}
    assert path not in stores._ROWS_OF
