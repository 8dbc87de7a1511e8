"""Check the health of all configured targets at the same time.

Hosts: memory, swap, load, pressure, file systems, inodes. HTTP services: status and body. Postgres. Redis with the
consumer groups of its streams. The containers of a compose project, with open inspectors of Node. Prometheus with its
scrape targets and rules. Alertmanager. Read-only. A target that is down fails without affecting the others; one that
this process may not access is unknown; kinds of targets that are not configured are left out. In a container without
the host's root and /proc, the file systems are those of the container, named so, and the host's are unknown.

Runbook: Daily Maintenance, Morning Health Check, 1 System Health Verification and 3 Resource Utilization Check
"""

from maintd.checks import health
from maintd.checks.health import HealthScope
from maintd.checks.requirements.jobs.health import health_check as requirements
from maintd.job import Context, JobParams, job


class Params(HealthScope, JobParams):
    """Those of a health check."""


@job(timeout="10m", repeatable=True, history_of="job", requires=requirements)
def run(ctx: Context, params: Params) -> None:
    """Collect the facts of all targets at once, then report each target."""
    with ctx.phase("collect facts from all targets"):
        answers = health.collect(ctx, params)
    health.report(ctx, params, answers)
