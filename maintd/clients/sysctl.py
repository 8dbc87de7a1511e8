"""Settings of a host's kernel: the values that apply now, and those that its files set at the next start.

Source of the files' order and format: sysctl.d(5). Of files with one name, that of the first folder is read; all that
are read are sorted by name, and the last assignment of a key applies. systemd reads /etc/sysctl.conf only by a link to
it, which Debian has until version 12.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maintd.errors import TargetError

FOLDERS = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d")
CONF = "etc/sysctl.conf"
HUGE_PAGES = "kernel/mm/transparent_hugepage/enabled"

_MAX_FILE = 1024 * 1024
_MAX_LINKS = 10


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
    path = next((path for path in (root / "sys" / HUGE_PAGES, Path("/sys") / HUGE_PAGES) if path.exists()), None)
    if path is None:
        raise TargetError(
            f"no {HUGE_PAGES} below {root / 'sys'}",
            "mount the host's /sys, or set huge_pages: [] where the kernel has none",
            cause="not_found",
        )
    chosen = re.search(r"\[(\w+)\]", _read(path, "mount the host's /sys"))
    if chosen is None:
        raise TargetError(f"{path} names no mode in brackets", cause="unfamiliar")
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
    by_name: dict[str, Path] = {}
    for folder in FOLDERS:
        for path in _files(root / folder):
            by_name.setdefault(path.name, path)
    found: list[Assignment] = []
    for name in sorted(by_name):
        found += _assignments(root, by_name[name])
    conf = list(_assignments(root, root / CONF)) if (root / CONF).exists() else []
    is_read = any(item.path == f"/{CONF}" for item in found)
    if conf and not is_read and not (root / "run/systemd/system").exists():
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


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.suffix == ".conf"]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error


def _assignments(root: Path, path: Path) -> Iterator[Assignment]:
    """The assignments of a file; of a link to /dev/null, none. Other lines are skipped, as at boot."""
    real = _followed(root, path)
    if real is None:
        return
    shown = f"/{real.relative_to(root)}"
    for number, line in enumerate(_read(real, "make it readable for the user of maintd").splitlines(), start=1):
        match = re.match(r"\s*-?\s*([A-Za-z0-9_./*-]{1,200}?)\s*=\s*(.*?)\s*$", line)
        if match is not None:
            yield Assignment(match[1].replace("/", "."), match[2], shown, number)


def _followed(root: Path, path: Path) -> Path | None:
    """The file that a path leads to within the root, since its links are those of the host; None: there is none."""
    for _ in range(_MAX_LINKS):
        if not path.is_symlink():
            return path if path.is_file() else None
        to = str(path.readlink())
        path = Path(os.path.normpath(root / to.lstrip("/") if to.startswith("/") else path.parent / to))
        if not path.is_relative_to(root):
            return None
    return None


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
