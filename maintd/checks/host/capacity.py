"""Capacity figures of a host: file systems, memory, network interfaces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

from maintd.checks.host.mounted import has_proc, has_root
from maintd.clients.host import Host, Mount, Usage, connect, own_mounts, usages
from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError
from maintd.model.target import HostTarget
from maintd.reports.figure import Figure, unmeasured

_VIRTUAL = re.compile(r"lo|veth|br-|docker|virbr|ifb|tun|tap|cni|flannel|cali|dummy|wg|bond\d+\.|vlan")
_TIMEOUT = timedelta(seconds=5)


def figures(target: HostTarget, name: str) -> Iterator[Figure]:
    """Every real file system with its inodes, memory and swap, and the counters of each physical network interface.

    In a container without the host's root and /proc, the file systems are the container's, named as such.
    """
    host = connect(target, name=name)
    is_seen = has_root(host.target) and has_proc(host.target)
    place = name if is_seen else f"{name} (container of maintd)"
    try:
        for mount, usage in usages(host.mounts() if is_seen else own_mounts(), _TIMEOUT):
            yield from _file_system(place, mount, usage, "" if is_seen else " (container of maintd)")
    except TargetError as error:
        yield unmeasured("file system", name, "B", "statvfs", str(error))
    yield from _memory(host)
    yield from _interfaces(host)


def _file_system(host: str, mount: Mount, usage: Usage | TargetError, place: str) -> Iterator[Figure]:
    """place: after the mount point in names: whose it is, if it is not the host's."""
    source, labels = f"statvfs of {mount.point}", {"host": host, "mount": mount.point}
    name = f"{mount.point}{place}"
    if isinstance(usage, TargetError):
        yield unmeasured("file system", name, "B", source, str(usage))
        return
    yield Figure(
        "file system",
        name,
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
            name,
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
    if not has_proc(host.target):
        return  # those of the container are not the host's
    proc = host.target.proc
    # In a sidecar, net/dev has the container's own interfaces; the host's are those of its process 1.
    path = proc / "net/dev" if host.local else proc / "1/net/dev"
    try:
        rows = [line.partition(":") for line in path.read_text().splitlines()[2:]]
    except OSError as error:
        yield unmeasured("network", host.name, "B", str(path), f"{path}: {error.strerror}")
        return
    files = RootedFiles(host.target.root)
    devices = "sys/class/net"
    for interface, _, numbers in rows:
        name, values = interface.strip(), [int(word) for word in numbers.split()]
        try:
            physical = files.exists(f"{devices}/{name}/device") if files.exists(devices) else not _VIRTUAL.match(name)
        except TargetError:
            physical = not _VIRTUAL.match(name)
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
