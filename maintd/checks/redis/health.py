"""Health of a Redis server: persistence, memory, clients, and the lag of its streams' consumer groups."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import TypeAdapter

from maintd.checks.clock_offset import ClockLimits, ClockOffset, clock_offset, report_clock
from maintd.checks.probes import answered, value_or_error
from maintd.checks.redis.memory import number, report_counters, used_criterion
from maintd.checks.redis.streams import added_at, id_order, lag_hint
from maintd.clients import redis
from maintd.clients.redis import Info
from maintd.clients.shapes import read
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.target import RedisTarget
from maintd.units import Duration

_TIME = TypeAdapter(tuple[int, int])  # seconds and microseconds
_MAX_COUNTED = 100_000  # ids of undelivered entries to read, when Redis does not know the lag


class RedisLimits(ClockLimits):
    """Limits for a Redis server and the consumer groups of its streams."""

    memory_warn: float = 80
    memory_fail: float = 90
    """Percent of maxmemory, when it is set."""
    clients_warn: float = 75
    clients_fail: float = 90
    """Percent of maxclients."""
    lag_warn: int = 50
    lag_fail: int = 1000
    """Entries of a stream not yet delivered to a group."""
    lag_age_warn: Duration = timedelta(minutes=5)
    lag_age_fail: Duration = timedelta(hours=1)
    """How long an entry waits for its delivery to a group."""
    pending_warn: int = 50
    pending_fail: int = 1000
    """Entries delivered to a group and not acknowledged."""
    dead_letter_suffix: str = ".dlq"
    """Suffix of the name of a stream's dead-letter stream."""
    dead_letters_fail: int = 5
    """Dead letters since the last run that fail; fewer warn."""


@dataclass(frozen=True)
class Backlog:
    """The undelivered entries of a group.

    `lag`: their number, None when not known. `waited`: the minimum age of the oldest one; None without one, or when the
    stream's ids are not timestamps. `counted_all`: `lag` is not a part of them that is below the limit.
    """

    group: redis.Group
    lag: int | None
    waited: timedelta | TargetError | None
    counted_all: bool = True


@dataclass(frozen=True)
class StreamFacts:
    """A stream, its groups, and the number of its dead letters or the error."""

    stream: redis.Stream
    backlogs: tuple[Backlog, ...]
    dead_letters: int | TargetError


@dataclass(frozen=True)
class RedisFacts:
    """INFO, each stream and the clock, or the error."""

    info: Info | TargetError
    streams: Mapping[str, StreamFacts | TargetError]
    clock: ClockOffset | TargetError


def collect(target: RedisTarget, name: str, limits: RedisLimits) -> RedisFacts:
    """Read INFO and the target's streams. Raises TargetError when PING has no answer."""
    with redis.connect(target, name=name) as server:
        server.ping()
        answered()
        before = time.time()
        try:
            info: Info | TargetError = server.info()
        except TargetError as error:
            info = error
        received = time.time()
        known = {} if isinstance(info, TargetError) else info
        clock = value_or_error(lambda: _clock(server, known, before, received))
        return RedisFacts(info, {stream: _stream(server, stream, limits) for stream in target.streams}, clock)


def _clock(server: redis.RedisServer, info: Info, sent: float, received: float) -> ClockOffset:
    """By the time in INFO, which was asked for at `sent`; of a server before Redis 6.2 by TIME. Raises TargetError."""
    micros = number(info, "server_time_usec")
    if micros <= 0:
        sent = time.time()
        seconds, rest = read(_TIME, server.command("TIME"), f"{server.name}: unexpected answer to TIME")
        micros, received = seconds * 1_000_000 + rest, time.time()
    return clock_offset(micros / 1e6, sent, received)


def _stream(server: redis.RedisServer, name: str, limits: RedisLimits) -> StreamFacts | TargetError:
    try:
        stream = server.stream(name)
        backlogs = tuple(_backlog(server, stream, group, limits) for group in stream.groups)
    except TargetError as error:
        return error
    try:
        dead: int | TargetError = int(server.command("XLEN", name + limits.dead_letter_suffix))
    except TargetError as error:
        dead = error
    return StreamFacts(stream, backlogs, dead)


def _backlog(server: redis.RedisServer, stream: redis.Stream, group: redis.Group, limits: RedisLimits) -> Backlog:
    """Redis does not know the lag before version 7 and after entries were deleted: then count until it fails."""
    if group.lag == 0:
        return Backlog(group, 0, None)
    at_most = min(max(limits.lag_warn, limits.lag_fail) + 1, _MAX_COUNTED)
    try:
        waiting = server.after(stream.name, group.delivered, 1 if group.lag is not None else at_most)
    except TargetError as error:
        if error.cause != "denied":
            raise
        return _estimate(server, stream, group)
    lag = len(waiting) if group.lag is None else group.lag
    counted_all = group.lag is not None or len(waiting) < at_most or lag > limits.lag_fail
    return Backlog(group, lag, _age(waiting[0]) if waiting else None, counted_all)


def _estimate(server: redis.RedisServer, stream: redis.Stream, group: redis.Group) -> Backlog:
    """The backlog for a user who may not read entries: only the ids of the first and last entry are known."""
    try:
        first, last = server.span(stream.name)
    except TargetError as error:
        return Backlog(group, group.lag, error)
    if id_order(last) <= id_order(group.delivered):
        return Backlog(group, 0, None)
    oldest = first if first is not None and id_order(first) > id_order(group.delivered) else last
    return Backlog(group, group.lag, _age(oldest))


