"""Training: examples a second, memory of a stream of them, time a step, and whole fits.

    python benchmarks/train.py

Makes the examples of the proxy task from synthetic activity, beside the same made by a loop over
members in pandas; streams more and more of them to show what memory does; trains every
architecture on the stream, with each row read at the length that it needs and at full length,
beside `model.fit` on arrays that lie ready; and fits a CNN to the sample both ways, which have to
find the same. Each memory run is a process of its own. Times of training are of the processor.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import itertools
import json
import os
import pickle
import platform
import pstats
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
import synthetic

from activity_embeddings.training.examples.held_out import Windows
from activity_embeddings.training.examples.history import INPUT_ITEM_ROWS, ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

SPEC = ActivitySpec(window=synthetic.WINDOW, length=synthetic.LENGTH, actions=synthetic.ACTIONS)
PERIOD = Period(synthetic.CUTOFF - synthetic.WINDOW, synthetic.CUTOFF)
WINDOWS = {
    "newest activity": Windows(),
    "every activity": Windows(prefixes=True),
}
EXAMPLES_PER_MEMBER = 14.5
"""Of `every activity`, at 12 events a member; the number that came out is printed."""
US_PER_DAY = 86_400_000_000
HOT_SPOTS = 20
TARGET = 200_000


def main() -> None:
    """Run what the command line asks for."""
    options = _options()
    if options.variant:
        result = {"make": _make, "stream": _stream}[options.variant](options)
        print(json.dumps(result))
        return
    print(_machine(), flush=True)
    if "examples" in options.parts:
        _compare_examples(options)
    if "memory" in options.parts:
        _compare_memory(options)
    if "steps" in options.parts:
        _compare_steps(options)
    if "fits" in options.parts:
        _compare_fits(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    parts = ["examples", "memory", "steps", "fits"]
    add("--parts", nargs="+", choices=parts, default=parts)
    add("--members", type=int, default=60_000, help="of the run that counts examples a second")
    add("--events-per-member", type=float, default=12, help="mean number in the period")
    add("--items", type=int, default=50_000)
    add("--dimension", type=int, default=64, help="length of an item vector")
    add("--sample", type=int, default=300, help="members of the loop in pandas")
    add("--repeat", type=int, default=3, help="passes and epochs of which medians are printed")
    add("--memory", type=float, nargs="+", default=[1e6, 5e6], help="examples of the memory runs")
    add("--steps", type=int, default=100, help="steps of an epoch")
    add("--batch-size", type=int, default=256)
    add("--models", nargs="+", help="architectures to train, all by default; of fits the CNN")
    add("--seeds", type=int, default=3, help="fits of each kind")
    add("--profile", action="store_true", help="print the hot spots of making examples")
    add("--variant", choices=["make", "stream"], help=argparse.SUPPRESS)
    add("--file", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _history(options: argparse.Namespace, members: int) -> ActivityHistory:
    events, vector_spec = synthetic.make_activity(
        members=members,
        events_per_member=options.events_per_member,
        items=options.items,
        dimension=options.dimension,
    )
    return ActivityHistory.from_arrow(
        events, ItemVectors.from_arrow(vector_spec, _vector_spec(options)), SPEC
    )


def _vector_spec(options: argparse.Namespace) -> ItemVectorSpec:
    return ItemVectorSpec("synthetic", "1", options.dimension)


# Examples a second


def _compare_examples(options: argparse.Namespace) -> None:
    from activity_embeddings.training.objectives import Proxy

    started = time.perf_counter()
    history = _history(options, options.members)
    spent = time.perf_counter() - started
    print(
        f"\nexamples: {options.members:,} members, {len(history.events):,} events, "
        f"{options.items:,} items; making, checking and ordering them took {spent:.1f} s"
    )
    print(f"{'held out':<20}{'examples':>12}{'ours/s':>12}{'pandas/s':>12}{'ratio':>8}")
    for name, windows in WINDOWS.items():
        stream = Proxy(windows=windows).stream(history, PERIOD, batch_size=options.batch_size)
        count, rate = _median_rate(lambda stream=stream: _count(stream), options.repeat)
        sample, slow = _median_rate(
            lambda windows=windows: _in_pandas(history, windows, options.sample), 1
        )
        verdict = "reached" if rate >= TARGET else "NOT reached"
        print(
            f"{name:<20}{count:>12,}{rate:>12,.0f}{slow:>12,.0f}{rate / slow:>8,.0f}"
            f"   target {TARGET:,}: {verdict} (pandas: {sample:,} examples)",
            flush=True,
        )
    balance = Proxy(windows=windows).balance(history, PERIOD)
    for when, counts in balance.items():
        print(f"labels, {when.replace('_', ' ')}: {counts}")
    if options.profile:
        profiler = cProfile.Profile()
        profiler.runcall(_count, stream)
        pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(HOT_SPOTS)


def _count(stream: Any) -> int:
    return sum(len(batch[INPUT_ITEM_ROWS]) for batch in stream.batches())


def _median_rate(count: Callable[[], int], repeat: int) -> tuple[int, float]:
    rates = []
    for _ in range(repeat):
        started = time.perf_counter()
        number = count()
        rates.append(number / (time.perf_counter() - started))
    return number, statistics.median(rates)


def _in_pandas(history: ActivityHistory, windows: Windows, members: int) -> int:
    """Make the same examples by loops over members and activities; return how many.

    What is ready before: a frame of the events in order, with rows of item vectors, and the
    distinct items of each day. Vectors are known all along here, so nobody has to look for the one
    of a time.
    """
    events = history.events
    last = events.member_start[members]
    frame = pd.DataFrame(
        {
            "member": events.member[:last],
            "row": events.item[:last],
            "action": events.action[:last].astype(np.int32),
            "time": events.time[:last],
        }
    )
    random = np.random.default_rng(0)
    day = events.time // US_PER_DAY
    items_of_day = {d: np.unique(events.item[day == d]) for d in np.unique(day).tolist()}
    made = []
    for _, group in frame.groupby("member"):
        inside = group[(group.time >= PERIOD.start_us) & (group.time < PERIOD.end_us)]
        rows = []
        for newer, event in enumerate(inside[::-1].itertuples()):
            before = _before(group, event.time)
            fills = len(before) + 1 >= SPEC.length
            if len(before) >= windows.minimum and (windows.prefixes or newer == 0 or fills):
                rows.append((event, before))
        if windows.per_member is not None and len(rows) > windows.per_member:
            chosen = random.permutation(len(rows))[: windows.per_member]
            rows = [rows[i] for i in chosen]
        for event, before in rows:
            positive = event.action in SPEC.positive_ids
            made.append(_example(before, event.time, event.row, positive, 1.0))
            if positive:
                shift = int(random.integers(-3_600_000_000, 3_600_000_000, endpoint=True))
                moment = _in_day_and_period(event.time, shift)
                before = _before(group, moment)
                that_day = group[group.time // US_PER_DAY == event.time // US_PER_DAY]
                taboo = {*_window(group, moment).row, *that_day.row}
                items = items_of_day[event.time // US_PER_DAY]
                drawn = items[random.integers(0, len(items), 64)]
                allowed = next((item for item in drawn if item not in taboo), None)
                if allowed is not None:
                    made.append(_example(before, moment, allowed, False, 0.5))
    batch = {name: np.stack([example[name] for example in made]) for name in made[0]}
    return len(batch["weight"])


def _window(group: pd.DataFrame, moment: int) -> pd.DataFrame:
    return group[(group.time >= moment - SPEC.window_us) & (group.time < moment)]


def _before(group: pd.DataFrame, moment: int) -> pd.DataFrame:
    return _window(group, moment).tail(SPEC.length)


def _in_day_and_period(moment: int, shift: int) -> int:
    day = moment // US_PER_DAY * US_PER_DAY
    earliest, latest = max(day, PERIOD.start_us), min(day + US_PER_DAY, PERIOD.end_us) - 1
    return min(max(moment + shift, earliest), latest)


def _example(
    before: pd.DataFrame, moment: int, row: int, wanted: bool, weight: float
) -> dict[str, Any]:
    pad = SPEC.length - len(before)
    return {
        "item_rows": np.pad(before.row.to_numpy(), (pad, 0), constant_values=-1),
        "actions": np.pad(before.action.to_numpy(), (pad, 0)),
        "ages": np.pad((moment - before.time.to_numpy()) / US_PER_DAY, (pad, 0)).astype(np.float32),
        "candidate_row": np.int32(row),
        "wanted": np.int32(wanted),
        "weight": np.float32(weight),
    }


# Memory of a stream


def _compare_memory(options: argparse.Namespace) -> None:
    print("\nmemory: one pass over the stream, every activity held out")
    print(
        f"{'examples':>12}{'members':>12}{'events':>12}{'before MB':>12}{'peak MB':>10}"
        f"{'stream MB':>11}{'examples/s':>12}{'in one array, MB':>18}"
    )
    with tempfile.TemporaryDirectory(prefix="activity-embeddings-") as folder:
        for wanted in options.memory:
            members = str(round(wanted / EXAMPLES_PER_MEMBER))
            file = Path(folder) / "history.pickle"
            _child("make", file, "--members", members, options)
            r = _child("stream", file, "--members", members, options)
            print(
                f"{r['examples']:>12,}{int(members):>12,}{r['events']:>12,}{r['before']:>12,.0f}"
                f"{r['peak']:>10,.0f}{r['peak'] - r['before']:>11,.0f}"
                f"{r['examples'] / r['seconds']:>12,.0f}{r['array']:>18,.0f}",
                flush=True,
            )


def _child(variant: str, file: Path, *more: Any) -> dict[str, Any]:
    *arguments, options = more
    command = [sys.executable, __file__, "--variant", variant, "--file", file, *arguments]
    command += ["--items", options.items, "--dimension", options.dimension]
    command += ["--events-per-member", options.events_per_member]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command} failed\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _make(options: argparse.Namespace) -> dict[str, Any]:
    """Write a history, so that what making it left in memory does not count as the stream's."""
    with options.file.open("wb") as file:
        pickle.dump(_history(options, options.members), file, protocol=5)
    return {}


