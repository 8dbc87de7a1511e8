"""The containers of a compose project: whether each service runs, is healthy, and does so without restarts."""

from __future__ import annotations

from dataclasses import dataclass

from maintd.checks.limits import Limits
from maintd.clients import docker
from maintd.clients.docker import Container
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.model.target import DockerTarget

# 128 and SIGKILL. Not every kill for memory is flagged as one: Engine 20.10 missed 8 of 40, when it saw the end of the
# process before the kernel's message.
_KILLED = 137


class ContainerLimits(Limits):
    """When containers are not well."""

    restarts_fail: int = 3
    """So many restarts since the last run fail; fewer warn."""


@dataclass(frozen=True)
class ContainerFacts:
    """All containers of the project."""

    containers: tuple[Container, ...]


def look(target: DockerTarget, name: str) -> ContainerFacts:
    """Raises TargetError."""
    with docker.connect(target, name=name) as engine:
        return ContainerFacts(tuple(engine.containers(target.project)))


def judge(ctx: Context, name: str, facts: ContainerFacts, target: DockerTarget, limits: ContainerLimits) -> None:
    """Checks and measures of one engine's containers. They are told apart by compose's labels, never by name."""
    subject = f"docker {name}"
    ctx.check(
        f"{subject}: containers",
        len(facts.containers),
        at_least=1 if target.project or target.services else 0,
        hint=f"is the project really called {target.project!r}? see: docker compose ls --all",
    )
    there = {container.service for container in facts.containers}
    for service in target.services:
        if service not in there and service not in target.one_shot:
            ctx.fail(
                f"{subject}: {service} state", "missing", expected="running", hint=f"docker compose up -d {service}"
            )
            ctx.measure("container_running", 0, "", engine=name, service=service)
    for container in facts.containers:
        if container.service in target.one_shot or _ended_by_design(container, target):
            _judge_one_shot(ctx, subject, container)
        else:
            _judge_lasting(ctx, subject, name, container, limits)


def _ended_by_design(container: Container, target: DockerTarget) -> bool:
    """A container that nobody asked to be kept running, that is not expected to, and that ended well."""
    return (
        container.state == "exited"
        and container.exit_code == 0
        and container.restart_policy in ("", "no")
        and container.service not in target.services
    )


def _judge_one_shot(ctx: Context, subject: str, container: Container) -> None:
    what = f"{subject}: {container.label} ended"
    if container.state == "running":
        ctx.log(f"{what}: not yet, it runs")
        return
    observed = f"exit code {container.exit_code}" if container.state in ("exited", "dead") else container.state
    ctx.check(what, observed, equals="exit code 0", hint=f"docker logs {container.name}")


def _judge_lasting(ctx: Context, subject: str, name: str, container: Container, limits: ContainerLimits) -> None:
    what = f"{subject}: {container.label}"
    logs = f"docker logs --tail 50 {container.name}"
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
            hint="its health check has not passed yet: look again" if starting else logs,
        )
    _judge_restarts(ctx, what, name, container, limits, logs)
    if ended and container.exit_code == _KILLED and not container.oom_killed:
        ctx.unknown(
            f"{what} killed for memory",
            "it was killed, and the engine does not say by whom",
            expected="False",
            hint="look for it on the host: dmesg | grep -i 'killed process'",
        )
        return
    ctx.check(
        f"{what} killed for memory",
        container.oom_killed,
        equals=False,
        hint="it reached its memory limit: raise the limit, or find its leak",
    )


def _judge_restarts(
    ctx: Context, what: str, name: str, container: Container, limits: ContainerLimits, hint: str
) -> None:
    new = ctx.increase("restarts_total", container.restart_count, engine=name, service=container.label)
    if new is None:  # at first sight it is not known when they were
        ctx.check(f"{what} new restarts", container.restart_count, warn_above=0, hint=hint)
    else:
        ctx.check(f"{what} new restarts", new, at_most=limits.restarts_fail - 1, warn_above=0, hint=hint)
