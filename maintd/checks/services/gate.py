"""The health gate: a service counts as healthy when its container and its HTTP target are, within a time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

from maintd.checks.http import services
from maintd.checks.http.services import HttpLimits
from maintd.checks.limits import Limits
from maintd.checks.services.containers import ServiceContainer, read
from maintd.clients.docker import Docker
from maintd.errors import MaintdError, TargetError
from maintd.job.context import Context
from maintd.model.evidence import Check, CheckStatus
from maintd.units import Duration, seconds_text

_ENDED = ("exited", "dead", "created")  # what does not change by itself


class GateLimits(Limits):
    """When a service counts as healthy."""

    within: Duration = timedelta(minutes=2)
    """How long it may take until a service is healthy."""
    every: Duration = timedelta(seconds=1)
    """Time between two observations of it."""
    settle: Duration = timedelta(seconds=10)
    """How long a service with nothing that shows its health must run without a restart."""
    engine_silent: Duration = timedelta(seconds=20)
    """How long the engine may not answer, before the work is given up."""


@dataclass(frozen=True)
class Outcome:
    """`problem`: why it is not healthy, empty when it is. `shown`: by what its health was observed, empty if by
    nothing but that it runs."""

    problem: str
    shown: str = ""


def wait_until_healthy(
    ctx: Context, engine: Docker, container_id: str, target: str | None, limits: GateLimits
) -> Outcome:
    """Wait for the health of a container and of its HTTP target, if it has one.

    An engine that does not answer is asked again for a while; then it raises TargetError.
    """
    started = answered = time.monotonic()
    until = started + min(limits.within, ctx.remaining * 0.9).total_seconds()
    restarts: int | None = None
    while True:
        try:
            item = read(engine, container_id)
        except TargetError:
            if time.monotonic() >= min(until, answered + limits.engine_silent.total_seconds()):
                raise
        else:
            answered = time.monotonic()
            if item is None:
                return Outcome("it was removed")
            restarts = item.state.restart_count if restarts is None else restarts
            outcome = _container_outcome(ctx, item, restarts, limits, http=target is not None)
            if item.state.state in _ENDED:
                return outcome
            if not outcome.problem and target is not None:
                problem = http_problem(ctx, target)
                shown = f"{outcome.shown} and http {target}" if outcome.shown else f"http {target}"
                outcome = Outcome(problem, "" if problem else shown)
            if not outcome.problem:
                return outcome
            if time.monotonic() >= until:
                return Outcome(f"{outcome.problem}, after {seconds_text(time.monotonic() - started)}")
        time.sleep(min(limits.every.total_seconds(), max(until - time.monotonic(), 0.01)))


def _container_outcome(
    ctx: Context, item: ServiceContainer, restarts: int, limits: GateLimits, *, http: bool
) -> Outcome:
    state = item.state
    if state.state != "running":
        ended = state.state in ("exited", "dead")
        return Outcome(f"{state.state}, exit code {state.exit_code}" if ended else state.state)
    if item.has_health_check:
        return (
            Outcome("", "its health check") if state.health == "healthy" else Outcome(state.health or "no health yet")
        )
    if http:
        return Outcome("")
    if state.restart_count > restarts:
        return Outcome(f"restarted {state.restart_count - restarts} times")
    age = ctx.now() - state.started_at if state.started_at is not None else timedelta()
    return Outcome("" if age >= limits.settle else "running for too short a time")


def http_problem(ctx: Context, target: str) -> str:
    """Why an HTTP target is not healthy, by the checks of a health check; empty when it is. Warnings do not count."""
    place = ctx.target("http", target)
    inner, checks = ctx.captured()
    limits = HttpLimits(tries=1)
    try:
        services.report(inner, target, services.collect(place, limits), place, limits)
    except MaintdError as error:
        services.report_no_answer(inner, target, error, place)
    bad = [
        item
        for item in checks
        if isinstance(item, Check) and not item.optional and item.status in (CheckStatus.FAIL, CheckStatus.UNKNOWN)
    ]
    return "; ".join(f"{check.name}: {check.observed}" for check in bad)
