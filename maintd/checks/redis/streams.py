"""Streams of a Redis server: consumer groups, pending entries, trimming."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from maintd.checks.probes import as_target_error
from maintd.checks.redis.keyspace import Throttle, batches, printable, scan
from maintd.clients.redis import RedisServer
from maintd.errors import TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus

TRIM_STEP = 10_000  # entries of one XTRIM
_MIN_TIME = datetime(2010, 1, 1, tzinfo=UTC)  # ids may be any number; timestamps are later than this


@dataclass(frozen=True)
class Consumer:
    """A consumer of a group. `idle`: time since its last command."""

    name: str
    pending: int
    idle: timedelta


@dataclass(frozen=True)
class ConsumerGroup:
    """A consumer group. `lag` is None when Redis does not know; `oldest_pending` is None when nothing is pending."""

    name: str
    lag: int | None
    pending: int
    delivered: str
    oldest_pending: str | None
    consumers: tuple[Consumer, ...]


@dataclass(frozen=True)
class StreamState:
    """A stream. `first`: id of the oldest entry, None when it is empty; `last`: id of the last entry ever added."""

    name: str
    length: int
    first: str | None
    last: str
    groups: tuple[ConsumerGroup, ...]


@dataclass(frozen=True)
class StreamLimits:
    """Limits for a stream and its consumers."""

    max_length: int
    max_age: timedelta
    max_lag: int
    lag_fail: int
    stuck_after: timedelta
    idle_after: timedelta


def read_stream(server: RedisServer, name: str) -> StreamState:
    """The state of a stream; no entry is read. Raises TargetError; cause `empty` without such a stream."""
    stream = server.stream(name)
    first, last = server.span(name)
    groups = tuple(
        ConsumerGroup(
            group.name,
            0 if group.lag is None and id_order(group.delivered) >= id_order(last) else group.lag,
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


def find_streams(
    ctx: Context, server: RedisServer, pace: Throttle | None, required: Collection[str]
) -> list[StreamState]:
    """The required streams and, with a pace to scan by, all others; a required one without an answer is unknown."""
    names = dict.fromkeys(required)
    if pace is not None:
        for keys in scan(server, pace, "stream"):
            names |= dict.fromkeys(keys)
    found = []
    for name in names:
        try:
            with as_target_error(f"{server.name}: stream {printable(name)}"):
                found.append(read_stream(server, name))
        except TargetError as error:
            if name in required or error.cause != "empty":
                check = f"{server.name}: stream {printable(name)}"
                ctx.report_error(check, error, role=Role.SOURCE)
    return found


def id_order(entry_id: str) -> tuple[int, int]:
    """The sort key of an entry id: milliseconds, then the number within them."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)


