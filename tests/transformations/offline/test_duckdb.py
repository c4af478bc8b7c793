"""Feast's DuckDB store gives right rows in any order; ours gives them in the order asked."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

from support.feast_repo import at

pytestmark = pytest.mark.slow

FEATURES = [
    "job_activity_sequence:activity_count",
    "job_activity_embedding_geometric_decay:apply_embedding",
]


@pytest.fixture
def store(repo):
    repo.publish(at(0), at(3))
    return repo.store


@pytest.fixture
def labels():
    random = np.random.default_rng(1)
    rows = 1000
    frame = pd.DataFrame(
        {
            "member_id": random.integers(1, 60, rows),
            "event_timestamp": [at(float(day)) for day in random.uniform(0, 6, rows)],
            "label": np.arange(rows),
        },
        index=random.permutation(rows),
    )
    return pd.concat([frame, frame.iloc[::-7]])


def test_rows_come_back_in_the_order_asked_with_every_repetition(store, labels):
    joined = store.get_historical_features(labels, FEATURES).to_df()
    assert joined["label"].tolist() == labels["label"].tolist()
    assert joined["member_id"].tolist() == labels["member_id"].tolist()
    assert list(joined.columns) == [
        *labels.columns,
        "activity_count",
        "apply_embedding",
    ]
    arrow = store.get_historical_features(labels, FEATURES).to_arrow()
    assert arrow["label"].to_pylist() == labels["label"].tolist()


def test_the_rows_are_those_of_feasts_own_store(repo, store, labels, monkeypatch):
    ours = store.get_historical_features(labels, FEATURES).to_df()
    repo.edit(
        "feature_store.yaml",
        "activity_embeddings.OrderedDuckDBOfflineStore",
        "duckdb",
    )
    monkeypatch.chdir(repo.path)  # where Feast's own store looks for relative paths
    theirs = repo.store.get_historical_features(labels, FEATURES).to_df()
    order = ["label", "member_id"]
    pd.testing.assert_frame_equal(
        ours.sort_values(order, ignore_index=True), theirs.sort_values(order, ignore_index=True)
    )


def test_a_saved_dataset_knows_only_the_columns_of_the_request(store, labels, tmp_path):
    job = store.get_historical_features(labels, FEATURES)
    assert set(job.metadata.keys) == {"member_id", "label"}
    path = tmp_path / "labels.parquet"
    store.create_saved_dataset(job, "labels", SavedDatasetFileStorage(str(path)))
    kept = pq.read_table(path)
    assert kept.column_names == [*labels.columns, "activity_count", "apply_embedding"]
    assert kept["label"].to_pylist() == labels["label"].tolist()
