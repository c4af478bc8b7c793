"""A registry is for every machine: it has paths within the feature repo and URLs, and no other."""

import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from activity_embeddings import SequenceWriter
from activity_embeddings.transformations.check import check
from activity_embeddings.transformations.serving.entity_rows import entity_rows
from support.feast_repo import Repo, at, events_table, small_repo

pytestmark = pytest.mark.slow

DUCKDB = "activity_embeddings.OrderedDuckDBOfflineStore"
REPO_LINE = "    repo=REPO,\n"


def answers(repo):
    """Return what is served of some members, as of a request and in a training join."""
    store = repo.store
    rows = entity_rows([1, 2, 7], {7: [(1, "APPLY", at(0.9))]}, request_timestamp=at(1))
    served = store.get_online_features(
        store.get_feature_service("recommendations_v1_realtime"), rows
    ).to_dict()
    labels = pd.DataFrame({"member_id": [1, 2, 7], "event_timestamp": [at(1)] * 3})
    joined = store.get_historical_features(labels, store.get_feature_service("search_v1")).to_df()
    # Feast's own DuckDB store gives them in any order.
    return served, joined.sort_values("member_id", ignore_index=True).to_json()


@pytest.mark.parametrize("kind", [DUCKDB, "duckdb", "activity_embeddings.OrderedDaskOfflineStore"])
def test_all_may_lie_on_a_disk_that_every_machine_has(tmp_path, models, kind):
    usual = small_repo(tmp_path / "usual", models)
    usual.publish(at(0), at(1))
    repo, share = small_repo(tmp_path / "repo", models), tmp_path / "the 100% share"
    share.mkdir()
    repo.events.rename(share / "events")
    (repo.data / "job_embeddings.parquet").rename(share / "vectors.parquet")
    (repo.path / "models").rename(share / "models")
    url = f"file://{share}"
    repo.edit("sources.py", 'path="data/activity_events"', f'path="{url}/events"')
    repo.edit(
        "item_vectors.py", 'path="data/job_embeddings.parquet"', f'path="{url}/vectors.parquet"'
    )
    repo.edit("item_vectors.py", "item=item,", f'item=item,\n    table="{url}/tables/{{view}}",')
    lines = repo.path / "activity_models.py"
    lines.write_text(lines.read_text().replace('MODELS / "', f'"{url}/models/'))
    repo.edit("views.py", REPO_LINE, f'{REPO_LINE}    snapshots="{url}/snapshots",\n')
    repo.edit("feature_store.yaml", DUCKDB, kind)

    repo.publish(at(0), at(1))
    expected = answers(usual)
    assert expected[0]["activity_count"][0] and expected[0]["new_activity_count"][2]
    assert answers(repo) == expected
    assert not check(repo.store).differences
    assert {path.name for path in share.iterdir()} == {
        "events", "models", "snapshots", "tables", "vectors.parquet"
    }  # fmt: skip
    assert {path.name for path in repo.data.iterdir()} == {
        "online.db", "online.db.lock", "registry.db"
    }  # fmt: skip
    registry = repo.store.registry.proto().SerializeToString()
    assert registry.count(str(tmp_path).encode()) == registry.count(url.encode()) > 5

    # Another machine has the repo elsewhere, and the same disk.
    other = Repo(tmp_path / "elsewhere" / "other")
    shutil.copytree(repo.path, other.path)
    shutil.rmtree(repo.path)
    assert answers(other) == expected
    other.publish(at(1), at(2))
    assert not check(other.store).differences
    SequenceWriter(other.store).push(events_table([(7, 1, "APPLY", at(2.1))]))
    assert len(list((share / "events").glob("live-*.parquet"))) == 1


EVENTS, VECTORS = 'path="data/activity_events"', 'path="data/job_embeddings.parquet"'
ICEBERG = "__import__('activity_embeddings').IcebergSnapshots('{beside}/l')"
MODEL = 'MODELS / "unweighted_average"'
CHANGES = {
    "events within the repo": ("sources.py", EVENTS, "path=str(REPO / 'data' / 'activity_events')"),
    "events beside it": ("sources.py", EVENTS, 'path="{beside}/events"'),
    "events elsewhere": ("sources.py", EVENTS, 'path="/elsewhere/of/this/machine"'),
    "vectors": ("item_vectors.py", VECTORS, 'path="{beside}/vectors.parquet"'),
    "the table of vectors": ("item_vectors.py", "item=item,", "item=item, table='{beside}/t',"),
    "a model": ("activity_models.py", MODEL, '"{beside}/models/unweighted_average"'),
    "snapshots": ("views.py", REPO_LINE, "    repo=REPO, snapshots=REPO / '../snapshots',\n"),
    "snapshots in Iceberg": ("views.py", REPO_LINE, f"{REPO_LINE}    snapshots={ICEBERG},\n"),
}
INSTEAD = {
    "events within the repo": "Write 'data/activity_events', or 'file://{repo}/data/",
    "events beside it": "Write '../events', or 'file://{beside}/events' if every machine",
    "events elsewhere": "Give one within the feature repo, or 'file:///elsewhere/of/this/machine'",
    "vectors": "Write '../vectors.parquet', or 'file://{beside}/vectors.parquet' if",
    "the table of vectors": "or 'file://{beside}/t' if every machine has it there",
    "a model": "or 'file://{beside}/models/unweighted_average' if",
    "snapshots": "or 'file://{beside}/snapshots' if",
    "snapshots in Iceberg": "or 'file://{beside}/l' if",
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_absolute_path_of_this_machine_is_refused_with_what_to_write(repo, change):
    beside = repo.path.parent
    pq.write_table(pa.table({"a": [1]}), beside / "vectors.parquet")
    shutil.copytree(repo.events, beside / "events")
    shutil.copytree(repo.path / "models", beside / "models")
    file, old, new = CHANGES[change]
    repo.edit(file, old, new.replace("{beside}", str(beside)))
    before = sorted(beside.rglob("*"))
    outcome = repo.feast("apply")
    assert outcome.code == 1 and "Traceback" not in outcome.output
    message = outcome.output[outcome.output.index("Error: ") :]
    assert "expected a path relative to the feature repo, or a URL, since the registry" in message
    assert INSTEAD[change].format(beside=beside, repo=repo.path) in message
    assert [path for path in sorted(beside.rglob("*")) if path not in before] in (
        [],
        [repo.data / "registry.db"],
    )
    assert repo.store.list_batch_feature_views() == []


@pytest.mark.parametrize("place", ["s3://bucket/snapshots", "file://host/snapshots"])
def test_snapshots_that_lie_on_no_disk_of_this_machine_are_refused(repo, place):
    repo.edit("views.py", REPO_LINE, f'{REPO_LINE}    snapshots="{place}",\n')
    outcome = repo.feast("apply")
    assert outcome.code == 1 and "Traceback" not in outcome.output
    expected = "the name of one machine" if "host" in place else "IcebergSnapshots"
    assert expected in outcome.output
