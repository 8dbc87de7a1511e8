"""The health of all targets: facts collected from all of them at the same time, then reported one by one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Literal

from maintd.checks.dependencies import Dependencies
from maintd.checks.docker import containers
from maintd.checks.docker.containers import ContainerLimits
from maintd.checks.host import health as host_health
from maintd.checks.host.health import HostLimits
from maintd.checks.http import services
from maintd.checks.http.services import HttpLimits
from maintd.checks.limits import Limits
from maintd.checks.postgres import health as postgres_health
from maintd.checks.postgres.health import PostgresLimits
from maintd.checks.probes import Probe, collect_all, isolate_errors
from maintd.checks.prometheus import health as prometheus_health
from maintd.checks.redis import health as redis_health
from maintd.checks.redis.health import RedisLimits
from maintd.errors import MaintdError
from maintd.job.context import Context
from maintd.units import Duration

Kind = Literal["host", "http", "postgres", "redis", "docker", "prometheus", "alertmanager"]
KINDS: tuple[Kind, ...] = ("host", "http", "postgres", "redis", "docker", "prometheus", "alertmanager")


class HealthScope(Limits):
    """What a health check checks, and its limits."""

    include: tuple[Kind, ...] = ()
    """Kinds of targets to check; by default all that are configured."""
    skip: tuple[Kind, ...] = ()
    """Kinds of targets to exclude."""
    first_answer: Duration = timedelta(seconds=4)
    """Time until the first answer of a target that has no `timeout` of its own; later ones may take longer."""
    host: HostLimits = HostLimits()
    """Limits for hosts."""
    http: HttpLimits = HttpLimits()
    """How HTTP services are requested and limits for their clocks; the expected answer is set at each target."""
    postgres: PostgresLimits = PostgresLimits()
    """Limits for Postgres servers."""
    redis: RedisLimits = RedisLimits()
    """Limits for Redis servers and the consumer groups of their streams."""
    docker: ContainerLimits = ContainerLimits()
    """Limits for containers."""


Answers = Mapping[Probe, Any | MaintdError]
"""The facts of each target, or its error."""


def collect(ctx: Context, scope: HealthScope) -> Answers:
    """Collect the facts of all targets at once, with progress by target."""
    probes = [probe for kind in _kinds(ctx, scope) for probe in _probes(ctx, scope, kind)]
    return dict(ctx.track(collect_all(probes), unit="target", total=len(probes)))


def report(ctx: Context, scope: HealthScope, answers: Answers) -> None:
    """Report each target: its checks, its measures, and what services answered as an artifact."""
    dependencies = Dependencies(ctx.targets)
    for probe in dependencies.order(list(answers)):
        facts, before = answers[probe], len(ctx.failed)
        with (
            ctx.phase(f"check {probe.subject}"),
            ctx.symptoms(partial(dependencies.cause, probe)),
            isolate_errors(ctx, f"{probe.subject}: evaluated"),
        ):
            for name in dependencies.missing(probe):
                ctx.unknown(f"{probe.subject}: depends on {name}", "not_configured: there is no such target")
            if isinstance(facts, MaintdError):
                _report_no_answer(ctx, probe, facts)
            else:
                _report(ctx, scope, probe, facts)
        dependencies.note(probe, ctx.failed[before:])
    bodies = {
        probe.name: facts.evidence() for probe, facts in answers.items() if isinstance(facts, services.ServiceFacts)
    }
    if bodies:
        ctx.save("services.json", json.dumps(bodies, indent=1), "application/json")


def _kinds(ctx: Context, scope: HealthScope) -> list[Kind]:
    """The kinds of targets to check; one that is included but not configured is unknown."""
    kinds = []
    for kind in scope.include or KINDS:
        if kind in scope.skip:
            continue
        if ctx.targets.of(kind):
            kinds.append(kind)
        elif kind in scope.include:
            ctx.unknown(f"{kind}: configured", "not_configured: no such target", hint=f"set targets.{kind}")
        else:
            ctx.log(f"{kind}: not configured: set targets.{kind}")
    return kinds


def _probes(ctx: Context, scope: HealthScope, kind: Kind) -> list[Probe]:
    """One probe per target of a kind; its timeout is a multiple of the target's own."""
    collectors: Mapping[Kind, tuple[Callable[..., Any], int]] = {
        "host": (host_health.collect, 10),
        "http": (lambda target, name: services.collect(target, scope.http), scope.http.tries),
        "postgres": (lambda target, name: postgres_health.collect(target, name, "health_check"), 4),
        "redis": (lambda target, name: redis_health.collect(target, name, scope.redis), 4),
        "docker": (lambda target, name: containers.collect(target, name, ctx.targets.host), 4),
        "prometheus": (prometheus_health.collect, 4),
        "alertmanager": (prometheus_health.collect_alertmanager, 2),
    }
    collect, timeouts = collectors[kind]
    return [
        Probe(
            kind,
            name,
            partial(collect, target, name),
            target.timeout * timeouts + timedelta(seconds=2),
            first=None if kind == "host" else _first_answer(target, scope),
        )
        for name, target in ctx.targets.of(kind).items()
    ]


def _first_answer(target: Any, scope: HealthScope) -> timedelta:
    """A timeout that is written at the target counts, also when it is longer."""
    own: timedelta = target.timeout
    return own if "timeout" in target.model_fields_set else min(scope.first_answer, own)


def _report_no_answer(ctx: Context, probe: Probe, error: MaintdError) -> None:
    if probe.kind == "http":
        services.report_no_answer(ctx, probe.name, error, ctx.target(probe.kind, probe.name))
    else:
        ctx.report_error(f"{probe.subject}: answers", error)


def _report(ctx: Context, scope: HealthScope, probe: Probe, facts: Any) -> None:
    target = ctx.target(probe.kind, probe.name)
    match probe.kind:
        case "host":
            host_health.report(ctx, probe.name, facts, scope.host)
        case "http":
            services.report(ctx, probe.name, facts, target, scope.http)
        case "postgres":
            postgres_health.report(ctx, probe.name, facts, scope.postgres)
        case "redis":
            redis_health.report(ctx, probe.name, facts, scope.redis)
        case "docker":
            containers.report(ctx, probe.name, facts, target, scope.docker)
        case "prometheus":
            prometheus_health.report(ctx, probe.name, facts)
        case "alertmanager":
            prometheus_health.report_alertmanager(ctx, probe.name, facts)
