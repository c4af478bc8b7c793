"""Item vectors by an encoder, with the real `feast` command and stores, held to plain numpy."""

import json
import os
import shutil
import signal
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from activity_embeddings.training.from_repo import TrainingSource
from activity_embeddings.transformations.batch.options import run_options
from activity_embeddings.transformations.check import check
from activity_embeddings.transformations.definitions.registered import registered_model
from activity_embeddings.transformations.definitions.tags import vector_spec_of
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.forget import forget, traces_of
from activity_embeddings.transformations.offline.sinks.folder import FolderSink
from activity_embeddings.transformations.serving.entity_rows import entity_rows
from activity_embeddings.transformations.spec import ActivitySpec
from support.feast_repo import (
    DIMENSION,
    OWN_VECTORS,
    SAMPLE,
    US_PER_DAY,
    at,
    events_table,
    interval,
    make_encoder_repo,
    run_killed,
    small_data,
    us,
)
from support.item_encoders import (
    VALID_FROM,
    SmallEncoder,
    as_reference,
    expected_vectors,
    package_all,
    package_encoder,
    postings_table,
    small_postings,
)
from support.reference import mean_of, sequence, vector_as_of

pytestmark = pytest.mark.slow

SEQUENCE = "job_activity_sequence"
AVERAGE = "job_activity_embedding_unweighted_average"
ONLINE = "activity_embeddings_job_embedding"
ITEMS_ONLY = ("--views", "job_embedding")
EVENTS, _ = small_data(seed=6, members=20, days=12)
POSTINGS = small_postings()
DELAY = timedelta(minutes=30)


@pytest.fixture(scope="module")
def models(encoder_models):
    return encoder_models


@pytest.fixture
def repo(tmp_path, models):
    """A feature repo whose item vectors an encoder makes, applied."""
    repo = make_encoder_repo(
        tmp_path / "repo", models, events_table(EVENTS), postings_table(POSTINGS)
    )
    repo.run("apply")
    return repo


@pytest.fixture(scope="module")
def published(tmp_path_factory, models):
    """A repo that was materialized once, all views together, up to day 4.5."""
    folder = tmp_path_factory.mktemp("published")
    repo = make_encoder_repo(
        folder / "repo", models, events_table(EVENTS), postings_table(POSTINGS)
    )
    repo.run("apply")
    outcome = repo.materialize(at(0), at(4.5))
    count = sum(time <= at(4.5) for _, time, *_ in POSTINGS)
    said = f"item vectors: {count - 4} new by encoder content 1, of {count} postings (4 superseded)"
    assert said in outcome.output
    return repo


def offline(repo, version=1):
    """Return {(item, time): vector} of everything that is published, and check its stamps."""
    folder = repo.data / "snapshots" / "job_embedding" / f"v{version}"
    rows = pq.read_table(folder, partitioning=None).to_pylist()
    assert all(row["created_timestamp"] == row["event_timestamp"] + DELAY for row in rows)
    found = {(row["job_id"], row["event_timestamp"]): row["embedding"] for row in rows}
    assert len(found) == len(rows)
    return found


def online(repo, items=range(1, 31)):
    """Return {item: vector} of the items that the online store has."""
    answer = repo.store.get_online_features(
        ["job_embedding:embedding"], [{"job_id": item} for item in items]
    ).to_dict()
    pairs = zip(answer["job_id"], answer["embedding"], strict=True)
    return {item: vector for item, vector in pairs if vector is not None}


def newest(vectors):
    """Return {item: vector}, the newest of each."""
    return {item: vector for (item, _), vector in sorted(vectors.items(), key=lambda item: item[0])}


def assert_same(got, expected):
    assert set(got) == set(expected)
    for key, vector in expected.items():
        np.testing.assert_allclose(got[key], vector, atol=1e-6, rtol=0)


def folders(repo, version=1):
    sink = repo.data / "snapshots" / "job_embedding" / f"v{version}"
    return sorted(folder.name for folder in sink.glob("as_of=*"))