def _stream(options: argparse.Namespace) -> dict[str, Any]:
    from activity_embeddings.training.objectives import Proxy

    with options.file.open("rb") as file:
        history = pickle.load(file)
    stream = Proxy(windows=WINDOWS["every activity"]).stream(history, PERIOD)
    row = sum(values[0].nbytes for values in next(stream.batches()).values())
    gc.collect()
    before = _resident_megabytes(forget=True)
    started = time.perf_counter()
    count = _count(stream)
    return {
        "examples": count,
        "events": len(history.events),
        "seconds": time.perf_counter() - started,
        "before": before,
        "peak": _peak_megabytes(),
        "array": count * row / 1e6,
    }


def _resident_megabytes(*, forget: bool) -> float:
    """Return the resident memory now; with `forget`, the peak counts from here on."""
    try:
        if forget:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _status("VmRSS")
    except OSError:
        return _peak_megabytes()


def _peak_megabytes() -> float:
    try:
        return _status("VmHWM")
    except OSError:
        scale = 1e6 if sys.platform == "darwin" else 1e3
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(name)


# Time a step


def _compare_steps(options: argparse.Namespace) -> None:
    from activity_embeddings.training.models import architecture, known_models

    # That a dataset is not shuffled again, and how long it is, is not news here.
    warnings.filterwarnings("ignore", category=UserWarning, module="keras")
    wanted = options.steps * options.batch_size
    history = _history(options, round(wanted * 1.05 / EXAMPLES_PER_MEMBER))
    names = options.models or known_models()
    print(
        f"\nsteps of {options.batch_size} rows, {options.steps} an epoch, processor time, "
        f"medians of {options.repeat} rounds after the first"
    )
    print(
        f"{'model':<14}{'weights':>10}{'ours ms':>10}{'full ms':>10}{'ready ms':>10}"
        f"{'full/ours':>11}{'ready/ours':>12}"
    )
    for name in names:
        if not architecture(name).trainable:
            continue
        try:
            build = architecture(name)().build
            weights, ours = _ours(build, history, options)
            with _full_length():
                _, full = _ours(build, history, options)
            ready = _ready(build, history, options)
            # The first of each traces the graph. They take turns, whatever else the machine does.
            ours(), full(), ready()
            rounds = [(ours(), full(), ready()) for _ in range(options.repeat)]
        except Exception as error:  # one model's trouble should not hide the others' figures
            print(f"{name:<14}left out: {type(error).__name__}: {error}", flush=True)
            continue
        medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
        ratios = [statistics.median(r[i] / r[0] for r in rounds) for i in (1, 2)]
        print(
            f"{name:<14}{weights:>10,}{''.join(f'{ms:>10.1f}' for ms in medians)}"
            f"{ratios[0]:>11.2f}{ratios[1]:>12.2f}",
            flush=True,
        )
    print("full: all rows are read at the longest length, PAD included")
    print("ready: model.fit on arrays with the item vectors joined, which lie in memory")


