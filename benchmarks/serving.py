"""Serving: the batch value, the request-time value and a ranking, beside what Feast itself costs.

    python benchmarks/serving.py

Builds a feature repo for each online store, publishes synthetic activity into it with the real
`feast` command, and asks for the same members in every way, in this process and over HTTP from
`feast serve`. All ways take turns in rounds, so that whatever else the machine does hits them
alike. With `--soak` it then serves mixed requests for a while and says whether memory grows.
"""

from __future__ import annotations

import argparse
import gc
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import synthetic
from feast import FeatureStore
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from publish import FEAST, _machine
from synthetic import FEATURE_REPO

from activity_embeddings.transformations import names
from activity_embeddings.transformations.serving.process import preload

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from rank_jobs import order_by_cosine, rank_jobs

HOST = "127.0.0.1"
DIMENSION = 64
EVENTS_PER_MEMBER = 12
CANDIDATES = 500
DISTINCT_REQUESTS = 500
CLIENTS = 8
WARM_UP = 20
RANKING_SHARE = 0.1
"""Rankings for each other request: one costs as much as many of those."""
START_S, CALL_S, STOP_S = 120.0, 30.0, 20.0
"""How long to wait for a process to start, for an answer, and for a process to stop."""
TARGET_MS = 1.0
SOAK_SAMPLES = 100
GROWTH = 0.002
"""Memory that rose by more than this share in the second half of a soak has grown."""

MODEL = "cnn"
SEQUENCE_FEATURES = [names.JOBS.activity_item_ids, names.ACTIVITY_ACTIONS, names.ACTIVITY_TIMES]
NOW = synthetic.CUTOFF + timedelta(minutes=1)
BATCH, REALTIME, STORED, NOTHING = (
    "recommendations_v2",
    "recommendations_v2_realtime",
    "stored",
    "nothing",
)
MORE_DEFINITIONS = f'''
"""What Feast itself costs: the inputs of the request-time value, and a view that does nothing."""

import inspect

from feast import FeatureService
from views import domain

realtime = domain.realtime["{MODEL}"]


def nothing(inputs):
    from datetime import datetime, timezone

    count = len(inputs["{names.ACTIVITY_TIMES}"])
    return {{
        "activity_embedding": [[0.0] * {DIMENSION}] * count,
        "{names.ACTIVITY_COUNT}": [0] * count,
        "{names.NEW_ACTIVITY_COUNT}": [0] * count,
        "{names.LAST_ACTIVITY_AT}": [datetime(2024, 1, 1, tzinfo=timezone.utc)] * count,
    }}


inputs = [
    *realtime.source_feature_view_projections.values(),
    *realtime.source_request_sources.values(),
]
# Of the same class, so that `feast apply` takes the schema as it is declared.
nothing_view = type(realtime)(
    name="nothing_view",
    sources=inputs,
    schema=realtime.features,
    udf=nothing,
    udf_string=inspect.getsource(nothing),
    mode="python",
)
stored = FeatureService(
    name="{STORED}",
    features=[
        domain.sequence[{SEQUENCE_FEATURES!r}],
        domain.embeddings["{MODEL}"],
    ],
)
nothing_service = FeatureService(name="{NOTHING}", features=[nothing_view])
'''


@dataclass(frozen=True)
class Request:
    """What one request asks for, in every way: a member, three new events, candidates."""

    member: int
    items: list[int]
    actions: list[str]
    times: list[float]
    candidates: list[int]

    def row(self, *, recent: bool, at: float = NOW.timestamp()) -> dict[str, list[Any]]:
        """Return the request's columns, with its events or without."""
        return {
            names.MEMBER_ID: [self.member],
            names.JOBS.recent_item_ids: [self.items if recent else None],
            names.JOBS.recent_actions: [self.actions if recent else None],
            names.JOBS.recent_timestamps: [self.times if recent else None],
            names.REQUEST_TIMESTAMP: [at],
        }


@dataclass
class Variant:
    """One way to ask, and what it took.

    Attributes
    ----------
    store, where, what : names in the table.
    call : answers one request.
    share : requests of this variant for each of `--requests`.
    client : makes a client of its own for each of several threads; None: measured with one only.
    rounds : for each round, seconds of each request.
    concurrent : requests and seconds with several clients at a time.
    """

    store: str
    where: str
    what: str
    call: Callable[[Request], object]
    share: float = 1.0
    client: Callable[[], Callable[[Request], object]] | None = None
    rounds: list[np.ndarray] = field(default_factory=list)
    concurrent: list[tuple[int, float]] = field(default_factory=list)

    @property
    def seconds(self) -> np.ndarray:
        """All requests of all rounds."""
        return np.concatenate(self.rounds)

    @property
    def p50(self) -> float:
        """Median milliseconds."""
        return 1000 * float(np.median(self.seconds))


