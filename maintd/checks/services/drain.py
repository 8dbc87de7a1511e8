"""Draining a service before it is stopped: a request, and then a state or an empty backlog, within a time."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from pydantic import Field

from maintd.checks.limits import Limits
from maintd.clients import http, redis
from maintd.clients.http import Answer, Api
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.job.references import resolved
from maintd.units import Duration, format_duration, seconds_text


class Request(Limits):
    """An HTTP request to a target, and what its answer must be."""

    target: str
    """Name of an HTTP target."""
    path: str = Field(pattern="^/")
    """Path below its host."""
    method: str = "POST"
    """Method of the request."""
    body: Any = None
    """Body, sent as JSON."""
    expect: dict[str, str | int | float | bool] = {}
    """Fields of the answer, by dotted path, with their values."""


class Drain(Limits):
    """How a service is drained."""

    request: Request | None = None
    """Sent first, such as a request to take no more work."""
    until: Request | None = None
    """Sent until its answer is as expected; use `method: GET`."""
    redis: str | None = None
    """Redis target of the streams."""
    streams: tuple[str, ...] = ()
    """Streams that must have neither lag nor pending entries in any group."""
    within: Duration = timedelta(minutes=5)
    """How long it may take; then the service is not stopped."""
    every: Duration = timedelta(seconds=1)
    """Time between two observations."""
    resume: Request | None = None
    """Sent when the service is healthy again, or was not stopped."""


def send(ctx: Context, request: Request) -> Answer:
    """Send a request; its answer is as expected. Raises TargetError."""
    target = resolved(ctx.target("http", request.target))
    root = "/".join(target.url.split("/", 3)[:3])
    api = Api.of(target, url=root)
    more = {} if request.body is None else {"json_body": request.body}
    answer = api.call(request.method.upper(), request.path, **more)
    wrong = [field for field in http.fields(answer, request.expect) if not field.equal]
    if wrong:
        seen = ", ".join(f"{field.path}: {field.observed}, expected {field.expected}" for field in wrong)
        raise TargetError(
            f"{answer.url}: {seen}", "see what the service logged about this request, or correct expect", cause="failed"
        )
    return answer


def wait_until_drained(ctx: Context, drain: Drain) -> str:
    """Wait until it is drained; what was seen last. Raises TargetError when it is not drained in its time."""
    began, left_to_it = time.monotonic(), ctx.remaining * 0.9
    until = began + min(drain.within, left_to_it).total_seconds()
    while True:
        left, problem = _left(ctx, drain)
        if not left:
            return "nothing left"
        if time.monotonic() >= until:
            if left_to_it < drain.within:
                waited, goal = seconds_text(time.monotonic() - began), format_duration(drain.within)
                text = f"not drained after {waited}, and the step has no time left to wait for {goal}: {left}"
                raise TargetError(text, "raise the timeout of the step, or lower within", cause="timed_out")
            text = f"not drained within {format_duration(drain.within)}: {left}"
            if problem is not None:
                raise TargetError(text, problem.hint, cause=problem.cause)
            raise TargetError(text, "find out what its consumers wait for, or raise within", cause="failed")
        time.sleep(min(drain.every.total_seconds(), max(until - time.monotonic(), 0.01)))


def _left(ctx: Context, drain: Drain) -> tuple[str, TargetError | None]:
    """What is left, empty when nothing is; with the error if it could not be observed."""
    try:
        if drain.until is not None:
            send(ctx, drain.until)
        if drain.streams:
            name = drain.redis if drain.redis is not None else _only(ctx)
            with redis.connect(ctx.target("redis", name), name=name) as server:
                for stream in drain.streams:
                    groups = server.stream(stream).groups
                    if not groups:
                        text = f"{stream}: has no consumer group, so that its backlog is not known"
                        return text, TargetError(text, "name another stream, or another sign", cause="empty")
                    for group in groups:
                        if group.lag is None:
                            text = f"{stream}, {group.name}: Redis does not know the lag"
                            return text, TargetError(text, "recreate the group, or name another sign", cause="empty")
                        if group.lag or group.pending:
                            return f"{stream}, {group.name}: lag {group.lag}, pending {group.pending}", None
    except TargetError as error:
        return error.message, error
    return "", None


def _only(ctx: Context) -> str:
    found = ctx.targets.redis
    return next(iter(found)) if len(found) == 1 else "main"
