"""Domains of other names, types and sizes than the sample's, and two in one feature repo."""

import json
import shutil
import subprocess
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from activity_embeddings import DomainNames
from activity_embeddings.training.new_repo.settings import EventSource, VectorSource
from activity_embeddings.transformations.check import check
from activity_embeddings.transformations.cli import cli
from activity_embeddings.transformations.offline.sinks.folder import FolderSink
from activity_embeddings.transformations.serving.entity_rows import entity_rows
from support.domains import COURSES, add_courses, course_vector
from support.feast_repo import (
    OWN_VECTORS,
    PROJECT,
    Repo,
    at,
    events_table,
    make_repo,
    small_data,
    small_repo,
    vectors_table,
)

pytestmark = pytest.mark.slow

JOB_AVERAGE = "job_activity_embedding_unweighted_average"
COURSE_AVERAGE = "course_activity_embedding_unweighted_average"
MEMBER = 3
HISTORY = [(3, "c1", "ENROL", at(-2)), (3, "c2", "LEAVE", at(-1)), (5, "c3", "ENROL", at(-3))]


def run(repo, *arguments):
    """Run activity-embeddings; return its exit status and output."""
    result = CliRunner().invoke(cli, ["-C", str(repo.path), *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def two_domains(tmp_path_factory, models):
    path = tmp_path_factory.mktemp("domains") / "repo"
    repo = small_repo(path, models)
    add_courses(repo, HISTORY)
    repo.publish(at(-51), at(0), "--views", "course_embedding", "--views", "job_embedding")
    repo.materialize(at(-1), at(0))
    repo.keep()
    return repo


def test_two_domains_are_published_by_one_run(two_domains):
    sequences = two_domains.data / "snapshots" / "course_activity_sequence" / "v1"
    rows = {r["member_id"]: r for r in pq.read_table(sequences, partitioning=None).to_pylist()}
    assert rows[3]["activity_course_ids"] == ["c1", "c2"]
    assert rows[3]["activity_actions"] == [1, 2]
    for item in ("job", "course"):
        report = check(two_domains.store, item=item, sample=100)
        assert report.members and not report.differences
        assert all(view.startswith(f"{item}_activity_") for view in report.compared)
    tables = {path.name for path in (two_domains.data / "vector_tables").iterdir()}
    assert tables == {"job_embedding", "course_embedding"}


def test_both_services_are_joined_in_one_training_set(two_domains):
    features = [
        f"{view}:{name}"
        for view, names in (
            (JOB_AVERAGE, ["apply_embedding"]),
            (COURSE_AVERAGE, ["enrol_embedding", "leave_embedding"]),
            ("job_activity_sequence", ["activity_count"]),
            ("course_activity_sequence", ["activity_count"]),
        )
        for name in names
    ]
    labels = pd.DataFrame({"member_id": [5, 3], "event_timestamp": [at(0.5), at(0.5)]})
    joined = two_domains.store.get_historical_features(
        labels, features, full_feature_names=True
    ).to_df()
    assert joined["member_id"].tolist() == [5, 3]
    assert joined["course_activity_sequence__activity_count"].tolist() == [1, 2]
    enrolled = joined[f"{COURSE_AVERAGE}__enrol_embedding"]
    assert enrolled[0].tolist() == course_vector("c3").tolist()
    assert enrolled[1].tolist() == course_vector("c1").tolist()
    for service in ("learning_v1", "search_v1"):
        alone = two_domains.store.get_historical_features(
            labels, two_domains.store.get_feature_service(service), full_feature_names=True
        ).to_df()
        ours = [name for name in alone.columns if name.endswith("_embedding")]
        assert ours
        for name in set(ours) & set(joined.columns):
            assert np.array_equal(np.stack(alone[name]), np.stack(joined[name]))


def test_both_are_recomputed_in_one_request_with_the_recent_activity_of_each(two_domains):
    store, now = two_domains.store, at(0).isoformat()
    row = {
        **entity_rows([MEMBER], {MEMBER: [(7, "SAVE", now)]}, request_timestamp=at(0.5))[0],
        **entity_rows(
            [MEMBER],
            {MEMBER: [("c4", "ENROL", now), ("c5", "ENROL", now)]},
            request_timestamp=at(0.5),
            domain=COURSES,
        )[0],
    }
    features = [
        f"{JOB_AVERAGE}_realtime:save_embedding",
        f"{JOB_AVERAGE}_realtime:new_activity_count",
        f"{COURSE_AVERAGE}_realtime:enrol_embedding",
        f"{COURSE_AVERAGE}_realtime:new_activity_count",
    ]
    answer = store.get_online_features(features, [row], full_feature_names=True).to_dict()
    assert answer[f"{JOB_AVERAGE}_realtime__new_activity_count"] == [1]
    assert answer[f"{COURSE_AVERAGE}_realtime__new_activity_count"] == [2]
    mean = (course_vector("c1") + course_vector("c4") + course_vector("c5")) / 3
    enrolled = answer[f"{COURSE_AVERAGE}_realtime__enrol_embedding"][0]
    assert enrolled == pytest.approx(mean.tolist(), abs=1e-5)
    # The job's value is what a request for the jobs alone gives.
    jobs = {name: value for name, value in row.items() if "course" not in name}
    alone = store.get_online_features([features[0]], [jobs]).to_dict()
    assert answer[f"{JOB_AVERAGE}_realtime__save_embedding"] == alone["save_embedding"]


@pytest.fixture
def changed(two_domains):
    """The same for a test that changes it."""
    yield two_domains
    two_domains.put_back()


def test_a_push_and_a_check_say_which_domain_they_mean(changed, tmp_path):
    events = tmp_path / "events.jsonl"
    events.write_text(
        json.dumps(
            {
                "member_id": 3,
                "course_id": "c5",
                "action": "ENROL",
                "event_timestamp": at(0.1).isoformat(),
            }
        )
    )
    for command in (["push", events], ["check"]):
        code, output = run(changed, *command)
        assert code == 1
        assert "expected the item of one of its domains: course, job. Received: no item" in output
    code, output = run(changed, "push", events, "--item", "course")
    assert code == 0 and "1 of 1 event is new" in output, output
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(
        json.dumps(
            {"member_id": 3, "job_id": 1, "action": "SAVE", "event_timestamp": at(0.1).isoformat()}
        )
    )
    code, output = run(changed, "push", jobs, "--item", "job")
    assert code == 0, output
    stored = changed.store.get_online_features(
        ["course_activity_sequence:activity_course_ids", "job_activity_sequence:activity_job_ids"],
        [{"member_id": 3}],
    ).to_dict()
    assert stored["activity_course_ids"] == [["c1", "c2", "c5"]]
    assert stored["activity_job_ids"][0][-1] == 1
    for item in ("job", "course"):
        code, output = run(changed, "check", "--item", item)
        assert code == 0, output
    code, output = run(changed, "check", "--item", "film")
    assert code == 1 and "course, job. Received: 'film'" in output


@pytest.fixture
def gone_from_jobs(changed):
    """The same, where the source of jobs no longer has a member, and there is more than views say.

    An earlier version of each sequence view, a view that is no longer defined, and what runs that
    are under way have written aside.
    """
    file = changed.events / "history.parquet"
    table = pq.read_table(file)
    pq.write_table(table.filter([m != MEMBER for m in table["member_id"].to_pylist()]), file)
    snapshots = changed.data / "snapshots"
    for view in ("job_activity_sequence", "course_activity_sequence"):
        shutil.copytree(snapshots / view / "v1", snapshots / view / "v0")
        shutil.copytree(snapshots / view / "v1", snapshots / view / ".v1.staging")
    before = snapshots / "job_activity_sequence" / "v1"
    shutil.copytree(before, snapshots / "film_activity_sequence" / "v1")
    (snapshots / "film_activity_sequence" / "now").symlink_to("v1")
    shutil.copytree(before, snapshots / "play_activity_sequence" / ".v1.staging")
    return changed


def snapshots_with(repo, member):
    """Return the folders of snapshots, staged ones too, that have a member."""
    root = repo.data / "snapshots"
    return {
        str(file.parent.parent.relative_to(root))
        for file in root.rglob("snapshot.parquet")
        if member in pq.read_table(file, partitioning=None)["member_id"].to_pylist()
    }


def test_forgetting_in_one_domain_leaves_the_other_and_its_runs_alone(gone_from_jobs):
    repo = gone_from_jobs
    snapshots = repo.data / "snapshots"
    had = snapshots_with(repo, MEMBER)
    of_courses = {folder for folder in had if folder.startswith("course_")}
    assert had - of_courses == {
        "job_activity_sequence/v0",
        "job_activity_sequence/v1",
        "job_activity_sequence/.v1.staging",
        *(f"{path.parent.name}/v1" for path in snapshots.glob("job_activity_embedding_*/v1")),
        "film_activity_sequence/v1",
        "play_activity_sequence/.v1.staging",
    }
    before = repo.snapshot_files()
    with FolderSink(snapshots / "course_activity_sequence" / "v1").locked():
        code, output = run(repo, "forget", MEMBER, "--item", "job")
    assert code == 0 and "left of 1 member: no rows of snapshots, no rows online" in output, output
    assert snapshots_with(repo, MEMBER) == of_courses
    kept = {name: data for name, data in before.items() if name.startswith("course_")}
    assert kept.items() <= repo.snapshot_files().items()
    online = repo.store.get_online_features(
        ["course_activity_sequence:activity_course_ids", "job_activity_sequence:activity_job_ids"],
        [{"member_id": MEMBER}],
    ).to_dict()
    assert online["activity_course_ids"] == [["c1", "c2"]] and online["activity_job_ids"] == [None]
    code, output = run(repo, "forget", MEMBER)
    assert code == 1 and "Received: events of 3. Take them out of the source first" in output


@pytest.mark.parametrize(
    "place",
    [
        "job_activity_embedding_unweighted_average/v1",
        "job_activity_sequence/v0",
        "film_activity_sequence/v1",
    ],
)
def test_nothing_is_forgotten_while_a_run_writes_where_it_would_be_taken_out(gone_from_jobs, place):
    repo = gone_from_jobs
    before = repo.stores()
    with FolderSink(repo.data / "snapshots" / place).locked():
        code, output = run(repo, "forget", MEMBER, "--item", "job")
    assert code == 4 and "expected one run at a time" in output
    assert repo.stores() == before


SHOP = replace(
    OWN_VECTORS,
    names=DomainNames(
        item="product", member_id="user_id", item_id="sku", action="verb", event_id="eid"
    ),
    member="user",
    member_type="string",
    item_type="string",
    events=EventSource(time="ts", event_id_type="int"),
    items=VectorSource(item_id="product_sku", vector="vec", time="made"),
)
SHOP_AVERAGE = "product_activity_embedding_unweighted_average"


def shop_events(rows):
    """Return (user, sku, verb, time, event id) as an event source."""
    users, skus, verbs, times, eids = zip(*rows, strict=True)
    return pa.table(
        {
            "eid": pa.array(eids, pa.int64()),
            "verb": verbs,
            "ts": pa.array(times, pa.timestamp("us", "UTC")),
            "sku": skus,
            "user_id": users,
        }
    )


def sku_vector(sku):
    return np.full(64, int(sku[1:]), dtype=np.float32)


@pytest.fixture
def shop(tmp_path, models):
    rows = [("ann", "s1", "APPLY", at(-2), 7), ("ann", "s2", "APPLY", at(-2), 3)]
    skus = [f"s{i}" for i in range(1, 6)]
    vectors = pa.table(
        {
            "product_sku": skus,
            "vec": pa.array([sku_vector(s).tolist() for s in skus]),
            "made": pa.array([at(-50)] * 5, pa.timestamp("us", "UTC")),
        }
    )
    repo = make_repo(tmp_path / "repo", models, shop_events(rows), vectors, SHOP)
    (repo.data / "job_embeddings.parquet").rename(repo.data / "product_embeddings.parquet")
    repo.publish(at(-51), at(0), "--views", "product_embedding")
    repo.materialize(at(-1), at(0))
    return repo


def test_other_keys_and_columns_work_in_every_path(shop, tmp_path):
    store = shop.store
    sequence = "product_activity_sequence:activity_product_ids"
    members = [{"user_id": "ann"}, {"user_id": "bob"}]
    online = store.get_online_features([sequence, f"{SHOP_AVERAGE}:apply_embedding"], members)
    assert online.to_dict()["activity_product_ids"] == [["s2", "s1"], None]
    assert online.to_dict()["apply_embedding"][0] == [1.5] * 64

    labels = pd.DataFrame({"user_id": ["ann", "bob"], "event_timestamp": [at(0.5)] * 2})
    joined = store.get_historical_features(labels, [sequence]).to_df()
    assert joined["activity_product_ids"][0].tolist() == ["s2", "s1"]

    names = SHOP.names
    rows = entity_rows(
        ["ann", "bob"],
        {"bob": [("s4", "SAVE", at(0.1), 9), ("s3", "SAVE", at(0.1), 8)]},
        request_timestamp=at(0.5),
        event_ids=True,
        domain=names,
    )
    assert set(rows[0]) == {*names.request_columns, "user_id", "recent_product_event_ids"}
    service = store.get_feature_service("search_v1_realtime")
    answer = store.get_online_features(service, rows).to_dict()
    assert answer["new_activity_count"] == [0, 2]
    assert answer["save_embedding"][1] == pytest.approx([3.5] * 64)

    new = shop_events([("bob", "s4", "SAVE", at(0.1), 9), ("bob", "s3", "SAVE", at(0.1), 8)])
    pa.csv.write_csv(new.slice(0, 1), tmp_path / "new.csv")
    text = [{**row, "ts": row["ts"].isoformat()} for row in new.slice(1).to_pylist()]
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, text)))
    for file in ("new.csv", "new.jsonl"):
        code, output = run(shop, "push", tmp_path / file)
        assert code == 0, output
    pushed = store.get_online_features([sequence], members).to_dict()
    assert pushed["activity_product_ids"] == [["s2", "s1"], ["s3", "s4"]]
    assert len(pq.read_table(shop.events)) == 4
    code, output = run(shop, "check")
    assert code == 0 and "1 member checked" in output, output