def _ours(
    build: Any, history: ActivityHistory, options: argparse.Namespace
) -> tuple[int, Callable[[], float]]:
    """Return weights, and what trains an epoch on the stream, in milliseconds a step."""
    import keras

    from activity_embeddings.training.fitting.loop import as_tensors, training_step
    from activity_embeddings.training.objectives import Proxy

    keras.utils.set_random_seed(0)
    sub_model = build(SPEC, _vector_spec(options))
    objective = Proxy(windows=WINDOWS["every activity"])
    stream = objective.stream(history, PERIOD, batch_size=options.batch_size)
    epochs = itertools.count()
    first = stream.first()
    task = objective.task(sub_model, history, PERIOD)
    task(as_tensors(first), training=False)
    optimizer = _optimizer()
    optimizer.build(task.trainable_variables)
    step = training_step(task, optimizer, first)

    def train() -> None:
        # Every epoch makes its examples anew.
        for batch in itertools.islice(stream.batches(next(epochs)), options.steps):
            step(as_tensors(batch))

    return sub_model.count_params(), lambda: _epoch(options.steps, train)


def _ready(
    build: Any, history: ActivityHistory, options: argparse.Namespace
) -> Callable[[], float]:
    """Return what trains an epoch of the same model in plain Keras, on arrays that lie ready."""
    import keras
    import tensorflow as tf

    from activity_embeddings.training.objectives import Proxy
    from activity_embeddings.transformations import names

    keras.utils.set_random_seed(0)
    sub_model = build(SPEC, _vector_spec(options))
    candidate = keras.Input((options.dimension,), name="candidate")
    embedding = sub_model(sub_model.input)["activity_embedding"]
    wanted = keras.layers.Dense(2, activation="softmax")(embedding * candidate)
    model = keras.Model({**sub_model.input, "candidate": candidate}, wanted)
    model.compile(optimizer=_optimizer(), loss="sparse_categorical_crossentropy", jit_compile=False)
    stream = Proxy(windows=WINDOWS["every activity"]).stream(history, PERIOD)
    arrays = _first_rows(stream.batches(), options.steps * options.batch_size)
    matrix = history.vectors.matrix
    inputs = {
        names.INPUT_ITEM_EMBEDDINGS: matrix[arrays[INPUT_ITEM_ROWS]],
        names.INPUT_ACTIONS: arrays[names.INPUT_ACTIONS],
        names.INPUT_AGES: arrays[names.INPUT_AGES],
        "candidate": matrix[arrays["candidate_row"]],
    }
    # As tensors, since `fit` would copy numpy arrays again in every epoch of its own.
    inputs = {name: tf.convert_to_tensor(inputs[name]) for name in model.input}
    labels, weights = map(tf.convert_to_tensor, (arrays["wanted"], arrays["weight"]))
    more = {"sample_weight": weights, "batch_size": options.batch_size, "verbose": 0}
    return lambda: _epoch(options.steps, lambda: model.fit(inputs, labels, **more))


