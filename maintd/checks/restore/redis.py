"""Redis or Valkey restored into a server in the scratch folder, as a person would restore it.

A server that is started with append-only files loads only these: with an empty folder for them, it ignores the snapshot
and starts with no key, without any error. So the drill starts it without them, counts what was loaded, and where the
original uses them, it turns them on, restarts the server, and counts again.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from maintd.checks.backup_sets.append_only import FOLDER, keyspace
from maintd.checks.backup_sets.writer import os_errors
from maintd.checks.backups import aof, folders, tar
from maintd.checks.backups.stream import DamagedError, ExpansionLimits
from maintd.checks.restore.scratch import SOCKET_MAX, Server, full_disk, wait_until
from maintd.checks.restore.sources import decoded
from maintd.clients.files import shown
from maintd.clients.redis import RedisServer, connect
from maintd.clients.shell import Command, resolve_argv
from maintd.errors import JobError, TargetError
from maintd.job.context import Context
from maintd.model.target import RedisTarget

_TIMEOUT = timedelta(seconds=30)  # of one answer
_LIMIT = timedelta(hours=1)
_DATABASES = "1024"
_TRAP = (
    "a server with appendonly yes ignores the snapshot and starts empty: move appendonlydir away, start it with"
    " appendonly no, then CONFIG SET appendonly yes"
)
_NOT_FOUND = "the server did not load them, and started empty: check the names appendfilename and appenddirname"
_LOST = "keys were lost: restore from another set"
_KEPT = 0.9  # of the keys before, where clients wrote while the files were copied; a rule of thumb


@dataclass(frozen=True)
class Loaded:
    """What a server loaded: keys, and those that had expired since the backup, which it drops. None: not counted."""

    keys: int
    expired: int | None


class ScratchRedis:
    """A server in the scratch folder, without a port; a context manager that stops it."""

    def __init__(self, name: str, program: Path, folder: Path, limit: timedelta) -> None:
        """Raises TargetError."""
        self.name = name
        self.folder = folder
        self._program = program
        self._limit = min(limit, _LIMIT)
        self._server: Server | None = None
        self._socket = folder / "s"
        if len(os.fsencode(self._socket)) > SOCKET_MAX:
            hint = "set scratch to a folder target with a shorter path"
            raise TargetError(f"{shown(self._socket)}: is too long for a socket", hint, cause="not_configured")
        with os_errors(folder):
            folder.mkdir(mode=0o700)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._server is not None:
            self._server.stop()

    def start(self, *, append_only: bool, append_name: str = "appendonly.aof") -> None:
        """Start it and wait until it has loaded its data. Raises TargetError with its own words when it ends."""
        try:
            (program,) = resolve_argv(Command((str(self._program),)))
        except JobError as error:
            hint = "install redis-server, or set redis_server to its path"
            raise TargetError(error.message, hint, cause="not_configured") from error
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "dbfilename": "dump.rdb",
            "appendonly": "yes" if append_only else "no",
            "appendfilename": append_name,
            "save": "",
            "daemonize": "no",
            "databases": _DATABASES,
            "auto-aof-rewrite-percentage": "0",
            "logfile": "",
        }
        argv = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
        self._socket.unlink(missing_ok=True)
        self._server = Server("redis-server", argv, self.folder / "log", signal.SIGKILL)
        try:
            wait_until(self._server, self._has_loaded, self._limit.total_seconds(), "load its data")
        except TargetError as error:
            raise full_disk(self.folder, error.message) or _explained(error) from error

    def connection(self, database: int = 0) -> RedisServer:
        """A connection to it."""
        target = RedisTarget(url=f"unix://{quote(str(self._socket))}?db={database}")
        return connect(target, name=self.name, timeout=_TIMEOUT)

    def loaded(self) -> Loaded:
        """What it loaded at its start. Raises TargetError."""
        with self.connection() as server:
            info = server.info()
        if "rdb_last_load_keys_loaded" in info:  # from 7.0
            expired = int(info["rdb_last_load_keys_expired"])
            return Loaded(int(info["rdb_last_load_keys_loaded"]), expired)
        return Loaded(self.keys()[0], None)

    def keys(self) -> tuple[int, int]:
        """The keys in all databases, and those of them that expire. Raises TargetError."""
        with self.connection() as server:
            return keyspace(server)

    def turn_on_append_only(self) -> None:
        """Write append-only files of what is loaded, as the last step of a restore. Raises TargetError."""
        with self.connection() as server:
            server.command("CONFIG", "SET", "appendonly", "yes")
            deadline = time.monotonic() + self._limit.total_seconds()
            while True:
                info = server.info("persistence")
                if not (info.get("aof_rewrite_in_progress") or info.get("aof_rewrite_scheduled")):
                    break
                if time.monotonic() > deadline:
                    raise TargetError(
                        f"{self.name}: the rewrite of its append-only files does not end", cause="timed_out"
                    )
                time.sleep(0.02)
        if info.get("aof_last_bgrewrite_status") != "ok":
            output = self._server.last_lines() if self._server else ""
            error = TargetError(f"{self.name}: its append-only files could not be written: {output}", cause="failed")
            raise full_disk(self.folder, output) or error

    def stop(self) -> None:
        """Stop it as a person does, with what is in its buffers written. Raises TargetError."""
        assert self._server is not None
        with self.connection() as server:
            try:
                server.command("SHUTDOWN", "NOSAVE")
            except TargetError as error:
                if error.cause not in ("partial", "refused"):  # it closes the connection instead of an answer
                    raise
        if not self._server.wait(_TIMEOUT.total_seconds()):
            raise TargetError(f"{self.name}: does not stop", cause="timed_out")

    def _has_loaded(self) -> bool:
        if not self._socket.exists():
            return False
        try:
            with self.connection() as server:
                server.ping()
        except TargetError as error:
            if error.cause in ("refused", "partial", "timed_out", "not_found", "unreachable"):
                return False
            raise
        return True


def restore_snapshot(
    ctx: Context, redis: ScratchRedis, subject: str, snapshot: Path, about: Mapping[str, Any] | None, database: int
) -> None:
    """Load a snapshot, and compare the keys and streams with the manifest. Raises TargetError."""
    with os_errors(redis.folder):
        (redis.folder / "dump.rdb").symlink_to(snapshot)
    redis.start(append_only=False)
    loaded = redis.loaded()
    ctx.measure("restore_keys", loaded.keys, "key", part=subject)
    wanted = None if about is None else about.get("keys")
    name = f"{subject}: keys loaded"
    if not isinstance(wanted, int):
        ctx.check(name, loaded.keys, at_least=1, hint=_TRAP)
        hint = "make the backup by the job backup, whose manifest has the number of keys"
        ctx.unknown(f"{subject}: compared with the original", "no manifest: compared to nothing", hint=hint)
    elif loaded.expired is None:
        hint = "keys that have expired since the backup are dropped; Redis from 7.0 counts them"
        if loaded.keys == wanted:
            ctx.check(name, loaded.keys, equals=wanted)
        elif wanted and not loaded.keys:
            ctx.check(name, 0, equals=wanted, hint=_TRAP)
        else:
            ctx.unknown(name, f"{loaded.keys} of {wanted}", expected=str(wanted), hint=hint)
    else:
        # The server drops keys that have expired since the backup; the manifest counts them.
        hint = _TRAP if wanted and not loaded.keys + loaded.expired else "keys were lost: restore from another set"
        ctx.check(name, loaded.keys + loaded.expired, equals=wanted, hint=hint)
    for stream, last in ((about or {}).get("streams_at_least") or {}).items():
        _check_stream(ctx, redis, subject, str(stream), str(last), database)
    if about is not None and about.get("append_only") and loaded.keys:
        with ctx.phase(f"{subject}: turn its append-only files on and restart it"):
            before, _ = redis.keys()
            redis.turn_on_append_only()
            redis.stop()
            redis.start(append_only=True)
            _compare_after_restart(ctx, redis, subject, before)


def restore_packed(
    ctx: Context, redis: ScratchRedis, subject: str, packed: Path, about: Mapping[str, Any], database: int
) -> None:
    """Load append-only files of a set, as a server with appendonly yes does at its start. Raises TargetError.

    A server that does not find them by their name starts empty, without an error: so the keys are counted. How many
    there must be is known exactly only when nothing was written while they were copied.
    """
    with os_errors(redis.folder):
        (redis.folder / FOLDER).mkdir(mode=0o700)
    with decoded(packed, "tar.gz") as reader:
        for member in tar.members(reader, ExpansionLimits()):
            name = member.name.removeprefix(f"{FOLDER}/")
            if not member.regular or "/" in name or name.startswith("."):
                raise DamagedError(f'"{member.name}" is no append-only file')
            path = redis.folder / FOLDER / name
            with os_errors(path), path.open("xb") as file:
                for chunk in reader.pieces(member.size_bytes):
                    file.write(chunk)
        for _ in reader.rest():
            pass
    redis.start(append_only=True, append_name=str(about["append_name"]))
    found, _ = redis.keys()
    ctx.measure("restore_keys", found, "key", part=subject)
    before, expiring = int(about["keys_at_least"]), int(about["keys_expiring"])
    share = 1.0 if about.get("quiet") else _KEPT
    least = max(int(before * share) - expiring, min(before - expiring, 1), 0)
    ctx.check(f"{subject}: keys loaded", found, at_least=least, hint=_NOT_FOUND if not found else _LOST)
    for stream, last in (about.get("streams_at_least") or {}).items():
        _check_stream(ctx, redis, subject, str(stream), str(last), database)


def restore_append_only(ctx: Context, redis: ScratchRedis, subject: str, source: Path, kind: str) -> None:
    """Load append-only files, of a folder or of one file before Redis 7. Raises TargetError."""
    if kind == folders.APPEND_ONLY:
        expected = aof.walk_folder(source).count
        (manifest,) = source.glob("*.aof.manifest")
        name = manifest.name.removesuffix(".manifest")
        with os_errors(redis.folder):
            shutil.copytree(source, redis.folder / "appendonlydir")
    else:
        expected, name = 1, "appendonly.aof"
        with os_errors(redis.folder):
            shutil.copyfile(source, redis.folder / name)  # a server from 7.0 moves it into its folder
    redis.start(append_only=True, append_name=name)
    found, _ = redis.keys()
    ctx.measure("restore_keys", found, "key", part=subject)
    ctx.check(f"{subject}: keys loaded", found, at_least=1 if expected else 0, hint=_NOT_FOUND)
    hint = "make the backup by the job backup, whose manifest has the number of keys"
    ctx.unknown(f"{subject}: compared with the original", "no manifest: compared to nothing", hint=hint)


def _compare_after_restart(ctx: Context, redis: ScratchRedis, subject: str, before: int) -> None:
    keys, _ = redis.keys()
    expired = redis.loaded().expired or 0
    # Only keys with an expiry may be gone.
    name = f"{subject}: keys after a restart with append-only files"
    ctx.check(name, keys + expired, at_least=before, hint=_TRAP)


def _check_stream(ctx: Context, redis: ScratchRedis, subject: str, stream: str, last: str, database: int) -> None:
    name = f"{subject}: stream {stream}, last id"
    hint = "entries of the stream are missing: restore from another set"
    try:
        with redis.connection(database) as server:
            found = server.span(stream)[1]
    except TargetError as error:
        ctx.fail(name, error.message, expected=f"at least {last}", hint=hint)
        return
    if _id(found) >= _id(last):
        ctx.passed(name, found, expected=f"at least {last}")
    else:
        ctx.fail(name, found, expected=f"at least {last}", hint=hint)


def _id(text: str) -> tuple[int, int]:
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number or 0)


def _explained(error: TargetError) -> TargetError:
    """A server that does not know the format is too old for the backup: nothing is known of it."""
    if "handle RDB format version" in error.message or "Unknown RDB encoding type" in error.message:
        hint = "install the server of the version that was backed up, and set redis_server to its path"
        return TargetError(error.message, hint, cause="unfamiliar")
    return error
