"""Requirements that several jobs have, and which target a job uses without a param."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from maintd.checks.requirements import docker, local, redis
from maintd.checks.requirements.requirement import Requirement, Unconfigured
from maintd.clients import shell
from maintd.model.target import Targets


def containers(targets: Targets, name: str) -> Iterator[Requirement]:
    """The engine lists its containers, among them the expected services."""
    yield Requirement("docker", name, "list containers", docker.allows(*docker.LISTS))
    target = targets.docker.get(name)
    if target is not None and target.services:
        exercise = docker.has_services(target.services, target.project)
        yield Requirement("docker", name, "find the expected services", exercise)


def folders(targets: Targets, names: Iterable[str]) -> Iterator[Requirement]:
    """The files of these folders can be listed."""
    for name in names:
        yield Requirement("folders", name, "list its files", local.lists)


def only_target(targets: dict[str, Any], name: str | None) -> str:
    """The name that a job uses without a param: the only target, or `main`."""
    if name is not None:
        return name
    return next(iter(targets)) if len(targets) == 1 else "main" if targets else ""


def unconfigured_folder(name: str) -> Unconfigured:
    """The folder that a job works on, where it is not configured."""
    return Unconfigured(f"folders {name}", f"set targets.folders.{name} in the calendar")


def unnamed(kind: str, targets: Targets, names: Iterable[str] | None) -> bool:
    """Whether a job has no target of a kind to work on. `names` is its param: None for all targets."""
    return not (targets.of(kind) if names is None else tuple(names))


def rollout(targets: Targets, params: Any, requests: Iterable[str]) -> Iterator[Requirement]:
    """Containers can be listed, and restarted or replaced by these requests or by compose; streams can be drained."""
    name = only_target(targets.docker, params.docker)
    if name:
        yield Requirement("docker", name, "list containers", docker.allows(*docker.LISTS))
        if not params.compose:
            what = "replace containers" if requests is docker.REPLACES else "restart containers"
            yield Requirement("docker", name, what, docker.allows(*requests))
    if params.compose:
        yield Requirement("program", params.compose[0], "run it", local.can_start(shell.Command(params.compose)))
    for drain in params.drain.values():
        if drain.streams:
            exercise = redis.streams_exist(drain.streams)
            yield Requirement("redis", only_target(targets.redis, drain.redis), "read the streams of a drain", exercise)
