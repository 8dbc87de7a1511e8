"""Handshakes with a TLS server: the certificates that it sends, and whether they are accepted. Nothing is requested."""

from __future__ import annotations

import errno
import socket
import ssl
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

from maintd.clients.causes import cause_of
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import HttpTarget, TlsTarget
from maintd.tls import verifying_context
from maintd.units import seconds_text

MAX_ADDRESSES = 16
"""Addresses of one name that are examined."""

_PIECE = 16 * 1024
_MOST_BYTES = 1 << 20  # of one handshake; a long chain has 10 KB
_MOST_TEXT = 16 * 1024  # bytes of a server's lines before STARTTLS
_NO_PROTOCOL = {"NO_PROTOCOLS_AVAILABLE", "NO_CIPHERS_AVAILABLE", "UNSUPPORTED_PROTOCOL", "NO_SUITABLE_SIGNATURE"}
_WITHOUT_TLS = {
    "WRONG_VERSION_NUMBER",
    "UNKNOWN_PROTOCOL",
    "HTTP_REQUEST",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
}
_WANTS_CLIENT = (
    "CERTIFICATE_REQUIRED",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_HANDSHAKE_FAILURE",
    "ALERT_CERTIFICATE_UNKNOWN",
)
_NOT_FROM_HERE = {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


class NoRouteError(TargetError):
    """This machine has no route to the address, such as IPv6 in a container: nothing is known of it."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message, "give this machine a route to it, or remove the address from the DNS", cause="unreachable"
        )


@dataclass(frozen=True)
class Handshake:
    """What one address presented. `chain`: DER, as it was sent, the server's own certificate first."""

    address: str
    protocol: str
    cipher: str
    chain: tuple[bytes, ...] = field(repr=False)
    refusal: str | TargetError  # why the chain is not accepted, by OpenSSL; empty: it is; or why that is not known
    refusal_code: int  # X509_V_ERR_…; 0: it is accepted
    old_protocol: str | TargetError  # the version below TLS 1.2 that it accepts; empty: it refuses them


class TlsServer:
    """A server by name and port. Raises TargetError."""

    def __init__(self, target: TlsTarget, name: str) -> None:
        self.name = name
        self.host, self.port = host_and_port(target.address)
        self.sni = target.name or self.host
        self._starttls = target.starttls
        self._seconds = target.timeout.total_seconds()
        try:
            self._verifying = verifying_context(target.ca_file)
        except OSError as error:
            reason = error.strerror or str(error)
            raise TargetError(
                f"{name}: cannot read certificates from {target.ca_file}: {reason}",
                "correct ca_file: a PEM file with the certificates of authorities that this process can read",
                cause="denied" if isinstance(error, PermissionError) else "not_found",
            ) from error
        # Here, and not in a thread of a probe: the filter of warnings is of the whole process.
        self._any = _unverified(ssl.TLSVersion.MAXIMUM_SUPPORTED)
        self._old = _unverified(ssl.TLSVersion.TLSv1_1)

    def addresses(self) -> list[str]:
        """The addresses of the host, each once, those of the system's first choice first."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise TargetError(
                f"{self.name}: {self.host} has no address: {reason}",
                "correct the name in targets.tls, or its record in the DNS",
                cause="unreachable",
            ) from error
        return list(dict.fromkeys(str(item[4][0]) for item in found))

    def examine(self, address: str) -> Handshake:
        """Three connections: one for what is sent, one that verifies it, one that offers only old versions."""
        tls = self._handshake(address, self._any)
        refusal, code = self._verify(address)
        cipher = tls.cipher()
        return Handshake(
            address=address,
            protocol=tls.version() or "TLSv1.2 or earlier, and a certificate of the client is required",
            cipher=cipher[0] if cipher else "",
            chain=_chain(tls),
            refusal=refusal,
            refusal_code=code,
            old_protocol=self._old_protocol(address),
        )

    def _verify(self, address: str) -> tuple[str | TargetError, int]:
        try:
            self._handshake(address, self._verifying)
        except _VerificationError as error:
            return error.reason, error.number
        except TargetError as error:
            return error, 0
        return "", 0

    def _old_protocol(self, address: str) -> str | TargetError:
        try:
            tls = self._handshake(address, self._old)
        except _LocalError as error:
            return error
        except TargetError as error:
            # It has just completed another handshake: what ends this one is its answer to the old versions.
            return "" if error.cause in ("tls", "partial") else error
        return tls.version() or "an old version"

    def _handshake(self, address: str, context: ssl.SSLContext) -> ssl.SSLObject:
        until = time.monotonic() + self._seconds
        where = f"{self.name}: {_shown(address, self.port)}"
        try:
            with socket.create_connection((address, self.port), self._seconds) as connection:
                wire = _Wire(connection, until)
                if self._starttls is not None:
                    _start_tls(wire, self._starttls, where)
                return _negotiate(wire, context, self.sni)
        except ssl.SSLCertVerificationError as error:
            raise _VerificationError(where, error) from error
        except ssl.SSLError as error:
            raise _tls_error(where, error) from error
        except TimeoutError as error:
            raise TargetError(
                f"{where} did not complete the handshake within {seconds_text(self._seconds)}", cause="timed_out"
            ) from error
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in _NOT_FROM_HERE:
                raise NoRouteError(f"{where}: {reason}") from error
            cause = cause_of(error) or "failed"
            words = {"refused": "refused the connection", "partial": "closed the connection in the handshake"}
            raise TargetError(f"{where} {words.get(cause, 'cannot be reached')}: {reason}", cause=cause) from error


def connect(target: TlsTarget, *, name: str) -> TlsServer:
    """The server of a target. Raises TargetError."""
    return TlsServer(resolved(target), name)


def of_http(target: HttpTarget) -> TlsTarget | None:
    """The TLS server of an HTTP target; None for one without TLS."""
    import httpx  # loaded already where HTTP targets are used

    target = resolved(target)
    try:
        url = httpx.URL(target.url)
    except httpx.InvalidURL as error:
        raise TargetError(f"the url is not valid: {error}", "correct the target's url", cause="failed") from error
    if url.scheme != "https":
        return None
    host = f"[{url.host}]" if ":" in url.host else url.host
    return TlsTarget(address=f"{host}:{url.port or 443}", ca_file=target.ca_file, timeout=target.timeout)


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of `HOST:PORT` or `[IPv6]:PORT`. Raises TargetError."""
    host, _, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port[:6]) < 65536:
        raise TargetError(f'"{address}" is no address', "write HOST:PORT, for example web:443", cause="failed")
    return host, int(port)


