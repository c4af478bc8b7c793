"""`feast materialize` on real stores: values, point in time, repetition, silence, new models.

Expected values come from `reference`, which shares no code with the package.
"""

from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from activity_embeddings.transformations.online.vector_table import VectorTableReader
from activity_embeddings.transformations.spec import ItemVectorSpec
from support.feast_repo import (
    DIMENSION,
    EPOCH,
    STRING_IDS,
    US_PER_DAY,
    at,
    events_table,
    interval,
    make_repo,
    small_data,
    us,
    vectors_table,
)
from support.reference import decayed_of, mean_of, sequence, vector_as_of

pytestmark = pytest.mark.slow

SEQUENCE = "job_activity_sequence"
AVERAGE = "job_activity_embedding_unweighted_average"
DECAY = "job_activity_embedding_geometric_decay"
CNN = "job_activity_embedding_cnn"
VIEWS = (SEQUENCE, AVERAGE, DECAY, CNN)
R = 0.8
TTL = timedelta(days=28)


class Oracle:
    """What every member's value should be as of any time, from the raw rows."""

    def __init__(self, events, vectors):
        self.events = [
            {"member_id": m, "job_id": j, "action": a, "time": us(t)} for m, j, a, t in events
        ]
        self.vectors = [(item, us(time), vector.tolist()) for item, time, vector in vectors]
        self.members = sorted({e["member_id"] for e in self.events})

    def sequence(self, member, moment):
        return sequence(
            [e for e in self.events if e["member_id"] == member],
            self.vectors,
            member,
            us(moment),
            window_us=28 * US_PER_DAY,
            length=32,
        )[0]

    def values(self, member, moment):
        """Return {feature: value} of the sequence view and the two formula models."""
        activities = self.sequence(member, moment)
        found = {
            "activity_job_ids": [item for item, _, _ in activities],
            "activity_actions": [
                ["PAD", "APPLY", "SAVE", "DISMISS"].index(action) for _, action, _ in activities
            ],
            "activity_times": [time for _, _, time in activities],
            "activity_count": len(activities),
        }
        for action in ("APPLY", "SAVE", "DISMISS"):
            chosen = [
                vector_as_of(self.vectors, item, us(moment))
                for item, act, _ in activities
                if act == action
            ]
            name = f"{action.lower()}_embedding"
            found[AVERAGE, name] = mean_of(chosen, DIMENSION)
            found[DECAY, name] = decayed_of(chosen, DIMENSION, R)
        return found

    def had_event(self, member, moment):
        """Whether the member has any event in the window, on a known item or not."""
        return any(
            e["member_id"] == member and us(moment) - 28 * US_PER_DAY <= e["time"] < us(moment)
            for e in self.events
        )

    def snapshots(self, moments):
        """Return {moment: members with a row}: active ones, and those who just fell silent."""
        rows, before = {}, set()
        for moment in sorted(moments):
            active = {m for m in self.members if self.had_event(m, moment)}
            rows[moment] = active | before
            before = {m for m in rows[moment] if self.sequence(m, moment)}
        return rows


def read_view(repo, view):
    """Return {(member, as of): row} of everything in the offline store."""
    table = pq.read_table(repo.data / "snapshots" / view / "v1", partitioning=None)
    return {(row["member_id"], row["event_timestamp"]): row for row in table.to_pylist()}


