"""The example of a ranking request, on real stores."""

import doctest
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from support.feast_repo import (
    at,
    small_data,
    small_repo,
    us,
)
from support.reference import vector_as_of

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import rank_jobs as example
from rank_jobs import order_by_cosine, rank_jobs

pytestmark = pytest.mark.slow

NOW = at(4)
NEVER_SEEN = 10_000
WITHOUT_VECTOR = 31
ITEMS = [30, 7, WITHOUT_VECTOR, 1, 12, NEVER_SEEN, 18, 3]
MEMBER = 14
CNN = "job_activity_embedding_cnn"


@pytest.fixture(scope="module")
def published(tmp_path_factory, models):
    repo = small_repo(tmp_path_factory.mktemp("ranking") / "repo", models)
    repo.publish(at(-45), at(0), "--views", "job_embedding")
    repo.materialize(at(0), NOW)
    return repo


def item_vectors():
    """Return the newest vector of each item that had one by NOW, from the raw rows."""
    rows = [(item, us(time), vector.tolist()) for item, time, vector in small_data()[1]]
    found = {item: vector_as_of(rows, item, us(NOW)) for item in ITEMS}
    return {item: vector for item, vector in found.items() if vector is not None}


def stored_vector(repo, member):
    """Return the member's embedding in the newest snapshot."""
    table = pq.read_table(repo.data / "snapshots" / CNN / "v1", partitioning=None)
    (row,) = [
        row
        for row in table.to_pylist()
        if row["event_timestamp"] == NOW and row["member_id"] == member
    ]
    return row["activity_embedding"]


def expected_ranking(member_vector):
    vectors = item_vectors()
    scores = {
        item: np.dot(member_vector, vectors[item])
        / (math.hypot(*member_vector) * math.hypot(*vectors[item]))
        for item in vectors
    }
    known = sorted(scores, key=lambda item: -scores[item])
    missing = [item for item in ITEMS if item not in vectors]
    return [(item, scores[item]) for item in known] + [(item, -math.inf) for item in missing]


def assert_same_ranking(ranked, expected):
    assert [item for item, _ in ranked] == [item for item, _ in expected]
    np.testing.assert_allclose(
        [score for _, score in ranked], [score for _, score in expected], atol=1e-5, rtol=0
    )


def test_the_ranking_is_that_of_the_stored_vectors(published):
    ranked = rank_jobs(published.store, MEMBER, ITEMS, request_timestamp=NOW)
    assert_same_ranking(ranked, expected_ranking(stored_vector(published, MEMBER)))
    assert [item for item, score in ranked if score == -math.inf] == [WITHOUT_VECTOR, NEVER_SEEN]


def test_seconds_old_activity_moves_the_ranking_as_it_moves_the_embedding(published):
    store = published.store
    recent = [(12, "APPLY", us(NOW) / 1e6 - 20), (12, "SAVE", us(NOW) / 1e6 - 5)]
    row = {
        "member_id": MEMBER,
        "recent_job_ids": [12, 12],
        "recent_job_actions": ["APPLY", "SAVE"],
        "recent_job_timestamps": [time for _, _, time in recent],
        "request_timestamp": us(NOW) / 1e6,
    }
    served = store.get_online_features(store.get_feature_service(example.SERVICE), [row]).to_dict()
    assert served["new_activity_count"] == [2]

    ranked = rank_jobs(store, MEMBER, ITEMS, recent, request_timestamp=us(NOW) / 1e6)

    assert_same_ranking(ranked, expected_ranking(served["activity_embedding"][0]))
    assert ranked != rank_jobs(store, MEMBER, ITEMS, request_timestamp=us(NOW) / 1e6)


def test_a_ranking_request_is_two_online_calls(published):
    class CountingStore(FeatureStore):
        calls = 0

        def get_online_features(self, *arguments, **options):
            self.calls += 1
            return super().get_online_features(*arguments, **options)

    store = CountingStore(repo_path=str(published.path))
    service = store.get_feature_service(example.SERVICE)
    rank_jobs(store, MEMBER, range(1, 501), service=service, request_timestamp=NOW)
    assert store.calls == 2


def test_a_member_never_seen_leaves_the_order_as_it_was(published):
    ranked = rank_jobs(published.store, NEVER_SEEN, ITEMS, request_timestamp=NOW)
    assert ranked[:-2] == [
        (item, 0.0) for item in ITEMS if item not in (WITHOUT_VECTOR, NEVER_SEEN)
    ]
    assert ranked[-2:] == [(WITHOUT_VECTOR, -math.inf), (NEVER_SEEN, -math.inf)]
    assert rank_jobs(published.store, NEVER_SEEN, []) == []


def test_no_vector_at_all_gives_the_given_order():
    assert order_by_cosine([1.0], ["b", "a"], [None, None]) == [("b", -math.inf), ("a", -math.inf)]


def test_the_examples_in_its_documentation_hold():
    assert doctest.testmod(example).failed == 0


def test_the_command_prints_titles_of_the_best(published, capsys, monkeypatch):
    postings = pa.table({"job_id": [12, 18], "title": ["Engineer", "Analyst"]})
    pq.write_table(postings, published.data / "job_postings.parquet")
    command = ["rank_jobs.py", "--repo", str(published.path), "--member", str(MEMBER)]
    command += ["--at", NOW.isoformat(), "--recent", "12", "SAVE", "2024-03-04T23:59:58+00:00"]
    monkeypatch.setattr(sys, "argv", command)
    example.main()
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == "the best of 2 jobs for member 14:"
    assert {first.split("  ")[-1], second.split("  ")[-1]} == {"Engineer", "Analyst"}