def _age(entry_id: str) -> timedelta | None:
    at = added_at(entry_id)
    age = datetime.now(UTC) - at if at else timedelta(-1)
    return age if age >= timedelta(0) else None


def report(ctx: Context, name: str, facts: RedisFacts, limits: RedisLimits) -> None:
    """Report the checks and measures of one server."""
    subject = f"redis {name}"
    ctx.check(f"{subject}: answers", "PONG", equals="PONG")
    if isinstance(facts.info, TargetError):
        ctx.report_error(f"{subject}: INFO", facts.info)
    else:
        _report_persistence(ctx, subject, facts.info)
        _report_usage(ctx, subject, name, facts.info, limits)
    report_clock(ctx, subject, facts.clock, limits)
    for stream, state in facts.streams.items():
        if isinstance(state, TargetError):
            ctx.unknown(f"{subject}: stream {stream}", f"{state.cause}: {state.message}", hint=state.hint or "")
        else:
            _report_stream(ctx, subject, name, state, limits)


def _report_persistence(ctx: Context, subject: str, info: Info) -> None:
    ctx.check(f"{subject}: loading", info.get("loading", 0), equals=0, hint="wait until it has loaded its data")
    hint = "it cannot save: check its disk and its log; it may refuse writes (MISCONF)"
    checks = {"last background save": "rdb_last_bgsave_status"}
    if info.get("aof_enabled"):
        checks |= {"append-only file": "aof_last_write_status", "last rewrite": "aof_last_bgrewrite_status"}
    for check, key in checks.items():
        ctx.check(f"{subject}: {check}", info.get(key), equals="ok", hint=hint)
    ctx.log(f"{subject}: {info.get('role')}, version {info.get('redis_version')}")
    if info.get("role") == "slave":
        hint = "check whether the master is up"
        ctx.check(f"{subject}: link to its master", info.get("master_link_status"), equals="up", hint=hint)


def _report_usage(ctx: Context, subject: str, name: str, info: Info, limits: RedisLimits) -> None:
    max_memory, max_clients = number(info, "maxmemory"), number(info, "maxclients")
    clients = number(info, "connected_clients")
    if max_memory:
        ctx.report([used_criterion(info, max_memory, limits.memory_warn, limits.memory_fail)], subject)
    if max_clients:
        ctx.check(
            f"{subject}: clients",
            round(100 * clients / max_clients, 1),
            at_most=limits.clients_fail,
            warn_above=limits.clients_warn,
            unit="%",
            hint="of maxclients: list them with CLIENT LIST",
        )
    report_counters(ctx, subject, name, info)
    ctx.measure("redis_used_memory_bytes", number(info, "used_memory"), "B", server=name)
    ctx.measure("redis_connected_clients", clients, "", server=name)
    ctx.measure("redis_blocked_clients", number(info, "blocked_clients"), "", server=name)


def _report_stream(ctx: Context, subject: str, name: str, state: StreamFacts, limits: RedisLimits) -> None:
    stream = state.stream.name
    ctx.measure("redis_stream_length", state.stream.length, "", server=name, stream=stream)
    if not state.backlogs:
        ctx.log(f"{subject}: stream {stream} has no consumer group")
    for backlog in state.backlogs:
        _report_backlog(ctx, f"{subject}: stream {stream} group {backlog.group.name}", backlog, limits)
        labels = {"server": name, "stream": stream, "group": backlog.group.name}
        ctx.measure("redis_stream_pending", backlog.group.pending, "", **labels)
        if backlog.lag is not None:
            ctx.measure("redis_stream_lag", backlog.lag, "", **labels)
    _report_dead_letters(ctx, subject, name, state, limits)


def _report_backlog(ctx: Context, subject: str, backlog: Backlog, limits: RedisLimits) -> None:
    hint = lag_hint(backlog.group.consumers)
    ctx.check(
        f"{subject} pending",
        backlog.group.pending,
        at_most=limits.pending_fail,
        warn_above=limits.pending_warn,
        hint="delivered and not acknowledged: list them with XPENDING",
    )
    if backlog.lag is None:
        ctx.unknown(
            f"{subject} lag", "denied: entries were deleted, and counting needs XRANGE", hint="allow XRANGE in its ACL"
        )
    elif not backlog.counted_all:
        ctx.unknown(f"{subject} lag", f"only the first {backlog.lag} entries were counted", hint=hint)
    else:
        ctx.check(f"{subject} lag", backlog.lag, at_most=limits.lag_fail, warn_above=limits.lag_warn, hint=hint)
    oldest, waited = f"{subject} oldest undelivered", timedelta(0) if backlog.lag == 0 else backlog.waited
    if isinstance(waited, TargetError):
        ctx.unknown(oldest, f"denied: {waited.message}", hint=waited.hint or "")
    elif waited is not None:
        ctx.check(oldest, waited, at_most=limits.lag_age_fail, warn_above=limits.lag_age_warn, hint=hint)


def _report_dead_letters(ctx: Context, subject: str, name: str, state: StreamFacts, limits: RedisLimits) -> None:
    stream, count = state.stream.name, state.dead_letters
    check = f"{subject}: stream {stream} new dead letters"
    if isinstance(count, TargetError):
        ctx.unknown(check, f"{count.cause}: {count.message}", hint=count.hint or "")
        return
    hint = f"read them: XRANGE {stream}{limits.dead_letter_suffix} - + COUNT 10"
    new = ctx.increase("redis_dlq_length", count, server=name, stream=stream)
    if new is None:  # the first run: their age is not known
        ctx.check(check, count, warn_above=0, hint=hint)
    else:
        ctx.check(check, new, at_most=limits.dead_letters_fail, warn_above=0, hint=hint)
