"""The table on disk gives the vectors of `ItemVectors`, and readers follow what is committed."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.errors import InvalidInput, ModelMismatch
from activity_embeddings.transformations.online.vector_table import (
    VectorTableReader,
    write_vector_table,
)
from activity_embeddings.transformations.spec import ItemVectorSpec
from support.feast_repo import at, small_data, us, vectors_table

VECTOR_SPEC = ItemVectorSpec("content_and_behaviour", "1", 64)


def item_vectors(rows, string_ids=False):
    table = vectors_table(rows)
    if string_ids:
        names = pa.array([f"jøb-{row[0] * 37}" for row in rows])
        table = table.set_column(0, "job_id", names)
    return ItemVectors.from_arrow(table, VECTOR_SPEC)


def ids_of(vectors, more):
    kind = vectors.item_ids.type
    extra = ["", "jøb-1-and-much-longer-than-all", "zz"] if kind == pa.string() else [-5, 10**12]
    some = vectors.item_ids.to_pylist()[1::3]
    return pa.array(sorted({*some, *(extra if more else [])}), kind)


@pytest.mark.parametrize("string_ids", [False, True])
@pytest.mark.parametrize("one_each", [False, True])
def test_a_table_gives_the_vectors_of_any_time(tmp_path, string_ids, one_each):
    _, rows = small_data()
    if one_each:
        rows = list({row[0]: row for row in rows}.values())
    vectors = item_vectors(rows, string_ids)
    write_vector_table(tmp_path, vectors, VECTOR_SPEC, end=us(at(9)))
    table = VectorTableReader(tmp_path, VECTOR_SPEC).table()
    assert table.one_each == one_each
    assert isinstance(table.matrix.base, np.memmap)

    asked = ids_of(vectors, more=True)
    codes = table.codes(asked.to_numpy(zero_copy_only=False))
    known = [item in vectors.item_ids.to_pylist() for item in asked.to_pylist()]
    assert (codes >= 0).tolist() == known

    assert table.codes(np.array([], dtype=object)).tolist() == []

    extra = (us(at(1)), np.full(64, 7, dtype=np.float32))
    more = {i: extra for i in np.flatnonzero(codes < 0)}
    for ids, their_codes, of in (
        (asked, codes, more),
        (asked.filter(pa.array(codes >= 0)), codes[codes >= 0], {}),
    ):
        taken = table.take(ids, their_codes, of)
        item = np.arange(len(ids), dtype=np.int32)[None, :]
        for day in (-30, 0, 1, 3, 5, 8):
            moment = np.array([us(at(day))])
            got = taken.matrix[taken.rows(ids, item, moment)][0]
            expected = vectors.matrix[vectors.rows(ids, item, moment)][0]
            if day >= 1:
                for i in of:
                    expected[i] = 7
            assert np.array_equal(got, expected)


def test_a_table_may_be_a_link(tmp_path):
    vectors = item_vectors(small_data()[1])
    (tmp_path / "disk").mkdir()
    (tmp_path / "table").symlink_to("disk")
    for end in (1, 2):
        write_vector_table(tmp_path / "table", vectors, VECTOR_SPEC, end=end)
        assert VectorTableReader(tmp_path / "disk", VECTOR_SPEC).table().end == end
    assert (tmp_path / "table").is_symlink()
    (tmp_path / "broken").symlink_to("gone")
    with pytest.raises(InvalidInput, match="gone, which is not there"):
        write_vector_table(tmp_path / "broken", vectors, VECTOR_SPEC, end=1)


@pytest.mark.parametrize("version", ["../other", "/", "", ".", 7, None, ["a"]])
def test_a_table_names_a_folder_of_its_own_or_is_refused(tmp_path, version):
    vectors = item_vectors(small_data()[1])
    write_vector_table(tmp_path / "other", vectors, VECTOR_SPEC, end=1)
    write_vector_table(tmp_path / "table", vectors, VECTOR_SPEC, end=1)
    current = tmp_path / "table" / "current.json"
    facts = json.loads(current.read_text())
    current.write_text(json.dumps({**facts, "version": version}))
    with pytest.raises(InvalidInput, match=r"expected the files that current\.json names"):
        VectorTableReader(tmp_path / "table", VECTOR_SPEC).table()


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_pickle_in_a_table_is_refused_unread(tmp_path):
    write_vector_table(tmp_path / "t", item_vectors(small_data()[1]), VECTOR_SPEC, end=1)
    (keys,) = tmp_path.glob("t/*/keys.npy")
    np.save(keys, np.array([Planted(tmp_path / "was here")], dtype=object), allow_pickle=True)
    assert keys.read_bytes().count(b"was here") == 1
    with pytest.raises(InvalidInput, match="expected the files that"):
        VectorTableReader(tmp_path / "t", VECTOR_SPEC).table()
    assert not (tmp_path / "was here").exists()
    np.load(keys, allow_pickle=True)
    assert (tmp_path / "was here").exists()


def test_an_empty_table_knows_no_item(tmp_path):
    nothing = item_vectors(small_data()[1])
    nothing = ItemVectors(
        nothing.item_ids[:0], nothing.start[:1], nothing.time[:0], nothing.matrix[-1:]
    )
    write_vector_table(tmp_path / "table", nothing, VECTOR_SPEC, end=0)
    for reader in (
        VectorTableReader(tmp_path / "table", VECTOR_SPEC),
        VectorTableReader(tmp_path / "not there", VECTOR_SPEC),
        VectorTableReader(None, VECTOR_SPEC),
    ):
        table = reader.table()
        assert table.codes(np.array([1, 2])).tolist() == [-1, -1]
        one = {0: (5, np.ones(64, dtype=np.float32))}
        assert table.take(pa.array([3]), np.array([-1]), one).matrix.sum() == 64


def test_a_reader_takes_up_what_is_committed_and_keeps_what_it_has_mapped(tmp_path):
    _, rows = small_data()
    reader = VectorTableReader(tmp_path, VECTOR_SPEC)
    assert not len(reader.table().keys)
    tables = []
    for factor in (1, 2, 3, 4):
        vectors = item_vectors([(item, time, factor * vector) for item, time, vector in rows])
        write_vector_table(tmp_path, vectors, VECTOR_SPEC, end=factor)
        tables.append(reader.table())
        assert reader.table() is tables[-1]
        assert np.array_equal(tables[-1].matrix, vectors.matrix)
    assert np.array_equal(4 * tables[0].matrix, tables[3].matrix)
    assert len([folder for folder in tmp_path.iterdir() if folder.is_dir()]) == 2


def test_a_version_without_its_pointer_is_not_there(tmp_path, monkeypatch):
    vectors = item_vectors(small_data()[1])
    write_vector_table(tmp_path, vectors, VECTOR_SPEC, end=1)
    before = VectorTableReader(tmp_path, VECTOR_SPEC).table()

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_vector_table(tmp_path, vectors, VECTOR_SPEC, end=2)
    monkeypatch.undo()
    assert VectorTableReader(tmp_path, VECTOR_SPEC).table().end == before.end == 1
    write_vector_table(tmp_path, vectors, VECTOR_SPEC, end=3)
    assert VectorTableReader(tmp_path, VECTOR_SPEC).table().end == 3
    # Equal content is one version.
    assert len([folder for folder in tmp_path.iterdir() if folder.is_dir()]) == 1
    assert sum(file.is_file() for file in tmp_path.iterdir()) == 1


def test_a_table_from_before_there_were_fingerprints_holds_vectors_of_ones_own(tmp_path):
    vectors = item_vectors(small_data()[1])
    write_vector_table(tmp_path, vectors, VECTOR_SPEC, end=1)
    current = tmp_path / "current.json"
    facts = json.loads(current.read_text())
    del facts["vector_spec"]["fingerprint"]
    current.write_text(json.dumps(facts))
    assert np.array_equal(VectorTableReader(tmp_path, VECTOR_SPEC).table().matrix, vectors.matrix)
    encoders = ItemVectorSpec(VECTOR_SPEC.name, VECTOR_SPEC.version, VECTOR_SPEC.dimension, "one")
    with pytest.raises(InvalidInput, match=r"`fingerprint` should be 'one'. Received: ''"):
        VectorTableReader(tmp_path, encoders).table()


@pytest.mark.parametrize("damage", ["other version", "no version", "no file", "no json"])
def test_a_table_that_is_not_what_it_should_be_is_refused(tmp_path, damage):
    write_vector_table(tmp_path, item_vectors(small_data()[1]), VECTOR_SPEC, end=1)
    current = tmp_path / "current.json"
    facts = json.loads(current.read_text())
    if damage == "other version":
        facts["vector_spec"]["version"] = "2"
    elif damage == "no version":
        del facts["version"]
    elif damage == "no file":
        Path(tmp_path / facts["version"] / "time.npy").unlink()
    current.write_text("{" if damage == "no json" else json.dumps(facts))
    message = (
        "holds vectors of another item vectors: `version` should be '1'. Received: '2'"
        if damage == "other version"
        else "expected the files that current.json names. Received: "
    )
    with pytest.raises(InvalidInput, match=f"vector table {tmp_path}: {message}"):
        VectorTableReader(tmp_path, VECTOR_SPEC).table()


def test_what_is_lost_of_a_table_is_there_after_the_next_commit(tmp_path):
    vectors = item_vectors(small_data()[1])
    for name in ("keys", "order", "start", "time", "matrix"):
        write_vector_table(tmp_path, vectors, VECTOR_SPEC, end=1)
        (file,) = tmp_path.glob(f"*/{name}.npy")
        content = file.read_bytes()
        for damaged in (None, content[:-1]):
            file.unlink()
            if damaged is not None:
                file.write_bytes(damaged)
            write_vector_table(tmp_path, vectors, VECTOR_SPEC, end=2)
            table = VectorTableReader(tmp_path, VECTOR_SPEC).table()
            np.testing.assert_array_equal(table.matrix, vectors.matrix)


def test_two_runs_at_once_leave_a_table_that_can_be_read(tmp_path):
    _, rows = small_data()
    versions = [
        item_vectors([(item, time, factor * vector) for item, time, vector in rows])
        for factor in range(8)
    ]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            writes = [
                pool.submit(write_vector_table, tmp_path, vectors, VECTOR_SPEC, end=1)
                for vectors in versions
            ]
            for write in writes:
                write.result()
            matrix = VectorTableReader(tmp_path, VECTOR_SPEC).table().matrix
            assert any(np.array_equal(matrix, vectors.matrix) for vectors in versions)


def test_one_long_id_makes_no_other_longer(tmp_path):
    rows = [(item, at(0), np.ones(64, np.float32)) for item in range(1000)]
    named = [*(f"p{item}" for item in range(999)), "https://shop.example/" + "x" * 200_000]
    table = vectors_table(rows).set_column(0, "job_id", pa.array(named))
    write_vector_table(tmp_path, ItemVectors.from_arrow(table, VECTOR_SPEC), VECTOR_SPEC, end=1)
    (keys,) = tmp_path.glob("*/keys.npy")
    assert keys.stat().st_size < 20_000
    codes = VectorTableReader(tmp_path, VECTOR_SPEC).table().codes(np.array(named, object))
    assert (codes >= 0).all()


@pytest.mark.parametrize("string_ids", [False, True])
def test_ids_of_another_type_are_refused(tmp_path, string_ids):
    vectors = item_vectors(small_data()[1], string_ids)
    write_vector_table(tmp_path, vectors, VECTOR_SPEC, end=1)
    asked = np.array([1, 2]) if string_ids else np.array(["1"], object)
    with pytest.raises(ModelMismatch, match=r"holds ids that are .*Received: .*Materialize"):
        VectorTableReader(tmp_path, VECTOR_SPEC).table().codes(asked)
