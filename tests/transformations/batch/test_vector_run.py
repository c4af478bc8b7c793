"""A run reads what it needs in slices, adds what is missing, and nothing before it is whole."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from activity_embeddings.transformations.batch import vector_run as vector_run
from activity_embeddings.transformations.batch.vector_run import (
    VectorReport,
    VectorRun,
    vectors_up_to,
)
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.inference.encoder import ItemEncoder, encode_postings
from activity_embeddings.transformations.offline.sinks.base import read_facts
from activity_embeddings.transformations.offline.sinks.folder import FolderSink
from support.feast_repo import DIMENSION, at, us
from support.item_encoders import (
    SmallEncoder,
    expected_vectors,
    package_encoder,
    postings_table,
    small_postings,
)

ROWS = small_postings()
END = us(at(10))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return package_encoder(tmp_path_factory.mktemp("encoder") / "small")


class Source:
    """A table of postings that counts what is read of it."""

    def __init__(self, rows):
        self.table = postings_table(rows)
        self.reads = []

    def __call__(self, columns, *, start, end):
        time = self.table["event_timestamp"].cast(pa.int64())
        inside = pc.less_equal(time, end)
        if start is not None:
            inside = pc.and_(inside, pc.greater_equal(time, start))
        table = self.table.filter(inside).select(["job_id", *columns, "event_timestamp"])
        self.reads.append((list(columns), len(table)))
        return table


def a_run(encoder, sink, source, **changes):
    settings = {"end": END, "id_type": pa.int64(), "source": "postings", **changes}
    return VectorRun(encoder=encoder, sink=sink, read=source, **settings)


def publish(encoder, sink, source, **changes):
    run = a_run(encoder, sink, source, **changes)
    run.compute()
    run.commit()
    return run


def content(sink):
    rows = [
        row
        for as_of in sink.committed()
        for row in pq.read_table(sink.file(as_of), partitioning=None).to_pylist()
    ]
    found = {(row["job_id"], row["event_timestamp"]): row["embedding"] for row in rows}
    assert len(found) == len(rows)
    return found


def assert_right(sink, rows, day=10):
    expected, got = expected_vectors(rows, at(day)), content(sink)
    assert set(got) == set(expected)
    for key, vector in expected.items():
        np.testing.assert_allclose(got[key], vector, atol=1e-6, rtol=0)


def test_slices_bound_what_is_read_and_give_the_same_rows(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(vector_run, "POSTINGS_AT_ONCE", 4)
    rows = [(item, at(-20 + item), "t" * item, [], 2000) for item in range(1, 30)]
    source, sink = Source(rows), FolderSink(tmp_path / "sink" / "v1")
    run = publish(encoder, sink, source)
    assert_right(sink, rows)
    keys, *slices = source.reads
    assert keys == ([], 29)
    assert [count for _, count in slices] == [4] * 7 + [1]
    assert all(columns == ["genres", "title", "year"] for columns, _ in slices)
    assert run.report.new == 29

    # Two that are far apart: not everything between them is read.
    more = [*rows, (40, at(-19.5), "late", [], 2001), (41, at(9.5), "new", [], 2001)]
    source = Source(more)
    publish(encoder, sink, source)
    assert_right(sink, more)
    assert [count for _, count in source.reads[1:]] == [1, 1]


def test_a_run_without_anything_new_reads_only_keys_and_loads_nothing(
    encoder, tmp_path, monkeypatch
):
    sink = FolderSink(tmp_path / "sink" / "v1")
    publish(encoder, sink, Source(ROWS))
    monkeypatch.setattr(vector_run, "ItemEncoder", None)
    source = Source(ROWS)
    run = publish(encoder, sink, source, end=END + 1)
    assert source.reads == [([], len(ROWS))]
    assert run.report.new == 0 and len(sink.committed()) == 1


def test_folders_are_in_the_order_of_their_commits(encoder, tmp_path):
    sink = FolderSink(tmp_path / "sink" / "v1")
    publish(encoder, sink, Source(ROWS), end=us(at(3)))
    late = [*ROWS, (60, at(-3), "late", [], 2000)]
    publish(encoder, sink, Source(late), end=us(at(1)))
    publish(encoder, sink, Source([*late, (61, at(-2), "later", [], 2000)]), end=us(at(3)))
    assert sink.committed() == [us(at(3)), us(at(3)) + 1, us(at(3)) + 2]
    assert_right(sink, [*late, (61, at(-2), "later", [], 2000)], day=3)


def test_rows_carry_when_they_were_available_and_files_what_made_them(encoder, tmp_path):
    sink = FolderSink(tmp_path / "sink" / "v1")
    publish(encoder, sink, Source(ROWS), publishing_delay=60_000_000)
    file = sink.file(END)
    table = pq.read_table(file, partitioning=None)
    assert table.schema.names == ["job_id", "embedding", "event_timestamp", "created_timestamp"]
    for row in table.to_pylist():
        assert row["created_timestamp"] == row["event_timestamp"] + timedelta(minutes=1)
    assert read_facts(file) == encoder.facts()
    assert encoder.facts()["vector_spec"]["fingerprint"] == encoder.fingerprint


def test_nothing_is_visible_before_the_commit_nor_after_giving_up(encoder, tmp_path):
    sink = FolderSink(tmp_path / "sink" / "v1")
    run = a_run(encoder, sink, Source(ROWS))
    run.compute()
    assert [sink.staging.file(as_of).is_file() for as_of in run.staged] == [True]
    assert sink.committed() == []
    run.abandon()
    assert run.staged == [] and not sink.staging.folder.exists()
    run.commit()
    assert sink.committed() == []


def test_what_a_killed_run_left_aside_is_forgotten(encoder, tmp_path):
    sink = FolderSink(tmp_path / "sink" / "v1")
    killed = a_run(encoder, sink, Source(ROWS), end=us(at(4)))
    killed.compute()
    publish(encoder, sink, Source(ROWS))
    assert sink.committed() == [END]
    assert not sink.staging.file(us(at(4))).exists()
    assert_right(sink, ROWS)


def test_a_source_that_changes_while_it_is_read_is_refused(encoder, tmp_path):
    source = Source(ROWS)

    def shrinking(columns, *, start, end):
        table = source(columns, start=start, end=end)
        source.table = source.table.slice(1)
        return table

    sink = FolderSink(tmp_path / "sink" / "v1")
    with pytest.raises(InvalidInput, match="there a moment before"):
        publish(encoder, sink, shrinking)
    assert sink.committed() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"end": us(at(-31))}, r"'content': expected an interval that ends at or after 2024-01-31"),
        ({"id_type": pa.string()}, "'job_id' should be string, as in the feature repo"),
    ],
)
def test_what_cannot_be_encoded_is_refused(changes, message, encoder, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        publish(encoder, FolderSink(tmp_path / "sink" / "v1"), Source(ROWS), **changes)


def test_another_encoder_of_the_same_version_is_refused(encoder, tmp_path):
    sink = FolderSink(tmp_path / "sink" / "v1")
    publish(encoder, sink, Source(ROWS))
    other = package_encoder(tmp_path / "other")
    with pytest.raises(InvalidInput, match=r"item encoder 'content': .*new version"):
        publish(other, sink, Source(ROWS))
    moved = package_encoder(tmp_path / "moved", valid_from=at(-29))
    with pytest.raises(InvalidInput, match=r"item encoder 'content': .*new version"):
        publish(moved, sink, Source(ROWS))


def up_to(day, encoder, sink, source):
    table = vectors_up_to(
        encoder, sink, source, end=us(at(day)), id_type=pa.int64(), source="postings"
    )
    keys = ["job_id", "event_timestamp"]
    return table.select(keys), np.array(table["embedding"].to_pylist()).reshape(-1, DIMENSION)


@pytest.mark.parametrize("published", [(), (-30,), (3, 10), (30,)])
def test_vectors_up_to_a_time_are_the_encoders_whatever_is_published(published, encoder, tmp_path):
    """At -36 an item has a posting that a newer one replaced before the encoder was valid."""
    sink = FolderSink(tmp_path / "sink" / "v1")
    for day in published:
        publish(encoder, sink, Source(ROWS), end=us(at(day)))
    before = sorted(tmp_path.rglob("*"))
    for day in (-41, -36, -30, 0, 5, 20):
        postings = Source(ROWS)(encoder.content_columns(), start=None, end=us(at(day)))
        encoded = encode_postings(ItemEncoder(encoder), postings)
        keys, vectors = up_to(day, encoder, sink, Source(ROWS))
        assert keys.equals(encoded.select(keys.column_names))
        np.testing.assert_allclose(
            vectors, np.array(encoded["embedding"].to_pylist()).reshape(-1, DIMENSION), atol=1e-6
        )
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_published_is_read_as_it_is_served_and_no_encoder_loaded(
    encoder, tmp_path, monkeypatch
):
    sink = FolderSink(tmp_path / "sink" / "v1")
    publish(encoder, sink, Source(ROWS))
    monkeypatch.setattr(vector_run, "ItemEncoder", None)
    source = Source([(item, time, "another title", *rest) for item, time, _, *rest in ROWS])
    keys, vectors = up_to(10, encoder, sink, source)
    assert source.reads == [([], len(ROWS))]
    served = content(sink)
    assert len(keys) == len(served)
    for row, vector in zip(keys.to_pylist(), vectors, strict=True):
        assert vector.tolist() == served[row["job_id"], row["event_timestamp"]]


def test_published_vectors_of_another_encoder_are_not_taken(encoder, tmp_path):
    sink = FolderSink(tmp_path / "sink" / "v1")
    publish(encoder, sink, Source(ROWS))
    other = package_encoder(tmp_path / "other", SmallEncoder(scale=2.0))
    _, vectors = up_to(10, encoder, sink, Source(ROWS))
    _, doubled = up_to(10, other, sink, Source(ROWS))
    np.testing.assert_allclose(doubled, 2 * vectors, atol=1e-6)


def test_a_report_reads_right_for_one_posting():
    report = VectorReport("content 1", us(at(0)) + 1_000_000, postings=1, new=1, pushed=1)
    assert str(report) == (
        "item vectors: 1 new by encoder content 1, of 1 posting up to 2024-03-01 00:00:01 UTC; "
        "1 online"
    )
