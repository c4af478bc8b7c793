"""How far the ranker's seeds lie apart, with the settings of today and with those before.

    python benchmarks/ranker_seeds.py                              30 seeds, 1,000 and 2,000 queries
    python benchmarks/ranker_seeds.py --data jobs --queries 1000   one data set, one size

Nothing differs between two seeds but what LightGBM draws: queries of each tree, and, with
`wanted_label=1`, most of what it learns from. The arm is that of the base features as of the
request, which needs no model; the test has one query of each member.
"""

from __future__ import annotations

import argparse
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from activity_embeddings.training.datasets.sample import SAMPLES, Sample
from activity_embeddings.training.demo.models import (
    ITEM_ENCODER,
    build_item_encoder,
    read_history,
)
from activity_embeddings.training.evaluation.base_features import BaseFeatures, Categories
from activity_embeddings.training.evaluation.data import Data, posted_at
from activity_embeddings.training.evaluation.feature_tables import base_rows, feature_tables
from activity_embeddings.training.evaluation.measure import list_figures
from activity_embeddings.training.evaluation.plan import AsOf, Timeline
from activity_embeddings.training.evaluation.queries import Queries, ranking_queries
from activity_embeddings.training.evaluation.ranker import Ranker, RankerSettings
from activity_embeddings.training.evaluation.store import EvaluationStore
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.transformations.contract.item_encoder import describe_item_encoder
from activity_embeddings.transformations.inference.tensorflow import tensorflow
from activity_embeddings.transformations.times import Schedule

DAILY = Schedule.every(hours=24, delay_minutes=30)
NOW = RankerSettings()
SETTINGS = {
    "label 1, any leaf": replace(NOW, wanted_label=1, wanted_of_leaf=1e-3),
    "label 1": replace(NOW, wanted_label=1),
    "any leaf": replace(NOW, wanted_of_leaf=1e-3),
    "as it is": NOW,
}
"""The settings that LightGBM has by itself, one cure at a time, and both."""


def read(sample: Sample, folder: Path) -> Data:
    """Read a data set, with an item encoder of its own; what is there is kept."""
    data = folder / "data"
    if not data.is_dir():
        sample.write(data)
    if not (folder / ITEM_ENCODER).is_dir():
        build_item_encoder(data, folder, sample=sample)
    postings = sample.postings(data)
    return Data(
        read_history(data, folder, sample=sample),
        describe_item_encoder(folder / ITEM_ENCODER).vector_spec,
        postings,
        tuple(field.name for field in postings.schema if pa.types.is_list(field.type)),
        DAILY,
        sample.description,
    )


def tables(
    data: Data, sample: Sample, folder: Path, most: int
) -> tuple[tuple[Queries, Queries], list[np.ndarray]]:
    """Return queries to learn from and to test on, and the base features of their rows."""
    timeline = Timeline(sample.rank_from, sample.test_from, sample.until)
    queries = (
        ranking_queries(data.history, timeline.ranker, per_member=4, most=most, seed=0),
        ranking_queries(data.history, timeline.test, per_member=1, seed=1),
    )
    categories = Categories.from_arrow(
        data.postings,
        data.category_columns,
        data.history.vectors.item_ids,
        until=timeline.ranker.start_us,
    )
    base = BaseFeatures(data.history, posted_at(data), categories)
    store = EvaluationStore(
        folder / "feast",
        data.history,
        vector_spec=data.vector_spec,
        schedule=data.schedule,
        models={},
        tables=feature_tables(base, queries, data, AsOf.REQUEST),
    )
    return queries, base_rows(store, queries, base, AsOf.REQUEST)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=SAMPLES, nargs="+", default=list(SAMPLES))
    parser.add_argument("--queries", type=int, nargs="+", default=[1000, 2000])
    parser.add_argument("--settings", choices=SETTINGS, nargs="+", default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--folder", type=Path, default=Path("build/ranker_seeds"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    tensorflow()
    print(f"NDCG@10 of the base features, {arguments.seeds} seeds")
    print(f"{'data':8} {'queries':>7}  {'settings':18} {'mean':>6} {'spread':>6} {'least':>6}")
    for name in arguments.data:
        folder = arguments.folder / name
        data = read(SAMPLES[name], folder)
        for most in arguments.queries:
            (train, test), (rows, tested) = tables(data, SAMPLES[name], folder, most)
            for title in arguments.settings:

                def figure(seed: int, settings: RankerSettings = SETTINGS[title]) -> float:
                    scores = Ranker(settings, seed=seed).fit(rows, train).scores(tested)  # noqa: B023
                    return float(list_figures(scores, test)[FIGURE].mean())  # noqa: B023

                with ThreadPoolExecutor(os.cpu_count()) as threads:
                    found = np.array(list(threads.map(figure, range(arguments.seeds))))
                print(
                    f"{name:8} {len(train):7,}  {title:18} {found.mean():6.4f} "
                    f"{found.std(ddof=1):6.4f} {found.min():6.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
