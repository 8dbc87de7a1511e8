"""A Redis server: persistence, memory, clients, and how far the readers of its streams are behind."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from maintd.checks.limits import Limits
from maintd.clients import redis
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.target import RedisTarget
from maintd.units import Duration

Info = Mapping[str, str | int | float]
_COUNT_AT_MOST = 1000  # entries behind, where Redis does not keep the number itself


class RedisLimits(Limits):
    """When a Redis server, or who reads from it, is not well."""

    memory_warn: float = 80
    memory_fail: float = 90
    """Percent of maxmemory, where it is set."""
    clients_warn: float = 75
    clients_fail: float = 90
    """Percent of maxclients."""
    lag_warn: int = 50
    """Entries of a stream that a group was not given yet."""
    lag_age_warn: Duration = timedelta(minutes=5)
    """How long an entry may wait until a group is given it."""
    pending_warn: int = 50
    """Entries that a group was given and did not acknowledge."""
    dead_letter_suffix: str = ".dlq"
    """A stream's dead letters are in the stream of its name and this."""
    dead_letters_fail: int = 5
    """New dead letters since the last run; fewer warn."""


@dataclass(frozen=True)
class Backlog:
    """How far a group is behind. `lag` is None when it cannot be told. `waited` is the oldest entry's time, at least;
    None when nothing waits, or when the stream's ids are no times."""

    group: redis.Group
    lag: int | None
    waited: timedelta | TargetError | None


@dataclass(frozen=True)
class StreamFacts:
    """A stream, its groups, and its dead letters: their number, or why not."""

    stream: redis.Stream
    backlogs: tuple[Backlog, ...]
    dead_letters: int | TargetError


@dataclass(frozen=True)
class RedisFacts:
    """INFO, and each stream or why not."""

    info: Info | TargetError
    streams: Mapping[str, StreamFacts | TargetError]


def look(target: RedisTarget, name: str, limits: RedisLimits) -> RedisFacts:
    """Ask; nothing is written. Raises TargetError when PING has no answer."""
    with redis.connect(target, name=name) as server:
        server.ping()
        try:
            info: Info | TargetError = server.info()
        except TargetError as error:
            info = error
        return RedisFacts(info, {stream: _stream(server, stream, limits) for stream in target.streams})


def _stream(server: redis.RedisServer, name: str, limits: RedisLimits) -> StreamFacts | TargetError:
    try:
        stream = server.stream(name)
        backlogs = tuple(_backlog(server, stream, group) for group in stream.groups)
    except TargetError as error:
        return error
    try:
        dead: int | TargetError = int(server.command("XLEN", name + limits.dead_letter_suffix))
    except TargetError as error:
        dead = error
    return StreamFacts(stream, backlogs, dead)


def _backlog(server: redis.RedisServer, stream: redis.Stream, group: redis.Group) -> Backlog:
    """Redis keeps no lag before version 7, nor after entries were deleted: then they are counted, up to a bound."""
    if group.lag == 0:
        return Backlog(group, 0, None)
    try:
        waiting = server.after(stream.name, group.delivered, 1 if group.lag is not None else _COUNT_AT_MOST)
    except TargetError as error:
        if error.cause != "denied":
            raise
        return _estimate(server, stream, group)
    lag = len(waiting) if group.lag is None else group.lag
    return Backlog(group, lag, _age(waiting[0]) if waiting else None)


def _estimate(server: redis.RedisServer, stream: redis.Stream, group: redis.Group) -> Backlog:
    """For a user who may not read entries: only the ends of the stream are known, so that an age is a least one."""
    try:
        first, last = server.span(stream.name)
    except TargetError as error:
        return Backlog(group, group.lag, error)
    if _order(last) <= _order(group.delivered):
        return Backlog(group, 0, None)
    oldest = first if first is not None and _order(first) > _order(group.delivered) else last
    return Backlog(group, group.lag, _age(oldest))


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)


def _age(entry_id: str) -> timedelta | None:
    """An entry's id begins with the milliseconds at which it was added, unless its writer gave another."""
    age = time.time() - _order(entry_id)[0] / 1000
    return timedelta(seconds=age) if 0 <= age < 10 * 365 * 86400 else None


def judge(ctx: Context, name: str, facts: RedisFacts, limits: RedisLimits) -> None:
    """Checks and measures of one server."""
    subject = f"redis {name}"
    ctx.check(f"{subject}: answers", "PONG", equals="PONG")
    if isinstance(facts.info, TargetError):
        ctx.report_error(f"{subject}: INFO", facts.info)
    else:
        _persistence(ctx, subject, facts.info)
        _room(ctx, subject, name, facts.info, limits)
    for stream, seen in facts.streams.items():
        if isinstance(seen, TargetError):
            ctx.unknown(f"{subject}: stream {stream}", f"{seen.cause}: {seen.message}", hint=seen.hint or "")
        else:
            _judge_stream(ctx, subject, name, seen, limits)


