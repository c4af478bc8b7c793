"""B replaces A only where every evaluation says that it is better, or smaller and not worse."""

import json

import numpy as np
import pandas as pd
import pytest

from activity_embeddings.training.evaluation.gate import compare
from activity_embeddings.transformations.errors import InvalidInput

MEMBERS = 60
PASSED = [{"name": "A/A", "passed": True, "says": "Fine."}]
ARMS = (("nothing", 0), ("decay", 768), ("cnn", 768), ("small", 384), ("half", 385))


def values(shift, spread=0.05, seed=0):
    """A member's gain, mean `shift` but for a remainder below 1e-9."""
    noise = np.random.default_rng(seed).normal(0, spread, MEMBERS)
    return shift + noise - noise.mean()


def write(folder, gains, *, seeds=(0, 1), shuffle=None, **changes):
    """Write an evaluation: `gains[task][arm]` float [members], over those of `nothing`."""
    folder.mkdir()
    frames = []
    for task, arms in gains.items():
        base = np.random.default_rng(9).random(MEMBERS)
        for arm, gain in arms.items():
            for seed in seeds:
                # Seeds differ, in both arms alike; their mean does not.
                wobble = (seed - np.mean(seeds)) / 10
                frames.append(
                    pd.DataFrame(
                        {
                            "task": task,
                            "arm": arm,
                            "seed": seed,
                            "member_id": [f"m{i}" for i in range(MEMBERS)],
                            "queries": 1,
                            "ndcg_at_10": base + gain + wobble,
                        }
                    )
                )
    rows = pd.concat(frames, ignore_index=True)
    if shuffle is not None:
        rows = rows.sample(frac=1, random_state=shuffle)
    rows.to_parquet(folder / "members.parquet", index=False)
    report = {
        "schema": 1,
        "simulated": False,
        "arms": [
            {"name": name, "role": "learned", "bytes_per_member": size} for name, size in ARMS
        ],
        "tasks": {task: {"title": task} for task in gains},
        "checks": PASSED,
        **changes,
    }
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return folder


def gains(b, day, week=None, a="decay"):
    tasks = {"day": {a: np.zeros(MEMBERS), b: day}}
    return tasks if week is None else {**tasks, "week": {a: np.zeros(MEMBERS), b: week}}


UP, LEVEL, DOWN = values(0.03), values(0.0, 0.002), values(-0.03)
CONSTANT = np.ones(MEMBERS)


def test_an_arm_better_in_both_tasks_replaces_whatever_its_size(tmp_path):
    folder = write(tmp_path / "may", gains("cnn", UP, UP))
    verdict = compare([folder], "decay", "cnn")
    assert verdict.replace
    assert (verdict.a, verdict.b, verdict.simulated) == ("decay", "cnn", False)
    assert len(verdict.reasons) == 2
    for task, reason in zip(("day", "week"), verdict.reasons, strict=True):
        assert reason.startswith(f"{folder}: task {task}: cnn - decay is +0.0300 [+0.0")
        assert reason.endswith("], above 0.")
    assert str(verdict) == "\n".join(
        ["Replace `decay` by `cnn`.", *(f"- {reason}" for reason in verdict.reasons)]
    )


def test_the_interval_is_that_of_the_paired_bootstrap_over_members(tmp_path):
    folder = write(tmp_path / "may", gains("cnn", UP))
    (reason,) = compare([folder], "decay", "cnn").reasons
    low, high = (float(end) for end in reason.split("[")[1].split("]")[0].split(", "))
    half = 1.96 * UP.std() / np.sqrt(MEMBERS)
    assert (low, high) == pytest.approx((0.03 - half, 0.03 + half), abs=0.1 * half)


def reported(low, high, *, arm="cnn", against="decay", task="day", difference=0.03):
    """A comparison of a report."""
    return {
        "task": task,
        "figure": "ndcg_at_10",
        "arm": arm,
        "against": against,
        "difference": difference,
        "low": low,
        "high": high,
    }


