"""Latency events of a Redis server: what blocked it for longer than its latency-monitor-threshold.

Source: https://redis.io/docs/latest/operate/oss_and_stack/management/optimization/latency-monitor/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from maintd.clients.redis import RedisServer
from maintd.errors import TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.units import format_duration

_REJECTED = ("denied", "failed")  # by the ACL; a command that the server does not have, or has renamed


@dataclass(frozen=True)
class LatencyEvent:
    """A kind of event, such as `command` or `fork`: when the last one was, how long that and the longest one took."""

    kind: str
    at: datetime
    latest: timedelta
    longest: timedelta


def report(ctx: Context, server: RedisServer, instance: str) -> None:
    """Report the kinds of events since the last run of this instance.

    Without events, they are only ruled out when the server's monitor is on; else they are unknown, which is optional:
    the monitor is off by default.
    """
    check = f"{server.name}: new latency events"
    labels = {"server": server.name, "instance": instance}
    try:
        events = read_events(server)
        threshold = None if events else read_threshold(server)
    except TargetError as error:
        if error.cause in _REJECTED:
            hint = error.hint or "allow LATENCY LATEST and CONFIG GET in its ACL"
            ctx.unknown(check, f"{error.cause}: {error.message}", hint=hint, optional=True)
        else:
            ctx.report_error(check, error, role=Role.SOURCE)
        return
    if threshold is not None and threshold <= timedelta(0):
        hint = "CONFIG SET latency-monitor-threshold 100 records what blocks the server for over 100 ms"
        ctx.unknown(check, "its latency monitor is off", hint=hint, optional=True)
        return
    since = ctx.last("redis_latency_event_at", None, **labels)
    new = [event for event in events if since is None or event.at.timestamp() > since]
    ctx.report([events_criterion(check, new)])
    if events:
        ctx.measure("redis_latency_event_at", max(event.at for event in events).timestamp(), "s", **labels)
    for event in new:
        labels_of_event = {"server": server.name, "event": event.kind}
        ctx.measure("redis_latency_seconds", event.latest.total_seconds(), "s", **labels_of_event)


def events_criterion(check: str, events: list[LatencyEvent]) -> Criterion:
    """The number of kinds of new events; the hint names them, the longest of the latest first."""
    slowest = sorted(events, key=lambda event: event.latest, reverse=True)
    texts = [
        f"{event.kind} {format_duration(event.latest)} at {event.at:%Y-%m-%d %H:%M:%SZ} "
        f"(longest {format_duration(event.longest)})"
        for event in slowest[:5]
    ]
    hint = "; ".join([*texts, "see LATENCY DOCTOR, then LATENCY RESET"]) if texts else ""
    return Criterion(check, len(events), warn_above=0, hint=hint)


def read_events(server: RedisServer) -> list[LatencyEvent]:
    """The kinds of events since the server's start or the last LATENCY RESET. Raises TargetError."""
    return parse_events(server.name, server.command("LATENCY", "LATEST"))


def parse_events(name: str, answer: Any) -> list[LatencyEvent]:
    """The events in an answer to LATENCY LATEST. Raises TargetError(cause="malformed")."""
    try:
        return [_event(item) for item in answer]
    except (TypeError, ValueError, LookupError, OverflowError, OSError) as error:
        raise TargetError(f"{name}: LATENCY LATEST is not what Redis answers", cause="malformed") from error


def read_threshold(server: RedisServer) -> timedelta:
    """The server's latency-monitor-threshold; zero: the monitor is off. Raises TargetError."""
    name = "latency-monitor-threshold"
    answer = server.command("CONFIG", "GET", name)
    if not isinstance(answer, Mapping):
        answer = dict(zip(answer[::2], answer[1::2], strict=False)) if isinstance(answer, list) else {}
    text = str(answer.get(name, ""))
    if not text.isdecimal():
        raise TargetError(f"{server.name}: has no {name}", "upgrade the server", cause="failed")
    return timedelta(milliseconds=int(text))


def _event(item: Any) -> LatencyEvent:
    kind, at, latest, longest = item[:4]
    return LatencyEvent(
        str(kind),
        datetime.fromtimestamp(int(at), UTC),
        timedelta(milliseconds=int(latest)),
        timedelta(milliseconds=int(longest)),
    )