def assert_refused(repo, command, *expected):
    """The command fails with one error that has all the words; the stores stay as they were."""
    before = repo.stores()
    outcome = repo.feast(*command)
    assert outcome.code == 1, outcome.output
    (error,) = [line for line in outcome.output.splitlines() if line.startswith("Error: ")]
    for words in expected:
        assert words in error
    assert repo.stores() == before


def test_every_posting_gives_the_vector_of_its_content_offline_and_online(published):
    expected = expected_vectors(POSTINGS, at(4.5))
    assert_same(offline(published), expected)
    assert_same(online(published), newest(expected))
    assert folders(published) == ["as_of=20240305T120000Z"]


def test_sequences_of_the_same_call_use_a_vector_from_its_own_time_on(published):
    vectors = as_reference(expected_vectors(POSTINGS, at(4.5)))
    events = [{"member_id": m, "job_id": j, "action": a, "time": us(t)} for m, j, a, t in EVENTS]
    rows = pq.read_table(published.data / "snapshots" / SEQUENCE / "v1", partitioning=None)
    averages = pq.read_table(published.data / "snapshots" / AVERAGE / "v1", partitioning=None)
    seen_late = 0
    for row, average in zip(rows.to_pylist(), averages.to_pylist(), strict=True):
        moment = us(row["event_timestamp"])
        member = [e for e in events if e["member_id"] == row["member_id"]]
        window = {"window_us": 28 * US_PER_DAY, "length": 32}
        activities, unknown = sequence(member, vectors, row["member_id"], moment, **window)
        assert row["activity_job_ids"] == [item for item, _, _ in activities]
        assert row["activity_times"] == [time for _, _, time in activities]
        applied = [vector_as_of(vectors, item, moment) for item, a, _ in activities if a == "APPLY"]
        np.testing.assert_allclose(
            average["apply_embedding"], mean_of(applied, DIMENSION), atol=1e-5, rtol=0
        )
        seen_late += unknown
    assert seen_late, "some activity should have been on items that were not known yet"


def test_a_training_join_never_sees_a_vector_before_posting_and_encoder(published):
    expected = expected_vectors(POSTINGS, at(4.5))
    moments = {time for _, time in expected} | {at(-100), at(3)}
    early = timedelta(microseconds=1)
    labels = [(item, m + d) for item in range(1, 31) for m in moments for d in (-early, early * 0)]
    frame = pd.DataFrame(labels, columns=["job_id", "event_timestamp"])
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True)
    joined = published.store.get_historical_features(frame, ["job_embedding:embedding"]).to_df()
    for (item, moment), vector in zip(labels, joined["embedding"], strict=True):
        known = [time for other, time in expected if other == item and time <= moment]
        if known:
            np.testing.assert_allclose(vector, expected[item, max(known)], atol=1e-6, rtol=0)
        else:
            assert vector is None or vector is pd.NA or np.ndim(vector) == 0
    assert min(time for _, time in expected) == VALID_FROM


def test_training_reads_published_vectors_and_has_the_others_encoded(published):
    """Published is up to day 4.5; some items have a posting of day 5."""
    source = TrainingSource(published.store)
    for day in (2, 4.5, 6):
        vectors = source.whole_history(at(day)).vectors
        items = np.repeat(vectors.item_ids.to_pylist(), np.diff(vectors.start)).tolist()
        keys = zip(items, vectors.time.tolist(), strict=True)
        found = dict(zip(keys, vectors.matrix[:-1], strict=True))
        expected = expected_vectors(POSTINGS, at(day))
        assert_same(found, {(item, us(time)): vector for (item, time), vector in expected.items()})
    assert folders(published) == ["as_of=20240305T120000Z"]


