"""A host's memory, swap, load, pressure and file systems."""

from __future__ import annotations

from dataclasses import dataclass

from maintd.checks.collection import value_or_error
from maintd.checks.limits import Limits
from maintd.clients import host
from maintd.clients.filesystems import Usage, usages
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.model.target import HostTarget


class HostLimits(Limits):
    """When a host is short of something. Percentages."""

    memory_warn: float = 20
    """Warn when less of the memory than this is available."""
    memory_fail: float = 10
    """Fail when less of the memory than this is available."""
    swap_warn: float = 80
    """Warn when more of the swap space than this is used."""
    load_warn: float = 2
    """Warn when the load of five minutes is above this for each CPU."""
    memory_pressure_warn: float = 1
    memory_pressure_fail: float = 5
    """Of the last five minutes, in which every task waited for memory."""
    io_pressure_warn: float = 10
    io_pressure_fail: float = 30
    """Of the last five minutes, in which every task waited for disks."""
    used_warn: float = 80
    used_fail: float = 90
    """Of a file system's bytes, as `df` counts them."""
    inodes_warn: float = 80
    inodes_fail: float = 90
    """Of a file system's inodes."""


@dataclass(frozen=True)
class HostFacts:
    """What a host says, or why not, each by itself."""

    memory: host.Memory | TargetError
    load: host.Load | TargetError
    pressure: list[host.Pressure]
    mounts: list[tuple[host.Mount, Usage | TargetError]] | TargetError
    not_mounted: tuple[str, ...]  # named by the target


def look(target: HostTarget, name: str) -> HostFacts:
    """Read everything; only the file systems can take long, each the target's timeout at most."""
    machine = host.connect(target, name=name)
    mounts = value_or_error(machine.mounts)
    points = set() if isinstance(mounts, TargetError) else {mount.point for mount in mounts}
    return HostFacts(
        memory=value_or_error(machine.memory),
        load=value_or_error(machine.load),
        pressure=machine.pressure(),
        mounts=mounts if isinstance(mounts, TargetError) else list(usages(mounts, target.timeout)),
        not_mounted=()
        if isinstance(mounts, TargetError)
        else tuple(point for point in machine.target.mounts if point not in points),
    )


def judge(ctx: Context, name: str, facts: HostFacts, limits: HostLimits) -> None:
    """Checks and measures of one host."""
    subject = f"host {name}"
    _memory(ctx, subject, name, facts.memory, limits)
    _load(ctx, subject, name, facts.load, limits)
    _pressure(ctx, subject, name, facts.pressure, limits)
    if isinstance(facts.mounts, TargetError):
        ctx.report_error(f"{subject}: file systems", facts.mounts)
        return
    for point in facts.not_mounted:
        ctx.fail(
            f"{subject}: {point} used",
            "not mounted",
            expected="a mounted file system",
            hint="mount it, or correct the target's mounts",
        )
    for mount, usage in facts.mounts:
        _mount(ctx, subject, name, mount, usage, limits)


def _memory(ctx: Context, subject: str, name: str, seen: host.Memory | TargetError, limits: HostLimits) -> None:
    if isinstance(seen, TargetError):
        ctx.report_error(f"{subject}: memory available", seen)
        return
    ctx.check(
        f"{subject}: memory available",
        round(seen.available_percent, 1),
        at_least=limits.memory_fail,
        warn_below=limits.memory_warn,
        unit="%",
        hint="find what grew: ps aux --sort=-rss | head",
    )
    ctx.measure("mem_available_bytes", seen.available, "B", host=name)
    ctx.measure("mem_total_bytes", seen.total, "B", host=name)
    if seen.swap_used_percent is not None:
        ctx.check(
            f"{subject}: swap used",
            round(seen.swap_used_percent, 1),
            warn_above=limits.swap_warn,
            unit="%",
            hint="memory is or was short: see what was swapped out in /proc/*/status, VmSwap",
        )
        ctx.measure("swap_used_bytes", seen.swap_total - seen.swap_free, "B", host=name)


def _load(ctx: Context, subject: str, name: str, seen: host.Load | TargetError, limits: HostLimits) -> None:
    if isinstance(seen, TargetError):
        ctx.report_error(f"{subject}: load per CPU", seen)
        return
    ctx.check(
        f"{subject}: load per CPU",
        round(seen.five / seen.cpus, 2),
        warn_above=limits.load_warn,
        hint=f"{seen.five:g} over five minutes on {seen.cpus} CPUs: see what runs or waits for a disk with top",
    )
    ctx.measure("load_5m", seen.five, host=name)


def _pressure(ctx: Context, subject: str, name: str, seen: list[host.Pressure], limits: HostLimits) -> None:
    if not seen:
        ctx.log(f"{subject}: this kernel does not tell its pressure (psi=1 at boot turns it on)")
    bounds = {
        "memory": (limits.memory_pressure_warn, limits.memory_pressure_fail, "memory is short: find what grew"),
        "io": (limits.io_pressure_warn, limits.io_pressure_fail, "disks are too slow for what is asked: iotop"),
    }
    for pressure in seen:
        ctx.measure(f"psi_{pressure.resource}_some_percent", pressure.some, "%", host=name)
        if pressure.full is None or pressure.resource not in bounds:
            continue
        warn, fail, hint = bounds[pressure.resource]
        ctx.check(
            f"{subject}: {pressure.resource} pressure",
            pressure.full,
            at_most=fail,
            warn_above=warn,
            unit="%",
            hint=hint,
        )
        ctx.measure(f"psi_{pressure.resource}_full_percent", pressure.full, "%", host=name)


def _mount(
    ctx: Context, subject: str, name: str, mount: host.Mount, usage: Usage | TargetError, limits: HostLimits
) -> None:
    if isinstance(usage, TargetError):
        # Not to see through a mount, as in a sidecar without propagation, is not a fault of the file system.
        ctx.report_error(f"{subject}: {mount.point} used", usage, not_observed=frozenset({"denied", "partial"}))
        return
    ctx.check(
        f"{subject}: {mount.point} used",
        round(usage.used_percent, 1),
        at_most=limits.used_fail,
        warn_above=limits.used_warn,
        unit="%",
        hint=f"find what grew: du -xh --max-depth=2 {mount.point} | sort -h | tail",
    )
    ctx.measure("fs_used_bytes", usage.used, "B", host=name, mount=mount.point)
    ctx.measure("fs_avail_bytes", usage.available, "B", host=name, mount=mount.point)
    if usage.inodes_used_percent is not None:
        ctx.check(
            f"{subject}: {mount.point} inodes used",
            round(usage.inodes_used_percent, 1),
            at_most=limits.inodes_fail,
            warn_above=limits.inodes_warn,
            unit="%",
            hint=f"many small files: du -x --inodes --max-depth=2 {mount.point} | sort -n | tail",
        )
        ctx.measure("fs_inodes_used_percent", usage.inodes_used_percent, "%", host=name, mount=mount.point)
    if mount.read_only:
        ctx.check(
            f"{subject}: {mount.point} writable",
            False,
            equals=True,
            severity=CheckStatus.WARN,
            hint="after an error Linux mounts read-only: look at dmesg",
        )
