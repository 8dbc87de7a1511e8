"""A Redis server's background save, proven by what it counts: the reply to BGSAVE only says that one has begun.

Source: rdb.c of Redis 7. A save that fails leaves the reply a success, `rdb_last_bgsave_status` at err, `rdb_saves` and
the time of the last save as they were; and from then on writes are refused (MISCONF) wherever save points are set.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from maintd.checks.backups.rdb import walk_rdb
from maintd.checks.backups.stream import CHUNK, DamagedError, Reader
from maintd.clients.redis import RedisServer
from maintd.errors import TargetError
from maintd.job.criterion import Criterion

_POLL = 0.1  # seconds; INFO persistence costs the server some 20 microseconds
_COPIED = 0.5  # of the used memory is copied while a child saves and everything is written to, as a rule of thumb


@dataclass(frozen=True)
class Persistence:
    """What a server says of its saves. `saves` counts since its start; None before Redis 7."""

    instance: str  # changes when it starts anew
    saves: int | None
    saved_at: datetime
    status: str
    saving: bool
    rewriting: bool
    took: timedelta | None  # None: none yet
    copied_bytes: int  # by the kernel, while the last save was written
    used_bytes: int
    resident_bytes: int
    machine_bytes: int

    @property
    def busy(self) -> str:
        """What stands in a save's way; empty when nothing does."""
        return "a background save" if self.saving else "a rewrite of the append-only file" if self.rewriting else ""


def persistence(server: RedisServer) -> Persistence:
    """Raises TargetError, with cause `malformed` when INFO lacks what is needed."""
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


def settled(server: RedisServer, timeout: timedelta, told: Callable[[float], None]) -> Persistence:
    """The state once neither a save nor a rewrite is under way, or at the timeout; `told` hears the seconds waited."""
    began = time.monotonic()
    while True:
        now = persistence(server)
        waited = time.monotonic() - began
        if not now.busy or waited > timeout.total_seconds():
            return now
        told(waited)
        time.sleep(_POLL)


def headroom(now: Persistence, limit_bytes: int | None) -> Criterion:
    """Whether memory allows for the pages that are copied while the child writes: three times what the last save took,
    or half of what is used. `limit_bytes` is what the server may have, its machine's memory if not known."""
    may = min(limit_bytes or now.machine_bytes, now.machine_bytes or limit_bytes or 0)
    copied = 3 * now.copied_bytes if now.copied_bytes else round(_COPIED * now.used_bytes)
    hint = f"while it saves it may grow by {copied / 2**20:.0f} MiB: give it more memory, or less data"
    if not may:
        return Criterion("memory for a save", unknown="neither a limit nor the machine's memory is known", hint=hint)
    return Criterion(
        "memory for a save", max(now.used_bytes, now.resident_bytes) + copied, at_most=may, unit="B", hint=hint
    )


def start(server: RedisServer) -> str:
    """Ask for a save: empty when it began, else why not, in the server's words. Raises TargetError when it is silent,
    or may not be asked."""
    try:
        server.command("BGSAVE")
    except TargetError as error:
        if error.cause != "failed":
            raise
        return error.message
    return ""


def proof(before: Persistence, after: Persistence) -> Criterion:
    """Whether a save was written between the two looks."""
    if after.instance != before.instance:
        observed = "the server started anew meanwhile"
    elif after.busy:
        observed = f"{after.busy} is still under way"
    elif after.status != "ok":
        observed = f"failed: last status {after.status}"
    elif after.saves is not None and before.saves is not None:
        observed = "saved" if after.saves > before.saves else "nothing was saved: the count of saves stands still"
    else:  # in whole seconds
        observed = "saved" if after.saved_at > before.saved_at else "nothing was saved: the last is as old as before"
    hint = "look at its log, at the free space and the rights of its folder (CONFIG GET dir)"
    return Criterion("background save", observed, equals="saved", hint=hint)


def writes_refused(server: RedisServer, after: Persistence) -> Criterion:
    """Whether a failed save has made the server refuse every write. Raises TargetError when its settings are hidden."""
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
        hint="every write fails until a save succeeds: make room and run BGSAVE, "
        "or for now CONFIG SET stop-writes-on-bgsave-error no",
    )


def readable(path: Path, since: datetime) -> Criterion:
    """Whether the snapshot that was written is there, new, and whole to its last byte."""
    name, hint = "snapshot read to its end", "keep the last good backup, and look at the disk"
    try:
        written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        with path.open("rb") as file:
            found = walk_rdb(Reader(iter(partial(file.read, CHUNK), b""), str(path)))
    except DamagedError as error:
        return Criterion(name, f"damaged: {error.message}", equals="whole", hint=hint)
    except OSError as error:
        return Criterion(name, unknown=f"{path}: {error.strerror}", hint="mount the server's folder, read only")
    if found.unknown:
        return Criterion(name, unknown=found.unknown, hint=hint)
    if written_at < since - timedelta(seconds=2):  # its clock may be another host's
        return Criterion(name, f"old: of {written_at:%F %T}Z", equals="whole", hint="is snapshot the right path?")
    return Criterion(name, "whole", equals="whole", hint=hint)