def test_the_interval_is_that_of_the_report_where_it_compares_the_two(tmp_path):
    others = [
        reported(0.5, 0.6, arm="small"),
        reported(0.5, 0.6, task="alone"),
        {**reported(0.5, 0.6), "figure": "auc"},
    ]
    rows = [*others, reported(0.0123, 0.0456)]
    folder = write(tmp_path / "1", gains("cnn", UP), comparisons=rows)
    (reason,) = compare([folder], "decay", "cnn").reasons
    assert "cnn - decay is +0.0300 [+0.0123, +0.0456], above 0." in reason
    reason, _ = compare([folder], "cnn", "decay").reasons
    assert "decay - cnn is -0.0300 [-0.0456, -0.0123], so that it may be worse" in reason
    unsure = [reported(-0.0001, 0.0601)]
    folder = write(tmp_path / "2", gains("cnn", UP), comparisons=unsure)
    assert not compare([folder], "decay", "cnn").replace
    alone = write(tmp_path / "3", gains("cnn", UP), comparisons=others)
    assert str(compare([alone], "decay", "cnn")).splitlines()[2:] == [
        line.replace(str(tmp_path / "4"), str(alone))
        for line in str(
            compare([write(tmp_path / "4", gains("cnn", UP))], "decay", "cnn")
        ).splitlines()[2:]
    ]


def test_a_report_of_other_members_is_refused(tmp_path):
    rows = [reported(0.0123, 0.0456, difference=0.031)]
    folder = write(tmp_path / "1", gains("cnn", UP), comparisons=rows)
    with pytest.raises(
        InvalidInput,
        match=r"of one evaluation\. Received: cnn - decay of the task `day` is \+0\.031000 in "
        r"`report\.json` and \+0\.030000 in `members\.parquet`",
    ):
        compare([folder], "decay", "cnn")


def test_the_week_decides_too_where_it_was_measured(tmp_path):
    alone = write(tmp_path / "1", gains("cnn", UP))
    verdict = compare([alone], "decay", "cnn")
    assert verdict.replace
    assert f"{alone}: the items of a week were not measured." in str(verdict).splitlines()
    for name, week in (("level", LEVEL), ("down", DOWN)):
        both = write(tmp_path / name, gains("cnn", UP, week))
        verdict = compare([both], "decay", "cnn")
        assert not verdict.replace
        assert "not measured" not in str(verdict)
        assert "task week: cnn - decay is " in verdict.reasons[0]
        assert not any("task day" in reason for reason in verdict.reasons)
    assert not compare([write(tmp_path / "day", gains("cnn", LEVEL, UP))], "decay", "cnn").replace


def test_an_arm_that_is_not_worse_replaces_if_it_has_at_most_half_the_bytes(tmp_path):
    small = compare([write(tmp_path / "1", gains("small", LEVEL, LEVEL))], "decay", "small")
    assert small.replace
    assert [reason.split("], ")[-1] for reason in small.reasons[:2]] == ["above -0.004."] * 2
    assert small.reasons[2].endswith(
        "`small` has 384 bytes and `decay` 768 bytes a member, at most half."
    )
    for arm, size in (("half", 385), ("cnn", 768)):
        verdict = compare([write(tmp_path / arm, gains(arm, LEVEL, LEVEL))], "decay", arm)
        assert not verdict.replace
        assert str(verdict).startswith("Keep `decay`.\n- ")
        assert [reason.split("], ")[-1] for reason in verdict.reasons[:2]] == ["not above 0."] * 2
        assert f"`{arm}` has {size} bytes and `decay` 768" in verdict.reasons[2]


def test_a_smaller_arm_that_may_be_worse_does_not_replace(tmp_path):
    for name, day, week in (("d", DOWN, LEVEL), ("w", LEVEL, DOWN), ("d alone", DOWN, None)):
        verdict = compare([write(tmp_path / name, gains("small", day, week))], "decay", "small")
        assert not verdict.replace
        (reason,) = verdict.reasons
        worse = "week" if name == "w" else "day"
        assert f"task {worse}: small - decay is -0.0300 [-0.0" in reason
        assert reason.endswith("so that it may be worse by 0.004 or more.")
    # Better in one task does not make up for the other.
    assert not compare([write(tmp_path / "x", gains("small", UP, DOWN))], "decay", "small").replace


def test_wide_intervals_keep_what_is_there(tmp_path):
    unsure = values(0.0, 0.5)
    verdict = compare([write(tmp_path / "1", gains("small", unsure))], "decay", "small")
    assert not verdict.replace


def test_the_interval_has_to_be_above_the_margin_not_at_it(tmp_path):
    # Halves and quarters are exact.
    folder = write(tmp_path / "1", {"day": {"decay": CONSTANT * 0, "small": CONSTANT * -0.25}})
    frame = pd.read_parquet(folder / "members.parquet")
    frame["ndcg_at_10"] = np.where(frame["arm"] == "decay", 0.5, 0.25)
    frame.to_parquet(folder / "members.parquet", index=False)
    assert not compare([folder], "decay", "small", margin=0.25).replace
    assert compare([folder], "decay", "small", margin=0.2501).replace
    assert not compare([folder], "decay", "small", margin=0.0).replace


