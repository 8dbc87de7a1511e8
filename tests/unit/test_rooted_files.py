"""Files below the root of a host: links as on the host, nothing outside, and no end without a limit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.users import as_unprivileged_user, folder_for_all

from maintd.clients import rooted_files
from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError

SECRET = b"of this machine"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root beside which is what must not be read."""
    (tmp_path / "outside/inner").mkdir(parents=True)
    (tmp_path / "outside/file").write_bytes(SECRET)
    (tmp_path / "root/etc/conf.d").mkdir(parents=True)
    (tmp_path / "root/etc/file").write_bytes(b"of the host")
    (tmp_path / "root/etc/conf.d/a.conf").write_bytes(b"a")
    return tmp_path / "root"


def cause(act: Callable[[], Any]) -> str:
    with pytest.raises(TargetError) as raised:
        act()
    assert raised.value.message
    return str(raised.value.cause)


def cause_or(act: Callable[[], Any]) -> Any:
    """The cause of its error, or what it returns."""
    try:
        return act()
    except TargetError as error:
        return error.cause


@pytest.mark.parametrize(
    "link",
    ["/etc/file", "file", "../etc/file", "../../../../../../etc/file", "./././file", "/../etc//file", "conf.d/../file"],
)
def test_a_link_leads_where_it_would_lead_on_the_host(root: Path, link: str) -> None:
    (root / "etc/link").symlink_to(link)

    files = RootedFiles(root)

    assert files.read("etc/link", 100) == b"of the host"
    assert files.resolved("etc/link") == root / "etc/file"
    assert files.status("etc/link").st_size == len(b"of the host")
    assert files.link("etc/link") == link
    assert cause(lambda: files.read("etc/link", 100, follow=False)) == "unfamiliar"


@pytest.mark.parametrize("place", ["etc", "etc/conf.d", "etc/file"])
@pytest.mark.parametrize("to", ["absolute", "relative", "dots"])
def test_no_link_in_any_part_leads_out_of_the_root(root: Path, place: str, to: str) -> None:
    outside = root.parent / "outside"
    target = {"absolute": str(outside), "relative": "../../../outside", "dots": "../" * 30 + str(outside)[1:]}[to]
    (root / place).rename(root / "before")
    (root / place).symlink_to(f"{target}/file" if place == "etc/file" else target)
    files = RootedFiles(root)

    for name in ("etc/file", "etc/conf.d/file", "etc/conf.d/../file", "etc/conf.d/inner/../file"):
        assert cause_or(partial(files.read, name, 100)) in ("unfamiliar", "not_found", b"of the host")
    for name in ("etc/inner", "etc/conf.d/inner", "etc/file"):
        assert cause_or(partial(files.status, name)) in ("unfamiliar", "not_found") or name != place
        assert cause_or(partial(files.names, name)) in ("unfamiliar", "not_found")
        assert cause_or(partial(files.glob, f"{name}*/*")) in ("unfamiliar", [])


def test_only_what_no_link_names_is_not_found(root: Path) -> None:
    files = RootedFiles(root)
    (root / "etc/dangling").symlink_to("/mnt/x/file")
    (root / "opt").symlink_to("/mnt/opt")
    (root / "srv").symlink_to("etc")

    assert cause(lambda: files.read("etc/none", 9)) == "not_found"
    assert cause(lambda: files.read("none/at/all", 9)) == "not_found"
    assert cause(lambda: files.read("etc/file/below", 9)) == "not_found"
    assert cause(lambda: files.read("srv/none", 9)) == "not_found", "the folder is there, and has no such file"
    for name in ("etc/dangling", "opt/a", "opt"):
        assert cause(partial(files.status, name)) == "unfamiliar"
        assert cause(partial(files.exists, name)) == "unfamiliar"
    assert not files.exists("etc/none")
    assert cause(lambda: files.glob("opt/*.conf")) == "unfamiliar"
    assert files.glob("nowhere/*.conf") == []
    assert cause(lambda: RootedFiles(root / "not mounted").read("etc/file", 9)) == "unfamiliar"
    assert cause(lambda: RootedFiles(root / "etc/file").exists("etc/file")) == "unfamiliar"


