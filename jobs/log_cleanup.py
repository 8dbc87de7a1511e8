"""Delete old rotated logs, and find logs that fill the disk without being rotated.

Runbook: Weekly Maintenance, System Cleanup, step 1 "Log Rotation and Cleanup"

Deletes regular files that have the name of a rotated log and are older than `keep`, by the date in the name or else by
their modification time. Never deletes the newest `floor` of a log or a file that a process has open, and never follows
links or enters another device. A plan that exceeds a limit deletes nothing; a dry run lists it. Old files that look
rotated and have no known name are kept and named. Rotation itself is left to logrotate:
forcing it shortens the history. Also checks for logs that are overdue for rotation or too large, deleted files that are
still open, and containers without a log limit.
"""

import re
from datetime import timedelta
from functools import partial
from pathlib import Path

from pydantic import Field

from maintd.checks.host.mounted import has_folder, not_mounted
from maintd.checks.logs import cleanup, rotation
from maintd.checks.logs.journal_size import JournalLimits, report_journal
from maintd.checks.logs.loki_retention import LokiLimits, report_retention
from maintd.checks.logs.rotation import Plan
from maintd.checks.probes import as_target_error, isolate_errors
from maintd.checks.requirements.jobs.cleanup import log_cleanup as requirements
from maintd.clients.files import ChangedError, Tree, disk_bytes, shown
from maintd.clients.open_files import OpenFiles
from maintd.clients.program_output import Pattern
from maintd.job import Context, Duration, JobParams, Role, Size, TargetError, job


class Params(JobParams):
    root: Path | None = None
    """Folder with the logs; default: those of the folder targets in `folders`."""
    folders: tuple[str, ...] = ("logs",)
    """Folder targets with the logs."""
    keep: Duration = timedelta(days=30)
    """Rotated logs older than this are deleted."""
    floor: int = Field(default=7, ge=1)
    """Number of rotated files of each log that are kept, however old they are."""
    names: tuple[Pattern, ...] = ()
    """Further names of rotated logs: regular expressions for the whole name, with groups `base`, `date`, `number`."""
    hold: tuple[str, ...] = ()
    """Patterns of files that are never deleted, by name or by path in the folder."""
    max_deletes: int = Field(default=500, ge=1)
    """Nothing is deleted when it would be more files than this."""
    max_bytes: Size = 20 * 2**30
    """Nothing is deleted when it would be more bytes than this."""
    max_share: float = Field(default=0.5, gt=0, le=1)
    """Nothing is deleted when it would be a larger share of the folder than this."""
    max_active: Size = 2**30
    """A current log, or a container's, that is larger than this warns."""
    rotation: Duration | None = timedelta(days=1)
    """How often logrotate rotates these logs; 1.5 times that without a rotation warns. null: logrotate is not used."""
    max_held: Size = 2**30
    """Deleted files that processes hold open warn when they are larger than this in total."""
    journal: JournalLimits = JournalLimits()
    """What the host's journal may take; by default nothing of it is deleted."""
    loki: str | None = None
    """HTTP target of Loki, whose retention is checked; Loki itself deletes."""
    loki_limits: LokiLimits = LokiLimits()
    """How long Loki keeps logs."""
    host: str = "local"
    """Host target with the logs."""


@job(timeout="1h", mutates=True, repeatable=True, locks={"logs": "exclusive"}, requires=requirements)
def run(ctx: Context, params: Params) -> None:
    if params.root is None and "folders" not in params.model_fields_set and "logs" not in ctx.targets.folders:
        hint = "set targets.folders.logs in the calendar, or the param root"
        raise TargetError('no folder "logs" is configured', hint, cause="not_configured")
    roots = {"": params.root} if params.root else {name: ctx.target("folders", name).path for name in params.folders}
    host = ctx.target("host", params.host)
    host_root = host.root if has_folder(host, "var/lib/logrotate") else None
    if not ctx.dry_run:  # a dry run also lists a plan that exceeds the limits
        ctx.limit("delete", params.max_deletes * len(roots))
    with ctx.phase("find files held open"):
        held = cleanup.collect_open_files(ctx, params.host, host, params.max_held)
    for name, root in roots.items():
        subject = name or shown(root)
        try:
            with as_target_error(f"{subject}: cleaned"), Tree(root) as tree:
                clean(ctx, params, tree, subject, held, host_root)
        except TargetError as error:
            ctx.report_error(f"{subject}: cleaned", error, role=Role.WORK)
    with ctx.phase("check the journal"), isolate_errors(ctx, f"{params.host}: journal"):
        if params.journal.path is None and not has_folder(host, "var/log/journal"):
            unseen = not_mounted("its journal")
            cause, hint = f"{unseen.cause}: {unseen.message}", unseen.hint or ""
            ctx.unknown(f"{params.host}: journal", cause, expected="readable", hint=hint, optional=True)
        else:
            report_journal(ctx, params.host, host.root, params.journal)
    if params.loki:
        with ctx.phase("check the retention of Loki"), isolate_errors(ctx, f"loki {params.loki}: retention"):
            report_retention(ctx, params.loki, ctx.target("http", params.loki), params.loki_limits)
    for name, target in ctx.targets.docker.items():
        with ctx.phase(f"{name}: check container logs"), isolate_errors(ctx, f"{name}: container logs"):
            cleanup.report_container_logs(ctx, name, target, host.root, params.max_active)


