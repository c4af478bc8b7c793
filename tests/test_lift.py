"""Pairs of item vectors and network, evaluated one by one, make one evaluation of all seeds."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from activity_embeddings.training.datasets.sample import ENTREE
from activity_embeddings.training.evaluation.result import read_members, read_result, write_result
from support.evaluation_results import sample_result

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MEMBERS, SEEDS, TASKS = 40, 3, ("day", "alone")


@pytest.fixture(scope="module")
def lift():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("lift")


@pytest.fixture(scope="module")
def values():
    """NDCG@10 by seed, task, arm and member; the CNN finds most, the placebo nothing."""
    random = np.random.default_rng(0)
    nothing = random.random(MEMBERS) / 2
    shift = {"nothing": 0.0, "decay": 0.1, "cnn": 0.2, "placebo": 0.0}
    return {
        (seed, task, arm): nothing + added + random.normal(0, 0.01, MEMBERS)
        for seed in range(SEEDS)
        for task in TASKS
        for arm, added in shift.items()
    }


@pytest.fixture(scope="module")
def evaluated(values, tmp_path_factory):
    """Evaluations of one seed each, as each writes itself: all its rows are of its first seed."""
    results, folders = [], []
    for seed in range(SEEDS):
        result = sample_result()
        kept = ("nothing", "decay", "cnn", "placebo")
        result["declared"]["seeds"] = [seed]
        result["arms"] = [arm for arm in result["arms"] if arm["name"] in kept]
        result["tasks"] = {task: result["tasks"][task] for task in (*TASKS, "like")}
        result["comparisons"] = [
            row
            for row in result["comparisons"]
            if row["task"] in TASKS and row["arm"] in kept and row["against"] in kept
        ]
        collapsed = {"name": "collapse", "passed": seed != 1, "says": "", "arm": "cnn"}
        result["checks"] = [{"name": "placebo", "passed": False, "says": "of one seed"}, collapsed]
        rows = [
            pd.DataFrame(
                {"task": task, "arm": arm, "seed": 0, "member_id": np.arange(MEMBERS)}
            ).assign(ndcg_at_10=found)
            for (of_seed, task, arm), found in values.items()
            if of_seed == seed
        ]
        # In whatever order.
        table = pd.concat(rows).sample(frac=1, random_state=seed)
        folder = tmp_path_factory.mktemp("pair")
        write_result(result, pa.Table.from_pandas(table, preserve_index=False), folder)
        results.append(result)
        folders.append(folder)
    return results, folders


def test_each_figure_is_the_mean_over_members_of_all_seeds(lift, evaluated, values):
    result, _ = lift.pooled(ENTREE, *evaluated)
    assert result["declared"]["seeds"] == [*range(SEEDS)]
    assert set(result["tasks"]) == set(TASKS)
    for task in TASKS:
        for arm, figures in result["tasks"][task]["figures"].items():
            by_seed = [values[seed, task, arm].mean() for seed in range(SEEDS)]
            assert figures["by_seed"] == pytest.approx(by_seed)
            assert figures["ndcg_at_10"] == pytest.approx(np.mean(by_seed))
            assert figures["seed_spread"] == pytest.approx(np.std(by_seed, ddof=1))


def test_differences_are_paired_by_member_and_targets_are_judged_anew(lift, evaluated, values):
    result, _ = lift.pooled(ENTREE, *evaluated)
    (row,) = [
        row
        for row in result["comparisons"]
        if (row["task"], row["arm"], row["against"]) == ("day", "cnn", "decay")
    ]
    paired = [values[s, "day", "cnn"] - values[s, "day", "decay"] for s in range(SEEDS)]
    assert row["difference"] == pytest.approx(np.mean(paired))
    assert 0.09 < row["low"] < row["difference"] < row["high"] < 0.11
    (target,) = result["targets"]
    assert not target["reached"]  # .1 where .15 was claimed
    assert f"{row['difference']:+.4f}" in target["says"]


def test_the_instrument_is_checked_by_all_seeds_and_a_collapse_of_one_stays(lift, evaluated):
    result, _ = lift.pooled(ENTREE, *evaluated)
    found = {check["name"]: check["passed"] for check in result["checks"]}
    assert found == {"placebo": True, "collapse": False}
    assert "1 of 2 checks failed (collapse)" in result["conclusions"][0]


def test_it_is_written_and_read_as_any_evaluation(lift, evaluated, values, tmp_path):
    result, members = lift.pooled(ENTREE, *evaluated)
    write_result(result, members, tmp_path)
    assert read_result(tmp_path)["declared"] == result["declared"]
    rows = read_members(tmp_path, ["cnn"]).to_pandas()
    for (seed, task), part in rows.groupby(["seed", "task"]):
        found = part.sort_values("member_id")["ndcg_at_10"]
        assert found.tolist() == pytest.approx(values[seed, task, "cnn"].tolist())


def test_one_pair_by_itself_is_written_too(lift, evaluated, values, tmp_path):
    result, members = lift.pooled(ENTREE, *(kept[:1] for kept in evaluated))
    write_result(result, members, tmp_path)
    figures = read_result(tmp_path)["tasks"]["day"]["figures"]["cnn"]
    assert figures["ndcg_at_10"] == pytest.approx(values[0, "day", "cnn"].mean())
    assert figures["seed_spread"] is None


def test_peers_of_another_evaluation_are_compared_member_by_member(lift, tmp_path):
    """Both evaluations asked the same members, in whatever order they are kept."""
    random = np.random.default_rng(1)
    tasks, seeds = ("alone", "day", "week"), (0, 1)
    ours = {(t, s): random.random(MEMBERS) for t in tasks for s in seeds}
    theirs = {key: found - 0.25 for key, found in ours.items()}
    folders = []
    for arm, found in (("cnn", ours), ("hstu_with_actions", theirs)):
        rows = [
            pd.DataFrame({"task": task, "arm": arm, "seed": seed, "member_id": np.arange(MEMBERS)})
            .assign(ndcg_at_10=values)
            .sample(frac=1, random_state=len(arm))
            for (task, seed), values in found.items()
        ]
        folders.append(tmp_path / arm)
        folders[-1].mkdir()
        table = pa.Table.from_pandas(pd.concat(rows), preserve_index=False)
        write_result(sample_result(), table, folders[-1])
    lines = lift.beside_peers(*folders).splitlines()
    assert [line.split() for line in lines] == [
        [task, "cnn", "less", "hstu_with_actions", "+0.2500", "[+0.2500,", "+0.2500]"]
        for task in tasks
    ]
