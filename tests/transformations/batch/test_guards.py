"""What guards say of two snapshots, one number at a time."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from activity_embeddings.transformations.batch.guards import (
    FEWEST,
    Guards,
    Judge,
    Verdict,
    require_passed,
)
from activity_embeddings.transformations.errors import GuardFailed

JUDGE = Judge(Guards(), frozenset())


def sequences(counts):
    """Return ids and counts of members; `counts` by id."""
    ids, values = zip(*counts.items(), strict=True) if counts else ((), ())
    kind = pa.string() if ids and isinstance(ids[0], str) else pa.int64()
    return pa.table({"m": pa.array(ids, kind), "activity_count": pa.array(values, pa.int64())})


def said(now, then, judge=JUDGE):
    found = judge.sequences("view", "m", sequences(now), sequences(then))
    return {verdict.guard: verdict for verdict in found}


@st.composite
def counts(draw):
    """Activities of some of 400 members."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    chosen = random.permutation(400)[: draw(st.integers(0, 400))]
    return dict(zip(chosen.tolist(), random.integers(0, 6, len(chosen)).tolist(), strict=True))


@settings(deadline=None)
@given(now=counts(), then=counts())
def test_sequences_are_compared_as_sets_of_members_would_be(now, then):
    active = [{m for m, count in each.items() if count} for each in (now, then)]
    found = said(now, then)
    if len(active[1]) < FEWEST:
        assert found == {}
        return
    assert found["members"].received == pytest.approx(
        abs(len(active[0]) - len(active[1])) / len(active[1])
    )
    total = [sum(each.values()) for each in (now, then)]
    assert found["activities"].received == pytest.approx(abs(total[0] - total[1]) / total[1])
    silent = len(active[1] - active[0]) / len(active[1])
    assert found["silent_members"].received == pytest.approx(silent)
    assert found["silent_members"].passed == (silent <= 0.5)


def test_ids_that_changed_form_are_shown():
    now = {f"u{i:04}": 1 for i in range(200)} | {str(i): 0 for i in range(200)}
    verdict = said(now, {str(i): 1 for i in range(200)})["silent_members"]
    assert verdict.refused
    assert verdict.says == "200 of 200 members with activity before have none now"
    assert verdict.examples == "; ids are such as 'u0000', before '0'"
    assert "u0000" in str(verdict) and "u0000" not in str(verdict.facts())


def vectors(rows, column="v"):
    """Return ids and vectors; `rows` by id."""
    values = pa.array([list(map(float, row)) for row in rows.values()], pa.list_(pa.float32()))
    return pa.table({"m": pa.array(rows, pa.int64()), column: values})


@settings(deadline=None)
@given(
    seed=st.integers(0, 100),
    scale=st.sampled_from([0.1, 0.5, 1.0, 3.0]),
    turned=st.integers(0, 150),
)
def test_vectors_are_compared_by_length_and_angle(seed, scale, turned):
    random = np.random.default_rng(seed)
    then = {i: random.normal(size=4) for i in range(200)} | {200: np.zeros(4)}
    now = {
        i: (-row if i < turned else row) * scale for i, row in reversed(then.items()) if i >= 10
    } | {300: random.normal(size=4) * scale}
    found = list(JUDGE.vectors("view", "m", ["v"], vectors(now), vectors(then)))
    norms, rows = found
    middle = [
        np.median([np.linalg.norm(row) for row in each.values() if np.any(row)])
        for each in (now, then)
    ]
    assert norms.received == pytest.approx(max(middle) / min(middle) - 1, abs=1e-5)
    assert rows.received == pytest.approx(max(turned - 10, 0) / 190)
    assert rows.action == "warn" and not rows.refused


def test_another_size_of_vectors_is_not_compared():
    one, other = ({i: np.ones(d) for i in range(200)} for d in (3, 4))
    assert list(JUDGE.vectors("view", "m", ["v"], vectors(one), vectors(other))) == []


def test_unknown_items_are_a_share_of_what_was_done():
    (verdict,) = JUDGE.unknown_items("view", 40, 60)
    assert verdict.received == 0.6 and verdict.refused
    assert verdict.says == "60.0 % of the activity in the windows is on unknown items"
    assert list(JUDGE.unknown_items("view", 3, 90)) == []  # too few to say


def test_settings_may_name_a_limit_or_an_action_alone():
    guards = Guards(**{"members": {"limit": 0.1}, "norms": {"action": "ignore"}})
    assert (guards.members.limit, guards.members.action) == (0.1, "fail")
    assert (guards.norms.limit, guards.norms.action) == (1.0, "ignore")
    for wrong in ({"members": {"action": "shout"}}, {"members": {"limit": -1}}, {"member": {}}):
        with pytest.raises(ValidationError):
            Guards(**wrong)


@pytest.mark.parametrize("action", ["fail", "warn", "ignore"])
@pytest.mark.parametrize("accepted", [False, True])
def test_only_what_fails_and_is_not_accepted_refuses(action, accepted):
    guards = Guards(members={"limit": 0.1, "action": action})
    judge = Judge(guards, frozenset({"members"} if accepted else ()))
    verdict = said({i: 1 for i in range(300)}, {i: 1 for i in range(200)}, judge)["members"]
    assert not verdict.passed
    assert verdict.refused == (action == "fail" and not accepted)
    assert verdict.accepted == accepted


def test_the_error_says_how_to_let_it_through():
    verdicts = [
        Verdict("members", "sequences", "fail", 0.5, 0.9, "10 members, 100 before"),
        Verdict("norms", "vectors", "warn", 1.0, 3.0, "longer"),
        Verdict("activities", "sequences", "fail", 0.5, 0.2, "fine"),
    ]
    with pytest.raises(GuardFailed) as caught:
        require_passed(verdicts, 0)
    assert str(caught.value) == (
        "snapshot as of 1970-01-01 00:00 UTC: sequences: 10 members, 100 before, at most 50 % "
        "expected. Nothing was published. If this is right, run `activity-embeddings materialize` "
        "with --accept members, or set `guards` under `batch_engine`"
    )
    require_passed(verdicts[1:], 0)
