"""Listening sockets of a host, from /proc/net of its process 1. Source of the format: proc(5) and proc_net_tcp."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Literal, NamedTuple

from maintd.errors import TargetError

FIRST_EPHEMERAL = 32768
"""From here on, an unconnected UDP socket is nearly always a client's. Source: ip_local_port_range's default."""

MAX_LINES = 200_000

_LISTEN, _UNCONNECTED = "0A", "07"


class Listening(NamedTuple):
    """A socket that accepts what arrives."""

    protocol: Literal["tcp", "udp"]
    address: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        """As `0.0.0.0:22/tcp` or `[::]:22/tcp`."""
        shown = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{shown}:{self.port}/{self.protocol}"


def listening(proc: Path) -> list[Listening]:
    """The listening sockets in the network namespace of the host's process 1, sorted. Raises TargetError."""
    found: set[Listening] = set()
    for name, protocol, state in (
        ("tcp", "tcp", _LISTEN),
        ("tcp6", "tcp", _LISTEN),
        ("udp", "udp", _UNCONNECTED),
        ("udp6", "udp", _UNCONNECTED),
    ):
        path = proc / "1/net" / name
        for line in _lines(path, optional=name.endswith("6")):  # a kernel without IPv6 has none
            fields = line.split()
            if len(fields) < 4 or fields[3] != state:
                continue
            socket = _socket("tcp" if protocol == "tcp" else "udp", fields[1], path)
            if socket.protocol == "tcp" or socket.port < FIRST_EPHEMERAL:
                found.add(socket)
    return sorted(found, key=lambda item: (item.protocol, item.port, str(item.address)))


def _lines(path: Path, *, optional: bool) -> list[str]:
    """The lines after the heading."""
    found = []
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            for number, line in enumerate(file):
                if number > MAX_LINES:
                    raise TargetError(f"{path}: more than {MAX_LINES:,} sockets", cause="too_large")
                found.append(line)
    except FileNotFoundError:
        if optional and path.parent.is_dir():
            return []
        raise TargetError(
            f"{path}: not found", "mount the host's /proc, or correct the target's proc", cause="not_found"
        ) from None
    except OSError as error:
        cause = "denied" if isinstance(error, PermissionError) else "failed"
        raise TargetError(f"{path}: {error.strerror}", "read it as root, or with hidepid=0", cause=cause) from error
    if not found or "local_address" not in found[0]:  # each kernel has this heading; a copy that was cut has not
        raise TargetError(f"{path}: is not a table of sockets", "mount the host's own /proc", cause="unfamiliar")
    return found[1:]


def _socket(protocol: Literal["tcp", "udp"], text: str, path: Path) -> Listening:
    try:
        address, port = text.split(":")
        data = bytes.fromhex(address)
        # Words of four bytes in the machine's own order.
        words = struct.unpack(f">{len(data) // 4}I", data)
        packed = struct.pack(f"={len(words)}I", *words)
        return Listening(protocol, ip_address(packed), int(port, 16))
    except (ValueError, struct.error) as error:
        raise TargetError(f"{path}: {text[:60]!r} is not an address", cause="malformed") from error
