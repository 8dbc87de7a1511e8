"""Check for some time whether the system is stable after a change: health, requests, rows and alerts.

Runbook: Emergency Rollback, step "System stable"; Planned Maintenance Window, Post-Maintenance Checklist

The health of all targets is checked in each interval, as by `health_check`; a check that failed once fails the job,
with when. By Prometheus, the error ratio and the latency of 95 % of the requests may not exceed an absolute limit, nor
1.2 times those from before. No named table may have fewer rows, and no critical alert may be new, silenced or not.
"Before" is a step of the same run with `baseline: true`, else the time of its rollback manifest for requests, else the
beginning of this check. What cannot be observed is unknown. Read-only.
"""

from datetime import datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from maintd.checks import stability
from maintd.checks.alerts.firing import AlertLimits
from maintd.checks.health import HealthScope
from maintd.checks.requirements.jobs.health import stability_check as requirements
from maintd.checks.rollback.manifest import HANDED as MANIFEST
from maintd.checks.stability import AlertHistory, Baseline, RequestLimits
from maintd.job import Context, Duration, JobParams, job

HANDED = "stability_baseline"
Table = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?$")]


class Params(JobParams):
    lasts: Duration = timedelta(minutes=10)
    """How long the system must be stable."""
    every: Duration = timedelta(seconds=30)
    """Time between two samples."""
    baseline: bool = False
    """Only record what is so now, for a later step of the same run."""
    health: HealthScope = HealthScope()
    """What is checked, as the params of `health_check`."""
    requests: RequestLimits | None = RequestLimits()
    """The metric of requests and its limits; null: do not check requests."""
    prometheus: str | None = None
    """Prometheus target with this metric; by default the only one, or `main`."""
    tables: dict[str, tuple[Table, ...]] = {}
    """By Postgres target, tables whose rows may not become fewer: `{main: [audit_events]}`."""
    alerts: AlertLimits = AlertLimits()
    """Which alerts are critical."""
    reserve: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the attempt's time that must be left after the samples."""

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if not timedelta(0) < self.every <= self.lasts:
            raise ValueError("every must be longer than nothing, and at most lasts")
        return self


@job(timeout="1h", repeatable=True, requires=requirements)
def run(ctx: Context, params: Params) -> None:
    """Take the baseline, watch, then compare."""
    if params.baseline:
        with ctx.phase("record what is so before"):
            before = stability.baseline(ctx, params.tables, params.alerts)
        ctx.hand_over(HANDED, before.model_dump(mode="json"))
        observed = f"rows of {len(before.rows)} tables, alerts of {len(before.alerts)} servers"
        ctx.passed("baseline", observed, expected="recorded")
        return
    hint = "raise the timeout of the step, or lower lasts"
    ctx.require("time for the check", ctx.remaining * (1 - params.reserve), at_least=params.lasts, hint=hint)
    before, changed_at = find_baseline(ctx, params)
    began_at = ctx.now()
    alerts = AlertHistory(before)
    with ctx.phase("watch the system"):
        for _ in stability.watch_health(ctx, params.health, params.lasts, params.every):
            alerts.sample(ctx, params.alerts)
    with ctx.phase("compare with before"):
        alerts.report(ctx)
        stability.report_rows(ctx, before, params.tables)
        if params.requests is not None:
            if ctx.targets.prometheus:
                name = params.prometheus or (
                    "main" if len(ctx.targets.prometheus) > 1 else next(iter(ctx.targets.prometheus))
                )
                stability.report_requests(ctx, name, params.requests, changed_at, began_at, ctx.now())
            else:
                cause, hint = "not_configured: no Prometheus", "set targets.prometheus"
                ctx.unknown("requests", cause, expected="as before", hint=hint, optional=True)


def find_baseline(ctx: Context, params: Params) -> tuple[Baseline, datetime]:
    """The baseline, and the end of the time before the change that requests are compared with."""
    handed: dict[str, Any] | None = ctx.handed(HANDED)
    if handed is not None:
        before = Baseline.model_validate(handed)
        ctx.log(f"compared with the baseline of {before.at:%Y-%m-%d %H:%M:%S} UTC")
        return before, before.at
    with ctx.phase("record what is so at the beginning"):
        before = stability.baseline(ctx, params.tables, params.alerts)
    made: dict[str, Any] | None = ctx.handed(MANIFEST)
    changed_at = datetime.fromisoformat(made["made_at"]) if made is not None else before.at
    ctx.log(f"no earlier step has a baseline: rows and alerts are compared with {before.at:%H:%M:%S} UTC")
    ctx.log(f"requests are compared with the time before {changed_at:%Y-%m-%d %H:%M:%S} UTC")
    return before, changed_at
