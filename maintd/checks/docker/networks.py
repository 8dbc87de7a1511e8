"""Networks that no container uses: what may be removed, and its removal by id.

The engine removes a network although stopped containers are configured to use it, and they do not start any more.
Therefore a network is in use when any container, running or not, names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from docker.errors import APIError, NotFound

from maintd.checks.docker.cleanup import Decision, InUseError, StoredContainer, stored_containers
from maintd.clients.docker import PROJECT, Docker, parse_instant, translated
from maintd.errors import TargetError
from maintd.job.causes import Role
from maintd.job.context import Context

_PREDEFINED = frozenset({"bridge", "host", "none", "ingress", "docker_gwbridge", "nat"})
_FEW = 10  # an engine has room for about thirty networks with default addresses


@dataclass(frozen=True)
class Network:
    """A network. `users`: names of the containers and services that are attached to it now."""

    id: str
    name: str
    driver: str
    scope: str  # local, swarm or global
    created_at: datetime | None
    labels: Mapping[str, str]
    users: tuple[str, ...]
    for_others: bool  # the ingress of a swarm, or a configuration that other networks are made from


def read_networks(engine: Docker) -> list[Network]:
    """All networks of the engine but the predefined ones. Raises TargetError."""
    found = []
    with translated(engine.name):
        for item in engine.api.networks():
            if item["Name"] not in _PREDEFINED:
                with suppress(NotFound):  # removed since it was listed
                    found.append(_read(engine, item["Id"]))
    return found


def _read(engine: Docker, network_id: str) -> Network:
    raw: Mapping[str, Any] = engine.api.inspect_network(network_id)
    users = [str(item.get("Name", "")) for item in (raw.get("Containers") or {}).values()]
    return Network(
        str(raw["Id"]),
        str(raw["Name"]),
        str(raw.get("Driver") or ""),
        str(raw.get("Scope") or ""),
        parse_instant(raw.get("Created")),
        raw.get("Labels") or {},
        (*users, *(raw.get("Services") or {})),
        bool(raw.get("Ingress") or raw.get("ConfigOnly")),
    )


def use_of(network: Network, containers: Iterable[StoredContainer]) -> str:
    """Why a network is in use: text for a decision; empty when it is not."""
    if network.users:
        return f"used by {network.users[0]}"
    for container in containers:
        if not container.networks.isdisjoint((network.id, network.name)):
            return f"used by the {container.state} container {container.name}"
    return ""


def decide_networks(
    networks: Iterable[Network],
    containers: Sequence[StoredContainer],
    unused_for: timedelta | None,
    keep_label: str,
    now: datetime,
    unused_since: Mapping[str, datetime],
) -> list[Decision[Network]]:
    """Which networks may be removed, by name; none when `unused_for` is None.

    `unused_since`: by id, since when all runs found the network unused; the engine does not record it.
    """
    projects = {container.labels[PROJECT] for container in containers if PROJECT in container.labels}
    decisions = []
    for network in sorted(networks, key=lambda network: (network.name, network.id)):
        reason = use_of(network, containers) or _protection(network, projects, keep_label)
        since = unused_since.get(network.id)
        if not reason and unused_for is None:
            reason = "the param networks is not set"
        if not reason and unused_for is not None and (since is None or now - since < unused_for):
            reason = f"unused {f'since {since:%Y-%m-%d %H:%MZ}' if since else 'for the first time'}"
        if not reason and network.created_at is None:
            reason = "it is not known when it was created"
        decisions.append(Decision(network, reason))
    return decisions


def _protection(network: Network, projects: set[str], keep_label: str) -> str:
    project = network.labels.get(PROJECT)
    if network.for_others:
        return "other networks need it"
    if network.scope != "local":
        return f"its scope is {network.scope or 'not known'}"
    if keep_label in network.labels:
        return f"it has the label {keep_label}"
    return f"the project {project} has containers" if project in projects else ""


def record_unused(
    ctx: Context, engine: str, networks: Iterable[Network], containers: Sequence[StoredContainer]
) -> dict[str, datetime]:
    """By id, since when all runs up to now found a network unused; keeps a measure for the next run."""
    since: dict[str, datetime] = {}
    for network in networks:
        unused = not use_of(network, containers)
        for point in reversed(ctx.series("docker_network_unused", engine=engine, network=network.id[:24])):
            if not unused or not point.value:
                break
            since[network.id] = point.at
        ctx.measure("docker_network_unused", int(unused), "", engine=engine, network=network.id[:24])
    return since


def plan(
    ctx: Context, engine: Docker, containers: Sequence[StoredContainer], unused_for: timedelta | None, keep_label: str
) -> list[Decision[Network]]:
    """List the networks, report the unused ones, and decide which may be removed.

    An engine that does not show its networks leaves them unknown: optional unless they are to be removed.
    """
    check = f"{engine.name}: networks without a container"
    try:
        networks = read_networks(engine)
    except TargetError as error:
        if unused_for is None and error.cause == "denied":
            ctx.unknown(check, f"{error.cause}: {error.message}", hint=error.hint or "", optional=True)
        else:
            ctx.report_error(check, error, role=Role.SOURCE)
        return []
    since = record_unused(ctx, engine.name, networks, containers)
    unused = [network.name for network in networks if not use_of(network, containers)]
    hint = (
        f"{', '.join(unused[:5])}: set the param networks, or inspect them, then: docker network rm" if unused else ""
    )
    ctx.check(check, len(unused), warn_above=_FEW, hint=hint)
    return decide_networks(networks, containers, unused_for, keep_label, ctx.now(), since)


def remove_network(ctx: Context, engine: Docker, network: Network) -> bool:
    """Remove a network that is still unused. False in a dry run. Raises InUseError, and TargetError."""
    target = f"{engine.name}: {network.name} ({network.id[:12]})"
    created = str(network.created_at)
    with ctx.change("remove network", target, driver=network.driver, created=created) as allowed:
        if allowed:
            _remove(engine, network)
    return bool(allowed)


def _remove(engine: Docker, planned: Network) -> None:
    """1. Read it and all containers again: it is the same and unused. 2. Remove it. 3. It is gone."""
    try:
        with translated(engine.name):
            now = _read(engine, planned.id)
            if use := use_of(now, stored_containers(engine)):
                raise InUseError(use)
            engine.api.remove_network(planned.id)
    except TargetError as error:
        origin = error.__cause__
        if isinstance(origin, APIError) and _is_conflict(origin):
            raise InUseError(str(origin.explanation or "in use")) from error
        raise
    with translated(engine.name), suppress(NotFound):
        _read(engine, planned.id)
        raise TargetError(f"{engine.name}: {planned.name} was removed, and is still there", cause="failed")


def _is_conflict(error: APIError) -> bool:
    """Whether another client removed the network, or attached to it, which the engine answers with 403."""
    status = error.response.status_code if error.response is not None else 0
    return status in (404, 409) or (status == 403 and "active endpoints" in str(error.explanation))
