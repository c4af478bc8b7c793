"""Two different strings are two different members, and two different items, on every path."""

import csv
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from activity_embeddings.transformations.check import check
from activity_embeddings.transformations.errors import InvalidData, InvalidInput
from activity_embeddings.transformations.online.push import SequenceWriter
from activity_embeddings.transformations.serving.entity_rows import entity_rows
from support import processes
from support.feast_repo import DIMENSION, STRING_IDS, at, make_repo

pytestmark = pytest.mark.slow

IDS = [
    *("", " ", "  ", "a", "a ", " a", "A", "a\t", "a\n", "a\r\n", "\u00a0", "a\u200b"),
    *("1", "01", "1.0", "1e0", "+1", "null", "NULL", "None", "NaN", "nan", "NA", "n/a", "true"),
    *("caf\u00e9", "cafe\u0301", "\u212b", "\u00c5", "\U0001f600", "\u202eabc", "\x01", "\x7f"),
    *("'", '"', '""', "\\", "\\0", "%", "a,b", "a:b", "a__b", "[]", "{}", "x" * 300, "x" * 301),
]
UNWEIGHTED = "job_activity_embedding_unweighted_average"


def events(ids, day, items=None):
    return pa.table(
        {
            "member_id": pa.array(ids, pa.string()),
            "job_id": pa.array(items or ids, pa.string()),
            "action": ["APPLY"] * len(ids),
            "event_timestamp": pa.array([at(day)] * len(ids), pa.timestamp("us", "UTC")),
        }
    )


def vector(i):
    return np.eye(DIMENSION, dtype=np.float32)[i]


@pytest.fixture(scope="module")
def repo(tmp_path_factory, models):
    vectors = pa.table(
        {
            "job_id": IDS,
            "embedding": pa.array([vector(i).tolist() for i in range(len(IDS))]),
            "event_timestamp": pa.array([at(-50)] * len(IDS), pa.timestamp("us", "UTC")),
        }
    )
    path = tmp_path_factory.mktemp("identity") / "repo"
    repo = make_repo(path, models, events(IDS, -1), vectors, STRING_IDS)
    repo.publish(at(-1), at(0))
    return repo


def stored(repo, members=IDS):
    rows = [{"member_id": member} for member in members]
    names = ["job_activity_sequence:activity_job_ids", f"{UNWEIGHTED}:apply_embedding"]
    found = repo.store.get_online_features(names, rows).to_dict()
    return found["activity_job_ids"], found["apply_embedding"]


def test_there_are_as_many_as_strings():
    assert len(set(IDS)) == len(IDS) <= DIMENSION


def test_in_the_batch_and_the_stores(repo):
    files = repo.data / "snapshots" / "job_activity_sequence" / "v1"
    rows = pq.read_table(files, partitioning=None).to_pylist()
    assert {row["member_id"]: row["activity_job_ids"] for row in rows} == {i: [i] for i in IDS}
    items, vectors = stored(repo)
    assert items == [[item] for item in IDS]
    assert np.array_equal(vectors, [vector(i) for i in range(len(IDS))])
    assert not check(repo.store).differences


def test_in_a_training_join(repo):
    labels = pd.DataFrame({"member_id": IDS, "event_timestamp": [at(0.5)] * len(IDS)})
    names = ["job_activity_sequence:activity_job_ids", f"{UNWEIGHTED}:apply_embedding"]
    joined = repo.store.get_historical_features(labels, names).to_df()
    assert joined["member_id"].tolist() == IDS
    assert [list(items) for items in joined["activity_job_ids"]] == [[item] for item in IDS]


def test_at_request_time(repo):
    recent = {
        member: [(item, "APPLY", at(-0.5))]
        for member, item in zip(IDS, [*IDS[1:], IDS[0]], strict=True)
    }
    rows = entity_rows(IDS, recent, request_timestamp=at(0))
    got = repo.store.get_online_features([f"{UNWEIGHTED}_realtime:apply_embedding"], rows).to_dict()
    count = len(IDS)
    expected = [(vector(i) + vector((i + 1) % count)) / 2 for i in range(count)]
    assert np.allclose(got["apply_embedding"], expected)


@pytest.mark.process
@pytest.mark.parametrize("way", ["table", "parquet", "csv", "jsonl"])
def test_when_pushed(repo, way, tmp_path):
    before, _ = stored(repo)
    items = [*IDS[2:], *IDS[:2]]
    day = 0.25 + 0.1 * ["table", "parquet", "csv", "jsonl"].index(way)
    table = events(IDS, day, items)
    file = tmp_path / f"events.{way}"
    columns = table.to_pydict() | {"event_timestamp": [at(day).isoformat()] * len(IDS)}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    match way:
        case "table":
            SequenceWriter(repo.store).push(table)
        case "parquet":
            pq.write_table(table, file)
        case "csv":
            with file.open("w", newline="") as out:
                writer = csv.DictWriter(out, columns, quoting=csv.QUOTE_ALL)
                writer.writeheader()
                writer.writerows(rows)
        case "jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if way != "table":
        done = processes.run(processes.COMMAND, "-C", repo.path, "push", file)
        assert done.returncode == 0, done.stderr
    after, _ = stored(repo)
    assert after == [[*held, item] for held, item in zip(before, items, strict=True)]


@pytest.mark.parametrize("bad", ["a\0", "\0", "a\0b"])
def test_an_id_with_a_nul_is_refused_at_every_door(repo, bad, tmp_path):
    """C strings, numpy and PostgreSQL would take it for another id."""
    stores = repo.stores()
    writer = SequenceWriter(repo.store)
    for members, items in ([bad], ["a"]), (["a"], [bad]):
        with pytest.raises(InvalidData, match="without NUL"):
            writer.push(events(members, 0.9, items))
    pq.write_table(events(["b", bad], 0.9), repo.events / "bad.parquet")
    try:
        outcome = repo.feast("materialize", "2024-03-01T00:00:00", "2024-03-02T00:00:00")
    finally:
        (repo.events / "bad.parquet").unlink()
    assert outcome.code == 1
    assert "file bad.parquet: column 'member_id'" in outcome.output
    assert "without NUL" in outcome.output
    rows = entity_rows(["a"], {"a": [(bad, "APPLY", at(-0.5))]}, request_timestamp=at(0))
    with pytest.raises(InvalidInput, match="NUL"):
        repo.store.get_online_features([f"{UNWEIGHTED}_realtime:apply_embedding"], rows)
    assert repo.stores() == stores
