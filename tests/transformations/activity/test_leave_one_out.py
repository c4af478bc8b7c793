"""Leaving each activity out gives the sequences that a list without it would make."""

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.leave_one_out import leave_one_out
from activity_embeddings.transformations.activity.merge import (
    activities_in,
    as_events,
    total_order,
)
from activity_embeddings.transformations.activity.sequences import make_sequences
from activity_embeddings.transformations.spec import ActivitySpec

SPEC = ActivitySpec(window=timedelta(seconds=1), length=5)
AS_OF = 1_000_000

PARTS = (st.integers(1, AS_OF - 1), st.integers(1, 4), st.integers(1, 3))
WITHOUT_IDS = st.sets(st.tuples(*PARTS), max_size=7)
WITH_IDS = st.sets(st.tuples(*PARTS, st.integers(1, 9)), min_size=1, max_size=7)


def made_from(*members):
    events = as_events(members)
    moments = np.full(len(members), AS_OF)
    known = ItemVectors.always_known(events.item_ids)
    return make_sequences(events, events.member_ids, moments, spec=SPEC, vectors=known)


@given(WITHOUT_IDS | WITH_IDS)
def test_each_is_what_the_list_without_the_activity_makes(events):
    activities = sorted(events, key=total_order)
    got = leave_one_out(made_from(activities))
    kept = activities[-SPEC.length :]
    expected = [kept, *(kept[:i] + kept[i + 1 :] for i in range(len(kept)))]
    assert activities_in(got) == expected
    assert got.count.tolist() == [len(each) for each in expected]
    assert len(got) == len(kept) + 1 and set(got.as_of) == {AS_OF}
    # Padded on the left, as the function that makes sequences pads them.
    if kept:
        again = made_from(*expected)
        np.testing.assert_array_equal(got.action, again.action)
        np.testing.assert_array_equal(got.time, again.time)


def test_several_sequences_at_once_are_refused():
    with pytest.raises(ValueError):
        leave_one_out(made_from([(1, 1, 1)], [(2, 1, 1)]))