def test_actions_outside_the_vocabulary_are_left_out_and_counted_where_the_spec_says_so(
    tmp_path, models
):
    events, vectors = small_data(members=8, days=10)
    spec = replace(OWN_VECTORS.spec, other_actions="ignore")
    settings = replace(OWN_VECTORS, spec=spec)
    plain = make_repo(tmp_path / "plain", models, events_table(events), vectors_table(vectors))
    others = [(1, 1, "LOOK", at(0.5)), (2, 2, "LOOK", at(0.6)), (9_999, 3, "SHARE", at(0.7))]
    mixed = make_repo(
        tmp_path / "mixed",
        models,
        events_table([*others, *events]),
        vectors_table(vectors),
        settings,
    )
    plain.run("apply")
    mixed.run("apply")
    output = mixed.materialize(at(0), at(1)).output
    assert "3 events of other actions ignored" in output
    plain.materialize(at(0), at(1))
    assert rows_of(plain) == rows_of(mixed)
    assert not check(mixed.store, sample=50).differences

    plain.write_events(events_table([*others, *events]))
    refused = plain.feast("materialize", "2024-03-02T00:00:00", "2024-03-03T00:00:00")
    assert refused.code == 1
    assert "'action' should be one of APPLY, SAVE, DISMISS" in refused.output
    assert "'LOOK', 'SHARE' in 3 of" in refused.output


