"""Where the rest is lost, on the simulated job market: one figure for each stage.

    python benchmarks/where_lost.py                               6,000 members
    python benchmarks/where_lost.py --market 60000 --members 60000 --asked 6000 --seeds 3

Members are simulated, and so is every figure; what they want is known. NDCG@10 of what they wanted
next among all items of the day, as of the request, a mean over members, the same queries for all:

- without a ranker, beside popularity: averages, a network, a network of true item vectors, the true
  preference, and the true exposure of postings beside it. What is read into another space is read
  by least squares: an embedding as a preference on days before the test, an item's vector as its
  true one over items of other folds.
- by the ranker of the evaluation, which learned on days before the test.

A network that reads true item vectors and is judged by them says, from below, how much any function
of the newest 32 activities can find. What is lost between two stages has an interval: a paired
bootstrap over members, of several seeds widened by the deviation between them. Trainings are kept
in `--folder`, that of `learning_curve.py`, and read from there.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from learning_curve import NETWORKS, Curve, best_of, learn
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict

from activity_embeddings.training.datasets.job_market import JobMarket
from activity_embeddings.training.datasets.sample import JOBS, TRUTH
from activity_embeddings.training.evaluation.base_features import (
    ITEM_STATISTICS,
    MEMBER_STATISTICS,
    PROFILE,
    BaseFeatures,
    Categories,
    content_match,
)
from activity_embeddings.training.evaluation.data import (
    TRUE_MEMBERS,
    Data,
    posted_at,
    true_item_vectors,
)
from activity_embeddings.training.evaluation.measure import list_figures
from activity_embeddings.training.evaluation.plan import AsOf
from activity_embeddings.training.evaluation.queries import Queries, ranking_queries
from activity_embeddings.training.evaluation.ranker import (
    Ranker,
    RankerSettings,
    Vectors,
    vector_columns,
)
from activity_embeddings.training.evaluation.statistics import paired_bootstrap
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.training.fitting.embed import Outputs, outputs_with
from activity_embeddings.training.fitting.validation import ValidationQueries
from activity_embeddings.training.metrics import mean_by_member
from activity_embeddings.training.models import InterleavedDecay
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.arrow import time_column
from activity_embeddings.transformations.inference.tensorflow import tensorflow
from activity_embeddings.transformations.names import EVENT_TIMESTAMP, MEMBER_ID
from activity_embeddings.transformations.ragged import bisect
from activity_embeddings.transformations.spec import ItemVectorSpec
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY, Schedule, to_us

DAILY = Schedule.every(hours=24, delay_minutes=30)
"""When the ranker's statistics of items are of, as in `feature_repo/feature_store.yaml`."""
TRAIN_QUERIES = 2_000
"""That the ranker learns from, as in the evaluation."""
EXPOSURES = (0.0, 0.5, 1.0, 1.5, 2.0)
"""How much the logarithm of a posting's exposure may count beside its utility."""
FOLDS, PENALTIES = 5, 10.0 ** np.arange(-3, 3)

POPULARITY = "popularity"
DECAY = "best decay"
DECAY_TRUE = "best decay of true item vectors"
NETWORK = "network"
NETWORK_READ = "network, true item vectors beside it"
NETWORK_TRUE = "network of true item vectors"
WANT_OURS = "true preference, our item vectors"
WANT = "true preference"
EXPOSED = "true preference and exposure"
RANKED = "ranker: base features"
RANKED_NETWORK = "ranker: network"
RANKED_WANT = "ranker: true preference"
LOSSES = (
    ("by an average, not a network", NETWORK, DECAY),
    ("by judging an embedding by our item vectors", NETWORK_READ, NETWORK),
    ("by our item vectors, in the network and after it", NETWORK_TRUE, NETWORK),
    ("by our item vectors, were the preference known", WANT, WANT_OURS),
    ("in what the network reads in 32 activities", WANT, NETWORK_TRUE),
    ("in how often a posting is shown", EXPOSED, WANT),
    ("by the ranker, were the preference known", EXPOSED, RANKED_WANT),
    ("by the embedding, in the ranker", RANKED_WANT, RANKED_NETWORK),
)
"""What is lost where: the stage that has more, and that which has less."""


