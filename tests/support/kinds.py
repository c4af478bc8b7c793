"""A feature repo with two kinds of activity: acting on jobs, and searching."""

from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings import ActivitySpec, ItemVectorSpec
from support.feast_repo import (
    DIMENSION,
    OWN_VECTORS,
    Repo,
    at,
    events_table,
    make_repo,
    small_data,
    vectors_table,
)

JOBS = ActivitySpec()
SEARCHES = ActivitySpec(actions=("SEARCH", "REFINE"), positive_actions=())
KEEP = {"job": 6}
SPEC = ActivitySpec.of_kinds({"job": JOBS, "search": SEARCHES}, KEEP)
OF_JOBS = ItemVectorSpec("content_and_behaviour", "1", DIMENSION)
OF_SEARCHES = ItemVectorSpec("words", "2", DIMENSION)
OF_ALL = ItemVectorSpec("content_and_behaviour+words", "1_2", DIMENSION)

SEARCHES_PY = """
from entities import member
from feast import Entity, FileSource
from feast.value_type import ValueType
from sources import OWNER, SPEC

from activity_embeddings import ActivitySpec, ItemVectorSpec, activity_view, vector_view

search = Entity(name="search", join_keys=["query"], value_type=ValueType.STRING)

searches = activity_view(
    FileSource(
        name="search_events",
        path="data/search_events",
        timestamp_field="searched_at",
        field_mapping={"who": "member_id"},
    ),
    member=member,
    item=search,
    spec=ActivitySpec(SPEC.window, SPEC.length, ("SEARCH", "REFINE"), ()),
    action="how",
    owner=OWNER,
)

search_vectors = vector_view(
    FileSource(
        name="search_embeddings",
        path="data/search_embeddings.parquet",
        timestamp_field="event_timestamp",
    ),
    item=search,
    vectors=ItemVectorSpec("words", "2", 64),
)
"""
SERVICES_PY = """
from views import domain

recommendations_v1 = domain.service("recommendations_v1", "both")
recommendations_v1_realtime = domain.service("recommendations_v1_realtime", "both", realtime=True)
"""


def search_data(seed: int = 1, members: int = 44, days: int = 10) -> tuple[list, list]:
    """Return (events, vectors) rows: many searches of some members, some queries without vector."""
    random = np.random.default_rng(seed)
    events = []
    for member in range(1, members + 1):
        for _ in range(int(random.integers(0, 60 if member % 5 == 0 else 6))):
            query = f"q:{random.integers(1, 16)}"
            how = ("SEARCH", "REFINE")[int(random.integers(0, 2))]
            events.append((member, query, how, at(float(random.uniform(-20, days)))))
    events += events[:3]
    vectors = []
    for number in range(1, 13):
        since = at(-40) if number % 4 else at(float(random.uniform(-5, 5)))
        vectors.append((f"q:{number}", since, random.normal(size=DIMENSION).astype(np.float32)))
    return events, vectors


def searches_table(rows: list[tuple[int, str, str, datetime]], member: str = "who") -> pa.Table:
    members, queries, actions, times = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table(
        {
            member: pa.array(members, pa.int64()),
            "query": pa.array(queries, pa.string()),
            "how": pa.array(actions, pa.string()),
            "searched_at": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


def search_vectors_table(rows) -> pa.Table:
    queries, times, vectors = zip(*rows, strict=True)
    return pa.table(
        {
            "query": pa.array(queries, pa.string()),
            "embedding": pa.array([v.tolist() for v in vectors], pa.list_(pa.float32())),
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


@cache
def packaged_models() -> Path:
    """Return a folder with a decay of both kinds, a decay of the own kind, and a network."""
    import keras

    from activity_embeddings.training.models import CNN, GeometricDecay, InterleavedDecay
    from activity_embeddings.training.packaging import package_model

    folder = Path(mkdtemp(prefix="models-of-kinds-"))
    keras.utils.set_random_seed(7)
    for name, model in {
        "both": InterleavedDecay(r=0.8, kinds=("job", "search")),
        "own": GeometricDecay(r=0.8),
        "cnn": CNN(residual=False, filters=8),
    }.items():
        package_model(
            model.build(SPEC, OF_ALL),
            folder / name,
            name=name,
            version="1",
            spec=SPEC,
            vector_spec=OF_ALL,
        )
    return folder


def repo_of_kinds(path: Path, *, job_events=None, search_events=None, **data) -> Repo:
    """Return a repo over `small_data(**data)` and `search_data`, not applied yet."""
    events, vectors = small_data(**data)
    searches, queries = search_data()
    repo = make_repo(
        path,
        packaged_models(),
        events_table(events if job_events is None else job_events),
        vectors_table(vectors),
        OWN_VECTORS,
    )
    (repo.path / "searches.py").write_text(SEARCHES_PY)
    (repo.path / "services.py").write_text(SERVICES_PY)
    lines = "".join(f'    ActivityModel(MODELS / "{n}"),\n' for n in ("both", "own", "cnn"))
    (repo.path / "activity_models.py").write_text(
        "from sources import REPO\n\nfrom activity_embeddings import ActivityModel\n\n"
        f'MODELS = REPO / "models"\nACTIVITY_MODELS = [\n{lines}]\n'
    )
    views = (repo.path / "views.py").read_text()
    views = views.replace("    activity=activity,\n", "    activity=[activity, searches],\n")
    views = views.replace(
        "    vectors=vectors,\n", '    vectors=[vectors, search_vectors],\n    keep={"job": 6},\n'
    )
    views = views.replace(
        "from sources import", "from searches import search_vectors, searches\nfrom sources import"
    )
    (repo.path / "views.py").write_text(views)
    write_searches(repo, searches_table(searches if search_events is None else search_events))
    pq.write_table(search_vectors_table(queries), repo.data / "search_embeddings.parquet")
    return repo


def write_searches(repo: Repo, table: pa.Table) -> None:
    """Make these the only searches."""
    (repo.data / "search_events").mkdir(exist_ok=True)
    pq.write_table(table, repo.data / "search_events" / "history.parquet")
