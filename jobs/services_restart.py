"""Restart the services of a stack one at a time, each drained before and behind a health gate.

Runbook: Planned Maintenance Window, Maintenance Steps; Emergency Rollback

Each service comes after those that it depends on, and what writes to volumes comes last. A service is restarted by the
engine, or by a configured program; then its container's health check and its HTTP target must be healthy within a time,
or the job stops, and the services after it stay as they are. At the end the restarted services, and those that depend
on them, are checked once more. maintd's own container is never stopped, nor what it needs: its store, and the proxy
before the engine. What an interrupted `services_recreate` has left is reported, and such a service is not touched.
"""

from functools import partial

from maintd.checks.requirements.jobs.windows import services_restart as requirements
from maintd.checks.services.containers import chosen
from maintd.checks.services.rollout import OwnPlace, RolloutScope, begin_rollout
from maintd.job import Context, JobParams, job


class Params(RolloutScope, JobParams):
    """Those of a restart."""

    stopped: bool = False
    """Only start what does not run. As the undo of a restart that was interrupted."""
    calendar: OwnPlace = OwnPlace()
    """Set by maintd: where its store is."""


@job(
    timeout="1h",
    mutates=True,
    locks={"docker": "exclusive", "stack": "exclusive"},
    needs=("docker",),
    requires=requirements,
    reads_calendar=True,
    admin_params=True,  # they name a program to run
)
def run(ctx: Context, params: Params) -> None:
    """Choose and order the services, then restart one after the other."""
    with begin_rollout(ctx, params, "restarted") as rollout:
        name = rollout.engine.name
        services = chosen(rollout.containers, rollout.target, params.services, params.skip)
        left_over = rollout.interrupted()
        for item in left_over:
            hint = "run: maintd trigger services_recreate -p back=true"
            ctx.fail(f"{item.label}: replacement that was interrupted", "not ended", expected="none", hint=hint)
        names = {item.name for item in left_over}
        free = rollout.without_protected(services, params.calendar.store, params.services)
        work = [item for item in free if not item.aside and item.name not in names]
        if params.stopped:
            work = [item for item in work if item.state.state not in ("running", "restarting", "paused")]
        ctx.check(f"{name}: services to restart", len(work), at_least=0 if params.stopped else 1, hint="name some")
        act = rollout.start if params.stopped else partial(rollout.restart, argv=params.compose)
        rollout.one_by_one(rollout.ordered(work), act, "restarted")
        rollout.report_all()
