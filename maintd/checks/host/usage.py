"""Resource usage of hosts and containers between two samples."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from maintd.checks.docker import stats as containers
from maintd.checks.host.mounted import in_container, shares_network
from maintd.checks.limits import Limits
from maintd.checks.probes import value_or_error
from maintd.clients import docker, host
from maintd.clients.cgroup import OwnLimit, own_memory
from maintd.clients.docker import Container
from maintd.clients.host import TimeSync, time_sync
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.model.target import DockerTarget, HostTarget
from maintd.units import Duration, Size


class HostUsageLimits(Limits):
    """Limits for the usage of a host."""

    cpu_warn: float = 80
    """Percent of all CPUs, between the two samples."""
    swap_warn: Size = 1024**2
    """Bytes per second swapped in or out."""
    tables_warn: float = 80
    tables_fail: float = 90
    """Percent of the kernel's tables of open files and of tracked connections."""
    own_memory_warn: float = 80
    own_memory_fail: float = 90
    """Percent of maintd's own memory limit, when its container or service has one."""
    clock_warn: Duration = timedelta(milliseconds=500)
    clock_fail: Duration = timedelta(seconds=2)
    """The kernel's estimate of the clock's offset."""


class ContainerUsageLimits(Limits):
    """Limits for the usage of a container, relative to its own limits."""

    memory_warn: float = 80
    memory_fail: float = 90
    """Percent of its memory limit used by its working set."""
    cpu_warn: float = 80
    """Percent of its CPU limit, between the two samples."""
    throttled_warn: float = 10
    throttled_fail: float = 25
    """Percent of the periods in which its CPU limit throttled it."""
    pids_warn: float = 80
    pids_fail: float = 90
    """Percent of its limit of processes and threads."""


@dataclass(frozen=True)
class HostUsage:
    """Rates between the samples, and the kernel's present gauges, own memory limit and clock."""

    rates: Mapping[str, float] | TargetError
    gauges: list[host.Gauge]
    own: OwnLimit | None
    clock: TimeSync | TargetError


@dataclass(frozen=True)
class EngineUsage:
    """The usage of each running container, or the error."""

    containers: tuple[tuple[Container, containers.Usage | TargetError], ...]


def collect_host(target: HostTarget, name: str, interval: timedelta) -> HostUsage:
    """Sample a host twice, `interval` apart."""
    machine = host.connect(target, name=name)
    first = value_or_error(machine.counters)
    time.sleep(interval.total_seconds())
    second = value_or_error(machine.counters)
    rates: Mapping[str, float] | TargetError
    if isinstance(first, TargetError):
        rates = first
    else:
        rates = second if isinstance(second, TargetError) else host.rates(first, second)
    return HostUsage(rates, _gauges(machine), own_memory() if machine.local else None, value_or_error(time_sync))


def _gauges(machine: host.Host) -> list[host.Gauge]:
    """Those of the host: tracked connections are of a network namespace, which a container can have for itself."""
    found = machine.gauges()
    if in_container() and not shares_network(machine.target):
        return [gauge for gauge in found if gauge.name != host.TRACKED_CONNECTIONS]
    return found


def collect_engine(target: DockerTarget, name: str, interval: timedelta) -> EngineUsage:
    """Sample an engine's running containers twice, `interval` apart. Raises TargetError without an engine."""
    with docker.connect(target, name=name) as engine:
        running = [item for item in engine.containers(target.project) if item.state == "running"]
        first = containers.samples(engine, running)
        time.sleep(interval.total_seconds())
        second = containers.samples(engine, running)
    return EngineUsage(tuple((item, _usage(item, first[item.id], second[item.id])) for item in running))


def _usage(
    container: Container, first: containers.Sample | TargetError, second: containers.Sample | TargetError
) -> containers.Usage | TargetError:
    for sample in (first, second):
        if isinstance(sample, TargetError):
            return sample
    assert isinstance(first, containers.Sample)
    assert isinstance(second, containers.Sample)
    return value_or_error(lambda: containers.usage(container, first, second))


