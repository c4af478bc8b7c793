"""Readers of sqlite get in while a run pushes its rows."""

import contextlib
import sqlite3
from datetime import datetime

import pyarrow as pa
import pytest
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.protos.feast.types.Value_pb2 import FloatList, Value

from activity_embeddings.transformations.feast_compat.sqlite import keep_readable
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
    value = {"activity_embedding": Value(float_list_val=FloatList(val=[0.5] * 64))}
    keys = entity_keys(view, pa.array(range(ROWS)))
    asked = []

    def read(_):
        asked.append(1)
        if len(asked) < ROWS:
            return
        other = sqlite3.connect(repo.data / "online.db", timeout=0)
        with contextlib.closing(other):
            table = f"activity_embeddings_{VIEW}"
            found = other.execute(f'SELECT count(*) FROM "{table}"').fetchone()
        assert found[0] < ROWS
        raise Late

    rows = [(key, value, datetime(2024, 3, 2), None) for key in keys]
    with pytest.raises(Late if kept else sqlite3.OperationalError):
        store.online_write_batch(config, view, rows, read)


def test_a_run_sets_it(repo, monkeypatch):
    """It is a setting of the connection with which rows are pushed."""
    repo.run("apply")
    found = []
    write = SqliteOnlineStore.online_write_batch

    def seen(self, config, *rest):
        found.append(self._get_conn(config).execute("PRAGMA cache_spill").fetchone()[0])
        return write(self, config, *rest)

    monkeypatch.setattr(SqliteOnlineStore, "online_write_batch", seen)
    repo.materialize(at(0), at(1))
    assert found and set(found) == {0}
