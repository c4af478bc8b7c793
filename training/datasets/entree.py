"""Entree Chicago: people who looked for a restaurant, and said what they wanted otherwise.

The data that `activity-embeddings init --sample` writes. Where they come from, what was modified
and how they may be used stands beside them, in `feature_repo/data`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from activity_embeddings.training.datasets.base import Sample, postings_of
from activity_embeddings.training.new_repo.settings import RepoSettings
from activity_embeddings.transformations.spec import ItemVectorSpec

ENTREE = Sample(
    name="entree",
    description=(
        "Entree Chicago: restaurants stand in for jobs, critiques for actions (a proxy domain)"
    ),
    encoder_until=datetime(1998, 10, 1, tzinfo=UTC),
    validate_from=datetime(1999, 2, 1, tzinfo=UTC),
    rank_from=datetime(1999, 2, 15, tzinfo=UTC),
    test_from=datetime(1999, 3, 15, tzinfo=UTC),
    until=datetime(1999, 4, 15, tzinfo=UTC),
    text=(),
    categories=("features",),
    buckets=1 << 10,
    encoder_with_network=True,
    other_weight=1.0,
    fit={"learning_rate": 5e-3},
    settings=replace(
        RepoSettings(),
        vector_spec=ItemVectorSpec("content_and_behaviour", "1", 64),
        items=postings_of(("title", "String"), ("features", "Array(String)")),
    ),
    as_of="request",
    folder="template/data",
)
