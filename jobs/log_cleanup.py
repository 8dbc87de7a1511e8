"""Delete rotated logs that are old, and find what fills the disk without ever being rotated.

Runbook: Weekly Maintenance, System Cleanup, step 1 "Log Rotation and Cleanup"

Deletes regular files whose name is that of a rotated log and which are older than `keep`, by the day in the name or
else by their time; never the newest `floor` of a log, never what somebody holds open, never through a link or on
another device. A plan that is larger than its limits deletes nothing. Rotation itself is left to logrotate: forcing it
shortens the history. Also reports logs that are overdue for rotation or too large, deleted files that are still held
open, and containers whose log has no limit.
"""

import re
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from maintd.checks.docker.container_logs import container_logs
from maintd.checks.logs import rotation as logs
from maintd.checks.logs.rotation import Plan
from maintd.clients import docker
from maintd.clients.files import ChangedError, Entry, Tree, disk_bytes, shown
from maintd.clients.open_files import OpenFiles, open_files
from maintd.clients.program_output import Pattern
from maintd.job import CheckStatus, Context, Duration, JobParams, Size, TargetError, format_size, job


class Params(JobParams):
    root: Path | None = None
    """The folder with the logs; by default those of the folder targets in `folders`."""
    folders: tuple[str, ...] = ("logs",)
    """Names of folder targets."""
    keep: Duration = timedelta(days=30)
    """How old a rotated log may grow."""
    floor: int = Field(default=7, ge=1)
    """How many of each log are kept, however old they are."""
    names: tuple[Pattern, ...] = ()
    """Further names of rotated logs: regular expressions over the whole name, with groups `base`, `date`, `number`."""
    hold: tuple[str, ...] = ()
    """Patterns of files, by name or path in the folder, that are never deleted."""
    max_deletes: int = Field(default=500, ge=1)
    """When more files than this are to be deleted, none is."""
    max_bytes: Size = 20 * 2**30
    """When more than this is to be deleted, nothing is."""
    max_share: float = Field(default=0.5, gt=0, le=1)
    """When more than this share of what the folder holds is to be deleted, nothing is."""
    max_active: Size = 2**30
    """A log that is written to and larger than this warns; so does a container's."""
    rotation: Duration | None = timedelta(days=1)
    """How often logrotate rotates these logs; one that is later by half of that warns. null: not by logrotate."""
    max_held: Size = 2**30
    """Deleted files that processes hold open warn when they take more than this together."""
    host: str = "local"
    """The host target on which the logs are."""


@job(timeout="1h", mutates=True, repeatable=True, locks={"logs": "exclusive"})
def run(ctx: Context, params: Params) -> None:
    """Each folder, then what holds space on the host and in the engine."""
    roots = {"": params.root} if params.root else {name: ctx.target("folders", name).path for name in params.folders}
    host = ctx.target("host", params.host)
    ctx.limit("delete", params.max_deletes * len(roots))
    with ctx.phase("look for files that are held open"):
        held = held_open(ctx, params, host.proc)
    for name, root in roots.items():
        subject = name or shown(root)
        try:
            with Tree(root) as tree:
                clean(ctx, params, tree, subject, held, host.root)
        except TargetError as error:
            ctx.report_error(f"{subject}: cleaned", error, not_observed=frozenset())
    for name, target in ctx.targets.docker.items():
        with ctx.phase(f"{name}: look for container logs without a limit"):
            containers(ctx, params, name, target, host.root)


def held_open(ctx: Context, params: Params, proc: Path) -> OpenFiles | None:
    """What is held open; None when that cannot be seen."""
    check = f"{params.host}: deleted files held open"
    try:
        found = open_files(proc)
    except TargetError as error:
        ctx.report_error(check, error)
        return None
    total = sum(one.size_bytes for one in found.deleted)
    ctx.measure("logs_held_deleted_bytes", total, "B", host=params.host)
    most = "; ".join(f"{one.holder}: {shown(one.path)}, {format_size(one.size_bytes)}" for one in found.deleted[:3])
    hint = f"restart it, or let it open its log anew: {most}" if most else ""
    ctx.check(check, total, warn_above=params.max_held, unit="B", hint=hint)
    if found.denied:
        ctx.unknown(
            f"{params.host}: files held open",
            f"{found.denied} of {found.processes} processes may not be seen",
            hint="run as root or with CAP_SYS_PTRACE; a rotated log that they hold may be deleted",
        )
    return found


