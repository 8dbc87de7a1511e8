"""Handshakes with all servers at once, each address by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from maintd.checks.probes import Probe, collect_all
from maintd.clients import tls_server
from maintd.clients.tls_server import MAX_ADDRESSES, Handshake, TlsServer
from maintd.errors import MaintdError, TargetError
from maintd.model.target import TlsTarget

_SPARE = timedelta(seconds=2)


@dataclass(frozen=True)
class Place:
    """A server to examine. `kind` and `name` are those of its target."""

    kind: str
    name: str
    target: TlsTarget
    must_be_trusted: bool = True

    @property
    def subject(self) -> str:
        """The subject of its checks."""
        return f"{self.kind} {self.name}"

    @property
    def sni(self) -> str:
        """The name that the certificate must be for."""
        return self.target.name or tls_server.host_and_port(self.target.address)[0]


@dataclass(frozen=True)
class Seen:
    """What a server presented by address, or why it did not; `error`: its addresses are not known."""

    place: Place
    addresses: dict[str, Handshake | MaintdError]
    left_out: int = 0
    error: MaintdError | None = None


def examine(places: Sequence[Place]) -> Iterator[Seen]:
    """Examine all addresses of all servers; yield them in their order."""
    servers: list[TlsServer | MaintdError] = [_server(place) for place in places]
    lookups = [
        Probe(server.name, server.host, server.addresses, place.target.timeout + _SPARE)
        for place, server in zip(places, servers, strict=True)
        if isinstance(server, TlsServer)
    ]
    found = iter(collect_all(lookups))
    resolved = [next(found)[1] if isinstance(server, TlsServer) else server for server in servers]
    work = [
        (place, server, address)
        for place, server, addresses in zip(places, servers, resolved, strict=True)
        if isinstance(server, TlsServer) and isinstance(addresses, list)
        for address in addresses[:MAX_ADDRESSES]
    ]
    handshakes = iter(
        collect_all(
            [
                Probe(place.subject, address, partial(server.examine, address), place.target.timeout * 3 + _SPARE)
                for place, server, address in work
            ]
        )
    )
    for place, addresses in zip(places, resolved, strict=True):
        if not isinstance(addresses, list):
            odd = TargetError(f"{place.subject}: the addresses could not be read", cause="unfamiliar")
            yield Seen(place, {}, error=addresses if isinstance(addresses, MaintdError) else odd)
            continue
        kept = addresses[:MAX_ADDRESSES]
        yield Seen(place, {address: next(handshakes)[1] for address in kept}, len(addresses) - len(kept))


def _server(place: Place) -> TlsServer | MaintdError:
    try:
        return tls_server.connect(place.target, name=place.subject)
    except MaintdError as error:
        return error
