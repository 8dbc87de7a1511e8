"""Redis and Valkey: the append-only files where the server loads these, else a snapshot as a replica receives it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from maintd.checks.backup_sets import append_only
from maintd.checks.backup_sets.layout import safe_name
from maintd.checks.backup_sets.writer import SetWriter, WrittenFile
from maintd.checks.redis.persistence import headroom_criterion, persistence
from maintd.clients.redis import RedisServer
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.units import format_size


@dataclass(frozen=True)
class SaveOptions:
    """streams: of the target. data: the server's data folder as seen here, None: as the server names it."""

    streams: Sequence[str]
    memory_limit: int | None
    data: Path | None
    patience: timedelta


def save(
    ctx: Context, writer: SetWriter, server: RedisServer, options: SaveOptions
) -> tuple[WrittenFile, dict[str, Any]]:
    """Write what the server loads at a start; return the file and what the manifest has about it. Raises TargetError.

    Where its append-only files cannot be read, a snapshot is written, and the check warns: a server that uses
    append-only files ignores a snapshot, unless they are turned off first.
    """
    info = server.info()
    about = {
        "target": server.name,
        "server_version": str(info.get("redis_version", "")),
        "run_id": str(info.get("run_id", "")),
        "replication_offset": info.get("master_repl_offset"),
        "append_only": bool(info.get("aof_enabled")),
        "streams_at_least": _last_ids(server, options.streams),
    }
    if info.get("aof_enabled"):
        name, expected = f"redis {server.name}: append-only files", "backed up, since the server loads them"
        with ExitStack() as stack:
            try:
                folder, manifest = append_only.find(server, options.data)
                opened = append_only.open_files(stack, server, folder, manifest, options.patience)
            except TargetError as error:
                if error.cause in ("failed", "timed_out"):  # of the server, not of what can be seen of its files
                    raise
                observed = (
                    f"not backed up: {error.message}; a snapshot was saved, which the server does not load by itself"
                )
                ctx.check(name, observed, equals=expected, severity=CheckStatus.WARN, hint=error.hint or "")
            else:
                file, found = append_only.save(writer, server, opened)
                ctx.passed(name, f"{len(opened.files)} files, {format_size(opened.size_bytes)}", expected=expected)
                return file, {**about, "file": file.name, **found}
    file = _save_snapshot(ctx, writer, server, options.memory_limit)
    return file, {
        **about,
        "file": file.name,
        "form": "snapshot",
        "keys": file.contents.count if file.contents is not None else None,
        "databases": list(file.contents.names) if file.contents is not None else None,
    }


def _save_snapshot(ctx: Context, writer: SetWriter, server: RedisServer, memory_limit: int | None) -> WrittenFile:
    """Write a snapshot of all databases, which the server saves in the background."""
    room = headroom_criterion(persistence(server), memory_limit)
    if room.status is CheckStatus.FAIL:
        text = f"{server.name}: a save may need {format_size(float(str(room.observed)))}, and {room.expected} is there"
        raise TargetError(text, room.hint, cause="refused")
    with ctx.change("save", f"redis {server.name}", how="SYNC: a background save, sent to this process") as allowed:
        assert allowed  # a dry run does not come to here
        return writer.write(f"redis-{safe_name(server.name)}.rdb", server.snapshot(), "rdb")


def _last_ids(server: RedisServer, streams: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for stream in streams:
        try:
            found[stream] = server.span(stream)[1]
        except TargetError as error:
            if error.cause != "empty":
                raise
    return found