def test_request_time_views_use_the_vectors_of_the_encoder(published):
    members = sorted({member for member, *_ in EVENTS})
    batch = published.store.get_online_features(
        [f"{AVERAGE}:apply_embedding"], [{"member_id": m} for m in members]
    ).to_dict()["apply_embedding"]
    realtime = [f"{AVERAGE}_realtime:apply_embedding"]
    rows = entity_rows(members, request_timestamp=at(4.5))
    again = published.store.get_online_features(realtime, rows).to_dict()["apply_embedding"]
    np.testing.assert_allclose(again, [v or [0.0] * DIMENSION for v in batch], atol=1e-5)
    assert np.abs(again).max() > 0.1

    recent = {999: [(3, "APPLY", at(4.4))]}
    rows = entity_rows([999], recent, request_timestamp=at(4.5))
    (alone,) = published.store.get_online_features(realtime, rows).to_dict()["apply_embedding"]
    vector = newest(expected_vectors(POSTINGS, at(4.5)))[3]
    np.testing.assert_allclose(alone, vector, atol=1e-6)
    assert (published.data / "vector_tables" / "job_embedding" / "v1" / "current.json").exists()


def test_what_is_served_passes_the_check(published):
    report = check(published.store, sample=1000)
    assert report.members and not report.differences


def test_a_run_adds_one_folder_with_what_is_new_and_changes_nothing_else(repo):
    repo.materialize(at(0), at(2))
    first = repo.snapshot_files()
    more = [
        *(row for row in POSTINGS if row[0] != 4),
        (3, at(2.5), "a new version", [], 2020),
        (50, at(2.5), "a new item", ["war"], 2020),
        (51, at(-60), "an old item that came late", ["war"], 2020),
        # Published as of VALID_FROM already; its posting was given another time since.
        (4, at(1), "the same item", ["war"], 2020),
    ]
    repo.write_postings(postings_table(more))
    repo.run("materialize-incremental", f"{at(3):%Y-%m-%dT%H:%M:%S}")
    held = {name for name in first if "job_embedding" in name and name.endswith(".parquet")}
    assert {name: repo.snapshot_files()[name] for name in held} == {n: first[n] for n in held}
    assert folders(repo) == ["as_of=20240303T000000Z", "as_of=20240304T000000Z"]
    sink = repo.data / "snapshots" / "job_embedding" / "v1"
    added = pq.read_table(sink / folders(repo)[1], partitioning=None).to_pylist()
    times = {(row["job_id"], row["event_timestamp"]) for row in added}
    late = {(item, t) for item, t, *_ in POSTINGS if at(2) < t <= at(3)}
    new = {(3, at(2.5)), (50, at(2.5)), (51, VALID_FROM), (4, at(1))}
    assert times == late | new
    served = online(repo, [3, 4, 50, 51])
    assert_same(served, {item: v for item, v in newest(offline(repo)).items() if item in served})
    assert len(served) == 4


def test_a_late_posting_within_an_interval_that_was_published_is_published_too(repo):
    repo.materialize(at(0), at(2), *ITEMS_ONLY)
    more = [*POSTINGS, (3, at(1.75), "newest", [], 2020), (5, at(-4), "older", [], 2020)]
    repo.write_postings(postings_table(more))
    repo.materialize(at(0), at(2), *ITEMS_ONLY)
    assert folders(repo) == ["as_of=20240303T000000Z", "as_of=20240303T000000.000001Z"][::-1]
    assert_same(offline(repo), expected_vectors(more, at(2)))
    # Item 5 has a newer one online already, which stays.
    assert_same(online(repo), newest(expected_vectors(more, at(2))))


def test_what_a_plan_says_of_item_vectors_is_what_the_run_then_does(repo):
    repo.materialize(at(0), at(2))
    before = repo.stores()
    with run_options(dry_run=True):
        repo.store.materialize(at(2), at(4.5))
    assert repo.stores() == before
    repo.materialize(at(2), at(4.5))
    files = sorted((repo.data / "snapshots" / "_runs").glob("*.json"))
    plan, run = (json.loads(file.read_text())["steps"] for file in files[-2:])
    assert [step["views"] for step in plan] == [step["views"] for step in run]
    vectors = plan[0]["views"]["job_embedding"]
    assert vectors["version"] == "1" and vectors["rows"] >= vectors["pushed_rows"] > 0


def test_materializing_again_or_less_changes_no_byte(repo):
    repo.materialize(at(0), at(3))
    once = repo.stores()
    repo.materialize(at(0), at(3))
    assert repo.stores() == once
    repo.materialize(at(1), at(2), *ITEMS_ONLY)
    assert repo.stores() == once