def _persistence(ctx: Context, subject: str, info: Info) -> None:
    ctx.check(f"{subject}: loading", info.get("loading", 0), equals=0, hint="it serves when it has loaded its data")
    hint = "it cannot save: look at its disk and its log; writes may be refused (MISCONF)"
    checks = {"last background save": "rdb_last_bgsave_status"}
    if info.get("aof_enabled"):
        checks |= {"append-only file": "aof_last_write_status", "last rewrite": "aof_last_bgrewrite_status"}
    for what, key in checks.items():
        ctx.check(f"{subject}: {what}", info.get(key), equals="ok", hint=hint)
    ctx.log(f"{subject}: {info.get('role')}, version {info.get('redis_version')}")
    if info.get("role") == "slave":
        ctx.check(
            f"{subject}: link to its master", info.get("master_link_status"), equals="up", hint="is the master up?"
        )


def _room(ctx: Context, subject: str, name: str, info: Info, limits: RedisLimits) -> None:
    used, most = _number(info, "used_memory"), _number(info, "maxmemory")
    if most:
        ctx.check(
            f"{subject}: memory used",
            round(100 * used / most, 1),
            at_most=limits.memory_fail,
            warn_above=limits.memory_warn,
            unit="%",
            hint=f"of maxmemory; then it follows its policy, {info.get('maxmemory_policy')}",
        )
    clients, most_clients = _number(info, "connected_clients"), _number(info, "maxclients")
    if most_clients:
        ctx.check(
            f"{subject}: clients",
            round(100 * clients / most_clients, 1),
            at_most=limits.clients_fail,
            warn_above=limits.clients_warn,
            unit="%",
            hint="of maxclients: see who with CLIENT LIST",
        )
    for what, key, hint in (
        ("evicted keys", "evicted_keys", "maxmemory is too small for what is kept"),
        ("rejected connections", "rejected_connections", "maxclients was reached"),
    ):
        new = ctx.increase(f"redis_{key}", round(_number(info, key)), server=name)
        if new is not None:
            ctx.check(f"{subject}: new {what}", new, warn_above=0, hint=hint)
    ctx.measure("redis_used_memory_bytes", used, "B", server=name)
    ctx.measure("redis_connected_clients", clients, "", server=name)
    ctx.measure("redis_blocked_clients", _number(info, "blocked_clients"), "", server=name)


def _judge_stream(ctx: Context, subject: str, name: str, seen: StreamFacts, limits: RedisLimits) -> None:
    stream = seen.stream.name
    ctx.measure("redis_stream_length", seen.stream.length, "", server=name, stream=stream)
    if not seen.backlogs:
        ctx.log(f"{subject}: stream {stream} has no group: nobody is known to read it")
    for backlog in seen.backlogs:
        _judge_backlog(ctx, f"{subject}: stream {stream} group {backlog.group.name}", backlog, limits)
        labels = {"server": name, "stream": stream, "group": backlog.group.name}
        ctx.measure("redis_stream_pending", backlog.group.pending, "", **labels)
        if backlog.lag is not None:
            ctx.measure("redis_stream_lag", backlog.lag, "", **labels)
    _judge_dead_letters(ctx, subject, name, seen, limits)


def _judge_backlog(ctx: Context, what: str, backlog: Backlog, limits: RedisLimits) -> None:
    consumers = f"{backlog.group.consumers} consumers; nothing pending does not mean that they read: is one stuck?"
    ctx.check(
        f"{what} pending",
        backlog.group.pending,
        warn_above=limits.pending_warn,
        hint="given and not acknowledged: XPENDING shows to whom",
    )
    if backlog.lag is None:
        ctx.unknown(f"{what} lag", "denied: entries were deleted, so they have to be counted", hint="allow XRANGE")
    else:
        ctx.check(f"{what} lag", backlog.lag, warn_above=limits.lag_warn, hint=consumers)
    if backlog.lag == 0:
        ctx.check(f"{what} oldest undelivered", timedelta(0), warn_above=limits.lag_age_warn)
    elif isinstance(backlog.waited, TargetError):
        ctx.unknown(f"{what} oldest undelivered", f"denied: {backlog.waited.message}", hint=backlog.waited.hint or "")
    elif backlog.waited is not None:
        ctx.check(f"{what} oldest undelivered", backlog.waited, warn_above=limits.lag_age_warn, hint=consumers)


def _judge_dead_letters(ctx: Context, subject: str, name: str, seen: StreamFacts, limits: RedisLimits) -> None:
    stream = seen.stream.name
    what = f"{subject}: stream {stream} new dead letters"
    if isinstance(seen.dead_letters, TargetError):
        ctx.unknown(what, f"{seen.dead_letters.cause}: {seen.dead_letters.message}", hint=seen.dead_letters.hint or "")
        return
    hint = f"see why: XRANGE {stream}{limits.dead_letter_suffix} - + COUNT 10"
    new = ctx.increase("redis_dlq_length", seen.dead_letters, server=name, stream=stream)
    if new is None:  # how old they are is not known
        ctx.check(what, seen.dead_letters, warn_above=0, hint=hint)
    else:
        ctx.check(what, new, at_most=limits.dead_letters_fail, warn_above=0, hint=hint)


def _number(info: Info, key: str) -> float:
    value = info.get(key, 0)
    return value if isinstance(value, int | float) else 0