IN_PROCESS, HTTP = "in process", "HTTP"
WHAT_BARE = "store: the member's sequence, directly"
WHAT_STORED = "Feast: stored sequence and vector"
WHAT_NOTHING = "Feast: on-demand view that does nothing"
WHAT_BATCH = "batch value"
WHAT_QUIET = "request-time value, no new events"
WHAT_RECENT = "request-time value, 3 new events"
WHAT_BARE_RANKING = f"store: sequence, {CANDIDATES} item vectors"
WHAT_RANKING = f"ranking: 1 member, {CANDIDATES} items"


def main() -> None:
    """Run what the command line asks for."""
    options = _options()
    # Feast warns at every request that on-demand views are experimental.
    warnings.simplefilter("ignore")
    print(_machine(), flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="serving-")))
        # Caught so that a terminated benchmark stops its servers too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        _write_source(folder / "source", options)
        stores = {name: _publish(name, folder, stack) for name in options.stores}
        known = pq.read_table(folder / "source" / "data" / "job_embeddings.parquet")
        items = known[names.ITEM_ID].to_numpy()
        requests = _requests(options.members, items)
        for name, store in stores.items():
            preload(store)
            _check(name, store, requests)
        if options.requests:
            variants = [v for name, store in stores.items() for v in _in_process(name, store)]
            for name, store in stores.items():
                port = _started(name, store, stack, requests[0])
                _check_served(name, store, port, requests)
                variants += _over_http(name, port)
            _measure(variants, requests, options)
            _print_table(variants)
            _print_differences(variants, options.stores)
        if options.soak:
            name, store = next(iter(stores.items()))
            _soak(name, store, options.soak, options.members, items.tolist())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--members", type=int, default=20_000)
    add("--items", type=int, default=10_000)
    add("--requests", type=int, default=2000, help="of each variant; 0 leaves the table out")
    add("--rounds", type=int, default=10)
    add("--stores", type=lambda text: text.split(","), default=["sqlite", "redis"])
    add("--soak", type=float, default=0, metavar="SECONDS", help="in the first of the stores")
    options = parser.parse_args()
    for store in options.stores:
        if store not in ("sqlite", "redis"):
            parser.error(f"--stores should be of sqlite, redis. Received: {store}")
    if options.requests and options.requests < options.rounds:
        parser.error("--requests should be 0, or at least one a round")
    if "redis" in options.stores and not shutil.which("redis-server"):
        parser.error("redis-server is not installed; --stores sqlite works without it")
    return options


def _write_source(source: Path, options: argparse.Namespace) -> None:
    """Write definitions, data and models, from which a repo for each store is copied."""
    (source / "data").mkdir(parents=True)
    synthetic.write_definitions(source, DIMENSION)
    (source / "benchmark_views.py").write_text(MORE_DEFINITIONS, encoding="utf-8")
    synthetic.write_activity(
        source / "data",
        members=options.members,
        events_per_member=EVENTS_PER_MEMBER,
        items=options.items,
        dimension=DIMENSION,
    )
    # In a process of its own: in this one TensorFlow should be set up by `preload`.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        folders = (source / "models", source.parent / "keras")
        pool.submit(synthetic.write_models, *folders, DIMENSION).result(timeout=10 * START_S)


def _publish(name: str, folder: Path, stack: ExitStack) -> FeatureStore:
    """Make the repo of one store and publish into it, with the real command."""
    repo = folder / name
    shutil.copytree(folder / "source", repo)
    if name == "redis":
        port = stack.enter_context(_redis(folder))
        text = (FEATURE_REPO / "feature_store.redis.yaml").read_text(encoding="utf-8")
        assert "localhost:6379" in text
        text = text.replace("localhost:6379", f"{HOST}:{port}")
    else:
        text = (FEATURE_REPO / "feature_store.yaml").read_text(encoding="utf-8")
    (repo / "feature_store.yaml").write_text(text, encoding="utf-8")
    end = synthetic.CUTOFF
    first_vector = end - 2 * synthetic.WINDOW - timedelta(days=1)
    _feast(repo, "apply")
    _feast(repo, "materialize", _iso(first_vector), _iso(end), "--views", names.JOBS.vectors_view)
    ours = [option for view in _activity_views(repo) for option in ("--views", view)]
    _feast(repo, "materialize", _iso(end - timedelta(days=1)), _iso(end), *ours)
    return FeatureStore(repo_path=str(repo))


