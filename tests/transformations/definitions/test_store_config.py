"""`feast apply` says what feature_store.yaml lacks before anything is registered or published."""

import shutil

import pandas as pd
import pytest

from activity_embeddings.transformations.check import check
from activity_embeddings.transformations.serving.entity_rows import entity_rows
from support.feast_repo import Repo, at

pytestmark = pytest.mark.slow

ENGINE = "type: activity_embeddings.ActivityComputeEngine"
DUCKDB = "type: activity_embeddings.OrderedDuckDBOfflineStore"
REPO_LINE = "    repo=REPO,\n"


def refusal(repo):
    """Return what `feast apply` refuses the repo with, after checking that it left no views."""
    for command in ("plan", "apply"):
        outcome = repo.feast(command)
        assert outcome.code == 1 and "Traceback" not in outcome.output
        assert "Error: " in outcome.output
    assert repo.store.list_batch_feature_views() == []
    return outcome.output[outcome.output.index("Error: ") :]


@pytest.mark.parametrize("named", ["none", "local", "another"])
def test_another_engine_is_refused_with_the_lines_to_add(repo, named):
    path = repo.path / "feature_store.yaml"
    text = path.read_text()
    head = text[: text.index("batch_engine:")]
    other = "feast.infra.compute_engines.local.compute.LocalComputeEngine"
    path.write_text(
        head
        + {
            "none": "",
            "local": "batch_engine: local\n",
            "another": f"batch_engine:\n  type: {other}\n",
        }[named]
    )
    message = refusal(repo)
    assert f"batch_engine:\n      {ENGINE}" in message
    assert f"Received: {other if named == 'another' else 'local'}" in message


def test_a_subclass_of_the_engine_is_accepted(repo):
    (repo.path / "our_engine.py").write_text(
        "from activity_embeddings.transformations.batch.engine import (\n"
        "    ActivityComputeEngine,\n"
        "    ActivityComputeEngineConfig as OurEngineConfig,\n"
        ")\n\n"
        "class OurEngine(ActivityComputeEngine):\n"
        '    """The same."""\n'
    )
    repo.edit("feature_store.yaml", ENGINE, "type: our_engine.OurEngine")
    repo.run("apply")


@pytest.mark.parametrize(
    "store", ["type: dask", "type: file", None], ids=["dask", "file", "Feast's default"]
)
def test_a_store_whose_joins_lose_labels_is_refused(repo, store):
    """Of 300 labels Feast's Dask store returned 247."""
    if store:
        repo.edit("feature_store.yaml", DUCKDB, store)
    else:
        repo.edit("feature_store.yaml", f"offline_store:\n  {DUCKDB}", "#")
    message = refusal(repo)
    assert "type: activity_embeddings.OrderedDaskOfflineStore" in message


def test_feasts_duckdb_store_is_accepted_which_loses_the_order_alone(repo):
    repo.edit("feature_store.yaml", DUCKDB, "type: duckdb")
    repo.run("apply")


SQLITE = "type: activity_embeddings.ThreadedSqliteOnlineStore"


@pytest.mark.parametrize(
    "store", ["type: sqlite\n", "type: feast.infra.online_stores.sqlite.SqliteOnlineStore\n", None]
)
def test_a_store_that_mixes_up_threads_is_refused(repo, store):
    """With Python 3.12 each of two threads may get what the other has asked for."""
    if store:
        repo.edit("feature_store.yaml", SQLITE, f"{store}  #")
    else:
        path = repo.path / "feature_store.yaml"
        text = path.read_text()
        first, last = text.index("online_store:"), text.index("offline_store:")
        path.write_text(text[:first] + text[last:])
    assert SQLITE in refusal(repo)


OUR_STORE = """\
from {module} import {base}, {base}Config


class OurOfflineStoreConfig({base}Config):
    type: str = "our_store.OurOfflineStore"


class OurOfflineStore({store}):
    pass
"""


def test_an_offline_store_that_is_not_known_to_join_files_is_refused(repo):
    text = OUR_STORE.format(
        module="feast.infra.offline_stores.dask", base="DaskOfflineStore", store="DaskOfflineStore"
    )
    (repo.path / "our_store.py").write_text(text)
    repo.edit("feature_store.yaml", DUCKDB, "type: our_store.OurOfflineStore")
    message = refusal(repo)
    assert "known to join snapshots in files. Received: our_store.OurOfflineStore" in message


def test_a_subclass_of_an_offline_store_is_accepted(repo):
    text = OUR_STORE.format(
        module="feast.infra.offline_stores.duckdb",
        base="DuckDBOfflineStore",
        store="OrderedDuckDBOfflineStore",
    )
    imported = "from activity_embeddings import OrderedDuckDBOfflineStore\n"
    (repo.path / "our_store.py").write_text(imported + text)
    repo.edit("feature_store.yaml", DUCKDB, "type: our_store.OurOfflineStore")
    repo.run("apply")


