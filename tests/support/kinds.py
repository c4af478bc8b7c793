"""A feature repo with two kinds of activity: acting on jobs, and searching."""

import re
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings import ActivitySpec, ItemVectorSpec
from support.feast_repo import (
    DIMENSION,
    OWN_VECTORS,
    PROJECT,
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

GUIDE = (PROJECT / "docs" / "how-to" / "several-kinds.md").read_text(encoding="utf-8")


def of_guide(title: str) -> str:
    """Return a block of the guide, so that the definitions under test are those that it shows."""
    (block,) = re.findall(rf'^```.*title="{title}".*\n((?:.*\n)*?)```', GUIDE, re.MULTILINE)
    return block


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


def package_models_of_kinds(folder: Path) -> Path:
    """Package a decay of the own kind and a network; that of both kinds is the guide's."""
    import keras

    from activity_embeddings.training.models import CNN, GeometricDecay
    from activity_embeddings.training.packaging import package_model

    keras.utils.set_random_seed(7)
    for name, model in {
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


def repo_of_kinds(path: Path, models: Path, *, job_events=None, search_events=None, **data) -> Repo:
    """Return a repo over `small_data(**data)` and `search_data`, not applied yet.

    `models` is the folder of `package_models_of_kinds`, which gets what the guide packages.
    """
    events, vectors = small_data(**data)
    searches, queries = search_data()
    repo = make_repo(
        path,
        models,
        events_table(events if job_events is None else job_events),
        vectors_table(vectors),
        OWN_VECTORS,
    )
    (repo.path / "searches.py").write_text(of_guide("searches.py"))
    (repo.path / "services.py").write_text(SERVICES_PY)
    lines = "".join(f'    ActivityModel(MODELS / "{n}"),\n' for n in ("both", "own", "cnn"))
    (repo.path / "activity_models.py").write_text(
        "from sources import REPO\n\nfrom activity_embeddings import ActivityModel\n\n"
        f'MODELS = REPO / "models"\nACTIVITY_MODELS = [\n{lines}]\n'
    )
    views = (repo.path / "views.py").read_text()
    start = views.index("domain = ActivityDomain(")
    end = views.index("\n)\n", start) + len("\n)\n")
    views = views[:start] + of_guide("views.py") + views[end:]
    views = views.replace(
        "from sources import", "from searches import search_vectors, searches\nfrom sources import"
    )
    (repo.path / "views.py").write_text(views)
    write_searches(repo, searches_table(searches if search_events is None else search_events))
    pq.write_table(search_vectors_table(queries), repo.data / "search_embeddings.parquet")
    if not (models / "both").is_dir():
        repo.python(of_guide("package_models.py"))
        shutil.copytree(repo.path / "models" / "both", models / "both")
    return repo


def session_ids(count: int, seed: int = 3) -> list[int | None]:
    """Return session ids that members share and that overlap in time; a third have none."""
    random = np.random.default_rng(seed)
    return [int(n) if n < 4 else None for n in random.integers(0, 6, count)]


def add_session_ids(repo: Repo, *, of_searches: bool = True) -> None:
    """Give the events of both kinds a column `visit`, which the views declare."""
    declared = '    session_id=Field(name="visit", dtype=Int64),\n'
    imports = "from feast import Field\nfrom feast.types import Int64\n"
    for file, column, events, seed in (
        ("sources.py", "action", repo.events, 3),
        ("searches.py", "how", repo.data / "search_events", 4),
    ):
        if file == "sources.py" or of_searches:
            line = f'    action="{column}",\n'
            repo.edit(file, line, line + declared)
            text = (repo.path / file).read_text()
            place = text.index("from feast import")
            (repo.path / file).write_text(text[:place] + imports + text[place:])
        (history,) = events.glob("*.parquet")
        table = pq.read_table(history, partitioning=None)
        visits = pa.array(session_ids(len(table), seed), pa.int64())
        pq.write_table(table.append_column("visit", visits), history)


def write_searches(repo: Repo, table: pa.Table) -> None:
    """Make these the only searches."""
    (repo.data / "search_events").mkdir(exist_ok=True)
    pq.write_table(table, repo.data / "search_events" / "history.parquet")
