"""From how many members on learning pays, on the simulated job market.

    python benchmarks/learning_curve.py                              6,000 and 20,000 members, CNN
    python benchmarks/learning_curve.py --members 6000 20000 60000 --models cnn gru transformer
    python benchmarks/learning_curve.py --as-of published            values of the last midnight
    python benchmarks/learning_curve.py --plot                       draw what README.md keeps

Members are simulated, and so is every figure. There is one market, of the largest number of members
or of `--market`, and a network learns from the first members of it. All else is the same whatever
their number: item vectors, of an encoder that learned from the first `--encoder-members`; queries,
of the first `--asked`; candidates and popularity, of all members.

The figure is NDCG@10 of what members wanted next among all items of the day, beside popularity; a
mean over members. How much each vector counts, the rate of a decay and the epoch of a network are
chosen on days before the test (see `best_mix`). Intervals are of differences, by a paired
bootstrap over members, of several seeds widened by the deviation between them.

Trainings are kept in `--folder`: the same command goes on with one that was killed after its last
epoch, and reads those that are complete.
"""

from __future__ import annotations

import argparse
import re
import resource
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from activity_embeddings.training.datasets.sample import JOBS
from activity_embeddings.training.demo.models import ITEM_ENCODER, build_item_encoder, read_history
from activity_embeddings.training.evaluation.first_look import added, best_mix_of
from activity_embeddings.training.evaluation.plan import AsOf
from activity_embeddings.training.evaluation.statistics import paired_bootstrap
from activity_embeddings.training.examples.held_out import Windows, hold_out
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.training.fitting.embed import (
    Outputs,
    decayed_average,
    embed_with,
    outputs_with,
)
from activity_embeddings.training.fitting.loop import Fit
from activity_embeddings.training.fitting.plan import TrainingPlan
from activity_embeddings.training.fitting.train import TrainedRun, train
from activity_embeddings.training.fitting.validation import ValidationQueries
from activity_embeddings.training.models import (
    CNN,
    GRU,
    Architecture,
    GeometricDecay,
    InterleavedDecay,
    SeveralRatesDecay,
    Transformer,
)
from activity_embeddings.training.models.averages import DECAYS, Formula
from activity_embeddings.transformations.contract.item_encoder import describe_item_encoder
from activity_embeddings.transformations.inference.tensorflow import tensorflow
from activity_embeddings.transformations.spec import ItemVectorSpec
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

NETWORKS: dict[str, Architecture] = {
    "cnn": CNN(ages=True),
    "large_cnn": CNN(ages=True, filters=128),
    "cnn_ensemble": CNN(ages=True, ensemble=5),
    "gru": GRU(ages=True),
    "transformer": Transformer(ages=True),
}
POPULARITY, BEST_DECAY, THREE_DECAYS = "popularity", "best decay", "three decays"
RIVALS = (BEST_DECAY, THREE_DECAYS)
"""What intervals compare with: one decay of all positives, and one of each action."""
BESIDE = 1.06
"""How far apart the points of networks are drawn that learned from the same members, a factor."""
HERE = Path(__file__).parent
PLOT = HERE.parent / "docs" / "assets" / "learning_curve.png"


def queries_of(history: ActivityHistory, period: Period, most: int, as_of: AsOf):
    """Return the queries of the first members in a period."""
    windows = Windows(minimum=1, prefixes=True, per_member=None)
    first = history.events.member_ids.to_numpy() <= most
    held_out = hold_out(
        history,
        period,
        windows=windows,
        among=first[history.events.member],
        random=np.random.default_rng(0),
    )
    queries = ValidationQueries.of_held_out(history, held_out, period)
    if as_of == AsOf.PUBLISHED:
        midnight = queries.sequences.as_of // MICROSECONDS_PER_DAY * MICROSECONDS_PER_DAY
        queries = replace(queries, sequences=history.sequences(queries.member, midnight))
    return queries


def best_of(
    kind: type[Formula], queries: ValidationQueries, vector_spec: ItemVectorSpec
) -> tuple[Formula, float]:
    """Return the average whose rate is best on some queries, and the rate."""
    spec = queries.history.spec

    def figure(r: float) -> float:
        average = kind(r=r).build(spec, vector_spec)
        return queries.measure(embed_with(average, spec))[FIGURE]

    best = max(DECAYS, key=figure)
    return kind(r=best), best


