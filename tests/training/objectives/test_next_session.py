"""The next session as a list: its items against plain loops, and both trainings that take it."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.examples.held_out import Windows
from activity_embeddings.training.examples.history import INPUT_ITEM_ROWS
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.loop import Fit
from activity_embeddings.training.fitting.plan import TrainingPlan
from activity_embeddings.training.fitting.train import train
from activity_embeddings.training.item_encoder.towers import (
    KNOWN_ITEM,
    TOKENS,
    TowerSettings,
    TwoTowerTask,
)
from activity_embeddings.training.models import CNN
from activity_embeddings.training.objectives import NextSession
from activity_embeddings.training.objectives.future_positives import (
    DAY_ROWS,
    DISMISSED_ROWS,
    TARGET_ROWS,
    TARGET_WEIGHTS,
)
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.spec import ActivitySpec
from support.reference import sessions_of
from support.training_cases import ACTIONS, EPOCH, at, event, history_of
from support.training_data import SPEC, TRAIN, VALIDATION, VECTOR_SPEC, turns

MINUTE = 60_000_000
GAP = 30
EVERY = Windows(minimum=1, prefixes=True, per_member=None)


def slow_sessions(events, until):
    """Return {(member, start): (positive items, dismissed items)} of sessions with both a past and
    a positive item; `events` are dicts of one time scale, minutes."""
    found = {}
    for member in {e["member_id"] for e in events}:
        own = sorted(
            {(e["minute"], e["job_id"], e["action"]) for e in events if e["member_id"] == member},
            key=lambda e: (e[0], e[1], ACTIONS.index(e[2])),
        )
        sessions = []
        for one in own:
            if sessions and one[0] - sessions[-1][-1][0] <= GAP:
                sessions[-1].append(one)
            else:
                sessions.append([one])
        for session in sessions[1:]:
            inside = [(item, action) for minute, item, action in session if minute < until]
            positive = {item for item, action in inside if action != "DISMISS"}
            if positive:
                dismissed = {item for item, _ in inside} - positive
                found[member, session[0][0]] = (sorted(positive), sorted(dismissed))
    return found


def slow_sessions_of_ids(events, until):
    """Return what `slow_sessions` does, of events with a `visit`, None for an event without one."""
    found = {}
    for member in {e["member_id"] for e in events}:
        own = sorted(
            (e["minute"], e["job_id"], ACTIONS.index(e["action"]), e["visit"] or "~")
            for e in events
            if e["member_id"] == member
        )
        # Of equal events the one of the first session counts.
        own = [e for i, e in enumerate(own) if i == 0 or e[:3] != own[i - 1][:3]]
        plain = [(0, minute, None if visit == "~" else visit) for minute, _, _, visit in own]
        for session in {min(of): of for of in sessions_of(plain, GAP)}.values():
            start = own[session[0]][0]
            inside = [own[i] for i in session if own[i][0] < until]
            positive = {item for _, item, action, _ in inside if ACTIONS[action] != "DISMISS"}
            if positive and own[0][0] < start < until:
                dismissed = {item for _, item, _, _ in inside} - positive
                found[member, session[0]] = (sorted(positive), sorted(dismissed))
    return found


MINUTES = st.integers(0, 16).map(lambda n: n * 15)


def sessions_made(events, until, targets=24):
    """Return (wanted, dismissed) items of each example, the examples, and the row of PAD."""
    items = max(6, 1 + max(e["job_id"] for e in events))
    history = history_of(events, [(item, at(-MINUTE), [item, 1.0]) for item in range(items)])
    objective = NextSession(windows=EVERY, session_gap_minutes=GAP, targets=targets)
    made = objective.examples(history, Period(EPOCH, at(until * MINUTE)), np.random.default_rng(0))
    pad = history.vectors.pad_row

    def items(rows):
        return sorted(int(history.vectors.matrix[row][0]) for row in rows if row != pad)

    received = sorted(
        (items(wanted), items(dismissed))
        for wanted, dismissed in zip(made[TARGET_ROWS], made[DISMISSED_ROWS], strict=True)
    )
    return received, made, pad


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.integers(0, 5),
            st.sampled_from(ACTIONS),
            MINUTES,
            st.sampled_from([None, "a", "b", "c"]),
        ),
        min_size=6,
        max_size=24,
    ),
    st.integers(1, 16).map(lambda n: n * 15),
)
def test_an_example_is_a_session_of_one_id_although_others_lie_between(rows, until):
    events = [
        {**event(member, item, action, at(minute * MINUTE)), "minute": minute, "visit": visit}
        for member, item, action, minute, visit in rows
    ]
    received, *_ = sessions_made(events, until)
    assert received == sorted(slow_sessions_of_ids(events, until).values())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 5), st.sampled_from(ACTIONS), MINUTES),
        min_size=6,
        max_size=24,
    ),
    st.integers(1, 16).map(lambda n: n * 15),
)
def test_an_example_is_a_session_and_each_of_its_items_counts_once(rows, until):
    events = [
        {**event(member, item, action, at(minute * MINUTE)), "minute": minute}
        for member, item, action, minute in rows
    ]
    received, made, pad = sessions_made(events, until)
    expected = {k: v for k, v in slow_sessions(events, until).items() if k[1] < until}
    assert received == sorted(expected.values())
    np.testing.assert_array_equal(made[TARGET_WEIGHTS], made[TARGET_ROWS] != pad)


def session_of(*activity):
    """Return a first activity, and a session of one activity a minute, as pairs (item, action)."""
    times = [-2 * GAP, *range(len(activity))]
    return [
        {**event(0, item, action, at((120 + time) * MINUTE)), "minute": 120 + time}
        for (item, action), time in zip([(0, "APPLY"), *activity], times, strict=True)
    ]


@pytest.mark.parametrize(
    ("activity", "wanted", "dismissed"),
    [
        # However late it was wanted.
        (
            [(1, "DISMISS"), *((item, "APPLY") for item in range(2, 10)), (1, "APPLY")],
            [2, 3, 4, 5, 6, 7, 8, 9],
            [],
        ),
        # However often another one was, or was dismissed.
        ([*[(1, "SAVE"), (1, "APPLY")] * 4, (2, "APPLY")], [1, 2], []),
        ([(1, "APPLY"), *[(2, "DISMISS"), (1, "DISMISS")] * 5, (3, "DISMISS")], [1], [2, 3]),
    ],
)
def test_an_item_takes_one_place_of_those_that_there_are(activity, wanted, dismissed):
    received, *_ = sessions_made(session_of(*activity), until=240, targets=8)
    assert received == [(wanted, dismissed)]


def test_an_item_without_a_vector_at_the_start_of_a_session_takes_no_place():
    activity = session_of((1, "APPLY"), (2, "APPLY"), (3, "APPLY"))
    posted = [(item, at(121 * MINUTE if item == 2 else -MINUTE), [item, 1.0]) for item in range(4)]
    objective = NextSession(windows=EVERY, targets=2)
    period = Period(EPOCH, at(240 * MINUTE))
    made = objective.examples(history_of(activity, posted), period, np.random.default_rng(0))
    # One vector an item here, so a row is an item.
    assert made[TARGET_ROWS].tolist() == [[1, 3]]


@pytest.mark.parametrize("other_weight", [0.3, 1.0])
def test_an_item_that_was_dismissed_and_wanted_has_the_weight_of_one_wanted(other_weight):
    activity = session_of((1, "DISMISS"), (2, "DISMISS"), (1, "APPLY"))
    history = history_of(activity, [(item, at(-MINUTE), [item, 1.0]) for item in range(3)])
    objective = NextSession(windows=EVERY, other_weight=other_weight, listwise=False, targets=3)
    made = objective.examples(history, Period(EPOCH, at(240 * MINUTE)), np.random.default_rng(0))
    weights = dict(zip(made[TARGET_ROWS][0], made[TARGET_WEIGHTS][0], strict=True))
    assert weights == pytest.approx({1: 1.0, 2: other_weight, history.vectors.pad_row: 0.0})


def test_the_input_is_all_activity_before_the_session_and_none_of_it():
    rows = [(0, "APPLY", 0), (1, "DISMISS", 20), (2, "APPLY", 60), (3, "SAVE", 70)]
    events = [event(7, item, action, at(minute * MINUTE)) for item, action, minute in rows]
    history = history_of(events, [(item, at(-MINUTE), [item, 1.0]) for item in range(4)])
    objective = NextSession(windows=EVERY, session_gap_minutes=GAP, day_negatives=3)
    made = objective.examples(history, Period(EPOCH, at(90 * MINUTE)), np.random.default_rng(0))
    # One vector an item here, so a row is an item.
    assert made["actions"][0, -3:].tolist() == [0, 1, 3]
    assert made[INPUT_ITEM_ROWS][0, -2:].tolist() == [0, 1]
    assert made["ages"][0, -2:] == pytest.approx([60 / 1440, 40 / 1440])
    assert made[TARGET_ROWS][0, :3].tolist() == [2, 3, history.vectors.pad_row]
    assert set(made[DAY_ROWS][0]) <= {0, 1, 2, 3}


def test_with_several_kinds_a_session_starts_with_the_first_activity_of_the_own_kind():
    """A search before it is input, and a session of searches alone makes no example."""
    spec = ActivitySpec.of_kinds(
        {"job": ActivitySpec(), "search": ActivitySpec(actions=("SEARCH",), positive_actions=())}
    )
    job, search = [0, 1, 2], 3
    rows = [
        *[(job[0], "APPLY", 0), (search, "SEARCH", 60), (job[1], "SAVE", 65)],
        *[(search, "SEARCH", 70), (job[2], "APPLY", 75), (search, "SEARCH", 130)],
    ]
    events = [event(7, item, action, at(minute * MINUTE)) for item, action, minute in rows]
    vectors = [(item, at(-MINUTE), [1.0, 1.0]) for item in [*job, search]]
    history = history_of(events, vectors, spec=spec)
    objective = NextSession(windows=EVERY, session_gap_minutes=GAP, day_negatives=3)
    made = objective.examples(history, Period(EPOCH, at(200 * MINUTE)), np.random.default_rng(0))
    # One vector an item here, so a row is an item.
    assert made[INPUT_ITEM_ROWS][:, -2:].tolist() == [[job[0], search]]
    assert made[TARGET_ROWS][:, :3].tolist() == [[*job[1:], history.vectors.pad_row]]


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"session_gap_minutes": 0}, "`session_gap_minutes` should be above 0.*: 0"),
        ({"session_gap_minutes": float("nan")}, "`session_gap_minutes` should be above 0.*: nan"),
        ({"horizon_days": 7}, "`horizon_days` should be 0.*: 7"),
        ({"other_weight": 1.0}, "`other_weight` should be 0 beside.*listwise=True"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(options, refused):
    with pytest.raises(InvalidInput, match=f"^next_session: {refused}"):
        NextSession(**options)


HISTORY = turns(members=60)
OBJECTIVE = NextSession(windows=EVERY, session_gap_minutes=24 * 60)


@pytest.mark.slow
def test_it_trains_by_the_same_function_and_learns():
    trained = train(
        CNN(filters=4, convolutions=1, dropout=0.0),
        TrainingPlan(
            history=HISTORY,
            vector_spec=VECTOR_SPEC,
            period=TRAIN,
            validation=VALIDATION,
            objective=OBJECTIVE,
            fit=Fit(epochs=6, batch_size=64, learning_rate=1e-2),
        ),
    )
    losses = [epoch["loss"] for epoch in trained.result["training"]["history"]]
    assert losses[-1] < 0.9 * losses[0]
    assert trained.result["training"]["objective"] == OBJECTIVE.to_dict()


def test_two_towers_have_the_losses_of_their_vectors():
    items, generator = len(HISTORY.vectors.item_ids), np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    words = generator.normal(size=(9, VECTOR_SPEC.dimension)).astype(np.float32)
    item_tower = TowerSettings(buckets=8, hidden=4).build(items, words)
    member_tower = CNN(filters=4).build(SPEC, VECTOR_SPEC)
    # The last row is that of PAD.
    tokens = np.vstack([generator.integers(1, 9, (items, 3)), np.zeros((1, 3))]).astype(np.int32)
    inputs = {TOKENS: tokens, KNOWN_ITEM: np.arange(1, items + 2, dtype=np.int32) % (items + 1)}
    together = TwoTowerTask(member_tower, item_tower, inputs, HISTORY, TRAIN, OBJECTIVE)
    frozen = OBJECTIVE.task(member_tower, HISTORY, TRAIN)
    matrix = item_tower.predict(inputs, verbose=0)
    matrix[-1] = 0.0
    frozen.matrix.assign(matrix)
    batch = next(OBJECTIVE.stream(HISTORY, TRAIN, batch_size=32).batches())
    losses = frozen(batch).numpy()
    np.testing.assert_allclose(together(batch).numpy(), losses, rtol=1e-4)
    assert losses.std() > 0.1