def assert_rows_are_right(row, expected, view):
    if view == SEQUENCE:
        for name in ("activity_job_ids", "activity_actions", "activity_times", "activity_count"):
            assert row[name] == expected[name]
    for output in ("apply_embedding", "save_embedding", "dismiss_embedding"):
        if view in (AVERAGE, DECAY):
            np.testing.assert_allclose(row[output], expected[view, output], atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def data():
    return small_data()


@pytest.fixture(scope="module")
def published(tmp_path_factory, models, data):
    """A repo after `feast apply` and a backfill of (0, 6], plus its end at half a day."""
    events, vectors = data
    repo = make_repo(
        tmp_path_factory.mktemp("published") / "repo",
        models,
        events_table(events),
        vectors_table(vectors),
    )
    repo.publish(at(0), at(6.5))
    return repo


MOMENTS = [at(1), at(2), at(3), at(4), at(5), at(6), at(6.5)]


def test_offline_values_equal_the_formulas_for_every_member_at_every_cut_off(published, data):
    oracle = Oracle(*data)
    expected_rows = oracle.snapshots(MOMENTS)
    for view in (SEQUENCE, AVERAGE, DECAY):
        rows = read_view(published, view)
        assert set(rows) == {(m, t) for t, members in expected_rows.items() for m in members}
        for (member, moment), row in rows.items():
            assert_rows_are_right(row, oracle.values(member, moment), view)
            assert row["created_timestamp"] == moment + timedelta(minutes=30)


def test_online_holds_the_newest_offline_value_of_every_member(published, data):
    oracle = Oracle(*data)
    newest = {}
    for moment, members in oracle.snapshots(MOMENTS).items():
        newest.update(dict.fromkeys(members, moment))
    members = sorted(newest)
    features = [
        f"{SEQUENCE}:activity_job_ids",
        f"{SEQUENCE}:activity_times",
        f"{SEQUENCE}:activity_count",
        *(
            f"{view}:{action}_embedding"
            for view in (AVERAGE, DECAY)
            for action in ("apply", "save", "dismiss")
        ),
        f"{CNN}:activity_embedding",
    ]
    online = published.store.get_online_features(
        features, [{"member_id": m} for m in members], full_feature_names=True
    ).to_dict()
    cnn = read_view(published, CNN)
    assert any(newest[m] < MOMENTS[-1] for m in members), "some member should have fallen silent"
    for i, member in enumerate(members):
        expected = oracle.values(member, newest[member])
        assert online[f"{SEQUENCE}__activity_count"][i] == expected["activity_count"]
        for name in ("activity_job_ids", "activity_times"):
            assert (online[f"{SEQUENCE}__{name}"][i] or []) == expected[name]
        for view in (AVERAGE, DECAY):
            for output in ("apply_embedding", "save_embedding", "dismiss_embedding"):
                np.testing.assert_allclose(
                    online[f"{view}__{output}"][i], expected[view, output], atol=1e-6, rtol=0
                )
        np.testing.assert_array_equal(
            np.float32(online[f"{CNN}__activity_embedding"][i]),
            np.float32(cnn[member, newest[member]]["activity_embedding"]),
        )


def test_the_cnn_gives_what_its_saved_model_gives_to_a_plain_caller(published, data):
    import tensorflow as tf

    oracle = Oracle(*data)
    serve = tf.saved_model.load(str(published.path / "models" / "cnn")).signatures[
        "serving_default"
    ]
    for (member, moment), row in read_view(published, CNN).items():
        activities = oracle.sequence(member, moment)
        if not activities:
            assert row["activity_embedding"] == [0.0] * DIMENSION
            continue
        vectors = np.zeros((1, 32, DIMENSION), dtype=np.float32)
        actions = np.zeros((1, 32), dtype=np.int32)
        for i, (item, action, _) in enumerate(reversed(activities)):
            vectors[0, 31 - i] = vector_as_of(oracle.vectors, item, us(moment))
            actions[0, 31 - i] = ["PAD", "APPLY", "SAVE", "DISMISS"].index(action)
        direct = serve(item_embeddings=tf.constant(vectors), actions=tf.constant(actions))
        np.testing.assert_allclose(
            row["activity_embedding"], direct["activity_embedding"][0], atol=1e-5, rtol=0
        )


def test_a_label_gets_the_newest_snapshot_before_it_and_rows_stay_as_they_were(published, data):
    oracle = Oracle(*data)
    rows_of = oracle.snapshots(MOMENTS)
    random = np.random.default_rng(5)
    members = random.choice([*oracle.members, 999], 400)
    labels = [at(float(day)) for day in random.uniform(-1, 40, 396)]
    labels += [at(1), at(1) - timedelta(microseconds=1), at(6.5), at(29)]
    # The events themselves as labels, which must never see themselves, and repeated keys.
    labels[:60] = [EPOCH + timedelta(microseconds=e["time"]) for e in oracle.events[:60]]
    members[:60] = [e["member_id"] for e in oracle.events[:60]]
    frame = pd.DataFrame(
        {"member_id": members, "event_timestamp": pd.to_datetime(labels, utc=True)}
    )
    frame = pd.concat([frame, frame.iloc[:50]], ignore_index=True)
    frame["label"] = np.arange(len(frame))
    asked = frame.copy()

    joined = published.store.get_historical_features(
        frame,
        [
            f"{SEQUENCE}:activity_job_ids",
            f"{SEQUENCE}:activity_times",
            f"{DECAY}:apply_embedding",
            f"{CNN}:activity_embedding",
        ],
    ).to_df()

    pd.testing.assert_frame_equal(frame, asked)
    assert list(joined.columns[:3]) == list(asked.columns)
    assert joined["label"].tolist() == asked["label"].tolist()
    assert joined["member_id"].tolist() == asked["member_id"].tolist()
    matched = 0
    for row, label in zip(joined.to_dict("records"), asked["event_timestamp"], strict=True):
        before = [t for t in MOMENTS if t <= label <= t + TTL and row["member_id"] in rows_of[t]]
        if not before:
            assert row["activity_job_ids"] is None or row["activity_job_ids"] is pd.NA
            assert np.all(pd.isna(row["apply_embedding"]))
            continue
        matched += 1
        expected = oracle.values(row["member_id"], max(before))
        assert list(row["activity_job_ids"]) == expected["activity_job_ids"]
        assert all(time < us(label) for time in row["activity_times"])
        np.testing.assert_allclose(
            row["apply_embedding"], expected[DECAY, "apply_embedding"], atol=1e-6, rtol=0
        )
    assert matched > 100


def test_known_at_join_leaves_out_values_that_were_not_published_yet(published, data):
    member = next(m for m in Oracle(*data).members if Oracle(*data).sequence(m, at(2)))
    frame = pd.DataFrame(
        {
            "member_id": [member, member],
            "event_timestamp": [at(2) + timedelta(minutes=10), at(2) + timedelta(minutes=31)],
        }
    )
    joined = (
        published.store.get_historical_features(
            frame, [f"{SEQUENCE}:activity_times"], filter_by_created_timestamp=True
        )
        .to_df()
        .sort_values("event_timestamp")
    )
    oracle = Oracle(*data)
    got = [list(times) for times in joined["activity_times"]]
    assert got == [
        oracle.values(member, at(1))["activity_times"],
        oracle.values(member, at(2))["activity_times"],
    ]


def test_materializing_twice_changes_no_byte(repo):
    repo.publish(at(0), at(3.25))
    once = repo.stores()
    repo.materialize(at(0), at(3.25))
    assert repo.stores() == once


def test_the_order_of_rows_in_the_sources_changes_no_byte(repo, tmp_path, models):
    events, vectors = small_data()
    random = np.random.default_rng(3)
    other = make_repo(
        tmp_path / "other",
        models,
        events_table([events[i] for i in random.permutation(len(events))]),
        vectors_table([vectors[i] for i in random.permutation(len(vectors))]),
    )
    for each in (repo, other):
        each.publish(at(0), at(2))
    assert repo.snapshot_files() == other.snapshot_files()
    ours, theirs = repo.online_rows(), other.online_rows()
    for view in VIEWS:
        assert ours[f"activity_embeddings_{view}"] == theirs[f"activity_embeddings_{view}"]


def test_the_dask_offline_store_gives_the_same_bytes_as_duckdb(repo, tmp_path, models):
    events, vectors = small_data()
    other = make_repo(tmp_path / "dask", models, events_table(events), vectors_table(vectors))
    other.edit(
        "feature_store.yaml",
        "activity_embeddings.OrderedDuckDBOfflineStore",
        "activity_embeddings.OrderedDaskOfflineStore",
    )
    for each in (repo, other):
        each.publish(at(0), at(2))
    assert other.snapshot_files() == repo.snapshot_files()
    assert other.online_rows() == repo.online_rows()


def test_steps_and_one_backfill_end_in_the_same_offline_and_online_values(repo, tmp_path, models):
    events, vectors = small_data()
    steps = make_repo(tmp_path / "steps", models, events_table(events), vectors_table(vectors))
    repo.publish(at(0), at(6))
    steps.run("apply")
    for day in range(6):
        steps.materialize(at(day), at(day + 1))
    assert repo.snapshot_files() == steps.snapshot_files()
    for view in VIEWS:
        table = f"activity_embeddings_{view}"
        # Members silent since before the first day of the backfill have no row in either.
        assert repo.online_rows()[table] == steps.online_rows()[table]


def test_a_member_who_falls_silent_is_served_the_explicit_empty_value(models, tmp_path):
    events = [
        (1, 1, "APPLY", at(0.5)),
        (2, 1, "APPLY", at(0.5)),
        *((2, 1, "SAVE", at(day + 0.5)) for day in range(1, 40)),
    ]
    vectors = [(1, at(-1), np.ones(DIMENSION, dtype=np.float32))]
    repo = make_repo(tmp_path / "repo", models, events_table(events), vectors_table(vectors))
    repo.publish(at(0), at(28.5))

    def served(member):
        return repo.store.get_online_features(
            [
                f"{SEQUENCE}:activity_count",
                f"{SEQUENCE}:last_activity_at",
                f"{AVERAGE}:apply_embedding",
                f"{CNN}:activity_embedding",
            ],
            [{"member_id": member}],
        ).to_dict()

    assert served(1)["activity_count"] == [1]
    assert served(1)["apply_embedding"] == [[1.0] * DIMENSION]

    # The event at 0.5 is in the window of 28.5, and no longer in that of 29.
    repo.materialize(at(28.5), at(31))
    silent = served(1)
    assert silent["activity_count"] == [0]
    assert silent["last_activity_at"] == [None]
    assert silent["apply_embedding"] == [[0.0] * DIMENSION]
    assert silent["activity_embedding"] == [[0.0] * DIMENSION]
    assert served(2)["activity_count"] == [28]

    joined = repo.store.get_historical_features(
        pd.DataFrame({"member_id": [1, 1], "event_timestamp": [at(28.75), at(30.75)]}),
        [f"{SEQUENCE}:activity_count"],
    ).to_df()
    assert joined.sort_values("event_timestamp")["activity_count"].tolist() == [1, 0]


def test_silence_is_published_when_many_days_passed_between_two_runs(models, tmp_path):
    """The empty value stands in a snapshot between the two pushes; it must still reach online."""
    events = [(1, 1, "APPLY", at(0.5)), *((2, 1, "SAVE", at(d + 0.5)) for d in range(60))]
    vectors = [(1, at(-1), np.ones(DIMENSION, dtype=np.float32))]
    repo = make_repo(tmp_path / "repo", models, events_table(events), vectors_table(vectors))
    repo.publish(at(0), at(5))
    repo.materialize(at(5), at(50))
    served = repo.store.get_online_features(
        [f"{SEQUENCE}:activity_count", f"{AVERAGE}:apply_embedding"], [{"member_id": 1}]
    ).to_dict()
    assert served["activity_count"] == [0]
    assert served["apply_embedding"] == [[0.0] * DIMENSION]


def test_a_backfill_of_older_days_neither_overwrites_online_nor_leaves_anyone_active(
    models, tmp_path
):
    events = [
        (1, 1, "APPLY", at(0.5)),
        (2, 1, "APPLY", at(10.5)),
        *((3, 1, "SAVE", at(d + 0.5)) for d in range(50)),
    ]
    vectors = [(1, at(-1), np.ones(DIMENSION, dtype=np.float32))]
    repo = make_repo(tmp_path / "repo", models, events_table(events), vectors_table(vectors))
    repo.publish(at(44), at(46))  # Both members 1 and 2 are silent by now.
    newest = repo.store.get_online_features(
        [f"{SEQUENCE}:activity_times"], [{"member_id": 3}]
    ).to_dict()["activity_times"]

    repo.materialize(at(10), at(20))

    online = repo.store.get_online_features(
        [f"{SEQUENCE}:activity_count", f"{SEQUENCE}:activity_times"],
        [{"member_id": m} for m in (1, 2, 3)],
    ).to_dict()
    assert online["activity_times"][2] == newest[0]
    assert online["activity_count"][:2] == [0, 0]
    joined = repo.store.get_historical_features(
        pd.DataFrame({"member_id": [2, 2], "event_timestamp": [at(19), at(47)]}),
        [f"{SEQUENCE}:activity_count"],
    ).to_df()
    assert joined.sort_values("event_timestamp")["activity_count"].tolist() == [1, 0]


def test_one_line_publishes_a_fourth_model_that_knows_nothing_of_this_package(repo):
    import tensorflow as tf

    class LastItem(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 32, 64], tf.float32, "item_embeddings"),
                tf.TensorSpec([None, 32], tf.int32, "actions"),
                tf.TensorSpec([None, 32], tf.float32, "ages"),
            ]
        )
        def serve(self, item_embeddings, actions, ages):
            seen = tf.cast(actions > 0, tf.float32)
            return {
                "last_item": item_embeddings[:, -1],
                "recency": tf.reduce_sum(seen * tf.exp(-ages), axis=1, keepdims=True),
            }

    plain = LastItem()
    tf.saved_model.save(
        plain, str(repo.path / "models" / "last_item"), signatures={"serving_default": plain.serve}
    )
    repo.publish(at(0), at(2))
    before = repo.stores()

    repo.edit(
        "activity_models.py",
        'ActivityModel(MODELS / "cnn"),',
        'ActivityModel(MODELS / "cnn"),\n    ActivityModel(MODELS / "last_item", name="last_item", '
        'version="3", spec=SPEC, vector_spec=VECTOR_SPEC),',
    )
    repo.publish(at(0), at(2))

    oracle = Oracle(*small_data())
    view = "job_activity_embedding_last_item"
    table = pq.read_table(repo.data / "snapshots" / view / "v3", partitioning=None)
    assert table.num_rows
    for row in table.to_pylist():
        activities = oracle.sequence(row["member_id"], row["event_timestamp"])
        newest = [0.0] * DIMENSION
        if activities:
            newest = vector_as_of(oracle.vectors, activities[-1][0], us(row["event_timestamp"]))
        assert row["last_item"] == pytest.approx(newest, abs=1e-6)
        ages = [(us(row["event_timestamp"]) - t) / US_PER_DAY for _, _, t in activities]
        assert row["recency"][0] == pytest.approx(sum(np.exp(-np.array(ages))), abs=1e-5)
    online = repo.store.get_online_features(
        [f"{view}:last_item"], [{"member_id": row["member_id"]} for row in table.to_pylist()]
    ).to_dict()
    assert all(vector is not None for vector in online["last_item"])
    # The three models that were there are as they were.
    snapshots, rows = repo.stores()
    assert {k: v for k, v in snapshots.items() if view not in k} == before[0]
    assert {k: v for k, v in rows.items() if view not in k} == before[1]