def test_a_row_that_several_reads_of_a_run_see_is_counted_once(tmp_path, models):
    """As 18 cut-offs make two reads, each with the window before it."""
    rows = [
        *[(1, 1, "APPLY", at(-24.9))] * 2,
        (1, 1, "LOOK", at(-24.9)),
        *[(1, 2, "SAVE", at(1))] * 2,
        (2, 2, "LOOK", at(1)),
        *[(2, 1, "APPLY", at(2.9))] * 3,
        (2, 3, "LOOK", at(2.9)),
    ]
    vectors = [(item, at(-40), np.ones(64)) for item in (1, 2, 3)]
    settings = replace(OWN_VECTORS, spec=replace(OWN_VECTORS.spec, other_actions="ignore"))
    repo = make_repo(
        tmp_path / "repo", models, events_table(rows), vectors_table(vectors), settings
    )
    repo.edit("feature_store.yaml", "snapshot_interval_hours: 24", "snapshot_interval_hours: 4")
    output = repo.publish(at(0), at(3)).output
    assert "18 snapshots" in output
    assert "3 read, 4 duplicates left out; 3 events of other actions ignored;" in output
    # The first cut-off's window begins after the first rows; who fell silent is seen from before.
    output = repo.materialize(at(3), at(3.5)).output
    assert "2 read, 3 duplicates left out; 2 events of other actions ignored;" in output