def clean(
    ctx: Context, params: Params, tree: Tree, subject: str, held: OpenFiles | None, host_root: Path | None
) -> None:
    """Plan and execute the deletions in one folder; delete nothing when the plan exceeds a limit."""
    with ctx.phase(f"{subject}: find rotated logs"):
        entries = list(tree.walk())
        names = [re.compile(pattern, re.DOTALL) for pattern in (*params.names, *rotation.NAMES)]
        rotated = [one for entry in entries if (one := rotation.parse_rotated(entry, names)) is not None]
        protected = partial(cleanup.protection, hold=params.hold, held=held)
        plan = rotation.plan(rotated, ctx.now(), params.keep, params.floor, protected)
        total = disk_bytes(entries)
        active = cleanup.active_logs(entries, rotated)
        cleanup.report_folder(ctx, subject, tree, active, params.max_active)
        cleanup.report_names(ctx, subject, entries, rotated, ctx.now() - params.keep, protected)
        if params.rotation:
            cleanup.report_rotation(ctx, subject, tree.root, active, params.rotation, host_root)
    for one, reason in plan.kept[:50]:
        ctx.log(f"{subject}: {shown(one.entry.relative)} is kept: {reason}")
    freed = 0
    within = cleanup.within_limits(
        ctx,
        subject,
        plan,
        total,
        max_deletes=params.max_deletes,
        max_bytes=params.max_bytes,
        max_share=params.max_share,
    )
    if within or ctx.dry_run:
        with ctx.phase(f"{subject}: delete {len(plan.delete)} rotated logs"):
            freed = delete(ctx, tree, subject, plan)
    ctx.measure("logs_bytes", total - freed, "B", dir=subject)
    ctx.measure("logs_deleted_bytes", freed, "B", dir=subject)
    if plan.oldest_at:
        ctx.measure("log_file_oldest_age_days", (ctx.now() - plan.oldest_at) / timedelta(days=1), "day", dir=subject)


def delete(ctx: Context, tree: Tree, subject: str, plan: Plan) -> int:
    """Delete the planned files that have not changed since; return the freed bytes."""
    freed, failed, changed = 0, list[str](), list[str]()
    for one in ctx.track(plan.delete, unit="file"):
        path = shown(tree.root.joinpath(*one.entry.parts))
        with ctx.change("delete", path, bytes=one.entry.disk_bytes, dated=f"{one.at:%Y-%m-%d}") as allowed:
            if not allowed:
                continue
            try:
                tree.remove(one.entry)
                freed += one.entry.disk_bytes
            except (ChangedError, FileNotFoundError) as error:
                gone = isinstance(error, FileNotFoundError)
                cause = "it no longer exists" if gone else "kept: it has changed since it was planned for deletion"
                allowed.refused(cause)
                changed.append(f"{path}: {cause}")
            except OSError as error:
                allowed.failed(error.strerror or str(error))
                failed.append(f"{path}: {error.strerror}")
    hint = f"grant write access to its folder: {'; '.join(failed[:3])}" if failed else ""
    ctx.check(f"{subject}: files that could not be deleted", len(failed), at_most=0, hint=hint)
    hint = f"the next run checks them again: {'; '.join(changed[:3])}" if changed else ""
    ctx.check(f"{subject}: files that changed since the plan", len(changed), warn_above=0, hint=hint)
    return freed
