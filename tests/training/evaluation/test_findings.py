"""What may be said of figures: the checks can fail, and sentences say what was found."""

import numpy as np
import pytest

from activity_embeddings.training.evaluation import arms
from activity_embeddings.training.evaluation.arms import Arm, ArmRole
from activity_embeddings.training.evaluation.findings import (
    check_instrument,
    compare_arms,
    conclude,
    judge_targets,
    pairs_of,
)
from activity_embeddings.training.evaluation.plan import AsOf, Declared, Target
from activity_embeddings.training.evaluation.slices import slice_rows
from activity_embeddings.training.figure import FIGURE

DECLARED = Declared(seeds=(0, 1, 2), resamples=500)
ARMS = [
    Arm(arms.NOTHING, "", ArmRole.BASE),
    Arm(arms.MEAN, "", ArmRole.REFERENCE),
    Arm(arms.DECAY, "", ArmRole.REFERENCE),
    Arm("mine", "", ArmRole.LEARNED),
    Arm(arms.PLACEBO, "", ArmRole.CONTROL),
    Arm(arms.CANARY, "", ArmRole.CONTROL),
    Arm(arms.AGAIN, "", ArmRole.CONTROL),
    Arm(arms.ORACLE, "", ArmRole.ORACLE),
]
COUNTS = [arms.scoring_arm(name, f"the title of {name}") for name in arms.COUNTS]
HONEST = {
    arms.MEAN: (0.020, 0.002),
    arms.DECAY: (0.024, 0.002),
    "mine": (0.030, 0.002),
    arms.PLACEBO: (0.001, 0.002),
    arms.CANARY: (0.400, 0.010),
    arms.AGAIN: (-0.001, 0.002),
    arms.ORACLE: (0.100, 0.003),
}
"""What each arm adds to nothing, and half of its interval."""


def row(arm, difference, half, *, against=arms.NOTHING, real=None, task="day"):
    low, high = difference - half, difference + half
    return {
        "task": task,
        "figure": FIGURE,
        "arm": arm,
        "against": against,
        "difference": difference,
        "low": low,
        "high": high,
        "real": not low <= 0 <= high if real is None else real,
        "of_baseline": 0.2,
        "minimum_detectable_effect": 1.4 * half or None,
    }


def checks(quality=None, seen=None, as_of=AsOf.PUBLISHED, **changed):
    found = {**HONEST, **changed}
    rows = [row(arm, *values) for arm, values in found.items()]
    return check_instrument(rows, ARMS, quality or {}, {} if seen is None else seen, as_of)


def failed(found):
    return [(check["name"], check.get("arm")) for check in found if not check["passed"]]


def test_an_instrument_that_works_passes():
    found = checks(
        quality={arms.MEAN: {"p90_coverage_at_10": 0.4}, "mine": {"p90_coverage_at_10": 0.3}},
        seen={arms.MEAN: 0, "mine": 0},
    )
    assert not failed(found)
    assert [check["name"] for check in found] == [
        "A/A",
        "placebo",
        "leak canary",
        "oracle",
        "label sees itself",
        "collapse",
    ]


@pytest.mark.parametrize(
    ("arm", "values", "expected"),
    [
        (arms.AGAIN, (0.006, 0.002), ("A/A", None)),
        (arms.AGAIN, (-0.006, 0.002), ("A/A", None)),
        (arms.PLACEBO, (0.006, 0.002), ("placebo", None)),
        (arms.CANARY, (0.050, 0.010), ("leak canary", None)),
        (arms.ORACLE, (0.002, 0.003), ("oracle", None)),
        # More than three times what any average adds.
        ("mine", (0.085, 0.002), ("leak", "mine")),
    ],
)
def test_each_check_can_fail(arm, values, expected):
    assert failed(checks(**{arm: values})) == [expected]


def test_a_placebo_that_harms_says_nothing_against_the_instrument():
    assert not failed(checks(**{arms.PLACEBO: (-0.006, 0.002)}))


def test_a_leak_is_told_from_noise_where_no_average_helps():
    nothing = {arms.MEAN: (-0.004, 0.002), arms.DECAY: (-0.004, 0.002), "mine": (0.004, 0.002)}
    assert not failed(checks(**nothing))
    assert failed(checks(**{**nothing, "mine": (0.012, 0.002)})) == [("leak", "mine")]


def test_averages_that_change_nothing_do_not_make_a_leak_of_what_helps():
    equal = {arms.MEAN: (0.0, 0.0), arms.DECAY: (0.0, 0.0)}
    assert not failed(checks(**equal))
    assert failed(checks(**equal, mine=(0.3, 0.002))) == [("leak", "mine")]


def test_where_every_arm_is_equal_the_leak_canary_fails():
    assert ("leak canary", None) in failed(checks(**dict.fromkeys(HONEST, (0.0, 0.0))))


def test_a_leak_is_told_from_embeddings_that_help_very_much():
    much = {arms.MEAN: (0.25, 0.01), arms.DECAY: (0.28, 0.01), "mine": (0.30, 0.01)}
    assert not failed(checks(**{**much, arms.CANARY: (0.79, 0.01), arms.ORACLE: (0.5, 0.01)}))
    leaking = {**much, "mine": (0.79, 0.01), arms.CANARY: (0.79, 0.01)}
    assert failed(checks(**leaking)) == [("leak", "mine")]


