"""A tree reached by descriptors: what a walk shows, and what removing declines to do, on real files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.servers.disks import small_disk

from maintd.clients.files import ChangedError, Entry, Tree, disk_bytes, newest, shown
from maintd.errors import TargetError


def file(path: Path, text: str = "x", *, at: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if at is not None:
        os.utime(path, (at, at))
    return path


def entry(tree: Tree, relative: str) -> Entry:
    return next(one for one in tree.walk() if one.relative == relative)


def test_a_walk_shows_every_name_that_is_no_folder_and_follows_no_link(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for path in (root / "a", root / "deep/er/b", outside / "secret"):
        file(path)
    (root / "to_folder").symlink_to(outside, target_is_directory=True)
    (root / "to_file").symlink_to(outside / "secret")
    (root / "to_nothing").symlink_to("nowhere")
    os.mkfifo(root / "pipe")

    with Tree(root) as tree:
        found = {one.relative: one.regular for one in tree.walk()}

    assert found == {
        "a": True,
        "deep/er/b": True,
        "to_folder": False,
        "to_file": False,
        "to_nothing": False,
        "pipe": False,
    }


def test_a_tree_can_be_walked_twice(tmp_path: Path) -> None:
    file(tmp_path / "a")

    with Tree(tmp_path) as tree:
        seen = [[one.relative for one in tree.walk()] for _ in range(2)]

    assert seen == [["a"], ["a"]]


def test_only_names_that_are_wanted_are_read(tmp_path: Path) -> None:
    for name in ("a.log", "b.txt", "sub/c.log"):
        file(tmp_path / name)

    with Tree(tmp_path) as tree:
        found = {one.relative for one in tree.walk(lambda name: name.endswith(".log"))}

    assert found == {"a.log", "sub/c.log"}


def test_a_root_that_is_a_link_is_followed_because_it_is_a_setting(tmp_path: Path) -> None:
    file(tmp_path / "real/a")
    (tmp_path / "link").symlink_to("real")

    with Tree(tmp_path / "link") as tree:
        assert [one.relative for one in tree.walk()] == ["a"]


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_root_that_is_not_a_folder_is_an_error_with_a_hint(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    if kind == "file":
        file(root)

    with pytest.raises(TargetError, match="root") as caught:
        Tree(root)

    assert caught.value.cause == "not_found"
    assert "correct the path" in (caught.value.hint or "")


def test_another_device_is_left_out_and_named(tmp_path: Path) -> None:
    file(tmp_path / "root/a")
    with small_disk(tmp_path / "root/other", "1m"):
        file(tmp_path / "root/other/b")
        with Tree(tmp_path / "root") as tree:
            found = [one.relative for one in tree.walk()]
            foreign = list(tree.foreign)
        with Tree(tmp_path / "root", one_device=False) as tree:
            everywhere = sorted(one.relative for one in tree.walk())

    assert (found, foreign) == (["a"], ["other"])
    assert everywhere == ["a", "other/b"]


def test_a_file_is_not_removed_from_another_device_that_was_mounted_over_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"
    file(root / "a")
    with small_disk(root / "sub", "1m"):
        file(root / "sub/b")
        with Tree(root, one_device=False) as wide:
            planned = entry(wide, "sub/b")

        with Tree(root) as tree, pytest.raises(ChangedError, match="another device"):
            tree.remove(planned)

        assert (root / "sub/b").exists()


def test_an_unchanged_file_is_removed(tmp_path: Path) -> None:
    file(tmp_path / "sub/odd\nname")
    file(tmp_path / "sub/other")

    with Tree(tmp_path) as tree:
        tree.remove(entry(tree, "sub/odd\nname"))

    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["other"]


@pytest.mark.parametrize("change", ["grown", "touched", "replaced", "linked again", "a link now", "a pipe now"])
def test_a_file_that_has_changed_since_it_was_listed_stays(change: str, tmp_path: Path) -> None:
    root, precious = tmp_path / "root", file(tmp_path / "precious", "p")
    path = file(root / "a", "x", at=1_700_000_000)
    with Tree(root) as tree:
        planned = entry(tree, "a")
        if change == "grown":
            with path.open("a") as stream:
                stream.write("more")
            os.utime(path, (1_700_000_000, 1_700_000_000))
        elif change == "touched":
            os.utime(path, (1_700_000_001, 1_700_000_001))
        elif change == "replaced":
            file(root / "new", "x", at=1_700_000_000).replace(path)
        elif change == "linked again":
            os.link(path, tmp_path / "second")
        else:
            path.unlink()
            path.symlink_to(precious) if change == "a link now" else os.mkfifo(path)

        with pytest.raises(ChangedError, match="changed since it was listed"):
            tree.remove(planned)

    assert os.path.lexists(path)
    assert precious.read_text() == "p"


def test_a_pipe_is_never_removed_though_it_has_not_changed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with Tree(tmp_path) as tree, pytest.raises(ChangedError):
        tree.remove(entry(tree, "pipe"))

    assert (tmp_path / "pipe").is_fifo()


def test_a_folder_that_became_a_link_leads_nowhere(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    file(root / "sub/a", at=1_700_000_000)
    outside.mkdir()
    with Tree(root) as tree:
        planned = entry(tree, "sub/a")
        os.link(root / "sub/a", outside / "a")
        (root / "sub").rename(root / "was")
        (root / "sub").symlink_to(outside, target_is_directory=True)

        with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
            tree.remove(planned)

    assert (outside / "a").exists()


def test_removing_a_file_that_no_longer_exists_is_an_error(tmp_path: Path) -> None:
    path = file(tmp_path / "a")

    with Tree(tmp_path) as tree:
        planned = entry(tree, "a")
        path.unlink()

        with pytest.raises(FileNotFoundError):
            tree.remove(planned)


def test_a_tree_holds_on_to_the_folder_that_it_opened(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        file(folder / "a")
    with Tree(root) as tree:
        root.rename(tmp_path / "moved")
        root.symlink_to(outside, target_is_directory=True)

        tree.remove(entry(tree, "a"))

    assert not (tmp_path / "moved/a").exists()
    assert (outside / "a").exists()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    for name in ("a", "b/c", "b/d/e"):
        file(tmp_path / name)
    before = len(list(Path("/proc/self/fd").iterdir()))

    with Tree(tmp_path) as tree:
        for one in list(tree.walk()):
            tree.remove(one)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_space_is_counted_as_du_does(tmp_path: Path) -> None:
    file(tmp_path / "a", "x" * 5000)
    os.link(tmp_path / "a", tmp_path / "b")
    file(tmp_path / "c", "y" * 100)
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 20)

    with Tree(tmp_path) as tree:
        counted = disk_bytes(tree.walk())

    told = subprocess.run(
        ["du", "--block-size=1", *sorted(map(str, tmp_path.iterdir()))], capture_output=True, text=True, check=True
    ).stdout
    assert counted == sum(int(line.split()[0]) for line in told.splitlines())


def test_the_newest_come_first(tmp_path: Path) -> None:
    for age in range(4):
        file(tmp_path / f"f{age}", at=1_700_000_000 - age)

    with Tree(tmp_path) as tree:
        found = [one.name for one in newest(tree.walk(), 2)]

    assert found == ["f0", "f1"]


def test_a_name_of_any_bytes_is_shown_on_one_line() -> None:
    assert shown(Path("odd\nname \udcff é")) == "odd\\x0aname \\xff é"
