"""A background save of a Redis server, verified by the server's counters: BGSAVE only replies that it has started.

Source: rdb.c and server.c of Redis 7. When a save fails, `rdb_last_bgsave_status` is err, and `rdb_saves` and the time
of the last save are unchanged; from then on a server with save points refuses writes, and PING (MISCONF). A save that
succeeds ends that. So a save is only started where the disk has room for it, and when it fails nevertheless, writes
that were accepted before it are accepted again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psutil

from maintd.checks.backups.rdb import walk_rdb
from maintd.checks.backups.stream import CHUNK, DamagedError, Reader
from maintd.clients.files import modified_at
from maintd.clients.redis import RedisServer
from maintd.errors import TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.units import format_duration

_POLL_INTERVAL = 0.1  # seconds; INFO costs the server some 20 microseconds
_COPIED_SHARE = 0.5  # of the used memory, copied on write during a save under heavy writes; a rule of thumb


@dataclass(frozen=True)
class Persistence:
    """State of a server's saves. `saves` counts since its start; None before Redis 7."""

    instance: str  # changes with each start
    saves: int | None
    saved_at: datetime
    status: str
    saving: bool
    rewriting: bool
    duration: timedelta | None  # of the last save; None: none yet
    copied_bytes: int  # on write, during the last save
    used_bytes: int
    resident_bytes: int
    machine_bytes: int
    dataset_bytes: int = 0  # of the used memory, without the server's own
    process_id: int = 0  # within the server's own container

    @property
    def busy(self) -> str:
        """What prevents a save; empty when nothing does."""
        return "a background save" if self.saving else "a rewrite of the append-only file" if self.rewriting else ""


def persistence(server: RedisServer) -> Persistence:
    """The present state. Raises TargetError; its cause is `malformed` when INFO lacks a field."""
    info = server.info()
    try:
        seconds = int(info["rdb_last_bgsave_time_sec"])
        return Persistence(
            str(info["run_id"]),
            int(info["rdb_saves"]) if "rdb_saves" in info else None,
            datetime.fromtimestamp(int(info["rdb_last_save_time"]), UTC),
            str(info["rdb_last_bgsave_status"]),
            bool(info["rdb_bgsave_in_progress"]),
            bool(info["aof_rewrite_in_progress"]),
            None if seconds < 0 else timedelta(seconds=seconds),
            int(info.get("rdb_last_cow_size", 0)),
            int(info["used_memory"]),
            int(info.get("used_memory_rss", 0)),
            int(info.get("total_system_memory", 0)),
            int(info.get("used_memory_dataset", 0)),
            int(info.get("process_id", 0)),
        )
    except (KeyError, ValueError) as error:
        raise TargetError(f"{server.name}: INFO has no {error}", cause="malformed") from error


def wait_until_idle(server: RedisServer, timeout: timedelta, progress: Callable[[float], None]) -> Persistence:
    """The state once no save or rewrite is running, or at the timeout; `progress` receives the seconds waited."""
    started = time.monotonic()
    while True:
        state = persistence(server)
        waited = time.monotonic() - started
        if not state.busy or waited > timeout.total_seconds():
            return state
        progress(waited)
        time.sleep(_POLL_INTERVAL)


@dataclass(frozen=True)
class WriteSettings:
    """What decides whether the server refuses writes after a failed save."""

    save_points: str
    stop_writes: str  # yes or no

    def refused(self, status: str) -> bool:
        """Whether writes are refused while the last save has this status."""
        return status != "ok" and self.save_points != "" and self.stop_writes == "yes"


@dataclass(frozen=True)
class SnapshotDisk:
    """The disk with the server's snapshot. `snapshot_bytes` is 0 when there is no snapshot yet."""

    folder: Path
    free_bytes: int
    snapshot_bytes: int


@dataclass(frozen=True)
class SaveOptions:
    """How to save.

    `limit_bytes`: memory that the server may use. `snapshot`: path of its dump.rdb, which is read to its end after the
    save; the folder of a server on this machine is found without it. `keep_writes`: let the server accept writes again
    when a failed save has ended that.
    """

    timeout: timedelta
    limit_bytes: int | None
    snapshot: Path | None
    keep_writes: bool


