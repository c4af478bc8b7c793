"""Whatever sequence of model versions was published, the registered one's values are online."""

import shutil
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from click.testing import CliRunner

from activity_embeddings.training.commands import cli
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.check import OTHER_VERSION, check
from activity_embeddings.transformations.contract.kept_versions import (
    kept_versions,
    put_into_place,
    version_before,
)
from activity_embeddings.transformations.contract.saved_model import (
    fingerprint as saved_model_fingerprint,
)
from activity_embeddings.transformations.offline.sinks.folder import FolderSink
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support.feast_repo import DIMENSION, at, events_table, make_repo, vectors_table
from support.redis_server import redis_server, use_redis

pytestmark = pytest.mark.slow

VIEW = "job_activity_embedding_average"
SPEC = ActivitySpec(window=timedelta(days=2))
VECTORS = [(item, at(-90), np.full(DIMENSION, item, dtype=np.float32)) for item in (1, 2, 3)]
EVENTS = [
    (1, 1, "APPLY", at(-0.5)),  # silent from day 2 on
    (2, 2, "SAVE", at(0.5)),  # seen as of days 1 and 2 alone
    (3, 3, "APPLY", at(1.5)),
    *((4, 1 + day % 3, "APPLY", at(day + 0.25)) for day in range(-1, 8)),
]
WIDTHS = {"1": 64, "2": 2, "3": 64}


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """SavedModels of one name, by version: their outputs differ in length or in scale."""

    class Average(tf.Module):
        def __init__(self, width, scale):
            super().__init__()
            self._width, self._scale = width, scale

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 32, DIMENSION], tf.float32, "item_embeddings"),
                tf.TensorSpec([None, 32], tf.int32, "actions"),
            ]
        )
        def serve(self, item_embeddings, actions):
            total = tf.reduce_sum(item_embeddings, axis=1)[:, : self._width]
            return {"apply_embedding": total * self._scale}

    folder = tmp_path_factory.mktemp("versions")
    vector_spec = ItemVectorSpec("content_and_behaviour", "1", DIMENSION)
    for version, width in WIDTHS.items():
        package_model(
            Average(width, float(version)),
            folder / version,
            name="average",
            version=version,
            spec=SPEC,
            vector_spec=vector_spec,
        )
    return folder


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("redis that keeps newer rows", marks=pytest.mark.redis),
    ]
)
def repo(request, tmp_path, versions):
    (tmp_path / "none").mkdir()
    server = redis_server() if request.param.startswith("redis") else nullcontext()
    with server as address:
        repo = make_repo(
            tmp_path / "repo", tmp_path / "none", events_table(EVENTS), vectors_table(VECTORS)
        )
        repo.edit("sources.py", "window=timedelta(days=28)", "window=timedelta(days=2)")
        (repo.path / "services.py").unlink()
        models = repo.path / "activity_models.py"
        head, _ = models.read_text().split("ACTIVITY_MODELS = [")
        models.write_text(f'{head}ACTIVITY_MODELS = [ActivityModel(MODELS / "average")]\n')
        if address:
            skip = ["skip_dedup: true"] if request.param == "redis" else []
            use_redis(repo, address, *skip)
        yield repo


def take(repo, versions, version):
    """Put a version of the model into the place of the one before, and apply it."""
    folder = repo.path / "models" / "average"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(versions / version, folder)
    repo.run("apply")


def newest_rows(repo, version):
    """Return each member's vector in its newest snapshot of one version."""
    found = {}
    folder = repo.data / "snapshots" / VIEW / f"v{version}"
    for file in sorted(folder.glob("as_of=*/*.parquet")):
        table = pq.read_table(file, partitioning=None)
        found.update(
            zip(table["member_id"].to_pylist(), table["apply_embedding"].to_pylist(), strict=True)
        )
    return found


def online(repo, members):
    rows = [{"member_id": member} for member in members]
    return repo.store.get_online_features([f"{VIEW}:apply_embedding"], rows).to_dict()[
        "apply_embedding"
    ]


