"""Listening sockets of a host against a list of those that are allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple

from maintd.checks.host.mounted import has_proc, not_mounted
from maintd.clients.sockets import Listening, listening
from maintd.job.context import Context
from maintd.job.references import resolved
from maintd.model.target import HostTarget

MAX_NAMED = 50
"""Sockets that are not allowed, as checks of their own."""

_ALLOWED = re.compile(
    r"(?:(?P<where>\*|\[[0-9a-fA-F:.]+(?:/[0-9]{1,3})?\]|[0-9.]+(?:/[0-9]{1,2})?):)?"
    r"(?P<port>[0-9]{1,5})(?:/(?P<protocol>tcp|udp))?"
)


class Allowed(NamedTuple):
    """What may be listened on. `network`: None for every address."""

    network: IPv4Network | IPv6Network | None
    port: int
    protocol: str

    @classmethod
    def parse(cls, text: str) -> Allowed:
        """From `22`, `53/udp`, `10.0.0.0/8:5432`, `[::1]:25/tcp`. Raises ValueError."""
        match = _ALLOWED.fullmatch(text)
        if match is None or int(match["port"]) > 65535:
            raise ValueError(f"{text!r} is not PORT, PORT/udp or ADDRESS:PORT; write for example 22 or 10.0.0.0/8:5432")
        where = (match["where"] or "*").strip("[]")
        return cls(None if where == "*" else ip_network(where), int(match["port"]), match["protocol"] or "tcp")

    def covers(self, socket: Listening) -> bool:
        """Whether the socket is allowed by this."""
        if (self.port, self.protocol) != (socket.port, socket.protocol):
            return False
        return self.network is None or socket.address in self.network


def collect(target: HostTarget) -> list[Listening]:
    """The listening sockets of a host. Raises TargetError."""
    host = resolved(target)
    if not has_proc(host):
        raise not_mounted("its sockets")
    return listening(host.proc)


def report(ctx: Context, name: str, sockets: Sequence[Listening], allowed: Sequence[Allowed] | None) -> None:
    """Report each socket beyond loopback that is not allowed. Without a list, the sockets are only saved."""
    subject = f"host {name}"
    reachable = [socket for socket in sockets if not socket.address.is_loopback]
    ctx.measure("listening_sockets", len(reachable), "", host=name)
    ctx.save(f"{name}.listening.json", json.dumps([str(socket) for socket in sockets], indent=1), "application/json")
    if allowed is None:
        ctx.log(f"{subject}: {len(reachable)} listening sockets are not evaluated: no list is given in listening")
        return
    others = [socket for socket in reachable if not any(item.covers(socket) for item in allowed)]
    ctx.check(
        f"{subject}: listening sockets that are not allowed",
        len(others),
        equals=0,
        hint="each is a check of its own; loopback is not counted",
        rule="the param listening",
    )
    for socket in others[:MAX_NAMED]:
        port = f"'sport = :{socket.port}'"
        options = "-ltnp" if socket.protocol == "tcp" else "-lunp"
        hint = f"see whose it is: ss {options} {port}; stop it, bind it to 127.0.0.1, or add it to listening"
        ctx.fail(
            f"{subject}: listens on {socket}",
            "not in the list",
            expected="in the list",
            hint=hint,
            rule="the param listening",
        )