def _epoch(steps: int, train: Callable[[], Any]) -> float:
    """Train one epoch and return its milliseconds a step, of the processor."""
    started = time.process_time()
    train()
    return (time.process_time() - started) / steps * 1e3


@contextmanager
def _full_length() -> Iterator[None]:
    """Have networks that are made here read every row at the longest length."""
    from activity_embeddings.training.models import lengths

    with mock.patch.object(lengths, "halves", lambda longest: (longest,)):
        yield


def _first_rows(batches: Iterator[dict[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    parts = list(batches)
    arrays = {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}
    assert len(arrays[INPUT_ITEM_ROWS]) == count
    return arrays


def _optimizer() -> Any:
    import keras

    from activity_embeddings.training.fitting.loop import Fit

    fit = Fit()
    return keras.optimizers.AdamW(
        fit.learning_rate, weight_decay=fit.weight_decay, global_clipnorm=fit.clip_norm
    )


# Whole fits


def _compare_fits(options: argparse.Namespace) -> None:
    from activity_embeddings.training.datasets.sample import ENTREE
    from activity_embeddings.training.demo.models import ITEM_ENCODER, read_history, train_model
    from activity_embeddings.training.models import architecture
    from activity_embeddings.transformations.contract.item_encoder import describe_item_encoder

    with ENTREE.packaged() as data:
        models = data.with_name("models")
        vector_spec = describe_item_encoder(models / ITEM_ENCODER).vector_spec
        history = read_history(data, models)
    print(
        "\nfits to the sample: processor time, epochs, examples a second, and the best validation "
        "figure"
    )
    for name in options.models or ["cnn"]:
        seconds: dict[str, list[float]] = {}
        for seed in range(options.seeds):
            for how, within in (("ours", nullcontext), ("full", _full_length)):
                started = time.process_time()
                with within():
                    run = train_model(architecture(name)(), history, vector_spec, seed=seed)
                spent = time.process_time() - started
                training = run.result["training"]
                count = sum(training["examples"]["examples"].values()) * training["epochs"]
                seconds.setdefault(how, []).append(spent / training["epochs"])
                print(
                    f"{name:<14}seed {seed} {how:<6}{spent:>8.1f} s{training['epochs']:>5} epochs"
                    f"{count / spent:>9,.0f}/s   {run.figure:.4f}",
                    flush=True,
                )
        ratio = statistics.median(
            full / ours for ours, full in zip(seconds["ours"], seconds["full"], strict=True)
        )
        print(f"{name:<14}full/ours an epoch {ratio:.2f}")


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    libraries = ", ".join(
        f"{title} {version(package)}"
        for title, package in (
            ("TensorFlow", "tensorflow"),
            ("Keras", "keras"),
            ("numpy", "numpy"),
            ("pandas", "pandas"),
        )
    )
    return (
        f"machine: {cores} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, {libraries}"
    )


if __name__ == "__main__":
    main()
