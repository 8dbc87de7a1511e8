"""Keep halted and silenced what unfinished runs have halted and silenced, and end silences of runs that are over.

Runbook: Emergency Procedures, Planned Maintenance Window

For an entry of its own, each minute or more often: a run at a gate has no process that could watch. It knows the runs
that have not ended from the store. A service that is not halted any more, such as by a flag of the day after 00:00 UTC,
is halted again, also for a lost run that is held. A silence is renewed before it ends, and created again if it is
missing, for runs that have not ended; not for a held one, since then alerts are wanted.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from maintd.checks import halts
from maintd.checks.alerts import silencing
from maintd.checks.halts import SNAPSHOT_LIMIT, Switch, switch_to
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.windows import window_watch as requirements
from maintd.clients import alertmanager
from maintd.job import CheckStatus, Context, Duration, JobParams, Role, TargetError, job


class Params(JobParams):
    within: Duration = timedelta(seconds=5)
    """How long a service that is halted again may take until both sources show it."""
    created_by: str = "maintd"
    """Author of the silences of runs that are over, as in `alerts_silence`. Give each maintd a name of its own where
    several use one Alertmanager: the numbers of their runs are the same."""
    grace: Duration = timedelta(minutes=1)
    """A silence that is younger is not taken for one of a run that is over."""


@job(
    timeout="1m",
    mutates=True,
    repeatable=True,
    needs=("halts or alertmanager",),
    requires=requirements,
    reads_unfinished=True,
    watches=(halts.HANDED, silencing.HANDED),
)
def run(ctx: Context, params: Params) -> None:
    """Check each halt and silence that a run has recorded."""
    if ctx.unfinished is None:
        raise TargetError("which runs have not ended is not known", "run it by the daemon, with its store")
    ctx.check("unfinished runs with values", len(ctx.unfinished), at_least=0)
    for run_id, name, record in recorded(ctx, halts.HANDED):
        check = f"{name}: halted"
        with ctx.phase(f"watch {name}"), isolate_errors(ctx, check, expected="halted"):
            if record.get("state") in (halts.DONE, halts.LEFT):
                watch(ctx, params, Switch.of(ctx, name, f"halted again for run {run_id}"), check)
    held = {other.run_id for other in ctx.unfinished if other.held}
    for run_id, name, record in recorded(ctx, silencing.HANDED):
        if run_id not in held and record["state"] == silencing.SILENCED:
            with ctx.phase(f"renew the silence in {name}"), isolate_errors(ctx, f"{name}: silenced", role=Role.WORK):
                renew(ctx, name, record)
    for name, target in ctx.targets.alertmanager.items():
        with isolate_errors(ctx, f"{name}: silences of earlier runs"):
            silencing.end_left_behind(ctx, alertmanager.connect(target, name=name), params.created_by, params.grace)


def recorded(ctx: Context, value: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The records of all unfinished runs; of several for one target the first, which is in effect for all."""
    read = halts.records_in if value == halts.HANDED else silencing.records_in
    seen = set()
    for other in ctx.unfinished or ():
        for name, record in read(other.handed.get(value)).items():
            key = (name, record.get("state"), record.get("tag"))
            if key not in seen:
                seen.add(key)
                yield other.run_id, name, record


def watch(ctx: Context, params: Params, switch: Switch, check: str) -> None:
    """Halt a service again that is not halted any more. Raises TargetError when that is not known."""
    state = switch.state()
    if state.halted is None:
        raise state.error
    if state.halted:
        ctx.passed(check, halts.HALTED, expected="halted by both sources")
        return
    if ctx.unfinished_age > SNAPSHOT_LIMIT:  # the run may have unhalted it since
        ctx.unknown(check, "it was read too late", expected="halted", hint="the next run reads it again")
        return
    cause = switch_to(ctx, switch, halted=True, within=params.within, again=True)
    if ctx.dry_run:
        return
    if cause:
        ctx.fail(check, cause, expected="halted by both sources", hint="halt it by hand")
        return
    hint = "it was running: a flag that ended at midnight, or an operator who unhalted it"
    ctx.check(check, "halted again", equals=halts.HALTED, severity=CheckStatus.WARN, hint=hint)


def renew(ctx: Context, name: str, record: dict[str, Any]) -> None:
    """Renew a silence, or create it again. Raises TargetError."""
    server = alertmanager.connect(ctx.target("alertmanager", name), name=name)
    found = silencing.of_record(server, record)
    if silencing.is_due(found, record, ctx.now()) and ctx.unfinished_age <= SNAPSHOT_LIMIT:
        found = silencing.keep(ctx, server, record, "renewed")
    if found is None and not ctx.dry_run:
        ctx.unknown(f"{name}: silenced", "it was read too late", hint="the next run reads it again")
    elif found is not None:
        ctx.passed(f"{name}: silenced", f"until {found.ends_at:%H:%M:%S} UTC", expected="an active silence")