def clean(ctx: Context, params: Params, tree: Tree, subject: str, held: OpenFiles | None, host_root: Path) -> None:
    """Look, plan, delete what the plan says, and nothing when it says too much."""
    with ctx.phase(f"{subject}: look for rotated logs"):
        entries = list(tree.walk())
        names = [re.compile(pattern, re.DOTALL) for pattern in (*logs.NAMES, *params.names)]
        found = [one for entry in entries if (one := logs.rotated(entry, names)) is not None]
        plan = logs.plan(found, ctx.now(), params.keep, params.floor, partial(spared, params, held))
        total = disk_bytes(entries)
        active = active_logs(entries, found)
        look(ctx, params, tree, subject, active)
        if params.rotation:
            rotation(ctx, params.rotation, tree.root, subject, active, host_root)
    for one, reason in plan.left[:50]:
        ctx.log(f"{subject}: {shown(one.entry.relative)} is left: {reason}")
    freed = 0
    if within_limits(ctx, params, subject, plan, total):
        with ctx.phase(f"{subject}: delete {len(plan.delete)} rotated logs"):
            freed = delete(ctx, tree, subject, plan)
    ctx.measure("logs_bytes", total - freed, "B", dir=subject)
    ctx.measure("logs_deleted_bytes", freed, "B", dir=subject)
    if plan.oldest_at:
        ctx.measure("log_file_oldest_age_days", (ctx.now() - plan.oldest_at) / timedelta(days=1), "d", dir=subject)


def spared(params: Params, held: OpenFiles | None, entry: Entry) -> str:
    """Why a file is not deleted though it is old; empty when nothing speaks for it."""
    for pattern in params.hold:
        if fnmatchcase(entry.name, pattern) or fnmatchcase(entry.relative, pattern):
            return f'on hold by "{pattern}"'
    holder = held.holders.get((entry.status.st_dev, entry.status.st_ino)) if held else None
    return f"held open by {holder}" if holder else ""


def active_logs(entries: list[Entry], found: list[logs.Rotated]) -> list[Entry]:
    """Logs that are written to: those with the name, and not the mark of a rotation."""
    rotated = {one.entry.parts for one in found}
    bases = {one.base for one in found}
    return [
        entry
        for entry in entries
        if entry.regular and entry.parts not in rotated and (entry.name.endswith(".log") or entry.relative in bases)
    ]


def look(ctx: Context, params: Params, tree: Tree, subject: str, active: list[Entry]) -> None:
    """What is in the way of looking, and what grows."""
    if tree.unread:
        ctx.unknown(
            f"{subject}: folders read",
            f"{len(tree.unread)} not: {'; '.join(tree.unread[:3])}",
            hint="give this process read and write access to them",
        )
    for folder in tree.foreign:
        ctx.log(f"{subject}: {folder} is on another device and was not entered")
    largest = max(active, key=lambda entry: entry.disk_bytes, default=None)
    if largest is not None:
        hint = f"{shown(largest.relative)}: rotate it by size, or find out what it repeats"
        ctx.check(f"{subject}: largest log", largest.disk_bytes, warn_above=params.max_active, unit="B", hint=hint)
    ahead = [entry for entry in active if entry.modified_at > ctx.now() + logs.CLOCKS]
    if ahead:
        ctx.check(
            f"{subject}: logs written in the future",
            len(ahead),
            warn_above=0,
            hint=f"{shown(ahead[0].relative)}: was a clock wrong?",
        )