def test_an_online_store_that_is_not_tested_is_refused_unless_it_is_asked_for(repo):
    (repo.path / "our_store.py").write_text(
        "from feast.infra.online_stores.online_store import OnlineStore\n"
        "from feast.repo_config import FeastConfigBaseModel\n\n"
        "class OurOnlineStoreConfig(FeastConfigBaseModel):\n"
        '    type: str = "our_store.OurOnlineStore"\n'
        "    path: str\n\n"
        "class OurOnlineStore(OnlineStore):\n"
        "    def online_write_batch(self, *_): ...\n"
        "    def online_read(self, *_): ...\n"
        "    def update(self, *_, **__): ...\n"
        "    def teardown(self, *_): ...\n"
    )
    repo.edit("feature_store.yaml", SQLITE, "type: our_store.OurOnlineStore")
    message = refusal(repo)
    assert "redis or postgres. Received: our_store.OurOnlineStore" in message
    assert "Traceback" not in message
    repo.edit("feature_store.yaml", ENGINE, f"{ENGINE}\n  untested_online_store: true")
    repo.run("apply")


SERVICE = "recommendations_v2_realtime"


def answers(repo):
    """Return what is served of some members, as of a request and in a training join."""
    store = repo.store
    service = store.get_feature_service(SERVICE)
    rows = entity_rows([1, 2, 7], {7: [(1, "APPLY", at(0.9))]}, request_timestamp=at(1))
    labels = pd.DataFrame({"member_id": [1, 2, 7], "event_timestamp": [at(1)] * 3})
    joined = store.get_historical_features(labels, store.get_feature_service("search_v1")).to_df()
    return store.get_online_features(service, rows).to_dict(), joined.to_json()


def test_a_repo_that_was_moved_serves_joins_checks_and_publishes(repo, tmp_path):
    repo.publish(at(0), at(1))
    expected = answers(repo)
    assert expected[0]["activity_count"][0] and expected[0]["new_activity_count"][2]
    moved = Repo(repo.path.rename(tmp_path / "moved"))
    assert answers(moved) == expected
    assert not check(moved.store).differences
    moved.publish(at(1), at(2))
    moved.run("apply")
    assert not check(moved.store).differences
    assert not repo.path.exists()


def test_a_repo_whose_online_store_stayed_behind_fills_a_new_one(repo, tmp_path):
    repo.publish(at(0), at(3))
    moved = Repo(tmp_path / "moved")
    shutil.copytree(repo.path, moved.path, ignore=shutil.ignore_patterns("online.db"))
    moved.publish(at(3), at(4))
    repo.publish(at(3), at(4))
    got, expected = moved.online_rows(), repo.online_rows()
    for table in expected.keys() - {"activity_embeddings_job_embedding"}:  # by interval, as Feast
        assert got[table] == expected[table]
    assert expected["activity_embeddings_job_activity_sequence"]


def test_a_copy_and_the_first_leave_each_other_alone(repo, tmp_path):
    repo.publish(at(0), at(1))
    copy = Repo(tmp_path / "copy")
    shutil.copytree(repo.path, copy.path)
    before = repo.stores()
    copy.publish(at(1), at(2))
    assert repo.stores() == before
    assert not check(copy.store).differences
    before = copy.stores()
    repo.publish(at(1), at(2))
    repo.run("apply")
    assert not check(repo.store).differences
    assert copy.stores() == before


def test_the_registry_has_no_absolute_path(repo):
    repo.publish(at(0), at(1))
    text = repo.store.registry.proto().SerializeToString()
    assert b"data/snapshots/job_activity_sequence/v1" in text
    assert str(repo.path).encode() not in text


def test_two_checkouts_of_one_registry_do_not_take_it_from_each_other(repo, tmp_path):
    shared = f"registry: {tmp_path / 'shared.db'}"
    repo.edit("feature_store.yaml", "registry: data/registry.db", shared)
    repo.publish(at(0), at(1))
    expected = answers(repo)
    other = Repo(tmp_path / "other")
    shutil.copytree(repo.path, other.path)
    for each in (other, repo, other):
        each.run("apply")
    assert answers(repo) == answers(other) == expected


def test_a_repo_reached_by_a_link_is_the_same(repo, tmp_path):
    repo.run("apply")
    link = tmp_path / "link"
    link.symlink_to(repo.path)
    Repo(link).run("apply")


def test_another_folder_for_snapshots_of_the_same_repo_is_no_copy(repo, tmp_path):
    repo.run("apply")
    elsewhere = f'{REPO_LINE}    snapshots=REPO / "data" / "elsewhere",\n'
    outside = f'{REPO_LINE}    snapshots="file://{tmp_path}/outside",\n'
    for before, after in ((REPO_LINE, elsewhere), (elsewhere, outside), (outside, REPO_LINE)):
        repo.edit("views.py", before, after)
        repo.run("apply")
