"""Differences over members: interval, p value, Holm's correction and what could have been seen."""

import math
from statistics import mean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.evaluation import statistics
from activity_embeddings.training.evaluation.statistics import (
    Difference,
    holm,
    minimum_detectable_effect,
    paired_bootstrap,
)
from activity_embeddings.transformations.errors import InvalidInput

pytestmark = pytest.mark.slow

TENTHS = st.integers(0, 10)


def percentile(values, share):
    """Linear between the two nearest of the sorted values."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def bootstrap_in_tenths(differences, draws, confidence):
    """One arm, resample by resample, in whole tenths so that a sum of 0 is 0."""
    n = len(differences)
    sums = [sum(differences[i] for i in drawn) for drawn in draws]
    tail = min(sum(s <= 0 for s in sums), sum(s >= 0 for s in sums))
    means = [s / 10 / n for s in sums]
    return (
        sum(differences) / 10 / n,
        percentile(means, (1 - confidence) / 2),
        percentile(means, 1 - (1 - confidence) / 2),
        min(1.0, 2 * (tail + 1) / (len(draws) + 1)),
        stdev(means),
    )


@st.composite
def evaluations(draw):
    members, arms = draw(st.integers(2, 9)), draw(st.integers(1, 4))
    row = st.lists(TENTHS, min_size=arms, max_size=arms)
    table = st.lists(row, min_size=members, max_size=members)
    return np.array(draw(table)), np.array(draw(table))


@settings(max_examples=100, deadline=None)
@given(evaluations(), st.integers(0, 5), st.integers(2, 40), st.sampled_from([0.5, 0.9, 0.95]))
def test_the_bootstrap_equals_a_loop_over_resamples(case, seed, resamples, confidence):
    values, against = case
    generator = np.random.default_rng(seed)
    draws = [generator.integers(len(values), size=len(values)) for _ in range(resamples)]
    got = paired_bootstrap(
        values / 10, against / 10, resamples=resamples, confidence=confidence, seed=seed
    )
    assert len(got) == values.shape[1]
    for arm, found in enumerate(got):
        expected = bootstrap_in_tenths(
            (values[:, arm] - against[:, arm]).tolist(), draws, confidence
        )
        parts = (found.difference, found.low, found.high, found.p, found.member_error)
        assert parts == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(evaluations())
def test_one_baseline_stands_for_the_same_one_in_every_arm(case):
    values, against = case
    repeated = np.repeat(against[:, :1], values.shape[1], axis=1)
    assert paired_bootstrap(values, against[:, 0], resamples=20) == paired_bootstrap(
        values, repeated, resamples=20
    )


def test_blocks_of_resamples_do_not_change_the_result(monkeypatch):
    values = np.random.default_rng(0).random((7, 3))
    whole = paired_bootstrap(values, values[:, 0], resamples=50)
    monkeypatch.setattr(statistics, "DRAWS", 3 * 7)
    in_blocks = paired_bootstrap(values, values[:, 0], resamples=50)
    monkeypatch.setattr(statistics, "DRAWS", 1)
    one_by_one = paired_bootstrap(values, values[:, 0], resamples=50)
    for arm in range(3):
        expected = pytest.approx(list(vars(whole[arm]).values()), abs=1e-14)
        assert list(vars(in_blocks[arm]).values()) == expected
        assert list(vars(one_by_one[arm]).values()) == expected


def test_an_arm_equal_to_its_baseline_has_no_difference_and_p_1():
    values = np.random.default_rng(0).random((50, 2))
    same, other = paired_bootstrap(values, values[:, 0], resamples=100)
    assert same == Difference(0.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    assert other != same


def test_p_is_never_0_and_the_same_either_way():
    values = np.random.default_rng(0).random((50, 1))
    (up,) = paired_bootstrap(values + 1, values, resamples=99)
    (down,) = paired_bootstrap(values, values + 1, resamples=99)
    assert up.p == down.p == 2 / 100
    assert (up.low, up.high) == pytest.approx((1, 1))
    assert (down.low, down.high) == pytest.approx((-1, -1))


def test_the_same_seed_gives_the_same_result_and_another_one_another_draw():
    values = np.random.default_rng(0).random((40, 1))
    against = np.random.default_rng(1).random(40)
    first, again, other = (
        paired_bootstrap(values, against, resamples=200, seed=seed)[0] for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other
    assert other.difference == first.difference
    assert other.low == pytest.approx(first.low, abs=first.member_error)


def test_another_order_of_members_gives_an_equally_good_interval():
    generator = np.random.default_rng(5)
    values, against = generator.random((200, 1)), generator.random(200)
    order = generator.permutation(200)
    (given_order,) = paired_bootstrap(values, against, resamples=4000)
    (shuffled,) = paired_bootstrap(values[order], against[order], resamples=4000)
    assert shuffled.difference == pytest.approx(given_order.difference)
    for name in ("low", "high"):
        apart = abs(getattr(shuffled, name) - getattr(given_order, name))
        assert apart < 0.15 * given_order.member_error


def test_the_pairs_are_of_one_member_each():
    # The members differ much, the arms within a member little: only pairs show the difference.
    generator = np.random.default_rng(0)
    against = generator.normal(0, 10, 100)
    values = (against + 0.1 + generator.normal(0, 0.1, 100))[:, None]
    (paired,) = paired_bootstrap(values, against, resamples=1000)
    (unpaired,) = paired_bootstrap(values, generator.permutation(against), resamples=1000)
    assert 0 < paired.low < 0.1 < paired.high < 0.2
    assert unpaired.low < -1 < 1 < unpaired.high


def ndcg_like(generator, members, repetitions, shift=0.0):
    """Differences of which most are 0 and some are large; the mean is `shift`."""
    moved = generator.random((members, repetitions)) < 0.3
    return moved * generator.normal(0.0, 0.4, (members, repetitions)) + shift


def test_the_interval_holds_the_true_mean_in_95_percent_of_evaluations():
    # One evaluation an arm, each of its own members' values.
    values = ndcg_like(np.random.default_rng(11), 300, 600, shift=0.02)
    found = paired_bootstrap(values, np.zeros(300), resamples=800)
    held = mean(d.low <= 0.02 <= d.high for d in found)
    # Standard error of this share: 0.009.
    assert 0.92 < held < 0.975
    narrow = paired_bootstrap(values, np.zeros(300), resamples=800, confidence=0.5)
    assert 0.44 < mean(d.low <= 0.02 <= d.high for d in narrow) < 0.56


def test_the_member_error_is_that_of_the_mean():
    values = ndcg_like(np.random.default_rng(2), 400, 5)
    found = paired_bootstrap(values, np.zeros(400), resamples=4000)
    for arm, difference in enumerate(found):
        expected = stdev(values[:, arm].tolist()) / math.sqrt(400)
        assert difference.member_error == pytest.approx(expected, rel=0.05)


def test_p_is_uniform_where_there_is_no_difference():
    values = ndcg_like(np.random.default_rng(12), 300, 800)
    p = np.array([d.p for d in paired_bootstrap(values, np.zeros(300), resamples=600)])
    for share in (0.05, 0.1, 0.25, 0.5, 0.75):
        spread = math.sqrt(share * (1 - share) / len(p))
        assert abs((p <= share).mean() - share) < 4 * spread


def test_p_is_below_5_percent_where_the_interval_leaves_0_out():
    values = ndcg_like(np.random.default_rng(13), 200, 300, shift=0.03)
    found = paired_bootstrap(values, np.zeros(200), resamples=999)
    outside = [d.low > 0 or d.high < 0 for d in found]
    assert 20 < sum(outside) < 280
    for difference, out in zip(found, outside, strict=True):
        # Ends of the interval lie between two resamples, so that the edge itself is left aside.
        if abs(difference.p - 0.05) > 0.004:
            assert (difference.p < 0.05) == out


@pytest.mark.parametrize(
    ("values", "against"),
    [((5,), (5,)), ((5, 2), (4, 2)), ((5, 2), (2,)), ((5, 2), (5, 1)), ((5, 2), (5, 2, 1))],
)
def test_shapes_that_do_not_fit_are_refused(values, against):
    with pytest.raises(InvalidInput, match=r"`values` should be \[members, arms\].*Received: \[5"):
        paired_bootstrap(np.zeros(values), np.zeros(against))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_members_without_a_value_are_refused(bad):
    values = np.zeros((5, 2))
    values[3, 1] = bad
    with pytest.raises(InvalidInput, match=r"finite value in every arm. Received: 1 of 5 members"):
        paired_bootstrap(values, np.zeros(5))
    with pytest.raises(InvalidInput, match=r"finite value in every arm. Received: 1 of 5 members"):
        paired_bootstrap(np.zeros((5, 2)), values)


def test_settings_out_of_range_are_refused():
    values = np.zeros((5, 1))
    with pytest.raises(InvalidInput, match=r"2 members or more. Received: 1"):
        paired_bootstrap(values[:1], values[:1])
    with pytest.raises(InvalidInput, match=r"`resamples` should be 2 or more. Received: 1"):
        paired_bootstrap(values, values, resamples=1)
    for confidence in (0.0, 1.0, 95):
        with pytest.raises(InvalidInput, match=r"`confidence` should be between 0 and 1. Received"):
            paired_bootstrap(values, values, confidence=confidence)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        # 3 x 0.01, then 2 x 0.011 below it, then 0.9.
        ([0.9, 0.011, 0.01], [0.9, 0.03, 0.03]),
        ([0.6, 0.5], [1.0, 1.0]),
        ([0.0, 1.0], [0.0, 1.0]),
    ],
)
def test_holm_equals_numbers_by_hand(p, expected):
    assert holm(p).tolist() == pytest.approx(expected)


P_VALUES = st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.049, 0.05, 0.3, 1.0]), max_size=8)


@settings(deadline=None)
@given(P_VALUES, st.sampled_from([0.01, 0.05, 0.1]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p, level):
    rejected = set()
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] * (len(p) - step) > level:
            break
        rejected.add(i)
    assert {i for i, adjusted in enumerate(holm(p)) if adjusted <= level} == rejected


@settings(deadline=None)
@given(P_VALUES, st.randoms())
def test_holm_keeps_the_order_and_never_makes_a_p_value_smaller(p, random):
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
    order = random.sample(range(len(p)), len(p))
    assert holm([p[i] for i in order]).tolist() == adjusted[order].tolist()


@pytest.mark.parametrize("p", [[0.1, 1.1], [-0.1], [math.nan], [[0.1]]])
def test_holm_refuses_what_is_not_a_list_of_p_values(p):
    with pytest.raises(InvalidInput, match=r"values in \[0, 1\]. Received"):
        holm(p)


def test_the_minimum_detectable_effect_equals_the_tables():
    # z of 97.5 %, 80 %, 95 % and 90 %: 1.9600, 0.8416, 1.6449 and 1.2816.
    assert minimum_detectable_effect(1.0) == pytest.approx(2.8016, abs=1e-4)
    assert minimum_detectable_effect(0.5) == pytest.approx(2.8016 / 2, abs=1e-4)
    effect = minimum_detectable_effect(1.0, power=0.95, confidence=0.8)
    assert effect == pytest.approx(1.2816 + 1.6449, abs=1e-4)


def test_without_any_error_nothing_is_known_of_what_could_be_found():
    assert minimum_detectable_effect(0.0) is None
    assert minimum_detectable_effect(0.0, 0.1) is None  # one seed says nothing of its own error
    assert minimum_detectable_effect(0.0, 0.0, seeds=3, comparisons=4) is None
    assert minimum_detectable_effect(0.0, 0.1, seeds=3) > 0.1


def test_differences_that_are_equal_but_for_rounding_have_no_error():
    values = np.random.default_rng(0).random((50, 1))
    by_seed = np.array([[0.1], [0.1 + 1e-17], [0.1 - 1e-17]])
    (found,) = paired_bootstrap(values + 0.1, values, by_seed=by_seed, resamples=100)
    assert (found.member_error, found.seed_error) == (0.0, 0.0)


def test_the_minimum_detectable_effect_is_found_in_80_percent_of_evaluations():
    members, repetitions = 400, 800
    standard_error = math.sqrt(0.3) * 0.4 / math.sqrt(members)
    effect = minimum_detectable_effect(standard_error)
    values = ndcg_like(np.random.default_rng(21), members, repetitions, shift=effect)
    found = paired_bootstrap(values, np.zeros(members), resamples=600)
    # Standard error of this share: 0.014.
    assert 0.76 < mean(d.low > 0 for d in found) < 0.85


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("comparisons", [1, 15])
@pytest.mark.parametrize("noise", [0.1, 2.0])
def test_it_is_found_as_often_with_seeds_that_differ_and_after_a_correction(
    seeds, comparisons, noise
):
    """`noise` is the true standard error over seeds, as a share of that over members."""
    members, repetitions = 100, 500
    effect = minimum_detectable_effect(1.0, noise, seeds=seeds, comparisons=comparisons)
    random = np.random.default_rng(22)
    own = random.normal(size=(members, repetitions)) * math.sqrt(members)
    by_seed = random.normal(size=(seeds, repetitions)) * noise * math.sqrt(seeds)
    shift = effect + by_seed.mean(axis=0)
    found = paired_bootstrap(own + shift, np.zeros(members), by_seed=by_seed, resamples=4000)
    share = mean(d.p * comparisons < 0.05 and d.difference > 0 for d in found)
    # Standard error of this share: 0.018.
    assert 0.74 < share < 0.86


def test_the_effect_with_hardly_any_noise_of_seeds_is_that_without():
    without = minimum_detectable_effect(1.0, comparisons=5)
    assert minimum_detectable_effect(1.0, 1e-6, seeds=5, comparisons=5) == pytest.approx(
        without, rel=2e-3
    )
    assert minimum_detectable_effect(2.0, 1.0, seeds=5) == pytest.approx(
        2 * minimum_detectable_effect(1.0, 0.5, seeds=5)
    )


def test_shares_and_errors_out_of_range_are_refused():
    for name in ("power", "confidence"):
        with pytest.raises(InvalidInput, match=f"`{name}` should be between 0 and 1. Received: 1"):
            minimum_detectable_effect(1.0, **{name: 1})
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(InvalidInput, match="`member_error` should be 0 or more"):
            minimum_detectable_effect(bad)
        with pytest.raises(InvalidInput, match="`seed_error` should be 0 or more"):
            minimum_detectable_effect(1.0, bad, seeds=3)
    for name in ("seeds", "comparisons"):
        with pytest.raises(InvalidInput, match=f"`{name}` should be 1 or more. Received: 0"):
            minimum_detectable_effect(1.0, **{name: 0})


def seeds_case(random, seeds, members, noise):
    """Two arms that are one: each seed of each shifts all members by a little."""
    truth = random.normal(size=members)
    return [
        truth + noise * random.normal(size=(seeds, 1)) + random.normal(size=(seeds, members)) / 10
        for _ in range(2)
    ]


@pytest.mark.parametrize("seeds", [3, 5])
def test_two_runs_of_one_arm_do_not_differ_for_certain(seeds):
    """By members alone they would: what the seeds do to all members alike is no member's doing."""
    random = np.random.default_rng(0)
    held, held_by_members = 0, 0
    for _ in range(200):
        own, base = seeds_case(random, seeds, 200, 0.05)
        values, against = own.mean(axis=0)[:, None], base.mean(axis=0)
        by_seed = (own - base).mean(axis=1)[:, None]
        (found,) = paired_bootstrap(values, against, by_seed=by_seed, resamples=400)
        held += found.low <= 0 <= found.high
        (alone,) = paired_bootstrap(values, against, resamples=400)
        held_by_members += alone.low <= 0 <= alone.high
    assert held_by_members < 100
    assert held >= 184


@pytest.mark.parametrize(("seeds", "quantile"), [(3, 4.303), (5, 2.776)])
def test_of_members_that_all_agree_the_interval_is_students(seeds, quantile):
    """Quantiles at 97.5 % from a table: 2 and 4 degrees of freedom."""
    by_seed = np.random.default_rng(seeds).normal(size=(seeds, 1))
    values = np.full((40, 1), by_seed.mean())
    (found,) = paired_bootstrap(values, np.zeros(40), by_seed=by_seed, resamples=200_000)
    half = quantile * by_seed.std(ddof=1) / np.sqrt(seeds)
    assert found.high - found.difference == pytest.approx(half, rel=0.03)
    assert found.difference - found.low == pytest.approx(half, rel=0.03)


def test_seeds_that_agree_add_nothing():
    values = np.random.default_rng(0).normal(size=(50, 2))
    plain = paired_bootstrap(values, np.zeros(50), resamples=200)
    same = paired_bootstrap(
        values, np.zeros(50), by_seed=np.repeat(values.mean(axis=0)[None], 4, 0), resamples=200
    )
    assert [d.low for d in same] == pytest.approx([d.low for d in plain])
    assert [d.high for d in same] == pytest.approx([d.high for d in plain])
