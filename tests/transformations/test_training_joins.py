"""Training joins of every offline store of ours, beside a slow and obvious as-of join."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

from activity_embeddings.transformations.errors import InvalidInput
from support import reference
from support.feast_repo import (
    US_PER_DAY,
    at,
    small_repo,
    us,
)
from support.postgres_repo import move_to_postgres

pytestmark = pytest.mark.slow

DUCKDB = "activity_embeddings.OrderedDuckDBOfflineStore"
POSTGRES = "activity_embeddings.OrderedPostgreSQLOfflineStore"
DASK = "activity_embeddings.OrderedDaskOfflineStore"
TTL = 28 * US_PER_DAY
VIEWS = {
    "job_activity_sequence": ["activity_count", "activity_job_ids"],
    "job_activity_embedding_geometric_decay": ["apply_embedding", "save_embedding"],
}
FEATURES = [f"{view}:{feature}" for view, features in VIEWS.items() for feature in features]
JOBS = [*FEATURES, "job_embedding:embedding"]


@pytest.fixture(scope="module")
def repo(tmp_path_factory, models):
    """A repo with four days published; tests read it by either store."""
    path = tmp_path_factory.mktemp("joins") / "repo"
    repo = small_repo(path, models)
    repo.publish(at(0), at(4))
    return repo


@pytest.fixture(scope="module")
def in_postgres(tmp_path_factory, models, postgres):
    """The same in PostgreSQL."""
    repo = small_repo(tmp_path_factory.mktemp("joins") / "postgres", models)
    move_to_postgres(repo, postgres.new(), POSTGRES)
    repo.publish(at(0), at(4))
    return repo


STORES = [
    pytest.param(DUCKDB, id="duckdb"),
    pytest.param(DASK, id="dask"),
    pytest.param(POSTGRES, id="postgres", marks=pytest.mark.postgres),
]


@pytest.fixture(params=STORES)
def store(request, repo):
    if request.param == POSTGRES:
        yield request.getfixturevalue("in_postgres").store
        return
    if request.param == DASK:
        repo.edit("feature_store.yaml", DUCKDB, DASK)
    yield repo.store
    if request.param == DASK:
        repo.edit("feature_store.yaml", DASK, DUCKDB)


@pytest.fixture
def labels():
    """Labels with repeated keys, before the first value, after the last one's ttl, of strangers."""
    random = np.random.default_rng(1)
    rows = 300
    days = [*random.uniform(-3, 8, rows - 60), *random.uniform(20, 40, 60)]
    frame = pd.DataFrame(
        {
            "score": random.normal(size=rows),
            "event_timestamp": [at(round(float(day), 1)) for day in days],
            "member_id": random.integers(1, 60, rows),
            "note": [f"label {i}" if i % 3 else None for i in range(rows)],
            "job_id": random.integers(1, 40, rows),
            "label": np.arange(rows),
        },
        index=random.integers(0, 5, rows),
    )
    return pd.concat([frame, frame.iloc[::-3], frame.iloc[:20].assign(job_id=3)])


def snapshots(repo, view):
    """Return the committed rows of a view as (key, time, values)."""
    rows = []
    for file in (repo.data / "snapshots" / view / "v1").glob("as_of=*/snapshot.parquet"):
        for row in pq.read_table(file, partitioning=None).to_pylist():
            rows.append((row["member_id"], us(row["event_timestamp"]), row))
    return rows


def item_vectors(repo):
    table = pq.read_table(repo.data / "job_embeddings.parquet")
    return [(row["job_id"], us(row["event_timestamp"]), row) for row in table.to_pylist()]


def same(value, expected):
    """Compare a cell of pandas, which has several words for nothing, with a Python value."""
    if expected is None:
        return value is None or (np.isscalar(value) and pd.isna(value))
    if isinstance(expected, list):
        return value is not None and list(value) == expected
    return value == expected


def check(joined, labels, repo, *, label_time="event_timestamp", jobs=False, name=None):
    """Check each row of a join, with loops."""
    rows = [(feature, snapshots(repo, view), "member_id", TTL) for view, feature in each_feature()]
    if jobs:
        rows.append((("job_embedding", "embedding"), item_vectors(repo), "job_id", 0))
    assert len(joined) == len(labels)
    found = 0
    for (view, feature), table, key, ttl in rows:
        column = joined[name(view, feature) if name else feature]
        for i, (id_, moment) in enumerate(zip(labels[key], labels[label_time], strict=True)):
            row = reference.joined(table, id_, us(moment.to_pydatetime()), ttl)
            assert same(column.iloc[i], row and row[feature]), (view, feature, i)
            found += row is not None
    assert 0 < found < len(labels) * len(rows)