def learn(
    name: str,
    members: int,
    seed: int,
    history: ActivityHistory,
    vector_spec: ItemVectorSpec,
    given: argparse.Namespace,
) -> tuple[TrainedRun, float]:
    """Train a network on the first members, or read what was trained before.

    Returns
    -------
    The run, and its minutes of the processor: NaN where it was killed in between.
    """
    first = np.flatnonzero(history.events.member_ids.to_numpy() <= members)
    plan = TrainingPlan(
        history=history.of_members(first),
        vector_spec=vector_spec,
        period=Period(JOBS.encoder_until, JOBS.validate_from),
        validation=Period(JOBS.validate_from, JOBS.rank_from),
        fit=Fit(epochs=given.epochs, learning_rate=given.learning_rate, seed=seed),
    )
    vectors = f"{vector_spec.name}-{given.encoder_members}"
    run = given.folder / "runs" / f"{name}-{members}-{vectors}-{seed}"
    kept, begun, started = run / "minutes", run.is_dir(), time.process_time()
    trained = train(NETWORKS[name], plan, run=run)
    if not kept.is_file():
        minutes = float("nan") if begun else (time.process_time() - started) / 60
        kept.write_text(str(minutes), encoding="utf-8")
    return trained, float(kept.read_text(encoding="utf-8"))


