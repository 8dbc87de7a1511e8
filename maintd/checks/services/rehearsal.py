"""Scratch copies of the containers of services, on a private network, for a rehearsal of what is done to the originals.

A copy has nothing by which it could reach or disturb the original: a name and a project of its own, an internal network
without a way out, no published port, no volume. What the original has on volumes, or may write to on the host, is empty
memory in the copy; only what the original itself mounts read-only is mounted. Its labels are those that order a rollout
and those of the rehearsal, by which a leftover is found: none that a proxy would route by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from docker.errors import NotFound

from maintd.checks.services.containers import DEPENDS_ON, ServiceContainer, read_all
from maintd.clients.docker import NUMBER, PROJECT, SERVICE, Docker, translated
from maintd.errors import TargetError

LABEL = "maintd.rehearsal"
"""Label of all that a rehearsal makes: the project whose copies they are; without one `-`."""

# Everything else of the host's configuration is left out: ports, devices, privileges, restart policy, namespaces.
_KEPT = ("Memory", "NanoCpus", "CpuShares", "ShmSize", "Init", "ReadonlyRootfs", "Ulimits", "CapDrop")
_NEVER_MOUNTED = ("/proc", "/sys", "/dev", "/run", "/var/run")
_SOCKET = ".sock"


def why_not(item: ServiceContainer) -> str:
    """Why a container has no copy: what it needs would be shared with the host or with production. Empty if it has."""
    host: Mapping[str, Any] = item.raw.get("HostConfig") or {}
    if host.get("Privileged") or host.get("CapAdd") or host.get("Devices"):
        return "it has privileges on the host"
    modes = [str(host.get(key) or "") for key in ("NetworkMode", "PidMode", "IpcMode", "UTSMode", "UsernsMode")]
    if any(mode == "host" or mode.startswith("container:") for mode in modes):
        return "it uses a namespace of the host or of another container"
    return ""


def body_of(item: ServiceContainer, network: str, project: str, tag: str, empty: Sequence[str]) -> dict[str, Any]:
    """The request that creates the copy of a container, from its present image. `empty`: more folders in memory."""
    raw = item.raw
    config: Mapping[str, Any] = raw.get("Config") or {}
    host: Mapping[str, Any] = raw.get("HostConfig") or {}
    tmpfs: dict[str, str] = dict(host.get("Tmpfs") or {})
    binds = []
    for mount in raw.get("Mounts") or ():
        source, place = str(mount.get("Source") or ""), str(mount["Destination"])
        if mount.get("Type") == "bind" and not mount.get("RW", True) and is_harmless(source):
            binds.append(f"{source}:{place}:ro")
        else:
            tmpfs.setdefault(place, "")
    tmpfs |= {place: "" for place in empty if place not in tmpfs}
    keys = ("Env", "Cmd", "Entrypoint", "User", "WorkingDir", "Healthcheck", "StopSignal", "StopTimeout")
    aliases = {name for network in _networks(item).values() for name in network.get("Aliases") or ()}
    labels = {
        LABEL: project or "-",
        PROJECT: scratch_project(tag),
        SERVICE: item.service,
        NUMBER: item.state.number or "1",
        DEPENDS_ON: item.labels.get(DEPENDS_ON, ""),
    }
    return {
        **{key: config[key] for key in keys if config.get(key) is not None},
        "Image": item.state.image_id,
        "Labels": labels,
        "HostConfig": {
            **{key: host[key] for key in _KEPT if host.get(key)},
            "Binds": binds,
            "Tmpfs": tmpfs,
            "NetworkMode": network,
            "SecurityOpt": ["no-new-privileges:true"],
        },
        "NetworkingConfig": {
            "EndpointsConfig": {network: {"Aliases": sorted({item.service, *aliases} - {item.id[:12], item.name})}}
        },
    }


def is_harmless(source: str) -> bool:
    """Whether a file or folder of the host may be mounted read-only: none of the kernel's, and no socket, which can be
    written to in any case."""
    inside = any(source == folder or source.startswith(f"{folder}/") for folder in _NEVER_MOUNTED)
    return source not in ("", "/") and not inside and not source.endswith(_SOCKET)


def _networks(item: ServiceContainer) -> Mapping[str, Mapping[str, Any]]:
    found = (item.raw.get("NetworkSettings") or {}).get("Networks") or {}
    return {name: network or {} for name, network in found.items()}


def scratch_project(tag: str) -> str:
    """The project, and the network, of one rehearsal."""
    return f"maintd-rehearsal-{tag}"


def name_of(item: ServiceContainer, tag: str) -> str:
    """The name of the copy of a container."""
    return f"{scratch_project(tag)}-{item.service}-{item.state.number or '1'}"


# --- on the engine ---


def create_network(engine: Docker, project: str, tag: str) -> str:
    """Create the private network; return its name. Raises TargetError."""
    name = scratch_project(tag)
    with _answers(engine):
        engine.api.create_network(
            name, driver="bridge", internal=True, labels={LABEL: project or "-"}, check_duplicate=True
        )
    return name


def create_copy(engine: Docker, item: ServiceContainer, project: str, tag: str, images: Sequence[str]) -> str:
    """Create the copy of a container and start it; return its id. `images`: ids of all images that it will run.

    Raises TargetError.
    """
    with _answers(engine):
        volumes: set[str] = set()
        for image in {item.state.image_id, *images}:
            found: Mapping[str, Any] = engine.api.inspect_image(image)  # type: ignore[no-untyped-call]
            volumes |= set((found.get("Config") or {}).get("Volumes") or {})
        body = body_of(item, scratch_project(tag), project, tag, sorted(volumes))
        answer = engine.api.create_container_from_config(body, name_of(item, tag))  # type: ignore[no-untyped-call]
        created = str(answer["Id"])
        engine.api.start(created)
    return created


def left_over(engine: Docker, project: str) -> tuple[list[ServiceContainer], list[str]]:
    """The containers, and the names of the networks, that rehearsals of this project have made. Raises TargetError."""
    wanted = project or "-"
    containers = [item for item in read_all(engine) if item.labels.get(LABEL) == wanted]
    with _answers(engine):
        networks = engine.api.networks(filters={"label": f"{LABEL}={wanted}"})
    return containers, sorted(str(network["Name"]) for network in networks)


def remove_container(engine: Docker, item: ServiceContainer) -> None:
    """Remove a copy, whether it runs or not; nothing when it is gone. Raises TargetError."""
    if LABEL not in item.labels:  # never another one, whatever the caller has found
        raise TargetError(f"{item.name} is no copy of a rehearsal", cause="conflict")
    with _answers(engine):
        try:
            engine.api.remove_container(item.id, v=True, link=False, force=True)
        except NotFound:
            return


def remove_network(engine: Docker, name: str) -> None:
    """Remove the network of a rehearsal; nothing when it is gone. Raises TargetError."""
    with _answers(engine):
        try:
            engine.api.remove_network(name)
        except NotFound:
            return


@contextmanager
def _answers(engine: Docker) -> Iterator[None]:
    with translated(engine.name):
        yield