def each_feature():
    for view, features in VIEWS.items():
        for feature in features:
            yield view, (view, feature)


def test_every_label_comes_back_in_its_place_with_its_value(store, repo, labels):
    before = labels.copy(deep=True)
    joined = store.get_historical_features(labels, FEATURES).to_df()
    check(joined, labels, repo)
    for column in labels:
        assert all(same(a, b) for a, b in zip(joined[column], labels[column], strict=True)) or (
            joined[column].tolist() == labels[column].tolist()
        )
    assert list(joined.columns) == [
        *labels.columns,
        *(feature for features in VIEWS.values() for feature in features),
    ]
    pd.testing.assert_frame_equal(labels, before)


def test_views_of_two_entities_are_joined_each_by_its_own_key(store, repo, labels):
    """Rows that share member and time differ in the job."""
    check(store.get_historical_features(labels, JOBS).to_df(), labels, repo, jobs=True)


def test_of_many_labels_each_gets_what_feasts_own_store_gives(repo, monkeypatch):
    """So many that DuckDB plans another join than for a few; at parts of a microsecond, too."""
    monkeypatch.chdir(repo.path)  # where Feast's own store looks for files
    random = np.random.default_rng(5)
    count = 20_000
    times = 1_000 * (us(at(-3)) + random.integers(0, 40 * US_PER_DAY, count))
    times[:999] = 1_000 * us(at(2)) + np.arange(-499, 500)
    times[999:1_999] = np.arange(-500, 500)  # before there were any, on both sides of 1970
    times[5_000:] += random.integers(0, 1_000, count - 5_000)
    asked = pd.DataFrame(
        {
            "member_id": random.integers(1, 60, count),
            "job_id": random.integers(1, 40, count),
            "event_timestamp": pd.to_datetime(times, unit="ns", utc=True),
            "label": np.arange(count),
        }
    )
    ours = repo.store.get_historical_features(asked, JOBS).to_df()
    repo.edit("feature_store.yaml", DUCKDB, "duckdb")
    try:
        whole = asked.assign(event_timestamp=asked["event_timestamp"].dt.floor("us"))
        stock = repo.store.get_historical_features(whole, JOBS).to_df()
    finally:
        repo.edit("feature_store.yaml", "type: duckdb", f"type: {DUCKDB}")
    assert ours["label"].tolist() == list(range(count))
    stock = stock.sort_values("label", ignore_index=True)
    pd.testing.assert_frame_equal(ours, stock[ours.columns], check_dtype=False)


def test_the_label_time_may_have_another_name(store, repo, labels):
    renamed = labels.rename(columns={"event_timestamp": "applied_at"})
    joined = store.get_historical_features(renamed, FEATURES).to_df()
    check(joined, renamed, repo, label_time="applied_at")
    assert "event_timestamp" not in joined


def test_full_feature_names(store, repo, labels):
    joined = store.get_historical_features(labels, JOBS, full_feature_names=True).to_df()
    check(joined, labels, repo, jobs=True, name=lambda view, feature: f"{view}__{feature}")


@pytest.mark.filterwarnings("ignore:Discarding nonzero")  # by Feast's PostgreSQL store
def test_naive_times_and_other_zones_are_the_same_moments(store, repo, labels):
    for zone in (None, "America/New_York"):
        times = labels["event_timestamp"].dt.tz_convert(zone)
        times = times.astype("datetime64[ns]" if zone is None else f"datetime64[ns, {zone}]")
        times += pd.Timedelta(nanoseconds=1)
        joined = store.get_historical_features(labels.assign(event_timestamp=times), FEATURES)
        check(joined.to_df(), labels, repo)


def test_labels_of_centuries_that_nanoseconds_do_not_reach_are_those_times(store):
    years = pd.Series(np.array(["1500", "2024-03-04", "2583"], "datetime64[us]"))
    labels = pd.DataFrame(
        {"member_id": 14, "job_id": 1, "event_timestamp": years.dt.tz_localize("UTC")}
    )
    joined = store.get_historical_features(labels, JOBS).to_df()
    assert joined["event_timestamp"].dt.year.tolist() == [1500, 2024, 2583]
    # Of a member the values grow too old; those of items do not.
    assert joined["activity_count"].notna().tolist() == [False, True, False]
    assert joined["embedding"].notna().tolist() == [False, True, True]