def test_equal_arms_are_not_better(tmp_path):
    folder = write(tmp_path / "1", gains("cnn", CONSTANT * 0, CONSTANT * 0))
    assert not compare([folder], "decay", "cnn").replace
    same = write(tmp_path / "2", gains("small", CONSTANT * 0, CONSTANT * 0))
    verdict = compare([same], "decay", "small")
    assert not verdict.replace
    assert [reason.split("], ")[-1] for reason in verdict.reasons] == [
        "equal for every member, which says nothing of others."
    ] * 2
    # Of the day alone it is known.
    half = write(tmp_path / "3", gains("small", LEVEL, CONSTANT * 0))
    (reason,) = compare([half], "decay", "small").reasons
    assert "task week: small - decay is +0.0000 [+0.0000, +0.0000], equal" in reason


def test_nothing_is_not_smaller_than_nothing(tmp_path):
    arms = [{"name": name, "bytes_per_member": 0} for name in ("nothing", "also")]
    folder = write(tmp_path / "1", gains("also", LEVEL, a="nothing"), arms=arms)
    assert not compare([folder], "nothing", "also").replace
    unknown = [{"name": "nothing", "bytes_per_member": None}, {"name": "also"}]
    folder = write(tmp_path / "2", gains("also", LEVEL, a="nothing"), arms=unknown)
    verdict = compare([folder], "nothing", "also")
    assert not verdict.replace
    assert "an unknown number of bytes" in verdict.reasons[-1]
    better = write(tmp_path / "3", gains("also", UP, a="nothing"), arms=unknown)
    assert compare([better], "nothing", "also").replace
    half_known = [{"name": "nothing", "bytes_per_member": 9}, {"name": "also"}]
    folder = write(tmp_path / "4", gains("also", LEVEL, a="nothing"), arms=half_known)
    verdict = compare([folder], "nothing", "also")
    assert not verdict.replace
    assert "`also` has an unknown number of bytes and `nothing` 9 bytes" in verdict.reasons[-1]


def test_every_evaluation_has_to_agree_and_only_those_against_are_named(tmp_path):
    may = write(tmp_path / "may", gains("cnn", UP, UP))
    june = write(tmp_path / "june", gains("cnn", UP, UP))
    july = write(tmp_path / "july", gains("cnn", UP, LEVEL))
    agreed = compare([may, june], "decay", "cnn")
    assert agreed.replace
    assert [reason.split(":")[0] for reason in agreed.reasons] == [str(may)] * 2 + [str(june)] * 2
    for folders in ([may, july, june], [july, may], [may, june, july]):
        verdict = compare(folders, "decay", "cnn")
        assert not verdict.replace
        assert {reason.split(":")[0] for reason in verdict.reasons} == {str(july)}


def test_an_evaluation_may_say_better_and_another_smaller(tmp_path):
    may = write(tmp_path / "may", gains("small", UP, UP))
    june = write(tmp_path / "june", gains("small", LEVEL, LEVEL))
    assert compare([may, june], "decay", "small").replace


FAILED = {"name": "leak canary", "passed": False, "says": "The canary was not flagged."}


@pytest.mark.parametrize("arm", ["cnn", "small"])
@pytest.mark.parametrize("check", [FAILED, {**FAILED, "arm": None}, {**FAILED, "passed": None}])
def test_an_instrument_that_failed_a_check_says_nothing(tmp_path, arm, check):
    gain = UP if arm == "cnn" else LEVEL
    folder = write(tmp_path / "1", gains(arm, gain, gain), checks=[*PASSED, check, *PASSED])
    verdict = compare([folder], "decay", arm)
    assert not verdict.replace
    assert verdict.reasons == [
        f"{folder}: the check `leak canary` did not pass: The canary was not flagged."
    ]


