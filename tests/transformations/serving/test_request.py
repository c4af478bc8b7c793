"""At request time a sequence is what the reference makes of all events together."""

import contextlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.contract.activity_model import (
    ActivityModel,
    describe_models,
)
from activity_embeddings.transformations.inference.embedder import Embedder
from activity_embeddings.transformations.serving.request import (
    InvalidRequest,
    RequestParser,
    embed_at_request,
)
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from support import reference

SPEC, VECTOR_SPEC = ActivitySpec(), ItemVectorSpec("content_and_behaviour", "1", 64)
DAY = 86_400_000_000
ACTIONS = SPEC.vocabulary
ITEMS = 9
VECTORS = [
    (item, DAY * (item - 4) if item > 5 else -DAY, np.random.default_rng(item).normal(size=64))
    for item in range(1, ITEMS)
]

times = st.integers(0, 40 * 24).map(lambda hours: hours * DAY // 24)
event = st.tuples(times, st.integers(1, ITEMS), st.integers(1, 3))


@pytest.fixture(scope="module")
def embedder(models):
    line = ActivityModel(models / "unweighted_average")
    return Embedder(describe_models([line], spec=SPEC, vector_spec=VECTOR_SPEC), for_requests=True)


def lookup(item_ids):
    """Return the vectors of those of VECTORS that are asked for."""
    found = {item: (time, vector) for item, time, vector in VECTORS}
    known = np.array([item in found for item in item_ids.to_pylist()], dtype=bool)
    ids = item_ids.filter(pa.array(known))
    rows = [found[item] for item in ids.to_pylist()]
    matrix = np.zeros((len(rows) + 1, 64), dtype=np.float32)
    matrix[:-1] = [vector for _, vector in rows] or matrix[:-1]
    start = np.arange(len(rows) + 1)
    return ItemVectors(ids, start, np.array([time for time, _ in rows], dtype=np.int64), matrix), (
        known
    )


def stored_sequence(events, as_of):
    kept, _ = reference.sequence(
        as_rows(events), VECTORS, 1, as_of, window_us=SPEC.window_us, length=SPEC.length
    )
    return [(time, item, ACTIONS.index(action)) for item, action, time in kept]


def as_rows(events):
    return [
        {"member_id": 1, "job_id": item, "action": ACTIONS[action], "time": time}
        for time, item, action in events
    ]


def columns(requests):
    return {
        "activity_job_ids": [[item for _, item, _ in stored] for stored, _, _ in requests],
        "activity_actions": [[action for _, _, action in stored] for stored, _, _ in requests],
        "activity_times": [[time for time, _, _ in stored] for stored, _, _ in requests],
        "recent_job_ids": [[item for _, item, _ in recent] for _, recent, _ in requests],
        "recent_job_actions": [
            [ACTIONS[action] for _, _, action in recent] for _, recent, _ in requests
        ],
        "recent_job_timestamps": [
            [time / 1e6 for time, _, _ in recent] for _, recent, _ in requests
        ],
        "request_timestamp": [as_of / 1e6 for _, _, as_of in requests],
    }


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(event, max_size=50),
            st.lists(event, max_size=8),
            times,
            st.integers(0, 20 * 24).map(lambda hours: hours * DAY // 24),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_request_equals_the_reference_over_all_events(embedder, members):
    requests, expected = [], []
    for events, recent, stored_at, later in members:
        before = [e for e in events if e[0] < stored_at]
        as_of = stored_at + later
        # What the stored row cannot know: events that it left out because their item had no vector
        # yet, and has one now.
        before = [
            e
            for e in before
            if reference.vector_as_of(VECTORS, e[1], stored_at) is not None
            or reference.vector_as_of(VECTORS, e[1], as_of) is None
        ]
        requests.append((stored_sequence(before, stored_at), recent, as_of))
        expected.append(stored_sequence(before + recent, as_of))
    result = embed_at_request(
        columns(requests),
        parser=RequestParser(SPEC, string_ids=False),
        spec=SPEC,
        embedder=embedder,
        lookup=lookup,
    )
    sequences = result.sequences
    for row, wanted in enumerate(expected):
        filled = sequences.action[row] > 0
        ids = sequences.item_ids.to_pylist()
        got = list(
            zip(
                sequences.time[row][filled].tolist(),
                [ids[item] for item in sequences.item[row][filled]],
                sequences.action[row][filled].tolist(),
                strict=True,
            )
        )
        assert got == wanted
        stored, recent, _ = requests[row]
        assert result.new[row] == len(set(wanted) & set(recent) - set(stored))
        for action, output in enumerate(("apply", "save", "dismiss"), start=1):
            vectors = [
                reference.vector_as_of(VECTORS, item, requests[row][2]).tolist()
                for _, item, act in wanted
                if act == action
            ]
            mean = reference.mean_of(vectors, 64)
            assert np.allclose(result.vectors[f"{output}_embedding"][row], mean, atol=1e-5)
    assert result.report.members == len(members)
    assert result.report.empty == sum(not wanted for wanted in expected)


def test_a_item_that_became_known_after_the_request_is_unknown(embedder):
    late = 8  # known from day 4 on
    requests = [([], [(3 * DAY, late, 1)], 4 * DAY - 1), ([], [(3 * DAY, late, 1)], 4 * DAY)]
    result = embed_at_request(
        columns(requests),
        parser=RequestParser(SPEC, string_ids=False),
        spec=SPEC,
        embedder=embedder,
        lookup=lookup,
    )
    assert result.sequences.count.tolist() == [0, 1]
    assert result.report.unknown_items == 1


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=3)
    | st.sampled_from(
        ["APPLY", "\ud800", b"x", pd.NaT, pd.NA, np.datetime64("NaT", "us"), np.float64(1)]
    ),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(max_size=1), inner, max_size=1)
        | st.lists(st.floats(), max_size=2).map(np.array)
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("labels", [None, [5 * DAY]], ids=["online", "join"])
@settings(max_examples=300, deadline=None)
@given(st.tuples(anything, anything, anything, anything), st.booleans())
def test_whatever_a_request_holds_it_is_understood_or_refused(embedder, labels, values, lists):
    columns = dict(zip(names.JOBS.request_columns, [[value] for value in values], strict=True))
    if lists:
        for name in names.JOBS.recent_columns:
            columns[name] = [columns[name]]
    stored = {"activity_job_ids": [[1]], "activity_actions": [[1]], "activity_times": [[DAY]]}
    for string_ids in (False, True):
        with contextlib.suppress(InvalidRequest):
            result = embed_at_request(
                {"member_id": [1], **stored, **columns},
                parser=RequestParser(SPEC, string_ids=string_ids),
                spec=SPEC,
                embedder=embedder,
                lookup=lookup,
                labels=labels,
            )
            assert result.report.members == 1


@pytest.mark.parametrize("missing", names.JOBS.request_columns)
def test_a_request_without_one_of_its_columns_is_refused_by_name(embedder, missing):
    inputs = columns([([], [], 5 * DAY)])
    del inputs[missing]
    with pytest.raises(InvalidRequest, match=f"Received: none called {missing}"):
        embed_at_request(
            inputs,
            parser=RequestParser(SPEC, string_ids=False),
            spec=SPEC,
            embedder=embedder,
            lookup=lookup,
        )
