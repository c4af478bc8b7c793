"""What each kind of activity adds, on a simulated job market: searches, changes of status, reading.

    python benchmarks/kinds.py                                  3,000 members, as many passive
    python benchmarks/kinds.py --members 20000 --passive 20000  more queries

Members are simulated, and so is every figure. One CNN is trained for each kind that the members'
jobs are joined by: the same architecture with the same number of weights, since the vocabulary is
the same and only the activity differs. An item encoder that was trained on postings encodes
queries, statuses and posts as well.

The figure is NDCG@10 of what members wanted next among all items of the day, as of the request,
beside popularity; a mean over members. How much an embedding counts beside popularity is chosen on
earlier days, for each group of queries by itself:

    all           every positive activity on a new item
    active        with job activity in the window
    first         without any job activity before: nothing but the other kinds says anything

Intervals are of the difference from jobs alone, by a paired bootstrap over members, widened by the
deviation between seeds.
"""

from __future__ import annotations

import argparse
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from activity_embeddings.training.datasets.job_market import JobMarket
from activity_embeddings.training.datasets.job_market.kinds import (
    KIND_ACTIONS,
    POST,
    SEARCH,
    STATUS,
)
from activity_embeddings.training.datasets.sample import JOBS
from activity_embeddings.training.demo.models import ITEM_ENCODER, build_item_encoder, train_model
from activity_embeddings.training.evaluation.statistics import paired_bootstrap
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.embed import embed_with
from activity_embeddings.training.fitting.validation import ValidationQueries
from activity_embeddings.training.models import CNN, InterleavedDecay
from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.events import ActivityEvents, check_events
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.kinds import events_of_kinds, vectors_of_kinds
from activity_embeddings.transformations.contract.item_encoder import describe_item_encoder
from activity_embeddings.transformations.inference.encoder import ItemEncoder, encode_postings
from activity_embeddings.transformations.inference.tensorflow import tensorflow
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

JOB = names.JOBS.item
KEEP = {JOB: 16}
"""Places that other kinds cannot take; jobs alone may have all 32, as without other kinds."""
ARMS = {
    "jobs": (),
    "jobs, searches": (SEARCH,),
    "jobs, status": (STATUS,),
    "jobs, posts": (POST,),
    "all": (SEARCH, STATUS, POST),
}
"""The kinds beside jobs; the first arm is what the others are compared with."""
GROUPS = ("all", "active", "first")
POPULARITY = "popularity"


def read_kinds(data: Path, folder: Path) -> tuple[ActivityHistory, ItemVectorSpec]:
    """Return all activity with vectors of the item encoder in `folder`."""
    description = describe_item_encoder(folder / ITEM_ENCODER)
    encoder, vector_spec = ItemEncoder(description), description.vector_spec
    encoded = encode_postings(encoder, JOBS.postings(data))
    specs = {JOB: JOBS.settings.spec}
    events = {JOB: check_events(JOBS.events(data), specs[JOB])}
    vectors = {JOB: ItemVectors.from_arrow(encoded, vector_spec)}
    for kind, actions in KIND_ACTIONS.items():
        specs[kind] = ActivitySpec(actions=actions, positive_actions=())
        domain = names.DomainNames(item=kind, item_id=f"{kind}_id")
        done = ds.dataset(data / f"{kind}_events", format="parquet").to_table()
        events[kind] = check_events(done, specs[kind], source=kind, domain=domain)
        items = pq.read_table(data / f"{kind}_items.parquet")
        encoded = encode_postings(encoder, items, item_id=domain.item_id)
        vectors[kind] = ItemVectors.from_arrow(encoded, vector_spec, item_id=domain.item_id)
    spec = ActivitySpec.of_kinds(specs, KEEP)
    together = ActivityEvents.of(events_of_kinds(events, spec))
    return ActivityHistory.of(together, vectors_of_kinds(vectors), spec), vector_spec


def of_kinds(history: ActivityHistory, kinds: Sequence[str]) -> ActivityHistory:
    """Return the activity on jobs and of some other kinds."""
    spec, events = history.spec, history.events
    actions = [*spec.own_actions, *(action for kind in kinds for action in KIND_ACTIONS[kind])]
    ids = [spec.vocabulary.index(action) for action in actions]
    return replace(history, events=events.where(np.isin(events.action, ids)))


