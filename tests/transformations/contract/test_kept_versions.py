"""A replacement of a model that is stopped anywhere loses no version."""

import itertools
import os
import shutil
from pathlib import Path

import pytest

from activity_embeddings.transformations.contract.kept_versions import (
    finish_replacing,
    kept_versions,
    put_into_place,
)


class Killed(BaseException):
    """What no code of the package catches."""


def a_model(folder, version, made_at):
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_text(version)
    (folder / "weights").write_text(version)
    os.utime(folder / "saved_model.pb", (made_at, made_at))
    return folder


def killed_at(monkeypatch, stop, moment, model, new, version):
    """Put into place, but until the `stop`-th rename or removal alone; say if that came."""
    passed = itertools.count()

    def stopping(operation):
        def run_or_stop(path, *arguments, **options):
            now = next(passed)
            if now < stop:
                return operation(path, *arguments, **options)
            if now > stop:  # as of a process that is gone, nothing more happens
                raise Killed
            if moment == "after":
                operation(path, *arguments, **options)
            if moment == "amid" and operation is remove and Path(path).exists():
                (Path(path) / "saved_model.pb").unlink()
            raise Killed

        return run_or_stop

    rename, remove = Path.rename, shutil.rmtree
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", stopping(rename))
        patched.setattr(shutil, "rmtree", stopping(remove))
        try:
            put_into_place(model, new, version)
        except Killed:
            return True
    return False


def contents(model):
    """Return what is in place, and what is kept by its version; each is whole."""
    there = {"": model, **kept_versions(model)}
    texts = {
        name: {file.read_text() for file in folder.iterdir()} for name, folder in there.items()
    }
    assert all(len(text) == 1 for text in texts.values()), texts
    (in_place,) = texts.pop("")
    return in_place, {name: text.pop() for name, text in texts.items()}


@pytest.mark.parametrize("moment", ["before", "amid", "after"])
def test_packaging_that_is_killed_anywhere_loses_no_version(tmp_path, monkeypatch, moment):
    for stop in itertools.count():
        home = tmp_path / str(stop)
        model = a_model(home / "cnn", "0", 1)
        put_into_place(model, a_model(home / "first", "1", 2), "0")
        new = a_model(home / "second", "2", 3)
        came = killed_at(monkeypatch, stop, moment, model, new, "1")

        finish_replacing(model)
        in_place, kept = contents(model)
        assert (in_place, kept) in [("1", {"0": "0"}), ("2", {"0": "0", "1": "1"})]
        put_into_place(model, a_model(home / "third", "3", 4), in_place)
        assert contents(model) == ("3", kept | {in_place: in_place})
        left = {path.name for path in home.iterdir()} - {"second"}
        assert left == {"cnn", ".versions"}
        assert {path.name for path in (home / ".versions/cnn").iterdir()} == {
            f"v{version}" for version in contents(model)[1]
        }
        if not came:
            assert stop > 2
            return


@pytest.mark.parametrize("moment", ["before", "amid", "after"])
def test_going_back_that_is_killed_anywhere_loses_no_version(tmp_path, monkeypatch, moment):
    for stop in itertools.count():
        model = a_model(tmp_path / str(stop) / "cnn", "1", 1)
        put_into_place(model, a_model(tmp_path / str(stop) / "second", "2", 2), "1")
        old = kept_versions(model)["1"]
        came = killed_at(monkeypatch, stop, moment, model, old, "2")

        finish_replacing(model)
        assert contents(model) in [("2", {"1": "1"}), ("1", {"2": "2"})]
        if not came:
            assert stop > 2
            return


@pytest.mark.parametrize("moment", ["before", "amid", "after"])
def test_a_kept_version_is_whole_while_another_of_its_name_takes_its_place(
    tmp_path, monkeypatch, moment
):
    for stop in itertools.count():
        home = tmp_path / str(stop)
        model = a_model(home / "cnn", "old 1", 1)
        put_into_place(model, a_model(home / "second", "new 1", 2), "1")
        new = a_model(home / "third", "2", 3)
        came = killed_at(monkeypatch, stop, moment, model, new, "1")

        for version, folder in kept_versions(model).items():
            assert {file.read_text() for file in folder.iterdir()} <= {"old 1", "new 1"}, version
        finish_replacing(model)
        assert contents(model) in [("new 1", {"1": "old 1"}), ("2", {"1": "new 1"})]
        if not came:
            return


@pytest.mark.parametrize("moment", ["before", "amid", "after"])
def test_what_is_not_kept_stays_until_the_new_one_is_in_place(tmp_path, monkeypatch, moment):
    for stop in itertools.count():
        home = tmp_path / str(stop)
        model, new = a_model(home / "cnn", "1", 1), a_model(home / "second", "again 1", 2)
        came = killed_at(monkeypatch, stop, moment, model, new, None)

        finish_replacing(model)
        assert contents(model) in [("1", {}), ("again 1", {})]
        assert {path.name for path in home.iterdir()} - {"second"} == {"cnn"}
        if not came:
            return
