"""Who is forgotten is in no byte of any store, and nobody else has changed."""

import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from activity_embeddings.training.commands import cli
from activity_embeddings.transformations.check import check
from activity_embeddings.transformations.online.push import SequenceWriter
from support.feast_repo import STRING_IDS, at, events_table, small_data, small_repo, with_string_ids
from support.feast_repo import vectors_table as of_items
from support.iceberg_repo import in_iceberg
from support.redis_server import redis_server, use_redis

pytestmark = pytest.mark.slow

_EVENTS, VECTORS = small_data(members=12, days=6)
EVENTS = [event for event in _EVENTS if event[-1] < at(4)]  # what is published at last
SECRET = "member-to-be-forgotten"
OTHER = "member-whose-events-are-in-the-source"


def named(member):
    return {3: SECRET, 4: OTHER}.get(member, str(member))


def events(rows):
    table = with_string_ids(events_table(rows))
    position = table.column_names.index("member_id")
    ids = [named(int(member)) for member in table.column("member_id").to_pylist()]
    return table.set_column(position, "member_id", [ids])


@pytest.fixture(
    params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)],
)
def repo(request, tmp_path, models):
    """Published on some days, with a second version of a model and one that was taken out."""
    repo = small_repo(tmp_path / "repo", models, settings=STRING_IDS)
    repo.write_events(events(EVENTS))
    repo.write_vectors(with_string_ids(of_items(VECTORS)))
    if request.param == "sqlite":
        yield published(repo)
        return
    with redis_server() as address:
        use_redis(repo, address)
        repo.address = address
        yield published(repo)


def published(repo):
    pq.write_table(events(EVENTS), repo.events / "history.parquet")
    repo.publish(at(0), at(2))
    line = '    ActivityModel(MODELS / "geometric_decay"),\n'
    repo.edit("activity_models.py", line, "")
    (repo.path / "services.py").unlink()
    repo.publish(at(2), at(4))
    SequenceWriter(repo.store).push(events([(3, 1, "APPLY", at(4.5)), (5, 1, "SAVE", at(4.5))]))
    SequenceWriter(repo.store).push(events([(3, 2, "APPLY", at(4.6))]))
    return repo


def command(repo, *arguments):
    return CliRunner().invoke(cli, ["-C", str(repo.path), "forget", *arguments])


def take_out_of_the_source(repo, member):
    file = repo.events / "history.parquet"
    table = pq.read_table(file)
    kept = [each != member for each in table.column("member_id").to_pylist()]
    pq.write_table(table.filter(kept), file)


def everything(repo):
    """Every byte of the repo's data, and of Redis."""
    found = b"".join(file.read_bytes() for file in sorted(repo.data.rglob("*")) if file.is_file())
    # Parquet compresses: what the columns hold, too.
    for file in repo.data.rglob("*.parquet"):
        found += repr(pq.read_table(file, partitioning=None).to_pydict()).encode()
    if hasattr(repo, "address"):
        from redis import Redis

        host, port = repo.address.split(":")
        with Redis(host=host, port=int(port)) as client:
            for key in client.scan_iter():
                # The key of a row stays, empty, only if other views have features of the member.
                found += key + repr(client.hgetall(key)).encode()
    return found


def test_nothing_is_left_in_any_byte(repo):
    assert SECRET.encode() in everything(repo)
    take_out_of_the_source(repo, SECRET)
    looked = command(repo, SECRET, "nobody", "--verify")
    assert looked.exit_code == 1
    (line,) = looked.output.splitlines()
    assert line.startswith("Error: expected nothing left of 2 members. Received: ")
    assert "2 pushed events" in line and "2 members" not in line.partition("Received")[2]
    others = rows_of_others(repo)
    done = command(repo, SECRET)
    assert done.exit_code == 0, done.output
    assert "forgotten, 1 member: " in done.output and "2 pushed events" in done.output
    nothing = "no rows of snapshots, no rows online, no pushed events, no members in the source of"
    assert f"left of 1 member: {nothing} events" in done.output.splitlines()
    assert SECRET.encode() not in everything(repo)
    assert rows_of_others(repo) == others
    assert command(repo, SECRET, "--verify").exit_code == 0
    assert not check(repo.store).differences
    # Nor does the member come back.
    repo.materialize(at(4), at(6))
    assert SECRET.encode() not in everything(repo)
    assert not check(repo.store).differences


