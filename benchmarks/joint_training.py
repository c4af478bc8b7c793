"""What training a network together with the item vectors reaches, beside a table of counts.

    python benchmarks/joint_training.py --events events.parquet --postings items.parquet \
        --category features --from 1997-12-20 --until 1998-09-20 --end 1999-04-19

Everything is learnt from activity between `--from` and `--until`, and asked about what members went
on to want until `--end`: NDCG@10 among all items of the day, as of the request, mean over members.
Half of the members choose how much popularity counts beside a score, the other half is reported.

With `--action` the actions are those of another column, finer ones: `raw_action` of the sample's
source has eight for the three. Those that stand beside a positive action are positive.

The table counts which item came next after each pair of (last item, last action). It sees the last
activity alone, and cannot say anything of a pair that it has not seen; where it is ahead of a
network, the network has not learnt what the data say.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings.training.examples.held_out import Windows, hold_out
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.embed import embed_with
from activity_embeddings.training.fitting.validation import SHARES, ValidationQueries
from activity_embeddings.training.item_encoder.towers import TowerSettings
from activity_embeddings.training.item_encoder.train import ENCODER_FIT, EncoderPlan, train_towers
from activity_embeddings.training.models import CNN, Network
from activity_embeddings.training.objectives import NextPositive
from activity_embeddings.training.packaging import package_item_encoder
from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.inference.encoder import ItemEncoder, encode_postings
from activity_embeddings.transformations.inference.tensorflow import tensorflow
from activity_embeddings.transformations.spec import ActivitySpec

ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
"""Vectors count for what they were learnt from too: so the table and they know the same."""
PATIENCE = 6
"""Epochs without a better one on validation, after which a search ends."""
CONFIGURATIONS: dict[str, tuple[Network | None, NextPositive]] = {
    "decaying average": (None, NextPositive()),
    "CNN, not around": (CNN(newest=False), NextPositive()),
    "CNN": (CNN(), NextPositive()),
    "CNN, every activity": (CNN(), NextPositive(other_weight=1.0)),
}


def reported(queries: ValidationQueries, scores: list[np.ndarray]) -> str:
    """Return the NDCG@10 of half of the members, at the share that is best for the others."""
    popularity = [np.broadcast_to(day.popularity, day.candidate.shape) for day in queries.days]
    spread, popular_spread = (
        np.concatenate([s[d.candidate] for s, d in zip(values, queries.days, strict=True)]).std()
        for values in (scores, popularity)
    )
    _, member = np.unique(queries.member, return_inverse=True)
    chooses = np.random.default_rng(0).random(member.max() + 1) < 0.5
    best = (-1.0, 0.0, 0.0)
    for share in SHARES:
        gains = np.empty(len(queries))
        for day, own, popular in zip(queries.days, scores, popularity, strict=True):
            mixed = share * own / spread + (1 - share) * popular / popular_spread
            gains[day.query] = day.gains(mixed)
        means = np.bincount(member, gains) / np.bincount(member)
        error = means[~chooses].std() / np.sqrt((~chooses).sum())
        best = max(best, (means[chooses].mean(), means[~chooses].mean(), error))
    return f"{best[1]:.4f} +- {1.96 * best[2]:.4f}"


def counted(history: ActivityHistory, period: Period, queries: ValidationQueries) -> list:
    """Return scores by a table of counts of (last item, last action) and the item after it."""
    windows = Windows(minimum=1, prefixes=True, per_member=None)
    seen = hold_out(history, period, windows=windows, random=np.random.default_rng(0))
    items, actions = len(history.vectors.item_ids), len(history.spec.vocabulary)

    def pairs(sequences):
        return sequences.item[:, -1].astype(np.int64) * actions + sequences.action[:, -1]

    table = np.zeros((items * actions, items), np.float32)
    np.add.at(table, (pairs(seen.sequences), seen.item), 1)
    last = pairs(queries.sequences)
    # One vector an item here, so a row is an item.
    return [table[last[day.query]][:, day.rows[0]] for day in queries.days]


@dataclass(frozen=True)
class Learnt:
    """What a network that was trained together with item vectors says of later queries.

    Attributes
    ----------
    facts
        Of the training; see `TrainedTowers`.
    queries
        What was wanted later.
    scores
        float32 [n, m] for each of the days of the queries.
    """

    facts: dict[str, Any]
    queries: ValidationQueries
    scores: list[np.ndarray]


def learn_jointly(
    events: pa.Table,
    postings: pa.Table,
    plan: EncoderPlan,
    asked: Period,
    most_members: int | None = None,
) -> Learnt:
    """Train both towers of a plan, and ask them what was wanted in a period after it.

    See `ValidationQueries.of` for `most_members`.
    """
    trained = train_towers(events, postings, plan)
    with tempfile.TemporaryDirectory() as folder:
        described = package_item_encoder(
            trained.encoder, Path(folder) / "x", name="x", version="1", valid_from=ALWAYS
        )
        encoded = encode_postings(ItemEncoder(described), postings)
    vectors = ItemVectors.from_arrow(encoded, described.vector_spec)
    history = ActivityHistory.from_arrow(events, vectors, plan.spec)
    queries = ValidationQueries.of(history, asked, most_members=most_members)
    embeddings = embed_with(trained.member_tower, plan.spec)(queries.sequences, history)
    return Learnt(trained.facts, queries, queries.products(embeddings))


def with_actions(events: pa.Table, column: str) -> tuple[pa.Table, ActivitySpec]:
    """Return events whose actions are those of another column, and their vocabulary."""
    finer, wanted = events[column], set(ActivitySpec().positive_actions)
    beside = set(zip(finer.to_pylist(), events[names.ACTION].to_pylist(), strict=True))
    actions = tuple(sorted({name for name, _ in beside}))
    positive = tuple(sorted({name for name, action in beside if action in wanted}))
    if any(name in positive and action not in wanted for name, action in beside):
        raise SystemExit(f"--action {column}: one of them is positive in some events only")
    events = events.drop_columns([names.ACTION]).append_column(names.ACTION, finer)
    return events, ActivitySpec(actions=actions, positive_actions=positive)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options of `read_data`."""
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--postings", type=Path, required=True)
    parser.add_argument("--text", nargs="*", default=["title"])
    parser.add_argument("--category", nargs="*", default=[])
    parser.add_argument("--action", default=names.ACTION, help="column of what was done")
    parser.add_argument("--from", dest="start", type=_day, required=True)
    parser.add_argument("--until", type=_day, required=True)
    parser.add_argument("--end", type=_day, required=True)
    parser.add_argument("--validation-days", type=float, default=14.0, help="the last before UNTIL")


