"""Restart the services of a stack one at a time, each drained before and behind a health gate.

Runbook: Planned Maintenance Window, Maintenance Steps; Emergency Rollback

Each service comes after those that it depends on, and what writes to volumes comes last. A service is restarted by the
engine, or by a configured program; then its container's health check and its HTTP target must be healthy within a time,
or the job stops, and the services after it stay as they are. At the end the restarted services, and those that depend
on them, are checked once more. maintd's own container is never stopped, nor what it needs: its store, and the proxy
before the engine. What an interrupted `services_recreate` has left is reported, and such a service is not touched.
"""

from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.of_jobs import services_restart as requirements
from maintd.checks.services.containers import ServiceContainer, chosen
from maintd.checks.services.rollout import NotHealthyError, OwnPlace, Rollout, RolloutScope
from maintd.clients.docker import connect
from maintd.job import Context, JobParams, Role, job


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
    target = ctx.target("docker", params.docker)
    name = next(name for name, found in ctx.targets.docker.items() if found == target)
    with (
        isolate_errors(ctx, f"{name}: services restarted", expected="restarted", role=Role.WORK),
        connect(target, name=name) as engine,
    ):
        rollout = Rollout(ctx, engine, target, params)
        with ctx.phase(f"{name}: list the containers"):
            found = chosen(rollout.read(), target, params.services, params.skip)
        left_over = rollout.interrupted()
        for item in left_over:
            hint = "run: maintd trigger services_recreate -p back=true"
            ctx.fail(f"{item.label}: replacement that was interrupted", "not ended", expected="none", hint=hint)
        names = {item.name for item in left_over}
        free = rollout.without_protected(found, params.calendar.store, params.services)
        work = [item for item in free if not item.aside and item.name not in names]
        if params.stopped:
            work = [item for item in work if item.state.state not in ("running", "restarting", "paused")]
        ctx.check(f"{name}: services to restart", len(work), at_least=0 if params.stopped else 1, hint="name some")
        restart_all(ctx, params, rollout, rollout.ordered(work))
        rollout.report_all()


def restart_all(ctx: Context, params: Params, rollout: Rollout, work: list[ServiceContainer]) -> None:
    """Restart one after the other; after a failure the rest stays as it is, and is named."""
    for place, item in enumerate(ctx.track(work, unit="container")):
        try:
            rollout.start(item) if params.stopped else rollout.restart(item, params.compose)
        except NotHealthyError:
            rest = ", ".join(other.label for other in work[place + 1 :])
            if rest:
                hint = f"find out why {item.label} failed, then run this job for them"
                ctx.fail("services after it", f"left as they are: {rest}", expected="restarted", hint=hint)
            return