def test_the_order_of_postings_and_the_offline_store_change_no_byte(repo, tmp_path, models):
    order = np.random.default_rng(1).permutation(len(POSTINGS))
    other = make_encoder_repo(
        tmp_path / "other",
        models,
        events_table(EVENTS),
        postings_table([POSTINGS[i] for i in order]),
    )
    other.edit(
        "feature_store.yaml",
        "activity_embeddings.OrderedDuckDBOfflineStore",
        "activity_embeddings.OrderedDaskOfflineStore",
    )
    other.run("apply")
    for each in (repo, other):
        each.materialize(at(0), at(2))
    assert other.snapshot_files() == repo.snapshot_files()
    assert other.online_rows() == repo.online_rows()


def test_steps_and_one_backfill_publish_the_same_vectors(repo, published):
    for end in (at(0.5), at(2), at(4.5)):
        repo.materialize(at(0), end, *ITEMS_ONLY)
    assert len(folders(repo)) == 3
    assert_same(offline(repo), offline(published))
    assert_same(online(repo), online(published))


def test_nothing_is_known_before_the_encoder_was_fitted(tmp_path, models):
    repo = make_encoder_repo(
        tmp_path / "repo", models, events_table(EVENTS), postings_table(POSTINGS)
    )
    package_all(repo.path / "models", valid_from=at(2))
    repo.run("apply")
    assert_refused(repo, interval(at(0), at(1)), "'content'", "2024-03-03", "end 2024-03-02")
    # Nothing but empty values could be published of the day before.
    assert_refused(repo, interval(at(0), at(3)), "2024-03-02", "the first from 2024-03-03 00:00")
    repo.materialize(at(1), at(3))
    rows = pq.read_table(repo.data / "snapshots" / SEQUENCE / "v1", partitioning=None).to_pylist()
    assert {row["event_timestamp"] for row in rows if row["activity_count"]} == {at(2), at(3)}
    assert min(time for _, time in offline(repo)) == at(2)


def test_models_refuse_the_vectors_of_an_encoder_retrained_under_its_version(repo):
    repo.materialize(at(0), at(1))
    encoder = repo.path / "models" / "item_encoder"
    with pytest.raises(InvalidInput, match="item encoder 'content': expected a new version"):
        package_encoder(encoder, SmallEncoder(scale=0.5))
    shutil.rmtree(encoder)
    package_encoder(encoder, SmallEncoder(scale=0.5))
    assert_refused(
        repo, interval(at(1), at(2)), "'content'", "applied", "`fingerprint`", "feast apply"
    )
    assert_refused(repo, ["apply"], "'unweighted_average'", "another item vectors", "`fingerprint`")


def test_a_model_of_another_encoder_is_refused_when_it_is_loaded(repo):
    manifest = repo.path / "models" / "cnn" / "assets.extra" / "activity_model.json"
    facts = json.loads(manifest.read_text())
    facts["vector_spec"]["fingerprint"] = "0123456789abcdef"
    manifest.write_text(json.dumps(facts))
    store = repo.store
    with pytest.raises(InvalidInput, match=r"'cnn'.*`fingerprint` should be .*0123456789abcdef"):
        registered_model(
            store.get_feature_view("job_activity_embedding_cnn"),
            spec=ActivitySpec(),
            vector_spec=vector_spec_of(store.get_feature_view("job_embedding")),
            repo=repo.path,
        )
    assert_refused(repo, interval(at(0), at(1)), "'cnn'", "`fingerprint`", "0123456789abcdef")
    # A model from before there were fingerprints is no better.
    del facts["vector_spec"]["fingerprint"]
    manifest.write_text(json.dumps(facts))
    assert_refused(repo, ["apply"], "'cnn'", "`fingerprint`", "Received: ''")


