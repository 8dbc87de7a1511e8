"""Memory limit and usage of this process's own control group, v1 and v2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60  # v1 reports "no limit" as the largest number of whole pages


@dataclass(frozen=True)
class OwnLimit:
    """Bytes. `used`: the working set, which the kernel cannot simply reclaim."""

    used: int
    limit: int

    @property
    def used_percent(self) -> float:
        """Of the limit."""
        return 100 * self.used / self.limit


def own_memory(proc: Path = Path("/proc"), root: Path = Path("/sys/fs/cgroup")) -> OwnLimit | None:
    """The nearest memory limit of this process with its usage; None without a limit."""
    try:
        groups = (proc / "self/cgroup").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    for line in groups:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            return _nearest(root / "memory", path, *names)
    for line in groups:
        if line.startswith("0::"):
            return _nearest(root, line[3:], "memory.max", "memory.current", "inactive_file")
    return None


def _nearest(top: Path, path: str, limit_name: str, usage_name: str, cache_name: str) -> OwnLimit | None:
    for folder in _upwards(top, path):
        limit, usage = _number(folder / limit_name), _number(folder / usage_name)
        if limit is not None and usage is not None and 0 < limit < _UNLIMITED:
            cache = _of_stat(folder / "memory.stat", cache_name)
            return OwnLimit(usage - cache if cache < usage else usage, limit)
    return None


def _upwards(top: Path, path: str) -> Iterator[Path]:
    """The group's folder and its parents; in a container the folder may be mounted as the top."""
    folder = top / path.lstrip("/")
    while folder != top and top in folder.parents:
        yield folder
        folder = folder.parent
    yield top


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _of_stat(file: Path, name: str) -> int:
    try:
        return next((int(line.split()[1]) for line in file.read_text().splitlines() if line.split()[0] == name), 0)
    except (OSError, ValueError, IndexError):
        return 0
