"""Sampled softmax over the positives that follow: targets and losses against plain loops."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.examples.held_out import Windows
from activity_embeddings.training.models import CNN
from activity_embeddings.training.objectives import FuturePositives, NextPositive
from activity_embeddings.training.objectives.future_positives import (
    DAY_ROWS,
    DISMISSED_ROWS,
    NEGATIVE_ROWS,
    TARGET_ROWS,
    TARGET_WEIGHTS,
)
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY
from support.training_cases import at, event, history_of
from support.training_data import SPEC, TRAIN, VECTOR_SPEC, turns

HISTORY = turns(members=30)
EVERY = Windows(minimum=1, prefixes=True, per_member=None)


def numbers(seed=0):
    return np.random.default_rng(seed)


def expected_targets(horizon_days, most, wanted):
    """Return {(member, time): items} for every moment that has input, by loops."""
    events = HISTORY.events
    rows = [
        (int(m), int(t), int(j), int(a))
        for m, t, j, a in zip(events.member, events.time, events.item, events.action, strict=True)
    ]
    found = {}
    for member, time, _, _ in rows:
        if not TRAIN.start_us <= time < TRAIN.end_us:
            continue
        if not any(m == member and t < time for m, t, _, _ in rows):
            continue
        until = min(time + horizon_days * MICROSECONDS_PER_DAY + 1, TRAIN.end_us)
        items = [
            j
            for m, t, j, a in rows
            if m == member and t >= time and (a in SPEC.positive_ids) == wanted
        ][:most]
        times = [
            t
            for m, t, j, a in rows
            if m == member and t >= time and (a in SPEC.positive_ids) == wanted
        ][:most]
        found[member, time] = [j for j, t in zip(items, times, strict=True) if t < until]
    return found


@settings(max_examples=10, deadline=None)
@given(horizon=st.sampled_from([0, 1, 7, 100]), most=st.integers(1, 5))
def test_targets_are_the_first_positives_of_the_horizon_and_never_of_a_later_period(horizon, most):
    objective = FuturePositives(windows=EVERY, horizon_days=horizon, targets=most)
    made = objective.examples(HISTORY, TRAIN, numbers())
    pad = HISTORY.vectors.pad_row
    wanted = sorted(v for v in expected_targets(horizon, most, True).values() if v)
    # One vector an item here, so a row is an item.
    received = sorted([int(row) for row in rows if row != pad] for rows in made[TARGET_ROWS])
    assert received == wanted
    dismissed = expected_targets(horizon, most, False)
    kept = [k for k, v in expected_targets(horizon, most, True).items() if v]
    assert sorted([int(r) for r in rows if r != pad] for rows in made[DISMISSED_ROWS]) == sorted(
        dismissed[k] for k in kept
    )


@pytest.mark.parametrize("other_weight", [0.0, 0.3, 1.0])
def test_other_activities_are_targets_of_their_own_weight_where_asked_for(other_weight):
    objective = NextPositive(windows=EVERY, other_weight=other_weight)
    made = objective.examples(HISTORY, TRAIN, numbers())
    events, pad = HISTORY.events, HISTORY.vectors.pad_row
    expected = []
    for member, time in expected_targets(0, 1, True):
        # All that happened at the moment: the first one that counts is its target.
        now = np.flatnonzero((events.member == member) & (events.time == time))
        weights = [1.0 if events.action[i] in SPEC.positive_ids else other_weight for i in now]
        counted = [(int(events.item[i]), w) for i, w in zip(now, weights, strict=True) if w]
        expected += counted[:1]
    rows, weights = made[TARGET_ROWS][:, 0], made[TARGET_WEIGHTS][:, 0]
    assert (rows != pad).all()
    received = list(zip(rows.tolist(), weights.astype(float).round(3).tolist(), strict=True))
    assert sorted(received) == sorted(expected)
    assert len({weight for _, weight in expected}) == (2 if other_weight == 0.3 else 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"other_weight": 1, "dismiss_weight": 1},
        {"other_weight": 1, "listwise": True},
    ],
)
def test_weights_of_other_activities_that_contradict_are_refused(settings):
    with pytest.raises(InvalidInput, match=r"next_positive: `other_weight` should be .*Received"):
        NextPositive(**settings)


def test_a_target_whose_item_has_no_vector_at_the_moment_weighs_nothing():
    day = MICROSECONDS_PER_DAY
    rows = [(0, 0), (1, 1), (2, 2), (3, 3)]
    history = history_of(
        [event(7, item, "APPLY", at(time * day)) for item, time in rows],
        [(item, at((2 * day if item == 2 else 0) - 1), [item, 1.0]) for item, _ in rows],
    )
    made = FuturePositives(windows=EVERY, targets=4).examples(history, TRAIN, numbers())
    # One vector an item here, so a row is an item: at the second moment the third one has none.
    assert made[TARGET_ROWS][:, :3].tolist() == [[1, 4, 3], [2, 3, 4], [3, 4, 4]]
    assert made[TARGET_WEIGHTS][:, :3].tolist() == [[1, 0, 1], [1, 1, 0], [1, 0, 0]]


def slow_losses(objective, task, batch, embedding):
    """Return the loss of each row of a batch, by the formulas, one logit at a time."""
    history = HISTORY
    matrix, pad = history.vectors.matrix, history.vectors.pad_row
    scale = float(np.exp(task.log_scale.numpy()))
    items = len(history.vectors.item_ids)
    counts = np.zeros(items)
    for item, action, time in zip(
        history.events.item, history.events.action, history.events.time, strict=True
    ):
        is_target = action in SPEC.positive_ids or objective.other_weight > 0
        counts[item] += is_target and time < TRAIN.end_us
    popularity = (counts + 1) / (counts + 1).sum()
    in_batch = [int(r) for r in batch[TARGET_ROWS].ravel() if r != pad] * objective.in_batch
    by_popularity = len(in_batch) + objective.popular_negatives

    def logit(u, row, correct=True):
        expected = by_popularity * popularity[row] + objective.uniform_negatives / items + 1e-9
        correction = np.log(expected) if correct and objective.log_q else 0.0
        return scale * float(u @ matrix[row]) - correction

    losses = []
    for i, u in enumerate(embedding):
        rows, weights = batch[TARGET_ROWS][i], batch[TARGET_WEIGHTS][i]
        targets = [int(r) for r in rows if r != pad]
        dismissed = [int(r) for r in batch[DISMISSED_ROWS][i] if r != pad]
        own = {*targets, *dismissed}
        others = [logit(u, r) for r in [*in_batch, *map(int, batch[NEGATIVE_ROWS])] if r not in own]
        if objective.day_negatives:
            others += [logit(u, int(r), False) for r in batch[DAY_ROWS][i] if int(r) not in own]
        of_targets = []
        for target in targets:
            own_logit = logit(u, target)
            ranked = [own_logit, *others]
            if objective.listwise:
                ranked = [logit(u, row) for row in [*targets, *dismissed]] + others
            loss = np.log(np.exp(ranked).sum()) - own_logit
            for row in dismissed:
                gap = scale * float(u @ (matrix[row] - matrix[target]))
                loss += objective.dismiss_weight * np.log1p(np.exp(gap))
            of_targets.append(loss * weights[len(of_targets)])
        losses.append(np.mean(of_targets))
    return losses


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"in_batch": False},
        {"log_q": False},
        {"dismiss_weight": 0.7},
        {"other_weight": 0.4},
        {"day_negatives": 5},
        {"listwise": True},
        {"listwise": True, "day_negatives": 5, "log_q": False},
        {
            "day_negatives": 7,
            "in_batch": False,
            "uniform_negatives": 0,
            "popular_negatives": 0,
            "log_q": False,
            "targets": 1,
            "horizon_days": 0,
        },
    ],
)
def test_losses_are_those_of_the_formulas(options):
    objective = FuturePositives(
        windows=EVERY, **{"uniform_negatives": 4, "popular_negatives": 3, "targets": 3, **options}
    )
    keras.utils.set_random_seed(0)
    model = CNN(filters=4).build(SPEC, VECTOR_SPEC)
    task = objective.task(model, HISTORY, TRAIN)
    batch = next(objective.stream(HISTORY, TRAIN, batch_size=20, seed=3).batches())
    embedding = model.predict(
        {
            "item_embeddings": HISTORY.vectors.matrix[batch["item_rows"]],
            "actions": batch["actions"],
        },
        verbose=0,
    )["activity_embedding"]
    expected = slow_losses(objective, task, batch, embedding)
    np.testing.assert_allclose(task(batch).numpy(), expected, rtol=1e-4)


def test_negatives_are_drawn_uniformly_and_by_popularity():
    objective = FuturePositives(uniform_negatives=20_000, popular_negatives=20_000)
    rows = objective.finisher(HISTORY, TRAIN)({}, numbers())[NEGATIVE_ROWS]
    items = len(HISTORY.vectors.item_ids)
    uniform = np.bincount(rows[:20_000], minlength=items) / 20_000
    np.testing.assert_allclose(uniform, np.full(items, 1 / items), atol=0.006)
    positive = np.isin(HISTORY.events.action, SPEC.positive_ids)
    positive &= HISTORY.events.time < TRAIN.end_us
    counts = np.bincount(HISTORY.events.item[positive], minlength=items)
    popular = np.bincount(rows[20_000:], minlength=items) / 20_000
    np.testing.assert_allclose(popular, counts / counts.sum(), atol=0.006)


def test_day_negatives_are_of_the_same_day():
    objective = FuturePositives(windows=EVERY, day_negatives=6, horizon_days=100)
    held = objective.examples(HISTORY, TRAIN, numbers())
    events = HISTORY.events
    items_of = {}
    for time, item in zip(events.time, events.item, strict=True):
        items_of.setdefault(time // MICROSECONDS_PER_DAY, set()).add(int(item))
    inside = (events.time >= TRAIN.start_us) & (events.time < TRAIN.end_us)
    drawn = {tuple(sorted({int(r) for r in rows})) for rows in held[DAY_ROWS]}
    days = [items_of[d] for d in np.unique(events.time[inside] // MICROSECONDS_PER_DAY)]
    assert all(any(set(rows) <= items for items in days) for rows in drawn)


def test_a_member_of_many_moments_can_weigh_less():
    plain = FuturePositives(windows=EVERY).examples(HISTORY, TRAIN, numbers())["weight"]
    assert (plain == 1).all()
    weighted = FuturePositives(windows=EVERY, member_weight=1.0).examples(
        HISTORY, TRAIN, numbers()
    )["weight"]
    # A member's moments then weigh 1 together.
    assert weighted.sum() == pytest.approx(30, rel=1e-5)
