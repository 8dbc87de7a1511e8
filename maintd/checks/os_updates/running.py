"""What runs against what is installed: the kernel, a reboot that is required, processes with replaced libraries."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from maintd.checks.hints import printable
from maintd.checks.os_updates.versions import by_version
from maintd.clients.causes import cause_of
from maintd.clients.files import modified_at, shown
from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError

MAX_PROCESSES = 50_000
_MOST_MAPS = 4 << 20  # bytes of one /proc/PID/maps
_MOST_TEXT = 1 << 20  # bytes of os-release, or of a list of packages
_HINT = "mount it into this container, and let the user of maintd read it"
_KERNEL = re.compile(r"vmlinuz-(\d[^/]*)")
_FLAVOUR = re.compile(r"\d+(?:[.-]\d+)*[~+.\d]*-?")  # of 6.1.0-28-cloud-amd64 it leaves cloud-amd64
_REPLACED = re.compile(r"^\S+ ..x\S* \S+ \S+ \d+ +(/(?:usr|lib\w*|opt|s?bin)/.*) \(deleted\)$", re.MULTILINE)
_UNIT = re.compile(r"/([^/]+\.service)")
_IN_CONTAINER = re.compile(r"docker|containerd|kubepods|libpod|lxc", re.IGNORECASE)


@dataclass(frozen=True)
class Reboot:
    """Whether a reboot is required, by which packages, and since when."""

    required: bool
    packages: tuple[str, ...] = ()
    since: datetime | None = None


@dataclass(frozen=True)
class Kernel:
    """The kernel that runs, and the newest that is installed; `newest` is empty if none is in /boot."""

    running: str
    newest: str = ""
    installed_at: datetime | None = None


@dataclass
class Restarts:
    """Services with replaced files in memory; processes that could not be read."""

    services: dict[str, set[str]] = field(default_factory=dict)
    read: int = 0
    unread: int = 0


def read_os_release(root: Path) -> dict[str, str]:
    """The fields of os-release(5). Raises TargetError."""
    files = RootedFiles(root, _HINT)
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            text = files.read(name, _MOST_TEXT).decode(errors="replace")
        except TargetError as error:
            if error.cause == "not_found":
                continue
            raise
        fields = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
        return {name: printable(value.strip().strip("\"'")) for name, equal, value in fields if equal}
    raise TargetError(f"{root}/etc/os-release: no such file", "mount the host's root", cause="not_found")


def read_reboot(root: Path) -> Reboot:
    """By the files of update-notifier and unattended-upgrades. Raises TargetError."""
    files = RootedFiles(root, _HINT)
    names = files.names("run")
    if not names:
        text = f"{shown(root / 'run')}: is empty"
        raise TargetError(text, "mount the host's root with what is mounted below", cause="empty")
    if "reboot-required" not in names:
        return Reboot(required=False)
    since = modified_at(files.status("run/reboot-required"))
    packages: tuple[str, ...] = ()
    if "reboot-required.pkgs" in names:
        lines = files.read("run/reboot-required.pkgs", _MOST_TEXT).decode(errors="replace").split()
        packages = tuple(dict.fromkeys(printable(line) for line in lines))
    return Reboot(True, packages, since)


def read_kernel(root: Path, proc: Path) -> Kernel:
    """Raises TargetError."""
    try:
        running = (proc / "sys/kernel/osrelease").read_text(errors="replace").strip()[:200]
    except OSError as error:
        raise _os_error(proc / "sys/kernel/osrelease", error) from error
    files = RootedFiles(root, _HINT)
    try:
        found = [name for name in files.names("boot") if _KERNEL.fullmatch(name)]
    except TargetError as error:
        if error.cause == "not_found":
            return Kernel(printable(running))
        raise
    same = [name for name in found if _flavour(name[8:]) == _flavour(running)]
    if not same:
        return Kernel(printable(running))
    newest = max(same, key=lambda name: by_version(name[8:]))
    return Kernel(printable(running), printable(newest[8:]), modified_at(files.status(f"boot/{newest}")))


def _flavour(release: str) -> str:
    return _FLAVOUR.sub("", release, count=1)


def read_restarts(proc: Path) -> Restarts:
    """Processes of the host itself that have mapped files which were replaced. Raises TargetError."""
    found = Restarts()
    try:
        pids = [path.name for path in proc.iterdir() if path.name.isdecimal()][:MAX_PROCESSES]
    except OSError as error:
        raise _os_error(proc, error) from error
    for pid in pids:
        try:
            group = (proc / pid / "cgroup").read_text(errors="replace")
            if _IN_CONTAINER.search(group):
                continue
            with (proc / pid / "maps").open("rb") as file:
                maps = file.read(_MOST_MAPS).decode(errors="replace")
            name = (proc / pid / "comm").read_text(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except OSError:
            found.unread += 1
            continue
        found.read += 1
        replaced = {printable(match) for match in _REPLACED.findall(maps)}
        if replaced:
            unit = _UNIT.search(group)
            found.services.setdefault(unit[1] if unit else f"process {printable(name)}", set()).update(replaced)
    return found


def _os_error(path: Path, error: OSError) -> TargetError:
    cause = "not_found" if isinstance(error, FileNotFoundError) else cause_of(error) or "failed"
    return TargetError(f"{path}: {error.strerror or error}", _HINT, cause=cause)
