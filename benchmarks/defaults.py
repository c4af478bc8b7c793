"""Which settings of a network are best over the data sets: one at a time beside the defaults.

    python benchmarks/defaults.py                                     all data sets, two seeds
    python benchmarks/defaults.py --data entree --only ages "no residual" --seeds 3   these alone

Each row changes one thing of `CNN()`, `NextPositive()` and `Fit()`, the defaults of the package;
the settings that a sample declares are not used. A network learns on the sample's days, and its
epoch and share of popularity are chosen on the validation days that follow: NDCG@10 of what members
wanted next among all items of the day, as of the request. The same network is asked about the days
after those, on which nothing was chosen. Neither are days of a test. Intervals are over members and
seeds. Item vectors are of one seed, learned before; another length has vectors of its own. How far
those of other seeds, or of another processor, lie from them is in no interval.

*patience* is read off one training that is never stopped. Trainings are kept in `--folder`.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from activity_embeddings.training.datasets.sample import ENTREE, ESHOP, FILMS, JOBS, Sample
from activity_embeddings.training.demo.models import (
    DIMENSION,
    ITEM_ENCODER,
    build_item_encoder,
    encoder_plan,
    read_history,
)
from activity_embeddings.training.evaluation.findings import paired
from activity_embeddings.training.evaluation.plan import Declared
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.training.fitting.embed import embed_with
from activity_embeddings.training.fitting.loop import Fit
from activity_embeddings.training.fitting.plan import TrainingPlan
from activity_embeddings.training.fitting.train import train
from activity_embeddings.training.fitting.validation import MOST_MEMBERS, ValidationQueries
from activity_embeddings.training.models import CNN, GRU, LSTM, Architecture, Transformer
from activity_embeddings.training.objectives import FuturePositives, NextPositive, Objective, Proxy
from activity_embeddings.transformations.contract.item_encoder import describe_item_encoder
from activity_embeddings.transformations.inference.tensorflow import tensorflow
from activity_embeddings.transformations.spec import ItemVectorSpec

MARKET = replace(JOBS, name="jobs-20000", members=20_000)
SAMPLES = {sample.name: sample for sample in (ENTREE, ESHOP, FILMS, MARKET)}
DEFAULT = "default"


@dataclass(frozen=True)
class Setting:
    """What a network is trained with."""

    model: Architecture = field(default_factory=CNN)
    objective: Objective = field(default_factory=NextPositive)
    fit: Fit = field(default_factory=Fit)
    dimension: int = DIMENSION
    refit: bool = False


SETTINGS: dict[str, Setting] = {
    DEFAULT: Setting(),
    "ages": Setting(CNN(ages=True)),
    "sessions": Setting(CNN(session_gap_minutes=30)),
    "no residual": Setting(CNN(residual=False)),
    "no way around": Setting(CNN(newest=False)),
    "dropout 0": Setting(CNN(dropout=0.0)),
    "dropout 0.5": Setting(CNN(dropout=0.5)),
    "96 filters": Setting(CNN(filters=96)),
    "5 networks": Setting(CNN(ensemble=5)),
    "5 networks, 5e-3": Setting(CNN(ensemble=5), fit=Fit(learning_rate=5e-3)),
    "5 networks, 5e-3, ema 0.998": Setting(
        CNN(ensemble=5), fit=Fit(learning_rate=5e-3, ema_momentum=0.998)
    ),
    "learning rate 1e-4": Setting(fit=Fit(learning_rate=1e-4)),
    "learning rate 1e-3": Setting(fit=Fit(learning_rate=1e-3)),
    "learning rate 2e-3": Setting(fit=Fit(learning_rate=2e-3)),
    "learning rate 5e-3": Setting(fit=Fit(learning_rate=5e-3)),
    "ema 0.99": Setting(fit=Fit(ema_momentum=0.99)),
    "ema 0.998": Setting(fit=Fit(ema_momentum=0.998)),
    "5e-3, ema 0.99": Setting(fit=Fit(learning_rate=5e-3, ema_momentum=0.99)),
    "5e-3, ema 0.998": Setting(fit=Fit(learning_rate=5e-3, ema_momentum=0.998)),
    "batches of 1,024": Setting(fit=Fit(batch_size=1024)),
    "8 negatives": Setting(objective=NextPositive(day_negatives=8)),
    "128 negatives": Setting(objective=NextPositive(day_negatives=128)),
    "in batch, logQ": Setting(objective=NextPositive(in_batch=True, log_q=True)),
    "in batch, no logQ": Setting(objective=NextPositive(in_batch=True)),
    "all actions": Setting(objective=NextPositive(other_weight=1.0)),
    "14 days, logQ": Setting(objective=FuturePositives()),
    "proxy": Setting(objective=Proxy()),
    "GRU": Setting(GRU()),
    "LSTM": Setting(LSTM()),
    "Transformer": Setting(Transformer()),
    "Transformer, 2 x 96": Setting(Transformer(width=96, blocks=2)),
    "vectors of 32": Setting(dimension=32),
    "vectors of 128": Setting(dimension=128),
    "vectors of 256": Setting(dimension=256),
}
PATIENCE = (1, 2, 4, 8, 16)
"""Epochs without a better figure that are read off the training that is never stopped."""


@dataclass(frozen=True, eq=False)
class Run:
    """A training: its result, and the figures of members on the days of validation and after."""

    result: Mapping[str, Any]
    chosen: np.ndarray
    later: np.ndarray


class Bed:
    """A data set with item vectors of each length, and what is asked about it."""

    def __init__(self, sample: Sample, folder: Path) -> None:
        self.sample, self.folder = sample, folder
        self.histories: dict[int, tuple[ActivityHistory, ItemVectorSpec]] = {}
        self.asked: dict[int, list[ValidationQueries]] = {}
        if not (folder / "data").is_dir():
            sample.write(folder / "data")

    def history(self, dimension: int) -> tuple[ActivityHistory, ItemVectorSpec]:
        """Return the activity with item vectors of a length, which are learned where missing."""
        if dimension not in self.histories:
            models, data = self.folder / f"vectors-{dimension}", self.folder / "data"
            if not (models / ITEM_ENCODER).is_dir():
                plan = replace(encoder_plan(self.sample), dimension=dimension)
                build_item_encoder(data, models, sample=self.sample, plan=plan)
            vector_spec = describe_item_encoder(models / ITEM_ENCODER).vector_spec
            history = read_history(data, models, sample=self.sample)
            self.histories[dimension] = history, vector_spec
            sample = self.sample
            self.asked[dimension] = [
                ValidationQueries.of(history, Period(*ends), most_members=MOST_MEMBERS)
                for ends in (
                    (sample.validate_from, sample.rank_from),
                    (sample.rank_from, sample.test_from),
                )
            ]
        return self.histories[dimension]

    def run(self, name: str, setting: Setting, seed: int) -> Run:
        """Train with a setting, or read what was trained before."""
        sample = self.sample
        history, vector_spec = self.history(setting.dimension)
        plan = TrainingPlan(
            history=history,
            vector_spec=vector_spec,
            period=Period(sample.encoder_until, sample.validate_from),
            validation=Period(sample.validate_from, sample.rank_from),
            objective=setting.objective,
            fit=replace(setting.fit, seed=seed),
            refit=setting.refit,
        )
        trained = train(setting.model, plan, run=self.folder / "runs" / f"{name}-{seed}")
        share = trained.result["metrics"]["validation"]["share"]
        embed = embed_with(trained.model, history.spec)
        chosen, later = (
            queries.ndcg_of_members(embed(queries.sequences, history), share)
            for queries in self.asked[setting.dimension]
        )
        return Run(trained.result, chosen, later)

    def refitted(self, seeds: range) -> str:
        """Return what training again on the validation days too finds on the days after them."""
        own = Setting(
            objective=NextPositive(other_weight=self.sample.other_weight),
            fit=Fit(**self.sample.fit),
        )
        lines = []
        for name, setting in ((DEFAULT, Setting()), ("the sample's own", own)):
            pair = [
                np.stack([self.run(run, each, seed).later for seed in seeds])
                for run, each in (
                    (name, setting),
                    (f"{name}, refit", replace(setting, refit=True)),
                )
            ]
            (above,) = paired(dict(zip("ab", pair, strict=True)), [("b", "a")], Declared())
            lines.append(
                f"  {name:22} {pair[0].mean():.4f}, refit {pair[1].mean():.4f}  {above.text()}"
            )
        return "\n".join(lines)

    def patience(self, seeds: range) -> str:
        """Return what each patience would have found of the default, in how many epochs."""
        unstopped = Setting(fit=Fit(epochs=40, patience=40))
        runs = [self.run("unstopped", unstopped, seed) for seed in seeds]
        histories = [[epoch[FIGURE] for epoch in run.result["training"]["history"]] for run in runs]
        lines = []
        for patience in PATIENCE:
            ends = [stop(figures, patience) for figures in histories]
            best = np.mean([max(f[:end]) for f, end in zip(histories, ends, strict=True)])
            lines.append(f"  patience {patience:2}: {best:.4f} in {np.mean(ends):4.1f} epochs")
        best = np.mean([max(figures) for figures in histories])
        return "\n".join([*lines, f"  not stopped: {best:.4f} in 40 epochs"])


def stop(figures: list[float], patience: int) -> int:
    """Return the number of epochs after which training stops."""
    for end in range(1, len(figures) + 1):
        if end - 1 - int(np.argmax(figures[:end])) >= patience:
            return end
    return len(figures)


def table(found: Mapping[str, np.ndarray]) -> str:
    """Return a line for each setting's float [seeds, members]: its figure, above the default's."""
    pairs = [(name, DEFAULT) for name in found if name != DEFAULT]
    differences = paired(found, pairs, Declared()) if pairs else []
    above = {name: d.text() for (name, _), d in zip(pairs, differences, strict=True)}
    return "\n".join(
        f"  {name:22} {values.mean():.4f}  {above.get(name, '')}".rstrip()
        for name, values in found.items()
    )


def overall(of_beds: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Return what each setting finds above the default, per cent, by data set and at the least."""
    first = next(iter(of_beds.values()))
    lines = [f"  {'':22} {' '.join(f'{name:>10}' for name in of_beds)}       mean      least"]
    for setting in first:
        above = [
            100 * float(found[setting].mean() / found[DEFAULT].mean() - 1)
            for found in of_beds.values()
        ]
        columns = " ".join(f"{value:+10.1f}" for value in (*above, np.mean(above), min(above)))
        lines.append(f"  {setting:22} {columns}")
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", choices=SAMPLES, nargs="+", default=list(SAMPLES))
    add("--only", choices=SETTINGS, nargs="+", help="beside the default; no patience, refit")
    add("--seeds", type=int, default=2)
    add("--folder", type=Path, default=Path("build/defaults"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    tensorflow()
    chosen, later = {}, {}
    settings = [DEFAULT, *(name for name in given.only or SETTINGS if name != DEFAULT)]
    for name in given.data:
        bed = Bed(SAMPLES[name], given.folder / name)
        print(f"\n== {name}: {bed.sample.description}", flush=True)
        chosen[name], later[name] = {}, {}
        for setting in settings:
            started = time.process_time()
            runs = [bed.run(setting, SETTINGS[setting], seed) for seed in range(given.seeds)]
            chosen[name][setting] = np.stack([run.chosen for run in runs])
            later[name][setting] = np.stack([run.later for run in runs])
            epochs = [run.result["training"]["best_epoch"] for run in runs]
            by_seed = " ".join(f"{run.chosen.mean():.4f}" for run in runs)
            print(
                f"  {setting}: {chosen[name][setting].mean():.4f} ({by_seed}), best epochs "
                f"{epochs}, {(time.process_time() - started) / 60:.1f} min",
                flush=True,
            )
        print(f"\n  on the validation days, above the default\n{table(chosen[name])}", flush=True)
        print(f"\n  on the days after them\n{table(later[name])}", flush=True)
        if given.only is None:
            print(f"\n{bed.patience(range(given.seeds))}", flush=True)
            print(f"\n  on the days after\n{bed.refitted(range(given.seeds))}", flush=True)
    for title, found in (("validation", chosen), ("the days after", later)):
        print(f"\nabove the default, per cent, {title}\n{overall(found)}", flush=True)


if __name__ == "__main__":
    main()
