"""What job activity adds to course recommendations: courses alone, and with jobs beside them.

    python cross_domain.py --repo both --seeds 3

Reads an applied feature repo of both domains. Learners are simulated, and so is every figure. The
two networks have the same architecture and number of weights, and were trained on the same days;
whether job activity is in the sequences is all that differs. The figure is NDCG@10 of the course
that a learner wanted next, among all courses of the day, as of the request, beside popularity; a
mean over learners. How much an embedding counts beside popularity is chosen on earlier days, for
each group of queries by itself:

    all       every new course that a learner enrolled in
    active    with courses in the window
    new       without any: nothing but jobs says anything

Intervals are of the difference from courses alone, by a paired bootstrap over learners, widened by
the deviation between seeds.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from feast import FeatureStore

from activity_embeddings.training.evaluation.statistics import paired_bootstrap
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.embed import embed_with
from activity_embeddings.training.fitting.loop import Fit
from activity_embeddings.training.fitting.plan import TrainingPlan
from activity_embeddings.training.fitting.train import train
from activity_embeddings.training.fitting.validation import ValidationQueries
from activity_embeddings.training.from_repo import TrainingSource
from activity_embeddings.training.models import CNN, Architecture, InterleavedDecay
from activity_embeddings.transformations.inference.tensorflow import tensorflow
from activity_embeddings.transformations.spec import ItemVectorSpec
from activity_embeddings.transformations.wording import counted

TRAIN, VALIDATE, CHOOSE, TEST, END = (
    datetime(2024, month, day, tzinfo=UTC)
    for month, day in ((1, 1), (4, 15), (5, 1), (5, 15), (5, 30))
)
"""Models learn from the first day on, and are validated, mixed with popularity and tested."""
BASES = {"decay of both": "decay of courses", "cnn of both": "cnn of courses"}
"""What the arms with jobs are compared with."""

GROUPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "all": lambda courses: courses >= 0,
    "active": lambda courses: courses > 0,
    "new": lambda courses: courses == 0,
}
"""Which queries are of a group, by the number of courses in the window."""


def embeddings(
    model: Architecture,
    history: ActivityHistory,
    vector_spec: ItemVectorSpec,
    asked: Sequence[ValidationQueries],
    fit: Fit,
) -> list[np.ndarray]:
    """Train a model on a history, and return its embeddings of some queries, float32 [n, D] each.

    Their input is what the history has of each learner at that moment.
    """
    plan = TrainingPlan(
        history=history,
        vector_spec=vector_spec,
        period=Period(TRAIN, VALIDATE),
        validation=Period(VALIDATE, CHOOSE),
        fit=fit,
    )
    embed = embed_with(train(model, plan).model, history.spec)
    return [embed(queries.asked_of(history).sequences, history) for queries in asked]


def figures(
    asked: Sequence[ValidationQueries], vectors: Sequence[np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each group and the NDCG@10 of its learners, by the embeddings of all queries."""
    for group, chosen in GROUPS.items():
        (early, by_early), (late, by_late) = (
            (queries.where(kept), of[kept])
            for queries, of in zip(asked, vectors, strict=True)
            for kept in [chosen(queries.sequences.count)]
        )
        share = early.measure_scores(early.products(by_early))["share"]
        yield group, late.ndcg_of_members(by_late, share)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repo", type=Path, default=Path("both"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    tensorflow()
    source = TrainingSource(FeatureStore(repo_path=str(options.repo)), "course")
    both = source.whole_history(END)
    courses = replace(both, events=both.own_events)
    asked = [
        ValidationQueries.of(courses, period, minimum=0)
        for period in (Period(CHOOSE, TEST), Period(TEST, END))
    ]
    kinds = [kind.name for kind in both.spec.kinds]
    found: dict[str, dict[str, list[np.ndarray]]] = {group: {} for group in GROUPS}
    for arm, model, history, seeds in (
        ("decay of courses", InterleavedDecay(r=0.8), courses, 1),
        ("decay of both", InterleavedDecay(r=0.8, kinds=kinds), both, 1),
        ("cnn of courses", CNN(), courses, options.seeds),
        ("cnn of both", CNN(), both, options.seeds),
    ):
        for seed in range(seeds):
            fit = Fit(epochs=options.epochs, seed=seed)
            vectors = embeddings(model, history, source.vector_spec, asked, fit)
            for group, gains in figures(asked, vectors):
                found[group].setdefault(arm, []).append(gains)
            print(f"{arm}, seed {seed}: {found['all'][arm][-1].mean():.4f}", flush=True)
    print("\nSIMULATED DATA. NDCG@10; above courses alone, with 95 % intervals")
    for group, chosen in GROUPS.items():
        queries = asked[1].where(chosen(asked[1].sequences.count))
        learners = counted(len(np.unique(queries.member)), "learner")
        print(f"{group}: {counted(len(queries), 'query')} of {learners}")
        for arm, of_seeds in found[group].items():
            values, line = np.stack(of_seeds), ""
            if arm in BASES:
                base = np.stack(found[group][BASES[arm]])
                (above,) = paired_bootstrap(
                    values.mean(axis=0)[:, None],
                    base.mean(axis=0),
                    by_seed=(values - base).mean(axis=1)[:, None] if len(values) > 1 else None,
                )
                line = f"  {above.text()}"
            print(f"  {arm:16}  {values.mean():.4f}{line}")


if __name__ == "__main__":
    main()