@pytest.mark.parametrize("loop", [["a", "a"], ["b", "a"], ["a/x", "a"], ["../etc/a/../a", "b"]])
def test_a_loop_of_links_is_an_error_with_its_cause(root: Path, loop: list[str]) -> None:
    (root / "etc/a").symlink_to(loop[0])
    (root / "etc/b").symlink_to(loop[1])

    for act in (RootedFiles(root).names, RootedFiles(root).status, RootedFiles(root).exists, RootedFiles(root).open):
        with pytest.raises(TargetError, match="Too many levels of symbolic links") as raised:
            act("etc/a")
        assert raised.value.cause == "unfamiliar"


def test_forty_links_are_followed_as_by_linux_and_one_more_is_not(root: Path) -> None:
    (root / "etc/l0").symlink_to("file")
    for number in range(1, 41):
        (root / f"etc/l{number}").symlink_to(f"l{number - 1}")

    assert RootedFiles(root).read("etc/l39", 100) == (root / "etc/l39").read_bytes()
    assert cause(lambda: RootedFiles(root).read("etc/l40", 100)) == "unfamiliar"


def test_the_root_itself_may_be_a_link(root: Path) -> None:
    (root.parent / "mounted").symlink_to(root)

    assert RootedFiles(root.parent / "mounted").read("/etc/file", 100) == b"of the host"
    assert RootedFiles(root.parent / "mounted").names("..") == ["etc"]


def test_pipes_devices_folders_and_large_files_are_named_and_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "zero").symlink_to("/dev/zero")
    (root / "dev").mkdir()
    if os.geteuid() == 0:
        os.mknod(root / "dev/zero", 0o666 | 0o020000, os.makedev(1, 5))
    else:
        os.mkfifo(root / "dev/zero")
    (root / "large").write_bytes(b"x" * 101)
    files = RootedFiles(root)

    assert cause(lambda: files.read("pipe", 9)) == "unfamiliar"
    assert cause(lambda: files.read("zero", 9)) == "unfamiliar"
    assert cause(lambda: files.read("etc", 9)) == "unfamiliar"
    assert cause(lambda: files.read("", 9)) == "unfamiliar"
    assert cause(lambda: files.names("etc/file")) == "unfamiliar"
    assert files.glob("etc/file/*") == files.glob("*/file/*.conf") == []
    assert cause(lambda: files.read("large", 100)) == "too_large"
    assert cause(lambda: files.read("a\0b", 100)) == "unfamiliar"
    assert cause(lambda: files.read("a/" * 5000, 100)) == "unfamiliar"
    assert cause(lambda: files.read("\ud800", 100)) == "unfamiliar"
    assert files.read("large", 101) == b"x" * 101


def test_what_an_ordinary_user_may_not_read_is_denied() -> None:
    with folder_for_all() as folder:
        (folder / "etc/closed").mkdir(parents=True)
        (folder / "etc/closed/file").write_text("x")
        (folder / "etc/passed").mkdir()
        (folder / "etc/passed/file").write_text("y")
        (folder / "etc/secret").write_text("z")
        (folder / "etc/link").symlink_to("closed/file")
        files = RootedFiles(folder)
        for name, mode in (("closed", 0), ("passed", 0o311), ("secret", 0)):
            (folder / "etc" / name).chmod(mode)
        with as_unprivileged_user(folder if os.geteuid() else None):
            assert files.read("etc/passed/file", 9) == b"y", "to go through a folder needs no right to list it"
            for act in (
                lambda: files.names("etc/passed"),
                lambda: files.glob("etc/passed/*"),
                lambda: files.glob("etc/*/file"),
                lambda: files.status("etc/closed/file"),
                lambda: files.exists("etc/closed/file"),
                lambda: files.exists("etc/link"),
                lambda: files.read("etc/secret", 9),
            ):
                assert cause(act) == "denied"
        (folder / "etc/closed").chmod(0o755)
        (folder / "etc/passed").chmod(0o755)


def test_patterns_match_as_those_of_the_shell(root: Path) -> None:
    for name in ("b.conf", ".hidden.conf", "c.cfg", "[x].conf"):
        (root / "etc/conf.d" / name).write_text("")
    (root / "etc/more.d").symlink_to("/etc/conf.d")
    files = RootedFiles(root)

    assert files.glob("/etc/conf.d/*.conf") == ["etc/conf.d/[x].conf", "etc/conf.d/a.conf", "etc/conf.d/b.conf"]
    assert files.glob("etc/more.d/?.conf") == ["etc/more.d/a.conf", "etc/more.d/b.conf"]
    assert files.glob("etc/*.d/[ab].conf") == [f"etc/{one}.d/{name}.conf" for one in ("conf", "more") for name in "ab"]
    assert files.glob("etc/conf.d/.*") == ["etc/conf.d/.hidden.conf"]
    assert files.glob("etc/file") == ["etc/file"]
    assert files.glob("etc/*/..") == ["etc/conf.d/..", "etc/more.d/.."]


