"""Certificate authorities for tests, and a TLS server in front of any server that speaks plain text."""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from support.servers.base import require_program


@dataclass
class Authority:
    """An authority, and a certificate for 127.0.0.1 that it has signed."""

    ca_file: Path
    certificate: Path
    key: Path


def authority(folder: Path, name: str = "127.0.0.1", days: int = 2) -> Authority:
    """Make an authority and one certificate in this folder; `name`: the address that the certificate is for."""
    folder.mkdir(parents=True, exist_ok=True)
    program = require_program("openssl", "openssl")
    made = Authority(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    alternative = folder / "names"
    alternative.write_text(f"subjectAltName=IP:{name}\n")
    new_key = ("-newkey", "rsa:2048", "-nodes", "-keyout")
    request = folder / "request.pem"
    for argv in (
        (
            "req",
            "-x509",
            *new_key,
            folder / "ca.key",
            "-out",
            made.ca_file,
            "-days",
            "2",
            "-subj",
            "/CN=maintd test CA",
        ),
        ("req", *new_key, made.key, "-out", request, "-subj", "/CN=maintd test"),
        (
            *("x509", "-req", "-in", request, "-CA", made.ca_file, "-CAkey", folder / "ca.key", "-CAcreateserial"),
            *("-out", made.certificate, "-days", str(days), "-extfile", alternative),
        ),
    ):
        subprocess.run([program, *argv], check=True, capture_output=True)
    return made


@contextmanager
def tls_front(port: int, signed_by: Authority) -> Iterator[int]:
    """Yield a port that speaks TLS with the authority's certificate, and passes all on to this port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed_by.certificate, signed_by.key)

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=answer, args=(client,), daemon=True).start()

    def answer(client: socket.socket) -> None:
        with (
            client,
            suppress(OSError),
            context.wrap_socket(client, server_side=True) as secured,
            socket.create_connection(("127.0.0.1", port)) as real,
        ):
            # One thread: two of them must not read and write the same TLS connection at the same time.
            while True:
                ready = [secured] if secured.pending() else select.select([secured, real], [], [])[0]
                for source in ready:
                    piece = source.recv(65536)
                    if not piece:
                        return
                    (real if source is secured else secured).sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