def test_a_retrained_encoder_starts_a_history_of_its_own_and_can_be_taken_back(repo, models):
    repo.materialize(at(0), at(1), *ITEMS_ONLY)
    package_all(repo.path / "models", SmallEncoder(scale=0.5))
    repo.run("apply")
    assert_refused(repo, interval(at(0), at(1)), "'content'", "new version", "fingerprint")
    # The embedding views have no snapshots yet; only the encoder needs another version.
    package_all(repo.path / "models", SmallEncoder(scale=0.5), version="2")
    repo.publish(at(0), at(1), *ITEMS_ONLY)
    halved = expected_vectors(POSTINGS, at(1), scale=0.5)
    assert_same(offline(repo, version=2), halved)
    assert_same(online(repo), newest(halved))
    assert_same(offline(repo), expected_vectors(POSTINGS, at(1)))

    shutil.rmtree(repo.path / "models")
    shutil.copytree(models, repo.path / "models")
    repo.publish(at(0), at(1), *ITEMS_ONLY)
    assert_same(online(repo), newest(expected_vectors(POSTINGS, at(1))))


def test_an_encoder_whose_time_was_moved_is_refused(repo):
    manifest = repo.path / "models" / "item_encoder" / "assets.extra" / "item_encoder.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**facts, "valid_from": at(-31).isoformat()}))
    assert_refused(repo, interval(at(0), at(1)), "'content'", "`valid_from`", "feast apply")


def test_vectors_of_ones_own_and_of_an_encoder_take_turns_in_one_repo(repo):
    encoders = (repo.path / "item_vectors.py").read_text()
    repo.configure(OWN_VECTORS)
    repo.edit("item_vectors.py", '"content_and_behaviour"', '"content"')
    vectors = pa.table(
        {
            "job_id": pa.array([3], pa.int64()),
            "embedding": pa.array([[1.0] * DIMENSION], pa.list_(pa.float32())),
            "event_timestamp": pa.array([at(-1)], pa.timestamp("us", "UTC")),
        }
    )
    repo.write_vectors(vectors)
    ignored = "  guards:\n    unknown_items: {action: ignore}\n  snapshot_interval_hours: 24"
    repo.edit("feature_store.yaml", "  snapshot_interval_hours: 24", ignored)
    assert_refused(repo, ["apply"], "`fingerprint` should be ''")
    for name in ("unweighted_average", "geometric_decay", "cnn"):
        file = repo.path / "models" / name / "assets.extra" / "activity_model.json"
        facts = json.loads(file.read_text())
        kept = facts["vector_spec"].pop("fingerprint")
        file.write_text(json.dumps(facts))
    repo.publish(at(-2), at(1))
    assert_same(online(repo), {3: [1.0] * DIMENSION})

    (repo.path / "item_vectors.py").write_text(encoders)
    assert_refused(repo, ["apply"], f"`fingerprint` should be '{kept}'")
    package_all(repo.path / "models")
    repo.publish(at(-2), at(1), *ITEMS_ONLY)
    assert_same(online(repo), newest(expected_vectors(POSTINGS, at(1))))


def test_string_ids_and_mapped_columns(tmp_path, models):
    table = postings_table(POSTINGS)
    table = table.set_column(0, "posting", pa.array([f"j{item}" for item, *_ in POSTINGS]))
    events = events_table(EVENTS)
    for column, prefix in (("member_id", "m"), ("job_id", "j")):
        texts = pa.array([f"{prefix}{each}" for each in events[column].to_pylist()])
        events = events.set_column(events.column_names.index(column), column, texts)
    repo = make_encoder_repo(
        tmp_path / "repo", models, events, table.rename_columns({"title": "headline"})
    )
    repo.configure(replace(SAMPLE, member_type="string", item_type="string"))
    repo.edit(
        "item_vectors.py",
        'timestamp_field="event_timestamp",',
        'timestamp_field="event_timestamp",\n'
        '    field_mapping={"posting": "job_id", "headline": "title"},',
    )
    repo.publish(at(0), at(2))
    repo.materialize(at(2), at(3))
    expected = expected_vectors(POSTINGS, at(3))
    assert_same(offline(repo), {(f"j{item}", time): v for (item, time), v in expected.items()})
    items = [f"j{item}" for item in range(1, 31)]
    assert_same(online(repo, items), {f"j{item}": v for item, v in newest(expected).items()})


