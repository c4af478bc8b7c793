"""What peers find of what our network finds: RecTools' SASRec and HSTU, asked the same queries.

    python -m venv peers && peers/bin/pip install "rectools[torch]"
    python benchmarks/peers.py --python peers/bin/python \
        --events events.parquet --postings items.parquet --category features \
        --from 1997-12-20 --until 1998-09-20 --end 1999-04-19

Peers are trained by their own code, in an environment of their own (`peers_rectools.py`). This
process exports what they learn from and are asked, and measures their scores as it measures ours:
NDCG@10 of what members wanted next among all items of the day, as of the request, from `--until` to
`--end`. Everything is learnt from activity between `--from` and `--until`.

The last days before `--until` are validation: with models of what is before them, each arm chooses
there how much popularity counts beside its score, and a network its epochs, too; a peer also
chooses its settings, among `--blocks` and `--rates`. Then networks are trained from scratch on all
that may be learnt, once a seed.

A peer is told of a member's items alone, since RecTools' models read nothing else: of all activity,
or of positives. Told *with actions*, each pair of (item, action) is an item of its own, and an item
scores as its pairs together do, those of all actions or of positive ones, as is best on validation.
Told *with features*, its vector of an item is the sum of one for the id and one for each word of
the texts and each category that ours reads, and for the action where it is told of that, too.

`lift.py --peers` makes peers arms of the ranker (`scoring_model`).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from joint_training import CONFIGURATIONS, PATIENCE, add_data, learn_jointly, read_data

from activity_embeddings.training.evaluation.next_item_counts import NextItemCounts
from activity_embeddings.training.evaluation.queries import Queries
from activity_embeddings.training.evaluation.scorers import ScoringModel
from activity_embeddings.training.evaluation.statistics import paired_bootstrap
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.training.figure import FIGURE
from activity_embeddings.training.fitting.validation import ValidationQueries
from activity_embeddings.training.item_encoder.towers import TowerSettings
from activity_embeddings.training.item_encoder.train import ENCODER_FIT, EncoderPlan
from activity_embeddings.training.models import CNN
from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.inference.tensorflow import tensorflow
from activity_embeddings.transformations.names import JOBS
from activity_embeddings.transformations.spec import ActivitySpec
from activity_embeddings.transformations.times import to_us

OURS = "CNN, every activity"
ALL, POSITIVES, ACTIONS = "all", "positives", "with actions"
FEATURES, ACTIONS_FEATURES = "with features", "with actions and features"
FACTORS = 128
BLOCKS, RATES = (1, 2), (1e-3, 3e-3)
"""Settings that a peer chooses from; those that are not named here are RecTools' defaults."""
OWN_SETTINGS = {"HSTU": {"lightning_module_kwargs": {"logits_t": 0.05}}}
"""Of a peer, as RecTools' tutorial of it has them. HSTU's scores are cosines: without a temperature
a softmax over hundreds of items gives none of them more than a few times its even share."""
EPOCHS_BETWEEN = 2
"""Epochs from one measure on validation to the next."""
SCRIPT = Path(__file__).parent / "peers_rectools.py"


@dataclass(frozen=True)
class Asked:
    """What is asked of a period. Activity before it may be learnt from.

    Attributes
    ----------
    history
        Activity and items, of other times too.
    period
        When what is asked about was wanted.
    queries
        Who is asked what.
    """

    history: ActivityHistory
    period: Period
    queries: ValidationQueries

    @classmethod
    def of(cls, history: ActivityHistory, period: Period, most: int | None = None) -> Asked:
        """Ask what was wanted in a period by all members, or by so many that are drawn."""
        return cls(history, period, ValidationQueries.of(history, period, most_members=most))

    def told(self, told: str) -> Asked:
        """Return the same, with what a peer is told of members: all activity, or positives."""
        if told != POSITIVES:
            return self
        events, spec = self.history.events, self.history.spec
        positive = np.isin(events.action, spec.positive_ids)
        history = replace(self.history, events=events.where(positive))
        return replace(self, history=history, queries=self.queries.asked_of(history))

    def __str__(self) -> str:
        members = len(np.unique(self.queries.member))
        return f"{len(self.queries):,} queries of {members:,} members"


