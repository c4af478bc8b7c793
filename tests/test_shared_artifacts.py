"""Models and the table of item vectors may lie in an object store, and machines keep copies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import BytesIO
from threading import Barrier

import fsspec
import numpy as np
import pytest
from pyarrow.fs import FileSystem, copy_files

from activity_embeddings.transformations import artifacts
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.artifacts import cached, local_folder
from activity_embeddings.transformations.errors import InvalidInput, NotReady
from activity_embeddings.transformations.online import vector_table
from activity_embeddings.transformations.online.vector_table import (
    VectorTableReader,
    write_vector_table,
)
from activity_embeddings.transformations.spec import ItemVectorSpec
from support.feast_repo import at, small_data, small_repo, vectors_table
from support.s3_server import CREDENTIALS, REGION, make_bucket, s3_server

pytestmark = pytest.mark.slow

VECTOR_SPEC = ItemVectorSpec("content_and_behaviour", "1", 64)


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            **CREDENTIALS,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": address,
        }.items():
            patch.setenv(name, value)
        yield make_bucket(address, "artifacts")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIVITY_EMBEDDINGS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def upload(folder, url):
    filesystem, root = FileSystem.from_uri(url)
    copy_files(str(folder), root, destination_filesystem=filesystem)


def copies(cache):
    return {folder.name: folder.stat().st_ino for folder in cache.iterdir()}


def write(url, **files):
    filesystem, root = FileSystem.from_uri(url)
    for name, content in files.items():
        with filesystem.open_output_stream(f"{root}/{name}") as stream:
            stream.write(content)


def content_of(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_copy_is_named_by_its_content_and_made_once(bucket, cache, monkeypatch):
    one, two = f"{bucket}/models/one", f"{bucket}/models/two"
    with pytest.raises(NotReady, match=r"models/one: expected files\. Received: none"):
        local_folder(one)
    with pytest.raises(InvalidInput, match="expected a URL such as s3://bucket/folder"):
        local_folder("nowhere://bucket/models")
    files = {"a": b"1", "below/b": b"2"}
    write(one, **files)
    write(two, **files)
    first = local_folder(one)
    assert content_of(first) == files
    assert local_folder(two) == first
    # As long, and within the second that a store tells times by.
    write(one, a=b"3")
    second = local_folder(one)
    assert content_of(second) == {**files, "a": b"3"}
    assert content_of(first) == files
    assert sorted(copies(cache)) == sorted([first.name, second.name, "told"])
    # From now on files need not be read to know which copy is theirs.
    monkeypatch.setattr(artifacts, "copy_files", None)
    assert local_folder(one) == second and local_folder(two) == first


def test_files_that_change_while_they_come_are_looked_at_again(bucket, monkeypatch):
    url = f"{bucket}/models/three"
    write(url, a=b"1", b=b"1")

    def copied(*arguments, **named):
        copy_files(*arguments, **named)
        write(url, a=b"2", b=b"2")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "copy_files", copied)
        assert content_of(local_folder(url)) == {"a": b"1", "b": b"2"}
    write(url, a=b"1", b=b"1")
    assert content_of(local_folder(url)) == {"a": b"1", "b": b"1"}


def test_a_store_that_tells_nothing_of_content_is_read_each_time(cache):
    url = "fsspec+memory://artifacts/model"
    write(url, a=b"1")
    first = local_folder(url)
    assert local_folder(url) == first and list(copies(cache)) == [first.name]
    write(url, a=b"2")
    assert content_of(local_folder(url)) == {"a": b"2"}
    assert content_of(first) == {"a": b"1"}


def test_an_object_is_copied_to_no_place_but_its_copy(cache):
    fsspec.filesystem("memory").pipe("/artifacts/out/../../../outside", b"1")
    with pytest.raises(InvalidInput, match=r"within .*/cache/.* Received: one that leads out"):
        local_folder("fsspec+memory://artifacts/out")
    assert not any(path.is_file() for path in cache.parent.rglob("*"))


def test_processes_that_fetch_at_once_leave_one_whole_copy(cache):
    meeting = Barrier(3)

    def fetch(folder):
        (folder / "a").write_text("1")
        meeting.wait(20)
        (folder / "b").write_text("2")

    with ThreadPoolExecutor(3) as threads:
        found = set(threads.map(lambda _: cached("name", fetch), range(3)))
    assert found == {cache / "name"} and list(copies(cache)) == ["name"]
    assert content_of(cache / "name") == {"a": b"1", "b": b"2"}


def test_a_killed_fetch_leaves_nothing_that_is_taken_for_a_copy(cache):
    killed = """
import os, signal
from activity_embeddings.transformations.artifacts import cached

def fetch(folder):
    (folder / "a").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

