"""Request-time embeddings through real stores: they equal what a batch run would publish."""

import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from feast.errors import RequestDataNotFoundInEntityRowsException

from activity_embeddings.training.new_repo.settings import EventSource
from activity_embeddings.transformations.errors import InvalidInput, ModelMismatch
from activity_embeddings.transformations.serving import process as serving
from activity_embeddings.transformations.serving.entity_rows import entity_rows
from activity_embeddings.transformations.serving.request import InvalidRequest
from support.feast_repo import (
    OWN_VECTORS,
    SAMPLE,
    at,
    events_table,
    make_repo,
    small_data,
    small_repo,
    us,
    vectors_table,
)
from support.item_encoders import package_encoder
from support.redis_server import use_redis

pytestmark = pytest.mark.slow

MODELS = {
    "cnn": ["activity_embedding"],
    "geometric_decay": ["apply_embedding", "save_embedding", "dismiss_embedding"],
    "unweighted_average": ["apply_embedding", "save_embedding", "dismiss_embedding"],
}
VIEW = "job_activity_embedding_{}"
COUNTS = ["activity_count", "new_activity_count", "last_activity_at"]
T = at(4)
MEMBERS = [*range(1, 43), 999]
BUSY = 14


@pytest.fixture(scope="module")
def published(tmp_path_factory, models):
    """A repo with everything published as of T; tests that change its stores make their own."""
    path = tmp_path_factory.mktemp("realtime") / "repo"
    repo = small_repo(path, models)
    repo.publish(at(-41), T)
    return repo


@pytest.fixture(scope="module")
def store(published):
    return published.store


def features_of(model, realtime=True):
    view = VIEW.format(model) + ("_realtime" if realtime else "")
    return [f"{view}:{name}" for name in MODELS[model] + (COUNTS if realtime else [])]


def online(store, rows, model="cnn", **options):
    return store.get_online_features(features_of(model), rows, **options).to_dict()


def as_matrix(column, dimension=64):
    return np.array([[0.0] * dimension if v is None else v for v in column])


def largest_difference(one, other, model):
    return max(np.abs(as_matrix(one[n]) - as_matrix(other[n])).max() for n in MODELS[model])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("at_once", [1, len(MEMBERS)])
def test_without_new_activity_every_member_has_the_batch_value(store, model, at_once):
    keys = [{"member_id": member} for member in MEMBERS]
    batch = store.get_online_features(
        features_of(model, realtime=False)
        + [f"job_activity_sequence:{n}" for n in ("activity_count", "last_activity_at")],
        keys,
    ).to_dict()
    rows = entity_rows(MEMBERS, request_timestamp=T)
    parts = [online(store, rows[i : i + at_once], model) for i in range(0, len(rows), at_once)]
    got = {name: [value for part in parts for value in part[name]] for name in parts[0]}

    assert got["member_id"] == MEMBERS
    assert largest_difference(got, batch, model) < 1e-5
    assert got["activity_count"] == [count or 0 for count in batch["activity_count"]]
    assert got["last_activity_at"] == batch["last_activity_at"]
    assert got["new_activity_count"] == [0] * len(MEMBERS)
    assert max(got["activity_count"]) == 32
    assert 0 in got["activity_count"]


NOTHING = {"recent_job_ids": None, "recent_job_actions": None, "recent_job_timestamps": None}


