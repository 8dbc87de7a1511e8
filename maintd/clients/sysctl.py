"""Settings of a host's kernel: the values that apply now, and those that its files set at the next start.

Source of the files' order and format: sysctl.d(5). Of files with one name, that of the first folder is read; all that
are read are sorted by name, and the last assignment of a key applies. systemd reads /etc/sysctl.conf only by a link to
it, which Debian has until version 12.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maintd.clients.files import shown
from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError

FOLDERS = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d")
CONF = "etc/sysctl.conf"
HUGE_PAGES = "kernel/mm/transparent_hugepage/enabled"

_MAX_FILE = 1024 * 1024
_HINT = "make it readable for the user of maintd; if it is a link to nothing, mount what it leads to, or remove it"


@dataclass(frozen=True)
class Assignment:
    """One line of a file: the text of the value, and where it is, as the host names it."""

    key: str  # with dots
    value: str
    path: str
    line: int

    @property
    def place(self) -> str:
        """The file and its line."""
        return f"{self.path}:{self.line}"

    @property
    def number(self) -> int | None:
        """The value as the kernel reads it: decimal, hexadecimal after `0x`, octal after `0`; None: no number."""
        found = re.fullmatch(r"(-?)(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,19})", self.value)
        if found is None:
            return None
        digits = found[2].lower()
        base = 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10
        try:
            return int(found[1] + digits, base)
        except ValueError:  # 8 and 9 are no octal digits
            return None


@dataclass(frozen=True)
class BootSettings:
    """What the files set at the next start, by key; and what they set in vain."""

    last: dict[str, Assignment]
    repeated: tuple[Assignment, ...]  # an earlier assignment of a key in the same file
    not_read: tuple[Assignment, ...]  # of /etc/sysctl.conf, where systemd does not read it


def running(proc: Path, key: str) -> int:
    """The value of a setting that is a number. Raises TargetError."""
    path = proc / "sys" / key.replace(".", "/")
    text = _read(path, "see sysctl -a for the settings that this kernel has").strip()
    if not re.fullmatch(r"-?[0-9]{1,19}", text):
        raise TargetError(f"{path}: {text[:40]!r} is not a number", cause="unfamiliar")
    return int(text)


def huge_pages(root: Path) -> str:
    """The mode of transparent huge pages: always, madvise or never. Raises TargetError.

    They are a setting of the kernel, which all containers share, so /sys of this process has it, too.
    """
    for files in (RootedFiles(root, _HINT), RootedFiles(Path("/"), _HINT)):
        try:
            text = files.read(f"sys/{HUGE_PAGES}", _MAX_FILE).decode(errors="replace")
        except TargetError as error:
            if error.cause != "not_found":
                raise
        else:
            break
    else:
        raise TargetError(
            f"no {HUGE_PAGES} below {root / 'sys'}",
            "mount the host's /sys, or set huge_pages: [] where the kernel has none",
            cause="not_found",
        )
    chosen = re.search(r"\[(\w+)\]", text)
    if chosen is None:
        raise TargetError(f"{HUGE_PAGES} of {files.root} names no mode in brackets", cause="unfamiliar")
    return chosen[1]


def shares_network(proc: Path) -> bool | None:
    """Whether settings below net. are the host's: whether this process is in the network namespace of process 1.

    None: the kernel does not say.
    """
    try:
        return (proc / "1/ns/net").stat().st_ino == Path("/proc/self/ns/net").stat().st_ino
    except OSError:
        return None


def boot_settings(root: Path) -> BootSettings:
    """What the files of a host set when it starts. Raises TargetError when one cannot be read."""
    files = RootedFiles(root, _HINT)
    by_name: dict[str, str] = {}
    for folder in FOLDERS:
        for name in _names(files, folder):
            by_name.setdefault(name, f"{folder}/{name}")
    found: list[Assignment] = []
    for name in sorted(by_name):
        found += _assignments(files, by_name[name])
    conf = list(_assignments(files, CONF)) if files.exists(CONF) else []
    is_read = any(item.path == f"/{CONF}" for item in found)
    if conf and not is_read and not files.exists("run/systemd/system"):
        found, is_read = found + conf, True  # procps and busybox read it last
    repeated = tuple(first for first, then in _pairs(found) if first.path == then.path and first.line != then.line)
    return BootSettings({item.key: item for item in found}, repeated, () if is_read else tuple(conf))


def _pairs(found: list[Assignment]) -> Iterator[tuple[Assignment, Assignment]]:
    """Each assignment that a later one of the same key replaces, with that one."""
    last: dict[str, Assignment] = {}
    for item in found:
        if item.key in last:
            yield last[item.key], item
        last[item.key] = item


def _names(files: RootedFiles, folder: str) -> list[str]:
    try:
        return [name for name in files.names(folder) if name.endswith(".conf")]
    except TargetError as error:
        if error.cause == "not_found":
            return []
        raise


def _assignments(files: RootedFiles, name: str) -> Iterator[Assignment]:
    """The assignments of a file; of a link to /dev/null, none. Other lines are skipped, as at boot."""
    if _is_masked(files, name):
        return
    path = f"/{files.resolved(name).relative_to(files.root)}"
    text = files.read(name, _MAX_FILE).decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), start=1):
        match = re.match(r"\s*-?\s*([A-Za-z0-9_./*-]{1,200}?)\s*=\s*(.*?)\s*$", line)
        if match is not None:
            yield Assignment(match[1].replace("/", "."), match[2], shown(path), number)


def _is_masked(files: RootedFiles, name: str) -> bool:
    """Whether it is a link to /dev/null, which a mounted root need not have."""
    if not stat.S_ISLNK(files.status(name, follow=False).st_mode):
        return False
    return os.path.normpath(Path("/", name).parent / files.link(name)) == "/dev/null"


def _read(path: Path, hint: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise _unreadable(path, error, hint) from error
    if len(data) > _MAX_FILE:
        raise TargetError(f"{path}: larger than 1 MiB", cause="too_large")
    return data.decode("utf-8", "replace")


def _unreadable(path: Path, error: OSError, hint: str = "make it readable for the user of maintd") -> TargetError:
    causes = {PermissionError: "denied", FileNotFoundError: "not_found"}
    return TargetError(f"{path}: {error.strerror}", hint, cause=causes.get(type(error), "failed"))
