"""The views of a feature repo are read without applying it, and nothing of it stays behind."""

import os
import shutil
import sys
import types
from datetime import timedelta

import pytest

from activity_embeddings.training.repo_definitions import read_definitions
from activity_embeddings.transformations.definitions.tags import spec_of
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.names import Role
from support.feast_repo import DEFINITIONS
from support.kinds import repo_of_kinds


@pytest.fixture
def repo(tmp_path):
    """The definitions of the project, without the encoder and the models that they name."""
    for file in [*DEFINITIONS.glob("*.py"), DEFINITIONS / "feature_store.yaml"]:
        shutil.copy(file, tmp_path)
    return tmp_path


def edit(repo, file, old, new):
    text = (repo / file).read_text()
    assert old in text
    (repo / file).write_text(text.replace(old, new))


def test_what_a_module_defined_before_it_raised_counts(repo):
    edit(repo, "sources.py", "timedelta(days=28)", "timedelta(hours=12)")
    definitions = read_definitions(repo)
    events, postings = definitions.view(Role.EVENTS), definitions.view(Role.POSTINGS)
    assert spec_of(events).window == timedelta(hours=12)
    assert (events.name, postings.name) == ("job_activity", "job_posting")
    assert {file.name for file in definitions.raised} >= {"item_vectors.py", "views.py"}
    with pytest.raises(
        InvalidInput, match=r"Received: none; .*item_vectors.py raised InvalidInput"
    ):
        definitions.view(Role.SEQUENCE)


def test_a_kind_of_activity_is_no_domain_of_its_own(tmp_path, models_of_kinds):
    """Where the sequences say which domain there is; before that, the item has to be said."""
    repo = repo_of_kinds(tmp_path / "repo", models_of_kinds)
    repo.forget_modules()
    folder = repo.path
    definitions = read_definitions(folder)
    assert definitions.view(Role.EVENTS).name == "job_activity"
    assert definitions.view(Role.EVENTS, "search").name == "search_activity"
    (folder / "views.py").unlink()
    with pytest.raises(InvalidInput, match=r"one of its domains: job, search. Received: no item"):
        read_definitions(folder).view(Role.EVENTS)


def test_nothing_of_the_repo_stays_behind(repo, tmp_path_factory):
    """Also where other modules have the names of the repo's, as those of another repo."""
    (repo / "lib").mkdir()
    (repo / "lib" / "windows.py").write_text("HOURS = 7\n")
    edit(repo, "sources.py", "timedelta(days=28)", "timedelta(hours=HOURS)")
    edit(
        repo,
        "sources.py",
        "from entities import",
        "from lib.windows import HOURS\nfrom entities import",
    )
    mine = types.ModuleType("sources")
    sys.modules["sources"] = mine
    before = dict(sys.modules), list(sys.path), os.getcwd(), sys.dont_write_bytecode
    try:
        assert spec_of(read_definitions(repo).view(Role.EVENTS)).window == timedelta(hours=7)
        edit(repo, "lib/windows.py", "7", "36")
        assert spec_of(read_definitions(repo).view(Role.EVENTS)).window == timedelta(hours=36)
        after = dict(sys.modules), list(sys.path), os.getcwd(), sys.dont_write_bytecode
    finally:
        del sys.modules["sources"]
    assert after[0]["sources"] is mine
    stems = {file.stem for file in repo.glob("*.py")} | {"lib", "lib.windows"}
    assert not stems.intersection(set(after[0]) - set(before[0]))
    assert after[1:] == before[1:]
    assert not list(repo.rglob("__pycache__"))


def test_a_folder_without_a_feature_repo_has_no_definitions(repo):
    (repo / "feature_store.yaml").unlink()
    (repo / "sources.py").write_text("raise SystemExit('should not be imported')")
    assert read_definitions(repo) is None


@pytest.mark.parametrize(
    "fault",
    ["raise KeyError('mine')", "import nowhere_to_be_found", "def f(:", "raise SystemExit(3)"],
)
def test_a_module_that_cannot_be_imported_is_named_where_its_view_is_missing(repo, fault):
    (repo / "sources.py").write_text(fault)
    definitions = read_definitions(repo)
    with pytest.raises(InvalidInput, match=r"Received: none; .*sources.py raised "):
        definitions.view(Role.EVENTS)


def test_two_views_of_one_role_are_refused(repo):
    text = (repo / "sources.py").read_text()
    view = text[text.index("activity = activity_view(") :]
    (repo / "sources.py").write_text(f"{text}\n\nother_{view}")
    with pytest.raises(InvalidInput, match=r"expected one view .* Received: job_.*, job_activity"):
        read_definitions(repo).view(Role.EVENTS)


def test_another_settings_file_makes_it_a_feature_repo_too(repo, monkeypatch):
    (repo / "feature_store.yaml").rename(repo / "other.yaml")
    assert read_definitions(repo) is None
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(repo / "other.yaml"))
    assert read_definitions(repo).view(Role.EVENTS).name == "job_activity"
