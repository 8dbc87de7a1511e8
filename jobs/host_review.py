"""Review the settings of hosts: kernel, huge pages, disks, mounts, clock and listening sockets.

Runbook: Quarterly Maintenance, Performance Optimization, 3 Infrastructure Optimization

Each setting is compared with a profile, as it is now and as the files set it at the next start; the drop-in file that
would correct it is saved with the run. The runbook appends to /etc/sysctl.conf at every run, and loads a disk in
production to measure it; here the wait of requests comes from the kernel's counters since the last run. Nothing is
changed. Not examined: SMART and NVMe health, which need the device.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from pydantic import field_validator

from maintd.checks.host import disk_latency, kernel_settings, listening, mount_options, usage
from maintd.checks.host.disk_latency import DiskLimits
from maintd.checks.host.kernel_settings import HUGE_PAGE_MODES, PROFILE, Setting
from maintd.checks.host.listening import Allowed
from maintd.checks.host.usage import HostUsageLimits
from maintd.checks.limits import SampleInterval
from maintd.checks.probes import Probe, collect_all, isolate_errors, value_or_error
from maintd.checks.requirements.jobs.configuration import host_review as requirements
from maintd.clients.host import time_sync
from maintd.job import Context, JobParams, MaintdError, TargetError, duration_text, job
from maintd.reports.review_report import publish_review


class Params(JobParams):
    hosts: tuple[str, ...] = ()
    """Names of host targets; all by default."""
    settings: dict[str, Setting | None] = {}
    """Settings of the kernel beside or instead of those of the profile; null leaves one out."""
    huge_pages: tuple[str, ...] = HUGE_PAGE_MODES
    """Modes of transparent huge pages that are allowed, the wanted one first; `[]`: not examined."""
    listening: tuple[str, ...] | None = None
    """Allowed sockets beyond loopback: `22`, `53/udp`, `10.0.0.0/8:5432`. By default they are listed, not evaluated."""
    interval: SampleInterval = timedelta(seconds=10)
    """Time between the two samples of how busy the disks are."""
    disks: DiskLimits = DiskLimits()
    """Limits for disks."""
    clock: HostUsageLimits = HostUsageLimits()
    """Limits for the clock."""

    @field_validator("listening")
    @classmethod
    def _are_sockets(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for text in value or ():
            Allowed.parse(text)
        return value

    @property
    def profile(self) -> Mapping[str, Setting]:
        """The settings to examine, by key."""
        merged = {**PROFILE, **self.settings}
        return {key: setting for key, setting in merged.items() if setting is not None}

    @property
    def allowed(self) -> list[Allowed] | None:
        """The allowed sockets; None: they are not evaluated."""
        return None if self.listening is None else [Allowed.parse(text) for text in self.listening]


@job(timeout="10m", repeatable=True, reads_findings=True, history_of="job", requires=requirements)
def run(ctx: Context, params: Params) -> None:
    """Read everything of all hosts at once, then report it."""
    with ctx.phase(f"read the settings and sample the disks, {duration_text(params.interval)} apart"):
        results = list(collect_all(list(probes(ctx, params))))
    for probe, facts in results:
        with ctx.phase(f"check {probe.subject}"), isolate_errors(ctx, f"{probe.subject}: evaluated"):
            report(ctx, params, probe, facts)
    for name in ctx.chosen("host", params.hosts):
        with isolate_errors(ctx, f"host {name}: clock synchronised", expected="yes"):
            usage.report_clock(ctx, f"host {name}", value_or_error(time_sync), params.clock)
    with ctx.phase("write the report"):
        publish_review(ctx, kind="host-review", title="Host Review")


def probes(ctx: Context, params: Params) -> Iterator[Probe]:
    """What to read of each host, apart from the clock, which is that of this machine's kernel."""
    hosts: dict[str, Any] = dict(ctx.chosen("host", params.hosts))
    for name, target in hosts.items():
        patience = target.timeout * 3
        yield Probe("settings", name, partial(kernel_settings.collect, target, tuple(params.profile)), patience)
        yield Probe("mounts", name, partial(mount_options.collect, target, name), patience)
        yield Probe("sockets", name, partial(listening.collect, target), patience)
        yield Probe("disks", name, partial(disk_latency.collect, target, params.interval), patience + params.interval)


def report(ctx: Context, params: Params, probe: Probe, facts: Any) -> None:
    """Report what was read, or why it was not."""
    if isinstance(facts, TargetError) and facts.cause == "not_configured":
        # A fact of the site: its host is not mounted into the container.
        name, cause = f"host {probe.name}: {probe.kind}", f"{facts.cause}: {facts.message}"
        ctx.unknown(name, cause, expected="readable", hint=facts.hint or "", optional=True)
    elif isinstance(facts, MaintdError):
        ctx.report_error(f"host {probe.name}: {probe.kind}", facts)
    elif probe.kind == "settings":
        kernel_settings.report(ctx, probe.name, facts, params.profile, params.huge_pages)
    elif probe.kind == "mounts":
        mount_options.report(ctx, probe.name, facts)
    elif probe.kind == "sockets":
        listening.report(ctx, probe.name, facts, params.allowed)
    else:
        disk_latency.report(ctx, probe.name, facts, params.interval, params.disks)