@dataclass(frozen=True)
class Peer:
    """A model of others.

    Attributes
    ----------
    model
        Its name in the script that trains it.
    told
        What it is told of: `ALL`, `POSITIVES`, `ACTIONS`, `FEATURES` or `ACTIONS_FEATURES`.
    """

    model: str
    told: str

    @property
    def name(self) -> str:
        """Name of the arm."""
        return f"{self.model}, {self.told}"

    @property
    def readings(self) -> tuple[str, ...]:
        """How what it says of its items may be read."""
        return ("all actions", "positive actions") if self.knows_actions else ("items",)

    @property
    def knows_actions(self) -> bool:
        """Whether it is told what was done."""
        return self.told in (ACTIONS, ACTIONS_FEATURES)

    @property
    def knows_features(self) -> bool:
        """Whether it is told what items are."""
        return self.told in (FEATURES, ACTIONS_FEATURES)


PEERS = {
    peer.name: peer
    for told in (ALL, POSITIVES, ACTIONS, FEATURES, ACTIONS_FEATURES)
    for peer in (Peer("SASRec", told), Peer("HSTU", told))
}


def pieces_of(events: ActivityEvents, spec: ActivitySpec) -> tuple[np.ndarray, np.ndarray]:
    """Cut activity into pieces that a model learns from, so that each step is in one of them.

    A member's activity is cut where a window passes without any, since what is older is not seen in
    serving either, and after L steps: the event at the cut ends a piece and begins the next.

    Returns
    -------
    tuple[np.ndarray, np.ndarray]
        piece : int64 [n], ascending; number of the piece. event : int64 [n]; position in `events`.
    """
    event = np.arange(len(events))
    begins = np.ones(len(events), bool)
    begins[1:] = events.member[1:] != events.member[:-1]
    begins[1:] |= np.diff(events.time) > spec.window // timedelta(microseconds=1)
    step = event - np.maximum.accumulate(np.where(begins, event, 0))
    cut = step % spec.length == 0
    piece = np.cumsum(cut) - 1
    ends = event[cut & (step > 0)]
    piece, event = np.concatenate([piece, piece[ends] - 1]), np.concatenate([event, ends])
    order = np.lexsort((event, piece))
    return piece[order], event[order]


def features_of(postings: pa.Table, items: pa.Array, towers: TowerSettings) -> pd.DataFrame:
    """Return what is known of items: each word of their texts, and each of their categories.

    Parameters
    ----------
    postings
        Where an item has several rows, the last one counts.
    items
        J ids.
    towers
        Names the columns that our item encoder reads.

    Returns
    -------
    pandas.DataFrame
        `id`, in [0, J), `feature` and `value`; no row twice.
    """
    table = postings.to_pandas().drop_duplicates(JOBS.item_id, keep="last")
    table["id"] = pd.Index(items.to_pandas()).get_indexer(table[JOBS.item_id])
    table = table[table["id"] >= 0].set_index("id")
    parts = {name: table[name].str.lower().str.findall(r"\w+") for name in towers.text}
    parts |= {name: table[name] for name in towers.categories}
    long = [
        values.explode().dropna().astype(str).rename("value").reset_index().assign(feature=name)
        for name, values in parts.items()
    ]
    return pd.concat(long, ignore_index=True)[["id", "feature", "value"]].drop_duplicates()