@pytest.mark.parametrize(
    "rows",
    [
        [{"member_id": BUSY, **NOTHING}],
        [{"member_id": BUSY, **NOTHING}, {"member_id": 2, **NOTHING}],
        [
            {"member_id": BUSY, **{name: [] for name in NOTHING}},
            {
                "member_id": 2,
                "recent_job_ids": [1],
                "recent_job_actions": ["APPLY"],
                "recent_job_timestamps": [us(T) / 1e6 - 5],
            },
        ],
        [
            {"member_id": BUSY, **NOTHING},
            {
                "member_id": 2,
                "recent_job_ids": [1],
                "recent_job_actions": ["APPLY"],
                "recent_job_timestamps": [us(T) / 1e6 - 5],
            },
        ],
    ],
    ids=["null", "null for all", "empty list for one of several", "null for one of several"],
)
def test_no_recent_activity_may_be_said_in_several_forms(store, rows):
    rows = [{**row, "request_timestamp": us(T) / 1e6} for row in rows]
    got = online(store, rows)
    expected = online(store, entity_rows([BUSY], request_timestamp=T))
    assert got["activity_embedding"][0] == pytest.approx(
        expected["activity_embedding"][0], abs=1e-6
    )
    assert got["new_activity_count"] == [len(row["recent_job_ids"] or []) for row in rows]


def test_what_feast_itself_refuses_the_helper_makes_right(store):
    empty = {name: [] for name in NOTHING} | {"request_timestamp": None}
    with pytest.raises(TypeError, match="Couldn't infer value type from empty value"):
        online(store, [{"member_id": BUSY, **empty}])
    with pytest.raises(RequestDataNotFoundInEntityRowsException, match="recent_job_ids"):
        online(store, [{"member_id": BUSY}])
    assert online(store, entity_rows([BUSY], {BUSY: []}))["member_id"] == [BUSY]


@pytest.mark.parametrize("form", ["datetime", "seconds", "iso", "iso without zone"])
def test_times_may_be_datetimes_epoch_seconds_or_iso_strings(store, form):
    moment = at(3.5)
    value = {
        "datetime": moment,
        "seconds": us(moment) / 1e6,
        "iso": moment.isoformat(),
        "iso without zone": moment.replace(tzinfo=None).isoformat(),
    }[form]
    until = {"datetime": T, "seconds": us(T) / 1e6}.get(form, T.isoformat())
    row = {
        "member_id": 999,
        "recent_job_ids": [1],
        "recent_job_actions": ["SAVE"],
        "recent_job_timestamps": [value],
        "request_timestamp": until,
    }
    got = online(store, [row])
    assert got["last_activity_at"] == [moment]
    assert got["activity_count"] == got["new_activity_count"] == [1]


def test_an_event_of_the_second_in_which_the_request_is_made_counts(store):
    # Feast cuts both datetimes to the same second.
    now = datetime.now(UTC).replace(microsecond=700_000)
    row = {
        "member_id": 999,
        "recent_job_ids": [1],
        "recent_job_actions": ["SAVE"],
        "recent_job_timestamps": [now.replace(microsecond=400_000)],
        "request_timestamp": now,
    }
    assert online(store, [row])["activity_count"] == [1]


