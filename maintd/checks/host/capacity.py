"""A host's file systems, memory and network cards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

from maintd.clients.filesystems import Usage, usages
from maintd.clients.host import Host, Mount, connect
from maintd.errors import TargetError
from maintd.model.target import HostTarget
from maintd.reports.figure import Figure, unmeasured

_MADE_UP = re.compile(r"lo|veth|br-|docker|virbr|ifb|tun|tap|cni|flannel|cali|dummy|wg|bond\d+\.|vlan")
_PATIENCE = timedelta(seconds=5)


def figures(target: HostTarget, name: str) -> Iterator[Figure]:
    """Every real file system with its inodes, memory and swap, and each physical network card's counters."""
    host = connect(target, name=name)
    try:
        for mount, usage in usages(host.mounts(), _PATIENCE):
            yield from _file_system(name, mount, usage)
    except TargetError as error:
        yield unmeasured("file system", name, "B", "statvfs", str(error))
    yield from _memory(host)
    yield from _cards(host)


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
        seen = host.memory()
    except TargetError as error:
        yield unmeasured("memory", host.name, "B", source, str(error))
        return
    labels = {"host": host.name}
    yield Figure(
        "memory",
        host.name,
        seen.total - seen.available,
        "B",
        source,
        capacity=seen.total,
        measure="memory_used_bytes",
        labels=labels,
        details={"available": seen.available},
    )
    if seen.swap_total:
        yield Figure(
            "swap",
            host.name,
            seen.swap_total - seen.swap_free,
            "B",
            source,
            capacity=seen.swap_total,
            measure="swap_used_bytes",
            labels=labels,
        )


def _cards(host: Host) -> Iterator[Figure]:
    proc = host.target.proc
    # In a sidecar net/dev is that of its own network; the host's is its first process'.
    path = proc / "net/dev" if host.local else proc / "1/net/dev"
    try:
        rows = [line.partition(":") for line in path.read_text().splitlines()[2:]]
    except OSError as error:
        yield unmeasured("network", host.name, "B", str(path), f"{path}: {error.strerror}")
        return
    devices = host.target.root / "sys/class/net"
    for card, _, numbers in rows:
        name, values = card.strip(), [int(word) for word in numbers.split()]
        physical = (devices / name / "device").exists() if devices.is_dir() else not _MADE_UP.match(name)
        if not physical or len(values) < 12:
            continue
        for way, at, measure in (
            ("received", 0, "network_received_bytes_total"),
            ("sent", 8, "network_sent_bytes_total"),
        ):
            yield Figure(
                "network",
                f"{name} {way}",
                values[at],
                "B",
                str(path),
                "since boot",
                measure=measure,
                labels={"host": host.name, "card": name},
                counter=True,
                details={"errors": values[at + 2], "drops": values[at + 3]},
            )
