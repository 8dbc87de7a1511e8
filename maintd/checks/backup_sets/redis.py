"""Snapshots of Redis and Valkey, received over the connection as a replica receives them."""

from __future__ import annotations

from typing import Any

from maintd.checks.backup_sets.layout import safe_name
from maintd.checks.backup_sets.writer import SetWriter, WrittenFile
from maintd.checks.redis.persistence import headroom_criterion, persistence
from maintd.clients.redis import RedisServer
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.units import format_size


def save_snapshot(
    ctx: Context, writer: SetWriter, server: RedisServer, streams: tuple[str, ...], memory_limit: int | None
) -> tuple[WrittenFile, dict[str, Any]]:
    """Write a snapshot of the server; return the file and what the manifest has about it. Raises TargetError.

    It has all databases, also where the server loads its append-only files at a start: a restore must turn these off
    first, else the server ignores the snapshot.
    """
    info = server.info()
    room = headroom_criterion(persistence(server), memory_limit)
    if room.status is CheckStatus.FAIL:
        text = f"{server.name}: a save may need {format_size(float(str(room.observed)))}, and {room.expected} is there"
        raise TargetError(text, room.hint, cause="refused")
    last_ids: dict[str, str] = {}
    for stream in streams:
        try:
            last_ids[stream] = server.span(stream)[1]
        except TargetError as error:
            if error.cause != "empty":
                raise
    with ctx.change("save", f"redis {server.name}", how="SYNC: a background save, sent to this process") as allowed:
        assert allowed  # a dry run does not come to here
        file = writer.write(f"redis-{safe_name(server.name)}.rdb", server.snapshot(), "rdb")
    about = {
        "target": server.name,
        "file": file.name,
        "server_version": str(info.get("redis_version", "")),
        "run_id": str(info.get("run_id", "")),
        "replication_offset": info.get("master_repl_offset"),
        "append_only": bool(info.get("aof_enabled")),
        "keys": file.contents.count if file.contents is not None else None,
        "databases": list(file.contents.names) if file.contents is not None else None,
        "streams_at_least": last_ids,
    }
    return file, about