def rows_of_others(repo):
    rows = {}
    for file in sorted(repo.data.rglob("*.parquet")):
        table = pq.read_table(file, partitioning=None)
        if "member_id" in table.column_names and file.name != "history.parquet":
            kept = [row for row in table.to_pylist() if row["member_id"] != SECRET]
            if kept:
                rows[str(file.relative_to(repo.data))] = kept
    members = [{"member_id": named(member)} for member in range(1, 15) if member != 3]
    features = [
        "job_activity_sequence:activity_count",
        "job_activity_embedding_unweighted_average:apply_embedding",
    ]
    return rows, repo.store.get_online_features(features, members).to_dict()


def test_what_a_killed_push_was_writing_is_gone_too(repo):
    take_out_of_the_source(repo, SECRET)
    (live, *_) = sorted(repo.events.glob("live-*.parquet"))
    left, young = (
        repo.events / f".live-20240305T120000.000000Z-{digit * 32}.parquet.writing"
        for digit in "0a"
    )
    left.write_bytes(live.read_bytes())
    young.write_bytes(b"of a push that is under way")
    os.utime(left, (0, 0))
    assert command(repo, SECRET).exit_code == 0
    assert not left.exists() and young.exists()
    assert SECRET.encode() not in everything(repo)


def test_who_was_pushed_to_an_object_store_does_not_come_back(tmp_path, models):
    repo = small_repo(tmp_path / "repo", models, settings=STRING_IDS)
    repo.write_events(events(EVENTS))
    repo.write_vectors(with_string_ids(of_items(VECTORS)))
    elsewhere = f'path="fsspec+file://{repo.events}"'
    repo.edit("sources.py", 'path="data/activity_events"', elsewhere)
    take_out_of_the_source(repo, SECRET)
    repo.publish(at(0), at(2))
    SequenceWriter(repo.store).push(events([(3, 1, "APPLY", at(2.5)), (5, 1, "SAVE", at(2.5))]))
    repo.materialize(at(2), at(3))
    assert SECRET.encode() in everything(repo)
    looked = command(repo, SECRET, "--verify")
    assert looked.exit_code == 1 and "1 pushed event, " in looked.output
    done = command(repo, SECRET)
    assert done.exit_code == 0 and "1 pushed event, " in done.output, done.output
    assert SECRET.encode() not in everything(repo)
    repo.materialize(at(3), at(4))
    assert SECRET.encode() not in everything(repo)
    assert not check(repo.store).differences


def test_it_is_refused_while_the_source_has_the_member(repo):
    before = everything(repo)
    take_out_of_the_source(repo, SECRET)
    refused = command(repo, SECRET, OTHER)
    assert refused.exit_code == 1
    assert f"Received: events of '{OTHER}'. Take them out of the source first" in refused.output
    pq.write_table(events(EVENTS), repo.events / "history.parquet")
    assert everything(repo) == before


def test_failed_runs_say_nothing_of_members_afterwards(repo):
    take_out_of_the_source(repo, SECRET)
    kept = (repo.events / "history.parquet").read_bytes()
    bad = events([(3, 1, SECRET, at(1))])
    pq.write_table(bad, repo.events / "bad.parquet")
    assert repo.feast("materialize", "2024-03-05T00:00:00", "2024-03-06T00:00:00").code == 1
    (repo.events / "bad.parquet").unlink()
    assert any(SECRET in file.read_text() for file in repo.data.glob("snapshots/_runs/*"))
    assert (repo.events / "history.parquet").read_bytes() == kept
    assert command(repo, SECRET).exit_code == 0
    assert SECRET.encode() not in everything(repo)