def export(
    folder: Path,
    peer: Peer,
    history: ActivityHistory,
    until: datetime,
    sequences: Sequences,
    features: pd.DataFrame | None = None,
) -> int:
    """Write what a peer learns from and is asked; see `peers_rectools.py`.

    Parameters
    ----------
    folder
        Gets the files.
    peer
        Says what is told.
    history, until
        Activity before a time is learned from.
    sequences
        What is known in each query.
    features
        Of `features_of`, for a peer that knows them.

    Returns
    -------
    int
        How many items a peer knows: ours, or pairs of item and action.
    """
    spec = history.spec
    actions = len(spec.vocabulary) if peer.knows_actions else 1

    def save(name: str, user: np.ndarray, time: np.ndarray, **known: np.ndarray) -> None:
        columns = {"user_id": user, **known, "datetime": time.astype("M8[us]")}
        np.savez(folder / f"{name}.npz", **columns)

    def key(item: np.ndarray, action: np.ndarray) -> np.ndarray:
        return item.astype(np.int64) * actions + (action if actions > 1 else 0)

    past = history.events.where(history.events.time < to_us(until))
    piece, event = pieces_of(past, spec)
    item = key(past.item[event], past.action[event])
    save("learn", piece, past.time[event], item_id=item)
    at = np.nonzero(sequences.item >= 0)
    item = key(sequences.item[at], sequences.action[at])
    save("asked", at[0], sequences.time[at], item_id=item)
    save("context", np.arange(len(sequences.as_of)), sequences.as_of)
    items = len(history.vectors.item_ids)
    if peer.knows_features:
        assert features is not None
        pairs = [features.assign(id=features["id"] * actions + action) for action in range(actions)]
        if actions > 1:
            pair = np.arange(items * actions)
            action = (pair % actions).astype(str)
            pairs.append(pd.DataFrame({"id": pair, "feature": "action", "value": action}))
        known = pd.concat(pairs)
        columns = {"id": known["id"].to_numpy()}
        columns |= {name: known[name].to_numpy(str) for name in ("feature", "value")}
        np.savez(folder / "features.npz", **columns)
    return items * actions


def actions_of(reading: str, spec: ActivitySpec) -> Sequence[int] | None:
    """Return the actions whose pairs count for an item; None where a peer knows items alone."""
    if reading == "items":
        return None
    return spec.positive_ids if reading == "positive actions" else range(1, len(spec.vocabulary))


def item_scores(scores: np.ndarray, items: int, actions: Sequence[int] | None) -> np.ndarray:
    """Return what a peer wrote as a score of each item, all of them finite.

    What a peer does not know is no better than the worst that it knows; where it knows nothing of a
    query, all items are alike.

    Parameters
    ----------
    scores
        float [n, J], or [n, J * actions] of pairs.
    items
        J.
    actions
        Ids of the actions whose pairs count for an item, by the sum of their probabilities; None
        where the peer knows items alone.
    """
    lowest = np.min(scores, axis=1, keepdims=True, initial=np.inf, where=np.isfinite(scores))
    scores = np.where(np.isfinite(scores), scores, np.where(np.isfinite(lowest), lowest, 0.0))
    if actions is None:
        return scores
    pairs = scores.reshape(len(scores), items, -1)
    return np.logaddexp.reduce(pairs[:, :, list(actions)], axis=2)


def scores_of(
    scores: np.ndarray, queries: ValidationQueries, actions: Sequence[int] | None = None
) -> list[np.ndarray]:
    """Return `item_scores` as scores of each day of the queries, float [n, m] each."""
    scores = item_scores(scores, len(queries.history.vectors.item_ids), actions)
    return [scores[np.ix_(day.query, day.items)] for day in queries.days]


@dataclass(frozen=True)
class Trainer:
    """How a peer is trained.

    Attributes
    ----------
    command
        Gets a folder; see `peers_rectools.py`.
    threads
        How many it may use.
    settings
        What is tried; settings of the peer's class.
    features
        Of items, for peers that know them; see `features_of`.
    """

    command: Sequence[str]
    threads: int
    settings: Sequence[dict[str, Any]]
    features: pd.DataFrame | None = None

    def __call__(
        self,
        peer: Peer,
        history: ActivityHistory,
        until: datetime,
        sequences: Sequences,
        runs: Sequence[dict[str, Any]],
        folder: Path,
    ) -> list[dict[int, Path]]:
        """Train on activity before a time, and score what is known in queries.

        Returns
        -------
        list of dict
            The files of the scores of each run, by epoch.

        Raises
        ------
        subprocess.CalledProcessError
            The command failed.
        """
        items = export(folder, peer, history, until, sequences, self.features)
        own = OWN_SETTINGS.get(peer.model, {})
        plan = {
            "items": items,
            "length": history.spec.length,
            "threads": self.threads,
            "runs": [
                {"model": peer.model, **run, "settings": own | run["settings"]} for run in runs
            ],
        }
        (folder / "plan.json").write_text(json.dumps(plan))
        subprocess.run([*self.command, str(folder)], check=True)
        return [
            {epoch: folder / f"{place}-{epoch}.npy" for epoch in run["epochs"]}
            for place, run in enumerate(runs)
        ]


