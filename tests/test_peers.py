"""Models of others are asked the same as ours: what `benchmarks/peers.py` hands over, and reads."""

import importlib
import json
import sys
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from subprocess import CalledProcessError

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_embeddings.training.datasets.sample import ENTREE
from activity_embeddings.training.evaluation.next_item_counts import NextItemCounts
from activity_embeddings.training.evaluation.queries import ranking_queries
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.item_encoder.towers import TowerSettings
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.spec import ActivitySpec
from support.training_cases import LENGTH, SPEC, WINDOW_US, events_of, histories

pytestmark = [pytest.mark.slow, pytest.mark.process]

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# A table of counts, as a peer that is trained: it has learnt after the fourth epoch, and forgets,
# with the third of four settings alone.
SHORT = ActivitySpec(length=8)
LEARNS = {"blocks": 2, "rate": 0.1}
TRIED = [{"blocks": blocks, "rate": rate} for blocks in (1, 2) for rate in (0.1, 0.2)]
COUNTS = (
    f"LEARNS = {LEARNS}"
    """
import json, sys
from pathlib import Path
import numpy as np
import pandas as pd

folder = Path(sys.argv[1])
plan = json.loads((folder / "plan.json").read_text())
learn, asked, context = (
    pd.DataFrame(dict(np.load(folder / f"{name}.npz"))) for name in ("learn", "asked", "context")
)
counts = np.zeros((plan["items"], plan["items"]))
for _, piece in learn.groupby("user_id"):
    np.add.at(counts, (piece.item_id.values[:-1], piece.item_id.values[1:]), 1)
shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
last = asked.groupby("user_id").item_id.last()
scores = np.zeros((len(context), plan["items"]))
scores[last.index] = shares[last]
for place, run in enumerate(plan["runs"]):
    for epoch in run["epochs"]:
        learnt = run["settings"] == LEARNS and epoch == 4
        np.save(folder / f"{place}-{epoch}.npy", scores * learnt)
"""
)


@pytest.fixture(scope="module")
def peers():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("peers")


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """The sample from August on, without events of a member at one and the same time."""
    folder = tmp_path_factory.mktemp("sample")
    ENTREE.write(folder)
    events = ENTREE.events(folder).to_pandas()
    inside = events.event_timestamp.between("1998-08-01T00:00Z", "1998-09-30T00:00Z")
    events = events[inside].drop_duplicates(["member_id", "event_timestamp"])
    checked = ActivityEvents.from_arrow(pa.Table.from_pandas(events), SHORT)
    return ActivityHistory.of(checked, ItemVectors.always_known(checked.item_ids), SHORT)


def days(peers, history, *days):
    start, end = (datetime(1998, *day, tzinfo=UTC) for day in days)
    return peers.Asked.of(history, Period(start, end))


def exported(folder):
    names = ("learn", "asked", "context")
    return [pd.DataFrame(dict(np.load(folder / f"{name}.npz"))) for name in names]


@pytest.fixture(scope="module")
def asked(peers, history):
    return days(peers, history, (9, 8), (9, 15)), days(peers, history, (9, 15), (9, 29))


@pytest.fixture
def trainer(peers, tmp_path):
    script = tmp_path / "counts.py"
    script.write_text(COUNTS)
    return peers.Trainer([sys.executable, str(script)], threads=1, settings=TRIED)


def test_a_peer_that_counts_finds_what_our_table_of_counts_does(peers, asked, trainer):
    peer = peers.Peer("counts", peers.ALL)
    arm = peers.measure_peer(peer, *asked, trainer, epochs=6, seeds=2)
    table = peers.measure_counts(*asked, by_action=False)
    assert arm.values.shape == (2, len(np.unique(asked[1].queries.member)))
    np.testing.assert_allclose(arm.values, np.broadcast_to(table.values, arm.values.shape))
    assert table.values.mean() > peers.measure_popularity(asked[1]).values.mean() + 0.1
    assert "; blocks 2, rate 0.1, epochs 4, share" in arm.said
    assert arm.said.split(";")[0] == table.said.split(";")[0]