def rows_of(repo):
    """Return every published row, of files and of the online store, without facts of the run."""
    files = (repo.data / "snapshots").rglob("snapshot.parquet")
    offline = {
        str(file.relative_to(repo.data)): pq.read_table(file, partitioning=None).to_pylist()
        for file in files
    }
    return offline, repo.online_rows()


def without(table, column):
    return table.drop_columns([column])


def recast(table, column, values):
    return table.set_column(table.column_names.index(column), column, values)


EVENTS = events_table([(1, 1, "SAVE", at(-1)), (2, 2, "APPLY", at(-1))])
VECTORS = vectors_table([(1, at(-9), np.ones(64)), (2, at(-9), np.ones(64))])
TEXT = pa.array(["a", "b"])
BAD_COLUMNS = {
    "no member": (without(EVENTS, "member_id"), "'member_id'", "missing"),
    "no action": (without(EVENTS, "action"), "'action'", "missing"),
    "no time": (without(EVENTS, "event_timestamp"), "'event_timestamp'", "missing"),
    "members of text": (recast(EVENTS, "member_id", TEXT), "'member_id' should be int64", "string"),
    "items that are no ids": (
        recast(EVENTS, "job_id", pa.array([1.0, 2.0])),
        "'job_id' should be int64",
        "double",
    ),
    "actions as numbers": (
        recast(EVENTS, "action", pa.array([1, 2])),
        "'action' should be string",
        "int64",
    ),
    "naive times": (
        recast(EVENTS, "event_timestamp", EVENTS["event_timestamp"].cast(pa.timestamp("us"))),
        "'event_timestamp'",
        "timestamp[us]",
    ),
    "no vector": (without(VECTORS, "embedding"), "'embedding'", "missing"),
    "vectors of text": (
        recast(VECTORS, "embedding", pa.array([["a"], ["b"]])),
        "'embedding' should be list<float>",
        "string",
    ),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory, models):
    repo = small_repo(tmp_path_factory.mktemp("published") / "repo", models)
    repo.publish(at(0), at(1))
    repo.keep()
    return repo


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_apply_refuses_a_source_without_a_column_or_with_one_of_another_type(published, case):
    table, column, received = BAD_COLUMNS[case]
    repo = published.put_back()
    before = repo.stores(), (repo.data / "registry.db").read_bytes()
    if "embedding" in case or "vector" in case:
        repo.write_vectors(table)
        file = "job_embeddings.parquet"
    else:
        repo.write_events(table)
        file = "activity_events"
    refused = repo.feast("apply")
    assert refused.code == 1
    (line,) = [line for line in refused.output.splitlines() if line.startswith("Error: ")]
    assert file in line and column in line and received in line
    assert (repo.stores(), (repo.data / "registry.db").read_bytes()) == before


