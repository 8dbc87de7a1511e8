"""Capacity figures of a host: file systems, memory, network interfaces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

from maintd.clients.host import Host, Mount, Usage, connect, usages
from maintd.errors import TargetError
from maintd.model.target import HostTarget
from maintd.reports.figure import Figure, unmeasured

_VIRTUAL = re.compile(r"lo|veth|br-|docker|virbr|ifb|tun|tap|cni|flannel|cali|dummy|wg|bond\d+\.|vlan")
_TIMEOUT = timedelta(seconds=5)


def figures(target: HostTarget, name: str) -> Iterator[Figure]:
    """Every real file system with its inodes, memory and swap, and the counters of each physical network interface."""
    host = connect(target, name=name)
    try:
        for mount, usage in usages(host.mounts(), _TIMEOUT):
            yield from _file_system(name, mount, usage)
    except TargetError as error:
        yield unmeasured("file system", name, "B", "statvfs", str(error))
    yield from _memory(host)
    yield from _interfaces(host)


def _file_system(host: str, mount: Mount, usage: Usage | TargetError) -> Iterator[Figure]:
    source, labels = f"statvfs of {mount.point}", {"host": host, "mount": mount.point}
    if isinstance(usage, TargetError):
        yield unmeasured("file system", mount.point, "B", source, str(usage))
        return
    yield Figure(
        "file system",
        mount.point,
        usage.used,
        "B",
        source,
        capacity=usage.used + usage.available,
        measure="fs_used_bytes",
        labels=labels,
        details={"available": usage.available},
    )
    if usage.inodes:
        yield Figure(
            "inodes",
            mount.point,
            usage.inodes - usage.inodes_available,
            "",
            source,
            capacity=usage.inodes,
            measure="fs_inodes_used",
            labels=labels,
        )


def _memory(host: Host) -> Iterator[Figure]:
    source = f"{host.target.proc}/meminfo"
    try:
        memory = host.memory()
    except TargetError as error:
        yield unmeasured("memory", host.name, "B", source, str(error))
        return
    labels = {"host": host.name}
    yield Figure(
        "memory",
        host.name,
        memory.total - memory.available,
        "B",
        source,
        capacity=memory.total,
        measure="memory_used_bytes",
        labels=labels,
        details={"available": memory.available},
    )
    if memory.swap_total:
        yield Figure(
            "swap",
            host.name,
            memory.swap_total - memory.swap_free,
            "B",
            source,
            capacity=memory.swap_total,
            measure="swap_used_bytes",
            labels=labels,
        )


def _interfaces(host: Host) -> Iterator[Figure]:
    proc = host.target.proc
    # In a sidecar, net/dev has the container's own interfaces; the host's are those of its process 1.
    path = proc / "net/dev" if host.local else proc / "1/net/dev"
    try:
        rows = [line.partition(":") for line in path.read_text().splitlines()[2:]]
    except OSError as error:
        yield unmeasured("network", host.name, "B", str(path), f"{path}: {error.strerror}")
        return
    devices = host.target.root / "sys/class/net"
    for interface, _, numbers in rows:
        name, values = interface.strip(), [int(word) for word in numbers.split()]
        physical = (devices / name / "device").exists() if devices.is_dir() else not _VIRTUAL.match(name)
        if not physical or len(values) < 12:
            continue
        for direction, column, measure in (
            ("received", 0, "network_received_bytes_total"),
            ("sent", 8, "network_sent_bytes_total"),
        ):
            yield Figure(
                "network",
                f"{name} {direction}",
                values[column],
                "B",
                str(path),
                "since boot",
                measure=measure,
                labels={"host": host.name, "card": name},
                counter=True,
                details={"errors": values[column + 2], "drops": values[column + 3]},
            )