def test_names_that_are_not_utf_8_are_listed_and_read(root: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n.conf")
    (root / "etc/conf.d" / name).write_text("x")
    files = RootedFiles(root)

    assert name in files.names("etc/conf.d")
    assert files.read(f"etc/conf.d/{name}", 9) == b"x"
    assert f"etc/conf.d/{name}" in files.glob("etc/conf.d/*.conf")
    with pytest.raises(TargetError, match=r"caf\\xe9") as raised:
        files.read(f"etc/conf.d/{name}", 0)
    assert raised.value.message.isprintable()


def test_a_folder_of_100_000_entries_is_listed_and_one_beyond_the_limit_is_an_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = os.open(root / "etc/conf.d", os.O_RDONLY)
    for number in range(100_000):
        os.close(os.open(f"{number}.conf", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    files = RootedFiles(root)

    assert len(files.names("etc/conf.d")) == 100_001
    assert cause(lambda: files.glob("etc/conf.d/*.conf")) == "too_large"
    monkeypatch.setattr(rooted_files, "MOST_NAMES", 100_000)
    assert cause(lambda: files.names("etc/conf.d")) == "too_large"


def test_many_dots_and_deep_folders_hold_no_more_descriptors_than_the_limit(root: Path) -> None:
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    deep = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(400):
        os.mkdir("d", dir_fd=deep)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    files = RootedFiles(root)

    assert files.read("etc/../" * 500 + "etc/file", 100) == b"of the host"
    assert cause(lambda: files.names("d/" * 400)) == "unfamiliar"
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def test_a_folder_that_is_replaced_by_a_link_while_it_is_read_leads_never_out(root: Path) -> None:
    (root / "etc/turn").mkdir()
    (root / "etc/turn/file").write_bytes(b"of the host")
    (root / "etc/away").symlink_to(root.parent / "outside")
    stop = threading.Event()

    def turn() -> None:
        while not stop.is_set():
            (root / "etc/turn").rename(root / "etc/kept")
            (root / "etc/away").rename(root / "etc/turn")
            (root / "etc/turn").rename(root / "etc/away")
            (root / "etc/kept").rename(root / "etc/turn")

    thread = threading.Thread(target=turn)
    thread.start()
    seen, until = set(), time.monotonic() + 2
    try:
        while time.monotonic() < until:
            try:
                seen.add(RootedFiles(root).read("etc/turn/file", 100))
            except TargetError as error:
                seen.add(str(error.cause).encode())
    finally:
        stop.set()
        thread.join()

    assert SECRET not in seen
    assert b"of the host" in seen
    assert seen <= {b"of the host", b"not_found", b"unfamiliar"}


@given(
    links=st.lists(st.tuples(st.integers(0, 3), st.lists(st.sampled_from(["a", "b", "..", ".", "", "/"]), max_size=6))),
    path=st.lists(st.sampled_from(["a", "b", "..", "f"]), max_size=6),
)
def test_a_path_leads_to_the_same_as_in_a_changed_root(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[int, list[str]]], path: list[str]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("chroot needs root")
    root = tmp_path_factory.mktemp("r")
    (root / "a/b").mkdir(parents=True)
    (root / "b/a").mkdir(parents=True)
    for number, folder in enumerate(("", "a/", "b/", "a/b/")):
        (root / f"{folder}f").write_text(str(number))
    for number, (place, parts) in enumerate(links[:4]):
        link = root / ("", "a", "b", "a/b")[place] / ("a", "b", "f")[number % 3]
        if parts and not os.path.lexists(link):
            link.symlink_to("/".join(parts) or ".")
    name = "/".join(path)

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.chroot(root)
        os.chdir("/")
        try:
            found = Path("/" + name).read_bytes() or b"empty"
        except IsADirectoryError:
            found = b"folder"
        except OSError:
            found = b"none"
        os.write(writer, found)
        os._exit(0)
    os.waitpid(child, 0)
    expected = os.read(reader, 100)
    os.close(reader)
    os.close(writer)
    try:
        seen = RootedFiles(root).read(name, 100)
    except TargetError as error:
        seen = b"folder" if "not a regular file" in error.message else b"none"

    assert seen == expected
