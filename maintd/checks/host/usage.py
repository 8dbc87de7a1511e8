"""What hosts and containers use between two moments: what one look cannot tell."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from maintd.checks.collection import value_or_error
from maintd.checks.docker import stats as containers
from maintd.checks.limits import Limits
from maintd.clients import docker, host
from maintd.clients.cgroup import OwnLimit, own_memory
from maintd.clients.clock_sync import TimeSync, time_sync
from maintd.clients.docker import Container
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.model.target import DockerTarget, HostTarget
from maintd.units import Duration, Size


class HostUseLimits(Limits):
    """When a host is used too much."""

    cpu_warn: float = 80
    """Percent of all CPUs, between the two samples."""
    swap_warn: Size = 1024**2
    """Bytes per second that are swapped in or out."""
    tables_warn: float = 80
    tables_fail: float = 90
    """Percent of the kernel's tables of open files and of tracked connections."""
    own_memory_warn: float = 80
    own_memory_fail: float = 90
    """Percent of the memory that maintd itself may use, where its container or service has a limit."""
    clock_warn: Duration = timedelta(milliseconds=500)
    clock_fail: Duration = timedelta(seconds=2)
    """How far the clock is known to be off."""


class ContainerUseLimits(Limits):
    """When a container is close to what it may use."""

    memory_warn: float = 80
    memory_fail: float = 90
    """Percent of its memory limit, by its working set."""
    cpu_warn: float = 80
    """Percent of its CPU limit, between the two samples."""
    throttled_warn: float = 10
    throttled_fail: float = 25
    """Percent of the periods in which it had to wait for its CPU limit."""
    pids_warn: float = 80
    pids_fail: float = 90
    """Percent of the processes and threads it may have."""


@dataclass(frozen=True)
class HostUse:
    """Rates between the samples, and what the kernel says once."""

    rates: Mapping[str, float] | TargetError
    gauges: list[host.Gauge]
    own: OwnLimit | None
    clock: TimeSync | TargetError


@dataclass(frozen=True)
class EngineUse:
    """Each running container's use, or why it is not known."""

    uses: tuple[tuple[Container, containers.Use | TargetError], ...]


def look_at_host(target: HostTarget, name: str, interval: timedelta) -> HostUse:
    """Takes as long as the interval."""
    machine = host.connect(target, name=name)
    first = value_or_error(machine.counters)
    time.sleep(interval.total_seconds())
    second = value_or_error(machine.counters)
    rates: Mapping[str, float] | TargetError
    if isinstance(first, TargetError):
        rates = first
    else:
        rates = second if isinstance(second, TargetError) else host.rates(first, second)
    return HostUse(rates, machine.gauges(), own_memory() if machine.local else None, value_or_error(time_sync))


def look_at_engine(target: DockerTarget, name: str, interval: timedelta) -> EngineUse:
    """Takes as long as the interval and two rounds of samples. Raises TargetError when the engine does not answer."""
    with docker.connect(target, name=name) as engine:
        running = [item for item in engine.containers(target.project) if item.state == "running"]
        first = containers.samples(engine, running)
        time.sleep(interval.total_seconds())
        second = containers.samples(engine, running)
    return EngineUse(tuple((item, _use(item, first[item.id], second[item.id])) for item in running))


def _use(
    container: Container, first: containers.Sample | TargetError, second: containers.Sample | TargetError
) -> containers.Use | TargetError:
    for taken in (first, second):
        if isinstance(taken, TargetError):
            return taken
    assert isinstance(first, containers.Sample)
    assert isinstance(second, containers.Sample)
    return value_or_error(lambda: containers.use(container, first, second))