def test_what_is_stored_already_counts_once_in_whatever_precision_it_comes(store):
    stored = store.get_online_features(
        [f"job_activity_sequence:activity_{n}" for n in ("job_ids", "actions", "times")],
        [{"member_id": BUSY}],
    ).to_dict()
    names = ["PAD", "APPLY", "SAVE", "DISMISS"]
    events = [
        (item, names[action], time)
        for item, action, time in zip(
            stored["activity_job_ids"][0],
            stored["activity_actions"][0],
            stored["activity_times"][0],
            strict=True,
        )
    ]
    assert any(time % 1_000_000 for _, _, time in events)
    exact = [(item, action, time / 1e6) for item, action, time in events]
    assert online(store, entity_rows([BUSY], {BUSY: exact * 2}, request_timestamp=T))[
        "new_activity_count"
    ] == [0]
    cut = {
        "member_id": BUSY,
        "recent_job_ids": [item for item, _, _ in events],
        "recent_job_actions": [action for _, action, _ in events],
        "recent_job_timestamps": [datetime.fromtimestamp(t // 10**6, UTC) for _, _, t in events],
        "request_timestamp": T,
    }
    assert online(store, [cut])["new_activity_count"] == [0]


def test_unknown_items_and_actions_and_late_events_are_left_out_and_counted(store):
    recent = [
        (1, "APPLY", at(3.9)),
        (77_777, "APPLY", at(3.9)),
        (1, "STARE", at(3.9)),
        (2, "APPLY", T),
    ]
    before = metric("activity_embedding_ignored_events_total", "cnn")
    got = online(store, entity_rows([999], {999: recent}, request_timestamp=T))
    assert got["activity_count"] == [1]
    counted = metric("activity_embedding_ignored_events_total", "cnn")
    assert {key: counted[key] - before.get(key, 0) for key in counted} == {
        "unknown_item": 1,
        "unknown_action": 1,
        "future": 1,
    }


def metric(name, model):
    from prometheus_client import REGISTRY

    return {
        sample.labels.get("reason", ""): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == name and sample.labels.get("model") == model
    }


def test_requests_members_and_ages_are_counted(store):
    def counts():
        return [
            metric(f"activity_embedding_{name}", "geometric_decay").get("", 0.0)
            for name in (
                "requests_total",
                "members_total",
                "empty_members_total",
                "newest_event_age_seconds_count",
                "newest_event_age_seconds_sum",
                "errors_total",
            )
        ]

    before = counts()
    recent = {BUSY: [(1, "APPLY", us(T) / 1e6 - 30)]}
    online(store, entity_rows([BUSY, 999], recent, request_timestamp=T), "geometric_decay")
    with pytest.raises(InvalidRequest):
        row = {"member_id": BUSY, **NOTHING, "request_timestamp": "yesterday"}
        online(store, [row], "geometric_decay")
    assert [a - b for a, b in zip(counts(), before, strict=True)] == pytest.approx(
        [2, 2, 1, 1, 30, 1]
    )


@pytest.mark.parametrize("model", MODELS)
def test_adding_events_by_request_equals_materializing_them(tmp_path, models, model):
    events, vectors = small_data()
    later = at(4.5)
    known = [row[0] for row in vectors if row[1] < at(0)]
    random = np.random.default_rng(3)
    new = [
        (
            int(member),
            int(random.choice(known)),
            ("APPLY", "SAVE", "DISMISS")[random.integers(3)],
            at(4 + float(random.uniform(0, 0.5))),
        )
        for member in random.choice(np.arange(1, 50), 120)
    ]
    until_t = [row for row in events if row[3] < T]
    before = make_repo(tmp_path / "a", models, events_table(until_t), vectors_table(vectors))
    after = make_repo(tmp_path / "b", models, events_table(until_t + new), vectors_table(vectors))
    for repo, end in ((before, T), (after, later)):
        repo.publish(at(-41), end)

    members = list(range(1, 50))
    recent = {}
    for member, item, action, time in random.permutation(np.array(new, dtype=object)):
        recent.setdefault(member, []).append((item, action, time))
    got = online(before.store, entity_rows(members, recent, request_timestamp=later), model)
    expected = after.store.get_online_features(
        [*features_of(model, realtime=False), "job_activity_sequence:activity_count"],
        [{"member_id": member} for member in members],
    ).to_dict()
    # An item whose first vector came between the two is the one thing a stored sequence lacks.
    newly_known = {row[0] for row in vectors if T < row[1] <= later}
    affected = {row[0] for row in until_t if row[1] in newly_known}
    keep = [i for i, member in enumerate(members) if member not in affected]
    assert len(keep) > 25
    got, expected = ({k: [v[i] for i in keep] for k, v in d.items()} for d in (got, expected))
    assert got["activity_count"] == [count or 0 for count in expected["activity_count"]]
    assert largest_difference(got, expected, model) < 1e-5
    assert sum(got["new_activity_count"]) > 50


@pytest.mark.parametrize("model", MODELS)
def test_a_training_join_equals_the_online_answer(published, store, model):
    random = np.random.default_rng(5)
    rows = []
    for member in MEMBERS:
        count = int(random.integers(0, 4))
        rows.append(
            {
                "member_id": member,
                "event_timestamp": T if count else at(4.25),
                "recent_job_ids": [int(j) for j in random.integers(1, 34, count)] or None,
                "recent_job_actions": [str(a) for a in random.choice(["APPLY", "DISMISS"], count)]
                or None,
                "recent_job_timestamps": [
                    at(3.5 + float(d)).isoformat() for d in random.uniform(0, 0.4, count)
                ]
                or None,
                "request_timestamp": None,
            }
        )
    joined = store.get_historical_features(pd.DataFrame(rows), features_of(model)).to_df()
    asked = [
        {k: v for k, v in row.items() if k != "event_timestamp"}
        | {"request_timestamp": row["event_timestamp"].isoformat()}
        for row in rows
    ]
    got = online(store, asked, model)
    assert joined["member_id"].tolist() == MEMBERS
    assert largest_difference({n: joined[n].tolist() for n in MODELS[model]}, got, model) < 1e-5
    assert joined["activity_count"].tolist() == got["activity_count"]
    assert joined["new_activity_count"].tolist() == got["new_activity_count"]
    assert sum(got["new_activity_count"]) > 10
    seconds = [None if pd.isna(t) else t.floor("s") for t in joined["last_activity_at"]]
    assert seconds == [None if t is None else pd.Timestamp(t) for t in got["last_activity_at"]]


def test_a_training_join_gives_the_types_of_the_batch_view_and_no_cutoff_after_the_label(store):
    label = {"member_id": 999, "event_timestamp": at(3), "request_timestamp": at(4)}
    recent = {
        "recent_job_ids": [1, 2],
        "recent_job_actions": ["APPLY", "APPLY"],
        "recent_job_timestamps": [at(2.9), at(3)],
    }
    table = store.get_historical_features(
        pd.DataFrame([label | recent]), features_of("cnn"), full_feature_names=True
    ).to_arrow()
    prefix = VIEW.format("cnn") + "_realtime__"
    assert table.schema.field(prefix + "activity_embedding").type == pa.list_(pa.float32())
    assert table.schema.field(prefix + "last_activity_at").type == pa.timestamp("us", "UTC")
    assert table.column(prefix + "activity_count").to_pylist() == [1]


def test_full_feature_names_name_the_view(store):
    rows = entity_rows([BUSY, 999], request_timestamp=T)
    short, full = online(store, rows), online(store, rows, full_feature_names=True)
    for name in (*MODELS["cnn"], *COUNTS):
        assert full[f"{VIEW.format('cnn')}_realtime__{name}"] == short[name]


def test_the_feature_services_are_there(store):
    for service, outputs in (
        ("recommendations_v2_realtime", "cnn"),
        ("search_v1_realtime", "unweighted_average"),
    ):
        got = store.get_online_features(
            store.get_feature_service(service), entity_rows([BUSY], request_timestamp=T)
        ).to_dict()
        assert set(got) == {"member_id", *MODELS[outputs], "model_version", *COUNTS}
        assert got["model_version"] == ["1"]


def test_a_item_newer_than_the_table_comes_from_the_online_store(published, models, tmp_path):
    repo = small_repo(tmp_path / "repo", models)
    repo.publish(at(-41), T)
    store = repo.store
    rows = entity_rows([999], {999: [(500, "APPLY", at(4.1))]}, request_timestamp=at(4.2))
    assert online(store, rows)["activity_count"] == [0]

    vector = np.random.default_rng(0).normal(size=64).astype(np.float32)
    store.write_to_online_store(
        "job_embedding",
        pd.DataFrame({"job_id": [500], "embedding": [vector], "event_timestamp": [at(4.05)]}),
    )
    got = online(store, rows, "unweighted_average")
    assert got["activity_count"] == [1]
    assert got["apply_embedding"][0] == pytest.approx(vector.tolist(), abs=1e-6)
    # It is not known before its vector is.
    early = entity_rows([999], {999: [(500, "APPLY", at(4.01))]}, request_timestamp=at(4.04))
    assert online(store, early)["activity_count"] == [0]

    # Materialized, it is in the table, which a running process takes up.
    _, vectors = small_data()
    repo.write_vectors(vectors_table([*vectors, (500, at(4.05), 2 * vector)]))
    repo.materialize(T, at(4.15), "--views", "job_embedding")
    store.write_to_online_store(
        "job_embedding",
        pd.DataFrame({"job_id": [500], "embedding": [9 * vector], "event_timestamp": [at(4.05)]}),
    )
    got = online(store, rows, "unweighted_average")
    assert got["apply_embedding"][0] == pytest.approx((2 * vector).tolist(), abs=1e-6)


@pytest.mark.parametrize("offline", ["DuckDB", "Dask"])
def test_stores_of_one_folder_with_other_settings_answer_each_for_itself(models, tmp_path, offline):
    repo = small_repo(tmp_path / "repo", models)
    repo.publish(at(-41), T)
    settings = (repo.path / "feature_store.yaml").read_text()
    for name in ("registry.db", "online.db"):
        assert f"data/{name}" in settings
        shutil.copy(repo.data / name, repo.data / f"staging_{name}")
        settings = settings.replace(f"data/{name}", f"data/staging_{name}")
    settings = settings.replace("OrderedDuckDBOfflineStore", f"Ordered{offline}OfflineStore")
    other = repo.path / "feature_store.staging.yaml"
    other.write_text(settings)
    staging = FeatureStore(repo_path=str(repo.path), fs_yaml_file=other)
    staging.write_to_online_store(
        "job_embedding",
        pd.DataFrame({"job_id": [500], "embedding": [np.ones(64)], "event_timestamp": [at(4.05)]}),
    )
    rows = entity_rows([999], {999: [(500, "APPLY", at(4.1))]}, request_timestamp=at(4.2))
    labels = pd.DataFrame(
        {
            "member_id": [999],
            "event_timestamp": [at(4.2)],
            "recent_job_ids": [[500]],
            "recent_job_actions": [["APPLY"]],
            "recent_job_timestamps": [[at(4.1).isoformat()]],
            "request_timestamp": [None],
        }
    )
    # In one process, one after the other, and back.
    for store, count in ((repo.store, 0), (staging, 1), (repo.store, 0)):
        assert online(store, rows)["activity_count"] == [count]
        joined = store.get_historical_features(labels, features_of("cnn")).to_df()
        assert joined["activity_count"].tolist() == [count]


def test_without_a_table_all_vectors_come_from_the_online_store(published, tmp_path, models):
    events, vectors = small_data()
    # One vector an item: the online store holds only the newest.
    vectors = list({row[0]: row for row in reversed(vectors)}.values())
    answers = []
    for name in ("with", "without"):
        repo = make_repo(tmp_path / name, models, events_table(events), vectors_table(vectors))
        if name == "without":
            repo.edit("item_vectors.py", "vectors=VECTOR_SPEC", "vectors=VECTOR_SPEC, table=None")
        repo.publish(at(-41), T)
        assert (repo.data / "vector_tables").exists() == (name == "with")
        answers.append(online(repo.store, entity_rows(MEMBERS, request_timestamp=T)))
    assert answers[0] == answers[1]
    assert max(answers[0]["activity_count"]) == 32


def test_threads_get_each_its_own_answer(store):
    expected = {
        member: online(store, entity_rows([member], request_timestamp=T)) for member in MEMBERS
    }
    wrong = []

    def ask(seed):
        random = np.random.default_rng(seed)
        for _ in range(30):
            some = [int(m) for m in random.choice(MEMBERS, int(random.choice([1, 1, 3])))]
            got = online(store, entity_rows(some, request_timestamp=T))
            for i, member in enumerate(some):
                if not np.allclose(
                    got["activity_embedding"][i],
                    expected[member]["activity_embedding"][0],
                    atol=1e-6,
                ):
                    wrong.append(member)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"recent_job_actions": ["APPLY"]},
            "request of member 14: recent_job_ids, recent_job_actions, recent_job_timestamps "
            "should be lists of equal length, or null. Received: recent_job_ids of length 2, "
            "recent_job_actions of length 1, recent_job_timestamps of length 2",
        ),
        (
            {"recent_job_actions": None},
            "Received: recent_job_ids of length 2, recent_job_actions null, recent_job_timestamps "
            "of length 2",
        ),
        (
            {"recent_job_ids": ["a", "b"]},
            "recent_job_ids should be ids of type int64. Received: 'a'",
        ),
        (
            {"recent_job_timestamps": ["noon", "now"]},
            "recent_job_timestamps should be a datetime, a date, a numpy datetime64, seconds since "
            "the epoch or an ISO 8601 string. Received: 'noon'",
        ),
        (
            {"recent_job_timestamps": [1.7e12, 1.7e12]},
            r"Received: 1700000000000.0 of type float \(milliseconds\?\)",
        ),
        (
            {"request_timestamp": 4e9},
            "request of member 14: request_timestamp should not be in the future. "
            "Received: 2096-10-02",
        ),
        ({"request_timestamp": 1.7e12}, "request_timestamp should be a datetime, "),
        ({"request_timestamp": "soon"}, "request_timestamp should be a datetime, "),
    ],
)
def test_a_malformed_request_is_one_clear_error(store, change, message):
    row = {
        "member_id": BUSY,
        "recent_job_ids": [1, 2],
        "recent_job_actions": ["APPLY", "SAVE"],
        "recent_job_timestamps": [us(T) / 1e6 - 2, us(T) / 1e6 - 1],
        "request_timestamp": us(T) / 1e6,
    }
    with pytest.raises(InvalidRequest, match=message) as caught:
        online(store, [row | change])
    assert caught.value.http_status_code() == 422


