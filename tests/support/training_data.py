"""Small activity that there is something to learn from, for tests of training."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import tensorflow as tf

from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support.reference import US_PER_DAY

SPEC = ActivitySpec(length=8)
VECTOR_SPEC = ItemVectorSpec("test", "1", 6)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ITEMS = 40


@contextmanager
def without_graphs() -> Iterator[None]:
    """Run TensorFlow functions eagerly: to compile them takes longer than a short training."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def day(number: float) -> datetime:
    return EPOCH + timedelta(days=number)


TRAIN, VALIDATION = Period(day(0), day(20)), Period(day(20), day(30))


def turning_events(members=100, per_member=16, seed=0) -> pa.Table:
    """Members who want an item of the other kind than that of their newest activity.

    What they wanted before misleads, the more the newer it is; the newest position tells.
    """
    random = np.random.default_rng(seed)
    item = random.integers(0, ITEMS, (members, per_member))
    wanted = np.ones(item.shape, dtype=bool)
    wanted[:, 1:] = item[:, 1:] % 2 != item[:, :-1] % 2
    action = np.where(wanted, random.choice(["APPLY", "SAVE"], item.shape), "DISMISS").ravel()
    times = np.sort(random.integers(0, 30 * US_PER_DAY, (members, per_member))).ravel()
    return pa.table(
        {
            "member_id": np.repeat(np.arange(members), per_member),
            "job_id": item.ravel(),
            "action": action,
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


def two_kinds(seed=0) -> ItemVectors:
    """Vectors that tell even from odd items by their first value."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(ITEMS, VECTOR_SPEC.dimension)) * 0.3
    vectors[:, 0] += np.where(np.arange(ITEMS) % 2, 1.0, -1.0)
    table = pa.table(
        {
            "job_id": np.arange(ITEMS),
            "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32())),
            "event_timestamp": pa.array([-1] * ITEMS, pa.timestamp("us", "UTC")),
        }
    )
    return ItemVectors.from_arrow(table, VECTOR_SPEC)


def turns(**options) -> ActivityHistory:
    """Return the history of `turning_events`."""
    events = ActivityEvents.from_arrow(turning_events(**options), SPEC)
    return ActivityHistory.of(events, two_kinds(), SPEC)