def test_a_model_added_later_is_backfilled_alone(repo):
    """`--views` runs one model; the sequences that are there stay, byte for byte."""
    repo.publish(at(0), at(3), "--views", AVERAGE)
    assert set(repo.online_rows()[f"activity_embeddings_{AVERAGE}"])
    assert not repo.online_rows()[f"activity_embeddings_{SEQUENCE}"]
    sequences = {
        k: v for k, v in repo.snapshot_files().items() if SEQUENCE in k and k.endswith(".parquet")
    }
    assert len(sequences) == 3
    repo.materialize(at(0), at(3), "--views", DECAY)
    assert sequences.items() <= repo.snapshot_files().items()
    assert set(read_view(repo, DECAY)) == set(read_view(repo, AVERAGE))


def test_string_ids_and_mapped_column_names_and_event_ids(tmp_path, models):
    events, vectors = small_data(seed=4, members=12, days=20)
    named = events_table(events)
    table = pa.table(
        {
            "user": pa.array([f"m{m}" for m in named["member_id"].to_pylist()]),
            "posting": pa.array([f"j{j}" for j in named["job_id"].to_pylist()]),
            "what": named["action"],
            "when": named["event_timestamp"],
            "nr": pa.array(range(len(named))),
            "extra": pa.array(["ignored"] * len(named)),
        }
    )
    item_vectors = vectors_table(vectors)
    item_vectors = item_vectors.set_column(
        0, "job_id", pa.array([f"j{j}" for j in item_vectors["job_id"].to_pylist()])
    )
    repo = make_repo(tmp_path / "repo", models, table, item_vectors, STRING_IDS)
    repo.edit(
        "sources.py",
        'file_format=ParquetFormat(),\n    timestamp_field="event_timestamp",',
        'file_format=ParquetFormat(),\n    timestamp_field="when",\n    '
        "field_mapping="
        '{"user": "member_id", "posting": "job_id", "what": "action", "nr": "event_id"},',
    )
    repo.publish(at(0), at(2))

    oracle = Oracle(events, vectors)
    rows = read_view(repo, SEQUENCE)
    assert rows
    for (member, moment), row in rows.items():
        # With an event id, equal rows are events of their own.
        activities = [
            (f"j{e['job_id']}", e["time"])
            for e in oracle.events
            if f"m{e['member_id']}" == member
            and us(moment) - 28 * US_PER_DAY <= e["time"] < us(moment)
            and vector_as_of(oracle.vectors, e["job_id"], us(moment)) is not None
        ]
        activities.sort(key=lambda pair: pair[1])
        assert row["activity_job_ids"] == [item for item, _ in activities[-32:]]
        assert row["activity_times"] == [time for _, time in activities[-32:]]
    member = next(member for (member, moment) in rows if moment == at(2))
    online = repo.store.get_online_features(
        [f"{SEQUENCE}:activity_job_ids"], [{"member_id": member}]
    ).to_dict()
    assert (online["activity_job_ids"][0] or []) == rows[member, at(2)]["activity_job_ids"]