def test_a_failed_check_of_an_arm_matters_to_that_arm_alone(tmp_path):
    collapse = {"name": "collapse", "arm": "cnn", "passed": False, "says": "All alike."}
    checks = [*PASSED, collapse]
    two = {"day": {"decay": CONSTANT * 0, "cnn": UP, "small": UP}}
    folder = write(tmp_path / "1", two, checks=checks)
    assert compare([folder], "decay", "small").replace
    verdict = compare([folder], "decay", "cnn")
    assert not verdict.replace
    assert "check `collapse` did not pass: All alike." in verdict.reasons[0]
    # An arm is made of models, whose failed checks are its own.
    both = [
        {"name": "cnn", "role": "learned", "models": ["decay"], "bytes_per_member": 1},
        {"name": "decay", "role": "reference", "models": ["decay"], "bytes_per_member": 1},
        {"name": "small", "role": "learned", "models": ["decay", "cnn"], "bytes_per_member": 1},
    ]
    together = write(tmp_path / "both", two, checks=checks, arms=both)
    assert not compare([together], "decay", "small").replace
    # Nor does it matter that what is there today fails.
    down = write(tmp_path / "2", {"day": {"cnn": CONSTANT * 0, "decay": UP}}, checks=checks)
    assert compare([down], "cnn", "decay").replace


@pytest.mark.parametrize("checks", [[], None])
def test_an_evaluation_without_checks_says_nothing(tmp_path, checks):
    folder = write(tmp_path / "1", gains("cnn", UP, UP), checks=checks)
    verdict = compare([folder], "decay", "cnn")
    assert not verdict.replace
    assert verdict.reasons == [f"{folder}: the report has no checks of the instrument."]


def test_a_failed_check_is_named_beside_the_figures_that_speak_against(tmp_path):
    folder = write(tmp_path / "1", gains("cnn", DOWN), checks=[FAILED])
    reasons = compare([folder], "decay", "cnn").reasons
    assert len(reasons) == 3
    assert "leak canary" in reasons[0]
    assert "-0.0300" in reasons[1]


@pytest.mark.parametrize("role", ["less", "control", "oracle"])
def test_what_is_there_for_comparison_is_never_published(tmp_path, role):
    arms = [
        {"name": "decay", "role": "base", "bytes_per_member": 768},
        {"name": "cnn", "role": role, "bytes_per_member": 768},
    ]
    folder = write(tmp_path / "1", gains("cnn", UP, UP), arms=arms)
    verdict = compare([folder], "decay", "cnn")
    assert not verdict.replace
    assert verdict.reasons == [
        f"{folder}: `cnn` is there for comparison ({role}), it cannot be published."
    ]


def test_simulated_data_are_labelled_as_such(tmp_path):
    may = write(tmp_path / "may", gains("cnn", UP, UP))
    simulated = write(tmp_path / "simulated", gains("cnn", UP, UP), simulated=True)
    verdict = compare([may, simulated], "decay", "cnn")
    assert verdict.replace and verdict.simulated
    assert str(verdict).splitlines()[1].startswith("Simulated data")
    assert "Simulated" not in str(compare([may], "decay", "cnn"))


def test_members_are_matched_by_id_whatever_the_order_of_rows(tmp_path):
    case = gains("cnn", UP, values(0.01, 0.04))
    ordered = write(tmp_path / "1", case)
    expected = compare([ordered], "decay", "cnn")
    for shuffle in (1, 2):
        shuffled = write(tmp_path / f"shuffled {shuffle}", case, shuffle=shuffle)
        verdict = compare([shuffled], "decay", "cnn")
        assert verdict.replace == expected.replace
        assert [r.replace(str(shuffled), str(ordered)) for r in verdict.reasons] == expected.reasons


def test_seeds_are_averaged_so_that_they_are_no_more_members(tmp_path):
    one = write(tmp_path / "one", gains("cnn", UP), seeds=(0,))
    five = write(tmp_path / "five", gains("cnn", UP), seeds=(0, 1, 2, 3, 4))
    (expected,), (got,) = (compare([f], "decay", "cnn").reasons for f in (one, five))
    assert got.replace(str(five), "") == expected.replace(str(one), "")


def test_the_draw_is_that_of_the_seed_and_of_so_many_resamples(tmp_path):
    folder = write(tmp_path / "1", gains("cnn", UP))

    def reasons(seed, resamples=50):
        return compare([folder], "decay", "cnn", resamples=resamples, seed=seed).reasons

    assert reasons(3) == reasons(3)
    assert reasons(3) != reasons(4)
    assert reasons(3) != reasons(3, resamples=60)


def test_folders_without_an_evaluation_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"expected folders of evaluations.*Received: none"):
        compare([], "decay", "cnn")
    folder = write(tmp_path / "may", gains("cnn", UP))
    with pytest.raises(InvalidInput, match=r"each once. Received: .*may, .*may"):
        compare([folder, folder.parent / "other" / ".." / "may"], "decay", "cnn")
    missing = tmp_path / "none"
    with pytest.raises(
        InvalidInput,
        match=r"none: expected an.*no `report.json`; run `activity-embeddings evaluate`",
    ):
        compare([folder, missing], "decay", "cnn")
    (folder / "members.parquet").unlink()
    with pytest.raises(InvalidInput, match=r"no `members.parquet`; run"):
        compare([folder], "decay", "cnn")