def test_what_a_first_read_imports_preload_has_imported(tmp_path, models, monkeypatch):
    other = "feast.infra.online_stores.dynamodb"
    repo = small_repo(tmp_path / "repo", models)
    repo.publish(at(-41), T)
    use_redis(repo, "127.0.0.1:1,retry=null")
    monkeypatch.delitem(sys.modules, other, raising=False)
    serving.preload(repo.path)
    assert other in sys.modules


def test_a_broken_table_and_a_model_that_is_gone_are_one_clear_error(tmp_path, models):
    repo = small_repo(tmp_path / "repo", models)
    repo.publish(at(-41), T)
    store, rows = repo.store, entity_rows([BUSY], request_timestamp=T)
    (repo.path / "models" / "geometric_decay" / "saved_model.pb").unlink()
    with pytest.raises(InvalidInput, match=r"geometric_decay.*no file saved_model.pb"):
        serving.preload(store)
    # The others were loaded, and go on although their files go away now.
    (repo.path / "models" / "cnn" / "saved_model.pb").unlink()
    expected = online(store, rows)
    assert expected["activity_count"][0] > 0
    with pytest.raises(InvalidInput, match=r"geometric_decay.*no file saved_model.pb"):
        online(store, rows, "geometric_decay")

    table = repo.data / "vector_tables" / "job_embedding" / "v1"
    (matrix,) = table.glob("*/matrix.npy")
    kept = matrix.read_bytes()
    matrix.write_bytes(kept[:100])
    current = table / "current.json"
    current.write_text(current.read_text().replace('"items"', ' "items"'))
    current.touch()
    with pytest.raises(InvalidInput, match=r"vector table .*job_embedding/v1: expected the files"):
        online(store, rows)
    matrix.write_bytes(kept)
    assert online(store, rows) == expected
    current.write_text(current.read_text().replace('"version": "1"', '"version": "2"'))
    with pytest.raises(ModelMismatch, match="another item vectors: `version` should be '1'"):
        online(store, rows)


