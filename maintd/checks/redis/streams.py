"""Streams of a Redis server: who reads them, what waits, and from where on entries are still needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from maintd.clients.redis import RedisServer
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus

_OLDEST_TIME = datetime(2010, 1, 1, tzinfo=UTC)  # ids may be any number; those of a clock lie after this


@dataclass(frozen=True)
class Consumer:
    """One reader of a group. `idle`: since it last asked for anything."""

    name: str
    pending: int
    idle: timedelta


@dataclass(frozen=True)
class ReadingGroup:
    """A group. `lag` is None when Redis cannot tell; `oldest_pending` is None when nothing is pending."""

    name: str
    lag: int | None
    pending: int
    delivered: str
    oldest_pending: str | None
    consumers: tuple[Consumer, ...]


@dataclass(frozen=True)
class StreamState:
    """A stream. `first` is the oldest entry's id, None when it is empty; `last` the newest that ever was."""

    name: str
    length: int
    first: str | None
    last: str
    groups: tuple[ReadingGroup, ...]


@dataclass(frozen=True)
class StreamLimits:
    """When a stream is not well."""

    max_length: int
    max_age: timedelta
    max_lag: int
    stuck_after: timedelta
    idle_after: timedelta


def look(server: RedisServer, name: str) -> StreamState:
    """Ask; nothing is changed, and no entry is read. Raises TargetError, with cause `empty` for no such stream."""
    stream = server.stream(name)
    first, last = server.span(name)
    groups = tuple(
        ReadingGroup(
            group.name,
            0 if group.lag is None and order(group.delivered) >= order(last) else group.lag,
            group.pending,
            group.delivered,
            _oldest_pending(server.command("XPENDING", name, group.name)) if group.pending else None,
            tuple(_consumer(item) for item in server.command("XINFO", "CONSUMERS", name, group.name)),
        )
        for group in stream.groups
    )
    return StreamState(name, stream.length, first, last, groups)


def _oldest_pending(answer: Any) -> str | None:
    oldest = answer.get("min") if isinstance(answer, Mapping) else answer[1]
    return None if oldest is None else str(oldest)


def _consumer(item: Any) -> Consumer:
    fields = item if isinstance(item, Mapping) else dict(zip(item[::2], item[1::2], strict=True))
    return Consumer(str(fields["name"]), int(fields["pending"]), timedelta(milliseconds=int(fields["idle"])))


def order(entry_id: str) -> tuple[int, int]:
    """Ids compare as numbers: milliseconds, then a count within them."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)


def added_at(entry_id: str) -> datetime | None:
    """When an entry was added, by its id; None when its writer made up one that is no time."""
    try:
        at = datetime.fromtimestamp(order(entry_id)[0] / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return at if at >= _OLDEST_TIME else None


def keep_from(stream: StreamState, retention: timedelta, now: datetime) -> str | None:
    """The id from which on entries are kept: those within the retention, and all that a group was not given or has
    not acknowledged. None when nothing older is there.

    An entry that is trimmed while pending stays pending, and is delivered again as nothing, for ever.
    """
    by_age = f"{int((now - retention).timestamp() * 1000)}-0"
    needed = [by_age]
    for group in stream.groups:
        needed.append(group.delivered)
        if group.oldest_pending is not None:
            needed.append(group.oldest_pending)
    oldest = min(needed, key=order)
    if stream.first is None or order(stream.first) >= order(oldest):
        return None
    return oldest


def trim(server: RedisServer, name: str, keep: str, most: int) -> int:
    """Drop up to so many entries before this id, whole blocks only; how many went. Raises TargetError."""
    return int(server.command("XTRIM", name, "MINID", "~", keep, "LIMIT", most))


def criteria(stream: StreamState, limits: StreamLimits, now: datetime) -> list[Criterion]:
    """What is expected of a stream and its readers."""
    what = f"stream {stream.name}"
    hint = "give XADD a MAXLEN, or let this job trim it"
    judged = [Criterion(f"{what}: entries", stream.length, warn_above=limits.max_length, hint=hint)]
    oldest = added_at(stream.first) if stream.first else None
    if oldest is not None:
        judged.append(Criterion(f"{what}: oldest entry", now - oldest, warn_above=limits.max_age, hint=hint))
    for group in stream.groups:
        judged += _group_criteria(what, stream, group, limits)
    return judged


def _group_criteria(what: str, stream: StreamState, group: ReadingGroup, limits: StreamLimits) -> list[Criterion]:
    named = f"{what} group {group.name}"
    if group.lag is None:
        lag = Criterion(
            f"{named}: lag",
            unknown="entries were deleted, so that Redis cannot count them",
            hint="compare XINFO STREAM",
        )
    else:
        hint = f"{len(group.consumers)} consumers; nothing pending does not mean that they read: is one stuck?"
        lag = Criterion(f"{named}: lag", group.lag, warn_above=limits.max_lag, hint=hint)
    lost = "none"
    if group.oldest_pending is not None and (stream.first is None or order(group.oldest_pending) < order(stream.first)):
        lost = f"from {group.oldest_pending} on"
    stuck = [one for one in group.consumers if one.pending and one.idle > limits.stuck_after]
    unused = [one for one in group.consumers if not one.pending and one.idle > limits.idle_after]
    return [
        lag,
        Criterion(
            f"{named}: pending entries that are gone",
            lost,
            equals="none",
            hint="they are delivered again as nothing: acknowledge them with XACK, or let XAUTOCLAIM drop them",
        ),
        Criterion(
            f"{named}: consumers stuck with pending entries",
            len(stuck),
            at_most=0,
            hint=_names(stuck, "restart it, or give its entries to another with XAUTOCLAIM"),
        ),
        Criterion(
            f"{named}: consumers that are gone",
            len(unused),
            warn_above=0,
            severity=CheckStatus.WARN,
            hint=_names(unused, "remove it with XGROUP DELCONSUMER"),
        ),
    ]


def _names(consumers: list[Consumer], do: str) -> str:
    return f"{', '.join(one.name for one in consumers[:5])}: {do}" if consumers else ""


def judge(ctx: Context, server: str, stream: StreamState, limits: StreamLimits, now: datetime) -> None:
    """Checks and measures of a stream."""
    ctx.report(criteria(stream, limits, now), server)
    ctx.measure("redis_stream_length", stream.length, "", server=server, stream=stream.name)
    for group in stream.groups:
        labels = {"server": server, "stream": stream.name, "group": group.name}
        ctx.measure("redis_stream_pending", group.pending, "", **labels)
        if group.lag is not None:
            ctx.measure("redis_stream_lag", group.lag, "", **labels)