cached("name", fetch)
"""
    process = subprocess.run([sys.executable, "-c", killed])
    assert process.returncode == -signal.SIGKILL and content_of(cache)
    folder = cached("name", lambda folder: (folder / "a").write_text("whole"))
    assert content_of(folder) == {"a": b"whole"}


def test_what_killed_fetches_left_is_removed_after_a_day(cache):
    old, new, told = (cache / f".{digit * 32}" for digit in "abc")
    told = cache / "told" / told.name
    for folder in (old, new, told.parent, cache / ".own"):
        (folder / "part").mkdir(parents=True)
    told.symlink_to(old)
    day = time.time() - 25 * 3600
    for path in (old, told, cache / ".own"):
        os.utime(path, (day, day), follow_symlinks=False)
    cached("name", lambda folder: (folder / "a").write_text("whole"))
    assert {path.name for path in cache.iterdir()} == {"name", "told", new.name, ".own"}
    assert [path.name for path in told.parent.iterdir()] == ["part"]


def test_a_reader_follows_a_table_at_a_url_beside_its_requests(bucket, monkeypatch, cache):
    monkeypatch.setattr(vector_table, "SECONDS_BETWEEN_LOOKS", 0.05)
    url, (_, rows) = f"{bucket}/tables/one", small_data()
    reader = VectorTableReader(url, VECTOR_SPEC)
    assert not len(reader.table().keys)
    for factor in (1, 2, 3, 3):
        changed = [(item, time, factor * vector) for item, time, vector in rows]
        vectors = ItemVectors.from_arrow(vectors_table(changed), VECTOR_SPEC)
        write_vector_table(url, vectors, VECTOR_SPEC, end=factor)
        deadline = time.monotonic() + 20
        while reader.table().end != factor and time.monotonic() < deadline:
            time.sleep(0.02)
        assert np.array_equal(reader.table().matrix, vectors.matrix)
    assert isinstance(reader.table().matrix.base, np.memmap)
    filesystem, root = FileSystem.from_uri(url)
    there = filesystem.get_file_info(vector_table.FileSelector(root))
    assert len([each for each in there if each.base_name != "current.json"]) == 2
    assert len(copies(cache)) == 2  # the newest and the one before
    # Files that are not those of their name are no copy of it.
    current = json.loads(filesystem.open_input_stream(f"{root}/current.json").read())
    shutil.rmtree(cache)
    array = BytesIO()
    np.save(array, vectors.matrix + 1)
    write(f"{url}/{current['version']}", **{"matrix.npy": array.getvalue()})
    with pytest.raises(InvalidInput, match="files of another content, "):
        VectorTableReader(url, VECTOR_SPEC).table()
    assert not copies(cache)
    # What cannot be read does not take the version away that is there.
    write(url, **{"current.json": b"{}"})
    time.sleep(0.2)
    for _ in range(5):
        assert reader.table().end == 3
        time.sleep(0.05)
    with pytest.raises(InvalidInput, match=r"expected the files that current\.json names"):
        VectorTableReader(url, VECTOR_SPEC).table()


def test_a_repo_without_models_or_tables_of_its_own_publishes_and_serves(
    bucket, tmp_path, models, cache
):
    upload(models, f"{bucket}/shared")
    usual = small_repo(tmp_path / "usual", models, seed=5, members=6, days=10)
    repo = small_repo(tmp_path / "repo", models, seed=5, members=6, days=10)
    for file in (repo.path / "models").iterdir():
        file.rename(tmp_path / f"not_{file.name}")
    lines = repo.path / "activity_models.py"
    lines.write_text(lines.read_text().replace('MODELS / "', f'"{bucket}/shared/'))
    repo.edit("item_vectors.py", "item=item,", f'item=item,\n    table="{bucket}/tables/{{view}}",')
    answers = []
    for each in (usual, repo):
        each.run("apply")
        each.materialize(at(0), at(9))
        now = at(9) + timedelta(seconds=5)
        row = {
            "member_id": 3,
            "recent_job_ids": [1, 2],
            "recent_job_actions": ["APPLY", "SAVE"],
            "recent_job_timestamps": [at(9), at(9) + timedelta(seconds=1)],
            "request_timestamp": now,
        }
        service = each.store.get_feature_service("recommendations_v1_realtime")
        answers.append(each.store.get_online_features(service, [row]).to_dict())
    assert answers[0] == answers[1]
    assert answers[0]["new_activity_count"] == [2]
    assert not (repo.data / "vector_tables").exists()
    view = repo.store.get_feature_view("job_activity_embedding_cnn")
    assert view.tags["model_path"] == f"{bucket}/shared/cnn"
    assert any(name.startswith("vector_table-") for name in copies(cache))
