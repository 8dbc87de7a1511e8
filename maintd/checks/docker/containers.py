"""State, health and restarts of the containers of a compose project."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from maintd.checks.clock_offset import ClockLimits, ClockOffset, clock_offset, report_clock
from maintd.checks.docker import inspector
from maintd.checks.docker.inspector import Inspector
from maintd.checks.hints import command
from maintd.checks.probes import answered, value_or_error
from maintd.clients import docker
from maintd.clients.docker import Container
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.model.target import DockerTarget, HostTarget

# 128 + SIGKILL. The engine does not flag every OOM kill: 20.10 missed 8 of 40, when it noticed the end of the process
# before the kernel's message.
_KILLED = 137


class ContainerLimits(ClockLimits):
    """Limits for containers, and for the clock of their engine."""

    restarts_fail: int = 3
    """Restarts since the last run that fail; fewer warn."""


@dataclass(frozen=True)
class ContainerFacts:
    """All containers of the project, the engine's clock, and the inspectors of Node in those that run."""

    containers: tuple[Container, ...]
    clock: ClockOffset | TargetError
    inspectors: tuple[Inspector, ...] = ()


def collect(target: DockerTarget, name: str, hosts: Mapping[str, HostTarget]) -> ContainerFacts:
    """List the project's containers. `hosts`: the engine's may be among them. Raises TargetError."""
    with docker.connect(target, name=name) as engine:
        answered()
        containers = tuple(engine.containers(target.project))
        clock = value_or_error(lambda: _clock(engine))
        found = inspector.collect(engine, containers, [host.proc for host in hosts.values()])
        return ContainerFacts(containers, clock, found)


def _clock(engine: docker.Docker) -> ClockOffset:
    sent = time.time()
    at = engine.system_time()
    return clock_offset(at.timestamp(), sent, time.time())


def report(ctx: Context, name: str, facts: ContainerFacts, target: DockerTarget, limits: ContainerLimits) -> None:
    """Report the checks and measures of one engine's containers, by compose's labels and never by name; save them."""
    subject = f"docker {name}"
    ctx.check(
        f"{subject}: containers",
        len(facts.containers),
        at_least=1 if target.project or target.services else 0,
        hint=f"check the name of the project {target.project!r}: docker compose ls --all",
    )
    present = {container.service for container in facts.containers}
    for service in target.services:
        if service not in present and service not in target.one_shot:
            ctx.fail(
                f"{subject}: {service} state",
                "missing",
                expected="running",
                hint=command("docker", "compose", "up", "-d", service),
            )
            ctx.measure("container_running", 0, "", engine=name, service=service)
    for container in facts.containers:
        if container.service in target.one_shot or _ended_as_expected(container, target):
            _report_one_shot(ctx, subject, container)
        else:
            _report_service(ctx, subject, name, container, limits)
    report_clock(ctx, subject, facts.clock, limits)
    inspector.report(ctx, subject, facts.inspectors)
    evidence = [container.evidence() for container in facts.containers]
    ctx.save(f"containers-{name}.json", json.dumps(evidence, indent=1), "application/json")


def _ended_as_expected(container: Container, target: DockerTarget) -> bool:
    """A container with exit code 0, no restart policy, and not of an expected service."""
    return (
        container.state == "exited"
        and container.exit_code == 0
        and container.restart_policy in ("", "no")
        and container.service not in target.services
    )


def _report_one_shot(ctx: Context, subject: str, container: Container) -> None:
    what = f"{subject}: {container.label} ended"
    if container.state == "running":
        ctx.log(f"{what}: not yet, it is running")
        return
    observed = f"exit code {container.exit_code}" if container.state in ("exited", "dead") else container.state
    ctx.check(what, observed, equals="exit code 0", hint=command("docker", "logs", container.name))


def _report_service(ctx: Context, subject: str, name: str, container: Container, limits: ContainerLimits) -> None:
    what = f"{subject}: {container.label}"
    logs = command("docker", "logs", "--tail", "50", container.name)
    ended = container.state in ("exited", "dead")
    ctx.check(
        f"{what} state",
        f"{container.state}, exit code {container.exit_code}" if ended else container.state,
        equals="running",
        hint=logs,
    )
    running = container.state == "running"
    ctx.measure("container_running", running, "", engine=name, service=container.label)
    if running and container.health:
        starting = container.health == "starting"
        ctx.check(
            f"{what} health",
            container.health,
            equals="healthy",
            severity=CheckStatus.WARN if starting else CheckStatus.FAIL,
            hint=command("docker", "inspect", "--format", "{{json .State.Health}}", container.name)
            if starting
            else logs,
        )
    _report_restarts(ctx, what, name, container, limits, logs)
    if ended and container.exit_code == _KILLED and not container.oom_killed:
        ctx.unknown(
            f"{what} killed for memory",
            "it was killed, and the engine does not know by what",
            expected="False",
            hint="search the host's log: dmesg | grep -i 'killed process'",
        )
        return
    ctx.check(
        f"{what} killed for memory",
        container.oom_killed,
        equals=False,
        hint="it reached its memory limit: raise the limit, or find the leak",
    )


def _report_restarts(
    ctx: Context, what: str, name: str, container: Container, limits: ContainerLimits, hint: str
) -> None:
    new = ctx.increase("restarts_total", container.restart_count, engine=name, service=container.label)
    if new is None:  # the first run: their age is not known
        ctx.check(f"{what} new restarts", container.restart_count, warn_above=0, hint=hint)
    else:
        ctx.check(f"{what} new restarts", new, at_most=limits.restarts_fail - 1, warn_above=0, hint=hint)