@pytest.mark.parametrize(
    "published",
    [
        [("1", 1), ("2", 1), ("1", 1)],  # over the same days
        [("1", 1), ("2", 4), ("1", 6)],  # member 2 was known to version 2 alone, and is silent
        [("2", 4), ("1", 2)],  # back in time too
        [("1", 1), ("3", 3), ("2", 4), ("1", 5), ("3", 6)],
    ],
    ids=lambda walk: "-".join(f"{version}@{day}" for version, day in walk),
)
def test_online_is_what_the_registered_version_says(repo, versions, published):
    start = -1
    for version, day in published:
        take(repo, versions, version)
        repo.materialize(at(min(start, day - 1)), at(day))
        start = day
        rows = newest_rows(repo, version)
        members = [1, 2, 3, 4]
        expected = [rows.get(member) for member in members]
        got = online(repo, members)
        for member, have, want in zip(members, got, expected, strict=True):
            if want is None:
                # The version never said anything of the member: nor has another one's word stayed.
                assert have is None, (version, day, member, have[:3])
            else:
                assert have == pytest.approx(want), (version, day, member)
        assert not check(repo.store).differences


def test_a_reader_knows_which_version_made_a_row(repo, versions):
    def seen():
        rows = [{"member_id": member} for member in (1, 4, 5)]
        return repo.store.get_online_features([f"{VIEW}:model_version"], rows).to_dict()[
            "model_version"
        ]

    take(repo, versions, "1")
    repo.materialize(at(-1), at(1))
    take(repo, versions, "2")
    assert seen() == ["1", "1", None]
    repo.materialize(at(1), at(4))
    assert seen() == ["2", "2", None]


def test_one_command_goes_back_to_the_version_before(repo, versions):
    def rollback(*arguments):
        done = CliRunner().invoke(cli, ["-C", str(repo.path), "rollback", *arguments])
        return done.exit_code, done.output

    take(repo, versions, "1")
    repo.materialize(at(-1), at(1))
    folder = repo.path / "models" / "average"
    as_packaged = {version: saved_model_fingerprint(versions / version) for version in WIDTHS}
    for version in ("2", "3"):
        aside = repo.path / version
        shutil.copytree(versions / version, aside)
        put_into_place(folder, aside, str(int(version) - 1))
        repo.run("apply")
        repo.materialize(at(1), at(4))
    assert online(repo, [4])[0] == pytest.approx(newest_rows(repo, "3")[4])

    assert rollback("averages") == (
        1,
        "Error: expected the name of a model: average. Received: 'averages'\n",
    )
    code, output = rollback("average", "--to", "7")
    assert code == 1 and "expected a version that is kept: 1, 2. Received: 7, while 3 is" in output
    code, output = rollback("average")
    assert code == 0, output
    assert "average: version 2 is registered and published; restart servers" in output
    assert saved_model_fingerprint(folder) == as_packaged["2"]
    assert repo.store.get_feature_view(VIEW).tags["model_version"] == "2"
    assert online(repo, [4])[0] == pytest.approx(newest_rows(repo, "2")[4])
    assert not check(repo.store).differences
    code, output = rollback("average", "--to", "1")
    assert code == 0, output
    # Of days 2 to 4 version 1 had no snapshot: it has the newest now.
    assert online(repo, [4])[0] == pytest.approx(newest_rows(repo, "1")[4])
    assert not check(repo.store).differences
    code, output = rollback("average")
    assert code == 1 and "expected an earlier version that is kept. Received: 2, 3" in output


