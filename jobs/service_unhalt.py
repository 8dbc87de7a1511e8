"""Unhalt the services that this run halted, if the steps that verify them succeeded.

Runbook: Emergency Procedures, Planned Maintenance Window, step "Resume trading"

What was halted before the run stays halted, and so does a service that no step has verified, whose state is not known,
or which another run needs halted. As an undo step it unhalts also when nothing was changed yet, by `unchanged_before`.
Run it in the entry that halted: only there it knows what the run did. Values are taken over by a resume and an undo.
"""

import time
from datetime import timedelta
from typing import Any

from pydantic import Field

from maintd.checks import halts
from maintd.checks.halts import Records, Switch, records_in, switch_to
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.windows import service_halt as requirements
from maintd.job import CheckStatus, Context, Duration, JobParams, Role, job


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of halt targets; all by default. Those that this run did not halt are left as they are."""
    verified_by: tuple[str, ...] = Field(min_length=1)
    """Steps of this run, each of which must have succeeded or warned: [stability_check]."""
    unchanged_before: tuple[str, ...] = ()
    """Steps before which nothing is changed: when none of them was started, no verification is needed."""
    reason: str = Field(default="maintenance is over", max_length=200)
    """The reason that is sent, after the number of the run: `{reason}` in the target."""
    pause: Duration = timedelta(seconds=15)
    """Wait so long after it is recorded that the service may run again: a `window_watch` under way halts it until then.
    `0s` only where there is none."""
    within: Duration = timedelta(seconds=30)
    """How long a service may take until both sources show it as running."""


@job(
    timeout="5m",
    mutates=True,
    repeatable=True,
    locks={"halts": "exclusive"},
    needs=("halts",),
    requires=requirements,
    reads_unfinished=True,
)
def run(ctx: Context, params: Params) -> None:
    """Record which services may run again, wait once for a watch under way, then unhalt each of them."""
    known = Records(ctx)
    free: list[Switch] = []
    for name in ctx.chosen("halts", params.targets):
        check = check_of(name)
        with ctx.phase(f"examine {name}"), isolate_errors(ctx, check, expected="running", role=Role.WORK):
            switch = Switch.of(ctx, name, params.reason)
            if may_run(ctx, params, known, switch, check):
                free.append(switch)
    if free and not ctx.dry_run:
        time.sleep(min(params.pause, ctx.remaining / 2).total_seconds())
    for switch in free:
        check = check_of(switch.name)
        with ctx.phase(f"unhalt {switch.name}"), isolate_errors(ctx, check, expected="running", role=Role.WORK):
            unhalt(ctx, params, known, switch, check)


def check_of(name: str) -> str:
    """The name of the check of a service."""
    return f"{name}: unhalted"


def may_run(ctx: Context, params: Params, known: Records, switch: Switch, check: str) -> bool:
    """Whether a service is to be unhalted, recorded before it is. Raises TargetError when its state is not known."""
    name, record = switch.name, known.get(switch.name)
    before = switch.state()
    if record is None or record.get("was") != halts.RUNNING:
        why = "this run did not halt it" if record is None else "it was halted before this run"
        ctx.log(f"{name}: is left as it is ({before.text}): {why}")
        hint = f"{why}: find out what halted it, and why, and unhalt it by hand"
        ctx.check(f"{name}: left as it was", before.text, equals=halts.RUNNING, severity=CheckStatus.WARN, hint=hint)
        return False
    if before.halted is None:
        raise before.error
    if not before.halted:
        ours = record.get("state") in (halts.HALTING, halts.UNHALTING, halts.UNHALTED)
        if ours:  # it was not halted any more, or not yet, when a step was interrupted
            ctx.passed(check, halts.RUNNING, expected="running by both sources")
        else:
            hint = "it was unhalted by another client, or by the end of its day, while work was done on it"
            ctx.check(check, "running already", equals=halts.RUNNING, severity=CheckStatus.WARN, hint=hint)
        if record.get("state") != halts.UNHALTED:
            known.set(name, state=halts.UNHALTED)
        return False
    why = not_verified(ctx, params, record) or needed_by_others(ctx, name)
    if why:
        hint = "verify it, and unhalt it by hand, or resume the run; a flag of the day ends at midnight by itself"
        ctx.fail(check, f"stays halted: {why}", expected="running, after its verification", hint=hint)
        return False
    known.set(name, state=halts.UNHALTING)
    return True


def unhalt(ctx: Context, params: Params, known: Records, switch: Switch, check: str) -> None:
    """Unhalt one service."""
    name = switch.name
    cause = switch_to(ctx, switch, halted=False, within=params.within)
    if ctx.dry_run:
        return
    if cause:
        known.set(name, state=halts.DONE)
        hint = "check the service and its log; unhalt it by hand when it is well"
        ctx.fail(check, cause, expected="running by both sources", hint=hint)
        return
    known.set(name, state=halts.UNHALTED)
    ctx.passed(check, halts.RUNNING, expected="running by both sources")


def not_verified(ctx: Context, params: Params, record: dict[str, Any]) -> str:
    """Why the service must not run again yet; empty if it may."""
    outcomes = {step: ctx.outcome_of(step) for step in params.verified_by}
    bad = [f'"{step}" {state or "has not run"}' for step, state in outcomes.items() if not is_success(state)]
    if not bad:
        return ""
    # A run that resumes another does not know which steps the other one had started.
    if params.unchanged_before and record.get("run") in (ctx.run_id, ctx.undoes_run):
        started = [step for step in params.unchanged_before if ctx.outcome_of(step) != "skipped"]
        if not started:
            return ""
        bad.append(f'"{started[0]}" may have changed something')
    return "; ".join(bad)


def is_success(state: str | None) -> bool:
    """Whether a step has verified the service. Unknown is no success."""
    return state in ("succeeded", "warned")


def needed_by_others(ctx: Context, name: str) -> str:
    """Which other run needs the service halted; empty without one."""
    for other in ctx.unfinished or ():
        if other.run_id in (ctx.run_id, ctx.undoes_run):
            continue
        state = records_in(other.handed.get(halts.HANDED)).get(name, {}).get("state")
        if state in (halts.HALTING, halts.DONE, halts.LEFT):
            return f"run {other.run_id} ({other.entry}) has not ended and needs it halted"
    return ""