def with_column(name, values):
    table = postings_table(POSTINGS)
    return table.set_column(table.column_names.index(name), name, values)


def with_value(name, value, row=3):
    table = postings_table(POSTINGS)
    values = table[name].to_pylist()
    values[row] = value
    return with_column(name, pa.array(values, table.schema.field(name).type))


TABLE = postings_table(POSTINGS)
BAD_POSTINGS = {
    "a missing column": (TABLE.drop_columns(["genres"]), ["job_posting", "'genres'", "missing"]),
    "no time": (TABLE.drop_columns(["event_timestamp"]), ["'event_timestamp'", "missing"]),
    "a null title": (with_value("title", None), ["'title'", "no nulls", "1 of"]),
    "a null list": (with_value("genres", None), ["'genres'", "no nulls", "1 of"]),
    "a null in a list": (with_value("genres", ["a", None]), ["'genres'", "1 of", "null"]),
    "a null year": (with_value("year", None), ["'year'", "no nulls"]),
    "a null item": (with_value("job_id", None), ["'job_id'", "no nulls"]),
    "a null time": (with_value("event_timestamp", None), ["'event_timestamp'", "no nulls"]),
    "years as text": (
        with_column("year", pa.array(["1999"] * len(TABLE))),
        ["'year'", "int64", "string"],
    ),
    "genres as text": (
        with_column("genres", pa.array(["war"] * len(TABLE))),
        ["'genres'", "list<string>", "Received: string"],
    ),
    "items of another type": (
        with_column("job_id", TABLE["job_id"].cast(pa.string())),
        ["'job_id'", "int64", "string"],
    ),
    "naive times": (
        with_column("event_timestamp", TABLE["event_timestamp"].cast(pa.timestamp("us"))),
        ["'event_timestamp'", "naive"],
    ),
    "two postings of an item at one time": (
        pa.concat_tables([TABLE, TABLE.slice(0, 1)]),
        ["job_posting", "one posting at one time", "item 1"],
    ),
    "no rows": (TABLE.slice(0, 0), ["job_posting", "expected postings", "none"]),
}


@pytest.fixture(scope="module")
def applied(tmp_path_factory, models):
    repo = make_encoder_repo(
        tmp_path_factory.mktemp("applied") / "repo",
        models,
        events_table(EVENTS),
        postings_table(POSTINGS),
    )
    repo.publish(at(0), at(1), *ITEMS_ONLY)
    return repo


@pytest.mark.parametrize("case", BAD_POSTINGS)
def test_bad_postings_are_refused_and_nothing_is_published(case, applied):
    table, expected = BAD_POSTINGS[case]
    # Everything is to be encoded again, so that whatever is bad matters.
    sink = applied.data / "snapshots" / "job_embedding"
    aside = applied.path / "aside"
    os.rename(sink, aside)
    applied.write_postings(table)
    try:
        assert_refused(applied, interval(at(1), at(2), *ITEMS_ONLY), *expected)
    finally:
        shutil.rmtree(sink, ignore_errors=True)
        os.rename(aside, sink)
        applied.write_postings(postings_table(POSTINGS))


def test_bad_events_leave_the_item_vectors_of_the_same_call_unpublished(repo):
    repo.write_events(events_table([*EVENTS, (1, 1, "VIEW", at(0.5))]))
    assert_refused(repo, interval(at(0), at(1)), "'VIEW'")
    assert not folders(repo)
    repo.write_events(events_table(EVENTS))
    repo.materialize(at(0), at(1))
    assert_same(offline(repo), expected_vectors(POSTINGS, at(1)))


def test_an_encoder_that_gives_nan_or_is_gone_is_refused(repo):
    encoder = repo.path / "models" / "item_encoder"
    kept = repo.path / "kept"
    os.rename(encoder, kept)
    assert_refused(repo, interval(at(0), at(1)), "item encoder", "expected a TensorFlow SavedModel")
    assert_refused(repo, ["apply"], "item encoder", "expected a TensorFlow SavedModel")
    package_all(repo.path / "models", SmallEncoder(scale=float("nan")))
    repo.run("apply")
    assert_refused(repo, interval(at(0), at(1)), "'content'", "finite", "NaN", "27 of 27")