def test_no_label_has_a_value(store, labels):
    early = labels.assign(event_timestamp=at(-500))
    joined = store.get_historical_features(early, JOBS).to_df()
    assert joined["label"].tolist() == labels["label"].tolist()
    assert joined[["activity_count", "apply_embedding", "embedding"]].isna().all(axis=None)


def test_on_demand_views_are_computed_for_every_label(store, labels):
    """A label before the first value has no stored activity, and is answered all the same."""
    recent = ["recent_job_ids", "recent_job_actions", "recent_job_timestamps", "request_timestamp"]
    asked = labels.assign(**dict.fromkeys(recent))
    view = "job_activity_embedding_geometric_decay"
    features = [
        "job_activity_sequence:activity_count",
        f"{view}_realtime:apply_embedding",
        f"{view}_realtime:new_activity_count",
    ]
    joined = store.get_historical_features(asked, features).to_df()
    assert joined["label"].tolist() == labels["label"].tolist()
    assert (joined["new_activity_count"] == 0).all()
    stored = store.get_historical_features(labels, [f"{view}:apply_embedding"]).to_df()
    exact = labels["event_timestamp"].isin([at(day) for day in range(1, 5)]).to_numpy()
    both = exact & stored["apply_embedding"].notna().to_numpy()
    assert both.any()
    np.testing.assert_allclose(
        np.stack(joined["apply_embedding"][both]),
        np.stack(stored["apply_embedding"][both]),
        atol=1e-5,
    )


def test_only_what_was_available_counts_if_asked(store, repo, labels):
    """A value as of T is available half an hour later, and an older one until then."""
    asked = labels.assign(event_timestamp=at(2) + pd.Timedelta(minutes=10))
    joined = store.get_historical_features(
        asked, FEATURES, filter_by_created_timestamp=True
    ).to_df()
    check(joined, labels.assign(event_timestamp=pd.Timestamp(at(1))), repo)


def test_requests_of_few_rows(store, repo, labels):
    """Of such Feast's Dask store answers few."""
    random = np.random.default_rng(2)
    for rows in (1, 2, 3, 5):
        asked = labels.iloc[random.integers(0, len(labels), rows)]
        joined = store.get_historical_features(asked, JOBS).to_df()
        assert joined["label"].tolist() == asked["label"].tolist()


def test_a_label_without_key_has_no_value(store, labels):
    asked = labels.assign(member_id=[None if i % 2 else 14 for i in range(len(labels))])
    joined = store.get_historical_features(asked, FEATURES).to_df()
    assert joined["label"].tolist() == labels["label"].tolist()
    assert joined["activity_count"][1::2].isna().all()
    assert joined["activity_count"][::2].notna().any()


def test_a_saved_dataset_holds_the_join(store, labels, tmp_path):
    job = store.get_historical_features(labels, FEATURES)
    assert set(job.metadata.keys) == set(labels.columns) - {"event_timestamp"}
    if store.config.offline_store.type == POSTGRES:
        return
    path = tmp_path / "labels.parquet"
    store.create_saved_dataset(job, f"labels_{id(store)}", SavedDatasetFileStorage(str(path)))
    kept = pq.read_table(path)
    assert kept["label"].to_pylist() == labels["label"].tolist()
    assert kept.column_names[: len(labels.columns)] == list(labels.columns)


def test_a_request_that_cannot_be_joined_is_one_error(repo, labels):
    repo.edit("feature_store.yaml", DUCKDB, DASK)
    store = repo.store
    repo.edit("feature_store.yaml", DASK, DUCKDB)
    named = labels.rename(columns={"member_id": "member"})
    with pytest.raises(InvalidInput, match=r"expected a column 'member_id' .* Received: .*member"):
        store.get_historical_features(named, FEATURES).to_df()
    texts = labels.assign(member_id=labels["member_id"].astype(str))
    with pytest.raises(InvalidInput, match=r"'member_id' of type int64 .* Received: object"):
        store.get_historical_features(texts, FEATURES).to_df()
