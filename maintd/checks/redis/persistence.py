"""A background save of a Redis server, verified by the server's counters: BGSAVE only replies that it has started.

Source: rdb.c of Redis 7. When a save fails, `rdb_last_bgsave_status` is err, and `rdb_saves` and the time of the last
save are unchanged; from then on a server with save points refuses writes (MISCONF).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from maintd.checks.backups.rdb import walk_rdb
from maintd.checks.backups.stream import CHUNK, DamagedError, Reader
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


def background_save(
    ctx: Context, server: RedisServer, timeout: timedelta, limit_bytes: int | None, snapshot: Path | None
) -> bool:
    """Make a background save and report the evidence. True when it is saved, or would be but for the dry run.

    `limit_bytes`: memory that the server may use. `snapshot`: path of its dump.rdb, which is then read to its end.
    """
    name, check = server.name, f"{server.name}: background save"
    try:
        before = wait_until_idle(server, timeout, lambda waited: ctx.progress(waited, None, "s"))
        if before.busy:
            observed = f"not started: {before.busy} has not ended within {format_duration(timeout)}"
            ctx.fail(check, observed, expected="saved", hint="see the server's log")
            return False
        headroom = headroom_criterion(before, limit_bytes)
        ctx.report([headroom], name)
        if headroom.status is CheckStatus.FAIL:
            ctx.fail(check, "not started: too little memory", expected="saved", hint=headroom.hint)
            return False
        started_at = ctx.now()
        with ctx.change("save", name, last_saved=before.saved_at.isoformat()) as allowed:
            if not allowed:
                return True
            rejected = start(server)
            after = wait_until_idle(server, timeout, lambda waited: ctx.progress(waited, None, "s"))
            saved = saved_criterion(before, after)
            if rejected and saved.status is not CheckStatus.OK:  # else another client's save was first, and counts
                saved = replace(saved, observed=f"refused: {rejected}")
                allowed.refused(rejected)
            elif saved.status is not CheckStatus.OK:
                allowed.failed(f"{saved.name}: {saved.observed or saved.unknown}")
            allowed.observed(saved=after.saved_at.isoformat())
        ctx.report([saved], name)
        if after.duration is not None:
            ctx.measure("redis_bgsave_duration_seconds", after.duration.total_seconds(), "s", server=name)
        ctx.measure("redis_last_cow_bytes", after.copied_bytes, "B", server=name)
        ctx.report([writes_criterion(server, after)], name)
        if snapshot is not None and saved.status is CheckStatus.OK:
            ctx.report([snapshot_criterion(snapshot, started_at)], name)
    except TargetError as error:
        hint = "allow +bgsave in the user's ACL" if error.cause == "denied" else error.hint
        ctx.report_error(check, TargetError(error.message, hint, cause=error.cause), expected="saved", role=Role.WORK)
        return False
    return saved.status is CheckStatus.OK


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
    hint = "see its log; check free space and permissions of its folder (CONFIG GET dir)"
    return Criterion("background save", observed, equals="saved", hint=hint)


def writes_criterion(server: RedisServer, after: Persistence) -> Criterion:
    """Whether the server accepts writes after a failed save. Raises TargetError without access to its settings."""
    settings: dict[str, str] = {}
    for name in ("save", "stop-writes-on-bgsave-error"):
        answer = server.command("CONFIG", "GET", name)
        pairs = answer.items() if isinstance(answer, Mapping) else zip(answer[::2], answer[1::2], strict=True)
        settings |= {str(key): str(value) for key, value in pairs}
    refused = (
        after.status != "ok" and settings.get("save", "") != "" and settings.get("stop-writes-on-bgsave-error") == "yes"
    )
    return Criterion(
        "writes",
        "refused: MISCONF" if refused else "accepted",
        equals="accepted",
        hint="every write fails until a save succeeds: free space and run BGSAVE, "
        "or temporarily CONFIG SET stop-writes-on-bgsave-error no",
    )


def snapshot_criterion(path: Path, since: datetime) -> Criterion:
    """Whether the snapshot at `path` was written since then and is valid to its last byte."""
    name, hint = "snapshot read to its end", "keep the last good backup, and check the disk"
    try:
        written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        with path.open("rb") as file:
            found = walk_rdb(Reader(iter(partial(file.read, CHUNK), b""), str(path)))
    except DamagedError as error:
        return Criterion(name, f"damaged: {error.message}", equals="whole", hint=hint)
    except OSError as error:
        return Criterion(name, unknown=f"{path}: {error.strerror}", hint="mount the server's folder read-only")
    if found.unknown:
        return Criterion(name, unknown=found.unknown, hint=hint)
    if written_at < since - timedelta(seconds=2):  # the server's clock may differ
        return Criterion(name, f"old: of {written_at:%F %T}Z", equals="whole", hint="check the param snapshot")
    return Criterion(name, "whole", equals="whole", hint=hint)