def background_save(ctx: Context, server: RedisServer, options: SaveOptions) -> bool:
    """Make a background save and report the evidence. True when it is saved, or would be but for the dry run.

    1. Wait for a running save. 2. Check memory and disk: a save that fails makes the server refuse writes. 3. Save,
    and read the counters. 4. After a failure, restore what was: accept writes that were accepted before.
    """
    name, check = server.name, f"{server.name}: background save"
    try:
        before = wait_until_idle(server, options.timeout, lambda waited: ctx.progress(waited, None, "s"))
        if before.busy:
            observed = f"not started: {before.busy} has not ended within {format_duration(options.timeout)}"
            busy_hint = "INFO persistence shows how far it is; raise the param timeout if it makes progress"
            ctx.fail(check, observed, expected="saved", hint=busy_hint)
            return False
        headroom = headroom_criterion(before, options.limit_bytes)
        room = room_criterion(before, snapshot_disk(server, before, options.snapshot))
        ctx.report([headroom, room], name)
        for needed, what in ((headroom, "memory"), (room, "disk space")):
            if needed.status is CheckStatus.FAIL:
                ctx.fail(check, f"not started: too little {what}", expected="saved", hint=needed.hint)
                report_writes(ctx, server, before)
                return False
        started_at = ctx.now()
        with ctx.change("save", name, last_saved=before.saved_at.isoformat()) as allowed:
            if not allowed:
                return True
            rejected = start(server)
            after = wait_until_idle(server, options.timeout, lambda waited: ctx.progress(waited, None, "s"))
            saved = saved_criterion(before, after)
            if rejected and saved.status is not CheckStatus.OK:  # else another client's save was first, and counts
                saved = replace(saved, observed=f"refused: {rejected}")
                allowed.refused(rejected)
            elif saved.status is not CheckStatus.OK:
                (allowed.uncertain if after.busy else allowed.failed)(
                    f"{saved.name}: {saved.observed or saved.unknown}"
                )
            allowed.observed(saved=after.saved_at.isoformat())
        ctx.report([saved], name)
        if after.duration is not None:
            ctx.measure("redis_bgsave_duration_seconds", after.duration.total_seconds(), "s", server=name)
        ctx.measure("redis_last_cow_bytes", after.copied_bytes, "B", server=name)
        restore_writes(ctx, server, before, after, keep_writes=options.keep_writes)
        report_writes(ctx, server, after)
        if options.snapshot is not None and saved.status is CheckStatus.OK:
            ctx.report([snapshot_criterion(options.snapshot, started_at)], name)
    except TargetError as error:
        hint = "allow +bgsave in the user's ACL" if error.cause == "denied" else error.hint
        ctx.report_error(check, TargetError(error.message, hint, cause=error.cause), expected="saved", role=Role.WORK)
        return False
    return saved.status is CheckStatus.OK


def snapshot_disk(server: RedisServer, now: Persistence, path: Path | None) -> SnapshotDisk | None:
    """The disk of the server's snapshot; None when it is not accessible from here.

    A server on this machine is recognized by the name of its process: one in a container has another process id there,
    and its folder is not a folder here.
    """
    if path is None:
        if not server.is_local:
            return None
        try:
            own = any(name in psutil.Process(now.process_id).name() for name in ("redis", "valkey", "keydb"))
            settings = read_settings(server, "dir", "dbfilename") if own else {}
        except (psutil.Error, ValueError, TargetError):
            return None
        if not settings.get("dir"):
            return None
        path = Path(settings["dir"]) / settings.get("dbfilename", "dump.rdb")
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return None
    try:
        size = path.stat().st_size if path.is_file() else 0
    except OSError:
        size = 0
    return SnapshotDisk(path.parent, free, size)


def room_criterion(now: Persistence, disk: SnapshotDisk | None) -> Criterion:
    """Whether the disk has room for a save, which writes a new file before it replaces the old one.

    Expected is twice the old file, or what the data take in memory if that is more: the file may be from a time with
    less data.
    """
    if disk is None:
        return Criterion(
            "disk space for a save",
            unknown="the server's disk is not accessible from here",
            hint="mount its folder read-only, and set the param snapshot",
            optional=True,
        )
    needed = max(2 * disk.snapshot_bytes, now.dataset_bytes)
    hint = f"free space in {disk.folder}: a save that fails makes the server refuse writes"
    return Criterion("disk space for a save", disk.free_bytes, at_least=needed, unit="B", hint=hint)


def restore_writes(
    ctx: Context, server: RedisServer, before: Persistence, after: Persistence, *, keep_writes: bool
) -> None:
    """Let the server accept writes that a failed save has ended; undo that after a save that succeeded.

    Only what this job has set is undone, as its measure of the last run shows. Raises TargetError without access to the
    server's settings.
    """
    label = {"server": server.name}
    ours = bool(ctx.last("redis_writes_without_saves", 0, **label))
    settings = write_settings(server)
    wanted = ""
    if after.status == "ok" and ours and settings.stop_writes == "no":
        wanted = "yes"
    elif keep_writes and before.status == "ok" and settings.refused(after.status):
        wanted = "no"
    if wanted:
        why = "a save has succeeded" if wanted == "yes" else "the failed save of this job ended writes"
        setting = f"{server.name}: stop-writes-on-bgsave-error"
        try:
            with ctx.change("configure", setting, value=wanted, before=settings.stop_writes, why=why) as allowed:
                if allowed:
                    server.command("CONFIG", "SET", "stop-writes-on-bgsave-error", wanted)
                    seen = write_settings(server).stop_writes
                    if seen != wanted:
                        allowed.failed(f"it is {seen}")
                    ours = seen == "no"
            if allowed:
                ctx.check(setting, seen, equals=wanted, hint=f"CONFIG SET stop-writes-on-bgsave-error {wanted}")
        except TargetError as error:
            ctx.report_error(setting, error, expected=wanted, role=Role.WORK)
    ctx.measure("redis_writes_without_saves", int(ours), "", **label)