def test_the_first_run_puts_vectors_of_any_age_online_and_later_ones_those_of_their_interval(
    tmp_path, models
):
    """`materialize-incremental` begins a view without a ttl 52 weeks ago."""
    one, two, three = np.eye(3, DIMENSION, dtype=np.float32)
    rows = [(1, at(-400), one), (1, at(-390), two), (2, at(-1), one), (3, at(9), one)]
    events = events_table([(1, 1, "APPLY", at(-2))])
    repo = make_repo(tmp_path / "repo", models, events, vectors_table(rows))
    repo.run("apply")

    def online():
        got = repo.store.get_online_features(
            ["job_embedding:embedding"], [{"job_id": item} for item in (1, 2, 3)]
        ).to_dict()["embedding"]
        return [None if value is None else value[:3] for value in got]

    repo.materialize(at(0), at(1), "--views", "job_embedding")
    assert online() == [[0, 1, 0], [1, 0, 0], None]

    repo.write_vectors(vectors_table([*rows, (2, at(-0.5), three), (1, at(1.5), three)]))
    repo.materialize(at(1), at(2), "--views", "job_embedding")
    assert online() == [[0, 0, 1], [1, 0, 0], None]

    # Older days once more take nothing back, neither online nor from the table of request time.
    table = VectorTableReader(
        repo.data / "vector_tables" / "job_embedding",
        ItemVectorSpec("content_and_behaviour", "1", DIMENSION),
    )
    before = table.table()
    repo.materialize(at(-390), at(0), "--views", "job_embedding")
    assert online() == [[0, 0, 1], [0, 0, 1], None]
    np.testing.assert_array_equal(table.table().matrix, before.matrix)


def test_vectors_are_not_published_before_their_time(tmp_path, models):
    events, vectors = small_data(members=3)
    repo = make_repo(tmp_path / "repo", models, events_table(events), vectors_table(vectors))
    repo.run("apply")
    far = pd.Timestamp.now("UTC") + pd.Timedelta(days=400)
    outcome = repo.feast(*interval(at(0), far, "--views", "job_embedding"))
    assert outcome.code == 1
    assert "job_embedding: an interval should not end in the future" in outcome.output
