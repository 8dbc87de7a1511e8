"""Look at everything that is configured, all at once, and say of each part whether it is well.

The host's memory, swap, load, pressure, file systems and inodes; services by HTTP, by what their body says and not only
by its status; Postgres; Redis with what its streams' readers have not seen yet; the containers of a compose project;
Prometheus with its targets and rules; Alertmanager. Nothing is written anywhere. What is down fails by itself and hides
nothing else; what may not be looked at is unknown; a kind of target that is not configured is left out.

Runbook: Daily Maintenance, Morning Health Check, 1 System Health Verification and 3 Resource Utilization Check
"""

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Literal

from maintd.checks.collection import Probe, collect_all
from maintd.checks.docker import containers
from maintd.checks.docker.containers import ContainerLimits
from maintd.checks.host import health as host
from maintd.checks.host.health import HostLimits
from maintd.checks.http import services
from maintd.checks.http.services import HttpLimits
from maintd.checks.postgres import health as postgres
from maintd.checks.postgres.health import PostgresLimits
from maintd.checks.prometheus import health as prometheus_health
from maintd.checks.redis import health as redis
from maintd.checks.redis.health import RedisLimits
from maintd.job import Context, JobError, JobParams, TargetError, job

Section = Literal["host", "http", "postgres", "redis", "docker", "prometheus", "alertmanager"]
SECTIONS: tuple[Section, ...] = ("host", "http", "postgres", "redis", "docker", "prometheus", "alertmanager")


class Params(JobParams):
    include: tuple[Section, ...] = ()
    """Kinds of target to look at; none named: all that are configured."""
    skip: tuple[Section, ...] = ()
    """Kinds of target to leave out."""
    host: HostLimits = HostLimits()
    """When a host is short of something."""
    http: HttpLimits = HttpLimits()
    """How services are asked; what is expected of each belongs to its target."""
    postgres: PostgresLimits = PostgresLimits()
    """When a Postgres server is not well."""
    redis: RedisLimits = RedisLimits()
    """When a Redis server, or who reads from its streams, is not well."""
    docker: ContainerLimits = ContainerLimits()
    """When containers are not well."""


@job(timeout="10m", repeatable=True, history_of="job")
def run(ctx: Context, params: Params) -> None:
    with ctx.phase("look at everything at once"):
        probes = [probe for section in _sections(ctx, params) for probe in _probes(ctx, params, section)]
        seen = list(ctx.track(collect_all(probes), unit="target", total=len(probes)))
    for probe, found in seen:
        with ctx.phase(f"judge {probe.subject}"):
            if isinstance(found, TargetError | JobError):
                _silent(ctx, probe, found)
            else:
                _judge(ctx, params, probe, found)
    bodies = {probe.name: found.evidence() for probe, found in seen if isinstance(found, services.ServiceFacts)}
    if bodies:
        ctx.save("services.json", json.dumps(bodies, indent=1), "application/json")


def _sections(ctx: Context, params: Params) -> list[Section]:
    chosen = []
    for section in params.include or SECTIONS:
        if section in params.skip:
            continue
        if ctx.targets.of(section):
            chosen.append(section)
        elif section in params.include:
            hint = f"set targets.{section}, or leave it out of include"
            ctx.unknown(f"{section}: configured", "not_configured: there is no such target", hint=hint)
        else:
            ctx.log(f"{section}: not configured: set targets.{section}")
    return chosen


def _probes(ctx: Context, params: Params, section: Section) -> list[Probe]:
    """How each target of a kind is looked at, and how many of its timeouts that may cost altogether."""
    looks: Mapping[Section, tuple[Callable[..., Any], int]] = {
        "host": (lambda target, name: host.look(target, name), 10),
        "http": (lambda target, name: services.look(target, params.http), params.http.tries),
        "postgres": (lambda target, name: postgres.collect(target, name, "health_check"), 4),
        "redis": (lambda target, name: redis.collect(target, name, params.redis), 4),
        "docker": (lambda target, name: containers.look(target, name), 4),
        "prometheus": (lambda target, name: prometheus_health.collect(target, name), 3),
        "alertmanager": (lambda target, name: prometheus_health.collect_alertmanager(target, name), 1),
    }
    look, timeouts = looks[section]
    return [
        Probe(section, name, partial(look, target, name), target.timeout * timeouts + timedelta(seconds=2))
        for name, target in ctx.targets.of(section).items()
    ]


def _silent(ctx: Context, probe: Probe, error: TargetError | JobError) -> None:
    target = ctx.target(probe.kind, probe.name)
    if probe.kind == "http":
        services.judge_silence(ctx, probe.name, error, target)
    elif probe.kind == "docker":
        # An engine that is busy or hung says nothing about its containers: they may serve all the while.
        ctx.report_error(f"{probe.subject}: answers", error, not_observed=frozenset({"denied", "timed_out"}))
    else:
        ctx.report_error(f"{probe.subject}: answers", error)


def _judge(ctx: Context, params: Params, probe: Probe, found: Any) -> None:
    target = ctx.target(probe.kind, probe.name)
    match probe.kind:
        case "host":
            host.judge(ctx, probe.name, found, params.host)
        case "http":
            services.judge(ctx, probe.name, found, target)
        case "postgres":
            postgres.report(ctx, probe.name, found, params.postgres)
        case "redis":
            redis.report(ctx, probe.name, found, params.redis)
        case "docker":
            containers.judge(ctx, probe.name, found, target, params.docker)
            evidence = [container.evidence() for container in found.containers]
            ctx.save(f"containers-{probe.name}.json", json.dumps(evidence, indent=1), "application/json")
        case "prometheus":
            prometheus_health.report(ctx, probe.name, found)
        case "alertmanager":
            prometheus_health.report_alertmanager(ctx, probe.name)