def test_pairs_of_item_and_action_count_for_their_item_by_their_sum(peers, asked, tmp_path):
    _, late = asked
    peer = peers.PEERS["SASRec, with actions"]
    pairs = peers.export(tmp_path, peer, late.history, late.period.start, late.queries.sequences)
    learn, known, _ = exported(tmp_path)
    counts = np.full((pairs, pairs), 1e-9)
    for _, piece in learn.groupby("user_id"):
        np.add.at(counts, (piece.item_id.values[:-1], piece.item_id.values[1:]), 1)
    last = known.groupby("user_id").item_id.last()
    spec, queries = late.history.spec, late.queries
    assert last.index.tolist() == list(range(len(queries)))
    every = range(1, len(spec.vocabulary))
    table = NextItemCounts.of(late.history, late.period.start, by_action=True)
    totals = np.maximum(np.rint(counts[last].sum(axis=1)), 1)
    scores = peers.scores_of(np.log(counts[last]), queries, every)
    for day, own, ours in zip(queries.days, scores, table.scores(queries), strict=True):
        shares = np.exp(own) / totals[day.query, None]
        np.testing.assert_allclose(shares, ours, atol=1e-5)
    positive = peers.scores_of(np.log(counts[last]), queries, spec.positive_ids)
    assert any((a < b - 0.1).any() for a, b in zip(positive, scores, strict=True))


def test_what_a_peer_does_not_know_is_no_better_than_the_worst_that_it_knows(peers, asked):
    _, late = asked
    queries, items = late.queries, len(late.history.vectors.item_ids)
    scores = np.random.default_rng(0).normal(size=(len(queries), items)).astype(np.float32)
    written = scores.copy()
    written[:, ::3] = np.nan
    written[1] = np.nan
    for day, own in zip(queries.days, peers.scores_of(written, queries), strict=True):
        for query, row in zip(day.query, own, strict=True):
            known = [scores[query, item] for item in range(items) if item % 3]
            expected = [scores[query, item] if item % 3 else min(known) for item in day.items]
            assert row.tolist() == ([0.0] * len(day.items) if query == 1 else expected)


def test_a_peer_told_of_positives_gets_the_newest_of_them(peers, asked, tmp_path):
    _, late = asked
    history, queries = late.history, late.queries
    events, spec = history.events, history.spec
    told = late.told(peers.POSITIVES)
    peer = peers.PEERS["SASRec, positives"]
    peers.export(tmp_path, peer, told.history, told.period.start, told.queries.sequences)
    learn, known, context = exported(tmp_path)
    window = spec.window.total_seconds() * 1e6
    by_query = {user: rows.item_id.tolist() for user, rows in known.groupby("user_id")}
    of_member = defaultdict(list)
    for member, item, action, time in zip(
        events.member, events.item, events.action, events.time, strict=True
    ):
        if action in spec.positive_ids:
            of_member[member].append((item, time))
    assert learn.datetime.max() < late.period.start.replace(tzinfo=None)
    assert set(learn.item_id) <= {item for pairs in of_member.values() for item, _ in pairs}
    for query, (member, as_of) in enumerate(
        zip(queries.member, queries.sequences.as_of, strict=True)
    ):
        before = [i for i, time in of_member[member] if as_of - window <= time < as_of]
        assert by_query.get(query, []) == before[-spec.length :]
    assert context.datetime.to_numpy("M8[us]").tolist() == [
        datetime.fromtimestamp(us / 1e6, UTC).replace(tzinfo=None) for us in queries.sequences.as_of
    ]


@settings(max_examples=50, deadline=None)
@given(histories(), st.booleans())
def test_each_step_of_a_member_is_in_one_piece(peers, case, narrow):
    events = events_of(case[0], SPEC if narrow else replace(SPEC, length=2))
    length = LENGTH if narrow else 2
    expected, steps = [], 0
    for event in range(len(events)):
        known = event > 0 and events.member[event] == events.member[event - 1]
        known = known and events.time[event] - events.time[event - 1] <= WINDOW_US
        if not known:
            expected.append([])
            steps = 0
        elif steps == length:
            expected.append([event - 1])
            steps = 0
        expected[-1].append(event)
        steps += 1 if known else 0
    piece, event = peers.pieces_of(events, SPEC if narrow else replace(SPEC, length=2))
    found = [event[piece == number].tolist() for number in range(piece.max() + 1)]
    longer = [part for part in found if len(part) > 1]
    assert longer == [part for part in expected if len(part) > 1]
    assert sorted(set(event.tolist())) == list(range(len(events)))


def test_hstu_is_trained_with_a_temperature_that_lets_a_softmax_of_cosines_be_sure(
    peers, asked, tmp_path
):
    """At RecTools' default of 1 the best of all items gets a hundredth at most."""
    early = asked[0]
    items = len(early.history.vectors.item_ids)
    trainer = peers.Trainer(["true"], threads=1, settings=TRIED)
    for model, surely in (("HSTU", True), ("SASRec", False)):
        run = {"settings": TRIED[0], "seed": 0, "epochs": []}
        given = early.history, early.period.start, early.queries.sequences
        trainer(peers.Peer(model, peers.ALL), *given, [run], tmp_path)
        (run,) = json.loads((tmp_path / "plan.json").read_text())["runs"]
        temperature = run["settings"].get("lightning_module_kwargs", {}).get("logits_t", 1.0)
        best, others = np.exp(np.array([1.0, -1.0]) / temperature)
        assert (best / (best + (items - 1) * others) > 0.99) == surely
        assert run["settings"].items() >= TRIED[0].items()


