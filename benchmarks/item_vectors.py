"""What item vectors know from content and what from behaviour, of items old and new.

    python benchmarks/item_vectors.py                    the simulated job market, 6,000 members
    python benchmarks/item_vectors.py --data entree eshop jobs --seeds 3

Each kind of item vectors is learned before a sample's models: of content as a semantic analysis of
postings has it, of content that behaviour has moved, of behaviour alone, a vector for each item
that was acted on, and of both, the default. Encoder, network and objective are the sample's own.

The figure is NDCG@10 of what members wanted next among all items of the day, as of the request,
beside popularity: by a decaying average of each action, and by the network that the vectors were
learned with, where there is one. *new* items are those that nobody had acted on when vectors were
learned; candidates are all items either way. Rate, weights and the share of popularity are chosen
on days before the test, for old and new together. Intervals are over members, of several seeds
widened by the deviation between them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from activity_embeddings.training.datasets.sample import ENTREE, ESHOP, FILMS, JOBS, Sample
from activity_embeddings.training.demo.models import (
    ITEM_ENCODER,
    build_item_encoder,
    encoder_plan,
    read_history,
)
from activity_embeddings.training.evaluation.findings import paired
from activity_embeddings.training.evaluation.first_look import added, best_mix_of
from activity_embeddings.training.evaluation.plan import Declared
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.fitting.embed import Outputs, outputs_with
from activity_embeddings.training.fitting.validation import ValidationQueries
from activity_embeddings.training.item_encoder.train import EncoderPlan
from activity_embeddings.training.models import GeometricDecay
from activity_embeddings.training.models.averages import DECAYS
from activity_embeddings.transformations.contract.activity_model import (
    ActivityModel,
    describe_model,
)
from activity_embeddings.transformations.contract.item_encoder import describe_item_encoder
from activity_embeddings.transformations.inference.embedder import Embedder
from activity_embeddings.transformations.inference.tensorflow import tensorflow

SAMPLES = {sample.name: sample for sample in (ENTREE, ESHOP, FILMS, JOBS)}
BOTH = "both"
DECAY, NETWORK = "decay", "network"
UNTRAINED = 1e-7
"""A learning rate at which vectors stay where they start."""


def _towers(plan: EncoderPlan, **settings: float) -> EncoderPlan:
    return replace(plan, towers=replace(plan.towers, **settings))


KINDS: dict[str, Callable[[EncoderPlan], EncoderPlan]] = {
    "content": lambda plan: _towers(
        replace(plan, fit=replace(plan.fit, learning_rate=UNTRAINED, epochs=1)), id_dropout=1.0
    ),
    "content, moved": lambda plan: _towers(plan, id_dropout=1.0),
    "behaviour": lambda plan: _towers(plan, tokens=0, id_dropout=0.0),
    BOTH: lambda plan: plan,
}


def asked(sample: Sample, history, most: int) -> tuple[ValidationQueries, ValidationQueries]:
    """Return the queries on which all is chosen, and those of the test."""
    periods = (sample.rank_from, sample.test_from), (sample.test_from, sample.until)
    return tuple(
        ValidationQueries.of(history, Period(*ends), most_members=most) for ends in periods
    )


def is_new(queries: ValidationQueries, known: np.ndarray) -> np.ndarray:
    """Return whether the item that each query wants is none of the known ones, bool [n]."""
    wanted = np.empty(len(queries), np.int64)
    for day in queries.days:
        wanted[day.query] = day.items[day.wanted]
    return ~np.isin(wanted, known)


def found(
    outputs: Outputs, early: ValidationQueries, parts: dict[str, ValidationQueries]
) -> tuple[float, dict[str, np.ndarray]]:
    """Return the figure of the days on which all is chosen, and those of members of each part."""
    before = outputs(early.sequences, early.history)
    mix = best_mix_of(early, before)
    chosen = early.ndcg_of_members(added(before, mix.weights), mix.share)
    return float(chosen.mean()), {
        name: queries.ndcg_of_members(
            added(outputs(queries.sequences, queries.history), mix.weights), mix.share
        )
        for name, queries in parts.items()
    }


def measure(
    sample: Sample, data: Path, kind: str, seed: int, most: int
) -> dict[tuple[str, str], np.ndarray]:
    """Train item vectors, and return the figures of members by who reads them and by part."""
    plan = KINDS[kind](encoder_plan(sample, seed=seed))
    with TemporaryDirectory() as folder:
        network = NETWORK if sample.encoder_with_network else None
        models = Path(folder)
        build_item_encoder(data, models, sample=sample, plan=plan, network=network)
        spec = sample.settings.spec
        vector_spec = describe_item_encoder(models / ITEM_ENCODER).vector_spec
        history = read_history(data, models, sample=sample)
        readers = []
        if network is not None:
            described = describe_model(
                ActivityModel(models / network), spec=spec, vector_spec=vector_spec
            )
            embedder = Embedder([described])
            readers.append(
                (NETWORK, lambda sequences, h: embedder(sequences, h.vectors)[described.name])
            )
        early, late = asked(sample, history, most)
        past = history.events.time < Period(plan.until, sample.until).start_us
        new = is_new(late, np.unique(history.events.item[past]))
        parts = {"all": late, "old": late.where(~new)}
        if new.any():
            parts["new"] = late.where(new)
        rates = (outputs_with(GeometricDecay(r=r).build(spec, vector_spec)) for r in DECAYS)
        results = {DECAY: max((found(rate, early, parts) for rate in rates), key=lambda f: f[0])}
        results |= {name: found(outputs, early, parts) for name, outputs in readers}
    return {
        (reader, part): values
        for reader, (_, of_parts) in results.items()
        for part, values in of_parts.items()
    }


def table(values: dict[str, dict[tuple[str, str], np.ndarray]]) -> str:
    """Return a line for each kind, reader and part: figure, and what the default finds more."""
    lines = [f"{'':16} {'read by':8} {'wanted':6} members  NDCG@10  {BOTH} less this, 95 %"]
    pairs = [(BOTH, kind) for kind in values if kind != BOTH]
    for reader, part in values[BOTH]:
        figures = {kind: of_kind[reader, part] for kind, of_kind in values.items()}
        differences = paired(figures, pairs, Declared())
        less = {kind: d.text() for (_, kind), d in zip(pairs, differences, strict=True)}
        for kind, own in figures.items():
            line = f"{kind:16} {reader:8} {part:6} {own.shape[1]:7,}   {own.mean():.4f}"
            lines.append(f"{line}  {less.get(kind, '')}".rstrip())
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=SAMPLES, nargs="+", default=[JOBS.name])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--asked", type=int, default=4000, help="most members who are asked, drawn")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    tensorflow()
    for name in given.data:
        sample, started = SAMPLES[name], time.perf_counter()
        print(f"\n== {sample.name}: {sample.description}", flush=True)
        with TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            sample.write(data)
            values = {}
            for kind in KINDS:
                of_seeds = [
                    measure(sample, data, kind, seed, given.asked) for seed in range(given.seeds)
                ]
                values[kind] = {key: np.stack([v[key] for v in of_seeds]) for key in of_seeds[0]}
                seconds = time.perf_counter() - started
                figures = {
                    f"{reader}, {part}": round(float(v.mean()), 4)
                    for (reader, part), v in values[kind].items()
                }
                print(f"{kind}: {figures}, {seconds:.0f} s", flush=True)
        print(f"\n{table(values)}", flush=True)


if __name__ == "__main__":
    main()
