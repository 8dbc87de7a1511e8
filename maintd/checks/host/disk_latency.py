"""How long a host's disks take for a request, and how busy they are. The counters are the kernel's; no disk is read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from maintd.checks.limits import Limits
from maintd.clients.diskstats import DiskCounters, disks
from maintd.job.context import Context
from maintd.job.references import resolved
from maintd.model.target import HostTarget
from maintd.units import duration_text

_RULE = "Documentation/admin-guide/iostats.rst of Linux"


class DiskLimits(Limits):
    """Limits for a disk."""

    wait_warn: float = 10
    wait_fail: float = 50
    """Milliseconds that a request takes on average, with its time in the queue."""
    busy_warn: float = 80
    """Percent of the interval in which the disk had a request."""
    requests: int = 1000
    """An average of fewer requests is not evaluated."""


@dataclass(frozen=True)
class DiskFacts:
    """Counters at the end of the interval, and the percent of it in which each disk was busy."""

    counters: Mapping[str, DiskCounters]
    busy: Mapping[str, float]


def collect(target: HostTarget, interval: timedelta) -> DiskFacts:
    """Read the counters twice, `interval` apart. Raises TargetError."""
    proc = resolved(target).proc
    first, began = disks(proc), time.monotonic()
    time.sleep(interval.total_seconds())
    second, elapsed = disks(proc), time.monotonic() - began
    busy = {
        name: min(100.0, (now.busy_ms - first[name].busy_ms) / (10 * elapsed))
        for name, now in second.items()
        if name in first and now.busy_ms >= first[name].busy_ms
    }
    return DiskFacts(second, busy)


def report(ctx: Context, name: str, facts: DiskFacts, interval: timedelta, limits: DiskLimits) -> None:
    """Report each disk: the average wait since the last run, in the first one since the host started."""
    for disk, counters in facts.counters.items():
        for what, count, waited in (
            ("read", counters.reads, counters.read_ms),
            ("write", counters.writes, counters.write_ms),
        ):
            labels = {"host": name, "disk": disk}
            requests = ctx.increase(f"disk_{what}s", count, "", **labels)
            milliseconds = ctx.increase(f"disk_{what}_milliseconds", waited, "ms", **labels)
            since = "the last run"
            if requests is None or milliseconds is None:
                requests, milliseconds, since = count, waited, "the host started"
            _report_wait(ctx, f"host {name}: {disk}: wait of a {what}", requests, milliseconds, since, limits)
        _report_busy(ctx, f"host {name}: {disk}: busy", facts.busy.get(disk), interval, limits)


def _report_wait(ctx: Context, check: str, requests: int, milliseconds: int, since: str, limits: DiskLimits) -> None:
    if requests < limits.requests:
        ctx.log(f"{check}: {requests} requests since {since} are too few to evaluate")
        return
    hint = (
        f"average of {requests:,} requests since {since}: see which process it is with iostat -x 5 and iotop, and the "
        "disk's health with smartctl -a"
    )
    wait = round(milliseconds / requests, 2)
    ctx.check(check, wait, at_most=limits.wait_fail, warn_above=limits.wait_warn, unit="ms", hint=hint, rule=_RULE)


def _report_busy(ctx: Context, check: str, busy: float | None, interval: timedelta, limits: DiskLimits) -> None:
    if busy is None:
        ctx.unknown(check, "partial: its counters were reset in the interval", expected="a share of the interval")
        return
    hint = f"within {duration_text(interval)}: see which process it is with iotop"
    ctx.check(check, round(busy, 1), warn_above=limits.busy_warn, unit="%", hint=hint, rule=_RULE)
