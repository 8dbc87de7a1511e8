"""Memory, counters and slow commands of a Redis server, from INFO and SLOWLOG."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from maintd.checks.redis import latency
from maintd.clients.redis import Info, RedisServer
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.units import format_duration

_FRAGMENTATION_RATIO = 1.5
_MIN_FRAGMENTED_BYTES = 100 * 2**20  # a small server is always fragmented
_STALE_WARN, _STALE_FAIL = 15, 30  # percent of expired keys not deleted yet; the server aims below 10


@dataclass(frozen=True)
class SlowCommand:
    """An entry of the slow log without the command's arguments, which may be secret."""

    number: int
    duration: timedelta
    command: str


def memory_criteria(info: Info, limit_bytes: int | None, *, streams: bool) -> list[Criterion]:
    """`limit_bytes`: the limit of the server's container, None when not known. `streams`: the server is a queue."""
    max_memory = number(info, "maxmemory")
    policy = str(info.get("maxmemory_policy", ""))
    criteria = [
        Criterion(
            "maxmemory",
            int(max_memory),
            at_least=1,
            severity=CheckStatus.WARN,
            unit="B",
            hint="without it, memory grows until the container is killed: CONFIG SET maxmemory to 3/4 of its limit",
        )
    ]
    bound = min(value for value in (max_memory, limit_bytes) if value) if max_memory or limit_bytes else 0
    if bound:
        criteria.append(used_criterion(info, bound, warn_percent=75, fail_percent=90))
    if max_memory and streams:
        hint = "eviction loses messages of streams: set noeviction, or move the cache to another server"
        wanted = policy if policy.startswith("volatile-") else "noeviction"  # streams have no expiry
        criteria.append(Criterion("eviction policy", policy, equals=wanted, severity=CheckStatus.WARN, hint=hint))
    ratio, lost = number(info, "allocator_frag_ratio"), number(info, "allocator_frag_bytes")
    criteria.append(
        Criterion(
            "fragmentation",
            round(ratio, 2) if lost >= _MIN_FRAGMENTED_BYTES else 1.0,
            warn_above=_FRAGMENTATION_RATIO,
            hint=f"{lost / 2**20:.0f} MiB: CONFIG SET activedefrag yes, or restart it in a maintenance window",
        )
    )
    if "expired_stale_perc" in info:
        criteria.append(
            Criterion(
                "expired keys not cleaned yet",
                number(info, "expired_stale_perc"),
                at_most=_STALE_FAIL,
                warn_above=_STALE_WARN,
                unit="%",
                hint="it is too busy to delete them: raise active-expire-effort",
            )
        )
    return criteria


def used_criterion(info: Info, limit_bytes: float, warn_percent: float, fail_percent: float) -> Criterion:
    """Used memory in percent of a limit, usually maxmemory."""
    return Criterion(
        "memory used",
        round(100 * number(info, "used_memory") / limit_bytes, 1),
        at_most=fail_percent,
        warn_above=warn_percent,
        unit="%",
        hint=f"at maxmemory it applies its policy {info.get('maxmemory_policy')}",
    )


def report_counters(ctx: Context, subject: str, server: str, info: Info) -> None:
    """Report keys evicted and connections rejected since the last run."""
    for what, key, hint in (
        ("evicted keys", "evicted_keys", "maxmemory is too small for the data"),
        ("rejected connections", "rejected_connections", "maxclients was reached"),
    ):
        new = ctx.increase(f"redis_{key}", round(number(info, key)), server=server)
        if new is not None:
            ctx.check(f"{subject}: new {what}", new, warn_above=0, hint=hint)


def report(
    ctx: Context, server: RedisServer, limit_bytes: int | None, slower_than: timedelta, *, streams: bool
) -> None:
    """Report memory, counters and slow commands; save the server's MEMORY DOCTOR. Raises TargetError without INFO."""
    name, info = server.name, server.info()
    ctx.report(memory_criteria(info, limit_bytes, streams=streams), name)
    report_counters(ctx, name, name, info)
    ctx.increase("redis_expired_keys", round(number(info, "expired_keys")), server=name)
    ctx.measure("redis_used_memory_bytes", number(info, "used_memory"), "B", server=name)
    ctx.measure("redis_peak_bytes", number(info, "used_memory_peak"), "B", server=name)
    ctx.measure("redis_allocator_frag_ratio", number(info, "allocator_frag_ratio"), "", server=name)
    for database, (keys, expires) in databases(info).items():
        ctx.measure("redis_keys", keys, "", server=name, db=database)
        ctx.measure("redis_expires", expires, "", server=name, db=database)
    try:
        _report_slow_commands(ctx, server, str(info.get("run_id", "")), slower_than)
        advice = str(server.command("MEMORY", "DOCTOR"))
    except TargetError as error:
        ctx.report_error(f"{name}: slow log and memory doctor", error)
    else:
        if advice:
            ctx.save(f"memory-doctor-{name}.txt", advice)
    latency.report(ctx, server, str(info.get("run_id", "")))


def _report_slow_commands(ctx: Context, server: RedisServer, instance: str, slower_than: timedelta) -> None:
    """Those since the last run; the server numbers them from zero after each start."""
    labels = {"server": server.name, "instance": instance}
    since = int(ctx.last("redis_slowlog_number", -1, **labels) or 0)
    entries = slow_commands(server)
    slow = [entry for entry in entries if entry.number > since and entry.duration >= slower_than]
    slowest = max(slow, key=lambda entry: entry.duration, default=None)
    hint = ""
    if slowest:
        hint = f"the slowest was {slowest.command}, {format_duration(slowest.duration)}: list them with SLOWLOG GET"
    ctx.check(f"{server.name}: new slow commands", len(slow), warn_above=0, hint=hint)
    ctx.measure("redis_slowlog_number", max((entry.number for entry in entries), default=since), "", **labels)


def databases(info: Mapping[str, object]) -> dict[str, tuple[int, int]]:
    """The number of keys, and of those with an expiry, of each database."""
    found = {}
    for name, entry in info.items():
        if re.fullmatch(r"db\d+", name) and isinstance(entry, Mapping):
            found[name] = (int(entry.get("keys", 0)), int(entry.get("expires", 0)))
    return found


def slow_commands(server: RedisServer) -> list[SlowCommand]:
    """The last 128 entries of the slow log, newest first. Raises TargetError."""
    return [_slow(entry) for entry in server.command("SLOWLOG", "GET", 128)]


def _slow(entry: Mapping[str, Any] | Sequence[Any]) -> SlowCommand:
    """redis-py parses the entry into a mapping, with the words joined, or returns the list that Redis sends."""
    if isinstance(entry, Mapping):
        entry_number, micros, words = entry["id"], entry["duration"], entry["command"]
        text = words.decode(errors="replace") if isinstance(words, bytes) else str(words)
    else:
        entry_number, micros, text = entry[0], entry[2], str(entry[3][0])
    return SlowCommand(int(entry_number), timedelta(microseconds=int(micros)), text.partition(" ")[0].upper())


def number(info: Info, key: str) -> float:
    """A number of INFO, 0 when it is missing."""
    value = info.get(key, 0)
    return value if isinstance(value, int | float) else 0