def test_where_the_true_preference_is_known_what_adds_more_is_a_leak():
    """Also where honest embeddings add a third of what a leak does, as on a market of 60,000."""
    much = {arms.MEAN: (0.15, 0.01), arms.DECAY: (0.16, 0.01), "mine": (0.17, 0.01)}
    known = {**much, arms.CANARY: (0.46, 0.02), arms.ORACLE: (0.29, 0.01)}
    assert not failed(checks(**known))
    assert failed(checks(**{**known, "mine": (0.33, 0.01)})) == [("leak", "mine")]


def test_a_value_that_knew_its_label_is_found():
    found = checks(seen={arms.MEAN: 0, "mine": 3})
    assert failed(found) == [("label sees itself", "mine")]
    assert "3 queries" in next(c["says"] for c in found if not c["passed"])


def test_a_collapse_is_found():
    quality = {arms.MEAN: {"p90_coverage_at_10": 0.4}, "mine": {"p90_coverage_at_10": 0.09}}
    assert failed(checks(quality=quality)) == [("collapse", "mine")]
    quality["mine"]["p90_coverage_at_10"] = None
    assert not failed(checks(quality=quality))


def test_sentences_say_what_is_real_and_what_is_not():
    rows = [
        row(arms.MEAN, 0.020, 0.002),
        row(arms.DECAY, -0.020, 0.002),
        row("mine", 0.004, 0.003, real=False),
        row(arms.PLACEBO, 0.004, 0.003),
        row(arms.MEAN, 0.001, 0.002, against=arms.DECAY),
        row("mine", -0.5, 0.1, task="week"),
    ]
    better, worse, alone, same = conclude(rows, ARMS, [])
    assert better == "Better than the base features alone: mean (+0.0200 [+0.0180, +0.0220])."
    assert worse == "Worse than the base features alone: decay (-0.0200 [-0.0220, -0.0180])."
    assert alone == (
        "Different from the base features alone by an interval without 0, but not after Holm's "
        "correction for 4 comparisons, so that one of them may be chance: mine (+0.0040 [+0.0010, "
        "+0.0070])."
    )
    assert same == (
        "No difference to the decay can be told for mean; one below 0.0028 would be missed more "
        "often than in one of five cases."
    )


def test_what_the_week_does_not_confirm_is_not_called_better_without_saying_so():
    rows = [row(arm, 0.020, 0.002) for arm in (arms.MEAN, arms.DECAY, "mine")]
    rows += [
        row(arm, 0.020, half, task="week") for arm, half in ((arms.MEAN, 0.03), ("mine", 0.01))
    ]
    better, unsure = conclude(rows, ARMS, [])
    assert better.startswith("Better than the base features alone: decay (")
    assert "mine (" in better and "mean" not in better
    assert unsure == (
        "Better than the base features alone among the items of a day, which those of a week do "
        "not confirm: mean (+0.0200 [+0.0180, +0.0220])."
    )


def test_effects_of_several_arms_are_said_from_the_least_to_the_greatest():
    rows = [row(arms.MEAN, 0.001, 0.01), row("mine", 0.001, 0.02)]
    (same,) = conclude(rows, ARMS, [])
    assert "told for mean, mine; one below 0.0140 to 0.0280, by arm, would be missed" in same


def test_of_an_arm_equal_to_its_baseline_no_effect_is_said():
    equal = row("mine", 0.0, 0.0)
    level, same = conclude([row(arms.MEAN, 0.001, 0.01), equal], ARMS, [])
    assert "told for mean; one below 0.0140 would be missed" in level
    says = "Equal to the base features alone for every member, which says nothing of others: mine."
    assert same == says
    assert conclude([equal], ARMS, []) == [says]


@pytest.mark.parametrize(
    ("task", "where"), [("alone", "without a ranker"), ("day", "in the ranker")]
)
def test_a_learned_vector_that_a_count_table_beats_is_said_to_be_beaten(task, where):
    rows = [
        row("mine", -0.040, 0.01, against=arms.ITEM_ACTION_COUNTS, task=task),
        row("yours", 0.040, 0.01, against=arms.ITEM_ACTION_COUNTS, task=task),
        row("mine", 0.001, 0.01, against=arms.ITEM_COUNTS, task=task),
        row("yours", 0.030, 0.01, against=arms.ITEM_COUNTS, task=task),
    ]
    assert conclude(rows, [*ARMS, *COUNTS], []) == [
        f"Not to be told from the title of item_counts {where}: mine (+0.0010 [-0.0090, +0.0110]).",
        f"Beaten by the title of item_action_counts {where}: mine (-0.0400 [-0.0500, -0.0300]).",
    ]


