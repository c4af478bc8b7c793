"""What is written by a rename goes where links point to, whole, with the permissions it had."""

import os
import stat
from pathlib import Path

import pyarrow as pa
import pytest

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.files import (
    empty_folder,
    make_folder,
    move_file,
    real_path,
    replace_file,
)
from activity_embeddings.transformations.offline.sinks.folder import FolderSink


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


@pytest.fixture
def linked(tmp_path):
    """A file that is reached through two links, one of them a folder."""
    (tmp_path / "disk").mkdir()
    real = tmp_path / "disk" / "real"
    real.write_text("old")
    real.chmod(0o640)
    (tmp_path / "folder").symlink_to("disk")
    (tmp_path / "link").symlink_to("folder/real")
    return real, tmp_path / "link"


def test_a_replaced_file_is_the_one_that_links_point_to(linked):
    real, link = linked
    replace_file(link, lambda aside: aside.write_text("new"))
    assert link.is_symlink() and not real.is_symlink()
    assert real.read_text() == link.read_text() == "new"
    assert mode(real) == 0o640
    assert [file.name for file in real.parent.iterdir()] == ["real"]


def test_a_moved_file_too(linked, tmp_path):
    real, link = linked
    (tmp_path / "staged").write_text("new")
    move_file(tmp_path / "staged", link)
    assert link.is_symlink() and real.read_text() == "new" and mode(real) == 0o640
    assert not (tmp_path / "staged").exists()


def test_a_file_moves_between_disks(tmp_path):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        other = Path("/var/tmp")
    (tmp_path / "staged").write_text("new")
    target = other / f"{tmp_path.name}-moved"
    try:
        target.write_text("old")
        (tmp_path / "link").symlink_to(target)
        move_file(tmp_path / "staged", tmp_path / "link")
        assert target.read_text() == "new"
        assert (tmp_path / "link").is_symlink() and not (tmp_path / "staged").exists()
    finally:
        target.unlink()


def test_what_fails_leaves_the_file_as_it_was(linked):
    real, link = linked

    def fail(aside):
        aside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(link, fail)
    assert real.read_text() == "old" and link.is_symlink()
    assert [file.name for file in real.parent.iterdir()] == ["real"]


@pytest.mark.parametrize("below", ["", "snapshots/v1"])
def test_a_broken_link_is_named(below, tmp_path):
    (tmp_path / "data").symlink_to("unmounted")
    for use in (real_path, make_folder, empty_folder):
        with pytest.raises(InvalidInput, match=r"data, a link to unmounted, which is not there"):
            use(tmp_path / "data" / below)
    assert not (tmp_path / "unmounted").exists()
    with pytest.raises(InvalidInput, match="not there"):
        replace_file(tmp_path / "data", lambda aside: aside.write_text("new"))


def test_links_in_a_circle_are_named(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InvalidInput, match=r"a, a link to b, which is not there"):
        real_path(tmp_path / "a" / "file")


def test_two_names_of_a_file_are_one(linked):
    real, link = linked
    assert real_path(link) == real_path(real) == real.resolve()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidInput, match="expected a folder"):
            make_folder(path)


def test_a_linked_folder_is_emptied_and_stays_linked(tmp_path):
    (tmp_path / "disk" / "old").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("")
    (tmp_path / "disk" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder").symlink_to("disk")
    empty_folder(tmp_path / "folder")
    assert (tmp_path / "folder").is_symlink()
    assert list((tmp_path / "disk").iterdir()) == []
    assert (tmp_path / "elsewhere" / "kept").exists()


@pytest.fixture
def on_disk(monkeypatch):
    """What the disk was asked to hold and which names changed, in order."""
    done = []
    originals = {name: getattr(os, name) for name in ("fsync", "rename", "replace")}

    def fsync(descriptor):
        done.append(("held", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        originals["fsync"](descriptor)

    def renamed(name):
        def rename(source, target, **more):
            done.append(("renamed", Path(source), Path(target)))
            originals[name](source, target, **more)

        return rename

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, renamed(name))
    return done


def assert_durable(done):
    """The content before its name, the name before the end."""
    renames = [(i, *what[1:]) for i, what in enumerate(done) if what[0] == "renamed"]
    assert renames
    for i, source, target in renames:
        assert ("held", source) in done[:i]
        assert ("held", target.parent) in done[i:]


def test_the_disk_holds_a_file_before_it_has_its_name_and_then_the_name(linked, on_disk):
    _, link = linked
    replace_file(link, lambda aside: aside.write_text("new"))
    assert_durable(on_disk)


def test_the_disk_holds_a_snapshot_before_it_is_committed(tmp_path, on_disk):
    sink = FolderSink(tmp_path / "view" / "v1")
    for value in (1, 1, 2):  # new, the same again, another
        on_disk.clear()
        writer = sink.staging.writer(0, {})
        writer.write(pa.record_batch({"member_id": [value]}))
        writer.close()
        if sink.commit(0):
            assert_durable(on_disk)
            for what, file, *_ in on_disk:
                assert what != "renamed" or ("held", sink.staging.file(0)) in on_disk, file
        else:
            assert value == 1 and on_disk == []
