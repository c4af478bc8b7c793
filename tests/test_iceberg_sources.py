"""Events, item vectors and postings in Iceberg tables are read as parquet files are."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
import pytest
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource

from activity_embeddings import SequenceWriter
from activity_embeddings.transformations.check import check
from activity_embeddings.transformations.errors import InvalidData
from activity_embeddings.transformations.offline.columns import RowsAsked
from activity_embeddings.transformations.offline.iceberg import IcebergRows, located
from support.feast_repo import (
    at,
    events_table,
    interval,
    make_encoder_repo,
    small_data,
    small_repo,
    us,
)
from support.item_encoders import postings_table, small_postings

pytestmark = pytest.mark.slow

SOURCE = """IcebergSource(
    name="{table}",
    warehouse="data/lake",
    namespace="lake",
    table="{table}",
    catalog_type="sql",
    catalog_properties={{"uri": "sqlite:///data/lake.db"}},
    timestamp_field="{time}",
    field_mapping={mapping},
)"""
IMPORT = (
    "from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource\n"
)
MAPPING = {"user": "member_id", "posting": "job_id"}


def iceberg_source(table, time="event_timestamp", mapping=None):
    text = SOURCE.format(table=table, time=time, mapping=mapping or {})
    return eval(text, {"IcebergSource": IcebergSource})


def catalog_of(repo):
    source = located(iceberg_source("any"), repo.path)
    repo.data.mkdir(exist_ok=True)
    return source.get_catalog_client()


def put(repo, name, *tables):
    """Make an Iceberg table, each part in a file of its own."""
    catalog = catalog_of(repo)
    catalog.create_namespace_if_not_exists("lake")
    made = catalog.create_table(f"lake.{name}", tables[0].schema)
    for table in tables:
        made.append(table)
    return made


def read_from(repo, file, table, time="event_timestamp", mapping=None):
    """Have a definition name an Iceberg table where it names parquet files."""
    path = repo.path / file
    text = SOURCE.format(table=table, time=time, mapping=mapping or {})
    replaced, count = re.subn(
        r"= FileSource\(\n.*?\n\)\n", f"= {text}\n", path.read_text(), count=1, flags=re.S
    )
    assert count == 1
    before, _, after = replaced.partition("\nfrom ")
    path.write_text(f"{before}\n{IMPORT}from {after}")


def in_user_columns(events):
    """Events as a user's table has them: other names, and a column that nobody asked for."""
    names = {"member_id": "user", "job_id": "posting", "event_timestamp": "happened"}
    table = events.rename_columns([names.get(name, name) for name in events.column_names])
    return table.append_column("page", pa.array(["x" * 100] * len(table)))


@pytest.fixture(params=["duckdb", "dask"])
def pair(request, tmp_path, models):
    """A repo with parquet files, and one with the same rows in Iceberg tables."""
    pair = [small_repo(tmp_path / name, models, seed=4) for name in ("parquet", "iceberg")]
    files, iceberg = pair
    events, _ = small_data(seed=4)
    table = in_user_columns(events_table(events)).sort_by("happened")
    old = table.filter(pa.compute.less(table["happened"], pa.scalar(at(-10))))
    put(iceberg, "events", old, table.slice(len(old)))
    put(iceberg, "vectors", pa.parquet.read_table(iceberg.data / "job_embeddings.parquet"))
    read_from(iceberg, "sources.py", "events", "happened", MAPPING)
    read_from(iceberg, "item_vectors.py", "vectors")
    (iceberg.data / "job_embeddings.parquet").unlink()
    (iceberg.events / "history.parquet").unlink()
    for repo in pair:
        if request.param == "dask":
            store = "activity_embeddings.Ordered{}OfflineStore"
            repo.edit("feature_store.yaml", store.format("DuckDB"), store.format("Dask"))
    return files, iceberg


def test_what_is_published_is_that_of_parquet_files(pair):
    files, iceberg = pair
    for repo in pair:
        repo.publish(at(0), at(3))
    assert iceberg.stores() == files.stores()
    assert not check(iceberg.store).differences


def test_postings_are_those_of_parquet_files(tmp_path, encoder_models):
    events, _ = small_data(seed=6, members=20, days=12)
    postings = postings_table(small_postings())
    repos = []
    for name in ("parquet", "iceberg"):
        repo = make_encoder_repo(tmp_path / name, encoder_models, events_table(events), postings)
        if name == "iceberg":
            put(repo, "postings", postings)
            read_from(repo, "item_vectors.py", "postings")
            (repo.data / "job_postings.parquet").unlink()
        repo.publish(at(0), at(4))
        repos.append(repo)
    files, iceberg = repos
    assert iceberg.stores() == files.stores()