@dataclass(frozen=True)
class Arm:
    """What one arm found.

    Attributes
    ----------
    values
        float [seeds, members]; mean NDCG@10 of each member's queries.
    said
        What was chosen on validation.
    """

    values: np.ndarray
    said: str


@dataclass(frozen=True)
class Chosen:
    """What a peer is, as was best on validation.

    Attributes
    ----------
    figure
        NDCG@10 there.
    settings, epochs
        Of its model.
    share
        How much its score counts beside popularity.
    reading
        Of `READINGS`, which actions' pairs count for an item.
    """

    figure: float
    settings: dict[str, Any]
    epochs: int
    share: float
    reading: str

    def __str__(self) -> str:
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        return (
            f"validation {self.figure:.4f}; {settings}, epochs {self.epochs}, share {self.share}, "
            f"{self.reading}"
        )


def choose(peer: Peer, early: Asked, trainer: Trainer, *, epochs: int) -> Chosen:
    """Try each of the trainer's settings on validation, epoch by epoch, and return the best."""
    early, found = early.told(peer.told), []
    history, queries = early.history, early.queries
    tried = [*range(EPOCHS_BETWEEN, epochs + 1, EPOCHS_BETWEEN)]
    runs = [{"settings": each, "seed": 0, "epochs": tried} for each in trainer.settings]
    with tempfile.TemporaryDirectory() as folder:
        until, sequences = early.period.start, queries.sequences
        of_runs = trainer(peer, history, until, sequences, runs, Path(folder))
        for run, files in zip(runs, of_runs, strict=True):
            for (epoch, path), reading in itertools.product(files.items(), peer.readings):
                actions = actions_of(reading, history.spec)
                reached = queries.measure_scores(scores_of(np.load(path), queries, actions))
                figure, share = reached[FIGURE], reached["share"]
                found.append(Chosen(figure, run["settings"], epoch, share, reading))
    return max(found, key=lambda chosen: chosen.figure)


def measure_peer(
    peer: Peer, early: Asked, late: Asked, trainer: Trainer, *, epochs: int, seeds: int
) -> Arm:
    """Choose what a peer is by what it finds `early`, and measure what it finds `late`."""
    started = time.perf_counter()
    chosen = choose(peer, early, trainer, epochs=epochs)
    searched = time.perf_counter() - started
    of_seed = {"settings": chosen.settings, "epochs": [chosen.epochs]}
    runs = [{**of_seed, "seed": seed} for seed in range(seeds)]
    late = late.told(peer.told)
    actions = actions_of(chosen.reading, late.history.spec)
    with tempfile.TemporaryDirectory() as folder:
        until, sequences = late.period.start, late.queries.sequences
        of_runs = trainer(peer, late.history, until, sequences, runs, Path(folder))
        files = [of[chosen.epochs] for of in of_runs]
        scores = [scores_of(np.load(path), late.queries, actions) for path in files]
    values = [late.queries.ndcg_by_scores(of_seed, chosen.share) for of_seed in scores]
    seconds = time.perf_counter() - started
    return Arm(np.stack(values), f"{chosen}; searched in {searched:.0f} s, in all {seconds:.0f} s")


@dataclass(frozen=True)
class PeerScorer:
    """A peer as a scorer of the evaluation: trained when it is first asked, and then kept.

    Attributes
    ----------
    peer, trainer
        What it is, and how it is trained.
    history, until
        Activity before a time is learned from.
    run
        `settings`, `seed` and the one of `epochs`.
    reading
        Which actions' pairs count for an item.
    folder
        Keeps the model, and the scores of what was asked before.
    """

    peer: Peer
    trainer: Trainer
    history: ActivityHistory
    until: datetime
    run: dict[str, Any]
    reading: str
    folder: Path

    def columns(self, sequences: Sequences, queries: Queries) -> np.ndarray:
        """Return an item's score, and by how much it is below the best of its list.

        float32 [R, 2]; scores are logarithms of shares among all items.
        """
        known = (sequences.item, sequences.action, sequences.time, sequences.as_of)
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in known))
        path = self.folder / f"{digest.hexdigest()[:16]}.npy"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            run = {**self.run, "kept": str((self.folder / "model").resolve())}
            with tempfile.TemporaryDirectory() as folder:
                (files,) = self.trainer(
                    self.peer, self.history, self.until, sequences, [run], Path(folder)
                )
                np.save(path, np.load(*files.values()))
        actions = actions_of(self.reading, self.history.spec)
        scores = item_scores(np.load(path), len(self.history.vectors.item_ids), actions)
        scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
        own = scores[queries.query, queries.item]
        best = np.maximum.reduceat(own, queries.start[:-1])
        return np.stack([own, own - best[queries.query]], axis=1).astype(np.float32)


