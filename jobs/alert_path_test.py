"""Send a test alert to Alertmanager, which must arrive at a webhook of this job in time, and be gone afterwards.

Runbook: Quarterly Maintenance, Infrastructure Review, 4 Disaster Recovery Testing

The alert has a label of its own, so that it can be routed to this job and nowhere else. Its notification must arrive
within `group_wait` and a margin; then the alert is ended: it must be gone from Alertmanager, and the notification of
its end must arrive within `group_interval` and the margin. Without a route to a webhook it is unknown whether alerts
flow; the hint has the configuration. Whether Prometheus reaches Alertmanager is a check of `alert_review`.
"""

from datetime import timedelta
from typing import Any

from maintd.checks.alerts import flow
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.health import alert_path_test as requirements
from maintd.clients import alertmanager
from maintd.job import Context, Duration, JobParams, TargetError, job


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Alertmanager targets; all by default."""
    listen: str | None = None
    """`HOST:PORT` that the webhook listens on while it waits: `0.0.0.0:9099` in a container whose port only
    Alertmanager reaches. Without it the job is not configured."""
    margin: Duration = timedelta(seconds=60)
    """How much longer than `group_wait`, and then `group_interval`, a notification may take."""


@job(timeout="20m", mutates=True, repeatable=True, needs=("alertmanager",), requires=requirements)
def run(ctx: Context, params: Params) -> None:
    """Test one Alertmanager after the other: they send to the same webhook."""
    if params.listen is None:
        hint = f"set the param listen, for example 0.0.0.0:9099, and {flow.ROUTE_WITH_END}"
        raise TargetError("no address to listen on is configured", hint, cause="not_configured")
    chosen: dict[str, Any] = dict(ctx.chosen("alertmanager", params.targets))
    for name, target in chosen.items():
        check = f"{name}: alerts flow"
        with ctx.phase(f"send a test alert to {name}"), isolate_errors(ctx, check, expected="a notification"):
            flow.prove(ctx, alertmanager.connect(target, name=name), params.listen, params.margin, end=True)
