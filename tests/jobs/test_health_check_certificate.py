"""The certificate of an HTTPS service in the health check: how long it is valid, on a real TLS server."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.job_runs import run_job
from support.servers.base import require_program

from maintd.model.evidence import CheckStatus

NAME = "http main: certificate is valid for"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def tls_service(folder: Path, days: int) -> Iterator[tuple[str, Path]]:
    """Serve with a certificate of its own authority that is valid for this long; yield the URL and the certificate."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *(require_program("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *("-days", str(days), "-subj", "/CN=maintd test", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}/", certificate
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("days", "status"), [(90, CheckStatus.OK), (20, CheckStatus.WARN), (6, CheckStatus.FAIL), (1, CheckStatus.FAIL)]
)
def test_a_certificate_that_ends_soon_is_reported_before(tmp_path: Path, days: int, status: CheckStatus) -> None:
    with tls_service(tmp_path, days) as (url, certificate):
        result = run_job(
            "health_check", {"include": ["http"]}, {"http": {"main": {"url": url, "ca_file": str(certificate)}}}
        )

    assert result.check(NAME).status is status, result.text()
    assert days - 0.1 < result.measure("ssl_certificate_expiry_days", service="main") <= days


def test_a_certificate_that_is_not_verified_has_no_end(tmp_path: Path) -> None:
    with tls_service(tmp_path, 90) as (url, _):
        result = run_job("health_check", {"include": ["http"]}, {"http": {"main": {"url": url, "verify": False}}})

    assert result.named("certificate") == []
    assert result.check("http main: answers").status is CheckStatus.OK
