"""Counters of a host's disks from /proc/diskstats. Source of the format: the kernel's admin-guide/iostats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maintd.errors import TargetError

_VIRTUAL = re.compile(r"(loop|ram|zram|sr|fd|nbd|dm-|md)[0-9]")
"""Of no hardware, or of other devices in the list."""

_FIELDS = 14


@dataclass(frozen=True)
class DiskCounters:
    """Of one disk since the host started; times in milliseconds."""

    reads: int
    read_ms: int  # the sum over all reads
    writes: int
    write_ms: int
    busy_ms: int  # with at least one request


def disks(proc: Path) -> Mapping[str, DiskCounters]:
    """The whole disks by name, not their partitions. Raises TargetError; also when there are none."""
    path = proc / "diskstats"
    try:
        lines = path.read_text("ascii", "replace").splitlines()
    except OSError as error:
        cause = "denied" if isinstance(error, PermissionError) else "not_found"
        raise TargetError(
            f"{path}: {error.strerror}", "mount the host's /proc, or correct its proc", cause=cause
        ) from error
    found: dict[str, DiskCounters] = {}
    for line in lines:
        words = line.split()
        if len(words) < _FIELDS or _VIRTUAL.match(words[2]):
            continue
        try:
            counts = [int(word) for word in words[3:_FIELDS]]
        except ValueError as error:
            raise TargetError(f"{path}: {line[:80]!r} has an unexpected format", cause="malformed") from error
        found[words[2]] = DiskCounters(counts[0], counts[3], counts[4], counts[7], counts[9])
    whole = {name: counters for name, counters in found.items() if not _is_partition(name, found)}
    if not whole:
        raise TargetError(
            f"{path} has no disk", "in a sandbox the kernel shows none: measure it on the host", cause="empty"
        )
    return whole


def _is_partition(name: str, names: Mapping[str, object]) -> bool:
    """sda1 of sda, nvme0n1p1 of nvme0n1."""
    disk = re.sub(r"(?<=[0-9])p[0-9]+$|(?<=[a-z])[0-9]+$", "", name)
    return disk != name and disk in names