def arm_name(peer: Peer) -> str:
    """Return the name of a peer's arm in an evaluation."""
    return "_".join(peer.name.lower().replace(",", "").split())


def scoring_model(
    peer: Peer, early: Asked, trainer: Trainer, *, epochs: int, seeds: int, folder: Path
) -> ScoringModel:
    """Return a peer as an arm of the evaluation.

    What it is was chosen on validation, `early`, with a model of what is before that; its models,
    one for each seed, learn from all that is before the end of validation.

    Parameters
    ----------
    peer, trainer, epochs
        Not one that is told of positives alone: an evaluation hands over all activity.
    early
        Validation.
    seeds
        How many models.
    folder
        Keeps what was chosen, and the models: the same call goes on with one that was killed.
    """
    kept = folder / "chosen.json"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        chosen = choose(peer, early, trainer, epochs=epochs)
        kept.write_text(json.dumps(asdict(chosen)))
    chosen = Chosen(**json.loads(kept.read_text()))
    print(f"{peer.name}: {chosen}", flush=True)
    scorers = [
        PeerScorer(
            peer,
            trainer,
            early.history,
            early.period.end,
            {"settings": chosen.settings, "seed": seed, "epochs": [chosen.epochs]},
            chosen.reading,
            folder / str(seed),
        )
        for seed in range(seeds)
    ]
    return ScoringModel(arm_name(peer), f"{peer.name}, by RecTools", tuple(scorers))


def measure_popularity(late: Asked) -> Arm:
    """Measure popularity alone."""
    nothing = [np.zeros(day.candidate.shape, np.float32) for day in late.queries.days]
    return Arm(late.queries.ndcg_by_scores(nothing, 0.0)[None], "")


def measure_counts(early: Asked, late: Asked, *, by_action: bool) -> Arm:
    """Measure a table of counts; its share beside popularity is that of the earlier table."""
    before, until = (
        NextItemCounts.of(asked.history, asked.period.start, by_action=by_action)
        for asked in (early, late)
    )
    reached = early.queries.measure_scores(before.scores(early.queries))
    values = late.queries.ndcg_by_scores(until.scores(late.queries), reached["share"])
    return Arm(values[None], f"validation {reached[FIGURE]:.4f}; share {reached['share']}")


def measure_ours(
    events: pa.Table,
    postings: pa.Table,
    plan: EncoderPlan,
    period: Period,
    most: int | None,
    seed: int,
) -> Arm:
    """Train our network together with the item vectors, once, and measure it."""
    started = time.perf_counter()
    plan = replace(plan, fit=replace(plan.fit, seed=seed))
    learnt = learn_jointly(events, postings, plan, period, most)
    reached, epochs = learnt.facts["metrics"]["validation"], learnt.facts["training"]["epochs"]
    values = learnt.queries.ndcg_by_scores(learnt.scores, reached["share"])
    seconds = time.perf_counter() - started
    return Arm(
        values[None],
        f"validation {reached[FIGURE]:.4f}; epochs {epochs}, share {reached['share']}; "
        f"{seconds:.0f} s",
    )


def kept(folder: Path | None, name: str, measure: Callable[[], Arm]) -> Arm:
    """Measure an arm, or read what was measured before into a folder.

    A file says nothing of data and options: a folder is for one command.
    """
    if folder is None:
        return measure()
    path = folder / f"{name}.json"
    if not path.exists():
        arm = measure()
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"values": arm.values.tolist(), "said": arm.said}))
    read = json.loads(path.read_text())
    return Arm(np.array(read["values"]), read["said"])