def report_host(ctx: Context, name: str, usage: HostUsage, limits: HostUsageLimits) -> None:
    """Report the checks and measures of a host's usage."""
    subject = f"host {name}"
    if isinstance(usage.rates, TargetError):
        ctx.report_error(f"{subject}: CPU used", usage.rates)
    else:
        cpu = usage.rates["cpu"]
        hint = "find the busy processes: top"
        ctx.check(f"{subject}: CPU used", round(cpu, 1), warn_above=limits.cpu_warn, unit="%", hint=hint)
        ctx.measure("cpu_used_percent", cpu, "%", host=name)
        for what, key in (("swapped in", "swap_in"), ("swapped out", "swap_out")):
            rate = round(usage.rates[key])
            hint = "memory is short: watch vmstat 1; find the process that grew"
            ctx.check(f"{subject}: {what} each second", rate, warn_above=limits.swap_warn, unit="B", hint=hint)
            ctx.measure(f"{key}_bytes_per_second", rate, "B/s", host=name)
    for gauge in usage.gauges:
        ctx.check(
            f"{subject}: {gauge.name}",
            round(100 * gauge.used / max(gauge.limit, 1), 1),
            at_most=limits.tables_fail,
            warn_above=limits.tables_warn,
            unit="%",
            hint=f"{gauge.used} of {gauge.limit}: find the processes, or raise the kernel's limit",
        )
    if usage.own is not None:
        ctx.check(
            f"{subject}: memory of maintd's own limit",
            round(usage.own.used_percent, 1),
            at_most=limits.own_memory_fail,
            warn_above=limits.own_memory_warn,
            unit="%",
            hint="raise its container's limit, or lower MAINTD_SLOTS",
        )
    report_clock(ctx, subject, usage.clock, limits)


def report_clock(ctx: Context, subject: str, clock: TimeSync | TargetError, limits: HostUsageLimits) -> None:
    """Report whether the clock is synchronised, and its offset."""
    if isinstance(clock, TargetError):
        ctx.report_error(f"{subject}: clock offset", clock)
        return
    synchronised = ctx.check(
        f"{subject}: clock synchronised",
        clock.synchronised,
        equals=True,
        severity=CheckStatus.WARN,
        hint="start chrony or systemd-timesyncd on the host",
    )
    if synchronised.status is CheckStatus.OK:
        hint = "see timedatectl or chronyc tracking"
        ctx.check(
            f"{subject}: clock offset",
            clock.offset,
            at_most=limits.clock_fail,
            warn_above=limits.clock_warn,
            hint=hint,
        )


def report_engine(ctx: Context, name: str, usage: EngineUsage, limits: ContainerUsageLimits) -> None:
    """Report the checks and measures of the usage of an engine's containers."""
    subject = f"docker {name}"
    if not usage.containers:
        ctx.log(f"{subject}: no container is running")
    for container, used in usage.containers:
        what = f"{subject}: {container.label}"
        if isinstance(used, TargetError):
            ctx.unknown(f"{what} use", f"{used.cause}: {used.message}", hint=used.hint or "")
            continue
        labels = {"engine": name, "service": container.label}
        ctx.measure("container_memory_working_set_bytes", used.memory, "B", **labels)
        ctx.measure("container_cpus", used.cpus, "", **labels)
        ctx.measure("container_pids", used.pids, "", **labels)
        _report_limits(ctx, what, container, used, limits)
        if used.throttled_percent is not None:
            ctx.measure("container_throttled_percent", used.throttled_percent, "%", **labels)


def _report_limits(
    ctx: Context, what: str, container: Container, used: containers.Usage, limits: ContainerUsageLimits
) -> None:
    unlimited = [
        name for name, limit in (("memory", container.memory_limit), ("CPU", container.cpu_limit)) if not limit
    ]
    if unlimited:
        ctx.log(f"{what}: no limit of {' and '.join(unlimited)}")
    memory_hint = "it is killed at its limit: raise the limit, or find the leak"
    cpu_hint = "raise its CPU limit, or find what it computes"
    pids_hint = "it cannot start processes at its limit: find those that do not end"
    rows = (
        ("memory of its limit", used.memory_percent, limits.memory_fail, limits.memory_warn, memory_hint),
        ("CPU of its limit", used.cpu_percent, None, limits.cpu_warn, cpu_hint),
        ("CPU throttled", used.throttled_percent, limits.throttled_fail, limits.throttled_warn, cpu_hint),
        ("processes of its limit", used.pids_percent, limits.pids_fail, limits.pids_warn, pids_hint),
    )
    for part, percent, fail, warn, hint in rows:
        if percent is not None:
            ctx.check(f"{what} {part}", round(percent, 1), at_most=fail, warn_above=warn, unit="%", hint=hint)