@pytest.fixture
def repo(tmp_path, models):
    repo = small_repo(tmp_path / "repo", models, seed=4)
    read_from(repo, "sources.py", "events")
    return repo


def rows_of(repo, table="events", **source):
    return IcebergRows(located(iceberg_source(table, **source), repo.path), table)


def read(rows, start, end):
    columns = {"member_id": "member_id", "job_id": "job_id", "action": "action"}
    start = None if start is None else us(start)
    asked = RowsAsked(columns, ["member_id", "job_id"], "event_timestamp", start, us(end))
    return rows.read(asked)


def test_files_of_other_times_are_not_opened(repo):
    early = [(1, item, "SAVE", at(-5 + item / 10)) for item in range(1, 9)]
    late = [(2, item, "SAVE", at(5 + item / 10)) for item in range(1, 9)]
    made = put(repo, "events", events_table(early), events_table(late))
    assert read(rows_of(repo), at(5), at(9)).num_rows == len(late)
    for task in made.scan().plan_files():
        path = repo.path / task.file.file_path
        if pa.parquet.read_table(path)["member_id"][0].as_py() == 1:
            path.unlink()
    got = read(rows_of(repo), at(5.2), at(5.4))
    assert sorted(got["job_id"].to_pylist()) == [2, 3, 4]
    with pytest.raises(InvalidData, match="events: expected a readable Iceberg table"):
        read(rows_of(repo), at(-9), at(9))


def test_columns_that_are_not_needed_are_not_in_memory(repo):
    events, _ = small_data(seed=4, members=100)
    random = np.random.default_rng(0)
    pages = [random.bytes(100_000).hex() for _ in events]
    put(repo, "events", events_table(events).append_column("page", pa.array(pages)))
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        assert read(rows_of(repo), None, at(99)).num_rows == len(events)
    finally:
        pa.set_memory_pool(before)
    assert 0 < pool.max_memory() < 5_000_000 < 200_000 * len(events)


def test_no_table_is_one_clear_error(repo):
    with pytest.raises(InvalidData, match=r"expected an Iceberg table lake\.events.*none of that"):
        read(rows_of(repo), None, at(0))
    assert not (repo.data / "lake.db").exists()


BAD = {
    "naive times": (
        lambda table: table.set_column(
            3, "event_timestamp", table["event_timestamp"].cast(pa.timestamp("us"))
        ),
        "'event_timestamp' should be a timestamp with time zone UTC",
    ),
    "no column of actions": (lambda table: table.drop(["action"]), "action"),
    "a time that is null": (
        lambda table: table.set_column(
            3,
            "event_timestamp",
            pa.array(
                [None, *table["event_timestamp"].to_pylist()[1:]], table["event_timestamp"].type
            ),
        ),
        "'event_timestamp' should hold no nulls",
    ),
    "ids that are numbers with a point": (
        lambda table: table.set_column(0, "member_id", table["member_id"].cast(pa.float64())),
        "'member_id' should be int64",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused_by_name_and_nothing_is_published(repo, case):
    change, expected = BAD[case]
    events, _ = small_data(seed=4)
    put(repo, "events", change(events_table(events)))
    outcome = repo.feast("apply")
    if outcome.code == 0:
        outcome = repo.feast(*interval(at(0), at(1)))
    assert outcome.code == 1
    (error,) = [line for line in outcome.output.splitlines() if line.startswith("Error: ")]
    assert expected in error and "job_activity (events): " in error
    assert repo.snapshot_files() == {}


def test_pushed_events_are_appended_to_the_table(repo, monkeypatch, tmp_path):
    events, _ = small_data(seed=4)
    pages = pa.nulls(len(events), pa.string())
    put(repo, "events", events_table(events).append_column("page", pages))
    repo.publish(at(0), at(3))
    monkeypatch.chdir(tmp_path)
    new = events_table([(99, 3, "APPLY", at(3.2))]).append_column("page", pa.array(["home"]))
    assert SequenceWriter(repo.store).push(new).new == 1
    rows = read(rows_of(repo), at(3.2), at(3.2))
    assert (99, 3, "APPLY") in zip(
        *(column.to_pylist() for column in rows.columns[:3]), strict=True
    )
    asked = RowsAsked({"page": "page"}, [], "event_timestamp", us(at(3.2)), us(at(3.2)))
    assert rows_of(repo).read(asked)["page"].to_pylist() == ["home"]
    repo.materialize(at(3), at(4))
    assert not check(repo.store).differences
