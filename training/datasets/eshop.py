"""E-shop clothing: clicks in the sessions of an online shop; a session never comes back.

Where the data come from, what was modified and how they may be used stands beside them, in
`data/eshop`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from activity_embeddings.training.datasets.base import Sample, postings_of
from activity_embeddings.training.new_repo.settings import RepoSettings
from activity_embeddings.transformations.spec import ActivitySpec

ESHOP = Sample(
    name="eshop",
    description="E-shop clothing 2008: clicks stand in for jobs (a proxy domain)",
    encoder_until=datetime(2008, 6, 1, tzinfo=UTC),
    validate_from=datetime(2008, 7, 1, tzinfo=UTC),
    rank_from=datetime(2008, 7, 8, tzinfo=UTC),
    test_from=datetime(2008, 7, 22, tzinfo=UTC),
    until=datetime(2008, 8, 14, tzinfo=UTC),
    text=(),
    categories=("features",),
    buckets=1 << 10,
    encoder_with_network=True,
    settings=RepoSettings(
        item_type="string",
        spec=ActivitySpec(actions=("SAVE",), positive_actions=("SAVE",)),
        items=postings_of(("title", "String"), ("features", "Array(String)")),
    ),
    as_of="request",
    folder="training/datasets/data/eshop",
)
