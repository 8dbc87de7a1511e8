"""Measure what hosts and containers use, between two moments and against what they may.

Hosts: memory, swap, load, pressure, CPU, every file system and its inodes, open files, tracked connections, the clock.
Containers: memory as its working set and CPU against their limits, throttling, processes. Free space against the
largest backup. Nothing is changed.

Runbook: Daily Maintenance, Morning Health Check, 3 Resource Utilization Check
"""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import field_validator

from maintd.checks.collection import Probe, collect_all
from maintd.checks.host import health as host
from maintd.checks.host import usage
from maintd.checks.host.health import HostLimits
from maintd.checks.host.usage import ContainerUseLimits, HostUseLimits
from maintd.job import Context, Duration, JobError, JobParams, TargetError, job


class Params(JobParams):
    interval: Duration = timedelta(seconds=5)
    """Between the two samples; what is shorter than a few seconds says little."""
    host: HostLimits = HostLimits()
    """When a host is short of something."""
    host_use: HostUseLimits = HostUseLimits()
    """When a host is used too much."""
    containers: ContainerUseLimits = ContainerUseLimits()
    """When a container is close to what it may use."""
    backups: tuple[str, ...] = ("backups",)
    """Folders by the names of their targets: each needs free space for twice its largest file."""

    @field_validator("interval")
    @classmethod
    def _bounded(cls, value: timedelta) -> timedelta:
        if not timedelta(milliseconds=100) <= value <= timedelta(minutes=5):
            raise ValueError("must be between 100ms and 5m")
        return value


@job(timeout="10m", repeatable=True, history_of="job")
def run(ctx: Context, params: Params) -> None:
    with ctx.phase(f"sample twice, {params.interval.total_seconds():g} s apart"):
        seen = list(collect_all(list(_probes(ctx, params))))
    for probe, found in seen:
        with ctx.phase(f"judge {probe.subject}"):
            _judge(ctx, params, probe, found)
    if not ctx.targets.docker:
        ctx.log("docker: not configured: set targets.docker")
    with ctx.phase("compare free space with the largest backup"):
        for name in params.backups:
            _room_for_backups(ctx, name)


def _probes(ctx: Context, params: Params) -> Iterator[Probe]:
    for name, target in ctx.targets.host.items():
        yield Probe("host", name, partial(host.look, target, name), target.timeout * 10 + timedelta(seconds=2))
        look = partial(usage.look_at_host, target, name, params.interval)
        yield Probe("use of host", name, look, target.timeout + params.interval)
    for name, engine in ctx.targets.docker.items():
        look_at_engine = partial(usage.look_at_engine, engine, name, params.interval)
        yield Probe("docker", name, look_at_engine, engine.timeout * 6 + params.interval)


def _judge(ctx: Context, params: Params, probe: Probe, found: Any) -> None:
    if isinstance(found, TargetError | JobError):
        # An engine that is busy or hung says nothing about its containers: they may serve all the while.
        ctx.report_error(f"{probe.subject}: answers", found, not_observed=frozenset({"denied", "timed_out"}))
    elif probe.kind == "host":
        host.judge(ctx, probe.name, found, params.host)
    elif probe.kind == "use of host":
        usage.judge_host(ctx, probe.name, found, params.host_use)
    else:
        usage.judge_engine(ctx, probe.name, found, params.containers)


def _room_for_backups(ctx: Context, name: str) -> None:
    folders = ctx.targets.folders
    if name not in folders:
        ctx.log(f"folder {name}: not configured: set targets.folders.{name} to compare its free space")
        return
    path, what = folders[name].path, f"folder {name}: free space"
    try:
        largest = max((file.stat().st_size for file in _files(path)), default=0)
        free = shutil.disk_usage(path).free
    except OSError as error:
        ctx.unknown(what, f"{error.strerror}: {error.filename}", hint="mount it, or correct the target's path")
        return
    ctx.measure("largest_backup_bytes", largest, "B", folder=name)
    ctx.check(what, free, at_least=2 * largest, unit="B", hint="the next backup may not fit: free space, or keep fewer")


def _files(folder: Path) -> Iterator[Path]:
    """Regular files below, not across links. Raises OSError when the folder itself cannot be read."""
    next(folder.iterdir(), None)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path