def test_features_are_the_words_and_categories_that_our_encoder_reads(peers):
    postings = pa.table(
        {
            "job_id": ["b", "a", "b", "unknown"],
            "title": ["Old", "Senior engineer, C", "Cook / cook", "x"],
            "tags": [["o"], ["t", "u"], None, ["v"]],
        }
    )
    towers = TowerSettings(text=("title",), categories=("tags",))
    found = peers.features_of(postings, pa.array(["a", "b"]), towers)
    assert sorted(found.itertuples(index=False, name=None)) == [
        (0, "tags", "t"),
        (0, "tags", "u"),
        (0, "title", "c"),
        (0, "title", "engineer"),
        (0, "title", "senior"),
        (1, "title", "cook"),
    ]


def test_a_pair_has_the_features_of_its_item_and_its_action(peers, asked, tmp_path):
    _, late = asked
    spec, items = late.history.spec, len(late.history.vectors.item_ids)
    features = pd.DataFrame({"id": [0, 0, 2], "feature": ["x", "x", "y"], "value": ["p", "q", "r"]})
    peer = peers.PEERS["HSTU, with actions and features"]
    given = late.history, late.period.start, late.queries.sequences
    pairs = peers.export(tmp_path, peer, *given, features)
    written = pd.DataFrame(dict(np.load(tmp_path / "features.npz")))
    actions = len(spec.vocabulary)
    assert pairs == items * actions
    for pair, rows in written.groupby("id"):
        item, action = divmod(pair, actions)
        own = features[features.id == item]
        expected = {*zip(own.feature, own.value, strict=True), ("action", str(action))}
        assert set(zip(rows.feature, rows.value, strict=True)) == expected
    assert set(written.id) == set(range(pairs))


def test_a_peer_in_the_ranker_says_what_it_says_alone(peers, asked, trainer, tmp_path):
    """Chosen before the ranker's days, trained once, asked anew; the best of a list has 0."""
    early, late = asked
    peer = peers.Peer("counts", peers.ALL)
    folder = tmp_path / "kept"
    model = peers.scoring_model(peer, early, trainer, epochs=6, seeds=2, folder=folder)
    assert (model.name, len(model.scorers)) == ("counts_all", 2)
    chosen = json.loads((folder / "chosen.json").read_text())
    assert (chosen["settings"], chosen["epochs"]) == (LEARNS, 4)
    queries = ranking_queries(late.history, late.period, per_member=1)
    columns = model.columns(queries.sequences, queries, 0)
    again = replace(trainer, command=["false"])
    kept = peers.scoring_model(peer, early, again, epochs=6, seeds=2, folder=folder)
    assert kept.columns(queries.sequences, queries, 0).tolist() == columns.tolist()
    table = NextItemCounts.of(late.history, early.period.end, by_action=False)
    share = table.columns(queries.sequences, queries)[:, 0]
    for start, end in pairwise(queries.start):
        logarithms, below = columns[start:end].T
        assert below.max() == 0
        np.testing.assert_allclose(below, logarithms - logarithms.max(), atol=1e-5)
        # Scores are shares here, so that their differences stay.
        np.testing.assert_allclose(below, share[start:end] - share[start:end].max(), atol=1e-5)


def test_a_peer_that_fails_stops_the_benchmark(peers, asked):
    trainer = peers.Trainer(
        [sys.executable, "-c", "raise SystemExit(3)"], threads=1, settings=TRIED
    )
    with pytest.raises(CalledProcessError):
        peers.measure_peer(peers.Peer("x", peers.ALL), *asked, trainer, epochs=1, seeds=1)


def test_the_table_compares_the_last_arm_with_each_other_by_member(peers):
    values = np.random.default_rng(0).random((2, 50))
    arms = {"worse": peers.Arm(values - 0.25, ""), "best": peers.Arm(values, "")}
    first, second = peers.table(arms).splitlines()[1:]
    assert "+0.2500 [+0.2500, +0.2500]" in first
    assert second.split() == [
        "best",
        f"{values.mean():.4f}",
        f"{values.mean(axis=1).std(ddof=1):.4f}",
    ]
