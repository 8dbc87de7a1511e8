"""Halt services over HTTP before work on them, and see from a second source that they are halted.

Runbook: Emergency Procedures, Planned Maintenance Window, step "Halt trading"

Reads the state first, which initialises the day of a service that needs it, and hands over what the service was before,
so that `service_unhalt` knows. A service that was halted before is left halted. The state is read again after the
request, whatever was answered. Run again as a later step, it halts again what is not halted any more, such as by a flag
of the day that has ended. At gates and beside long steps the job `window_watch` does that, in an entry of its own.
"""

from datetime import timedelta

from pydantic import Field

from maintd.checks import halts
from maintd.checks.halts import Records, Switch, switch_to
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.windows import service_halt as requirements
from maintd.job import Context, Duration, JobParams, Role, job


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of halt targets; all by default."""
    reason: str = Field(default="maintenance", max_length=200)
    """The reason that is sent, after the number of the run: `{reason}` in the target."""
    within: Duration = timedelta(seconds=30)
    """How long a service may take until both sources show it as halted."""


@job(
    timeout="5m",
    mutates=True,
    repeatable=True,
    locks={"halts": "exclusive"},
    needs=("halts",),
    requires=requirements,
)
def run(ctx: Context, params: Params) -> None:
    """Halt each service, and record before that what it was."""
    known = Records(ctx)
    for name in ctx.chosen("halts", params.targets):
        check = f"{name}: halted"
        with ctx.phase(f"halt {name}"), isolate_errors(ctx, check, expected="halted", role=Role.WORK):
            halt(ctx, params, known, Switch.of(ctx, name, params.reason), check)


def halt(ctx: Context, params: Params, known: Records, switch: Switch, check: str) -> None:
    """Halt one service, unless it is halted. Raises TargetError when its state is not known: then nothing is done."""
    name, record = switch.name, known.get(switch.name)
    before = switch.state()
    if before.halted is None:
        raise before.error
    if before.halted:
        if record is None:
            known.set(name, was=halts.HALTED, state=halts.LEFT, run=ctx.run_id)
            ctx.log(f"{name}: was halted before, and is left halted afterwards")
        elif record.get("state") == halts.HALTING:  # by an attempt that was interrupted
            known.set(name, state=halts.DONE)
        ctx.passed(check, halts.HALTED, expected="halted by both sources")
        return
    if record is None:
        known.set(name, was=halts.RUNNING, state=halts.HALTING, run=ctx.run_id)
    elif record.get("state") in (halts.UNHALTING, halts.UNHALTED):
        known.set(name, state=halts.HALTING)
    cause = switch_to(ctx, switch, halted=True, within=params.within, again=record is not None)
    if ctx.dry_run:
        return
    if cause:
        hint = "halt it by hand; do not begin to work on it before both sources show it as halted"
        ctx.fail(check, cause, expected="halted by both sources", hint=hint)
        return
    left = record is not None and record.get("was") == halts.HALTED
    known.set(name, state=halts.LEFT if left else halts.DONE)
    ctx.passed(check, halts.HALTED, expected="halted by both sources")