def test_arms_that_are_unknown_or_the_same_are_refused(tmp_path):
    folder = write(tmp_path / "may", gains("cnn", UP))
    known = "nothing, decay, cnn, small, half"
    for a, b in (("decay", "lstm"), ("lstm", "decay")):
        with pytest.raises(InvalidInput, match=rf"may: .*: {known}\. Received: lstm"):
            compare([folder], a, b)
    with pytest.raises(InvalidInput, match=r"expected two arms. Received: `cnn` twice"):
        compare([folder], "cnn", "cnn")
    for margin in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InvalidInput, match=r"`margin` should be 0 or more. Received"):
            compare([folder], "decay", "cnn", margin=margin)


def rewritten(folder, change):
    path = folder / "members.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    return [folder]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: f[(f["arm"] != "cnn") | (f["member_id"] != "m7")],
            "1 with `decay` alone, 0 with `cnn` alone",
        ),
        (
            lambda f: f[(f["arm"] != "decay") | ~f["member_id"].isin(["m7", "m8"])],
            "0 with `decay` alone, 2 with `cnn` alone",
        ),
        (
            lambda f: f[(f["seed"] != 1) | (f["arm"] != "cnn") | (f["member_id"] != "m7")],
            "0 with `decay` alone, 0 with `cnn` alone, 1 without a figure of some seed",
        ),
        (
            lambda f: f.assign(ndcg_at_10=f["ndcg_at_10"].where(f.index != 3)),
            "1 without a figure of some seed",
        ),
        (lambda f: f[f["arm"] != "cnn"], "60 with `decay` alone, 0 with `cnn` alone"),
        (lambda f: pd.concat([f, f[:2]]), "a row of each arm, seed and member. Received: 2 more"),
        (lambda f: f[f["task"] != "day"], "rows of the task `day` .*Received: none"),
        (lambda f: f[f["task"] != "week"], "rows of the task `week` .*Received: none"),
        (lambda f: f.drop(columns="seed"), "with the columns task, arm, seed, .*Received: .*seed"),
    ],
)
def test_members_that_do_not_match_are_refused(tmp_path, change, message):
    folder = write(tmp_path / "may", gains("cnn", UP, UP))
    assert compare([folder], "decay", "cnn").replace
    with pytest.raises(InvalidInput, match=rf"may/members.parquet.*{message}"):
        compare(rewritten(folder, change), "decay", "cnn")


def test_an_evaluation_without_the_task_that_decides_is_refused(tmp_path):
    folder = write(tmp_path / "may", {"week": {"decay": UP, "cnn": UP}})
    with pytest.raises(InvalidInput, match=r"rows of the task `day` with `decay` and `cnn`"):
        compare([folder], "decay", "cnn")


def test_files_that_cannot_be_read_are_refused(tmp_path):
    folder = write(tmp_path / "may", gains("cnn", UP))
    (folder / "members.parquet").write_bytes(b"no parquet")
    with pytest.raises(InvalidInput, match=r"members.parquet: expected a parquet file"):
        compare([folder], "decay", "cnn")
    for text, message in (
        ("{", "expected a report in JSON"),
        ('{"schema": 2, "arms": []}', "schema 1 with its arms. Received: schema 2"),
        ('{"schema": 1}', "schema 1 with its arms"),
        ("[]", "Received: schema None"),
    ):
        (folder / "report.json").write_text(text, encoding="utf-8")
        with pytest.raises(InvalidInput, match=rf"report.json: .*{message}"):
            compare([folder], "decay", "cnn")


def test_seeds_that_disagree_make_nothing_certain(tmp_path):
    """B is ahead of A by .03 on average, but by one seed far more than by the other."""
    agreeing = write(tmp_path / "agreeing", gains("cnn", UP))
    assert compare([agreeing], "decay", "cnn").replace
    rows = pd.read_parquet(agreeing / "members.parquet")
    of_b = rows["arm"] == "cnn"
    rows.loc[of_b & (rows["seed"] == 0), "ndcg_at_10"] += 0.2
    rows.loc[of_b & (rows["seed"] == 1), "ndcg_at_10"] -= 0.2
    rows.to_parquet(agreeing / "members.parquet", index=False)
    assert not compare([agreeing], "decay", "cnn").replace
