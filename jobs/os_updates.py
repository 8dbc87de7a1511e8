"""Check a host's pending security updates, reboot, kernel, held packages, services to restart, and end of support.

Runbook: Quarterly Maintenance, Infrastructure Review, 2 Security Updates

Reads files below the root of the host target: dpkg's status, the lists that apt has fetched, /run/reboot-required,
/boot and /proc. Nothing is fetched, installed or restarted: a sidecar does not change its host. What is pending is only
known from lists that are fresh and include the security archive. The age of an update counts from when maintd first
saw it, since apt's lists do not have its date. Pins in apt's preferences are not evaluated. Only hosts with dpkg are
examined. In a container, the target's root must be the mounted root of the host.
"""

from datetime import date
from pathlib import Path

from maintd.checks.host.mounted import has_proc, mounted, not_mounted
from maintd.checks.os_updates import evaluate, packages, running
from maintd.checks.os_updates.evaluate import Limits
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.configuration import os_updates as requirements
from maintd.job import Context, Duration, JobParams, TargetError, job
from maintd.reports.review_report import publish_review


class Params(JobParams):
    hosts: tuple[str, ...] = ()
    """Names of host targets; all by default."""
    root: Path | None = None
    """Root of the file system to read instead of those of the targets, with `proc` below it."""
    expected_holds: tuple[str, ...] = ("docker-ce*", "containerd.io", "docker.io", "containerd")
    """Patterns of packages that are held on purpose: an update of Docker restarts all containers."""
    pending_fail: Duration = Limits.pending_fail
    """A security update that maintd has seen for longer fails."""
    lists_age: Duration = Limits.lists_age
    """Lists of apt that are older show nothing."""
    reboot_warn: Duration = Limits.reboot_warn
    """A reboot that is due for longer warns."""
    reboot_fail: Duration = Limits.reboot_fail
    """A reboot that is due for longer fails."""
    support_warn: Duration = Limits.support_warn
    """Days of the distribution's support that are left, below which it warns."""
    support_ends: date | None = None
    """Last day of the distribution's support, for one that the table lacks, or one with extended support."""


@job(timeout="15m", repeatable=True, reads_findings=True, requires=requirements, admin_params=True)  # root names files
def run(ctx: Context, params: Params) -> None:
    """Examine each host."""
    root = params.root
    hosts = mounted_hosts(ctx, params) if root is None else {"host": (root, root / "proc", True)}
    for name, (root_of_host, proc, has_processes) in hosts.items():
        examine(ctx, params, name, root_of_host, proc, has_processes=has_processes)
    with ctx.phase("write the report"):
        publish_review(ctx, kind="os-updates", title="Updates of Hosts")


def mounted_hosts(ctx: Context, params: Params) -> dict[str, tuple[Path, Path, bool]]:
    """The root and /proc of each host target; in a container only of those whose root is mounted. Raises TargetError.

    The last: whether the /proc has the processes of the host.
    """
    found = mounted({name: ctx.target("host", name) for name in params.hosts or ctx.targets.host})
    if not found:
        hint = "mount the host's root and /proc, and set targets.host: {local: {root: /host, proc: /host/proc}}"
        raise TargetError("the host is not mounted into this container", hint, cause="not_configured")
    return {name: (target.root, target.proc, has_proc(target)) for name, target in found.items()}


def examine(ctx: Context, params: Params, host: str, root: Path, proc: Path, *, has_processes: bool) -> None:
    """Each part by itself: one that cannot be read hides no other."""
    now, installed = ctx.now(), list[str]()
    with ctx.phase(f"read packages of {host}"), isolate_errors(ctx, f"{host}: packages"):
        found = packages.read_packages(root)
        holds, age, fail = params.expected_holds, params.lists_age, params.pending_fail
        evaluate.report_packages(ctx, host, found, holds, age, fail, now)
        installed = [package.name for package in found.installed]
    with ctx.phase(f"read what runs on {host}"):
        reboot = kernel = None
        with isolate_errors(ctx, f"{host}: reboot required"):
            reboot = running.read_reboot(root)
        with isolate_errors(ctx, f"{host}: running kernel"):
            kernel = running.read_kernel(root, proc)
        with isolate_errors(ctx, f"{host}: a reboot is due for"):
            warn, fail = params.reboot_warn, params.reboot_fail
            evaluate.report_reboot(ctx, host, reboot, kernel, warn, fail, installed, now)
        with isolate_errors(ctx, f"{host}: services to restart"):
            if not has_processes:
                raise not_mounted("its processes")
            evaluate.report_restarts(ctx, host, running.read_restarts(proc))
        with isolate_errors(ctx, f"{host}: distribution"):
            release = running.read_os_release(root)
            evaluate.report_support(ctx, host, release, params.support_ends, params.support_warn, now)