def test_services_of_a_model_that_is_taken_out_are_named_and_left_out(repo):
    repo.run("apply")
    repo.edit("activity_models.py", '    ActivityModel(MODELS / "unweighted_average"),\n', "")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        repo.run("apply")
    said = [str(w.message) for w in caught if "left out" in str(w.message)]
    assert len(said) == 2
    for service, line in zip(("search_v1", "search_v1_realtime"), said, strict=True):
        assert f"feature service {service!r} is left out" in line
        assert "geometric_decay, cnn. Received: 'unweighted_average'" in line
    services = {service.name for service in repo.store.list_feature_services()}
    assert services == {
        f"recommendations_v{version}{kind}" for version in (1, 2) for kind in ("", "_realtime")
    }
    repo.materialize(at(0), at(1))


@pytest.mark.process
def test_the_feature_repo_of_a_fresh_checkout_is_applied_and_published(tmp_path):
    tracked = subprocess.run(
        ["git", "ls-files", "feature_repo"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for name in tracked:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / name, tmp_path / name)
    repo = Repo(tmp_path / "feature_repo")
    applied = repo.process("apply")
    assert applied.returncode == 0, applied.stderr
    published = repo.process("materialize", "1999-03-29T00:00:00", "1999-03-31T00:00:00")
    assert published.returncode == 0, published.stderr
    assert not check(repo.store, sample=50).differences
    services = {service.name for service in repo.store.list_feature_services()}
    assert services == {
        f"{name}{kind}"
        for name in ("recommendations_v1", "search_v1")
        for kind in ("", "_realtime")
    }