def groups_of(queries: ValidationQueries) -> dict[str, np.ndarray]:
    """Return which queries, whose input is of jobs alone, are of each group, bool [n] each."""
    events = queries.history.events
    start = events.member_start
    # Whoever did nothing has their first event at the end of all.
    first = np.append(events.time, np.iinfo(np.int64).max)[start[:-1]]
    first[np.diff(start) == 0] = np.iinfo(np.int64).max
    active = queries.sequences.count > 0
    new = first[queries.member] >= queries.sequences.as_of
    return {"all": np.ones(len(queries), bool), "active": active, "first": new}


class Figures:
    """NDCG@10 of the members of each group, by arm and seed."""

    def __init__(self, jobs: ActivityHistory) -> None:
        earlier = Period(JOBS.validate_from, JOBS.rank_from)
        later = Period(JOBS.test_from, JOBS.until)
        self.asked = [ValidationQueries.of(jobs, period, minimum=0) for period in (earlier, later)]
        self.groups = [groups_of(queries) for queries in self.asked]
        self.values: dict[str, dict[str, list[np.ndarray]]] = {group: {} for group in GROUPS}

    def add(self, arm: str, embeddings: Sequence[np.ndarray]) -> None:
        """Measure the embeddings of the queries to choose by and to test on."""
        for group in GROUPS:
            chosen, tested = (
                (queries.where(of[group]), vectors[of[group]])
                for queries, of, vectors in zip(self.asked, self.groups, embeddings, strict=True)
            )
            queries, vectors = chosen
            share = queries.measure_scores(queries.products(vectors))["share"]
            queries, vectors = tested
            figures = queries.ndcg_of_members(vectors, share)
            self.values[group].setdefault(arm, []).append(figures)

    def table(self) -> str:
        """Return the table of all groups."""
        lines = []
        for group in GROUPS:
            of_arms = self.values[group]
            kept = self.groups[1][group]
            members = len(np.unique(self.asked[1].member[kept]))
            lines.append(f"\n{group}: {int(kept.sum()):,} queries of {members:,} members")
            base = np.stack(of_arms[next(iter(ARMS))])
            for arm, runs in of_arms.items():
                values = np.stack(runs)
                line = f"  {arm:16} {values.mean():.4f}"
                if arm in ARMS and arm != next(iter(ARMS)):
                    (difference,) = paired_bootstrap(
                        values.mean(axis=0)[:, None],
                        base.mean(axis=0),
                        by_seed=(values - base).mean(axis=1)[:, None],
                    )
                    line += f"  {difference.text()}"
                lines.append(line)
        return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=3_000, help="active seekers")
    parser.add_argument("--passive", type=int, default=3_000, help="who come to the jobs once")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("build/kinds"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    tensorflow()
    started = time.perf_counter()

    def say(line: str) -> None:
        print(f"{time.perf_counter() - started:5.0f} s  {line}", flush=True)

    shutil.rmtree(arguments.folder, ignore_errors=True)
    data = arguments.folder / "data"
    market = JobMarket(members=arguments.members, passive=arguments.passive)
    counts = market.write(data, kinds=True)
    say(", ".join(f"{name} {int(n):,}" for name, n in counts.items() if name.endswith("events")))
    build_item_encoder(data, arguments.folder, sample=JOBS)
    history, vector_spec = read_kinds(data, arguments.folder)
    say("item vectors are made")
    figures = Figures(of_kinds(history, ()))
    nothing = [np.zeros((len(q), vector_spec.dimension), np.float32) for q in figures.asked]
    figures.add(POPULARITY, nothing)
    for name, kinds in (("decay of jobs", ()), ("decay of all", (JOB, *KIND_ACTIONS))):
        decay = InterleavedDecay(kinds=kinds).build(history.spec, vector_spec)
        embed = embed_with(decay, history.spec)
        asked = [queries.asked_of(history) for queries in figures.asked]
        figures.add(name, [embed(queries.sequences, history) for queries in asked])
    for arm, kinds in ARMS.items():
        own = of_kinds(history, kinds)
        for seed in range(arguments.seeds):
            run = train_model(CNN(), own, vector_spec, sample=JOBS, seed=seed)
            embed = embed_with(run.model, own.spec)
            asked = [queries.asked_of(own) for queries in figures.asked]
            figures.add(arm, [embed(queries.sequences, own) for queries in asked])
            say(
                f"{arm}, seed {seed}: {run.result['parameters']['weights']:,} weights, validation "
                f"{run.figure:.4f}, test {figures.values['all'][arm][-1].mean():.4f}"
            )
    print(figures.table())
    say("in all")


if __name__ == "__main__":
    main()