def rotation(ctx: Context, period: timedelta, root: Path, subject: str, active: list[Entry], host_root: Path) -> None:
    """Whether logrotate has done its part."""
    filled = {entry.relative for entry in active if entry.status.st_size}
    if not filled:
        return
    check = f"{subject}: logs overdue for rotation"
    try:
        state = logs.rotations(host_root)
    except TargetError as error:
        ctx.report_error(check, error)
        return
    rotated: dict[str, datetime] = {}
    for path, at in state.items():
        for seen in (path, host_root / path.relative_to("/") if path.is_absolute() else path):
            if seen.is_relative_to(root):
                rotated[seen.relative_to(root).as_posix()] = at
    now = ctx.now().astimezone().replace(tzinfo=None)  # the host's local time, which logrotate writes
    late = sorted(name for name in filled if name in rotated and now - rotated[name] > 1.5 * period)
    hint = f"{shown(', '.join(late[:3]))}: run logrotate -d on its configuration" if late else ""
    ctx.check(check, len(late), warn_above=0, hint=hint)
    never = sorted(filled - rotated.keys())
    hint = f"{shown(', '.join(never[:3]))}: add them to its configuration" if never else ""
    ctx.check(f"{subject}: logs unknown to logrotate", len(never), warn_above=0, hint=hint)


def within_limits(ctx: Context, params: Params, subject: str, plan: Plan, total: int) -> bool:
    """Whether the plan may be carried out."""
    again = "look at them by a dry run; if they are right, trigger it once with a higher"
    share = plan.size_bytes / total if total else 0.0
    checks = [
        ctx.check(
            f"{subject}: files to delete", len(plan.delete), at_most=params.max_deletes, hint=f"{again} max_deletes"
        ),
        ctx.check(
            f"{subject}: bytes to delete",
            plan.size_bytes,
            at_most=params.max_bytes,
            unit="B",
            hint=f"{again} max_bytes",
        ),
        ctx.check(f"{subject}: share to delete", share, at_most=params.max_share, hint=f"{again} max_share"),
    ]
    return all(check.status is CheckStatus.OK for check in checks)


def delete(ctx: Context, tree: Tree, subject: str, plan: Plan) -> int:
    """Delete what is still as it was planned; the bytes that this has freed."""
    freed, failed = 0, []
    for one in ctx.track(plan.delete, unit="file"):
        path = shown(tree.root.joinpath(*one.entry.parts))
        if not ctx.may("delete", path, bytes=one.entry.disk_bytes, dated=f"{one.at:%Y-%m-%d}"):
            continue
        try:
            tree.remove(one.entry)
            freed += one.entry.disk_bytes
        except (ChangedError, FileNotFoundError):
            ctx.log(f"{path}: has changed since it was looked at, and is left")
        except OSError as error:
            failed.append(f"{path}: {error.strerror}")
    hint = f"give write access to its folder: {'; '.join(failed[:3])}" if failed else ""
    ctx.check(f"{subject}: files that could not be deleted", len(failed), at_most=0, hint=hint)
    return freed


def containers(ctx: Context, params: Params, name: str, target: Any, host_root: Path) -> None:
    """Logs that the engine keeps for containers."""
    check = f"{name}: container logs without a limit"
    try:
        with docker.connect(target, name=name) as engine:
            found = container_logs(engine, host_root)
    except TargetError as error:
        ctx.report_error(check, error)
        return
    endless = [log.label for log in found if not log.limited]
    hint = f"{', '.join(endless[:5])}: set logging options max-size and max-file, and recreate" if endless else ""
    ctx.check(check, len(endless), warn_above=0, hint=hint)
    sizes = {log.label: log.size_bytes for log in found if log.size_bytes is not None}
    if sizes:
        ctx.measure("container_logs_bytes", sum(sizes.values()), "B", engine=name)
        largest = max(sizes, key=lambda label: sizes[label])
        ctx.check(
            f"{name}: largest container log",
            sizes[largest],
            warn_above=params.max_active,
            unit="B",
            hint=f"{largest}: recreate it with a limit; its log goes with the old container",
        )
