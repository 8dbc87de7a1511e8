"""Rehearse a rollback of images on scratch copies of the services, and measure how long it takes.

Runbook: Emergency Procedures, Emergency Rollback; Planned Maintenance Window, Pre-Maintenance Checklist

Of each container in the newest rollback manifest a copy is started on a private network without a way out: under a
name and in a project of its own, without ports, with empty folders in memory where the original has volumes. Then the
code of `services_recreate` replaces each copy by one from the manifest's image, in the same order and behind the same
health gate. The time of that, and of the restore of the newest backup by the step `restore_drill` before it, is the
proven time of a rollback, with which the window's `rollback_by` is compared. The originals are only read. All that a
rehearsal makes has the label `maintd.rehearsal`; it is removed at the end, or by the next rehearsal.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from pydantic import Field

from maintd.checks.hints import command
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.windows import rehearsal as requirements
from maintd.checks.restore.objectives import RESTORED, time_criteria
from maintd.checks.services import rehearsal
from maintd.checks.services.containers import ServiceContainer, of_project
from maintd.checks.services.gate import GateLimits
from maintd.checks.services.recreate import RecreateScope, Wanted, images_wanted
from maintd.checks.services.rollout import OwnPlace, Rollout, begin_rollout
from maintd.job import CheckStatus, Context, Duration, JobParams, Role, TargetError, job

RTO = "rehearsal_rto_seconds"


class Params(JobParams):
    manifest: str = "rollback"
    """Folder target with rollback manifests; the newest is rehearsed."""
    docker: str | None = None
    """Name of the Docker target; by default the only one, or `main`."""
    skip: tuple[str, ...] = ()
    """Services without a rehearsal, such as those that do not start without the world outside."""
    only_running: tuple[str, ...] = ()
    """Services without a health check, of which it is enough that they run."""
    gate: GateLimits = GateLimits()
    """When a copy counts as healthy."""
    rto: Duration = timedelta(hours=1)
    """Goal of the recovery time: a rollback that takes longer fails."""
    max_slowdown: float = Field(default=2.0, gt=1)
    """A recovery time above this many times the median of former rehearsals warns."""
    calendar: OwnPlace = OwnPlace()
    """Set by maintd: where its store is."""


@job(
    timeout="1h",
    mutates=True,
    locks={"docker": "exclusive", "rehearsal": "exclusive"},
    needs=("docker",),
    requires=requirements,
    reads_calendar=True,
)
def run(ctx: Context, params: Params) -> None:
    """Remove what an earlier rehearsal left, copy the services, roll the copies back, and remove them."""
    if params.manifest not in ctx.targets.folders:
        hint = f"set targets.folders.{params.manifest} in the calendar to the folder of rollback_manifest"
        raise TargetError(f'no folder "{params.manifest}" is configured', hint, cause="not_configured")
    scope = RecreateScope(
        docker=params.docker,
        skip=params.skip,
        only_running=params.only_running,
        gate=params.gate,
        manifest=params.manifest,
    )
    with begin_rollout(ctx, scope, "rehearsed") as production:
        project = production.target.project or ""
        remove_all(ctx, production, project, "left by an earlier rehearsal")
        wanted = images_wanted(ctx, scope, production)
        originals = choose(ctx, params, production, wanted)
        seconds = None
        tag = f"{ctx.run_id}-{secrets.token_hex(4)}"
        with removed_at_the_end(ctx, production, project):
            if make_copies(ctx, production, originals, wanted, project, tag):
                seconds = roll_back(ctx, production, originals, wanted, tag)
        if seconds is not None:
            report_time(ctx, params, seconds)


def choose(ctx: Context, params: Params, production: Rollout, wanted: Wanted) -> list[ServiceContainer]:
    """The containers to copy, in the order of a rollback. What cannot be copied is unknown."""
    engine = production.engine
    named = [item for item in production.containers if item.name in wanted]
    gone = sorted(wanted.keys() - {item.name for item in named})
    hint = f"record what runs now with rollback_manifest: {', '.join(gone)}" if gone else ""
    ctx.check(f"{engine.name}: containers that no longer exist", len(gone), at_most=0, hint=hint)
    found = []
    for item in production.without_protected(named, params.calendar.store, ()):
        reason = rehearsal.why_not(item)
        if reason:
            hint = f"its rollback is not rehearsed: add {item.service} to skip when that is known"
            ctx.unknown(f"{item.label}: rehearsed", f"left out: {reason}", expected="rehearsed", hint=hint)
        else:
            found.append(item)
    ctx.require(f"{engine.name}: services to rehearse", len(found), at_least=1, hint="name fewer in skip")
    return production.ordered(found)


def make_copies(
    ctx: Context, production: Rollout, originals: list[ServiceContainer], wanted: Wanted, project: str, tag: str
) -> bool:
    """Create the network and start the copies; whether that was done, and not only planned. Raises TargetError."""
    engine = production.engine
    with ctx.change("create network", f"{engine.name}: {rehearsal.scratch_project(tag)}") as allowed:
        if allowed:
            rehearsal.create_network(engine, project, tag)
    for item in ctx.track(originals, unit="container"):
        name = rehearsal.name_of(item, tag)
        with (
            ctx.phase(f"{engine.name}: copy {item.label}"),
            ctx.change("create container", f"{engine.name}: {name}", original=item.name) as allowed,
        ):
            if allowed:
                allowed.observed(id=rehearsal.create_copy(engine, item, project, tag, [wanted[item.name][1]]))
    return not ctx.dry_run


def roll_back(
    ctx: Context, production: Rollout, originals: list[ServiceContainer], wanted: Wanted, tag: str
) -> timedelta | None:
    """Replace each copy as a rollback replaces the originals; the time of that, None when it failed."""
    images = {rehearsal.name_of(item, tag): wanted[item.name] for item in originals}
    target = production.target.model_copy(update={"project": rehearsal.scratch_project(tag)})
    copies = Rollout(ctx, production.engine, target, production.scope, http_targets=False)
    began = time.monotonic()
    work = copies.ordered(of_project(copies.read(), target.project))
    copies.one_by_one(work, lambda item: copies.recreate(item, *images[item.name]), "rolled back")
    copies.report_all()
    return timedelta(seconds=time.monotonic() - began) if len(copies.done) == len(originals) else None


def report_time(ctx: Context, params: Params, seconds: timedelta) -> None:
    """Report the time of the whole: of the images, and of the restore that an earlier step has proven."""
    ctx.measure("rehearsal_phase_seconds", seconds.total_seconds(), "s", phase="images")
    restored: dict[str, Any] | None = ctx.handed(RESTORED)
    taken, state = seconds, ctx.outcome_of("restore_drill")
    if restored is not None:
        part = timedelta(seconds=float(restored["seconds"]))
        ctx.measure("rehearsal_phase_seconds", part.total_seconds(), "s", phase="restore")
        ctx.passed("restore of the newest backup", f"{restored['source']}", expected="restored and proven")
        taken += part
    else:
        known = state not in (None, "skipped")
        cause = f"the step restore_drill {state}" if known else "not_configured: no step restored a backup"
        hint = "see its checks" if known else "set targets.folders.backup_sets, and put the step restore_drill before"
        ctx.unknown("restore of the newest backup", cause, hint=hint, optional=not known)
    ctx.report(time_criteria(taken, params.rto, [point.value for point in ctx.series(RTO)], params.max_slowdown))
    if ctx.worst in (CheckStatus.OK, CheckStatus.WARN):
        ctx.measure(RTO, taken.total_seconds(), "s")
        ctx.measure("rehearsal_last_success_timestamp", ctx.now().timestamp(), "s")


@contextmanager
def removed_at_the_end(ctx: Context, production: Rollout, project: str) -> Iterator[None]:
    """Remove all that the block has made, whatever becomes of it."""
    try:
        yield
    finally:
        with isolate_errors(ctx, f"{production.engine.name}: copies removed", expected="removed", role=Role.WORK):
            remove_all(ctx, production, project, "of this rehearsal")


def remove_all(ctx: Context, production: Rollout, project: str, why: str) -> None:
    """Remove all copies and networks of rehearsals of this project. Raises TargetError."""
    engine = production.engine
    containers, networks = rehearsal.left_over(engine, project)
    for item in containers:
        with ctx.change("remove container", f"{engine.name}: {item.name}", why=why) as allowed:
            if allowed:
                rehearsal.remove_container(engine, item)
    for name in networks:
        with ctx.change("remove network", f"{engine.name}: {name}", why=why) as allowed:
            if allowed:
                rehearsal.remove_network(engine, name)
    if not ctx.dry_run:
        containers, networks = rehearsal.left_over(engine, project)
        left = len(containers) + len(networks)
        hint = f"remove them by hand: {command('docker', 'ps', '-a', '--filter', f'label={rehearsal.LABEL}')}"
        ctx.check(f"{engine.name}: {why}, still there", left, at_most=0, hint=hint if left else "")
