"""Certificates for tests by trustme and cryptography, and TLS servers that present them."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

Handle = Callable[[socket.socket], None]


@dataclass
class Issued:
    """A chain in PEM, the server's own certificate first, and its key."""

    chain: tuple[bytes, ...]
    key: bytes

    @property
    def pem(self) -> bytes:
        return b"".join(self.chain)

    def acme(self, main: str, *sans: str) -> dict[str, Any]:
        """As an item of Traefik's acme.json."""
        domain: dict[str, Any] = {"main": main} | ({"sans": list(sans)} if sans else {})
        encoded = {"certificate": self.pem, "key": self.key}
        return {"domain": domain, **{name: base64.b64encode(data).decode() for name, data in encoded.items()}}


def of_leaf(leaf: trustme.LeafCert) -> Issued:
    return Issued(tuple(item.bytes() for item in leaf.cert_chain_pems), leaf.private_key_pem.bytes())


def issue(ca: trustme.CA, *names: str, begun: float = 30, left: float = 60) -> Issued:
    """A certificate that began and ends this many days before and after now."""
    now = datetime.now(UTC)
    ends = {"not_before": now - timedelta(days=begun), "not_after": now + timedelta(days=left)}
    return of_leaf(ca.issue_cert(*(names or ("localhost", "127.0.0.1")), **ends))


def self_signed(
    common_name: str,
    *names: str,
    days: float = 90,
    key: Any = None,
    algorithm: hashes.HashAlgorithm | None = None,
) -> Issued:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]), datetime.now(UTC)
    built = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
    )
    if names:
        built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    made = built.sign(key, algorithm or hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Issued((made.public_bytes(serialization.Encoding.PEM),), pem)


def small_key() -> Any:
    return rsa.generate_private_key(65537, 1024)


def server_context(
    issued: Issued, folder: Path, *, old: bool = False, client_ca: trustme.CA | None = None
) -> ssl.SSLContext:
    """A context that presents this; `old`: also to clients of TLS 1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # a small key is refused otherwise
    if old:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1_1
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        client_ca.configure_trust(context)
    file = folder / "served.pem"
    file.write_bytes(issued.key + issued.pem)
    context.load_cert_chain(file)
    return context


def presents(context: ssl.SSLContext) -> Handle:
    """Complete the handshake, and end."""

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.settimeout(60)
            secured.recv(1)

    return handle


@contextmanager
def listener(handle: Handle, address: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Yield the port of a server that handles each connection in a thread."""

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            handle(connection)

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def acme_json(items: Sequence[dict[str, Any]] | None, *, resolver: str = "le", version: int = 2) -> bytes:
    """A file as Traefik writes it."""
    account = {"Email": "ops@example.org", "Registration": {"uri": "https://acme.example/1"}, "PrivateKey": SECRET}
    found = None if items is None else [dict(item) for item in items]
    if version == 3:
        for item in found or ():
            item["Store"] = "default"
        account["KeyType"] = "4096"
    return json.dumps({resolver: {"Account": account, "Certificates": found}}, indent=2).encode()


SECRET = base64.b64encode(b"the private key of an account, which nothing may show").decode()