PUBLISHED = """
import os, sys
from feast.cli.cli import cli
encoded, *interval = sys.argv[1:]
others = set(sys.modules)
cli(["apply"], standalone_mode=False)
served = "activity_embeddings.transformations.serving.process" in sys.modules
cli(["materialize", *interval], standalone_mode=False)
own = os.getcwd()
for name in set(sys.modules) - others:
    if str(getattr(sys.modules[name], "__file__", "")).startswith(own):
        del sys.modules[name]
sys.path[:] = [encoded, *(path for path in sys.path if path != own)]
os.chdir(encoded)
import services
if not services.__file__.startswith(encoded):
    sys.exit("definitions of the first repo were read again")
print("imported:", served, "tensorflow" in sys.modules)
"""


@pytest.mark.process
def test_neither_applying_nor_publishing_loads_tensorflow(repo, models, tmp_path):
    """Nor does reading definitions whose item vectors an encoder makes.

    Applying loads nothing that only serving needs. What is published is what this process would.
    """
    encoded = small_repo(tmp_path / "encoded", models)
    encoded.configure(SAMPLE)
    encoder = package_encoder(encoded.path / "models" / "item_encoder")
    for name in MODELS:
        file = encoded.path / "models" / name / "assets.extra" / "activity_model.json"
        manifest = json.loads(file.read_text())
        manifest["vector_spec"] = encoder.vector_spec.to_dict()
        file.write_text(json.dumps(manifest))
    start, end = (f"{at(day):%Y-%m-%dT%H:%M:%S}" for day in (0, 1))
    done = subprocess.run(
        [sys.executable, "-O", "-c", PUBLISHED, encoded.path, start, end],
        cwd=repo.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("imported: False False\n")
    assert "TensorFlow" not in done.stdout
    here = small_repo(tmp_path / "here", models)
    here.publish(at(0), at(1))
    assert repo.stores() == here.stores()


@pytest.mark.parametrize("kind", ["int", "string"])
def test_a_request_orders_events_of_one_time_by_their_ids_where_these_are_declared(
    kind, tmp_path, models
):
    """As the batch orders them once they are in the source."""
    strings = kind == "string"
    _, vectors = small_data()

    def table(rows):
        ids = pa.array([str(i) if strings else i for *_, i in rows])
        return events_table([row[:4] for row in rows]).append_column("event_id", ids)

    past = [(1, 4, "APPLY", at(-1), 21), (1, 3, "SAVE", at(-1), 22)]
    new = [(1, 9, "SAVE", at(0.5), 31), (1, 1, "SAVE", at(0.5), 32), (1, 2, "SAVE", at(0.5), 4)]
    settings = replace(OWN_VECTORS, events=EventSource(event_id_type=kind))
    repo = make_repo(tmp_path / "repo", models, table(past), vectors_table(vectors), settings)
    repo.publish(at(-1), at(0))
    view = "job_activity_embedding_geometric_decay"
    refs = [f"{view}_realtime:{name}" for name in ("apply_embedding", "save_embedding")]

    def asked(ids):
        events = [
            (item, action, time, *i) for (_, item, action, time, _), i in zip(new, ids, strict=True)
        ]
        # In whatever order they come, and with an event that is stored already.
        again = (4, "APPLY", at(-1), *(("21" if strings else 21,) if ids[0] else ()))
        rows = entity_rows(
            [1, 2], {1: [*reversed(events), again]}, request_timestamp=at(1), event_ids=True
        )
        assert repo.store.get_online_features(
            [f"{view}_realtime:new_activity_count"], rows
        ).to_dict()["new_activity_count"] == [3, 0]
        return repo.store.get_online_features(refs, rows).to_dict()

    got = asked([(str(i) if strings else i,) for *_, i in new])
    without = asked([()] * 3)
    pq.write_table(table(new), repo.events / "new.parquet")
    repo.materialize(at(0), at(1))
    batch = repo.store.get_online_features(
        [ref.replace("_realtime", "") for ref in refs], [{"member_id": 1}]
    ).to_dict()
    assert np.allclose(got["save_embedding"][0], batch["save_embedding"][0], atol=1e-5)
    assert np.allclose(got["apply_embedding"][0], batch["apply_embedding"][0], atol=1e-5)
    # Without ids they are ordered by item: the order of ids is what counted.
    assert not np.allclose(without["save_embedding"][0], batch["save_embedding"][0], atol=1e-3)
