"""Health of a host: memory, swap, load, pressure, file systems."""

from __future__ import annotations

from dataclasses import dataclass

from maintd.checks.host.mounted import has_proc, has_root, not_mounted
from maintd.checks.limits import Limits
from maintd.checks.probes import value_or_error
from maintd.clients import host
from maintd.clients.host import Usage, usages
from maintd.errors import TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.model.target import HostTarget


class HostLimits(Limits):
    """Limits for a host, in percent."""

    memory_warn: float = 20
    """Warn when less memory is available."""
    memory_fail: float = 10
    """Fail when less memory is available."""
    swap_warn: float = 80
    """Warn when more of the swap space is used."""
    load_warn: float = 2
    """Warn when the load of five minutes per CPU is higher (not a percentage)."""
    memory_pressure_warn: float = 1
    memory_pressure_fail: float = 5
    """Of the last five minutes, in which all tasks waited for memory."""
    io_pressure_warn: float = 10
    io_pressure_fail: float = 30
    """Of the last five minutes, in which all tasks waited for disks."""
    used_warn: float = 80
    used_fail: float = 90
    """Of a file system's bytes, counted as by `df`."""
    inodes_warn: float = 80
    inodes_fail: float = 90
    """Of a file system's inodes."""


@dataclass(frozen=True)
class HostFacts:
    """The facts of a host, each with its own error."""

    memory: host.Memory | TargetError
    load: host.Load | TargetError
    pressure: list[host.Pressure]
    mounts: list[tuple[host.Mount, Usage | TargetError]] | TargetError
    not_mounted: tuple[str, ...] = ()  # mounts of the target that are not mounted
    of_container: bool = False  # the mounts are those of maintd's own container, and the host's are not seen


def collect(target: HostTarget, name: str) -> HostFacts:
    """Read everything. Only the file systems may be slow: each takes at most the target's timeout."""
    machine = host.connect(target, name=name)
    of_container = not (has_root(machine.target) and has_proc(machine.target))
    mounts = value_or_error(host.own_mounts if of_container else machine.mounts)
    points = set() if isinstance(mounts, TargetError) else {mount.point for mount in mounts}
    return HostFacts(
        memory=value_or_error(machine.memory),
        load=value_or_error(machine.load),
        pressure=machine.pressure(),
        mounts=mounts if isinstance(mounts, TargetError) else list(usages(mounts, target.timeout)),
        not_mounted=()
        if isinstance(mounts, TargetError) or of_container
        else tuple(point for point in machine.target.mounts if point not in points),
        of_container=of_container,
    )


def report(ctx: Context, name: str, facts: HostFacts, limits: HostLimits) -> None:
    """Report the checks and measures of one host."""
    subject = f"host {name}"
    _report_memory(ctx, subject, name, facts.memory, limits)
    _report_load(ctx, subject, name, facts.load, limits)
    _report_pressure(ctx, subject, name, facts.pressure, limits)
    if facts.of_container:
        error = not_mounted("its file systems")
        cause = f"{error.cause}: {error.message}"
        ctx.unknown(f"{subject}: file systems", cause, expected="mounted", hint=error.hint or "", optional=True)
        subject, name = f"{subject} (container of maintd)", f"{name} (container of maintd)"
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
        _report_mount(ctx, subject, name, mount, usage, limits)


def _report_memory(
    ctx: Context, subject: str, name: str, memory: host.Memory | TargetError, limits: HostLimits
) -> None:
    if isinstance(memory, TargetError):
        ctx.report_error(f"{subject}: memory available", memory)
        return
    if memory.estimated:
        ctx.log(f"{subject}: no MemAvailable in meminfo; estimated from free memory, page cache and slabs")
    ctx.check(
        f"{subject}: memory available",
        round(memory.available_percent, 1),
        at_least=limits.memory_fail,
        warn_below=limits.memory_warn,
        unit="%",
        hint="find the largest processes: ps aux --sort=-rss | head",
    )
    ctx.measure("mem_available_bytes", memory.available, "B", host=name)
    ctx.measure("mem_total_bytes", memory.total, "B", host=name)
    if memory.swap_used_percent is not None:
        ctx.check(
            f"{subject}: swap used",
            round(memory.swap_used_percent, 1),
            warn_above=limits.swap_warn,
            unit="%",
            hint="memory is or was short: find what was swapped out: grep VmSwap /proc/*/status",
        )
        ctx.measure("swap_used_bytes", memory.swap_total - memory.swap_free, "B", host=name)


def _report_load(ctx: Context, subject: str, name: str, load: host.Load | TargetError, limits: HostLimits) -> None:
    if isinstance(load, TargetError):
        ctx.report_error(f"{subject}: load per CPU", load)
        return
    ctx.check(
        f"{subject}: load per CPU",
        round(load.five / load.cpus, 2),
        warn_above=limits.load_warn,
        hint=f"{load.five:g} over five minutes on {load.cpus} CPUs: find the running or waiting processes with top",
    )
    ctx.measure("load_5m", load.five, host=name)


def _report_pressure(ctx: Context, subject: str, name: str, pressures: list[host.Pressure], limits: HostLimits) -> None:
    if not pressures:
        ctx.log(f"{subject}: this kernel has no pressure metrics (enable them with psi=1 at boot)")
    bounds = {
        "memory": (
            limits.memory_pressure_warn,
            limits.memory_pressure_fail,
            "memory is short: find the process that grew",
        ),
        "io": (limits.io_pressure_warn, limits.io_pressure_fail, "disks are too slow for their load: see iotop"),
    }
    for pressure in pressures:
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


def _report_mount(
    ctx: Context, subject: str, name: str, mount: host.Mount, usage: Usage | TargetError, limits: HostLimits
) -> None:
    if isinstance(usage, TargetError):
        # In a sidecar without mount propagation, a mount is not accessible though the file system is healthy.
        role = Role.SOURCE if usage.cause == "partial" else Role.SUBJECT
        ctx.report_error(f"{subject}: {mount.point} used", usage, role=role)
        return
    ctx.check(
        f"{subject}: {mount.point} used",
        round(usage.used_percent, 1),
        at_most=limits.used_fail,
        warn_above=limits.used_warn,
        unit="%",
        hint=f"find what uses it: du -xh --max-depth=2 {mount.point} | sort -h | tail",
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
            hint="Linux remounts read-only after an error: see dmesg",
        )
