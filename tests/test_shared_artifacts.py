"""Models and the table of item vectors may lie in an object store, and machines keep copies."""

import time
from datetime import timedelta

import numpy as np
import pytest
from pyarrow.fs import FileSystem, copy_files

from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.artifacts import local_folder
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


def test_a_copy_is_made_once_and_again_where_the_files_change(bucket, tmp_path, cache):
    source, url = tmp_path / "source", f"{bucket}/models/one"
    (source / "below").mkdir(parents=True)
    (source / "below" / "b").write_text("2")
    (source / "a").write_text("1")
    with pytest.raises(NotReady, match=r"models/one: expected files\. Received: none"):
        local_folder(url)
    upload(source, url)
    first = local_folder(url)
    assert (first / "a").read_text() == "1" and (first / "below" / "b").read_text() == "2"
    kept = copies(cache)
    assert local_folder(url) == first and copies(cache) == kept
    (source / "a").write_text("another")
    upload(source, url)
    second = local_folder(url)
    assert (second / "a").read_text() == "another" and (first / "a").read_text() == "1"
    with pytest.raises(InvalidInput, match="expected a URL such as s3://bucket/folder"):
        local_folder("nowhere://bucket/models")


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
    # What cannot be read does not take the version away that is there.
    with filesystem.open_output_stream(f"{root}/current.json") as stream:
        stream.write(b"{}")
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