def added_at(entry_id: str) -> datetime | None:
    """When an entry was added, by its id; None when the id is not a timestamp."""
    try:
        at = datetime.fromtimestamp(id_order(entry_id)[0] / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return at if at >= _MIN_TIME else None


def keep_from(stream: StreamState, retention: timedelta, now: datetime) -> str | None:
    """The id of the oldest entry to keep, or None when there is no older one.

    Kept are entries within the retention and all that are not delivered to or not acknowledged by every group: an
    entry that is trimmed while pending stays pending forever.
    """
    by_age = f"{int((now - retention).timestamp() * 1000)}-0"
    needed = [by_age]
    for group in stream.groups:
        needed.append(group.delivered)
        if group.oldest_pending is not None:
            needed.append(group.oldest_pending)
    oldest = min(needed, key=id_order)
    if stream.first is None or id_order(stream.first) >= id_order(oldest):
        return None
    return oldest


def trim(
    ctx: Context, server: RedisServer, pace: Throttle, name: str, retention: timedelta, max_entries: int
) -> StreamState:
    """Drop entries older than the retention that no group needs, at most `max_entries`; return the stream's new state.

    XTRIM drops whole blocks only, so that some old entries stay. Raises TargetError.
    """
    stream = read_stream(server, name)
    keep = keep_from(stream, retention, ctx.now())
    if keep is None:
        return stream
    dropped, label = 0, f"{server.name}: {printable(name)}"
    with ctx.phase(f"{server.name}: trim {printable(name)} before {keep}"):
        with ctx.change("trim", label, before=keep, entries=stream.length) as allowed:
            for _ in batches(pace, range(max_entries // TRIM_STEP if allowed else 0), 1):
                count = int(server.command("XTRIM", name, "MINID", "~", keep, "LIMIT", TRIM_STEP))
                dropped += count
                allowed.observed(dropped=dropped)
                ctx.progress(dropped, None, "entry")
                if not count:
                    break
            if not dropped:
                allowed.refused("no whole block of entries is older")
        if allowed:
            ctx.log(f"{label}: {dropped} of {stream.length} entries dropped")
            ctx.measure("redis_stream_trimmed", dropped, "", server=server.name, stream=printable(name))
    return read_stream(server, name)


def stream_criteria(stream: StreamState, limits: StreamLimits, now: datetime) -> list[Criterion]:
    """A stream's length and age, and its groups' lag and consumers."""
    what = f"stream {stream.name}"
    hint = "give XADD a MAXLEN, or let this job trim it"
    criteria = [Criterion(f"{what}: entries", stream.length, warn_above=limits.max_length, hint=hint)]
    oldest = added_at(stream.first) if stream.first else None
    if oldest is not None:
        criteria.append(Criterion(f"{what}: oldest entry", now - oldest, warn_above=limits.max_age, hint=hint))
    for group in stream.groups:
        criteria += _group_criteria(what, stream, group, limits)
    return criteria


def _group_criteria(what: str, stream: StreamState, group: ConsumerGroup, limits: StreamLimits) -> list[Criterion]:
    named = f"{what} group {group.name}"
    if group.lag is None:
        lag = Criterion(
            f"{named}: lag",
            unknown="Redis cannot count the entries, because some were deleted",
            hint="compare XINFO STREAM and XINFO GROUPS",
        )
    else:
        hint = lag_hint(len(group.consumers))
        lag = Criterion(f"{named}: lag", group.lag, at_most=limits.lag_fail, warn_above=limits.max_lag, hint=hint)
    lost = "none"
    if group.oldest_pending is not None and (
        stream.first is None or id_order(group.oldest_pending) < id_order(stream.first)
    ):
        lost = f"from {group.oldest_pending} on"
    stuck = [reader for reader in group.consumers if reader.pending and reader.idle > limits.stuck_after]
    unused = [reader for reader in group.consumers if not reader.pending and reader.idle > limits.idle_after]
    return [
        lag,
        Criterion(
            f"{named}: pending entries that are gone",
            lost,
            equals="none",
            hint="they were trimmed: acknowledge them with XACK, or drop them with XAUTOCLAIM",
        ),
        Criterion(
            f"{named}: consumers stuck with pending entries",
            len(stuck),
            at_most=0,
            hint=_names(stuck, "restart it, or claim its entries with XAUTOCLAIM"),
        ),
        Criterion(
            f"{named}: consumers that are gone",
            len(unused),
            warn_above=0,
            severity=CheckStatus.WARN,
            hint=_names(unused, "remove it with XGROUP DELCONSUMER"),
        ),
    ]


def lag_hint(consumers: int) -> str:
    """The hint of a group that lags."""
    return f"{consumers} consumers: check whether one is stuck; an idle one has nothing pending either"


def _names(consumers: list[Consumer], advice: str) -> str:
    return f"{', '.join(consumer.name for consumer in consumers[:5])}: {advice}" if consumers else ""


def report(ctx: Context, server: str, stream: StreamState, limits: StreamLimits) -> None:
    """Report the checks and measures of a stream."""
    ctx.report(stream_criteria(stream, limits, ctx.now()), server)
    ctx.measure("redis_stream_length", stream.length, "", server=server, stream=stream.name)
    for group in stream.groups:
        labels = {"server": server, "stream": stream.name, "group": group.name}
        ctx.measure("redis_stream_pending", group.pending, "", **labels)
        if group.lag is not None:
            ctx.measure("redis_stream_lag", group.lag, "", **labels)