def test_learned_arms_alone_are_compared_with_counts_and_other_decays():
    rates = (arms.SINGLE_DECAY, arms.SEVERAL_RATES)
    compared = [*ARMS, *COUNTS, *(Arm(name, "", ArmRole.REFERENCE) for name in rates)]
    pairs = [pair for pair in pairs_of(compared) if pair[1] in (*arms.COUNTS, *rates)]
    assert pairs == [("mine", rival) for rival in (*rates, *arms.COUNTS)]


def test_what_is_checked_is_said_of_the_values_that_were_taken():
    (passed,) = [c for c in checks(seen={"mine": 0}, as_of=AsOf.REQUEST) if "itself" in c["name"]]
    assert passed["says"] == "values as of the request know no activity at its time or later"
    found = checks(seen={arms.MEAN: 0, "mine": 3}, as_of=AsOf.REQUEST)
    assert failed(found) == [("label sees itself", "mine")]


def test_the_first_sentence_is_that_a_check_failed():
    found = [{"name": "A/A", "passed": False}, {"name": "placebo", "passed": True}]
    first, *_ = conclude([], ARMS, found)
    assert first == "Read nothing below as proven: 1 of 2 checks failed (A/A)."


@pytest.mark.parametrize(
    ("target", "reached"),
    [
        (Target("mine", arms.NOTHING), True),
        (Target("mine", arms.NOTHING, least=0.03), True),
        (Target("mine", arms.NOTHING, least=0.031), False),
        (Target("mine", arms.DECAY), False),
        (Target("mine", arms.DECAY, above_zero=False), True),
        (Target("mine", arms.DECAY, not_worse=True), True),
        (Target("mine", arms.MEAN, not_worse=True), False),
        (Target("mine", arms.NOTHING, task="to_date"), False),
    ],
)
def test_a_claim_holds_or_not(target, reached):
    rows = [
        row("mine", 0.030, 0.002),
        row("mine", 0.002, 0.003, against=arms.DECAY),
        row("mine", -0.001, 0.0035, against=arms.MEAN),
        row("mine", 0.001, 0.002, task="to_date"),
    ]
    (judged,) = judge_targets([target], rows, 0.004)
    assert judged["reached"] is reached


def test_that_an_arm_is_not_worse_is_not_shown_where_both_are_equal_for_every_member():
    (judged,) = judge_targets(
        [Target("mine", arms.NOTHING, not_worse=True)], [row("mine", 0.0, 0.0)], 0.004
    )
    assert not judged["reached"]
    assert judged["says"] == "equal for every member, which says nothing of others"


def test_a_claim_about_an_arm_that_is_not_there_is_not_reached():
    judged = judge_targets([Target("cnn", arms.NOTHING)], [row("mine", 1, 0.1)], 0.004)
    assert judged == [
        {"claim": "cnn above nothing, interval above 0", "reached": False, "says": "not measured"}
    ]


def test_arms_are_compared_by_members_and_corrected_within_one_baseline():
    random = np.random.default_rng(0)
    nothing = random.random((3, 400))
    values = {
        arms.NOTHING: nothing,
        "better": nothing + random.normal(0.05, 0.1, nothing.shape),
        "same": nothing + random.normal(0, 0.1, nothing.shape),
        arms.ORACLE: nothing + 0.1,
        "equal": nothing,
    }
    pairs = [(arm, arms.NOTHING) for arm in ("better", "same", arms.ORACLE)]
    pairs += [("same", "better"), (arms.NOTHING, "equal")]
    rows = compare_arms("day", FIGURE, values, pairs, DECLARED, possible=arms.ORACLE)
    of = {(r["arm"], r["against"]): r for r in rows}
    better, same = of["better", arms.NOTHING], of["same", arms.NOTHING]
    assert better["real"] and not same["real"]
    assert better["minimum_detectable_effect"] > 0
    assert of[arms.NOTHING, "equal"]["minimum_detectable_effect"] is None
    assert better["difference"] == pytest.approx((values["better"] - nothing).mean())
    assert better["low"] < better["difference"] < better["high"]
    assert better["relative"] == pytest.approx(better["difference"] / nothing.mean())
    assert better["share_of_possible"] == pytest.approx(better["difference"] / 0.1)
    assert same["p_holm"] >= same["p"]
    # Of a family of one, nothing is corrected; the oracle is not compared with this one.
    assert of["same", "better"]["p_holm"] == of["same", "better"]["p"]
    assert of["same", "better"]["share_of_possible"] is None


def test_a_slice_is_what_only_its_queries_would_give():
    random = np.random.default_rng(1)
    member = np.array([0, 0, 1, 2, 2, 3])
    values = {arms.NOTHING: random.random((3, 6)), "mine": random.random((3, 6))}
    inside = np.array([True, False, True, True, True, False])
    slices = {"age": {"new": inside, "one member": member == 0}}
    (part,) = slice_rows(slices, values, member, ["mine"], DECLARED)
    assert (part["slice"], part["value"], part["members"], part["queries"]) == ("age", "new", 3, 4)
    gain = (values["mine"] - values[arms.NOTHING]).mean(axis=0)
    (difference,) = part["differences"]
    assert difference["difference"] == pytest.approx(
        np.mean([gain[0], gain[2], (gain[3] + gain[4]) / 2])
    )