def report_writes(ctx: Context, server: RedisServer, now: Persistence) -> None:
    """Report whether writes are accepted; unknown without access to the server's settings."""
    try:
        criterion = writes_criterion(write_settings(server), now.status)
    except TargetError as error:
        hint = "allow +config|get in the user's ACL"
        criterion = Criterion("writes", unknown=error.message, hint=hint, optional=now.status == "ok")
    ctx.report([criterion], server.name)


def headroom_criterion(now: Persistence, limit_bytes: int | None) -> Criterion:
    """Whether memory suffices for the pages that are copied on write during a save.

    Expected are three times those of the last save, or half of the used memory. `limit_bytes`: memory that the server
    may use; None: all of its machine.
    """
    limit = min(limit_bytes or now.machine_bytes, now.machine_bytes or limit_bytes or 0)
    copied = 3 * now.copied_bytes if now.copied_bytes else round(_COPIED_SHARE * now.used_bytes)
    hint = f"during a save it may grow by {copied / 2**20:.0f} MiB: add memory, or remove data"
    if not limit:
        return Criterion("memory for a save", unknown="neither a limit nor the machine's memory is known", hint=hint)
    return Criterion(
        "memory for a save", max(now.used_bytes, now.resident_bytes) + copied, at_most=limit, unit="B", hint=hint
    )


def start(server: RedisServer) -> str:
    """Start a save; return the server's message when it rejects it, else an empty text. Raises TargetError."""
    try:
        server.command("BGSAVE")
    except TargetError as error:
        if error.cause != "failed":
            raise
        return error.message
    return ""


def saved_criterion(before: Persistence, after: Persistence) -> Criterion:
    """Whether a save was completed between the two states."""
    if after.instance != before.instance:
        observed = "the server was restarted"
    elif after.busy:
        observed = f"{after.busy} is still running"
    elif after.status != "ok":
        observed = f"failed: last status {after.status}"
    elif after.saves is not None and before.saves is not None:
        observed = "saved" if after.saves > before.saves else "nothing was saved: the number of saves is unchanged"
    else:  # in whole seconds
        observed = (
            "saved" if after.saved_at > before.saved_at else "nothing was saved: the time of the last save is unchanged"
        )
    hint = "check free space and permissions of its folder (CONFIG GET dir); its log (CONFIG GET logfile) has the error"
    return Criterion("background save", observed, equals="saved", hint=hint)


def read_settings(server: RedisServer, *names: str) -> dict[str, str]:
    """Settings of the server by name. Raises TargetError."""
    settings: dict[str, str] = {}
    for name in names:
        answer = server.command("CONFIG", "GET", name)
        pairs = answer.items() if isinstance(answer, Mapping) else zip(answer[::2], answer[1::2], strict=True)
        settings |= {str(key): str(value) for key, value in pairs}
    return settings


def write_settings(server: RedisServer) -> WriteSettings:
    """The settings that decide about writes after a failed save. Raises TargetError."""
    settings = read_settings(server, "save", "stop-writes-on-bgsave-error")
    return WriteSettings(settings.get("save", ""), settings.get("stop-writes-on-bgsave-error", ""))


def writes_criterion(settings: WriteSettings, status: str) -> Criterion:
    """Whether the server accepts writes. After a failed save it may refuse them."""
    return Criterion(
        "writes",
        "refused: MISCONF" if settings.refused(status) else "accepted",
        equals="accepted",
        hint="every write fails until a save succeeds: free space on its disk and run this job again, "
        "or temporarily CONFIG SET stop-writes-on-bgsave-error no",
    )


def snapshot_criterion(path: Path, since: datetime) -> Criterion:
    """Whether the snapshot at `path` was written since then and is valid to its last byte."""
    name, hint = "snapshot read to its end", "keep the last good backup, and check the disk"
    try:
        written_at = modified_at(path.stat())
        with path.open("rb") as file:
            found = walk_rdb(Reader(iter(partial(file.read, CHUNK), b""), str(path)))
    except DamagedError as error:
        return Criterion(name, f"damaged: {error.message}", equals="whole", hint=hint)
    except OSError as error:
        return Criterion(name, unknown=f"{path}: {error.strerror}", hint="mount the server's folder read-only")
    if found.unknown:
        return Criterion(name, unknown=found.unknown, hint=hint)
    if written_at < since - timedelta(seconds=2):  # the server's clock may differ
        return Criterion(
            name,
            f"old: of {written_at:%F %T}Z",
            equals="whole",
            hint="name the server's dump file in the param snapshot: CONFIG GET dir and dbfilename, as mounted here",
        )
    return Criterion(name, "whole", equals="whole", hint=hint)