def judge_host(ctx: Context, name: str, use: HostUse, limits: HostUseLimits) -> None:
    """Checks and measures of what one host does."""
    subject = f"host {name}"
    if isinstance(use.rates, TargetError):
        ctx.report_error(f"{subject}: CPU used", use.rates)
    else:
        cpu = use.rates["cpu"]
        hint = "see what runs: top"
        ctx.check(f"{subject}: CPU used", round(cpu, 1), warn_above=limits.cpu_warn, unit="%", hint=hint)
        ctx.measure("cpu_used_percent", cpu, "%", host=name)
        for what, key in (("swapped in", "swap_in"), ("swapped out", "swap_out")):
            rate = round(use.rates[key])
            hint = "memory is short: vmstat 1 shows it live; find what grew"
            ctx.check(f"{subject}: {what} each second", rate, warn_above=limits.swap_warn, unit="B", hint=hint)
            ctx.measure(f"{key}_bytes_per_second", rate, "B/s", host=name)
    for gauge in use.gauges:
        ctx.check(
            f"{subject}: {gauge.name}",
            round(100 * gauge.used / max(gauge.limit, 1), 1),
            at_most=limits.tables_fail,
            warn_above=limits.tables_warn,
            unit="%",
            hint=f"{gauge.used} of {gauge.limit}: find who holds them, or raise the kernel's limit",
        )
    if use.own is not None:
        ctx.check(
            f"{subject}: memory of maintd's own limit",
            round(use.own.used_percent, 1),
            at_most=limits.own_memory_fail,
            warn_above=limits.own_memory_warn,
            unit="%",
            hint="raise its container's limit, or lower MAINTD_SLOTS",
        )
    _clock(ctx, subject, use.clock, limits)


def _clock(ctx: Context, subject: str, clock: TimeSync | TargetError, limits: HostUseLimits) -> None:
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
        hint = "look with timedatectl or chronyc tracking"
        ctx.check(
            f"{subject}: clock offset",
            clock.offset,
            at_most=limits.clock_fail,
            warn_above=limits.clock_warn,
            hint=hint,
        )


def judge_engine(ctx: Context, name: str, use: EngineUse, limits: ContainerUseLimits) -> None:
    """Checks and measures of what one engine's containers use. What has no limit has no percentage."""
    subject = f"docker {name}"
    if not use.uses:
        ctx.log(f"{subject}: no container runs")
    for container, seen in use.uses:
        what = f"{subject}: {container.label}"
        if isinstance(seen, TargetError):
            ctx.unknown(f"{what} use", f"{seen.cause}: {seen.message}", hint=seen.hint or "")
            continue
        labels = {"engine": name, "service": container.label}
        ctx.measure("container_memory_working_set_bytes", seen.memory, "B", **labels)
        ctx.measure("container_cpus", seen.cpus, "", **labels)
        ctx.measure("container_pids", seen.pids, "", **labels)
        _of_limits(ctx, what, container, seen, limits)
        if seen.throttled_percent is not None:
            ctx.measure("container_throttled_percent", seen.throttled_percent, "%", **labels)


def _of_limits(ctx: Context, what: str, container: Container, seen: containers.Use, limits: ContainerUseLimits) -> None:
    unlimited = [
        name for name, limit in (("memory", container.memory_limit), ("CPU", container.cpu_limit)) if not limit
    ]
    if unlimited:
        ctx.log(f"{what}: no limit of {' and '.join(unlimited)}")
    memory_hint = "it will be killed at its limit: raise the limit, or find its leak"
    cpu_hint = "raise its CPU limit, or find what it does"
    pids_hint = "it cannot start more at its limit: find what it does not end"
    rows = (
        ("memory of its limit", seen.memory_percent, limits.memory_fail, limits.memory_warn, memory_hint),
        ("CPU of its limit", seen.cpu_percent, None, limits.cpu_warn, cpu_hint),
        ("CPU throttled", seen.throttled_percent, limits.throttled_fail, limits.throttled_warn, cpu_hint),
        ("processes of its limit", seen.pids_percent, limits.pids_fail, limits.pids_warn, pids_hint),
    )
    for part, percent, fail, warn, hint in rows:
        if percent is not None:
            ctx.check(f"{what} {part}", round(percent, 1), at_most=fail, warn_above=warn, unit="%", hint=hint)