def test_sequences_alone_need_published_item_vectors(repo):
    assert_refused(repo, interval(at(0), at(1), "--views", SEQUENCE), "job_embedding", "published")
    repo.materialize(at(0), at(1), *ITEMS_ONLY)
    repo.materialize(at(0), at(1), "--views", SEQUENCE)
    rows = pq.read_table(repo.data / "snapshots" / SEQUENCE / "v1", partitioning=None)
    assert sum(rows["activity_count"].to_pylist())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('Field(name="year", dtype=Int64)', 'Field(name="born", dtype=Int64)'), "no such column"),
        (('Field(name="year", dtype=Int64)', 'Field(name="year", dtype=String)'), "String"),
    ],
)
def test_an_input_that_is_no_column_of_the_postings_is_refused_at_apply(change, expected, repo):
    repo.edit("item_vectors.py", *change)
    assert_refused(repo, ["apply"], "'content'", "'year'", "job_posting", "Int64", expected)


def test_after_a_teardown_the_online_store_is_filled_again(repo):
    repo.materialize(at(0), at(2), *ITEMS_ONLY)
    before = repo.online_rows()[ONLINE]
    repo.run("teardown")
    assert ONLINE not in repo.online_rows()
    repo.publish(at(1), at(2), *ITEMS_ONLY)

    def content(rows):
        return [row[:3] for row in rows]

    assert content(repo.online_rows()[ONLINE]) == content(before)


KILLED = {
    "between commit and push": (
        "activity_embeddings.transformations.offline.sinks.folder",
        "FolderSink",
        "commit",
        1,
        "after",
    ),
    "during the push": (
        "activity_embeddings.transformations.online.sqlite",
        "SqliteRows",
        "publish",
        2,
        "after",
    ),
}


@pytest.mark.process
@pytest.mark.parametrize("stage", KILLED)
def test_a_killed_run_is_finished_by_the_next_interval(stage, tmp_path, models):
    repo = make_encoder_repo(
        tmp_path / "repo", models, events_table(EVENTS), postings_table(POSTINGS)
    )
    with (repo.path / "feature_store.yaml").open("a") as file:
        file.write("materialization:\n  online_write_batch_size: 7\n")
    repo.run("apply")
    killed = run_killed(repo, KILLED[stage], at(0), at(1), *ITEMS_ONLY)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert len(folders(repo)) == 1
    repo.materialize(at(1), at(2), *ITEMS_ONLY)
    expected = expected_vectors(POSTINGS, at(2))
    assert_same(offline(repo), expected)
    assert_same(online(repo), newest(expected))
    assert not (repo.data / "snapshots" / "job_embedding" / ".v1.staging").exists()


def test_an_encoder_may_read_the_item_id(repo):
    class ById(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "job_id")])
        def serve(self, job_id):
            column = tf.cast(job_id, tf.float32)[:, None] / 100
            return {"embedding": tf.tile(column, [1, DIMENSION])}

    package_all(repo.path / "models", ById())
    repo.publish(at(0), at(1), *ITEMS_ONLY)
    known = {item for item, time, *_ in POSTINGS if time <= at(1)}
    assert_same(online(repo), {item: [item / 100] * DIMENSION for item in known})


def test_forgetting_a_member_leaves_a_run_of_item_vectors_alone(repo):
    repo.materialize(at(0), at(1))
    vectors = FolderSink(repo.data / "snapshots" / "job_embedding" / "v1")
    assert vectors.committed()
    shutil.copytree(vectors.file(vectors.committed()[0]).parents[1], vectors.staging.folder)
    file = repo.events / "history.parquet"
    table = pq.read_table(file)
    pq.write_table(table.filter([m != 3 for m in table["member_id"].to_pylist()]), file)
    before = {name: b for name, b in repo.snapshot_files().items() if "job_embedding" in name}
    with vectors.locked():
        forgotten = forget(repo.store, [3])
    assert forgotten.snapshots and not traces_of(repo.store, [3]).any
    assert before and before.items() <= repo.snapshot_files().items()
