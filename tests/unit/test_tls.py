"""Certificates are verified unless the target has `verify: false`, whatever the case of the scheme."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.servers.base import require_program

from maintd.clients.http import Api, fetch, get
from maintd.errors import TargetError
from maintd.model.target import HttpTarget

SCHEMES = ["https", "HTTPS", "Https", "hTTPs", "httpS"]
SECONDS = timedelta(seconds=20)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that no authority has signed, with its key."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        [
            *(require_program("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=maintd test", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(path), "-out", str(path.with_suffix(".crt"))),
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


@pytest.fixture(scope="module")
def port(certificate: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_certificate_that_is_not_trusted_is_refused(port: int, scheme: str) -> None:
    with pytest.raises(TargetError, match="certificate"):
        fetch("GET", f"{scheme}://127.0.0.1:{port}/", timeout=SECONDS)
    with pytest.raises(TargetError, match="certificate"):
        get(HttpTarget(url=f"{scheme}://127.0.0.1:{port}/", timeout=SECONDS))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_certificate_of_the_targets_own_authority_is_accepted(port: int, certificate: Path, scheme: str) -> None:
    assert fetch("GET", f"{scheme}://127.0.0.1:{port}/", timeout=SECONDS, ca_file=certificate).status == 200


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_verify_false_turns_verification_off(port: int, scheme: str) -> None:
    assert fetch("GET", f"{scheme}://127.0.0.1:{port}/", timeout=SECONDS, verify=False).status == 200


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_api_behind_an_untrusted_certificate_is_refused(port: int, scheme: str) -> None:
    with pytest.raises(TargetError, match="certificate"):
        Api(f"{scheme}://127.0.0.1:{port}", {}, SECONDS).get("/api/v1/query")