def read_data(given: argparse.Namespace) -> tuple[pa.Table, pa.Table, EncoderPlan, Period]:
    """Return events, postings, what may be learnt from them, and what is asked afterwards."""
    events = pq.read_table(given.events)
    events = events.filter(pa.compute.greater_equal(events[names.EVENT_TIMESTAMP], given.start))
    postings = pq.read_table(given.postings)
    if names.EVENT_TIMESTAMP not in postings.column_names:
        known = pa.array([ALWAYS] * len(postings), pa.timestamp("us", "UTC"))
        postings = postings.append_column(names.EVENT_TIMESTAMP, known)
    towers = TowerSettings(text=tuple(given.text), categories=tuple(given.category))
    plan = EncoderPlan(given.until, validation_days=given.validation_days, towers=towers)
    if given.action != names.ACTION:
        events, spec = with_actions(events, given.action)
        plan = replace(plan, spec=spec)
    return events, postings, plan, Period(given.until, given.end)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data(parser)
    parser.add_argument("--length", type=int, default=32, help="positions of a sequence")
    parser.add_argument("--epochs", type=int, default=ENCODER_FIT.epochs)
    parser.add_argument("--patience", type=int, default=PATIENCE)
    parser.add_argument("--only", nargs="*", choices=list(CONFIGURATIONS))
    given = parser.parse_args()
    tensorflow()
    events, postings, plan, asked = read_data(given)
    plan = replace(
        plan,
        spec=replace(plan.spec, length=given.length),
        fit=replace(ENCODER_FIT, epochs=given.epochs, patience=given.patience),
    )
    for name in given.only or CONFIGURATIONS:
        network, objective = CONFIGURATIONS[name]
        started = time.perf_counter()
        plan = replace(plan, network=network, objective=objective)
        learnt = learn_jointly(events, postings, plan, asked)
        queries = learnt.queries
        if name == next(iter(given.only or CONFIGURATIONS)):
            members = len(np.unique(queries.member))
            print(f"{len(queries):,} queries of {members:,} members; popularity beside each score")
            counts = counted(queries.history, Period(given.start, given.until), queries)
            print(f"{'table of counts':30} {reported(queries, counts)}")
        seconds, epochs = time.perf_counter() - started, learnt.facts["training"]["epochs"]
        figure = reported(queries, learnt.scores)
        print(f"{name:30} {figure}   {epochs} epochs, {seconds:.0f} s", flush=True)


def _day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


if __name__ == "__main__":
    main()
