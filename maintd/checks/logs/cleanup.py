"""Checks of the log clean-up: size limits of the plan, logs that are not rotated, and logs that hold disk space."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

from maintd.checks.docker.container_logs import container_logs
from maintd.checks.host.mounted import has_proc, not_mounted
from maintd.checks.logs import rotation
from maintd.checks.logs.rotation import CLOCKS, Plan, Rotated
from maintd.checks.probes import as_target_error
from maintd.checks.read_tally import ReadTally
from maintd.clients import docker
from maintd.clients.files import Entry, Tree, shown
from maintd.clients.open_files import OpenFiles, open_files
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.model.target import DockerTarget, HostTarget
from maintd.units import format_size

_LOOKS_ROTATED = re.compile(r"\.(?:gz|xz|zst|bz2|lz4)$|[-_.]\d{1,14}$|(?<!\d)(?:19|20)\d\d[-_.]?\d\d[-_.]?\d\d(?!\d)")


def collect_open_files(ctx: Context, host: str, target: HostTarget, max_held: int) -> OpenFiles | None:
    """Check deleted files that processes hold open; return all open files, None when they cannot be read.

    In a container without the host's /proc, only the container's own processes are seen: of the host it is unknown.
    """
    check = f"{host}: deleted files held open"
    try:
        with as_target_error(check):
            found = open_files(target.proc)
    except TargetError as error:
        ctx.report_error(check, error)
        return None
    if not has_proc(target):
        unseen = not_mounted("its processes")
        cause, hint = f"{unseen.cause}: {unseen.message}", unseen.hint or ""
        ctx.unknown(check, cause, expected="readable", hint=hint, optional=True)
        return found
    total = sum(file.size_bytes for file in found.deleted)
    ctx.measure("logs_held_deleted_bytes", total, "B", host=host)
    largest = "; ".join(f"{one.holder}: {shown(one.path)}, {format_size(one.size_bytes)}" for one in found.deleted[:3])
    hint = f"restart the process, or make it reopen its log: {largest}" if largest else ""
    ctx.check(check, total, warn_above=max_held, unit="B", hint=hint)
    if found.denied:
        ctx.unknown(
            f"{host}: files held open",
            f"{found.denied} of {found.processes} processes cannot be inspected",
            hint="run as root or with CAP_SYS_PTRACE; a rotated log that they hold open may be deleted",
            optional=True,  # a fact of the site: a sidecar does not see the processes of other containers
        )
    return found


def protection(entry: Entry, hold: Sequence[str], held: OpenFiles | None) -> str:
    """Return why a file must not be deleted: it matches a pattern of `hold`, or a process has it open; else empty."""
    for pattern in hold:
        if fnmatchcase(entry.name, pattern) or fnmatchcase(entry.relative, pattern):
            return f'protected by the pattern "{pattern}"'
    holder = held.holders.get((entry.status.st_dev, entry.status.st_ino)) if held else None
    return f"held open by {holder}" if holder else ""


def active_logs(entries: Sequence[Entry], rotated: Sequence[Rotated]) -> list[Entry]:
    """Return the logs that are still written: not rotated, and named *.log or like the log of a rotated one."""
    paths = {one.entry.parts for one in rotated}
    bases = {one.base for one in rotated}
    return [
        entry
        for entry in entries
        if entry.regular and entry.parts not in paths and (entry.name.endswith(".log") or entry.relative in bases)
    ]


def report_folder(ctx: Context, subject: str, tree: Tree, active: Sequence[Entry], max_active: int) -> None:
    """Check for unreadable folders, large logs, and logs with a modification time in the future."""
    if tree.unread:
        ctx.unknown(
            f"{subject}: folders read",
            f"{len(tree.unread)} not: {'; '.join(tree.unread[:3])}",
            hint="grant this process read and write access to them",
        )
    for folder in tree.foreign:
        ctx.log(f"{subject}: {folder} is on another device and is skipped")
    largest = max(active, key=lambda entry: entry.disk_bytes, default=None)
    if largest is not None:
        hint = f"{shown(largest.relative)}: rotate it by size, or find out which message it repeats"
        ctx.check(f"{subject}: largest log", largest.disk_bytes, warn_above=max_active, unit="B", hint=hint)
    ahead = [entry for entry in active if entry.modified_at > ctx.now() + CLOCKS]
    if ahead:
        hint = f"{shown(ahead[0].relative)}: check the clock of its writer"
        ctx.check(f"{subject}: logs written in the future", len(ahead), warn_above=0, hint=hint)


def report_names(
    ctx: Context,
    subject: str,
    entries: Sequence[Entry],
    rotated: Sequence[Rotated],
    before: datetime,
    protected: Callable[[Entry], str],
) -> None:
    """Name the files last written before a time that look rotated or compressed, but have no known name: they are kept.

    It is optional, since a folder of logs may have other files on purpose; `hold` leaves them out.
    """
    known = {one.entry.parts for one in rotated}
    tally = ReadTally(understood=len(known))
    for entry in entries:
        unfamiliar = entry.regular and entry.parts not in known and _LOOKS_ROTATED.search(entry.name)
        if unfamiliar and entry.modified_at < before and not protected(entry):
            tally.add_not_understood(entry.relative)
    hint = "add their names to the param `names`, or to `hold`"
    name = f"{subject}: old files with unfamiliar names"
    ctx.report([replace(tally.criterion(name, "files", at_most_share=0, hint=hint), optional=True)])


def report_rotation(
    ctx: Context, subject: str, root: Path, active: Sequence[Entry], period: timedelta, host_root: Path | None
) -> None:
    """Check for logs that logrotate does not know, or has not rotated within 1.5 periods.

    host_root: where the root of the host is mounted; None: it is not.
    """
    filled = {entry.relative for entry in active if entry.status.st_size}
    if not filled:
        return
    check = f"{subject}: logs overdue for rotation"
    if host_root is None:
        ctx.report_error(check, not_mounted("the state of its logrotate"))
        return
    try:
        state = rotation.last_rotations(host_root)
    except TargetError as error:
        ctx.report_error(check, error)
        return
    rotated: dict[str, datetime] = {}
    for path, at in state.items():
        for local in (path, host_root / path.relative_to("/") if path.is_absolute() else path):
            if local.is_relative_to(root):
                rotated[local.relative_to(root).as_posix()] = at
    now = ctx.now().astimezone().replace(tzinfo=None)  # local time without a zone, as logrotate writes it
    late = sorted(name for name in filled if name in rotated and now - rotated[name] > 1.5 * period)
    hint = f"{shown(', '.join(late[:3]))}: run logrotate -d on its configuration" if late else ""
    ctx.check(check, len(late), warn_above=0, hint=hint)
    never = sorted(filled - rotated.keys())
    hint = f"{shown(', '.join(never[:3]))}: add them to its configuration" if never else ""
    ctx.check(f"{subject}: logs unknown to logrotate", len(never), warn_above=0, hint=hint)


def within_limits(
    ctx: Context, subject: str, plan: Plan, total: int, *, max_deletes: int, max_bytes: int, max_share: float
) -> bool:
    """Check the plan against the limits; return whether it may be executed. total: bytes in the folder."""
    advice = "review it by a dry run; if it is right, trigger the job once with a higher"
    share = plan.size_bytes / total if total else 0.0
    checks = [
        ctx.check(f"{subject}: files to delete", len(plan.delete), at_most=max_deletes, hint=f"{advice} max_deletes"),
        ctx.check(
            f"{subject}: bytes to delete", plan.size_bytes, at_most=max_bytes, unit="B", hint=f"{advice} max_bytes"
        ),
        ctx.check(f"{subject}: share to delete", share, at_most=max_share, hint=f"{advice} max_share"),
    ]
    return all(check.status is CheckStatus.OK for check in checks)


def report_container_logs(ctx: Context, name: str, target: DockerTarget, host_root: Path, max_active: int) -> None:
    """Check for container logs without a size limit, and for large ones."""
    check = f"{name}: container logs without a limit"
    try:
        with docker.connect(target, name=name) as engine:
            found = container_logs(engine, host_root)
    except TargetError as error:
        ctx.report_error(check, error)
        return
    unlimited = [log.label for log in found if not log.limited]
    hint = (
        f"{', '.join(unlimited[:5])}: set the logging options max-size and max-file, and recreate" if unlimited else ""
    )
    ctx.check(check, len(unlimited), warn_above=0, hint=hint)
    sizes = {log.label: log.size_bytes for log in found if log.size_bytes is not None}
    if sizes:
        ctx.measure("container_logs_bytes", sum(sizes.values()), "B", engine=name)
        largest = max(sizes, key=lambda label: sizes[label])
        hint = f"{largest}: recreate it with a limit; its log is deleted with the old container"
        ctx.check(f"{name}: largest container log", sizes[largest], warn_above=max_active, unit="B", hint=hint)