def test_where_going_back_fails_all_is_as_it_was(repo, versions):
    take(repo, versions, "1")
    repo.materialize(at(-1), at(1))
    folder, aside = repo.path / "models" / "average", repo.path / "2"
    shutil.copytree(versions / "2", aside)
    put_into_place(folder, aside, "1")
    repo.run("apply")
    repo.materialize(at(-1), at(1))
    before = repo.snapshot_files(), online(repo, [1, 2, 3, 4]), saved_model_fingerprint(folder)
    with FolderSink(repo.data / "snapshots" / "job_activity_sequence" / "v1").locked():
        done = CliRunner().invoke(cli, ["-C", str(repo.path), "rollback", "average"])
    assert done.exit_code == 4, done.output
    after = repo.snapshot_files(), online(repo, [1, 2, 3, 4]), saved_model_fingerprint(folder)
    assert after == before
    assert repo.store.get_feature_view(VIEW).tags["model_version"] == "2"


def test_packaging_keeps_the_version_that_it_replaces(tmp_path):
    class Average(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 32, DIMENSION], tf.float32, "item_embeddings"),
                tf.TensorSpec([None, 32], tf.int32, "actions"),
            ]
        )
        def serve(self, item_embeddings, actions):
            return {"apply_embedding": tf.reduce_sum(item_embeddings, axis=1)}

    folder, vector_spec = tmp_path / "average", ItemVectorSpec("any", "1", DIMENSION)
    for version in ("1", "1", "2.0-b", "3"):
        package_model(
            Average(),
            folder,
            name="average",
            version=version,
            spec=SPEC,
            vector_spec=vector_spec,
            litert=False,
        )
    assert list(kept_versions(folder)) == ["1", "2.0-b"]
    assert version_before(folder) == "2.0-b"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".versions", "average"]


def test_packaging_again_after_a_kill_keeps_the_version_that_was_in_place(
    tmp_path, versions, monkeypatch
):
    folder, new = tmp_path / "average", tmp_path / "new"
    shutil.copytree(versions / "1", folder)
    shutil.copytree(versions / "2", new)
    killed_between_its_renames(monkeypatch, folder, new, "1")
    package_model(
        tf.saved_model.load(str(versions / "3")),
        folder,
        name="average",
        version="3",
        spec=SPEC,
        vector_spec=ItemVectorSpec("content_and_behaviour", "1", DIMENSION),
        litert=False,
    )
    kept = kept_versions(folder)
    assert list(kept) == ["1"]
    assert saved_model_fingerprint(kept["1"]) == saved_model_fingerprint(versions / "1")


def test_going_back_after_a_kill_begins_from_the_version_that_was_in_place(
    repo, versions, monkeypatch
):
    take(repo, versions, "1")
    repo.materialize(at(-1), at(1))
    folder, aside = repo.path / "models" / "average", repo.path / "2"
    shutil.copytree(versions / "2", aside)
    put_into_place(folder, aside, "1")  # and not applied: the registry says 1
    killed_between_its_renames(monkeypatch, folder, kept_versions(folder)["1"], "2")
    done = CliRunner().invoke(cli, ["-C", str(repo.path), "rollback", "average"])
    assert done.exit_code == 0, done.output
    assert saved_model_fingerprint(folder) == saved_model_fingerprint(versions / "1")
    assert list(kept_versions(folder)) == ["2"]


def killed_between_its_renames(monkeypatch, folder, new, version):
    class Killed(BaseException):
        pass

    def once(path, target):
        if folder.exists():
            return rename(path, target)
        raise Killed

    rename = Path.rename
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Path, "rename", once)
        put_into_place(folder, new, version)
    assert not folder.exists()


def test_a_version_that_is_applied_and_not_published_is_seen(repo, versions):
    take(repo, versions, "1")
    repo.materialize(at(-1), at(1))
    take(repo, versions, "2")
    repo.materialize(at(-1), at(3))
    take(repo, versions, "1")
    report = check(repo.store)
    stored = [d for d in report.differences if d.view == VIEW]
    # Silent members too, whose newest snapshot is not the newest of all.
    assert {d.member for d in stored} == {1, 2, 3, 4}
    assert {d.cause for d in stored} <= {OTHER_VERSION}
