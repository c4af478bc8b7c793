"""`feast apply` says what feature_store.yaml lacks before anything is registered or published."""

import shutil

import pytest

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


@pytest.mark.parametrize("request_time", [True, False])
def test_a_copy_of_an_applied_repo_is_refused_and_the_first_stays_as_it_is(
    repo, tmp_path, request_time
):
    if not request_time:
        repo.edit(
            "views.py",
            "globals().update(domain.views)",
            "sequence = domain.sequence\nglobals().update(domain.embeddings)",
        )
        repo.edit("services.py", "realtime=True", "realtime=False")
    repo.publish(at(0), at(1))
    copy = Repo(tmp_path / "copy")
    shutil.copytree(repo.path, copy.path)
    before, registry = copy.stores(), (copy.data / "registry.db").read_bytes()
    refused = copy.feast("apply")
    assert refused.code == 1 and "Traceback" not in refused.output
    assert f"expected `feast apply` in {repo.path}" in refused.output
    assert f"Received: {copy.path}" in refused.output
    assert copy.stores() == before and (copy.data / "registry.db").read_bytes() == registry
    repo.run("apply")

    # As the message says.
    for file in ("registry.db", "online.db"):
        (copy.data / file).unlink()
    copy.publish(at(1), at(2))


def test_a_moved_repo_is_refused(repo, tmp_path):
    repo.run("apply")
    moved = Repo(repo.path.rename(tmp_path / "moved"))
    refused = moved.feast("apply")
    assert refused.code == 1 and str(repo.path) in refused.output


def test_two_checkouts_of_one_registry_do_not_take_it_from_each_other(repo, tmp_path):
    shared = f"registry: {tmp_path / 'shared.db'}"
    repo.edit("feature_store.yaml", "registry: data/registry.db", shared)
    repo.run("apply")
    other = Repo(tmp_path / "other")
    shutil.copytree(repo.path, other.path)
    refused = other.feast("apply")
    assert refused.code == 1 and str(tmp_path / "shared.db") in refused.output
    repo.run("apply")


def test_a_repo_reached_by_a_link_is_the_same(repo, tmp_path):
    repo.run("apply")
    link = tmp_path / "link"
    link.symlink_to(repo.path)
    Repo(link).run("apply")


def test_another_folder_for_snapshots_of_the_same_repo_is_no_copy(repo, tmp_path):
    repo.run("apply")
    elsewhere = f'{REPO_LINE}    snapshots=REPO / "data" / "elsewhere",\n'
    outside = f'{REPO_LINE}    snapshots=REPO / "{tmp_path}/outside",\n'
    for before, after in ((REPO_LINE, elsewhere), (elsewhere, outside), (outside, REPO_LINE)):
        repo.edit("views.py", before, after)
        repo.run("apply")