def test_a_store_without_a_way_to_delete_is_refused_before_anything_changes(
    tmp_path, models, monkeypatch
):
    repo = small_repo(tmp_path / "repo", models)
    repo.publish(at(0), at(1))
    repo.edit("feature_store.yaml", "activity_embeddings.ThreadedSqlite", "no.Sqlite")
    (repo.path / "no.py").write_text(
        "from feast.infra.online_stores.online_store import OnlineStore\n"
        "from feast.repo_config import FeastConfigBaseModel\n"
        "class SqliteOnlineStoreConfig(FeastConfigBaseModel):\n"
        "    type: str = 'no.SqliteOnlineStore'\n"
        "    path: str\n"
        "class SqliteOnlineStore(OnlineStore):\n"
        "    online_write_batch = online_read = update = teardown = None\n"
    )
    monkeypatch.syspath_prepend(repo.path)
    shutil.rmtree(repo.events)
    repo.write_events(events_table([(99, 1, "APPLY", at(0.5))]))
    before = repo.snapshot_files()
    refused = command(repo, "3")
    assert refused.exit_code == 1 and "expected one whose rows can be deleted" in refused.output
    assert repo.snapshot_files() == before


def test_ids_of_another_type_are_refused(tmp_path, models):
    repo = small_repo(tmp_path / "repo", models)
    repo.run("apply")
    refused = command(repo, "three")
    assert refused.exit_code == 1
    assert "member_id: expected ids that are int64. Received: 'three'" in refused.output


def test_several_members_of_integers(tmp_path, models):
    repo = small_repo(tmp_path / "repo", models)
    repo.publish(at(0), at(3))
    table = pq.read_table(repo.events / "history.parquet")
    kept = np.isin(table.column("member_id").to_numpy(), [3, 7, 40], invert=True)
    repo.write_events(table.filter(kept))
    done = command(repo, "3", "7", "40", "3")
    assert done.exit_code == 0 and "forgotten, 3 members: " in done.output
    got = repo.store.get_online_features(
        ["job_activity_sequence:activity_count"], [{"member_id": m} for m in (3, 7, 40, 1)]
    ).to_dict()["activity_count"]
    assert got[:3] == [None] * 3 and got[3] is not None


def test_nothing_is_left_in_older_snapshots_of_iceberg(tmp_path, models):
    repo = in_iceberg(small_repo(tmp_path / "repo", models, settings=STRING_IDS))
    repo.write_vectors(with_string_ids(of_items(VECTORS)))
    repo.write_events(events(EVENTS))
    repo.publish(at(0), at(3))
    late = events([(3, 1, "APPLY", at(1.5)), (5, 1, "SAVE", at(1.5))])
    pq.write_table(late, repo.events / "late.parquet")
    repo.materialize(at(0), at(3))  # replaces rows
    bad = repo.events / "bad.parquet"
    pq.write_table(events([(3, 1, SECRET, at(1))]), bad)
    assert repo.feast("materialize", "2024-03-03T00:00:00", "2024-03-04T00:00:00").code == 1
    bad.unlink()
    pq.write_table(late.slice(1), repo.events / "late.parquet")
    take_out_of_the_source(repo, SECRET)
    others = rows_of_others(repo)[1]
    assert SECRET.encode() in everything(repo)
    looked = command(repo, SECRET, "--verify")
    assert looked.exit_code == 1 and "20 rows of snapshots" in looked.output
    assert command(repo, SECRET).exit_code == 0
    assert SECRET.encode() not in everything(repo)
    assert rows_of_others(repo)[1] == others
    assert command(repo, SECRET, "--verify").exit_code == 0
    repo.materialize(at(0), at(4))
    assert SECRET.encode() not in everything(repo)
    assert not check(repo.store).differences
