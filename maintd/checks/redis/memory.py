"""A Redis server's memory as INFO, SLOWLOG and LATENCY tell it, judged by what it is used for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from maintd.clients.redis import RedisServer
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.units import format_duration

Info = Mapping[str, str | int | float]
_FRAGMENTED = 1.5  # allocator_frag_ratio, and only from these many bytes on: a small server is always fragmented
_FRAGMENTED_BYTES = 100 * 2**20
_STALE_WARN, _STALE_FAIL = 15, 30  # percent of expired keys still there; its own clean-up aims below 10


@dataclass(frozen=True)
class SlowCommand:
    """A command that took long. Its arguments, which may be secret, are not kept."""

    number: int
    took: timedelta
    command: str


def memory_criteria(info: Info, limit_bytes: int | None, *, streams: bool) -> list[Criterion]:
    """`limit_bytes`: what the server's container may have, None when not told. `streams`: it is a queue."""
    used, most = number(info, "used_memory"), number(info, "maxmemory")
    policy = str(info.get("maxmemory_policy", ""))
    judged = [
        Criterion(
            "maxmemory",
            int(most),
            at_least=1,
            severity=CheckStatus.WARN,
            unit="B",
            hint="without one it grows until its container is killed: CONFIG SET maxmemory to three quarters of that",
        )
    ]
    bound = min(value for value in (most, limit_bytes) if value) if most or limit_bytes else 0
    if bound:
        hint = f"of what it may have; at maxmemory its policy is {policy}"
        judged.append(
            Criterion("memory used", round(100 * used / bound, 1), at_most=90, warn_above=75, unit="%", hint=hint)
        )
    if most and streams:
        hint = "with streams in it, evicting loses messages: noeviction, or a server of its own for the cache"
        wanted = policy if policy.startswith("volatile-") else "noeviction"  # streams have no expiry
        judged.append(Criterion("eviction policy", policy, equals=wanted, severity=CheckStatus.WARN, hint=hint))
    ratio, lost = number(info, "allocator_frag_ratio"), number(info, "allocator_frag_bytes")
    judged.append(
        Criterion(
            "fragmentation",
            round(ratio, 2) if lost >= _FRAGMENTED_BYTES else 1.0,
            warn_above=_FRAGMENTED,
            hint=f"{lost / 2**20:.0f} MiB: CONFIG SET activedefrag yes, or restart it in a window",
        )
    )
    if "expired_stale_perc" in info:
        judged.append(
            Criterion(
                "expired keys not cleaned yet",
                number(info, "expired_stale_perc"),
                at_most=_STALE_FAIL,
                warn_above=_STALE_WARN,
                unit="%",
                hint="it is too busy to clean up by itself: raise active-expire-effort",
            )
        )
    return judged


def judge(ctx: Context, server: RedisServer, limit_bytes: int | None, slower_than: timedelta, *, streams: bool) -> str:
    """Checks and measures of memory and slow commands; the server's own advice. Raises TargetError without INFO."""
    name, info = server.name, server.info()
    ctx.report(memory_criteria(info, limit_bytes, streams=streams), name)
    for what, key, hint in (
        ("evicted keys", "evicted_keys", "maxmemory is too small for what is kept"),
        ("rejected connections", "rejected_connections", "maxclients was reached"),
    ):
        new = ctx.increase(f"redis_{key}", round(number(info, key)), server=name)
        if new is not None:
            ctx.check(f"{name}: new {what}", new, warn_above=0, hint=hint)
    ctx.increase("redis_expired_keys", round(number(info, "expired_keys")), server=name)
    ctx.measure("redis_used_memory_bytes", number(info, "used_memory"), "B", server=name)
    ctx.measure("redis_peak_bytes", number(info, "used_memory_peak"), "B", server=name)
    ctx.measure("redis_allocator_frag_ratio", number(info, "allocator_frag_ratio"), "", server=name)
    for database, (keys, expires) in databases(info).items():
        ctx.measure("redis_keys", keys, "", server=name, db=database)
        ctx.measure("redis_expires", expires, "", server=name, db=database)
    try:
        _judge_slow_log(ctx, server, str(info.get("run_id", "")), slower_than)
        return str(server.command("MEMORY", "DOCTOR"))
    except TargetError as error:
        ctx.report_error(f"{name}: slow log and memory doctor", error)
        return ""


def _judge_slow_log(ctx: Context, server: RedisServer, instance: str, slower_than: timedelta) -> None:
    """New ones since the last run; the numbers begin anew with the server."""
    labels = {"server": server.name, "instance": instance}
    since = int(ctx.last("redis_slowlog_number", -1, **labels) or 0)
    entries = slow_commands(server)
    slow = [one for one in entries if one.number > since and one.took >= slower_than]
    worst = max(slow, key=lambda one: one.took, default=None)
    hint = f"the slowest was {worst.command}, {format_duration(worst.took)}: SLOWLOG GET shows them" if worst else ""
    ctx.check(f"{server.name}: new slow commands", len(slow), warn_above=0, hint=hint)
    ctx.measure("redis_slowlog_number", max((one.number for one in entries), default=since), "", **labels)


def databases(info: Mapping[str, object]) -> dict[str, tuple[int, int]]:
    """Keys and keys with expiry of each database, from INFO keyspace."""
    found = {}
    for name, entry in info.items():
        if re.fullmatch(r"db\d+", name) and isinstance(entry, Mapping):
            found[name] = (int(entry.get("keys", 0)), int(entry.get("expires", 0)))
    return found


def slow_commands(server: RedisServer) -> list[SlowCommand]:
    """The last entries of the slow log, newest first. Raises TargetError."""
    return [_slow(entry) for entry in server.command("SLOWLOG", "GET", 128)]


def _slow(entry: Mapping[str, Any] | Sequence[Any]) -> SlowCommand:
    """The client library makes a mapping of it, with the words joined, or leaves the list that Redis sends."""
    if isinstance(entry, Mapping):
        entry_number, micros, words = entry["id"], entry["duration"], entry["command"]
        text = words.decode(errors="replace") if isinstance(words, bytes) else str(words)
    else:
        entry_number, micros, text = entry[0], entry[2], str(entry[3][0])
    return SlowCommand(int(entry_number), timedelta(microseconds=int(micros)), text.partition(" ")[0].upper())


def number(info: Info, key: str) -> float:
    """A figure of INFO; 0 where it is not there."""
    value = info.get(key, 0)
    return value if isinstance(value, int | float) else 0