class _VerificationError(TargetError):
    """The chain is not accepted."""

    def __init__(self, where: str, error: ssl.SSLCertVerificationError) -> None:
        self.reason: str = error.verify_message or error.reason or "it is not accepted"
        self.number: int = error.verify_code
        super().__init__(f"{where}: {self.reason}", cause="tls")


class _LocalError(TargetError):
    """This machine's TLS library does not offer what was to be tried."""


class _Wire:
    """A connection whose reads and writes end at a time, however slowly the other side sends."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._connection = connection
        self._until = until
        self._left = _MOST_BYTES

    def read(self, most: int = _PIECE) -> bytes:
        """Bytes that have arrived; none at the end. Raises OSError."""
        self._set_timeout()
        data = self._connection.recv(min(most, self._left))
        self._left -= len(data)
        return data

    def write(self, data: bytes) -> None:
        """Send all. Raises OSError."""
        self._set_timeout()
        self._connection.sendall(data)

    def _set_timeout(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)


def _negotiate(wire: _Wire, context: ssl.SSLContext, sni: str) -> ssl.SSLObject:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=sni)
    while True:
        try:
            tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        except ssl.SSLError as error:
            # The server wants a certificate of its client, and has sent its own before: all that is needed.
            if not _wants_client(error) or not _chain(tls):
                raise
            done = True
        if outgoing.pending:
            wire.write(outgoing.read())
        if done:
            return tls
        data = wire.read()
        if data:
            incoming.write(data)
        else:
            incoming.write_eof()


def _wants_client(error: ssl.SSLError) -> bool:
    reason = error.reason or ""
    return not isinstance(error, ssl.SSLCertVerificationError) and any(word in reason for word in _WANTS_CLIENT)


def _chain(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    """The certificates as they were sent."""
    public: Any = getattr(tls, "get_unverified_chain", None)  # since Python 3.13
    if public is not None:
        return tuple(public() or ())
    inner: Any = getattr(tls, "_sslobj", None)  # since Python 3.10, without a public name
    return tuple(ssl.PEM_cert_to_DER_cert(item.public_bytes()) for item in inner.get_unverified_chain() or ())


def _unverified(most: ssl.TLSVersion) -> ssl.SSLContext:
    """Accepts any certificate, and any version up to this one: it is to be seen what the server does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # OpenSSL 3 offers old versions at this level only
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = most
    return context


def _tls_error(where: str, error: ssl.SSLError) -> TargetError:
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return TargetError(f"{where} closed the connection in the handshake", cause="partial")
    if error.reason in _NO_PROTOCOL:
        return _LocalError(f"{where}: not tried, this machine's OpenSSL refuses: {reason}", cause="unfamiliar")
    if error.reason in _WITHOUT_TLS:
        advice = "correct the port, or set starttls if the server begins without TLS"
        return TargetError(f"{where} does not speak TLS: {reason}", advice, cause="tls")
    return TargetError(f"{where} failed the TLS handshake: {reason}", "read the server's log of TLS", cause="tls")


def _start_tls(wire: _Wire, protocol: str, where: str) -> None:
    """Ask for TLS within another protocol."""
    if protocol == "postgres":
        # SSLRequest, answered by one byte: https://www.postgresql.org/docs/current/protocol-message-formats.html
        wire.write((8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"))
        answer = wire.read(1)
        if answer == b"S":
            return
        if answer == b"N":
            hint = "set ssl = on, ssl_cert_file and ssl_key_file in postgresql.conf, and reload it"
            raise TargetError(f"{where} speaks Postgres, and refuses TLS", hint, cause="tls")
    else:
        # RFC 3207, 4
        greeting = _reply(wire)
        if greeting.startswith(b"220"):
            wire.write(b"EHLO maintd\r\n")
            if b"STARTTLS" not in _reply(wire).upper():
                raise TargetError(f"{where} speaks SMTP, and offers no STARTTLS", "enable it there", cause="tls")
            wire.write(b"STARTTLS\r\n")
            if _reply(wire).startswith(b"220"):
                return
        answer = greeting
    if not answer:
        raise TargetError(f"{where} closed the connection before TLS", cause="partial")
    raise TargetError(f"{where} does not speak {protocol}", "correct starttls in the target", cause="malformed")


def _reply(wire: _Wire) -> bytes:
    """One reply of an SMTP server, which has a space after the code in its last line."""
    data = b""
    while len(data) < _MOST_TEXT:
        piece = wire.read(1024)
        data += piece
        last = data.rstrip(b"\r\n").rpartition(b"\n")[2]
        if not piece or (data.endswith(b"\n") and last[3:4] != b"-"):
            break
    return data


def _shown(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
