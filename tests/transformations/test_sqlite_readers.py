"""Readers of sqlite get in while a run pushes its rows."""

import contextlib
import sqlite3

import numpy as np
import pyarrow as pa
import pytest
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.protos.feast.types.Value_pb2 import FloatList, Value

from activity_embeddings.transformations.feast_compat.sqlite import (
    FeatureCells,
    keep_readable,
    write_rows,
)
from activity_embeddings.transformations.feast_compat.stores import serialized_keys
from activity_embeddings.transformations.online import sqlite
from activity_embeddings.transformations.online.protobuf import entity_keys
from support.feast_repo import at

pytestmark = pytest.mark.slow

VIEW = "job_activity_embedding_cnn"
ROWS = 5_000


class Late(Exception):
    """Raised at the end of a transaction, which is then not committed."""


@pytest.mark.parametrize("kept", [True, False])
def test_rows_that_are_not_committed_keep_no_reader_out(repo, kept):
    """Without the setting sqlite writes what its cache does not hold: the test can fail."""
    repo.publish(at(0), at(1))
    feast_store = repo.store
    config, view = feast_store.config, feast_store.get_feature_view(VIEW)
    store = SqliteOnlineStore()
    if kept:
        keep_readable(config, store)
    store._get_conn(config).execute("PRAGMA cache_size = 50")
    value = Value(float_list_val=FloatList(val=[0.5] * 64)).SerializeToString()

    def values():
        for _ in range(ROWS):
            yield value
        other = sqlite3.connect(repo.data / "online.db", timeout=0)
        with contextlib.closing(other):
            table = f"activity_embeddings_{VIEW}"
            found = other.execute(f'SELECT count(*) FROM "{table}"').fetchone()
        assert found[0] < ROWS
        raise Late

    keys = serialized_keys(config, entity_keys(view, pa.array(range(ROWS))))
    cells = {"activity_embedding": FeatureCells(values(), None)}
    with pytest.raises(Late if kept else sqlite3.OperationalError):
        write_rows(config, store, view, keys, cells, np.zeros(ROWS, np.int64), None)


def test_a_run_sets_it(repo, monkeypatch):
    """It is a setting of the connection with which rows are pushed."""
    repo.run("apply")
    found = []

    def seen(config, store, *rest):
        found.append(store._get_conn(config).execute("PRAGMA cache_spill").fetchone()[0])
        return write_rows(config, store, *rest)

    monkeypatch.setattr(sqlite, "write_rows", seen)
    repo.materialize(at(0), at(1))
    assert found and set(found) == {0}
