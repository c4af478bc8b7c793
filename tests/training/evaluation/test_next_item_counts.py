"""Tables of counts: what came next, by the last item, or by the last item and action."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.evaluation import next_item_counts
from activity_embeddings.training.evaluation.next_item_counts import NextItemCounts
from activity_embeddings.training.evaluation.queries import Queries
from support.reference import US_PER_DAY, sequence
from support.training_cases import (
    LENGTH,
    MOMENTS,
    SPEC,
    WINDOW_US,
    at,
    event,
    histories,
    history_of,
)
from support.training_reference import held_out

DAY = US_PER_DAY
FACTS = {"window_us": WINDOW_US, "length": LENGTH}
EARLY = -1000 * DAY


def last_of(before, by_action):
    """The key of a sequence of (item, action, time)."""
    if not before:
        return None
    item, action, _ = before[-1]
    return (item, action) if by_action else item


def about_every_item(history, member, times):
    """A query of a member at each time, with every item as a candidate."""
    n, items = len(times), len(history.vectors.item_ids)
    sequences = history.sequences(np.full(n, member), np.array(times))
    return Queries(
        sequences=sequences,
        member=np.full(n, member),
        start=np.arange(n + 1) * items,
        item=np.tile(np.arange(items, dtype=np.int32), n),
        vector_row=np.zeros(n * items, np.int32),
        target=np.zeros(n * items, np.int8),
    )


@settings(max_examples=75, deadline=None)
@given(histories(), MOMENTS, st.booleans(), st.lists(MOMENTS, min_size=1, max_size=4))
def test_counts_are_those_of_dictionaries(case, until, by_action, times):
    events, vectors = case
    history = history_of(events, vectors, SPEC)
    counted, totals = Counter(), Counter()
    everything = {"start": EARLY, "end": until, "minimum": 1, "prefixes": True}
    # A table counts what was done with an item before it had a vector.
    always = [(item, EARLY, vector) for item, _, vector in vectors]
    for following, before in held_out(events, always, **everything, **FACTS):
        key = last_of(before, by_action)
        counted[key, following["job_id"]] += 1
        totals[key] += 1
    table = NextItemCounts.of(history, at(until), by_action=by_action)
    item_ids = history.vectors.item_ids.to_pylist()
    for member, member_id in enumerate(history.events.member_ids.to_pylist()):
        queries = about_every_item(history, member, times)
        found = table.columns(queries.sequences, queries).reshape(len(times), len(item_ids), 2)
        for time, rows in zip(times, found, strict=True):
            before, _ = sequence(events, vectors, member_id, time, **FACTS)
            key = last_of(before, by_action)
            for item, (share, count) in zip(item_ids, rows, strict=True):
                assert count == counted[key, item]
                assert share == pytest.approx(counted[key, item] / max(totals[key], 1))


def test_members_are_counted_part_by_part(monkeypatch):
    random = np.random.default_rng(0)
    events = [
        event(member, int(random.integers(6)), "SAVE", int(time))
        for member in range(7)
        for time in random.integers(DAY // 2, size=8)
    ]
    history = history_of(events, [(item, EARLY, [1.0, item]) for item in range(6)], SPEC)
    whole = NextItemCounts.of(history, at(DAY), by_action=True)
    monkeypatch.setattr(next_item_counts, "MEMBERS_AT_ONCE", 2)
    parts = NextItemCounts.of(history, at(DAY), by_action=True)
    assert whole.count.sum() > 10
    assert whole.pair.tolist() == parts.pair.tolist()
    assert whole.count.tolist() == parts.count.tolist()