class Market:
    """The queries of a market with all that is true of it."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.curve = curve = Curve(given)
        self.given, self.history = given, curve.history
        self.early, self.late = curve.early, curve.late
        self.found: dict[str, list[np.ndarray]] = {}
        data = Data(
            history=self.history,
            vector_spec=curve.vector_spec,
            postings=JOBS.postings(curve.data),
            category_columns=JOBS.categories,
            schedule=DAILY,
            description=JOBS.description,
            simulated=True,
            truth=curve.data / TRUTH,
        )
        items = true_item_vectors(data)
        assert items is not None
        self.items = items
        vectors = self.history.vectors
        of_row = np.repeat(np.arange(len(items)), np.diff(vectors.start))
        true_rows = np.vstack([items[of_row], np.zeros_like(items[:1])])
        self.true_spec = ItemVectorSpec("true", "1", items.shape[1])
        self.true_history = replace(self.history, vectors=replace(vectors, matrix=true_rows))
        # What our vector of an item says of its true one: of other items, so that none says itself.
        folds = KFold(FOLDS, shuffle=True, random_state=0)
        newest = vectors.matrix[vectors.start[1:] - 1]
        self.read_items = cross_val_predict(RidgeCV(PENALTIES), newest, items, cv=folds)
        self.wanted = tuple(
            self.preferences(q.member, q.sequences.as_of) for q in (self.early, self.late)
        )
        categories = Categories.from_arrow(
            data.postings,
            data.category_columns,
            vectors.item_ids,
            until=to_us(JOBS.rank_from),
        )
        self.base = BaseFeatures(self.history, posted_at(data), categories)
        asked = self.history.events.member_ids.to_numpy() <= given.asked
        self.ranked = tuple(
            ranking_queries(self.history, Period(*ends), among=asked, most=most)
            for ends, most in (
                ((JOBS.rank_from, JOBS.test_from), TRAIN_QUERIES),
                ((JOBS.test_from, JOBS.until), None),
            )
        )
        assert len(self.ranked[1]) == len(self.late)
        self.features = tuple(self.base_rows(queries) for queries in self.ranked)

    def preferences(self, member: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return what members truly prefer, each at a time, float32 [n, K + 1]."""
        table = pq.read_table(self.curve.data / TRUTH / TRUE_MEMBERS)
        known = table[MEMBER_ID].to_numpy()
        ids = self.history.events.member_ids.to_numpy()[member]
        low, high = (np.searchsorted(known, ids, side) for side in ("left", "right"))
        row = bisect(time_column(table, EVENT_TIMESTAMP, TRUTH), low, high, time, right=True) - 1
        return np.stack(table["preference"].take(row).to_numpy())

    def exposures(self, queries: ValidationQueries) -> list[np.ndarray]:
        """Return the logarithm of how often each item of each day was shown, float [m] a day."""
        market = JobMarket(members=1)
        first = to_us(market.start) // MICROSECONDS_PER_DAY
        ids = self.history.vectors.item_ids.to_numpy()
        of_days = []
        for day in queries.days:
            date = int(queries.sequences.as_of[day.query[0]]) // MICROSECONDS_PER_DAY
            shown, exposure = market.all_jobs.shown_on(date - first)
            of_jobs = np.full(market.jobs, np.nan)
            of_jobs[shown] = np.log(exposure)
            of_days.append(of_jobs[ids[day.items] - 1])
        return of_days

    def base_rows(self, queries: Queries) -> np.ndarray:
        """Return the ranker's base features, float32 [R, F], as the evaluation has them."""
        moments, moment = np.unique(DAILY.newest(queries.time), return_inverse=True)
        of_items = [self.base.of_items(int(each)) for each in moments]
        row = moment[queries.query]
        columns = [
            np.stack([each[name] for each in of_items])[row, queries.item]
            for name in ITEM_STATISTICS
        ]
        of_members = self.base.of_members(queries.member, queries.time)
        columns += [of_members[name][queries.query] for name in MEMBER_STATISTICS]
        profile, categories = of_members[PROFILE], self.base.categories
        columns.append(content_match(profile, categories, queries.query, queries.item))
        return np.stack(columns, axis=1).astype(np.float32)

    def add(self, stage: str, scores: Callable[[int], Sequence[np.ndarray]]) -> None:
        """Measure a stage without a ranker.

        Parameters
        ----------
        stage
            Its name.
        scores
            Gives the scores of the queries before the test, and of those of it: float [n, m] for
            each day.
        """
        share = self.early.measure_scores(scores(0))["share"]
        self.note(stage, self.late.ndcg_by_scores(scores(1), share))

    def note(self, stage: str, of_members: np.ndarray) -> None:
        """Keep the figure of each member, of one more seed."""
        self.found.setdefault(stage, []).append(of_members)
        self.curve.say(f"{stage}: {of_members.mean():.4f}")

    def by_items(self, part: int, members: np.ndarray, items: np.ndarray) -> list[np.ndarray]:
        """Return the products of members' vectors and items', float [n, m] for each day."""
        queries = (self.early, self.late)[part]
        return [members[day.query] @ items[day.items].T for day in queries.days]

    def truth(self) -> None:
        """Measure what is known of members and items in truth."""
        early, late = map(self.exposures, (self.early, self.late))

        def exposed(part: int, weight: float) -> list[np.ndarray]:
            utilities = self.by_items(part, self.wanted[part], self.items)
            return [u + weight * e for u, e in zip(utilities, (early, late)[part], strict=True)]

        def reached(weight: float) -> float:
            return self.early.measure_scores(exposed(0, weight))[FIGURE]

        self.add(WANT_OURS, lambda part: self.by_items(part, self.wanted[part], self.read_items))
        self.add(WANT, lambda part: exposed(part, 0.0))
        best = max(EXPOSURES, key=reached)
        self.add(EXPOSED, lambda part: exposed(part, best))

    def averages(self) -> None:
        """Measure popularity, and the best decay of our item vectors and of true ones."""
        none = np.zeros((len(self.late), self.history.vectors.dimension), np.float32)
        self.note(POPULARITY, self.late.ndcg_of_members(none, 0.0))
        for stage, history, spec in (
            (DECAY, self.history, self.curve.vector_spec),
            (DECAY_TRUE, self.true_history, self.true_spec),
        ):
            early, late = (replace(q, history=history) for q in (self.early, self.late))
            average, _ = best_of(InterleavedDecay, early, spec)
            outputs = outputs_with(average.build(history.spec, spec))
            parts = [q.products(self.embedded(outputs, q.sequences, stage)) for q in (early, late)]
            self.add(stage, parts.__getitem__)

    def embedded(self, outputs: Outputs, sequences: Sequences, stage: str) -> np.ndarray:
        """Return the one vector of each sequence, of our item vectors or of true ones."""
        history = self.true_history if stage in (DECAY_TRUE, NETWORK_TRUE) else self.history
        (vectors,) = outputs(sequences, history).values()
        return vectors

    def network(self, name: str, members: int, seed: int) -> None:
        """Train a network on our item vectors and on true ones, and measure both."""
        trained, _ = learn(name, members, seed, self.history, self.curve.vector_spec, self.given)
        self.curve.say(f"{name} trained, seed {seed}")
        ours = outputs_with(trained.model)
        embedded = [self.embedded(ours, q.sequences, NETWORK) for q in (self.early, self.late)]
        parts = [q.products(e) for q, e in zip((self.early, self.late), embedded, strict=True)]
        self.add(NETWORK, parts.__getitem__)
        reading = RidgeCV(PENALTIES).fit(embedded[0], self.wanted[0])
        read = [reading.predict(each) for each in embedded]
        self.add(NETWORK_READ, lambda part: self.by_items(part, read[part], self.items))
        self.rank(
            RANKED_NETWORK,
            seed,
            [
                Vectors(
                    self.embedded(ours, queries.sequences, NETWORK),
                    self.history.vectors.matrix,
                    queries.vector_row,
                )
                for queries in self.ranked
            ],
        )
        trained, _ = learn(name, members, seed, self.true_history, self.true_spec, self.given)
        self.curve.say(f"{name} of true item vectors trained, seed {seed}")
        true = outputs_with(trained.model)
        embedded = [self.embedded(true, q.sequences, NETWORK_TRUE) for q in (self.early, self.late)]
        self.add(NETWORK_TRUE, lambda part: self.by_items(part, embedded[part], self.items))

    def rank(self, stage: str, seed: int, vectors: Sequence[Vectors] = ()) -> None:
        """Measure the ranker with a vector of each member, or with base features alone."""
        train, test = self.ranked
        tables = self.features
        if vectors:
            settings = RankerSettings()
            columns = vector_columns((train, vectors[:1]), (test, vectors[1:]), settings, seed=0)
            tables = tuple(np.hstack(pair) for pair in zip(tables, columns, strict=True))
        scores = Ranker(RankerSettings(), seed=seed).fit(tables[0], train).scores(tables[1])
        gains = list_figures(scores, test)[FIGURE]
        self.note(stage, mean_by_member(gains, test.member)[1])

    def report(self) -> str:
        """Return the figure of each stage, and what is lost between two."""
        lines = [f"{'':36} NDCG@10"]
        lines += [f"{stage:36}  {np.mean(runs):.4f}" for stage, runs in self.found.items()]
        lines.append("\nlost")
        return "\n".join(lines + [f"{says:50} {self.lost(*pair)}" for says, *pair in LOSSES])

    def lost(self, more: str, less: str) -> str:
        """Return the difference of two stages with its interval."""
        seeds = max(len(self.found[more]), len(self.found[less]))
        values, base = (
            np.stack([runs[i % len(runs)] for i in range(seeds)])
            for runs in (self.found[more], self.found[less])
        )
        by_seed = (values - base).mean(axis=1)[:, None]
        (difference,) = paired_bootstrap(
            values.mean(axis=0)[:, None],
            base.mean(axis=0),
            by_seed=by_seed if seeds > 1 else None,
        )
        return difference.text()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--market", type=int, default=6_000, help="its number of members")
    add("--members", type=int, help="that networks learn from, the first ones; default: all")
    add("--model", choices=NETWORKS, default="cnn")
    add("--seeds", type=int, default=1)
    add("--asked", type=int, default=6_000, help="members that are asked, the first ones")
    add("--encoder-members", type=int, default=6_000, help="that item vectors are learned from")
    add("--epochs", type=int, default=20, help="the most")
    add("--learning-rate", type=float, default=5e-4)
    add("--folder", type=Path, default=Path("build/learning-curve"))
    given = parser.parse_args()
    given.as_of = AsOf.REQUEST
    warnings.simplefilter("ignore")
    tensorflow()
    market = Market(given)
    market.averages()
    market.truth()
    for seed in range(given.seeds):
        market.rank(RANKED, seed)
        wanted = [market.preferences(q.member, q.time) for q in market.ranked]
        vectors = [
            Vectors(want, market.items, queries.item)
            for want, queries in zip(wanted, market.ranked, strict=True)
        ]
        market.rank(RANKED_WANT, seed, vectors)
        market.network(given.model, given.members or given.market, seed)
        print(f"\n{market.report()}\n", flush=True)


if __name__ == "__main__":
    main()
