"""Files as users have them: written by pandas, under any name, and some that cannot be read."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.feast_repo import DIMENSION, at, events_table, interval, make_repo, vectors_table

pytestmark = pytest.mark.slow

STORES = [
    "activity_embeddings.OrderedDuckDBOfflineStore",
    "activity_embeddings.OrderedDaskOfflineStore",
]
EVENTS = [(1, 1, "APPLY", at(-1)), (2, 2, "SAVE", at(-3)), (1, 3, "SAVE", at(-0.5))]
VECTORS = [(item, at(-60), np.full(DIMENSION, item, dtype=np.float32)) for item in (1, 2, 3)]
UNWEIGHTED = "job_activity_embedding_unweighted_average"
PLANS = """
from datetime import timedelta
from feast import FeatureView, Field, FileSource
from feast.types import Int64, String, UnixTimestamp
from entities import member

member_plan = FeatureView(
    name="member_plan",
    entities=[member],
    source=FileSource(name="plans", path="data/plans.parquet", timestamp_field="since"),
    schema=[
        Field(name="member_id", dtype=Int64),
        Field(name="plan", dtype=String),
        Field(name="paid", dtype=UnixTimestamp),
    ],
    ttl=timedelta(days=365),
)
"""


def as_pandas_writes(table, path):
    """Write a frame whose times are datetime64[ns, UTC]."""
    frame = table.to_pandas()
    for column in frame.columns:
        if isinstance(frame[column].dtype, pd.DatetimeTZDtype):
            frame[column] = frame[column].astype("datetime64[ns, UTC]")
    path.parent.mkdir(exist_ok=True)
    frame.to_parquet(path)
    assert "ns" in str(pq.read_schema(path).types)


@pytest.fixture(params=STORES, ids=["duckdb", "dask"])
def repo(request, tmp_path, models):
    repo = make_repo(
        tmp_path / "repo", models, events_table(EVENTS[:1]), vectors_table(VECTORS[:1])
    )
    repo.edit("feature_store.yaml", STORES[0], request.param)
    return repo


def published(repo):
    file = repo.data / "snapshots" / "job_activity_sequence" / "v1"
    rows = pq.read_table(file, partitioning=None).to_pylist()
    return {r["member_id"]: r["activity_job_ids"] for r in rows if r["event_timestamp"] == at(0)}


def test_files_of_pandas_under_any_name_are_read_by_every_path(repo):
    (repo.events / "history.parquet").unlink()
    for i, name in enumerate(["000000_0", "b.parq", "sub/c.PARQUET"]):
        as_pandas_writes(events_table(EVENTS[i : i + 1]), repo.events / name)
    (repo.data / "job_embeddings.parquet").unlink()
    folder = repo.data / "item_embeddings"
    for i, name in enumerate(["part-0", "part-1.parquet", "part-2.pq"]):
        as_pandas_writes(vectors_table(VECTORS[i : i + 1]), folder / name)
    repo.edit("item_vectors.py", '"data/job_embeddings.parquet"', '"data/item_embeddings"')
    (repo.path / "plans.py").write_text(PLANS)
    times = pa.array([at(-9), at(-8)], pa.timestamp("us", "UTC"))
    plans = pa.table({"member_id": [1, 2], "plan": ["a", "b"], "since": times, "paid": times})
    as_pandas_writes(plans, repo.data / "plans.parquet")
    repo.publish(at(-61), at(0))

    assert published(repo) == {1: [1, 3], 2: [2]}
    store = repo.store
    items = [{"job_id": item} for item in (1, 2, 3)]
    online = store.get_online_features(["job_embedding:embedding"], items).to_dict()
    assert np.array_equal(online["embedding"], [vector for *_, vector in VECTORS])
    names = [f"{UNWEIGHTED}:apply_embedding", "member_plan:plan", "member_plan:paid"]
    got = store.get_online_features(names, [{"member_id": 1}]).to_dict()
    assert got["apply_embedding"] == [[1.0] * DIMENSION]
    assert (got["plan"], got["paid"]) == (["a"], [at(-9)])
    labels = pd.DataFrame({"member_id": [2, 1], "event_timestamp": [at(0.5)] * 2})
    joined = store.get_historical_features(labels, names).to_df()
    assert joined["plan"].tolist() == ["b", "a"]
    assert [moment.to_pydatetime() for moment in joined["paid"]] == [at(-8), at(-9)]
    assert np.array_equal(joined["apply_embedding"][1], [1.0] * DIMENSION)


@pytest.mark.parametrize("what", ["events", "vectors"])
def test_a_file_that_cannot_be_read_leaves_the_stores_as_they_were(repo, what):
    repo.publish(at(-1), at(0))
    before = repo.stores()
    folder = repo.events
    if what == "vectors":
        folder = repo.data / "item_embeddings"
        folder.mkdir()
        (repo.data / "job_embeddings.parquet").rename(folder / "a.parquet")
        repo.edit("item_vectors.py", '"data/job_embeddings.parquet"', '"data/item_embeddings"')
        repo.run("apply")
    (folder / "b.parquet").write_bytes(b"PAR1 half a file")
    outcome = repo.feast(*interval(at(0), at(1)))
    assert outcome.code == 1
    (error,) = [line for line in outcome.output.splitlines() if line.startswith("Error: ")]
    assert "file b.parquet: expected a readable source" in error
    assert "Traceback" not in outcome.output
    assert repo.stores() == before


def late(days):
    return [(item, at(days), vector) for item, _, vector in VECTORS]


@pytest.mark.parametrize(
    ("events", "vectors", "words"),
    [
        (EVENTS, late(5), ["no item has one"]),
        (EVENTS, late(0.5), ["3 items have one, the first from 2024-03-01 12:00 UTC", "such as 1"]),
        ([(m, j + 900, a, t) for m, j, a, t in EVENTS], VECTORS, ["such as 901", "such as 1"]),
        (EVENTS, [(9, at(-60), VECTORS[0][2])], ["1 item has one", "such as 9"]),
    ],
    ids=[
        "vectors of later days",
        "vectors of a later hour",
        "ids of another form",
        "vectors of other items",
    ],
)
def test_a_snapshot_whose_every_activity_is_on_unknown_items_is_refused(
    tmp_path, models, events, vectors, words
):
    repo = make_repo(tmp_path / "repo", models, events_table(events), vectors_table(vectors))
    repo.run("apply")
    before = repo.stores()
    outcome = repo.feast(*interval(at(-1), at(0.75)))
    assert outcome.code == 1
    (error,) = [line for line in outcome.output.splitlines() if line.startswith("Error: ")]
    for expected in ("snapshot as of 2024-03-01", "on items without", *words):
        assert expected in error
    assert repo.stores() == before


def test_members_without_activity_are_no_unknown_items(tmp_path, models):
    """Who fell silent is published as empty, also where nobody else is active."""
    repo = make_repo(tmp_path / "repo", models, events_table(EVENTS[1:2]), vectors_table(VECTORS))
    repo.publish(at(-1), at(0))
    repo.materialize(at(0), at(26))
    row = repo.store.get_online_features(
        ["job_activity_sequence:activity_count"], [{"member_id": 2}]
    ).to_dict()
    assert row["activity_count"] == [0]
    assert timedelta(days=28) < at(26) - EVENTS[1][3]
