"""Containers that must not be stopped: maintd's own, what it reaches the engine through, and what has its store."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from maintd.checks.requirements.store_place import StorePlace, addresses_of
from maintd.checks.services.containers import ServiceContainer

_ID = re.compile(r"[0-9a-f]{64}")
_OWN_FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")


def own_ids(proc: Path = Path("/proc")) -> frozenset[str]:
    """Ids of containers that this process may be in, from its control group and its mounts; empty outside of one.

    Of the mounts only the files that an engine makes for each container: with the host's root as a volume, a container
    also sees mounts of all others.
    """
    lines = [line.split() for line in _lines(proc / "self/mountinfo")]
    texts = [*_lines(proc / "self/cgroup"), *(line[3] for line in lines if len(line) > 4 and line[4] in _OWN_FILES)]
    return frozenset(found for text in texts for found in _ID.findall(text))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []  # without /proc there is no container to find


def protected(
    containers: Sequence[ServiceContainer],
    engine_url: str,
    store: StorePlace | None,
    ids: frozenset[str],
    hostname: str,
    named: Iterable[str] = (),
) -> dict[str, str]:
    """By id, why a container must not be stopped.

    `ids`, `hostname`: of this process, see `own_ids`. `named`: services that the operator protects.
    """
    found: dict[str, str] = {}
    named = frozenset(named)
    own = [item for item in containers if item.id in ids or _is_host(item, hostname)]
    needed = {(item.project, name) for item in own for name in item.depends_on}
    parents = {str((item.raw.get("HostConfig") or {}).get("NetworkMode", "")) for item in own}
    for item in containers:
        if item in own:
            found[item.id] = "it is maintd's own container"
        elif (item.project, item.service) in needed:
            found[item.id] = "maintd's own container depends on it"
        elif {f"container:{item.id}", f"container:{item.name}"} & parents:
            found[item.id] = "it has the network of maintd's own container"
        elif store is not None and store.file is None and serves(item, store.host, store.port):
            found[item.id] = "it has maintd's store"
        elif any(serves(item, host, port) for host, port in _address_of(engine_url)):
            found[item.id] = "it is the way to the engine"
        elif item.service in named:
            found[item.id] = "the param protect names it"
    return found


def serves(item: ServiceContainer, host: str, port: int) -> bool:
    """Whether the container may be what answers at this address: by name, address, or a published port."""
    settings = item.raw.get("NetworkSettings") or {}
    networks = [network or {} for network in (settings.get("Networks") or {}).values()]
    names = {item.name, item.service, str((item.raw.get("Config") or {}).get("Hostname") or "")}
    addresses = set[str]()
    for network in networks:
        names.update(str(name) for name in (*(network.get("Aliases") or ()), *(network.get("DNSNames") or ())))
        addresses.update(str(network.get(key) or "") for key in ("IPAddress", "GlobalIPv6Address"))
    if host in names - {""}:
        return True
    resolved = addresses_of(host)
    if resolved & (addresses - {""}):
        return True
    bound = {
        int(binding.get("HostPort") or 0)
        for bindings in (settings.get("Ports") or {}).values()
        for binding in bindings or ()
    }
    if str((item.raw.get("HostConfig") or {}).get("NetworkMode", "")) == "host":
        exposed = (item.raw.get("Config") or {}).get("ExposedPorts") or {}
        bound |= {int(name.partition("/")[0]) for name in exposed if name.partition("/")[0].isdigit()}
    return port in bound and (not resolved or any(_is_here(address) for address in resolved))


def _is_host(item: ServiceContainer, hostname: str) -> bool:
    """Whether this process has the container's hostname, by default the beginning of its id."""
    return len(hostname) == 12 and item.id.startswith(hostname)


def _address_of(url: str) -> Iterator[tuple[str, int]]:
    parts = urlsplit(url)
    if parts.scheme in ("tcp", "http", "https") and parts.hostname:
        yield parts.hostname, parts.port or (2376 if parts.scheme == "https" else 2375)


def _is_here(address: str) -> bool:
    """Whether an address is of this machine: a socket can be bound to it."""
    try:
        family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except (OSError, ValueError):
        return False
    return True
