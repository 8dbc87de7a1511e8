"""Measure the resource usage of hosts and containers between two samples, against their limits.

Hosts: memory, swap, load, pressure, CPU, file systems with inodes, open files, tracked connections, clock. Containers:
memory (working set) and CPU against their limits, throttling, processes. Backup folders: free space against the largest
backup. Read-only.

Runbook: Daily Maintenance, Morning Health Check, 3 Resource Utilization Check
"""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from maintd.checks.host import health, usage
from maintd.checks.host.health import HostLimits
from maintd.checks.host.usage import ContainerUsageLimits, HostUsageLimits
from maintd.checks.limits import SampleInterval
from maintd.checks.probes import Probe, collect_all, isolate_errors
from maintd.checks.requirements.jobs.health import resource_usage as requirements
from maintd.job import Context, JobParams, MaintdError, duration_text, job


class Params(JobParams):
    interval: SampleInterval = timedelta(seconds=5)
    """Time between the two samples; less than a few seconds is not representative."""
    host: HostLimits = HostLimits()
    """Limits for hosts."""
    host_use: HostUsageLimits = HostUsageLimits()
    """Limits for the usage of hosts."""
    containers: ContainerUsageLimits = ContainerUsageLimits()
    """Limits for the usage of containers."""
    backups: tuple[str, ...] = ("backups",)
    """Names of folder targets; each needs free space of twice its largest file."""


@job(timeout="10m", repeatable=True, history_of="job", requires=requirements)
def run(ctx: Context, params: Params) -> None:
    """Sample everything at once, then report each target."""
    with ctx.phase(f"sample twice, {duration_text(params.interval)} apart"):
        results = list(collect_all(list(_probes(ctx, params))))
    for probe, facts in results:
        with ctx.phase(f"check {probe.subject}"), isolate_errors(ctx, f"{probe.subject}: evaluated"):
            _report(ctx, params, probe, facts)
    if not ctx.targets.docker:
        ctx.log("docker: not configured: set targets.docker")
    with ctx.phase("compare free space with the largest backup"):
        for name in params.backups:
            with isolate_errors(ctx, f"folder {name}: free space"):
                _report_backup_space(ctx, name)


def _probes(ctx: Context, params: Params) -> Iterator[Probe]:
    for name, target in ctx.targets.host.items():
        yield Probe("host", name, partial(health.collect, target, name), target.timeout * 10 + timedelta(seconds=2))
        collect_usage = partial(usage.collect_host, target, name, params.interval)
        yield Probe("host usage", name, collect_usage, target.timeout + params.interval)
    for name, engine in ctx.targets.docker.items():
        collect_engine = partial(usage.collect_engine, engine, name, params.interval)
        yield Probe("docker", name, collect_engine, engine.timeout * 6 + params.interval)


def _report(ctx: Context, params: Params, probe: Probe, facts: Any) -> None:
    if isinstance(facts, MaintdError):
        # An engine that is busy or hangs does not prove its containers unhealthy.
        ctx.report_error(f"{probe.subject}: answers", facts)
    elif probe.kind == "host":
        health.report(ctx, probe.name, facts, params.host)
    elif probe.kind == "host usage":
        usage.report_host(ctx, probe.name, facts, params.host_use)
    else:
        usage.report_engine(ctx, probe.name, facts, params.containers)


def _report_backup_space(ctx: Context, name: str) -> None:
    """Report whether a backup folder has free space of twice its largest file."""
    folders = ctx.targets.folders
    if name not in folders:
        ctx.log(f"folder {name}: not configured: set targets.folders.{name} to compare its free space")
        return
    path, check = folders[name].path, f"folder {name}: free space"
    try:
        largest = max((file.stat().st_size for file in _files(path)), default=0)
        free = shutil.disk_usage(path).free
    except OSError as error:
        ctx.unknown(check, f"{error.strerror}: {error.filename}", hint="mount it, or correct the target's path")
        return
    ctx.measure("largest_backup_bytes", largest, "B", folder=name)
    hint = "the next backup may not fit: free space, or keep fewer backups"
    ctx.check(check, free, at_least=2 * largest, unit="B", hint=hint)


def _files(folder: Path) -> Iterator[Path]:
    """All regular files below; links are not followed. Raises OSError when the folder itself cannot be read."""
    next(folder.iterdir(), None)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path
