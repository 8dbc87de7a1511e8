"""The containers of services, with what a restart, a replacement and a rollback need of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from docker.errors import NotFound

from maintd.clients.docker import ONE_OFF, PROJECT, SERVICE, Container, Docker, container_of, translated
from maintd.errors import TargetError, UnknownNameError
from maintd.model.target import DockerTarget

DEPENDS_ON = "com.docker.compose.depends_on"
"""Label of compose 2: `postgres:service_healthy:false,redis:service_started:true`."""

OLD = ".maintd-old"
NEW = ".maintd-new"
"""Ends of the names of containers while they are replaced: the one before, and the one that is not in place yet."""


@dataclass(frozen=True)
class ServiceContainer:
    """A container. `raw` is the engine's description; its environment may hold secrets, so it is never reported."""

    state: Container
    labels: Mapping[str, str]
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        """Its id."""
        return self.state.id

    @property
    def name(self) -> str:
        """Its name at the time when it was read."""
        return self.state.name

    @property
    def service(self) -> str:
        """The service that it belongs to; without compose its own name, also while it is replaced."""
        return self.labels.get(SERVICE) or plain_name(self.name)

    @property
    def label(self) -> str:
        """Its name in checks: the service, with the container's number unless that is 1."""
        return self.service if self.state.number in ("", "1") else f"{self.service}-{self.state.number}"

    @property
    def project(self) -> str:
        """The compose project; empty without one."""
        return self.labels.get(PROJECT, "")

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Names of the services that it depends on, from compose's label."""
        items = self.labels.get(DEPENDS_ON, "").split(",")
        return tuple(name for item in items if (name := item.partition(":")[0].strip()))

    @property
    def stateful(self) -> bool:
        """Whether it writes to a volume."""
        mounts = self.raw.get("Mounts") or ()
        return any(item.get("Type") == "volume" and item.get("RW", True) for item in mounts)

    @property
    def aside(self) -> bool:
        """Whether it is part of a replacement that has not ended."""
        return self.name.endswith((OLD, NEW))

    @property
    def removed_at_its_end(self) -> bool:
        """Whether the engine removes it when it stops, so that there would be nothing to swap back to."""
        return bool((self.raw.get("HostConfig") or {}).get("AutoRemove"))

    @property
    def has_health_check(self) -> bool:
        """Whether the engine checks its health."""
        test = ((self.raw.get("Config") or {}).get("Healthcheck") or {}).get("Test") or []
        return bool(test) and test != ["NONE"]

    @property
    def stop_seconds(self) -> int:
        """How long the engine waits for its end before it kills it."""
        seconds = (self.raw.get("Config") or {}).get("StopTimeout")
        return 10 if seconds is None else max(0, int(seconds))  # 10 s: the engine's default


def plain_name(name: str) -> str:
    """The name of a container without what a replacement adds to it."""
    return name.removesuffix(OLD).removesuffix(NEW)


def read_all(engine: Docker) -> list[ServiceContainer]:
    """All containers of the engine, also stopped ones, but not those of `compose run`. Raises TargetError."""
    with translated(engine.name):
        found = [read(engine, item["Id"]) for item in engine.api.containers(all=True)]
    known = [item for item in found if item is not None and item.labels.get(ONE_OFF) != "True"]
    return sorted(known, key=lambda item: (item.service, item.state.number, item.name))


def read(engine: Docker, name: str) -> ServiceContainer | None:
    """A container by id or name; None when there is none. Raises TargetError."""
    with translated(engine.name):
        try:
            raw = engine.api.inspect_container(name)
        except NotFound:
            return None
        return ServiceContainer(container_of(raw), raw["Config"].get("Labels") or {}, raw)


def of_project(containers: Sequence[ServiceContainer], project: str | None) -> list[ServiceContainer]:
    """The containers of a compose project; all of them without one."""
    return [item for item in containers if project is None or item.project == project]


def chosen(
    containers: Sequence[ServiceContainer], target: DockerTarget, services: Sequence[str], skip: Sequence[str]
) -> list[ServiceContainer]:
    """The containers of these services; by default of all services of the target's project that are to run.

    Raises UnknownNameError for a service without a container, and TargetError where neither services nor a project are
    named: an engine may run what is not to be touched.
    """
    found = of_project(containers, target.project)
    known = sorted({item.service for item in found})
    for name in services:
        if name not in known:
            raise UnknownNameError("service", name, known)
    if services:
        return [item for item in found if item.service in services]
    if target.project is None:
        hint = "name them in services, or set project at the Docker target"
        raise TargetError("no services are named", hint, cause="not_configured")
    return [
        item
        for item in found
        if item.service not in skip and item.service not in target.one_shot and not _has_ended_as_expected(item, target)
    ]


def _has_ended_as_expected(item: ServiceContainer, target: DockerTarget) -> bool:
    """A container that ended with exit code 0, has no restart policy, and is not of an expected service."""
    return (
        item.state.state == "exited"
        and item.state.exit_code == 0
        and item.state.restart_policy in ("", "no")
        and item.service not in target.services
        and not item.aside
    )
