"""Whatever sequence of model versions was published, the registered one's values are online."""

import shutil
from contextlib import nullcontext
from datetime import timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest

from activity_embeddings.transformations.check import OTHER_VERSION, check
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
    import tensorflow as tf

    from activity_embeddings.training.packaging import package_model

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