def _activity_views(repo: Path) -> list[str]:
    views = FeatureStore(repo_path=str(repo)).list_batch_feature_views()
    return [view.name for view in views if names.Tag.ROLE in view.tags and view.source_views]


def _iso(moment: Any) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}"


def _environment() -> dict[str, str]:
    """Return the environment for processes that read the repo's own feature_store.yaml."""
    environment = {"FEAST_USAGE": "False", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    environment.pop("FEAST_FS_YAML_FILE_PATH", None)
    return environment


def _feast(repo: Path, *arguments: str) -> None:
    """Run the real command; a failure ends the benchmark with the command's own message."""
    done = subprocess.run(
        [FEAST, *arguments],
        cwd=repo,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=10 * START_S,
    )
    if done.returncode:
        sys.exit(f"feast {' '.join(arguments)} failed\n{done.stdout}\n{done.stderr}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextmanager
def _process(command: Sequence[Any], folder: Path, ready: Callable[[], bool]) -> Iterator[None]:
    """Run a server, wait until it is ready, and stop it and its children at the end."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=_environment(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + START_S
        while not ready():
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"{command[0]} did not start\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_S)


@contextmanager
def _redis(folder: Path) -> Iterator[int]:
    """Run a Redis that keeps nothing on disk; yield its port."""
    port = _free_port()
    options = ["--port", port, "--bind", HOST, "--save", "", "--appendonly", "no"]

    def ready() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, port)) == 0

    with _process(["redis-server", *options], folder, ready):
        yield port


@contextmanager
def _feast_serve(repo: Path) -> Iterator[int]:
    """Run `feast serve`; yield its port.

    Without `--max-requests 0` Feast restarts the worker after 1000 requests, and so loads
    TensorFlow again. Clients keep their connections while the other variants take their turns.
    """
    port = _free_port()
    options = ["--host", HOST, "--port", port, "--no-access-log"]
    options += ["--max-requests", 0, "--keep-alive-timeout", 3600]

    def ready() -> bool:
        connection = http.client.HTTPConnection(HOST, port, timeout=CALL_S)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    with _process([FEAST, "serve", *options], repo, ready):
        yield port


def _started(name: str, store: FeatureStore, stack: ExitStack, request: Request) -> int:
    """Start `feast serve` and print what that took until the first answer; return its port."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    started = time.perf_counter()
    port = stack.enter_context(_feast_serve(Path(store.repo_path)))
    Client(port).ask(request.row(recent=True), feature_service=REALTIME)
    seconds = time.perf_counter() - started
    servers = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    # Its parent, which is a child of this process, waits and does nothing.
    worker = max(p.memory_info().rss for p in servers if p.ppid() != os.getpid())
    print(
        f"{name}: feast serve, start to the first request-time answer {seconds:.1f} s, "
        f"then its worker has {worker / 1e6:.0f} MB",
        flush=True,
    )
    return port


def _requests(members: int, items: np.ndarray) -> list[Request]:
    """Return seeded requests of different members, whose events are seconds old."""
    chosen = np.random.default_rng(1)
    actions = synthetic.ACTIONS
    return [
        Request(
            member=int(member),
            items=chosen.choice(items, 3, replace=False).tolist(),
            actions=[actions[i] for i in chosen.integers(len(actions), size=3)],
            times=[NOW.timestamp() - age for age in (30.25, 20.5, 10.75)],
            candidates=chosen.choice(items, min(CANDIDATES, len(items)), replace=False).tolist(),
        )
        for member in chosen.integers(1, members + 1, DISTINCT_REQUESTS)
    ]


def _check(name: str, store: FeatureStore, requests: Sequence[Request]) -> None:
    """Stop if the ways do not answer the same question."""
    batch, realtime = (store.get_feature_service(service) for service in (BATCH, REALTIME))
    at = synthetic.CUTOFF.timestamp()
    largest = 0.0
    for request in requests[:50]:
        row = {names.MEMBER_ID: [request.member]}
        stored = store.get_online_features(batch, row).to_dict()
        quiet = store.get_online_features(realtime, request.row(recent=False, at=at)).to_dict()
        recent = store.get_online_features(realtime, request.row(recent=True)).to_dict()
        if stored[names.ACTIVITY_COUNT] != quiet[names.ACTIVITY_COUNT]:
            sys.exit(f"{name}: the stored and the request-time sequence differ for {request}")
        if recent[names.NEW_ACTIVITY_COUNT] != [len(request.items)]:
            sys.exit(f"{name}: new events were left out for {request}")
        vectors = [np.array(found["activity_embedding"][0]) for found in (stored, quiet)]
        largest = max(largest, float(np.abs(vectors[0] - vectors[1]).max()))
    print(f"{name}: largest difference of batch and request-time value {largest:.1e}", flush=True)
    if largest > 1e-5:
        sys.exit(f"{name}: batch and request-time value should be equal to 1e-5")


def _check_served(name: str, store: FeatureStore, port: int, requests: Sequence[Request]) -> None:
    """Stop if `feast serve` does not answer as this process does."""
    service = store.get_feature_service(REALTIME)
    client = Client(port)
    for request in requests[:5]:
        row = request.row(recent=True)
        here = store.get_online_features(service, row).to_dict()["activity_embedding"]
        there = client.ask(row, feature_service=REALTIME)["activity_embedding"]
        if not np.allclose(here, there, atol=1e-6, rtol=0):
            sys.exit(f"{name}: feast serve answers otherwise than this process for {request}")


def _in_process(name: str, store: FeatureStore) -> list[Variant]:
    """Return the variants that call Feast, or its store, in this process."""
    online = get_online_store_from_config(store.config.online_store)
    sequence = store.get_feature_view(names.JOBS.sequence_view)
    vector_spec = store.get_feature_view(names.JOBS.vectors_view)
    services = {s: store.get_feature_service(s) for s in (BATCH, REALTIME, STORED, NOTHING)}

    def read_sequence(request: Request) -> object:
        keys = [_key(names.MEMBER_ID, request.member)]
        # A list of its own: Feast's Redis store appends to the one it is given.
        return online.online_read(store.config, sequence, keys, list(SEQUENCE_FEATURES))

    def read_ranking(request: Request) -> object:
        keys = [_key(names.ITEM_ID, item) for item in request.candidates]
        vectors = online.online_read(store.config, vector_spec, keys, [names.EMBEDDING])
        return read_sequence(request), vectors

    def fetch(service: str) -> Callable[[Request], object]:
        return lambda request: store.get_online_features(
            services[service], {names.MEMBER_ID: [request.member]}
        ).to_dict()

    def compute(service: str, *, recent: bool) -> Callable[[Request], object]:
        return lambda request: store.get_online_features(
            services[service], request.row(recent=recent)
        ).to_dict()

    def rank(request: Request) -> object:
        events = list(zip(request.items, request.actions, request.times, strict=True))
        return rank_jobs(
            store,
            request.member,
            request.candidates,
            events,
            service=services[REALTIME],
            request_timestamp=NOW.timestamp(),
        )

    ways: list[tuple[str, Callable[[Request], object], float]] = [
        (WHAT_BARE, read_sequence, 1.0),
        (WHAT_STORED, fetch(STORED), 1.0),
        (WHAT_NOTHING, compute(NOTHING, recent=True), 1.0),
        (WHAT_BATCH, fetch(BATCH), 1.0),
        (WHAT_QUIET, compute(REALTIME, recent=False), 1.0),
        (WHAT_RECENT, compute(REALTIME, recent=True), 1.0),
        (WHAT_BARE_RANKING, read_ranking, RANKING_SHARE),
        (WHAT_RANKING, rank, RANKING_SHARE),
    ]
    return [Variant(name, IN_PROCESS, what, call, share) for what, call, share in ways]


def _key(join_key: str, value: int) -> EntityKey:
    return EntityKey(join_keys=[join_key], entity_values=[Value(int64_val=value)])


class Client:
    """A keep-alive connection to `feast serve`."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=CALL_S)

    def ask(self, entities: dict[str, list[Any]], **features: Any) -> dict[str, list[Any]]:
        """Return a request's features, one list each."""
        body = json.dumps({"entities": entities, **features}).encode()
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", "/get-online-features", body, headers)
        response = self._connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(f"feast serve answered {response.status}: {text[:1000]!r}")
        answer = json.loads(text)
        columns = (result["values"] for result in answer["results"])
        return dict(zip(answer["metadata"]["feature_names"], columns, strict=True))

    def rank(self, request: Request) -> object:
        """Rank items as the example does, with both fetches over HTTP."""
        member = self.ask(request.row(recent=True), feature_service=REALTIME)
        items = self.ask(
            {names.ITEM_ID: request.candidates},
            features=[f"{names.JOBS.vectors_view}:{names.EMBEDDING}"],
        )
        return order_by_cosine(
            member["activity_embedding"][0], request.candidates, items[names.EMBEDDING]
        )


def _over_http(name: str, port: int) -> list[Variant]:
    """Return the variants that ask a `feast serve`."""

    def fetch(service: str) -> Callable[[Client, Request], object]:
        return lambda client, request: client.ask(
            {names.MEMBER_ID: [request.member]}, feature_service=service
        )

    def compute(service: str, *, recent: bool) -> Callable[[Client, Request], object]:
        return lambda client, request: client.ask(
            request.row(recent=recent), feature_service=service
        )

    ways: list[tuple[str, Callable[[Client, Request], object], float]] = [
        (WHAT_STORED, fetch(STORED), 1.0),
        (WHAT_NOTHING, compute(NOTHING, recent=True), 1.0),
        (WHAT_BATCH, fetch(BATCH), 1.0),
        (WHAT_QUIET, compute(REALTIME, recent=False), 1.0),
        (WHAT_RECENT, compute(REALTIME, recent=True), 1.0),
        (WHAT_RANKING, Client.rank, RANKING_SHARE),
    ]

    def connected(ask: Callable[[Client, Request], object]) -> Callable[[Request], object]:
        client = Client(port)
        return lambda request: ask(client, request)

    return [
        Variant(name, HTTP, what, connected(ask), share, partial(connected, ask))
        for what, ask, share in ways
    ]


def _measure(
    variants: Sequence[Variant], requests: Sequence[Request], options: argparse.Namespace
) -> None:
    """Fill in what every variant took. They take turns, backwards in every second round."""
    for variant in variants:
        for request in requests[:WARM_UP]:
            variant.call(request)
    for round_ in range(options.rounds):
        for variant in variants[:: -1 if round_ % 2 else 1]:
            count = max(1, round(options.requests * variant.share / options.rounds))
            asked = [requests[(round_ * count + i) % len(requests)] for i in range(count)]
            variant.rounds.append(_latencies(variant.call, asked))
            if variant.client is not None:
                variant.concurrent.append(_with_many_clients(variant.client, asked))


def _latencies(call: Callable[[Request], object], requests: Sequence[Request]) -> np.ndarray:
    seconds = np.empty(len(requests))
    for i, request in enumerate(requests):
        started = time.perf_counter()
        call(request)
        seconds[i] = time.perf_counter() - started
    return seconds


def _with_many_clients(
    client: Callable[[], Callable[[Request], object]], requests: Sequence[Request]
) -> tuple[int, float]:
    """Return how many requests were answered in how many seconds, by several clients at a time."""
    shares = [requests[i::CLIENTS] for i in range(CLIENTS)]
    calls = [client() for _ in shares]
    for call in calls:
        call(requests[0])

    def ask(call: Callable[[Request], object], share: Sequence[Request]) -> None:
        for request in share:
            call(request)

    with ThreadPoolExecutor(CLIENTS) as pool:
        started = time.perf_counter()
        for done in [pool.submit(ask, *each) for each in zip(calls, shares, strict=True)]:
            done.result()
        return len(requests), time.perf_counter() - started


def _print_table(variants: Sequence[Variant]) -> None:
    print(
        f"\n{'milliseconds a request':<58}{'p50':>8}{'p99':>8}{'p99.9':>8}"
        f"{'1 client':>11}{f'{CLIENTS} clients':>11}"
    )
    before = None
    for variant in variants:
        title = f"{variant.store}, {variant.where}"
        if title != before:
            print(f"{title:<82}{'requests a second':>22}")
        before = title
        seconds = variant.seconds
        p50, p99, p999 = 1000 * np.quantile(seconds, [0.5, 0.99, 0.999])
        rare = f"{p999:8.2f}" if len(seconds) >= 1000 else f"{'-':>8}"
        count = sum(requests for requests, _ in variant.concurrent)
        spent = sum(seconds for _, seconds in variant.concurrent)
        many = f"{count / spent:11,.0f}" if count else f"{'-':>11}"
        print(
            f"  {variant.what:<56}{p50:8.2f}{p99:8.2f}{rare}"
            f"{len(seconds) / seconds.sum():11,.0f}{many}",
            flush=True,
        )


def _print_differences(variants: Sequence[Variant], stores: Sequence[str]) -> None:
    """Print what computing at request time adds, in process."""
    p50 = {(v.store, v.what): v.p50 for v in variants if v.where == IN_PROCESS}
    floors = (WHAT_STORED, WHAT_BATCH, WHAT_NOTHING)
    print("\nwhat the request-time value adds, p50 in process (CNN)")
    for store in stores:
        for what in (WHAT_QUIET, WHAT_RECENT):
            print(f"{store}, {what.split(', ')[1]}")
            for floor in floors:
                value, least = p50[store, what], p50[store, floor]
                target = ""
                if floor == WHAT_STORED:
                    reached = "reached" if value - least <= TARGET_MS else "NOT reached"
                    target = f"   target {TARGET_MS:g} ms: {reached}"
                print(
                    f"  minus {floor:<50}{value - least:8.2f} ms, x {value / least:.1f}{target}",
                    flush=True,
                )


def _soak(
    name: str, store: FeatureStore, seconds: float, members: int, items: Sequence[int]
) -> None:
    """Serve mixed requests for so long, and say whether memory grows."""
    print(f"\nsoak: {name}, {seconds:g} s of mixed request-time requests in one process")
    print(f"{'seconds':>10}{'requests':>12}{'members':>12}{'RSS MB':>10}{'objects':>12}")
    service = store.get_feature_service(REALTIME)
    chosen = random.Random(2)
    memory = psutil.Process()
    sampled: list[tuple[int, int]] = []
    counted: list[tuple[int, int]] = []
    asked = asked_members = 0
    started = time.monotonic()
    for sample in range(SOAK_SAMPLES + 1):
        while time.monotonic() - started < seconds * sample / SOAK_SAMPLES:
            rows = _mixed_rows(chosen, members, items)
            store.get_online_features(service, rows).to_dict()
            asked += 1
            asked_members += len(rows[names.MEMBER_ID])
        sampled.append((asked, memory.memory_info().rss))
        if sample % (SOAK_SAMPLES // 10) == 0:
            gc.collect()
            counted.append((asked, len(gc.get_objects())))
            print(
                f"{time.monotonic() - started:10.0f}{asked:12,}{asked_members:12,}"
                f"{sampled[-1][1] / 1e6:10.1f}{counted[-1][1]:12,}",
                flush=True,
            )
    grows = [
        _print_slope("bytes", sampled[len(sampled) // 2 :]),
        _print_slope("objects", counted[len(counted) // 2 :]),
    ]
    print("  memory grows" if any(grows) else "  memory does not grow")


def _print_slope(unit: str, samples: Sequence[tuple[int, int]]) -> bool:
    """Print the growth in the second half of a soak; return whether it is one."""
    requests, values = np.array(samples, dtype=float).T
    slope = float(np.polyfit(requests, values, 1)[0])
    share = slope * (requests[-1] - requests[0]) / values[0]
    print(f"  second half: {slope:+.3f} {unit} a request, {share:+.2%} in all")
    return share > GROWTH


def _mixed_rows(chosen: random.Random, members: int, items: Sequence[int]) -> dict[str, list[Any]]:
    """Return a request of 1 to 16 members, some never seen, with 0 to 5 events each.

    One item in ten is one that no store has a vector of.
    """
    now = NOW.timestamp() + chosen.uniform(0, 3600)
    columns: dict[str, list[Any]] = {
        names.MEMBER_ID: [],
        names.JOBS.recent_item_ids: [],
        names.JOBS.recent_actions: [],
        names.JOBS.recent_timestamps: [],
        names.REQUEST_TIMESTAMP: [],
    }
    for _ in range(chosen.randint(1, 16)):
        events = range(chosen.randint(0, 5))
        unknown = -chosen.randint(1, 10**9)
        recent = [chosen.choice(items) if chosen.random() < 0.9 else unknown for _ in events]
        row = [
            chosen.randint(1, members + members // 100),
            recent or None,
            [chosen.choice(synthetic.ACTIONS) for _ in events] or None,
            [now - chosen.uniform(1, 60) for _ in events] or None,
            now,
        ]
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    return columns


if __name__ == "__main__":
    main()