class Curve:
    """The market, what is asked about it, and what each arm finds."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.started = given, time.process_time()
        self.found: dict[tuple[str, int], list[np.ndarray]] = {}
        self.minutes: dict[tuple[str, int], list[float]] = {}
        folder, learned_from = given.folder, given.encoder_members
        market = given.market or max(given.members)
        self.data = data = folder / f"{market}-members"
        if not data.is_dir():
            replace(JOBS, members=market).write(data)
        self.say("market")
        encoder = folder / f"encoder-{learned_from}"
        if not encoder.is_dir():
            sample = replace(JOBS, members=learned_from)
            sample.write(encoder / "data")
            build_item_encoder(encoder / "data", encoder, sample=sample)
        self.say("item encoder")
        self.vector_spec = describe_item_encoder(encoder / ITEM_ENCODER).vector_spec
        self.history = read_history(data, encoder, sample=JOBS)
        self.early, self.late = (
            queries_of(self.history, Period(*ends), given.asked, given.as_of)
            for ends in ((JOBS.rank_from, JOBS.test_from), (JOBS.test_from, JOBS.until))
        )
        members, events = len(self.history.events.member_ids), len(self.history.events)
        asked = len(np.unique(self.late.member))
        self.say(f"{events:,} events of {members:,} members with any")
        self.say(f"{len(self.late):,} queries of {asked:,} members, as of the {given.as_of}")

    def say(self, line: str) -> None:
        """Print what is done, after the minutes of the processor and the peak of memory so far."""
        minutes = (time.process_time() - self.started) / 60
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{minutes:6.1f} min {peak:5.2f} GiB  {line}", flush=True)

    def add(self, arm: str, members: int, outputs: Outputs) -> float:
        """Measure a model, each of its vectors with the weight that is best before the test."""
        early, late = (outputs(q.sequences, self.history) for q in (self.early, self.late))
        mix = best_mix_of(self.early, early)
        figures = self.late.ndcg_of_members(added(late, mix.weights), mix.share)
        self.found.setdefault((arm, members), []).append(figures)
        return float(figures.mean())

    def averages(self) -> None:
        """Measure popularity and the averages, which learn from nobody."""
        nothing = np.zeros((len(self.late), self.history.vectors.dimension), np.float32)
        self.found[POPULARITY, 0] = [self.late.ndcg_of_members(nothing, 0.0)]
        single, r = best_of(InterleavedDecay, self.early, self.vector_spec)
        each, r_each = best_of(GeometricDecay, self.early, self.vector_spec)
        mean = decayed_average(1.0)
        self.add("mean", 0, lambda sequences, history: {"mean": mean(sequences, history)})
        averages = {BEST_DECAY: single, THREE_DECAYS: each, "three_rates": SeveralRatesDecay()}
        for arm, average in averages.items():
            self.add(arm, 0, outputs_with(average.build(self.history.spec, self.vector_spec)))
        self.say(f"averages; best decay r = {r}, three decays r = {r_each}")

    def network(self, name: str, members: int, seed: int) -> None:
        """Train a network on the first members and measure it."""
        given = self.given
        trained, minutes = learn(name, members, seed, self.history, self.vector_spec, given)
        self.minutes.setdefault((name, members), []).append(minutes)
        figure = self.add(name, members, outputs_with(trained.model))
        training = trained.result["training"]
        count = sum(training["examples"]["examples"].values())
        self.say(
            f"{name} of {members:,}, seed {seed}: {count:,} examples, best epoch "
            f"{training['best_epoch']} of {training['epochs']}, {minutes:.1f} min, validation "
            f"{trained.figure:.4f}, test {figure:.4f}"
        )

    def table(self) -> str:
        """Return what every arm found."""
        lines = [
            f"{'':14} members  NDCG@10  minutes  {'above ' + BEST_DECAY:28}above {THREE_DECAYS}"
        ]
        for (arm, members), runs in self.found.items():
            line = f"{arm:14} {members or '':>7}   {np.mean(runs):.4f}"
            if members:
                line += f"  {np.mean(self.minutes[arm, members]):7.1f}  "
                values = np.stack(runs)
                for rival in RIVALS:
                    base = self.found[rival, 0][0]
                    (difference,) = paired_bootstrap(
                        values.mean(axis=0)[:, None],
                        base,
                        by_seed=(values - base).mean(axis=1)[:, None] if len(runs) > 1 else None,
                    )
                    line += f"{difference.text():28}"
            lines.append(line.rstrip())
        return "\n".join(lines)


def plot() -> None:
    """Draw the lift over the best decay by the number of members, as README.md keeps it."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    text = (HERE / "README.md").read_text(encoding="utf-8")
    start = text.index("## `learning_curve.py`")
    section = text[start : text.index("\n## ", start)]
    number = r"([+-]0\.\d+)"
    row = rf"^ +(\w+) +(\d+) +0\.\d+ +\S+ +{number} \[{number}, {number}\]"
    tables = (re.findall(row, part, re.MULTILINE) for part in section.split("\n\n"))
    found = next(filter(None, tables))  # others are of other markets
    figure, axis = plt.subplots(figsize=(6.5, 2.8))
    names = list(dict.fromkeys(row[0] for row in found))
    for place, name in enumerate(names):
        rows = [[float(value) for value in row[1:]] for row in found if row[0] == name]
        members, lift, low, high = np.array(rows).T
        members = members * BESIDE ** (place - (len(names) - 1) / 2)
        axis.errorbar(members, lift, [lift - low, high - lift], marker="o", capsize=3, label=name)
    axis.axhline(0, color="#8a8a8a", linewidth=1)
    axis.set_xscale("log")
    axis.set_xticks(sorted({int(row[1]) for row in found}))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.minorticks_off()
    axis.set_xlabel("members that a network learned from (simulated)", fontsize=9)
    axis.set_ylabel("NDCG@10 above best decay", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)
    axis.legend(fontsize=9, frameon=False)
    figure.tight_layout()
    figure.savefig(PLOT, dpi=110)
    print(PLOT)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--members", type=int, nargs="+", default=[6_000, 20_000], help="that networks learn from")
    add("--market", type=int, help="its number of members; default: the largest of --members")
    add("--models", choices=NETWORKS, nargs="+", default=["cnn"])
    add("--seeds", type=int, default=1)
    add("--asked", type=int, default=6_000, help="members that are asked, the first ones")
    add("--encoder-members", type=int, default=6_000, help="that item vectors are learned from")
    add("--as-of", choices=[AsOf.REQUEST, AsOf.PUBLISHED], type=AsOf, default=AsOf.REQUEST)
    add("--epochs", type=int, default=20, help="the most")
    add("--learning-rate", type=float, default=5e-4)
    add("--folder", type=Path, default=Path("build/learning-curve"))
    add("--plot", action="store_true", help="draw what README.md keeps, and measure nothing")
    given = parser.parse_args()
    if given.plot:
        plot()
        return
    warnings.simplefilter("ignore")
    tensorflow()
    curve = Curve(given)
    curve.averages()
    for members in given.members:
        for name in given.models:
            for seed in range(given.seeds):
                curve.network(name, members, seed)
        print(f"\n{curve.table()}\n", flush=True)


if __name__ == "__main__":
    main()