def measure_seeds(measure: Callable[[int], Arm], seeds: int, folder: Path | None, name: str) -> Arm:
    """Measure an arm seed by seed, each of them kept."""
    arms = [kept(folder, f"{name}, seed {seed}", partial(measure, seed)) for seed in range(seeds)]
    return Arm(np.concatenate([arm.values for arm in arms]), " | ".join(arm.said for arm in arms))


def table(arms: dict[str, Arm]) -> str:
    """Return a line for each arm, with what the last one finds more, paired by member."""
    *_, last = arms
    lines = [f"{'':30} NDCG@10   seeds  {last} less this, 95 %"]
    for name, arm in arms.items():
        means = arm.values.mean(axis=1)
        spread = f"{means.std(ddof=1):.4f}" if len(means) > 1 else ""
        line = f"{name:30}  {means.mean():.4f}  {spread:6}"
        if name != last:
            difference = arms[last].values - arm.values
            (less,) = paired_bootstrap(
                difference.mean(axis=0)[:, None],
                np.zeros(difference.shape[1]),
                by_seed=difference.mean(axis=1)[:, None],
            )
            line += f"  {less.text()}"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data(parser)
    parser.add_argument("--python", required=True, help="of an environment with rectools[torch]")
    parser.add_argument("--length", type=int, default=32, help="positions of a sequence")
    parser.add_argument("--epochs", type=int, default=10, help="most epochs of a peer")
    parser.add_argument("--blocks", nargs="*", type=int, default=BLOCKS, help="of a peer")
    parser.add_argument("--rates", nargs="*", type=float, default=RATES, help="of its learning")
    parser.add_argument("--our-epochs", type=int, default=14, help="and of our network")
    parser.add_argument("--ema-momentum", type=float, help="of our weights; default: no average")
    parser.add_argument("--ensemble", type=int, default=1, help="how many networks are ours")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--asked", type=int, help="most members who are asked, drawn; all if none")
    parser.add_argument("--threads", type=int, default=1, help="of a peer's training")
    parser.add_argument("--only", nargs="*", choices=[*PEERS, OURS])
    parser.add_argument("--folder", type=Path, help="keeps each arm's figures, to resume from")
    given = parser.parse_args()
    tensorflow()
    events, postings, plan, asked = read_data(given)
    spec = replace(plan.spec, length=given.length)
    checked = ActivityEvents.from_arrow(events, spec)
    history = ActivityHistory.of(checked, ItemVectors.always_known(checked.item_ids), spec)
    validated_from = given.until - timedelta(days=given.validation_days)
    early = Asked.of(history, Period(validated_from, given.until), given.asked)
    late = Asked.of(history, asked, given.asked)
    print(f"{late}; of validation {early}")
    tried = [
        {"n_blocks": blocks, "n_factors": FACTORS, "lr": rate}
        for blocks in given.blocks
        for rate in given.rates
    ]
    features = features_of(postings, checked.item_ids, plan.towers)
    trainer = Trainer([given.python, str(SCRIPT)], given.threads, tried, features)
    _, objective = CONFIGURATIONS[OURS]
    ours = replace(
        plan,
        network=CNN(ensemble=given.ensemble),
        objective=objective,
        spec=spec,
        fit=replace(
            ENCODER_FIT,
            epochs=given.our_epochs,
            patience=PATIENCE,
            ema_momentum=given.ema_momentum,
        ),
    )
    measures: dict[str, Callable[[], Arm]] = {
        "popularity": partial(measure_popularity, late),
        "counts (item)": partial(measure_counts, early, late, by_action=False),
        "counts (item, action)": partial(measure_counts, early, late, by_action=True),
        **{
            peer.name: partial(
                measure_peer, peer, early, late, trainer, epochs=given.epochs, seeds=given.seeds
            )
            for peer in PEERS.values()
        },
        OURS: partial(
            measure_seeds,
            partial(measure_ours, events, postings, ours, asked, given.asked),
            given.seeds,
            given.folder,
            OURS,
        ),
    }
    left_out = {*PEERS, OURS} - set(given.only or measures)
    arms = {}
    for name, measure in measures.items():
        if name not in left_out:
            arms[name] = kept(given.folder, name, measure)
            print(f"{name:22} {arms[name].values.mean():.4f}  {arms[name].said}", flush=True)
    print(f"\n{table(arms)}")


if __name__ == "__main__":
    main()
