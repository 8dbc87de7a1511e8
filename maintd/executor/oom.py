"""Whether the kernel killed processes because memory was short, as counted by this process's control group."""

from __future__ import annotations

import re
import time
from functools import cache
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")

RECENT_SECONDS = 0.1  # seconds


class OomKills:
    """The count, which is read once for attempts that start at the same time."""

    def __init__(self) -> None:
        self._count = 0
        self._read_at = float("-inf")

    def recent(self) -> int:
        """Return how many processes of this control group were killed, as of RECENT_SECONDS ago; 0 if unreadable."""
        return self._count if time.monotonic() - self._read_at < RECENT_SECONDS else self.now()

    def now(self) -> int:
        """As `recent`, as of now."""
        file = _counter()
        self._read_at = time.monotonic()
        self._count = 0 if file is None else _read(file) or 0
        return self._count


OOM_KILLS = OomKills()
"""Shared by all attempts of this process."""


def _read(file: Path) -> int | None:
    try:
        found = re.search(r"^oom_kill (\d+)$", file.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


@cache
def _counter() -> Path | None:
    return next((file for file in _counters() if _read(file) is not None), None)


def _counters() -> list[Path]:
    """Return files that may hold the count: version 2, then version 1; in a container the group is its root."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inside = path.lstrip("/")
        if not controllers:
            files += [ROOT / inside / "memory.events", ROOT / "memory.events"]
        elif "memory" in controllers.split(","):
            files += [ROOT / "memory" / inside / "memory.oom_control", ROOT / "memory/memory.oom_control"]
    return files
